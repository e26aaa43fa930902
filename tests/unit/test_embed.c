/* The built-in embedder: golden vectors (the bits are a promise to data on disk) and properties. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "embed/embed.h"
#include "embed/fold.h"

#define DIM 1536

/* Embeds a copy of exactly len bytes, so that the sanitizer sees any read past the end. */
static bool embed(const char *p, size_t len, float *x)
{
	char *copy = malloc(len ? len : 1);
	assert_non_null(copy);
	memcpy(copy, p, len);
	struct span t = {copy, len};
	size_t made = embed_hashed()->embed(embed_hashed(), &t, 1, x);
	free(copy);
	assert_true(made <= 1);
	return made == 1;
}

static double cosine(const char *a, const char *b)
{
	float x[DIM], y[DIM];
	double sum = 0;
	assert_true(embed(a, strlen(a), x));
	assert_true(embed(b, strlen(b), y));
	for (size_t i = 0; i < DIM; i++)
		sum += (double)x[i] * (double)y[i];
	return sum;
}

static void assert_same(const char *a, size_t a_len, const char *b, size_t b_len)
{
	float x[DIM], y[DIM];
	assert_int_equal(embed(a, a_len, x), embed(b, b_len, y));
	if (memcmp(x, y, sizeof(x)))
		fail_msg("'%.*s' and '%.*s' differ", (int)a_len, a, (int)b_len, b);
}
#define SAME(a, b) assert_same(a, sizeof(a) - 1, b, sizeof(b) - 1)

/* FNV-1a over the little-endian bytes of all components. */
static uint64_t checksum(const float *x)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	unsigned char b[DIM * sizeof(float)];
	memcpy(b, x, sizeof(b));
	for (size_t i = 0; i < sizeof(b); i++)
		h = (h ^ b[i]) * UINT64_C(0x100000001b3);
	return h;
}

struct golden {
	const char *text;
	uint64_t sum;
	size_t nonzero, first; /* how many components are not 0; the place of the first */
	float value;	       /* its value */
};
static const struct golden golden[] = {
#include "test_embed_golden.h"
};

static void golden_vectors(void **state)
{
	(void)state;
	bool print = getenv("ORC_PRINT_GOLDEN") != NULL;
	for (size_t i = 0; i < ARRAY_LEN(golden); i++) {
		const struct golden *g = &golden[i];
		float x[DIM];
		size_t nonzero = 0, first = 0;
		assert_true(embed(g->text, strlen(g->text), x));
		for (size_t k = DIM; k-- > 0;) {
			if (x[k] != 0.0f) {
				nonzero++;
				first = k;
			}
		}
		if (print) {
			print_message("0x%016llx, %zu, %zu, %af\n", (unsigned long long)checksum(x), nonzero, first,
				      (double)x[first]);
			continue;
		}
		assert_int_equal(nonzero, g->nonzero);
		assert_int_equal(first, g->first);
		assert_true(x[first] == g->value);
		assert_int_equal(checksum(x), g->sum);
	}
}

static void identity(void **state)
{
	(void)state;
	const struct embedder *e = embed_hashed();
	assert_string_equal(e->id, "hash-1536-v1");
	assert_int_equal(e->dimensions, DIM);
	assert_ptr_equal(e, embed_hashed());
}

static void length_is_one(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"a", "7", "the the the", "Hello world", "漢", "an-endless-line-of-dashes-and-words-without-any-space"};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		float x[DIM];
		double sum = 0;
		assert_true(embed(texts[i], strlen(texts[i]), x));
		for (size_t k = 0; k < DIM; k++)
			sum += (double)x[k] * (double)x[k];
		assert_true(fabs(sum - 1) < 1e-6);
	}
}

static void nothing_gives_zero(void **state)
{
	(void)state;
	static const char *const texts[] = {"", " ", "\t\n", "... !?", "'", "\xff\xfe", "\u200d", "──────"};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		float x[DIM];
		x[5] = 9;
		assert_false(embed(texts[i], strlen(texts[i]), x));
		for (size_t k = 0; k < DIM; k++)
			assert_true(x[k] == 0.0f);
	}
}

/* A batch is the same as one after the other, and counts those that are not zero. */
static void batch(void **state)
{
	(void)state;
	struct span texts[] = {SPAN_LIT("one"), SPAN_LIT(""), SPAN_LIT("two words"), {NULL, 0}};
	float *all = malloc(sizeof(float) * DIM * ARRAY_LEN(texts)), x[DIM];
	assert_non_null(all);
	assert_int_equal(embed_hashed()->embed(embed_hashed(), texts, ARRAY_LEN(texts), all), 2);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		embed(texts[i].len ? texts[i].p : "", texts[i].len, x);
		assert_memory_equal(x, all + i * DIM, sizeof(x));
	}
	free(all);
}

static void case_folds(void **state)
{
	(void)state;
	SAME("Hello World", "hELLO wORLD");
	SAME("ΑΛΈΞΑΝΔΡΟΣ", "αλέξανδρος"); /* final sigma as well */
	SAME("ПРИВЕТ, Ёлка", "привет ёлка");
	SAME("ÀÉÎÕÜ ŁÓDŹ ÇA", "àéîõü łódź ça");
	SAME("ԱՐԱՐԱՏ", "արարատ");
	SAME("İSTANBUL", "istanbul");
}

static void forms_fold(void **state)
{
	(void)state;
	SAME("caf\u00e9 na\u00efve", "cafe\u0301 nai\u0308ve"); /* NFC, NFD */
	SAME("café", "cafe");
	SAME("\u0439", "\u0438\u0306"); /* й */
	SAME("\u1ea4n t\u01b0\u1ee3ng", "a\u0302\u0301n tu\u031bo\u031b\u0323ng");
	SAME("Straße", "STRASSE");
	SAME("Ærø œuvre", "aero oeuvre");
	SAME("ﬁle oﬃce", "file office");
	SAME("ＡＢＣ１２３", "abc123");
	SAME("don't", "don’t");
	SAME("soft\u00adhyphen", "softhyphen");
	SAME("a,b;c", "a b c");
	SAME("שָׁלוֹם", "שלום");
}

static void scripts_without_spaces(void **state)
{
	(void)state;
	SAME("東京 都", "東京都"); /* each ideograph is a word: spaces say nothing */
	SAME("ABC漢字def", "abc 漢 字 DEF");
	assert_true(cosine("我喜欢吃苹果", "我喜欢吃香蕉") > 0.3);
	assert_true(cosine("我喜欢吃苹果", "今天天气很好") < 0.2);
	assert_true(cosine("東京", "京東") < 0.95); /* order counts */
	assert_true(cosine("😀 good", "good") < 0.95);
}

static void malformed_utf8_separates(void **state)
{
	(void)state;
	SAME("ab\xff"
	     "cd",
	     "ab cd");
	SAME("caf\xc3", "caf"); /* cut in the middle of a letter */
	SAME("x \xe6\xbc", "x");
	SAME("x \xf0\x9f\x98", "x");
	SAME("a\xed\xa0\x80z", "a z"); /* surrogate */
	SAME("a\xc0\xaf"
	     "b",
	     "a b");			   /* overlong */
	SAME("a\xf4\x90\x80\x80z", "a z"); /* beyond Unicode */
	SAME("a\xc3"
	     "b",
	     "a b"); /* the letter after a broken lead byte survives */
}

/* Every group of the list by length, first and last word of each: a word of the wrong length would
 * shift all that follow. */
static void stop_words_weigh_less(void **state)
{
	(void)state;
	static const char *const stops[] = {"a",      "t",	"am",	   "we",      "and",   "you",	"its",
					    "also",   "your",	"about",   "yours",   "being", "would", "before",
					    "should", "having", "because", "through", "these", "which", "rather"};
	for (size_t i = 0; i < ARRAY_LEN(stops); i++) {
		char with[64], other[64];
		/* every letter moved up by one: no stop word, but as many features */
		snprintf(with, sizeof(with), "%s volcano", stops[i]);
		snprintf(other, sizeof(other), "%s volcano", stops[i]);
		for (char *p = other; *p != ' '; p++)
			(*p)++;
		if (cosine(with, "volcano") <= cosine(other, "volcano") + 0.01)
			fail_msg("'%s' is no stop word", stops[i]);
	}
	/* negation is not one */
	static const char *const kept[] = {"not", "no", "never", "cat", "id"};
	for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
		char with[64];
		snprintf(with, sizeof(with), "%s volcano", kept[i]);
		assert_true(cosine(with, "volcano") < cosine("the volcano", "volcano"));
	}
}

static void nearness_makes_sense(void **state)
{
	(void)state;
	assert_true(cosine("A man is playing a guitar", "A man plays the guitar") > 0.6);
	assert_true(cosine("A man is playing a guitar", "Stocks fell sharply on Monday") < 0.15);
	assert_true(cosine("painting", "painted") > 0.3); /* no stemmer: n-grams */
	assert_true(cosine("dog bites man", "man bites dog") < 0.999);
	assert_true(cosine("Speicherverwaltung", "Speicherverwaltungen") > 0.7);
	/* repeating is damped: it does not drown the other words */
	assert_true(cosine("red red red red red green", "green") > 0.2);
}

static void long_texts(void **state)
{
	(void)state;
	size_t n = (1u << 20) + 4096;
	char *big = malloc(n);
	float x[DIM], y[DIM];
	assert_non_null(big);
	memset(big, 'a', n); /* one endless word; the largest sums there can be */
	assert_true(embed(big, n, x));
	memset(big + (1u << 20), 'z', 4096); /* what is beyond 1 MiB does not count */
	assert_true(embed(big, n, y));
	assert_memory_equal(x, y, sizeof(x));
	double sum = 0;
	for (size_t i = 0; i < DIM; i++)
		sum += (double)x[i] * (double)x[i];
	assert_true(fabs(sum - 1) < 1e-6);
	for (size_t i = 0; i + 3 <= 65536; i += 3)
		memcpy(big + i, "\xe6\xbc\xa2", 3);
	assert_true(embed(big, 65535, x));
	free(big);
}

/* The words themselves, so that a changed cut shows where it is. */
static void words(void **state)
{
	(void)state;
	struct fold f;
	static const struct {
		enum fold_kind kind;
		size_t len;
		uint32_t first;
	} expect[] = {{FOLD_WORD, 4, 'd'}, {FOLD_WORD, 3, 'a'}, {FOLD_SINGLE, 1, 0x6f22}, {FOLD_SINGLE, 1, 0x5b57},
		      {FOLD_WORD, 1, '7'}, {FOLD_WORD, 7, 's'}, {FOLD_END, 0, 0}};
	fold_start(&f, SPAN_LIT("-- Don't abc漢字 7 Straße"));
	for (size_t i = 0; i < ARRAY_LEN(expect); i++) {
		assert_int_equal(fold_next(&f), expect[i].kind);
		assert_int_equal(f.len, expect[i].len);
		if (f.len)
			assert_int_equal(f.word[0], expect[i].first);
	}
	assert_int_equal(fold_next(&f), FOLD_END);
	char run[300];
	memset(run, 'q', sizeof(run));
	size_t total = 0;
	fold_start(&f, (struct span){run, sizeof(run)});
	while (fold_next(&f) != FOLD_END) {
		assert_in_range(f.len, 1, FOLD_WORD_MAX);
		total += f.len;
	}
	assert_int_equal(total, sizeof(run)); /* cutting loses nothing */
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(identity),
	    cmocka_unit_test(golden_vectors),
	    cmocka_unit_test(length_is_one),
	    cmocka_unit_test(nothing_gives_zero),
	    cmocka_unit_test(batch),
	    cmocka_unit_test(case_folds),
	    cmocka_unit_test(forms_fold),
	    cmocka_unit_test(scripts_without_spaces),
	    cmocka_unit_test(malformed_utf8_separates),
	    cmocka_unit_test(stop_words_weigh_less),
	    cmocka_unit_test(nearness_makes_sense),
	    cmocka_unit_test(long_texts),
	    cmocka_unit_test(words),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
