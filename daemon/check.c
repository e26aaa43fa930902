/* orchestrad --check: says OK, or everything that would keep the daemon from starting. */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handover.h"
#include "pinger/target.h"

static void problem(FILE *out, int *problems, const char *fmt, ...) printf_like(3, 4);
static void problem(FILE *out, int *problems, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vfprintf(out, fmt, ap);
	va_end(ap);
	fputc('\n', out);
	++*problems;
}

/* A directory that is there must be ours to write; one that is missing must be ours to make. */
static void check_dir(const char *key, const char *dir, FILE *out, int *problems)
{
	struct stat st;
	char *path = util_strndup(dir, strlen(dir));
	const char *at = path;
	if (stat(path, &st) == 0) {
		if (!S_ISDIR(st.st_mode))
			problem(out, problems, "%s: %s is no directory", key, path);
		else if (access(path, W_OK | X_OK) == -1)
			problem(out, problems, "%s: cannot write in %s: %s", key, path, strerror(errno));
		free(path);
		return;
	}
	while (stat(at, &st) == -1 && errno == ENOENT && strcmp(at, "/") && strcmp(at, "."))
		at = dirname(path);
	if (stat(at, &st) == -1)
		problem(out, problems, "%s: cannot look at %s: %s", key, at, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		problem(out, problems, "%s: %s is no directory", key, at);
	else if (access(at, W_OK | X_OK) == -1)
		problem(out, problems, "%s: cannot create %s in %s: %s", key, dir, at, strerror(errno));
	free(path);
}

static void check_file(const char *key, const char *path, FILE *out, int *problems)
{
	struct stat st;
	if (!*path)
		return;
	if (access(path, R_OK) == -1 || stat(path, &st) == -1)
		problem(out, problems, "%s: cannot read %s: %s", key, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		problem(out, problems, "%s: %s is no file", key, path);
	else if (st.st_mode & S_IROTH)
		problem(out, problems, "%s: everybody can read %s; chmod 0640 it", key, path);
}

static void check_conf(const struct conf *c, FILE *out, int *problems)
{
	char *error = NULL;
	struct privileges p;
	if (!listen_check(c, &error))
		problem(out, problems, "%s", error ? error : "listen: unusable");
	free(error);
	error = NULL;
	if (!privileges_find(c, &p, &error))
		problem(out, problems, "%s", error ? error : "user: unusable");
	free(error);
	error = NULL;
	struct target_list *targets = target_parse(conf_str(c, CONF_PINGER_TARGETS), &error);
	if (!targets)
		problem(out, problems, "%s", error ? error : "pinger.targets: unusable");
	free(error);
	target_free(&targets);
	char *path = util_strndup(conf_str(c, CONF_LISTEN_UNIX), strlen(conf_str(c, CONF_LISTEN_UNIX)));
	check_dir("listen.unix", dirname(path), out, problems);
	free(path);
	check_dir("data.dir", conf_str(c, CONF_DATA_DIR), out, problems);
	check_file("auth.tokens_file", conf_str(c, CONF_AUTH_TOKENS_FILE), out, problems);
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

int check_run(const struct conf_input *input, FILE *out)
{
	char *error = NULL;
	int problems = 0;
	struct conf *c = conf_load(input, &error);
	if (!c) {
		problem(out, &problems, "%s", error ? error : "the configuration cannot be read");
		free(error);
		return 1;
	}
	check_conf(c, out, &problems);
	conf_free(&c);
	if (problems == 0)
		fputs("OK\n", out);
	return problems ? 1 : 0;
}
