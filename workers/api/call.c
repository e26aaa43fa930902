/* The life of a request between the handler and its answer. */
#include <stdio.h>
#include <stdlib.h>

#include "api.h"
#include "clock.h"
#include "handlers.h"
#include "requests.h"
#include "traces.h"

#define ATTEMPTS_MAX 1000 /* each conflict means that somebody else's write went through */

void call_free(struct call *c)
{
	if (c->route)
		requests_note(c); /* of a stream, or of a client that has gone */
	traces_end(c);
	if (c->free_state)
		c->free_state(c->state);
	buf_free(&c->reply.head);
	buf_free(&c->reply.body);
	buf_free(&c->txn);
	auth_free(&c->auth);
	free(c->name);
	free(c);
}

void call_reply(struct call *c)
{
	struct reply *r = &c->reply;
	AN(r->status);
	if (audit_first(c))
		return;
	traces_head(c);
	buf_addc(&r->head, 0);
	*http_user(c->req) = NULL;
	router_count(c, r->status);
	requests_note(c);
	traces_end(c);
	http_reply(c->req, r->status, r->content_type ? r->content_type : "application/json", r->head.p, r->body.p,
		   r->body.len);
	call_free(c);
}

void call_finish(struct call *c)
{
	if (c->finish)
		c->finish(c);
	else
		call_reply(c);
}

/* What could not be queued: it was told why, or there is no room whatever. */
static void too_busy(struct call *c)
{
	if (c->reply.status != 429)
		problem(c, 503, "busy", "too many requests wait already; try again after Retry-After seconds");
	call_finish(c);
}

static void submit_job(struct call *c)
{
	if (!jobs_submit(c->api->jobs, c))
		too_busy(c);
}

void call_read(struct call *c, void (*read)(struct call *, struct reader *))
{
	c->read = read;
	submit_job(c);
}

static void finish_evaluation(struct call *c)
{
	if (c->verdict == CALL_THREAD) {
		c->txn.len = c->reply.head.len = c->reply.body.len = 0;
		submit_job(c);
		return;
	}
	if (c->verdict == CALL_REPLY) {
		call_finish(c);
		return;
	}
	/* The id is in the transaction's head; writes.c finds the call by it. */
	c->txn_id = ((const struct txn_head *)c->txn.p)->id;
	c->committed_seq = 0;
	c->committed_us = 0;
	if (!writes_submit(c->api->writes, c))
		too_busy(c);
}

void call_write(struct call *c, enum verdict (*evaluate)(struct call *, struct reader *), bool inline_ok)
{
	c->evaluate = evaluate;
	if (inline_ok) {
		c->verdict = evaluate(c, NULL);
		finish_evaluation(c);
	} else {
		submit_job(c);
	}
}

void call_job_done(struct call *c)
{
	requests_enter(c->req);
	if (c->evaluate && !c->stale)
		finish_evaluation(c);
	else
		call_finish(c);
	requests_leave();
}

static void again(struct call *c)
{
	stats_add(c->api->w->stats, STAT_TXN_CONFLICTS, 1);
	if (++c->attempts >= ATTEMPTS_MAX) {
		problem(c, 503, "contention", "this memory is being changed by too many writers at once; try again");
		call_finish(c);
		return;
	}
	c->txn.len = c->reply.head.len = c->reply.body.len = 0;
	c->reply.status = 0;
	c->wait.settled = true; /* it has waited in its turn once */
	submit_job(c);
}

/* Too much waits for the store. */
static void refused_busy(struct call *c, uint32_t arg)
{
	static const char *const what[] = {
		[BUSY_QUOTA] = "journal.quota", [BUSY_PENDING] = "journal.pending_max", [BUSY_AGE] = "sync.max_age"};
	uint32_t key = arg & BUSY_MASK;
	const char *name = key < ARRAY_LEN(what) && what[key] ? what[key] : "journal.quota";
	if (arg & BUSY_BULK)
		problem(c, 503, "journal-half-full",
			"what waits for the store has passed half of %s: large requests wait until it is less, single "
			"memories are still taken; try again after Retry-After seconds",
			name);
	else
		problem(c, 503, key == BUSY_AGE ? "journal-age" : "journal-full",
			"what waits for the store has reached %s because the store is behind; try again after Retry-After "
			"seconds",
			name);
	if (BUSY_SECONDS(arg))
		problem_later(c, BUSY_SECONDS(arg));
}

void call_refused(struct call *c, uint32_t status, uint32_t arg)
{
	struct plant *p = c->api->plant;
	uint32_t n = atomic_load_explicit(&p->reason_len, memory_order_acquire);
	switch (status) {
	case TXN_QUOTA_BYTES:
		problem(c, 507, "quota-bytes",
			"the namespace's quota in bytes is used up; delete memories or raise quota_bytes");
		break;
	case TXN_QUOTA_COUNT:
		problem(c, 507, "quota-count",
			"the namespace holds as many memories as quota_count allows; delete some or raise it");
		break;
	case TXN_NAMESPACES_FULL:
		problem(c, 507, "namespaces-full", "this daemon holds %d namespaces, its limit; use an existing one",
			PLANT_NAMESPACES / 8 * 7);
		break;
	case TXN_NAMESPACE_DROPPING:
		problem(c, 503, "namespace-dropping",
			"the namespace is being deleted; try again when that is done, in a moment");
		break;
	case TXN_BUSY: refused_busy(c, arg); break;
	case TXN_REJECTED:
		problem(c, 409, "store-rejected",
			"the store does not accept %u operation%s of this request, which lie%s among the dead letters now (GET "
			"/v1/admin/dead-letters says why); everything else of it is stored. To send it again does not help",
			arg, arg == 1 ? "" : "s", arg == 1 ? "s" : "");
		break;
	case TXN_LOST:
		problem(c, 412, "version-conflict",
			"If-Match: another daemon has changed the memory, and the store has that version; read it again and decide anew");
		break;
	case TXN_DISK_FULL:
		problem(c, 507, "disk-full",
			"the disk under data.dir is full; nothing was stored. Free some space and try again");
		break;
	case TXN_JOURNAL_ERROR:
		problem(c, 503, "journal-error",
			"the journal could not be written (%s); nothing was stored. Try again after Retry-After seconds",
			strerror((int)arg));
		break;
	case TXN_JOURNAL_FAILED:
		if (n && c->api->errors_full)
			problem(c, 503, "journal-failed", "%.*s", (int)n, p->reason);
		else
			problem(c, 503, "journal-failed",
				"writes cannot be made durable; nothing was stored. The operator must repair the disk and restart");
		break;
	case TXN_EMBEDDER_MISMATCH:
		problem(c, 409, "embedder-mismatch",
			"embedding: the namespace holds vectors of another embedding model or length, and spaces never mix; use another namespace");
		break;
	case TXN_LANGUAGE_FIXED:
		problem(c, 409, "language-fixed",
			"language: the namespace has memories, deleted ones that can be restored included, and their words were "
			"analysed in its language; export it, make a namespace of the other language and import it there");
		break;
	default: problem(c, 500, "internal", "the transaction was refused (%u)", status);
	}
}

void call_answered(struct call *c, uint32_t status, uint64_t seq, uint32_t arg)
{
	requests_enter(c->req);
	if (status == TXN_CONFLICT || (status == TXN_EMBEDDER_MISMATCH && !c->attempts)) {
		again(c); /* a mismatch is judged once more against what the namespace holds by now */
		requests_leave();
		return;
	}
	if (status == TXN_OK || status == TXN_STORED) {
		c->committed_seq = seq;
		c->answer_arg = arg;
		c->stored = status == TXN_STORED;
		if (c->committed)
			c->committed(c);
	} else if (c->on_refused) {
		c->on_refused(c, status, arg);
	} else {
		call_refused(c, status, arg);
	}
	call_finish(c);
	requests_leave();
}

void call_waited(struct call *c)
{
	if (c->wait_ends && !c->erase) {
		c->wait_store = false;
		if (c->reply.store_word)
			buf_replace(&c->reply.body, c->reply.store_word, strlen("store"), "journal");
		call_answered(c, TXN_OK, c->committed_seq, 0);
		return;
	}
	c->reply.head.len = c->reply.body.len = 0;
	problem(c, 503, "store-waiting",
		"this is in the journal, but the store has not taken it within sync.wait_max; it is done as soon as "
		"the store takes it (GET /readyz says what is wrong)");
	call_finish(c);
}

uint64_t call_read_seq(const struct call *c)
{
	return atomic_load_explicit(&c->api->plant->applied_seq, memory_order_acquire);
}

void call_txn_begin(struct call *c, struct txn_builder *t, uint64_t read_seq, uint32_t flags)
{
	c->txn.len = 0;
	txn_begin(t, &c->txn, writes_next_id(c->api->writes), c->api->w->slot, read_seq,
		  flags | (c->wait_store ? TXN_WAIT_STORE |
						   (c->req && http_header(c->req, HTTP_H_IF_MATCH).p ? TXN_STRICT : 0)
					 : 0));
}

bool call_wait(struct call *c)
{
	char *v = NULL;
	size_t len = 0;
	int found = http_query_get(c->req, "wait", &v, &len);
	bool store = found == 1 && len == 5 && memcmp(v, "store", 5) == 0;
	bool ok = found == 0 || store || (found == 1 && len == 7 && memcmp(v, "journal", 7) == 0);
	free(v);
	bool proof = !atomic_load_explicit(&c->api->plant->ack_store, memory_order_relaxed);
	c->wait_store = store || !proof;
	c->wait_ends = proof;
	if (!ok)
		problem(c, 400, "invalid-parameter", "wait: must be journal or store");
	return ok;
}

/* The next tag of a list; false at the end or where the list is malformed (*ok_r). `tag` is between the quotes. */
static bool next_etag(struct span *left, struct span *tag, bool *weak, bool *ok_r)
{
	const char *p = left->p, *end = left->p + left->len;
	*ok_r = true;
	while (p < end && (*p == ' ' || *p == '\t' || *p == ','))
		p++;
	if (p == end)
		return false;
	*weak = end - p > 2 && p[0] == 'W' && p[1] == '/';
	p += *weak ? 2 : 0;
	const char *open = p, *close = *p == '"' ? memchr(p + 1, '"', (size_t)(end - p - 1)) : NULL;
	*ok_r = close && (close + 1 == end || close[1] == ',' || close[1] == ' ' || close[1] == '\t');
	if (!*ok_r)
		return false;
	*tag = (struct span){open + 1, (size_t)(close - open - 1)};
	*left = (struct span){close + 1, (size_t)(end - close - 1)};
	return true;
}

static bool any(struct span h) { return h.len == 1 && *h.p == '*'; }

bool call_etag_valid(struct span h)
{
	struct span tag;
	bool weak, ok;
	size_t n = 0;
	while (next_etag(&h, &tag, &weak, &ok))
		n++;
	return any(h) || (ok && n);
}

bool call_etag_matches(struct span h, uint64_t version, bool weak_ok)
{
	struct span tag;
	char text[24];
	bool weak, ok;
	size_t len = (size_t)snprintf(text, sizeof(text), "%llu", (unsigned long long)version);
	if (any(h))
		return true;
	while (next_etag(&h, &tag, &weak, &ok))
		if ((!weak || weak_ok) && tag.len == len && memcmp(tag.p, text, len) == 0)
			return true;
	return false;
}

bool call_may(const struct call *c, unsigned right, struct span ns) { return auth_allows(c->who, right, ns); }

static bool name_ok(struct span s)
{
	if (!s.len || s.len > LIMIT_NAMESPACE || !util_utf8_valid(s.p, s.len))
		return false;
	for (size_t i = 0; i < s.len; i++)
		if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
			return false;
	return true;
}

bool call_namespace(struct call *c, struct span given, unsigned right, char out[LIMIT_NAMESPACE + 1],
		    struct span *name_r)
{
	char *query = NULL;
	size_t len = 0;
	int found = given.p || !c->req ? 0 : http_query_get(c->req, "namespace", &query, &len);
	if (found < 0) { /* never the default instead of what was meant */
		problem(c, 400, "invalid-parameter", "namespace: malformed percent escape");
		return false;
	}
	if (found)
		given = (struct span){query, len};
	if (!given.p)
		given = SPAN_LIT("default");
	bool ok = name_ok(given);
	if (!ok) {
		problem(c, 400, "invalid-namespace",
			"namespace: must be 1 to %d bytes of UTF-8 without control characters", LIMIT_NAMESPACE);
	} else if (!call_may(c, right, given)) {
		problem(c, 403, "namespace-forbidden", "namespace: this credential may not %s \"%.*s\"",
			right == AUTH_READ    ? "read"
			: right == AUTH_WRITE ? "write"
					      : "administer",
			(int)given.len, given.p);
		ok = false;
	} else {
		memcpy(out, given.p, given.len);
		out[given.len] = 0;
		*name_r = (struct span){out, given.len};
		requests_note_namespace(c, given);
	}
	free(query);
	return ok;
}

bool call_number(struct call *c, const char *name, uint64_t most, uint64_t *out)
{
	char *v = NULL, *end;
	size_t len = 0;
	int found = http_query_get(c->req, name, &v, &len);
	bool ok = found == 0;
	if (found == 1) {
		*out = strtoull(v, &end, 10);
		ok = len && *v >= '0' && *v <= '9' && end == v + len && *out >= 1 && *out <= most;
	}
	free(v);
	if (!ok)
		problem(c, 400, "invalid-parameter", "%s: must be a whole number from 1 to %llu", name,
			(unsigned long long)most);
	return ok;
}
