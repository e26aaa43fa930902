/* The reference for the flush to PostgreSQL: nothing but libpq. Reads the rows of a database that a daemon has
 * filled, and upserts the same rows, binary and prepared, into the emptied table of another one:
 *
 *	pipeline	transactions of so many rows, each one pipeline
 *	single		one row after the other, each its own transaction: what most peers do
 *
 * usage: bare_pg pipeline|single SOURCE-DSN TARGET-DSN ROWS BATCH
 * Prints {"rows_per_s","client_us","backend_us"}: CPU of the program and of the server's process, a row. */
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define COLUMNS 23

static void die(PGconn *c, const char *what)
{
	fprintf(stderr, "%s: %s", what, PQerrorMessage(c));
	exit(2);
}

static PGconn *open_db(const char *dsn)
{
	PGconn *c = PQconnectdb(dsn);
	if (PQstatus(c) != CONNECTION_OK)
		die(c, dsn);
	return c;
}

static void run(PGconn *c, const char *sql)
{
	PGresult *r = PQexec(c, sql);
	if (PQresultStatus(r) != PGRES_COMMAND_OK && PQresultStatus(r) != PGRES_TUPLES_OK)
		die(c, sql);
	PQclear(r);
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double own_cpu_s(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double cpu_s_of(int pid)
{
	char path[64], text[1024];
	unsigned long user = 0, sys = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	if (f)
		fclose(f);
	text[n] = 0;
	const char *p = strrchr(text, ')');
	if (!p || sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
		return 0;
	return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

static PGresult *load(const char *dsn, int rows)
{
	char sql[600];
	PGconn *c = open_db(dsn);
	snprintf(
		sql, sizeof(sql),
		"SELECT id,namespace,version,node,content,metadata,kind,user_id,agent_id,session_id,external_id,"
		"importance,flags,created_at,updated_at,expires_at,content_key,bytes,embedding_model,dim,embedding,words,"
		"body FROM memories ORDER BY id LIMIT %d",
		rows);
	PGresult *r = PQexecParams(c, sql, 0, NULL, NULL, NULL, NULL, 1);
	if (PQresultStatus(r) != PGRES_TUPLES_OK || PQntuples(r) < rows)
		die(c, "too few rows in the source");
	PQfinish(c);
	return r;
}

static void prepare(PGconn *c)
{
	static const char sql[] =
		"INSERT INTO memories VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,"
		"$22,$23) ON CONFLICT (id) DO UPDATE SET version=excluded.version,node=excluded.node,content=excluded."
		"content,metadata=excluded.metadata,kind=excluded.kind,user_id=excluded.user_id,agent_id=excluded.agent_id,"
		"session_id=excluded.session_id,external_id=excluded.external_id,importance=excluded.importance,"
		"flags=excluded.flags,updated_at=excluded.updated_at,expires_at=excluded.expires_at,"
		"content_key=excluded.content_key,bytes=excluded.bytes,embedding_model=excluded.embedding_model,"
		"dim=excluded.dim,embedding=excluded.embedding,words=excluded.words,body=excluded.body"
		" WHERE memories.version<excluded.version";
	PGresult *r = PQprepare(c, "upsert", sql, 0, NULL);
	if (PQresultStatus(r) != PGRES_COMMAND_OK)
		die(c, "prepare");
	PQclear(r);
}

static void values(const PGresult *rows, int row, const char *v[COLUMNS], int len[COLUMNS])
{
	for (int i = 0; i < COLUMNS; i++) {
		v[i] = PQgetisnull(rows, row, i) ? NULL : PQgetvalue(rows, row, i);
		len[i] = PQgetlength(rows, row, i);
	}
}

static const int binary[COLUMNS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static void finish_pipeline(PGconn *c)
{
	for (bool done = false; !done;) {
		struct pollfd p = {PQsocket(c), (short)(POLLIN | (PQflush(c) ? POLLOUT : 0)), 0};
		if (PQisBusy(c)) {
			poll(&p, 1, -1);
			if (!PQconsumeInput(c))
				die(c, "read");
			continue;
		}
		while (!done && !PQisBusy(c)) {
			PGresult *r = PQgetResult(c);
			if (!r)
				continue;
			if (PQresultStatus(r) == PGRES_FATAL_ERROR)
				die(c, "upsert");
			done = PQresultStatus(r) == PGRES_PIPELINE_SYNC;
			PQclear(r);
		}
	}
}

static void pipeline(PGconn *c, const PGresult *rows, int n, int batch)
{
	const char *v[COLUMNS];
	int len[COLUMNS];
	PQsetnonblocking(c, 1);
	PQenterPipelineMode(c);
	for (int i = 0; i < n;) {
		PQsendQueryParams(c, "BEGIN", 0, NULL, NULL, NULL, NULL, 1);
		for (int j = 0; j < batch && i < n; j++, i++) {
			values(rows, i, v, len);
			if (!PQsendQueryPrepared(c, "upsert", COLUMNS, v, len, binary, 1))
				die(c, "send");
			if (j % 64 == 63)
				PQsendFlushRequest(c);
		}
		PQsendQueryParams(c, "COMMIT", 0, NULL, NULL, NULL, NULL, 1);
		PQpipelineSync(c);
		finish_pipeline(c);
	}
}

static void single(PGconn *c, const PGresult *rows, int n)
{
	const char *v[COLUMNS];
	int len[COLUMNS];
	for (int i = 0; i < n; i++) {
		values(rows, i, v, len);
		PGresult *r = PQexecPrepared(c, "upsert", COLUMNS, v, len, binary, 1);
		if (PQresultStatus(r) != PGRES_COMMAND_OK)
			die(c, "upsert");
		PQclear(r);
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: bare_pg pipeline|single SOURCE-DSN TARGET-DSN ROWS BATCH\n");
		return 2;
	}
	int n = atoi(argv[4]), batch = atoi(argv[5]);
	PGresult *rows = load(argv[2], n);
	PGconn *c = open_db(argv[3]);
	run(c, "TRUNCATE memories");
	run(c, "CHECKPOINT");
	prepare(c);
	double start = now_s(), own = own_cpu_s(), server = cpu_s_of(PQbackendPID(c));
	if (strcmp(argv[1], "pipeline") == 0)
		pipeline(c, rows, n, batch);
	else
		single(c, rows, n);
	double took = now_s() - start;
	printf("{\"rows_per_s\": %.1f, \"client_us\": %.2f, \"backend_us\": %.2f}\n", n / took,
	       (own_cpu_s() - own) / n * 1e6, (cpu_s_of(PQbackendPID(c)) - server) / n * 1e6);
	PQfinish(c);
	PQclear(rows);
	return 0;
}
