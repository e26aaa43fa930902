/* Small tools. Broken code this would catch: overlong or surrogate UTF-8 accepted, a multi-byte character
 * at the edge of the ASCII fast path misjudged, a buffer that writes past its capacity, a log line that
 * can be split or made invalid JSON by what it quotes, an assertion that does not stop the process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "shm.h"
#include "util.h"

static bool valid(const char *s, size_t n)
{
	char *exact = malloc(n ? n : 1); /* so that a read past the end is seen by the sanitizer */
	memcpy(exact, s, n);
	bool v = util_utf8_valid(exact, n);
	free(exact);
	return v;
}

/* The definition, from the code points: what encodes back to the same bytes is well-formed. */
static size_t encode(uint32_t c, char out[4])
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 63));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 63));
		out[2] = (char)(0x80 | (c & 63));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 63));
	out[2] = (char)(0x80 | (c >> 6 & 63));
	out[3] = (char)(0x80 | (c & 63));
	return 4;
}

static void test_utf8_code_points(void **state)
{
	(void)state;
	char b[4];
	for (uint32_t c = 0; c < 0x140000; c++) {
		size_t n = encode(c, b);
		bool want = c < 0xd800 || (c > 0xdfff && c < 0x110000);
		if (util_utf8_valid(b, n) != want)
			fail_msg("U+%04X: expected %d", c, want);
		if (n > 1 && util_utf8_valid(b, n - 1))
			fail_msg("U+%04X cut short is accepted", c);
	}
}

static void test_utf8_overlong(void **state)
{
	(void)state;
	static const char *const bad[] = {"\xc0\x80",
					  "\xc1\xbf",
					  "\xe0\x80\x80",
					  "\xe0\x9f\xbf",
					  "\xf0\x80\x80\x80",
					  "\xf0\x8f\xbf\xbf",
					  "\xf5\x80\x80\x80",
					  "\xff",
					  "\xfe",
					  "\x80",
					  "\xbf",
					  "\xed\xa0\x80",
					  "\xc3(",
					  "\xe2\x82(",
					  "\xe2(\xa1",
					  "\xf0\x9f\x98(",
					  "\xf8\x88\x80\x80\x80"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(valid(bad[i], strlen(bad[i])));
	assert_true(valid("", 0));
	assert_true(valid("a\0b", 3)); /* NUL is a character; who cannot have it looks for it */
}

/* A bad or a good sequence at every offset of text long enough for the fast path. */
static void test_utf8_scrub(void **state)
{
	char text[] = "a\xc3(\xe2\x82\xac\xff\xc3\xa9\xe2\x82";
	(void)state;
	util_utf8_scrub(text, sizeof(text) - 1);
	assert_string_equal(text, "a?(\xe2\x82\xac?\xc3\xa9??");
}

static void test_utf8_offsets(void **state)
{
	(void)state;
	char text[64];
	for (size_t at = 0; at + 4 <= 40; at++) {
		memset(text, 'x', sizeof(text));
		memcpy(text + at, "\xf0\x9f\x98\x80", 4);
		assert_true(valid(text, 40));
		assert_false(at + 4 > 37 && valid(text, at + 3));
		assert_false(valid(text, at + 1) && valid(text, at + 2));
		text[at + 3] = 'x';
		assert_false(valid(text, 40));
	}
}

static void test_buf_replace(void **state)
{
	static const char *const words[] = {"", "x", "store", "journal",
					    "a word that is much longer than all that was there before"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		struct buf b = {0}, want = {0};
		buf_adds(&b, "[store]");
		buf_replace(&b, 1, 5, words[i]);
		buf_printf(&want, "[%s]", words[i]);
		assert_int_equal(b.len, want.len);
		assert_memory_equal(b.p, want.p, b.len);
		buf_replace(&b, b.len, 0, "!");
		assert_int_equal(b.p[b.len - 1], '!');
		buf_free(&b);
		buf_free(&want);
	}
}

static void test_buf_addu(void **state)
{
	(void)state;
	struct buf b = {0}, want = {0};
	for (uint64_t n = 1, i = 0; i < 200; i++, n = i % 3 ? n * 10 + i % 10 : n / 2) {
		buf_addu(&b, n);
		buf_addu(&b, n - 1);
		buf_printf(&want, "%llu%llu", (unsigned long long)n, (unsigned long long)(n - 1));
	}
	buf_addu(&b, 0);
	buf_addu(&b, UINT64_MAX);
	buf_adds(&want, "018446744073709551615");
	assert_int_equal(b.len, want.len);
	assert_memory_equal(b.p, want.p, b.len);
	buf_free(&b);
	buf_free(&want);
}

static void test_buf(void **state)
{
	(void)state;
	struct buf b = {0};
	struct buf want = {0};
	char line[600];
	for (int i = 0; i < 500; i++) {
		memset(line, 'a' + i % 26, sizeof(line));
		line[i] = 0;
		buf_printf(&b, "%d:%s;", i, line);
		char number[16];
		int n = snprintf(number, sizeof(number), "%d", i);
		buf_add(&want, number, (size_t)n);
		buf_addc(&want, ':');
		buf_adds(&want, line);
		buf_addc(&want, ';');
		assert_true(b.len <= b.cap);
	}
	assert_int_equal(b.len, want.len);
	assert_memory_equal(b.p, want.p, b.len);
	buf_add(&b, NULL, 0);
	assert_int_equal(b.len, want.len);
	buf_free(&b);
	buf_free(&want);
	assert_null(b.p);
	assert_int_equal(b.cap, 0);
}

static void test_checked_sizes(void **state)
{
	(void)state;
	size_t r;
	assert_true(size_add(1, 2, &r) && r == 3);
	assert_false(size_add(SIZE_MAX, 1, &r));
	assert_true(size_mul(1u << 20, 1u << 20, &r));
	assert_false(size_mul(SIZE_MAX / 2, 3, &r));
	assert_int_equal(align_up(0, 8), 0);
	assert_int_equal(align_up(1, 8), 8);
	assert_int_equal(align_up(8, 8), 8);
	assert_true(span_eq(SPAN("ab"), SPAN_LIT("ab")));
	assert_true(span_eq((struct span){NULL, 0}, SPAN("")));
	assert_false(span_eq(SPAN("ab"), SPAN("a")));
	char *s = util_strndup("abcdef", 3);
	assert_string_equal(s, "abc");
	free(s);
}

/* Runs fn in a child whose stderr is gathered. Returns the wait status. */
static int in_child(void (*fn)(void), char *out, size_t cap)
{
	int p[2];
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(p[1], STDERR_FILENO);
		fn();
		_exit(0);
	}
	close(p[1]);
	size_t len = 0;
	ssize_t n;
	while (len < cap - 1 && (n = read(p[0], out + len, cap - 1 - len)) > 0)
		len += (size_t)n;
	out[len] = 0;
	close(p[0]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void break_it(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigaction(SIGABRT, &dfl, NULL);
	AN(1 + 1 == 3);
}

static void test_assertion(void **state)
{
	(void)state;
	char out[4096];
	int status = in_child(break_it, out, sizeof(out));
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	assert_non_null(strstr(out, "1 + 1 == 3"));
	assert_non_null(strstr(out, "test_util.c:"));
}

static const char nasty[] = "quote \" back \\ line\nfeed \r tab \t esc \033[31m del \177 e-acute \xc3\xa9";

static void log_text(void)
{
	log_open("api.0", LOG_LV_INFO, LOG_TEXT);
	errno = EBUSY;
	log_info("%s", nasty);
	log_debug("not to be seen");
	log_warn("%s", errno == EBUSY ? "errno kept" : "errno lost");
	log_set_level(LOG_LV_DEBUG);
	log_debug("seen");
}

static void test_log_text(void **state)
{
	(void)state;
	char out[8192];
	assert_int_equal(in_child(log_text, out, sizeof(out)), 0);
	size_t lines = 0;
	for (const char *p = out; *p; p++) {
		lines += *p == '\n';
		assert_true(*p == '\n' || (unsigned char)*p >= 0x20);
		assert_true(*p != 0x7f);
	}
	assert_int_equal(lines, 3);
	assert_non_null(strstr(out, "api.0["));
	assert_non_null(strstr(out, "e-acute \xc3\xa9"));
	assert_null(strstr(out, "not to be seen"));
	assert_non_null(strstr(out, "errno kept"));
}

static void log_json(void)
{
	char *huge = malloc(20001);
	log_open("sync", LOG_LV_INFO, LOG_JSON);
	log_info("%s", nasty);
	log_info("latin \xe9 text");
	for (int i = 0; i < 10000; i++)
		memcpy(huge + 2 * i, "\xc3\xa9", 2);
	huge[20000] = 0;
	log_info("x%s", huge);
	memset(huge, '"', 20000);
	log_info("%s", huge);
	free(huge);
}

static void test_log_json(void **state)
{
	(void)state;
	static char out[65536];
	assert_int_equal(in_child(log_json, out, sizeof(out)), 0);
	size_t lines = 0;
	char *save, *line = strtok_r(out, "\n", &save);
	for (; line; line = strtok_r(NULL, "\n", &save), lines++) {
		json_error_t e;
		json_t *o = json_loads(line, 0, &e);
		if (!o)
			fail_msg("not JSON: %s", e.text);
		assert_string_equal(json_string_value(json_object_get(o, "process")), "sync");
		assert_non_null(json_string_value(json_object_get(o, "message")));
		json_decref(o);
	}
	assert_int_equal(lines, 4);
}

static void log_limited(void)
{
	static struct log_limit l;
	log_open("x", LOG_LV_INFO, LOG_TEXT);
	for (int i = 0; i < 100; i++)
		log_warn_limited(&l, 3600, "trouble %d", i);
	l.next_us = 0;
	log_warn_limited(&l, 3600, "again");
}

static void test_log_limited(void **state)
{
	(void)state;
	char out[8192];
	assert_int_equal(in_child(log_limited, out, sizeof(out)), 0);
	assert_non_null(strstr(out, "trouble 0"));
	assert_null(strstr(out, "trouble 1"));
	assert_non_null(strstr(out, "again (99 more"));
}

static void test_shm(void **state)
{
	(void)state;
	size_t size = 0;
	int fd = shm_create("orchestra-test", 8192);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(ftruncate(fd, 4096), -1); /* sealed: nobody can pull pages from under a reader */
	assert_int_equal(ftruncate(fd, 16384), -1);
	char *a = shm_map(fd, true, &size), *b = shm_map(fd, false, &size);
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(size, 8192);
	char text[64], back[64];
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7 + 1);
	/* every alignment of both sides and every length, with guards around */
	for (size_t at = 0; at < 8; at++)
		for (size_t n = 0; n < 40; n++) {
			memset(a, 0x55, 128);
			memset(back, 0x66, sizeof(back));
			shm_copy_in(a + 8 + at, text + n % 5, n);
			assert_int_equal(a[8 + at - 1], 0x55);
			assert_int_equal(a[8 + at + n], 0x55);
			shm_copy_out(back + n % 3, b + 8 + at, n);
			assert_memory_equal(back + n % 3, text + n % 5, n);
			assert_int_equal(back[n % 3 + n], 0x66);
		}
	munmap(a, size);
	munmap(b, size);
	close(fd);
	assert_null(shm_map(-1, false, &size));
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_utf8_code_points), cmocka_unit_test(test_utf8_overlong),
		cmocka_unit_test(test_utf8_offsets), cmocka_unit_test(test_utf8_scrub), cmocka_unit_test(test_buf), cmocka_unit_test(test_buf_addu),
		cmocka_unit_test(test_buf_replace),
		cmocka_unit_test(test_checked_sizes), cmocka_unit_test(test_assertion),
		cmocka_unit_test(test_log_text), cmocka_unit_test(test_log_json),
		cmocka_unit_test(test_log_limited), cmocka_unit_test(test_shm),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
