/* Entering the sandbox: privileges, and which paths the role is bound to. */
#define LOG_SUBSYSTEM LOG_IN_WORKER
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "sandbox-private.h"

#define LINKS_MAX 16

/* ---- paths ---- */

/* The folder of `path`, real, in out; false: there is none. */
static bool real_folder(const char *path, char out[PATH_MAX])
{
	char copy[PATH_MAX];
	snprintf(copy, sizeof(copy), "%s", path);
	return realpath(dirname(copy), out) != NULL;
}

/* Where a file lies that need not exist yet: SQLite follows links to it, dangling ones too, before it puts
 * anything beside it. */
static bool real_file(const char *path, char out[PATH_MAX], char folder[PATH_MAX])
{
	char at[PATH_MAX], target[PATH_MAX], joined[2 * PATH_MAX];
	snprintf(at, sizeof(at), "%s", path);
	for (int links = 0; links < LINKS_MAX; links++) {
		const char *slash = strrchr(at, '/');
		if (!real_folder(at, folder))
			return false;
		ssize_t n = readlink(at, target, sizeof(target) - 1);
		if (n == -1) {
			snprintf(joined, sizeof(joined), "%s/%s", strcmp(folder, "/") == 0 ? "" : folder,
				 slash ? slash + 1 : at);
			snprintf(out, PATH_MAX, "%.*s", PATH_MAX - 1, joined);
			return strlen(joined) < PATH_MAX;
		}
		target[n] = '\0';
		if (*target == '/')
			snprintf(joined, sizeof(joined), "%s", target);
		else
			snprintf(joined, sizeof(joined), "%s/%s", folder, target);
		if (strlen(joined) >= sizeof(at))
			return false;
		memcpy(at, joined, strlen(joined) + 1);
	}
	return false;
}

static void find_paths(const struct conf *conf, struct sandbox_paths *p)
{
	char store[PATH_MAX];
	const char *dsn = conf_str(conf, CONF_STORE_DSN), *dir = conf_str(conf, CONF_DATA_DIR);
	if (*dsn)
		snprintf(store, sizeof(store), "%s", dsn);
	else
		snprintf(store, sizeof(store), "%s/store.db", dir);
	if (!realpath(dir, p->data))
		*p->data = '\0';
	if (!conf_store_is_file(conf) || !real_file(store, p->store, p->store_dir))
		*p->store = *p->store_dir = '\0';
}

/* ---- privileges ---- */

static bool drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}}, has[_LINUX_CAPABILITY_U32S_3];
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	/* Only who has CAP_SETPCAP can, and who has not keeps what no exec will ever turn into a right. */
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	/* With nothing to drop it is not asked for: systemd's filter of a service (packaging/systemd) refuses the call. */
	return (syscall(SYS_capget, &head, has) == 0 && memcmp(has, none, sizeof(has)) == 0) ||
	       syscall(SYS_capset, &head, none) == 0;
}

/* Root reads and writes everything by a capability; without it, it is a user like any other. Said here, because
 * "cannot open" further on would not tell root why. */
static void check_owner(const struct sandbox_paths *p)
{
	const char *const needed[] = {p->data, p->store_dir, p->store};
	for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
		if (!*needed[i] || faccessat(AT_FDCWD, needed[i], R_OK | W_OK, AT_EACCESS) == 0 || errno != EACCES)
			continue;
		log_error(
			"%s does not belong to the user of the daemon (uid %u), and workers have no rights beyond that "
			"user's: set user to its owner, chown it, or set daemon.sandbox = \"off\"",
			needed[i], (unsigned)geteuid());
		return;
	}
}

/* ---- all of it ---- */

/* EINVAL: prctl() of a kernel that was built without seccomp. */
static bool absent(int error) { return error == ENOSYS || error == EOPNOTSUPP || error == EINVAL; }

/* What the kernel lacks is said once, by the only process that writes data; what went wrong by everybody. */
static void report(const struct worker_row *row, int landlock, int abi, int seccomp)
{
	bool speaker = row->may & MAY_WRITE_DATA;
	if (landlock && (speaker || !absent(landlock)))
		log_warn_event(
			sandbox_weak, NULL,
			"sandbox: no Landlock (%s): file access of the workers is bounded by the user's rights only",
			strerror(landlock));
	if (seccomp && (speaker || !absent(seccomp)))
		log_warn_event(sandbox_weak, NULL,
			       "sandbox: no seccomp (%s): the workers may make any system call that the user may",
			       strerror(seccomp));
	if (speaker && !landlock && !seccomp)
		log_info("sandbox: seccomp, Landlock ABI %d", abi);
}

void sandbox_enter(const struct worker_row *row, const struct conf *conf)
{
	static struct sandbox_paths paths;
	int abi = 0;
	if (strcmp(conf_str(conf, CONF_SANDBOX), "off") == 0)
		return;
	find_paths(conf, &paths);
	/* SQLite's temporary files hold memories, so they lie with them. It would find /var/tmp, and fail there. */
	if (row->may & MAY_WRITE_DATA && *paths.store_dir)
		setenv("SQLITE_TMPDIR", paths.store_dir, 1);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
		log_warn("sandbox: cannot give up new privileges: %s", strerror(errno));
	if (!drop_capabilities())
		log_warn("sandbox: cannot drop capabilities: %s", strerror(errno));
	if (row->may & MAY_WRITE_DATA)
		check_owner(&paths);
	bool servers = !conf_store_is_file(conf) || *conf_str(conf, CONF_REDIS_URL);
	bool net = row->may & MAY_CONNECT_NET || (row->may & MAY_REACH_STORE && servers);
	int landlock = sandbox_landlock(row->may | (net ? MAY_CONNECT_NET : 0), &paths, &abi);
	int seccomp = sandbox_seccomp(row->may, net);
	report(row, landlock, abi, seccomp);
}
