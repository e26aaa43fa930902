/* Insert, remove, drop. Writer only. */
#include <errno.h>
#include <float.h>
#include <math.h>

#include "fault.h"
#include "lists-private.h"
#include "vocabulary.h"

/* The row counts as used before its slot names it: killed in between, a row is lost, never shared
 * by two namespaces. */
struct vectors_ns *vectors_ns_make(struct vectors *v, uint64_t ns)
{
	struct vectors_ns *n = vectors_ns_find(v, ns);
	uint32_t row = atomic_load_explicit(&v->super->namespaces, memory_order_relaxed), i = 0;
	if (n || row >= VECTORS_NAMESPACES)
		return n;
	while (atomic_load_explicit(&v->slots[(ns + i) & (VECTORS_SLOTS - 1)], memory_order_relaxed))
		i++; /* ends: there are more slots than rows */
	atomic_store_explicit(&v->super->namespaces, row + 1, memory_order_relaxed);
	n = &v->ns[row];
	atomic_store_explicit(&n->ns, ns, memory_order_relaxed);
	FAULT_POINT(vectors_ns_row);
	atomic_store_explicit(&v->slots[(ns + i) & (VECTORS_SLOTS - 1)], row + 1, memory_order_release);
	return n;
}

void vectors_incomplete(struct vectors *v, uint64_t ns)
{
	struct vectors_ns *n = vectors_ns_make(v, ns);
	_Atomic uint32_t *flag = n ? &n->incomplete : &v->super->ns_full;
	atomic_store_explicit(flag, 1, memory_order_release);
}

static uint64_t version_of(const struct vectors *v, uint32_t ref)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	struct vectors_shape s;
	const char *base = vectors_own(v, c, &s);
	return vectors_load_version(base, &s, vectors_ref_row(ref));
}

/* Norms of a namespace's rows only ever widen: what searches cut off by them stays true. */
static void widen(struct vectors_ns *n, float norm)
{
	uint32_t bits = atomic_load_explicit(&n->norm_least, memory_order_relaxed), mine;
	float least, most;
	if (!(norm > 0))
		norm = FLT_MIN; /* so that 0 means none; no cosine is asked of a row of zeros then */
	memcpy(&mine, &norm, sizeof(mine));
	memcpy(&least, &bits, sizeof(least));
	if (!bits || norm < least)
		atomic_store_explicit(&n->norm_least, mine, memory_order_relaxed);
	bits = atomic_load_explicit(&n->norm_most, memory_order_relaxed);
	memcpy(&most, &bits, sizeof(most));
	if (norm > most)
		atomic_store_explicit(&n->norm_most, mine, memory_order_relaxed);
}

/* The row and, where the namespace has lists, its entry. */
static int place(struct vectors *v, struct vectors_ns *n, struct vectors_row *row, uint32_t *ref_r)
{
	if (n->form == VECTORS_FLOATS && vectors_grown(v, n, row->dim)) /* the background brings those before into it */
		atomic_store_explicit(&n->form, vectors_form_of(v, row->dim), memory_order_relaxed);
	if (n->form != row->form)
		vectors_form_row(v, row, n->form);
	widen(n, row->norm);
	int rc = vectors_append(v, n, row, false, ref_r);
	FAULT_POINT(vectors_unlisted);
	if (!rc && lists_row_new(v, n, *ref_r, row)) {
		vectors_kill_row(v, *ref_r);
		rc = ENOSPC;
	}
	return rc;
}

/* First the new row, then the private map, then the tombstone on the old row: killed after the
 * first step, recovery finds both and keeps the higher version. When the new one does not fit, the old one goes
 * nevertheless: an outdated vector must not answer searches; the namespace is incomplete. */
int vectors_put(struct vectors *v, struct vectors_row *row)
{
	uint32_t old = vectors_map_find(v, &row->id), ref;
	if (old && version_of(v, old) >= row->version)
		return 0;
	struct vectors_ns *n = vectors_ns_make(v, row->ns);
	int rc = n ? place(v, n, row, &ref) : ENOSPC;
	if (rc) {
		vectors_incomplete(v, row->ns);
		if (old)
			vectors_map_erase(v, &row->id);
	} else {
		vectors_map_set(v, &row->id, ref);
	}
	FAULT_POINT(vectors_two_rows);
	if (old && !rc)
		lists_tell(v, (uint32_t)(n - v->ns), ref);
	if (old)
		vectors_kill_row(v, old);
	if (n)
		vectors_work_hint(v, n);
	return rc;
}

typedef float eight_floats __attribute__((vector_size(32)));
typedef double eight_doubles __attribute__((vector_size(64)));

static inline void load_eight(const float *x, eight_doubles *d)
{
	eight_floats f;
	memcpy(&f, x, sizeof(f));
	*d = __builtin_convertvector(f, eight_doubles);
}

/* In double: squares of extreme floats neither overflow nor vanish. False: not finite. */
static bool normalise(const float *x, uint32_t dim, float *out, float *norm_r)
{
	/* Eight sums: one would be a chain of additions, each waiting for the one before. */
	eight_doubles parts = {0}, d;
	double part[8];
	uint32_t whole = dim & ~7u;
	for (uint32_t i = 0; i < whole; i += 8) {
		load_eight(x + i, &d);
		parts += d * d;
	}
	memcpy(part, &parts, sizeof(part));
	for (uint32_t i = whole; i < dim; i++)
		part[i & 7] += (double)x[i] * (double)x[i];
	double sum = (part[0] + part[4]) + (part[1] + part[5]) + ((part[2] + part[6]) + (part[3] + part[7]));
	double norm = sqrt(sum), factor = norm > 0 ? 1 / norm : 0;
	for (uint32_t i = 0; i < whole; i += 8) {
		load_eight(x + i, &d);
		eight_floats f = __builtin_convertvector(d * factor, eight_floats);
		memcpy(out + i, &f, sizeof(f));
	}
	for (uint32_t i = whole; i < dim; i++)
		out[i] = (float)(x[i] * factor);
	memset(out + dim, 0, (vectors_stride(dim) - dim) * sizeof(float));
	*norm_r = (float)norm; /* beyond FLT_MAX only for rows that no embedder makes: cosine still works */
	return isfinite(norm);
}

int vectors_insert(struct vectors *v, uint64_t ns, const struct uuid *id, uint64_t version, int64_t expires_us,
		   uint32_t dim, const float *x)
{
	AN(v->w);
	struct vectors_row row = {
		.ns = ns, .version = version, .id = *id, .expires_us = expires_us, .dim = dim, .data = v->w->scratch};
	int rc = EINVAL;
	priolock_take(&v->w->lock);
	if (ns && dim && dim <= LIMIT_DIMENSIONS && normalise(x, dim, v->w->scratch, &row.norm)) {
		rc = vectors_put(v, &row);
		vectors_compact(v);
	}
	priolock_give(&v->w->lock);
	return rc;
}

void vectors_remove(struct vectors *v, const struct uuid *id, uint64_t version)
{
	AN(v->w);
	priolock_take(&v->w->lock);
	uint32_t ref = vectors_map_find(v, id);
	if (ref && version_of(v, ref) <= version) {
		struct vectors_ns *n = vectors_ns_find(v, v->chunks[vectors_ref_chunk(ref)].ns);
		vectors_map_erase(v, id);
		vectors_kill_row(v, ref);
		vectors_work_hint(v, n);
	}
	vectors_compact(v);
	priolock_give(&v->w->lock);
}

/* By chunks: the references of their rows in the private map become void with them. */
void vectors_drop_locked(struct vectors *v, uint64_t ns)
{
	struct vectors_ns *n = vectors_ns_find(v, ns);
	if (!n)
		return;
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_relaxed);
	lists_drop(v, (uint32_t)(n - v->ns));
	for (uint32_t i = 0; i < used; i++) {
		if (atomic_load_explicit(&v->keys[i], memory_order_relaxed) == ns)
			vectors_chunk_free(v, i);
		FAULT_POINT(vectors_dropping);
	}
	uint64_t live = atomic_load_explicit(&n->live, memory_order_relaxed);
	uint64_t all = atomic_load_explicit(&v->super->live, memory_order_relaxed);
	atomic_store_explicit(&v->super->live, all - live, memory_order_relaxed);
	atomic_store_explicit(&n->live, 0, memory_order_relaxed);
	atomic_store_explicit(&n->form, VECTORS_FLOATS, memory_order_relaxed);
	atomic_store_explicit(&n->wide, 0, memory_order_relaxed);
	atomic_store_explicit(&n->incomplete, 0, memory_order_release);
}

void vectors_drop(struct vectors *v, uint64_t ns)
{
	AN(v->w);
	priolock_take(&v->w->lock);
	vectors_drop_locked(v, ns);
	priolock_give(&v->w->lock);
}

uint64_t vectors_version(struct vectors *v, const struct uuid *id)
{
	AN(v->w);
	priolock_take(&v->w->lock);
	uint32_t ref = vectors_map_find(v, id);
	uint64_t version = ref ? version_of(v, ref) : 0;
	priolock_give(&v->w->lock);
	return version;
}
