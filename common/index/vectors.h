/* The vector index: exact SIMD scan over shared memory; a clustered index moves into this room
 * later behind the same five verbs: open / insert / remove / search / save.
 *
 * Writer: sync, one thread at a time. Readers: every api worker, any thread, lock-free.
 *
 * Layout: superblock, a table of chunk descriptors, then chunk memory. A chunk holds up to
 * `capacity` vectors of ONE namespace and ONE dimension: normalised fp32 rows, ids, versions, expiries and a
 * tombstone bitmap. Append: fill row, id, version, expiry; then store-release `count`. Delete:
 * set the tombstone bit. Update: append the new, then tombstone the old; between the two a reader sees
 * both and keeps the higher version. A chunk whose rows are all dead is given back: its descriptor's
 * generation moves first (seqlock), a reader that scanned it meanwhile drops what it got from it. */
#ifndef ORC_VECTORS_H
#define ORC_VECTORS_H
#include "uuid.h"

struct vectors;
enum vectors_metric { VECTORS_COSINE, VECTORS_DOT, VECTORS_L2 };

/* Size of the segment for a memory limit (vectors.max_bytes). */
size_t vectors_segment_size(uint64_t max_bytes);
/* Maps the segment. writer: formats a fresh segment, or recovers what a killed writer left (rebuilds its private
 * map id → slot by scanning). NULL and errno on failure. */
struct vectors *must_check vectors_open(int fd, bool writer);
void vectors_close(struct vectors **v);

/* Writer. `x` is copied (normalised for cosine). An entry with a version ≤ the indexed one is ignored (returns 0).
 * Errors: ENOSPC = memory limit: the vector is not resident (nor is an older version of it) and vectors_complete()
 * turns false for ns until it is dropped. EINVAL: ns 0, dim not in 1…LIMIT_DIMENSIONS, x not finite. */
int must_check vectors_insert(struct vectors *v, uint64_t ns, const struct uuid *id, uint64_t version,
			      int64_t expires_us, uint32_t dim, const float *x);
void vectors_remove(struct vectors *v, const struct uuid *id, uint64_t version); /* unknown id: no-op */
void vectors_drop(struct vectors *v, uint64_t ns);
/* Writer: version that is indexed for id; 0 = none. */
uint64_t vectors_version(struct vectors *v, const struct uuid *id);

struct vectors_hit {
	struct uuid id;
	uint64_t version;
	float score; /* higher is better: cosine or dot; for L2 minus the squared distance */
};
/* A set of ids that a filter allows (open addressing, built by the caller's thread). */
struct vectors_allow;
struct vectors_allow *vectors_allow_new(size_t expected);
void vectors_allow_add(struct vectors_allow *a, const struct uuid *id);
bool vectors_allow_has(const struct vectors_allow *a, const struct uuid *id);
size_t vectors_allow_count(const struct vectors_allow *a);
void vectors_allow_free(struct vectors_allow **a);

struct vectors_query {
	uint64_t ns;
	uint32_t dim;
	const float *x;
	size_t k;
	enum vectors_metric metric;
	const struct vectors_allow *allow; /* NULL = everything in the namespace */
	int64_t now_us;			   /* rows with expires_us != 0 && <= now are skipped */
	float min_score;		   /* -INFINITY = none */
};
/* The k best, best first, ties by id; at most k. Returns the count; *scanned_r rows compared.
 * Wait-free. */
size_t vectors_search(struct vectors *v, const struct vectors_query *q, struct vectors_hit *out, size_t *scanned_r);
/* False when the namespace has vectors that did not fit (search the store as well). */
bool vectors_complete(const struct vectors *v, uint64_t ns);
uint64_t vectors_count(const struct vectors *v, uint64_t ns); /* live rows; 0 = all namespaces */
uint64_t vectors_bytes(const struct vectors *v);

/* Writer: writes an immutable, checksummed generation that reflects everything ≤ seq to dir (temporary file, fsync,
 * rename), and reads the newest valid one back into an empty index: *seq_r = its seq, 0 when none
 * or damaged (a notice is logged; the caller refills from the store). 0 or errno; EBUSY: the index is not
 * empty. Both take seconds for gigabytes. */
int must_check vectors_save(struct vectors *v, const char *dir, uint64_t seq);
int must_check vectors_load(struct vectors *v, const char *dir, uint64_t *seq_r);
#endif
