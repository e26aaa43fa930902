/* A connection that breaks while a request is being sent: whoever asked hears of it, once. Twice would let the writer
 * count more answers than it has requests, and wait for ever for the rest. libpq is a stand-in that fails where told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <event2/event.h>

#include "store/postgres/link-private.h"

static enum { FAIL_PREPARE, FAIL_QUERY, FAIL_SYNC, FAIL_FLUSH, FAILS } failing;

static int send_prepare(PGconn *c, const char *name, const char *sql, int n, const Oid *types)
{
	(void)c, (void)name, (void)sql, (void)n, (void)types;
	return failing != FAIL_PREPARE;
}
static int send_prepared(PGconn *c, const char *name, int n, const char *const *v, const int *len, const int *form,
			 int r)
{
	(void)c, (void)name, (void)n, (void)v, (void)len, (void)form, (void)r;
	return failing != FAIL_QUERY;
}
static int send_params(PGconn *c, const char *sql, int n, const Oid *types, const char *const *v, const int *len,
		       const int *form, int r)
{
	(void)c, (void)sql, (void)n, (void)types, (void)v, (void)len, (void)form, (void)r;
	return failing != FAIL_QUERY;
}
static int pipeline_sync(PGconn *c) { return (void)c, failing != FAIL_SYNC; }
static int flush(PGconn *c) { return (void)c, failing == FAIL_FLUSH ? -1 : 0; }
static char *error_message(const PGconn *c) { return (void)c, (char *)(uintptr_t) "gone"; }
static void finish(PGconn *c) { (void)c; }

static unsigned told;

static void on_done(struct pg_request *r, enum pg_fate fate, PGresult *res)
{
	unsigned *mine = r->arg;
	assert_null(res);
	assert_int_not_equal(fate, PG_DONE);
	(*mine)++;
	told++;
}

static void break_while_sending(int prepared)
{
	struct event_base *loop = event_base_new();
	struct pg_link_conf conf = {.dsn = "host=nowhere", .application = "test", .answer_timeout_us = 1000000};
	struct pg_link *l = pg_link_new(loop, &conf);
	unsigned count[3] = {0};
	struct pg_request r[3];
	l->c = (PGconn *)(void *)&told; /* never followed */
	told = 0;
	for (size_t i = 0; i < 3; i++) {
		r[i] = (struct pg_request){
			.prepared = prepared, .sql = "SELECT 1", .sync = true, .done = on_done, .arg = &count[i]};
		r[i].next = i < 2 ? &r[i + 1] : NULL;
	}
	l->queue = &r[0];
	l->queue_end = &r[2].next;
	l->state = LINK_READY;
	pg_pipe_pump(l);
	assert_int_equal(l->state, LINK_IDLE);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(count[i], 1);
	assert_int_equal(told, 3);
	pg_link_free(&l);
	event_base_free(loop);
}

static void test_told_once(void **state)
{
	(void)state;
	pq.sendPrepare = send_prepare;
	pq.sendQueryPrepared = send_prepared;
	pq.sendQueryParams = send_params;
	pq.pipelineSync = pipeline_sync;
	pq.flush = flush;
	pq.errorMessage = error_message;
	pq.finish = finish;
	for (failing = 0; failing < FAILS; failing++) {
		break_while_sending(0);
		if (failing != FAIL_PREPARE)
			break_while_sending(-1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_told_once)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
