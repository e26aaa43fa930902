/* Reading the journal from any process, while its writer goes on.
 *
 * A segment file may be recycled under a reader's feet. Recycling first invalidates the head, and only
 * then may anything else be written to the file; a reader reads first what it wants and then the head
 * again. If the head still names the segment and its epoch, what was read before is what was written
 * there in that life; if not, the store has the record. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "journal-private.h"
#include "log.h"

#define OPEN_FILES 4
#define WINDOW (1u << 20)

struct opened {
	uint64_t number, epoch, first_seq, size;
	int fd;
};
struct journal_reader {
	int dirfd;
	struct opened file[OPEN_FILES];
	unsigned turn;
	/* the cursor */
	struct opened at;
	bool placed;
	uint64_t offset;
	char *window;
	uint64_t window_at, window_len;
	size_t window_cap;
};

struct journal_reader *journal_reader_open(const char *data_dir)
{
	char path[4096];
	if (snprintf(path, sizeof(path), "%s/journal", data_dir) >= (int)sizeof(path))
		return NULL;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct journal_reader *r = util_zalloc(sizeof(*r));
	r->dirfd = fd;
	r->at.fd = -1;
	for (int i = 0; i < OPEN_FILES; i++)
		r->file[i].fd = -1;
	return r;
}

void journal_reader_close(struct journal_reader **rp)
{
	struct journal_reader *r = *rp;
	if (!r)
		return;
	for (int i = 0; i < OPEN_FILES; i++)
		if (r->file[i].fd >= 0)
			close(r->file[i].fd);
	if (r->at.fd >= 0)
		close(r->at.fd);
	close(r->dirfd);
	free(r->window);
	free(r);
	*rp = NULL;
}

static bool open_number(struct journal_reader *r, uint64_t number, struct opened *o)
{
	char name[32];
	struct seg_head h;
	segment_name(number, name);
	*o = (struct opened){.number = number, .fd = openat(r->dirfd, name, O_RDONLY | O_CLOEXEC)};
	if (o->fd < 0)
		return false;
	if (segment_read_head(o->fd, &h) && h.segment == number) {
		o->epoch = h.epoch;
		o->first_seq = h.first_seq;
		o->size = h.size;
		return true;
	}
	close(o->fd);
	o->fd = -1;
	return false;
}

static bool still_valid(const struct opened *o)
{
	struct seg_head h;
	return segment_read_head(o->fd, &h) && h.segment == o->number && h.epoch == o->epoch;
}

static struct opened *find_open(struct journal_reader *r, uint64_t number)
{
	for (int i = 0; i < OPEN_FILES; i++)
		if (r->file[i].fd >= 0 && r->file[i].number == number)
			return &r->file[i];
	struct opened *o = &r->file[r->turn++ % OPEN_FILES];
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
	return open_number(r, number, o) ? o : NULL;
}

static void forget(struct opened *o)
{
	close(o->fd);
	o->fd = -1;
}

bool journal_read(struct journal_reader *r, uint64_t segment, uint64_t offset, void *buf, size_t len)
{
	struct opened *o = find_open(r, segment);
	if (!o)
		return false;
	char *p = buf;
	while (len) {
		ssize_t n = pread(o->fd, p, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	if (!len && still_valid(o))
		return true;
	forget(o);
	return false;
}

/* ---- the cursor ---- */

/* The segment that holds `seq`: the one with the highest first_seq <= seq. */
static bool place(struct journal_reader *r, uint64_t seq)
{
	int fd = dup(r->dirfd);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct opened best = {.fd = -1};
	if (!d)
		return false;
	rewinddir(d);
	while ((e = readdir(d))) {
		struct opened o;
		if (strlen(e->d_name) != 20 || strcmp(e->d_name + 16, ".seg") != 0 ||
		    !open_number(r, strtoull(e->d_name, NULL, 16), &o))
			continue;
		bool better = o.first_seq <= seq && (best.fd < 0 || o.number > best.number);
		if (better && best.fd >= 0)
			close(best.fd);
		if (better)
			best = o;
		else
			close(o.fd);
	}
	closedir(d);
	if (r->at.fd >= 0)
		close(r->at.fd);
	r->at = best;
	r->offset = SEG_DATA_START;
	r->window_len = 0;
	return best.fd >= 0;
}

/* Makes [offset, offset + need) of the current segment available. */
static const char *view(struct journal_reader *r, uint64_t offset, size_t need)
{
	if (offset >= r->window_at && offset + need <= r->window_at + r->window_len)
		return r->window + (offset - r->window_at);
	size_t want = need > WINDOW ? need : WINDOW;
	if (r->window_cap < want) {
		free(r->window);
		r->window = util_alloc(want);
		r->window_cap = want;
	}
	ssize_t n;
	do
		n = pread(r->at.fd, r->window, want, (off_t)offset);
	while (n < 0 && errno == EINTR);
	r->window_at = offset;
	r->window_len = n > 0 ? (uint64_t)n : 0;
	return r->window_len >= need ? r->window : NULL;
}

/* The record at the cursor when it is good and its sequence is at least `seq`... NULL otherwise. */
static const struct rec_head *good_record(struct journal_reader *r)
{
	const char *p = view(r, r->offset, sizeof(struct rec_head));
	const struct rec_head *h = (const void *)p;
	if (!p || h->magic != REC_MAGIC || h->epoch != r->at.epoch || r->offset + rec_bytes(h->len) > r->at.size)
		return NULL;
	size_t len = rec_bytes(h->len);
	p = view(r, r->offset, len);
	h = (const void *)p;
	if (!p || h->magic != REC_MAGIC || rec_bytes(h->len) != len)
		return NULL;
	return scan_crc(h, h + 1) == h->crc ? h : NULL;
}

/* Behind damage in this segment: the next good record. Replay has reported the loss. */
static const struct rec_head *skip_damage(struct journal_reader *r, uint64_t seq, uint64_t to)
{
	size_t n = (size_t)(r->at.size - r->offset);
	const char *map = view(r, r->offset, n);
	const struct rec_head *h = map ? scan_forward(map, n, 0, r->at.epoch, seq) : NULL;
	if (!h || h->seq > to)
		return NULL;
	r->offset += (uint64_t)((const char *)h - map);
	return good_record(r);
}

/* No good record at the cursor: the window is older than the last writes, or the segment ends here
 * and another one goes on, or there is damage. */
static const struct rec_head *look_again(struct journal_reader *r, uint64_t want, uint64_t to)
{
	uint64_t number = r->at.number, offset = r->offset;
	const struct rec_head *h;
	r->window_len = 0;
	if ((h = good_record(r)))
		return h;
	if (!place(r, want))
		return NULL;
	if (r->at.number == number)
		r->offset = offset;
	else if ((h = good_record(r)))
		return h;
	return skip_damage(r, want, to);
}

int journal_next(struct journal_reader *r, uint64_t *after_seq, uint64_t to_seq, const void **payload_r,
		 size_t *len_r, struct journal_where *where_r)
{
	uint64_t want = *after_seq + 1;
	if (*after_seq >= to_seq)
		return 0;
	if (!r->placed && !(r->placed = place(r, want))) {
		errno = ENOENT;
		return -1;
	}
	for (;;) {
		const struct rec_head *h = good_record(r);
		if (h && h->seq < want) { /* on the way to the first one wanted */
			r->offset += rec_bytes(h->len);
			continue;
		}
		if (!h && !(h = look_again(r, want, to_seq))) {
			r->placed = false;
			errno = EIO;
			return -1;
		}
		if (h->seq > to_seq)
			return 0;
		*after_seq = h->seq;
		*where_r = (struct journal_where){r->at.number, r->offset + sizeof(*h)};
		r->offset += rec_bytes(h->len);
		if (h->flags & REC_VOID) {
			want = h->seq + 1;
			if (h->seq == to_seq)
				return 0;
			continue;
		}
		*payload_r = h + 1;
		*len_r = h->len;
		return 1;
	}
}
