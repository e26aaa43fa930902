/* The indexes of what can be searched: vectors and words. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include "log.h"
#include "sync.h"

static struct log_limit no_vectors, no_words;

void index_memory(struct sync *s, const struct indexable *x)
{
	index_file_changed(s);
	if (!x->found || !x->dim)
		vectors_remove(s->vectors, &x->id, x->version);
	else if (vectors_insert(s->vectors, x->ns, &x->id, x->version, x->expires_us, x->dim, x->x))
		log_warn_limited(
			&no_vectors, 60,
			"vectors.max_bytes is reached: searches where vectors are left out wait for the store; raise it, or "
			"vectors.spill_bytes");
	const struct ns_state *n = sequence_ns(s, x->ns);
	postings_language(s->postings, n ? n->language : LANGUAGE_ENGLISH);
	if (!x->found)
		postings_remove(s->postings, &x->id, x->version);
	else if (postings_put(s->postings, x->ns, &x->id, x->version, x->expires_us, x->content))
		log_warn_limited(
			&no_words, 60,
			"words.max_bytes is reached: searches where words are left out wait for the store; raise it");
}

void index_remove(struct sync *s, const struct uuid *id, uint64_t version)
{
	index_file_changed(s);
	vectors_remove(s->vectors, id, version);
	postings_remove(s->postings, id, version);
}

void index_take_out(struct sync *s, const struct uuid *id) { index_remove(s, id, UINT64_MAX); }

void index_winner(struct sync *s, const struct indexable *x)
{
	if (vectors_version(s->vectors, &x->id) >= x->version)
		vectors_remove(s->vectors, &x->id, UINT64_MAX);
	if (postings_version(s->postings, &x->id) >= x->version)
		postings_remove(s->postings, &x->id, UINT64_MAX);
	if (x->found)
		index_memory(s, x);
	else
		index_take_out(s, &x->id);
}

void index_drop(struct sync *s, uint64_t ns)
{
	index_file_changed(s);
	vectors_drop(s->vectors, ns);
	postings_drop(s->postings, ns);
}
