/* The journal as it is meant to work: append, replay, rotation, recycling, quota, scrub. */
#include "journal_model.h"

#define PLENTY (64u << 20)

static void what_was_synced_is_replayed_in_order(void **state)
{
	(void)state;
	struct world *w = world_new(1u << 20, 1u << 20, PLENTY);
	world_fill(w, 500);
	assert_int_equal(journal_last_seq(w->j), 500);
	world_reopen(w, 0);
	world_got(w, 1, 500);
	assert_int_equal(journal_last_seq(w->j), 500);
	for (size_t i = 0; i < w->ngot; i++) { /* replay and append agree on where a record lies */
		assert_int_equal(w->got[i].segment, w->where[i + 1].segment);
		assert_int_equal(w->got[i].offset, w->where[i + 1].offset);
	}
	world_reopen(w, 123);
	world_got(w, 124, 500);
	world_reopen(w, 500);
	assert_int_equal(w->ngot, 0);
	assert_string_equal(w->log, "");
	/* … and it goes on where it stopped, in the same file. */
	world_fill(w, 600);
	world_reopen(w, 0);
	world_got(w, 1, 600);
	assert_int_equal(count_files(w->dir, "journal", ".seg", NULL), 1);
	world_free(w);
}

static void one_group_of_many_records(void **state)
{
	(void)state; /* more buffers than one pwritev takes */
	struct world *w = world_new(1u << 20, 1u << 20, PLENTY);
	assert_int_equal(world_append(w, 512), 0);
	assert_int_equal(world_append(w, 0), 0);
	assert_int_equal(world_append(w, 400), 0);
	world_reopen(w, 0);
	world_got(w, 1, 912);
	world_free(w);
}

static void empty_directory_gets_one_small_segment(void **state)
{
	(void)state;
	struct world *w = world_new(8u << 20, 64u << 20, 1u << 30);
	uint64_t bytes;
	struct stat st;
	assert_int_equal(count_files(w->dir, "journal", "", &bytes), 1);
	assert_int_equal(bytes, 8u << 20);
	assert_int_equal(stat(world_segment(w, 1), &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= bytes); /* written, not a hole */
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(journal_bytes(w->j), 0);
	assert_int_equal(journal_last_seq(w->j), 0);
	assert_int_equal(journal_prepare(w->j), 0); /* nothing is used yet: nothing more is made */
	assert_int_equal(count_files(w->dir, "journal", "", NULL), 1);
	world_free(w);
}

static void segments_follow_each_other(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 64 * KIB, PLENTY);
	world_fill(w, 2000);
	uint64_t number = 0;
	for (uint64_t seq = 1; seq <= 2000; seq++) {
		assert_true(w->where[seq].segment >= number);
		number = w->where[seq].segment;
	}
	assert_true(number > 8);
	assert_true(count_files(w->dir, "journal", ".seg", NULL) > 8);
	for (uint64_t after = 0; after <= 2000; after += 333) {
		world_reopen(w, after);
		world_got(w, after + 1, 2000);
		assert_string_equal(w->log, "");
	}
	world_free(w);
}

static void group_lies_in_one_segment(void **state)
{
	(void)state; /* … even when it is larger than segments are: one fdatasync must be enough */
	struct world *w = world_new(16 * KIB, 16 * KIB, PLENTY);
	for (int i = 0; i < 20; i++) {
		uint64_t first = w->next;
		assert_int_equal(world_append(w, 200), 0);
		for (uint64_t seq = first; seq < w->next; seq++)
			assert_int_equal(w->where[seq % 4096].segment, w->where[first % 4096].segment);
		unsigned before = sys.syncs;
		assert_int_equal(journal_sync(w->j), 0);
		assert_int_equal(sys.syncs - before, 1);
	}
	world_reopen(w, 0);
	world_got(w, 1, 4000);
	world_free(w);
}

static void new_segments_name_is_synced_before_the_acknowledgement(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	uint64_t segment = 0;
	for (int i = 0; i < 200; i++) {
		unsigned dirs = sys.dirsyncs, data = sys.syncs;
		assert_int_equal(world_append(w, 5), 0);
		assert_int_equal(journal_sync(w->j), 0);
		uint64_t now = w->where[(w->next - 1) % 4096].segment;
		assert_true(sys.syncs > data);
		if (segment && now != segment)
			assert_true(sys.dirsyncs > dirs);
		if (now == segment)
			assert_int_equal(sys.dirsyncs, dirs); /* and not at every commit */
		segment = now;
	}
	unsigned data = sys.syncs;
	assert_int_equal(journal_sync(w->j), 0);
	assert_int_equal(sys.syncs, data); /* nothing new: no disk */
	world_free(w);
}

/* Relaxed groups are not synced one by one; the next durable one must not outlive them. */
static void leaving_a_segment_syncs_it(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	assert_int_equal(world_append(w, 5), 0);
	uint64_t segment = w->where[1].segment;
	unsigned data;
	do {
		data = sys.syncs;
		assert_int_equal(world_append(w, 5), 0);
	} while (w->where[(w->next - 1) % 4096].segment == segment);
	assert_true(sys.syncs > data);
	world_free(w);
}

static void released_segments_are_used_again(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, PLENTY);
	size_t most = 0;
	world_fill(w, 300);
	for (int round = 0; round < 60; round++) {
		assert_int_equal(journal_prepare(w->j), 0);
		world_fill(w, w->next + 250);
		assert_true(journal_bytes(w->j) > 0);
		journal_release(w->j, w->next - 1);
		assert_int_equal(journal_bytes(w->j), 0);
		size_t n = count_files(w->dir, "journal", "", NULL);
		if (round < 10 && n > most)
			most = n;
		assert_true(n <= most);
	}
	assert_int_equal(journal_prepare(w->j), 0);
	assert_true(count_files(w->dir, "journal", ".spare", NULL) >= 2);
	world_free(w);
}

static struct {
	uint64_t first, next;
	size_t n;
} raw;

static void take_raw(void *arg, uint64_t seq, uint64_t segment, uint64_t offset, const void *p, size_t len)
{
	(void)arg, (void)segment, (void)offset;
	if (!raw.n++)
		raw.first = raw.next = seq;
	assert_int_equal(len, 200);
	assert_memory_equal(p, &seq, 8);
	assert_int_equal(seq, raw.next++);
}

static void world_reopen_raw(struct world *w, uint64_t after)
{
	char *error;
	memset(&raw, 0, sizeof(raw));
	journal_close(&w->j);
	free(w->log);
	hear_begin();
	w->j = journal_open(&w->conf, after, take_raw, NULL, &error);
	w->log = hear_end();
	assert_non_null(w->j);
}

static void append_same_length(struct world *w)
{
	char text[200];
	struct journal_where at;
	memset(text, 's', sizeof(text));
	memcpy(text, &w->next, 8);
	struct iovec v = {text, sizeof(text)};
	assert_int_equal(journal_append(w->j, &v, 1, w->next++, &at), 0);
	assert_int_equal(journal_sync(w->j), 0);
}

/* Same lengths in each life, so that a record of the old life lies exactly where the next one of the new
 * life would begin: only epoch and sequence tell them apart. */
static void stale_records_are_never_replayed(void **state)
{
	(void)state;
	struct world *w = world_new(16 * KIB, 16 * KIB, PLENTY);
	for (int life = 0; life < 40; life++) {
		for (int i = 0; i < 41; i++)
			append_same_length(w);
		uint64_t last = w->next - 1, keep = last - (uint64_t)(life % 30);
		journal_release(w->j, keep);
		world_reopen_raw(w, keep);
		assert_int_equal(raw.n, last - keep);
		assert_int_equal(raw.first, life % 30 ? keep + 1 : 0);
		assert_string_equal(w->log, "");
	}
	world_free(w);
}

static void giant_record_gets_a_segment_of_its_own(void **state)
{
	(void)state;
	struct world *w = world_new(16 * KIB, 32 * KIB, PLENTY);
	size_t len = 300 * KIB + 13;
	char *giant = util_alloc(len), *back = util_alloc(len);
	struct journal_where at;
	uint64_t bytes;
	memset(giant, 'g', len);
	world_fill(w, 20);
	struct iovec v = {giant, len};
	assert_int_equal(journal_append(w->j, &v, 1, w->next, &at), 0);
	assert_int_equal(journal_sync(w->j), 0);
	struct journal_reader *r = journal_reader_open(w->dir);
	assert_non_null(r);
	assert_true(journal_read(r, at.segment, at.offset, back, len));
	assert_memory_equal(back, giant, len);
	uint64_t giant_seq = w->next++;
	world_fill(w, 40);
	uint64_t seq = giant_seq - 1;
	const void *p;
	size_t got;
	struct journal_where where;
	assert_int_equal(journal_next(r, &seq, 40, &p, &got, &where), 1);
	assert_int_equal(got, len);
	assert_memory_equal(p, giant, len);
	assert_int_equal(journal_next(r, &seq, 40, &p, &got, &where), 1);
	assert_true(record_is(seq, p, got));
	journal_reader_close(&r);
	/* Its file is not kept for ever. */
	journal_release(w->j, 40);
	assert_int_equal(journal_prepare(w->j), 0);
	count_files(w->dir, "journal", "", &bytes);
	assert_true(bytes < 200 * KIB);
	free(giant);
	free(back);
	world_free(w);
}

static void quota_refuses_and_recovers(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, 256 * KIB);
	uint64_t bytes;
	int e = 0;
	while (!(e = world_append(w, 7)))
		assert_int_equal(journal_sync(w->j), 0);
	assert_int_equal(e, EDQUOT);
	uint64_t last = w->next - 1;
	assert_int_equal(journal_last_seq(w->j), last);
	assert_int_equal(world_append(w, 7), EDQUOT); /* again, the same way */
	assert_true(journal_bytes(w->j) <= 256 * KIB);
	count_files(w->dir, "journal", "", &bytes);
	assert_true(bytes <= 256 * KIB);
	assert_int_equal(journal_sync(w->j), 0); /* that is no disk error */
	world_reopen(w, 0);			 /* a full journal can be opened and read */
	world_got(w, 1, last);
	journal_release(w->j, last - 10);
	world_fill(w, last + 50);
	world_reopen(w, last);
	world_got(w, last + 1, last + 50);
	world_free(w);
}

static void giant_beyond_the_quota_is_refused(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, 512 * KIB);
	char *p = util_zalloc(1u << 20);
	struct iovec v = {p, 1u << 20};
	struct journal_where at;
	world_fill(w, 300);
	journal_release(w->j, 300);
	assert_int_equal(journal_prepare(w->j), 0);
	assert_int_equal(journal_append(w->j, &v, 1, w->next, &at), EDQUOT);
	v.iov_len = 400 * KIB; /* fits when idle spares make way */
	assert_int_equal(journal_append(w->j, &v, 1, w->next, &at), 0);
	w->next++;
	world_fill(w, 310);
	free(p);
	world_free(w);
}

static void sequences_must_be_consecutive(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, PLENTY);
	world_fill(w, 10);
	hear_begin();
	w->next = 12;
	assert_int_equal(world_append(w, 1), EINVAL);
	w->next = 10;
	assert_int_equal(world_append(w, 1), EINVAL);
	free(hear_end());
	w->next = 11;
	world_fill(w, 20);
	world_reopen(w, 0);
	world_got(w, 1, 20);
	world_free(w);
}

/* A power cut may take relaxed records that the store has already. */
static void store_may_be_ahead(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, PLENTY);
	world_fill(w, 10);
	world_reopen(w, 25);
	assert_int_equal(w->ngot, 0);
	assert_int_equal(w->next, 26);
	world_fill(w, 40);
	world_reopen(w, 25);
	world_got(w, 26, 40);
	assert_string_equal(w->log, "");
	world_free(w);
}

static void store_from_an_older_copy_is_reported(void **state)
{
	(void)state;
	struct world *w = world_new(16 * KIB, 16 * KIB, PLENTY);
	world_fill(w, 400);
	journal_release(w->j, 380);
	uint64_t first = 0;
	world_reopen(w, 100);
	assert_true(w->ngot > 0);
	first = w->got[0].seq;
	assert_true(first > 101 && first <= 381);
	world_got(w, first, 400);
	char want[64];
	snprintf(want, sizeof(want), "records 101 to %llu are lost", (unsigned long long)(first - 1));
	assert_non_null(strstr(w->log, want));
	/* Everything released, then an old store: sequences start again behind the store. */
	journal_release(w->j, 400);
	world_reopen(w, 400);
	world_reopen(w, 50);
	assert_non_null(strstr(w->log, "records 51 to "));
	journal_close(&w->j);
	world_open(w, 50);
	world_free(w);
}

/* ---- scrub ---- */

#define MARKER "erase-me-0123456789-erase-me"

static void append_marked(struct world *w)
{
	char text[200];
	struct journal_where at;
	memset(text, '.', sizeof(text));
	memcpy(text + 40, MARKER, sizeof(MARKER) - 1);
	struct iovec v = {text, sizeof(text)};
	assert_int_equal(journal_append(w->j, &v, 1, w->next, &at), 0);
	assert_int_equal(journal_sync(w->j), 0);
	w->where[w->next % 4096] = at;
	w->next++;
}

/* The marker lies in released segments, in the front of the current one, and in the unused part of
 * files in their second life. What came after it must live. */
static void scrub_leaves_nothing(void **state)
{
	(void)state;
	for (unsigned variant = 0; variant < 24; variant++) {
		struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
		for (unsigned i = 0; i < 12; i++) {
			for (unsigned k = 0; k <= variant % 6; k++)
				append_marked(w);
			world_fill(w, w->next + 20 + variant);
			if (variant & 1 && i % 4 == 3)
				journal_release(w->j, w->next - 1);
			if (variant & 2)
				assert_int_equal(journal_prepare(w->j), 0);
		}
		append_marked(w);
		uint64_t erased = w->next - 1, last = erased + (variant & 4 ? 30 : 0);
		world_fill(w, last);
		assert_true(files_contain(w, MARKER, sizeof(MARKER) - 1));
		assert_int_equal(journal_scrub(w->j, erased), EINVAL); /* the store does not have it yet */
		journal_release(w->j, erased);
		assert_int_equal(journal_scrub(w->j, erased), 0);
		assert_false(files_contain(w, MARKER, sizeof(MARKER) - 1));
		struct journal_reader *r = journal_reader_open(w->dir);
		char buf[RECORD_MOST];
		assert_false(
			journal_read(r, w->where[erased % 4096].segment, w->where[erased % 4096].offset, buf, 100));
		for (uint64_t seq = erased + 1; seq <= last; seq++) {
			struct journal_where at = w->where[seq % 4096];
			assert_true(journal_read(r, at.segment, at.offset, buf, record_len(seq)));
			assert_true(record_is(seq, buf, record_len(seq)));
		}
		journal_reader_close(&r);
		world_fill(w, last + 40);
		assert_int_equal(journal_scrub(w->j, erased), 0); /* again, with nothing to do */
		world_reopen(w, erased);
		world_got(w, erased + 1, last + 40);
		assert_string_equal(w->log, "");
		assert_false(files_contain(w, MARKER, sizeof(MARKER) - 1));
		world_free(w);
	}
}

/* Files that a restart found may hold anything, and so may surplus that prepare removes. */
static void scrub_after_a_restart(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	for (int i = 0; i < 200; i++)
		append_marked(w);
	journal_release(w->j, 200);
	journal_close(&w->j);
	world_open(w, 200);
	assert_true(files_contain(w, MARKER, sizeof(MARKER) - 1));
	world_fill(w, 210);
	assert_int_equal(journal_scrub(w->j, 200), 0);
	assert_false(files_contain(w, MARKER, sizeof(MARKER) - 1));
	world_reopen(w, 205);
	world_got(w, 206, 210);
	world_free(w);
}

/* Whatever write of a scrub fails, and whether the same process tries again or the successor of a killed one: a scrub that
 * says done has left nothing. */
static void scrub_that_was_cut_off(void **state)
{
	(void)state;
	for (unsigned variant = 0; variant < 40; variant++) {
		struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
		for (int i = 0; i < 20; i++)
			append_marked(w);
		uint64_t erased = w->next - 1;
		world_fill(w, erased + (variant & 2 ? 20 : 0));
		uint64_t last = w->next - 1;
		journal_release(w->j, erased);
		sys.write_error = EIO;
		sys.write_budget = variant / 4 * 1500;
		int e = journal_scrub(w->j, erased);
		sys.write_budget = -1;
		assert_int_equal(e != 0, files_contain(w, MARKER, sizeof(MARKER) - 1));
		if (variant & 1)
			world_reopen(w, erased);
		assert_int_equal(journal_scrub(w->j, erased), 0);
		assert_false(files_contain(w, MARKER, sizeof(MARKER) - 1));
		world_reopen(w, erased);
		if (last > erased)
			world_got(w, erased + 1, last);
		world_free(w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_synced_is_replayed_in_order),
		cmocka_unit_test(one_group_of_many_records),
		cmocka_unit_test(empty_directory_gets_one_small_segment),
		cmocka_unit_test(segments_follow_each_other),
		cmocka_unit_test(group_lies_in_one_segment),
		cmocka_unit_test(new_segments_name_is_synced_before_the_acknowledgement),
		cmocka_unit_test(leaving_a_segment_syncs_it),
		cmocka_unit_test(released_segments_are_used_again),
		cmocka_unit_test(stale_records_are_never_replayed),
		cmocka_unit_test(giant_record_gets_a_segment_of_its_own),
		cmocka_unit_test(quota_refuses_and_recovers),
		cmocka_unit_test(giant_beyond_the_quota_is_refused),
		cmocka_unit_test(sequences_must_be_consecutive),
		cmocka_unit_test(store_may_be_ahead),
		cmocka_unit_test(store_from_an_older_copy_is_reported),
		cmocka_unit_test(scrub_leaves_nothing),
		cmocka_unit_test(scrub_after_a_restart),
		cmocka_unit_test(scrub_that_was_cut_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
