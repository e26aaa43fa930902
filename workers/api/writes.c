/* Transactions on their way to sync: from submission until the answer.
 *
 * What is handed to sync is answered first come, first served: so no more is than is done within a moment, a group or two of
 * the journal. The others wait here, where who has many does not keep away who has one (lane.h).
 *
 * A transaction is kept until it is answered. When sync dies it is sent again under the same id:
 * the successor finds ids that reached the journal there and answers without writing twice. */
#define LOG_SUBSYSTEM LOG_IN_API
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "api.h"
#include "clock.h"
#include "fault.h"
#include "handed.h"
#include "log.h"
#include "overload.h"
#include "rings.h"
#include "trace/trace.h"

struct writes {
	struct api *api;
	struct ring *requests, *answers;
	_Atomic uint64_t next_id; /* starts at random: ids that an earlier life left in the journal never come again */
	struct call *table[4096]; /* in flight, by txn id; chains through call->next */
	size_t in_flight;
	struct call **outbox; /* waiting for ring space, in order; circular */
	size_t out_head, out_len, out_cap;
	bool resent;		 /* the outbox may hold some whose first copy sync has as well */
	size_t out_offset;	 /* bytes of the first one that were sent as fragments */
	struct event *ev_waited; /* pending while some wait for the store */
	struct lane lane;	 /* what waits until sync has answered others */
	struct handed handed;	 /* how much sync has */
	uint64_t flow;		 /* of what came last */
	int64_t shared_us;	 /* when the one before was another's */
	int64_t answers_us;	 /* since when the answers to come are counted, while some wait; 0: none do */
	int64_t turned_us;	 /* when answers were last taken in the middle of a round */
};
#define FIRST_COST_US 50
#define SHARED_US 1000000
#define LOOK_US 100000 /* how often it is looked whether one has waited for too long */
#define TURN_US 1000   /* and, in a long round of the loop, whether sync has answered */

static struct call **bucket(struct writes *w, uint64_t id) { return &w->table[id & (ARRAY_LEN(w->table) - 1)]; }

static void put_head(struct ring_msg_head *h, uint32_t type, uint32_t part, uint64_t total)
{
	*h = (struct ring_msg_head){.type = type, .part = part, .total = total};
}

/* Sends (the rest of) one transaction. False: the ring is full, go on at the next wake-up. */
static bool send_txn(struct writes *w, const struct buf *txn)
{
	size_t max = ring_max_payload(w->requests) - sizeof(struct ring_msg_head);
	while (w->out_offset < txn->len) {
		size_t left = txn->len - w->out_offset, n = left < max ? left : max;
		char *p = ring_reserve(w->requests, sizeof(struct ring_msg_head) + n);
		if (!p)
			return false;
		if (txn->len <= max)
			put_head((void *)p, MSG_TXN, 0, txn->len);
		else
			put_head((void *)p, MSG_FRAGMENT,
				 (w->out_offset ? 0 : FRAGMENT_FIRST) | (n == left ? FRAGMENT_LAST : 0), txn->len);
		FAULT_DO(ring_half, memcpy(p + sizeof(struct ring_msg_head), txn->p + w->out_offset, n / 2));
		memcpy(p + sizeof(struct ring_msg_head), txn->p + w->out_offset, n);
		ring_commit(w->requests, sizeof(struct ring_msg_head) + n);
		w->out_offset += n;
		if (w->out_offset < txn->len)
			FAULT_POINT(writes_fragment);
	}
	w->out_offset = 0;
	return true;
}

static void pump(struct writes *w)
{
	bool sent = false;
	while (w->out_len) {
		struct call *c = w->outbox[w->out_head];
		size_t before = w->out_offset;
		bool whole = send_txn(w, &c->txn);
		sent |= whole || w->out_offset != before;
		if (!whole)
			break;
		w->out_head = (w->out_head + 1) % w->out_cap;
		w->out_len--;
	}
	w->resent &= w->out_len != 0;
	if (sent)
		worker_wake_peer(w->api->w, SLOT_SYNC);
}

/* It is over before it was sent again: sync had its first copy. Of one that was sent in part sync drops the pieces. */
static void leave_outbox(struct writes *w, const struct call *c)
{
	size_t i = 0;
	while (i < w->out_len && w->outbox[(w->out_head + i) % w->out_cap] != c)
		i++;
	if (i == w->out_len)
		return;
	if (!i)
		w->out_offset = 0;
	for (; i + 1 < w->out_len; i++)
		w->outbox[(w->out_head + i) % w->out_cap] = w->outbox[(w->out_head + i + 1) % w->out_cap];
	w->out_len--;
}

static void enqueue(struct writes *w, struct call *c)
{
	if (w->out_len == w->out_cap) {
		size_t cap = w->out_cap ? w->out_cap * 2 : 64;
		struct call **v = util_alloc(cap * sizeof(*v));
		for (size_t i = 0; i < w->out_len; i++)
			v[i] = w->outbox[(w->out_head + i) % w->out_cap];
		free(w->outbox);
		w->outbox = v;
		w->out_cap = cap;
		w->out_head = 0;
	}
	w->outbox[(w->out_head + w->out_len++) % w->out_cap] = c;
}

/* ---- who goes next ---- */

static struct call *call_of(struct lane_item *i)
{
	return i ? (struct call *)(void *)((char *)i - offsetof(struct call, wait)) : NULL;
}

static bool room(const struct writes *w) { return w->in_flight < RINGS_IN_FLIGHT_MAX && handed_room(&w->handed); }

static void launch(struct writes *w, struct call *c, int64_t now)
{
	c->sent_us = now;
	c->ring_units = (uint32_t)(1 + c->txn.len / HANDED_UNIT);
	handed_sent(&w->handed, c->ring_units);
	c->next = *bucket(w, c->txn_id);
	*bucket(w, c->txn_id) = c;
	w->in_flight++;
	c->sent_ns = clock_mono_ns();
	if (c->trace && c->trace->sampled)
		trace_tell(c->trace->t, c->txn_id, &c->trace->self);
	stats_add(w->api->w->stats, STAT_TXNS_SENT, 1);
	enqueue(w, c);
	if (w->out_len == 1)
		pump(w);
}

/* sync has answered it, whatever else it waits for. */
static void landed(struct writes *w, struct call *c, bool durable, int64_t now)
{
	if (!c->ring_units)
		return;
	handed_answered(&w->handed, c->ring_units, durable && c->sent_us, now - c->sent_us,
			now); /* a refusal took no disk */
	c->ring_units = 0;
}

static void shown(struct writes *w, int64_t now)
{
	overload_show(w->api, OVERLOAD_WRITES, &w->lane, now);
	atomic_store_explicit(&w->api->w->stats->v[STAT_OVERLOAD_LIMIT_WRITES], handed_limit(&w->handed),
			      memory_order_relaxed);
}

static void refuse(struct writes *w, struct call *c, enum overload_why why, int64_t now)
{
	overload_refuse(c, OVERLOAD_WRITES, why,
			why == OVERLOAD_STALE ? now - c->wait.fair.since_us : lane_delay(&w->lane, c->wait.class, now));
	c->txn.len = 0;
	call_finish(c);
}

/* Those that may go by now. answered: so many were since it was looked last. */
static void refill(struct writes *w, size_t answered)
{
	if (!lane_items(&w->lane)) {
		w->answers_us = 0;
		handed_look(&w->handed, false, 0);
		return;
	}
	int64_t now = clock_mono_us();
	handed_look(&w->handed, true, now);
	for (unsigned k = 0; answered && w->answers_us && k < LANE_CLASSES; k++)
		lane_measured(&w->lane, (enum lane_class)k, (double)(now - w->answers_us) / (double)answered);
	w->answers_us = answered || !w->answers_us ? now : w->answers_us;
	for (struct lane_item *i; (i = lane_stale(&w->lane, now));)
		refuse(w, call_of(i), OVERLOAD_STALE, now);
	while (room(w)) {
		struct call *c = call_of(lane_take(&w->lane, now, true));
		if (!c)
			break;
		if (c->trace)
			trace_step(c->trace, TRACE_QUEUE_WRITE, c->wait.fair.since_us * 1000, now * 1000, false);
		launch(w, c, now);
	}
	shown(w, now);
}

bool writes_submit(struct writes *w, struct call *c)
{
	struct lane_item *out;
	int64_t now = clock_mono_us();
	if (w->in_flight >= RINGS_IN_FLIGHT_MAX)
		return false;
	if (c->flow != w->flow)
		w->shared_us = now;
	w->flow = c->flow;
	w->handed.shared = now - w->shared_us < SHARED_US;
	if (room(w) && !lane_items(&w->lane)) {
		launch(w, c, now);
		return true;
	}
	w->lane.conf.most = RINGS_IN_FLIGHT_MAX - w->in_flight;
	enum lane_verdict v = lane_offer(&w->lane, &c->wait, c->flow, now, &out);
	if (out)
		refuse(w, call_of(out), OVERLOAD_EVICTED, now);
	if (v == LANE_OUT && w->lane.codel.standing)
		overload_refuse(c, OVERLOAD_WRITES, OVERLOAD_DELAY, lane_delay(&w->lane, c->wait.class, now));
	w->answers_us = w->answers_us ? w->answers_us : now;
	shown(w, now);
	return v != LANE_OUT;
}

bool writes_admits(struct writes *w, const struct call *c, int64_t *delay_r)
{
	int64_t now = clock_mono_us();
	*delay_r = lane_delay(&w->lane, c->wait.class, now);
	return lane_admits(&w->lane, c->wait.class, c->flow, now);
}

void writes_tick(struct writes *w)
{
	int64_t now = clock_mono_us();
	lane_look(&w->lane, now);
	refill(w, 0);
	shown(w, now);
}

void writes_conf(struct writes *w)
{
	w->lane.conf = overload_lane_conf(w->api);
	w->handed.on = w->lane.conf.on;
	w->handed.target_us = w->lane.conf.target_us;
}

static struct call **find(struct writes *w, uint64_t id)
{
	struct call **cp = bucket(w, id);
	while (*cp && (*cp)->txn_id != id)
		cp = &(*cp)->next;
	return cp;
}

static void look_later(struct writes *w)
{
	static const struct timeval later = {0, LOOK_US};
	if (!event_pending(w->ev_waited, EV_TIMEOUT, NULL))
		event_add(w->ev_waited, &later);
}

/* Nobody waits for ever for a store that is away. */
static void on_waited(evutil_socket_t fd, short what, void *arg)
{
	struct writes *w = arg;
	int64_t since = clock_mono_us() - conf_int(w->api->w->conf, CONF_SYNC_WAIT_MAX);
	struct call *over = NULL;
	bool others = false;
	(void)fd, (void)what;
	if (w->out_len) { /* it may hold some of them, which are sent again */
		look_later(w);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(w->table); i++) {
		for (struct call **cp = &w->table[i], *c; (c = *cp);) {
			if (c->committed_us && c->committed_us <= since) {
				*cp = c->next;
				c->next = over;
				over = c;
				w->in_flight--;
				continue;
			}
			others |= c->committed_us != 0;
			cp = &c->next;
		}
	}
	if (others)
		look_later(w);
	while (over) {
		struct call *c = over;
		over = c->next;
		call_waited(c);
	}
}

static void note_answer(struct writes *w, const struct call *c, bool well, int64_t now)
{
	int64_t now_ns = clock_mono_ns();
	if (c->sent_ns)
		stats_record(w->api->w->stats, HIST_WRITE_ACK, (uint64_t)(now_ns - c->sent_ns));
	if (!c->trace)
		return;
	if (c->sent_ns)
		trace_step(c->trace, TRACE_JOURNAL, c->sent_ns, now_ns, !well);
	else if (c->committed_us)
		trace_step(c->trace, TRACE_STORE_WAIT, c->committed_us * 1000, now * 1000, !well);
}

static void answered(struct writes *w, const struct txn_answer *a, int64_t now)
{
	struct call **cp = find(w, a->id), *c = *cp;
	if (!c)
		return; /* a predecessor's, or a second answer */
	note_answer(w, c, a->status == TXN_OK || a->status == TXN_STORED || a->status == TXN_CONFLICT, now);
	c->sent_ns = 0;
	landed(w, c, a->status == TXN_OK || a->status == TXN_STORED, now);
	if (a->status == TXN_OK && c->wait_store) { /* TXN_STORED follows */
		c->committed_seq = a->seq;
		if (!c->committed_us)
			c->committed_us = clock_mono_us();
		look_later(w);
		return;
	}
	FAULT_POINT(writes_answered);
	*cp = c->next;
	w->in_flight--;
	if (w->resent)
		leave_outbox(w, c);
	call_answered(c, a->status, a->seq, a->arg);
}

static size_t take_answers(struct writes *w)
{
	int64_t now = clock_mono_us();
	size_t n = 0, len;
	uint64_t cursor = ring_head(w->answers);
	const struct txn_answer *a;
	while ((a = ring_peek(w->answers, &cursor, &len))) {
		struct txn_answer copy;
		AN(len == sizeof(copy));
		memcpy(&copy, a, sizeof(copy));
		ring_advance(w->answers, cursor);
		answered(w, &copy, now);
		n++;
	}
	if (errno == EPROTO)
		ring_advance(w->answers, ring_head(w->answers) + ring_used(w->answers));
	return n;
}

void writes_turn(struct writes *w)
{
	int64_t now = clock_mono_us();
	if (now - w->turned_us < TURN_US || ring_empty(w->answers))
		return;
	refill(w, take_answers(w));
	pump(w);
	w->turned_us = clock_mono_us();
}

void writes_on_wake(struct writes *w)
{
	for (;;) {
		size_t n = take_answers(w);
		wake_prepare(&w->api->plant->wake[w->api->w->slot]);
		/* Behind the prepare: room that sync made before it rang no bell, and nobody would ring for it later. */
		refill(w, n);
		pump(w);
		if (ring_empty(w->answers))
			return;
		wake_cancel(&w->api->plant->wake[w->api->w->slot]);
	}
}

static int by_id(const void *a, const void *b)
{
	const struct call *const *x = a, *const *y = b;
	return (int64_t)((*x)->txn_id - (*y)->txn_id) < 0 ? -1 : 1; /* the counter may wrap */
}

void writes_resend(struct writes *w)
{
	writes_on_wake(w); /* what the dead one answered is answered */
	FAULT_POINT(writes_resending);
	struct call **all = util_alloc((w->in_flight + 1) * sizeof(*all));
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(w->table); i++)
		for (struct call *c = w->table[i]; c; c = c->next)
			all[n++] = c;
	qsort(all, n, sizeof(*all), by_id);
	w->out_len = w->out_offset = 0;
	for (size_t i = 0; i < n; i++) {
		((struct txn_head *)(void *)all[i]->txn.p)->seq = all[i]->committed_seq;
		all[i]->sent_us = 0;
		enqueue(w, all[i]);
	}
	free(all);
	w->resent = true;
	if (n)
		log_info("sync was restarted: %zu unanswered transactions are sent again", n);
	pump(w);
}

size_t writes_in_flight(const struct writes *w) { return w->in_flight + lane_items(&w->lane); }

uint64_t writes_next_id(struct writes *w) { return atomic_fetch_add_explicit(&w->next_id, 1, memory_order_relaxed); }

static void take_turns(struct writes *w)
{
	lane_init(&w->lane, 1, FIRST_COST_US);
	writes_conf(w);
}

struct writes *writes_open(struct api *a)
{
	struct writes *w = util_zalloc(sizeof(*w));
	size_t bytes = (size_t)conf_int(a->w->conf, CONF_RING_BYTES);
	uint64_t start;
	AN(getrandom(&start, sizeof(start), 0) == sizeof(start));
	atomic_init(&w->next_id, start);
	w->api = a;
	w->ev_waited = event_new(a->base, -1, 0, on_waited, w);
	take_turns(w);
	w->requests = ring_open(FD_SHM_RINGS, rings_request_offset(bytes, a->w->slot), bytes);
	w->answers = ring_open(FD_SHM_RINGS, rings_answer_offset(bytes, a->w->slot), RINGS_ANSWER_BYTES);
	if (!w->requests || !w->answers) {
		log_error("cannot map the rings: %s", strerror(errno));
		exit(WORKER_EXIT_FAIL);
	}
	return w;
}
