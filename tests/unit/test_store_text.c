/* Full text: what is found, in which order, and that no query is an error. Broken code this would catch: query
 * words taken for FTS5's operators, another namespace's rows, words of a version that is gone, memories on their way
 * to the store that rank otherwise than they will when they have arrived. */
#include <math.h>

#include "store_model.h"

#define NS record_ns(SPAN(NS_A))
#define HITS 50

static struct store_text_hit hit[HITS];
static size_t nhits;

static void text(struct store_text q)
{
	if (!q.limit)
		q.limit = HITS;
	nhits = 99;
	if (ops->text(store, &q, hit, &nhits) != STORE_OK)
		fail_msg("\"%.*s\": %s", (int)q.query.len, q.query.p, ops->error(store));
	assert_true(nhits <= q.limit);
	for (size_t i = 1; i < nhits; i++)
		assert_true(hit[i].score < hit[i - 1].score ||
			    (hit[i].score == hit[i - 1].score && uuid_cmp(&hit[i - 1].id, &hit[i].id) < 0));
}

static void find(const char *query) { text((struct store_text){.ns = NS, .query = SPAN(query)}); }

/* Exactly these, in any order. */
static void found(const char *query, size_t n, const uint32_t *want)
{
	find(query);
	if (nhits != n)
		fail_msg("\"%s\": %zu instead of %zu", query, nhits, n);
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;
		while (k < nhits && number_of(&hit[k].id) != want[i])
			k++;
		if (k == nhits)
			fail_msg("\"%s\": %u is missing", query, want[i]);
	}
}
#define FOUND(query, ...)                                                                                              \
	found(query, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), (const uint32_t[]){__VA_ARGS__})
#define NOTHING(query) found(query, 0, NULL)

static void put_text(struct batch *a, uint32_t n, uint64_t version, const char *ns, const char *content)
{
	struct made *d = make(n, version, ns);
	set_content(d, content);
	batch_put(a, d);
	made_free(d);
}

static void fill(void)
{
	struct batch a;
	batch_begin(&a);
	put_text(&a, 1, 1, NS_A, "Ada drinks green tea every morning");
	put_text(&a, 2, 1, NS_A, "Bob was drinking coffee and no tea");
	put_text(&a, 3, 1, NS_A,
		 "Caf\xc3\xa9 na\xc3\xafve \xc3\x9c"
		 "ber");
	put_text(&a, 4, 1, NS_A, "NEAR and OR and NOT are words: content scope rowid");
	put_text(&a, 5, 1, NS_A, "what is this? it is the same as that");
	put_text(&a, 6, 1, NS_A, "\xe6\x88\x91\xe5\x96\x9c\xe6\xac\xa2 \xf0\x9f\x8d\xb5 tea-pot C++ 42");
	put_text(&a, 7, 1, NS_B, "tea in another namespace");
	batch_store(&a, 1);
	batch_free(&a);
}

static void test_words(void **state)
{
	(void)state;
	fill();
	FOUND("tea", 1, 2, 6);
	FOUND("TEA", 1, 2, 6);
	FOUND("drink", 1, 2); /* stems */
	FOUND("drinks drinking", 1, 2);
	FOUND("cafe", 3); /* without accents */
	FOUND("CAF\xc3\x89", 3);
	FOUND("\xc3\xbc"
	      "ber naive",
	      3);
	FOUND("coffee morning", 1, 2); /* any of the words */
	FOUND("\xe6\x88\x91\xe5\x96\x9c\xe6\xac\xa2", 6);
	FOUND("42", 6);
	FOUND("pot", 6);
	NOTHING("teapot");
	NOTHING("te");
	NOTHING("zebra");
	find("tea morning");
	assert_int_equal(number_of(&hit[0].id), 1); /* more of the words, the rarer word */
	assert_int_equal(hit[0].version, 1);
	assert_true(hit[0].score > 0);
}

static void test_stop_words(void **state)
{
	(void)state;
	fill();
	FOUND("what is the tea", 1, 2, 6); /* and not 5, that has only the others */
	FOUND("What IS this?", 5);	   /* nothing else left: they count */
	FOUND("the", 5);
	FOUND("don't you drink", 1, 2);
}

/* FTS5 has a language of its own; a query has none. */
static void test_operators(void **state)
{
	(void)state;
	/* clang-format off */
	static const char *const odd[] = {"\"", "\"\"", "\"tea", "tea\"", "tea*", "*", "^tea", "^", "-tea", "+tea", "tea + pot", "(", ")", "(tea", "tea)", "()",
		"tea AND", "AND tea", "tea AND NOT", "NOT tea", "OR", "NEAR(tea pot, 2)", "NEAR/2", "NEAR(", "content:tea", "scope:tea", "{content scope}:tea",
		"{", "}", ": :", "tea:", ":tea", "words", "rowid", "rank", "a:b:c", "tea;", "'", "' OR 1=1 --", "\\", "%", "?", "?1", ":x", "@x", "$x", "tea\ttea",
		"\xf0\x9f\x8d\xb5", "\xf0\x9f\x8d\xb5 tea", "\xe2\x80\x94", "\xc2\xa0", "\xef\xbf\xbd", "\xff\xfe", "\xc3", "tea\xff", "\x01\x02", ".,;:!", "", " ",
		"\xcc\x81", "a\xcc\x81", "\xe2\x80\x8b", "ns0000000000000000"};
	/* clang-format on */
	fill();
	for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
		find(odd[i]);
		for (size_t k = 0; k < nhits; k++)
			assert_true(number_of(&hit[k].id) != 7);
		if (strstr(odd[i], "tea") && odd[i][0] != '\\' && strcmp(odd[i], "tea\xff") != 0)
			assert_true(nhits >= 3);
	}
	FOUND("NEAR rowid", 4);
	FOUND("content", 4);
	FOUND("scope:x", 4);
	text((struct store_text){.ns = NS, .query = {"tea\0pot", 7}});
	assert_true(nhits <= 3);
}

/* The namespace is a token of the index; a text or a query that spells it opens nothing. */
static void test_scope(void **state)
{
	(void)state;
	char token[40];
	struct batch a;
	fill();
	snprintf(token, sizeof(token), "ns%016llx", (unsigned long long)record_ns(SPAN(NS_B)));
	NOTHING(token);
	batch_begin(&a);
	put_text(&a, 8, 1, NS_A, token);
	batch_store(&a, 2);
	batch_free(&a);
	FOUND(token, 8);
	text((struct store_text){.ns = record_ns(SPAN(NS_B)), .query = SPAN("tea")});
	assert_true(nhits == 1 && number_of(&hit[0].id) == 7);
	text((struct store_text){.ns = record_ns(SPAN(NS_B)), .query = SPAN(token)});
	assert_int_equal(nhits, 0);
	text((struct store_text){.ns = 1, .query = SPAN("tea")});
	assert_int_equal(nhits, 0);
}

static void test_long(void **state)
{
	(void)state;
	struct buf b = {NULL, 0, 0};
	fill();
	for (int i = 0; i < 20000; i++)
		buf_printf(&b, "w%d ", i);
	text((struct store_text){.ns = NS, .query = {b.p, b.len}}); /* only so many words count */
	assert_int_equal(nhits, 0);
	b.len = 0;
	for (int i = 0; i < 20000; i++)
		buf_adds(&b, "tea ");
	text((struct store_text){.ns = NS, .query = {b.p, b.len}});
	assert_int_equal(nhits, 3);
	b.len = 0;
	for (int i = 0; i < 100000; i++)
		buf_addc(&b, 'x');
	text((struct store_text){.ns = NS, .query = {b.p, b.len}}); /* one word */
	assert_int_equal(nhits, 0);
	b.len = 0;
	for (int i = 0; i < 63; i++)
		buf_printf(&b, "w%d ", i);
	buf_adds(&b, "tea pot");
	text((struct store_text){.ns = NS, .query = {b.p, b.len}}); /* the 64th counts, the 65th does not */
	assert_int_equal(nhits, 3);
	buf_free(&b);
}

static void test_changes(void **state)
{
	(void)state;
	struct batch a;
	fill();
	batch_begin(&a);
	put_text(&a, 1, 2, NS_A, "Ada drinks mate now");
	batch_delete(&a, 2, 2, NS_A, DELETE_SOFT);
	struct made *d = make(6, 2, NS_A);
	set_content(d, "old tea");
	d->m.flags = MEMORY_SUPERSEDED;
	batch_put(&a, d);
	made_free(d);
	d = make(9, 1, NS_A);
	set_content(d, "tea until noon");
	d->m.expires_us = 100;
	batch_put(&a, d);
	made_free(d);
	batch_store(&a, 2);
	batch_free(&a);
	FOUND("tea", 9);
	FOUND("mate", 1);
	find("mate");
	assert_int_equal(hit[0].version, 2);
	NOTHING("morning");
	text((struct store_text){.ns = NS, .query = SPAN("tea"), .now_us = 99});
	assert_int_equal(nhits, 1);
	text((struct store_text){.ns = NS, .query = SPAN("tea"), .now_us = 100});
	assert_int_equal(nhits, 0);
	STORE(3, put_text(one, 2, 3, NS_A, "Bob has tea again"));
	FOUND("tea", 2, 9);
	STORE(4, batch_delete(one, 2, 4, NS_A, DELETE_ERASE));
	FOUND("tea", 9);
	NOTHING("bob again");
}

static bool hide_odd(void *arg, const struct uuid *id)
{
	++*(unsigned *)arg;
	return number_of(id) % 2;
}

static void test_conditions(void **state)
{
	(void)state;
	char *error;
	unsigned asked = 0;
	struct batch a;
	batch_begin(&a);
	for (uint32_t n = 0; n < 40; n++) {
		char content[80] = "tea";
		for (uint32_t i = 0; i < n % 10; i++)
			strcat(content, " filler");
		put_text(&a, n, 1, NS_A, content);
	}
	batch_store(&a, 1);
	batch_free(&a);
	json_t *j = json_pack("{s{si}}", "metadata.n", "lt", 5);
	struct filter *f = filter_parse(j, &error);
	text((struct store_text){.ns = NS, .query = SPAN("tea"), .filter = f, .limit = 3});
	assert_int_equal(nhits, 3); /* the filter holds before the limit */
	for (size_t i = 0; i < nhits; i++)
		assert_true(number_of(&hit[i].id) < 5);
	text((struct store_text){.ns = NS, .query = SPAN("tea"), .limit = 6});
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(number_of(&hit[i].id) % 10, 0); /* the shortest first, equal ones by id */
	text((struct store_text){
		.ns = NS, .query = SPAN("tea"), .limit = 20, .hidden = hide_odd, .hidden_arg = &asked});
	assert_int_equal(nhits, 20); /* hidden ones take nobody's place */
	for (size_t i = 0; i < nhits; i++)
		assert_int_equal(number_of(&hit[i].id) % 2, 0);
	assert_true(asked >= 20);
	filter_free(&f);
	json_decref(j);
}

/* A memory that is still on its way stands where it will stand when it has arrived. */
static void test_extra(void **state)
{
	(void)state;
	static const char *const vocabulary[] = {"tea",		"green", "coffee", "drinking", "morning", "Ada",
						 "caf\xc3\xa9", "walk",	 "the",	   "winter",   "mate"};
	static const char *const queries[] = {
		"tea", "green tea in the morning", "cafe", "drinks", "walk winter mate Ada", "the", "nothing here"};
	char content[60][200];
	struct batch a;
	for (uint32_t n = 0; n < 60; n++) {
		content[n][0] = 0;
		for (uint32_t i = 1 + below(12); i; i--) {
			strcat(content[n], vocabulary[below(ARRAY_LEN(vocabulary))]);
			strcat(content[n], i > 1 ? " " : "");
		}
	}
	batch_begin(&a);
	for (uint32_t n = 0; n < 50; n++)
		put_text(&a, n, 1, NS_A, content[n]);
	batch_store(&a, 1);
	batch_free(&a);
	for (size_t k = 0; k < ARRAY_LEN(queries); k++) {
		struct store_text_extra extra[10];
		struct store_text_hit before[HITS];
		for (uint32_t i = 0; i < 10; i++)
			extra[i] = (struct store_text_extra){id_of(50 + i), 1, SPAN(content[50 + i])};
		text((struct store_text){.ns = NS, .query = SPAN(queries[k]), .extra = extra, .nextra = 10});
		memcpy(before, hit, sizeof(before));
		size_t n = nhits;
		batch_begin(&a);
		for (uint32_t i = 0; i < 10; i++)
			put_text(&a, 50 + i, 1 + 2 * k, NS_A, content[50 + i]);
		batch_store(&a, 2);
		batch_free(&a);
		find(queries[k]);
		assert_int_equal(n, nhits);
		for (size_t i = 0; i < 10; i++) { /* the extras' own scores; rows' frequencies do not count them */
			size_t x = 0, y = 0;
			while (x < n && number_of(&before[x].id) != 50 + i)
				x++;
			while (y < n && number_of(&hit[y].id) != 50 + i)
				y++;
			assert_int_equal(x == n, y == n);
			if (x < n && fabs(before[x].score - hit[y].score) > 1e-9 * hit[y].score)
				fail_msg("%s: \"%s\" scores %.12g on its way, %.12g in the store", queries[k],
					 content[50 + i], before[x].score, hit[y].score);
		}
		batch_begin(&a);
		for (uint32_t i = 0; i < 10; i++)
			batch_delete(&a, 50 + i, 2 + 2 * k, NS_A, DELETE_EXPIRED);
		batch_store(&a, 3);
		batch_free(&a);
	}
}

static void test_extra_alone(void **state)
{
	(void)state;
	struct store_text_extra extra[] = {{id_of(1), 4, SPAN("green tea")},
					   {id_of(2), 1, SPAN("coffee")},
					   {id_of(3), 1, SPAN("")},
					   {id_of(4), 1, SPAN("tea")}};
	struct store *writer = store, *reader = open_as(false);
	store = reader; /* an empty store, and a connection that must not write */
	text((struct store_text){.ns = NS, .query = SPAN("teas"), .extra = extra, .nextra = ARRAY_LEN(extra)});
	assert_true(nhits == 2 && number_of(&hit[0].id) == 4 && number_of(&hit[1].id) == 1 && hit[1].version == 4);
	text((struct store_text){
		.ns = NS, .query = SPAN("teas"), .extra = extra, .nextra = ARRAY_LEN(extra), .limit = 1});
	assert_true(nhits == 1 && number_of(&hit[0].id) == 4);
	text((struct store_text){
		.ns = NS, .query = SPAN("teas"), .extra = extra, .nextra = 1}); /* nothing is left of the last time */
	assert_true(nhits == 1 && number_of(&hit[0].id) == 1);
	store = writer;
	ops->close(reader);
}

#if POSTGRES
/* More rows than are looked at one by one: 0 … 59999, of which every second has "tea", the others "milk", every third
 * "sugar", every 2000th "saffron". */
static void test_large(void **state)
{
	(void)state;
	STORE(1, put_text(one, 60000, 1, NS_A, "warm milk"));
	query(store,
	      "INSERT INTO memories(id,namespace,version,node,content,metadata,importance,flags,created_at,updated_at,"
	      "content_key,bytes,dim,body,words) SELECT ('01930000-0000-7000-8000-0000'||lpad(to_hex(n),8,'0'))::uuid,'alpha',"
	      "1,7,'x','{}',0.5,0,now(),now(),n,1,0,'{}',to_tsvector('simple','warm'||CASE n%2 WHEN 0 THEN ' tea' ELSE ' milk' END"
	      "||CASE n%3 WHEN 0 THEN ' sugar' ELSE '' END||CASE n%2000 WHEN 0 THEN ' saffron' ELSE '' END)"
	      " FROM generate_series(0,59999) n; UPDATE memory_namespaces SET count=60001 WHERE name='alpha'; ANALYZE memories",
	      NULL);
	for (int round = 0; round < 2; round++) { /* counted; then from the sample */
		find("saffron tea");
		assert_int_equal(nhits, HITS);
		for (size_t i = 0; i < 30; i++) /* all of them, and saffron weighs more than tea */
			assert_int_equal(number_of(&hit[i].id) % 2000, 0);
		assert_true(hit[29].score > 5 * hit[30].score);
		find("tea sugar");
		for (size_t i = 0; i < HITS; i++)
			assert_int_equal(number_of(&hit[i].id) % 6, 0);
		find("warm tea sugar milk");
		for (size_t i = 0; i < HITS; i++)
			assert_int_equal(number_of(&hit[i].id) % 3, 0);
		find("milk tea"); /* nothing has both */
		assert_int_equal(nhits, HITS);
		find("saffron");
		assert_int_equal(nhits, 30);
		NOTHING("basil");
	}
	unsigned asked = 0;
	text((struct store_text){.ns = NS, .query = SPAN("saffron sugar"), .hidden = hide_odd, .hidden_arg = &asked});
	assert_int_equal(nhits, HITS);
}
#endif

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_words),
		T(test_stop_words),
		T(test_operators),
		T(test_scope),
		T(test_long),
		T(test_changes),
		T(test_conditions),
		T(test_extra),
		T(test_extra_alone),
#if POSTGRES
		T(test_large),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
