/* Export and import: NDJSON of any size in constant memory. */
#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"
#include "draft.h"
#include "handlers.h"
#include "ids.h"
#include "list.h"

#define EXPORT_PAGE 200		/* memories read per turn */
#define IMPORT_LINE (1u << 20)	/* longest line */
#define IMPORT_LINES 500	/* lines per transaction … */
#define IMPORT_BYTES (4u << 20) /* … or bytes */
#define IMPORT_ERRORS 100	/* refused lines that the answer lists */
#define IMPORT_WAIT_US 200000	/* until a batch is offered again to a store that is behind */

/* ======== export ======== */

struct export
{
	struct list_select *sel;
	struct buf page;
	size_t n;
	struct uuid last;
	bool done, failed, busy, streaming, gone;
};

static void export_free(void *state)
{
	struct export *x = state;
	list_select_free(x->sel);
	buf_free(&x->page);
	free(x);
}

/* Base64 of the little-endian floats: exact, and a third of the decimal text. */
static void add_base64_vector(struct buf *b, const struct memory *m)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *p = (const unsigned char *)m->embedding;
	size_t n = m->dim * sizeof(float);
	b->len--; /* the closing brace */
	buf_adds(b, ",\"embedding\":\"");
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
			     (i + 2 < n ? p[i + 2] : 0);
		char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
				i + 2 < n ? digits[v & 63] : '='};
		buf_add(b, four, 4);
	}
	buf_adds(b, "\"}");
}

static bool export_row(void *arg, const struct memory *m)
{
	struct export *x = arg;
	if (x->n == EXPORT_PAGE || x->page.len > 1u << 20)
		return false;
	buf_add(&x->page, m->body.p, m->body.len);
	/* Vectors that our embedder makes can be made again; a client's cannot. */
	if (m->embedding && (m->flags & MEMORY_CLIENT_EMBEDDING || x->sel->q.with_embedding))
		add_base64_vector(&x->page, m);
	buf_addc(&x->page, '\n');
	x->last = m->id;
	x->n++;
	return true;
}

static void export_read(struct call *c, struct reader *rd)
{
	struct export *x = c->state;
	struct store_list q = x->sel->q;
	q.with_embedding = true;
	q.limit = EXPORT_PAGE + 1;
	q.now_us = clock_real_us();
	x->n = x->page.len = 0;
	x->failed = reader_list(rd, &q, export_row, x) == READ_ERROR;
	x->done = x->n == 0;
	if (x->failed)
		problem_store(c, rd->error);
}

static void export_next(struct call *c)
{
	struct export *x = c->state;
	x->busy = true;
	c->read = export_read;
	if (!jobs_submit(c->api->jobs, c)) {
		http_abort(c->req); /* a stream that failed must not look complete */
		call_free(c);
	}
}

static void export_drained(void *arg, struct http_request *r)
{
	struct call *c = *http_user(r);
	(void)arg;
	if (c && !((struct export *)c->state)->busy)
		export_next(c);
}

/* A page was read: write it, go on when the client keeps up. */
static void export_page(struct call *c)
{
	struct export *x = c->state;
	x->busy = false;
	if (x->failed && !x->streaming) {
		call_reply(c);
		return;
	}
	if (x->failed || http_gone(c->req)) {
		http_abort(c->req);
		call_free(c);
		return;
	}
	if (!x->streaming) {
		router_count(c, 200);
		http_stream_begin(c->req, 200, "application/x-ndjson", "", export_drained);
		x->streaming = true;
	}
	if (x->done) {
		http_end(c->req);
		call_free(c);
		return;
	}
	x->sel->q.after = x->last;
	x->sel->q.have_after = true;
	if (http_write(c->req, x->page.p, x->page.len))
		export_next(c);
}

void transfer_export(struct call *c)
{
	struct list_select *sel = list_select(c, AUTH_READ);
	if (!sel) {
		call_reply(c);
		return;
	}
	struct export *x = util_zalloc(sizeof(*x));
	x->sel = sel;
	sel->q.descending = false;
	c->state = x;
	c->free_state = export_free;
	c->finish = export_page;
	c->wait.settled = true; /* its pages are not refused half-way */
	*http_user(c->req) = c;
	export_next(c);
}

/* ======== import ======== */

/* Why a line was skipped. The last two leave the namespace without the memory. */
enum skip { SKIP_EXISTS, SKIP_EXTERNAL, SKIP_BEFORE, SKIP_EXPIRED, SKIP_DELETED, SKIP_ELSEWHERE, SKIPS };
static const char *const skip_names[SKIPS] = {
	[SKIP_EXISTS] = "id_exists", [SKIP_EXTERNAL] = "external_id_exists", [SKIP_BEFORE] = "imported_before",
	[SKIP_EXPIRED] = "expired",  [SKIP_DELETED] = "id_deleted",	     [SKIP_ELSEWHERE] = "id_in_other_namespace",
};

struct import {
	char ns_name[LIMIT_NAMESPACE + 1];
	struct span ns;
	struct buf input; /* bytes not yet cut into lines */
	struct buf work;  /* whole lines of the transaction under way */
	size_t line;	  /* number of the first line in work, from 1 */
	size_t next_line;
	bool ended, busy, gone, paused, fatal;
	uint64_t imported, failed, skipped[SKIPS];
	uint64_t t_imported, t_failed, t_skipped[SKIPS]; /* of the attempt under way */
	struct buf errors, t_errors;
	size_t nerrors, t_nerrors;
	bool later;	    /* the store is behind: the attempt under way is made again */
	int64_t waiting_us; /* since when it has been; 0: it is not */
};

static void import_free(void *state)
{
	struct import *x = state;
	buf_free(&x->input);
	buf_free(&x->work);
	buf_free(&x->errors);
	buf_free(&x->t_errors);
	free(x);
}

static void line_error(struct import *x, size_t line, const char *detail, size_t len)
{
	x->t_failed++;
	if (x->nerrors + x->t_nerrors >= IMPORT_ERRORS)
		return;
	buf_printf(&x->t_errors, "%s{\"line\":%zu,\"detail\":", x->nerrors + x->t_nerrors ? "," : "", line);
	json_out_string(&x->t_errors, (struct span){detail, len});
	buf_addc(&x->t_errors, '}');
	x->t_nerrors++;
}

/* Moves the problem that draft.c wrote into the list of refused lines. */
static void take_problem(struct call *c, struct import *x, size_t line)
{
	json_t *o = json_loadb(c->reply.body.p ? c->reply.body.p : "", c->reply.body.len, 0, NULL);
	json_t *d = json_object_get(o, "detail");
	if (d)
		line_error(x, line, json_string_value(d), json_string_length(d));
	else
		line_error(x, line, "refused", 7);
	json_decref(o);
	c->reply.status = 0;
	c->reply.content_type = NULL;
	c->reply.head.len = c->reply.body.len = 0;
}

struct importing {
	struct call *c;
	struct import *x;
	struct reader *rd;
	struct txn_builder ops;
	struct buf ops_buf, body;
	uint64_t *keys, *names; /* read; written by the lines before */
	size_t nkeys, nnames, nops;
	int64_t now;
};

static bool written_before(const struct importing *m, uint64_t key)
{
	for (size_t i = 0; i < m->nnames; i++)
		if (m->names[i] == key)
			return true;
	return false;
}

/* Of an expired memory that is not collected yet the line takes the place: its version goes on. */
static enum read_rc id_taken(struct importing *m, struct draft *d, uint64_t ns, enum skip *why_r)
{
	struct held h = {.bytes = NULL};
	enum read_rc rc = reader_newest(m->rd, &d->id, false, &h);
	*why_r = SKIP_EXISTS;
	if (rc == READ_OK && h.m.ns != ns) {
		*why_r = SKIP_ELSEWHERE;
	} else if (rc == READ_OK && !reader_visible(m->rd, &h.m)) {
		d->version = d->version > h.m.version ? d->version : h.m.version + 1;
		d->replaces_bytes = h.m.deleted_us ? -1 : (int64_t)memory_quota_bytes(&h.m);
		rc = READ_NONE;
	} else if (rc == READ_OK && h.m.deleted_us) {
		*why_r = SKIP_DELETED;
	}
	held_free(&h);
	return rc;
}

/* A line that names itself (id, external_id) and is there already is skipped: READ_OK, and why. */
static enum read_rc already(struct importing *m, struct draft *d, uint64_t ns, enum skip *why_r)
{
	struct held h = {.bytes = NULL};
	enum read_rc rc = READ_NONE;
	uint64_t id = record_id_key(&d->id), external = record_external_key(ns, d->external_id);
	bool id_before = d->has_id && written_before(m, id);
	*why_r = id_before ? SKIP_EXISTS : SKIP_EXTERNAL;
	if (id_before || (d->external_id.len && written_before(m, external)))
		return READ_OK;
	if (d->has_id) {
		m->keys[m->nkeys++] = id;
		rc = id_taken(m, d, ns, why_r);
	}
	if (rc == READ_NONE && d->external_id.len) {
		*why_r = SKIP_EXTERNAL;
		m->keys[m->nkeys++] = external;
		rc = reader_by_external(m->rd, ns, d->external_id, &h);
		held_free(&h);
	}
	return rc;
}

static bool import_put(struct importing *m, struct draft *d)
{
	struct memory mem;
	uint64_t ns = record_ns(m->x->ns);
	if (!d->has_id)
		ids_make(&d->id, 1);
	if (!d->created_set)
		d->created_us = m->now;
	if (!d->updated_us)
		d->updated_us = d->created_us;
	if (!draft_embed(m->c, d, plant_find(m->c->api->plant, ns), ""))
		return false;
	m->body.len = 0;
	draft_memory(d, m->x->ns, d->version ? d->version : 1, &m->body, &mem);
	txn_op_put(&m->ops, &mem);
	m->nops++;
	m->names[m->nnames++] = record_id_key(&d->id);
	if (d->external_id.len)
		m->names[m->nnames++] = record_external_key(ns, d->external_id);
	return true;
}

/* False: the whole import must stop (the store cannot be read). */
static bool import_line(struct importing *m, struct span text, size_t line)
{
	struct body_json b = {.root = NULL};
	struct draft d;
	bool go_on = true;
	draft_init(&d);
	if (!body_json_parse(m->c, text, &b) || !draft_read(m->c, &b, b.root, DRAFT_IMPORT, "", &d)) {
		take_problem(m->c, m->x, line);
	} else if (d.expires_us && d.expires_us <= m->now) {
		m->x->t_skipped[SKIP_EXPIRED]++;
	} else {
		enum skip why = SKIP_EXISTS;
		enum read_rc rc = already(m, &d, record_ns(m->x->ns), &why);
		if (rc == READ_ERROR) {
			problem_store(m->c, m->rd->error);
			go_on = false;
		} else if (rc == READ_OK) {
			m->x->t_skipped[why]++;
		} else if (import_put(m, &d)) {
			m->x->t_imported++;
		} else {
			take_problem(m->c, m->x, line);
		}
	}
	draft_free(&d);
	body_json_free(&b);
	return go_on;
}

static bool import_lines(struct importing *m)
{
	const char *p = m->x->work.p, *end = p + m->x->work.len;
	size_t line = m->x->line;
	for (; p < end; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		const char *stop = nl ? nl : end;
		size_t len = (size_t)(stop - p);
		if (len && p[len - 1] == '\r')
			len--;
		if (len > IMPORT_LINE)
			line_error(m->x, line, "is longer than 1 MiB", 20);
		else if (len && !import_line(m, (struct span){p, len}, line))
			return false;
		p = stop + 1;
	}
	return true;
}

/* What makes an import resumable: a batch of lines is remembered by its hash for 24 h, so the same
 * file sent again after a failure passes over what was stored. Batches are cut by line count and size
 * alone (cut_lines), never by how the bytes arrived. */
static uint64_t batch_key(const struct import *x)
{
	char text[40];
	int n = snprintf(text, sizeof(text), "import:%016llx", (unsigned long long)XXH3_64bits(x->work.p, x->work.len));
	return record_idem_key(record_ns(x->ns), (struct span){text, (size_t)n});
}

/* READ_OK: this very batch was imported before; its count goes to skipped. */
static enum read_rc imported_before(struct importing *m, uint64_t key)
{
	struct op_idem o;
	struct buf n = {0};
	enum read_rc rc = reader_idem(m->rd, key, &o, &n);
	buf_addc(&n, 0);
	if (rc == READ_OK)
		m->x->t_skipped[SKIP_BEFORE] = strtoull(n.p, NULL, 10);
	buf_free(&n);
	return rc;
}

static void remember_batch(struct importing *m, uint64_t key)
{
	char n[24];
	int len = snprintf(n, sizeof(n), "%llu", (unsigned long long)m->x->t_imported);
	struct op_idem o = {.ns = record_ns(m->x->ns),
			    .key = key,
			    .expires_us = m->now + 24 * 3600 * 1000000ll,
			    .status = 200,
			    .reply_len = (uint32_t)len};
	txn_op_raw(&m->ops, OP_IDEM, &o, sizeof(o), n, (size_t)len);
}

static void import_txn(struct importing *m, uint64_t read_seq)
{
	struct txn_builder t;
	call_txn_begin(m->c, &t, read_seq, 0);
	for (size_t i = 0; i < m->nkeys; i++)
		txn_read_key(&t, m->keys[i]);
	namespaces_ensure(m->c, m->x->ns, &t);
	txn_ops_from(&t, &m->ops_buf);
	txn_end(&t);
}

static enum verdict import_evaluate(struct call *c, struct reader *rd)
{
	struct import *x = c->state;
	struct importing m = {.c = c, .x = x, .rd = rd, .now = clock_real_us()};
	uint64_t read_seq = call_read_seq(c), key = batch_key(x);
	x->t_imported = x->t_failed = x->t_nerrors = x->t_errors.len = 0;
	memset(x->t_skipped, 0, sizeof(x->t_skipped));
	m.keys = util_alloc((2 * IMPORT_LINES + 1) * sizeof(*m.keys));
	m.names = util_alloc(2 * IMPORT_LINES * sizeof(*m.names));
	m.keys[m.nkeys++] = key;
	txn_begin(&m.ops, &m.ops_buf, 0, 0, 0, 0);
	enum read_rc before = imported_before(&m, key);
	if (before == READ_ERROR)
		problem_store(c, rd->error);
	x->fatal = before == READ_ERROR || (before == READ_NONE && !import_lines(&m));
	if (m.nops)
		remember_batch(&m, key);
	txn_end(&m.ops);
	enum verdict v = !x->fatal && m.nops ? CALL_COMMIT : CALL_REPLY;
	if (v == CALL_COMMIT)
		import_txn(&m, read_seq);
	free(m.keys);
	free(m.names);
	buf_free(&m.ops_buf);
	buf_free(&m.body);
	return v;
}

/* ---- the stream: lines are cut while the previous transaction is under way ---- */

static void import_summary(struct call *c)
{
	struct import *x = c->state;
	struct buf *b = &c->reply.body;
	uint64_t skipped = 0;
	const char *sep = "";
	for (size_t i = 0; i < SKIPS; i++)
		skipped += x->skipped[i];
	buf_printf(b, "{\"durability\":\"%s\",\"imported\":%llu,\"skipped\":%llu,\"failed\":%llu,\"skipped_because\":{",
		   c->wait_store ? "store" : "journal", (unsigned long long)x->imported, (unsigned long long)skipped,
		   (unsigned long long)x->failed);
	for (size_t i = 0; i < SKIPS; i++) {
		if (!x->skipped[i])
			continue;
		buf_printf(b, "%s\"%s\":%llu", sep, skip_names[i], (unsigned long long)x->skipped[i]);
		sep = ",";
	}
	buf_adds(b, "},\"errors\":[");
	buf_add(b, x->errors.p, x->errors.len);
	buf_adds(b, "]}");
	c->reply.status = 200;
	call_reply(c);
}

/* Takes the next batch out of input: exactly IMPORT_LINES whole lines, or fewer once they hold
 * IMPORT_BYTES, or what is left at the end. 0: not enough has arrived. */
static size_t cut_lines(struct import *x)
{
	size_t lines = 0, at = 0;
	const char *nl;
	while (lines < IMPORT_LINES && at < IMPORT_BYTES && at < x->input.len &&
	       (nl = memchr(x->input.p + at, '\n', x->input.len - at))) {
		at = (size_t)(nl - x->input.p) + 1;
		lines++;
	}
	if (lines < IMPORT_LINES && at < IMPORT_BYTES) {
		if (!x->ended)
			return 0;
		lines += at < x->input.len; /* the last line may lack its end */
		at = x->input.len;
	}
	x->work.len = 0;
	if (!at)
		return 0; /* an empty body, or the end behind the last newline */
	buf_add(&x->work, x->input.p, at);
	memmove(x->input.p, x->input.p + at, x->input.len - at);
	x->input.len -= at;
	x->line = x->next_line;
	x->next_line += lines;
	return lines;
}

static void import_step(struct call *c)
{
	struct import *x = c->state;
	if (x->busy)
		return;
	if (x->gone) {
		http_abort(c->req);
		call_free(c);
		return;
	}
	if (cut_lines(x)) {
		x->busy = true;
		c->attempts = 0;
		c->txn.len = 0;
		call_write(c, import_evaluate, false);
	} else if (x->ended) {
		import_summary(c);
		return;
	} else if (x->input.len > IMPORT_LINE + IMPORT_BYTES) {
		problem(c, 400, "line-too-long", "line %zu is longer than 1 MiB; %llu lines before it were imported",
			x->next_line, (unsigned long long)x->imported);
		call_reply(c);
		return;
	}
	/* With nothing under way whatever is there is too little for a batch, be it IMPORT_BYTES or more. */
	if (x->paused && (!x->busy || x->input.len < IMPORT_BYTES)) {
		x->paused = false;
		http_resume(c->req);
	}
}

/* An import is as fast as the store: where too much waits for it, the batch is offered again, and the client's
 * bytes stay where they are. After sync.wait_max without any way on it ends; what was committed stays. */
static void import_refused(struct call *c, uint32_t status, uint32_t arg)
{
	struct import *x = c->state;
	int64_t now = clock_mono_us();
	if (status == TXN_REJECTED) {
		char text[96];
		int n = snprintf(text, sizeof(text),
				 "%u operations of this batch are dead letters: the store does not accept them", arg);
		line_error(x, x->line, text, (size_t)n);
		x->t_failed += arg - 1;
		x->t_imported -= arg < x->t_imported ? arg : x->t_imported;
		return;
	}
	if (!x->waiting_us)
		x->waiting_us = now;
	x->later = status == TXN_BUSY && !x->gone && !c->api->w->draining &&
		   now - x->waiting_us < conf_int(c->api->w->conf, CONF_SYNC_WAIT_MAX);
	if (!x->later)
		call_refused(c, status, arg);
}

static void import_again(evutil_socket_t fd, short what, void *arg)
{
	struct call *c = arg;
	(void)fd, (void)what;
	c->attempts = 0;
	c->txn.len = 0;
	call_write(c, import_evaluate, false);
}

/* A transaction was committed, or needed none, or failed for good. */
static void import_done(struct call *c)
{
	static const struct timeval wait = {0, IMPORT_WAIT_US};
	struct import *x = c->state;
	if (x->later) {
		x->later = false;
		event_base_once(c->api->base, -1, EV_TIMEOUT, import_again, c, &wait);
		return;
	}
	x->busy = false;
	x->waiting_us = 0;
	if (x->fatal || c->reply.status) {
		if (x->gone) {
			http_abort(c->req);
			call_free(c);
		} else {
			call_reply(c); /* the problem; what was committed before stays */
		}
		return;
	}
	x->imported += x->t_imported;
	for (size_t i = 0; i < SKIPS; i++)
		x->skipped[i] += x->t_skipped[i];
	x->failed += x->t_failed;
	x->nerrors += x->t_nerrors;
	buf_add(&x->errors, x->t_errors.p, x->t_errors.len);
	import_step(c);
}

void transfer_import(struct call *c)
{
	struct import *x = util_zalloc(sizeof(*x));
	c->state = x;
	c->free_state = import_free;
	c->finish = import_done;
	c->on_refused = import_refused;
	x->next_line = 1;
	if (!call_wait(c) || !call_namespace(c, (struct span){NULL, 0}, AUTH_WRITE, x->ns_name, &x->ns)) {
		*http_user(c->req) = NULL;
		c->finish = NULL;
		call_reply(c);
	}
}

bool transfer_body(struct call *c, const char *p, size_t n)
{
	struct import *x = c->state;
	buf_add(&x->input, p, n);
	/* Only while a batch is under way, whose end resumes: the next one is cut at once otherwise, and nobody would. */
	x->paused = x->busy && x->input.len >= 2 * IMPORT_BYTES;
	bool go_on = !x->paused;
	import_step(c);
	return go_on;
}

void transfer_body_end(struct call *c)
{
	struct import *x = c->state;
	x->ended = true;
	import_step(c);
}

bool transfer_is(const struct call *c) { return c->finish == export_page || c->finish == import_done; }

void transfer_gone(struct call *c)
{
	if (c->finish == export_page) {
		struct export *e = c->state;
		if (!e->busy && http_gone(c->req)) { /* it waits for a client that takes no more: no page will come */
			http_abort(c->req);
			call_free(c);
		}
		return;
	}
	struct import *x = c->state;
	if (c->finish != import_done)
		return;
	if (x->ended && !http_gone(c->req))
		return; /* half-closed: it has said all and waits for the answer */
	x->gone = true;
	import_step(c);
}
