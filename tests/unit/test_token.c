/* Tokens out of files and JWTs. Broken code this would catch: a token with what does not belong into a header, a file that is
 * none, one of another size, the end of a JWT misread, messages that hold a token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "pinger/token.h"

static void put(const char *path, const char *content, size_t n)
{
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(content, 1, n, f), n);
	fclose(f);
}

static void test_files(void **state)
{
	(void)state;
	char dir[] = "/tmp/test-token-XXXXXX", path[64], error[TOKEN_ERROR_MAX], *token;
	static char large[TOKEN_MAX + 2];
	memset(large, 'x', sizeof(large));
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/t", dir);
	put(path, "s3cret\nnot this\n", 16);
	token = token_read_file(path, error);
	assert_string_equal(token, "s3cret");
	token_free(&token);
	put(path, "other\r\n", 7); /* replaced: read again */
	token = token_read_file(path, error);
	assert_string_equal(token, "other");
	token_free(&token);
	put(path, large, TOKEN_MAX);
	token = token_read_file(path, error);
	assert_int_equal(strlen(token), TOKEN_MAX);
	token_free(&token);
	static const struct {
		const char *p;
		size_t n;
	} bad[] = {{"", 0}, {"\n", 1}, {"two words", 9}, {"nul\0byte", 8}, {"c\x01tl", 4}, {large, TOKEN_MAX + 1}};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		put(path, bad[i].p, bad[i].n);
		assert_null(token_read_file(path, error));
		assert_non_null(strstr(error, "first line is a token"));
		assert_null(strstr(error, "words"));
	}
	assert_null(token_read_file(dir, error));
	setenv("CREDENTIALS_DIRECTORY", dir, 1);
	put(path, "given", 5);
	token = token_read_file("credential:t", error);
	assert_string_equal(token, "given");
	token_free(&token);
	assert_null(token_read_file("credential:absent", error));
	assert_non_null(strstr(error, "cannot be read"));
	unsetenv("CREDENTIALS_DIRECTORY");
	assert_null(token_read_file("credential:t", error));
	assert_non_null(strstr(error, "LoadCredential="));
	unlink(path);
	rmdir(dir);
}

static void test_expiry(void **state)
{
	(void)state;
	/* {"aud":"x","exp":1800000000} */
	assert_int_equal(token_expiry("eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4IiwiZXhwIjoxODAwMDAwMDAwfQ.sig"), 1800000000);
	static const char *const bad[] = {
		"",
		"a",
		"a.b",
		"a..c",
		"a.e30.c",
		"a.!!!!.c",
		"a.eyJleHAiOiJ4In0.c",
		"a.eyJleHAiOi0xfQ.c",
		"a.eyJhdWQiOiJ4IiwiZXhwIjoxODAwMDAwMDAw.c",
		"a\n.eyJhdWQiOiJ4IiwiZXhwIjoxODAwMDAwMDAwfQ.c",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(token_expiry(bad[i]), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_files), cmocka_unit_test(test_expiry)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
