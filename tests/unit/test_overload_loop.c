/* Admission where the loop itself is what is short (overload.c): rounds in virtual time, an open load, and refusals that cost
 * something, too. Broken code this would catch: goodput that collapses, as rounds become longer and longer; a burst that
 * is refused; a greedy flow that keeps a modest one away; a loop that goes on refusing when all is over, or with control off. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <event2/event.h>

#include "api/handlers.h"
#include "clock.h"
#include "util.h"

static int64_t clock_us = 1000000000, round_us;
static bool control = true;
static int64_t hold_us;

static int round_began(struct event_base *b, struct timeval *tv)
{
	(void)b;
	*tv = (struct timeval){round_us / 1000000, round_us % 1000000};
	return 0;
}

static int64_t setting(enum conf_key k)
{
	return k == CONF_OVERLOAD_CONTROL    ? control
	       : k == CONF_OVERLOAD_TARGET   ? 40000
	       : k == CONF_OVERLOAD_INTERVAL ? 100000
	       : k == CONF_OVERLOAD_FREE     ? 2
	       : k == CONF_OVERLOAD_HOLD     ? hold_us
					     : 0;
}
#define event_base_gettimeofday_cached(b, tv) round_began(b, tv)
#define clock_real_us() clock_us
#define conf_int(c, k) setting(((void)(c), (k)))
#include "api/codel.c"
#include "fair.c"
#include "api/lane.c"
#include "api/tarpit.c"
#include "api/overload.c"

/* ---- the rest of api ---- */

static unsigned refusals;
void problem_text(struct call *c, int status, const char *type, const char *detail)
{
	char want[400];
	unsigned long long ms;
	assert_int_equal(status, 429);
	assert_string_equal(type, "overloaded");
	assert_int_equal(sscanf(detail, "the api worker itself cannot keep up: it would take %llu ms", &ms), 1);
	snprintf(
		want, sizeof(want),
		"the api worker itself cannot keep up: it would take %llu ms until this is begun, %s wait for %d ms at most "
		"(overload.target), and this worker is busy with others. Nothing was done. Try again after Retry-After seconds, "
		"with fewer requests at once",
		ms, class_texts[c->wait.class],
		c->wait.class == LANE_READ    ? 40
		: c->wait.class == LANE_WRITE ? 60
					      : 20);
	assert_string_equal(detail, want);
	c->reply.status = status;
	refusals++;
}
void problem_later(struct call *c, uint32_t seconds)
{
	(void)c;
	assert_in_range(seconds, 1, RETRY_MAX);
}
uint64_t overload_flow(struct call *c, bool *memories_r)
{
	*memories_r = false;
	return c->flow;
}
bool writes_admits(struct writes *w, const struct call *c, int64_t *delay_r)
{
	(void)w, (void)c, (void)delay_r;
	return true;
}
bool jobs_admits(struct jobs *j, const struct call *c, int64_t *delay_r)
{
	(void)j, (void)c, (void)delay_r;
	return true;
}
bool jobs_cancel(struct jobs *j, struct call *c, bool gone)
{
	(void)j, (void)c, (void)gone;
	return false;
}
struct span http_body(const struct http_request *r)
{
	(void)r;
	return (struct span){NULL, 0};
}
int http_query_get(const struct http_request *r, const char *name, char **v, size_t *n)
{
	(void)r, (void)name, (void)v, (void)n;
	return 0;
}
static size_t waiting; /* to be read, and so long the first of them, and the request at hand, waited for it */
static int64_t behind_us, waited_us;
size_t http_server_waiting(const struct http_server *h)
{
	(void)h;
	return waiting;
}
int64_t http_server_behind_us(const struct http_server *h)
{
	(void)h;
	return behind_us;
}
int64_t http_waited_us(const struct http_request *r)
{
	(void)r;
	return waited_us;
}
void http_flow(struct http_request *r, uint64_t flow) { (void)r, (void)flow; }
static unsigned held;
size_t http_server_held(const struct http_server *h)
{
	(void)h;
	return held;
}
void http_server_hold_pace(struct http_server *h, unsigned per_second)
{
	(void)h;
	(void)per_second;
}
bool http_hold(struct http_request *r, unsigned ms)
{
	assert_non_null(r);
	held += ms > 0;
	return true;
}
bool http_gone(const struct http_request *r)
{
	(void)r;
	return false;
}
void call_finish(struct call *c) { (void)c; }
void jobs_tick(struct jobs *j) { (void)j; }
static unsigned turns; /* looks at sync's answers in the middle of a round */
void writes_turn(struct writes *w)
{
	(void)w;
	turns++;
}
void requests_enter(struct http_request *r) { (void)r; }
void writes_tick(struct writes *w) { (void)w; }
void jobs_conf(struct jobs *j) { (void)j; }
void writes_conf(struct writes *w) { (void)w; }
#define HANDLER(f)                                                                                                     \
	void f(struct call *c) { (void)c; }
HANDLER(transfer_export)
HANDLER(transfer_import)
HANDLER(list_count)
HANDLER(list_memories)
HANDLER(bulk_delete)
HANDLER(warm_start)
HANDLER(metrics_get)
HANDLER(changes_follow)
static HANDLER(add)

/* ---- a loop ---- */

#define REFUSAL_US 17
#define DEADLINE_US 250000
	enum { QUEUE = 1 << 16 };

struct load {
	uint64_t flow;
	double per_s, next_us;
	uint64_t good, late, refused;
	int64_t worst_us;
};
static struct {
	int64_t came_us;
	struct load *of;
} queue[QUEUE];
static size_t head, len;
static struct stats_slot stats;
static struct worker worker = {.stats = &stats};
static struct api api = {.w = &worker};
static const struct route route = {.right = AUTH_WRITE, .handle = add};

static uint64_t seed = 1;
static double gap_us(double per_s)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return -log(((double)(seed >> 34) + 1) / (1u << 30)) / per_s * 1e6;
}

static void arrivals(struct load *v, size_t n)
{
	for (;;) { /* in the order in which they come */
		struct load *first = NULL;
		for (size_t i = 0; i < n; i++)
			if (v[i].per_s > 0 && (!first || v[i].next_us < first->next_us))
				first = &v[i];
		if (!first || first->next_us > (double)clock_us || len == QUEUE)
			return;
		size_t at = (head + len++) % QUEUE;
		queue[at].came_us = (int64_t)first->next_us;
		queue[at].of = first;
		first->next_us += gap_us(first->per_s);
	}
}

/* What was there when it began. */
static void one_round(int64_t service_us)
{
	round_us = clock_us;
	for (size_t n = len; n; n--, len--) {
		struct load *l = queue[head].of;
		struct call c = {.api = &api, .route = &route, .flow = l->flow};
		if (overload_admits(&c)) {
			clock_us += service_us;
			int64_t took = clock_us - queue[head].came_us;
			*(took <= DEADLINE_US ? &l->good : &l->late) += 1;
			l->worst_us = took > l->worst_us ? took : l->worst_us;
		} else {
			assert_int_equal(c.reply.status, 429);
			clock_us += REFUSAL_US;
			l->refused++;
		}
		head = (head + 1) % QUEUE;
	}
}

static void run(struct load *v, size_t n, int64_t service_us, int64_t for_us)
{
	for (size_t i = 0; i < n; i++)
		v[i].next_us = (double)clock_us + (v[i].per_s > 0 ? gap_us(v[i].per_s) : 0);
	for (int64_t end = clock_us + for_us; clock_us < end;) {
		arrivals(v, n);
		if (len) {
			one_round(service_us);
			continue;
		}
		clock_us += 50;
		if (event_pending(api.overload->tick, EV_TIMEOUT, NULL) && clock_us % 12500 < 50)
			on_tick(-1, 0, api.overload);
	}
}

static void count_anew(struct load *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		v[i].good = v[i].late = v[i].refused = 0, v[i].worst_us = 0;
}

static int begin(void **state)
{
	(void)state;
	api.base = event_base_new();
	api.overload = overload_open(&api);
	head = len = 0;
	control = true;
	refusals = 0;
	return 0;
}

static int finish(void **state)
{
	(void)state;
	struct load none = {0};
	run(&none, 1, 100, 1000000);
	assert_false(api.overload->standing[OVERLOAD_LOOP]); /* it is forgotten */
	struct load one = {.flow = 1, .per_s = 10};
	run(&one, 1, 100, 1000000);
	assert_true(one.good && !one.refused);
	overload_free(&api.overload);
	event_base_free(api.base);
	return 0;
}

/* 500 µs each: 2,000 a second at best. */
static void goodput_holds(void **state)
{
	(void)state;
	for (double times = 0.5; times <= 8; times *= 2) {
		struct load l = {.flow = 1, .per_s = 2000 * times};
		run(&l, 1, 500, 2000000); /* until it is noticed */
		count_anew(&l, 1);
		run(&l, 1, 500, 10000000);
		double left = 1 - (times > 1 ? (times - 1) * REFUSAL_US / 500 : 0),
		       could = 2000 * (times < 1 ? times : left);
		if ((double)l.good / 10 < 0.9 * could || (times < 1 && l.refused) || l.late > l.good / 100)
			fail_msg("%.1f ×: %llu good of %.0f, %llu late, %llu refused, worst %lld µs", times,
				 (unsigned long long)l.good, 10 * could, (unsigned long long)l.late,
				 (unsigned long long)l.refused, (long long)l.worst_us);
	}
}

static void without_control_all_are_late(void **state)
{
	struct load l = {.flow = 1, .per_s = 4000};
	(void)state;
	control = false;
	run(&l, 1, 500, 2000000);
	count_anew(&l, 1);
	run(&l, 1, 500, 3000000);
	if (refusals || l.good > l.late / 4)
		fail_msg("%u refused, %llu late, %llu good", refusals, (unsigned long long)l.late,
			 (unsigned long long)l.good);
	control = true;
	l.per_s = 0;
	while (len)
		one_round(500);
}

static void a_burst_is_served(void **state)
{
	struct load l = {.flow = 1, .per_s = 1000};
	unsigned before = turns;
	(void)state;
	for (int i = 0; i < 10; i++) {
		for (int k = 0; k < 150; k++, len++) { /* 75 ms of work at once */
			queue[(head + len) % QUEUE].came_us = clock_us;
			queue[(head + len) % QUEUE].of = &l;
		}
		run(&l, 1, 500, 400000);
	}
	assert_int_equal(l.refused, 0);
	assert_true(turns - before >= 10 * 100); /* sync need not wait for the end of such a round */
}

static void the_greedy_one_is_refused(void **state)
{
	struct load v[2] = {{.flow = 1, .per_s = 6000}, {.flow = 2, .per_s = 100}};
	(void)state;
	run(v, 2, 500, 2000000);
	count_anew(v, 2);
	run(v, 2, 500, 10000000);
	if (v[1].good < 900 || v[1].refused > 20)
		fail_msg("modest: %llu good, %llu late, %llu refused; greedy: %llu refused",
			 (unsigned long long)v[1].good, (unsigned long long)v[1].late, (unsigned long long)v[1].refused,
			 (unsigned long long)v[0].refused);
	assert_true(v[0].refused > 20000);
	assert_true(v[1].worst_us < DEADLINE_US);
}

/* A round of a crowd (ready.c): a millisecond of what waits, flows in turns. */
static struct load *turn_of;
static void short_round(int64_t service_us)
{
	round_us = clock_us;
	for (int64_t end = clock_us + 1000; len && clock_us < end; len--) {
		size_t k = 0;
		while (k < len && queue[(head + k) % QUEUE].of == turn_of)
			k++;
		k = k == len ? 0 : k;
		struct load *l = turn_of = queue[(head + k) % QUEUE].of;
		int64_t came = queue[(head + k) % QUEUE].came_us;
		for (; k; k--)
			queue[(head + k) % QUEUE] = queue[(head + k - 1) % QUEUE];
		head = (head + 1) % QUEUE;
		struct call c = {.api = &api, .route = &route, .flow = l->flow};
		waited_us = clock_us - came;
		waiting = len - 1;
		behind_us = waiting ? clock_us - queue[head].came_us : 0;
		bool in = overload_admits(&c);
		clock_us += in ? service_us : REFUSAL_US;
		l->refused += !in;
		if (in) {
			*(clock_us - came <= DEADLINE_US ? &l->good : &l->late) += 1;
			l->worst_us = clock_us - came > l->worst_us ? clock_us - came : l->worst_us;
		}
	}
	waited_us = behind_us = 0;
}

/* Short rounds are not taken for a loop that keeps up, nor does each of them let in as many as may always wait. */
static void a_crowd_is_overload(void **state)
{
	struct load v[2] = {{.flow = 1, .per_s = 6000}, {.flow = 2, .per_s = 100}};
	(void)state;
	for (int measured = 0; measured < 2; measured++) {
		count_anew(v, 2);
		for (size_t i = 0; i < 2; i++)
			v[i].next_us = (double)clock_us;
		for (int64_t end = clock_us + 2000000 + measured * 6000000; clock_us < end;) {
			arrivals(v, 2);
			clock_us += len ? 0 : 50;
			short_round(500);
		}
	}
	double could = 8 * 2000 * (1 - 2 * REFUSAL_US / 500.0);
	if ((double)(v[0].good + v[1].good) < 0.9 * could || v[0].late || v[1].good < 700 || v[1].refused ||
	    v[1].worst_us > 20000 || v[0].worst_us > 60000)
		fail_msg("%llu of %.0f; greedy %llu late, %lld us; modest: %llu good, %llu refused, %lld us",
			 (unsigned long long)(v[0].good + v[1].good), could, (unsigned long long)v[0].late,
			 (long long)v[0].worst_us, (unsigned long long)v[1].good, (unsigned long long)v[1].refused,
			 (long long)v[1].worst_us);
	v[0].per_s = v[1].per_s = 0;
	waiting = 0;
	while (len)
		one_round(500);
}

/* Refusals wait where there is a client to keep; a refresh in the background has none. */
static void who_has_no_client_is_not_held(void **state)
{
	struct http_request *r = (struct http_request *)(void *)&worker; /* only ever handed on */
	(void)state;
	held = 0;
	hold_us = 4000000;
	api.overload->tarpit.tokens = 0;
	for (int i = 0; i < 4 * TARPIT_FIRST; i++) {
		struct call c = {.api = &api, .route = &route, .flow = 3, .req = i < 2 * TARPIT_FIRST ? NULL : r};
		overload_refuse(&c, OVERLOAD_LOOP, OVERLOAD_DELAY, 50000);
	}
	assert_int_equal(held, TARPIT_FIRST); /* and it has not used up what is answered at once */
	assert_true(event_pending(api.overload->tick, EV_TIMEOUT, NULL)); /* until there is none */
	held = 0;
	hold_us = 0; /* never */
	for (int i = 0; i < 100; i++)
		overload_refuse(&(struct call){.api = &api, .route = &route, .flow = 3, .req = r}, OVERLOAD_LOOP,
				OVERLOAD_DELAY, 50000);
	assert_int_equal(held, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(goodput_holds, begin, finish),
		cmocka_unit_test_setup_teardown(without_control_all_are_late, begin, finish),
		cmocka_unit_test_setup_teardown(a_burst_is_served, begin, finish),
		cmocka_unit_test_setup_teardown(the_greedy_one_is_refused, begin, finish),
		cmocka_unit_test_setup_teardown(a_crowd_is_overload, begin, finish),
		cmocka_unit_test_setup_teardown(who_has_no_client_is_not_held, begin, finish),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
