/* The request log: what is written is read, whole, in order, once; what was overwritten is counted; a reader sees no torn
 * record however the writer runs, and a writer that is killed anywhere leaves nothing that its successor or a reader stumbles
 * over. Broken code that this finds: a missing fence or re-check (torn records), an off-by-one in the window that a reader may
 * look at, lengths that are believed, a head that is published before its record. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "reqlog.h"
#include "shm.h"

#define RING 65536u
#define SLOTS (RING / REQLOG_SLOT - 1)

static int segment(void)
{
	size_t size = reqlog_segment_size(RING);
	struct reqlog_header h;
	int fd = shm_create("orchestra-test", size);
	assert_true(fd >= 0);
	reqlog_header_fill(&h, size);
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	return fd;
}

static struct reqlog_reader reader(int fd)
{
	struct reqlog_reader r;
	char *error = NULL;
	if (!reqlog_attach(&r, fd, &error))
		fail_msg("%s", error);
	reqlog_rewind(&r, UINT64_MAX);
	return r;
}

/* Every word of a record follows from its number, so that a torn one shows. */
static void write_one(struct reqlog *l, uint64_t n)
{
	struct reqlog_record r;
	char text[200];
	size_t used = 0, len = 8 + (size_t)(n % 180);
	memset(&r, 0, offsetof(struct reqlog_record, text));
	r.end_us = (int64_t)n;
	r.bytes_in = n * 3;
	r.bytes_out = ~n;
	r.status = (uint16_t)(200 + n % 300);
	memset(text, (int)('a' + n % 26), sizeof(text));
	reqlog_text_add(&r, &used, REQLOG_ID, (struct span){text, len});
	reqlog_text_add(&r, &used, REQLOG_PATH, (struct span){text, 180});
	reqlog_write(l, &r, used);
}

static bool good(const struct reqlog_record *r)
{
	uint64_t n = (uint64_t)r->end_us;
	struct span id = reqlog_text_of(r, REQLOG_ID), path = reqlog_text_of(r, REQLOG_PATH);
	bool ok = r->bytes_in == n * 3 && r->bytes_out == ~n && r->status == 200 + n % 300 && id.len == 8 + n % 180 &&
		  path.len == 180;
	for (size_t i = 0; ok && i < id.len; i++)
		ok = id.p[i] == (char)('a' + n % 26);
	for (size_t i = 0; ok && i < path.len; i++)
		ok = path.p[i] == (char)('a' + n % 26);
	return ok;
}

static void test_one_after_another(void **state)
{
	struct reqlog_record got;
	(void)state;
	int fd = segment();
	struct reqlog *l = reqlog_open(fd, 2);
	assert_non_null(l);
	struct reqlog_reader r = reader(fd);
	assert_int_equal(r.slots, SLOTS);
	assert_false(reqlog_next(&r, 2, &got));
	for (uint64_t n = 1; n <= 5 * SLOTS; n++) {
		write_one(l, n);
		assert_true(reqlog_next(&r, 2, &got));
		assert_true(good(&got) && got.end_us == (int64_t)n);
		assert_false(reqlog_next(&r, 2, &got));
		assert_false(reqlog_next(&r, 1, &got)); /* each worker has a ring of its own */
	}
	assert_int_equal(r.lost, 0);
	reqlog_detach(&r);
	reqlog_close(&l);
	close(fd);
}

/* Around the window's end: exactly so many are there, and the rest is counted. */
static void test_overrun(void **state)
{
	struct reqlog_record got;
	(void)state;
	for (uint64_t more = SLOTS - 1; more <= SLOTS + 3; more++) {
		int fd = segment();
		struct reqlog *l = reqlog_open(fd, 0);
		struct reqlog_reader r = reader(fd);
		for (uint64_t n = 1; n <= more; n++)
			write_one(l, n);
		uint64_t lost = more > SLOTS ? more - SLOTS : 0, n = lost;
		while (reqlog_next(&r, 0, &got)) {
			assert_true(good(&got));
			assert_int_equal(got.end_us, ++n);
		}
		assert_int_equal(n, more);
		assert_int_equal(r.lost, lost);
		reqlog_rewind(&r, 3); /* the last three */
		assert_true(reqlog_next(&r, 0, &got));
		assert_int_equal(got.end_us, more - 2);
		reqlog_detach(&r);
		reqlog_close(&l);
		close(fd);
	}
}

static void test_successor(void **state)
{
	struct reqlog_record got;
	(void)state;
	int fd = segment();
	struct reqlog_reader r = reader(fd);
	for (uint64_t n = 1; n <= 3 * SLOTS + 7; n++) { /* a new worker for each */
		struct reqlog *l = reqlog_open(fd, 31);
		write_one(l, n);
		reqlog_close(&l);
		assert_true(reqlog_next(&r, 31, &got) && got.end_us == (int64_t)n && good(&got));
	}
	assert_int_equal(r.lost, 0);
	reqlog_detach(&r);
	close(fd);
}

static void test_texts(void **state)
{
	struct reqlog_record rec, got;
	char big[400];
	size_t used = 0;
	(void)state;
	int fd = segment();
	struct reqlog *l = reqlog_open(fd, 0);
	struct reqlog_reader r = reader(fd);
	memset(big, 'x', sizeof(big));
	memset(&rec, 0, offsetof(struct reqlog_record, text));
	reqlog_text_add(&rec, &used, REQLOG_ID, (struct span){big, 400});   /* cut to 255 */
	reqlog_text_add(&rec, &used, REQLOG_PATH, (struct span){big, 400}); /* to what is left */
	assert_int_equal(used, REQLOG_TEXT);
	reqlog_write(l, &rec, used);
	assert_true(reqlog_next(&r, 0, &got));
	assert_int_equal(reqlog_text_of(&got, REQLOG_ID).len, 255);
	assert_int_equal(reqlog_text_of(&got, REQLOG_PATH).len, REQLOG_TEXT - 255);
	assert_int_equal(reqlog_text_of(&got, REQLOG_TOKEN).len, 0);
	memset(got.len, 255, sizeof(got.len)); /* a segment that lies */
	for (unsigned t = 0; t < REQLOG_TEXTS; t++) {
		struct span s = reqlog_text_of(&got, (enum reqlog_text)t);
		assert_true(s.p >= got.text && s.p + s.len <= got.text + REQLOG_TEXT);
	}
	reqlog_detach(&r);
	reqlog_close(&l);
	close(fd);
}

/* Whatever lies in the segment: the reader ends, and stays within it. */
static void test_lies(void **state)
{
	struct reqlog_record got;
	(void)state;
	int fd = segment();
	size_t size;
	unsigned char *p = shm_map(fd, false, &size);
	struct reqlog_reader r = reader(fd);
	for (unsigned round = 0; round < 200; round++) {
		srand(round);
		for (size_t i = 0; i < 4 * RING; i++)
			p[REQLOG_PAGE + i] = (unsigned char)(round % 3 ? rand() : round == 0 ? 0xff : 0x80);
		for (unsigned ring = 0; ring < 4; ring++)
			for (size_t i = 0; i < 3 * SLOTS && reqlog_next(&r, ring, &got); i++)
				for (unsigned t = 0; t < REQLOG_TEXTS; t++)
					assert_true(reqlog_text_of(&got, (enum reqlog_text)t).len <= REQLOG_TEXT);
	}
	reqlog_detach(&r);
	munmap(p, size);
	close(fd);
	char *error = NULL;
	fd = shm_create("orchestra-test", 8192);
	assert_false(reqlog_attach(&r, fd, &error));
	assert_non_null(strstr(error, "no request log"));
	free(error);
	assert_null(reqlog_open(fd, 0));
	assert_null(reqlog_open(fd, API_WORKERS_MAX));
	close(fd);
	fd = open("/dev/null", O_RDONLY); /* what a worker finds there when log.requests is 0 */
	assert_null(reqlog_open(fd, 0));
	close(fd);
}

static void test_other_layout(void **state)
{
	struct reqlog_reader r;
	struct reqlog_header h;
	char *error = NULL;
	(void)state;
	int fd = segment();
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	h.layout++;
	assert_int_equal(pwrite(fd, &h, sizeof(h), 0), sizeof(h));
	assert_false(reqlog_attach(&r, fd, &error));
	assert_non_null(strstr(error, "layout 2"));
	free(error);
	close(fd);
}

/* One thread writes as fast as it can, two read: under TSan as well. */
static _Atomic bool stop;

static void *write_on(void *arg)
{
	struct reqlog *l = arg;
	for (uint64_t n = 1; !stop; n++)
		write_one(l, n);
	return NULL;
}

static void *read_on(void *arg)
{
	struct reqlog_reader *r = arg;
	struct reqlog_record got;
	uint64_t n = 0, last = 0;
	while (n < 100000 && !stop) {
		if (!reqlog_next(r, 5, &got))
			continue;
		if (!good(&got) || (uint64_t)got.end_us <= last)
			return (void *)(uintptr_t) "torn, or out of order";
		last = (uint64_t)got.end_us;
		n++;
	}
	/* What was read and what was lost is all that there was. */
	const char *wrong = n + r->lost == last ? NULL : "records are missing that were not counted";
	return (void *)(uintptr_t)wrong;
}

static void test_threads(void **state)
{
	pthread_t writer, readers[2];
	int fd = segment();
	struct reqlog *l = reqlog_open(fd, 5);
	struct reqlog_reader r[2] = {reader(fd), reader(fd)}; /* from the first record on */
	(void)state;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, read_on, &r[i]), 0);
	assert_int_equal(pthread_create(&writer, NULL, write_on, l), 0);
	void *wrong[2];
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], &wrong[i]);
	stop = true;
	pthread_join(writer, NULL);
	for (int i = 0; i < 2; i++)
		if (wrong[i])
			fail_msg("%s", (const char *)wrong[i]);
	for (int i = 0; i < 2; i++)
		reqlog_detach(&r[i]);
	reqlog_close(&l);
	close(fd);
}

/* Writers that are killed anywhere, one after the other; a reader beside them. */
static void test_killed(void **state)
{
	struct reqlog_record got;
	uint64_t last = 0, seen = 0;
	(void)state;
	int fd = segment();
	struct reqlog_reader r = reader(fd);
	for (int life = 0; life < 60; life++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct reqlog *l = reqlog_open(fd, 0);
			for (uint64_t n = last + 1;; n++)
				write_one(l, n);
		}
		for (uint64_t until = seen + 50 + (uint64_t)life; seen < until;) {
			if (!reqlog_next(&r, 0, &got))
				continue;
			seen++;
			assert_true(good(&got));
			last = (uint64_t)got.end_us;
		}
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (reqlog_next(&r, 0, &got)) {
			seen++;
			assert_true(good(&got));
			last = (uint64_t)got.end_us;
		}
	}
	reqlog_detach(&r);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_after_another),
		cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_successor),
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_other_layout),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_killed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
