/* The word index: BM25 over postings in shared memory, the same ranking for both stores.
 *
 * Writer: sync, one thread at a time. Readers: every api worker, any thread, lock-free.
 *
 * A namespace is a list of immutable segments; a write adds a segment of one document, and segments of like size
 * are merged, eight into one, a few steps with each write. A search sees the list as it was at one moment: the
 * documents that were there, each in one version (postings-private.h has the rules).
 *
 * The score of a document is the sum over the words of the question of
 *	idf · tf · 2.2 / (tf + 1.2 · (0.25 + 0.75 · length / average length)),
 *	idf = ln(1 + (N − df + 0.5) / (df + 0.5)),
 * where N, df and the average count what was put and neither replaced nor removed. Words, stop words and lengths are
 * those of words.h. A prefix is one word whose tf is the sum over the words that begin with it. */
#ifndef ORC_POSTINGS_H
#define ORC_POSTINGS_H
#include "index/vectors.h"
#include "words.h"

struct postings;

/* Size of the segment for a memory limit (words.max_bytes). */
size_t postings_segment_size(uint64_t max_bytes);
/* Maps the segment. writer: formats a fresh one, or recovers what a killed writer left. NULL and errno on failure. */
struct postings *must_check postings_open(int fd, bool writer);
void postings_close(struct postings **p);

/* Writer. What is put from here on is of this language; at first: English. A namespace is of one: its questions must be read
 * with a handle of the same. */
void postings_language(struct postings *p, enum language l);
/* Writer. An entry with a version ≤ the indexed one is ignored (returns 0). ENOSPC = memory limit: the document is not
 * in the index (nor is an older version of it), and postings_complete() turns false for ns until it is dropped.
 * EINVAL: ns 0. */
int must_check postings_put(struct postings *p, uint64_t ns, const struct uuid *id, uint64_t version,
			    int64_t expires_us, struct span content);
void postings_remove(struct postings *p, const struct uuid *id, uint64_t version); /* unknown id: no-op */
void postings_drop(struct postings *p, uint64_t ns);
/* Writer: the index does not have all of the namespace, until it is dropped. */
void postings_lacks(struct postings *p, uint64_t ns);
/* Writer: version that is indexed for id; 0 = none. */
uint64_t postings_version(struct postings *p, const struct uuid *id);

#define POSTINGS_WORDS_MAX 64  /* of a question: the first ones count */
#define POSTINGS_PHRASES_MAX 8 /* and 4 prefixes; what is beyond counts as words do */

/* A question, analysed once. Between quotes: only documents in which these words stand like that, stop words standing
 * for any word. word*: whatever begins so. */
struct postings_question {
	struct postings_word {
		struct span text; /* a stem; of a prefix, its folded letters */
		uint64_t key;	  /* its first 8 bytes as a number that sorts like them */
		bool prefix;
	} v[POSTINGS_WORDS_MAX];
	size_t n;
	struct postings_place {
		uint32_t place; /* from the phrase's first word that counts */
		uint32_t word;	/* number in v */
	} places[POSTINGS_WORDS_MAX];
	size_t nplaces;
	struct postings_phrase {
		uint32_t from, n; /* of places */
	} phrases[POSTINGS_PHRASES_MAX];
	size_t nphrases;
	struct buf bytes; /* the texts lie there */
};
void postings_question_read(struct words *w, struct span text, struct postings_question *q_r);
void postings_question_free(struct postings_question *q);

struct postings_hit {
	struct uuid id;
	uint64_t version;
	double score; /* higher is better */
};
struct postings_query {
	uint64_t ns;
	const struct postings_question *question;
	size_t k;
	const struct vectors_allow *allow; /* NULL = everything in the namespace */
	int64_t now_us;			   /* documents with expires_us != 0 && <= now are skipped */
	double min_score;		   /* 0 = none */
};
/* The k best that have a word of the question, best first, ties by id; at most k. *scanned_r (may be NULL): documents
 * that were scored. False: memory was so short that the writer reused what this search was reading, again and again;
 * nothing is known then. Never waits. */
bool must_check postings_search(const struct postings *p, const struct postings_query *q, struct postings_hit *out,
				size_t *n_r, size_t *scanned_r);

/* False when documents of the namespace did not fit (the store must answer). */
bool postings_complete(const struct postings *p, uint64_t ns);
uint64_t postings_count(const struct postings *p, uint64_t ns); /* live documents; 0 = all namespaces */
uint64_t postings_bytes(const struct postings *p);		/* memory taken from words.max_bytes */

/* Saving, as with vectors (index/vectors.h): in another thread than those that write; hold, let_go and clean in their turn.
 * let_go: some at a time; true: that was all. */
struct image;
struct image_writer;
struct image_part_facts;
void postings_hold(struct postings *p);
bool postings_held(const struct postings *p); /* false: memory was short, and what is being saved is void */
bool must_check postings_let_go(struct postings *p);
/* Any thread: something was erased; until what is dead is cleaned away, its words may lie in segments that are saved. */
void postings_erased(struct postings *p);
uint64_t postings_erasures(const struct postings *p);
bool postings_unclean(const struct postings *p);
void postings_cleaned(struct postings *p, uint64_t erasures); /* as many as there were when it began */
/* A namespace is not what the store has, and nobody can tell: in this life of the daemon nothing is to be saved. */
void postings_unfit(struct postings *p);
bool postings_fit(const struct postings *p);
/* Puts the words of documents that are dead out of what is saved, a few steps of it: begin with *row_io 0. STUCK: no room. */
enum postings_cleaning { POSTINGS_CLEAN, POSTINGS_GOING_ON, POSTINGS_STUCK };
enum postings_cleaning must_check postings_clean(struct postings *p, uint32_t *row_io, uint32_t budget);
int must_check postings_save(struct postings *p, struct image_writer *w, struct image_part_facts *facts_r,
			     const _Atomic bool *stop);
bool postings_unused(const struct postings *p);
bool postings_interrupted(const struct postings *p);
int must_check postings_load(struct postings *p, int fd, struct image *m, void (*progress)(void *arg), void *arg);
void postings_load_end(struct postings *p, bool keep);
#endif
