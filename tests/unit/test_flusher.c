/* The flusher against a store that rejects, at once or at the commit, says which operation it was or does not, and does not answer
 * commits; without threads. Broken code this would catch: an operation that is blamed for another; a good one that is lost or stored
 * in another order; a letter too many or too few; a commit that is repeated although it went through, or forgotten although it did
 * not; a store that was replaced and is written to all the same. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <unistd.h>
#include <cmocka.h>

#include "sync/age.c"
#include "sync/pace.c"
/* Each room has its own static names. */
#define note_diverged isolate_note_diverged
#include "sync/isolate.c"
#undef note_diverged
#include "sync/batch.c"
#include "sync/flusher.c"
#include "sync/letters.c"

/* No index is saved here. */
bool index_file_wipe(struct sync *s)
{
	(void)s;
	return true;
}
void index_file_know(struct sync *s, struct store *store) { (void)s, (void)store; }

#define TXNS 60
#define IDS 1000

/* ---- the journal: transactions in memory ---- */

static struct buf txn[TXNS + 1]; /* by sequence, from 1 */
static uint64_t txns;
static unsigned nids;

int journal_next(struct journal_reader *r, uint64_t *after, uint64_t to, const void **p, size_t *len,
		 struct journal_where *where)
{
	(void)r;
	if (*after >= to || *after >= txns)
		return 0;
	++*after;
	*p = txn[*after].p;
	*len = txn[*after].len;
	*where = (struct journal_where){1, 0};
	return 1;
}

static void put(struct txn_builder *t, unsigned id)
{
	struct memory m = {.ns = 7,
			   .version = 1,
			   .ns_name = SPAN_LIT("n"),
			   .content = SPAN_LIT("c"),
			   .body = SPAN_LIT("{}"),
			   .replaces_bytes = -1};
	memcpy(m.id.b, &id, sizeof(id));
	txn_op_put(t, &m);
}

static void add_txn(unsigned nops)
{
	struct txn_builder t;
	struct buf *b = &txn[++txns];
	b->len = 0;
	txn_begin(&t, b, 1000 + txns, SLOT_API0, 0, 0);
	while (nops--)
		put(&t, nids++);
	txn_end(&t);
}

/* ---- the store ---- */

static struct {
	bool late, names; /* rejects at the commit only; says what it was */
	bool poison[IDS];
	unsigned stored[IDS], staged[IDS], order[IDS], nstaged, nstored, applies;
	uint64_t cursor, bad_seq;
	uint32_t bad_op;
	enum { ANSWERS, GOES_AWAY_AFTER, GOES_AWAY_BEFORE, GONE } mood;
	bool open, bad;
} st;

static enum store_rc st_begin(struct store *s)
{
	(void)s;
	if (st.mood == GONE)
		return STORE_AWAY;
	assert_false(st.open);
	st.open = true;
	st.bad = false;
	st.nstaged = 0;
	return STORE_OK;
}

static enum store_rc st_apply(struct store *s, uint64_t seq, struct txn_reader *t)
{
	struct txn_reader r = *t;
	const struct op_head *op;
	const void *body;
	(void)s;
	assert_true(st.open && seq > st.cursor);
	for (uint32_t i = 0; txn_next(&r, &op, &body); i++) {
		struct memory m;
		unsigned id;
		assert_true(memory_decode(body, op->len, &m));
		memcpy(&id, m.id.b, sizeof(id));
		st.applies++;
		if (st.poison[id] && !st.bad) {
			st.bad = true;
			st.bad_seq = seq;
			st.bad_op = i;
		}
		if (st.poison[id] && !st.late)
			return STORE_REJECTED;
		st.staged[st.nstaged++] = id;
	}
	return STORE_OK;
}

static enum store_rc st_commit(struct store *s, uint64_t seq)
{
	(void)s;
	assert_true(st.open && seq >= st.cursor);
	if (st.bad)
		return STORE_REJECTED;
	if (st.mood == GOES_AWAY_BEFORE) {
		st.mood = GONE;
		return STORE_AWAY;
	}
	for (unsigned i = 0; i < st.nstaged; i++)
		if (!st.stored[st.staged[i]]++)
			st.order[st.nstored++] = st.staged[i];
	st.cursor = seq;
	st.open = false;
	if (st.mood == GOES_AWAY_AFTER) {
		st.mood = GONE;
		return STORE_AWAY;
	}
	return STORE_OK;
}

static void st_rollback(struct store *s) { (void)s, st.open = false; }
static const char *st_error(struct store *s) { return (void)s, st.mood == GONE ? "gone" : "poison"; }
static enum store_rc st_cursor(struct store *s, uint64_t *seq)
{
	(void)s;
	*seq = st.cursor;
	return st.mood == GONE ? STORE_AWAY : STORE_OK;
}
static bool st_culprit(struct store *s, uint64_t *seq, uint32_t *op)
{
	(void)s;
	*seq = st.bad_seq;
	*op = st.bad_op;
	return st.bad && st.names;
}
static enum store_rc st_revision(struct store *s, uint64_t *revision_r)
{
	(void)s;
	*revision_r = 1;
	return STORE_OK;
}

static const struct store_ops fake = {.revision = st_revision,
				      .begin = st_begin,
				      .apply = st_apply,
				      .commit = st_commit,
				      .rollback = st_rollback,
				      .error = st_error,
				      .cursor = st_cursor,
				      .culprit = st_culprit};

/* ---- the rest of sync ---- */

static unsigned mended, away, lives;
void mend_add(struct flusher *f, const struct ahead *a) { (void)f, (void)a, mended++; }
void mend_look(struct flusher *f, struct flushed_note *n) { (void)f, (void)n; }
void orders_away(struct flusher *f) { (void)f, away++; }
void orders_tried(struct flusher *f, uint32_t letter, bool stored) { (void)f, (void)letter, (void)stored; }
void orders_run(struct flusher *f) { (void)f; }
bool orders_waiting(const struct flusher *f) { return (void)f, false; }
void orders_end(struct flusher *f) { (void)f; }
void collect_run(struct flusher *f, int64_t trash_us) { (void)f, (void)trash_us; }
void prune_feed(struct sync *s, struct store *store) { (void)s, (void)store; }
void apply_flushed(struct sync *s, struct flushed_note *n)
{
	(void)s;
	free(n->fix);
	free(n->lost);
}
static char told[512];
static unsigned logged;
void sync_state_set(struct sync *s, enum plant_sync state, const char *why)
{
	atomic_store(&s->plant->sync_state, state);
	snprintf(told, sizeof(told), "%s", why);
}
void sync_fail(struct sync *s, enum plant_sync state, const char *fmt, ...)
{
	va_list ap;
	char why[sizeof(told)];
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	sync_state_set(s, state, why);
	logged++;
}
void sync_post(struct sync *s, void (*fn)(struct sync *s, void *arg), void *arg) { fn(s, arg); }
void journal_release(struct journal *j, uint64_t seq) { (void)j, (void)seq; }
int journal_scrub(struct journal *j, uint64_t seq) { return (void)j, (void)seq, 0; }
int journal_prepare(struct journal *j) { return (void)j, 0; }
struct journal_reader *journal_reader_open(const char *dir) { return (void)dir, NULL; }
void journal_reader_close(struct journal_reader **r) { (void)r; }
void journal_reader_knows(struct journal_reader *r, const struct journal *j) { (void)r, (void)j; }

/* ---- a flusher ---- */

static struct sync s;
static struct plant *plant;
static struct worker w;
static struct stats_slot stats;
static struct flusher *f;
static char folder[] = "/tmp/test_flusher.XXXXXX";

static void birth(uint64_t flushed)
{
	f = util_zalloc(sizeof(*f));
	f->s = &s;
	f->flushed = f->scrubbed = flushed;
	f->letters_max = 1000;
	pthread_mutex_init(&f->lock, NULL);
	assert_true(letters_open(&f->letters, folder));
	isolate_load(f);
}

static void death(void)
{
	letters_close(&f->letters);
	batch_free(&f->unsure);
	free(f->ahead);
	free(f->diverged);
	buf_free(&f->trouble);
	buf_free(&f->told);
	free(f);
}

static int begin(void **state)
{
	(void)state;
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	memset(&st, 0, sizeof(st));
	txns = nids = mended = away = logged = 0;
	plant = util_zalloc(sizeof(*plant));
	w.stats = &stats;
	s = (struct sync){.plant = plant, .w = &w, .store_ops = &fake};
	s.store_conf.breaker = ++lives % 2 ? NULL : &plant->breakers[0]; /* a store that is a file has none */
	if (!mkdtemp(folder))
		return -1;
	birth(0);
	return 0;
}

static int end(void **state)
{
	char command[100];
	(void)state;
	death();
	free(plant);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

static enum flush_result run(uint64_t batch_max)
{
	enum flush_result r = FLUSH_ON;
	for (int i = 0; i < 10000 && r == FLUSH_ON && f->flushed < txns; i++)
		r = flush_once(f, txns, batch_max);
	return r;
}

/* All good ones are stored, in order; each bad one has a letter. */
static void complete(void)
{
	unsigned good = 0, bad = 0, last = 0;
	assert_true(f->flushed == txns && st.cursor == txns && f->nahead == 0);
	for (unsigned id = 0; id < nids; id++) {
		good += !st.poison[id];
		bad += st.poison[id];
		assert_int_equal(st.stored[id] != 0, !st.poison[id]);
	}
	assert_true(st.nstored == good && f->letters.n == bad && mended == bad);
	for (unsigned i = 0; i < st.nstored; last = st.order[i++])
		assert_true(!i || st.order[i] > last);
	for (size_t i = 0; i < f->letters.n; i++) {
		unsigned id;
		memcpy(&id, f->letters.v[i].id.b, sizeof(id));
		assert_true(st.poison[id]);
		st.poison[id] = false; /* only one each */
	}
}

static void every_kind_of_rejection(void **state)
{
	for (unsigned kind = 0; kind < 4; kind++)
		for (unsigned every = 1; every <= 50; every = every * 3 + kind) {
			if (kind || every > 1) {
				end(state);
				begin(state);
			}
			st.late = kind & 1;
			st.names = kind & 2;
			for (unsigned i = 0; i < TXNS; i++)
				add_txn(1 + (i * 7 + kind) % 6);
			for (unsigned id = 0; id < nids; id++)
				st.poison[id] = id % every == every / 2;
			assert_int_equal(run(500), FLUSH_ON);
			complete();
		}
}

/* One among many: what is done again is little. */
static void the_search_is_short(void **state)
{
	for (unsigned names = 0; names < 2; names++) {
		if (names) {
			end(state);
			begin(state);
		}
		st.late = true;
		st.names = names;
		for (unsigned i = 0; i < TXNS; i++)
			add_txn(8);
		st.poison[301] = true;
		assert_int_equal(run(500), FLUSH_ON);
		assert_true(st.applies < 4 * nids);
		complete();
	}
}

static void a_commit_that_went_through(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 10; i++)
		add_txn(3);
	st.mood = GOES_AWAY_AFTER;
	assert_int_equal(run(500), FLUSH_TROUBLE);
	assert_int_equal(f->flushed, 0);
	assert_int_equal(run(500), FLUSH_TROUBLE); /* it is still away */
	assert_true(f->unsure.seq == 10);
	st.mood = ANSWERS;
	assert_int_equal(run(500), FLUSH_ON);
	complete();
	assert_int_equal(st.applies, nids); /* once each */
}

static void a_commit_that_did_not(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 10; i++)
		add_txn(3);
	st.mood = GOES_AWAY_BEFORE;
	assert_int_equal(run(500), FLUSH_TROUBLE);
	assert_int_equal(f->flushed, 0);
	st.mood = ANSWERS;
	assert_int_equal(run(500), FLUSH_ON);
	complete();
	assert_int_equal(st.applies, 2 * nids);
}

/* Behind an unanswered commit the store has what nobody has sent … */
static void not_the_same_store(void **state)
{
	(void)state;
	add_txn(3);
	assert_int_equal(run(500), FLUSH_ON);
	add_txn(3);
	add_txn(3);
	st.mood = GOES_AWAY_AFTER;
	assert_int_equal(run(500), FLUSH_TROUBLE);
	st.mood = ANSWERS;
	unsigned applies = st.applies;
	for (uint64_t cursor = 2; cursor < 10; cursor++) {
		if (cursor == 3)
			continue;
		st.cursor = cursor;
		assert_int_equal(run(500), FLUSH_TROUBLE);
		assert_true(f->flushed == 1 && f->trouble.len && st.applies == applies);
	}
	st.cursor = 3;
	assert_int_equal(run(500), FLUSH_ON);
	complete();
}

/* … or less than it had, and the journal still has what is missing. */
static void a_store_that_went_back(void **state)
{
	(void)state;
	add_txn(3);
	add_txn(3);
	assert_int_equal(run(500), FLUSH_ON);
	assert_int_equal(f->flushed, 2);
	add_txn(3);
	st.mood = GOES_AWAY_BEFORE;
	assert_int_equal(run(500), FLUSH_TROUBLE);
	st.mood = ANSWERS;
	st.cursor = 1;
	unsigned applies = st.applies;
	assert_int_equal(run(500), FLUSH_ON);
	assert_int_equal(f->flushed, 3);
	assert_int_equal(st.applies, applies + 2 * 3);
}

/* A letter in front of the cursor: its operation is left out, whatever the store would say by now. */
static void a_successor_keeps_to_the_letter(void **state)
{
	(void)state;
	add_txn(5);
	add_txn(5);
	st.poison[3] = st.poison[7] = true;
	st.names = true;
	assert_int_equal(flush_once(f, txns, 500), FLUSH_ON);
	assert_true(f->letters.n == 1 && f->flushed == 0);
	death();
	birth(0);
	assert_true(f->nahead == 1 && f->letters.n == 1);
	st.poison[3] = false;
	assert_int_equal(run(500), FLUSH_ON);
	st.poison[3] = true;
	complete();
	assert_int_equal(st.stored[3], 0);
}

static void a_full_list_passes_nothing(void **state)
{
	(void)state;
	f->letters_max = 2;
	for (unsigned i = 0; i < 5; i++)
		add_txn(2);
	st.poison[2] = st.poison[4] = st.poison[7] = true;
	for (int i = 0; i < 3; i++)
		assert_int_equal(run(500), FLUSH_TROUBLE);
	assert_true(f->letters.n == 2 && f->flushed == 3 && !st.stored[8] && atomic_load(&plant->dead_full));
	f->letters_max = 3;
	assert_int_equal(run(500), FLUSH_ON);
	complete();
	assert_false(atomic_load(&plant->dead_full));
}

/* The store comes back to a list that is full: that is what an operator has to mend, and reads; the log has one error. */
static void the_trouble_that_is_told_is_the_last(void **state)
{
	(void)state;
	f->letters_max = 0;
	add_txn(1);
	st.poison[0] = true;
	st.mood = GONE;
	f->allowed = txns;
	f->batch_max = 500;
	flush_all(f);
	assert_non_null(strstr(told, "gone"));
	st.mood = ANSWERS;
	flush_all(f);
	assert_non_null(strstr(told, "the list of dead letters is full"));
	assert_int_equal(atomic_load(&plant->sync_state), SYNC_STORE_FAILED);
	f->letters_max = 1;
	flush_all(f);
	complete();
	assert_true(atomic_load(&plant->sync_state) == SYNC_SERVING && logged == 1);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, begin, end)
	const struct CMUnitTest tests[] = {TEST(every_kind_of_rejection),
					   TEST(the_search_is_short),
					   TEST(a_commit_that_went_through),
					   TEST(a_commit_that_did_not),
					   TEST(not_the_same_store),
					   TEST(a_store_that_went_back),
					   TEST(a_successor_keeps_to_the_letter),
					   TEST(a_full_list_passes_nothing),
					   TEST(the_trouble_that_is_told_is_the_last)};
	log_open("test", LOG_LV_ERROR, LOG_TEXT);
	log_to(open("/dev/null", O_WRONLY), NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
