/* System calls that no worker makes, or not with these arguments, by seccomp. A table of what is refused, on a
 * default of allowed: docs/decisions.md says why not the other way round. Refused calls return an error. */
#include <errno.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "sandbox-private.h"

/* Numbers above 423 are the same on all machines; these are newer than Debian 12's libseccomp. */
#define NR_FCHMODAT2 452
#define NR_SETXATTRAT 463
#define NR_REMOVEXATTRAT 466
#define NR_OPEN_TREE_ATTR 467
#define NR_FILE_SETATTR 469

/* clang-format off */
static const int never[] = {
	/* other programs, other processes */
	SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(uselib), SCMP_SYS(fork), SCMP_SYS(vfork),
#if !SANDBOX_FOR_SANITIZER
	SCMP_SYS(ptrace),
#endif
	SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(process_madvise), SCMP_SYS(kcmp),
	SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_open),
	/* calls around this filter, and the parts of the kernel that attackers like best */
	SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register), SCMP_SYS(bpf),
	SCMP_SYS(userfaultfd), SCMP_SYS(perf_event_open), SCMP_SYS(keyctl), SCMP_SYS(add_key), SCMP_SYS(request_key),
	SCMP_SYS(fanotify_init), SCMP_SYS(name_to_handle_at), SCMP_SYS(open_by_handle_at), SCMP_SYS(lookup_dcookie),
	SCMP_SYS(modify_ldt), SCMP_SYS(personality), SCMP_SYS(vhangup), SCMP_SYS(syslog),
	/* the machine */
	SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module), SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load), SCMP_SYS(reboot), SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(acct),
	SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(sethostname), SCMP_SYS(setdomainname), SCMP_SYS(quotactl),
	SCMP_SYS(quotactl_fd), SCMP_SYS(settimeofday), SCMP_SYS(clock_settime), SCMP_SYS(clock_settime64),
	SCMP_SYS(clock_adjtime), SCMP_SYS(clock_adjtime64), SCMP_SYS(adjtimex), SCMP_SYS(stime),
	/* what is mounted where */
	SCMP_SYS(mount), SCMP_SYS(umount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(chroot),
	SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(fsconfig), SCMP_SYS(fsmount),
	SCMP_SYS(fspick), SCMP_SYS(mount_setattr), NR_OPEN_TREE_ATTR, SCMP_SYS(unshare), SCMP_SYS(setns),
	/* who one is */
	SCMP_SYS(setuid), SCMP_SYS(setgid), SCMP_SYS(setreuid), SCMP_SYS(setregid), SCMP_SYS(setresuid),
	SCMP_SYS(setresgid), SCMP_SYS(setfsuid), SCMP_SYS(setfsgid), SCMP_SYS(setgroups), SCMP_SYS(setuid32),
	SCMP_SYS(setgid32), SCMP_SYS(setreuid32), SCMP_SYS(setregid32), SCMP_SYS(setresuid32), SCMP_SYS(setresgid32),
	SCMP_SYS(setfsuid32), SCMP_SYS(setfsgid32), SCMP_SYS(setgroups32), SCMP_SYS(capset),
	/* kinds of file that nobody makes */
	SCMP_SYS(mknod), SCMP_SYS(mknodat),
};
/* Who does not write data has no reason to change a name or an attribute anywhere. Landlock refuses the former as
 * well, but not on every kernel, and the latter on none. */
static const int readers_never[] = {
	SCMP_SYS(mkdir), SCMP_SYS(mkdirat), SCMP_SYS(rmdir), SCMP_SYS(link), SCMP_SYS(linkat), SCMP_SYS(symlink),
	SCMP_SYS(symlinkat), SCMP_SYS(truncate), SCMP_SYS(truncate64), SCMP_SYS(chmod), SCMP_SYS(fchmod),
	SCMP_SYS(fchmodat), NR_FCHMODAT2, SCMP_SYS(chown), SCMP_SYS(fchown), SCMP_SYS(lchown), SCMP_SYS(fchownat),
	SCMP_SYS(chown32), SCMP_SYS(fchown32), SCMP_SYS(lchown32), SCMP_SYS(setxattr), SCMP_SYS(lsetxattr),
	SCMP_SYS(fsetxattr), NR_SETXATTRAT, SCMP_SYS(removexattr), SCMP_SYS(lremovexattr), SCMP_SYS(fremovexattr),
	NR_REMOVEXATTRAT, NR_FILE_SETATTR, SCMP_SYS(utime), SCMP_SYS(utimes), SCMP_SYS(futimesat), SCMP_SYS(utimensat),
	SCMP_SYS(utimensat_time64),
};
/* Nor to give a file another name or take it away, but in a folder of its own, which Landlock sees to. */
static const int readers_never_rename[] = {
	SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2),
};
/* clang-format on */

/* The kernel takes 32 bits of these arguments, the filter compares 64: with masks, or so that junk in the upper half
 * is refused. */
#define LOW_32 0xffffffffu

static int refuse(scmp_filter_ctx f, int error, int nr, unsigned nargs, const struct scmp_arg_cmp *args)
{
	int rc = seccomp_rule_add_array(f, SCMP_ACT_ERRNO((uint32_t)error), nr, nargs, args);
	return rc == -EDOM ? 0 : rc; /* this machine has no such call */
}

static int refuse_if(scmp_filter_ctx f, int error, int nr, struct scmp_arg_cmp arg)
{
	return refuse(f, error, nr, 1, &arg);
}

static int refuse_all(scmp_filter_ctx f, const int *calls, size_t n)
{
	int rc = 0;
	for (size_t i = 0; i < n && !rc; i++)
		rc = refuse(f, EPERM, calls[i], 0, NULL);
	return rc;
}

/* Threads are made by clone(); clone3() takes its flags from memory, where a filter cannot look. glibc then uses
 * clone(). */
static int refuse_processes(scmp_filter_ctx f)
{
	int rc = refuse(f, ENOSYS, SCMP_SYS(clone3), 0, NULL);
#if !SANDBOX_FOR_SANITIZER
#if defined(__s390__) || defined(__CRIS__)
	struct scmp_arg_cmp flags = SCMP_A1_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0);
#else
	struct scmp_arg_cmp flags = SCMP_A0_64(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0);
#endif
	if (!rc)
		rc = refuse_if(f, EPERM, SCMP_SYS(clone), flags);
#endif
	return rc;
}

/* Of sockets, AF_UNIX for all; AF_INET, AF_INET6 and what getaddrinfo() asks for addresses, AF_NETLINK, with `net`. */
static int refuse_sockets(scmp_filter_ctx f, bool net)
{
	if (!net)
		return refuse_if(f, EACCES, SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_NE, AF_UNIX, 0));
	int rc = refuse_if(f, EACCES, SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_GT, AF_NETLINK, 0));
	for (unsigned family = 0; family < AF_NETLINK && !rc; family++)
		if (family != AF_UNIX && family != AF_INET && family != AF_INET6)
			rc = refuse_if(f, EACCES, SCMP_SYS(socket), SCMP_A0_64(SCMP_CMP_EQ, family, 0));
	return rc;
}

static int add_rules(scmp_filter_ctx f, unsigned may, bool net)
{
	int rc = refuse_all(f, never, ARRAY_LEN(never));
	if (!rc && !(may & MAY_WRITE_DATA))
		rc = refuse_all(f, readers_never, ARRAY_LEN(readers_never));
	if (!rc && !(may & (MAY_WRITE_DATA | MAY_WRITE_HOT)))
		rc = refuse_all(f, readers_never_rename, ARRAY_LEN(readers_never_rename));
	if (!rc)
		rc = refuse_processes(f);
	if (!rc)
		rc = refuse_sockets(f, net);
	/* Typing into the terminal that the daemon was started from. */
	if (!rc)
		rc = refuse_if(f, EPERM, SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_MASKED_EQ, LOW_32, TIOCSTI));
	if (!rc)
		rc = refuse_if(f, EPERM, SCMP_SYS(ioctl), SCMP_A1_64(SCMP_CMP_MASKED_EQ, LOW_32, TIOCLINUX));
	return rc;
}

int sandbox_seccomp(unsigned may, bool net)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	if (!f)
		return ENOMEM;
	/* Attributes that an older kernel or library lacks are not worth giving up the filter. SSB: workers run no
	 * code of others, so the slow stores that kernels before 5.16 put on filtered processes protect nothing. */
	(void)seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
	(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_SSB, 1);
	(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1); /* a preloaded library may have a thread already */
	(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	(void)seccomp_attr_set(f, SCMP_FLTATR_API_SYSRAWRC, 1);
	int rc = add_rules(f, may, net);
	if (!rc)
		rc = seccomp_load(f);
	seccomp_release(f);
	return -rc;
}
