/* Lists: what the query parameters select, and paging by cursor. The reader is a sorted table here. Broken code this would catch:
 * a page that repeats or loses a memory, a cursor that forgets the order, a parameter that is taken for another one or
 * believed half, a bulk delete that goes on without being told to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/api.h"

#include "api/json_out.c"
#include "api/list.c"

/* ---- the worker around it ---- */

static const char *query[16][2]; /* name, value; up to the first NULL */
static struct {
	int status;
	char type[64], detail[512];
} refused;
static bool committing, replied;
static struct call c;

int http_query_get(const struct http_request *r, const char *name, char **v_r, size_t *len_r)
{
	(void)r;
	for (size_t i = 0; query[i][0]; i++)
		if (strcmp(query[i][0], name) == 0) {
			if (strcmp(query[i][1], "%") == 0)
				return -1;
			*len_r = strlen(query[i][1]);
			*v_r = util_strndup(query[i][1], *len_r);
			return 1;
		}
	return 0;
}

struct span http_body(const struct http_request *r) { return (void)r, (struct span){NULL, 0}; }
bool body_json_parse(struct call *call, struct span text, struct body_json *b)
{
	return (void)call, (void)text, memset(b, 0, sizeof(*b)), false;
}
void body_json_free(struct body_json *b) { (void)b; }

void problem(struct call *call, int status, const char *type, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(refused.detail, sizeof(refused.detail), fmt, ap);
	va_end(ap);
	snprintf(refused.type, sizeof(refused.type), "%s", type);
	call->reply.status = refused.status = status;
}
void problem_store(struct call *call, const char *internal)
{
	problem(call, 503, "store-unavailable", "%s", internal ? internal : "");
}

bool call_namespace(struct call *call, struct span given, unsigned right, char out[LIMIT_NAMESPACE + 1],
		    struct span *name_r)
{
	(void)call, (void)given, (void)right;
	memcpy(out, "home", 5);
	*name_r = (struct span){out, 4};
	return true;
}
bool call_may(const struct call *call, unsigned right, struct span ns)
{
	return (void)call, (void)right, (void)ns, true;
}
bool call_wait(struct call *call) { return (void)call, true; }
void call_read(struct call *call, void (*read)(struct call *, struct reader *))
{
	struct reader rd = {.error = NULL};
	read(call, &rd);
}
void call_write(struct call *call, enum verdict (*evaluate)(struct call *, struct reader *), bool inline_ok)
{
	struct reader rd = {.error = NULL};
	(void)inline_ok;
	committing = evaluate(call, &rd) == CALL_COMMIT;
}
void call_reply(struct call *call) { (void)call, replied = true; }
uint64_t call_read_seq(const struct call *call) { return (void)call, 1; }
static struct buf txn;
void call_txn_begin(struct call *call, struct txn_builder *t, uint64_t read_seq, uint32_t flags)
{
	(void)call;
	txn.len = 0;
	txn_begin(t, &txn, 1, read_seq, 0, flags);
}

/* Operations of the transaction that was built. */
static size_t victims(void) { return txn.len ? ((const struct txn_head *)(const void *)txn.p)->nops : 0; }
void memories_receipt(struct call *call, size_t n) { buf_printf(&call->reply.body, "{\"receipt\":%zu}", n); }
int memories_erase_param(struct call *call)
{
	char *v = NULL;
	size_t len;
	(void)call;
	int found = http_query_get(NULL, "erase", &v, &len);
	free(v);
	return found;
}

/* ---- the table ---- */

static size_t rows, body_bytes;
static struct store_list asked;

static void row(size_t i, struct memory *m, char *text, size_t cap)
{
	*m = (struct memory){.version = 1};
	m->id.b[0] = 1;
	m->id.b[14] = (uint8_t)(i >> 8);
	m->id.b[15] = (uint8_t)i;
	int n = snprintf(text, cap, "{\"row\":%zu,\"pad\":\"%*s\"}", i, (int)body_bytes, "");
	m->body = (struct span){text, (size_t)n};
}

enum read_rc reader_list(struct reader *r, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	static char text[1u << 21];
	struct memory m;
	size_t n = 0;
	(void)r;
	asked = *q;
	for (size_t k = 0; k < rows && (!q->limit || n < q->limit); k++) {
		row(q->descending ? rows - 1 - k : k, &m, text, sizeof(text));
		int past = uuid_cmp(&m.id, &q->after);
		if (q->have_after && (q->descending ? past >= 0 : past <= 0))
			continue;
		n++;
		if (!fn(arg, &m))
			break;
	}
	return READ_OK;
}
enum read_rc reader_count(struct reader *r, const struct store_list *q, uint64_t *n_r)
{
	return (void)r, asked = *q, *n_r = rows, READ_OK;
}
enum read_rc reader_get(struct reader *r, const struct uuid *id, bool with, struct held *h)
{
	return (void)r, (void)id, (void)with, (void)h, READ_NONE;
}
void held_free(struct held *h) { (void)h; }

/* ---- asking ---- */

static void fresh(void)
{
	if (c.free_state)
		c.free_state(c.state);
	buf_free(&c.reply.body);
	c = (struct call){.state = NULL};
	memset(&refused, 0, sizeof(refused));
	committing = replied = false;
	txn.len = 0;
}

/* "name=value&name=value" with the values as they are after unescaping. */
static void with(const char *text)
{
	static char copy[1024];
	size_t n = 0;
	char *save = NULL;
	fresh();
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *p = strtok_r(copy, "&", &save); p; p = strtok_r(NULL, "&", &save)) {
		query[n][0] = p;
		char *eq = strchr(p, '=');
		*eq = 0;
		query[n++][1] = eq + 1;
	}
	query[n][0] = NULL;
}

static struct list_select *selects(const char *text)
{
	with(text);
	struct list_select *s = list_select(&c, AUTH_READ);
	if (!s)
		fail_msg("%s: %s", text, refused.detail);
	return s;
}

static void refuses(const char *text, const char *type, const char *says)
{
	with(text);
	if (list_select(&c, AUTH_READ))
		fail_msg("accepted: %s", text);
	if (refused.status != 400 || strcmp(refused.type, type) != 0 ||
	    strncmp(refused.detail, says, strlen(says)) != 0)
		fail_msg("%s: %d %s %s", text, refused.status, refused.type, refused.detail);
	assert_null(c.state);
}

static void defaults(void **state)
{
	(void)state;
	struct list_select *s = selects("");
	assert_true(s->q.descending); /* newest first */
	assert_int_equal(s->q.limit, LIST_DEFAULT);
	assert_false(s->q.have_after || s->q.deleted || s->q.with_embedding);
	assert_null(s->q.filter);
	assert_int_equal(s->q.ns, record_ns(SPAN_LIT("home")));
	assert_true(s->q.now_us > 0);
}

static void parameters(void **state)
{
	(void)state;
	struct list_select *s = selects("limit=1&order=asc&deleted=true&include=embedding");
	assert_true(s->q.limit == 1 && !s->q.descending && s->q.deleted && s->q.with_embedding);
	assert_int_equal(selects("limit=1000")->q.limit, LIMIT_LIST);
	assert_false(selects("include=")->q.with_embedding);
	assert_true(selects("order=desc&deleted=false")->q.descending);
	static const char *const limits[] = {
		"limit=0",  "limit=1001", "limit=-1",  "limit=",    "limit= 5",
		"limit=+5", "limit=5x",	  "limit=0x5", "limit=1e2", "limit=99999999999999999999",
		"limit=1.0"};
	for (size_t i = 0; i < ARRAY_LEN(limits); i++)
		refuses(limits[i], "invalid-parameter", "limit: must be");
	refuses("order=up", "invalid-parameter", "order: must be asc or desc");
	refuses("order=", "invalid-parameter", "order: must be");
	refuses("deleted=1", "invalid-parameter", "deleted: must be false or true");
	refuses("include=vector", "invalid-parameter", "include: must be");
	refuses("limit=%", "invalid-parameter", "limit: malformed percent");
	refuses("cursor=%", "invalid-parameter", "cursor: malformed percent");
	refuses("filter=%", "invalid-parameter", "filter: malformed percent");
	refuses("user_id=%", "invalid-parameter", "user_id: malformed percent");
	refuses("user_id=\xff", "invalid-parameter", "user_id: must be at most 256");
	refuses("filter={", "invalid-parameter", "filter: is not JSON");
	refuses("filter={\"x\":1}", "invalid-filter", "x: no such field");
	refuses("filter={\"kind\":\"a\",\"kind\":\"b\"}", "invalid-parameter", "filter: is not JSON");
}

/* Scopes and filter hold together. */
static void scopes(void **state)
{
	(void)state;
	struct list_select *s = selects(
		"user_id=u&kind=k&filter={\"or\":[{\"importance\":{\"gt\":0.5}},{\"agent_id\":\"a\"}]}");
	struct memory m = {
		.user_id = SPAN_LIT("u"), .kind = SPAN_LIT("k"), .agent_id = SPAN_LIT("a"), .importance = 0.1f};
	assert_true(filter_match(s->q.filter, &m));
	m.agent_id = SPAN_LIT("b");
	assert_false(filter_match(s->q.filter, &m));
	m.importance = 0.9f;
	assert_true(filter_match(s->q.filter, &m));
	m.user_id = SPAN_LIT("v");
	assert_false(filter_match(s->q.filter, &m));
	s = selects("external_id=e&session_id=s&agent_id=b");
	m = (struct memory){.external_id = SPAN_LIT("e"), .session_id = SPAN_LIT("s"), .agent_id = SPAN_LIT("b")};
	assert_true(filter_match(s->q.filter, &m));
	m.session_id = SPAN_LIT("e");
	assert_false(filter_match(s->q.filter, &m));
}

/* ---- paging ---- */

static char cursor[128];

/* One page; the rows it shows are `first`, first ± 1, … */
static size_t page(const char *order, size_t limit, size_t first)
{
	char text[256];
	bool up = strcmp(order, "asc") == 0;
	snprintf(text, sizeof(text), "%s=%s&limit=%zu", *cursor ? "cursor" : "order", *cursor ? cursor : order, limit);
	with(text);
	list_memories(&c);
	assert_int_equal(c.reply.status, 200);
	json_t *o = json_loadb(c.reply.body.p, c.reply.body.len, JSON_REJECT_DUPLICATES, NULL),
	       *list = json_object_get(o, "memories"), *m;
	const json_t *next = json_object_get(o, "next_cursor");
	size_t i, n = json_array_size(list);
	json_array_foreach (list, i, m)
		assert_int_equal(json_integer_value(json_object_get(m, "row")), up ? first + i : first - i);
	assert_true(next && (json_is_null(next) || json_is_string(next)));
	snprintf(cursor, sizeof(cursor), "%s", json_is_string(next) ? json_string_value(next) : "");
	json_decref(o);
	return n;
}

static void pages(void **state)
{
	(void)state;
	body_bytes = 1;
	for (rows = 0; rows < 23; rows += 1 + rows / 5)
		for (size_t limit = 1; limit < 12; limit++)
			for (int up = 0; up < 2; up++) {
				size_t seen = 0, n;
				*cursor = 0;
				do {
					n = page(up ? "asc" : "desc", limit, up ? seen : rows - 1 - seen);
					seen += n;
					assert_true(n == limit || !*cursor); /* a page that is not full is the last */
					assert_true(n > 0 || rows == 0);
				} while (*cursor);
				assert_int_equal(seen, rows);
			}
}

/* A page ends before it becomes too large, and goes on behind. */
static void large_rows(void **state)
{
	(void)state;
	size_t seen = 0, number = 0;
	rows = 23;
	body_bytes = 1000000;
	*cursor = 0;
	do {
		size_t n = page("asc", 1000, seen);
		assert_true(n > 0 && c.reply.body.len < PAGE_BYTES + 2 * body_bytes);
		seen += n;
		number++;
	} while (*cursor);
	assert_int_equal(seen, 23);
	assert_int_equal(number, 3);
	body_bytes = 1;
}

static void cursors(void **state)
{
	static const char *const bad[] = {"cursor=",
					  "cursor=x",
					  "cursor=d",
					  "cursor=x01000000-0000-0000-0000-000000000001",
					  "cursor=01000000-0000-0000-0000-000000000001",
					  "cursor=d01000000-0000-0000-0000-00000000000",
					  "cursor=d01000000-0000-0000-0000-0000000000012",
					  "cursor=D01000000-0000-0000-0000-000000000001",
					  "cursor=d01000000x0000-0000-0000-000000000001",
					  "cursor=d0100000g-0000-0000-0000-000000000001"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		refuses(bad[i], "invalid-cursor", "cursor: must be a next_cursor");
	/* the order goes with the cursor, whatever else is said */
	struct list_select *s = selects("cursor=a01000000-0000-0000-0000-000000000001&order=desc");
	assert_true(s->q.have_after && !s->q.descending && s->q.after.b[15] == 1);
	s = selects("order=asc&cursor=d01000000-0000-0000-0000-000000000001");
	assert_true(s->q.descending);
}

/* ---- the rest ---- */

static void vector_in_json(void **state)
{
	static const float x[] = {1, -0.5f, 0.1f};
	(void)state;
	struct buf b = {0};
	struct memory m = {.embedding = x, .dim = 3};
	buf_adds(&b, "{\"a\":1}");
	list_vector(&b, &m);
	buf_addc(&b, 0);
	assert_string_equal(b.p, "{\"a\":1,\"embedding\":[1,-0.5,0.100000001]}");
	b.len = 0;
	m.embedding = NULL;
	buf_adds(&b, "{\"a\":1}");
	list_vector(&b, &m);
	buf_addc(&b, 0);
	assert_string_equal(b.p, "{\"a\":1,\"embedding\":null}");
	buf_free(&b);
}

static bool answers(const char *text)
{
	bool same = c.reply.body.len == strlen(text) && memcmp(c.reply.body.p, text, c.reply.body.len) == 0;
	if (!same)
		print_error("%.*s\n", (int)c.reply.body.len, c.reply.body.p);
	return same;
}

static void counts(void **state)
{
	(void)state;
	rows = 17;
	with("user_id=u&limit=3");
	list_count(&c);
	assert_true(answers("{\"count\":17}"));
	assert_int_equal(asked.limit, 0); /* all of them */
}

static void deletes_when_told(void **state)
{
	static const char *const not_told[] = {
		"", "confirm=", "confirm=1", "confirm=yes", "confirm=TRUE", "confirm=false"};
	(void)state;
	rows = 5;
	for (size_t i = 0; i < ARRAY_LEN(not_told); i++) {
		with(not_told[i]);
		bulk_delete(&c);
		assert_true(replied && !committing && !victims());
		assert_string_equal(refused.type, "confirm-required");
	}
	static const char *const everything[] = {"confirm=true", "userid=ada&confirm=true", "limit=2&confirm=true",
						 "confirm=hom", "confirm=homes"};
	for (size_t i = 0; i < ARRAY_LEN(everything); i++) {
		with(everything[i]);
		bulk_delete(&c);
		assert_true(replied && !committing && !victims());
		assert_string_equal(refused.type, "confirm-required");
	}
	with("confirm=home");
	bulk_delete(&c);
	assert_true(committing && victims() == 5);
	with("user_id=u&confirm=home");
	bulk_delete(&c);
	assert_true(replied && !committing);
	with("user_id=u&confirm=true&filter={\"x\":1}"); /* a filter that is not understood selects nothing, not everything */
	bulk_delete(&c);
	assert_true(replied && !committing && !victims());
	with("user_id=u&confirm=true&limit=2");
	bulk_delete(&c);
	assert_true(committing);
	assert_int_equal(victims(), 5);
	assert_true(answers("{\"deleted\":5,\"more\":false}"));
	with("user_id=u&confirm=true&erase=true");
	bulk_delete(&c);
	assert_true(committing && c.wait_store);
	assert_int_equal(victims(), 10); /* the trash as well */
	assert_true(asked.deleted && answers("{\"receipt\":10}"));
	rows = 0;
	with("user_id=u&confirm=true");
	bulk_delete(&c);
	assert_true(!committing && answers("{\"deleted\":0,\"more\":false}"));
	rows = BULK_MAX + 1;
	with("user_id=u&confirm=true");
	bulk_delete(&c);
	assert_true(committing && answers("{\"deleted\":10000,\"more\":true}"));
}

static int tidy(void **state)
{
	(void)state;
	fresh();
	buf_free(&txn);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),	  cmocka_unit_test(parameters), cmocka_unit_test(scopes),
		cmocka_unit_test(pages),	  cmocka_unit_test(large_rows), cmocka_unit_test(cursors),
		cmocka_unit_test(vector_in_json), cmocka_unit_test(counts),	cmocka_unit_test(deletes_when_told)};
	return cmocka_run_group_tests(tests, NULL, tidy);
}
