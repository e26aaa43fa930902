/* Ranking. Constants and their measurement: docs/decisions.md, "Hybrid ranking". */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#include "clock.h"
#include "search.h"

#define RRF_K 5.0 /* reciprocal-rank fusion: weight / (K + rank) */
#define W_TEXT 3.0
#define W_VECTOR 1.0
#define LEND_1 0.5 /* share lent to the neighbours at distance 1 and 2 in the session */
#define LEND_2 0.25
#define SPEAKER 1.5 /* memory begins with "Name:" and the query names Name */
#define SCORE_MAX ((1 + 2 * LEND_1 + 2 * LEND_2) * SPEAKER)
#define LAMBDA_MIN 1e-9

void candidates_free(struct candidates *c)
{
	for (size_t i = 0; i < c->n; i++) {
		free(c->v[i].body);
		free(c->v[i].x);
	}
	free(c->v);
	*c = (struct candidates){.v = NULL};
}

struct candidate *candidate_at(struct candidates *c, const struct uuid *id)
{
	for (size_t i = 0; i < c->n; i++)
		if (uuid_cmp(&c->v[i].id, id) == 0)
			return &c->v[i];
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 256;
		c->v = util_realloc(c->v, c->cap * sizeof(*c->v));
	}
	c->v[c->n] = (struct candidate){.id = *id, .text = NAN, .vector = NAN, .speaker = 1};
	return &c->v[c->n++];
}

static int by_score(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return uuid_cmp(&x->id, &y->id);
}

void rank_sort(struct candidates *c)
{
	if (c->n)
		qsort(c->v, c->n, sizeof(*c->v), by_score);
}

static void cut(struct candidates *c, size_t keep)
{
	while (c->n > keep) {
		c->n--;
		free(c->v[c->n].body);
		free(c->v[c->n].x);
	}
}

/* Weighted reciprocal-rank fusion (Cormack, Clarke, Büttcher 2009), scaled to 0..1. A list that
 * cannot exist (no embedder, no words) leaves all the weight to the other. */
void rank_fuse(struct candidates *c, const struct uuid *text, size_t ntext, const struct uuid *vector, size_t nvector,
	       bool have_text, bool have_vector, size_t keep)
{
	double wt = have_text ? W_TEXT : 0, wv = have_vector ? W_VECTOR : 0;
	double best = (wt + wv) / (RRF_K + 1);
	for (size_t i = 0; i < ntext; i++)
		candidate_at(c, &text[i])->fused += wt / (RRF_K + 1 + (double)i) / best;
	for (size_t i = 0; i < nvector; i++)
		candidate_at(c, &vector[i])->fused += wv / (RRF_K + 1 + (double)i) / best;
	for (size_t i = 0; i < c->n; i++)
		c->v[i].score = c->v[i].fused;
	rank_sort(c);
	cut(c, keep);
}

/* A turn of a conversation is often answered by, or answers, the ones around it: each seed lends a
 * share of its score to its neighbours in the session. One pass, not transitive. */
void rank_lend(struct search *s, struct reader *rd)
{
	size_t seeds = s->c.n;
	int64_t now = clock_real_us();
	if (!reader_store(rd))
		return;
	for (size_t i = 0; i < seeds; i++) {
		struct store_neighbour nb[4];
		size_t n = 0;
		double fused = s->c.v[i].fused;
		struct uuid id = s->c.v[i].id;
		enum store_rc rc = rd->shared->ops->neighbours(rd->store, &id, now, nb, &n);
		if (rc == STORE_AWAY) {
			search_store_failed(s, rd, rc);
			break;
		}
		if (rc != STORE_OK)
			continue;
		for (size_t k = 0; k < n; k++) {
			struct candidate *c = candidate_at(&s->c, &nb[k].id);
			c->lent += (abs(nb[k].distance) == 1 ? LEND_1 : LEND_2) * fused;
		}
	}
	for (size_t i = 0; i < s->c.n; i++)
		s->c.v[i].score = (s->c.v[i].fused + s->c.v[i].lent) / SCORE_MAX;
	rank_sort(&s->c);
}

/* ---- the speaker rule ---- */

/* Where the content's text begins in a canonical body (draft_build.c: id, namespace, content). */
static struct span body_content(const char *body, size_t len)
{
	static const char key[] = "\",\"content\":\"";
	const char *p = memmem(body, len, key, sizeof(key) - 1);
	if (!p)
		return (struct span){NULL, 0};
	p += sizeof(key) - 1;
	return (struct span){p, (size_t)(body + len - p)};
}

static bool word_char(char c) { return isalnum((unsigned char)c) || (unsigned char)c >= 0x80; }

static bool query_has_word(struct span q, const char *w, size_t len)
{
	for (size_t i = 0; i < q.len;) {
		size_t start = i;
		while (i < q.len && word_char(q.p[i]))
			i++;
		if (i - start == len && strncasecmp(q.p + start, w, len) == 0)
			return true;
		i += i == start;
	}
	return false;
}

/* "Caroline: …": one to three words, at most 40 bytes, all of them in the query. */
static bool names_speaker(struct span content, struct span query)
{
	size_t words = 0, i = 0;
	while (i < content.len && i < 40) {
		size_t start = i;
		while (i < content.len && i < 40 && word_char(content.p[i]))
			i++;
		if (i == start || ++words > 3 || !query_has_word(query, content.p + start, i - start))
			return false;
		if (i + 1 < content.len && content.p[i] == ':' && content.p[i + 1] == ' ')
			return true;
		if (i >= content.len || content.p[i] != ' ')
			return false;
		i++;
	}
	return false;
}

void rank_speaker(struct search *s, size_t top)
{
	for (size_t i = 0; i < s->c.n && i < top; i++) {
		struct candidate *c = &s->c.v[i];
		if (c->body && names_speaker(body_content(c->body, c->body_len), s->query)) {
			c->speaker = SPEAKER;
			c->score *= SPEAKER;
		}
	}
	rank_sort(&s->c);
}

/* ---- bodies ---- */

static void read_facts(struct candidate *c)
{
	json_t *o = json_loadb(c->body, c->body_len, 0, NULL);
	const json_t *t = json_object_get(o, "created_at");
	if (!json_is_string(t) || !clock_parse(json_string_value(t), json_string_length(t), &c->created_us))
		c->created_us = 0;
	c->importance = json_number_value(json_object_get(o, "importance"));
	json_decref(o);
}

/* What an answer that is kept must not outlive. */
static void note_end(struct search *s, const struct cache_meta *m)
{
	int64_t gone_us = m->gone_ms ? m->filled_us + (int64_t)m->gone_ms * 1000 : 0;
	if (gone_us && (!s->gone_us || gone_us < s->gone_us))
		s->gone_us = gone_us;
}

/* The candidate's body. False: it is no result. */
static bool take_body(struct search *s, struct candidate *c, struct tier_item *v, uint64_t ns)
{
	if (v->rc != READ_OK || v->meta.ns != ns) /* READ_NONE: deleted since the lists were made */
		return false;
	c->body = v->body;
	c->body_len = v->len;
	c->version = v->meta.version;
	c->tier = tier_name(v->tier);
	v->body = NULL;
	s->degraded_store |= v->away;
	note_end(s, &v->meta);
	return true;
}

/* Bodies for the next `want` candidates from `from` on that have none; those that are gone are taken out. */
static enum read_rc fill_some(struct search *s, struct reader *rd, size_t from, size_t want)
{
	struct tier_item *v = util_zalloc((want + 1) * sizeof(*v));
	size_t n = 0, kept = from, at = 0;
	enum read_rc rc = READ_OK;
	for (size_t i = from; i < s->c.n && n < want; i++)
		if (!s->c.v[i].body)
			v[n++].id = s->c.v[i].id;
	tiers_read(rd, v, n, false);
	for (size_t i = 0; i < n && rc == READ_OK; i++)
		if (v[i].rc == READ_ERROR && !rd->store_failed)
			rc = READ_ERROR;
		else if (v[i].rc == READ_ERROR)
			search_store_failed(s, rd, STORE_AWAY);
	for (size_t i = from; i < s->c.n && rc == READ_OK; i++) {
		struct candidate *c = &s->c.v[i];
		bool stays = c->body || at == n || take_body(s, c, &v[at++], record_ns(s->ns));
		if (stays)
			s->c.v[kept++] = *c;
		else
			free(c->x);
	}
	if (rc == READ_OK)
		s->c.n = kept;
	tier_items_free(v, n);
	free(v);
	return rc;
}

enum read_rc rank_fill(struct search *s, struct reader *rd, size_t top)
{
	enum read_rc rc = READ_OK;
	for (size_t have = 0; rc == READ_OK && have < top;) {
		while (have < s->c.n && have < top && s->c.v[have].body)
			have++;
		if (have == s->c.n || have == top)
			break;
		rc = fill_some(s, rd, have, top - have);
	}
	return rc;
}

void rank_adjust(struct search *s, int64_t now_us)
{
	if (!(s->half_life_s > 0) && !(s->importance_weight > 0))
		return;
	for (size_t i = 0; i < s->c.n; i++) {
		struct candidate *c = &s->c.v[i];
		if (!c->body)
			continue;
		read_facts(c);
		double age_s = now_us > c->created_us ? (double)(now_us - c->created_us) / 1e6 : 0;
		double f = s->half_life_s > 0 ? exp2(-age_s / s->half_life_s) : 1;
		f *= 1 - s->importance_weight + s->importance_weight * c->importance;
		/* a score may be negative (a cosine): shrinking it must not raise it */
		c->score = c->score >= 0 ? c->score * f : c->score * (2 - f);
	}
	rank_sort(&s->c);
}

/* ---- diversity: maximal marginal relevance (Carbonell, Goldstein 1998) ---- */

static bool take_vector(void *arg, const struct memory *m)
{
	struct candidate *c = arg;
	if (m->embedding && m->dim) {
		c->x = util_alloc(m->dim * sizeof(float));
		c->dim = m->dim;
		memcpy(c->x, m->embedding, m->dim * sizeof(float));
	}
	return false;
}

static double similarity(const struct candidate *a, const struct candidate *b)
{
	double dot = 0, na = 0, nb = 0;
	if (!a->x || !b->x || a->dim != b->dim)
		return 0;
	for (uint32_t i = 0; i < a->dim; i++) {
		dot += (double)a->x[i] * b->x[i];
		na += (double)a->x[i] * a->x[i];
		nb += (double)b->x[i] * b->x[i];
	}
	return dot / sqrt(na * nb + LAMBDA_MIN);
}

static void load_vectors(struct search *s, struct reader *rd, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct held h = {.bytes = NULL};
		if (!s->c.v[i].x && reader_get(rd, &s->c.v[i].id, true, &h) == READ_OK)
			take_vector(&s->c.v[i], &h.m);
		held_free(&h);
	}
}

void rank_diversify(struct search *s, struct reader *rd, size_t want)
{
	size_t n = s->c.n < 4 * want ? s->c.n : 4 * want;
	if (n > 200)
		n = 200;
	if (!(s->diversity > 0) || n < 2)
		return;
	double top = fabs(s->c.v[0].score) + LAMBDA_MIN;
	double *nearest = util_zalloc(n * sizeof(*nearest));
	load_vectors(s, rd, n);
	for (size_t i = 1; i < n && i < want; i++) {
		size_t best = i;
		double best_gain = -INFINITY;
		for (size_t k = i; k < n; k++) {
			double sim = similarity(&s->c.v[k], &s->c.v[i - 1]);
			if (sim > nearest[k])
				nearest[k] = sim;
			double gain = (1 - s->diversity) * s->c.v[k].score / top - s->diversity * nearest[k];
			if (gain > best_gain) {
				best_gain = gain;
				best = k;
			}
		}
		struct candidate c = s->c.v[i];
		s->c.v[i] = s->c.v[best];
		s->c.v[best] = c;
		nearest[best] = nearest[i];
	}
	free(nearest);
}
