/* Descriptors and their memory: how segments come and go. Writer only. */
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "postings-private.h"

static void add(_Atomic uint64_t *counter, uint64_t delta)
{
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, now + delta, memory_order_relaxed);
}

static bool take_desc(struct postings *p, uint32_t *desc_r)
{
	struct postings_stack *s = &p->w->free_descs;
	if (s->n) {
		*desc_r = s->v[--s->n];
		return true;
	}
	uint32_t used = atomic_load_explicit(&p->super->used, memory_order_relaxed);
	if (used == POSTINGS_DESCS)
		return false;
	atomic_store_explicit(&p->super->used, used + 1, memory_order_relaxed);
	*desc_r = used;
	return true;
}

/* Only merges, which free more than they take, may break into the reserve: without it a full index could never be
 * made smaller. */
static bool take_memory(struct postings *p, uint64_t bytes, bool merging, uint64_t *offset_r)
{
	struct postings_pool *pool = &p->w->pool;
	return (merging || postings_pool_left(pool) >= p->w->reserve + bytes) &&
	       postings_pool_take(pool, bytes, offset_r);
}

/* The seqlock's writing side. Odd first; the fence keeps every later store into the descriptor and its memory behind
 * it: a reader that sees any of them also sees that `gen` moved. */
bool postings_segment_take(struct postings *p, uint64_t ns, uint64_t bytes, bool merging, uint32_t *desc_r)
{
	uint64_t offset = 0;
	if (bytes > UINT32_MAX)
		return false;
	if (!take_memory(p, bytes, merging, &offset)) {
		postings_segment_reclaim(p, true);
		if (p->w->held.n) /* a document comes before a file that is being saved */
			(void)postings_segment_let_go(p, SIZE_MAX);
		if (!take_memory(p, bytes, merging, &offset))
			return false;
	}
	if (!take_desc(p, desc_r)) {
		postings_pool_give(&p->w->pool, offset, bytes);
		return false;
	}
	struct postings_desc *d = &p->descs[*desc_r];
	uint64_t gen = atomic_load_explicit(&d->gen, memory_order_relaxed);
	atomic_store_explicit(&d->gen, gen | 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&d->ns, ns, memory_order_relaxed);
	atomic_store_explicit(&d->offset, offset, memory_order_relaxed);
	atomic_store_explicit(&d->bytes, bytes, memory_order_relaxed);
	add(&p->super->bytes, align_up(bytes, POSTINGS_UNIT));
	FAULT_POINT(words_segment_taken);
	return true;
}

uint64_t postings_segment_open(struct postings *p, uint32_t desc)
{
	struct postings_desc *d = &p->descs[desc];
	uint64_t gen = atomic_load_explicit(&d->gen, memory_order_relaxed) + 1;
	FAULT_POINT(words_segment_written);
	atomic_store_explicit(&d->gen, gen, memory_order_release);
	FAULT_POINT(words_segment_open);
	return gen << 20 | desc;
}

/* Memory that was never visible, or that nobody may read any more. */
void postings_segment_free(struct postings *p, uint32_t desc)
{
	struct postings_desc *d = &p->descs[desc];
	uint64_t gen = atomic_load_explicit(&d->gen, memory_order_relaxed), bytes = d->bytes, offset = d->offset;
	atomic_store_explicit(&d->gen, gen | 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&d->ns, 0, memory_order_relaxed);
	FAULT_POINT(words_segment_freeing);
	add(&p->super->bytes, 0 - align_up(bytes, POSTINGS_UNIT));
	if (p->w->hold) {
		postings_push(&p->w->held, desc);
		return;
	}
	postings_pool_give(&p->w->pool, offset, bytes);
	postings_push(&p->w->free_descs, desc);
}

bool postings_segment_let_go(struct postings *p, size_t some)
{
	struct postings_writer *w = p->w;
	w->hold = false;
	for (; w->held.n && some; some--) {
		uint32_t desc = w->held.v[--w->held.n];
		postings_pool_give(&w->pool, p->descs[desc].offset, p->descs[desc].bytes);
		postings_push(&w->free_descs, desc);
	}
	return !w->held.n;
}

void postings_segment_retire(struct postings *p, uint32_t desc)
{
	struct postings_writer *w = p->w;
	if (w->first_retired == w->nretired)
		w->first_retired = w->nretired = 0;
	if (w->nretired == w->cretired && w->first_retired) {
		w->nretired -= w->first_retired;
		memmove(w->retired, w->retired + w->first_retired, w->nretired * sizeof(*w->retired));
		w->first_retired = 0;
	}
	if (w->nretired == w->cretired) {
		w->cretired = w->cretired ? 2 * w->cretired : 64;
		w->retired = util_realloc(w->retired, w->cretired * sizeof(*w->retired));
	}
	w->retired[w->nretired++] = (struct postings_retired){desc, clock_mono_us()};
}

void postings_segment_reclaim(struct postings *p, bool all)
{
	struct postings_writer *w = p->w;
	int64_t before = all || w->first_retired == w->nretired ? INT64_MAX : clock_mono_us() - w->quarantine_us;
	for (; w->first_retired < w->nretired && w->retired[w->first_retired].at_us <= before; w->first_retired++)
		postings_segment_free(p, w->retired[w->first_retired].desc);
}

struct postings_view postings_segment_view(const struct postings *p, uint32_t desc)
{
	const struct postings_desc *d = &p->descs[desc];
	struct postings_view w = {.d = d, .gen = d->gen, .base = p->data + d->offset};
	memcpy(&w.head, w.base, sizeof(w.head));
	return w;
}
