/* Which files a worker can read and write in its sandbox, tried from inside, SQLite's included. Broken code this
 * would catch: an api worker that can change the store or the journal; a pinger that can read memories, directly,
 * by a link or through /proc; a sync that cannot make its files, or its temporary ones; readers that cannot open a
 * store that was made, or a -shm that was there, after they had entered. */
#include <dirent.h>
#include <poll.h>
#include <sqlite3.h>
#include <sys/socket.h>

#include "sandbox_model.h"
#include "store/store.h"

static int open_close(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	int error = error_of(fd);
	if (fd != -1)
		close(fd);
	return error;
}

static int list(const char *path)
{
	DIR *d = opendir(path);
	int error = d ? 0 : errno;
	if (d)
		closedir(d);
	return error;
}

/* data/ with a journal and a store, other/ beside it, links from one into the other. */
static int make_files(void **state)
{
	(void)state;
	mkdir(at("data/journal"), 0700);
	mkdir(at("other"), 0700);
	spit(at("data/journal/1.seg"), "journal");
	spit(at("data/store.db"), "store");
	spit(at("data/store.db-wal"), "wal");
	spit(at("other/file"), "file");
	return symlink(data_dir, at("link")) || symlink(at("data/store.db"), at("other/link"));
}

static int remove_files(void **state)
{
	static const char *const files[] = {"data/store.db", "data/store.db-wal", "data/store.db-shm", "link",
					    "other/link"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		unlink(at(files[i]));
	return 0;
}

/* ---- sync ---- */

static void writes_data_only(enum worker_role_id role)
{
	(void)role;
	expect(open_close(at("data/new"), O_RDWR | O_CREAT | O_EXCL) == 0);
	expect(open_close(at("data/store.db"), O_RDWR | O_TRUNC) == 0);
	expect_error(rename(at("data/new"), at("data/journal/new")),
		     landlock_abi() >= 2 || !landlock_abi() ? 0 : EXDEV);
	(void)!unlink(at("data/new"));
	expect_error(truncate(at("data/journal/1.seg"), 3), 0);
	expect_error(mkdir(at("data/quarantine"), 0700), 0);
	expect_error(rmdir(at("data/quarantine")), 0);
	expect(strcmp(getenv("SQLITE_TMPDIR"), data_dir) == 0);
	expect(open_close(at("other/file"), O_RDONLY) == 0 && open_close("/etc/passwd", O_RDONLY) == 0);
	if (!landlock_abi())
		return;
	expect(open_close(at("other/file"), O_WRONLY) == EACCES);
	expect(open_close(at("other/new"), O_WRONLY | O_CREAT) == EACCES);
	expect(open_close("/tmp", O_TMPFILE | O_RDWR) == EACCES);
	expect_error(unlink(at("other/file")), EACCES);
	expect_error(mkdir(at("new"), 0700), EACCES);
	expect(error_of(rename(at("data/journal/1.seg"), at("other/1.seg"))) != 0);
	expect(error_of(link(at("other/file"), at("data/linked"))) != 0);
	expect_error(symlink("x", at("data/symlink")), EACCES);
	if (landlock_abi() >= 3)
		expect_error(truncate(at("other/file"), 0), EACCES);
}

/* ---- api, warmer ---- */

static void writes_shm_only(enum worker_role_id role)
{
	expect(open_close(at("data/store.db-shm"), O_RDWR | O_CREAT) == 0);
	expect(open_close(at("data/store.db"), O_RDONLY) == 0 && open_close(at("data/journal/1.seg"), O_RDONLY) == 0);
	expect(list(data_dir) == 0 && open_close(at("other/file"), O_RDONLY) == 0);
	if (role != ROLE_WARMER || landlock_abi()) { /* it may in a folder of its own: for seccomp that is anywhere */
		expect_error(unlink(at("data/store.db-shm")), role == ROLE_WARMER ? EACCES : EPERM);
		expect_error(rename(at("data/store.db"), at("data/new")), role == ROLE_WARMER ? EACCES : EPERM);
	}
	expect_error(mkdir(at("data/new"), 0700), EPERM);
	expect_error(truncate(at("data/store.db"), 0), EPERM);
	expect_error(chmod(at("data/store.db"), 0666), EPERM);
	expect_error(link(at("data/store.db"), at("data/new")), EPERM);
	expect_error(symlink("x", at("data/new")), EPERM);
	if (!landlock_abi())
		return;
	expect(open_close(at("data/store.db"), O_RDWR) == EACCES);
	expect(open_close(at("data/store.db-wal"), O_RDWR) == EACCES);
	expect(open_close(at("data/journal/1.seg"), O_WRONLY) == EACCES);
	expect(open_close(at("data/new"), O_RDWR | O_CREAT) == EACCES);
	expect(open_close(at("other/file"), O_WRONLY) == EACCES);
	expect(open_close("/tmp", O_TMPFILE | O_RDWR) == EACCES);
	if (landlock_abi() >= 3)
		expect(open_close(at("data/store.db"), O_RDONLY | O_TRUNC) == EACCES);
}

/* The folder was made when the warmer entered. */
static void writes_hot_files(enum worker_role_id role)
{
	(void)role;
	expect(open_close(at("data/hot/bodies.new"), O_RDWR | O_CREAT | O_EXCL) == 0);
	expect_error(rename(at("data/hot/bodies.new"), at("data/hot/bodies")), 0);
	expect(open_close(at("data/hot/bodies"), O_RDWR) == 0);
	expect_error(mkdir(at("data/hot/folder"), 0700), EPERM);
	expect_error(link(at("data/store.db"), at("data/hot/store")), EPERM);
	expect_error(chmod(at("data/hot/bodies"), 0666), EPERM);
	if (landlock_abi())
		expect(error_of(rename(at("data/hot/bodies"), at("data/bodies"))) != 0);
	expect_error(unlink(at("data/hot/bodies")), 0);
}

/* ---- pinger ---- */

static void sees_no_data(enum worker_role_id role)
{
	char path[256];
	(void)role;
	expect(open_close(at("data/store.db"), O_RDONLY) == EACCES);
	expect(open_close(at("data/journal/1.seg"), O_RDONLY) == EACCES);
	expect(open_close(at("link/store.db"), O_RDONLY) == EACCES);
	expect(open_close(at("other/link"), O_RDONLY) == EACCES);
	expect(list(data_dir) == EACCES && list(at("data/journal")) == EACCES && list(at("link")) == EACCES);
	snprintf(path, sizeof(path), "/proc/self/root%s", at("data/store.db"));
	expect(open_close(path, O_RDONLY) == EACCES);
	expect(chdir(data_dir) == 0 && open_close("store.db", O_RDONLY) == EACCES);
	expect(open_close("/proc/self/cwd/store.db", O_RDONLY) == EACCES);
	snprintf(path, sizeof(path), "/proc/%d/root%s", (int)getppid(), at("data/store.db"));
	expect(open_close(path, O_RDONLY) != 0);
	/* What a library needs. */
	expect(open_close("/etc/hosts", O_RDONLY) == 0 || errno == ENOENT);
	expect(open_close("/dev/urandom", O_RDONLY) == 0 && list("/usr/lib") == 0 && list("/etc/ssl") != EACCES);
	expect(open_close(at("other/file"), O_RDONLY) == 0);
	/* Nothing to write. */
	expect(open_close(at("other/file"), O_WRONLY) == EACCES &&
	       open_close(at("other/new"), O_RDWR | O_CREAT) == EACCES);
	expect(open_close("/tmp", O_TMPFILE | O_RDWR) == EACCES);
}

static void test_files(void **state)
{
	(void)state;
	run_in(ROLE_API, NULL, writes_shm_only);
	run_in(ROLE_WARMER, NULL, writes_shm_only);
	run_in(ROLE_WARMER, NULL, writes_hot_files);
	assert_int_equal(rmdir(at("data/hot")), 0);
	if (landlock_abi())
		run_in(ROLE_PINGER, NULL, sees_no_data);
	run_in(ROLE_SYNC, NULL, writes_data_only);
}

/* ---- a store that lies elsewhere ---- */

static void writes_the_store_elsewhere(enum worker_role_id role)
{
	(void)role;
	expect(open_close(at("data/new"), O_RDWR | O_CREAT) == 0 && unlink(at("data/new")) == 0);
	expect(open_close(at("elsewhere/m.db"), O_RDWR | O_CREAT) == 0 &&
	       open_close(at("elsewhere/m.db-wal"), O_RDWR | O_CREAT) == 0);
	expect(strcmp(getenv("SQLITE_TMPDIR"), at("elsewhere")) == 0);
	expect(!landlock_abi() || open_close(at("new"), O_RDWR | O_CREAT) == EACCES);
}

static void reads_the_store_elsewhere(enum worker_role_id role)
{
	int data = role == ROLE_PINGER && landlock_abi() ? EACCES : 0;
	expect(open_close(at("elsewhere/m.db"), O_RDONLY) == data);
	expect(open_close(at("elsewhere/m.db-wal"), O_RDONLY) == data);
	expect(open_close(at("elsewhere/m.db-shm"), O_RDONLY) == data);
	expect(open_close(at("elsewhere/beside"), O_RDONLY) == 0);
	expect(!landlock_abi() || open_close(at("elsewhere/m.db"), O_RDWR) == EACCES);
	expect(role == ROLE_PINGER || open_close(at("elsewhere/m.db-shm"), O_RDWR) == 0);
}

/* Named by store.dsn, then by a link in data.dir that leads to what is not there yet. */
static void test_store_elsewhere(void **state)
{
	char dsn[128];
	const char *const sets[] = {dsn, NULL};
	const char *const *by[] = {sets, NULL};
	(void)state;
	snprintf(dsn, sizeof(dsn), "store.dsn=%s", at("elsewhere/m.db"));
	assert_int_equal(symlink("../elsewhere/m.db", at("data/store.db")), 0);
	for (size_t i = 0; i < ARRAY_LEN(by); i++) {
		assert_int_equal(mkdir(at("elsewhere"), 0700), 0);
		spit(at("elsewhere/beside"), "x");
		run_in(ROLE_SYNC, by[i], writes_the_store_elsewhere);
		run_in(ROLE_API, by[i], reads_the_store_elsewhere);
		run_in(ROLE_PINGER, by[i], reads_the_store_elsewhere);
		assert_int_equal(rename(at("elsewhere"), at(i ? "away2" : "away1")), 0);
	}
}

/* ---- SQLite ---- */

static int go; /* the test's word to its children, and theirs to it: bytes on a socket pair */

static void say_and_wait(int fd, char byte)
{
	char c;
	expect(write(fd, &byte, 1) == 1 && read(fd, &c, 1) == 1);
}

static struct store *open_store(bool writer)
{
	char *error = NULL;
	struct store_conf c = {.kind = "sqlite", .dir = data_dir};
	struct store *s = store_by_kind("sqlite")->open(&c, writer, &error);
	if (!s)
		dprintf(2, "%s\n", error);
	expect(s);
	return s;
}

static void flush(struct store *s, uint64_t seq)
{
	const struct store_ops *ops = store_by_kind("sqlite");
	expect(ops->begin(s) == STORE_OK && ops->commit(s, seq) == STORE_OK);
}

/* Dies without closing, as a killed worker does. */
static void flushes(enum worker_role_id role)
{
	uint64_t seq = 0;
	(void)role;
	struct store *s = open_store(true);
	expect(store_by_kind("sqlite")->cursor(s, &seq) == STORE_OK);
	for (uint64_t i = 1; i <= 20; i++)
		flush(s, seq + i);
}

/* A sort that is larger than its cache spills into a file. */
static void sorts(enum worker_role_id role)
{
	sqlite3 *db;
	(void)role;
	expect(sqlite3_open(at("data/store.db"), &db) == SQLITE_OK);
	expect(sqlite3_exec(db,
			    "PRAGMA cache_size=10; CREATE TEMP TABLE t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL"
			    " SELECT x+1 FROM n WHERE x<20000) SELECT x, hex(randomblob(100)) y FROM n;"
			    "CREATE INDEX temp.i ON t(y)",
			    NULL, NULL, NULL) == SQLITE_OK);
	expect(sqlite3_close(db) == SQLITE_OK);
}

static void reads_when_told(enum worker_role_id role)
{
	const struct store_ops *ops = store_by_kind("sqlite");
	uint64_t seq = 0, before = 0;
	(void)role;
	say_and_wait(go, 'i'); /* in the sandbox; there is no store yet */
	struct store *s = open_store(false);
	for (int round = 0; round < 3; round++) {
		expect(ops->cursor(s, &seq) == STORE_OK && seq > before);
		before = seq;
		struct store *late = open_store(false);
		expect(ops->cursor(late, &seq) == STORE_OK && seq == before);
		ops->close(late);
		say_and_wait(go, 'r');
	}
	ops->close(s);
}

static void wait_for_byte(int fd)
{
	char c;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 30000), 1);
	assert_int_equal(read(fd, &c, 1), 1);
}

/* A fresh data.dir: the readers are in their sandbox before there is a store, and read what four syncs in a row
 * write that are killed each, while the next one writes. */
static void read_and_write(bool shm_stays)
{
	static const enum worker_role_id readers[] = {ROLE_API, ROLE_WARMER};
	int pair[ARRAY_LEN(readers)][2];
	pid_t pid[ARRAY_LEN(readers)];
	for (size_t i = 0; i < ARRAY_LEN(readers); i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair[i]), 0);
		go = pair[i][1];
		pid[i] = start_in(readers[i], NULL, reads_when_told);
		wait_for_byte(pair[i][0]);
	}
	if (!shm_stays)
		assert_int_equal(unlink(at("data/store.db-shm")), 0);
	for (int round = 0; round < 4; round++) {
		run_in(ROLE_SYNC, NULL, flushes);
		for (size_t i = 0; i < ARRAY_LEN(readers); i++)
			assert_int_equal(write(pair[i][0], "g", 1), 1);
		for (size_t i = 0; i < ARRAY_LEN(readers) && round < 3; i++)
			wait_for_byte(pair[i][0]);
	}
	for (size_t i = 0; i < ARRAY_LEN(readers); i++)
		wait_for(pid[i], readers[i]);
}

static void test_sqlite(void **state)
{
	(void)state;
	read_and_write(true);
	run_in(ROLE_SYNC, NULL, sorts);
}

/* Somebody removes the -shm that readers are bound to before they open it. */
static void test_another_shm(void **state)
{
	(void)state;
	read_and_write(false);
}

/* A writer that cannot open the store leaves the -shm that readers are bound to. */
static void test_shm_stays(void **state)
{
	struct stat before, after;
	struct store_conf c = {.kind = "sqlite", .dir = data_dir};
	char *error = NULL;
	sqlite3 *db;
	(void)state;
	run_in(ROLE_SYNC, NULL, flushes);
	assert_int_equal(sqlite3_open(at("data/store.db"), &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "UPDATE meta SET value=99 WHERE key='schema'", NULL, NULL, NULL), SQLITE_OK);
	int keep = 1;
	sqlite3_file_control(db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep);
	sqlite3_close(db);
	assert_int_equal(stat(at("data/store.db-shm"), &before), 0);
	assert_null(store_by_kind("sqlite")->open(&c, true, &error));
	assert_non_null(strstr(error, "schema 99"));
	free(error);
	assert_int_equal(stat(at("data/store.db-shm"), &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_files, make_files, remove_files),
		cmocka_unit_test_teardown(test_store_elsewhere, remove_files),
		cmocka_unit_test_teardown(test_sqlite, remove_files),
		cmocka_unit_test_teardown(test_another_shm, remove_files),
		cmocka_unit_test_teardown(test_shm_stays, remove_files),
	};
	return cmocka_run_group_tests(tests, make_base, remove_base);
}
