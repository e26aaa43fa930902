#include "lane.h"

#define BULK_SHARE 8 /* of the time that others take */

void lane_init(struct lane *l, unsigned servers, double cost_us)
{
	*l = (struct lane){.first = fair_new(), .bulk = fair_new(), .servers = servers, .conf = {.most = SIZE_MAX}};
	for (size_t k = 0; k < LANE_CLASSES; k++)
		l->cost_us[k] = cost_us;
}

void lane_end(struct lane *l)
{
	fair_free(&l->first);
	fair_free(&l->bulk);
}

/* ---- how it stands ---- */

static bool is_bulk(enum lane_class k) { return k == LANE_BULK || k == LANE_BACKGROUND; }
static struct fair *queue_of(const struct lane *l, enum lane_class k) { return is_bulk(k) ? l->bulk : l->first; }
size_t lane_items(const struct lane *l) { return fair_items(l->first) + fair_items(l->bulk); }

static int64_t age(const struct fair *f, int64_t now_us)
{
	const struct fair_item *i = fair_oldest(f);
	return i && now_us > i->since_us ? now_us - i->since_us : 0;
}

static double work_us(const struct lane *l, bool bulk)
{
	double sum = 0;
	for (size_t k = 0; k < LANE_CLASSES; k++)
		if (bulk || !is_bulk((enum lane_class)k))
			sum += (double)l->n[k] * l->cost_us[k];
	return sum / l->servers;
}

int64_t lane_delay(const struct lane *l, enum lane_class class, int64_t now_us)
{
	int64_t work = (int64_t)work_us(l, is_bulk(class)), waited = age(l->first, now_us);
	if (is_bulk(class)) {
		int64_t other = age(l->bulk, now_us);
		waited = other > waited ? other : waited;
	}
	return work > waited ? work : waited;
}

int64_t lane_limit(const struct lane *l, enum lane_class class)
{
	int64_t t = l->conf.target_us;
	return class == LANE_READ ? t : class == LANE_WRITE ? t + t / 2 : t / 2;
}

/* What came first tells it. With no more than conf.free of them there is no queue worth speaking of. */
void lane_look(struct lane *l, int64_t now_us)
{
	size_t n = lane_items(l);
	int64_t a = age(l->first, now_us), b = age(l->bulk, now_us), waited = n > l->conf.free ? a > b ? a : b : 0;
	if (!l->conf.on)
		l->codel = (struct codel){.standing = false};
	else
		codel_look(&l->codel, l->conf.target_us, l->conf.interval_us, now_us, waited, false);
}

/* ---- letting in ---- */

static bool unbounded(const struct lane *l, enum lane_class class)
{
	return !l->codel.standing || class == LANE_URGENT || lane_items(l) < l->conf.free;
}

/* So many of a flow may wait when the queue is as long as the class bears. */
static size_t share(const struct lane *l, const struct fair *q, size_t mine, double delay, double limit)
{
	double length = (double)fair_items(q) * limit / delay;
	size_t flows = fair_flows(q) + !mine;
	length = length > (double)l->conf.free ? length : (double)l->conf.free;
	return length > (double)flows ? (size_t)(length / (double)flows) : 1;
}

enum room { ROOM, ROOM_OF_OTHERS, NO_ROOM };

static enum room room_for(struct lane *l, enum lane_class class, uint64_t flow, int64_t now_us)
{
	struct fair *q = queue_of(l, class);
	lane_look(l, now_us);
	if (unbounded(l, class))
		return ROOM;
	if (class == LANE_BACKGROUND)
		return NO_ROOM;
	int64_t delay = lane_delay(l, class, now_us), limit = lane_limit(l, class);
	if (delay < limit)
		return ROOM;
	size_t mine = fair_items_of(q, flow);
	if (mine >= share(l, q, mine, (double)delay, (double)limit))
		return NO_ROOM;
	return delay < 2 * limit ? ROOM : ROOM_OF_OTHERS;
}

/* The newest that may still be refused, of the flow that has most; NULL: none has more than `mine` and one more. */
static struct lane_item *victim(struct lane *l, enum lane_class class, uint64_t flow)
{
	size_t most;
	struct fair *q = queue_of(l, class);
	struct fair_item *i = fair_fattest(q, &most);
	if (!i || most <= fair_items_of(q, flow) + 1)
		return NULL;
	while (i && ((struct lane_item *)i)->settled)
		i = fair_before(i);
	return (struct lane_item *)i;
}

bool lane_admits(struct lane *l, enum lane_class class, uint64_t flow, int64_t now_us)
{
	enum room r = room_for(l, class, flow, now_us);
	return r == ROOM || (r == ROOM_OF_OTHERS && victim(l, class, flow));
}

void lane_remove(struct lane *l, struct lane_item *i)
{
	fair_remove(queue_of(l, i->class), &i->fair);
	l->n[i->class]--;
}

enum lane_verdict lane_offer(struct lane *l, struct lane_item *i, uint64_t flow, int64_t now_us,
			     struct lane_item **out_r)
{
	enum room r = room_for(l, i->class, flow, now_us);
	*out_r = NULL;
	if (i->settled)
		r = ROOM;
	if (r == NO_ROOM)
		return LANE_OUT;
	if (r == ROOM_OF_OTHERS || lane_items(l) >= l->conf.most) {
		if (!(*out_r = victim(l, i->class, flow)))
			return LANE_OUT;
		lane_remove(l, *out_r);
	}
	uint64_t cost = (uint64_t)l->cost_us[i->class];
	fair_push(queue_of(l, i->class), &i->fair, flow, cost ? cost : 1, now_us);
	l->n[i->class]++;
	return *out_r ? LANE_INSTEAD : LANE_IN;
}

/* ---- serving ---- */

struct lane_item *lane_take(struct lane *l, int64_t now_us, bool bulk)
{
	bool some = fair_items(l->bulk) != 0 && bulk;
	struct fair_item *f = NULL;
	lane_look(l, now_us);
	if (some && (!fair_items(l->first) || l->credit_us >= l->cost_us[LANE_BULK]))
		f = fair_pop(l->bulk);
	f = f ? f : fair_pop(l->first);
	struct lane_item *i = (struct lane_item *)f;
	if (!i)
		return NULL;
	l->n[i->class]--;
	if (is_bulk(i->class))
		l->credit_us = l->credit_us > (double)f->cost ? l->credit_us - (double)f->cost : 0;
	else
		l->credit_us = some ? l->credit_us + (double)f->cost / BULK_SHARE : 0;
	i->took_us = now_us;
	return i;
}

void lane_measured(struct lane *l, enum lane_class class, double us)
{
	l->cost_us[class] += (us - l->cost_us[class]) / 16;
}

void lane_done(struct lane *l, const struct lane_item *i, int64_t now_us)
{
	int64_t took = now_us > i->took_us ? now_us - i->took_us : 0;
	lane_measured(l, i->class, (double)took);
	fair_settle(queue_of(l, i->class), i->fair.key, took - (int64_t)i->fair.cost);
}

void lane_running(struct lane *l, enum lane_class class, int64_t us)
{
	if (l->cost_us[class] < (double)us)
		l->cost_us[class] = (double)us;
}

static struct lane_item *stale_of(struct lane *l, struct fair *q, int64_t now_us)
{
	for (struct fair_item *f = fair_oldest(q); f; f = fair_newer(f)) {
		struct lane_item *i = (struct lane_item *)f;
		if (i->class == LANE_URGENT || i->settled)
			continue;
		/* Those behind came later, but a read among them gives up before a write does. */
		int64_t waited = now_us - f->since_us;
		if (waited > 2 * lane_limit(l, i->class))
			return i;
		if (waited <= l->conf.target_us)
			break;
	}
	return NULL;
}

struct lane_item *lane_stale(struct lane *l, int64_t now_us)
{
	lane_look(l, now_us);
	if (!l->codel.standing || lane_items(l) <= l->conf.free)
		return NULL;
	struct lane_item *i = stale_of(l, l->bulk, now_us);
	i = i ? i : stale_of(l, l->first, now_us);
	if (i)
		lane_remove(l, i);
	return i;
}
