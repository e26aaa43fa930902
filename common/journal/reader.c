/* Reading a known place of the journal, from any process, beside the one that writes.
 *
 * Why a reader gets the right bytes or `false`. Two things overwrite bytes of a record: the next life of the
 * file, and a scrub. Both change the head first:
 *
 *   writer   W1  head: another number (writer.c, enlist), zeros (recycle_wipe), or `start` behind the record
 *                (scrub.c)
 *            W2  overwrites bytes of the record
 *   reader   R1  pread of the record
 *            R2  pread of the head
 *
 * Suppose R2 finds the old number and a `start` in front of the record. Then R2 came before W1, so
 * R1, which ended before R2 began, came before W1 and hence before W2: R1 saw nothing of it. (All four
 * are system calls on one inode's page cache; each ends before the next of its thread begins, with locked
 * instructions on the way in the kernel, so the order is kept on every machine we run on.) A head that
 * is read while it is being written may be torn: its CRC says so, and it is read again.
 * Numbers are never given twice, so the number alone tells one life from another. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

bool reader_head(int fd, struct seg_head *h_r)
{
	static const struct timespec pause = {0, 50000};
	for (int i = 0; i < 40; i++) {
		int e = segment_read_head(fd, h_r);
		if (e) {
			errno = e;
			return false;
		}
		if (segment_head_valid(h_r))
			return true;
		if (h_r->magic != SEG_MAGIC)
			break;
		if (i >= 4) /* its writer was interrupted in the middle of 4 KiB */
			nanosleep(&pause, NULL);
	}
	errno = EBADMSG;
	return false;
}

struct journal_reader *journal_reader_open(const char *data_dir)
{
	struct journal_reader *r = util_zalloc(sizeof(*r));
	struct buf path = {0};
	buf_printf(&path, "%s/" JOURNAL_SUBDIR, data_dir);
	r->path = util_strndup(path.p, path.len);
	buf_free(&path);
	r->fd = -1;
	r->scan.window = 1u << 20;
	for (size_t i = 0; i < READER_FILES; i++)
		r->files[i].fd = -1;
	r->dirfd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (r->dirfd == -1) {
		int e = errno;
		log_error("cannot open the journal directory %s for reading: %s", r->path, strerror(e));
		journal_reader_close(&r);
		errno = e;
	}
	return r;
}

void journal_reader_close(struct journal_reader **rp)
{
	struct journal_reader *r = *rp;
	if (!r)
		return;
	for (size_t i = 0; i < READER_FILES; i++)
		if (r->files[i].fd != -1)
			close(r->files[i].fd);
	if (r->fd != -1)
		close(r->fd);
	if (r->dirfd != -1)
		close(r->dirfd);
	scan_free(&r->scan);
	free(r->path);
	free(r);
	*rp = NULL;
}

static void drop(struct reader_file *f)
{
	if (f->fd != -1)
		close(f->fd);
	f->fd = -1;
}

/* A removed file takes disk space as long as somebody has it open. */
static void drop_removed(struct journal_reader *r)
{
	struct stat st;
	for (size_t i = 0; i < READER_FILES; i++)
		if (r->files[i].fd != -1 && fstat(r->files[i].fd, &st) == 0 && st.st_nlink == 0)
			drop(&r->files[i]);
}

static void explain(const struct journal_reader *r, int e)
{
	static _Thread_local struct log_limit limit;
	struct stat st;
	if (e == ENOENT && fstat(r->dirfd, &st) == 0 && st.st_nlink > 0)
		return; /* recycled: the usual case */
	log_warn_limited(&limit, 10, "segments in %s cannot be read: %s", r->path,
			 e == ENOENT ? "the directory was removed" : strerror(e));
}

static struct reader_file *file_of(struct journal_reader *r, uint64_t number)
{
	struct reader_file *oldest = &r->files[0];
	for (size_t i = 0; i < READER_FILES; i++) {
		struct reader_file *f = &r->files[i];
		if (f->fd != -1 && f->number == number) {
			f->used = ++r->clock;
			return f;
		}
		if (f->fd == -1 ? oldest->fd != -1 : oldest->fd != -1 && f->used < oldest->used)
			oldest = f;
	}
	drop_removed(r);
	drop(oldest);
	oldest->fd = segment_open(r->dirfd, segment_name(KIND_SEG, number).text, O_RDONLY);
	if (oldest->fd == -1) {
		explain(r, errno);
		return NULL;
	}
	oldest->number = number;
	oldest->used = ++r->clock;
	return oldest;
}

static bool read_all(int fd, char *buf, size_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)off);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == 0)
			errno = 0; /* cut short: not the file it was */
		if (n <= 0)
			return false;
		buf += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

bool journal_read(struct journal_reader *r, uint64_t segment, uint64_t offset, void *buf, size_t len)
{
	/* Twice at most: a descriptor of a file that lives on under another name is replaced. */
	for (int i = 0; i < 2; i++) {
		struct seg_head h;
		struct reader_file *f = file_of(r, segment);
		if (!f && errno != ENOENT)
			return false;
		if (!f || offset > INT64_MAX)
			break;
		int e = read_all(f->fd, buf, len, offset) ? 0 : errno;
		int he = reader_head(f->fd, &h) ? 0 : errno;
		if (!he && h.segment == segment) {
			bool inside = offset >= h.start + sizeof(struct rec_head) && offset <= h.size &&
				      len <= h.size - offset;
			errno = inside ? e : 0;
			return inside && !e;
		}
		drop(f);
		if (he && he != EBADMSG) {
			errno = he;
			return false;
		}
	}
	errno = 0;
	return false;
}
