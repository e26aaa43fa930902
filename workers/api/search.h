/* Search: candidates from words and vectors, fused, lent to neighbours, adjusted, filled in. */
#ifndef ORC_SEARCH_H
#define ORC_SEARCH_H
#include "draft.h"

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
	bool mode_set, explain, have_min;
	struct filter *filter;
	size_t limit;
	double min_score, half_life_s, importance_weight, diversity;
	const float *x;
	uint32_t dim;
	float *own_x;
	struct draft vector; /* reads the embedding field */
	/* results */
	struct candidates c;
	bool degraded_vector;
	int64_t us_embed, us_pending, us_filter, us_text, us_vector, us_fuse, us_fill;
	size_t scanned, ntext, nvector, npending;
};

/* search_rank.c: pure arithmetic over candidates (but for neighbours and bodies, which it asks for). */
struct candidate *candidate_at(struct candidates *c, const struct uuid *id); /* found or appended */
void rank_fuse(struct candidates *c, const struct uuid *text, size_t ntext, const struct uuid *vector, size_t nvector,
	       bool have_text, bool have_vector, size_t keep);
void rank_lend(struct search *s, struct reader *rd);
void rank_speaker(struct search *s, size_t top);
void rank_adjust(struct search *s, int64_t now_us); /* recency, importance */
void rank_sort(struct candidates *c);
void rank_diversify(struct search *s, struct reader *rd, size_t want);
/* Loads bodies of the first `top`; those that are gone are dropped. */
enum read_rc must_check rank_fill(struct search *s, struct reader *rd, size_t top);
void candidates_free(struct candidates *c);
#endif
