/* Values that are in force, written into the file of the person who runs the daemon.
 *
 * By this program and not by the daemon: the file belongs to whoever administrates, and the daemon's user had better not be
 * able to change it. Each setting is changed in the file that holds it, includes counted; all is tried in memory first, by
 * the parser that the daemon has. A file changes by rename, or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "live.h"

#define FILES_MAX 64

struct target {
	char *name; /* as the parser names it */
	struct buf text;
	struct stat st; /* when it was read */
	bool changed;
};
struct saving {
	const char *file;
	struct target target[FILES_MAX];
	size_t n;
};

static bool complain(const char *file, const char *what)
{
	fprintf(stderr, "orchestractl: %s: %s\n", file, what);
	return false;
}

static bool read_target(struct target *t)
{
	ssize_t n = 1;
	int fd = open(t->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd == -1 || fstat(fd, &t->st) == -1) {
		complain(t->name, strerror(errno));
		if (fd != -1)
			close(fd);
		return false;
	}
	while (n > 0 && t->text.len <= (4u << 20)) {
		buf_reserve(&t->text, 16384);
		n = read(fd, t->text.p + t->text.len, 16384);
		t->text.len += n > 0 ? (size_t)n : 0;
	}
	int e = errno;
	close(fd);
	if (n < 0)
		return complain(t->name, strerror(e));
	if (!S_ISREG(t->st.st_mode))
		return complain(t->name, "is no regular file; name one with --file");
	if (t->st.st_nlink > 1)
		return complain(t->name,
				"has several names (hard links), which a new file would part; change it by hand");
	return true;
}

static struct target *target_of(struct saving *s, const char *name, size_t len)
{
	for (size_t i = 0; i < s->n; i++)
		if (strlen(s->target[i].name) == len && memcmp(s->target[i].name, name, len) == 0)
			return &s->target[i];
	if (s->n == FILES_MAX)
		return NULL;
	struct target *t = &s->target[s->n++];
	t->name = util_strndup(name, len);
	return read_target(t) ? t : NULL;
}

/* The file that says it now, or the main one. */
static struct target *target_for(struct saving *s, const struct conf *now, enum conf_key k)
{
	const char *source = conf_source(now, k), *colon = strrchr(source, ':');
	if (strncmp(source, "file:", 5) == 0 && colon > source + 4)
		return target_of(s, source + 5, (size_t)(colon - source) - 5);
	return target_of(s, s->file, strlen(s->file));
}

static bool edit(struct saving *s, const struct conf *now, enum conf_key k, const char *value)
{
	struct target *t = target_for(s, now, k);
	struct buf out = {0};
	char *error = NULL;
	if (!t)
		return false;
	if (!conf_edit((struct span){t->text.p, t->text.len}, k, value, &out, &error)) {
		complain(t->name, error ? error : "cannot be changed");
		free(error);
		buf_free(&out);
		return false;
	}
	buf_free(&t->text);
	t->text = out;
	t->changed = true;
	return true;
}

/* With the texts as they are to be: the wanted values, and nothing else changed. */
static bool check(const struct saving *s, const struct conf *now, const json_t *config, const bool *wanted)
{
	struct conf_draft drafts[FILES_MAX];
	struct conf_input input = {.file = s->file, .parts = true, .drafts = drafts, .ndrafts = s->n};
	char *error = NULL;
	bool ok = true;
	for (size_t i = 0; i < s->n; i++)
		drafts[i] = (struct conf_draft){s->target[i].name, {s->target[i].text.p, s->target[i].text.len}};
	struct conf *next = conf_load(&input, &error);
	if (!next) {
		complain(s->file, error ? error : "cannot be read with the change; change it by hand");
		free(error);
		return false;
	}
	for (int k = 0; k < CONF_KEY_COUNT && ok; k++) {
		const char *name = conf_key_name((enum conf_key)k), *is = conf_str(next, (enum conf_key)k);
		const char *want = wanted[k] ? output_str(live_key(config, name), "value")
					     : conf_str(now, (enum conf_key)k);
		ok = strcmp(is, want) == 0;
		if (!ok)
			fprintf(stderr,
				"orchestractl: %s: with the change %s would be \"%.80s\" instead of \"%.80s\"; change it by hand\n",
				s->file, name, is, want);
	}
	conf_free(&next);
	return ok;
}

/* ---- files ---- */

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static bool write_text(int fd, const struct buf *b)
{
	for (size_t at = 0; at < b->len;) {
		ssize_t n = write(fd, b->p + at, b->len - at);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}

/* Rights beyond mode and owner (ACLs) go along where the file system has them. */
static void copy_acl(const char *from, int to)
{
	static const char name[] = "system.posix_acl_access";
	char acl[4096];
	ssize_t n = getxattr(from, name, acl, sizeof(acl));
	if (n > 0)
		(void)fsetxattr(to, name, acl, (size_t)n, 0);
}

static bool fill(int fd, const struct target *t, const char *path)
{
	struct stat mine;
	if (fstat(fd, &mine) == -1 || ((mine.st_uid != t->st.st_uid || mine.st_gid != t->st.st_gid) &&
				       fchown(fd, t->st.st_uid, t->st.st_gid) == -1))
		return complain(path, "its owner cannot be kept; run this as root or as its owner");
	if (fchmod(fd, t->st.st_mode & 07777) == -1 || !write_text(fd, &t->text) || fsync(fd) == -1)
		return complain(path, strerror(errno));
	copy_acl(path, fd);
	return true;
}

static bool sync_folder(const char *path)
{
	char *copy = util_strndup(path, strlen(path));
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd != -1 && fsync(fd) == 0;
	if (fd != -1)
		close(fd);
	free(copy);
	return ok;
}

/* A link stays one: what it leads to is replaced. */
static bool replace(const struct target *t)
{
	char path[PATH_MAX], temp[PATH_MAX + 16];
	struct stat st;
	if (!realpath(t->name, path))
		return complain(t->name, strerror(errno));
	snprintf(temp, sizeof(temp), "%s.XXXXXX", path);
	int fd = mkostemp(temp, O_CLOEXEC);
	if (fd == -1) {
		fprintf(stderr, "orchestractl: %s: cannot make a file beside it: %s; run this as whoever may\n", path,
			strerror(errno));
		return false;
	}
	bool ok = fill(fd, t, path);
	close(fd);
	if (ok && (stat(path, &st) == -1 || !same(&st, &t->st)))
		ok = complain(path, "was changed by somebody else meanwhile; try again");
	if (ok && rename(temp, path) == -1)
		ok = complain(path, strerror(errno));
	if (!ok)
		unlink(temp);
	else if (!sync_folder(path))
		complain(path, "is written, but its folder could not be synced");
	return ok;
}

static void clean(struct saving *s)
{
	for (size_t i = 0; i < s->n; i++) {
		free(s->target[i].name);
		buf_free(&s->target[i].text);
	}
}

/* ---- the command's part ---- */

static const char *daemons_file(const json_t *config)
{
	const char *file = json_string_value(json_object_get(config, "file"));
	if (!file)
		fputs("orchestractl: the daemon was started without a configuration file; name one with --file, and start the daemon "
		      "with it (orchestrad -c FILE)\n",
		      stderr);
	return file;
}

/* Its values are not tried any more once the daemon has read them. */
static int settle(struct ctl *c, const json_t *config, const char *file)
{
	const char *its = json_string_value(json_object_get(config, "file"));
	char real[PATH_MAX];
	int code;
	if (!its || !realpath(file, real) || strcmp(real, its) != 0) {
		fprintf(stderr,
			"orchestractl: %s is not the file that this daemon reads (%s): there the values are tried still\n",
			file, its ? its : "it reads none");
		return CTL_OK;
	}
	json_t *o = live_patch(c, json_pack("{s:s s:s}", "action", "save", "file", file), &code);
	if (!o) {
		fputs("The file is written; the daemon goes on as it was.\n", stderr);
		return code;
	}
	live_say_audit(o);
	json_decref(o);
	return CTL_OK;
}

static bool edit_all(struct saving *s, const struct conf *now, const json_t *config, const char *const *keys,
		     size_t nkeys, bool *wanted)
{
	for (size_t i = 0; i < nkeys; i++) {
		int k = conf_find(keys[i], strlen(keys[i]));
		const json_t *o = live_key(config, keys[i]);
		if (k < 0 || !o || json_is_true(json_object_get(o, "secret")))
			return complain(keys[i],
					"is unknown to this program, or a secret; write it into the file by hand");
		if (!edit(s, now, (enum conf_key)k, output_str(o, "value")))
			return false;
		wanted[k] = true;
	}
	return check(s, now, config, wanted);
}

int save_keys(struct ctl *c, const json_t *config, const char *const *keys, size_t nkeys, const char *file)
{
	struct saving s = {.file = file ? file : daemons_file(config)};
	bool wanted[CONF_KEY_COUNT] = {false};
	struct conf *now = s.file ? live_read_file(s.file) : NULL;
	if (!now)
		return CTL_FAILED;
	bool ok = edit_all(&s, now, config, keys, nkeys, wanted);
	conf_free(&now);
	for (size_t i = 0; i < s.n && ok; i++) {
		if (!s.target[i].changed)
			continue;
		ok = replace(&s.target[i]);
		if (ok && !c->json)
			printf("Wrote %s\n", s.target[i].name);
	}
	clean(&s);
	fflush(stdout);
	return ok ? settle(c, config, s.file) : CTL_FAILED;
}
