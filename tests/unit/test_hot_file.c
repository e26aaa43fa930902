/* The file of hot memories. Broken code this would catch: a damaged or torn file that crashes its reader, loses what is whole in
 * it or hands out what is not; one of another form, or of a later program, taken for ours; the hottest not first; bodies that
 * can be read after they were taken up or wiped; a failed write that costs the former file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#include "cache/hot_file-private.h"

#define ENTRIES 120 /* in three heats, so in three blocks */
#define LEN(i) (40 + (uint32_t)(i) % 57)

static char folder[] = "/tmp/test_hot.XXXXXX";
static char body[1 << 17];

static int begin(void **state)
{
	(void)state;
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	for (size_t i = 0; i < sizeof(body); i++)
		body[i] = (char)(i * 7 + i / 251);
	return mkdtemp(folder) ? 0 : -1;
}

static int end(void **state)
{
	char command[100];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static const char *at(const char *name)
{
	static char path[3][64];
	static unsigned turn;
	turn = (turn + 1) % 3;
	snprintf(path[turn], sizeof(path[0]), "%s/hot/%s", folder, name);
	return path[turn];
}

static struct hot_entry entry(uint32_t i)
{
	struct hot_entry e = {.len = LEN(i),
			      .meta = {.ns = 5, .version = i + 1, .filled_us = 1000 + i, .gone_ms = i, .fresh_ms = 3}};
	memcpy(e.id.b, &i, sizeof(i));
	return e;
}

static const struct hot_facts facts = {
	.kind = "sqlite", .revision = 17, .mark = {.revision = 18, .at_us = 5, .node = 1}};

static struct hot_writer *fill(enum hot_form form, uint64_t max, uint32_t n)
{
	struct hot_writer *w = hot_writer_open(folder, form, max);
	assert_non_null(w);
	for (uint32_t i = 0; i < n; i++) {
		struct hot_entry e = entry(i);
		/* Every tenth is known by its id only. */
		if (!hot_writer_add(w, 7 - i * 3 / n, &e, i % 10 == 9 ? NULL : body + i))
			break;
	}
	return w;
}

static void write_file(enum hot_form form)
{
	struct hot_writer *w = fill(form, 1 << 30, ENTRIES);
	assert_int_equal(hot_writer_entries(w), ENTRIES);
	assert_true(hot_writer_finish(&w, &facts));
	assert_null(w);
}

/* How many entries come out; each of them must be one that went in. */
static uint32_t read_out(struct hot_reader *r, enum hot_form form, bool *seen)
{
	uint32_t n = 0, i;
	unsigned heat, last = HOT_HEATS;
	while (hot_reader_block(r, &heat)) {
		struct hot_entry e;
		const void *p;
		assert_true(heat <= last);
		last = heat;
		while (hot_reader_next(r, &e, &p)) {
			memcpy(&i, e.id.b, sizeof(i));
			struct hot_entry want = entry(i);
			assert_true(i < ENTRIES && !seen[i]);
			assert_int_equal(uuid_cmp(&want.id, &e.id), 0);
			assert_int_equal(heat, 7 - i * 3 / ENTRIES);
			seen[i] = true;
			n++;
			assert_true(!p == (form == HOT_IDS || i % 10 == 9));
			if (!p)
				continue;
			assert_int_equal(e.len, LEN(i));
			assert_memory_equal(p, body + i, e.len);
			assert_true(e.meta.version == i + 1 && e.meta.ns == 5 && e.meta.filled_us == 1000 + i &&
				    e.meta.gone_ms == i && e.meta.fresh_ms == 3);
		}
	}
	return n;
}

static uint32_t count(struct hot_reader *r, enum hot_form form)
{
	bool seen[ENTRIES] = {false};
	return read_out(r, form, seen);
}

static void what_was_written_is_read(void **state)
{
	enum hot_state s;
	struct stat st;
	(void)state;
	for (enum hot_form form = HOT_BODIES; form <= HOT_IDS; form++) {
		assert_null(hot_file_take(folder, form, &s));
		assert_int_equal(s, HOT_ABSENT);
		write_file(form);
		assert_int_equal(stat(at(hot_file_name(form)), &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600);
		struct hot_reader *r = hot_file_take(folder, form, &s);
		assert_int_equal(s, HOT_READY);
		assert_string_equal(hot_reader_facts(r)->kind, "sqlite");
		assert_true(hot_reader_facts(r)->revision == 17 && hot_reader_facts(r)->mark.revision == 18);
		assert_int_equal(hot_reader_entries(r), ENTRIES);
		assert_int_equal(count(r, form), ENTRIES);
		assert_int_equal(hot_reader_damaged(r), 0);
		hot_reader_close(&r);
	}
	/* Ids stay, bodies do not. */
	assert_int_equal(access(at("ids"), F_OK), 0);
	assert_int_equal(access(at("bodies"), F_OK), -1);
	assert_int_equal(access(at("key"), F_OK), -1);
}

/* ---- damage ---- */

static char *whole;
static size_t size;
static struct hot_key key;

static void slurp(enum hot_form form)
{
	write_file(form);
	int fd = open(at(hot_file_name(form)), O_RDONLY);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	size = (size_t)st.st_size;
	whole = malloc(size);
	assert_int_equal(read(fd, whole, size), (ssize_t)size);
	close(fd);
	fd = open(at("key"), O_RDONLY);
	memset(&key, 0, sizeof(key));
	assert_int_equal(fd == -1 ? 0 : read(fd, &key, sizeof(key)), form == HOT_BODIES ? (int)sizeof(key) : 0);
	if (fd != -1)
		close(fd);
	if (form == HOT_IDS)
		assert_int_equal(access(at("key"), F_OK), -1);
}

static struct hot_reader *open_bytes(const char *p, size_t n, enum hot_form form, enum hot_state *s)
{
	int fd = memfd_create("hot", MFD_CLOEXEC);
	assert_int_equal(write(fd, p, n), (ssize_t)n);
	return hot_reader_open(fd, form, &key, s);
}

/* The blocks but one come out whole, wherever a byte is wrong. */
static void any_byte_may_be_wrong(void **state)
{
	enum hot_state s;
	(void)state;
	for (enum hot_form form = HOT_BODIES; form <= HOT_IDS; form++) {
		uint32_t least = ENTRIES, none = 0;
		slurp(form);
		for (size_t i = 0; i < size; i++) {
			whole[i] = (char)(whole[i] ^ (1 << i % 8));
			struct hot_reader *r = open_bytes(whole, size, form, &s);
			whole[i] = (char)(whole[i] ^ (1 << i % 8));
			none += !r;
			assert_true(r || i < sizeof(struct hot_head));
			uint32_t n = r ? count(r, form) : ENTRIES;
			least = n < least ? n : least;
			assert_true(!r || (n < ENTRIES) == (hot_reader_damaged(r) > 0));
			hot_reader_close(&r);
		}
		assert_int_equal(least, ENTRIES * 2 / 3);
		assert_true(none > sizeof(struct hot_head) - 24);
		assert_true(hot_file_wipe(folder));
		free(whole);
	}
}

static void it_may_end_anywhere(void **state)
{
	enum hot_state s;
	(void)state;
	for (enum hot_form form = HOT_BODIES; form <= HOT_IDS; form++) {
		uint32_t last = 0;
		slurp(form);
		for (size_t n = 0; n <= size; n += n % HOT_ALIGN == 1 ? HOT_ALIGN - 2 : 1) { /* around each boundary */
			struct hot_reader *r = open_bytes(whole, n, form, &s);
			uint32_t found = r ? count(r, form) : 0;
			assert_true(found >= last && found % (ENTRIES / 3) == 0);
			assert_true(!r || (found < ENTRIES) == (hot_reader_damaged(r) > 0));
			last = found;
			hot_reader_close(&r);
		}
		assert_int_equal(last, ENTRIES);
		assert_true(hot_file_wipe(folder));
		free(whole);
	}
}

static void others_are_refused(void **state)
{
	struct hot_head *h;
	enum hot_state s;
	(void)state;
	slurp(HOT_BODIES);
	h = (struct hot_head *)(void *)whole;
	assert_null(open_bytes(whole, size, HOT_IDS, &s));
	assert_int_equal(s, HOT_DAMAGED);
	key.nonce++;
	assert_null(open_bytes(whole, size, HOT_BODIES, &s)); /* the key of another file */
	assert_int_equal(s, HOT_DAMAGED);
	key.nonce--;
	h->version = HOT_VERSION + 1;
	assert_null(open_bytes(whole, size, HOT_BODIES, &s));
	assert_int_equal(s, HOT_NEWER);
	h->version = HOT_VERSION;
	struct hot_reader *r = open_bytes(whole, size, HOT_BODIES, &s);
	assert_int_equal(count(r, HOT_BODIES), ENTRIES);
	hot_reader_close(&r);
	free(whole);
}

/* A block of another file, of the same place and the same program, is no block of this one. */
static void blocks_do_not_mix(void **state)
{
	enum hot_state s;
	(void)state;
	slurp(HOT_IDS);
	char *first = whole;
	size_t n = size;
	slurp(HOT_IDS);
	assert_int_equal(size, n);
	memcpy(whole + HOT_ALIGN, first + HOT_ALIGN, n - HOT_ALIGN);
	struct hot_reader *r = open_bytes(whole, size, HOT_IDS, &s);
	assert_int_equal(s, HOT_READY);
	assert_int_equal(count(r, HOT_IDS), 0);
	hot_reader_close(&r);
	free(first);
	free(whole);
}

/* ---- erasing ---- */

static bool holds(const char *file, const void *needle, size_t len)
{
	static char buf[1 << 20];
	int fd = open(file, O_RDONLY);
	ssize_t n = fd == -1 ? 0 : read(fd, buf, sizeof(buf));
	if (fd != -1)
		close(fd);
	return n > 0 && memmem(buf, (size_t)n, needle, len);
}

static void bodies_are_gone_when_taken(void **state)
{
	enum hot_state s;
	(void)state;
	slurp(HOT_BODIES);
	free(whole);
	/* Not even the file shows them to whoever lacks the key. */
	assert_false(holds(at("bodies"), body + 40, 40));
	assert_true(holds(at("key"), key.key, sizeof(key.key)));
	/* What a process that had them open sees afterwards: the blocks of the disk. */
	assert_int_equal(link(at("key"), at("disk")), 0);
	struct hot_reader *r = hot_file_take(folder, HOT_BODIES, &s);
	assert_int_equal(s, HOT_READY);
	assert_false(holds(at("disk"), key.key, sizeof(key.key)));
	assert_int_equal(access(at("bodies"), F_OK), -1);
	hot_reader_close(&r);
	unlink(at("disk"));
	/* Whatever is in it. */
	int fd = open(at("bodies"), O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "x", 1), 1);
	close(fd);
	assert_null(hot_file_take(folder, HOT_BODIES, &s));
	assert_int_equal(s, HOT_DAMAGED);
	assert_int_equal(access(at("bodies"), F_OK), -1);
}

static void wiping_leaves_nothing(void **state)
{
	enum hot_state s;
	(void)state;
	assert_true(hot_file_wipe("/nonexistent"));
	slurp(HOT_BODIES);
	free(whole);
	assert_int_equal(link(at("key"), at("disk")), 0);
	struct hot_writer *w = fill(HOT_BODIES, 1 << 30, ENTRIES); /* one is being written meanwhile */
	assert_true(hot_file_wipe(folder));
	assert_false(holds(at("disk"), key.key, sizeof(key.key)));
	assert_int_equal(access(at("key"), F_OK), -1);
	assert_int_equal(access(at("bodies"), F_OK), -1);
	assert_false(hot_writer_finish(&w, &facts)); /* it lost its name */
	assert_null(hot_file_take(folder, HOT_BODIES, &s));
	assert_int_equal(s, HOT_ABSENT);
	unlink(at("disk"));
	assert_true(hot_file_wipe(folder));
}

/* ---- room ---- */

static void it_grows_no_larger_than_it_may(void **state)
{
	enum hot_state s;
	struct stat st;
	(void)state;
	struct hot_writer *w = fill(HOT_BODIES, 20000, ENTRIES);
	uint64_t n = hot_writer_entries(w);
	assert_true(hot_writer_full(w) && n > 30 && n < ENTRIES);
	assert_true(hot_writer_finish(&w, &facts));
	assert_int_equal(stat(at("bodies"), &st), 0);
	assert_true(st.st_size <= 20000);
	struct hot_reader *r = hot_file_take(folder, HOT_BODIES, &s);
	assert_int_equal(hot_reader_entries(r), n);
	hot_reader_close(&r);
}

static void a_full_disk_leaves_the_former_file(void **state)
{
	struct rlimit unlimited, small = {16000, 16000};
	enum hot_state s;
	(void)state;
	write_file(HOT_BODIES);
	getrlimit(RLIMIT_FSIZE, &unlimited);
	small.rlim_max = unlimited.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	struct hot_writer *w = fill(HOT_BODIES, 1 << 30, ENTRIES);
	bool ok = hot_writer_finish(&w, &facts);
	int error = errno;
	setrlimit(RLIMIT_FSIZE, &unlimited);
	assert_false(ok);
	assert_int_equal(error, EFBIG);
	assert_int_equal(access(at("bodies.new"), F_OK), -1);
	struct hot_reader *r = hot_file_take(folder, HOT_BODIES, &s);
	assert_int_equal(count(r, HOT_BODIES), ENTRIES);
	hot_reader_close(&r);
}

/* Blocks end by size, too; and the largest memory is one among many. */
static void many_and_large_ones(void **state)
{
	enum hot_state s;
	unsigned heat;
	uint64_t found = 0, bytes = 0;
	struct hot_writer *w = hot_writer_open(folder, HOT_BODIES, 1ull << 30);
	(void)state;
	for (uint32_t i = 0; i < 3000; i++) {
		struct hot_entry e = entry(i);
		e.len = i % 1000 == 999 ? sizeof(body) : 1000;
		assert_true(hot_writer_add(w, 3, &e, body));
	}
	assert_true(hot_writer_finish(&w, &facts));
	struct hot_reader *r = hot_file_take(folder, HOT_BODIES, &s);
	while (hot_reader_block(r, &heat)) {
		struct hot_entry e;
		const void *p;
		while (hot_reader_next(r, &e, &p)) {
			assert_memory_equal(p, body, e.len);
			found++;
			bytes += e.len;
		}
	}
	assert_int_equal(found, 3000);
	assert_int_equal(bytes, 2997 * 1000 + 3 * sizeof(body));
	hot_reader_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_written_is_read, begin, end),
		cmocka_unit_test_setup_teardown(any_byte_may_be_wrong, begin, end),
		cmocka_unit_test_setup_teardown(it_may_end_anywhere, begin, end),
		cmocka_unit_test_setup_teardown(others_are_refused, begin, end),
		cmocka_unit_test_setup_teardown(blocks_do_not_mix, begin, end),
		cmocka_unit_test_setup_teardown(bodies_are_gone_when_taken, begin, end),
		cmocka_unit_test_setup_teardown(wiping_leaves_nothing, begin, end),
		cmocka_unit_test_setup_teardown(it_grows_no_larger_than_it_may, begin, end),
		cmocka_unit_test_setup_teardown(a_full_disk_leaves_the_former_file, begin, end),
		cmocka_unit_test_setup_teardown(many_and_large_ones, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
