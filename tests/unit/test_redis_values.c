/* L2 on one Redis: values and whatever else may lie at their keys. Broken code this would catch: a key without an end of
 * life, a value of another key, store, class or namespace's meta that is believed, a damaged or cut one that is, an answer given
 * to the wrong key of a batch, a wrong type or an oversized value that ends the connection, a full Redis that is
 * asked to take ever more, a class cleared that was not meant. */
#include "redis_model.h"

#include "cache/l2_envelope.h"

static struct redis_server server;
static char url[128];

static int begin(void **state)
{
	(void)state;
	redis_test_make(&server, "redis-server", NULL);
	redis_test_start(&server);
	snprintf(url, sizeof(url), "redis://127.0.0.1:%d/3", server.port);
	return 0;
}

static int end(void **state)
{
	(void)state;
	redis_test_end(&server);
	return 0;
}

static const char *name_of(unsigned n)
{
	static char text[128];
	struct uuid key = l2_test_key(n);
	char id[UUID_TEXT];
	uuid_format(&key, id);
	snprintf(text, sizeof(text), "orchestra:-:m:%.*s", UUID_TEXT, id);
	return text;
}

/* On the database of the url. */
static redisReply *ask3(const char *fmt, ...)
{
	va_list ap;
	redisContext *c = redis_test_session(&server);
	freeReplyObject(redisCommand(c, "SELECT 3"));
	va_start(ap, fmt);
	redisReply *r = redisvCommand(c, fmt, ap);
	va_end(ap);
	assert_non_null(r);
	redisFree(c);
	return r;
}
#define do3(...) freeReplyObject(ask3(__VA_ARGS__))

static void kept_and_found(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct l2_value v;
	struct cache_meta m = l2_test_meta();
	struct uuid key = l2_test_key(1);
	assert_true(l2_test_get(t, 1, &v));
	assert_false(v.found);
	l2_put(t->l2, CACHE_MEMORY, &key, 42, &m, SPAN("hello"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 1);
	assert_true(l2_test_get(t, 1, &v));
	assert_true(v.found && v.revision == 42 && span_eq(v.body, SPAN("hello")));
	assert_memory_equal(&v.meta.ns, &m.ns, sizeof(m.ns));
	assert_true(v.meta.version == 3 && v.meta.filled_us == m.filled_us && v.meta.fresh_ms == 60000 &&
		    v.meta.gone_ms == 600000 && v.meta.tag == 5);
	l2_values_free(&v, 1);
	l2_drop(t->l2, CACHE_MEMORY, &key);
	REDIS_UNTIL(!l2_test_has(t, 1));
	l2_test_end(t);
}

/* The answers of a batch go to their keys, whatever is missing between. */
static void many(void **state)
{
	(void)state;
	enum { N = 700 };
	struct l2_test *t = l2_test_patient(url);
	static struct l2_value v[N];
	static struct uuid keys[N];
	char body[64];
	for (unsigned i = 0; i < N; i++) {
		keys[i] = l2_test_key(i);
		snprintf(body, sizeof(body), "body %u", i);
		if (i % 3)
			l2_test_put(t, i, SPAN(body));
	}
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == N - (N + 2) / 3);
	assert_true(l2_get_many(t->l2, CACHE_MEMORY, keys, N, v));
	for (unsigned i = 0; i < N; i++) {
		snprintf(body, sizeof(body), "body %u", i);
		assert_int_equal(v[i].found, i % 3 != 0);
		if (v[i].found)
			assert_true(v[i].revision == 100 + i && span_eq(v[i].body, SPAN(body)));
	}
	l2_values_free(v, N);
	l2_test_end(t);
}

static void every_key_ends(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct cache_meta m = l2_test_meta();
	struct uuid soon = l2_test_key(2), never = l2_test_key(3), over = l2_test_key(4);
	m.gone_ms = 20000;
	l2_put(t->l2, CACHE_MEMORY, &soon, 1, &m, SPAN("soon"));
	m.gone_ms = 0;
	l2_put(t->l2, CACHE_MEMORY, &never, 1, &m, SPAN("never"));
	m.gone_ms = 1;
	m.filled_us -= 5000000;
	l2_put(t->l2, CACHE_MEMORY, &over, 1, &m, SPAN("over"));
	m = l2_test_meta();
	m.flags = CACHE_NEGATIVE;
	l2_put(t->l2, CACHE_MEMORY, &over, 1, &m, SPAN(""));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 2);
	redisReply *r = ask3("PTTL %s", name_of(2));
	assert_in_range(r->integer, 1, 20000);
	freeReplyObject(r);
	r = ask3("PTTL %s", name_of(3));
	assert_in_range(r->integer, 3600000 * 9 / 10 - 60000, 3600000 * 11 / 10);
	freeReplyObject(r);
	r = ask3("KEYS *");
	assert_int_equal(r->elements, 2);
	freeReplyObject(r);
	do3("SET %s x", name_of(3)); /* not even what others did to it lives on */
	l2_test_put(t, 3, SPAN("again"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 3);
	r = ask3("PTTL %s", name_of(3));
	assert_in_range(r->integer, 1, 600000);
	freeReplyObject(r);
	l2_test_end(t);
}

static void put_raw(unsigned n, const void *p, size_t len) { do3("SET %s %b", name_of(n), p, len); }

/* Each byte changed, each length cut, and what is whole but not this. */
static void lies(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct l2_name name = {7, CACHE_MEMORY, l2_test_key(5)}, other;
	struct cache_meta m = l2_test_meta();
	struct buf b = {0};
	l2_envelope_write(&b, &name, 9, &m, SPAN("the truth"));
	put_raw(5, b.p, b.len);
	assert_true(l2_test_has(t, 5));
	for (size_t i = 0; i < b.len; i++) {
		b.p[i] ^= 1;
		put_raw(5, b.p, b.len);
		assert_false(l2_test_has(t, 5));
		b.p[i] ^= 1;
	}
	for (size_t n = 1; n < b.len; n++) {
		put_raw(5, b.p, n);
		assert_false(l2_test_has(t, 5));
	}
	assert_int_equal(l2_test_count(t, STAT_L2_REFUSED), 2 * b.len - 1);
	put_raw(5, "", 0);
	assert_false(l2_test_has(t, 5));
	for (int what = 0; what < 5; what++) {
		other = name;
		m = l2_test_meta();
		other.store += what == 0;
		other.key.b[15] += what == 1;
		other.cls = what == 2 ? CACHE_SEARCH : CACHE_MEMORY;
		m.filled_us += what == 3 ? 3600000000ll : 0;
		m.filled_us -= what == 4 ? 3600000000ll : 0; /* gone */
		b.len = 0;
		l2_envelope_write(&b, &other, 9, &m, SPAN("a truth"));
		put_raw(5, b.p, b.len);
		assert_false(l2_test_has(t, 5));
	}
	buf_free(&b);
	/* Longer than anything of ours: it does not even come. */
	char *large = util_alloc(8 << 20);
	memset(large, 'x', 8 << 20);
	put_raw(5, large, 8 << 20);
	free(large);
	assert_false(l2_test_has(t, 5));
	do3("DEL %s", name_of(5));
	do3("LPUSH %s a b c", name_of(5));
	assert_false(l2_test_has(t, 5));
	/* None of it has cost the connection, and a put heals it. */
	redisReply *r = redis_test_ask(&server, "INFO stats");
	char *clients = strstr(r->str, "total_connections_received:");
	long before = strtol(strchr(clients, ':') + 1, NULL, 10);
	freeReplyObject(r);
	l2_test_put(t, 5, SPAN("healed"));
	REDIS_UNTIL(l2_test_has(t, 5));
	r = redis_test_ask(&server, "INFO stats");
	assert_int_equal(strtol(strchr(strstr(r->str, "total_connections_received:"), ':') + 1, NULL, 10), before + 1);
	freeReplyObject(r);
	l2_test_end(t);
}

/* More readers than connections for them: all are answered, each with its own. */
struct reader {
	struct l2_test *t;
	unsigned from, wrong;
};

static void *read_on(void *arg)
{
	struct reader *r = arg;
	char body[64];
	for (unsigned i = 0; i < 2000; i++) {
		unsigned n = (r->from + i * 7) % 100;
		struct l2_value v;
		bool asked = l2_test_get(r->t, n, &v);
		snprintf(body, sizeof(body), "body %u", n);
		r->wrong += !asked || !v.found || v.revision != 100 + n || !span_eq(v.body, SPAN(body));
		l2_values_free(&v, 1);
	}
	return NULL;
}

static void at_once(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct reader r[6];
	pthread_t thread[6];
	char body[64];
	for (unsigned i = 0; i < 100; i++) {
		snprintf(body, sizeof(body), "body %u", i);
		l2_test_put(t, i, SPAN(body));
	}
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 100);
	for (unsigned i = 0; i < ARRAY_LEN(r); i++) {
		r[i] = (struct reader){.t = t, .from = i * 13};
		assert_int_equal(pthread_create(&thread[i], NULL, read_on, &r[i]), 0);
	}
	for (unsigned i = 0; i < ARRAY_LEN(r); i++) {
		pthread_join(thread[i], NULL);
		assert_int_equal(r[i].wrong, 0);
	}
	l2_test_end(t);
}

static void too_large(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	size_t max = 256 << 10;
	char *body = util_alloc(max + 1);
	memset(body, 'x', max + 1);
	l2_test_put(t, 6, (struct span){body, max + 1});
	assert_int_equal(l2_test_count(t, STAT_L2_DROPPED), 1);
	l2_test_put(t, 6, (struct span){body, max});
	REDIS_UNTIL(l2_test_has(t, 6));
	free(body);
	l2_test_end(t);
}

/* Full: reads go on, writes are left alone for a while and come back. */
static void full(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	l2_test_put(t, 7, SPAN("before"));
	REDIS_UNTIL(l2_test_has(t, 7));
	redis_test_do(&server, "CONFIG SET maxmemory 1 maxmemory-policy noeviction");
	l2_test_put(t, 8, SPAN("no room"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUT_ERRORS) == 1);
	uint64_t dropped = l2_test_count(t, STAT_L2_DROPPED);
	l2_test_put(t, 8, SPAN("no room"));
	assert_true(l2_test_count(t, STAT_L2_DROPPED) > dropped || l2_test_count(t, STAT_L2_PUT_ERRORS) > 1);
	assert_true(l2_test_has(t, 7));
	struct l2_info info;
	assert_true(l2_info(t->l2, &info));
	assert_string_equal(info.policy, "noeviction");
	assert_true(info.masters == 1 && info.maxmemory == 1 && info.used_memory > 100000 && info.keys >= 1 &&
		    info.keyspace_hits >= 1 && info.keyspace_misses >= 1);
	assert_string_equal(info.mode, "standalone");
	assert_int_equal(strncmp(info.version, "7.", 2), 0);
	redis_test_do(&server, "CONFIG SET maxmemory 0");
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, 8); usleep(20000)) {
		l2_test_put(t, 8, SPAN("room"));
		assert_true(clock_mono_us() < until);
	}
	redis_test_do(&server, "FLUSHALL");
	assert_true(l2_test_answers(t));
	assert_false(l2_test_has(t, 8));
	l2_test_end(t);
}

static bool once(void *arg, uint64_t removed)
{
	(void)removed;
	return --*(int *)arg > 0;
}

static void cleared(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct cache_meta m = l2_test_meta();
	struct uuid key = l2_test_key(1);
	uint64_t n;
	l2_put(t->l2, CACHE_VECTOR, &key, 1, &m, SPAN("v"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 1);
	for (unsigned i = 0; i < 1500; i++)
		l2_test_put(t, i, SPAN("x"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) + l2_test_count(t, STAT_L2_DROPPED) == 1501);
	do3("SET orchestra2:-:m:x theirs");
	uint64_t kept = l2_test_count(t, STAT_L2_PUTS) - 1;
	int left = 1;
	assert_false(l2_clear(t->l2, CACHE_MEMORY, once, &left, &n));
	assert_in_range(n, 1, kept - 1);
	uint64_t first = n;
	assert_true(l2_clear(t->l2, CACHE_MEMORY, NULL, NULL, &n));
	assert_int_equal(first + n, kept);
	assert_true(l2_clear(t->l2, 0, NULL, NULL, &n));
	assert_int_equal(n, 1);
	redisReply *r = ask3("KEYS *");
	assert_int_equal(r->elements, 1);
	freeReplyObject(r);
	l2_test_end(t);
}

/* One value is gone when it says so, whatever lay there; nothing else is. */
static void forgotten(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	struct uuid key = l2_test_key(1), lie = l2_test_key(2);
	bool removed;
	l2_test_put(t, 1, SPAN("x"));
	l2_test_put(t, 3, SPAN("x"));
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 2);
	do3("LPUSH %s a b c", name_of(2));
	assert_true(l2_forget(t->l2, CACHE_VECTOR, &key, &removed)); /* the same id of another class */
	assert_false(removed);
	assert_true(l2_forget(t->l2, CACHE_MEMORY, &key, &removed));
	assert_true(removed);
	assert_true(l2_forget(t->l2, CACHE_MEMORY, &key, &removed));
	assert_false(removed);
	assert_true(l2_forget(t->l2, CACHE_MEMORY, &lie, &removed));
	assert_true(removed);
	redisReply *r = ask3("KEYS *");
	assert_int_equal(r->elements, 1);
	freeReplyObject(r);
	l2_test_end(t);
	static const char *const hasty[] = {"redis.answer_timeout=200 ms", "redis.connect_timeout=30 s", NULL};
	t = l2_test_open(url, hasty);
	REDIS_UNTIL(l2_test_answers(t));
	kill(server.pid, SIGSTOP);
	assert_false(l2_forget(t->l2, CACHE_MEMORY, &key, &removed));
	kill(server.pid, SIGCONT);
	assert_false(removed);
	l2_test_end(t);
}

static void by_socket(void **state)
{
	(void)state;
	char text[200];
	snprintf(text, sizeof(text), "unix://%s?db=3", server.socket);
	struct l2_test *t = l2_test_patient(text);
	l2_test_put(t, 9, SPAN("by socket"));
	REDIS_UNTIL(l2_test_has(t, 9));
	redisReply *r = ask3("EXISTS %s", name_of(9));
	assert_int_equal(r->integer, 1);
	freeReplyObject(r);
	r = redis_test_ask(&server, "CLIENT LIST");
	assert_non_null(strstr(r->str, "name=orchestra:test"));
	freeReplyObject(r);
	l2_test_end(t);
}

/* Nothing is asked or kept for a store that is not known. */
static void no_store(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	l2_set_store(t->l2, 0);
	l2_test_put(t, 1, SPAN("whose?"));
	assert_false(l2_test_answers(t));
	redisReply *r = ask3("KEYS *");
	assert_int_equal(r->elements, 0);
	freeReplyObject(r);
	l2_test_end(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(kept_and_found, begin, end),
		cmocka_unit_test_setup_teardown(many, begin, end),
		cmocka_unit_test_setup_teardown(every_key_ends, begin, end),
		cmocka_unit_test_setup_teardown(lies, begin, end),
		cmocka_unit_test_setup_teardown(at_once, begin, end),
		cmocka_unit_test_setup_teardown(too_large, begin, end),
		cmocka_unit_test_setup_teardown(full, begin, end),
		cmocka_unit_test_setup_teardown(cleared, begin, end),
		cmocka_unit_test_setup_teardown(forgotten, begin, end),
		cmocka_unit_test_setup_teardown(by_socket, begin, end),
		cmocka_unit_test_setup_teardown(no_store, begin, end),
	};
	redis_test_need();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
