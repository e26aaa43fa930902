/* Inside the word index: the shared layout and the writer's private state.
 *
 *   super | namespace slots | namespace rows | segment descriptors | data
 *
 * All tables have a fixed size, so every offset is a constant. Untouched pages cost nothing, and merely reading a hole
 * of a memfd fills it: no walk goes past what is in use. Only the writer writes; readers map read-only.
 *
 * Publication, from small to large:
 * - A segment is written while its descriptor's `gen` is odd, and never changes afterwards but for the deaths of its
 *   documents. Nobody knows it until a manifest names it, with its generation.
 * - A namespace's manifest lists its segments. It has a number; the row's `current` names the newest, which is in
 *   ring[number % POSTINGS_RING], and its predecessors in the other places: a reader that copies one has to begin
 *   again only if the writer published three more meanwhile. Storing `current` is the one step that makes a write visible.
 * - A document that is replaced or removed gets, before that step, the number of the manifest with which it dies. A
 *   reader of manifest M takes for alive what has 0 there, or a number above M. So every search sees one moment.
 * - Memory of segments that no manifest names is reused after a second at the earliest, unless the limit is reached. A
 *   descriptor's generation moves first (seqlock): a search that finds at its end that one of its segments has moved
 *   begins anew. Everything that was read meanwhile may be garbage: every place is checked before it is used.
 *
 * Counts that follow from deaths (a term's `dead`, a segment's `dead_docs`) are not part of a moment: beside a write, a
 * search may weigh with statistics that lack it, or are ahead of it.
 *
 * A writer that is killed leaves deaths with a number above `current` (undone by the successor), descriptors that no manifest
 * names (free), and counts that do not agree (counted anew). */
#ifndef ORC_POSTINGS_PRIVATE_H
#define ORC_POSTINGS_PRIVATE_H
#include <math.h>

#include "contract.h"
#include "postings.h"
#include "shm.h"

#define POSTINGS_MAGIC 0x31534452574c434full
#define POSTINGS_LAYOUT LAYOUT_WORDS
#define POSTINGS_DESCS (1u << 19)
#define POSTINGS_SLOTS (1u << 15) /* namespaces: open addressing by number */
#define POSTINGS_NAMESPACES (POSTINGS_SLOTS / 8 * 7)
#define POSTINGS_UNIT 256u	   /* grain of data memory */
#define POSTINGS_SEGMENTS 124u	   /* of a namespace */
#define POSTINGS_RING 4u	   /* manifests of a namespace */
#define POSTINGS_BLOCK 128u	   /* postings that are decoded at once */
#define POSTINGS_FANOUT 8u	   /* segments of like size that become one */
#define POSTINGS_INPUTS 16u	   /* segments that a merge takes, at most */
#define POSTINGS_BYTES (1u << 30)  /* of a segment that is merged once more, at most */
#define POSTINGS_LENGTH UINT16_MAX /* largest number of words that is told apart */
#define POSTINGS_NONE UINT32_MAX

#define POSTINGS_K1 1.2
#define POSTINGS_B 0.75

struct postings_super {
	struct shm_header h;
	uint64_t data_bytes;
	_Alignas(CACHE_LINE) _Atomic uint32_t used; /* descriptors at and above were never in use */
	_Atomic uint32_t namespaces;		    /* rows in use */
	_Atomic uint32_t ns_full;		    /* a namespace found no row: unknown ones are incomplete */
	_Atomic uint64_t live, bytes;
	_Atomic uint32_t loading; /* enum postings_loading: what lies here comes out of a file (postings_save.c) */
	_Atomic uint32_t unfit;	  /* 1: a namespace is not as the store has it, and must not be saved */
	_Atomic uint64_t erased, cleaned; /* erasures, and those whose words are in no segment that a manifest names */
};
enum postings_loading { WORDS_LOADING_NOT, WORDS_LOADING_NOW, WORDS_LOADING_DIED };
struct postings_manifest {
	_Atomic uint64_t number; /* 0 while it is being written */
	_Atomic uint64_t n;
	_Atomic uint64_t v[POSTINGS_SEGMENTS]; /* descriptor (20 bits) | generation << 20 */
};
struct postings_ns { /* a row is never given back */
	_Alignas(CACHE_LINE) _Atomic uint64_t ns;
	_Atomic uint64_t current, live;
	_Atomic uint32_t incomplete;
	struct postings_manifest ring[POSTINGS_RING];
};
struct postings_desc {
	_Atomic uint64_t gen; /* odd while it changes hands */
	_Atomic uint64_t ns, offset, bytes;
};
_Static_assert(sizeof(struct postings_ns) == 4096, "a row is a page");

/* The places of a segment's arrays, from its beginning. Everything begins at a multiple of 8. */
enum postings_area {
	AREA_IDS,      /* struct uuid of each document */
	AREA_VERSIONS, /* u64 */
	AREA_EXPIRIES, /* i64 */
	AREA_DEATHS,   /* u64: number of the manifest with which it dies; 0: alive. Changes. */
	AREA_LENGTHS,  /* u16: words that count */
	AREA_STARTS,   /* u32: where its words begin in AREA_WORDS; one more than documents */
	AREA_KEYS,     /* u64 of each term: its first 8 bytes, in order */
	AREA_TERMS,    /* struct postings_term, in the same order */
	AREA_STRINGS,  /* what of terms is longer than 8 bytes */
	AREA_LISTS,    /* postings */
	AREA_WORDS,    /* of each document its words that count, in order: number << 1 | is there a gap, gap; varints */
	AREA_COUNT
};
struct postings_head {
	uint32_t docs, terms;
	uint64_t length; /* sum of the documents' */
	_Atomic uint64_t dead_length;
	_Atomic uint32_t dead_docs;
	uint32_t at[AREA_COUNT], bytes;
};
/* A list: when it has more than one block, a struct postings_skip of each; then the postings: varints of (distance to the
 * document before, less one) << 1 | (tf > 1), and of tf − 2 where it is more than one. */
struct postings_term {
	uint32_t string, list, bytes, df;
	_Atomic uint32_t dead; /* of df: how many are */
	uint16_t max_tf, min_length, len, pad;
};
struct postings_skip {
	uint32_t last, end; /* its last document; where its bytes end, from where the first block's begin */
	uint16_t max_tf, min_length;
};

#define POSTINGS_OFF_SLOTS ((size_t)4096)
#define POSTINGS_OFF_NS (POSTINGS_OFF_SLOTS + sizeof(uint32_t) * POSTINGS_SLOTS)
#define POSTINGS_OFF_DESCS (POSTINGS_OFF_NS + sizeof(struct postings_ns) * POSTINGS_NAMESPACES)
#define POSTINGS_OFF_DATA (POSTINGS_OFF_DESCS + sizeof(struct postings_desc) * POSTINGS_DESCS)

/* ---- data memory: extents of units; the books are private to the writer ---- */
struct postings_stack {
	uint32_t *v;
	size_t n, cap;
};
#define POSTINGS_BINS 128
struct postings_pool {
	uint32_t units, fresh, free; /* all; those below `fresh` were handed out at least once; of these, free ones */
	uint32_t *tag;		     /* at both ends of a free extent: its length (postings_pool.c); else 0 */
	struct postings_stack bins[POSTINGS_BINS]; /* hints: an entry counts only if `tag` confirms it */
};
void postings_pool_init(struct postings_pool *p, uint64_t bytes);
void postings_pool_end(struct postings_pool *p);
bool must_check postings_pool_take(struct postings_pool *p, uint64_t bytes, uint64_t *offset_r);
void postings_pool_give(struct postings_pool *p, uint64_t offset, uint64_t bytes);
void postings_pool_fresh(struct postings_pool *p, uint64_t from);
uint64_t postings_pool_left(const struct postings_pool *p); /* bytes that are free */
void postings_push(struct postings_stack *s, uint32_t x);

/* ---- id → document, private to the writer (postings_map.c) ---- */
#define POSTINGS_SHARDS 256 /* each grows alone: no long pause */
struct postings_map {
	struct postings_map_shard {
		struct postings_map_slot {
			uint64_t hash, ref; /* ref 0 = empty */
		} * slots;
		uint32_t used, cap;
	} shards[POSTINGS_SHARDS];
};

/* ---- a segment that is being made, in private memory (postings_image.c) ---- */
struct postings_image {
	struct buf area[AREA_COUNT];
	struct postings_head head;
	size_t copied;
};

struct postings_merge;
struct postings_writer {
	struct words *words;
	struct postings_map map;
	struct postings_pool pool;
	struct postings_stack free_descs;
	struct postings_image one;  /* scratch of put() */
	struct postings_merge **of; /* per descriptor: the merge that it goes into, until its documents are mapped */
	struct postings_merge **merges; /* per namespace row: those under way */
	struct postings_retired {
		uint32_t desc;
		int64_t at_us;
	} * retired; /* a queue: those that no manifest names any more */
	size_t nretired, cretired, first_retired;
	int64_t quarantine_us;
	struct postings_stack held; /* descriptors that are free, with their memory, and not to be used again for now */
	bool hold;
	uint64_t reserve; /* bytes that only merges may take */
	uint32_t rest;	  /* writes for which no merge is tried: there was no room for one */
};

struct postings {
	char *base;
	size_t size;
	struct postings_super *super;
	_Atomic uint32_t *slots; /* row + 1; 0 = free */
	struct postings_ns *ns;
	struct postings_desc *descs;
	char *data;
	uint64_t data_bytes;
	struct postings_writer *w; /* NULL in readers */
};

/* Relaxed loads: a reader may look at what the writer is filling anew, and finds out afterwards. */
static inline uint64_t postings_load64(const char *p)
{
	return atomic_load_explicit((const _Atomic uint64_t *)(const void *)p, memory_order_relaxed);
}
static inline uint32_t postings_load32(const char *p)
{
	return atomic_load_explicit((const _Atomic uint32_t *)(const void *)p, memory_order_relaxed);
}
static inline uint16_t postings_load16(const char *p)
{
	return atomic_load_explicit((const _Atomic uint16_t *)(const void *)p, memory_order_relaxed);
}
static inline double postings_idf(double documents, double df)
{
	/* Beside a write, a document may be counted with its words and no longer with the others, or the reverse. */
	df = df < documents ? df : documents;
	return log(1 + (documents - df + 0.5) / (df + 0.5));
}
static inline double postings_weigh(double idf, double tf, double length, double average)
{
	return idf * tf * (POSTINGS_K1 + 1) / (tf + POSTINGS_K1 * (1 - POSTINGS_B + POSTINGS_B * length / average));
}
/* The first 8 bytes as a number that sorts like them. */
static inline uint64_t postings_key(struct span s)
{
	uint64_t v = 0;
	memcpy(&v, s.p, s.len < sizeof(v) ? s.len : sizeof(v));
	return __builtin_bswap64(v);
}
static inline uint32_t postings_entry_desc(uint64_t entry) { return (uint32_t)entry & ((1u << 20) - 1); }

/* ---- a segment as it stood under one generation (postings_view.c) ---- */
struct postings_view {
	const struct postings_desc *d;
	uint64_t gen;
	const char *base;
	struct postings_head head;
};
/* A copy of the newest manifest: its number, or 0 when the writer is too fast to be followed. */
uint64_t postings_manifest_load(const struct postings_ns *n, uint64_t out[POSTINGS_SEGMENTS], size_t *n_r);
/* False: it has moved. */
bool must_check postings_view_open(const struct postings *p, uint64_t ns, uint64_t entry, struct postings_view *w_r);
bool postings_view_moved(const struct postings_view *w);
static inline const char *postings_area(const struct postings_view *w, enum postings_area a)
{
	return w->base + w->head.at[a];
}
static inline struct uuid postings_id(const struct postings_view *w, uint32_t doc)
{
	struct uuid id;
	shm_copy_out(&id, postings_area(w, AREA_IDS) + 16 * (size_t)doc, sizeof(id));
	return id;
}
static inline uint64_t postings_version_of(const struct postings_view *w, uint32_t doc)
{
	return postings_load64(postings_area(w, AREA_VERSIONS) + 8 * (size_t)doc);
}
static inline uint64_t postings_death(const struct postings_view *w, uint32_t doc)
{
	return postings_load64(postings_area(w, AREA_DEATHS) + 8 * (size_t)doc);
}
static inline uint16_t postings_length(const struct postings_view *w, uint32_t doc)
{
	return postings_load16(postings_area(w, AREA_LENGTHS) + 2 * (size_t)doc);
}
void postings_term_load(const struct postings_view *w, uint32_t term, struct postings_term *t_r);
/* The rest of a term's text behind its first 8 bytes, copied to `to` (WORDS_STEM_MAX). Returns its length. */
size_t postings_term_rest(const struct postings_view *w, const struct postings_term *t, char *to);
/* Number of the first term that is not before the text; with `prefix`, of the first one that begins otherwise and is not
 * before either (so that those with the prefix lie between the two). */
uint32_t postings_term_from(const struct postings_view *w, struct span text, uint64_t key, bool prefix);
/* POSTINGS_NONE: it is not there. */
uint32_t postings_term_find(const struct postings_view *w, struct span text, uint64_t key);
/* Do the phrase's words stand in the document like that? terms: numbers of the question's words in this segment. */
bool postings_phrase_has(const struct postings_view *w, uint32_t doc, const struct postings_question *q,
			 const struct postings_phrase *f, const uint32_t *terms);
/* Bounds of a document's words; empty when they make no sense. */
void postings_doc_words(const struct postings_view *w, uint32_t doc, const char **p_r, const char **end_r);
/* A varint; 0 beyond the end. Bytes are loaded one by one. */
static inline uint32_t postings_varint(const char **p, const char *end)
{
	uint32_t v = 0;
	for (unsigned shift = 0; *p < end && shift < 35; shift += 7) {
		uint8_t c = atomic_load_explicit((const _Atomic uint8_t *)(const void *)(*p)++, memory_order_relaxed);
		v |= (uint32_t)(c & 0x7f) << shift;
		if (!(c & 0x80))
			break;
	}
	return v;
}

/* ---- a word's postings in a segment, block by block (postings_cursor.c) ---- */
struct postings_cursor {
	uint32_t doc; /* the present one; POSTINGS_NONE: no more */
	uint32_t i, n;
	uint32_t block, blocks, docs; /* docs: of the segment */
	uint32_t last; /* document of the block that `shallow` looks at; POSTINGS_NONE: of the last one */
	uint32_t shallow;
	uint16_t max_tf, min_length; /* of block `shallow` */
	uint32_t word;		     /* number in the question */
	double idf, bound;
	const char *skips, *bytes, *end;
	struct postings_term term;
	struct postings_list *list; /* of a prefix; not in the segment */
	uint32_t v[POSTINGS_BLOCK], tf[POSTINGS_BLOCK];
};
/* Postings of a prefix, put together. */
struct postings_list {
	uint32_t n, *doc, *tf;
	uint16_t max_tf, min_length;
};
void postings_cursor_open(struct postings_cursor *c, const struct postings_view *w, uint32_t term);
void postings_cursor_list(struct postings_cursor *c, struct postings_list *l);
void postings_cursor_seek(struct postings_cursor *c, uint32_t doc); /* to the first document ≥ doc */
void postings_cursor_look(struct postings_cursor *c, uint32_t doc); /* shallow: to the block where doc would be */
static inline void postings_cursor_next(struct postings_cursor *c)
{
	if (++c->i < c->n)
		c->doc = c->v[c->i];
	else
		postings_cursor_seek(c, c->doc + 1);
}

/* ---- the best so far (postings_top.c) ---- */
struct postings_top {
	struct postings_hit *v; /* room for k */
	size_t n, k;
	double floor; /* below it nothing gets in */
};
bool postings_before(const struct postings_hit *a, const struct postings_hit *b); /* by score, then by id */
void postings_top_push(struct postings_top *t, const struct postings_hit *h); /* it gets in: the caller has looked */
size_t postings_top_finish(struct postings_top *t);			      /* best first */

/* postings.c: the row of a namespace; NULL: none */
struct postings_ns *postings_ns_find(const struct postings *p, uint64_t ns);
/* postings_image.c */
void postings_image_clear(struct postings_image *m);
void postings_image_free(struct postings_image *m);
/* Room for 5 bytes a number is the caller's to make. */
static inline char *postings_put_varint(char *p, uint32_t v)
{
	for (; v >= 0x80; v >>= 7)
		*p++ = (char)(v | 0x80);
	*p++ = (char)v;
	return p;
}
/* Appends a term whose postings (ascending) are given. */
void postings_image_term(struct postings_image *m, struct span text, const uint32_t *docs, const uint32_t *tf,
			 uint32_t n);
void postings_image_seal(struct postings_image *m); /* all is there: places and size */
/* The next `budget` bytes to shared memory. True: that was all. */
bool postings_image_copy(struct postings_image *m, char *to, size_t budget);
void postings_image_document(struct postings_image *m, struct words *w, const struct uuid *id, uint64_t version,
			     int64_t expires_us, struct span content);
/* postings_segment.c: descriptors and their memory */
bool must_check postings_segment_take(struct postings *p, uint64_t ns, uint64_t bytes, bool merging, uint32_t *desc_r);
uint64_t postings_segment_open(struct postings *p, uint32_t desc); /* it is whole; returns its entry for a manifest */
void postings_segment_retire(struct postings *p, uint32_t desc);   /* no manifest names it */
void postings_segment_free(struct postings *p, uint32_t desc);
void postings_segment_reclaim(struct postings *p, bool all);			     /* those that are old enough */
struct postings_view postings_segment_view(const struct postings *p, uint32_t desc); /* writer */
/* postings_manifest.c */
struct postings_next { /* a manifest on its way */
	struct postings_ns *n;
	uint64_t number;
	uint64_t v[POSTINGS_SEGMENTS];
	size_t count;
};
void postings_manifest_begin(struct postings *p, struct postings_ns *n, struct postings_next *x_r);
void postings_manifest_kill(struct postings *p, struct postings_next *x, uint64_t ref); /* that document dies with it */
void postings_manifest_publish(struct postings *p, struct postings_next *x);
/* Parts of a death, for recovery and merges: the number; what it changes in the segment's counts. */
void postings_manifest_die(const struct postings_view *w, uint32_t doc, uint64_t number);
void postings_manifest_count_dead(const struct postings_view *w, uint32_t doc);
/* postings_segment.c: ends a hold, `some` at a time. True: that was all. */
bool postings_segment_let_go(struct postings *p, size_t some);
/* postings.c: the writer's private state; new: of an empty index. */
void postings_writer_new(struct postings *p);
void postings_writer_free(struct postings *p);
/* postings_save.c: the segment is as if it had never been used. No reader searches it. */
void postings_clear(struct postings *p);
/* postings_map.c. A reference names descriptor, its generation, and document. */
uint64_t postings_ref(const struct postings *p, uint32_t desc, uint32_t doc);
uint32_t postings_ref_desc(uint64_t ref);
uint32_t postings_ref_doc(uint64_t ref);
uint64_t postings_map_find(const struct postings *p, const struct uuid *id); /* 0: not there */
void postings_map_set(struct postings *p, const struct uuid *id, uint64_t ref);
void postings_map_erase(struct postings *p, const struct uuid *id);
void postings_map_reserve(struct postings_map *m, uint64_t n);
void postings_map_end(struct postings_map *m);
/* postings_merge.c */
void postings_merge_some(struct postings *p, struct postings_ns *n, uint32_t budget);
enum postings_cleaning postings_merge_clean(struct postings *p, struct postings_ns *n, uint32_t budget);
void postings_merge_all(struct postings *p, struct postings_ns *n);    /* ends what is under way */
void postings_merge_drop(struct postings *p, struct postings_ns *n);   /* gives up what is under way */
void postings_merge_forget(struct postings *p, struct postings_ns *n); /* its private memory only: the end */
/* A merge reads or maps the segment: it stays. */
bool postings_merge_holds(const struct postings *p, const struct postings_ns *n, uint32_t desc);
void postings_merge_killed(struct postings *p, uint64_t ref);	       /* a document of an input has died */
uint64_t postings_merge_moved(const struct postings *p, uint64_t ref); /* where it is now */
/* postings_recover.c: rebuilds the writer's private state. False: the segment makes no sense. */
bool must_check postings_recover(struct postings *p);
#endif
