/* Languages: names, stems, stop words, apostrophes, NFC and NFD. Broken code that this would catch: folding before stemming, a
 * composition table with holes, a language whose stems are cached as another's, a name that configuration and table do not share. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf-private.h"
#include "embed/fold.h"
#include "words/language-private.h"
#include "words/words.h"

static struct words *w;

/* "stem ~stop …", as often as they occur. */
static const char *analysis(enum language l, const char *text)
{
	static char out[4096];
	struct words_text t;
	struct buf b = {0};
	size_t len = strlen(text);
	char *copy = malloc(len ? len : 1); /* exactly so long: the sanitizer sees any read past the end */
	memcpy(copy, text, len);
	words_language(w, l);
	words_analyze(w, (struct span){copy, len}, &t);
	free(copy);
	for (uint32_t at = 0; at < t.length; at++)
		for (size_t i = 0; i < t.n; i++)
			for (uint32_t p = t.v[i].first; p < t.length; p = t.next[p])
				if (p == at)
					buf_printf(&b, "%s%s%.*s", at ? " " : "", t.v[i].stop ? "~" : "",
						   (int)t.v[i].stem.len, t.v[i].stem.p);
	snprintf(out, sizeof(out), "%.*s", (int)b.len, b.p ? b.p : "");
	buf_free(&b);
	return out;
}
#define SAYS(language, text, expected) assert_string_equal(analysis(LANGUAGE_##language, text), expected)

static void names(void **state)
{
	(void)state;
	enum language l;
	for (unsigned i = 0; i < LANGUAGES; i++) {
		struct buf b = {0};
		assert_true(language_find(SPAN(language_name((enum language)i)), &l) && l == i);
		if (*language_iso((enum language)i))
			assert_true(language_find(SPAN(language_iso((enum language)i)), &l) && l == i);
		language_write_settings((enum language)i, &b);
		assert_int_equal(language_read_settings((struct span){b.p, b.len}), i);
		buf_free(&b);
		assert_int_equal(language_stored(SPAN(language_name((enum language)i))), i);
	}
	assert_true(language_find(SPAN("DE"), &l) && l == LANGUAGE_GERMAN);
	assert_true(language_find(SPAN("nb"), &l) && l == LANGUAGE_NORWEGIAN);
	assert_true(language_find(SPAN("nn"), &l) && l == LANGUAGE_NORWEGIAN);
	static const char *const wrong[] = {"", "germ", "german ", "klingon", "xx", "deu", "en_US"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_false(language_find(SPAN(wrong[i]), &l));
	assert_int_equal(language_read_settings(SPAN("{}")), LANGUAGE_ENGLISH);
	assert_int_equal(language_read_settings(SPAN("")), LANGUAGE_ENGLISH);
	assert_int_equal(language_read_settings(SPAN("{\"language\":\"volap\xc3\xbck\"}")), LANGUAGE_NONE);
	assert_string_equal(language_name((enum language)1000), "none");
	words_language(w, (enum language)1000); /* from shared memory that another program wrote */
	words_language(w, LANGUAGE_ENGLISH);
}

/* What words.language accepts is the table's rows, in their order. */
static void configured(void **state)
{
	(void)state;
	struct buf b = {0};
	for (unsigned i = 0; i < LANGUAGES; i++)
		buf_printf(&b, "%s%s", i ? "|" : "", language_name((enum language)i));
	buf_addc(&b, 0);
	assert_string_equal(conf_options[CONF_WORDS_LANGUAGE].unit, b.p);
	buf_free(&b);
}

static void golden(void **state)
{
	(void)state;
	for (int round = 0; round < 2; round++) { /* once stemmed, once from the caches, with English between */
		SAYS(GERMAN, "Die Häuser am größten Fluss", "~die haus ~am grosst fluss");
		SAYS(ENGLISH, "the houses at the largest river", "~the hous ~at ~the largest river");
		SAYS(GERMAN, "HÄUSER Hauses Straße STRASSE Äpfel Apfel", "haus haus strass strass apfel apfel");
		SAYS(FRENCH, "les chevaux mangés, une école", "~le cheval mang ~une ecol");
		SAYS(RUSSIAN, "книгами и книга, ёлки ЁЛКА елка", "книг ~и книг елк елк елк");
		SAYS(FINNISH, "taloissa ja talot", "talo ~ja talo");
		SAYS(SPANISH, "las canciones de la canción", "~las cancion ~de ~la cancion");
		SAYS(ITALIAN, "le città abbandonate", "~le citt abbandon");
		SAYS(DUTCH, "de lichamelijke opglimping", "~de licham opglimp");
		SAYS(SWEDISH, "jaktkarlens och jaktkarlarne", "jaktkarl ~och jaktkarl");
		SAYS(NORWEGIAN, "havnedistriktene havnedistrikt", "havnedistrikt havnedistrikt");
		SAYS(DANISH, "undersøgelserne af undersøgelse", "undersog ~af undersog");
		SAYS(HUNGARIAN, "házakban és ház", "haz ~es haz");
		SAYS(TURKISH, "kitaplarımızdan kitap", "kitap kitap");
		SAYS(GREEK, "οι άνθρωποι ΑΝΘΡΩΠΟΣ", "~οι ανθρωπ ανθρωπ");
		SAYS(CATALAN, "les cançons de l'avi", "~les cancon ~de ~l av");
		SAYS(INDONESIAN, "buku yang dibukukan", "buku ~yang buku");
		/* a comma below, as people write it, and the cedilla that the stemmer knows */
		SAYS(ROMANIAN, "copilașilor copilaşilor și şi", "copil copil ~si ~si");
		SAYS(NONE, "The Houses of snake_case", "the houses of snake case");
	}
}

static void apostrophes(void **state)
{
	(void)state;
	SAYS(FRENCH, "L'homme qu’il aime", "~l homm ~qu ~il aim");
	SAYS(ITALIAN, "dell'acqua", "~dell acqua");
	SAYS(TURKISH, "İstanbul'da İSTANBUL", "istanbul istanbul");
	SAYS(DUTCH, "foto's", "foto");
	SAYS(GERMAN, "Andrea's", "andrea");
	SAYS(NONE, "print('foo') Häuser's", "print foo hauser s");
	SAYS(ENGLISH, "Ada's don't", "ada ~dont");
	char to[4 * FOLD_WORD_MAX];
	words_language(w, LANGUAGE_FRENCH);
	assert_int_equal(words_fold_last(w, SPAN("l'Éco"), to), 3);
	assert_memory_equal(to, "eco", 3);
	words_language(w, LANGUAGE_ENGLISH);
	assert_int_equal(words_fold_last(w, SPAN("o'Éco"), to), 4);
	assert_memory_equal(to, "oeco", 4);
}

/* I and İ are two letters. */
static void turkish(void **state)
{
	(void)state;
	SAYS(TURKISH, "IŞIK ışık", "isik isik");
	SAYS(TURKISH, "kitap KİTAP Kitap", "kitap kitap kitap");
	SAYS(TURKISH, "KI\xcc\x87TAP", "kitap"); /* İ as I with its dot apart */
}

/* Composed and decomposed, small and capital: the same. */
static void normal_forms(void **state)
{
	(void)state;
	static const struct {
		enum language l;
		const char *composed, *decomposed;
	} v[] = {
		{LANGUAGE_GERMAN, "größere häuser über äpfel", "gro\u0308ßere ha\u0308user u\u0308ber a\u0308pfel"},
		{LANGUAGE_GERMAN, "HÄUSER ÜBER", "HA\u0308USER U\u0308BER"},
		{LANGUAGE_FRENCH, "élèves français où", "e\u0301le\u0300ves franc\u0327ais ou\u0300"},
		{LANGUAGE_RUSSIAN, "войной ёлками ЙОД", "вои\u0306нои\u0306 е\u0308лками И\u0306ОД"},
		{LANGUAGE_FINNISH, "äideille öljyä", "a\u0308ideille o\u0308ljya\u0308"},
		{LANGUAGE_SWEDISH, "någonting hände på", "na\u030Agonting ha\u0308nde pa\u030A"},
		{LANGUAGE_HUNGARIAN, "tűzoltókkal", "tu\u030Bzolto\u0301kkal"},
		{LANGUAGE_PORTUGUESE, "corações não", "corac\u0327o\u0303es na\u0303o"},
		{LANGUAGE_SPANISH, "niños también", "nin\u0303os tambie\u0301n"},
		{LANGUAGE_ROMANIAN, "națiunile și", "nat\u0326iunile s\u0326i"},
		{LANGUAGE_TURKISH, "güneşli İZMİR çok", "gu\u0308nes\u0327li I\u0307ZMI\u0307R c\u0327ok"},
		{LANGUAGE_GREEK, "άνθρωποι ΰ", "α\u0301νθρωποι υ\u0308\u0301"},
		{LANGUAGE_CATALAN, "ànec això", "a\u0300nec aixo\u0300"},
		{LANGUAGE_GERMAN, "ế x\u030C", "e\u0302\u0301 x\u030C"}, /* two marks; one that makes no letter */
	};
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		char *one = strdup(analysis(v[i].l, v[i].composed));
		assert_string_equal(one, analysis(v[i].l, v[i].decomposed));
		free(one);
	}
	SAYS(GERMAN, "x\u030C", "x");
	SAYS(RUSSIAN, "и\u0306", "и");
}

static uint32_t only_letter(uint32_t c, unsigned mode)
{
	char text[5] = {0};
	struct fold f;
	if (c < 0x800) {
		text[0] = (char)(0xC0 | c >> 6);
		text[1] = (char)(0x80 | (c & 0x3F));
	} else {
		text[0] = (char)(0xE0 | c >> 12);
		text[1] = (char)(0x80 | (c >> 6 & 0x3F));
		text[2] = (char)(0x80 | (c & 0x3F));
	}
	fold_start(&f, SPAN(text));
	enum fold_kind kind = fold_next_as(&f, mode);
	return kind == FOLD_END ? 0 : f.len == 1 ? f.word[0] : f.word[0] << 8 | f.word[1];
}

/* A letter that was only made small folds to what it would have folded to at once: prefixes of a question are folded at once. */
static void small_then_folded(void **state)
{
	(void)state;
	for (uint32_t c = 0x80; c < 0x3000; c++) {
		uint32_t at_once = only_letter(c, 0), small = only_letter(c, FOLD_LOWER), out[2];
		if (!at_once || !small) {
			assert_int_equal(at_once, small);
			continue;
		}
		size_t n = small < 0x6161 || small > 0x7A7A ? fold_letter(small, out) : 0;
		uint32_t then = n == 2 ? out[0] << 8 | out[1] : n == 1 ? out[0] : small;
		if (then != at_once)
			fail_msg("U+%04X: %x, then %x, instead of %x", c, small, then, at_once);
	}
}

/* Every language's list: each word is one, and nothing else is. */
static void stop_lists(void **state)
{
	(void)state;
	for (unsigned l = LANGUAGE_DANISH; l < LANGUAGES; l++) {
		struct words_text t;
		const char *p = language_stops[l];
		assert_non_null(p);
		assert_true(strlen(p) > 300);
		while (*p) {
			size_t len = strcspn(p, " ");
			assert_true(len > 0 && len < 24);
			words_language(w, (enum language)l);
			words_analyze(w, (struct span){p, len}, &t);
			if (t.n != 1 || !t.v[0].stop)
				fail_msg("%s: \"%.*s\"", language_name((enum language)l), (int)len, p);
			p += len + (p[len] == ' ');
			assert_true(p[0] != ' ' && (p[0] || p[-1] != ' '));
		}
		words_analyze(w, SPAN("zebra"), &t);
		assert_false(t.v[0].stop);
	}
	/* They are looked for only where there is nothing else. */
	struct word v[4];
	words_language(w, LANGUAGE_GERMAN);
	assert_int_equal(words_query(w, SPAN("der Hund und die Katze"), v, 4), 2);
	assert_int_equal(words_query(w, SPAN("wer ist das"), v, 4), 3);
	words_language(w, LANGUAGE_NONE);
	assert_int_equal(words_query(w, SPAN("the of and"), v, 4), 3);
}

/* Bytes at random, of letters that stemmers know: nothing is longer than it may be, and twice the same is twice the same. */
static void bounds(void **state)
{
	(void)state;
	static const char *const letters[] = {"a", "b", "d", "e", "i", "n", "s", "ı", "ğ", "ü",
					      "ä", "é", "ß", "ç", "й", "ь", "ы", "λ", "ς", "'"};
	uint32_t seed = 7;
	for (unsigned l = 0; l < LANGUAGES; l++) {
		struct buf text = {0};
		for (int i = 0; i < 30000; i++) {
			seed = seed * 1664525 + 1013904223;
			uint32_t k = seed >> 16;
			buf_adds(&text, k % 7 ? letters[k / 7 % ARRAY_LEN(letters)] : i % 900 < 500 ? " " : "e");
		}
		struct words_text t;
		words_language(w, (enum language)l);
		words_analyze(w, (struct span){text.p, text.len}, &t);
		assert_true(t.n > 100);
		size_t n = t.n, sum = 0, again = 0;
		for (size_t i = 0; i < t.n; i++) {
			assert_true(t.v[i].stem.len >= 1 && t.v[i].stem.len <= WORDS_STEM_MAX);
			assert_true(util_utf8_valid(t.v[i].stem.p, t.v[i].stem.len));
			sum += t.v[i].hash;
		}
		words_analyze(w, (struct span){text.p, text.len}, &t);
		for (size_t i = 0; i < t.n; i++)
			again += t.v[i].hash;
		assert_true(t.n == n && sum == again);
		buf_free(&text);
	}
}

static int begin(void **state)
{
	(void)state;
	w = words_new();
	return 0;
}

static int end(void **state)
{
	(void)state;
	words_free(&w);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),       cmocka_unit_test(configured),	    cmocka_unit_test(golden),
		cmocka_unit_test(apostrophes), cmocka_unit_test(turkish),	    cmocka_unit_test(normal_forms),
		cmocka_unit_test(stop_lists),  cmocka_unit_test(small_then_folded), cmocka_unit_test(bounds),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
