/* Insert, remove, drop. Writer only. */
#include <errno.h>
#include <math.h>

#include "fault.h"
#include "vectors-private.h"
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

static uint64_t version_of(const struct vectors *v, uint64_t ref)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	struct vectors_shape s;
	AN(vectors_shape(c->dim, c->order, &s));
	return vectors_load_u64(v->data + c->offset, s.versions, vectors_ref_row(ref));
}

/* First the new row, then the private map, then the tombstone on the old row: killed after the
 * first step, recovery finds both and keeps the higher version. When the new one does not fit, the old one goes
 * nevertheless: an outdated vector must not answer searches; the namespace is incomplete. */
int vectors_put(struct vectors *v, const struct vectors_row *row)
{
	uint64_t old = vectors_map_find(v, &row->id), ref;
	if (old && version_of(v, old) >= row->version)
		return 0;
	struct vectors_ns *n = vectors_ns_make(v, row->ns);
	int rc = n ? vectors_append(v, n, row, false, &ref) : ENOSPC;
	if (rc) {
		vectors_incomplete(v, row->ns);
		if (old)
			vectors_map_erase(v, &row->id);
	} else {
		vectors_map_set(v, &row->id, ref);
	}
	FAULT_POINT(vectors_two_rows);
	if (old)
		vectors_kill_row(v, old);
	return rc;
}

/* In double: squares of extreme floats neither overflow nor vanish. False: not finite. */
static bool normalise(const float *x, uint32_t dim, float *out, float *norm_r)
{
	/* Eight sums: one would be a chain of additions, each waiting for the one before. */
	double part[8] = {0};
	uint32_t whole = dim & ~7u;
	for (uint32_t i = 0; i < whole; i += 8)
		for (uint32_t k = 0; k < 8; k++)
			part[k] += (double)x[i + k] * (double)x[i + k];
	for (uint32_t i = whole; i < dim; i++)
		part[i & 7] += (double)x[i] * (double)x[i];
	double sum = (part[0] + part[4]) + (part[1] + part[5]) + ((part[2] + part[6]) + (part[3] + part[7]));
	double norm = sqrt(sum), factor = norm > 0 ? 1 / norm : 0;
	for (uint32_t i = 0; i < dim; i++)
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
		.ns = ns, .version = version, .id = *id, .expires_us = expires_us, .dim = dim, .x = v->w->scratch};
	if (!ns || !dim || dim > LIMIT_DIMENSIONS || !normalise(x, dim, v->w->scratch, &row.norm))
		return EINVAL;
	int rc = vectors_put(v, &row);
	vectors_compact(v);
	return rc;
}

void vectors_remove(struct vectors *v, const struct uuid *id, uint64_t version)
{
	AN(v->w);
	uint64_t ref = vectors_map_find(v, id);
	if (ref && version_of(v, ref) <= version) {
		vectors_map_erase(v, id);
		vectors_kill_row(v, ref);
	}
	vectors_compact(v);
}

/* By chunks: the references of their rows in the private map become void with them. */
void vectors_drop(struct vectors *v, uint64_t ns)
{
	AN(v->w);
	struct vectors_ns *n = vectors_ns_find(v, ns);
	if (!n)
		return;
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_relaxed);
	for (uint32_t i = 0; i < used; i++) {
		if (atomic_load_explicit(&v->keys[i], memory_order_relaxed) == ns)
			vectors_chunk_free(v, i);
		FAULT_POINT(vectors_dropping);
	}
	uint64_t live = atomic_load_explicit(&n->live, memory_order_relaxed);
	uint64_t all = atomic_load_explicit(&v->super->live, memory_order_relaxed);
	atomic_store_explicit(&v->super->live, all - live, memory_order_relaxed);
	atomic_store_explicit(&n->live, 0, memory_order_relaxed);
	atomic_store_explicit(&n->incomplete, 0, memory_order_release);
}

uint64_t vectors_version(struct vectors *v, const struct uuid *id)
{
	AN(v->w);
	uint64_t ref = vectors_map_find(v, id);
	return ref ? version_of(v, ref) : 0;
}
