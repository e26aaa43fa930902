/* Text analysis: stems, stop words, places, and the binary tsvector. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "words/words.h"

static struct words *w;

/* "stem:count ~stop:count …" of a copy of exactly len bytes, so that the sanitizer sees any read past the end. */
static const char *analysis(const char *text, size_t len)
{
	static char out[4096];
	struct words_text t;
	struct buf b = {0};
	char *copy = malloc(len ? len : 1);
	memcpy(copy, text, len);
	words_analyze(w, (struct span){copy, len}, &t);
	free(copy);
	for (size_t i = 0; i < t.n; i++)
		buf_printf(&b, "%s%s%.*s:%u", i ? " " : "", t.v[i].stop ? "~" : "", (int)t.v[i].stem.len, t.v[i].stem.p,
			   t.v[i].count);
	snprintf(out, sizeof(out), "%.*s", (int)b.len, b.p ? b.p : "");
	buf_free(&b);
	return out;
}
#define ANALYSIS(text, expected) assert_string_equal(analysis(text, sizeof(text) - 1), expected)

static void stems(void **state)
{
	(void)state;
	for (int round = 0; round < 2; round++) { /* once stemmed, once from the cache */
		ANALYSIS("", "");
		ANALYSIS(" ,.! ", "");
		ANALYSIS("Ada likes her teas, she LIKED tea", "ada:1 like:2 ~her:1 tea:2 ~she:1");
		ANALYSIS("relational conditional vietnamization happiness", "relat:1 condit:1 vietnam:1 happi:1");
		/* two letters have no suffix, though Porter would make "a" of "as" */
		ANALYSIS("is as us ms 4s gas", "~is:1 ~as:1 ~us:1 ms:1 4s:1 ga:1");
		ANALYSIS("Crème brûlée, creme BRULEE; ﬂying", "creme:2 brule:2 fly:1");
		ANALYSIS("internationalization antidisestablishmentarianism",
			 "internation:1 antidisestablishmentarian:1");
		ANALYSIS("東京tower 東", "東:2 京:1 tower:1");
		ANALYSIS("user@example.com 3.5%", "user:1 exampl:1 com:1 3:1 5:1");
	}
}

static void possessives(void **state)
{
	(void)state;
	ANALYSIS("James's James’s James jamess", "jame:3 jamess:1");
	ANALYSIS("Chris's boys' rock'n'roll don't it's 's", "chri:1 boi:1 rocknrol:1 ~dont:1 ~it:1 ~s:1");
	ANALYSIS("x's's", "xs:1"); /* the last one only is a possessive */
}

static void stop_words(void **state)
{
	struct words_text t;
	struct word v[4];
	(void)state;
	assert_true(words_is_stop(SPAN("a")) && words_is_stop(SPAN("youve")) && words_is_stop(SPAN("yourselves")));
	assert_true(words_is_stop(SPAN("don")) && words_is_stop(SPAN("t")));
	assert_false(words_is_stop(SPAN("")) || words_is_stop(SPAN("yo")) || words_is_stop(SPAN("ill")) ||
		     words_is_stop(SPAN("zebra")));
	words_analyze(w, SPAN("the cat and the hat"), &t);
	assert_int_equal(t.length, 5);
	assert_int_equal(t.counting, 2);
	assert_false(word_counts(&t, &t.v[0]));
	assert_true(word_counts(&t, &t.v[1]));
	words_analyze(w, SPAN("who are you"), &t);
	assert_int_equal(t.counting, 3);
	assert_true(word_counts(&t, &t.v[0]));
	/* "others" is none, and has the stem of one */
	ANALYSIS("other others", "other:2");
	assert_int_equal(words_query(w, SPAN("the cat and the hat and the cat"), v, 4), 2);
	assert_true(span_eq(v[1].stem, SPAN("hat")));
	assert_int_equal(words_query(w, SPAN("to be or not to be"), v, 4), 4);
	assert_int_equal(words_query(w, SPAN("one two three four five six"), v, 4), 4);
	assert_int_equal(words_query(w, SPAN("…"), v, 4), 0);
}

static void places(void **state)
{
	struct words_text t;
	(void)state;
	words_analyze(w, SPAN("tea for two, two for tea; tea"), &t);
	assert_int_equal(t.length, 7);
	uint32_t at = t.v[0].first;
	assert_int_equal(at, 0);
	assert_int_equal(at = t.next[at], 5);
	assert_int_equal(at = t.next[at], 6);
	assert_int_equal(at, t.v[0].last);
	assert_true(t.next[at] >= t.length);
}

static void tsvector(void **state)
{
	/* sorted bytewise, shorter first; "the" left out, and its place with it */
	static const char expected[] = "\0\0\0\4"
				       "app\0\0\1\0\4"
				       "appl\0\0\2\0\2\0\5"
				       "tea\0\0\1\0\3"
				       "\xD1\x8F\0\0\1\0\6";
	struct buf b = {0};
	(void)state;
	buf_addc(&b, '!');
	words_tsvector(w, SPAN("the apple tea app apples \xD1\x8F"), &b);
	assert_int_equal(b.len, sizeof(expected));
	assert_memory_equal(b.p + 1, expected, sizeof(expected) - 1);
	b.len = 0;
	words_tsvector(w, SPAN(""), &b);
	assert_int_equal(b.len, 4);
	assert_memory_equal(b.p, "\0\0\0\0", 4);
	b.len = 0;
	words_tsvector(w, SPAN("The THE"), &b);
	assert_int_equal(b.len, 4 + 4 + 2 + 4);
	buf_free(&b);
}

static uint32_t be(const char *p, size_t n)
{
	uint32_t v = 0;
	for (size_t i = 0; i < n; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static void limits(void **state)
{
	struct buf text = {0}, b = {0};
	(void)state;
	for (int i = 0; i < 20000; i++)
		buf_adds(&text, "tea ");
	buf_adds(&text, "rare");
	words_tsvector(w, (struct span){text.p, text.len}, &b);
	assert_int_equal(be(b.p, 4), 2);
	assert_memory_equal(b.p + 4, "rare\0\0\0tea\0\0\xFF\0\1\0\2", 17); /* rare: found, at no place */
	/* more than a tsvector may hold: the first ones are in */
	text.len = b.len = 0;
	for (int i = 0; text.len < 2 * WORDS_TEXT_MAX; i++)
		buf_printf(&text, "%x ", i);
	words_tsvector(w, (struct span){text.p, text.len}, &b);
	assert_true(be(b.p, 4) > 50000 && be(b.p, 4) < 150000);
	assert_memory_equal(b.p + 4,
			    "0\0\0\1\0\1"
			    "1\0\0\1\0\2",
			    12);
	buf_free(&text);
	buf_free(&b);
}

/* The table that words meet in is made for a text: a small one after a large one, and the other way round. */
static void sizes(void **state)
{
	struct buf text = {0};
	struct words_text t;
	(void)state;
	for (int n = 1; n < 3000; n = n * 3 + 1) {
		text.len = 0;
		for (int i = 0; i < n; i++)
			buf_printf(&text, "%c%c%c ", 'b' + i % 20, 'b' + i / 20 % 20, 'b' + i / 400);
		words_analyze(w, (struct span){text.p, text.len}, &t);
		assert_int_equal(t.length, n);
		assert_int_equal(t.n, n);
		ANALYSIS("small", "small:1");
	}
	buf_free(&text);
}

static int setup(void **state)
{
	(void)state;
	w = words_new();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	words_free(&w);
	return w != NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stems),  cmocka_unit_test(possessives), cmocka_unit_test(stop_words),
		cmocka_unit_test(places), cmocka_unit_test(tsvector),	 cmocka_unit_test(limits),
		cmocka_unit_test(sizes),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
