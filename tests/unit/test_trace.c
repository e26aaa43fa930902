/* Traces: contexts and sampling, what is kept, steps and their parents, records through the ring into OTLP/JSON, and transactions that are told
 * of while somebody reads. Broken code that this finds: ids that repeat, a sampling that does not agree with others' or is not monotone
 * in its ratio, a step beyond the array, a record whose lengths are believed, text that breaks JSON, a torn context. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "clock.h"
#include "pinger/spans.h"
#include "ring.h"
#include "shm.h"
#include "trace/otlp.h"
#include "trace/trace-private.h"
#include "vocabulary.h"

static struct stats_slot *stats;

static struct tracer *tracer(int fd, unsigned slot)
{
	struct tracer *t = trace_open(fd, slot, stats);
	assert_non_null(t);
	t->ring = trace_ring(fd, slot); /* as trace_conf() does where trace.endpoint is set */
	t->told = mmap(NULL, SLOT_COUNT * sizeof(struct told), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		       (off_t)(SLOT_COUNT * ring_footprint(TRACE_RING_BYTES)));
	assert_true(t->ring && t->told != MAP_FAILED);
	return t;
}

static int segment(void)
{
	int fd = shm_create("orchestra-test", trace_segment_size());
	assert_true(fd >= 0);
	return fd;
}

/* ---- contexts and sampling ---- */

static void test_contexts(void **state)
{
	struct trace_context c;
	char text[TRACE_PARENT + 1];
	(void)state;
	for (int i = 0; i < 16; i++)
		c.trace[i] = (uint8_t)(i * 17);
	for (int i = 0; i < 8; i++)
		c.span[i] = (uint8_t)(0xf0 + i);
	trace_parent_write(text, &c, true);
	assert_string_equal(text, "00-00112233445566778899aabbccddeeff-f0f1f2f3f4f5f6f7-01");
	trace_parent_write(text, &c, false);
	assert_string_equal(text + 53, "00");
}

/* The vectors are those of Go's SDK (traceIDUpperBound = ratio * 2^63, compared with the lower 8 bytes, big-endian, halved). */
static void test_sampling(void **state)
{
	int fd = segment();
	struct tracer *t = tracer(fd, SLOT_API0);
	uint8_t id[16] = {0};
	unsigned n = 0;
	(void)state;
	assert_true(trace_sampled_by_id(id, trace_below(1)) && !trace_sampled_by_id(id, trace_below(0)));
	memset(id, 0xff, 16);
	assert_true(trace_sampled_by_id(id, trace_below(1000000)) && !trace_sampled_by_id(id, trace_below(999999)));
	id[8] = 0x3f; /* 0x3fff… of 2^64: a quarter, but for one */
	assert_true(trace_sampled_by_id(id, trace_below(250001)) && !trace_sampled_by_id(id, trace_below(249999)));
	for (int i = 0; i < 20000; i++) {
		struct trace_context c = trace_new(t);
		bool before = false;
		for (int64_t r = 0; r <= 1000000; r += 50000) { /* who is sampled stays so when more are */
			bool now = trace_sampled_by_id(c.trace, trace_below(r));
			assert_true(now || !before);
			before = now;
		}
		n += trace_sampled_by_id(c.trace, trace_below(100000));
	}
	assert_true(fabs(n - 2000.0) < 6 * sqrt(20000 * 0.1 * 0.9));
	trace_close(&t);
	close(fd);
}

static int by_bytes(const void *a, const void *b) { return memcmp(a, b, sizeof(struct trace_context)); }

static void test_ids_differ(void **state)
{
	enum { N = 20000 };
	int fd = segment();
	struct tracer *t = tracer(fd, 0), *u = tracer(fd, 1);
	struct trace_context *c = calloc(N, sizeof(*c));
	(void)state;
	for (size_t i = 0; i < N; i++)
		c[i] = trace_new(i % 2 ? t : u);
	qsort(c, N, sizeof(*c), by_bytes);
	for (size_t i = 1; i < N; i++)
		assert_memory_not_equal(c[i].trace, c[i - 1].trace, 16);
	struct trace *x = trace_begin(t, NULL, false);
	for (unsigned i = 0; i < 256; i++)
		for (unsigned k = 0; k < i; k++) {
			struct trace_context a = trace_context_of(x, i), b = trace_context_of(x, k);
			assert_memory_not_equal(a.span, b.span, 8);
			assert_memory_equal(a.trace, b.trace, 16);
		}
	trace_free(&x);
	free(c);
	trace_close(&t);
	trace_close(&u);
	close(fd);
}

/* ---- what is kept ---- */

static void test_kept(void **state)
{
	int fd = segment();
	struct tracer *t = tracer(fd, 0);
	int64_t s = 1000000000, now = 5 * s;
	(void)state;
	memset(stats, 0, sizeof(*stats));
	assert_true(trace_keeps(t, true, false, 0, now) &&
		    !trace_keeps(t, false, false, 100 * s, now)); /* trace.slow = 0 */
	atomic_store(&t->slow_ns, s);
	assert_true(trace_keeps(t, false, false, s, now) && !trace_keeps(t, false, false, s - 1, now));
	for (int i = 1; i < TRACE_FAILURES; i++)
		assert_true(trace_keeps(t, false, true, 0, now));
	assert_false(trace_keeps(t, false, true, 0, now + s - 1)); /* so many a second */
	assert_true(trace_keeps(t, true, true, 0, now));	   /* of those that are not sampled */
	assert_int_equal(stats_value(stats, STAT_TRACE_DROPPED_RATE), 1);
	assert_true(trace_keeps(t, false, true, 0, now + s));
	trace_close(&t);
	close(fd);
}

/* ---- records and JSON ---- */

static const struct otlp_resource resource = {
	.service = "a \"service\"", .version = "1", .instance = "i", .host = "h", .store = "postgresql"};

static json_t *sent(struct ring *r, unsigned *n_r)
{
	struct buf b = {0};
	uint64_t cursor = ring_head(r);
	const void *p;
	size_t len;
	*n_r = 0;
	otlp_begin(&b, &resource);
	while ((p = ring_peek(r, &cursor, &len))) {
		assert_true(otlp_span(&b, &resource, p, len, !*n_r));
		++*n_r;
	}
	ring_advance(r, cursor);
	otlp_end(&b);
	json_error_t e;
	json_t *root = json_loadb(b.p, b.len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		fail_msg("%s in %.*s", e.text, (int)b.len, b.p);
	buf_free(&b);
	return root;
}

static json_t *span_at(json_t *root, size_t i)
{
	json_t *r = json_array_get(json_object_get(root, "resourceSpans"), 0);
	return json_array_get(json_object_get(json_array_get(json_object_get(r, "scopeSpans"), 0), "spans"), i);
}

static const char *text_at(json_t *span, const char *key) { return json_string_value(json_object_get(span, key)); }

static const char *attribute(json_t *span, const char *key, const char *type)
{
	json_t *list = json_object_get(span, "attributes"), *v;
	size_t i;
	json_array_foreach (list, i, v)
		if (strcmp(text_at(v, "key"), key) == 0)
			return text_at(json_object_get(v, "value"), type);
	return NULL;
}

static void test_steps_and_json(void **state)
{
	int fd = segment();
	struct tracer *t = tracer(fd, SLOT_API0 + 2);
	struct trace_context parent = {.trace = {1}, .span = {2}}, link = {.trace = {3}, .span = {4}};
	struct trace *x = trace_begin(t, &parent, true);
	struct trace_span s;
	char comment[TRACE_COMMENT + 1];
	unsigned n;
	(void)state;
	assert_false(trace_comment(comment));
	assert_int_equal(trace_enter(TRACE_STORE), 0); /* this thread is at nothing that is traced */
	trace_here = x;
	unsigned a = trace_enter(TRACE_SEARCH_WORDS), b = trace_enter(TRACE_STORE);
	assert_true(trace_comment(comment));
	trace_leave_with(b, TRACE_KEY_FOUND, -7, true);
	trace_leave(a);
	unsigned c = trace_enter(TRACE_L1);
	trace_leave(c);
	trace_step(x, TRACE_QUEUE, 5, 3, false); /* a clock that is coarser than another */
	trace_here = NULL;
	trace_span_begin(&s, TRACE_SERVER, &x->self);
	trace_text(&s, TRACE_KEY_METHOD, SPAN("GET"));
	trace_text(&s, TRACE_KEY_ROUTE, SPAN("/v1/x"));
	trace_text(&s, TRACE_KEY_NAMESPACE, SPAN("q\"\\\n\x01 \xc3\xa9 \xff"));
	trace_text(&s, TRACE_KEY_ERROR, (struct span){NULL, 0});
	trace_text(&s, TRACE_KEY_STATE, SPAN("a=b"));
	trace_int(&s, TRACE_KEY_STATUS, 503);
	for (int i = 0; i < TRACE_LINKS + 3; i++)
		trace_link(&s, &link);
	s.r.flags = TRACE_FAILED;
	trace_write_all(x, &s, 1000, 2000);
	json_t *root = sent(t->ring, &n);
	assert_int_equal(n, 5);
	json_t *v = span_at(root, 0);
	assert_string_equal(text_at(v, "name"), "GET /v1/x");
	assert_string_equal(text_at(v, "traceState"), "a=b");
	assert_string_equal(text_at(v, "parentSpanId"), "0200000000000000");
	assert_string_equal(attribute(v, "orchestra.namespace", "stringValue"), "q\"\\\n\x01 \xc3\xa9 ?");
	assert_string_equal(attribute(v, "http.response.status_code", "intValue"), "503");
	assert_string_equal(attribute(v, "orchestra.worker", "stringValue"), "api.2");
	assert_null(attribute(v, "error.type", "stringValue"));
	assert_int_equal(json_integer_value(json_object_get(v, "flags")), 0x301);
	assert_int_equal(json_array_size(json_object_get(v, "links")), TRACE_LINKS);
	assert_int_equal(json_integer_value(json_object_get(v, "droppedLinksCount")), 3);
	assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "status"), "code")), 2);
	assert_int_equal(strtoll(text_at(v, "endTimeUnixNano"), NULL, 10) -
				 strtoll(text_at(v, "startTimeUnixNano"), NULL, 10),
			 1000);
	json_t *words = span_at(root, 1), *store = span_at(root, 2), *l1 = span_at(root, 3), *queue = span_at(root, 4);
	assert_string_equal(text_at(store, "parentSpanId"), text_at(words, "spanId"));
	assert_memory_equal(comment + 15 + 36, text_at(store, "spanId"), 16);
	assert_string_equal(text_at(words, "parentSpanId"), text_at(v, "spanId"));
	assert_string_equal(text_at(l1, "parentSpanId"), text_at(v, "spanId"));
	assert_string_equal(attribute(store, "orchestra.found", "intValue"), "-7");
	assert_string_equal(attribute(store, "db.system.name", "stringValue"), "postgresql");
	assert_string_equal(text_at(queue, "startTimeUnixNano"), text_at(queue, "endTimeUnixNano"));
	json_decref(root);

	/* More steps than there is room for are counted, also where they are nested. */
	trace_free(&x);
	x = trace_begin(t, NULL, false);
	trace_here = x;
	unsigned open[TRACE_STEPS + 9];
	for (size_t i = 0; i < ARRAY_LEN(open); i++)
		open[i] = trace_enter(TRACE_STORE);
	for (size_t i = ARRAY_LEN(open); i-- > 0;)
		trace_leave(open[i]);
	assert_true(x->lost == 9 && x->n == TRACE_STEPS && !x->open);
	trace_span_begin(&s, TRACE_SERVER, &x->self);
	trace_write_all(x, &s, 0, 1);
	trace_free(&x);
	assert_null(trace_here);
	root = sent(t->ring, &n);
	assert_int_equal(n, TRACE_STEPS + 1);
	assert_string_equal(attribute(span_at(root, 0), "orchestra.spans_left_out", "intValue"), "9");
	assert_string_equal(text_at(span_at(root, 0), "name"), "HTTP");
	json_decref(root);
	trace_close(&t);
	close(fd);
}

/* Whatever lies in a ring is a span or refused; never more, and always JSON. */
static void test_broken_records(void **state)
{
	int fd = segment();
	struct tracer *t = tracer(fd, 0);
	struct trace_context self = trace_new(t);
	struct trace_span s;
	size_t len, taken = 0;
	uint64_t cursor = ring_head(t->ring);
	char copy[8192];
	(void)state;
	trace_span_begin(&s, TRACE_SERVER, &self);
	trace_text(&s, TRACE_KEY_METHOD, SPAN("POST"));
	trace_text(&s, TRACE_KEY_PATH, SPAN("/a"));
	trace_int(&s, TRACE_KEY_STATUS, 1);
	trace_link(&s, &self);
	trace_write(t, &s, 1, 2);
	const char *good = ring_peek(t->ring, &cursor, &len);
	assert_non_null(good);
	srandom(20);
	for (int round = 0; round < 200000; round++) {
		struct buf b = {0};
		size_t n = (size_t)random() % 8 ? len : (size_t)random() % (len + 1);
		memcpy(copy, good, len);
		for (long k = random() % 4; k >= 0; k--)
			copy[(size_t)random() % len] = (char)random();
		char *exact = malloc(n + 1); /* a byte behind it would be seen by ASan */
		exact = realloc(exact, n ? n : 1);
		memcpy(exact, copy, n);
		if (otlp_span(&b, &resource, exact, n, true)) {
			json_t *root = json_loadb(b.p, b.len, 0, NULL);
			assert_non_null(root);
			json_decref(root);
			taken++;
		} else {
			assert_int_equal(b.len, 0);
		}
		free(exact);
		buf_free(&b);
	}
	assert_true(taken > 1000);
	trace_close(&t);
	close(fd);
}

static void test_full(void **state)
{
	int fd = segment();
	struct tracer *t = tracer(fd, 0);
	struct trace_context self = trace_new(t);
	struct trace_span s;
	unsigned n, written = 0;
	(void)state;
	memset(stats, 0, sizeof(*stats));
	for (int i = 0; i < 30000; i++) {
		trace_span_begin(&s, TRACE_PING, &self);
		trace_text(&s, TRACE_KEY_TARGET, SPAN("target"));
		written += trace_write(t, &s, 0, 1);
	}
	assert_true(written > 5000 && written < 30000);
	assert_int_equal(stats_value(stats, STAT_TRACE_DROPPED_FULL), 30000 - written);
	json_decref(sent(t->ring, &n));
	assert_int_equal(n, written);
	assert_true(trace_write(t, &s, 0, 1));
	trace_close(&t);
	close(fd);
}

/* ---- transactions on their way, while they are replaced ---- */

struct race {
	struct tracer *t;
	_Atomic bool stop;
};

static void *teller(void *arg)
{
	struct race *r = arg;
	for (uint64_t id = 1; !atomic_load(&r->stop); id++) {
		struct trace_context c;
		memset(&c, (int)(id / TRACE_TOLD % 255) + 1, sizeof(c));
		trace_tell(r->t, id % TRACE_TOLD + 1 + id / TRACE_TOLD * TRACE_TOLD, &c);
	}
	return NULL;
}

static void test_told(void **state)
{
	int fd = segment();
	struct tracer *api = tracer(fd, SLOT_API0 + 1), *sync = tracer(fd, SLOT_SYNC);
	struct trace_context c = {.trace = {7}}, out;
	struct race r = {.t = api};
	pthread_t thread;
	(void)state;
	trace_tell(api, 77, &c);
	assert_true(trace_told(sync, SLOT_API0 + 1, 77, &out) && out.trace[0] == 7);
	assert_false(trace_told(sync, SLOT_API0, 77, &out) || trace_told(sync, SLOT_API0 + 1, 77 + TRACE_TOLD, &out) ||
		     trace_told(sync, 4000, 77, &out) || trace_told(sync, SLOT_API0 + 1, 0, &out));
	pthread_create(&thread, NULL, teller, &r);
	size_t found = 0;
	for (uint64_t i = 0; found < 2000 && i < 2000000000; i++) {
		struct told_entry *e = &sync->told[SLOT_API0 + 1].v[i % TRACE_TOLD];
		uint64_t id = atomic_load(&e->id);
		if (!id || !trace_told(sync, SLOT_API0 + 1, id, &out))
			continue;
		for (size_t k = 1; k < sizeof(out); k++)
			if (((uint8_t *)&out)[k] != out.trace[0] && id != 77)
				fail_msg("torn: of %llu", (unsigned long long)id);
		found++;
	}
	atomic_store(&r.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(found, 2000);
	trace_close(&api);
	trace_close(&sync);
	close(fd);
}

/* ---- the exporter's arithmetic ---- */

static void test_headers(void **state)
{
	char *lines[OTLP_HEADERS_MAX], many[OTLP_HEADERS_MAX * 4 + 8] = "";
	size_t n;
	(void)state;
	assert_true(otlp_headers("authorization=Bearer a%2Cb%0d%0aX:y,x=,%zz=%zz%4,", lines, &n));
	assert_int_equal(n, 3);
	assert_string_equal(lines[0], "authorization: Bearer a,bX:y"); /* no line of its own */
	assert_string_equal(lines[1], "x: ");
	assert_string_equal(lines[2], "%zz: %zz%4");
	while (n--)
		free(lines[n]);
	assert_true(otlp_headers("", lines, &n) && !n);
	static const char *const bad[] = {"nothing", "=z",	   "a=1,,b=2", "a=1,bad", "a b=1",
					  "a:b=1",   "a=1\r\nb=2", "a\n=1",    "\"a=1"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_false(otlp_headers(bad[i], lines, &n));
		assert_int_equal(n, 0);
		assert_false(otlp_headers(bad[i], NULL, &n));
	}
	for (size_t i = 0; i < OTLP_HEADERS_MAX; i++)
		memcpy(many + 4 * i, "a=1,", 5);
	assert_true(otlp_headers(many, NULL, &n));
	assert_int_equal(n, OTLP_HEADERS_MAX);
	memcpy(many + 4 * OTLP_HEADERS_MAX, "a=1", 4);
	assert_false(otlp_headers(many, lines, &n)); /* nobody would notice that one is left out */
}

static void test_exporter(void **state)
{
	char *why;
	(void)state;
	assert_int_equal(spans_pause_us(1, 0, 0.5), 500000);
	assert_int_equal(spans_pause_us(3, 0, 0.5), 2000000);
	assert_int_equal(spans_pause_us(1, 7, 0), 7000000);
	for (unsigned i = 1; i < 5000; i += 7)
		assert_true(spans_pause_us(i, 1ll << 62, 0.99) <= SPANS_PAUSE_MAX_US &&
			    spans_pause_us(i, 0, 0) > 300000);
	assert_int_equal(
		otlp_rejected(SPAN("{\"partialSuccess\":{\"rejectedSpans\":\"12\",\"errorMessage\":\"no\"}}"), &why),
		12);
	assert_string_equal(why, "no");
	free(why);
	static const char *const none[] = {"",
					   "{}",
					   "[]",
					   "nonsense",
					   "{\"partialSuccess\":{\"rejectedSpans\":-3}}",
					   "{\"partialSuccess\":{\"rejectedSpans\":[]}}"};
	for (size_t i = 0; i < ARRAY_LEN(none); i++)
		assert_true(otlp_rejected(SPAN(none[i]), &why) == 0 && !why);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_contexts),       cmocka_unit_test(test_sampling),
		cmocka_unit_test(test_ids_differ),     cmocka_unit_test(test_kept),
		cmocka_unit_test(test_steps_and_json), cmocka_unit_test(test_broken_records),
		cmocka_unit_test(test_full),	       cmocka_unit_test(test_told),
		cmocka_unit_test(test_headers),	       cmocka_unit_test(test_exporter),
	};
	stats = calloc(1, sizeof(*stats));
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	free(stats);
	return rc;
}
