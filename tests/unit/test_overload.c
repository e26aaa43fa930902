/* Admission, in virtual time: the fair queue, the rule of standing queues, the limit of concurrency, and all of them together as
 * a lane under an open load. Broken code this would catch: a greedy flow that delays or pushes out a modest one; flows kept
 * for ever; a burst that is refused; overload that is not noticed, or not forgotten; a queue that grows until everybody is late;
 * bulk that keeps reads away, or never gets its turn; refusals on a machine that is only slow; a body read past its end. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/codel.c"
#include "fair.c"
#include "api/gradient.c"
#include "api/lane.c"
#include "api/overload_flow.c"

/* ---- the rest of api, which nobody here calls ---- */

void memories_add(struct call *c) { (void)c; }
void search_memories(struct call *c) { (void)c; }
void list_memories(struct call *c) { (void)c; }
void list_count(struct call *c) { (void)c; }
void bulk_delete(struct call *c) { (void)c; }
void transfer_export(struct call *c) { (void)c; }
void transfer_import(struct call *c) { (void)c; }

static uint64_t seed = 1;
static uint64_t some(uint64_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % n;
}

/* ---- the fair queue ---- */

static void who_has_many_waits_for_who_has_few(void **state)
{
	struct fair *f = fair_new();
	struct fair_item greedy[1000], modest[3];
	(void)state;
	for (int i = 0; i < 1000; i++)
		fair_push(f, &greedy[i], 1, 100, i);
	for (int i = 0; i < 10; i++)
		assert_ptr_equal(fair_pop(f), &greedy[i]);
	for (int i = 0; i < 3; i++) {
		fair_push(f, &modest[i], 2, 100, 2000 + i);
		struct fair_item *a = fair_pop(f), *b = fair_pop(f);
		assert_true(a == &modest[i] || b == &modest[i]);
	}
	assert_int_equal(fair_flows(f), 1);
	while (fair_pop(f))
		;
	assert_int_equal(fair_items(f), 0);
	fair_free(&f);
}

/* Equal shares of the cost, not of the number. */
static void shares_are_of_cost(void **state)
{
	struct fair *f = fair_new();
	static struct fair_item v[3][3000];
	static const uint64_t cost[3] = {10, 50, 200};
	uint64_t got[3] = {0};
	(void)state;
	for (uint64_t k = 0; k < 3; k++)
		for (int i = 0; i < 3000; i++)
			fair_push(f, &v[k][i], k, cost[k], 0);
	for (uint64_t all = 0; all < 60000;) {
		struct fair_item *i = fair_pop(f);
		got[i->key] += i->cost;
		all += i->cost;
	}
	for (int k = 0; k < 3; k++)
		assert_in_range(got[k], 20000 - 400, 20000 + 400);
	/* What took longer than was thought is paid for. */
	fair_settle(f, 0, 100000);
	for (int i = 0; i < 100; i++)
		assert_int_not_equal(fair_pop(f)->key, 0);
	fair_settle(f, 0, -100000); /* and no credit beyond what is served now */
	while (fair_pop(f))
		;
	fair_free(&f);
}

static void items_come_out_as_they_went_in(void **state)
{
	enum { ITEMS = 600, FLOWS = 40 };
	static struct fair_item v[ITEMS];
	static uint64_t order[ITEMS], last[FLOWS];
	struct fair *f = fair_new();
	size_t n = 0, of[FLOWS] = {0};
	(void)state;
	for (uint64_t t = 1; t < 200000; t++) {
		struct fair_item *i = &v[some(ITEMS)];
		if (!i->flow && some(2)) {
			uint64_t key = some(FLOWS);
			order[i - v] = t;
			fair_push(f, i, key, 1 + some(1000), (int64_t)t);
			of[key]++;
			n++;
		} else if (i->flow && some(4) == 0) {
			of[i->key]--;
			n--;
			fair_remove(f, i);
		} else if ((i = fair_pop(f))) {
			assert_true(order[i - v] > last[i->key]);
			last[i->key] = order[i - v];
			of[i->key]--;
			n--;
		}
		assert_int_equal(fair_items(f), n);
		uint64_t k = some(FLOWS);
		assert_int_equal(fair_items_of(f, k), of[k]);
		size_t most;
		const struct fair_item *fattest = fair_fattest(f, &most), *old = fair_oldest(f);
		for (size_t j = 0; j < FLOWS; j++)
			assert_true(of[j] <= most);
		assert_true(!fattest || of[fattest->key] == most);
		assert_true(!old == !n && (!old || !fair_newer(old) || fair_newer(old)->since_us > old->since_us));
	}
	while (fair_pop(f))
		;
	fair_free(&f);
}

static void flows_are_forgotten(void **state)
{
	struct fair *f = fair_new();
	struct fair_item keeps, one;
	(void)state;
	fair_push(f, &keeps, 0, 1, 0);
	fair_settle(f, 0, 1000000000); /* it comes last, so that something waits all the time */
	for (uint64_t k = 1; k < 100000; k++) {
		fair_push(f, &one, k, 1000, 0);
		assert_ptr_equal(fair_pop(f), &one);
		assert_true(f->nparked <= FAIR_PARKED && f->nheap == 1);
	}
	assert_ptr_equal(fair_pop(f), &keeps);
	assert_int_equal(f->nparked, 0);
	fair_free(&f);
}

/* Who was served and comes back waits for his turn, not for the end of newcomers: one who calls himself something else each time,
 * or more clients than are remembered. */
static void newcomers_do_not_starve(void **state)
{
	static struct fair_item others[20];
	struct fair *f = fair_new();
	struct fair_item mine;
	unsigned popped = 0;
	uint64_t key = 1000;
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		fair_push(f, &others[i], key++, 1, 0);
	for (int again = 0; again < 20; again++) {
		fair_push(f, &mine, 1, 1, 0);
		for (popped = 0;; popped++) {
			struct fair_item *i = fair_pop(f);
			assert_true(popped < 3 * FAIR_PARKED);
			if (i == &mine)
				break;
			fair_push(f, i, key++, 1, 0);
		}
	}
	while (fair_pop(f))
		;
	fair_free(&f);
}

/* ---- standing queues ---- */

static void bursts_are_no_standing_queue(void **state)
{
	struct codel c = {.standing = false};
	(void)state;
	for (int64_t t = 1; t < 100000; t += 10) /* 900 µs of every 1000 it is far above */
		assert_false(codel_look(&c, 100, 1000, t, t % 1000 < 900 ? 5000 : 10, false));
	int64_t t = 100000;
	while (!codel_look(&c, 100, 1000, t, 150, false))
		t += 10;
	assert_in_range(t, 101000, 101020);
	assert_true(codel_look(&c, 100, 1000, t + 10, 10, false)); /* a moment below half changes nothing */
	assert_true(codel_look(&c, 100, 1000, t + 20, 60, false));
	assert_true(
		codel_look(&c, 100, 1000, t + 5000, 60, false)); /* between half and whole: it is what keeps it so */
	assert_true(codel_look(&c, 100, 1000, t + 5010, 40, false));
	assert_true(codel_look(&c, 100, 1000, t + 6000, 40, false));
	assert_false(codel_look(&c, 100, 1000, t + 6010, 40, false));
	for (t = 200000; !codel_look(&c, 100, 1000, t, 150, false);)
		t += 10;
	assert_false(codel_look(&c, 100, 1000, t + 1, 0, true)); /* the caller knows that it is over */
}

/* ---- concurrency ---- */

/* A resource with 8 servers: beyond 8 at once each piece takes as much longer. */
static uint32_t settle(struct gradient *g, double service_us, int servers, int windows, int64_t *now)
{
	for (int i = 0; i < windows * GRADIENT_WINDOW; i++) {
		double under_way = gradient_limit(g);
		*now += 1000;
		gradient_sample(g, 1, *now, (int64_t)(service_us * (under_way > servers ? under_way / servers : 1)),
				true);
	}
	while (g->probed > 0)
		gradient_sample(g, 1, *now += 1000, (int64_t)service_us, true);
	return gradient_limit(g);
}

static void concurrency_follows_latency(void **state)
{
	struct gradient g;
	int64_t now = 1;
	(void)state;
	gradient_init(&g, 2, 64, 64);
	assert_in_range(settle(&g, 1000, 8, 5, &now), 30, 64);	 /* it knows nothing quicker yet */
	assert_in_range(settle(&g, 1000, 8, 400, &now), 12, 24); /* twice the time of one: 16 */
	gradient_init(&g, 2, 64, 2);
	assert_in_range(settle(&g, 1000, 8, 60, &now), 12, 24);
	assert_in_range(settle(&g, 10000, 8, 300, &now), 8, 24); /* ten times slower, which fewer do not change */
	assert_in_range(settle(&g, 1000, 8, 300, &now), 12, 24);
	assert_in_range(settle(&g, 1000, 2, 300, &now), 2, 8); /* fewer servers */
	gradient_init(&g, 2, 2, 2);
	assert_int_equal(settle(&g, 1000, 1, 30, &now), 2);
	gradient_init(&g, 2, 1, 1);
	assert_int_equal(settle(&g, 1000, 1, 30, &now), 1);
}

/* Looking how short it can be costs three quarters of what could be served meanwhile. */
static void probes_that_find_nothing_are_few(void **state)
{
	struct gradient g;
	int probes = 0;
	(void)state;
	gradient_init(&g, 2, 4, 4);
	for (int i = 0; i < 2000 * GRADIENT_WINDOW; i++) {
		probes += i % GRADIENT_WINDOW == 0 && g.probed > 0;
		gradient_sample(&g, 1, i * 1000, 1000, true);
		assert_true(g.probed > 0 || gradient_limit(&g) == 4);
	}
	assert_in_range(probes, 3, 8);
	/* and they are as frequent as before once something was slower */
	for (int i = 0; i < 200 * GRADIENT_WINDOW; i++)
		gradient_sample(&g, 1, 200000000 + i * 1000, 3000, true);
	assert_true(g.every < 8 * PROBE_EVERY);
}

static void who_does_not_use_it_gets_no_more(void **state)
{
	struct gradient g;
	(void)state;
	gradient_init(&g, 2, 64, 4);
	for (int i = 0; i < 50 * GRADIENT_WINDOW; i++)
		gradient_sample(&g, 0, i * 1000, 1000, false);
	assert_int_equal(gradient_limit(&g), 4);
}

/* ---- all together: an open load on two servers, in virtual time ---- */

struct job {
	struct lane_item wait;
	int64_t came_us;
	bool greedy;
};
struct flow_load {
	enum lane_class class;
	uint64_t flow;
	double per_s;
	double next_us;
	uint64_t offered, good, late, refused;
	int64_t worst_us;
};
struct world {
	struct lane lane;
	double service_us;
	struct {
		struct job *job;
		int64_t until_us;
	} server[2];
	struct flow_load *load;
	size_t nload;
	int64_t deadline_us;
};

static double wait_us(double per_s) { return -log(((double)some(1u << 30) + 1) / (1u << 30)) / per_s * 1e6; }

static struct flow_load *load_of(struct world *w, const struct job *j)
{
	for (size_t i = 0; i < w->nload; i++)
		if (w->load[i].flow == j->wait.fair.key && w->load[i].class == j->wait.class)
			return &w->load[i];
	return NULL;
}

static void drop(struct world *w, struct lane_item *i)
{
	load_of(w, (struct job *)i)->refused++;
	free(i);
}

static void serve(struct world *w, int64_t now)
{
	for (int s = 0; s < 2; s++) {
		if (w->server[s].job && w->server[s].until_us <= now) {
			struct job *j = w->server[s].job;
			struct flow_load *l = load_of(w, j);
			int64_t took = now - j->came_us;
			lane_done(&w->lane, &j->wait, now);
			*(took <= w->deadline_us ? &l->good : &l->late) += 1;
			l->worst_us = took > l->worst_us ? took : l->worst_us;
			free(j);
			w->server[s].job = NULL;
		}
		for (struct lane_item *i; (i = lane_stale(&w->lane, now));)
			drop(w, i);
		if (!w->server[s].job && (w->server[s].job = (struct job *)lane_take(&w->lane, now, true)))
			w->server[s].until_us = now + (int64_t)(w->service_us * (0.5 + (double)some(1000) / 1000));
	}
}

static void arrive(struct world *w, struct flow_load *l, int64_t now)
{
	struct job *j = util_zalloc(sizeof(*j));
	struct lane_item *out;
	j->came_us = now;
	j->wait.class = l->class;
	l->offered++;
	enum lane_verdict v = lane_offer(&w->lane, &j->wait, l->flow, now, &out);
	if (out)
		drop(w, out);
	if (v == LANE_OUT) {
		l->refused++;
		free(j);
	}
}

static int64_t run_until(struct world *w, int64_t now, int64_t end)
{
	for (; now < end; now += 20) {
		for (size_t i = 0; i < w->nload; i++)
			for (; w->load[i].per_s > 0 && w->load[i].next_us <= (double)now;
			     w->load[i].next_us += wait_us(w->load[i].per_s))
				arrive(w, &w->load[i], now);
		serve(w, now);
	}
	return now;
}

static void begin(struct world *w, double service_us, struct flow_load *load, size_t n)
{
	*w = (struct world){.service_us = service_us, .load = load, .nload = n, .deadline_us = 250000};
	lane_init(&w->lane, 2, 1000);
	w->lane.conf = (struct lane_conf){
		.on = true, .target_us = 50000, .interval_us = 200000, .free = 4, .most = 4096};
}

static void finish(struct world *w, int64_t now)
{
	for (size_t i = 0; i < w->nload; i++)
		w->load[i].per_s = 0;
	now = run_until(w, now, now + 10000000);
	assert_int_equal(lane_items(&w->lane), 0);
	lane_look(&w->lane, now);
	assert_false(w->lane.codel.standing);
	lane_end(&w->lane);
}

static void reset(struct flow_load *l) { l->offered = l->good = l->late = l->refused = 0, l->worst_us = 0; }

/* Two servers of 5 ms: 400 a second. */
static void goodput_holds(void **state)
{
	(void)state;
	for (double times = 0.5; times <= 10; times *= 2) {
		struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 400 * times}};
		struct world w;
		begin(&w, 5000, l, 1);
		int64_t now = run_until(&w, 0, 2000000);
		reset(l);
		now = run_until(&w, now, now + 5000000);
		if (times <= 0.5) {
			assert_int_equal(l[0].refused, 0);
			assert_int_equal(l[0].late, 0);
		} else if (times > 1) {
			assert_true(l[0].good >= 0.95 * 400 * 5);
			assert_int_equal(l[0].late, 0);
			assert_true(l[0].worst_us < 120000);
			assert_true(l[0].refused > 0);
		}
		finish(&w, now);
	}
}

/* The same without control: what the test before would see if nothing were refused. */
static void without_control_all_are_late(void **state)
{
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 800}};
	struct world w;
	(void)state;
	begin(&w, 5000, l, 1);
	w.lane.conf.on = false;
	int64_t now = run_until(&w, 0, 2000000);
	reset(l);
	now = run_until(&w, now, now + 2000000);
	assert_int_equal(l[0].good, 0);
	assert_int_equal(l[0].refused, 0);
	finish(&w, now);
}

static void the_greedy_one_is_refused(void **state)
{
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 2000},
				{.class = LANE_READ, .flow = 2, .per_s = 20},
				{.class = LANE_WRITE, .flow = 3, .per_s = 20}};
	struct world w;
	(void)state;
	begin(&w, 5000, l, 3);
	int64_t now = run_until(&w, 0, 2000000);
	for (int i = 0; i < 3; i++)
		reset(&l[i]);
	now = run_until(&w, now, now + 10000000);
	assert_true(l[0].refused > 1000);
	for (int i = 1; i < 3; i++) {
		assert_true(l[i].offered > 100);
		assert_int_equal(l[i].refused, 0);
		assert_true(l[i].worst_us < 4 * 7500); /* a rest, perhaps the other modest one, one's own */
	}
	finish(&w, now);
}

/* More flows than there is room for, each with one thing to say: some of all are refused, and what is let in is in time. */
static void many_small_ones(void **state)
{
	enum { FLOWS = 1000 };
	static struct flow_load l[FLOWS];
	struct world w;
	uint64_t good = 0, late = 0;
	(void)state;
	for (size_t i = 0; i < FLOWS; i++)
		l[i] = (struct flow_load){.class = LANE_READ, .flow = i + 1, .per_s = 1.2};
	begin(&w, 5000, l, FLOWS);
	int64_t now = run_until(&w, 0, 2000000);
	for (size_t i = 0; i < FLOWS; i++)
		reset(&l[i]);
	now = run_until(&w, now, now + 2000000);
	for (size_t i = 0; i < FLOWS; i++) {
		good += l[i].good;
		late += l[i].late;
	}
	assert_true(good > 0.9 * 800 && late == 0);
	finish(&w, now);
}

static void bulk_gives_way_and_is_not_forgotten(void **state)
{
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 380},
				{.class = LANE_BULK, .flow = 2, .per_s = 400},
				{.class = LANE_URGENT, .flow = 3, .per_s = 5}};
	struct world w;
	(void)state;
	begin(&w, 5000, l, 3);
	int64_t now = run_until(&w, 0, 3000000);
	for (int i = 0; i < 3; i++)
		reset(&l[i]);
	now = run_until(&w, now, now + 5000000);
	assert_true(l[0].good > 0.8 * 380 * 5); /* bulk has an eighth at most */
	assert_true(l[1].refused > l[1].good && l[1].good > 0.05 * 400 * 5);
	assert_int_equal(l[2].refused, 0);
	l[0].per_s *= 5;
	l[2].per_s = 50;
	reset(&l[2]);
	now = run_until(&w, now, now + 2000000);
	assert_true(l[2].offered > 50);
	assert_int_equal(l[2].refused, 0);
	finish(&w, now);
}

/* 128 clients at a machine a hundred times slower wait for seconds, and none is refused. */
static void slow_is_not_overloaded(void **state)
{
	struct world w;
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 0},
				{.class = LANE_BULK, .flow = 2, .per_s = 0}};
	int64_t now = 0;
	(void)state;
	begin(&w, 500000, l, 2);
	w.lane.conf.free = 128;
	for (int i = 0; i < 64; i++) {
		arrive(&w, &l[0], now);
		arrive(&w, &l[1], now);
	}
	for (int i = 0; i < 40; i++) { /* each answer brings the next question */
		uint64_t before = l[0].good + l[0].late + l[1].good + l[1].late;
		now = run_until(&w, now, now + 1000000);
		for (; before < l[0].good + l[0].late + l[1].good + l[1].late; before++)
			arrive(&w, &l[i % 2], now);
	}
	assert_int_equal(l[0].refused + l[1].refused, 0);
	now = run_until(&w, now, now + 60000000);
	finish(&w, now);
}

/* The servers hang: nobody takes anything, and yet it is noticed, those who wait are told, and it goes on at once. */
static void a_store_that_hangs(void **state)
{
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 1000}};
	struct world w;
	(void)state;
	begin(&w, 3000000, l, 1);
	int64_t now = run_until(&w, 0, 1500000);
	for (int i = 0; i < 2; i++)
		lane_running(&w.lane, LANE_READ, 1400000);
	assert_true(w.lane.codel.standing && lane_items(&w.lane) < 200);
	reset(l);
	now = run_until(&w, now, now + 500000);
	assert_true(l[0].refused > 350 && lane_items(&w.lane) <= 8);
	w.service_us = 1000;
	now = run_until(&w, now, now + 4000000); /* the two that hung are done, and its cost is soon seen */
	reset(l);
	now = run_until(&w, now, now + 1000000);
	assert_true(l[0].refused < l[0].good / 20 && l[0].late == 0);
	finish(&w, now);
}

static void what_goes_on_is_not_refused(void **state)
{
	struct world w;
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 4000}};
	struct lane_item *out;
	(void)state;
	begin(&w, 5000, l, 1);
	int64_t now = run_until(&w, 0, 1000000);
	for (int i = 0; i < 50; i++) { /* pages of exports, by the greediest of all */
		struct job *j = util_zalloc(sizeof(*j));
		j->wait.class = LANE_READ;
		j->wait.settled = true;
		j->came_us = now;
		assert_int_not_equal(lane_offer(&w.lane, &j->wait, 1, now, &out), LANE_OUT);
		assert_null(out);
	}
	assert_false(lane_admits(&w.lane, LANE_READ, 1, now));
	assert_true(lane_admits(&w.lane, LANE_READ, 99, now));
	assert_true(lane_admits(&w.lane, LANE_URGENT, 1, now));
	uint64_t before = l[0].refused;
	for (struct lane_item *i; (i = lane_stale(&w.lane, now + 1000000));) {
		assert_false(i->settled);
		drop(&w, i);
	}
	assert_true(l[0].refused > before && lane_items(&w.lane) >= 50);
	finish(&w, now);
}

/* A server that takes what waits in gulps empties the queue again and again, and is overloaded all the same. */
static void a_queue_that_is_empty_for_a_moment(void **state)
{
	struct world w;
	struct flow_load l[] = {{.class = LANE_READ, .flow = 1, .per_s = 4000}};
	struct lane_item *i, *out;
	(void)state;
	begin(&w, 5000, l, 1);
	int64_t now = run_until(&w, 0, 1000000);
	while ((i = lane_take(&w.lane, now, true)))
		drop(&w, i);
	lane_look(&w.lane, now);
	unsigned in = 0;
	for (unsigned n = 0; n < 1000; n++) {
		struct job *j = util_zalloc(sizeof(*j));
		j->wait.class = LANE_READ;
		j->came_us = now;
		if (lane_offer(&w.lane, &j->wait, 1, now + 10, &out) == LANE_OUT)
			free(j);
		else
			in++;
		assert_null(out);
	}
	assert_in_range(in, 4, 100);
	finish(&w, now);
}

/* ---- whose request it is ---- */

static void a_body_tells_its_namespace(void **state)
{
	static const struct {
		const char *body, *ns;
		bool memories, whole;
	} cases[] = {
		{"{\"query\":\"x\",\"namespace\":\"a\"}", "a", false, true},
		{" \n{ \"namespace\" : \"a b\" , \"content\": \"x\" }", "a b", false, true},
		{"{}", NULL, false, true},
		{"{\"content\":\"\\\"namespace\\\":\\\"no\\\"\"}", NULL, false, true},
		{"{\"filter\":{\"namespace\":\"no\"},\"metadata\":[{\"namespace\":\"no\"}]}", NULL, false, true},
		{"{\"filter\":{\"a\":\"}\"},\"namespace\":\"yes\"}", "yes", false, true},
		{"{\"memories\":[{\"namespace\":\"no\"},\"]\"],\"namespace\":\"yes\"}", "yes", true, true},
		{"{\"embedding\":[1,2,3],\"namespace\":\"yes\"}", "yes", false, true},
		{"{\"a\":[[1,2],[\"[\"],[{\"b\":[]}]],\"c\":\"\\\\\",\"namespace\":\"yes\"}", "yes", false, true},
		{"{\"a\":\"\\\\\\\"\",\"namespace\":\"yes\"}", "yes", false, true},
		{"{\"a\":[\"]\",1],\"namespace\":\"yes\"}", "yes", false, true},
		{"{\"namespace\":7}", NULL, false, true},
		{"{\"namespace\":\"a\\\"b\"}", "a\\\"b", false, true},
		{"{\"namespace\":\"open", NULL, false, false},
		{"{\"namespace\":\"shut\"", "shut", false, false},
		{"{\"a\":\"\\", NULL, false, false},
		{"{\"a\"", NULL, false, false},
		{"{", NULL, false, false},
		{"", NULL, false, false},
		{"[]", NULL, false, false},
		{"{\"a\":[[[[", NULL, false, false},
		{"{\"a\":]]}", NULL, false, false},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t n = strlen(cases[i].body);
		char *exact = util_alloc(n + 1); /* no byte behind it: the sanitizer watches */
		memcpy(exact, cases[i].body, n);
		exact = util_realloc(exact, n ? n : 1);
		struct span ns;
		bool memories, whole = overload_scan((struct span){exact, n}, &ns, &memories);
		if (whole != cases[i].whole || memories != cases[i].memories)
			fail_msg("%s: whole %d, memories %d", cases[i].body, whole, memories);
		assert_true(cases[i].ns ? ns.p && span_eq(ns, SPAN(cases[i].ns)) : !ns.p);
		free(exact);
	}
}

static void any_body_may_come(void **state)
{
	static const char parts[] = "{}[]\",:\\ namespaceab1";
	(void)state;
	for (int i = 0; i < 200000; i++) {
		size_t n = some(40);
		char *p = util_alloc(n ? n : 1);
		struct span ns;
		bool memories;
		for (size_t k = 0; k < n; k++)
			p[k] = k ? parts[some(sizeof(parts) - 1)] : '{';
		overload_scan((struct span){p, n}, &ns, &memories);
		assert_true(!ns.p || (ns.p > p && ns.p + ns.len < p + n));
		free(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_has_many_waits_for_who_has_few),
		cmocka_unit_test(shares_are_of_cost),
		cmocka_unit_test(items_come_out_as_they_went_in),
		cmocka_unit_test(flows_are_forgotten),
		cmocka_unit_test(newcomers_do_not_starve),
		cmocka_unit_test(bursts_are_no_standing_queue),
		cmocka_unit_test(concurrency_follows_latency),
		cmocka_unit_test(probes_that_find_nothing_are_few),
		cmocka_unit_test(who_does_not_use_it_gets_no_more),
		cmocka_unit_test(goodput_holds),
		cmocka_unit_test(without_control_all_are_late),
		cmocka_unit_test(the_greedy_one_is_refused),
		cmocka_unit_test(many_small_ones),
		cmocka_unit_test(bulk_gives_way_and_is_not_forgotten),
		cmocka_unit_test(slow_is_not_overloaded),
		cmocka_unit_test(a_store_that_hangs),
		cmocka_unit_test(what_goes_on_is_not_refused),
		cmocka_unit_test(a_queue_that_is_empty_for_a_moment),
		cmocka_unit_test(a_body_tells_its_namespace),
		cmocka_unit_test(any_body_may_come),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
