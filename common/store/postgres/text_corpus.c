/* How many memories a namespace has, how long they are, and how many of them have a word.
 *
 * Words are counted, by the index; in a large namespace only those that are rare, and common ones are found in a
 * sample of the namespace, which also says how long memories are. It is taken anew after a while, or when the namespace has grown by a twentieth. */
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"
#include "text-private.h"

#define CORPORA 8	 /* namespaces whose sample a handle keeps */
#define SAMPLE_ROWS 2048 /* of a sample, at most; a smaller namespace is read as a whole */
#define SAMPLE_PLACES 64 /* in the order of time, from which so many rows follow: */
#define SAMPLE_RUN (SAMPLE_ROWS / SAMPLE_PLACES)
#define SAMPLE_AGE_US (300ll * 1000000)
#define SAMPLE_ENOUGH 8	 /* memories of the sample that have a word: then its share is good enough */
#define LARGE 20000	 /* a namespace of more memories is estimated */
#define COUNT_LARGE 2000 /* rows that are then looked at to count a word; it costs 5 to 10 µs each */

struct counted {
	uint64_t hash; /* 0: free */
	uint32_t n;
};
struct corpus {
	uint64_t ns;
	int64_t at_us;
	double documents; /* at that time */
	double words, lexemes;
	uint32_t rows;
	struct counted *v;
	size_t mask, used;
};
struct pg_corpora {
	struct corpus v[CORPORA];
	size_t next; /* to be replaced */
};

void pg_corpora_free(struct pg_corpora **cp)
{
	for (size_t i = 0; *cp && i < CORPORA; i++)
		free((*cp)->v[i].v);
	free(*cp);
	*cp = NULL;
}

static struct corpus *find(struct store *s, uint64_t ns)
{
	if (!s->corpora)
		s->corpora = util_zalloc(sizeof(*s->corpora));
	for (size_t i = 0; i < CORPORA; i++)
		if (s->corpora->v[i].ns == ns)
			return &s->corpora->v[i];
	return NULL;
}

/* ---- the sample ---- */

static struct counted *place(const struct corpus *c, struct span word)
{
	uint64_t h = XXH3_64bits(word.p, word.len) | 1;
	size_t i = (h >> 1) & c->mask;
	while (c->v[i].hash && c->v[i].hash != h)
		i = (i + 1) & c->mask;
	c->v[i].hash = h;
	return &c->v[i];
}

static void grow(struct corpus *c)
{
	struct corpus old = *c;
	c->mask = old.v ? 2 * old.mask + 1 : 4095;
	c->v = util_zalloc((c->mask + 1) * sizeof(*c->v));
	for (size_t i = 0; old.v && i <= old.mask; i++) {
		size_t at = (old.v[i].hash >> 1) & c->mask;
		while (old.v[i].hash && c->v[at].hash)
			at = (at + 1) & c->mask;
		if (old.v[i].hash)
			c->v[at] = old.v[i];
	}
	free(old.v);
}

/* What was seen once says nothing. */
static void drop_rare(struct corpus *c)
{
	struct corpus all = *c;
	c->v = NULL;
	c->used = 0;
	grow(c);
	for (size_t i = 0; i <= all.mask; i++) {
		size_t at = (all.v[i].hash >> 1) & c->mask;
		if (all.v[i].n < 2 || c->used > c->mask / 2)
			continue;
		while (c->v[at].hash)
			at = (at + 1) & c->mask;
		c->v[at] = all.v[i];
		c->used++;
	}
	free(all.v);
}

static void read_sample(struct corpus *c, const PGresult *res)
{
	double words = 0, lexemes = 0;
	c->rows = (uint32_t)pq.ntuples(res);
	grow(c);
	for (int i = 0; i < pq.ntuples(res); i++) {
		struct pg_lexemes l = pg_lexemes(res, i, 0);
		struct pg_lexeme x;
		while (pg_lexeme_next(&l, &x)) {
			struct counted *at = place(c, x.text);
			words += x.count;
			lexemes++;
			c->used += !at->n;
			at->n++;
			if (c->used > c->mask / 2)
				grow(c);
		}
	}
	c->words = c->rows ? words / c->rows : 0;
	c->lexemes = c->rows ? lexemes / c->rows : 0;
	drop_rare(c);
}

static unsigned __int128 number_of(const struct uuid *id)
{
	unsigned __int128 v = 0;
	for (size_t i = 0; i < sizeof(id->b); i++)
		v = v << 8 | id->b[i];
	return v;
}

/* Ids ascend with time: evenly spread between the first and the last of the namespace. */
static void spread(const struct uuid *first, const struct uuid *last, struct uuid out[SAMPLE_PLACES])
{
	unsigned __int128 from = number_of(first), step = (number_of(last) - from) / SAMPLE_PLACES;
	for (unsigned i = 0; i < SAMPLE_PLACES; i++) {
		unsigned __int128 v = from + step * i;
		for (size_t k = sizeof(out[i].b); k--; v >>= 8)
			out[i].b[k] = (uint8_t)v;
	}
}

static enum store_rc ask(struct store *s, const char *sql, struct pg_params *p, PGresult **res_r)
{
	enum store_rc rc = pg_call_text(s, sql, p, res_r);
	pg_params_free(p);
	return rc;
}

static enum store_rc sample_large(struct pg_text *t, PGresult **res_r)
{
	struct pg_params p = {.n = 0};
	struct uuid from[SAMPLE_PLACES];
	PGresult *ends;
	pg_param_text(&p, t->ns);
	enum store_rc rc = ask(t->s,
			       "(SELECT id FROM memories WHERE namespace=$1::text ORDER BY id LIMIT 1) UNION ALL"
			       " (SELECT id FROM memories WHERE namespace=$1::text ORDER BY id DESC LIMIT 1)",
			       &p, &ends);
	if (rc != STORE_OK)
		return rc;
	struct uuid none = {{0}};
	struct uuid first = pq.ntuples(ends) == 2 ? pg_uuid(ends, 0, 0) : none,
		    last = pq.ntuples(ends) == 2 ? pg_uuid(ends, 1, 0) : none;
	pq.clear(ends);
	spread(&first, &last, from);
	p = (struct pg_params){.n = 0};
	pg_param_text(&p, t->ns);
	pg_param_uuids(&p, from, SAMPLE_PLACES);
	pg_param_int4(&p, SAMPLE_RUN);
	return ask(t->s,
		   "SELECT w.words FROM unnest($2::uuid[]) AS u(id) CROSS JOIN LATERAL (SELECT m.words FROM memories m"
		   " WHERE m.namespace=$1::text AND m.id>=u.id ORDER BY m.id LIMIT $3::int4) w",
		   &p, res_r);
}

static enum store_rc sample_all(struct pg_text *t, PGresult **res_r)
{
	struct pg_params p = {.n = 0};
	pg_param_text(&p, t->ns);
	pg_param_int4(&p, SAMPLE_ROWS);
	return ask(t->s, "SELECT m.words FROM memories m WHERE m.namespace=$1::text LIMIT $2::int4", &p, res_r);
}

static bool fresh(const struct corpus *c, double documents)
{
	double drift = documents > c->documents ? documents - c->documents : c->documents - documents;
	return drift <= documents / 20 && clock_mono_us() - c->at_us < SAMPLE_AGE_US;
}

/* The sample of t's namespace, taken when there is none that is fresh. */
static enum store_rc sample(struct pg_text *t, struct corpus **c_r)
{
	struct corpus *c = find(t->s, t->q->ns);
	PGresult *res;
	*c_r = c;
	if (c && fresh(c, t->documents))
		return STORE_OK;
	enum store_rc rc = t->documents > SAMPLE_ROWS ? sample_large(t, &res) : sample_all(t, &res);
	if (rc != STORE_OK)
		return rc;
	if (!c)
		c = &t->s->corpora->v[t->s->corpora->next++ % CORPORA];
	free(c->v);
	*c = (struct corpus){.ns = t->q->ns, .at_us = clock_mono_us(), .documents = t->documents};
	read_sample(c, res);
	pq.clear(res);
	*c_r = c;
	return STORE_OK;
}

static double estimate(const struct corpus *c, const struct pg_text *t, struct span word)
{
	uint64_t h = XXH3_64bits(word.p, word.len) | 1;
	size_t i = (h >> 1) & (c ? c->mask : 0);
	if (!c || !c->rows)
		return 0;
	while (c->v[i].hash && c->v[i].hash != h)
		i = (i + 1) & c->mask;
	return c->v[i].n * t->documents / c->rows;
}

static bool well_known(const struct corpus *c, const struct pg_text *t, struct span word)
{
	return estimate(c, t, word) * c->rows >= SAMPLE_ENOUGH * t->documents;
}

/* ---- counting ---- */

/* One statement: how many memories there are, and how many have each of the words, at most `max`. */
static enum store_rc count(struct pg_text *t, const bool *known, int max)
{
	struct pg_params p = {.n = 0};
	struct buf sql = {NULL, 0, 0};
	PGresult *res;
	pg_param_text(&p, t->ns);
	buf_adds(&sql, "SELECT (SELECT count FROM memory_namespaces WHERE name=$1::text)");
	for (size_t i = 0; i < t->n; i++) {
		if (known[i])
			continue;
		pg_param_tsquery(&p, &t->v[i], NULL, 1, false);
		buf_printf(
			&sql,
			",(SELECT count(*) FROM (SELECT FROM memories m WHERE m.namespace=$1::text AND m.words@@$%d::tsquery"
			" LIMIT %d) x%d)",
			p.n, max, p.n);
	}
	buf_addc(&sql, 0);
	enum store_rc rc = ask(t->s, sql.p, &p, &res);
	buf_free(&sql);
	if (rc != STORE_OK)
		return rc;
	t->documents = (double)pg_int(res, 0, 0);
	for (size_t i = 0, column = 1; i < t->n; i++)
		if (!known[i])
			t->v[i].rows = (double)pg_int(res, 0, (int)column++);
	pq.clear(res);
	return STORE_OK;
}

enum store_rc pg_corpus_ask(struct pg_text *t)
{
	bool known[PG_STEMS_MAX] = {false};
	struct corpus *c = find(t->s, t->q->ns);
	if (!t->ns.len)
		return STORE_OK;
	/* It may have grown since: count() says by how much. */
	bool large = c && c->documents > LARGE;
	t->documents = c ? c->documents : 0;
	for (size_t i = 0; large && i < t->n; i++)
		known[i] = fresh(c, c->documents) && well_known(c, t, t->v[i].text);
	int max = large ? COUNT_LARGE : LARGE;
	enum store_rc rc = count(t, known, max);
	if (rc == STORE_OK)
		rc = sample(t, &c);
	if (rc != STORE_OK)
		return rc;
	t->words = c->words;
	t->lexemes = c->lexemes;
	for (size_t i = 0; i < t->n; i++) {
		double about = estimate(c, t, t->v[i].text);
		if (known[i] && about <= 0) /* it was common in the sample before */
			about = t->documents * SAMPLE_ENOUGH / (c->rows + 1.0);
		if (known[i] || (t->v[i].rows >= max && about > t->v[i].rows))
			t->v[i].rows = about;
		t->v[i].df = t->v[i].rows;
	}
	return STORE_OK;
}
