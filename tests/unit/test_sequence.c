/* Validation and numbering, without journal, rings and threads: struct sync is cut down to what sequence.c uses. Broken code
 * this would catch: an update that overwrites what its sender never saw, a gap in the sequences, a refused transaction that leaves
 * something behind, a quota that a bulk walks around, two vector spaces in one namespace, a repeated transaction that is
 * written twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "clock.h"
#include "sync/admit.c"
#include "sync/pace.c"
#include "sync/recent.c"

#include "sync/sync.h"

/* ---- the rest of sync ---- */

static bool table_full;
static uint64_t journal_holds;
static struct {
	uint32_t slot, flags;
	uint64_t id, seq;
} answer[8];
static size_t answers, refusing, orders;
static uint64_t table_room = UINT64_MAX,
		rate; /* entries beyond which the table is full; bytes that the store takes a second */
static struct op_order ordered;
static enum txn_status said;

bool pending_full(const struct pending *p, uint32_t more)
{
	(void)p;
	return table_full || more > table_room;
}
uint64_t flusher_rate(struct flusher *f) { return (void)f, rate; }
void flusher_order(struct flusher *f, uint32_t slot, uint64_t id, const struct op_order *what)
{
	assert_true(f && slot == SLOT_API0 && id);
	orders++;
	ordered = *what;
}
void apply_answer(struct sync *s, uint32_t slot, uint64_t id, enum txn_status status, uint64_t seq, uint32_t arg)
{
	(void)s, (void)slot, (void)id, (void)seq, (void)arg;
	said = status;
}
uint64_t journal_bytes(const struct journal *j) { return (void)j, journal_holds; }
void apply_refusing(struct sync *s, enum txn_status why) { (void)s, (void)why, refusing++; }
void apply_repeat(struct sync *s, uint32_t slot, const struct txn_head *h, uint64_t seq)
{
	(void)s;
	answer[answers % 8].slot = slot;
	answer[answers % 8].id = h->id;
	answer[answers % 8].seq = seq;
	answer[answers++ % 8].flags = h->flags;
}

#include "sync/sequence.c"

/* ---- transactions ---- */

static struct sync s;
static struct buf bytes;
static struct txn_builder building;
static uint64_t ids;

static struct txn_builder *begin_with(uint64_t id, uint64_t read_seq, uint32_t flags)
{
	bytes.len = 0;
	txn_begin(&building, &bytes, id, SLOT_API0, read_seq, flags);
	return &building;
}
static struct txn_builder *begin(uint64_t read_seq) { return begin_with(++ids + 1000000, read_seq, 0); }

static struct memory memory(const char *ns, unsigned id, const char *content)
{
	struct memory m = {.ns = record_ns(SPAN(ns)),
			   .version = 1,
			   .updated_us = 5,
			   .ns_name = SPAN(ns),
			   .content = SPAN(content),
			   .content_hash = record_content_key(record_ns(SPAN(ns)), SPAN(content)),
			   .body = SPAN_LIT("{}"),
			   .replaces_bytes = -1};
	m.id.b[15] = (uint8_t)id;
	m.id.b[14] = (uint8_t)(id >> 8);
	return m;
}

static const float vector[8] = {1, 2, 3, 4};
static struct memory with_vector(struct memory m, const char *space, uint32_t dim)
{
	m.embedder = SPAN(space);
	m.embedding = vector;
	m.dim = dim;
	return m;
}

static void put(struct memory m) { txn_op_put(&building, &m); }

static void name_space(const char *ns, uint64_t quota_count, uint64_t quota_bytes, uint32_t relaxed)
{
	struct op_namespace o = {.ns = record_ns(SPAN(ns)),
				 .at_us = 9,
				 .quota_count = quota_count,
				 .quota_bytes = quota_bytes,
				 .relaxed = relaxed,
				 .name_len = (uint32_t)strlen(ns)};
	txn_op_raw(&building, OP_NAMESPACE, &o, sizeof(o), ns, strlen(ns));
}

static void delete (const struct memory *m, int64_t gives_back)
{
	struct op_delete d = {
		.id = m->id, .ns = m->ns, .version = 2, .content_key = m->content_hash, .bytes = gives_back};
	txn_op_raw(&building, OP_DELETE, &d, sizeof(d), NULL, 0);
}

/* Ends and submits what was built; how it was judged. */
static const struct item *submit(void)
{
	txn_end(&building);
	if (s.open->n == ARRAY_LEN(s.open->items))
		s.open->n = 0;
	size_t before = s.open->n;
	sequence_txn(&s, SLOT_API0, bytes.p, bytes.len, NULL);
	return s.open->n > before ? &s.open->items[s.open->n - 1] : NULL;
}

static void taken(uint64_t seq)
{
	const struct item *it = submit();
	assert_non_null(it);
	assert_int_equal(it->status, TXN_OK);
	assert_int_equal(it->seq, seq);
	assert_int_equal(s.next_seq, seq + 1);
}

/* Refused, for this reason and at this operation; and nothing has changed. */
static void refused(enum txn_status why, uint32_t arg)
{
	static struct ns_state before[PLANT_NAMESPACES];
	uint64_t seq = s.next_seq, ops = s.queued_ops, queued = s.queued_bytes;
	size_t writes = s.open->writes;
	memcpy(before, s.ns, sizeof(before));
	const struct item *it = submit();
	assert_non_null(it);
	assert_int_equal(it->status, why);
	assert_int_equal(it->arg, arg);
	assert_int_equal(it->seq, 0);
	assert_true(s.next_seq == seq && s.queued_ops == ops && s.queued_bytes == queued && s.open->writes == writes);
	assert_int_equal(recent_seq(s.recent, it->id), 0);
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) /* a row may have been made; it holds nothing */
		if (before[i].ns)
			assert_memory_equal(&before[i], &s.ns[i], sizeof(before[i]));
		else
			assert_true(!s.ns[i].exists && !s.ns[i].count && !s.ns[i].bytes && !s.ns[i].dim);
}

static const struct ns_state *space(const char *ns) { return sequence_ns(&s, record_ns(SPAN(ns))); }

static int begin_test(void **state)
{
	(void)state;
	s = (struct sync){.plant = util_zalloc(sizeof(struct plant)),
			  .recent = recent_new(1024, 0),
			  .open = util_zalloc(sizeof(struct batch)),
			  .next_seq = 1,
			  .ns = util_zalloc(PLANT_NAMESPACES * sizeof(struct ns_state))};
	s.open->all_relaxed = true;
	atomic_store(&s.plant->journal_quota, 1u << 30);
	table_full = false;
	table_room = UINT64_MAX;
	said = TXN_OK;
	journal_holds = answers = refusing = orders = rate = 0;
	return 0;
}

static int end_test(void **state)
{
	(void)state;
	free(s.plant);
	free(s.open->undo);
	free(s.open);
	free(s.ns);
	recent_free(&s.recent);
	return 0;
}

/* ---- optimistic concurrency ---- */

static void conflicts(void **state)
{
	(void)state;
	struct memory m = memory("n", 1, "one");
	begin(0);
	put(m);
	taken(1);
	struct txn_builder *t = begin(0); /* it read the memory before write 1 */
	txn_read_key(t, record_id_key(&m.id));
	put(m);
	refused(TXN_CONFLICT, 0);
	t = begin(1);
	txn_read_key(t, record_id_key(&m.id));
	put(m);
	taken(2);
	t = begin(1); /* the second key is the one that changed */
	txn_read_key(t, 4711);
	txn_read_key(t, m.content_hash);
	put(memory("n", 2, "two"));
	refused(TXN_CONFLICT, 0);
	t = begin(0); /* what nobody wrote is unchanged */
	txn_read_key(t, 4711);
	put(memory("n", 3, "three"));
	taken(3);
}

/* Every key that a transaction writes is found changed by who read it before. */
static void remembers_all_keys(void **state)
{
	(void)state;
	struct memory m = memory("n", 1, "one"), gone = memory("n", 2, "two");
	struct op_idem idem = {.key = 77};
	struct op_ns_drop drop = {.ns = record_ns(SPAN_LIT("old"))};
	struct op_delete d = {.id = gone.id, .ns = gone.ns, .content_key = 55, .external_key = 66, .bytes = -1};
	m.external_id = SPAN_LIT("ext");
	begin(0);
	put(m);
	txn_op_raw(&building, OP_DELETE, &d, sizeof(d), NULL, 0);
	txn_op_raw(&building, OP_IDEM, &idem, sizeof(idem), NULL, 0);
	name_space("new", 0, 0, 0);
	txn_op_raw(&building, OP_NS_DROP, &drop, sizeof(drop), NULL, 0);
	taken(1);
	const uint64_t keys[] = {record_id_key(&m.id),
				 m.content_hash,
				 record_external_key(m.ns, m.external_id),
				 record_id_key(&gone.id),
				 55,
				 66,
				 77,
				 record_ns_key(record_ns(SPAN_LIT("new"))),
				 record_ns_key(drop.ns)};
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		assert_int_equal(recent_seq(s.recent, keys[i]), 1);
		txn_read_key(begin(0), keys[i]);
		put(memory("n", 9, "nine"));
		refused(TXN_CONFLICT, 0);
	}
}

static void repeats(void **state)
{
	(void)state;
	begin_with(42, 0, TXN_WAIT_STORE);
	put(memory("n", 1, "one"));
	taken(1);
	size_t n = s.open->n;
	begin_with(42, 0, TXN_WAIT_STORE);
	put(memory("n", 1, "one"));
	assert_null(submit()); /* on its way: the first copy's answer will do */
	assert_int_equal(answers, 0);
	atomic_store(&s.plant->applied_seq, 1);
	begin_with(42, 0, TXN_WAIT_STORE);
	put(memory("n", 1, "one"));
	assert_null(submit());
	assert_int_equal(answers, 1);
	assert_true(answer[0].flags == TXN_WAIT_STORE && answer[0].seq == 1 && answer[0].id == 42 &&
		    answer[0].slot == SLOT_API0);
	begin_with(42, 0, 0);
	put(memory("n", 1, "one"));
	assert_null(submit());
	assert_int_equal(answers, 2);
	assert_true(s.open->n == n && s.next_seq == 2 && space("n")->count == 1);
}

/* A sync that was killed left a transaction unanswered, its successor brought it to the store and was killed too: the third
 * one, which replays nothing, knows it nevertheless. What has a newer transaction in its place is forgotten, and so is
 * what was never finished. */
static void repeats_of_what_the_store_has(void **state)
{
	(void)state;
	uint64_t last = 3 * PLANT_KNOWN;
	for (uint64_t seq = 1; seq <= last; seq++)
		plant_know(s.plant, seq, 1000000 + seq);
	plant_know(s.plant, last + 1, 77); /* in the journal only: the replay will say so */
	atomic_store(&s.plant->known[(last - 5) % PLANT_KNOWN].seq, 0);
	recent_free(&s.recent);
	s.recent = NULL;
	sequence_forget(&s, last);
	s.next_seq = last + 1;
	atomic_store(&s.plant->applied_seq, last);
	uint64_t known[] = {last, last - 1, last - PLANT_KNOWN + 2};
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		begin_with(1000000 + known[i], 0, 0);
		put(memory("n", 1, "one"));
		assert_null(submit());
		assert_int_equal(answers, i + 1);
		assert_true(answer[i].seq == known[i] && answer[i].id == 1000000 + known[i]);
	}
	uint64_t unknown[] = {1000000 + last - 5, 1000000 + last - PLANT_KNOWN, 77};
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
		begin_with(unknown[i], last, 0);
		put(memory("n", 2 + (unsigned)i, "two"));
		taken(last + 1 + i);
	}
	assert_false(recent_unchanged(s.recent, 12345, last - 1)); /* the keys themselves are forgotten */
}

/* ---- namespaces and quotas ---- */

static void counts(void **state)
{
	(void)state;
	struct memory m = memory("n", 1, "four"), again = m;
	size_t size = memory_quota_bytes(&m);
	begin(0);
	put(m);
	taken(1);
	assert_true(space("n")->exists && space("n")->count == 1 && space("n")->bytes == size &&
		    space("n")->created_us == 5);
	again.version = 2;
	again.content = SPAN_LIT("longer");
	again.replaces_bytes = (int64_t)size;
	begin(1);
	put(again);
	taken(2);
	assert_true(space("n")->count == 1 && space("n")->bytes == memory_quota_bytes(&again));
	begin(2);
	delete (&again, (int64_t)memory_quota_bytes(&again));
	taken(3);
	assert_true(space("n")->count == 0 && space("n")->bytes == 0 && space("n")->exists);
	begin(3);
	put(memory("n", 2, "four"));
	delete (&again, -1); /* it was deleted already: from the trash nothing is given back */
	taken(4);
	assert_true(space("n")->count == 1 && space("n")->bytes == size);
	begin(4);
	delete (&m, 1000000);
	delete (&m, 1);
	taken(5);
	/* Never below nothing, as far as anybody sees; it may be another daemon's deletion that is counted, too. */
	assert_true(sequence_counter(space("n")->count) == 0 && sequence_counter(space("n")->bytes) == 0);
}

static void quota_of_a_bulk(void **state)
{
	(void)state;
	size_t size = memory_quota_bytes(&(struct memory){.content = SPAN_LIT("same"), .body = SPAN_LIT("{}")});
	begin(0);
	name_space("n", 3, 0, 0);
	taken(1);
	begin(1);
	for (unsigned i = 0; i < 4; i++)
		put(memory("n", i, "same"));
	refused(TXN_QUOTA_COUNT, 3); /* the fourth is one too many: none is stored */
	assert_int_equal(space("n")->count, 0);
	begin(1);
	for (unsigned i = 0; i < 3; i++)
		put(memory("n", i, "same"));
	taken(2);
	begin(2);
	put(memory("n", 7, "same"));
	refused(TXN_QUOTA_COUNT, 0);
	struct memory same = memory("n", 2, "same");
	same.replaces_bytes = (int64_t)size; /* no new one */
	begin(2);
	put(same);
	taken(3);
	begin(3); /* room is made and used in one */
	delete (&same, (int64_t)size);
	put(memory("n", 8, "same"));
	taken(4);
	begin(4);
	name_space("n", 0, 3 * size, 0);
	taken(5);
	begin(5);
	put(memory("n", 9, "same"));
	refused(TXN_QUOTA_BYTES, 0);
	same = memory("n", 8, "s");
	same.replaces_bytes = (int64_t)size; /* to shrink is always allowed */
	begin(5);
	put(same);
	taken(6);
}

static void one_vector_space(void **state)
{
	(void)state;
	begin(0);
	put(memory("n", 1, "without"));
	put(with_vector(memory("n", 2, "b"), "a:3", 3));
	put(with_vector(memory("n", 3, "c"), "a:3", 4));
	refused(TXN_EMBEDDER_MISMATCH, 2); /* within one bulk */
	assert_int_equal(space("n")->dim, 0);
	begin(0);
	put(with_vector(memory("n", 2, "b"), "a:3", 3));
	taken(1);
	assert_true(space("n")->dim == 3 && strcmp(space("n")->embedder, "a:3") == 0);
	begin(1);
	put(with_vector(memory("n", 3, "c"), "b:3", 3));
	refused(TXN_EMBEDDER_MISMATCH, 0);
	begin(1);
	put(memory("n", 4, "without one, always"));
	put(with_vector(memory("other", 5, "e"), "b:3", 3));
	taken(2);
}

static void dropped_and_made_again(void **state)
{
	(void)state;
	struct op_ns_drop drop = {.ns = record_ns(SPAN_LIT("n"))};
	begin(0);
	put(with_vector(memory("n", 1, "one"), "a:3", 3));
	taken(1);
	begin(1);
	txn_op_raw(&building, OP_NS_DROP, &drop, sizeof(drop), NULL, 0);
	taken(2);
	assert_true(!space("n")->exists && !space("n")->count && !space("n")->bytes && !space("n")->dim);
	begin(2);
	put(memory("n", 2, "two")); /* rows of the old life would show in the new one */
	refused(TXN_NAMESPACE_DROPPING, 0);
	begin(2);
	name_space("n", 0, 0, 0);
	refused(TXN_NAMESPACE_DROPPING, 0);
	atomic_store(&s.plant->flushed_seq, 2);
	begin(2);
	put(with_vector(memory("n", 2, "two"), "b:4", 4)); /* another space is fine now */
	taken(3);
	assert_true(space("n")->exists && space("n")->count == 1 && space("n")->dim == 4);
}

/* A namespace that was made, changed or dropped on the way to a refusal. */
static void a_refusal_undoes_namespaces(void **state)
{
	(void)state;
	struct op_ns_drop drop = {.ns = record_ns(SPAN_LIT("old"))};
	begin(0);
	put(memory("old", 1, "one"));
	taken(1);
	begin(1);
	name_space("new", 7, 1, 1);
	name_space("old", 5, 0, 1);
	txn_op_raw(&building, OP_NS_DROP, &drop, sizeof(drop), NULL, 0);
	put(memory("new", 1, "more than one byte"));
	refused(TXN_QUOTA_BYTES, 3);
	assert_true(space("old")->exists && !space("old")->relaxed && space("old")->count == 1);
	assert_false(space("new")->relaxed || space("new")->quota_count);
	s.open->all_relaxed = true; /* to make one is never relaxed, whatever it is to be */
	begin(1);
	name_space("new", 0, 0, 1);
	taken(2);
	assert_true(space("new")->relaxed);
	assert_false(s.open->all_relaxed);
}

static void speak(const char *ns, enum language l, uint32_t flags)
{
	struct buf tail = {NULL, 0, 0};
	struct op_namespace o = {.ns = record_ns(SPAN(ns)),
				 .at_us = 9,
				 .name_len = (uint32_t)strlen(ns),
				 .flags = NAMESPACE_LANGUAGE | flags};
	buf_adds(&tail, ns);
	language_write_settings(l, &tail);
	o.settings_len = (uint32_t)(tail.len - strlen(ns));
	txn_op_raw(&building, OP_NAMESPACE, &o, sizeof(o), tail.p, tail.len);
	buf_free(&tail);
}

/* Fixed from the first memory on; what is to be made only where there is none changes nothing. */
static void languages(void **state)
{
	(void)state;
	struct memory m = memory("n", 1, "eins");
	begin(0);
	speak("n", LANGUAGE_GERMAN, NAMESPACE_ENSURE);
	put(m);
	taken(1);
	begin(1);
	speak("n", LANGUAGE_FRENCH, NAMESPACE_ENSURE);
	put(memory("n", 2, "zwei"));
	taken(2);
	assert_int_equal(space("n")->language, LANGUAGE_GERMAN);
	begin(2);
	speak("n", LANGUAGE_FRENCH, 0);
	refused(TXN_LANGUAGE_FIXED, 0);
	begin(2);
	speak("n", LANGUAGE_GERMAN, 0);
	name_space("n", 7, 0, 0); /* says nothing about it */
	taken(3);
	assert_true(space("n")->language == LANGUAGE_GERMAN && space("n")->quota_count == 7);
	begin(3);
	delete (&m, 4);
	m = memory("n", 2, "zwei");
	delete (&m, 4);
	speak("n", LANGUAGE_FRENCH, 0);
	taken(4);
	assert_int_equal(space("n")->language, LANGUAGE_FRENCH);
}

/* What the store says counts, but not what it said before it had ours. */
static void languages_of_the_store(void **state)
{
	(void)state;
	struct op_ns_drop drop = {.ns = record_ns(SPAN_LIT("n"))};
	struct postings *p = postings_open(shm_create("words", postings_segment_size(1 << 20)), true);
	struct uuid id = {{1}};
	s.postings = p;
	begin(0);
	speak("n", LANGUAGE_GERMAN, 0);
	taken(1);
	struct ns_state *n = sequence_ns(&s, record_ns(SPAN_LIT("n")));
	sequence_language(&s, n, LANGUAGE_ENGLISH, 0);
	assert_int_equal(n->language, LANGUAGE_GERMAN);
	sequence_language(&s, n, LANGUAGE_FRENCH, 1);
	assert_int_equal(n->language, LANGUAGE_FRENCH);
	assert_true(postings_complete(p, n->ns));
	/* Words that were analysed otherwise are not searched here any more. */
	assert_int_equal(postings_put(p, n->ns, &id, 1, 0, SPAN("maisons")), 0);
	sequence_language(&s, n, LANGUAGE_FRENCH, 1);
	assert_true(postings_complete(p, n->ns) && postings_count(p, n->ns) == 1);
	sequence_language(&s, n, LANGUAGE_GERMAN, 1);
	assert_true(!postings_complete(p, n->ns) && postings_count(p, n->ns) == 0);
	begin(1);
	txn_op_raw(&building, OP_NS_DROP, &drop, sizeof(drop), NULL, 0);
	taken(2);
	assert_int_equal(n->language, LANGUAGE_ENGLISH);
	sequence_language(&s, n, LANGUAGE_GERMAN, 1);
	assert_int_equal(n->language, LANGUAGE_ENGLISH);
	postings_close(&p);
	s.postings = NULL;
}

static void table_of_namespaces_full(void **state)
{
	(void)state;
	s.nns = PLANT_NAMESPACES / 8 * 7;
	begin(0);
	put(memory("n", 1, "one"));
	refused(TXN_NAMESPACES_FULL, 0);
	begin(0);
	name_space("n", 0, 0, 0);
	refused(TXN_NAMESPACES_FULL, 0);
	s.nns--;
	begin(0);
	put(memory("n", 1, "one"));
	taken(1);
	begin(1);
	put(memory("n", 2, "two")); /* one that is there needs no room */
	taken(2);
}

/* ---- what no sender of ours sends ---- */

static void malformed(void **state)
{
	(void)state;
	struct memory m = memory("n", 1, "one"), liar = m;
	static const uint16_t types[] = {OP_PUT, OP_DELETE, OP_IDEM, OP_NAMESPACE, OP_NS_DROP, 0, 6, 999};
	begin(0);
	put(m);
	taken(1);
	for (size_t i = 0; i < ARRAY_LEN(types); i++) { /* too short for what they say they are */
		begin(1);
		put(memory("n", 2, "fine"));
		txn_op_raw(&building, (enum op_type)types[i], "1234", 4, NULL, 0);
		refused(TXN_MALFORMED, 1);
	}
	struct op_namespace o = {.ns = 5, .name_len = UINT32_MAX, .settings_len = 2};
	begin(1);
	txn_op_raw(&building, OP_NAMESPACE, &o, sizeof(o), "n", 1);
	refused(TXN_MALFORMED, 0);
	struct op_idem idem = {.reply_len = 2};
	begin(1);
	txn_op_raw(&building, OP_IDEM, &idem, sizeof(idem), "n", 1);
	refused(TXN_MALFORMED, 0);
	liar.ns_name = SPAN_LIT("other"); /* another name with this number */
	begin(1);
	put(liar);
	refused(TXN_MALFORMED, 0);
	begin(1);
	put(with_vector(memory("n", 2, "two"), "0123456789012345678901234567890123456789012345678901234567890123", 3));
	refused(TXN_MALFORMED, 0);
	begin(1);
	for (unsigned i = 0; i < 5; i++) {
		static const char *const many[] = {"a", "b", "c", "d", "e"};
		put(memory(many[i], i, "x"));
	}
	refused(TXN_MALFORMED, 4);
	/* no transaction at all: nobody can be answered */
	size_t n = s.open->n;
	sequence_txn(&s, SLOT_API0, "nonsense", 8, NULL);
	char *owned = util_strndup("nonsense", 8);
	sequence_txn(&s, SLOT_API0, owned, 8, owned); /* freed */
	assert_true(s.open->n == n && s.next_seq == 2 && answers == 0);
}

/* ---- room ---- */

static void no_room(void **state)
{
	(void)state;
	table_full = true;
	begin(0);
	put(memory("n", 1, "one"));
	refused(TXN_BUSY, BUSY_ARG(BUSY_PENDING, 60)); /* nothing goes away: as late as can be said */
	assert_int_equal(refusing, 1);
	table_full = false;
	atomic_store(&s.plant->journal_quota, 10000);
	journal_holds = 10000 - bytes.len;
	begin(0);
	put(memory("n", 1, "one"));
	taken(1); /* exactly fits … */
	begin(1);
	put(memory("n", 2, "two"));
	rate = s.queued_bytes / 4;
	s.flusher = (void *)&rate;
	refused(TXN_BUSY, BUSY_ARG(BUSY_QUOTA, 2)); /* … and what waits counts, though it is not written yet */
	s.flusher = NULL;
	assert_int_equal(refusing, 2);
	journal_holds = 0;
	s.failed = true;
	begin(1);
	put(memory("n", 2, "two"));
	refused(TXN_JOURNAL_FAILED, 0);
	assert_int_equal(refusing, 2);
}

static const struct item *judged(unsigned nops)
{
	static unsigned id = 1000;
	begin(s.next_seq - 1);
	for (unsigned i = 0; i < nops; i++)
		put(memory("n", ++id, "text"));
	return submit();
}

/* From half of what may wait on, large transactions are refused, and small ones are not. */
static void large_ones_give_way(void **state)
{
	(void)state;
	atomic_store(&s.plant->journal_quota, 1000000);
	s.unflushed_bytes = 490000;
	assert_int_equal(judged(1000)->status, TXN_OK); /* what it adds itself does not count */
	s.unflushed_bytes = 500000;
	const struct item *it = judged(9);
	assert_true(it->status == TXN_BUSY && it->arg == BUSY_ARG(BUSY_QUOTA | BUSY_BULK, 60));
	assert_int_equal(judged(8)->status, TXN_OK);
	s.unflushed_bytes = 0;
	s.pending_max = 200;
	table_room = 200;
	s.queued_ops = 100;
	s.queued_bytes = 0;
	assert_int_equal(judged(9)->status, TXN_OK);
	s.queued_ops = 101;
	assert_int_equal(judged(8)->status, TXN_OK);
	it = judged(9);
	assert_true(it->status == TXN_BUSY && (it->arg & 0xff) == (BUSY_PENDING | BUSY_BULK));
	s.queued_ops = 192;
	assert_int_equal(judged(8)->status, TXN_OK);
	assert_int_equal(judged(1)->status, TXN_BUSY);
}

static void too_old_is_too_much(void **state)
{
	(void)state;
	atomic_store(&s.plant->journal_quota, 1000000);
	s.max_age_us = 1000000000;
	assert_int_equal(judged(9)->status, TXN_OK); /* nothing waits */
	atomic_store(&s.plant->oldest_unflushed_us, clock_mono_us() - 499000000);
	assert_int_equal(judged(9)->status, TXN_OK);
	atomic_store(&s.plant->oldest_unflushed_us, clock_mono_us() - 501000000);
	const struct item *it = judged(9);
	assert_true(it->status == TXN_BUSY && (it->arg & 0xff) == (BUSY_AGE | BUSY_BULK));
	assert_int_equal(judged(1)->status, TXN_OK);
	atomic_store(&s.plant->oldest_unflushed_us, clock_mono_us() - 1001000000);
	it = judged(1);
	assert_true(it->status == TXN_BUSY && (it->arg & 0xff) == BUSY_AGE);
	s.max_age_us = 0; /* off */
	assert_int_equal(judged(9)->status, TXN_OK);
}

static void an_order_is_no_write(void **state)
{
	(void)state;
	struct op_order o = {.number = 7, .what = ORDER_RETRY};
	uint64_t next = s.next_seq;
	s.flusher = (void *)&o;
	for (int i = 1; i <= 2; i++) { /* asked again, carried out again: it is not remembered */
		begin_with(77, 0, TXN_ORDER);
		txn_op_raw(&building, OP_ORDER, &o, sizeof(o), NULL, 0);
		assert_null(submit());
		assert_true(orders == (size_t)i && ordered.number == 7 && ordered.what == ORDER_RETRY);
	}
	begin_with(78, 0, TXN_ORDER);
	txn_op_raw(&building, OP_ORDER, &o, 8, NULL, 0);
	assert_null(submit());
	assert_true(orders == 2 && said == TXN_MALFORMED);
	begin_with(79, 0, 0); /* as a write it is none */
	txn_op_raw(&building, OP_ORDER, &o, sizeof(o), NULL, 0);
	assert_int_equal(submit()->status, TXN_MALFORMED);
	assert_true(s.next_seq == next);
	s.flusher = NULL;
}

static void the_group(void **state)
{
	(void)state;
	s.relaxed_default = true;
	begin(0);
	put(memory("r", 1, "one"));
	taken(1);
	assert_true(s.open->all_relaxed && s.open->first_seq == 1 && s.open->writes == 1);
	size_t len = bytes.len;
	assert_true(s.open->bytes == len && s.queued_bytes == len && s.queued_ops == 1);
	assert_true(s.open->uses_ring[SLOT_API0] && s.peer[SLOT_API0].held == 1);
	begin(1);
	name_space("strict", 0, 0, 0);
	put(memory("strict", 2, "two"));
	taken(2);
	assert_false(s.open->all_relaxed); /* one that is not makes the group durable */
	assert_true(s.open->first_seq == 1 && s.open->writes == 2 && s.queued_ops == 3);
	/* a large one was put together elsewhere: nothing in the ring waits for it */
	begin(2);
	put(memory("r", 3, "three"));
	txn_end(&building);
	char *owned = util_alloc(bytes.len);
	memcpy(owned, bytes.p, bytes.len);
	sequence_txn(&s, SLOT_API0 + 1, owned, bytes.len, owned);
	assert_true(s.open->items[2].owned == owned && !s.open->uses_ring[SLOT_API0 + 1] &&
		    s.peer[SLOT_API0 + 1].held == 0);
	free(owned);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin_test, end_test)
static int tidy(void **state)
{
	(void)state;
	buf_free(&bytes);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(conflicts),
					   TEST(remembers_all_keys),
					   TEST(repeats),
					   TEST(repeats_of_what_the_store_has),
					   TEST(counts),
					   TEST(quota_of_a_bulk),
					   TEST(one_vector_space),
					   TEST(dropped_and_made_again),
					   TEST(a_refusal_undoes_namespaces),
					   TEST(languages),
					   TEST(languages_of_the_store),
					   TEST(table_of_namespaces_full),
					   TEST(malformed),
					   TEST(no_room),
					   TEST(large_ones_give_way),
					   TEST(too_old_is_too_much),
					   TEST(an_order_is_no_write),
					   TEST(the_group)};
	return cmocka_run_group_tests(tests, NULL, tidy);
}
