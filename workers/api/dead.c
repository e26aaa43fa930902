/* /v1/admin/dead-letters: what the store did not accept. Read from the files beneath data.dir; to try again and to discard
 * are orders to sync, which answers when they are carried out. */
#include "dead.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "handlers.h"

#define PREVIEW 200 /* bytes of the content in a list */
#define LETTERS_PAGE 100

static const char *operation(uint32_t type)
{
	switch (type) {
	case OP_PUT: return "put";
	case OP_DELETE: return "delete";
	case OP_IDEM: return "idempotency-answer";
	case OP_NAMESPACE: return "namespace";
	case OP_NS_DROP: return "namespace-delete";
	}
	return "unknown";
}

/* A piece of UTF-8 text, not cut within a character. */
static struct span piece(struct span s)
{
	size_t n = s.len < PREVIEW ? s.len : PREVIEW;
	while (n < s.len && n && ((unsigned char)s.p[n] & 0xc0) == 0x80)
		n--;
	return (struct span){s.p, n};
}

/* A letter without the name of its namespace is for those who may administer all. */
static bool may_see(const struct call *c, const struct dead_letter *l)
{
	return l->namespace.len ? call_may(c, AUTH_ADMIN, l->namespace) : !c->who->namespaces;
}

static void add_memory(struct buf *b, const struct dead_letter *l, bool whole)
{
	struct memory m;
	if (l->type != OP_PUT || !memory_decode(l->body, l->body_len, &m))
		return;
	if (whole) {
		buf_adds(b, ",\"memory\":");
		buf_add(b, m.body.p, m.body.len);
		return;
	}
	struct span some = piece(m.content);
	buf_adds(b, ",\"preview\":");
	json_out_string(b, some);
	buf_printf(b, ",\"preview_complete\":%s", some.len == m.content.len ? "true" : "false");
}

static void write_letter(struct buf *b, const struct dead_letter *l, bool whole)
{
	char id[UUID_TEXT + 1] = "";
	buf_printf(b, "{\"number\":%llu,\"at\":", (unsigned long long)l->number);
	json_out_time(b, l->at_us);
	buf_printf(b, ",\"tries\":%u,\"operation\":\"%s\",\"reason\":", l->tries, operation(l->type));
	json_out_string(b, l->reason);
	if (l->namespace.len) {
		buf_adds(b, ",\"namespace\":");
		json_out_string(b, l->namespace);
	}
	if (l->type == OP_PUT || l->type == OP_DELETE) {
		uuid_format(&l->id, id);
		id[UUID_TEXT] = 0;
		buf_printf(b, ",\"id\":\"%s\",\"version\":%llu", id, (unsigned long long)l->version);
	}
	buf_printf(b, ",\"record\":%llu,\"index\":%u,\"bytes\":%u", (unsigned long long)l->seq, l->op, l->body_len);
	add_memory(b, l, whole);
	buf_addc(b, '}');
}

/* ---- reading ---- */

static void unreadable(struct call *c, int error)
{
	if (c->api->errors_full)
		problem(c, 503, "dead-letters-unreadable", "data.dir/" DEAD_SUBDIR ": %s; try again", strerror(error));
	else
		problem(c, 503, "dead-letters-unreadable", "the dead letters cannot be read at the moment; try again");
}

/* Letters behind `after`, at most `limit`; the number of the last one, or 0 when there are no more behind it. */
static uint64_t write_page(struct call *c, int dir, const uint64_t *v, size_t n, uint64_t after, uint64_t limit)
{
	struct buf *b = &c->reply.body;
	uint64_t written = 0, last = 0;
	for (size_t i = 0; i < n; i++) {
		struct dead_letter l;
		char *bytes = NULL;
		if (v[i] <= after)
			continue;
		if (dead_read(dir, v[i], &bytes, &l) != 0 || !may_see(c, &l)) {
			free(bytes);
			continue;
		}
		if (written == limit) {
			free(bytes);
			return last;
		}
		if (written++)
			buf_addc(b, ',');
		write_letter(b, &l, false);
		last = v[i];
		free(bytes);
	}
	return 0;
}

static void list_read(struct call *c, struct reader *rd)
{
	uint64_t limit = LETTERS_PAGE, after = 0, *v = NULL;
	size_t n = 0;
	if (!call_number(c, "limit", LIMIT_LIST, &limit) || !call_number(c, "cursor", UINT32_MAX, &after))
		return;
	int dir = dead_open(rd->shared->store_conf.dir, false);
	if ((dir == -1 && errno != ENOENT) || (dir != -1 && !dead_numbers(dir, &v, &n))) {
		unreadable(c, errno);
	} else {
		buf_adds(&c->reply.body, "{\"dead_letters\":[");
		uint64_t next = write_page(c, dir, v, n, after, limit);
		if (next)
			buf_printf(&c->reply.body, "],\"next_cursor\":\"%llu\"", (unsigned long long)next);
		else
			buf_adds(&c->reply.body, "],\"next_cursor\":null");
		if (!c->who->namespaces)
			buf_printf(&c->reply.body, ",\"total\":%zu", n);
		buf_addc(&c->reply.body, '}');
		c->reply.status = 200;
	}
	free(v);
	if (dir != -1)
		close(dir);
}

static uint64_t number_of(const struct call *c)
{
	char *end;
	uint64_t n = strtoull(c->name, &end, 10);
	return *c->name >= '0' && *c->name <= '9' && !*end && n <= UINT32_MAX ? n : 0;
}

static bool no_letter(struct call *c)
{
	problem(c, 404, "not-found", "there is no such dead letter: it was stored or discarded, or never existed");
	return false;
}

/* The letter that the path names, in *bytes_r; false: the problem is set. */
static bool load(struct call *c, struct reader *rd, char **bytes_r, struct dead_letter *l)
{
	uint64_t number = number_of(c);
	int dir = number ? dead_open(rd->shared->store_conf.dir, false) : -1;
	int e = dir == -1 ? (number ? errno : ENOENT) : dead_read(dir, number, bytes_r, l);
	if (dir != -1)
		close(dir);
	if (e && e != ENOENT) {
		unreadable(c, e);
		return false;
	}
	return (!e && may_see(c, l)) || no_letter(c);
}

static void get_read(struct call *c, struct reader *rd)
{
	struct dead_letter l;
	char *bytes = NULL;
	if (load(c, rd, &bytes, &l)) {
		write_letter(&c->reply.body, &l, true);
		c->reply.status = 200;
	}
	free(bytes);
}

void dead_list(struct call *c) { call_read(c, list_read); }
void dead_get(struct call *c) { call_read(c, get_read); }

/* ---- orders ---- */

static void build_order(struct call *c, uint64_t number, enum order_what what)
{
	struct txn_builder t;
	struct op_order o = {.number = number, .what = what};
	call_txn_begin(c, &t, 0, TXN_ORDER);
	txn_op_raw(&t, OP_ORDER, &o, sizeof(o), NULL, 0);
	txn_end(&t);
}

static enum order_what what_of(const struct call *c)
{
	return c->route->method == HTTP_M_DELETE ? ORDER_DISCARD : ORDER_RETRY;
}

static enum verdict one_evaluate(struct call *c, struct reader *rd)
{
	struct dead_letter l;
	char *bytes = NULL;
	bool ok = load(c, rd, &bytes, &l);
	free(bytes);
	if (!ok)
		return CALL_REPLY;
	build_order(c, number_of(c), what_of(c));
	return CALL_COMMIT;
}

static enum verdict all_evaluate(struct call *c, struct reader *rd)
{
	(void)rd;
	build_order(c, 0, what_of(c));
	return CALL_COMMIT;
}

static void carried_out(struct call *c)
{
	c->reply.status = 200;
	buf_printf(&c->reply.body, "{\"%s\":%llu,\"remaining\":%u}", what_of(c) == ORDER_RETRY ? "stored" : "discarded",
		   (unsigned long long)c->committed_seq, c->answer_arg);
}

static void not_carried_out(struct call *c, uint32_t status, uint32_t arg)
{
	switch (status) {
	case TXN_NO_LETTER: (void)no_letter(c); break;
	case TXN_REJECTED:
		problem(c, 409, "store-rejected",
			"the store does not accept it this time either; the letter stays, with the new reason");
		break;
	case TXN_OUTDATED:
		problem(c, 409, "letter-outdated",
			"what the letter is about has changed since, or its external_id is taken; newer wins. Discard the letter, "
			"or write anew what is still wanted");
		break;
	case TXN_JOURNAL_ERROR:
		problem(c, 503, "dead-letters-unreadable", "the letter cannot be read or removed: %s; try again",
			strerror((int)arg));
		break;
	case TXN_BUSY:
		problem(c, 503, "store-unavailable",
			"the store takes nothing at the moment, or this letter is under way already; try again");
		break;
	default: call_refused(c, status, arg);
	}
}

static void order(struct call *c, bool all)
{
	c->committed = carried_out;
	c->on_refused = not_carried_out;
	if (all && c->who->namespaces) {
		problem(c, 403, "namespace-forbidden", "all dead letters are for credentials of every namespace");
		call_reply(c);
		return;
	}
	call_write(c, all ? all_evaluate : one_evaluate, all);
}

void dead_retry(struct call *c) { order(c, false); }
void dead_retry_all(struct call *c) { order(c, true); }
void dead_discard(struct call *c) { order(c, false); }

void dead_discard_all(struct call *c)
{
	char *confirm = NULL;
	size_t len = 0;
	bool ok = http_query_get(c->req, "confirm", &confirm, &len) == 1 && strcmp(confirm, "true") == 0;
	free(confirm);
	if (ok) {
		order(c, true);
		return;
	}
	problem(c, 400, "confirm-required",
		"confirm: this discards every dead letter, and with it what the store lacks; repeat with confirm=true");
	call_reply(c);
}
