/* In which languages the words of a batch are analysed: what the rows of their namespaces say, which are locked (FOR KEY SHARE:
 * others may write to the namespaces, too) until the batch is written. Who gives a namespace a language locks them
 * out (NS_LOCK, write.c). */
#include <stdlib.h>

#include "batch.h"

static bool is_missing(const struct pg_space *n) { return n->written && !n->there && !n->announced; }

static void name_spaces(struct pg_batch *b, struct pg_params *p, bool missing)
{
	struct span *names = util_alloc((b->nspaces + 1) * sizeof(*names));
	size_t n = 0;
	for (size_t i = 0; i < b->nspaces; i++)
		if (missing ? is_missing(&b->spaces[i]) : b->spaces[i].written)
			names[n++] = (struct span){b->spaces[i].name, b->spaces[i].name_len};
	pg_param_texts(p, names, n);
	free(names);
}

static void note_languages(struct pg_batch *b, const PGresult *res)
{
	for (int row = 0; row < pq.ntuples(res); row++) {
		struct span name = pg_text(res, row, 1);
		struct pg_space *n = name.len ? pg_batch_space(b, record_ns(name)) : NULL;
		if (!n)
			continue;
		n->there = true;
		n->language = language_stored(pg_text(res, row, 2));
	}
}

/* A namespace that only its memories make: from here on nobody else makes it, in another language. */
static enum store_rc make_missing(struct store *s, bool *made_r)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	*made_r = false;
	for (size_t i = 0; i < s->batch->nspaces; i++)
		*made_r |= is_missing(&s->batch->spaces[i]);
	if (!*made_r)
		return STORE_OK;
	name_spaces(s->batch, &p, true);
	enum store_rc rc = pg_call(s, PG_NS_MAKE, &p, &res);
	pg_params_free(&p);
	if (rc == STORE_OK)
		pq.clear(res);
	return rc;
}

/* The node's row, and the languages of what the batch writes to, which stay so until it is over. */
static enum store_rc lock_rows(struct store *s, bool *there_r)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_int8(&p, (int64_t)s->conf.node);
	name_spaces(s->batch, &p, false);
	enum store_rc rc = pg_call(s, PG_NODE_LOCK, &p, &res);
	pg_params_free(&p);
	if (rc != STORE_OK)
		return rc;
	*there_r = pq.ntuples(res) >= 1 && pg_int(res, 0, 0) == (int64_t)s->cursor;
	note_languages(s->batch, res);
	pq.clear(res);
	return STORE_OK;
}

enum store_rc pg_languages_lock(struct store *s, bool *there_r)
{
	bool made = false;
	for (size_t i = 0; i < s->batch->nspaces; i++) { /* an attempt before this one has been rolled back */
		s->batch->spaces[i].there = false;
		s->batch->spaces[i].language = LANGUAGE_ENGLISH;
	}
	enum store_rc rc = lock_rows(s, there_r);
	if (rc == STORE_OK && *there_r)
		rc = make_missing(s, &made);
	return rc == STORE_OK && made ? lock_rows(s, there_r) : rc;
}
