/* The ring and its wake-ups, in one process (two processes: tests/stress/ring_stress.c; a lying peer:
 * tests/fuzz/fuzz_ring.c). Broken code this would catch: records that are torn at the end of the area,
 * space given out twice or lost, a reservation that is visible before its commit, a successor that starts
 * anywhere else than its predecessor stopped, an index out of range believed, a late producer that
 * wipes out the sleep flag of a later sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"
#include "shm.h"
#include "wake.h"

#define CAPACITY 65536

struct both {
	int fd;
	struct ring *in, *out; /* producer's and consumer's view */
	struct ring_shared *raw;
};

static struct both open_both(void)
{
	struct both b = {.fd = shm_create("ring", 4096 + 2 * ring_footprint(CAPACITY))};
	assert_true(b.fd >= 0);
	b.in = ring_open(b.fd, 4096, CAPACITY);
	b.out = ring_open(b.fd, 4096, CAPACITY);
	b.raw = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, b.fd, 4096);
	assert_non_null(b.in);
	assert_non_null(b.out);
	assert_true(b.raw != MAP_FAILED);
	return b;
}

static void close_both(struct both *b)
{
	ring_close(&b->in);
	ring_close(&b->out);
	assert_null(b->in);
	munmap(b->raw, 4096);
	close(b->fd);
}

static void fill(char *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char)(seed * 31 + i * 7);
}

static bool filled(const char *p, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != (char)(seed * 31 + i * 7))
			return false;
	return true;
}

static bool put(struct ring *r, size_t n, uint64_t seed)
{
	char *p = ring_reserve(r, n);
	if (!p)
		return false;
	assert_int_equal((uintptr_t)p & 7, 0);
	fill(p, n, seed);
	ring_commit(r, n);
	return true;
}

static void test_empty(void **state)
{
	(void)state;
	struct both b = open_both();
	uint64_t cursor = ring_head(b.out);
	size_t n;
	assert_true(ring_empty(b.out));
	assert_null(ring_peek(b.out, &cursor, &n));
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(ring_max_payload(b.in), CAPACITY / 4);
	assert_null(ring_reserve(b.in, CAPACITY / 4 + 1));
	assert_int_equal(errno, EMSGSIZE);
	/* reserved is not visible, and reserving again gives the same place */
	void *p = ring_reserve(b.in, 100);
	assert_true(ring_empty(b.out));
	assert_ptr_equal(p, ring_reserve(b.in, 200));
	close_both(&b);
}

/* Random sizes through many laps; the consumer lags by random amounts; contents are checked. */
static void test_laps(void **state)
{
	(void)state;
	struct both b = open_both();
	uint64_t sent = 0, got = 0, advanced = 0, x = 42, fulls = 0;
	static size_t sizes[1 << 16];
	uint64_t cursor = ring_head(b.out);
	while (got < 60000) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		unsigned what = x >> 60;
		size_t n = (x >> 33) % (what == 0 ? CAPACITY / 4 + 1 : what < 4 ? 4000 : 200);
		if (what < 9) {
			if (put(b.in, n, sent)) {
				sizes[sent++ & 0xffff] = n;
			} else {
				assert_int_equal(errno, EAGAIN);
				fulls++;
			}
		} else {
			size_t len;
			const char *p = ring_peek(b.out, &cursor, &len);
			if (!p) {
				assert_int_equal(errno, EAGAIN);
				assert_int_equal(got, sent);
				continue;
			}
			assert_int_equal(len, sizes[got & 0xffff]);
			assert_true(filled(p, len, got));
			got++;
			if (x & 1 || sent - advanced > 1000) { /* several peeked at once */
				ring_advance(b.out, cursor);
				advanced = got;
			}
		}
		if (errno == EAGAIN && cursor != ring_head(b.out) && sent == got)
			ring_advance(b.out, cursor);
		assert_true(ring_used(b.out) <= CAPACITY);
	}
	assert_true(fulls > 100);
	close_both(&b);
}

/* The area can be filled to the last byte and no further. */
static void test_full(void **state)
{
	(void)state;
	struct both b = open_both();
	size_t n = 0, len;
	while (put(b.in, 56, n)) /* 64 with its head */
		n++;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(n, CAPACITY / 64);
	assert_int_equal(ring_used(b.in), CAPACITY);
	uint64_t cursor = ring_head(b.out);
	assert_true(filled(ring_peek(b.out, &cursor, &len), 56, 0));
	assert_false(put(b.in, 1, 0)); /* peeked is not freed */
	ring_advance(b.out, cursor);
	assert_true(put(b.in, 56, n));
	assert_false(put(b.in, 1, 0));
	for (size_t i = 1; i <= n; i++)
		assert_true(filled(ring_peek(b.out, &cursor, &len), 56, i));
	close_both(&b);
}

static void test_successors(void **state)
{
	(void)state;
	struct both b = open_both();
	size_t len;
	for (int i = 0; i < 3000; i++) { /* some laps */
		assert_true(put(b.in, 100, (uint64_t)i));
		if (i < 5)
			continue;
		uint64_t c = ring_head(b.out);
		assert_true(filled(ring_peek(b.out, &c, &len), 100, (uint64_t)i - 5));
		ring_advance(b.out, c);
	}
	/* a producer dies within a record */
	memset(ring_reserve(b.in, 5000), 0x55, 5000);
	ring_close(&b.in);
	b.in = ring_open(b.fd, 4096, CAPACITY);
	assert_true(put(b.in, 100, 3000));
	/* a consumer dies after it peeked: its successor is given the same records again */
	uint64_t c = ring_head(b.out);
	for (int i = 0; i < 3; i++)
		assert_non_null(ring_peek(b.out, &c, &len));
	ring_close(&b.out);
	b.out = ring_open(b.fd, 4096, CAPACITY);
	c = ring_head(b.out);
	for (uint64_t i = 2995; i <= 3000; i++) {
		const char *p = ring_peek(b.out, &c, &len);
		assert_non_null(p);
		assert_int_equal(len, 100);
		assert_true(filled(p, 100, i));
	}
	assert_null(ring_peek(b.out, &c, &len));
	assert_int_equal(errno, EAGAIN);
	close_both(&b);
}

/* Neighbours in one segment do not touch each other. */
static void test_neighbours(void **state)
{
	(void)state;
	int fd = shm_create("rings", 2 * ring_footprint(8192));
	struct ring *a = ring_open(fd, 0, 8192), *b = ring_open(fd, ring_footprint(8192), 8192);
	assert_non_null(a);
	assert_non_null(b);
	assert_null(ring_open(fd, 4096 + ring_footprint(8192), 8192)); /* beyond the segment */
	assert_null(ring_open(fd, 100, 8192));
	assert_null(ring_open(fd, 0, 8192 + 4096));
	assert_null(ring_open(fd, 0, 0));
	assert_null(ring_open(fd, SIZE_MAX - 4095, 8192));
	for (int lap = 0; lap < 100; lap++) {
		uint64_t ca = ring_head(a), cb = ring_head(b);
		size_t len;
		while (put(a, 2000, 1))
			;
		while (put(b, 1000, 2))
			;
		const char *p;
		while ((p = ring_peek(a, &ca, &len)))
			assert_true(len == 2000 && filled(p, len, 1));
		while ((p = ring_peek(b, &cb, &len)))
			assert_true(len == 1000 && filled(p, len, 2));
		ring_advance(a, ca);
		ring_advance(b, cb);
	}
	ring_close(&a);
	ring_close(&b);
	close(fd);
}

/* A consumer meets nonsense, drops what is unread and goes on with the producer's successor. */
static void test_broken_producer(void **state)
{
	(void)state;
	struct both b = open_both();
	size_t len;
	static const uint64_t tails[] = {CAPACITY + 8, UINT64_MAX, 1ull << 63, 3, CAPACITY - 1, 12345};
	for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
		uint64_t c = ring_head(b.out);
		atomic_store(&b.raw->tail, ring_head(b.out) + tails[i]);
		for (int again = 0; again < 2; again++) {
			assert_null(ring_peek(b.out, &c, &len));
			assert_int_equal(errno, EPROTO);
		}
		ring_advance(b.out, ring_head(b.out) + ring_used(b.out));
		c = ring_head(b.out);
		assert_true(ring_empty(b.out));
		assert_null(ring_peek(b.out, &c, &len));
		assert_int_equal(errno, EAGAIN);
		for (uint64_t k = 0; k < 10; k++)
			assert_true(put(b.in, 5000, k));
		for (uint64_t k = 0; k < 10; k++) {
			const char *p = ring_peek(b.out, &c, &len);
			assert_non_null(p);
			assert_true(len == 5000 && filled(p, len, k));
		}
		ring_advance(b.out, c);
	}
	/* a good index over a bad record */
	assert_true(put(b.in, 64, 0));
	uint64_t c = ring_head(b.out);
	char *p = (char *)(uintptr_t)ring_peek(b.out, &c, &len);
	c = ring_head(b.out);
	p[-8] ^= 8;
	assert_null(ring_peek(b.out, &c, &len));
	assert_int_equal(errno, EPROTO);
	close_both(&b);
}

static void test_broken_consumer(void **state)
{
	(void)state;
	struct both b = open_both();
	assert_true(put(b.in, 1000, 0));
	static const uint64_t heads[] = {1ull << 40, UINT64_MAX / 2, UINT64_MAX - CAPACITY};
	for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
		atomic_store(&b.raw->head, heads[i]);
		ring_close(&b.in); /* forgets what it saw */
		b.in = ring_open(b.fd, 4096, CAPACITY);
		/* the index is looked at when room seems to run out */
		int e = 0;
		for (int n = 0; n < 100 && !e; n++)
			e = put(b.in, 10000, 0) ? 0 : errno;
		assert_int_equal(e, EPROTO);
		atomic_store(&b.raw->head, atomic_load(&b.raw->tail));
	}
	close_both(&b);
}

static bool readable(int efd)
{
	struct pollfd p = {.fd = efd, .events = POLLIN};
	return poll(&p, 1, 0) == 1;
}

static void test_wake(void **state)
{
	(void)state;
	struct wake w = {0};
	uint64_t n;
	int efd = eventfd(0, EFD_NONBLOCK);
	wake_signal(&w, efd);
	assert_false(readable(efd)); /* awake: no system call */
	wake_prepare(&w);
	wake_cancel(&w);
	wake_signal(&w, efd);
	assert_false(readable(efd));
	wake_prepare(&w);
	wake_signal(&w, efd);
	wake_signal(&w, efd);
	assert_int_equal(read(efd, &n, 8), 8);
	assert_int_equal(n, 1); /* the second signal found it woken already */
	wake_prepare(&w);
	wake_signal(&w, efd);
	wake_ack(&w, efd);
	assert_false(readable(efd));
	wake_ack(&w, efd); /* nothing to drain: does not block */
	/* every sleep has another number, so a producer that comes late cannot end a later sleep */
	wake_prepare(&w);
	uint32_t first = atomic_load(&w.asleep);
	wake_cancel(&w);
	wake_prepare(&w);
	assert_int_not_equal(atomic_load(&w.asleep), first);
	atomic_store(&w.episode, UINT32_MAX);
	wake_prepare(&w);
	assert_int_not_equal(atomic_load(&w.asleep), 0);
	close(efd);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty), cmocka_unit_test(test_laps), cmocka_unit_test(test_full),
		cmocka_unit_test(test_successors), cmocka_unit_test(test_neighbours),
		cmocka_unit_test(test_broken_producer), cmocka_unit_test(test_broken_consumer),
		cmocka_unit_test(test_wake),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
