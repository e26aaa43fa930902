/* Tokens, rights, namespaces, and the names that a Host or Origin may have. Broken code this would catch: a line that is
 * believed though it is wrong (worst: one that gives more than it says), a comparison that ends early or skips tokens, a principal
 * that dies at a reload while a request still has it, a host that only looks like ours. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include <openssl/evp.h>

#include "auth.h"

/* ---- comparing: seen from the outside ---- */

static unsigned compared, compared_bytes;

/* Takes precedence over libcrypto's. */
int CRYPTO_memcmp(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;
	unsigned char diff = 0;
	compared++;
	compared_bytes += (unsigned)n;
	for (size_t i = 0; i < n; i++)
		diff = (unsigned char)(diff | (x[i] ^ y[i]));
	return diff;
}

/* ---- token files ---- */

static char path[] = "/tmp/orc-test-auth-XXXXXX";

static const char *hash_of(const char *token)
{
	static char ring[8][80];
	static unsigned next;
	unsigned char hash[32];
	char *out = ring[next++ % 8];
	unsigned len;
	assert_true(EVP_Digest(token, strlen(token), hash, &len, EVP_sha256(), NULL));
	size_t at = (size_t)snprintf(out, 80, "sha256:");
	for (unsigned i = 0; i < 32; i++)
		at += (size_t)snprintf(out + at, 80 - at, "%02x", hash[i]);
	return out;
}

static void write_file(const char *fmt, ...) printf_like(1, 2);
static void write_file(const char *fmt, ...)
{
	va_list ap;
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
	assert_int_equal(chmod(path, 0600), 0);
}

static struct auth *load(void)
{
	char *error = NULL;
	struct auth *a = auth_load(path, &error);
	if (!a)
		fail_msg("%s", error);
	return a;
}

/* Refused, and the message names line and remedy. */
static void refuses(unsigned line, const char *says)
{
	char *error = NULL, where[80];
	struct auth *a = auth_load(path, &error);
	if (a)
		fail_msg("accepted; wanted: %s", says);
	assert_non_null(error);
	snprintf(where, sizeof(where), line ? "%s:%u: " : "%s: ", path, line);
	if (strncmp(error, where, strlen(where)) != 0 || !strstr(error, says))
		fail_msg("%s; wanted line %u: %s", error, line, says);
	free(error);
}

static const struct auth_principal *check(const struct auth *a, const char *header)
{
	return auth_check(a, SPAN(header));
}

static void accepts_a_file(void **state)
{
	(void)state;
	char upper[80];
	memcpy(upper, hash_of("t-root"), sizeof("sha256:") + 64);
	for (char *p = upper + 7; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	write_file(
		"# who may come in\n\n  \t\nada %s read,write home,work # both of hers\r\nbob\t%s   read\t*\nroot %s admin *",
		hash_of("t-ada"), hash_of("t-bob"), upper);
	struct auth *a = load();
	const struct auth_principal *ada = check(a, "Bearer t-ada"), *bob = check(a, "bearer   t-bob"),
				    *root = check(a, "BEARER t-root");
	assert_non_null(ada);
	assert_non_null(bob);
	assert_non_null(root);
	assert_string_equal(ada->name, "ada");
	assert_int_equal(ada->rights, AUTH_READ | AUTH_WRITE);
	assert_int_equal(ada->nnamespaces, 2);
	assert_string_equal(ada->namespaces[1], "work");
	assert_int_equal(bob->rights, AUTH_READ);
	assert_null(bob->namespaces);
	assert_int_equal(root->rights, AUTH_READ | AUTH_WRITE | AUTH_ADMIN);
	auth_free(&a);
	assert_null(a);
}

static void refuses_wrong_lines(void **state)
{
	(void)state;
	const char *h = hash_of("t");
	write_file("# only this\n");
	refuses(0, "holds no token");
	write_file("ada %s read *\nada %s read\n", h, h);
	refuses(2, "a line is: name");
	write_file("ada %s read * more\n", h);
	refuses(1, "a line is: name");
	write_file("ada %s read * more and more\n", h);
	refuses(1, "too many words");
	write_file("ada t read *\n");
	refuses(1, "64 hexadecimal digits");
	write_file("ada %.70s read *\n", h);
	refuses(1, "64 hexadecimal digits");
	write_file("ada %s0 read *\n", h);
	refuses(1, "64 hexadecimal digits");
	write_file("ada %.70sg read *\n", h);
	refuses(1, "64 hexadecimal digits");
	write_file("ada %s read,delete *\n", h);
	refuses(1, "rights must be");
	write_file("ada %s , *\n", h);
	refuses(1, "rights must be");
	write_file("ada %s Read *\n", h);
	refuses(1, "rights must be");
}

/* NULL means every namespace: a list that names none must never become that. */
static void an_empty_list_of_namespaces_is_no_list(void **state)
{
	(void)state;
	write_file("ada %s read ,\n", hash_of("t"));
	refuses(1, "namespaces");
	write_file("ada %s read *\nbob %s admin ,,,\n", hash_of("t"), hash_of("u"));
	refuses(2, "namespaces");
}

static void refuses_files_of_others(void **state)
{
	static const mode_t modes[] = {0620, 0602, 0666};
	(void)state;
	write_file("ada %s read *\n", hash_of("t"));
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		assert_int_equal(chmod(path, modes[i]), 0);
		refuses(0, "chmod go-w");
	}
	assert_int_equal(chmod(path, 0644), 0); /* hashes may be read */
	struct auth *a = load();
	auth_free(&a);
	char *error = NULL;
	assert_null(auth_load("/nonexistent/tokens", &error));
	assert_non_null(strstr(error, "/nonexistent/tokens"));
	free(error);
	assert_null(auth_load("/usr", &error)); /* opened like a file, and then not read like one */
	assert_non_null(strstr(error, "cannot be read"));
	free(error);
}

/* ---- checking ---- */

static void knows_its_tokens_only(void **state)
{
	static const char *const unknown[] = {"",
					      "Bearer",
					      "Bearer ",
					      "Bearer      ",
					      "Bearer x",
					      "Bearer t-ad",
					      "Bearer t-adaa",
					      "Bearer T-ADA",
					      "Basic t-ada",
					      "t-ada",
					      "Bearert-ada",
					      "Bearer\tt-ada",
					      "Bearer t-ada ",
					      "Bearer t-ada,t-ada"};
	(void)state;
	write_file("ada %s read *\n", hash_of("t-ada"));
	struct auth *a = load();
	char hashed[100];
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
		if (check(a, unknown[i]))
			fail_msg("let in: \"%s\"", unknown[i]);
	snprintf(hashed, sizeof(hashed), "Bearer %s", hash_of("t-ada"));
	assert_null(check(a, hashed)); /* who read the file has no token */
	snprintf(hashed, sizeof(hashed), "Bearer %s", hash_of("t-ada") + 7);
	assert_null(check(a, hashed));
	/* no byte behind the header counts */
	assert_non_null(auth_check(a, (struct span){"Bearer t-adaXXX", 12}));
	assert_null(auth_check(a, (struct span){"Bearer t-ada\0", 13}));
	auth_free(&a);
}

/* Whichever token it is, or none: each is compared, over its whole length. */
static void comparing_does_not_tell(void **state)
{
	static const char *const headers[] = {"Bearer one", "Bearer two", "Bearer three", "Bearer none"};
	(void)state;
	write_file("a %s read *\nb %s read *\nc %s read *\n", hash_of("one"), hash_of("two"), hash_of("three"));
	struct auth *a = load();
	for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
		compared = compared_bytes = 0;
		const struct auth_principal *p = check(a, headers[i]);
		assert_int_equal(compared, 3);
		assert_int_equal(compared_bytes, 3 * 32);
		if (i == 3)
			assert_null(p);
		else
			assert_int_equal(p->name[0], 'a' + (int)i);
	}
	auth_free(&a);
}

static void rights_and_namespaces(void **state)
{
	(void)state;
	write_file("ada %s read,write home,wörk\nbob %s write *\nroot %s admin one\n", hash_of("a"), hash_of("b"),
		   hash_of("r"));
	struct auth *a = load();
	const struct auth_principal *ada = check(a, "Bearer a"), *bob = check(a, "Bearer b"),
				    *root = check(a, "Bearer r");
	assert_true(auth_allows(ada, AUTH_READ, SPAN("home")));
	assert_true(auth_allows(ada, AUTH_WRITE, SPAN("wörk")));
	assert_false(auth_allows(ada, AUTH_ADMIN, SPAN("home")));
	static const char *const others[] = {"", "hom", "homes", "Home", "home,wörk", "*", "other"};
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		assert_false(auth_allows(ada, AUTH_READ, SPAN(others[i])));
	assert_true(auth_allows(bob, AUTH_WRITE, SPAN("anything")));
	assert_false(auth_allows(bob, AUTH_READ, SPAN("anything"))); /* to write is not to read */
	assert_true(auth_allows(root, AUTH_ADMIN, SPAN("one")));
	assert_false(auth_allows(root, AUTH_ADMIN, SPAN("two")));
	assert_false(auth_allows(NULL, AUTH_READ, SPAN("home")));
	const struct auth_principal *local = auth_local_admin();
	assert_true(auth_allows(local, AUTH_ADMIN, SPAN("home")) && auth_allows(local, AUTH_READ, SPAN("x")) &&
		    auth_allows(local, AUTH_WRITE, SPAN("")));
	auth_free(&a);
}

/* A request keeps its principal over the reload in which the token was taken away. (ASan sees the rest.) */
static void principals_outlive_a_reload(void **state)
{
	(void)state;
	write_file("ada %s read home\n", hash_of("a"));
	struct auth *now = load(), *request = auth_ref(now), *second = auth_ref(now);
	const struct auth_principal *who = check(request, "Bearer a");
	write_file("bob %s read *\n", hash_of("b"));
	struct auth *next = load();
	auth_free(&now);
	assert_null(check(next, "Bearer a"));
	assert_non_null(check(next, "Bearer b"));
	assert_string_equal(who->name, "ada");
	assert_true(auth_allows(who, AUTH_READ, SPAN("home")));
	auth_free(&second);
	assert_string_equal(who->namespaces[0], "home");
	auth_free(&request);
	auth_free(&next);
	assert_null(auth_ref(NULL));
	auth_free(&now); /* nothing, twice */
}

/* ---- names ---- */

static const char *const names[] = {"memory.example", "Other.Example"};

static void hosts(void **state)
{
	static const char *const good[] = {"localhost",		 "LOCALHOST:8080",	"localhost.",
					   "127.0.0.1",		 "127.8.9.1:65535",	"[::1]",
					   "[::1]:80",		 "[0:0:0:0:0:0:0:1]:1", "memory.example",
					   "MEMORY.example:443", "memory.example.",	"other.example"};
	/* clang-format off */
	static const char *const bad[] = {"", ".", ":", ":80", "localhost:", "localhost:x", "localhost:65536", "localhost:000080", "localhost:-1",
					  "localhost:80:80", "localhost..", "localhos", "localhostx", "xlocalhost", "127.0.0.1.evil.example", "127.1",
					  "128.0.0.1", "0.0.0.0", "10.0.0.1", "2130706433", "[::1", "[::1]x", "[::1]:", "[::2]", "[]", "[", "::1", "[::]",
					  "[::ffff:127.0.0.1]", "memory.example.evil", "evil-memory.example", "memory.exampl", "user@localhost",
					  "localhost/", "localhost ", " localhost",
					  "0000000000000000000000000000000000000000000000000000000000000000000000127.0.0.1"};
	/* clang-format on */
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (!auth_host_ok(SPAN(good[i]), names, ARRAY_LEN(names)))
			fail_msg("refused: %s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (auth_host_ok(SPAN(bad[i]), names, ARRAY_LEN(names)))
			fail_msg("accepted: %s", bad[i]);
	assert_false(auth_host_ok(SPAN("memory.example"), NULL, 0));
	assert_false(auth_host_ok((struct span){"localhost\0.evil", 15}, names, ARRAY_LEN(names)));
	assert_true(auth_host_ok((struct span){"localhost:80xxx", 12}, NULL, 0)); /* nothing behind is read */
}

static void origins(void **state)
{
	static const char *const good[] = {"http://localhost", "http://localhost:3000", "HTTPS://127.0.0.1",
					   "https://memory.example", "http://[::1]:9"};
	static const char *const bad[] = {"",
					  "null",
					  "http://",
					  "https://",
					  "localhost",
					  "file://localhost",
					  "ftp://localhost",
					  "http:/localhost",
					  "http://evil.example",
					  "http://localhost/",
					  "http://localhost.evil.example",
					  "http://user@localhost",
					  "chrome-extension://localhost",
					  "http://http://localhost",
					  "xhttp://localhost"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (!auth_origin_ok(SPAN(good[i]), names, ARRAY_LEN(names)))
			fail_msg("refused: %s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (auth_origin_ok(SPAN(bad[i]), names, ARRAY_LEN(names)))
			fail_msg("accepted: %s", bad[i]);
}

static int make_file(void **state)
{
	(void)state;
	int fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_a_file), cmocka_unit_test(refuses_wrong_lines), cmocka_unit_test(an_empty_list_of_namespaces_is_no_list),
		cmocka_unit_test(refuses_files_of_others), cmocka_unit_test(knows_its_tokens_only), cmocka_unit_test(comparing_does_not_tell),
		cmocka_unit_test(rights_and_namespaces), cmocka_unit_test(principals_outlive_a_reload), cmocka_unit_test(hosts),
		cmocka_unit_test(origins)};
	/* clang-format on */
	return cmocka_run_group_tests(tests, make_file, remove_file);
}
