/* The journal after power cuts, bad disks and bad hands: what is delivered is always right, what is missing
 * is always said. */
#include "contract.h"
#include "crc32c.h"
#include "journal_model.h"

#define PLENTY (64u << 20)

/* ---- torn tails ---- */

enum tear { TEAR_ZEROS, TEAR_NOISE, TEAR_FILE_END };

/* The segment as `whole` up to `cut`, then as `how` says. */
static void write_torn(const char *path, const char *whole, size_t len, size_t cut, size_t room, enum tear how)
{
	char *p = util_alloc(len);
	memcpy(p, whole, len);
	if (how == TEAR_ZEROS)
		memset(p + cut, 0, len - cut);
	else if (how == TEAR_NOISE)
		memset(p + cut, 0xa5, room - cut);
	spit(path, p, how == TEAR_FILE_END ? cut : len);
	free(p);
}

static void only_first_segment(const struct world *w)
{
	DIR *d = opendir(world_path(w, "."));
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.' && strcmp(e->d_name, "0000000000000001.seg") != 0)
			assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
	closedir(d);
}

/* Record 31, the last one, lies in [start, end). */
static void torn_at(struct world *w, const char *whole, size_t len, size_t cut, size_t start, size_t end, enum tear how)
{
	uint64_t last = 31;
	bool complete = cut >= start + sizeof(struct rec_head) + record_len(last); /* only padding is missing */
	write_torn(world_segment(w, 1), whole, len, cut, end, how);
	uint64_t want = complete ? last : last - 1;
	world_open(w, 0);
	world_got(w, 1, want);
	assert_int_equal(journal_last_seq(w->j), want);
	assert_null(strstr(w->log, "lost"));
	/* The next record is shorter than the torn one in some cases and longer in others. */
	world_fill(w, want + 1 + cut % 3);
	uint64_t now = w->next - 1;
	world_reopen(w, 0);
	world_got(w, 1, now);
	assert_null(strstr(w->log, "lost"));
	journal_close(&w->j);
	only_first_segment(w);
}

static void torn_at_every_byte(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	size_t len;
	world_fill(w, 31);
	size_t start = w->where[31].offset - sizeof(struct rec_head);
	size_t end = align_up(w->where[31].offset + record_len(31), 8);
	journal_close(&w->j);
	char *whole = slurp(world_segment(w, 1), &len);
	for (int how = TEAR_ZEROS; how <= TEAR_FILE_END; how++)
		for (size_t cut = start; cut <= end; cut++)
			torn_at(w, whole, len, cut, start, end, (enum tear)how);
	free(whole);
	world_free(w);
}

/* Sectors of the last group reached the disk in any order: pieces lie behind the hole. They are gone after
 * the cut, and no later record can be completed by them. */
static void cut_region_is_zeroed(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	size_t len;
	world_fill(w, 20);
	assert_int_equal(world_append(w, 6), 0);
	journal_close(&w->j);
	char *p = slurp(world_segment(w, 1), &len);
	size_t from = w->where[21].offset - sizeof(struct rec_head);
	for (uint64_t seq = 21; seq <= 26; seq++) /* one byte of each of the six is wrong */
		p[w->where[seq].offset + record_len(seq) / 2] ^= 0x10;
	spit(world_segment(w, 1), p, len);
	free(p);
	world_open(w, 0);
	world_got(w, 1, 20);
	assert_non_null(strstr(w->log, "cut"));
	journal_close(&w->j);
	p = slurp(world_segment(w, 1), &len);
	for (size_t i = from; i < len; i++)
		assert_int_equal(p[i], 0);
	free(p);
	world_open(w, 0);
	assert_string_equal(w->log, "");
	world_free(w);
}

/* ---- damage in the middle ---- */

static bool says_lost(const struct world *w, uint64_t from, uint64_t to)
{
	char want[80];
	snprintf(want, sizeof(want), "records %llu to %llu are lost", (unsigned long long)from, (unsigned long long)to);
	return strstr(w->log, want) != NULL;
}

static void flip(const char *path, size_t at, unsigned char mask)
{
	unsigned char c;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &c, 1, (off_t)at), 1);
	c ^= mask;
	assert_int_equal(pwrite(fd, &c, 1, (off_t)at), 1);
	close(fd);
}

static void empty_quarantine(const struct world *w)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/quarantine", w->dir);
	nftw(path, rm_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void check_hole(struct world *w, uint64_t hole, uint64_t last)
{
	assert_int_equal(w->ngot, last - 1);
	for (size_t i = 0; i < w->ngot; i++)
		assert_int_equal(w->got[i].seq, i + 1 < hole ? i + 1 : i + 2);
	assert_true(says_lost(w, hole, hole));
}

static void flipped_bit_in_the_middle(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, PLENTY);
	size_t len, qlen;
	char qpath[PATH_MAX];
	world_fill(w, 60);
	journal_close(&w->j);
	char *whole = slurp(world_segment(w, 1), &len);
	for (size_t at = 0; at < sizeof(struct rec_head) + record_len(30);
	     at += at < sizeof(struct rec_head) ? 1 : 29) {
		size_t byte = w->where[30].offset - sizeof(struct rec_head) + at;
		spit(world_segment(w, 1), whole, len);
		flip(world_segment(w, 1), byte, (unsigned char)(1 << at % 8));
		world_open(w, 0);
		check_hole(w, 30, 60);
		assert_int_equal(count_files(w->dir, "quarantine", ".seg", NULL), 1);
		/* The copy is what the disk held. */
		struct seg_head h;
		memcpy(&h, whole, sizeof(h));
		snprintf(qpath, sizeof(qpath), "%s/quarantine/%016llx-%016llx.seg", w->dir, 1ull,
			 (unsigned long long)h.epoch);
		char *q = slurp(qpath, &qlen);
		assert_int_equal(qlen, len);
		assert_int_equal((unsigned char)q[byte], (unsigned char)whole[byte] ^ 1 << at % 8);
		q[byte] = whole[byte];
		assert_memory_equal(q, whole, len);
		free(q);
		assert_int_equal(w->next, 61); /* and writing goes on behind */
		world_fill(w, 70);
		world_reopen(w, 0);
		check_hole(w, 30, 70);
		assert_int_equal(count_files(w->dir, "quarantine", "", NULL), 1); /* one copy is enough */
		/* Once the store has what there is, nobody is told again. */
		world_reopen(w, 40);
		world_got(w, 41, 70);
		assert_null(strstr(w->log, "lost"));
		journal_close(&w->j);
		empty_quarantine(w);
		only_first_segment(w);
	}
	free(whole);
	world_free(w);
}

static void several_holes(void **state)
{
	(void)state;
	struct world *w = world_new(64 * KIB, 64 * KIB, PLENTY);
	world_fill(w, 60);
	journal_close(&w->j);
	for (uint64_t seq = 10; seq <= 12; seq++)
		flip(world_segment(w, 1), w->where[seq].offset - 32, 1);
	flip(world_segment(w, 1), w->where[40].offset + 3, 1);
	world_open(w, 0);
	assert_int_equal(w->ngot, 56);
	assert_true(says_lost(w, 10, 12));
	assert_true(says_lost(w, 40, 40));
	world_reopen(w, 11); /* part of the first hole is in the store */
	assert_true(says_lost(w, 12, 12));
	world_free(w);
}

/* The end of a segment that has a successor is no torn tail: what comes next proves it. */
static void damage_at_the_end_of_a_full_segment(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 300);
	uint64_t last_of_first = 1;
	while (w->where[last_of_first + 1].segment == 1)
		last_of_first++;
	journal_close(&w->j);
	flip(world_segment(w, 1), w->where[last_of_first].offset, 4);
	flip(world_segment(w, 1), w->where[last_of_first - 1].offset, 4);
	world_open(w, 0);
	assert_true(says_lost(w, last_of_first - 1, last_of_first));
	assert_int_equal(w->ngot, 298);
	assert_int_equal(count_files(w->dir, "quarantine", ".seg", NULL), 1);
	world_free(w);
}

static void missing_segment(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 500);
	uint64_t from = 1, to;
	while (w->where[from].segment < 3)
		from++;
	for (to = from; w->where[to + 1].segment == 3;)
		to++;
	journal_close(&w->j);
	assert_int_equal(unlink(world_segment(w, 3)), 0);
	world_open(w, 0);
	assert_true(says_lost(w, from, to));
	assert_int_equal(w->ngot, 500 - (to + 1 - from));
	world_free(w);
}

static void damaged_head(void **state)
{
	(void)state;
	for (size_t at = 0; at < sizeof(struct seg_head); at++) {
		struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
		char buf[RECORD_MOST];
		world_fill(w, 120 + at % 2 * 100); /* alone, or with a successor */
		uint64_t last = w->next - 1;
		journal_close(&w->j);
		flip(world_segment(w, 1), at, 0x20);
		world_open(w, 0);
		world_got(w, 1, last);
		assert_non_null(strstr(w->log, "head"));
		assert_null(strstr(w->log, "are lost"));
		assert_int_equal(count_files(w->dir, "quarantine", ".seg", NULL), 1);
		/* Readers need the head too. */
		struct journal_reader *r = journal_reader_open(w->dir);
		assert_true(journal_read(r, 1, w->where[50].offset, buf, record_len(50)));
		assert_true(record_is(50, buf, record_len(50)));
		journal_reader_close(&r);
		world_fill(w, last + 10);
		world_reopen(w, 0);
		world_got(w, 1, last + 10);
		assert_string_equal(w->log, ""); /* repaired */
		world_free(w);
	}
}

/* A file that lost its head in its second life: the first life's records are older than what is known. */
static void damaged_head_of_a_recycled_segment(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 400);
	journal_release(w->j, 399);
	world_fill(w, 700);
	uint64_t number = w->where[700].segment, last;
	for (last = 700; w->where[last % 4096].segment == number; last--)
		;
	journal_close(&w->j);
	flip(world_segment(w, number), 9, 1);
	world_open(w, 600);
	world_got(w, 601, 700);
	journal_close(&w->j);
	/* Nothing of it readable: said, and not mistaken for older records. */
	flip(world_segment(w, number), 9, 1);
	for (uint64_t seq = last + 1; seq <= 700; seq++)
		flip(world_segment(w, number), w->where[seq].offset - 32, 1);
	world_open(w, last);
	assert_int_equal(w->ngot, 0);
	assert_non_null(strstr(w->log, "head"));
	world_free(w);
}

/* A record without an epoch is none of ours: believed, it would give the file a head that no reader takes. */
static void salvage_wants_an_epoch(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	size_t len;
	world_fill(w, 20);
	journal_close(&w->j);
	char *p = slurp(world_segment(w, 1), &len);
	p[9] ^= 1;
	for (uint64_t seq = 1; seq <= 20; seq++) {
		struct rec_head h;
		char *at = p + w->where[seq].offset - sizeof(h);
		memcpy(&h, at, sizeof(h));
		h.epoch = h.crc = 0;
		h.crc = crc32c(crc32c(0, &h, sizeof(h)), at + sizeof(h), h.len);
		memcpy(at, &h, sizeof(h));
	}
	spit(world_segment(w, 1), p, len);
	free(p);
	world_open(w, 0);
	assert_int_equal(w->ngot, 0);
	assert_non_null(strstr(w->log, "head"));
	assert_int_equal(count_files(w->dir, "quarantine", ".seg", NULL), 1);
	world_fill(w, 5);
	world_reopen(w, 0);
	world_got(w, 1, 5);
	world_free(w);
}

static void set_layout(const struct world *w, uint32_t layout)
{
	struct seg_head h;
	size_t len;
	char *p = slurp(world_segment(w, 1), &len);
	memcpy(&h, p, sizeof(h));
	h.layout = layout;
	h.crc = 0;
	h.crc = crc32c(0, &h, sizeof(h));
	memcpy(p, &h, sizeof(h));
	spit(world_segment(w, 1), p, len);
	free(p);
}

static uint32_t layout_of(const struct world *w, uint64_t number)
{
	struct seg_head h;
	size_t len;
	char *p = slurp(world_segment(w, number), &len);
	memcpy(&h, p, sizeof(h));
	free(p);
	return h.layout;
}

/* What an older program left is read, and nothing is appended to it; what a newer one left is refused, and stays as it is. */
static void layouts(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 20);
	journal_close(&w->j);
	set_layout(w, LAYOUT_JOURNAL - 1);
	world_open(w, 0);
	world_got(w, 1, 20);
	assert_null(strstr(w->log, "head"));
	world_fill(w, 25);
	world_reopen(w, 0);
	world_got(w, 1, 25);
	assert_int_equal(layout_of(w, 1), LAYOUT_JOURNAL - 1);
	assert_int_equal(layout_of(w, 2), LAYOUT_JOURNAL);
	journal_close(&w->j);
	set_layout(w, LAYOUT_JOURNAL + 1);
	size_t before, after;
	char *error, *p = slurp(world_segment(w, 1), &before);
	for (int again = 0; again < 2; again++) {
		assert_null(journal_open(&w->conf, 0, world_take, w, &error));
		assert_non_null(strstr(error, "newer program"));
		free(error);
	}
	char *q = slurp(world_segment(w, 1), &after);
	assert_int_equal(before, after);
	assert_memory_equal(p, q, before);
	free(p);
	free(q);
	set_layout(w, 0); /* none has that: damage */
	world_open(w, 0);
	assert_non_null(strstr(w->log, "head"));
	world_got(w, 1, 25); /* by the records themselves */
	journal_close(&w->j);
	world_free(w);
}

static void cut_short_in_the_middle(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 300);
	journal_close(&w->j);
	assert_int_equal(truncate(world_segment(w, 1), 9000), 0);
	world_open(w, 0);
	assert_non_null(strstr(w->log, "are lost"));
	assert_int_equal(w->got[w->ngot - 1].seq, 300);
	world_fill(w, 310);
	journal_close(&w->j);
	assert_int_equal(truncate(world_segment(w, 1), 100), 0);
	world_open(w, 0);
	assert_int_equal(w->got[w->ngot - 1].seq, 310);
	assert_int_equal(truncate(world_segment(w, 1), 0), 0);
	world_reopen(w, 0);
	assert_int_equal(w->got[w->ngot - 1].seq, 310);
	world_free(w);
}

/* ---- anything at all ---- */

/* Every sequence that was not delivered, below the last that was, is named in the log. */
static void holes_are_told(const struct world *w)
{
	uint64_t want = 1;
	for (size_t i = 0; i < w->ngot; want = w->got[i++].seq + 1)
		for (; want < w->got[i].seq; want++) {
			bool told = false;
			for (const char *p = w->log; !told && (p = strstr(p, "records ")); p++) {
				unsigned long long a, b;
				told = sscanf(p, "records %llu to %llu are lost", &a, &b) == 2 && a <= want &&
				       want <= b;
			}
			if (!told)
				print_error("%llu is not told:\n%s\n", (unsigned long long)want, w->log);
			assert_true(told);
		}
}

static unsigned long long dice;
static unsigned roll(unsigned n)
{
	dice = dice * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)(dice >> 33) % n;
}

static void hurt(const struct world *w, uint64_t segments)
{
	const char *path = world_segment(w, 1 + roll((unsigned)segments));
	size_t len;
	if (access(path, F_OK) != 0)
		return;
	char *p = slurp(path, &len);
	size_t at = len ? roll((unsigned)len) : 0, n = len ? 1 + roll(roll(4) ? 64 : 12000) : 0;
	if (n > len - at)
		n = len - at;
	switch (roll(6)) {
	case 0: memset(p + at, 0, n); break;
	case 1: memset(p + at, 0xff, n); break;
	case 2:
		memmove(p + at, p + roll((unsigned)(len - n + 1)), n); /* a block of elsewhere */
		break;
	case 3: len = roll(8) ? len : at; break;
	default:
		if (len)
			p[at] ^= (char)(1 << roll(8));
	}
	spit(path, p, len);
	free(p);
}

static void random_damage(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < 250; seed++) {
		struct world *w = world_new(16 * KIB, 16 * KIB, PLENTY);
		dice = seed;
		world_fill(w, 150);
		uint64_t segments = w->where[150].segment;
		journal_close(&w->j);
		for (unsigned i = 0; i <= seed % 4; i++)
			hurt(w, segments);
		world_open(w, 0); /* world_take checks content and order */
		holes_are_told(w);
		uint64_t last = w->next - 1, had = w->ngot;
		world_fill(w, last + 30);
		world_reopen(w, 0);
		assert_int_equal(w->ngot, had + 30);
		holes_are_told(w);
		world_free(w);
	}
}

static void foreign_files_are_left_alone(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	world_fill(w, 10);
	journal_close(&w->j);
	spit(world_path(w, "README"), "x", 1);
	spit(world_path(w, "0000000000000001.seg.bak"), "x", 1);
	spit(world_path(w, "00000000000000zz.seg"), "x", 1);
	spit(world_path(w, "0000000000000007.tmp"), "x", 1); /* ours: left by a kill */
	world_open(w, 0);
	world_got(w, 1, 10);
	assert_int_equal(access(world_path(w, "README"), F_OK), 0);
	assert_int_equal(access(world_path(w, "0000000000000001.seg.bak"), F_OK), 0);
	assert_int_equal(access(world_path(w, "0000000000000007.tmp"), F_OK), -1);
	world_free(w);
}

/* A power cut between a segment's new name and its new head. */
static void name_without_its_head(void **state)
{
	(void)state;
	struct world *w = world_new(32 * KIB, 32 * KIB, PLENTY);
	size_t len;
	world_fill(w, 200);
	uint64_t number = w->where[200].segment;
	journal_close(&w->j);
	char *old = slurp(world_segment(w, 1), &len); /* an older life's head and records */
	spit(world_segment(w, number + 1), old, len);
	free(old);
	world_open(w, 0);
	world_got(w, 1, 200);
	assert_null(strstr(w->log, "lost"));
	world_fill(w, 260);
	world_reopen(w, 0);
	world_got(w, 1, 260);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(torn_at_every_byte),
		cmocka_unit_test(cut_region_is_zeroed),
		cmocka_unit_test(flipped_bit_in_the_middle),
		cmocka_unit_test(several_holes),
		cmocka_unit_test(damage_at_the_end_of_a_full_segment),
		cmocka_unit_test(missing_segment),
		cmocka_unit_test(damaged_head),
		cmocka_unit_test(damaged_head_of_a_recycled_segment),
		cmocka_unit_test(salvage_wants_an_epoch),
		cmocka_unit_test(layouts),
		cmocka_unit_test(cut_short_in_the_middle),
		cmocka_unit_test(random_damage),
		cmocka_unit_test(foreign_files_are_left_alone),
		cmocka_unit_test(name_without_its_head),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
