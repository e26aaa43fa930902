#include "overload.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "clock.h"
#include "handlers.h"
#include "requests.h"
#include "tarpit.h"

#define LARGE_BODY 65536
#define LARGE_PAGE 500
#define WAITING_MAX 4096 /* calls that wait for a thread; beyond, 503 */
#define RETRY_MAX 30
#define ROUND_FLOWS 256
#define LOOP_SHARE 4 /* of what may be waited for, the loop's part: what it lets in waits again */
#define TICKS 8	     /* looks in an interval while something is overloaded */
#define LONG_US 1000 /* a round in which the answers of sync are not left for later */

struct overload {
	struct api *api;
	struct event *tick; /* pending while something is overloaded */
	bool standing[OVERLOAD_QUEUES];
	uint64_t random;
	/* the loop's round */
	struct codel loop;
	struct tarpit tarpit;
	int64_t round_us, round_late_us; /* when it began; the latest that a request in it came */
	int64_t late_us;		 /* how late the request is that is looked at */
	int64_t counted_us;		 /* since when shares are counted */
	struct {
		uint64_t flow;
		uint32_t n;
	} flow[ROUND_FLOWS];
	uint32_t served, flows;
	struct buf detail; /* of the refusal at hand; kept for its room */
};

struct lane_conf overload_lane_conf(const struct api *a)
{
	const struct conf *c = a->w->conf;
	return (struct lane_conf){.on = conf_int(c, CONF_OVERLOAD_CONTROL),
				  .target_us = conf_int(c, CONF_OVERLOAD_TARGET),
				  .interval_us = conf_int(c, CONF_OVERLOAD_INTERVAL),
				  .free = (size_t)conf_int(c, CONF_OVERLOAD_FREE),
				  .most = WAITING_MAX};
}

/* ---- what is known of a request ---- */

static bool large_page(struct call *c)
{
	char *v = NULL;
	size_t len = 0;
	bool large = http_query_get(c->req, "limit", &v, &len) == 1 && strtol(v, NULL, 10) > LARGE_PAGE;
	free(v);
	return large;
}

static enum lane_class class_of(struct call *c, bool memories)
{
	const struct route *r = c->route;
	void (*h)(struct call *) = r->handle;
	if (h == transfer_export || h == transfer_import || h == list_count || h == bulk_delete || h == warm_start)
		return LANE_BULK;
	if (r->right != AUTH_READ && r->right != AUTH_WRITE)
		return LANE_URGENT;
	if (h == metrics_get || h == changes_follow)
		return LANE_URGENT;
	if (memories || http_body(c->req).len > LARGE_BODY || (h == list_memories && large_page(c)))
		return LANE_BULK;
	return r->right == AUTH_READ ? LANE_READ : LANE_WRITE;
}

/* Of a call whose route and principal are known, from what has come of it. */
static void classify(struct call *c)
{
	bool memories;
	c->flow = overload_flow(c, &memories);
	c->wait.class = class_of(c, memories);
	http_flow(c->req, c->flow);
}

/* ---- refusing ---- */

static const char *const queue_names[] = {"readers", "writes", "loop"};
static const char *const queue_texts[] = {"the reader threads", "sync", "the api worker itself"};
static const char *const class_texts[] = {"urgent requests", "single writes", "searches and reads", "bulk requests",
					  "refreshes"};

static uint64_t random_of(struct overload *o)
{
	o->random ^= o->random << 13;
	o->random ^= o->random >> 7;
	o->random ^= o->random << 17;
	return o->random;
}

/* When what waits by now is done, twice; jittered, lest all come back at once. */
static uint32_t retry_after(struct overload *o, int64_t delay_us)
{
	int64_t base = 1 + 2 * delay_us / 1000000;
	base = base < RETRY_MAX / 2 ? base : RETRY_MAX / 2;
	return (uint32_t)(base + (int64_t)(random_of(o) % (uint64_t)(base + 1)));
}

static void count_refusal(struct api *a, enum lane_class k, enum overload_queue q, enum overload_why why)
{
	static const enum stat_id first[LANE_CLASSES] = {[LANE_URGENT] = STAT_OVERLOAD_WRITE_DELAY,
							 [LANE_WRITE] = STAT_OVERLOAD_WRITE_DELAY,
							 [LANE_READ] = STAT_OVERLOAD_READ_DELAY,
							 [LANE_BULK] = STAT_OVERLOAD_BULK_DELAY,
							 [LANE_BACKGROUND] = STAT_OVERLOAD_BULK_DELAY};
	_Static_assert(STAT_OVERLOAD_WRITE_LATE - STAT_OVERLOAD_WRITE_DELAY == 3, "in the order of enum overload_why");
	stats_add(a->w->stats, (enum stat_id)(first[k] + (q == OVERLOAD_LOOP ? 3u : (unsigned)why)), 1);
}

static void tick_later(struct overload *o)
{
	int64_t us = conf_int(o->api->w->conf, CONF_OVERLOAD_INTERVAL) / TICKS;
	struct timeval tv = {us / 1000000, us % 1000000};
	if (!event_pending(o->tick, EV_TIMEOUT, NULL))
		event_add(o->tick, &tv);
}

void overload_refuse(struct call *c, enum overload_queue q, enum overload_why why, int64_t delay_us)
{
	struct api *a = c->api;
	enum lane_class k = c->wait.class;
	static const char *const what[] = {
		[OVERLOAD_DELAY] =
			"what is asked for by this namespace or credential waits there in its full share already",
		[OVERLOAD_EVICTED] =
			"this namespace or credential has most of what waits, and gave up a place to others",
		[OVERLOAD_STALE] = "this request has waited for twice that"};
	struct lane_conf conf = overload_lane_conf(a);
	int64_t limit = lane_limit(&(struct lane){.conf = conf}, k);
	count_refusal(a, k, q, why);
	struct buf *b = &a->overload->detail; /* printf would be a tenth of all that a refusal takes in user space */
	b->len = 0;
	buf_adds(b, queue_texts[q]);
	buf_adds(b, " cannot keep up: it would take ");
	buf_addu(b, delay_us > 0 ? (uint64_t)delay_us / 1000 : 0);
	buf_adds(b, " ms until this is begun, ");
	buf_adds(b, class_texts[k]);
	buf_adds(b, " wait for ");
	buf_addu(b, (uint64_t)limit / 1000);
	buf_adds(b, " ms at most (overload.target), and ");
	buf_adds(b, q == OVERLOAD_LOOP ? "this worker is busy with others" : what[why]);
	buf_adds(b, ". Nothing was done. Try again after Retry-After seconds, with fewer requests at once");
	buf_addc(b, 0);
	problem_text(c, 429, "overloaded", b->p);
	problem_later(c, retry_after(a->overload, delay_us));
	if (!c->req) /* background work, and a follower's reading: there is no client to slow down */
		return;
	unsigned most_ms = (unsigned)(conf_int(a->w->conf, CONF_OVERLOAD_HOLD) / 1000);
	if (tarpit_holds(&a->overload->tarpit, c->flow, http_server_held(a->http)) && most_ms &&
	    http_hold(c->req, most_ms)) {
		stats_add(a->w->stats, STAT_OVERLOAD_HELD, 1);
		tick_later(a->overload);
	}
}

/* ---- the loop ---- */

/* What came latest in this round, or waits to be read in a later one. */
static int64_t latest(const struct overload *o)
{
	int64_t behind = http_server_behind_us(o->api->http);
	return o->round_late_us > behind ? o->round_late_us : behind;
}

/* Shares are counted over rounds that are short because of a crowd (ready.c), for as long as there is one. */
static void shares_anew(struct overload *o, const struct lane_conf *k, int64_t began_us)
{
	int64_t since = began_us - o->counted_us;
	if (http_server_waiting(o->api->http) && since >= 0 && since < k->interval_us)
		return;
	if (o->served)
		memset(o->flow, 0, sizeof(o->flow));
	o->served = o->flows = 0;
	o->counted_us = began_us;
}

static void begin_round(struct overload *o, const struct lane_conf *k, int64_t began_us, int64_t now_us)
{
	int64_t late = latest(o);
	bool gap = began_us - o->round_us > late + k->interval_us / 2; /* a while without any but hits */
	codel_look(&o->loop, k->target_us / LOOP_SHARE, k->interval_us, now_us, late, gap);
	o->standing[OVERLOAD_LOOP] = o->loop.standing && k->on;
	http_server_hold_pace(o->api->http, tarpit_look(&o->tarpit, k->interval_us, now_us));
	if (o->standing[OVERLOAD_LOOP])
		overload_show(o->api, OVERLOAD_LOOP, NULL, 0);
	o->round_us = began_us;
	o->round_late_us = 0;
	shares_anew(o, k, began_us);
}

/* How long ago the loop was told of this request's socket: before this round, where that waited to be read. Returns how
 * long the round has gone on. */
static int64_t note_lateness(struct overload *o, const struct lane_conf *k, const struct http_request *r)
{
	struct timeval tv;
	int64_t now = clock_real_us(), began;
	if (event_base_gettimeofday_cached(o->api->base, &tv))
		return 0;
	began = (int64_t)tv.tv_sec * 1000000 + tv.tv_usec;
	if (began != o->round_us)
		begin_round(o, k, began, now);
	int64_t waited = http_waited_us(r), round = now - began;
	round = round < 0 || round > 60000000 ? 0 : round; /* the clock was set */
	o->late_us = waited ? waited : round;
	o->round_late_us = o->late_us > o->round_late_us ? o->late_us : o->round_late_us;
	return round;
}

/* Late in a long round those who had less than the others in it go first still. */
static bool served_enough(struct overload *o, uint64_t flow)
{
	size_t at = (size_t)((flow * 0x9e3779b97f4a7c15ull) >> 56);
	return o->flow[at].flow == flow && (uint64_t)o->flow[at].n * o->flows >= o->served;
}

static void count_served(struct overload *o, uint64_t flow)
{
	size_t at = (size_t)((flow * 0x9e3779b97f4a7c15ull) >> 56);
	if (!o->flow[at].n) {
		o->flow[at].flow = flow;
		o->flows++;
	}
	o->flow[at].n++;
	o->served++;
}
_Static_assert(ROUND_FLOWS == 1 << 8, "the eight highest bits");

bool overload_admits_late(struct call *c)
{
	struct overload *o = c->api->overload;
	if (!o->standing[OVERLOAD_LOOP] || c->wait.class == LANE_URGENT || c->wait.settled)
		return true;
	struct lane_conf k = overload_lane_conf(c->api);
	int64_t limit = lane_limit(&(struct lane){.conf = k}, c->wait.class) / LOOP_SHARE;
	size_t waiting = http_server_waiting(o->api->http);
	if ((waiting ? waiting : o->served) < k.free || o->late_us <= limit ||
	    (o->late_us <= 2 * limit && !served_enough(o, c->flow))) {
		count_served(o, c->flow);
		return true;
	}
	overload_refuse(c, OVERLOAD_LOOP, OVERLOAD_DELAY, o->late_us);
	return false;
}

/* ---- letting in ---- */

bool overload_admits(struct call *c)
{
	struct api *a = c->api;
	struct overload *o = a->overload;
	struct lane_conf conf = overload_lane_conf(a);
	int64_t delay_us = 0;
	classify(c);
	enum lane_class k = c->wait.class;
	if (note_lateness(o, &conf, c->req) > LONG_US) {
		writes_turn(a->writes);
		requests_enter(c->req); /* lines of the log are ours again: those who were answered have left it */
	}
	if (k == LANE_URGENT || k == LANE_READ)
		return true;
	if (!overload_admits_late(c))
		return false;
	if (o->standing[OVERLOAD_WRITES] && c->route->right == AUTH_WRITE && !writes_admits(a->writes, c, &delay_us)) {
		overload_refuse(c, OVERLOAD_WRITES, OVERLOAD_DELAY, delay_us);
		return false;
	}
	if (k == LANE_BULK && o->standing[OVERLOAD_READERS] && !jobs_admits(a->jobs, c, &delay_us)) {
		overload_refuse(c, OVERLOAD_READERS, OVERLOAD_DELAY, delay_us);
		return false;
	}
	return true;
}

void overload_gone(struct call *c)
{
	struct api *a = c->api;
	if (!jobs_cancel(a->jobs, c, http_gone(c->req)))
		return;
	stats_add(a->w->stats, STAT_OVERLOAD_GONE, 1);
	c->reply.status = 499; /* for the count; nobody reads it */
	call_finish(c);
}

/* ---- telling ---- */

static void store(struct api *a, unsigned first, enum overload_queue q, uint64_t v)
{
	atomic_store_explicit(&a->w->stats->v[first + q], v, memory_order_relaxed);
}

void overload_show(struct api *a, enum overload_queue q, const struct lane *l, int64_t now_us)
{
	struct overload *o = a->overload;
	if (l) {
		o->standing[q] = l->codel.standing;
		store(a, STAT_OVERLOAD_WAITING_READERS, q, lane_items(l));
		store(a, STAT_OVERLOAD_US_READERS, q, (uint64_t)lane_delay(l, LANE_READ, now_us));
	} else {
		store(a, STAT_OVERLOAD_US_READERS, q, (uint64_t)latest(o));
	}
	store(a, STAT_OVERLOAD_STANDING_READERS, q, o->standing[q]);
	if (o->standing[q])
		tick_later(o);
}

int64_t overload_delay(const struct api *a, enum overload_queue q)
{
	return (int64_t)atomic_load_explicit(&a->w->stats->v[STAT_OVERLOAD_US_READERS + q], memory_order_relaxed);
}

/* While something is overloaded: it is to end also when nothing comes any more. */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct overload *o = arg;
	struct lane_conf k = overload_lane_conf(o->api);
	int64_t now = clock_real_us();
	(void)fd, (void)what;
	if (now < o->round_us ||
	    now - o->round_us > k.interval_us / TICKS / 2) /* nothing but hits, or nothing at all */
		begin_round(o, &k, now, now);
	overload_show(o->api, OVERLOAD_LOOP, NULL, 0);
	if (http_server_held(o->api->http))
		tick_later(o);
	jobs_tick(o->api->jobs);
	writes_tick(o->api->writes);
}

struct overload *overload_open(struct api *a)
{
	struct overload *o = util_zalloc(sizeof(*o));
	o->api = a;
	o->tick = evtimer_new(a->base, on_tick, o);
	AN(o->tick && getrandom(&o->random, sizeof(o->random), 0) == sizeof(o->random));
	o->random |= 1;
	for (unsigned s = STAT_OVERLOAD_STANDING_READERS; s <= STAT_OVERLOAD_LIMIT_WRITES; s++) /* a predecessor's */
		atomic_store_explicit(&a->w->stats->v[s], 0, memory_order_relaxed);
	return o;
}

void overload_conf(struct api *a)
{
	jobs_conf(a->jobs);
	writes_conf(a->writes);
	if (!conf_int(a->w->conf, CONF_OVERLOAD_CONTROL))
		a->overload->loop = (struct codel){.standing = a->overload->standing[OVERLOAD_LOOP] = false};
}

void overload_free(struct overload **op)
{
	struct overload *o = *op;
	if (!o)
		return;
	event_free(o->tick);
	buf_free(&o->detail);
	free(o);
	*op = NULL;
}

/* ---- of all workers ---- */

static uint64_t sum(const struct plant *p, unsigned stat, bool most)
{
	uint64_t n = 0;
	for (unsigned s = 0; s < SLOT_COUNT; s++) {
		uint64_t v = atomic_load_explicit(&p->worker[s].stats.v[stat], memory_order_relaxed);
		n = most ? (v > n ? v : n) : n + v;
	}
	return n;
}

void overload_status(const struct plant *p, struct buf *b)
{
	uint64_t refused = 0;
	const char *sep = "";
	for (unsigned s = STAT_OVERLOAD_WRITE_DELAY; s <= STAT_OVERLOAD_BULK_LATE; s++)
		refused += sum(p, s, false);
	buf_adds(b, "\"overload\":{\"throttling\":[");
	for (unsigned q = 0; q < OVERLOAD_QUEUES; q++)
		if (sum(p, STAT_OVERLOAD_STANDING_READERS + q, false)) {
			buf_printf(b, "%s\"%s\"", sep, queue_names[q]);
			sep = ",";
		}
	buf_printf(b, "],\"waiting\":%llu,\"refused\":%llu}",
		   (unsigned long long)(sum(p, STAT_OVERLOAD_WAITING_READERS, false) +
					sum(p, STAT_OVERLOAD_WAITING_WRITES, false)),
		   (unsigned long long)refused);
}

bool overload_own_metric(size_t stat)
{
	return stat >= STAT_OVERLOAD_US_READERS && stat < STAT_OVERLOAD_US_READERS + OVERLOAD_QUEUES;
}

uint64_t overload_delay_us(const struct plant *p, size_t stat) { return sum(p, (unsigned)stat, true); }
