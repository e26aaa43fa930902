/* The file system, TCP ports, signals and abstract sockets, by Landlock: whatever is handled and not allowed by a
 * rule is refused. Each version of Landlock handles more; what the kernel does not know is left out. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cache/hot_file.h"
#include "log.h"
#include "sandbox-private.h"

/* Values of the kernel's interface that are newer than Debian 12's header. */
#define FS_TRUNCATE (1ull << 14)
#define FS_IOCTL_DEV (1ull << 15)
#define NET_BIND_TCP (1ull << 0)
#define NET_CONNECT_TCP (1ull << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ull << 0)
#define SCOPE_SIGNAL (1ull << 1)
struct ruleset_attr {
	uint64_t fs, net, scoped;
};

#define FS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_SPECIAL                                                                                                     \
	(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |                  \
	 LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)
#define FS_CHANGE                                                                                                      \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                                 \
	 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                  \
	 LANDLOCK_ACCESS_FS_REFER)
#define FS_FILES                                                                                                       \
	(LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG)
#define FS_ON_FILES                                                                                                    \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | FS_TRUNCATE |     \
	 FS_IOCTL_DEV)

#define SIBLINGS_MAX 4096 /* rules pin memory in the kernel; nothing that a library needs has that many neighbours */

struct rules {
	int fd;
	uint64_t handled;
	int error;
	unsigned siblings;
};

/* By the inode: a rule for a folder covers all beneath it, at any time, and follows it when it is renamed. */
static void allow(struct rules *r, int fd, bool folder, uint64_t access)
{
	struct landlock_path_beneath_attr a = {.allowed_access = access & r->handled & (folder ? ~0ull : FS_ON_FILES),
					       .parent_fd = fd};
	if (a.allowed_access && syscall(SYS_landlock_add_rule, r->fd, LANDLOCK_RULE_PATH_BENEATH, &a, 0) == -1)
		r->error = errno;
}

static void allow_folder(struct rules *r, const char *path, uint64_t access)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd == -1)
		return; /* whoever needs it will say that it is not there */
	allow(r, fd, true, access);
	close(fd);
}

/* ---- readers of the store ---- */

/* SQLite's readers open the database and its -wal for reading when they cannot do more, but take their locks by
 * writing into -shm. That file is made here where it is missing, because a rule needs an inode; SQLite keeps it
 * as long as sync has the store open (open.c), and api and warmer open nothing before that. */
static void allow_shm(struct rules *r, const char *store)
{
	char path[PATH_MAX + 8];
	if (!*store)
		return;
	snprintf(path, sizeof(path), "%s-shm", store);
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd == -1)
		return;
	allow(r, fd, false, LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE);
	close(fd);
}

/* A rule needs an inode, so the folder is made here. */
static void allow_hot(struct rules *r, const char *data)
{
	char path[PATH_MAX + 8];
	if (!*data)
		return;
	snprintf(path, sizeof(path), "%s/%s", data, HOT_FOLDER);
	if (mkdir(path, 0700) == -1 && errno != EEXIST)
		return;
	allow_folder(r, path, FS_FILES);
}

/* ---- all but the data ---- */

/* Rules only add, so what is not to be read cannot be taken away from "/": everything beside the way to it is
 * allowed instead, level by level. Symbolic links need no rule: where they lead is what counts. */
struct hidden {
	char path[5][PATH_MAX + 16];
	unsigned n;
};

static void hide(struct hidden *h, const char *path, const char *end)
{
	if (*path)
		snprintf(h->path[h->n++], sizeof(h->path[0]), "%s%s", path, end);
}

/* 1: `path` is hidden itself; 2: something beneath it is; 0: neither. */
static int is_hidden(const struct hidden *h, const char *path, size_t len)
{
	int found = 0;
	for (unsigned i = 0; i < h->n; i++) {
		if (strncmp(h->path[i], path, len) != 0)
			continue;
		if (h->path[i][len] == '\0')
			return 1;
		if (h->path[i][len] == '/')
			found = 2;
	}
	return found;
}

static void allow_around(struct rules *r, const struct hidden *h, char *path, size_t len);

static void allow_beside(struct rules *r, const struct hidden *h, int dir, const char *name, char *path, size_t len)
{
	struct stat st;
	size_t n = strlen(name);
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || len + 1 + n >= PATH_MAX)
		return;
	path[len] = '/';
	memcpy(path + len + 1, name, n + 1);
	int hidden = is_hidden(h, path, len + 1 + n);
	if (hidden == 2)
		allow_around(r, h, path, len + 1 + n);
	if (hidden || r->siblings >= SIBLINGS_MAX)
		return;
	int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd == -1)
		return;
	if (fstat(fd, &st) == 0 && !S_ISLNK(st.st_mode)) {
		r->siblings++;
		allow(r, fd, S_ISDIR(st.st_mode), FS_READ);
	}
	close(fd);
}

/* `path`: room for PATH_MAX; the root is "" here. */
static void allow_around(struct rules *r, const struct hidden *h, char *path, size_t len)
{
	path[len] = '\0';
	DIR *d = opendir(len ? path : "/");
	struct dirent *e;
	while (d && (e = readdir(d)))
		allow_beside(r, h, dirfd(d), e->d_name, path, len);
	if (d)
		closedir(d);
	path[len] = '\0';
}

static void allow_reading_all_but(struct rules *r, const struct sandbox_paths *p)
{
	static struct hidden h;
	char path[PATH_MAX];
	h.n = 0;
	hide(&h, p->data, "");
	hide(&h, p->store, "");
	hide(&h, p->store, "-wal");
	hide(&h, p->store, "-shm");
	hide(&h, p->store, "-journal");
	allow_around(r, &h, path, 0);
}

/* ---- the ruleset ---- */

static struct ruleset_attr handled(unsigned may, int abi)
{
	struct ruleset_attr a = {.fs = LANDLOCK_ACCESS_FS_EXECUTE | FS_SPECIAL | FS_CHANGE | FS_IOCTL_DEV};
	if (!(may & MAY_READ_DATA))
		a.fs |= FS_READ;
	if (abi < 2)
		a.fs &= ~(uint64_t)LANDLOCK_ACCESS_FS_REFER; /* refused there without being named */
	if (abi < 3)
		a.fs &= ~FS_TRUNCATE;
	if (abi >= 4)
		a.net = NET_BIND_TCP | (may & MAY_CONNECT_NET ? 0 : NET_CONNECT_TCP);
	if (abi < 5)
		a.fs &= ~FS_IOCTL_DEV;
	if (abi >= 6)
		a.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
	return a;
}

static void add_rules(struct rules *r, unsigned may, const struct sandbox_paths *p)
{
	if (may & MAY_WRITE_DATA) {
		allow_folder(r, p->data, FS_CHANGE);
		allow_folder(r, p->store_dir, FS_CHANGE);
	} else if (may & MAY_READ_DATA) {
		allow_shm(r, p->store);
		if (may & MAY_WRITE_HOT)
			allow_hot(r, p->data);
	} else {
		allow_reading_all_but(r, p);
	}
}

int sandbox_landlock(unsigned may, const struct sandbox_paths *paths, int *abi_r)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	*abi_r = (int)abi;
	if (abi < 1)
		return abi == -1 ? errno : ENOSYS;
	struct ruleset_attr a = handled(may, (int)abi);
	struct rules r = {.handled = a.fs};
	r.fd = (int)syscall(SYS_landlock_create_ruleset, &a, sizeof(a), 0);
	if (r.fd == -1)
		return errno;
	add_rules(&r, may, paths);
	/* Without one of its rules the worker could not do its work. */
	if (!r.error && syscall(SYS_landlock_restrict_self, r.fd, 0) == -1)
		r.error = errno;
	close(r.fd);
	return r.error;
}
