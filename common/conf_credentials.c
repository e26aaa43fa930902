/* Values that systemd passes as credentials (LoadCredential=), or a container as mounted secrets: files
 * in $CREDENTIALS_DIRECTORY that are named as the key. Other names there belong to somebody else. */
#define LOG_SUBSYSTEM LOG_IN_CONF
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf-private.h"
#include "log.h"

/* -1: not there, or a gathered error. Links are followed: Kubernetes mounts secrets as links. O_NONBLOCK: a FIFO
 * must not make the start wait. */
static int open_credential(struct conf_loading *l, int dir, const char *dir_path, const char *name)
{
	struct stat st;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd == -1 && errno == ENOENT)
		return -1;
	if (fd != -1 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		return fd;
	conf_error(l, "credential %s: cannot read %s/%s: %s; it must be a file that uid %d may read", name, dir_path,
		   name, fd == -1 ? strerror(errno) : "it is no file", (int)geteuid());
	if (fd != -1)
		close(fd);
	return -1;
}

static bool slurp(int fd, struct buf *b)
{
	ssize_t n = 1;
	while (n != 0 && b->len <= CONF_CREDENTIAL_MAX) {
		buf_reserve(b, 4096);
		n = read(fd, b->p + b->len, 4096);
		if (n == -1 && errno != EINTR)
			return false;
		b->len += n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void take_value(struct conf_loading *l, enum conf_key k, int fd, const char *where)
{
	struct buf b = {0};
	if (!slurp(fd, &b)) {
		conf_error(l, "%s: cannot be read: %s", where, strerror(errno));
	} else if (b.len > CONF_CREDENTIAL_MAX) {
		conf_error(l, "%s: is larger than %u KiB; a longer value belongs into the file", where,
			   CONF_CREDENTIAL_MAX >> 10);
	} else if (b.len && (memchr(b.p, '\0', b.len) || !util_utf8_valid(b.p, b.len))) {
		conf_error(l, "%s: holds a NUL byte or is no UTF-8; a value is text", where);
	} else {
		if (b.len && b.p[b.len - 1] == '\n')
			b.len--; /* what echo and editors put there */
		conf_assign(l, k, (struct span){b.p ? b.p : "", b.len}, where, CONF_SOURCE_CREDENTIAL);
	}
	buf_free(&b);
}

static void take_credential(struct conf_loading *l, enum conf_key k, int dir, const char *dir_path)
{
	const char *name = conf_options[k].name;
	struct buf where = {0}, path = {0};
	int fd = open_credential(l, dir, dir_path, name);
	if (fd == -1)
		return;
	buf_printf(&where, "credential %s", name);
	buf_addc(&where, '\0');
	if (conf_options[k].flags & CONF_F_PATH) {
		buf_printf(&path, "%s/%s", dir_path, name);
		conf_assign(l, k, (struct span){path.p, path.len}, where.p, CONF_SOURCE_CREDENTIAL);
	} else {
		take_value(l, k, fd, where.p);
	}
	close(fd);
	buf_free(&where);
	buf_free(&path);
}

static void mention_others(int fd)
{
	DIR *dir = fdopendir(fd);
	const struct dirent *e;
	if (!dir) {
		close(fd);
		return;
	}
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.' && conf_find(e->d_name, strlen(e->d_name)) == -1)
			log_debug("credential %s is no key of ours and is ignored", e->d_name);
	closedir(dir);
}

/* A directory that was promised and cannot be read is an error: without its secrets the daemon could be open to
 * everybody. */
void conf_credentials_read(struct conf_loading *l)
{
	const char *path = conf_env_get(l->in->env, "CREDENTIALS_DIRECTORY");
	if (!path || !*path)
		return;
	int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir == -1) {
		conf_error(l,
			   "environment CREDENTIALS_DIRECTORY: cannot read %.200s: %s; let uid %d read it, or unset "
			   "the variable",
			   path, strerror(errno), (int)geteuid());
		return;
	}
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		take_credential(l, (enum conf_key)k, dir, path);
	mention_others(dir);
}
