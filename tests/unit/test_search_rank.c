/* Ranking: fusion of the two lists, what neighbours are lent, the speaker rule, age and importance, diversity. Expected values are
 * worked out here from the formulas in docs/decisions.md, not copied from the program. Broken code this would catch: a list that
 * weighs in though it cannot exist, an order that depends on chance, a factor that raises what it should lower, a
 * candidate lost or freed twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/api.h"

#include "api/search_rank.c"

static struct uuid id(unsigned n)
{
	struct uuid u = {{0}};
	u.b[14] = (uint8_t)(n >> 8);
	u.b[15] = (uint8_t)n;
	return u;
}
static unsigned number(const struct uuid *u) { return (unsigned)u->b[14] << 8 | u->b[15]; }

static void near(double a, double b)
{
	if (!(fabs(a - b) < 1e-12))
		fail_msg("%.17g is not %.17g", a, b);
}

static const struct candidate *at(const struct candidates *c, unsigned n)
{
	for (size_t i = 0; i < c->n; i++)
		if (number(&c->v[i].id) == n)
			return &c->v[i];
	fail_msg("%u is missing", n);
	return NULL;
}

static void order_is(const struct candidates *c, const unsigned *want, size_t n)
{
	assert_int_equal(c->n, n);
	for (size_t i = 0; i < n; i++)
		if (number(&c->v[i].id) != want[i])
			fail_msg("place %zu: %u instead of %u", i, number(&c->v[i].id), want[i]);
}
#define ORDER(c, ...) order_is(c, (const unsigned[]){__VA_ARGS__}, ARRAY_LEN(((const unsigned[]){__VA_ARGS__})))

/* ---- the reader around it ---- */

static struct store_neighbour around[8][4];
static size_t n_around[8];
static bool store_fails;
static struct {
	char body[200];
	uint64_t ns;
	float x[2];
	bool gone, fails;
} stored[16];
static unsigned freed;

static enum store_rc neighbours(struct store *s, const struct uuid *u, int64_t now, struct store_neighbour out[4],
				size_t *n_r)
{
	unsigned n = number(u);
	(void)s, (void)now;
	if (n >= ARRAY_LEN(around))
		return STORE_ERROR;
	memcpy(out, around[n], sizeof(around[n]));
	*n_r = n_around[n];
	return STORE_OK;
}

static enum store_rc blamed;
void search_store_failed(struct search *s, struct reader *r, enum store_rc rc)
{
	s->degraded_store = true;
	blamed = rc;
	(void)r;
}
bool reader_store(struct reader *r) { return (void)r, !store_fails; }
void tiers_read(struct reader *r, struct tier_item *v, size_t n, bool reload)
{
	(void)r, (void)reload;
	for (size_t i = 0; i < n; i++) {
		unsigned k = number(&v[i].id);
		v[i].tier = TIER_STORE;
		v[i].rc = stored[k].fails ? READ_ERROR : stored[k].gone ? READ_NONE : READ_OK;
		if (v[i].rc != READ_OK)
			continue;
		v[i].meta = (struct cache_meta){.ns = stored[k].ns, .version = k};
		v[i].len = strlen(stored[k].body);
		v[i].body = util_strndup(stored[k].body, v[i].len);
	}
}
void tier_items_free(struct tier_item *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(v[i].body);
}
const char *tier_name(enum tier t) { return (void)t, "test"; }
enum read_rc reader_get(struct reader *r, const struct uuid *u, bool with_embedding, struct held *h)
{
	unsigned n = number(u);
	(void)r;
	assert_true(with_embedding);
	if (stored[n].gone)
		return READ_NONE;
	h->m = (struct memory){.embedding = stored[n].x, .dim = 2};
	return READ_OK;
}
void held_free(struct held *h) { (void)h, freed++; }

static const struct store_ops ops = {.neighbours = neighbours};
static struct shared shared = {.ops = &ops};
static struct reader reader = {.shared = &shared};

/* ---- the set ---- */

static void found_or_appended(void **state)
{
	(void)state;
	struct candidates c = {.v = NULL};
	for (unsigned i = 0; i < 700; i++) {
		struct uuid u = id(i * 11 % 700);
		candidate_at(&c, &u)->version = i * 11 % 700;
	}
	assert_int_equal(c.n, 700);
	for (unsigned i = 0; i < 700; i++) {
		struct uuid u = id(i);
		assert_int_equal(candidate_at(&c, &u)->version, i);
	}
	assert_int_equal(c.n, 700);
	assert_true(isnan(c.v[3].text) && isnan(c.v[3].vector) && c.v[3].speaker == 1);
	candidates_free(&c);
	assert_null(c.v);
}

/* ---- fusion ---- */

static void fuses_both_lists(void **state)
{
	(void)state;
	const struct uuid text[] = {id(1), id(2), id(3)}, vector[] = {id(3), id(4), id(1)};
	struct candidates c = {.v = NULL};
	rank_fuse(&c, text, 3, vector, 3, true, true, 10);
	/* 3/(5+r) + 1/(5+r), against both first: 4/6 */
	near(at(&c, 1)->score, (3.0 / 6 + 1.0 / 8) / (4.0 / 6));
	near(at(&c, 2)->score, (3.0 / 7) / (4.0 / 6));
	near(at(&c, 3)->score, (3.0 / 8 + 1.0 / 6) / (4.0 / 6));
	near(at(&c, 4)->score, (1.0 / 7) / (4.0 / 6));
	ORDER(&c, 1, 3, 2, 4);
	candidates_free(&c);
	rank_fuse(&c, text, 1, text, 1, true, true, 10);
	near(c.v[0].score, 1); /* first in both: the best there is */
	candidates_free(&c);
}

/* A list that cannot exist leaves all the weight to the other; one that is merely empty does not. */
static void a_missing_list(void **state)
{
	(void)state;
	const struct uuid ids[] = {id(1), id(2)};
	struct candidates c = {.v = NULL};
	rank_fuse(&c, ids, 2, NULL, 0, true, false, 10);
	near(at(&c, 1)->score, 1);
	near(at(&c, 2)->score, 6.0 / 7);
	candidates_free(&c);
	rank_fuse(&c, NULL, 0, ids, 2, false, true, 10);
	near(at(&c, 1)->score, 1);
	candidates_free(&c);
	rank_fuse(&c, NULL, 0, ids, 2, true, true, 10);
	near(at(&c, 1)->score, 0.25);
	candidates_free(&c);
	rank_fuse(&c, NULL, 0, NULL, 0, true, true, 10);
	assert_int_equal(c.n, 0);
	rank_sort(&c);
	candidates_free(&c);
}

static void keeps_the_best(void **state)
{
	(void)state;
	struct uuid ids[50];
	struct candidates c = {.v = NULL};
	for (unsigned i = 0; i < 50; i++)
		ids[i] = id(49 - i);
	rank_fuse(&c, ids, 50, NULL, 0, true, true, 3);
	ORDER(&c, 49, 48, 47);
	rank_fuse(&c, NULL, 0, NULL, 0, true, true, 0);
	assert_int_equal(c.n, 0);
	candidates_free(&c);
}

/* Equal scores: by id, whatever order they came in. */
static void ties_are_settled(void **state)
{
	(void)state;
	for (unsigned turn = 0; turn < 5; turn++) {
		struct candidates c = {.v = NULL};
		for (unsigned i = 0; i < 5; i++) {
			struct uuid u = id((i * 3 + turn) % 5);
			candidate_at(&c, &u)->score = 0.5;
		}
		rank_sort(&c);
		ORDER(&c, 0, 1, 2, 3, 4);
		candidates_free(&c);
	}
}

/* ---- neighbours ---- */

static void lends_to_neighbours(void **state)
{
	(void)state;
	const struct uuid seeds[] = {id(1), id(2)};
	struct search s = {.mode = SEARCH_HYBRID};
	memset(n_around, 0, sizeof(n_around));
	around[1][0] = (struct store_neighbour){.id = id(2), .distance = 1};
	around[1][1] = (struct store_neighbour){.id = id(3), .distance = 2};
	around[1][2] = (struct store_neighbour){.id = id(5), .distance = -1};
	n_around[1] = 3;
	around[2][0] = (struct store_neighbour){.id = id(3), .distance = 1};
	around[2][1] = (struct store_neighbour){.id = id(1), .distance = -2};
	n_around[2] = 2;
	around[3][0] = (struct store_neighbour){.id = id(6), .distance = 1}; /* not transitive: 3 is no seed */
	n_around[3] = 1;
	rank_fuse(&s.c, seeds, 2, NULL, 0, true, false, 10);
	rank_lend(&s, &reader);
	double f1 = 1, f2 = 6.0 / 7, most = (1 + 2 * 0.5 + 2 * 0.25) * 1.5;
	assert_int_equal(s.c.n, 4);
	near(at(&s.c, 1)->score, (f1 + 0.25 * f2) / most);
	near(at(&s.c, 2)->score, (f2 + 0.5 * f1) / most);
	near(at(&s.c, 3)->score, (0.25 * f1 + 0.5 * f2) / most);
	near(at(&s.c, 5)->score, 0.5 * f1 / most);
	ORDER(&s.c, 2, 1, 3, 5);
	candidates_free(&s.c);
	store_fails = true; /* the lists alone, then */
	rank_fuse(&s.c, seeds, 2, NULL, 0, true, false, 10);
	rank_lend(&s, &reader);
	ORDER(&s.c, 1, 2);
	near(at(&s.c, 1)->score, 1);
	store_fails = false;
	candidates_free(&s.c);
}

/* ---- the speaker rule ---- */

static bool speaks(const char *content, const char *query)
{
	struct search s = {.query = SPAN(query)};
	struct buf b = {0};
	struct uuid one = id(1);
	struct candidate *c = candidate_at(&s.c, &one);
	c->score = 0.25;
	buf_printf(&b, "{\"id\":\"x\",\"namespace\":\"n\",\"content\":\"%s\",\"importance\":0.5}", content);
	c->body = util_strndup(b.p, b.len); /* exact: nothing behind may be read */
	c->body_len = b.len;
	rank_speaker(&s, 10);
	bool yes = s.c.v[0].speaker > 1;
	near(s.c.v[0].score, yes ? 0.375 : 0.25);
	candidates_free(&s.c);
	buf_free(&b);
	return yes;
}

static void the_speaker(void **state)
{
	(void)state;
	assert_true(speaks("Caroline: I went", "what did Caroline do?"));
	assert_true(speaks("Caroline: I went", "CAROLINE's plans"));
	assert_true(speaks("Ada Lovelace: hm", "did lovelace or Ada say"));
	assert_true(speaks("A b c: hm", "c b a"));
	assert_true(speaks("Zo\xc3\xab: hm", "where is Zo\xc3\xab"));
	/* clang-format off */
	static const char *const no[][2] = {
		{"Caroline: I went", "what did Carol do?"}, {"Carol: I went", "what did Caroline do?"}, {"Caroline:I went", "Caroline"},
		{"Caroline said: no", "Caroline"}, {"Caroline", "Caroline"}, {"Caroline:", "Caroline"}, {"", "Caroline"}, {": x", "x"},
		{" Caroline: x", "Caroline"}, {"Caroline : x", "Caroline"}, {"a b c d: x", "a b c d"}, {"Ada Lovelace: x", "Ada"}, {"Caroline: x", ""},
		{"Caroline-Anne: x", "Caroline Anne"}, {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		if (speaks(no[i][0], no[i][1]))
			fail_msg("\"%s\" for \"%s\"", no[i][0], no[i][1]);
}

static void only_the_top_speaks(void **state)
{
	(void)state;
	struct search s = {.query = SPAN_LIT("Ada")};
	for (unsigned i = 0; i < 4; i++) {
		struct uuid u = id(i);
		struct candidate *c = candidate_at(&s.c, &u);
		c->score = 1 - i * 0.1;
		if (i == 3)
			continue; /* nobody filled it in */
		c->body = util_strndup("{\"id\":\"\",\"content\":\"Ada: x\"}", 29);
		c->body_len = 28;
	}
	free(s.c.v[0].body);
	s.c.v[0].body = NULL;
	rank_speaker(&s, 2);
	ORDER(&s.c, 1, 0, 2, 3);
	near(s.c.v[0].score, 0.9 * 1.5);
	near(at(&s.c, 2)->score, 0.8);
	candidates_free(&s.c);
}

/* ---- age and importance ---- */

#define NOW 1795239518123456
static struct search aged(double score, const char *created, double importance)
{
	struct search s = {.half_life_s = 0};
	struct uuid one = id(1);
	struct candidate *c = candidate_at(&s.c, &one);
	struct buf b = {0};
	buf_printf(&b, "{\"created_at\":\"%s\",\"importance\":%g}", created, importance);
	c->score = score;
	c->body = b.p;
	c->body_len = b.len;
	return s;
}

static double adjusted(struct search s)
{
	rank_adjust(&s, NOW);
	double score = s.c.v[0].score;
	candidates_free(&s.c);
	return score;
}

static void age_and_importance(void **state)
{
	(void)state;
	static const char now[] = "2026-11-21T05:38:38.123456Z", day_before[] = "2026-11-20T05:38:38.123456Z",
			  after[] = "2027-01-01T00:00:00Z";
	struct search s = aged(0.8, day_before, 0.5);
	near(adjusted(s), 0.8); /* nothing asked for */
	s = aged(0.8, day_before, 0.5);
	s.half_life_s = 86400;
	near(adjusted(s), 0.4);
	s = aged(0.8, day_before, 0.5);
	s.half_life_s = 43200;
	near(adjusted(s), 0.2);
	s = aged(0.8, now, 0.5);
	s.half_life_s = 1;
	near(adjusted(s), 0.8);
	s = aged(0.8, after, 0.5); /* the future is no younger than now */
	s.half_life_s = 1;
	near(adjusted(s), 0.8);
	s = aged(0.8, now, 0.25);
	s.importance_weight = 0.5;
	near(adjusted(s), 0.8 * (0.5 + 0.125));
	s = aged(0.8, now, 0);
	s.importance_weight = 1;
	near(adjusted(s), 0);
	s = aged(-0.8, day_before, 0.5); /* a negative score sinks, it does not rise */
	s.half_life_s = 86400;
	near(adjusted(s), -0.8 * 1.5);
	s = aged(0.8, "never", 0.5); /* as old as can be */
	s.half_life_s = 86400;
	assert_true(adjusted(s) < 1e-9);
}

static void adjusting_sorts_again(void **state)
{
	(void)state;
	struct search s = {.half_life_s = 86400};
	static const char *const created[] = {"2026-11-01T00:00:00Z", "2026-11-21T00:00:00Z", NULL};
	for (unsigned i = 0; i < 3; i++) {
		struct uuid u = id(i);
		struct candidate *c = candidate_at(&s.c, &u);
		c->score = 0.9 - i * 0.1;
		if (!created[i])
			continue;
		struct buf b = {0};
		buf_printf(&b, "{\"created_at\":\"%s\",\"importance\":1}", created[i]);
		c->body = b.p;
		c->body_len = b.len;
	}
	rank_adjust(&s, NOW);
	ORDER(&s.c, 2, 1, 0); /* without a body: untouched */
	candidates_free(&s.c);
}

/* ---- bodies ---- */

static void fills_and_drops(void **state)
{
	(void)state;
	struct search s = {.ns = SPAN_LIT("home")};
	memset(stored, 0, sizeof(stored));
	for (unsigned i = 0; i < 8; i++) {
		struct uuid u = id(i);
		struct candidate *c = candidate_at(&s.c, &u);
		c->score = 1 - i * 0.1;
		c->x = util_zalloc(8); /* given back with what is dropped */
		stored[i].ns = record_ns(SPAN_LIT("home"));
		snprintf(stored[i].body, sizeof(stored[i].body), "{%u}", i);
	}
	stored[1].gone = true;
	stored[2].ns = record_ns(SPAN_LIT("away")); /* moved? never shown to this namespace */
	assert_int_equal(rank_fill(&s, &reader, 3), READ_OK);
	ORDER(&s.c, 0, 3, 4, 5, 6, 7);
	for (size_t i = 0; i < s.c.n; i++)
		assert_true(!!s.c.v[i].body == (i < 3)); /* the places of the dropped are filled up */
	assert_string_equal(s.c.v[1].tier, "test");
	assert_int_equal(s.c.v[1].version, 3);
	assert_memory_equal(s.c.v[1].body, "{3}", 3);
	char *before = s.c.v[0].body;
	assert_int_equal(rank_fill(&s, &reader, 4), READ_OK);
	assert_ptr_equal(s.c.v[0].body, before); /* not read again */
	assert_non_null(s.c.v[3].body);
	stored[6].fails = true;
	assert_int_equal(rank_fill(&s, &reader, 6), READ_ERROR);
	assert_false(s.degraded_store);
	reader.store_failed = true; /* then what can be read is shown */
	assert_int_equal(rank_fill(&s, &reader, 6), READ_OK);
	assert_true(s.degraded_store && blamed == STORE_AWAY);
	ORDER(&s.c, 0, 3, 4, 5, 7);
	assert_non_null(s.c.v[4].body);
	reader.store_failed = false;
	candidates_free(&s.c);
}

/* ---- diversity ---- */

static void diverse(double how_much, const float (*x)[2], size_t n, size_t want, struct search *s)
{
	*s = (struct search){.diversity = how_much};
	memset(stored, 0, sizeof(stored));
	for (unsigned i = 0; i < n; i++) {
		struct uuid u = id(i);
		candidate_at(&s->c, &u)->score = 1 - i * 0.05;
		memcpy(stored[i].x, x[i], sizeof(stored[i].x));
	}
	rank_diversify(s, &reader, want);
	assert_int_equal(s->c.n, n);
}

static void diversity(void **state)
{
	(void)state;
	static const float x[][2] = {{1, 0}, {2, 0}, {0.9f, 0.1f}, {0, 1}, {0, 3}, {-1, 0}};
	struct search s;
	diverse(0, x, 6, 6, &s);
	ORDER(&s.c, 0, 1, 2, 3, 4, 5);
	candidates_free(&s.c);
	/* The first stays; then whoever is best at 0.5 × score − 0.5 × likeness to those before (opposite is no
	 * more than unlike): 3 (.425), 5 (.375), and then those like one of them: 1 (−.025), 2 (−.047), 4 (−.1). */
	diverse(0.5, x, 6, 6, &s);
	ORDER(&s.c, 0, 3, 5, 1, 2, 4);
	candidates_free(&s.c);
	diverse(0.5, x, 6, 1, &s); /* one is wanted: nothing to be unlike */
	ORDER(&s.c, 0, 1, 2, 3, 4, 5);
	candidates_free(&s.c);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(found_or_appended), cmocka_unit_test(fuses_both_lists), cmocka_unit_test(a_missing_list),
		cmocka_unit_test(keeps_the_best), cmocka_unit_test(ties_are_settled), cmocka_unit_test(lends_to_neighbours),
		cmocka_unit_test(the_speaker), cmocka_unit_test(only_the_top_speaks), cmocka_unit_test(age_and_importance),
		cmocka_unit_test(adjusting_sorts_again), cmocka_unit_test(fills_and_drops), cmocka_unit_test(diversity)};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
