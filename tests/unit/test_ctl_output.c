/* What orchestractl prints. Broken code this would catch: content that steers the terminal, a line wider than the terminal
 * or cut inside a character, sizes and times in the wrong unit, a progress line that divides by nothing, records that are counted
 * twice when they come in pieces, a problem that is shown without what it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../daemon/orchestractl/output.c"

static int64_t now_us;
int64_t clock_mono_us(void) { return now_us; }
int64_t clock_real_us(void) { return now_us; }

/* ---- hearing what is printed ---- */

static FILE *heard, *stream;
static int saved;
static char text[4096];

static void hear(FILE *f)
{
	stream = f;
	fflush(f);
	heard = tmpfile();
	assert_non_null(heard);
	saved = dup(fileno(f));
	assert_true(dup2(fileno(heard), fileno(f)) >= 0);
}

static const char *said(void)
{
	fflush(stream);
	dup2(saved, fileno(stream));
	close(saved);
	ssize_t n = pread(fileno(heard), text, sizeof(text) - 1, 0);
	assert_true(n >= 0);
	text[n] = 0;
	fclose(heard);
	return text;
}

static void line_is(const char *content, int columns, const char *want)
{
	hear(stdout);
	output_line(content, columns);
	const char *got = said();
	if (strcmp(got, want) != 0)
		fail_msg("\"%s\" in %d gave \"%s\" instead of \"%s\"", content, columns, got, want);
}

static void one_line(void **state)
{
	(void)state;
	line_is("", 0, "");
	line_is("plain text", 0, "plain text");
	line_is("two\nlines\r\n\tand  more ", 0, "two lines and more ");
	line_is("  \n in front", 0, "in front");
	/* nothing reaches the terminal as a control: escape, bell, DEL, C1 in UTF-8 */
	line_is("a\033[31mb\007c\177d", 0, "a [31mb c d");
	line_is("a\xc2\x9b"
		"31mb\xc2\x80\xc2\x9f"
		"c",
		0, "a 31mb c");
	line_is("\xc2\xa0\xc3\xa4\xf0\x9f\x98\x80", 0, "\xc2\xa0\xc3\xa4\xf0\x9f\x98\x80"); /* these are no controls */
	line_is("ends in \xc2", 0, "ends in \xc2");
}

static void cut_to_the_width(void **state)
{
	(void)state;
	line_is("abcdef", 6, "abcdef");
	line_is("abcdef", 5, "abcd…");
	line_is("abcdef", 1, "…");
	line_is("\xc3\xa4\xc3\xb6\xc3\xbc\xc3\x9f", 3, "\xc3\xa4\xc3\xb6…");
	line_is("\xf0\x9f\x98\x80"
		"b\xf0\x9f\x98\x80"
		"d",
		3,
		"\xf0\x9f\x98\x80"
		"b…");
	line_is("a\n\n\nb\n\nc", 5, "a b c");
	line_is("a\xc2\x80"
		"b\xc2\x80"
		"c",
		4, "a b…"); /* a blank takes a column, whatever it was */
}

static void bytes(void **state)
{
	static const struct {
		double n;
		const char *want;
	} is[] = {{0, "0 B"},
		  {1, "1 B"},
		  {1023, "1023 B"},
		  {1023.4, "1023 B"},
		  {1023.9, "1.0 KiB"},
		  {1024, "1.0 KiB"},
		  {1536, "1.5 KiB"},
		  {102399, "100 KiB"},
		  {102400, "100 KiB"},
		  {1048575, "1.0 MiB"},
		  {1048576, "1.0 MiB"},
		  {5.5 * 1073741824, "5.5 GiB"},
		  {2199023255552, "2.0 TiB"},
		  {2251799813685248, "2048 TiB"}};
	char out[16];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(is); i++) {
		output_bytes(is[i].n, out);
		assert_string_equal(out, is[i].want);
	}
	volatile double huge = 1e300; /* or the compiler sees the cut coming */
	output_bytes(huge, out);
	assert_int_equal(strlen(out), 15); /* cut, not overrun */
}

static void durations(void **state)
{
	static const struct {
		double s;
		const char *want;
	} is[] = {{0, "0.0s"},	     {1.25, "1.2s"},
		  {59, "59.0s"},     {60, "1m 00s"},
		  {3599, "59m 59s"}, {3600, "1h 00m"},
		  {11520, "3h 12m"}, {86399, "23h 59m"},
		  {86400, "1d 00h"}, {100 * 86400.0 + 5 * 3600, "100d 05h"}};
	char out[16];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(is); i++) {
		output_duration(is[i].s, out);
		assert_string_equal(out, is[i].want);
	}
	volatile double ages = 1e17;
	output_duration(ages, out);
	assert_true(strlen(out) < 16);
}

/* ---- progress ---- */

static void counts_records_in_pieces(void **state)
{
	static const char lines[] = "{\"a\":1}\n{\"b\":2}\n\n{\"c\":3}\n{\"unfinished";
	(void)state;
	for (size_t piece = 1; piece <= sizeof(lines) - 1; piece++) {
		struct progress p = {.on = false};
		for (size_t at = 0; at < sizeof(lines) - 1; at += piece) {
			size_t n = sizeof(lines) - 1 - at < piece ? sizeof(lines) - 1 - at : piece;
			char *exact = util_strndup(lines + at, n);
			progress_piece(&p, exact, n);
			free(exact);
		}
		assert_int_equal(p.records, 4);
		assert_int_equal(p.bytes, sizeof(lines) - 1);
	}
	struct progress p = {.on = false};
	progress_piece(&p, NULL, 0);
	assert_int_equal(p.records, 0);
}

static struct progress begun(uint64_t total)
{
	struct progress p;
	now_us = 5000000;
	progress_start(&p, "import", total);
	assert_int_equal(p.started_us, now_us);
	p.on = true;
	return p;
}

static void a_bar(void **state)
{
	(void)state;
	struct progress p = begun(4096);
	now_us += 2000000;
	hear(stderr);
	progress_piece(&p, "\n\n", 2);
	assert_non_null(
		strstr(said(), "\r\033[Kimport [........................]   0 %  2 B  2 records  1 B/s  1 records/s"));
	p.bytes = 2048;
	hear(stderr);
	progress_end(&p);
	assert_non_null(strstr(said(), "import [############............]  50 %  2.0 KiB  2 records  1.0 KiB/s"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	p.bytes = 4096;
	hear(stderr);
	progress_end(&p);
	assert_non_null(strstr(said(), "[########################] 100 %"));
	p.bytes = 8192; /* the file has grown meanwhile */
	hear(stderr);
	progress_end(&p);
	assert_non_null(strstr(said(), "[########################] 200 %"));
}

static void no_bar_without_a_total(void **state)
{
	(void)state;
	struct progress p = begun(0);
	hear(stderr);
	progress_end(&p); /* at once: no division by nothing */
	assert_string_equal(said(), "\r\033[Kimport 0 B  0 records\n");
	p.on = false;
	hear(stderr);
	progress_piece(&p, "\n", 1);
	progress_end(&p);
	assert_string_equal(said(), "");
}

/* Not more often than ten times a second. */
static void shown_now_and_then(void **state)
{
	unsigned shown = 0;
	(void)state;
	struct progress p = begun(0);
	p.shown_us = now_us;
	hear(stderr);
	for (unsigned i = 0; i < 1000; i++) {
		now_us += 1000;
		progress_piece(&p, "\n", 1);
	}
	for (const char *at = said(); (at = strchr(at, '\r')); at++)
		shown++;
	assert_int_equal(shown, 10);
}

/* ---- answers ---- */

static void problem_is(const char *body, long status, const char *want)
{
	struct answer a = {.status = status, .body = {.p = util_strndup(body, strlen(body)), .len = strlen(body)}};
	hear(stderr);
	assert_int_equal(output_problem(&a), CTL_FAILED);
	assert_string_equal(said(), want);
	free(a.body.p);
}

static void problems(void **state)
{
	(void)state;
	problem_is("{\"title\":\"Not found\",\"detail\":\"no such memory\",\"status\":404}", 404,
		   "orchestractl: Not found: no such memory\n");
	problem_is("{\"title\":\"Not found\"}", 404, "orchestractl: Not found\n");
	problem_is("{\"ok\":false,\"error\":\"busy\"}", 500, "orchestractl: busy\n");
	problem_is("<html>", 502, "orchestractl: the daemon answered status 502: <html>\n");
	problem_is("[]", 500, "orchestractl: the daemon answered status 500: []\n");
	problem_is("{\"title\":5}", 500, "orchestractl: the daemon answered status 500: {\"title\":5}\n");
	struct answer none = {.status = 204};
	hear(stderr);
	assert_int_equal(output_problem(&none), CTL_FAILED);
	assert_string_equal(said(), "orchestractl: the daemon answered status 204: \n");
}

static void raw_ends_in_a_newline(void **state)
{
	static const char *const is[][2] = {{"{}", "{}\n"}, {"{}\n", "{}\n"}, {"", "\n"}};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(is); i++) {
		struct answer a = {.body = {.p = (char *)(uintptr_t)is[i][0], .len = strlen(is[i][0])}};
		hear(stdout);
		output_raw(&a);
		assert_string_equal(said(), is[i][1]);
	}
}

static void colours_and_fields(void **state)
{
	(void)state;
	struct ctl plain = {.colour = false}, coloured = {.colour = true};
	for (int k = C_PLAIN; k <= C_YELLOW; k++) {
		assert_string_equal(output_colour(&plain, (enum colour)k), "");
		assert_int_equal(output_colour(&coloured, (enum colour)k)[0], 033);
	}
	json_t *o = json_pack("{s:s, s:i, s:n}", "a", "text", "b", 5, "c");
	assert_string_equal(output_str(o, "a"), "text");
	assert_string_equal(output_str(o, "b"), "");
	assert_string_equal(output_str(o, "c"), "");
	assert_string_equal(output_str(NULL, "a"), "");
	json_decref(o);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_line), cmocka_unit_test(cut_to_the_width), cmocka_unit_test(bytes), cmocka_unit_test(durations),
		cmocka_unit_test(counts_records_in_pieces), cmocka_unit_test(a_bar), cmocka_unit_test(no_bar_without_a_total),
		cmocka_unit_test(shown_now_and_then), cmocka_unit_test(problems), cmocka_unit_test(raw_ends_in_a_newline),
		cmocka_unit_test(colours_and_fields)};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
