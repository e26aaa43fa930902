/* What the background has to do: namespaces that inserts and removals have pointed out are looked at one by one. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "lists-private.h"
#include "log.h"

#define NICER 10       /* than the other threads of the process, whatever that was started with */
#define CONVERTED 8    /* rows that the writer waits for */
#define RETRY_MS 30000 /* after there was no memory for lists */
#define BURST 4 /* times the rows that they were made for: then lists are made anew, however fast more rows come */
#define BURST_SHARE 50 /* a namespace is in a burst while it grows by more than this part a second */
#define BURST_MS 1000  /* over which that is seen */

struct growth { /* of a namespace, as it was last looked at */
	int64_t ms;
	uint64_t live;
	bool burst;
};
struct work {
	uint32_t *due; /* rows of namespaces */
	size_t n, cap;
	uint8_t *noted; /* per row of namespaces: is among them */
	int64_t *retry_ms;
	struct growth *growth;
	struct turn turn;
};

static struct work *get(struct vectors *v)
{
	struct work **w = &v->w->work;
	if (!*w) {
		*w = util_zalloc(sizeof(**w));
		(*w)->noted = calloc(VECTORS_NAMESPACES, 1);
		(*w)->retry_ms = calloc(VECTORS_NAMESPACES, sizeof(int64_t));
		(*w)->growth = calloc(VECTORS_NAMESPACES, sizeof(struct growth));
		AN((*w)->noted && (*w)->retry_ms && (*w)->growth);
	}
	return *w;
}

void vectors_work_end(struct vectors *v)
{
	struct work *w = v->w->work;
	if (w) {
		free(w->due);
		free(w->noted);
		free(w->retry_ms);
		free(w->growth);
	}
	free(w);
	v->w->work = NULL;
}

/* Under the lock, with every insert: only what can be due is noted. */
void vectors_work_hint(struct vectors *v, const struct vectors_ns *n)
{
	uint32_t row = (uint32_t)(n - v->ns);
	const struct ivf *f = v->w->lists->of[row];
	uint32_t open = v->w->open[row];
	bool due = f ? f->stale || n->live >= f->look_again || lists_waiting(f)
		     : open && vectors_grown(v, n, v->chunks[open - 1].dim);
	if (!due)
		return;
	struct work *w = get(v);
	if (w->noted[row] && f && lists_fresh_many(v, f)) /* what was put off need not wait longer */
		atomic_store_explicit(&v->w->due, true, memory_order_relaxed);
	if (w->noted[row] || (w->retry_ms[row] && clock_mono_us() / 1000 < w->retry_ms[row]))
		return;
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 64;
		w->due = util_realloc(w->due, w->cap * sizeof(*w->due));
	}
	w->noted[row] = 1;
	w->due[w->n++] = row;
	atomic_store_explicit(&v->w->due, true, memory_order_relaxed);
}

/* Measured at load 17 on two cores, p99 of searches beside it is then 1.3 times what it is without, 1.8 at nice 0 and
 * 1.0 at nice 19 or SCHED_IDLE. But it also holds the writer's lock, for slices of rows: inserts would wait for what then
 * gets a sixtieth of a core, or less. */
void vectors_work_yield(void)
{
	id_t self = (id_t)syscall(SYS_gettid); /* of this thread alone, on Linux */
	(void)setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + NICER);
}

void vectors_work_pressed(struct vectors *v, bool (*pressed)(const void *), const void *arg)
{
	priolock_take(&v->w->lock);
	get(v)->turn.pressed = pressed;
	get(v)->turn.arg = arg;
	priolock_give(&v->w->lock);
}

bool vectors_work_due(struct vectors *v) { return atomic_load_explicit(&v->w->due, memory_order_relaxed); }
bool vectors_work_later(struct vectors *v) { return atomic_load_explicit(&v->w->later, memory_order_relaxed); }

void vectors_work_stop(struct vectors *v)
{
	priolock_take(&v->w->lock);
	atomic_store(&get(v)->turn.stop, true);
	priolock_give(&v->w->lock);
}

/* Times the root of the rows: lists that hold little let a search leave out more, and it takes few nanoseconds to rank one. */
#define LISTS_PER_ROOT 4
static uint32_t wanted_lists(const struct vectors *v, uint64_t live)
{
	if (live <= v->w->stages.flat_rows)
		return 1;
	uint32_t n = (uint32_t)lrint(LISTS_PER_ROOT * sqrt((double)live) / 64) * 64;
	return n < 64 ? 64 : n < LISTS_MAX ? n : LISTS_MAX;
}

/* ---- rows into their later form ---- */

/* The next chunk of the namespace in another form than its rows are to have. Rows of another dimension than the youngest
 * stay as they are: compaction does not move them. */
static bool find_other(const struct vectors *v, const struct vectors_ns *n, uint32_t *chunk_r)
{
	uint32_t used = v->super->used, open = v->w->open[n - v->ns];
	for (uint32_t i = 0; open && i < used; i++) {
		const struct vectors_chunk *c = &v->chunks[i];
		if (v->keys[i] == n->ns && vectors_form_plain(c->form) != n->form &&
		    c->dim == v->chunks[open - 1].dim) {
			*chunk_r = i;
			return true;
		}
	}
	return false;
}

static bool convert(struct vectors *v, struct vectors_ns *n, struct turn *turn)
{
	bool ok = true;
	for (bool more = true; ok && more && !turn_over(turn);) {
		turn_rest(turn);
		priolock_take_behind(&v->w->lock);
		uint32_t chunk = 0;
		more = find_other(v, n, &chunk);
		uint64_t serial = more ? v->chunks[chunk].serial : 0;
		for (uint32_t i = 0;
		     ok && more && i < CONVERTED && v->chunks[chunk].ns && v->chunks[chunk].serial == serial; i++)
			ok = vectors_compact_row(v, chunk);
		priolock_give(&v->w->lock);
	}
	return ok && !turn_over(turn);
}

/* ---- lists ---- */

static bool rewrite_stale(struct vectors *v, uint32_t row)
{
	bool ok = true;
	for (uint32_t list = 0; ok; list++) {
		priolock_take_behind(&v->w->lock);
		struct ivf *f = v->w->lists->of[row];
		bool more = f && f->stale && list < f->view.count;
		if (!more && f)
			f->stale = false;
		if (more && f->view.count > 1 && lists_stale(f, &f->tails[list]))
			ok = lists_rewrite(v, f, list);
		priolock_give(&v->w->lock);
		if (!more)
			break;
	}
	return ok;
}

/* Does it grow so fast that what is made for it now is soon made again? Then searches are left to lists that are longer than
 * they should be: making them, and learning what must be read of them, takes as much of a processor as the writes do. */
static bool in_burst(struct vectors *v, uint32_t row, uint64_t live)
{
	struct growth *g = &v->w->work->growth[row];
	int64_t ms = clock_mono_us() / 1000, since = ms - g->ms;
	if (!v->w->stages.patient)
		return false;
	if (since >= BURST_MS) {
		uint64_t came = live > g->live ? live - g->live : 0;
		g->burst = !g->ms || came * BURST_SHARE * 1000 > live * (uint64_t)since;
		g->ms = ms;
		g->live = live;
	}
	return g->burst;
}

enum task { NOTHING, LATER, CONVERT, BUILD, ASSIGN, REWRITE, LEARN };

static enum task decide(struct vectors *v, struct vectors_ns *n, uint32_t *dim_r, uint32_t *count_r)
{
	struct vectors_writer *w = v->w;
	uint32_t row = (uint32_t)(n - v->ns), open = w->open[row], chunk;
	const struct ivf *f = w->lists->of[row];
	uint64_t live = n->live;
	if (!open)
		return !f || !lists_waiting(f) ? NOTHING : lists_fresh_due(v, f) ? ASSIGN : LATER;
	uint32_t dim = *dim_r = f ? f->view.l->dim : v->chunks[open - 1].dim;
	*count_r = wanted_lists(v, live);
	if (!f && !vectors_grown(v, n, dim))
		return NOTHING;
	if (n->form == VECTORS_FLOATS && vectors_form_of(v, dim) != VECTORS_FLOATS)
		atomic_store_explicit(&n->form, vectors_form_of(v, dim), memory_order_relaxed);
	if (find_other(v, n, &chunk))
		return CONVERT;
	bool grown = f && live >= 2 * f->view.l->built && *count_r > 1;
	bool worn = f && f->view.count == 1 && f->stale && f->dead > f->entries / 4 + 16;
	if (!f || worn || (grown && live >= BURST * f->view.l->built))
		return BUILD;
	bool burst = (grown || live >= f->look_again) && in_burst(v, row, live);
	if (grown && !burst)
		return BUILD;
	if (lists_fresh_due(v, f))
		return ASSIGN;
	if (f->stale)
		return REWRITE;
	if (burst || lists_waiting(f))
		return LATER;
	return live >= f->look_again ? LEARN : NOTHING;
}

static bool do_task(struct vectors *v, uint32_t row, enum task task, uint32_t dim, uint32_t count)
{
	struct work *w = v->w->work;
	switch (task) {
	case CONVERT: return convert(v, &v->ns[row], &w->turn);
	case BUILD: return lists_build(v, &v->ns[row], dim, count, &w->turn);
	/* New entries make lists stale, and there may be no end of rows that are due. */
	case ASSIGN: {
		bool ok = lists_assign(v, row, &w->turn);
		return rewrite_stale(v, row) && ok; /* it gives memory back */
	}
	case REWRITE: return rewrite_stale(v, row);
	case LEARN: lists_relearn(v, &v->ns[row], &w->turn); break;
	case LATER:
	case NOTHING: break;
	}
	return true;
}

bool vectors_work(struct vectors *v)
{
	uint32_t row = 0, dim = 0, count = 0;
	enum task task = NOTHING;
	AN(v->w);
	priolock_take_behind(&v->w->lock);
	lists_reclaim(v, false);
	struct work *w = get(v);
	int64_t now = clock_mono_us() / 1000;
	size_t i = 0; /* first come, first served: one that is always due must not keep the others waiting */
	while (i < w->n && task <= LATER && !turn_over(&w->turn)) {
		row = w->due[i];
		task = now < w->retry_ms[row] ? LATER : decide(v, &v->ns[row], &dim, &count);
		if (task == LATER) {
			i++;
			continue;
		}
		memmove(&w->due[i], &w->due[i + 1], (--w->n - i) * sizeof(*w->due));
		w->noted[row] = 0;
	}
	atomic_store_explicit(&v->w->due, i < w->n, memory_order_relaxed);
	atomic_store_explicit(&v->w->later, w->n || v->w->lists->limbo_n, memory_order_relaxed);
	priolock_give(&v->w->lock);
	if (task <= LATER)
		return false;
	turn_begin(&w->turn);
	bool ok = do_task(v, row, task, dim, count);
	priolock_take_behind(&v->w->lock);
	w->retry_ms[row] = 0;
	vectors_work_hint(v, &v->ns[row]);
	if (!ok && v->ns[row].live && !turn_over(&w->turn)) { /* else it was dropped meanwhile */
		static struct log_limit limit;
		log_warn_limited(&limit, 600,
				 "vectors.max_bytes leaves no room for the lists of a namespace of %llu vectors: "
				 "searches there compare more than they need; raise it",
				 (unsigned long long)v->ns[row].live);
		w->retry_ms[row] = now + RETRY_MS;
	}
	priolock_give(&v->w->lock);
	return true;
}
