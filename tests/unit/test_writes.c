/* Transactions between api and sync, with real rings and a sync that dies. Broken code this would catch: a transaction that is
 * answered while it waits to be sent again, and is sent although it is no more; one that is lost, or answered twice; pieces of an
 * abandoned one that join another's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "shm.h"

#include "api/codel.c"
#include "fair.c"
#include "api/handed.c"
#include "api/lane.c"
#include "api/writes.c"

#define RING 65536u
#define CALLS 40

/* ---- the rest of api ---- */

static unsigned answered_calls;
static uint64_t answered_ids[CALLS + 1];

void worker_wake_peer(struct worker *w, unsigned slot) { (void)w, (void)slot; }
void call_waited(struct call *c) { (void)c; }
void call_finish(struct call *c) { (void)c; }
struct lane_conf overload_lane_conf(const struct api *a)
{
	(void)a;
	return (struct lane_conf){.on = true, .target_us = 200000, .interval_us = 1000000, .free = 128, .most = 4096};
}
void overload_refuse(struct call *c, enum overload_queue q, enum overload_why why, int64_t delay_us)
{
	(void)c, (void)q, (void)why, (void)delay_us;
	fail_msg("nothing is refused here");
}
void overload_show(struct api *a, enum overload_queue q, const struct lane *l, int64_t now_us)
{
	(void)a, (void)q, (void)l, (void)now_us;
}

/* As the real one ends: the call and its bytes are no more. They are kept, with other bytes, to see whether they are sent. */
static struct call *dead[CALLS];
void call_answered(struct call *c, uint32_t status, uint64_t seq, uint32_t arg)
{
	(void)seq, (void)arg;
	assert_int_equal(status, TXN_OK);
	assert_true(answered_calls < CALLS);
	memset(c->txn.p, 0xdd, c->txn.len);
	dead[answered_calls] = c;
	answered_ids[answered_calls++] = c->txn_id;
}

static struct plant *plant;
static struct stats_slot stats;
static struct worker worker = {.slot = SLOT_API0, .stats = &stats};
static struct api api = {.w = &worker};
static struct writes *writes;
static struct ring *requests, *answers; /* sync's view */

static int open_writes(void **state)
{
	(void)state;
	int fd = shm_create("rings", ring_footprint(RING) + ring_footprint(RINGS_ANSWER_BYTES));
	writes = util_zalloc(sizeof(*writes));
	plant = util_zalloc(sizeof(*plant));
	api.plant = plant;
	writes->api = &api;
	writes->requests = ring_open(fd, 0, RING);
	writes->answers = ring_open(fd, ring_footprint(RING), RINGS_ANSWER_BYTES);
	requests = ring_open(fd, 0, RING);
	answers = ring_open(fd, ring_footprint(RING), RINGS_ANSWER_BYTES);
	assert_true(writes->requests && writes->answers && requests && answers);
	close(fd);
	take_turns(writes);
	answered_calls = 0;
	return 0;
}

static int close_writes(void **state)
{
	(void)state;
	ring_close(&writes->requests);
	ring_close(&writes->answers);
	ring_close(&requests);
	ring_close(&answers);
	free(writes->outbox);
	lane_end(&writes->lane);
	free(writes);
	while (answered_calls--) {
		buf_free(&dead[answered_calls]->txn);
		free(dead[answered_calls]);
	}
	free(plant);
	return 0;
}

static void submit(uint64_t id, size_t len)
{
	struct call *c = util_zalloc(sizeof(*c));
	struct txn_head head = {.id = id};
	char *rest = util_alloc(len);
	memset(rest, (int)id, len);
	buf_add(&c->txn, &head, sizeof(head));
	buf_add(&c->txn, rest, len);
	free(rest);
	c->txn_id = id;
	assert_true(writes_submit(writes, c));
}

/* ---- sync ---- */

static struct {
	char bytes[8 * RING];
	size_t len, total;
} whole; /* the transaction that is being put together */

/* Takes one message; the id when a transaction is complete, 0 when it was a piece or there is none. */
static uint64_t take(bool *some_r)
{
	uint64_t cursor = ring_head(requests);
	size_t len;
	const struct ring_msg_head *h = ring_peek(requests, &cursor, &len);
	*some_r = h != NULL;
	if (!h)
		return 0;
	len -= sizeof(*h);
	if (h->type == MSG_TXN || h->part & FRAGMENT_FIRST) {
		whole.len = 0;
		whole.total = h->total;
	}
	if (whole.total == h->total && whole.len + len <= whole.total) {
		memcpy(whole.bytes + whole.len, h + 1, len);
		whole.len += len;
	} else {
		whole.total = 0; /* a piece of something else: both are dropped */
	}
	bool last = h->type == MSG_TXN || h->part & FRAGMENT_LAST;
	ring_advance(requests, cursor);
	if (!last || !whole.total || whole.len != whole.total)
		return 0;
	const struct txn_head *t = (const void *)whole.bytes;
	assert_in_range(t->id, 1, CALLS);
	for (size_t i = sizeof(*t); i < whole.total; i++)
		assert_int_equal((unsigned char)whole.bytes[i], (unsigned char)t->id);
	return t->id;
}

static void answer(uint64_t id)
{
	struct txn_answer *a = ring_reserve(answers, sizeof(*a));
	assert_non_null(a);
	*a = (struct txn_answer){.id = id, .status = TXN_OK, .seq = id};
	ring_commit(answers, sizeof(*a));
}

/* Takes all that comes, and answers it at once when it is told to; returns how many transactions were complete. */
static unsigned serve(unsigned most)
{
	unsigned n = 0;
	bool some = true;
	while (some && n < most) {
		uint64_t id = take(&some);
		if (id) {
			n++;
			answer(id);
		}
		if (!some && n < most) {
			writes_on_wake(writes); /* makes room, and sends more */
			some = !ring_empty(requests);
		}
	}
	return n;
}

static void all_answered_once(void)
{
	assert_int_equal(answered_calls, CALLS);
	for (uint64_t id = 1; id <= CALLS; id++) {
		unsigned n = 0;
		for (unsigned i = 0; i < CALLS; i++)
			n += answered_ids[i] == id;
		assert_int_equal(n, 1);
	}
	assert_int_equal(writes_in_flight(writes), 0);
	assert_int_equal(writes->out_len, 0);
}

/* sync dies with the ring full and most of the calls waiting for room. Its successor finds the old copies first and
 * answers them, while the same calls wait in the outbox to be sent again. */
static void run(size_t len, unsigned before)
{
	bool some;
	for (uint64_t id = 1; id <= CALLS; id++)
		submit(id, len);
	for (unsigned i = 0; i < before; i++)
		(void)take(&some); /* and dies */
	writes_resend(writes);
	(void)serve(UINT32_MAX);
	writes_on_wake(writes);
	all_answered_once();
}

static void answered_while_waiting(void **state)
{
	(void)state;
	run(6000, 3);
}

static void answered_while_waiting_in_pieces(void **state)
{
	(void)state;
	for (unsigned before = 0; before < 4; before++) {
		if (before) {
			close_writes(state);
			open_writes(state);
		}
		run(40000, before);
	}
}

/* Killed again and again: each successor gets a little further. */
static void many_deaths(void **state)
{
	(void)state;
	for (uint64_t id = 1; id <= CALLS; id++)
		submit(id, id % 3 ? 5000 : 30000);
	for (unsigned round = 0; round < 100; round++) {
		(void)serve(1 + round % 3);
		writes_resend(writes);
	}
	(void)serve(UINT32_MAX);
	writes_on_wake(writes);
	all_answered_once();
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, open_writes, close_writes)
	const struct CMUnitTest tests[] = {TEST(answered_while_waiting), TEST(answered_while_waiting_in_pieces),
					   TEST(many_deaths)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
