/* Dead letters on disk, and sync's list of them. Broken code this would catch: a letter that is half written and passes for
 * one, or keeps sync from starting; a damaged one that is tried again; what was discarded still in the file; a retry that is a
 * second letter; a letter that outlives the erasure of its memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "sync/letters.c" /* first: it says under which name it logs */
#include "crc32c.h"
#include "log.h"

static char folder[] = "/tmp/test_dead.XXXXXX";

static int begin(void **state)
{
	(void)state;
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	return mkdtemp(folder) ? 0 : -1;
}

static int end(void **state)
{
	char command[100];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static struct dead_letter letter(uint64_t seq, uint32_t op, uint8_t id)
{
	static char body[20] = "0123456789012345678";
	struct dead_letter l = {.seq = seq,
				.op = op,
				.type = OP_PUT,
				.tries = 1,
				.ns = 7,
				.version = 3,
				.id = {{id}},
				.at_us = 1234567,
				.reason = SPAN_LIT("value too long"),
				.namespace = SPAN_LIT("default"),
				.body = body,
				.body_len = sizeof(body)};
	return l;
}

static void same(const struct dead_letter *a, const struct dead_letter *b)
{
	assert_true(a->number == b->number && a->seq == b->seq && a->op == b->op && a->type == b->type &&
		    a->tries == b->tries && a->ns == b->ns && a->version == b->version && a->at_us == b->at_us);
	assert_int_equal(uuid_cmp(&a->id, &b->id), 0);
	assert_true(span_eq(a->reason, b->reason) && span_eq(a->namespace, b->namespace));
	assert_int_equal(a->body_len, b->body_len);
	assert_memory_equal(a->body, b->body, a->body_len);
	assert_int_equal((uintptr_t)a->body % 8, 0);
}

static void bytes_and_back(void **state)
{
	(void)state;
	struct dead_letter l = letter(5, 2, 9), back;
	struct buf b = {0};
	l.number = 17;
	dead_encode(&l, &b);
	assert_true(dead_decode(b.p, b.len, &back));
	same(&back, &l);
	for (size_t n = 0; n < b.len; n++) /* torn anywhere */
		assert_false(dead_decode(b.p, n, &back));
	for (size_t i = 0; i < b.len; i++) { /* a bit of any byte */
		b.p[i] ^= 0x10;
		assert_false(dead_decode(b.p, b.len, &back));
		b.p[i] ^= 0x10;
	}
	buf_addc(&b, 0);
	assert_false(dead_decode(b.p, b.len, &back));
	b.len = 0;
	char *reason = util_alloc(5000);
	memset(reason, 'x', 5000);
	l.reason = (struct span){reason, 5000};
	dead_encode(&l, &b);
	assert_true(dead_decode(b.p, b.len, &back));
	assert_int_equal(back.reason.len, DEAD_REASON_MAX);
	free(reason);
	buf_free(&b);
}

/* Of an older build, and of a newer one, whose body may be something else. */
static void layouts(void **state)
{
	(void)state;
	for (uint32_t layout = 0; layout <= DEAD_LAYOUT + 1; layout++) {
		struct dead_letter l = letter(5, 2, 9), back;
		struct dead_head h;
		struct buf b = {0};
		l.number = 17;
		dead_encode(&l, &b);
		memcpy(&h, b.p, sizeof(h));
		assert_int_equal(h.layout, DEAD_LAYOUT);
		h.layout = layout;
		h.crc = 0;
		memcpy(b.p, &h, sizeof(h));
		h.crc = crc32c(0, b.p, b.len);
		memcpy(b.p, &h, sizeof(h));
		assert_int_equal(dead_decode(b.p, b.len, &back), layout && layout <= DEAD_LAYOUT);
		buf_free(&b);
	}
}

static uint64_t add(struct letters *l, uint64_t seq, uint32_t op, uint8_t id)
{
	struct dead_letter d = letter(seq, op, id);
	assert_int_equal(letters_add(l, &d, 100), 0);
	return d.number;
}

static void a_list_survives(void **state)
{
	(void)state;
	struct letters l;
	assert_true(letters_open(&l, folder)); /* there is no folder yet */
	assert_int_equal(l.n, 0);
	assert_int_equal(add(&l, 5, 0, 1), 1);
	assert_int_equal(add(&l, 5, 3, 2), 2);
	assert_int_equal(add(&l, 9, 0, 3), 3);
	assert_int_equal(letters_of(&l, 5), 2);
	assert_true(letters_at(&l, 5, 3)->number == 2 && !letters_at(&l, 5, 1));
	assert_int_equal(letters_remove(&l, 3), 0);
	assert_int_equal(letters_remove(&l, 3), 0);
	assert_int_equal(add(&l, 11, 0, 4), 4); /* 3 is not used again */
	letters_close(&l);
	assert_true(letters_open(&l, folder));
	assert_int_equal(l.n, 3);
	assert_true(letters_find(&l, 1)->seq == 5 && !letters_find(&l, 3) && letters_find(&l, 4)->seq == 11);
	letters_close(&l);
}

static void a_retry_replaces(void **state)
{
	(void)state;
	struct letters l;
	char *bytes;
	struct dead_letter d = letter(50, 0, 1), back;
	assert_true(letters_open(&l, folder));
	d.number = add(&l, 5, 0, 1);
	d.tries = 2;
	d.reason = SPAN_LIT("still too long");
	assert_int_equal(letters_add(&l, &d, 1), 0); /* there is room: it is none more */
	assert_true(l.n == 1 && letters_find(&l, 1)->seq == 50);
	assert_int_equal(dead_read(l.dir, 1, &bytes, &back), 0);
	same(&back, &d);
	free(bytes);
	struct dead_letter other = letter(51, 0, 2);
	assert_int_equal(letters_add(&l, &other, 1), EDQUOT);
	assert_int_equal(l.n, 1);
	letters_close(&l);
}

static void put(int dir, const char *name, const char *p, size_t n)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd != -1 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

/* What deaths leave, and what a disk does. */
static void torn_and_damaged(void **state)
{
	(void)state;
	struct letters l;
	struct dead_letter d = letter(6, 0, 1);
	struct buf b = {0};
	assert_true(letters_open(&l, folder));
	add(&l, 5, 0, 1);
	d.number = 2;
	dead_encode(&d, &b);
	put(l.dir, "0000000000000002.part", b.p, b.len / 2);
	put(l.dir, "0000000000000003.part", b.p, b.len);
	b.p[b.len - 1] ^= 1;
	put(l.dir, "0000000000000007.letter", b.p, b.len);
	put(l.dir, "7.letter", b.p, b.len);
	put(l.dir, "0000000000000004.letter", "", 0);
	put(l.dir, "0000000000000005.letter", (char[300]){0}, 300); /* being removed */
	letters_close(&l);
	assert_true(letters_open(&l, folder));
	assert_int_equal(l.n, 1);
	assert_int_equal(faccessat(l.dir, "0000000000000002.part", F_OK, 0), -1);
	assert_int_equal(faccessat(l.dir, "0000000000000003.part", F_OK, 0), -1);
	assert_int_equal(faccessat(l.dir, "0000000000000007.letter", F_OK, 0), 0);
	assert_int_equal(faccessat(l.dir, "0000000000000005.letter", F_OK, 0), -1);
	assert_int_equal(add(&l, 8, 0, 2), 8); /* never over a damaged one */
	letters_close(&l);
	buf_free(&b);
}

static void nothing_is_left(void **state)
{
	(void)state;
	struct letters l;
	char bytes[4096];
	assert_true(letters_open(&l, folder));
	uint64_t number = add(&l, 5, 0, 1);
	assert_int_equal(linkat(l.dir, "0000000000000001.letter", l.dir, "kept", 0),
			 0); /* what the disk would still have */
	assert_int_equal(letters_remove(&l, number), 0);
	int fd = openat(l.dir, "kept", O_RDONLY);
	ssize_t n = read(fd, bytes, sizeof(bytes));
	assert_true(n > 100);
	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(bytes[i], 0);
	close(fd);
	letters_close(&l);
}

static void deleted_with_its_memory(void **state)
{
	(void)state;
	struct letters l;
	unsigned gone = 0;
	struct op_delete soft = {.id = {{1}}, .ns = 7, .version = 3, .how = DELETE_SOFT};
	assert_true(letters_open(&l, folder));
	add(&l, 5, 0, 1); /* version 3 */
	add(&l, 6, 0, 2);
	add(&l, 30, 0, 1); /* behind what deletes */
	soft.version = 2;
	assert_int_equal(letters_deleted(&l, &soft, 20, &gone), 0);
	assert_int_equal(gone, 0); /* what is newer than the deletion stays … */
	soft.how = DELETE_ERASE;
	assert_int_equal(letters_deleted(&l, &soft, 20, &gone), 0);
	assert_true(gone == 1 && l.n == 2 && !letters_find(&l, 1)); /* … but for an erasure */
	struct dead_letter idem = letter(7, 1, 99);
	idem.type = OP_IDEM;
	assert_int_equal(letters_add(&l, &idem, 100), 0);
	soft.id = (struct uuid){{77}}; /* another memory of the namespace: answers may repeat it */
	assert_int_equal(letters_deleted(&l, &soft, 20, &gone), 0);
	assert_true(gone == 2 && l.n == 2);
	assert_int_equal(letters_dropped(&l, 8, 20, &gone), 0);
	assert_int_equal(l.n, 2);
	assert_int_equal(letters_dropped(&l, 7, 20, &gone), 0);
	assert_true(l.n == 1 && letters_find(&l, 3)); /* behind the drop */
	letters_close(&l);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
	const struct CMUnitTest tests[] = {TEST(bytes_and_back),	 TEST(layouts),		 TEST(a_list_survives),
					   TEST(a_retry_replaces),	 TEST(torn_and_damaged), TEST(nothing_is_left),
					   TEST(deleted_with_its_memory)};
	log_open("test", LOG_LV_ERROR, LOG_TEXT);
	log_to(open("/dev/null", O_WRONLY), NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
