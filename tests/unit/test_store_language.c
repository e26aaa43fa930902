/* Full text of namespaces that are not English: the store finds what the word index finds. Broken code that this would catch: a
 * question that is analysed otherwise than what it asks for, words that stay when their memory is changed or removed, a
 * language that is lost or changed under what is stored in it. */
#include <unistd.h>

#include "shm.h"
#include "store_model.h"
#include "words/postings.h"

#define NS record_ns(SPAN(NS_A))

static const struct spoken {
	enum language l;
	const char *content[5], *question[6];
} spoken[] = {
	{LANGUAGE_GERMAN,
	 {"Die Häuser in den größten Städten", "Ein Haus am Fluss, das der Oma gehört", "Übung macht den Meister",
	  "STRASSE oder Straße?", "nichts davon und doch alles, was Hunde mögen"},
	 {"Haus", "HÄUSERN", "große Stadt", "übungen", "Straßen", "wer ist das Hund"}},
	{LANGUAGE_FRENCH,
	 {"Les chevaux de l'école ont mangé", "Un cheval mange ; l’homme regarde", "Les élèves françaises",
	  "aujourd'hui, rien", "qu'il y ait des hommes"},
	 {"cheval", "écoles", "l'élève français", "hommes", "aujourd’hui", "qu'est-ce que c'est"}},
	{LANGUAGE_RUSSIAN,
	 {"Новые книги о войне", "С книгами и ёлками", "Елка и йод", "русский язык, русского языка",
	  "он был там, где она"},
	 {"книга", "ЁЛКА", "война", "русские языки", "йодом", "где он"}},
	{LANGUAGE_FINNISH,
	 {"Taloissa asuu äiti", "Talot ja äidin auto", "Suomen kielen öljyt", "autoilla ajetaan", "se on ja ei ole"},
	 {"talo", "äidille", "öljy", "auto", "suomi kieli", "onko se"}},
	{LANGUAGE_NONE,
	 {"The houses of snake_case", "a house", "print('x') 42", "Größe der Datei", "東京 tower"},
	 {"houses", "house", "the of", "print x", "grosse", "東"}},
};

static struct store_text_hit hit[16];
static size_t nhits;

/* Numbers of what is found, as bits. */
static uint32_t store_finds(enum language l, const char *query, const struct store_text_extra *extra, size_t nextra)
{
	uint32_t set = 0;
	struct store_text q = {.ns = NS,
			       .query = SPAN(query),
			       .language = l,
			       .limit = ARRAY_LEN(hit),
			       .extra = extra,
			       .nextra = nextra};
	if (ops->text(store, &q, hit, &nhits) != STORE_OK)
		fail_msg("\"%s\": %s", query, ops->error(store));
	for (size_t i = 0; i < nhits; i++)
		set |= 1u << number_of(&hit[i].id);
	return set;
}

static uint32_t index_finds(struct postings *p, struct words *w, enum language l, const char *query)
{
	struct postings_question q;
	struct postings_hit v[8];
	size_t n;
	uint32_t set = 0;
	words_language(w, l);
	postings_question_read(w, SPAN(query), &q);
	assert_true(postings_search(p, &(struct postings_query){.ns = NS, .question = &q, .k = 8}, v, &n, NULL));
	for (size_t i = 0; i < n; i++)
		set |= 1u << number_of(&v[i].id);
	postings_question_free(&q);
	return set;
}

static void same_as_index(const struct spoken *x, struct postings *p, const struct store_text_extra *extra,
			  size_t nextra)
{
	uint32_t any = 0;
	struct words *w = words_new();
	for (size_t i = 0; i < ARRAY_LEN(x->question); i++) {
		uint32_t want = index_finds(p, w, x->l, x->question[i]),
			 got = store_finds(x->l, x->question[i], extra, nextra);
		if (got != want)
			fail_msg("%s \"%s\": %x instead of %x", language_name(x->l), x->question[i], got, want);
		any |= got;
	}
	assert_true(any & (any - 1)); /* not one and the same, every time */
	words_free(&w);
}

static struct postings *index_of(const struct spoken *x)
{
	int fd = shm_create("language", postings_segment_size(1 << 20));
	struct postings *p = postings_open(fd, true);
	assert_non_null(p);
	close(fd);
	postings_language(p, x->l);
	for (uint32_t i = 0; i < ARRAY_LEN(x->content); i++) {
		struct uuid id = id_of(i + 1);
		assert_int_equal(postings_put(p, NS, &id, 1, 0, SPAN(x->content[i])), 0);
	}
	return p;
}

static void put_text(struct batch *a, uint32_t n, uint64_t version, const char *content)
{
	struct made *d = make(n, version, NS_A);
	set_content(d, content);
	batch_put(a, d);
	made_free(d);
}

static void put_all(struct batch *a, const struct spoken *x)
{
	for (uint32_t i = 0; i < ARRAY_LEN(x->content); i++)
		put_text(a, i + 1, 1, x->content[i]);
}

/* Changed, there is nothing left of what it was; dropped, nothing at all. */
static void change_and_drop(const struct spoken *x, uint64_t seq)
{
	STORE(seq, put_text(one, 1, 2, "zebra"));
	assert_int_equal(store_finds(x->l, "zebra", NULL, 0), 1u << 1);
	for (size_t k = 0; k < ARRAY_LEN(x->question); k++)
		assert_int_equal(store_finds(x->l, x->question[k], NULL, 0) & 1u << 1, 0);
	STORE(seq + 1, batch_drop(one, NS_A));
#if !POSTGRES
	query(store, "INSERT INTO stems(stems) VALUES('integrity-check')", NULL);
	assert_int_equal(ask(store, "SELECT count(*) FROM stems_df"), 0);
	assert_int_equal(ask(store, "SELECT count(*) FROM words_df"), 0);
#endif
}

static void test_languages(void **state)
{
	(void)state;
	uint64_t seq = 1;
	for (size_t i = 0; i < ARRAY_LEN(spoken); i++, seq += 4) {
		const struct spoken *x = &spoken[i];
		struct store_text_extra extra[ARRAY_LEN(x->content)];
		struct postings *p = index_of(x);
		for (uint32_t k = 0; k < ARRAY_LEN(extra); k++)
			extra[k] = (struct store_text_extra){id_of(k + 1), 1, SPAN(x->content[k])};
		same_as_index(x, p, extra,
			      ARRAY_LEN(extra)); /* all of it on its way to the store, the namespace, too */
		STORE(seq, batch_language(one, NS_A, x->l, 0));
		same_as_index(x, p, extra, ARRAY_LEN(extra));
		STORE(seq + 1, put_all(one, x));
		same_as_index(x, p, NULL, 0);
		change_and_drop(x, seq + 2);
		postings_close(&p);
	}
}

static void note_language(void *arg, const struct store_ns *n)
{
	if (strcmp(n->name, NS_A) == 0)
		*(enum language *)arg = n->language;
}

static enum language language_in_store(void)
{
	enum language l = LANGUAGES;
	assert_int_equal(ops->namespaces(store, note_language, &l), STORE_OK);
	return l;
}

/* The language comes with the batch that makes the namespace; what is to be made only where there is none changes nothing. */
static void made_and_written_at_once(struct batch *a)
{
	batch_language(a, NS_A, LANGUAGE_GERMAN, 0);
	put_text(a, 1, 1, "Die Häuser");
	batch_language(a, NS_A, LANGUAGE_FRENCH, NAMESPACE_ENSURE);
	put_text(a, 2, 1, "Das Haus");
	batch_namespace(a, NS_A, 1000000, 5000); /* a quota */
	put_text(a, 3, 1, "Hausboot");
}

static void emptied_and_changed(struct batch *a)
{
	for (uint32_t i = 1; i <= 3; i++)
		batch_delete(a, i, 2, NS_A, DELETE_ERASE);
	batch_language(a, NS_A, LANGUAGE_FRENCH, 0);
	put_text(a, 4, 1, "Les chevaux");
}

/* With what it has, it cannot be another: the store does not accept it, and knows which operation it was. */
static void refuses_french(uint64_t seq)
{
	struct batch a;
	batch_begin(&a);
	batch_language(&a, NS_A, LANGUAGE_FRENCH, 0);
	txn_end(&a.t);
	assert_int_equal(ops->begin(store), STORE_OK);
	enum store_rc rc = batch_apply(&a, seq);
	if (rc == STORE_OK)
		rc = ops->commit(store, seq);
	assert_int_equal(rc, STORE_REJECTED);
	if (!strstr(ops->error(store), "german"))
		fail_msg("%s", ops->error(store));
	ops->rollback(store);
	batch_free(&a);
}

static void test_language_stays(void **state)
{
	(void)state;
	STORE(1, made_and_written_at_once(one));
	assert_int_equal(language_in_store(), LANGUAGE_GERMAN);
	assert_int_equal(store_finds(LANGUAGE_GERMAN, "Häusern", NULL, 0), 1u << 1 | 1u << 2);
	STORE(2, batch_language(one, NS_A, LANGUAGE_GERMAN, 0)); /* no change */
	refuses_french(3);
	assert_int_equal(language_in_store(), LANGUAGE_GERMAN);
	STORE(3, emptied_and_changed(one));
	assert_int_equal(language_in_store(), LANGUAGE_FRENCH);
	assert_int_equal(store_finds(LANGUAGE_FRENCH, "cheval", NULL, 0), 1u << 4);
	reopen();
	assert_int_equal(language_in_store(), LANGUAGE_FRENCH);
	STORE(4, put_text(one, 4, 2, "Une école"));
	assert_int_equal(store_finds(LANGUAGE_FRENCH, "cheval", NULL, 0), 0);
	assert_int_equal(store_finds(LANGUAGE_FRENCH, "écoles", NULL, 0), 1u << 4);
	/* Dropped, and made by its memories only: as ever. */
	STORE(5, batch_drop(one, NS_A));
	STORE(6, put_text(one, 5, 1, "The houses"));
	assert_int_equal(language_in_store(), LANGUAGE_ENGLISH);
	assert_int_equal(store_finds(LANGUAGE_ENGLISH, "house", NULL, 0), 1u << 5);
}

/* By its first memories, in a language: the row that they need is not made in another one before. */
static void made_by_memories(struct batch *a)
{
	batch_language(a, NS_A, LANGUAGE_FRENCH, NAMESPACE_ENSURE);
	put_text(a, 1, 1, "Les chevaux");
	put_text(a, 2, 1, "Un cheval");
}

static void test_made_by_memories(void **state)
{
	(void)state;
	STORE(1, made_by_memories(one));
	assert_int_equal(language_in_store(), LANGUAGE_FRENCH);
	assert_int_equal(store_finds(LANGUAGE_FRENCH, "cheval", NULL, 0), 1u << 1 | 1u << 2);
}

#if !POSTGRES
/* A database of version 2 has English words only, and they stay. */
static void test_older_database(void **state)
{
	(void)state;
	STORE(1, put_text(one, 1, 1, "The houses"));
	query(store, "DROP TABLE stems_df; DROP TABLE stems; UPDATE meta SET value=2 WHERE key='schema'", NULL);
	reopen();
	assert_int_equal(ask(store, "SELECT value FROM meta WHERE key='schema'"), 4);
	assert_int_equal(store_finds(LANGUAGE_ENGLISH, "house", NULL, 0), 1u << 1);
	STORE(2, batch_drop(one, NS_A));
	STORE(3, batch_language(one, NS_A, LANGUAGE_GERMAN, 0));
	STORE(4, put_text(one, 2, 1, "Die Häuser"));
	assert_int_equal(store_finds(LANGUAGE_GERMAN, "Haus", NULL, 0), 1u << 2);
	reopen();
	assert_int_equal(store_finds(LANGUAGE_GERMAN, "Haus", NULL, 0), 1u << 2);
}

/* Settings that make no sense take nobody along. */
static void test_damaged_settings(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "{", "[]", "7", "{\"language\":7}", "{\"language\":\"klingon\"}"};
	STORE(1, batch_language(one, NS_A, LANGUAGE_GERMAN, 0));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		char sql[128];
		snprintf(sql, sizeof(sql), "UPDATE namespaces SET settings='%s'", wrong[i]);
		query(store, sql, NULL);
		reopen();
		assert_true(language_in_store() < LANGUAGES);
		STORE(2 + 2 * i, put_text(one, 9, 1, "Häuser"));
		STORE(3 + 2 * i, batch_delete(one, 9, 2, NS_A, DELETE_ERASE));
		query(store, "INSERT INTO stems(stems) VALUES('integrity-check')", NULL);
	}
}
#endif

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_languages),
		T(test_language_stays),
		T(test_made_by_memories),
#if !POSTGRES
		T(test_older_database),
		T(test_damaged_settings),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
