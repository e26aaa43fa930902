/* Values from $CREDENTIALS_DIRECTORY: which win, which are paths, what is refused, and that none is ever shown. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf-private.h"
#include "conf_model.h"
#include "log.h"

static char dir[] = "/tmp/orchestra-cred-XXXXXX";
static char variable[300];
#define HOME_ENV "STATE_DIRECTORY=/var/tmp/state", "RUNTIME_DIRECTORY=/var/tmp/run"
static char *const env[] = {HOME_ENV, variable, NULL};

static const char *in_dir(const char *name)
{
	static char path[300];
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const char *bytes, size_t len)
{
	FILE *f = fopen(in_dir(name), "w");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	fclose(f);
}
#define PUT(name, text) put(name, text, sizeof(text) - 1)

static void refused(const char *name, const char *word, const char *never)
{
	char *error = NULL;
	assert_null(conf_model_load("/dev/null", env, NULL, &error));
	assert_non_null(strstr(error, name));
	if (!strstr(error, word))
		fprintf(stderr, "no \"%s\" in: %s\n", word, error);
	assert_non_null(strstr(error, word));
	if (never)
		assert_null(strstr(error, never));
	free(error);
	unlink(in_dir(name));
}

static void value_is(const char *bytes, size_t len, const char *want)
{
	put("user", bytes, len);
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	assert_string_equal(conf_str(c, CONF_USER), want);
	conf_free(&c);
	unlink(in_dir("user"));
}

static void test_values(void **state)
{
	(void)state;
	value_is("ada\n", 4, "ada");
	value_is("ada", 3, "ada");
	value_is("", 0, "");
	value_is("\n", 1, "");
	PUT("api.workers", "3\n");
	PUT("cache.l1_bytes", "2 MiB");
	PUT("pinger.targets", "[{\"name\": \"hush\"}]\n");
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	assert_int_equal(conf_int(c, CONF_API_WORKERS), 3);
	assert_int_equal(conf_int(c, CONF_CACHE_L1_BYTES), 2 << 20);
	assert_string_equal(conf_source(c, CONF_API_WORKERS), "credential");
	assert_string_equal(conf_str(c, CONF_PINGER_TARGETS), "[{\"name\":\"hush\"}]");
	assert_string_equal(conf_source(c, CONF_LOG_LEVEL), "default");
	conf_free(&c);
	unlink(in_dir("api.workers"));
	unlink(in_dir("cache.l1_bytes"));
	unlink(in_dir("pinger.targets"));
}

static void workers(const char *file, char *const *e, const char *set, int64_t want)
{
	const char *sets[] = {set, NULL};
	struct conf *c = conf_model_must_load(file, e, sets);
	assert_int_equal(conf_int(c, CONF_API_WORKERS), want);
	conf_free(&c);
}

/* flags > ORCHESTRA_* > WEB_CONCURRENCY > credentials > file */
static void test_precedence(void **state)
{
	(void)state;
	char *const web[] = {HOME_ENV, variable, "WEB_CONCURRENCY=7", NULL};
	char *const ours[] = {HOME_ENV, variable, "WEB_CONCURRENCY=7", "ORCHESTRA_API_WORKERS=8", NULL};
	char *const none[] = {HOME_ENV, NULL};
	char file[300];
	PUT("the.conf", "api: { workers = 5; };");
	PUT("api.workers", "6");
	snprintf(file, sizeof(file), "%s", in_dir("the.conf"));
	workers(file, none, NULL, 5);
	workers(file, env, NULL, 6);
	workers(file, web, NULL, 7);
	workers(file, ours, NULL, 8);
	workers(file, ours, "api.workers=9", 9);
	PUT("api.workers", "10"); /* read again at each load: a rotated secret */
	workers(file, env, NULL, 10);
	unlink(in_dir("api.workers"));
	workers(file, env, NULL, 5);
	unlink(in_dir("the.conf"));
}

/* A key that names a file gets the path; its content is somebody else's to read. */
static void test_path_key(void **state)
{
	(void)state;
	put("auth.tokens_file", "\0\xff", 2);
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	assert_string_equal(conf_str(c, CONF_AUTH_TOKENS_FILE), in_dir("auth.tokens_file"));
	assert_string_equal(conf_source(c, CONF_AUTH_TOKENS_FILE), "credential");
	assert_false(conf_is_secret(c, CONF_AUTH_TOKENS_FILE));
	conf_free(&c);
	unlink(in_dir("auth.tokens_file"));
}

static void test_refused(void **state)
{
	(void)state;
	char *big = util_alloc(CONF_CREDENTIAL_MAX + 1);
	memset(big, 'x', CONF_CREDENTIAL_MAX + 1);
	put("user", big, CONF_CREDENTIAL_MAX);
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	conf_free(&c);
	put("user", big, CONF_CREDENTIAL_MAX + 1);
	refused("user", "credential user: is larger than 64 KiB", NULL);
	free(big);
	PUT("user", "a\0b");
	refused("user", "credential user: holds a NUL byte", NULL);
	PUT("user", "hush\xff");
	refused("user", "no UTF-8", "hush");
	PUT("log.level", "hush");
	refused("log.level", "credential log.level: log.level = (secret)", "hush");
	PUT("listen.tcp", "hush:99999\n");
	refused("listen.tcp", "credential: listen.tcp = (secret)", "hush");
	assert_int_equal(mkdir(in_dir("user"), 0700), 0);
	char *error = NULL;
	assert_null(conf_model_load("/dev/null", env, NULL, &error));
	assert_non_null(strstr(error, "credential user: cannot read"));
	free(error);
	rmdir(in_dir("user"));
	assert_int_equal(mkfifo(in_dir("user"), 0600), 0); /* nobody writes into it: the load must not wait */
	refused("user", "it is no file", NULL);
	char *const gone[] = {HOME_ENV, "CREDENTIALS_DIRECTORY=/no/such/place", NULL};
	error = NULL;
	assert_null(conf_model_load("/dev/null", gone, NULL, &error));
	assert_non_null(strstr(error, "CREDENTIALS_DIRECTORY"));
	assert_non_null(strstr(error, "/no/such/place"));
	free(error);
	char *const empty[] = {HOME_ENV, "CREDENTIALS_DIRECTORY=", NULL};
	c = conf_model_must_load("/dev/null", empty, NULL);
	conf_free(&c);
}

/* Kubernetes mounts a secret as links through ..data. */
static void test_links_and_strangers(void **state)
{
	(void)state;
	char text[1024] = "", target[300];
	int fds[2], saved = dup(2);
	assert_int_equal(mkdir(in_dir("..data"), 0700), 0);
	PUT("..data/user", "ada\n");
	snprintf(target, sizeof(target), "..data/user");
	assert_int_equal(symlink(target, in_dir("user")), 0);
	PUT("redis.passwrd", "hush");
	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], 2);
	log_set_level(LOG_LV_DEBUG);
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	log_set_level(LOG_LV_INFO);
	dup2(saved, 2);
	close(saved);
	close(fds[1]);
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	close(fds[0]);
	assert_non_null(strstr(text, "redis.passwrd is no key"));
	assert_null(strstr(text, "hush"));
	assert_null(strstr(text, "data"));
	assert_string_equal(conf_str(c, CONF_USER), "ada");
	conf_free(&c);
}

static void test_dump_hides(void **state)
{
	(void)state;
	char *text = NULL;
	size_t len;
	PUT("listen.names", "[\"hush.example\"]");
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	FILE *f = open_memstream(&text, &len);
	conf_dump(c, f);
	fclose(f);
	assert_null(strstr(text, "hush"));
	assert_non_null(strstr(text, "# names = (secret);  # credential"));
	free(text);
	int fd = conf_dump_effective(c);
	struct conf *w = conf_load_effective(fd); /* a worker knows it */
	assert_string_equal(conf_str(w, CONF_LISTEN_NAMES), "[\"hush.example\"]");
	assert_true(conf_is_secret(w, CONF_LISTEN_NAMES));
	close(fd);
	conf_free(&w);
	conf_free(&c);
	unlink(in_dir("listen.names"));
}

static int set_up(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(variable, sizeof(variable), "CREDENTIALS_DIRECTORY=%s", dir);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	char command[64];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_path_key),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_links_and_strangers),
		cmocka_unit_test(test_dump_hides),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
