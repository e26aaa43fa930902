/* The journal's files after anything: opened, replayed, read by cursor, appended to, opened again.
 *
 * Even first byte: up to three segment files whose bytes are the input's. Odd: three segments of valid records, with
 * what earlier lives of the files left behind them, and then damaged as the input says. Whatever is delivered was written so;
 * whatever is still whole on the disk is delivered; whatever is missing in front of something that proves
 * it existed is reported; what replay delivers the cursor delivers, and so does the next start. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crc32c.h"
#include "journal/journal-private.h"
#include "log.h"

#define FILES 3
#define FILE_BYTES SEG_LEAST_BYTES
#define BEFORE 100 /* sequences up to here were flushed long ago; the files' earlier lives hold such */
#define RECORDS 512
#define EPOCH(file) (0x1122334455660000ull + (file))

/* ---- the world around: disk and log ---- */

int fdatasync(int fd) { return (void)fd, 0; }
int fsync(int fd) { return (void)fd, 0; }
/* A reader gives the writer of a torn head some time; here nobody writes. */
int nanosleep(const struct timespec *want, struct timespec *left) { return (void)want, (void)left, 0; }

static struct loss {
	uint64_t from, to;
} losses[RECORDS];
static size_t nlosses;
static const char *const reported = "journal: records %llu to %llu are lost";

static void hear_loss(const char *fmt, va_list ap)
{
	if (strncmp(fmt, reported, strlen(reported)) != 0)
		return;
	uint64_t from = va_arg(ap, unsigned long long), to = va_arg(ap, unsigned long long);
	AN(from <= to);
	if (nlosses < ARRAY_LEN(losses))
		losses[nlosses++] = (struct loss){from, to};
}

/* The program's log: what is said is checked, not printed. */
_Atomic int log_levels[LOG_SUBSYSTEMS] = {
#define SUBSYSTEM(id, name, text) [LOG_IN_##id] = LOG_LV_INFO,
#include "log.def"
};
void log_write(struct log_site *s, const struct log_field *fields, const char *fmt, ...)
{
	va_list ap;
	(void)s, (void)fields;
	va_start(ap, fmt);
	hear_loss(fmt, ap);
	va_end(ap);
}
void log_write_limited(struct log_site *s, struct log_limit *l, unsigned every_s, const struct log_field *fields,
		       const char *fmt, ...)
{
	(void)s, (void)l, (void)every_s, (void)fields, (void)fmt;
}

static char dir[64], work[80];

static void empty(const char *path)
{
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.')
			AN(unlinkat(dirfd(d), e->d_name, 0) == 0);
	if (d)
		closedir(d);
}

static void remove_all(void)
{
	char path[96];
	empty(work);
	snprintf(path, sizeof(path), "%s/quarantine", dir);
	empty(path);
	rmdir(path);
}

static void at_end(void)
{
	remove_all();
	rmdir(work);
	rmdir(dir);
}

static void begin(void)
{
	if (!*dir) {
		snprintf(dir, sizeof(dir), "%s/orc-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
		AN(mkdtemp(dir));
		snprintf(work, sizeof(work), "%s/" JOURNAL_SUBDIR, dir);
		AN(mkdir(work, 0700) == 0);
		atexit(at_end);
	}
	remove_all();
	nlosses = 0;
}

/* ---- the files as they lie on the disk before the start ---- */

static struct file {
	unsigned char bytes[FILE_BYTES];
	size_t size;
	bool gone;
	uint64_t first, end; /* structured: sequences [first, end) were written to it … */
	size_t at[RECORDS];  /* … record first + i here */
} files[FILES];

static void spill(void)
{
	for (unsigned i = 0; i < FILES; i++) {
		if (files[i].gone)
			continue;
		char path[128];
		snprintf(path, sizeof(path), "%s/%s", work, segment_name(KIND_SEG, i + 1).text);
		int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		AN(fd >= 0 && write(fd, files[i].bytes, files[i].size) == (ssize_t)files[i].size);
		close(fd);
	}
}

static bool crc_good(const unsigned char *at, size_t room)
{
	struct rec_head h;
	if (room < sizeof(h))
		return false;
	memcpy(&h, at, sizeof(h));
	uint32_t crc = h.crc;
	h.crc = 0;
	return h.len <= room - sizeof(h) && crc32c(crc32c(0, &h, sizeof(h)), at + sizeof(h), h.len) == crc;
}

/* ---- what replay delivers ---- */

struct got {
	uint64_t seq, segment, offset;
	size_t len;
	uint32_t sum;
};
struct take {
	struct got v[4 * RECORDS];
	size_t n;
	bool original; /* `files` is what lies on the disk */
};

static void take(void *arg, uint64_t seq, uint64_t segment, uint64_t offset, const void *payload, size_t len)
{
	struct take *t = arg;
	AN(((uintptr_t)payload & 7) == 0);
	AN(!t->n || seq > t->v[t->n - 1].seq);
	if (t->original) {
		AN(segment >= 1 && segment <= FILES && !files[segment - 1].gone);
		struct file *f = &files[segment - 1];
		AN(offset >= sizeof(struct rec_head) && offset <= f->size && len <= f->size - offset);
		AN(memcmp(f->bytes + offset, payload, len) == 0);
		AN(crc_good(f->bytes + offset - sizeof(struct rec_head), f->size - offset + sizeof(struct rec_head)));
	}
	AN(t->n < ARRAY_LEN(t->v));
	t->v[t->n++] = (struct got){seq, segment, offset, len, crc32c(0, payload, len)};
}

static struct journal *open_journal(struct take *t, uint64_t after, bool original)
{
	const struct journal_conf conf = {dir, FILE_BYTES, FILE_BYTES, 1u << 30};
	char *error = NULL;
	t->n = 0;
	t->original = original;
	struct journal *j = journal_open(&conf, after, take, t, &error);
	if (!j)
		fprintf(stderr, "%s\n", error);
	AN(j && !error); /* no content of a file is a reason not to start */
	AN(journal_last_seq(j) >= (t->n ? t->v[t->n - 1].seq : 0));
	return j;
}

/* The flusher's way through the same files. */
static void check_cursor(const struct take *t, uint64_t after, uint64_t last)
{
	struct journal_reader *r = journal_reader_open(dir);
	struct journal_where where;
	const void *p;
	size_t len, i = 0;
	char copy[FILE_BYTES];
	AN(r);
	while (i < t->n) {
		int rc = journal_next(r, &after, last, &p, &len, &where);
		AN(rc == 1);
		const struct got *g = &t->v[i++];
		AN(after == g->seq && len == g->len && crc32c(0, p, len) == g->sum);
		AN(where.segment == g->segment && where.offset == g->offset);
		AN(journal_read(r, where.segment, where.offset, copy, len) && memcmp(copy, p, len) == 0);
	}
	journal_reader_close(&r);
}

static void same(const struct take *a, const struct take *b, size_t n)
{
	AN(b->n >= n);
	for (size_t i = 0; i < n; i++)
		AN(a->v[i].seq == b->v[i].seq && a->v[i].len == b->v[i].len && a->v[i].sum == b->v[i].sum);
}

/* Open, go on, open again. */
static void run(struct take *first, uint64_t after)
{
	static struct take second;
	struct journal_where where[2];
	struct iovec v[2] = {{"one more", 8}, {"and a longer one at the end", 27}};
	struct journal *j = open_journal(first, after, true);
	uint64_t last = journal_last_seq(j), next = (last > after ? last : after) + 1;
	check_cursor(first, after, last);
	if (next < INT64_MAX) {
		AN(journal_append(j, v, 2, next, where) == 0);
		AN(journal_sync(j) == 0);
	}
	journal_close(&j);
	size_t heard = nlosses;
	j = open_journal(&second, after, false);
	same(first, &second, first->n);
	if (next < INT64_MAX) {
		AN(second.n == first->n + 2);
		AN(second.v[first->n].seq == next && second.v[first->n + 1].len == 27);
		AN(journal_last_seq(j) == next + 1);
	}
	check_cursor(&second, after, journal_last_seq(j));
	journal_close(&j);
	nlosses = heard;
}

/* ---- any bytes ---- */

/* What the input nearly got right becomes right: no input would ever hit a checksum. */
static void fix_head(struct file *f)
{
	struct seg_head h;
	memcpy(&h, f->bytes, sizeof(h));
	h.magic = SEG_MAGIC;
	h.layout = SEG_LAYOUT;
	h.crc = 0;
	h.crc = crc32c(0, &h, sizeof(h));
	memcpy(f->bytes, &h, sizeof(h));
}

static void fix_records(struct file *f)
{
	struct rec_head h;
	for (size_t at = SEG_DATA_START; at + sizeof(h) <= f->size;) {
		memcpy(&h, f->bytes + at, sizeof(h));
		h.magic = REC_MAGIC;
		h.len %= 1024;
		h.crc = h.flags = 0;
		h.seq &= 0xffffffff000000ffull;
		memcpy(&h.epoch, f->bytes + offsetof(struct seg_head, epoch), 8);
		if (h.len > f->size - at - sizeof(h))
			return;
		h.crc = crc32c(crc32c(0, &h, sizeof(h)), f->bytes + at + sizeof(h), h.len);
		memcpy(f->bytes + at, &h, sizeof(h));
		at += record_room(h.len);
	}
}

/* The head's page is mostly zeros: the input has the struct, and then what stands behind the page. */
static void raw_file(struct file *f, const uint8_t *p, size_t n, unsigned help)
{
	size_t head = n < sizeof(struct seg_head) ? n : sizeof(struct seg_head);
	memset(f->bytes, 0, sizeof(f->bytes));
	if (head)
		memcpy(f->bytes, p, head);
	n -= head;
	if (n > FILE_BYTES - SEG_DATA_START)
		n = FILE_BYTES - SEG_DATA_START;
	if (n)
		memcpy(f->bytes + SEG_DATA_START, p + head, n);
	f->size = n ? SEG_DATA_START + n : head;
	f->gone = false;
	if (help & 1)
		fix_head(f);
	if (help & 2)
		fix_records(f);
}

static void raw(const uint8_t *p, size_t n, struct take *t)
{
	if (n < 5)
		return;
	size_t rest = n - 5, used = 0;
	unsigned count = 1 + p[1] % FILES;
	for (unsigned i = 0; i < FILES; i++) {
		size_t share = i + 1 < count ? rest / count : rest - used;
		if ((files[i].gone = i >= count))
			continue;
		raw_file(&files[i], p + 5 + used, share, p[2 + i]);
		used += share;
	}
	spill();
	run(t, p[0]);
}

/* ---- valid records, then damage ---- */

struct input {
	const uint8_t *p, *end;
};

static uint32_t byte(struct input *in) { return in->p < in->end ? *in->p++ : 0; }
static uint32_t word(struct input *in)
{
	uint32_t hi = byte(in);
	return hi << 8 | byte(in);
}

static size_t put_record(unsigned char *at, uint64_t seq, uint64_t epoch, size_t len)
{
	struct rec_head h = {.magic = REC_MAGIC, .seq = seq, .epoch = epoch, .len = (uint32_t)len};
	for (size_t i = 0; i < len; i++)
		at[sizeof(h) + i] = (unsigned char)(seq * 31 + i * 7);
	h.crc = crc32c(crc32c(0, &h, sizeof(h)), at + sizeof(h), len);
	memcpy(at, &h, sizeof(h));
	return record_room(len);
}

static uint64_t make_file(struct file *f, unsigned number, uint64_t seq, struct input *in)
{
	struct seg_head h = {.magic = SEG_MAGIC,
			     .layout = SEG_LAYOUT,
			     .segment = number,
			     .first_seq = seq,
			     .epoch = EPOCH(number),
			     .size = FILE_BYTES,
			     .start = SEG_DATA_START};
	size_t at = SEG_DATA_START, most = 1 + byte(in) % 80;
	memset(f->bytes, 0, sizeof(f->bytes));
	h.crc = crc32c(0, &h, sizeof(h));
	memcpy(f->bytes, &h, sizeof(h));
	/* an earlier life first */
	uint64_t old = byte(in) % BEFORE + 1;
	for (size_t o = at, len; old < BEFORE && o + record_room(len = old * 37 % 301) <= FILE_BYTES; old++)
		o += put_record(f->bytes + o, old, 0x7777, len);
	f->first = seq;
	for (uint32_t mix = byte(in); most; most--, seq++) {
		size_t len = (seq * 7919 + mix * 13) % 401;
		if (at + record_room(len) > FILE_BYTES || seq - f->first == RECORDS)
			break;
		f->at[seq - f->first] = at;
		at += put_record(f->bytes + at, seq, EPOCH(number), len);
	}
	f->end = seq;
	f->size = FILE_BYTES;
	f->gone = false;
	return seq;
}

static void damage(struct input *in)
{
	struct file *f = &files[byte(in) % FILES];
	size_t at = word(in) % FILE_BYTES, n;
	switch (byte(in) % 8) {
	case 0: /* one bit */ f->bytes[at] ^= (unsigned char)(1 << byte(in) % 8); break;
	case 1: f->bytes[at] = (unsigned char)byte(in); break;
	case 2: /* a lost sector, or several */
		at &= ~(size_t)511;
		n = 512 * (1 + byte(in) % 8);
		memset(f->bytes + at, (int)byte(in), n < FILE_BYTES - at ? n : FILE_BYTES - at);
		break;
	case 3: /* the end is missing */ f->size = at < f->size ? at : f->size; break;
	case 4: f->gone = true; break;
	case 5: { /* a field of a record's head */
		uint64_t i = f->end > f->first ? byte(in) % (f->end - f->first) : 0;
		if (f->end > f->first)
			f->bytes[f->at[i] + byte(in) % sizeof(struct rec_head)] ^= (unsigned char)(1 + byte(in) % 255);
		break;
	}
	case 6: /* all of it behind here was never written */ memset(f->bytes + at, 0, FILE_BYTES - at); break;
	case 7: /* the input's own bytes */
		for (n = byte(in); n && at < FILE_BYTES && in->p < in->end; n--)
			f->bytes[at++] = (unsigned char)byte(in);
	}
}

static bool whole(const struct file *f, uint64_t seq)
{
	static unsigned char good[FILE_BYTES];
	size_t at = f->at[seq - f->first];
	struct rec_head h;
	if (at + sizeof(h) > f->size)
		return false;
	memcpy(&h, f->bytes + at, sizeof(h));
	if (h.seq != seq || h.len > FILE_BYTES - sizeof(h) || at + sizeof(h) + h.len > f->size)
		return false;
	put_record(good, seq, EPOCH(f - files + 1), h.len);
	return memcmp(good, f->bytes + at, sizeof(h) + h.len) == 0;
}

static bool is_reported(uint64_t seq)
{
	for (size_t i = 0; i < nlosses; i++)
		if (seq >= losses[i].from && seq <= losses[i].to)
			return true;
	return false;
}

static const struct got *delivered(const struct take *t, uint64_t seq)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].seq == seq)
			return &t->v[i];
	return NULL;
}

static void check_account(const struct take *t, uint64_t after)
{
	uint64_t proven = t->n ? t->v[t->n - 1].seq : 0;
	for (size_t i = 0; i < nlosses; i++) /* each once */
		for (size_t k = 0; k < i; k++)
			AN(losses[i].from > losses[k].to || losses[i].to < losses[k].from);
	for (unsigned i = 0; i < FILES; i++) {
		struct seg_head h;
		const struct file *f = &files[i];
		memcpy(&h, f->bytes, sizeof(h));
		if (!f->gone && f->size >= sizeof(h) && segment_head_valid(&h) && h.segment == i + 1 &&
		    h.first_seq - 1 > proven)
			proven = h.first_seq - 1; /* a head is written after everything in front of it */
	}
	for (unsigned i = 0; i < FILES; i++) {
		const struct file *f = &files[i];
		for (uint64_t seq = f->first; seq < f->end; seq++) {
			const struct got *g = delivered(t, seq);
			if (seq <= after) {
				AN(!g);
				continue;
			}
			AN(!g || (!f->gone && whole(f, seq) && g->segment == i + 1));
			AN(g || f->gone || !whole(f, seq));
			AN(!g || !is_reported(seq));
			AN(g || seq > proven || is_reported(seq));
		}
	}
}

static void structured(const uint8_t *p, size_t n, struct take *t)
{
	struct input in = {p, p + n};
	uint64_t seq = BEFORE + 1, after = BEFORE + byte(&in) % 64;
	for (unsigned i = 0; i < FILES; i++)
		seq = make_file(&files[i], i + 1, seq, &in);
	for (unsigned i = 0; i < 16 && in.p < in.end; i++)
		damage(&in);
	spill();
	run(t, after);
	check_account(t, after);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct take t;
	if (!size)
		return 0;
	begin();
	(data[0] & 1 ? structured : raw)(data + 1, size - 1, &t);
	return 0;
}
