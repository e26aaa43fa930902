/* The audit log: what api workers do is told to the supervisor, who writes it; and GET /v1/admin/audit reads it. */
#include "audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "handlers.h"

#define PAGE 100
#define PAGE_MAX 1000
#define PAGE_BYTES (4u << 20)  /* of entries in one answer */
#define SCAN_BYTES (32u << 20) /* looked at for one answer: a page may be short, or empty, and have a next_cursor */
#define ANSWER_MAX 2048	       /* of an action's own answer in its entry */

/* ---- telling ---- */

static const struct {
	void (*handle)(struct call *c);
	const char *what;
} noted[] = {
	{breakers_open, "breaker-open"},	 {breakers_close, "breaker-close"},
	{breakers_reset, "breaker-reset"},	 {caches_purge, "purge"},
	{dead_retry, "dead-letters-retry"},	 {dead_retry_all, "dead-letters-retry"},
	{dead_discard, "dead-letters-discard"},	 {dead_discard_all, "dead-letters-discard"},
	{namespaces_create, "namespace-create"}, {namespaces_patch, "namespace-change"},
	{namespaces_delete, "namespace-delete"},
};

static const char *what_of(const struct call *c)
{
	for (size_t i = 0; i < ARRAY_LEN(noted); i++)
		if (c->route->handle == noted[i].handle)
			return noted[i].what;
	return c->erase && c->reply.status == 200 ? "erase" : NULL;
}

/* Of an erasure its receipt and nothing else: what was erased must not live on here. */
static json_t *receipt_of(const json_t *answer)
{
	return json_pack("{s:O? s:O?}", "receipt", json_object_get(answer, "receipt"), "erased",
			 json_object_get(answer, "erased"));
}

static json_t *fields_of(const struct call *c, bool erase)
{
	const struct buf *b = &c->reply.body;
	json_t *answer = b->len && b->len <= ANSWER_MAX ? json_loadb(b->p, b->len, 0, NULL) : NULL;
	json_t *o = erase ? receipt_of(answer) : json_object();
	if (!erase && c->name)
		json_object_set_new(o, "name", json_string(c->name));
	if (!erase && answer)
		json_object_set(o, "answer", answer);
	json_decref(answer);
	return o;
}

static void on_noted(void *arg, int status, struct span json)
{
	struct call *c = arg;
	json_t *o = json_loadb(json.p, json.len, 0, NULL);
	const char *said = json_string_value(json_object_get(o, "audit"));
	buf_printf(&c->reply.head, "Orchestra-Audit: %s\r\n", said ? said : status ? "not recorded" : "unknown");
	json_decref(o);
	call_reply(c);
}

bool audit_first(struct call *c)
{
	const char *what = c->noted || !c->route || !c->who || c->reply.status >= 300 ? NULL : what_of(c);
	if (!what)
		return false;
	struct buf line = {0};
	json_t *fields = fields_of(c, strcmp(what, "erase") == 0);
	char *text = fields ? json_dumps(fields, JSON_COMPACT) : NULL;
	c->noted = true;
	buf_printf(&line, "audit %s %s\n", what, text ? text : "{}");
	who_text(c, &line);
	buf_addc(&line, '\0');
	bool sent = worker_command(c->api->w, line.p, on_noted, c) == 0;
	if (!sent) {
		stats_add(c->api->w->stats, STAT_AUDIT_LOST, 1);
		buf_adds(&c->reply.head,
			 "Orchestra-Audit: not recorded: the supervisor takes no commands at the moment\r\n");
	}
	buf_free(&line);
	free(text);
	json_decref(fields);
	return sent;
}

/* "audit-lost N": entries that the supervisor could not write. */
bool audit_asked(struct worker *w, struct span text, struct buf *answer)
{
	static const char name[] = "audit-lost ";
	char number[24];
	if (text.len <= sizeof(name) - 1 || text.len >= sizeof(name) + sizeof(number) - 1 ||
	    memcmp(text.p, name, sizeof(name) - 1) != 0) {
		buf_adds(answer, "{\"ok\":false}");
		return false;
	}
	snprintf(number, sizeof(number), "%.*s", (int)(text.len - sizeof(name) + 1), text.p + sizeof(name) - 1);
	stats_add(w->stats, STAT_AUDIT_LOST, strtoull(number, NULL, 10));
	buf_adds(answer, "{\"ok\":true}");
	return true;
}

/* ---- reading ---- */

struct query {
	char *who, *what, *key;
	int64_t since_us, until_us;
	uint64_t limit, cursor;
	bool down; /* newest first */
};

static void query_free(void *arg)
{
	struct query *q = arg;
	free(q->who);
	free(q->what);
	free(q->key);
	free(q);
}

static char *text_param(struct call *c, const char *name)
{
	char *v = NULL;
	size_t len;
	return http_query_get(c->req, name, &v, &len) == 1 && *v ? v : (free(v), NULL);
}

static bool time_param(struct call *c, const char *name, int64_t *us_r)
{
	char *v = text_param(c, name);
	bool ok = !v || clock_parse(v, strlen(v), us_r);
	free(v);
	if (!ok)
		problem(c, 400, "invalid-parameter", "%s: expected a time such as 2026-11-22T05:47:03Z", name);
	return ok;
}

static bool read_query(struct call *c, struct query *q)
{
	q->limit = PAGE;
	q->until_us = INT64_MAX;
	q->who = text_param(c, "who");
	q->what = text_param(c, "what");
	q->key = text_param(c, "key");
	char *order = text_param(c, "order");
	bool ok = !order || strcmp(order, "asc") == 0 || strcmp(order, "desc") == 0;
	q->down = !order || *order == 'd';
	free(order);
	if (!ok)
		problem(c, 400, "invalid-parameter", "order: must be asc (oldest first) or desc");
	return ok && call_number(c, "limit", PAGE_MAX, &q->limit) && call_number(c, "cursor", INT64_MAX, &q->cursor) &&
	       time_param(c, "since", &q->since_us) && time_param(c, "until", &q->until_us);
}

/* "uid:1000" is one of "token:ci,uid:1000,pid:7", and no beginning of uid:10000. */
static bool is_part(const char *parts, const char *wanted)
{
	size_t n = strlen(wanted);
	for (const char *p = parts; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (strncmp(p, wanted, n) == 0 && (!p[n] || p[n] == ','))
			return true;
	return false;
}

static bool names_key(const json_t *o, const char *key)
{
	json_t *change;
	size_t i;
	json_array_foreach (json_object_get(o, "changes"), i, change) {
		const char *name = json_string_value(json_object_get(change, "key"));
		if (name && strcmp(name, key) == 0)
			return true;
	}
	return false;
}

static bool wanted(const struct query *q, const json_t *o)
{
	const char *who = json_string_value(json_object_get(o, "who")),
		   *what = json_string_value(json_object_get(o, "what")),
		   *time = json_string_value(json_object_get(o, "time"));
	int64_t us = 0;
	if (q->who && !(who && is_part(who, q->who)))
		return false;
	if (q->what && !(what && strcmp(what, q->what) == 0))
		return false;
	if (q->key && !names_key(o, q->key))
		return false;
	return time && clock_parse(time, strlen(time), &us) && us >= q->since_us && us < q->until_us;
}

struct page {
	const struct query *q;
	struct buf *out;
	uint64_t n, last, scanned; /* last: number of the last entry that was looked at */
	bool full;
};

static void take_line(struct page *p, struct span text)
{
	struct audit_line l;
	const struct query *q = p->q;
	p->scanned += text.len;
	if (!audit_line_read(text, &l) || (q->cursor && (q->down ? l.seq >= q->cursor : l.seq <= q->cursor)))
		return;
	if (p->last && (q->down ? l.seq >= p->last : l.seq <= p->last))
		return; /* a file that was renamed while we looked */
	json_t *o = json_loadb(l.text.p, l.text.len, 0, NULL);
	if (o && wanted(q, o)) {
		buf_adds(p->out, p->n++ ? "," : "");
		buf_add(p->out, l.text.p, l.text.len);
	}
	json_decref(o);
	p->last = l.seq;
	p->full = p->n >= q->limit || p->out->len > PAGE_BYTES || p->scanned > SCAN_BYTES;
}

static void walk_up(struct page *p, struct span text)
{
	for (size_t from = 0; from < text.len && !p->full;) {
		const char *newline = memchr(text.p + from, '\n', text.len - from);
		size_t len = newline ? (size_t)(newline - text.p) - from : text.len - from;
		if (newline) /* else: it is being written */
			take_line(p, (struct span){text.p + from, len});
		from += len + 1;
	}
}

static void walk_down(struct page *p, struct span text)
{
	const char *end = text.len ? memrchr(text.p, '\n', text.len) : NULL;
	while (end && !p->full) {
		const char *before = end > text.p ? memrchr(text.p, '\n', (size_t)(end - text.p)) : NULL,
			   *from = before ? before + 1 : text.p;
		take_line(p, (struct span){from, (size_t)(end - from)});
		end = before;
	}
}

/* A file that starts behind the cursor has nothing for who goes down. */
static void walk_files(int dir, const struct audit_files *files, struct page *p)
{
	struct buf b = {0};
	for (size_t i = 0; i < files->n && !p->full; i++) {
		const char *name = files->name[p->q->down ? files->n - 1 - i : i];
		if (!audit_file_read(dir, name, &b))
			continue; /* removed meanwhile */
		if (p->q->down)
			walk_down(p, (struct span){b.p, b.len});
		else
			walk_up(p, (struct span){b.p, b.len});
	}
	buf_free(&b);
}

static void read_page(struct call *c, struct reader *rd)
{
	struct query *q = c->state;
	struct page p = {.q = q, .out = &c->reply.body};
	struct audit_files files;
	int dir = open(rd->shared->store_conf.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir == -1 || !audit_files_list(dir, &files)) {
		problem(c, 503, "audit-unreadable", "the audit log cannot be read: %s", strerror(errno));
	} else {
		buf_adds(p.out, "{\"entries\":[");
		walk_files(dir, &files, &p);
		audit_files_free(&files);
		if (p.full || (!q->down && p.last)) /* who follows goes on here */
			buf_printf(p.out, "],\"next_cursor\":\"%llu\",\"more\":%s}", (unsigned long long)p.last,
				   p.full ? "true" : "false");
		else
			buf_adds(p.out, "],\"next_cursor\":null,\"more\":false}");
		c->reply.status = 200;
	}
	if (dir != -1)
		close(dir);
}

void audit_list(struct call *c)
{
	struct query *q = util_zalloc(sizeof(*q));
	c->state = q;
	c->free_state = query_free;
	if (who_is_whole(c) && read_query(c, q))
		call_read(c, read_page);
	else
		call_reply(c);
}
