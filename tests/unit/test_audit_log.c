/* The form of the audit log: a chain over files. Any byte that is changed must be found, and where; what a crash tears must not
 * look like that once the writer has said so. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "audit.h"
#include "auditor.h"

static char dir[] = "/tmp/orchestra-audit-XXXXXX";
static int fd_dir;

static const struct auditor_limits wide = {1 << 20, 8};

static struct auditor_file opened(void) { return (struct auditor_file){.dir = dir, .fd = -1, .fd_dir = -1}; }

static void add(struct auditor_file *f, const char *what, const struct auditor_limits *limits)
{
	struct buf b = {0};
	buf_printf(&b, "\"time\":\"2026-11-22T05:47:03.000000Z\",\"who\":\"uid:0\",\"what\":\"%s\"", what);
	assert_int_equal(auditor_file_add(f, (struct span){b.p, b.len}, limits), 0);
	assert_int_equal(auditor_file_sync(f), 0);
	buf_free(&b);
}

static void write_file(const char *name, const void *p, size_t n)
{
	int fd = openat(fd_dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, p, n), n);
	close(fd);
}

static struct audit_verdict verdict(const char *expect)
{
	struct audit_verdict v = {.expect = expect};
	assert_true(audit_verify(fd_dir, &v));
	return v;
}

static int fresh(void **state)
{
	struct audit_files f;
	(void)state;
	if (!fd_dir)
		fd_dir = open(mkdtemp(dir), O_RDONLY | O_DIRECTORY);
	assert_true(audit_files_list(fd_dir, &f));
	for (size_t i = 0; i < f.n; i++)
		unlinkat(fd_dir, f.name[i], 0);
	audit_files_free(&f);
	return 0;
}

static void test_a_chain(void **state)
{
	struct auditor_file f = opened();
	(void)state;
	assert_true(verdict(NULL).ok);
	assert_int_equal(verdict(NULL).entries, 0);
	for (int i = 0; i < 5; i++)
		add(&f, "set", &wide);
	auditor_file_close(&f);
	f = opened(); /* a successor goes on */
	add(&f, "reload", &wide);
	struct audit_verdict v = verdict(f.hash);
	assert_true(v.ok && v.found);
	assert_int_equal(v.entries, 6);
	assert_int_equal(v.last, 6);
	assert_int_equal(v.repaired, 0);
	assert_memory_equal(v.head, f.hash, AUDIT_HASH);
	assert_false(verdict(AUDIT_HASH_NONE).found);
	auditor_file_close(&f);
}

static void test_every_byte_counts(void **state)
{
	struct auditor_file f = opened();
	struct buf b = {0};
	(void)state;
	for (int i = 0; i < 4; i++)
		add(&f, "set", &wide);
	auditor_file_close(&f);
	assert_true(audit_file_read(fd_dir, AUDIT_FILE, &b));
	for (size_t i = 0; i < b.len; i++) {
		for (int bit = 0; bit < 8; bit += 5) { /* 32 changes the case of letters */
			size_t line = 1;
			for (size_t k = 0; k < i; k++)
				line += b.p[k] == '\n';
			b.p[i] ^= (char)(1 << bit);
			write_file(AUDIT_FILE, b.p, b.len);
			b.p[i] ^= (char)(1 << bit);
			struct audit_verdict v = verdict(NULL);
			assert_false(v.ok);
			assert_in_range(v.line, line, line + 1); /* a newline that is gone belongs to both */
			assert_string_equal(v.file, AUDIT_FILE);
		}
	}
	buf_free(&b);
}

static void test_lines_that_go_come_or_change_places(void **state)
{
	struct auditor_file f = opened();
	struct buf b = {0}, t = {0};
	size_t at[6] = {0};
	(void)state;
	for (int i = 0; i < 5; i++) {
		add(&f, "set", &wide);
		at[i + 1] = f.size;
	}
	auditor_file_close(&f);
	assert_true(audit_file_read(fd_dir, AUDIT_FILE, &b));
	buf_add(&t, b.p, at[2]); /* without the third */
	buf_add(&t, b.p + at[3], b.len - at[3]);
	write_file(AUDIT_FILE, t.p, t.len);
	assert_int_equal(verdict(NULL).line, 3);
	t.len = 0; /* the third twice */
	buf_add(&t, b.p, at[3]);
	buf_add(&t, b.p + at[2], b.len - at[2]);
	write_file(AUDIT_FILE, t.p, t.len);
	assert_int_equal(verdict(NULL).line, 4);
	/* The beginning may be gone: that is what keeping N files means. The end may be, too, unless its hash was noted. */
	write_file(AUDIT_FILE, b.p + at[2], b.len - at[2]);
	assert_true(verdict(NULL).ok);
	assert_int_equal(verdict(NULL).first, 3);
	write_file(AUDIT_FILE, b.p, at[4]);
	assert_true(verdict(NULL).ok);
	assert_false(verdict(f.hash).found);
	buf_free(&b);
	buf_free(&t);
}

/* Every cut of the last entry, then a second cut of the entry that says so: always a chain in the end, and marked. */
static void test_torn_writes_are_marked(void **state)
{
	struct auditor_file f = opened();
	struct buf b = {0}, again = {0};
	(void)state;
	add(&f, "set", &wide);
	size_t from = f.size;
	add(&f, "apply", &wide);
	auditor_file_close(&f);
	assert_true(audit_file_read(fd_dir, AUDIT_FILE, &b));
	for (size_t n = from + 1; n < b.len; n++) {
		write_file(AUDIT_FILE, b.p, n);
		assert_true(verdict(NULL).torn && !verdict(NULL).ok);
		f = opened();
		add(&f, "reload", &wide);
		auditor_file_close(&f);
		struct audit_verdict v = verdict(NULL);
		assert_true(v.ok);
		bool whole = n == b.len - 1; /* but for its newline */
		assert_int_equal(v.repaired, whole ? 0 : 1);
		assert_int_equal(v.entries, 3);
		assert_true(audit_file_read(fd_dir, AUDIT_FILE, &again));
		for (size_t m = n + 1; m < again.len && n % 16 == 0; m += 7) {
			write_file(AUDIT_FILE, again.p, m);
			f = opened();
			add(&f, "set", &wide);
			auditor_file_close(&f);
			assert_true(verdict(NULL).ok);
			assert_in_range(verdict(NULL).repaired, 1, 2);
		}
	}
	/* What is torn is part of the chain by its hash. */
	write_file(AUDIT_FILE, b.p, b.len - 30);
	f = opened();
	add(&f, "reload", &wide);
	auditor_file_close(&f);
	assert_true(audit_file_read(fd_dir, AUDIT_FILE, &again));
	again.p[from + 20] ^= 1;
	write_file(AUDIT_FILE, again.p, again.len);
	assert_false(verdict(NULL).ok);
	buf_free(&b);
	buf_free(&again);
}

static void test_files_follow_each_other(void **state)
{
	struct auditor_limits narrow = {2000, 3};
	struct auditor_file f = opened();
	struct audit_files files;
	struct buf b = {0};
	(void)state;
	for (int i = 0; i < 60; i++) {
		add(&f, "set", &narrow);
		if (i % 7 == 0) {
			auditor_file_close(&f);
			f = opened();
		}
	}
	auditor_file_close(&f);
	assert_true(audit_files_list(fd_dir, &files));
	assert_int_equal(files.n, 4);
	assert_string_equal(files.name[3], AUDIT_FILE);
	struct audit_verdict v = verdict(NULL);
	assert_true(v.ok);
	assert_int_equal(v.last, 60);
	assert_true(v.first > 1 && v.entries == 61 - v.first);
	/* A whole file in the middle that is gone, or one that was changed. */
	assert_true(audit_file_read(fd_dir, files.name[1], &b));
	unlinkat(fd_dir, files.name[1], 0);
	v = verdict(NULL);
	assert_false(v.ok);
	assert_string_equal(v.file, files.name[2]);
	b.p[40] ^= 1;
	write_file(files.name[1], b.p, b.len);
	v = verdict(NULL);
	assert_false(v.ok);
	assert_string_equal(v.file, files.name[1]);
	audit_files_free(&files);
	buf_free(&b);
	/* A death between the renaming and the next file: the chain is found in the former one. */
	fresh(NULL);
	f = opened();
	add(&f, "set", &wide);
	auditor_file_close(&f);
	assert_int_equal(renameat(fd_dir, AUDIT_FILE, fd_dir, "audit-000000000001.log"), 0);
	f = opened();
	add(&f, "set", &wide);
	auditor_file_close(&f);
	assert_int_equal(verdict(NULL).entries, 2);
	assert_true(verdict(NULL).ok);
}

static void test_a_full_disk(void **state)
{
	struct auditor_file f = {.dir = "/proc/self", .fd = -1, .fd_dir = -1};
	(void)state;
	assert_int_not_equal(auditor_file_add(&f, SPAN_LIT("\"what\":\"set\""), &wide), 0);
	auditor_file_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_a_chain, fresh),
		cmocka_unit_test_setup(test_every_byte_counts, fresh),
		cmocka_unit_test_setup(test_lines_that_go_come_or_change_places, fresh),
		cmocka_unit_test_setup(test_torn_writes_are_marked, fresh),
		cmocka_unit_test_setup(test_files_follow_each_other, fresh),
		cmocka_unit_test(test_a_full_disk),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	fresh(NULL);
	close(fd_dir);
	rmdir(dir);
	return failed;
}
