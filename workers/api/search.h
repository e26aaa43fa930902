/* Search: candidates from words and vectors, fused, lent to neighbours, adjusted, filled in. */
#ifndef ORC_SEARCH_H
#define ORC_SEARCH_H
#include "draft.h"
#include "tiers.h"

enum search_mode { SEARCH_HYBRID, SEARCH_TEXT, SEARCH_VECTOR };

struct candidate {
	struct uuid id;
	uint64_t version;
	double text, vector; /* the lists' own scores; NAN = not in that list */
	double fused, lent, speaker, score;
	char *body; /* canonical JSON, malloc'ed; NULL until filled in */
	size_t body_len;
	const char *tier;
	int64_t created_us;
	double importance;
	float *x; /* for diversity */
	uint32_t dim;
};
struct candidates {
	struct candidate *v;
	size_t n, cap;
};

struct search {
	struct body_json body;
	char *text;
	size_t len;
	char ns_name[LIMIT_NAMESPACE + 1];
	struct span ns, query;
	enum search_mode mode;
	bool mode_set, explain, have_min, exact;
	double recall;	 /* 0: as configured */
	uint32_t probes; /* 0: by the recall */
	struct vectors_trace trace;
	struct filter *filter;
	size_t limit;
	double min_score, half_life_s, importance_weight, diversity;
	const float *x;
	uint32_t dim;
	float *own_x;
	struct draft vector; /* reads the embedding field */
	/* results */
	struct candidates c;
	bool degraded_store, degraded_text, degraded_vector, degraded_feed;
	bool feed_heard;
	/* search_cache.c */
	bool cacheable, unsettled; /* unsettled: something of the namespace is pending */
	struct uuid key;
	uint64_t epoch, generation;
	int64_t gone_us;		     /* the first of what was found ends then; 0: none does */
	const char *text_tier, *vector_tier; /* where words were ranked, and vectors compared; NULL: nowhere */
	int64_t us_embed, us_pending, us_filter, us_text, us_vector, us_fuse, us_fill;
	size_t scanned, ntext, nvector, npending;
};

/* Candidates, best first: room for `depth` each. */
struct lists {
	struct store_text_hit *text, *vector;
	size_t ntext, nvector, depth;
	bool have_text, have_vector;
};
/* search_lists.c: fills the lists that the search has. READ_ERROR: something pending cannot be read. A store that does not
 * answer is no error: its list is left out, and the reply says so. */
enum read_rc must_check lists_make(struct search *s, struct reader *rd, struct lists *l);
/* The store has failed this search. When it is away, nothing more is asked of it: what L1 and the journal hold is served. */
void search_store_failed(struct search *s, struct reader *rd, enum store_rc rc);

int64_t search_lap(int64_t *at); /* µs since *at, which becomes the present */

/* search_rank.c: pure arithmetic over candidates (but for neighbours and bodies, which it asks for). */
struct candidate *candidate_at(struct candidates *c, const struct uuid *id); /* found or appended */
void rank_fuse(struct candidates *c, const struct uuid *text, size_t ntext, const struct uuid *vector, size_t nvector,
	       bool have_text, bool have_vector, size_t keep);
void rank_lend(struct search *s, struct reader *rd);
void rank_speaker(struct search *s, size_t top);
void rank_adjust(struct search *s, int64_t now_us); /* recency, importance */
void rank_sort(struct candidates *c);
void rank_diversify(struct search *s, struct reader *rd, size_t want);
/* Loads bodies of the first `top`; those that are gone are dropped, and those that the store does not give. */
enum read_rc must_check rank_fill(struct search *s, struct reader *rd, size_t top);
void candidates_free(struct candidates *c);
#endif
