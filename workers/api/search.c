/* POST /v1/memories/search. */
#include "search_cache.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "handlers.h"

#define QUERY_MAX 8192
#define SEEDS 50 /* fused candidates that go on and lend, at least */
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
	if (strcmp(key, "recall") == 0)
		return number(c, key, v, 0.5, 1, &s->recall);
	if (strcmp(key, "probes") == 0) {
		if (!json_is_integer(v) || !number(c, key, v, 1, 65536, &x))
			return refuse(c, key, "must be a whole number from 1 to 65536");
		s->probes = (uint32_t)x;
		return true;
	}
	if (strcmp(key, "explain") == 0 || strcmp(key, "exact") == 0) {
		*(strcmp(key, "exact") == 0 ? &s->exact : &s->explain) = json_is_true(v);
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
		"recall, probes, exact, explain",
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
static bool find_vector(struct call *c, struct reader *rd, struct search *s, const struct plant_namespace *row)
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
	if (search_cache_vector(rd, e, s->query, s->own_x)) {
		s->x = s->own_x;
		s->dim = e->dimensions;
	}
	return true;
}

/* ---- from lists to candidates ---- */

int64_t search_lap(int64_t *at)
{
	int64_t now = clock_mono_us(), d = now - *at;
	*at = now;
	return d;
}

static void take_scores(struct search *s, const struct lists *l)
{
	struct uuid *t = util_alloc((l->ntext + 1) * sizeof(*t)), *v = util_alloc((l->nvector + 1) * sizeof(*v));
	for (size_t i = 0; i < l->ntext; i++) {
		t[i] = l->text[i].id;
		candidate_at(&s->c, &t[i])->text = l->text[i].score;
	}
	for (size_t i = 0; i < l->nvector; i++) {
		v[i] = l->vector[i].id;
		candidate_at(&s->c, &v[i])->vector = l->vector[i].score;
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
	s->us_fuse = search_lap(&at);
	rc = rank_fill(s, rd, all ? s->c.n : top);
	if (rc != READ_OK)
		return rc;
	if (s->mode == SEARCH_HYBRID)
		rank_speaker(s, top);
	rank_adjust(s, clock_real_us());
	rank_diversify(s, rd, s->limit);
	s->us_fill = search_lap(&at);
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
		",\"explain\":{\"mode\":\"%s\",\"candidates\":{\"text\":%zu,\"vector\":%zu,\"pending\":%zu},\"scanned\":%zu,",
		modes[s->mode], l->ntext, l->nvector, s->npending, s->scanned);
	if (s->text_tier)
		buf_printf(b, "\"text_tier\":\"%s\",", s->text_tier);
	if (s->vector_tier)
		buf_printf(b, "\"vector_tier\":\"%s\",", s->vector_tier);
	if (s->trace.lists)
		buf_printf(b, "\"vector_lists\":{\"lists\":%u,\"read\":%u,\"codes\":%llu,\"compared\":%llu},",
			   s->trace.lists, s->trace.probed, (unsigned long long)s->trace.codes,
			   (unsigned long long)s->trace.rows);
	buf_printf(
		b,
		"\"timings_us\":{\"embed\":%lld,\"pending\":%lld,\"filter\":%lld,\"text\":%lld,\"vector\":%lld,\"fuse\":%lld,\"fill\":%lld}}",
		(long long)s->us_embed, (long long)s->us_pending, (long long)s->us_filter, (long long)s->us_text,
		(long long)s->us_vector, (long long)s->us_fuse, (long long)s->us_fill);
}

static void write_degraded(struct buf *b, const struct search *s)
{
	const char *const what[] = {s->degraded_store ? "store" : NULL, s->degraded_text ? "text" : NULL,
				    s->degraded_vector ? "vector" : NULL, s->degraded_feed ? "feed" : NULL};
	bool first = true;
	buf_adds(b, "],\"degraded\":[");
	for (size_t i = 0; i < ARRAY_LEN(what); i++) {
		if (what[i])
			buf_printf(b, "%s\"%s\"", first ? "" : ",", what[i]);
		first = first && !what[i];
	}
	buf_addc(b, ']');
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
	write_degraded(b, s);
	if (s->explain)
		write_explain(b, s, l);
	buf_addc(b, '}');
	c->reply.status = 200;
}

void search_store_failed(struct search *s, struct reader *rd, enum store_rc rc)
{
	s->degraded_store = true;
	if (rc == STORE_AWAY)
		reader_offline(rd, true);
}

static bool nothing_to_show(const struct search *s)
{
	for (size_t i = 0; i < s->c.n; i++)
		if (s->c.v[i].body)
			return false;
	return true;
}

static void record_stages(struct stats_slot *stats, const struct search *s)
{
	const struct {
		enum hist_id id;
		int64_t us;
	} stages[] = {{HIST_STAGE_EMBED, s->us_embed},	 {HIST_STAGE_PENDING, s->us_pending},
		      {HIST_STAGE_FILTER, s->us_filter}, {HIST_STAGE_TEXT, s->us_text},
		      {HIST_STAGE_VECTOR, s->us_vector}, {HIST_STAGE_FUSE, s->us_fuse},
		      {HIST_STAGE_FILL, s->us_fill}};
	for (size_t i = 0; i < ARRAY_LEN(stages); i++)
		if (stages[i].us > 0) /* else it did not take place */
			stats_record_shared(stats, stages[i].id, (uint64_t)stages[i].us * 1000);
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
		if (plant_store_known(c->api->plant))
			write_answer(c, s, &l); /* nothing was ever stored there */
		else
			problem_no_namespace(c);
		return;
	}
	search_cache_begin(s, row);
	if (!find_vector(c, rd, s, row))
		return;
	s->us_embed = search_lap(&at);
	l.have_vector = s->mode != SEARCH_TEXT && s->x;
	/* Where vectors cannot answer a text, words do, and the reply says so. */
	l.have_text = s->query.p && (s->mode != SEARCH_VECTOR || s->degraded_vector);
	l.depth = store_nearest_depth(s->limit);
	l.text = util_alloc(l.depth * sizeof(*l.text));
	l.vector = util_alloc(l.depth * sizeof(*l.vector));
	enum read_rc rc = lists_make(s, rd, &l);
	if (rc == READ_OK) {
		take_scores(s, &l);
		unsigned step = trace_enter(TRACE_SEARCH_RANK);
		rc = rank(s, rd);
		trace_leave_with(step, TRACE_KEYS, 0, rc == READ_ERROR);
		record_stages(rd->shared->stats, s);
	}
	if (rc == READ_OK && !(s->degraded_store && nothing_to_show(s)))
		write_answer(c, s, &l);
	else
		problem_store(c, rd->error ? rd->error : rd->shared->ops->error(rd->store));
	search_cache_keep(c, rd, s);
	reader_offline(rd, false);
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
	if (search_cache_serve(c, s))
		return;
	s->degraded_feed = !s->feed_heard;
	c->finish = search_cache_finish;
	call_read(c, search_read);
}
