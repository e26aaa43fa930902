#include "lastwords.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define FRAMES 24
#define STACK_BYTES (64 * 1024)

static struct {
	char *area;
	size_t cap, n;
	_Atomic uint32_t *len;
	atomic_flag taken; /* several threads may die at once: the first one speaks */
} words = {.taken = ATOMIC_FLAG_INIT};

/* ---- writing without the C library: it may be what is broken ---- */

static void say(const char *s)
{
	while (*s && words.n < words.cap)
		words.area[words.n++] = *s++;
}

static void say_number(uint64_t v, unsigned base)
{
	char digits[24];
	size_t n = sizeof(digits);
	digits[--n] = '\0';
	do
		digits[--n] = "0123456789abcdef"[v % base];
	while (v /= base);
	say(digits + n);
}

static const char *signal_name(int sig)
{
	switch (sig) {
	case SIGSEGV: return "SIGSEGV";
	case SIGBUS: return "SIGBUS";
	case SIGILL: return "SIGILL";
	case SIGFPE: return "SIGFPE";
	case SIGABRT: return "SIGABRT";
	case SIGSYS: return "SIGSYS";
	default: return "SIGTRAP";
	}
}

/* _dl_find_object() is made for signal handlers; dladdr() may wait for a lock that we hold. */
static void say_place(void *pc)
{
	struct dl_find_object found;
	say(" ");
	if (_dl_find_object(pc, &found) != 0) {
		say("0x");
		say_number((uintptr_t)pc, 16);
		return;
	}
	const char *name = found.dlfo_link_map->l_name, *slash = name;
	for (const char *p = name; *p; p++)
		slash = *p == '/' ? p + 1 : slash;
	say(*name ? slash : "orchestrad");
	say("+0x");
	say_number((uintptr_t)pc - found.dlfo_link_map->l_addr, 16);
}

static void say_all(int sig, const siginfo_t *info)
{
	void *frames[FRAMES];
	char thread[16] = "";
	prctl(PR_GET_NAME, thread, 0, 0, 0);
	say(signal_name(sig));
	if (sig == SIGSEGV || sig == SIGBUS) {
		say(" at address 0x");
		say_number((uintptr_t)info->si_addr, 16);
	} else if (info->si_code == SI_USER && info->si_pid != getpid()) {
		say(" sent by pid ");
		say_number((uint64_t)info->si_pid, 10);
	}
	say(", thread ");
	say(thread);
	if (*util_assert_text()) {
		say(", ");
		say(util_assert_text());
	}
	say(", backtrace:");
	int n = backtrace(frames, FRAMES);
	for (int i = 1; i < n; i++) /* the first is this handler */
		say_place(frames[i]);
	if (!words.len)
		say("\n");
}

static void on_fatal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	if (!atomic_flag_test_and_set(&words.taken)) {
		say_all(sig, info);
		if (words.len)
			atomic_store_explicit(words.len, (uint32_t)words.n, memory_order_release);
		else
			(void)!write(STDERR_FILENO, words.area, words.n);
	}
	raise(sig); /* blocked until we return, and back at its default action then */
}

void lastwords_install(char *area, size_t cap, _Atomic uint32_t *len)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	static const int sigs[] = {SIGABRT};
#else
	static const int sigs[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGTRAP};
#endif
	void *frames[1];
	struct sigaction sa = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
	/* A stack that has overflowed cannot run a handler. */
	stack_t stack = {.ss_sp = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 .ss_size = STACK_BYTES};
	static char own[1024];
	words.area = area ? area : own;
	words.cap = area ? cap : sizeof(own);
	words.len = len;
	(void)backtrace(frames, 1); /* loads the unwinder now: not in a handler */
	if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) == -1)
		sa.sa_flags &= ~SA_ONSTACK;
	for (size_t i = 0; i < ARRAY_LEN(sigs); i++)
		sigaction(sigs[i], &sa, NULL);
}
