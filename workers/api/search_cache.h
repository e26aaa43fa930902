/* Answers of searches, and vectors of their texts, in L1.
 *
 * An answer is kept under the question as it was sent, by whom; with it goes the generation of the namespace, read before
 * anything else was. It is served as long as nothing was written there since, and until the first of its memories
 * expires. Answers that depend on the present (recency), that lack something (degraded) or tell how they were found
 * (explain) are not kept. In a fleet whose feed is silent the generation is not known, and nothing is served. */
#ifndef ORC_SEARCH_CACHE_H
#define ORC_SEARCH_CACHE_H
#include "search.h"

/* On the loop. True: it is answered, or will be with another call that asks the same now. */
bool must_check search_cache_serve(struct call *c, struct search *s);
/* On the loop, when the answer is made: who waits for it gets it, too. Then call_reply(). */
void search_cache_finish(struct call *c);
/* In the thread, before anything of the namespace is read, and when the answer is whole. */
void search_cache_begin(struct search *s, const struct plant_namespace *row);
void search_cache_keep(struct call *c, struct reader *rd, const struct search *s);

/* The text's vector, from L1 or made now, to x (e->dimensions floats). False: the text has none. */
bool must_check search_cache_vector(struct reader *rd, const struct embedder *e, struct span text, float *x);
#endif
