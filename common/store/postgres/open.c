/* A handle's life. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "batch.h"
#include "schema.h"
#include "words/words.h"

/* What all handles of a process share: one connection for what is short, one for what may take its time, so that
 * nobody's page of a long list stands before somebody's memory. */
struct store_links {
	struct pg_link *point, *scan;
};

/* Of a daemon's former writer and of nobody who has a copy of its data.dir, where the file is another one. */
static unsigned own_mark(const struct store_conf *c)
{
	char path[PATH_MAX], host[256] = "";
	struct stat st = {.st_ino = 0};
	snprintf(path, sizeof(path), "%s/node", c->dir ? c->dir : "");
	(void)stat(path, &st);
	(void)gethostname(host, sizeof(host) - 1);
	uint64_t h = (uint64_t)st.st_ino * 0x9e3779b97f4a7c15ull ^ (uint64_t)st.st_dev;
	for (const char *p = host; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3ull;
	return (unsigned)(h >> 32);
}

/* Names the daemon's connections to the server's administrator, and to its successor (pg_end_former). */
static void application_of(const struct store_conf *c, const char *purpose, bool writer, char out[64])
{
	if (c->node && writer)
		snprintf(out, 64, "orchestra %s %016llx %08x", purpose, (unsigned long long)c->node, own_mark(c));
	else if (c->node)
		snprintf(out, 64, "orchestra %s %016llx", purpose, (unsigned long long)c->node);
	else
		snprintf(out, 64, "orchestra %s", purpose);
}

static struct pg_link *link_for(struct event_base *loop, const struct store_conf *c, const char *application,
				bool writer, struct store *s)
{
	char setup[400];
	long long ms = c->answer_timeout_us / 1000;
	/* Locks before statements, statements before the connection is given up. */
	snprintf(setup, sizeof(setup),
		 "SELECT set_config('statement_timeout','%lldms',false),set_config('lock_timeout','%lldms',false),"
		 "set_config('idle_in_transaction_session_timeout','%lldms',false)%s",
		 ms * 9 / 10, ms * 7 / 10, ms * 2, writer ? ",pg_advisory_lock_shared(7700,3)" : "");
	struct pg_link_conf l = {.dsn = c->dsn ? c->dsn : "",
				 .application = application,
				 .read_write = writer,
				 .connect_timeout_us = c->connect_timeout_us,
				 .answer_timeout_us = c->answer_timeout_us,
				 .setup = setup,
				 .notified = s ? pg_on_notified : NULL,
				 .arg = s};
	return pg_link_new(loop, &l);
}

struct store_links *pg_start(const struct store_conf *c, struct event_base *loop, char **error_r)
{
	char name[64];
	if (!pq_load(error_r))
		return NULL;
	struct store_links *l = util_zalloc(sizeof(*l));
	application_of(c, c->purpose ? c->purpose : "reader", false, name);
	l->point = link_for(loop, c, name, false, NULL);
	l->scan = link_for(loop, c, name, false, NULL);
	return l;
}

/* The handles of threads that have not ended may still ask: what they ask of is closed, and stays. */
void pg_stop(struct store_links *l)
{
	pg_link_close(l->point);
	pg_link_close(l->scan);
}

static struct store *handle(const struct store_conf *c, bool writer)
{
	struct store *s = util_zalloc(sizeof(*s));
	s->conf = *c;
	s->writer = writer;
	application_of(c, c->purpose ? c->purpose : writer ? "sync" : "reader", writer, s->application);
	if (c->links) {
		s->link = c->links->point;
		s->scan = c->links->scan;
	} else {
		s->loop = event_base_new();
		s->link = s->scan = link_for(s->loop, c, s->application, writer, s);
	}
	s->words = words_new();
	if (writer)
		s->batch = util_zalloc(sizeof(*s->batch));
	return s;
}

void pg_close(struct store *s)
{
	if (!s)
		return;
	if (s->loop) {
		pg_link_free(&s->link);
		event_base_free(s->loop);
	}
	pg_batch_free(&s->batch);
	pg_names_free(&s->names);
	pg_corpora_free(&s->corpora);
	words_free(&s->words);
	free(s);
}

/* The node's row, so that its cursor can be locked. */
static bool be_known(struct store *s)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	char host[256];
	if (gethostname(host, sizeof(host)) != 0)
		host[0] = 0;
	host[sizeof(host) - 1] = 0;
	pg_param_int8(&p, (int64_t)s->conf.node);
	pg_param_text(&p, SPAN(host));
	enum store_rc rc = pg_call(s, PG_NODE_MAKE, &p, &res);
	pg_params_free(&p);
	if (res)
		pq.clear(res);
	return rc == STORE_OK;
}

struct store *pg_open(const struct store_conf *c, bool writer, char **error_r)
{
	enum store_rc rc;
	if (!pq_load(error_r))
		return NULL;
	struct store *s = handle(c, writer);
	/* A predecessor that died in a transaction may hold the node's row, and wait for something itself. */
	if (pg_schema_read(s, &rc) && (!writer || (pg_end_former(s) == STORE_OK && be_known(s))))
		return s;
	*error_r = util_strndup(s->error, strlen(s->error));
	pg_close(s);
	return NULL;
}

const char *pg_error(struct store *s) { return s->error; }

bool pg_probe(const struct store_conf *c, char **what_r)
{
	struct buf b = {0};
	enum store_rc rc;
	if (!pq_load(what_r))
		return false;
	struct store *s = handle(c, false);
	bool ok = pg_schema_read(s, &rc);
	if (ok)
		buf_printf(&b, "schema %u, %s", s->schema.version,
			   s->schema.vector ? "with pgvector" : "without pgvector: vectors are kept as bytea");
	else
		buf_printf(&b, "%s", s->error);
	buf_addc(&b, 0);
	*what_r = b.p;
	pg_close(s);
	return ok;
}
