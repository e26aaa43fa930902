/* The reference for the flush: the rows of a store, inserted again into an empty one by a bare loop
 * of prepared statements: same tables, indexes, words, page settings and batch size, but no look at
 * what is there already, no cursor, no namespace counts, and no journal to read from.
 *
 * usage: bench_store [-n ROWS] [-b BATCH] [-r ROUNDS] STORE_DB NEW_DB
 * prints one JSON object */
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLUMNS = 22, PER_ROUND = 100 }; /* memories 20 (n first), vectors' dim and x */

#define READ "SELECT m.*,v.dim,v.x FROM memories m LEFT JOIN vectors v ON v.n=m.n LIMIT ?"
#define INSERT "INSERT INTO memories VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
#define VECTOR "INSERT INTO vectors VALUES(?,?,?)"
#define WORDS "INSERT INTO words(rowid,content,scope) VALUES(?,?,'ns0000000000000000')"

static struct {
	int rows, batch, rounds;
} o = {16000, 4000, 3};
static sqlite3_value *(*row)[COLUMNS];
static char **content;
static size_t rows;

static void die(sqlite3 *db, const char *what)
{
	fprintf(stderr, "%s: %s\n", what, db ? sqlite3_errmsg(db) : "failed");
	exit(1);
}

static void run(sqlite3 *db, const char *sql)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		die(db, sql);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *st;
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		die(db, sql);
	return st;
}

static void load(sqlite3 *db)
{
	sqlite3_stmt *st = prepare(db, READ), *text = prepare(db, "SELECT json_extract(?,'$.content')");
	row = calloc((size_t)o.rows, sizeof(*row));
	content = calloc((size_t)o.rows, sizeof(*content));
	if (!row || !content || sqlite3_column_count(st) != COLUMNS)
		die(NULL, "the store has other columns than this program knows");
	sqlite3_bind_int(st, 1, o.rows);
	for (; sqlite3_step(st) == SQLITE_ROW; rows++) {
		for (int c = 0; c < COLUMNS; c++)
			row[rows][c] = sqlite3_value_dup(sqlite3_column_value(st, c));
		sqlite3_bind_value(text, 1, row[rows][19]);
		if (sqlite3_step(text) != SQLITE_ROW)
			die(db, "content");
		content[rows] = strdup((const char *)sqlite3_column_text(text, 0));
		sqlite3_reset(text);
	}
	sqlite3_finalize(st);
	sqlite3_finalize(text);
}

/* The store's own statements, but the tables that FTS5 makes for itself. */
static void copy_schema(sqlite3 *from, sqlite3 *to)
{
	sqlite3_stmt *st = prepare(
		from, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'words\\__%' ESCAPE '\\' "
		      "AND name NOT LIKE 'stems\\__%' ESCAPE '\\'"); /* their shadow tables make themselves */
	while (sqlite3_step(st) == SQLITE_ROW)
		run(to, (const char *)sqlite3_column_text(st, 0));
	sqlite3_finalize(st);
}

static void step(sqlite3 *db, sqlite3_stmt *st)
{
	if (sqlite3_step(st) != SQLITE_DONE)
		die(db, "insert");
	sqlite3_reset(st);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Rounds go into the same file, as a store grows: other ids and row numbers in each. */
static double insert_all(sqlite3 *db, int round)
{
	sqlite3_int64 base = (sqlite3_int64)round << 32;
	sqlite3_stmt *m = prepare(db, INSERT), *v = prepare(db, VECTOR), *w = prepare(db, WORDS);
	double start = now();
	for (size_t i = 0; i < rows; i++) {
		if (i % (size_t)o.batch == 0)
			run(db, i ? "COMMIT; BEGIN IMMEDIATE" : "BEGIN IMMEDIATE");
		sqlite3_int64 n = base + sqlite3_value_int64(row[i][0]);
		unsigned char id[16];
		memcpy(id, sqlite3_value_blob(row[i][1]), sizeof(id));
		id[0] = (unsigned char)round;
		sqlite3_bind_int64(m, 1, n);
		sqlite3_bind_blob(m, 2, id, sizeof(id), SQLITE_STATIC);
		for (int c = 2; c < 20; c++)
			sqlite3_bind_value(m, c + 1, row[i][c]);
		step(db, m);
		if (sqlite3_value_type(row[i][21]) == SQLITE_BLOB) {
			sqlite3_bind_int64(v, 1, n);
			sqlite3_bind_value(v, 2, row[i][20]);
			sqlite3_bind_value(v, 3, row[i][21]);
			step(db, v);
		}
		sqlite3_bind_int64(w, 1, n);
		sqlite3_bind_text(w, 2, content[i], -1, SQLITE_STATIC);
		step(db, w);
	}
	run(db, "COMMIT");
	double took = now() - start;
	sqlite3_finalize(m);
	sqlite3_finalize(v);
	sqlite3_finalize(w);
	return (double)rows / took;
}

static void forget(const char *path)
{
	char name[600];
	static const char *const suffix[] = {"", "-wal", "-shm"};
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "%s%s", path, suffix[i]);
		unlink(name);
	}
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	double rate[PER_ROUND];
	sqlite3 *from, *to;
	int ch;
	while ((ch = getopt(argc, argv, "n:b:r:")) != -1) {
		switch (ch) {
		case 'n': o.rows = atoi(optarg); break;
		case 'b': o.batch = atoi(optarg); break;
		case 'r': o.rounds = atoi(optarg); break;
		default: return 2;
		}
	}
	if (argc - optind != 2 || o.rows < 1 || o.batch < 1 || o.rounds < 1 || o.rounds > PER_ROUND) {
		fprintf(stderr, "usage: %s [-n ROWS] [-b BATCH] [-r ROUNDS] STORE_DB NEW_DB\n", argv[0]);
		return 2;
	}
	if (sqlite3_open_v2(argv[optind], &from, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK)
		die(from, argv[optind]);
	load(from);
	forget(argv[optind + 1]);
	if (sqlite3_open(argv[optind + 1], &to) != SQLITE_OK)
		die(to, argv[optind + 1]);
	run(to, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=1; PRAGMA cache_size=-16384;"
		"PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864");
	copy_schema(from, to);
	insert_all(to, 0); /* the first time the files grow */
	for (int i = 0; i < o.rounds; i++)
		rate[i] = insert_all(to, i + 1);
	sqlite3_close(to);
	forget(argv[optind + 1]);
	qsort(rate, (size_t)o.rounds, sizeof(*rate), ascending);
	printf("{\"rows\":%zu,\"batch\":%d,\"rounds\":%d,\"rows_per_s\":%.0f}\n", rows, o.batch, o.rounds,
	       rate[o.rounds / 2]);
	sqlite3_close(from);
	return 0;
}
