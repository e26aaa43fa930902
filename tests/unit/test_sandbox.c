/* What a worker cannot do once it is in its sandbox, tried from inside: programs, processes, privileges, sockets,
 * signals; and what becomes of it on kernels that lack Landlock or seccomp. Broken code this would catch: a call
 * that is missing in the table, a role with another one's rights, a filter that stops threads, a filter that kills,
 * a worker that does not start where the kernel has no sandbox. Files are in test_sandbox_files.c. */
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include "sandbox_model.h"

/* ---- privileges ---- */

static void status_field(const char *name, char out[64])
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");
	expect(f);
	*out = '\0';
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
			sscanf(line + strlen(name) + 1, "%63s", out);
	fclose(f);
}

static void has_no_privileges(enum worker_role_id role)
{
	static const char *const caps[] = {"CapInh", "CapPrm", "CapEff", "CapAmb"};
	char value[64];
	(void)role;
	for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
		status_field(caps[i], value);
		expect(strcmp(value, "0000000000000000") == 0);
	}
	status_field("CapBnd", value);
	expect(geteuid() != 0 || strcmp(value, "0000000000000000") == 0);
	status_field("NoNewPrivs", value);
	expect(strcmp(value, "1") == 0);
	status_field("Seccomp", value);
	expect(strcmp(value, "2") == 0);
}

static void test_privileges(void **state)
{
	(void)state;
	run_in_all(has_no_privileges);
}

/* ---- system calls ---- */

static void *say_so(void *arg)
{
	*(bool *)arg = true;
	return NULL;
}

static void makes_threads_only(enum worker_role_id role)
{
	pthread_t t;
	bool ran = false;
	(void)role;
	expect(pthread_create(&t, NULL, say_so, &ran) == 0 && pthread_join(t, NULL) == 0 && ran);
	expect_error(syscall(SYS_clone3, NULL, 0), ENOSYS);
	if (SANDBOX_FOR_SANITIZER)
		return;
	expect_error(fork(), EPERM);
	expect_error(syscall(SYS_clone, SIGCHLD | CLONE_VM | CLONE_VFORK, NULL, NULL, NULL, NULL),
		     EPERM); /* posix_spawn */
	expect_error(syscall(SYS_clone, 1ull << 40 | SIGCHLD, NULL, NULL, NULL, NULL), EPERM);
	expect(system("true") != 0);
	expect_error(ptrace(PTRACE_TRACEME, 0, NULL, NULL), EPERM);
}

static void test_processes(void **state)
{
	(void)state;
	run_in_all(makes_threads_only);
}

/* Calls whose other answer would not be EPERM, whoever asks. */
static void is_refused_calls(enum worker_role_id role)
{
	char *argv[] = {"x", NULL};
	struct io_uring_params p = {0};
	char byte = 0;
	(void)role;
	expect_error(execve("/nonexistent", argv, NULL), EPERM);
	expect_error(syscall(SYS_execveat, AT_FDCWD, "/nonexistent", argv, NULL, 0), EPERM);
	expect_error(setuid(getuid()), EPERM);
	expect_error(syscall(SYS_setresgid, -1, -1, -1), EPERM);
	expect_error(unshare(0), EPERM);
	expect_error(syscall(SYS_io_uring_setup, 1, &p), EPERM);
	expect_error(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1), EPERM);
	expect_error(syscall(SYS_personality, 0xffffffff), EPERM);
	expect_error(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0), EPERM);
	expect_error(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 1), EPERM);
	expect_error(syscall(SYS_pidfd_open, getpid(), 0), EPERM);
	expect_error(syscall(SYS_add_key, "user", NULL, NULL, 0, 0), EPERM);
	expect_error(syscall(SYS_bpf, -1, NULL, 0), EPERM);
	expect_error(syscall(SYS_perf_event_open, NULL, 0, 0, -1, 0), EPERM);
	expect_error(syscall(SYS_userfaultfd, -1), EPERM);
	expect_error(syscall(SYS_mount, NULL, NULL, NULL, 0, NULL), EPERM);
	expect_error(syscall(SYS_init_module, NULL, 0, NULL), EPERM);
	expect_error(syscall(SYS_mknodat, AT_FDCWD, at("fifo"), S_IFIFO | 0600, 0), EPERM);
	expect_error(ioctl(-1, TIOCSTI, &byte), EPERM);
	expect_error(syscall(SYS_ioctl, -1, 1ull << 32 | TIOCSTI, &byte), EPERM);
#ifdef __x86_64__
	expect_error(syscall(0x40000000 + SYS_getpid), ENOSYS); /* the same calls by their x32 numbers */
#endif
}

static void test_calls(void **state)
{
	(void)state;
	run_in_all(is_refused_calls);
}

/* ---- sockets ---- */

static int listener = -1;
static struct sockaddr_in listener_address;

static int listen_somewhere(void **state)
{
	socklen_t len = sizeof(listener_address);
	(void)state;
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	listener_address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return bind(listener, (struct sockaddr *)&listener_address, len) || listen(listener, 16) ||
	       getsockname(listener, (struct sockaddr *)&listener_address, &len);
}

static int open_socket(unsigned long family, int type)
{
	long fd = syscall(SYS_socket, family, type, 0);
	int error = error_of(fd);
	if (fd != -1)
		close((int)fd);
	return error;
}

static void opens_sockets(enum worker_role_id role)
{
	int inet = role == ROLE_PINGER ? 0 : EACCES, pair[2];
	expect(open_socket(AF_UNIX, SOCK_STREAM) == 0);
	expect_error(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	expect(open_socket(AF_INET, SOCK_STREAM) == inet);
	expect(open_socket(AF_INET, SOCK_DGRAM) == inet);
	expect(open_socket(AF_INET6, SOCK_STREAM) == inet || open_socket(AF_INET6, SOCK_STREAM) == EAFNOSUPPORT);
	expect(open_socket(AF_NETLINK, SOCK_RAW) == inet);
	for (int family = 0; family < AF_MAX; family++)
		if (family != AF_UNIX && family != AF_INET && family != AF_INET6 && family != AF_NETLINK)
			expect(open_socket((unsigned long)family, SOCK_STREAM) == EACCES);
	/* The kernel looks at 32 bits only. */
	expect(open_socket(1ul << 32 | AF_PACKET, SOCK_RAW) == EACCES);
	expect(open_socket(1ul << 32 | AF_UNIX, SOCK_STREAM) == EACCES);
}

static void test_sockets(void **state)
{
	(void)state;
	run_in_all(opens_sockets);
}

/* A server that the daemon uses is reached by those who use it. */
static void reaches_servers(enum worker_role_id role)
{
	(void)role;
	expect(open_socket(AF_INET, SOCK_STREAM) == 0);
	expect(open_socket(AF_UNIX, SOCK_STREAM) == 0);
	expect(open_socket(AF_PACKET, SOCK_RAW) == EACCES);
}

static void test_sockets_for_servers(void **state)
{
	static const char *const redis[] = {"redis.url=redis://127.0.0.1", NULL};
	static const char *const postgres[] = {"store.kind=postgres", "store.dsn=host=localhost", NULL};
	(void)state;
	for (int role = 0; role < ROLE_COUNT; role++) {
		run_in((enum worker_role_id)role, redis, reaches_servers);
		run_in((enum worker_role_id)role, postgres, reaches_servers);
	}
}

static void connects(enum worker_role_id role)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	(void)role;
	expect(fd >= 0);
	expect_error(bind(fd, (struct sockaddr *)&any, sizeof(any)), landlock_abi() >= 4 ? EACCES : 0);
	expect_error(connect(fd, (struct sockaddr *)&listener_address, sizeof(listener_address)), 0);
}

/* api: on a socket that it was born with. */
static void accepts(enum worker_role_id role)
{
	(void)role;
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	expect(fd >= 0 && write(fd, "x", 1) == 1);
}

static void test_connections(void **state)
{
	char byte = 0;
	(void)state;
	run_in(ROLE_PINGER, NULL, connects);
	close(accept(listener, NULL, NULL));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&listener_address, sizeof(listener_address)), 0);
	run_in(ROLE_API, NULL, accepts);
	assert_int_equal(read(fd, &byte, 1), 1);
	close(fd);
}

/* An inherited socket that is not connected yet: no way out for who has no network. */
static int inherited;

static void connects_inherited(enum worker_role_id role)
{
	expect_error(connect(inherited, (struct sockaddr *)&listener_address, sizeof(listener_address)),
		     role == ROLE_PINGER ? 0 : EACCES);
}

static void test_inherited_socket(void **state)
{
	(void)state;
	need_landlock(4);
	for (int role = 0; role < ROLE_COUNT; role++) {
		inherited = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		run_in((enum worker_role_id)role, NULL, connects_inherited);
		close(inherited);
	}
}

static void signals(enum worker_role_id role)
{
	(void)role;
	expect_error(kill(getppid(), 0), EPERM);
	expect_error(kill(getpid(), 0), 0);
	signal(SIGUSR1, SIG_IGN);
	expect(raise(SIGUSR1) == 0);
}

static void test_signals(void **state)
{
	(void)state;
	need_landlock(6);
	run_in_all(signals);
}

/* ---- off, and kernels that lack something ---- */

static void is_free(enum worker_role_id role)
{
	char *argv[] = {"x", NULL}, value[64];
	(void)role;
	expect_error(execve("/nonexistent", argv, NULL), ENOENT);
	expect(open_socket(AF_INET, SOCK_STREAM) == 0);
	expect_error(open(at("data/free"), O_CREAT | O_WRONLY, 0600), 0);
	status_field("NoNewPrivs", value);
	expect(strcmp(value, "0") == 0);
}

static void test_off(void **state)
{
	static const char *const off[] = {"daemon.sandbox=off", NULL};
	(void)state;
	for (int role = 0; role < ROLE_COUNT; role++)
		run_in((enum worker_role_id)role, off, is_free);
}

/* What the child of a role says, run under a filter that plays an older kernel. */
static void said_without(enum worker_role_id role, bool landlock, bool seccomp, child_fn *fn, char out[2048])
{
	int tube[2], status;
	size_t len = 0;
	assert_int_equal(pipe(tube), 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(tube[1], 2);
		scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
		expect(!seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ALLOW));
		if (!landlock)
			expect(!seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(landlock_create_ruleset), 0));
		if (!seccomp) {
			expect(!seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(seccomp), 0));
			expect(!seccomp_rule_add(f, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(prctl), 1,
						 SCMP_A0_64(SCMP_CMP_EQ, PR_SET_SECCOMP, 0)));
		}
		expect(seccomp_load(f) == 0);
		seccomp_release(f);
		seccomp_reset(NULL, SCMP_ACT_ALLOW);
		struct conf *c = make_conf(NULL);
		log_open(rows[role].name, LOG_LV_WARN, LOG_TEXT);
		sandbox_enter(&rows[role], c);
		fn(role);
		_exit(0);
	}
	close(tube[1]);
	for (ssize_t n = 1; n > 0 && len < 2047; len += (size_t)n)
		n = read(tube[0], out + len, 2047 - len);
	out[len] = '\0';
	close(tube[0]);
	waitpid(pid, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("%s: status 0x%x: %s", rows[role].name, (unsigned)status, out);
}

static void filtered_but_for_files(enum worker_role_id role)
{
	has_no_privileges(role);
	is_refused_calls(role);
	opens_sockets(role);
	expect(open(at("data/store.db"), O_RDWR | O_CREAT, 0600) >= 0);
	expect_error(mkdir(at("data/made"), 0700), role == ROLE_SYNC ? 0 : EPERM);
	expect_error(chmod(data_dir, 0700), role == ROLE_SYNC ? 0 : EPERM);
}

static void files_without_filter(enum worker_role_id role)
{
	char *argv[] = {"x", NULL};
	expect_error(execve("/nonexistent", argv, NULL), ENOENT);
	if (!landlock_abi())
		return;
	expect_error(open(at("new"), O_RDWR | O_CREAT, 0600), EACCES);
	expect_error(open(at("data/new"), O_RDWR | O_CREAT, 0600), role == ROLE_SYNC ? 0 : EACCES);
}

static void bare(enum worker_role_id role)
{
	char *argv[] = {"x", NULL};
	(void)role;
	expect_error(execve("/nonexistent", argv, NULL), ENOENT);
	expect_error(open(at("bare"), O_RDWR | O_CREAT, 0600), 0);
}

static void test_older_kernels(void **state)
{
	char said[2048];
	(void)state;
	for (int i = 0; i < ROLE_COUNT; i++) {
		enum worker_role_id role = (enum worker_role_id)i;
		bool speaks = role == ROLE_SYNC;
		said_without(role, false, true, filtered_but_for_files, said);
		assert_int_equal(speaks, strstr(said, "no Landlock (Function not implemented)") != NULL);
		assert_null(strstr(said, "no seccomp"));
		said_without(role, true, false, files_without_filter, said);
		assert_int_equal(speaks, strstr(said, "no seccomp") != NULL);
		said_without(role, false, false, bare, said);
		assert_int_equal(speaks, strstr(said, "no seccomp") && strstr(said, "no Landlock"));
		if (!speaks)
			assert_string_equal(said, "");
		rmdir(at("data/made"));
		unlink(at("data/new"));
	}
}

/* As in a service whose own filter refuses capset() to a process that has no capability left: no complaint. */
static void enters_again(enum worker_role_id role)
{
	struct conf *c = make_conf(NULL);
	sandbox_enter(&rows[role], c);
	is_refused_calls(role);
	if (role !=
	    ROLE_PINGER) /* that can list no folder above data.dir, and so allows itself nothing the second time */
		has_no_privileges(role);
}

static void test_inside_another_sandbox(void **state)
{
	char said[2048];
	(void)state;
	for (int role = 0; role < ROLE_COUNT; role++) {
		said_without((enum worker_role_id)role, true, true, enters_again, said);
		assert_string_equal(said, "");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_privileges),
		cmocka_unit_test(test_processes),
		cmocka_unit_test(test_calls),
		cmocka_unit_test_setup(test_sockets, listen_somewhere),
		cmocka_unit_test(test_sockets_for_servers),
		cmocka_unit_test(test_connections),
		cmocka_unit_test(test_inherited_socket),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_off),
		cmocka_unit_test(test_older_kernels),
		cmocka_unit_test(test_inside_another_sandbox),
	};
	return cmocka_run_group_tests(tests, make_base, remove_base);
}
