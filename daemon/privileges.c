/* Started as root with `user` set: become that user once the ports are bound. */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "supervisor.h"

bool privileges_find(const struct conf *c, struct privileges *p_r, char **error_r)
{
	const char *user = conf_str(c, CONF_USER);
	*p_r = (struct privileges){0};
	if (!*user)
		return true;
	const struct passwd *pw = getpwnam(user);
	if (!pw) {
		if (asprintf(error_r, "user: there is no user \"%s\" on this system", user) == -1)
			*error_r = NULL;
		return false;
	}
	if (geteuid() != 0) {
		if (pw->pw_uid == geteuid())
			return true;
		if (asprintf(error_r,
			     "user: only root can become \"%s\"; start as root or as that "
			     "user, or leave the key empty",
			     user) == -1)
			*error_r = NULL;
		return false;
	}
	p_r->drop = pw->pw_uid != 0;
	p_r->uid = pw->pw_uid;
	p_r->gid = pw->pw_gid;
	snprintf(p_r->name, sizeof(p_r->name), "%s", user);
	return true;
}

int privileges_give(const struct privileges *p, const char *path)
{
	return p->drop && lchown(path, p->uid, p->gid) == -1 ? errno : 0;
}

/* A container may have set SECBIT_NO_SETUID_FIXUP, with which the change of uid takes none. */
static bool has_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	if (syscall(SYS_capget, &head, data) == -1)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(data); i++)
		if (data[i].effective || data[i].permitted)
			return true;
	return false;
}

bool privileges_drop(const struct privileges *p)
{
	if (!p->drop)
		return true;
	if (initgroups(p->name, p->gid) == -1 || setresgid(p->gid, p->gid, p->gid) == -1 ||
	    setresuid(p->uid, p->uid, p->uid) == -1) {
		log_error("cannot become user %s: %s", p->name, strerror(errno));
		return false;
	}
	if (setuid(0) == 0 || has_capabilities() || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1) {
		log_error("became user %s, but could become root again, or keeps capabilities", p->name);
		return false;
	}
	/* The change of uid cleared it; without it /proc/self belongs to root. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return true;
}
