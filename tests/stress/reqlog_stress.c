/* One writer process that is killed and started again, several reader processes, one of them stopped now and then: is any record
 * torn, doubled, out of order, or lost without being counted? And what does a record cost its writer, alone and with readers?
 *
 *	reqlog_stress [seconds]    default 20
 *	reqlog_stress short        for CI: 3 s
 *
 * Functional tests do not notice a missing fence; this one counts. Exit code 1: something was torn or missing. */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "reqlog.h"
#include "shm.h"

#define READERS 3
#define RING (256u << 10)

struct tally {
	_Atomic uint64_t read, lost, torn, written;
};
static struct tally *tally; /* of each reader; written: of the writer, in the first */
static _Atomic int *stop;
static int segment;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	return x ^ (x >> 27);
}

/* Words all over the record follow from its number. */
static void write_one(struct reqlog *l, uint64_t n)
{
	struct reqlog_record r;
	char text[256];
	size_t used = 0, len = 40 + (size_t)(mix(n) % 200);
	memset(&r, 0, offsetof(struct reqlog_record, text));
	r.end_us = (int64_t)n;
	r.bytes_in = mix(n);
	r.bytes_out = ~mix(n);
	memset(text, (int)(n & 0x7f), len);
	reqlog_text_add(&r, &used, REQLOG_ID, (struct span){text, len});
	reqlog_write(l, &r, used);
}

static bool good(const struct reqlog_record *r)
{
	uint64_t n = (uint64_t)r->end_us;
	struct span s = reqlog_text_of(r, REQLOG_ID);
	bool ok = r->bytes_in == mix(n) && r->bytes_out == ~mix(n) && s.len == 40 + mix(n) % 200;
	for (size_t i = 0; ok && i < s.len; i++)
		ok = s.p[i] == (char)(n & 0x7f);
	return ok;
}

static void write_on(void)
{
	struct reqlog *l = reqlog_open(segment, 0);
	AN(l);
	while (!atomic_load_explicit(stop, memory_order_relaxed)) {
		uint64_t n = atomic_load_explicit(&tally[0].written, memory_order_relaxed) + 1;
		write_one(l, n);
		/* A life that ends between both writes the same number again, in the next slot. */
		atomic_store_explicit(&tally[0].written, n, memory_order_relaxed);
	}
	_exit(0);
}

static void read_on(struct tally *t)
{
	struct reqlog_reader r;
	struct reqlog_record got;
	char *error = NULL;
	uint64_t last = 0;
	AN(reqlog_attach(&r, segment, &error));
	reqlog_rewind(&r, 0);
	while (!atomic_load_explicit(stop, memory_order_relaxed)) {
		if (!reqlog_next(&r, 0, &got))
			continue;
		uint64_t n = (uint64_t)got.end_us;
		if (!good(&got) || n < last)
			atomic_fetch_add(&t->torn, 1);
		last = n;
		atomic_store_explicit(&t->read, t->read + 1, memory_order_relaxed);
		atomic_store_explicit(&t->lost, r.lost, memory_order_relaxed);
	}
	_exit(0);
}

static pid_t start(void (*run)(void), struct tally *t)
{
	pid_t pid = fork();
	AN(pid >= 0);
	if (pid == 0) {
		if (run)
			run();
		else
			read_on(t);
	}
	return pid;
}

int main(int argc, char **argv)
{
	double seconds = argc < 2 ? 20 : strcmp(argv[1], "short") == 0 ? 3 : atof(argv[1]);
	size_t size = reqlog_segment_size(RING);
	struct reqlog_header h;
	segment = shm_create("reqlog-stress", size);
	reqlog_header_fill(&h, size);
	AN(segment >= 0 && pwrite(segment, &h, sizeof(h), 0) == sizeof(h));
	char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	AN(shared != MAP_FAILED);
	stop = (_Atomic int *)(void *)shared;
	tally = (struct tally *)(void *)(shared + 64);

	struct reqlog *l = reqlog_open(segment, 1); /* what it costs when nobody reads */
	int64_t began = clock_mono_us();
	for (uint64_t n = 1; n <= 1000000; n++)
		write_one(l, n);
	double alone = (double)(clock_mono_us() - began) / 1e3;
	reqlog_close(&l);

	pid_t writer = start(write_on, NULL), readers[READERS];
	for (int i = 0; i < READERS; i++)
		readers[i] = start(NULL, &tally[i]);
	unsigned lives = 1;
	for (int64_t until = clock_mono_us() + (int64_t)(seconds * 1e6); clock_mono_us() < until; lives++) {
		usleep(20000 + (useconds_t)(mix(lives) % 30000));
		kill(writer, SIGKILL);
		waitpid(writer, NULL, 0);
		kill(readers[0], lives & 1 ? SIGSTOP : SIGCONT);
		writer = start(write_on, NULL);
	}
	kill(readers[0], SIGCONT);
	atomic_store(stop, 1);
	uint64_t torn = 0, read = 0;
	waitpid(writer, NULL, 0);
	for (int i = 0; i < READERS; i++) {
		waitpid(readers[i], NULL, 0);
		torn += tally[i].torn;
		read += tally[i].read;
		printf("reader %d: %llu read, %llu overwritten before, %llu torn\n", i,
		       (unsigned long long)tally[i].read, (unsigned long long)tally[i].lost,
		       (unsigned long long)tally[i].torn);
	}
	printf("%llu written in %u lives; %.1f ns a record without readers\n", (unsigned long long)tally[0].written,
	       lives, alone);
	return torn || !read;
}
