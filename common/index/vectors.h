/* The vector index in shared memory, from one vector to ten million. What a namespace has goes through stages, by its
 * size: rows of floats, compared one by one; rows of bytes behind one list of codes; behind many lists, of which a search
 * reads those near to its query. Stages change in the background (vectors_work), and no search or insert waits for it.
 *
 * Writer: one process, sync. Its threads may call anything; they take turns. Readers: every api worker, any thread,
 * lock-free; a killed writer costs them nothing.
 *
 * A chunk holds rows of ONE namespace, dimension and form: ids, versions, expiries, a tombstone bitmap. Append: fill the
 * row, then store-release `count`. Delete: set the tombstone bit. Update: append the new, then tombstone the old; between
 * the two a reader sees both and keeps the higher version. A chunk whose rows are all dead is given back: its
 * descriptor's generation moves first (seqlock), a reader that scanned it meanwhile drops what it got from it. */
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
/* The same with a file for rows that memory is too dear for: of a fixed size, its room reserved; who opens a segment always
 * does so with the file that it was formatted with. -1, or what is no regular file: none. */
struct vectors *must_check vectors_open_spilled(int fd, int file, bool writer);
void vectors_close(struct vectors **v);

/* Writer: from which sizes on the stages begin, and how rows of later stages are kept. */
struct vectors_stages {
	uint64_t exact_bytes; /* rows of more bytes than this, as floats, get codes; default 16 MiB */
	uint64_t flat_rows;   /* more rows than this get many lists; default 16,384 */
	enum vectors_raw {
		VECTORS_RAW_AUTO, /* bytes from 256 dimensions on, floats below */
		VECTORS_RAW_INT8, /* a byte a component */
		VECTORS_RAW_FLOAT16,
		VECTORS_RAW_FLOAT32,
	} raw;
	/* While rows come fast, so many of a namespace wait until they are put into their lists; searches read all of them. 0:
	 * none does. */
	uint32_t fresh_rows;
	bool fresh_first; /* they wait, however fast they come: for tests */
	bool patient;	  /* while a namespace grows fast, its lists are made for four times the rows, not twice */
	bool spill_first; /* rows go to the file, if there is one, while there is memory: for tests and measurements */
};
void vectors_stages_set(struct vectors *v, const struct vectors_stages *stages);
/* Writer, in a thread of its own: does the next piece of what is due: codes for a namespace that has grown, lists again
 * for one that has doubled (see `patient`) or lost much. Pieces may take seconds; they hold the writer up for a few rows
 * at a time. False: there is nothing to do. vectors_work_stop() makes a running piece return early. */
bool vectors_work(struct vectors *v);
/* The calling thread gives way to searches and writes: for the thread that does the above, and for nothing else. */
void vectors_work_yield(void);
bool vectors_work_due(struct vectors *v);   /* may there be any? Any thread; cheap */
bool vectors_work_later(struct vectors *v); /* will there be some without an insert or a removal? Any thread; cheap */
void vectors_work_stop(struct vectors *v);
/* While pressed(arg), pieces that make lists rest three fourths of the time. Before the first piece; any thread may be asked. */
void vectors_work_pressed(struct vectors *v, bool (*pressed)(const void *arg), const void *arg);

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
	float recall;	 /* share of the true k best that is aimed at where lists are used; 0: VECTORS_RECALL */
	uint32_t probes; /* lists to read, instead of what the aim takes; 0: by the aim */
	bool exact;	 /* compare every row */
	struct vectors_trace *trace; /* NULL, or where it is told what was done */
};
#define VECTORS_RECALL 0.98f
struct vectors_trace {
	uint32_t lists, probed; /* 0 lists: all rows were compared */
	uint64_t codes, rows;	/* looked at */
	uint32_t again;		/* times that it began anew, because what it read was given away meanwhile */
};
/* The k best, best first, ties by id; at most k. Returns the count; *scanned_r rows and codes compared.
 * Wait-free. */
size_t vectors_search(struct vectors *v, const struct vectors_query *q, struct vectors_hit *out, size_t *scanned_r);
/* False when the namespace has vectors that did not fit (search the store as well). */
bool vectors_complete(const struct vectors *v, uint64_t ns);
uint64_t vectors_count(const struct vectors *v, uint64_t ns); /* live rows; 0 = all namespaces */
uint64_t vectors_bytes(const struct vectors *v);
uint64_t vectors_spilled(const struct vectors *v); /* bytes of the file in use */

/* Saving, in a thread of the writer's that does no vectors_work() meanwhile. Inserts and removals go on; what they do after
 * vectors_hold() may be in the image or not, and has to be done again after the load. hold() keeps memory that is given
 * up from being used again; should there be no other, that ends, and vectors_save() fails. Between the two nothing waits
 * for the disk. */
struct image;
struct image_writer;
struct image_part_facts;
void vectors_hold(struct vectors *v);
void vectors_let_go(struct vectors *v);
/* 0, the errno of the file, ECANCELED when *stop turned true, ENOMEM. */
int must_check vectors_save(struct vectors *v, struct image_writer *w, struct image_part_facts *facts_r,
			    const _Atomic bool *stop);
bool vectors_unused(const struct vectors *v); /* it never held anything */
bool vectors_interrupted(
	const struct vectors *v); /* a predecessor died between load and load_end: what there was is gone */
/* Takes what was saved into an empty index that nobody searches yet; `fd` is its segment's. Then it is as it was saved:
 * rows, codes, lists, and what lists have learned. 0; EPROTO: of another layout, EBADMSG: damaged, or it does not fit into
 * vectors.max_bytes: it stays empty, and the log says so. */
int must_check vectors_load(struct vectors *v, int fd, struct image *m, void (*progress)(void *arg), void *arg);
/* What has changed since is in it, too: from now on it outlives its writer. keep false: it is empty again. */
void vectors_load_end(struct vectors *v, bool keep);
#endif
