/* orchestrad --check: says OK, or everything that would keep the daemon from starting. With `user` set and started
 * as root it becomes that user on the way, as the daemon would: what root may read proves nothing. */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "auth.h"
#include "handover.h"
#include "pinger/target.h"

struct check {
	const struct conf *c;
	FILE *out;
	bool probe;
	int problems;
};

static void problem(struct check *k, const char *fmt, ...) printf_like(2, 3);
static void problem(struct check *k, const char *fmt, ...)
{
	va_list ap;
	if (k->probe)
		fputs("FAILED ", k->out);
	va_start(ap, fmt);
	vfprintf(k->out, fmt, ap);
	va_end(ap);
	fputc('\n', k->out);
	k->problems++;
}

/* ---- as whoever starts the daemon ---- */

/* A directory that is missing must be ours to make. */
static void check_missing(struct check *k, const char *key, const char *dir)
{
	struct stat st;
	char *path = util_strndup(dir, strlen(dir));
	const char *at = path;
	while (stat(at, &st) == -1 && errno == ENOENT && strcmp(at, "/") && strcmp(at, "."))
		at = dirname(path);
	if (stat(at, &st) == -1)
		problem(k, "%s: cannot look at %s: %s", key, at, strerror(errno));
	else if (strlen(at) < strlen(dir) && !S_ISDIR(st.st_mode))
		problem(k, "%s: %s is no directory", key, at);
	else if (strlen(at) < strlen(dir) && access(at, W_OK | X_OK) == -1)
		problem(k, "%s: cannot create %s in %s: %s", key, dir, at, strerror(errno));
	free(path);
}

static void check_start(struct check *k, struct privileges *p_r)
{
	char *error = NULL;
	if (!listen_check(k->c, &error))
		problem(k, "%s", error ? error : "listen: unusable");
	free(error);
	error = NULL;
	if (!privileges_find(k->c, p_r, &error))
		problem(k, "%s", error ? error : "user: unusable");
	free(error);
	error = NULL;
	struct target_list *targets = target_parse(conf_str(k->c, CONF_PINGER_TARGETS), &error);
	if (!targets)
		problem(k, "%s", error ? error : "pinger.targets: unusable");
	free(error);
	target_free(&targets);
}

/* ---- as whoever it becomes ---- */

static void check_dir(struct check *k, const char *key, const char *dir)
{
	struct stat st;
	if (stat(dir, &st) == -1) {
		if (errno != ENOENT)
			problem(k, "%s: cannot look at %s: %s", key, dir, strerror(errno));
	} else if (!S_ISDIR(st.st_mode)) {
		problem(k, "%s: %s is no directory", key, dir);
	} else if (access(dir, W_OK | X_OK) == -1) {
		problem(k, "%s: uid %d cannot write in %s: %s", key, (int)geteuid(), dir, strerror(errno));
	}
}

/* What an earlier daemon of another user has left. */
static void check_ours(struct check *k, const char *key, const char *path)
{
	if (access(path, R_OK | W_OK) == -1 && errno != ENOENT)
		problem(k, "%s: uid %d cannot write %s: %s", key, (int)geteuid(), path, strerror(errno));
}

static void check_tokens(struct check *k)
{
	const char *path = conf_str(k->c, CONF_AUTH_TOKENS_FILE);
	struct stat st;
	char *error = NULL;
	if (!*path)
		return;
	if (access(path, R_OK) == -1 || stat(path, &st) == -1) {
		problem(k, "auth.tokens_file: uid %d cannot read %s: %s", (int)geteuid(), path, strerror(errno));
		return;
	}
	if (!S_ISREG(st.st_mode)) {
		problem(k, "auth.tokens_file: %s is no file", path);
		return;
	}
	if (st.st_mode & S_IROTH)
		problem(k, "auth.tokens_file: everybody can read %s; chmod 0640 it", path);
	struct auth *tokens = auth_load(path, &error);
	if (!tokens)
		problem(k, "auth.tokens_file: %s", error ? error : "unusable");
	free(error);
	auth_free(&tokens);
}

static void check_tls(struct check *k)
{
	struct stat st;
	const char *key = conf_str(k->c, CONF_TLS_KEY);
	char *warning = NULL, *why = tls_check(k->c, &warning);
	if (why)
		problem(k, "%s", why);
	else if (*key && stat(key, &st) == 0 && (st.st_mode & S_IROTH))
		problem(k, "tls.key: everybody can read %s; chmod 0640 it", key);
	if (warning)
		fprintf(k->out, "warning %s\n", warning);
	free(why);
	free(warning);
}

static void check_service(struct check *k, const char *runtime_dir)
{
	const char *dir = conf_str(k->c, CONF_DATA_DIR);
	char *journal;
	check_dir(k, "listen.unix", runtime_dir);
	check_dir(k, "data.dir", dir);
	if (asprintf(&journal, "%s/journal", dir) != -1) {
		check_ours(k, "data.dir", journal);
		free(journal);
	}
	if (conf_store_is_file(k->c))
		check_ours(k, "store.dsn", conf_str(k->c, CONF_STORE_DSN));
	check_tokens(k);
	check_tls(k);
}

static void check_all(struct check *k)
{
	struct privileges p;
	char *path = util_strndup(conf_str(k->c, CONF_LISTEN_UNIX), strlen(conf_str(k->c, CONF_LISTEN_UNIX)));
	const char *runtime_dir = dirname(path);
	check_start(k, &p);
	check_missing(k, "listen.unix", runtime_dir);
	check_missing(k, "data.dir", conf_str(k->c, CONF_DATA_DIR));
	if (k->probe && k->problems == 0)
		k->problems += probe_sockets(k->c, k->out);
	if (privileges_drop(&p)) {
		int before = k->problems;
		check_service(k, runtime_dir);
		if (k->probe && k->problems == before)
			k->problems += probe_rest(k->c, k->out);
	} else {
		problem(k, "user: cannot become %s", p.name);
	}
	free(path);
}

int check_run(const struct conf_input *input, bool probe, FILE *out)
{
	struct check k = {.out = out, .probe = probe};
	char *error = NULL;
	struct conf *c = conf_load(input, &error);
	if (!c) {
		problem(&k, "%s", error ? error : "the configuration cannot be read");
		free(error);
		return 1;
	}
	k.c = c;
	check_all(&k);
	conf_free(&c);
	if (k.problems == 0)
		fputs(probe ? "ok everything that was probed\n" : "OK\n", out);
	return fflush(out) == 0 && k.problems == 0 ? 0 : 1;
}

int check_handover(const struct conf_input *input, int document, FILE *out)
{
	char *error = NULL;
	json_t *doc = handover_read(document, &error);
	struct conf *c = doc ? conf_load(input, &error) : NULL;
	bool ok = c && listen_check(c, &error);
	if (ok)
		fputs(HANDOVER_FIT "\n", out);
	else
		fprintf(out, "%s\n", error ? error : "the configuration cannot be read");
	free(error);
	json_decref(doc);
	conf_free(&c);
	return ok ? 0 : 1;
}
