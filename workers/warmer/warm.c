/* A job of warming: which memories, and from where. */
#define LOG_SUBSYSTEM LOG_IN_WARMER
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "warmer.h"

#define ROWS_AT_ONCE 256
#define PAGE_BYTES (4u << 20) /* a page of the store ends when it holds this much */
#define FRUITLESS_MAX 64      /* pages in which a start finds nothing that L1 lacks: the file had it all */
#define BODY_MAX (1u << 20)
#define RETRY_US 300000

struct warming {
	struct warmer *m;
	const struct job *job;
	struct filling f;
	struct copy copies[FILL_MAX];
	size_t n;
	struct buf bodies; /* of the copies that were read from the store */
	size_t at[ROWS_AT_ONCE];
	size_t max; /* rows of this page */
	struct uuid last;
	bool have_last;
};

/* ---- progress ---- */

static void show(const struct warming *w)
{
	struct plant_warm *p = &w->m->plant->warm;
	atomic_store_explicit(&p->loaded, w->f.loaded, memory_order_relaxed);
	atomic_store_explicit(&p->skipped, w->f.skipped, memory_order_relaxed);
	atomic_store_explicit(&p->bytes, w->f.bytes, memory_order_relaxed);
}

static void source_is(const struct warming *w, enum plant_warm_source s, uint64_t more)
{
	struct plant_warm *p = &w->m->plant->warm;
	atomic_store_explicit(&p->total, w->f.loaded + w->f.skipped + more, memory_order_relaxed);
	atomic_store_explicit(&p->source, s, memory_order_release);
}

static bool cancelled(const struct warming *w) { return atomic_load_explicit(&w->m->cancel, memory_order_relaxed); }

/* A slice is over. False: the job is. */
static bool go_on(struct warming *w)
{
	show(w);
	FAULT_POINT(warm_slice);
	if (w->job->limit && w->f.loaded >= w->job->limit)
		return false;
	return pace_step(&w->m->pace, &w->m->cancel);
}

/* What is asked for replaces what lies in L1 already, but not itself. */
static bool is_full(const struct warming *w)
{
	struct cache_stats s;
	if (w->job->kind == WARM_AT_START)
		return fill_is_full(w->m);
	cache_stats(w->m->cache, &s);
	return w->f.bytes >= s.capacity / 100 * 80; /* their heads come to them */
}

/* ---- the store ---- */

/* It is there, or will be. False: cancelled. */
static bool reach_store(struct warming *w)
{
	static struct log_limit limit;
	while (!w->f.store && !cancelled(w)) {
		char *error = NULL;
		w->f.store = w->m->ops->open(&w->m->store_conf, false, &error);
		if (w->f.store)
			break;
		log_warn_limited(&limit, 30, "warming waits for the store: %s", error ? error : "unknown");
		free(error);
		usleep(RETRY_US);
	}
	return w->f.store && !cancelled(w);
}

static bool wait_for(struct warming *w, enum store_rc rc)
{
	static struct log_limit limit;
	if (rc == STORE_REJECTED || cancelled(w))
		return false;
	if (rc != STORE_BUSY)
		log_warn_limited(&limit, 30, "warming waits for the store: %s", w->m->ops->error(w->f.store));
	usleep(RETRY_US);
	return !cancelled(w);
}

static bool take_row(void *arg, const struct memory *row)
{
	struct warming *w = arg;
	w->last = row->id;
	w->have_last = true;
	w->max--;
	bool expired = row->expires_us && row->expires_us <= clock_real_us();
	if (!row->deleted_us && !expired && row->body.len <= BODY_MAX) {
		struct copy *c = &w->copies[w->n];
		*c = (struct copy){.id = row->id,
				   .meta = cache_policy_memory(&w->m->policy, row->ns, row->version, row->expires_us),
				   .len = (uint32_t)row->body.len};
		w->at[w->n++] = w->bodies.len;
		buf_add(&w->bodies, row->body.p, row->body.len);
	}
	return w->max && w->bodies.len < PAGE_BYTES;
}

static enum store_rc ask_ids(struct warming *w, const struct uuid *ids, size_t n)
{
	return w->m->ops->get_many(w->f.store, ids, n, false, take_row, w);
}

static enum store_rc ask_page(struct warming *w)
{
	const struct store_ops *ops = w->m->ops;
	struct store_list q = {.ns = w->job->ns,
			       .descending = true,
			       .have_after = w->have_last,
			       .after = w->last,
			       .limit = w->max,
			       .now_us = clock_real_us()};
	if (w->job->kind == WARM_NAMESPACE)
		return ops->list(w->f.store, &q, take_row, w);
	return ops->recent(w->f.store, w->have_last ? &w->last : NULL, w->max, take_row, w);
}

/* Rows are at least as new as what was published before they were asked for. ids NULL: the next page. */
static enum store_rc read_rows(struct warming *w, const struct uuid *ids, size_t n)
{
	uint64_t revision;
	enum store_rc rc = w->m->ops->revision(w->f.store, &revision);
	w->n = w->bodies.len = 0;
	w->max = ROWS_AT_ONCE;
	if (!ids && w->job->limit && w->job->limit - w->f.loaded < w->max)
		w->max = w->job->limit - w->f.loaded;
	if (rc != STORE_OK)
		return rc;
	history_begin(&w->f.history, revision);
	rc = ids ? ask_ids(w, ids, n) : ask_page(w);
	if (rc != STORE_OK && rc != STORE_NOT_FOUND)
		return rc;
	for (size_t i = 0; i < w->n; i++)
		w->copies[i].body = w->bodies.p + w->at[i];
	return fill_copies(&w->f, w->copies, w->n);
}

/* False: the job is over. */
static bool fill_ids(struct warming *w, const struct uuid *ids, size_t n)
{
	enum store_rc rc;
	while ((rc = read_rows(w, ids, n)) != STORE_OK && rc != STORE_NOT_FOUND)
		if (!wait_for(w, rc))
			return false;
	w->f.skipped += n > w->n ? n - w->n : 0;
	return go_on(w);
}

static uint64_t count_in_plant(const struct warming *w)
{
	const struct plant *p = w->m->plant;
	uint64_t n = 0;
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) {
		const struct plant_namespace *row = &p->namespaces[i];
		uint64_t ns = atomic_load_explicit(&row->ns, memory_order_acquire);
		if (ns && (w->job->kind != WARM_NAMESPACE || ns == w->job->ns))
			n += atomic_load_explicit(&row->count, memory_order_relaxed);
	}
	return w->job->limit && n > w->job->limit ? w->job->limit : n;
}

/* The newest first. */
static void from_store(struct warming *w)
{
	uint64_t there = count_in_plant(w);
	if (w->job->kind == WARM_AT_START) /* of these, L1 has those that were loaded before */
		there -= there < w->f.loaded ? there : w->f.loaded;
	source_is(w, WARM_FROM_STORE, there);
	w->have_last = false;
	unsigned fruitless = 0;
	for (bool more = true; more && fruitless < FRUITLESS_MAX && !is_full(w);) {
		uint64_t before = w->f.bytes;
		struct uuid last = w->last;
		bool had = w->have_last;
		enum store_rc rc = read_rows(w, NULL, 0);
		if (rc != STORE_OK && rc != STORE_NOT_FOUND) {
			w->last = last;
			w->have_last = had;
			if (!wait_for(w, rc))
				return;
			continue;
		}
		fruitless = w->job->kind != WARM_AT_START || w->f.bytes > before ? 0 : fruitless + 1;
		more = w->max == 0 || w->bodies.len >= PAGE_BYTES;
		if (!go_on(w))
			return;
	}
}

/* ---- the file ---- */

/* Bodies of the block that the reader is at. */
static bool fill_block(struct warming *w, struct hot_reader *r)
{
	struct hot_entry e;
	const void *body;
	bool more = true;
	while (more) {
		for (w->n = 0; w->n < FILL_MAX && (more = hot_reader_next(r, &e, &body));)
			if (body)
				w->copies[w->n++] = (struct copy){
					.id = e.id, .meta = e.meta, .len = e.len, .body = body};
			else
				fill_later(&w->f, &e.id);
		if (!w->n)
			break;
		enum store_rc rc;
		while ((rc = fill_copies(&w->f, w->copies, w->n)) != STORE_OK)
			if (rc == STORE_NOT_FOUND || !wait_for(w, rc))
				return false;
		if (!go_on(w))
			return false;
	}
	return true;
}

/* The ids of a block are read from the store. */
static bool fill_block_ids(struct warming *w, struct hot_reader *r)
{
	struct uuid ids[ROWS_AT_ONCE];
	struct cache_entry there;
	struct hot_entry e;
	const void *body;
	for (bool more = true; more && !is_full(w);) {
		size_t n = 0;
		while (n < ROWS_AT_ONCE && (more = hot_reader_next(r, &e, &body)))
			if (!cache_peek(w->m->cache, CACHE_MEMORY, &e.id, &there))
				ids[n++] = e.id;
		if (n && !fill_ids(w, ids, n))
			return false;
	}
	return !is_full(w);
}

static bool blocks(struct warming *w, struct hot_reader *r, bool (*fill)(struct warming *w, struct hot_reader *r))
{
	unsigned heat;
	while (hot_reader_block(r, &heat))
		if (is_full(w) || !fill(w, r))
			return false;
	return true;
}

/* Are the bodies copies of what this store had? */
static bool believe(struct warming *w, const struct hot_facts *facts)
{
	if (strcmp(facts->kind, w->m->store_conf.kind) != 0 || !store_mark_holds(w->m->ops, w->f.store, &facts->mark)) {
		log_info(
			"the memories in the file of hot ones are not of this state of the store: they are read again");
		return false;
	}
	history_begin(&w->f.history, facts->revision);
	return history_follow(&w->f.history, w->m->ops, w->f.store) == STORE_OK;
}

static void read_doubted(struct warming *w)
{
	struct uuid *v = w->f.doubted;
	size_t n = w->f.ndoubted;
	w->f.keep_doubted = false;
	source_is(w, WARM_FROM_IDS, n);
	for (size_t i = 0; i < n && !is_full(w); i += ROWS_AT_ONCE)
		if (!fill_ids(w, v + i, n - i < ROWS_AT_ONCE ? n - i : ROWS_AT_ONCE))
			return;
}

static void from_file(struct warming *w, struct hot_reader *r, enum hot_form form)
{
	bool believed = form == HOT_BODIES && believe(w, hot_reader_facts(r));
	source_is(w, believed ? WARM_FROM_FILE : WARM_FROM_IDS, hot_reader_entries(r));
	w->f.keep_doubted = believed;
	(void)blocks(w, r, believed ? fill_block : fill_block_ids);
	if (hot_reader_damaged(r))
		log_warn("%llu blocks of the file of hot memories are damaged or missing; the others were used",
			 (unsigned long long)hot_reader_damaged(r));
	if (believed && !cancelled(w))
		read_doubted(w);
}

static void use_file(struct warming *w, enum hot_form form)
{
	enum hot_state state;
	struct hot_reader *r = hot_file_take(w->m->store_conf.dir, form, &state);
	FAULT_POINT(warm_taken);
	if (state == HOT_NEWER)
		log_info("the file of hot memories is of a later program: it is not used");
	else if (state == HOT_DAMAGED)
		log_warn("the file of hot memories (data.dir/%s) cannot be read: %s", HOT_FOLDER,
			 form == HOT_BODIES ? "bodies" : "ids");
	/* Reading goes on when the store is there: copies are compared with it. */
	if (r && reach_store(w))
		from_file(w, r, form);
	hot_reader_close(&r);
}

/* ---- the job ---- */

static enum plant_warm_state all_of(struct warming *w)
{
	while (!atomic_load_explicit(&w->m->plant->served_once, memory_order_acquire))
		if (cancelled(w))
			return WARM_CANCELLED;
		else
			usleep(2000);
	if (w->job->kind == WARM_AT_START) {
		use_file(w, HOT_BODIES);
		if (!cancelled(w) && !is_full(w))
			use_file(w, HOT_IDS);
	}
	bool limited = w->job->limit && w->f.loaded >= w->job->limit;
	if (!cancelled(w) && !limited && !is_full(w) && reach_store(w))
		from_store(w);
	return cancelled(w) ? WARM_CANCELLED : WARM_DONE;
}

enum plant_warm_state warm_run(struct warmer *m, const struct job *j)
{
	struct warming *w = util_zalloc(sizeof(*w));
	w->m = m;
	w->job = j;
	w->f.m = m;
	w->f.count_there = j->kind != WARM_AT_START;
	pace_begin(&m->pace, false);
	enum plant_warm_state state = all_of(w);
	pace_end(&m->pace);
	show(w);
	if (w->f.loaded)
		log_info("L1 warmed with %llu memories, %llu bytes", (unsigned long long)w->f.loaded,
			 (unsigned long long)w->f.bytes);
	if (w->f.store)
		m->ops->close(w->f.store);
	history_free(&w->f.history);
	free(w->f.doubted);
	buf_free(&w->bodies);
	free(w);
	return state;
}
