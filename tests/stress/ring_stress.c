/* Two processes, one ring, one eventfd: is anything lost, torn or doubled, and does a sleeping consumer
 * ever stay asleep over a record? Functional tests do not notice a missing fence; this one counts.
 *
 *	ring_stress [messages] default 4,000,000 of 64 B (a tenth of that of 6.6 KB)
 *	ring_stress short                  for CI: 300,000
 *
 * Prints messages per second next to SOCK_SEQPACKET in the same run. Exit code 1: something was lost or
 * corrupt. A lost wake-up is counted when poll() times out over a ring that is not empty. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "ring.h"
#include "shm.h"
#include "wake.h"

#define CAPACITY (8u << 20)
#define LOST_AFTER_MS 1000 /* a busy machine delays a wake-up, it does not lose it */
#define BATCH 64

struct shared {
	struct wake consumer, producer;
};
struct tally {
	uint64_t lost, corrupt, sleeps, got;
};

static struct shared *sh;
static int efd_consumer, efd_producer, segment;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	return x ^ (x >> 27);
}

/* First word: its number; last word and one in the middle: derived from it; the rest is only moved. */
static void write_message(char *p, size_t len, uint64_t n)
{
	uint64_t m = mix(n);
	memset(p, (int)(n & 0xff), len);
	memcpy(p, &n, 8);
	memcpy(p + (len / 2 & ~(size_t)7), &m, 8);
	m = ~m;
	memcpy(p + len - 8, &m, 8);
}

static bool good_message(const char *p, size_t len, uint64_t n)
{
	uint64_t a, b, c, m = mix(n);
	memcpy(&a, p, 8);
	memcpy(&b, p + (len / 2 & ~(size_t)7), 8);
	memcpy(&c, p + len - 8, 8);
	return a == n && b == m && c == ~m;
}

static void spin(uint64_t turns)
{
	for (volatile uint64_t i = turns; i; i--)
		;
}

/* Sleeps until woken. True: woken or work; false: it slept over work. `doze` turns are spent looking at
 * the flag before the real sleep: in lock-step that makes a million sleeps a second instead of 50,000. */
static bool sleep_on(struct wake *w, int efd, const struct ring *r, bool (*work)(const struct ring *), unsigned doze)
{
	wake_prepare(w);
	if (work(r)) {
		wake_cancel(w);
		return true;
	}
	while (doze && atomic_load_explicit(&w->asleep, memory_order_relaxed))
		doze--;
	struct pollfd p = {.fd = efd, .events = POLLIN};
	int n = poll(&p, 1, LOST_AFTER_MS);
	bool slept_over = n == 0 && work(r);
	wake_ack(w, efd);
	return !slept_over;
}

static bool has_records(const struct ring *r) { return !ring_empty(r); }
static bool has_room(const struct ring *r) { return ring_used(r) <= CAPACITY / 2; }

/* How the producer goes on after a message. Only in LOCK_STEP does a lost wake-up stay lost: otherwise the
 * next message wakes the sleeper. There the next one comes just when the consumer lies down. */
enum pace { FULL_SPEED, PAUSES, LOCK_STEP };

static void pace_after(const struct ring *r, enum pace pace, uint64_t n)
{
	if (pace == PAUSES && mix(n) % 8 == 0)
		spin(mix(n * 3) % 4000);
	if (pace == LOCK_STEP) {
		for (unsigned turns = 1; !ring_empty(r); turns++)
			if (turns % 4096 == 0)
				sched_yield();
		spin(mix(n * 3) % 16);
	}
}

static uint64_t produce(size_t len, uint64_t count, enum pace pace)
{
	struct ring *r = ring_open(segment, 0, CAPACITY);
	uint64_t lost = 0;
	for (uint64_t n = 0; n < count; n++) {
		char *p;
		while (!(p = ring_reserve(r, len)))
			lost += !sleep_on(&sh->producer, efd_producer, r, has_room, 0);
		write_message(p, len, n);
		ring_commit(r, len);
		wake_signal(&sh->consumer, efd_consumer);
		pace_after(r, pace, n);
	}
	ring_close(&r);
	return lost;
}

static struct tally consume(size_t len, uint64_t count, enum pace pace)
{
	struct ring *r = ring_open(segment, 0, CAPACITY);
	struct tally t = {.got = 0};
	static char copy[8192];
	uint64_t cursor = ring_head(r);
	int64_t deadline = clock_mono_us() + 300 * 1000000ll;
	while (t.got < count && clock_mono_us() < deadline) {
		size_t n, batch = 0;
		const char *p;
		while ((p = ring_peek(r, &cursor, &n))) {
			memcpy(copy, p, n < sizeof(copy) ? n : sizeof(copy)); /* as sync does, into the journal */
			t.corrupt += n != len || !good_message(copy, n, t.got);
			t.got++;
			if (++batch % BATCH == 0) {
				ring_advance(r, cursor);
				wake_signal(&sh->producer, efd_producer);
			}
		}
		if (errno == EPROTO) {
			t.corrupt++;
			break;
		}
		ring_advance(r, cursor);
		wake_signal(&sh->producer, efd_producer);
		if (t.got < count) {
			t.lost += !sleep_on(&sh->consumer, efd_consumer, r, has_records, pace == LOCK_STEP ? 2000 : 0);
			t.sleeps++;
		}
	}
	ring_close(&r);
	return t;
}

static double run_ring(size_t len, uint64_t count, enum pace pace, struct tally *t_r)
{
	segment = shm_create("ring_stress", ring_footprint(CAPACITY));
	if (segment < 0)
		exit(2);
	int64_t start = clock_mono_us();
	pid_t child = fork();
	if (child == 0) {
		uint64_t lost = produce(len, count, pace);
		_exit(lost > 100 ? 100 : (int)lost);
	}
	*t_r = consume(len, count, pace);
	double s = (double)(clock_mono_us() - start) / 1e6;
	int status = -1;
	if (t_r->got < count)
		kill(child, SIGKILL);
	waitpid(child, &status, 0);
	t_r->lost += WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : 0;
	close(segment);
	return (double)count / s;
}

static double run_seqpacket(size_t len, uint64_t count)
{
	int s[2];
	static char buf[8192];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s))
		exit(2);
	int64_t start = clock_mono_us();
	pid_t child = fork();
	if (child == 0) {
		for (uint64_t n = 0; n < count; n++) {
			write_message(buf, len, n);
			if (send(s[0], buf, len, 0) != (ssize_t)len)
				_exit(1);
		}
		_exit(0);
	}
	for (uint64_t n = 0; n < count; n++)
		if (recv(s[1], buf, sizeof(buf), 0) != (ssize_t)len || !good_message(buf, len, n))
			exit(2);
	double t = (double)(clock_mono_us() - start) / 1e6;
	waitpid(child, NULL, 0);
	close(s[0]);
	close(s[1]);
	return (double)count / t;
}

static bool row(const char *what, size_t len, uint64_t count, enum pace pace, bool compare)
{
	struct tally t;
	double ring = run_ring(len, count, pace, &t);
	bool ok = !t.lost && !t.corrupt && t.got == count;
	printf("%-22s %4zu B: %9.0f msg/s %7.0f MB/s", what, len, ring, ring * (double)len / 1e6);
	if (compare) {
		double socket = run_seqpacket(len, count / 10 + 1);
		printf("   SOCK_SEQPACKET %8.0f msg/s, ring is %.1f x", socket, ring / socket);
	}
	printf("   %llu sleeps, %llu lost wake-ups, %llu corrupt, %llu missing\n", (unsigned long long)t.sleeps,
	       (unsigned long long)t.lost, (unsigned long long)t.corrupt, (unsigned long long)(count - t.got));
	fflush(stdout);
	return ok;
}

int main(int argc, char **argv)
{
	uint64_t count = 4000000;
	if (argc > 1)
		count = strcmp(argv[1], "short") == 0 ? 300000 : strtoull(argv[1], NULL, 10);
	if (!count)
		return 2;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	efd_consumer = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	efd_producer = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (sh == MAP_FAILED || efd_consumer < 0 || efd_producer < 0)
		return 2;
	bool ok = row("full speed", 64, count, FULL_SPEED, true);
	ok = row("full speed", 6600, count / 10 + 1, FULL_SPEED, true) && ok;
	ok = row("with pauses", 64, count / 4 + 1, PAUSES, false) && ok;
	ok = row("lock-step", 64, count / 4 + 1, LOCK_STEP, false) && ok;
	puts(ok ? "ok" : "LOST OR CORRUPT");
	return ok ? 0 : 1;
}
