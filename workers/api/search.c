/* POST /v1/memories/search. */
#include "search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "handlers.h"

#define QUERY_MAX 8192
#define DEPTH 100 /* candidates from each list, at least */
#define SEEDS 50  /* fused candidates that go on and lend, at least */
#define LIMIT_DEFAULT 10

static void search_free(void *state)
{
	struct search *s = state;
	candidates_free(&s->c);
	filter_free(&s->filter);
	draft_free(&s->vector);
	body_json_free(&s->body);
	free(s->own_x);
	free(s->text);
	free(s);
}

/* ---- the request ---- */

static bool refuse(struct call *c, const char *field, const char *what)
{
	problem(c, 400, "invalid-field", "%s: %s", field, what);
	return false;
}

static bool number(struct call *c, const char *field, const json_t *v, double min, double max, double *out)
{
	char what[80];
	double x = json_is_number(v) ? json_number_value(v) : NAN;
	if (!(x >= min && x <= max)) {
		snprintf(what, sizeof(what), "must be a number from %g to %g", min, max);
		return refuse(c, field, what);
	}
	*out = x;
	return true;
}

static bool read_mode(struct call *c, struct search *s, const json_t *v)
{
	static const char *const names[] = {"hybrid", "text", "vector"};
	for (int i = 0; i < 3; i++)
		if (json_is_string(v) && strcmp(json_string_value(v), names[i]) == 0) {
			s->mode = (enum search_mode)i;
			return s->mode_set = true;
		}
	return refuse(c, "mode", "must be hybrid, text or vector");
}

static bool read_query(struct call *c, struct search *s, const json_t *v)
{
	if (!json_is_string(v) || !json_string_length(v) || json_string_length(v) > QUERY_MAX)
		return refuse(c, "query", "must be a string of 1 to 8192 bytes");
	s->query = (struct span){json_string_value(v), json_string_length(v)};
	return !memchr(s->query.p, 0, s->query.len) || refuse(c, "query", "must not contain U+0000");
}

static bool read_filter(struct call *c, struct search *s, const json_t *v)
{
	char *error = NULL;
	struct filter *f = filter_parse(v, &error);
	if (!f) {
		problem(c, 400, "invalid-filter", "filter: %s", error);
		free(error);
		return false;
	}
	filter_free(&s->filter);
	s->filter = f;
	return true;
}

static bool is_scope(const char *key)
{
	static const char *const scopes[] = {"user_id", "agent_id", "session_id", "kind"};
	for (size_t i = 0; i < ARRAY_LEN(scopes); i++)
		if (strcmp(key, scopes[i]) == 0)
			return true;
	return false;
}

static bool read_search_field(struct call *c, struct search *s, const char *key, json_t *v)
{
	double x;
	if (strcmp(key, "query") == 0)
		return read_query(c, s, v);
	if (strcmp(key, "mode") == 0)
		return read_mode(c, s, v);
	if (strcmp(key, "filter") == 0)
		return true; /* read first */
	if (strcmp(key, "limit") == 0) {
		if (!json_is_integer(v) || !number(c, key, v, 1, LIMIT_LIST, &x))
			return refuse(c, key, "must be a whole number from 1 to 1000");
		s->limit = (size_t)x;
		return true;
	}
	if (strcmp(key, "min_score") == 0)
		return s->have_min = number(c, key, v, -1e9, 1e9, &s->min_score);
	if (strcmp(key, "recency_half_life") == 0)
		return number(c, key, v, 1, 1e10, &s->half_life_s);
	if (strcmp(key, "importance_weight") == 0)
		return number(c, key, v, 0, 1, &s->importance_weight);
	if (strcmp(key, "diversity") == 0)
		return number(c, key, v, 0, 1, &s->diversity);
	if (strcmp(key, "explain") == 0) {
		s->explain = json_is_true(v);
		return json_is_boolean(v) || refuse(c, key, "must be true or false");
	}
	if (is_scope(key)) {
		if (!json_is_string(v) || json_string_length(v) > LIMIT_SCOPE)
			return refuse(c, key, "must be a string of at most 256 bytes");
		filter_and_eq(&s->filter, key, (struct span){json_string_value(v), json_string_length(v)});
		return true;
	}
	if (strcmp(key, "namespace") == 0 || strcmp(key, "embedding") == 0)
		return true; /* read elsewhere */
	problem(c, 400, "unknown-field",
		"%.64s: no such field%s; allowed are query, embedding, mode, namespace, filter, "
		"user_id, agent_id, session_id, kind, limit, min_score, recency_half_life, importance_weight, diversity, "
		"explain",
		key, strcmp(key, "top_k") == 0 ? "; the number of results is \"limit\"" : "");
	return false;
}

static bool parse(struct call *c, struct search *s)
{
	const char *key;
	json_t *v;
	if (!body_json_parse(c, (struct span){s->text, s->len}, &s->body))
		return false;
	json_t *root = s->body.root;
	if (!json_is_object(root)) {
		problem(c, 400, "invalid-json", "body: must be a JSON object with \"query\" or \"embedding\"");
		return false;
	}
	if (!read_filter(c, s, json_object_get(root, "filter")))
		return false;
	json_object_foreach (root, key, v)
		if (!read_search_field(c, s, key, v))
			return false;
	if ((v = json_object_get(root, "embedding")) && !draft_read_embedding(c, &s->body, v, &s->vector))
		return false;
	s->x = s->vector.dim ? s->vector.embedding : NULL;
	s->dim = s->vector.dim;
	if (!s->query.p && !s->x)
		return refuse(c, "query", "is required, or an embedding");
	if (!s->query.p && s->mode_set && s->mode == SEARCH_TEXT)
		return refuse(c, "query", "is required for mode text");
	if (!s->query.p)
		s->mode = SEARCH_VECTOR;
	json_t *ns = json_object_get(root, "namespace");
	struct span given = json_is_string(ns) ? (struct span){json_string_value(ns), json_string_length(ns)}
					       : (struct span){ns ? "" : NULL, 0};
	return call_namespace(c, given, AUTH_READ, s->ns_name, &s->ns);
}

/* ---- the lists ---- */

/* The query's vector in the namespace's space. False: problem set. */
static bool find_vector(struct call *c, struct search *s, const struct plant_namespace *row)
{
	const struct embedder *e = c->api->embedder;
	uint32_t dim = atomic_load_explicit(&row->dim, memory_order_acquire);
	if (s->x) {
		if (!dim || dim == s->dim)
			return true;
		problem(c, 400, "invalid-field",
			"embedding: the namespace's vectors have %u dimensions, this one has %u", dim, s->dim);
		return false;
	}
	if (s->mode == SEARCH_TEXT)
		return true;
	if (!dim) { /* no vector here yet; without an embedder there will be none for texts */
		s->degraded_vector = !e;
		return true;
	}
	if (!e || strcmp(e->id, row->embedder) != 0) {
		s->degraded_vector = true;
		return true;
	}
	s->own_x = util_alloc(e->dimensions * sizeof(float));
	if (e->embed(e, &s->query, 1, s->own_x)) {
		s->x = s->own_x;
		s->dim = e->dimensions;
	}
	return true;
}

static bool allow_row(void *arg, const struct memory *m)
{
	vectors_allow_add(arg, &m->id);
	return true;
}

static bool hidden_row(void *arg, const struct uuid *id) { return vectors_allow_has(arg, id); }

struct allowing {
	struct vectors_allow *allow, *hidden;
};
static bool allow_visible(void *arg, const struct memory *m)
{
	struct allowing *a = arg;
	if (!vectors_allow_has(a->hidden, &m->id))
		allow_row(a->allow, m);
	return true;
}

/* What the filter lets through: honoured inside the scan, never on a finished top-k. */
static enum read_rc make_allow(struct search *s, struct reader *rd, const struct store_list *q, const struct overlay *o,
			       struct vectors_allow **allow_r)
{
	struct allowing a = {vectors_allow_new(1024), o->hidden};
	(void)s;
	if (!reader_store(rd) || rd->shared->ops->ids(rd->store, q, allow_visible, &a) != STORE_OK) {
		vectors_allow_free(&a.allow);
		return READ_ERROR;
	}
	for (size_t i = 0; i < o->n; i++)
		allow_row(a.allow, &o->v[i].m);
	*allow_r = a.allow;
	return READ_OK;
}

static enum read_rc text_list(struct search *s, struct reader *rd, const struct store_list *q, const struct overlay *o,
			      size_t depth, struct store_text_hit *hits, size_t *n_r)
{
	struct store_text_extra *extra = util_alloc((o->n + 1) * sizeof(*extra));
	size_t nextra = 0;
	for (size_t i = 0; i < o->n; i++)
		if (!(o->v[i].m.flags & MEMORY_SUPERSEDED))
			extra[nextra++] = (struct store_text_extra){o->v[i].m.id, o->v[i].m.version, o->v[i].m.content};
	struct store_text t = {.ns = q->ns,
			       .query = s->query,
			       .filter = q->filter,
			       .limit = depth,
			       .now_us = q->now_us,
			       .extra = extra,
			       .nextra = nextra,
			       .hidden = hidden_row,
			       .hidden_arg = o->hidden};
	*n_r = depth;
	enum read_rc rc = READ_ERROR;
	if (reader_store(rd))
		rc = rd->shared->ops->text(rd->store, &t, hits, n_r) == STORE_OK ? READ_OK : READ_ERROR;
	free(extra);
	return rc;
}

static int64_t lap(int64_t *at)
{
	int64_t now = clock_mono_us(), d = now - *at;
	*at = now;
	return d;
}

struct lists {
	struct store_text_hit *text;
	struct vectors_hit *vector;
	size_t ntext, nvector, depth;
	bool have_text, have_vector;
};

static enum read_rc make_lists(struct search *s, struct reader *rd, struct lists *l)
{
	struct overlay o;
	struct vectors_allow *allow = NULL;
	enum read_rc rc = READ_OK;
	int64_t at = clock_mono_us();
	struct store_list q = {.ns = record_ns(s->ns),
			       .filter = filter_is_empty(s->filter) ? NULL : s->filter,
			       .now_us = clock_real_us()};
	overlay_load(rd, &q, &o);
	rc = reader_trouble(rd);
	s->npending = o.n;
	s->us_pending = lap(&at);
	if (l->have_vector && q.filter)
		rc = make_allow(s, rd, &q, &o, &allow);
	s->us_filter = lap(&at);
	if (rc == READ_OK && l->have_text)
		rc = text_list(s, rd, &q, &o, l->depth, l->text, &l->ntext);
	s->us_text = lap(&at);
	if (rc == READ_OK && l->have_vector) {
		struct vectors_query vq = {.ns = q.ns,
					   .dim = s->dim,
					   .x = s->x,
					   .k = l->depth,
					   .metric = VECTORS_COSINE,
					   .allow = allow,
					   .now_us = q.now_us,
					   .min_score = s->mode == SEARCH_HYBRID ? 1e-6f : -INFINITY};
		l->nvector = vectors_search(rd->shared->vectors, &vq, l->vector, &s->scanned);
		s->degraded_vector |= !vectors_complete(rd->shared->vectors, q.ns) ||
				      atomic_load(&rd->shared->plant->refill_state) != REFILL_DONE;
	}
	s->us_vector = lap(&at);
	vectors_allow_free(&allow);
	overlay_free(&o);
	return rc;
}

/* ---- from lists to candidates ---- */

static void take_scores(struct search *s, const struct lists *l)
{
	struct uuid *t = util_alloc((l->ntext + 1) * sizeof(*t)), *v = util_alloc((l->nvector + 1) * sizeof(*v));
	for (size_t i = 0; i < l->ntext; i++) {
		t[i] = l->text[i].id;
		candidate_at(&s->c, &t[i])->text = l->text[i].score;
	}
	for (size_t i = 0; i < l->nvector; i++) {
		v[i] = l->vector[i].id;
		candidate_at(&s->c, &v[i])->vector = (double)l->vector[i].score;
	}
	if (s->mode == SEARCH_HYBRID) {
		size_t keep = 2 * s->limit > SEEDS ? 2 * s->limit : SEEDS;
		rank_fuse(&s->c, t, l->ntext, v, l->nvector, l->have_text, l->have_vector, keep);
	} else {
		for (size_t i = 0; i < s->c.n; i++)
			s->c.v[i].score = l->have_text ? s->c.v[i].text : s->c.v[i].vector;
		rank_sort(&s->c);
	}
	free(t);
	free(v);
}

/* Neighbours enter through lending: the filter must hold for them too. */
static bool neighbour_allowed(struct search *s, struct reader *rd, const struct candidate *c)
{
	struct held h = {.bytes = NULL};
	if (filter_is_empty(s->filter) || !isnan(c->text) || !isnan(c->vector))
		return true;
	bool ok = reader_get(rd, &c->id, false, &h) == READ_OK && filter_match(s->filter, &h.m);
	held_free(&h);
	return ok;
}

static void drop_refused_neighbours(struct search *s, struct reader *rd)
{
	size_t kept = 0;
	for (size_t i = 0; i < s->c.n; i++) {
		if (neighbour_allowed(s, rd, &s->c.v[i]))
			s->c.v[kept++] = s->c.v[i];
		else
			free(s->c.v[i].body);
	}
	s->c.n = kept;
}

static enum read_rc rank(struct search *s, struct reader *rd)
{
	int64_t at = clock_mono_us();
	size_t top = s->limit;
	enum read_rc rc;
	bool all = s->half_life_s > 0 || s->importance_weight > 0;
	if (s->mode == SEARCH_HYBRID) {
		rank_lend(s, rd);
		drop_refused_neighbours(s, rd);
		if (top < SEEDS)
			top = SEEDS;
	}
	if (s->diversity > 0 && top < 4 * s->limit)
		top = 4 * s->limit;
	s->us_fuse = lap(&at);
	rc = rank_fill(s, rd, all ? s->c.n : top);
	if (rc != READ_OK)
		return rc;
	if (s->mode == SEARCH_HYBRID)
		rank_speaker(s, top);
	rank_adjust(s, clock_real_us());
	rank_diversify(s, rd, s->limit);
	s->us_fill = lap(&at);
	return READ_OK;
}

/* ---- the answer ---- */

#define SCORE_FORMAT "%.7g" /* what a float knows */

static void write_score(struct buf *b, const char *name, double x, bool first)
{
	if (!isnan(x))
		buf_printf(b, "%s\"%s\":" SCORE_FORMAT, first ? "" : ",", name, x);
}

/* A min_score copied from a result must find that result again, so what counts is what was shown. */
static double shown(double score)
{
	char text[32];
	snprintf(text, sizeof(text), SCORE_FORMAT, score);
	return strtod(text, NULL);
}

static void write_result(struct buf *b, const struct search *s, const struct candidate *c)
{
	buf_add(b, c->body, c->body_len - 1);
	write_score(b, "score", c->score, false);
	buf_adds(b, ",\"scores\":{");
	bool first = isnan(c->text);
	write_score(b, "text", c->text, true);
	write_score(b, "vector", c->vector, first);
	first = first && isnan(c->vector);
	if (s->mode == SEARCH_HYBRID) {
		write_score(b, "fused", c->fused, first);
		write_score(b, "neighbours", c->lent, false);
		write_score(b, "speaker", c->speaker, false);
	}
	buf_addc(b, '}');
	if (s->explain)
		buf_printf(b, ",\"tier\":\"%s\"", c->tier);
	buf_addc(b, '}');
}

static void write_explain(struct buf *b, const struct search *s, const struct lists *l)
{
	static const char *const modes[] = {"hybrid", "text", "vector"};
	buf_printf(
		b,
		",\"explain\":{\"mode\":\"%s\",\"candidates\":{\"text\":%zu,\"vector\":%zu,\"pending\":%zu},\"scanned\":%zu,"
		"\"timings_us\":{\"embed\":%lld,\"pending\":%lld,\"filter\":%lld,\"text\":%lld,\"vector\":%lld,\"fuse\":%lld,\"fill\":%lld}}",
		modes[s->mode], l->ntext, l->nvector, s->npending, s->scanned, (long long)s->us_embed,
		(long long)s->us_pending, (long long)s->us_filter, (long long)s->us_text, (long long)s->us_vector,
		(long long)s->us_fuse, (long long)s->us_fill);
}

static void write_answer(struct call *c, struct search *s, const struct lists *l)
{
	struct buf *b = &c->reply.body;
	size_t n = 0;
	buf_adds(b, "{\"results\":[");
	for (size_t i = 0; i < s->c.n && n < s->limit; i++) {
		struct candidate *x = &s->c.v[i];
		if (!x->body || (s->have_min && shown(x->score) < s->min_score))
			continue;
		if (n++)
			buf_addc(b, ',');
		write_result(b, s, x);
	}
	buf_printf(b, "],\"degraded\":[%s]", s->degraded_vector ? "\"vector\"" : "");
	if (s->explain)
		write_explain(b, s, l);
	buf_addc(b, '}');
	c->reply.status = 200;
}

static void search_read(struct call *c, struct reader *rd)
{
	struct search *s = c->state;
	struct lists l = {.ntext = 0};
	int64_t at = clock_mono_us();
	if (!parse(c, s))
		return;
	stats_add_shared(c->api->w->stats, STAT_SEARCHES, 1);
	const struct plant_namespace *row = plant_find(c->api->plant, record_ns(s->ns));
	if (!row || !atomic_load_explicit(&row->exists, memory_order_acquire)) {
		write_answer(c, s, &l); /* nothing was ever stored there */
		return;
	}
	if (!find_vector(c, s, row))
		return;
	s->us_embed = lap(&at);
	l.have_vector = s->mode != SEARCH_TEXT && s->x;
	/* Where vectors cannot answer a text, words do, and the reply says so. */
	l.have_text = s->query.p && (s->mode != SEARCH_VECTOR || s->degraded_vector);
	l.depth = 4 * s->limit > DEPTH ? 4 * s->limit : DEPTH;
	l.text = util_alloc(l.depth * sizeof(*l.text));
	l.vector = util_alloc(l.depth * sizeof(*l.vector));
	enum read_rc rc = make_lists(s, rd, &l);
	if (rc == READ_OK) {
		take_scores(s, &l);
		rc = rank(s, rd);
	}
	if (rc == READ_OK)
		write_answer(c, s, &l);
	else
		problem_store(c, rd->error ? rd->error : rd->shared->ops->error(rd->store));
	free(l.text);
	free(l.vector);
}

void search_memories(struct call *c)
{
	struct search *s = util_zalloc(sizeof(*s));
	s->limit = LIMIT_DEFAULT;
	draft_init(&s->vector);
	c->state = s;
	c->free_state = search_free;
	s->text = http_body_take(c->req, &s->len);
	call_read(c, search_read);
}
