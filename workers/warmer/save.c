/* L1 into the file of what is hot.
 *
 * A body is saved when the store has it. An entry is copied, then the pending table is asked, then whether anything is shown
 * that the store did not accept, then whether L1 still has it: what the store refused is taken out of L1 before that is
 * said to be over (apply_flushed() of sync), so a copy that is still there was accepted. The hottest come first, in rounds
 * over L1, and a block holds what one round has found: should room or time not suffice, the coldest are missing, and who
 * loads it begins with what is wanted most. */
#define LOG_SUBSYSTEM LOG_IN_WARMER
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "warmer.h"

#define AT_ONCE 512
#define STAGE_BYTES (2u << 20)
#define MARGIN_US 200000 /* at least, between the last body and the end of the time: head, mark, name, leaving … */
#define HEATS 19	 /* 15 + 3, and 0 */
#define MARGIN_SHARE 4	 /* … and so much of the time: a write may be held up when much waits for the disk */

struct staged {
	struct hot_entry e;
	size_t at; /* of its body */
};

struct saving {
	struct warmer *m;
	const struct job *job;
	struct hot_writer *out;
	uint64_t bytes_of[HEATS]; /* what L1 holds, by heat */
	unsigned from, below;	  /* heats of this round … */
	unsigned round;		  /* … and how hot that is: the file's heat */
	struct staged staged[AT_ONCE];
	size_t n, used;
	char *bodies;
	int64_t now_us;
	int64_t enough_us; /* clock_mono_us(): what is written by then is all; 0: without hurry */
	bool over;	   /* no more room, time or patience */
};

/* How often it was wanted of late: what is known of before, and since it was judged last. */
static unsigned heat_of(const struct saving *s, const struct cache_entry *e)
{
	unsigned heat = cache_frequency(s->m->cache, CACHE_MEMORY, &e->key) + e->hits;
	return heat < HEATS ? heat : HEATS - 1;
}

/* The copy of one entry; false: it is not to be saved. */
static bool stage(struct saving *s, const struct cache_entry *e)
{
	struct staged *to = &s->staged[s->n];
	*to = (struct staged){.e = {.id = e->key, .meta = e->meta, .len = e->len}, .at = s->used};
	if (s->job->form == HOT_IDS)
		return true;
	ptrdiff_t len = cache_get(s->m->cache, CACHE_MEMORY, &e->key, s->now_us, s->bodies + s->used,
				  STAGE_BYTES - s->used, &to->e.meta);
	if (len < 0 || to->e.meta.flags & CACHE_NEGATIVE)
		return false;
	to->e.len = (uint32_t)len;
	s->used += align_up((size_t)len, 8);
	return true;
}

static bool is_settled(struct saving *s, const struct staged *c)
{
	struct pending_entry p;
	struct cache_entry e;
	return !pending_find_id(s->m->pending, &c->e.id, &p) &&
	       !atomic_load_explicit(&s->m->plant->unmended, memory_order_acquire) &&
	       cache_peek(s->m->cache, CACHE_MEMORY, &c->e.id, &e) && e.meta.version == c->e.meta.version &&
	       e.meta.filled_us == c->e.meta.filled_us;
}

static void write_staged(struct saving *s)
{
	for (size_t i = 0; i < s->n && !s->over; i++) {
		const struct staged *c = &s->staged[i];
		bool whole = s->job->form == HOT_BODIES && is_settled(s, c);
		s->over = !hot_writer_add(s->out, s->round, &c->e, whole ? s->bodies + c->at : NULL);
	}
	s->n = s->used = 0;
	s->now_us = clock_real_us();
	if (s->enough_us && clock_mono_us() > s->enough_us)
		s->over = true;
	s->over = s->over || !pace_step(&s->m->pace, &s->m->cancel);
}

static bool is_wanted(const struct saving *s, const struct cache_entry *e)
{
	return e->cls == CACHE_MEMORY && !(e->meta.flags & CACHE_NEGATIVE) && e->len <= STAGE_BYTES / 2 &&
	       cache_age_of(&e->meta, s->now_us) != CACHE_GONE;
}

static bool weigh(void *arg, const struct cache_entry *e, const void *value)
{
	struct saving *s = arg;
	(void)value;
	if (is_wanted(s, e))
		s->bytes_of[heat_of(s, e)] += e->len;
	return true;
}

static bool visit(void *arg, const struct cache_entry *e, const void *value)
{
	struct saving *s = arg;
	(void)value;
	if (!is_wanted(s, e))
		return true;
	unsigned heat = heat_of(s, e);
	if (heat < s->from || heat >= s->below)
		return true;
	if (s->n == AT_ONCE || s->used + e->len > STAGE_BYTES / 2)
		write_staged(s);
	if (!s->over && stage(s, e))
		s->n++;
	return !s->over;
}

static void walk(struct saving *s)
{
	static const unsigned shares[] = {10, 25, 50, 100}; /* percent of the bytes that are done with a round */
	uint64_t all = 0, done = 0;
	cache_walk(s->m->cache, NULL, 0, weigh, s);
	for (unsigned h = 0; h < HEATS; h++)
		all += s->bytes_of[h];
	s->from = HEATS;
	for (size_t i = 0; i < ARRAY_LEN(shares) && s->from && !s->over; i++) {
		s->below = s->from;
		while (s->from && (done < all / 100 * shares[i] || shares[i] == 100))
			done += s->bytes_of[--s->from];
		s->round = HOT_HEATS - 1 - (unsigned)i;
		cache_walk(s->m->cache, NULL, 0, visit, s);
		if (!s->over)
			write_staged(s);
	}
}

/* What holds of all that was written. False: nothing that would make the bodies believable. */
static bool know(struct saving *s, struct hot_facts *facts)
{
	const struct store_ops *ops = s->m->ops;
	char *error = NULL;
	facts->saved_us = clock_real_us();
	if (s->job->form == HOT_IDS)
		return true;
	struct store *store = ops->open(&s->m->store_conf, false, &error);
	free(error);
	bool ok = store && store_mark_now(ops, store, &facts->mark) == STORE_OK && facts->mark.revision;
	if (store)
		ops->close(store);
	return ok;
}

static void finish(struct saving *s, struct hot_facts *facts)
{
	static struct log_limit limit;
	uint64_t n = hot_writer_entries(s->out), bytes = hot_writer_bytes(s->out);
	if (!n || (s->job->form == HOT_IDS && atomic_load(&s->m->cancel)) || !know(s, facts)) {
		hot_writer_abort(&s->out);
		return;
	}
	if (!hot_writer_finish(&s->out, facts)) {
		log_warn_limited(&limit, 3600,
				 "what is hot cannot be saved in data.dir/%s: %s; the next start is colder", HOT_FOLDER,
				 strerror(errno));
		return;
	}
	atomic_store_explicit(&s->m->plant->warm.saved, n, memory_order_relaxed);
	atomic_store_explicit(&s->m->plant->warm.saved_us, facts->saved_us, memory_order_relaxed);
	if (s->job->form == HOT_BODIES)
		log_info("saved %llu hot memories, %llu bytes", (unsigned long long)n, (unsigned long long)bytes);
}

void save_run(struct warmer *m, const struct job *j)
{
	struct saving *s = util_zalloc(sizeof(*s));
	struct hot_facts facts = {.revision = atomic_load_explicit(&m->plant->feed_revision, memory_order_acquire)};
	static struct log_limit limit;
	*s = (struct saving){.m = m, .job = j, .now_us = clock_real_us()};
	if (j->until_us) {
		int64_t margin = (j->until_us - clock_mono_us()) / MARGIN_SHARE;
		s->enough_us = j->until_us - (margin > MARGIN_US ? margin : MARGIN_US);
	}
	snprintf(facts.kind, sizeof(facts.kind), "%s", m->store_conf.kind);
	s->out = hot_writer_open(m->store_conf.dir, j->form, atomic_load(&m->file_max));
	if (s->out) {
		s->bodies = util_alloc(STAGE_BYTES);
		pace_begin(&m->pace, j->until_us != 0);
		walk(s);
		FAULT_POINT(warm_walked);
		finish(s, &facts);
		pace_end(&m->pace);
	} else {
		log_warn_limited(&limit, 3600,
				 "what is hot cannot be saved in data.dir/%s: %s; the next start is colder", HOT_FOLDER,
				 strerror(errno));
	}
	free(s->bodies);
	free(s);
}
