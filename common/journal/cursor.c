/* The cursor over records in order. Every record proves itself (epoch, sequence, CRC of the copy
 * that the caller gets), so it needs no agreement with the writer beyond `to_seq`: all up to there is written. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "log.h"

struct pick {
	int fd; /* -1: none */
	struct seg_head head;
};

typedef bool better_fn(const struct seg_head *h, const struct seg_head *best, uint64_t than);

/* The last segment that begins at or in front of the sequence; if all begin behind it, the first. */
static bool better_start(const struct seg_head *h, const struct seg_head *best, uint64_t seq)
{
	bool fits = h->first_seq <= seq, best_fits = best->first_seq <= seq;
	if (fits != best_fits)
		return fits;
	return fits ? h->segment > best->segment : h->segment < best->segment;
}

/* The next one behind the number. */
static bool better_next(const struct seg_head *h, const struct seg_head *best, uint64_t number)
{
	return best->segment <= number || (h->segment > number && h->segment < best->segment);
}

/* False and errno: not every segment could be looked at, so nobody knows which is the right one. */
static bool pick_segment(struct journal_reader *r, better_fn *better, uint64_t than, struct pick *p)
{
	int e = 0;
	int dir = segment_open(r->dirfd, ".", O_RDONLY | O_DIRECTORY);
	DIR *d = dir == -1 ? NULL : fdopendir(dir);
	p->fd = -1;
	if (!d) {
		e = errno;
		if (dir != -1)
			close(dir);
		errno = e;
		return false;
	}
	while (!e) {
		errno = 0;
		struct dirent *entry = readdir(d);
		if (!entry) {
			e = errno;
			break;
		}
		enum seg_kind kind;
		uint64_t number;
		struct seg_head h;
		if (!segment_parse_name(entry->d_name, &kind, &number) || kind != KIND_SEG)
			continue;
		int fd = segment_open(r->dirfd, entry->d_name, O_RDONLY);
		if (fd == -1) {
			e = errno == ENOENT ? 0 : errno; /* recycled a moment ago */
			continue;
		}
		if (!reader_head(fd, &h)) {
			e = errno == EBADMSG ? 0 : errno;
		} else if (h.segment == number && (p->fd == -1 || better(&h, &p->head, than))) {
			int old = p->fd;
			*p = (struct pick){fd, h};
			fd = old;
		}
		if (fd != -1)
			close(fd);
	}
	closedir(d);
	if (!e)
		return true;
	if (p->fd != -1)
		close(p->fd);
	p->fd = -1;
	errno = e;
	return false;
}

static void enter(struct journal_reader *r, const struct pick *p)
{
	if (r->fd != -1)
		close(r->fd);
	r->fd = p->fd;
	r->number = p->head.segment;
	r->off = p->head.start;
	r->seq = p->head.first_seq;
	scan_start(&r->scan, r->fd, p->head.epoch, p->head.size);
}

static int seek(struct journal_reader *r, uint64_t want)
{
	struct pick p;
	if (r->fd != -1 && r->seq == want)
		return 0;
	if (r->fd != -1)
		close(r->fd);
	r->fd = -1;
	if (!pick_segment(r, better_start, want, &p))
		return errno;
	if (p.fd == -1)
		return ENODATA;
	enter(r, &p);
	return 0;
}

void journal_reader_knows(struct journal_reader *r, const struct journal *j) { r->told = j->told; }

static void report(const struct journal_reader *r, uint64_t from, uint64_t to)
{
	for (size_t i = 0; i < r->told.n; i++)
		if (r->told.range[i].from <= from && to <= r->told.range[i].to)
			return;
	log_error("journal: records %llu to %llu in %s cannot be read any more (segment %s); those behind are used",
		  (unsigned long long)from, (unsigned long long)to, r->path, segment_name(KIND_SEG, r->number).text);
}

/* Record r->seq or, where that is damaged, the first one behind it up to to_seq. 0, or errno. What cannot be
 * read now is not damaged: the caller tries again, and passes nothing that was acknowledged. */
static int advance(struct journal_reader *r, uint64_t want, uint64_t to_seq, struct scan_hit *h)
{
	struct pick p;
	uint64_t dirty;
	r->scan.error = 0;
	if (scan_at(&r->scan, r->off, h) && h->head.seq == r->seq)
		return 0;
	scan_forget(&r->scan); /* what was read ahead is older than what has been written since */
	if (scan_at(&r->scan, r->off, h) && h->head.seq == r->seq)
		return 0;
	/* The writer went on in the next segment, which exists: r->seq ≤ to_seq is written. */
	if (!pick_segment(r, better_next, r->number, &p))
		return errno;
	if (p.fd != -1 && (p.head.segment <= r->number || p.head.first_seq > to_seq)) {
		close(p.fd);
		p.fd = -1;
	}
	if (p.fd != -1 && p.head.first_seq <= r->seq) {
		enter(r, &p);
		return EAGAIN;
	}
	bool found = !r->scan.error && scan_search(&r->scan, r->off, r->seq, h, &dirty) && h->head.seq <= to_seq;
	if (r->scan.error) {
		scan_forget(&r->scan);
		if (p.fd != -1)
			close(p.fd);
		return r->scan.error;
	}
	if (found) {
		if (h->head.seq > want)
			report(r, r->seq > want ? r->seq : want, h->head.seq - 1);
		if (p.fd != -1)
			close(p.fd);
		return 0;
	}
	if (p.fd == -1)
		return EBADMSG;
	if (p.head.first_seq > want)
		report(r, r->seq > want ? r->seq : want, p.head.first_seq - 1);
	enter(r, &p);
	return EAGAIN;
}

int journal_next(struct journal_reader *r, uint64_t *after_seq, uint64_t to_seq, const void **payload_r, size_t *len_r,
		 struct journal_where *where_r)
{
	uint64_t want = *after_seq + 1;
	struct scan_hit h;
	int e;
	if (want > to_seq)
		return 0;
	e = seek(r, want);
	if (e == ENODATA || (!e && r->seq > to_seq))
		return 0;
	if (!e && r->seq > want)
		report(r, want, r->seq - 1);
	while (!e) {
		e = advance(r, want, to_seq, &h);
		if (e == EAGAIN) {
			e = 0;
			continue;
		}
		if (e)
			break;
		r->off = h.off + record_room(h.head.len);
		r->seq = h.head.seq + 1;
		if (h.head.seq < want)
			continue;
		*after_seq = h.head.seq;
		*payload_r = h.payload;
		*len_r = h.head.len;
		*where_r = (struct journal_where){r->number, h.off + sizeof(struct rec_head)};
		return 1;
	}
	errno = e;
	return -1;
}
