/* Inside the journal. File names in data.dir/journal/:
 *
 *   NUMBER.seg    holds records, or is the current one that will
 *   ID.spare      ready for use: zero-filled, or a released segment (whatever it holds counts for nothing)
 *   ID.tmp        being zero-filled; removed at the next start
 *
 * A segment's life: tmp → spare → seg → spare → seg … Number and epoch are given when it becomes a
 * segment: head written first, then renamed. Numbers ascend and are never used twice.
 *
 * Threads. One appends and syncs: `fd`, `group`, `dir_dirty`, `unsynced`, `next_seq` are its own. Others call
 * prepare, release, scrub: `upkeep` makes them take turns and is held across their file I/O, except for the
 * zeros of new spares, which take long and concern nobody else (`making`: one thread at a time). The appending
 * thread never takes either. `list` guards the arrays and what is marked so; it is held for memory only.
 * A spare that somebody works on is out of the array. The current segment (the last of segs) is written by
 * the appending thread alone, behind `end`; what lies before `end` and the head belong to upkeep. */
#ifndef ORC_JOURNAL_PRIVATE_H
#define ORC_JOURNAL_PRIVATE_H
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include "contract.h"
#include "journal/journal.h"

#define JOURNAL_SUBDIR "journal"
#define QUARANTINE_SUBDIR "quarantine"
#define SEG_LAYOUT LAYOUT_JOURNAL
#define SEG_LEAST_BYTES (4 * SEG_DATA_START)
#define SPARES_READY 2		    /* journal_prepare() makes as many … */
#define SPARES_KEPT 8		    /* … and removes beyond that */
#define GROUP_RECORDS (IOV_MAX / 3) /* head, payload, padding of each in one pwritev */

enum seg_kind { KIND_SEG, KIND_SPARE, KIND_TMP };
struct seg_name {
	char text[32];
};

struct seg {
	uint64_t number, epoch, size;
	uint64_t first_seq;  /* of the first record that is (or will be) in it */
	uint64_t last_seq;   /* 0 = no record */
	uint64_t start, end; /* its records; bytes behind `end` are nobody's */
	bool stale;	     /* released bytes may lie behind `end`, or in front of `start` */
};
struct spare {
	uint64_t id, size;
	bool stale;
};

struct group {
	struct iovec iov[GROUP_RECORDS * 3];
	struct rec_head heads[GROUP_RECORDS];
};

/* Losses that journal_open() reported: who reads the same files afterwards need not say so again. */
#define TOLD_RANGES 64 /* beyond, a loss is told twice */
struct told {
	size_t n;
	struct {
		uint64_t from, to;
	} range[TOLD_RANGES];
};

struct journal {
	struct told told;      /* does not change once the journal is open */
	char *data_dir, *path; /* path: data_dir/journal, for messages */
	uint64_t first_bytes, segment_bytes, quota_bytes;
	int dirfd;

	int fd;		/* the current segment */
	bool dir_dirty; /* a rename is not on the disk yet */
	bool unsynced;	/* records of the current segment are not */
	uint64_t next_seq;
	_Atomic int failed; /* errno that is final */
	_Atomic uint64_t last_seq, held;
	struct group *group;

	pthread_mutex_t making; /* taken before upkeep */
	pthread_mutex_t upkeep;
	pthread_mutex_t list; /* guards all below */
	pthread_cond_t idle;  /* `writing` became false */
	bool writing;	      /* the appending thread is inside the current segment */
	bool sealed;	      /* no more appends to the current segment: rotate */
	struct seg *segs;     /* ascending; the last is the current one */
	size_t nsegs, csegs;
	struct spare *spares;
	size_t nspares, cspares;
	uint64_t next_number, next_id;
	uint64_t total;	   /* bytes of all files */
	uint64_t released; /* records ≤ are in the store */
};

/* ---- segment.c: files ---- */
struct seg_name segment_name(enum seg_kind kind, uint64_t n);
bool segment_parse_name(const char *name, enum seg_kind *kind_r, uint64_t *n_r);
/* False: the head is damaged. It may still be a head of another number. */
bool must_check segment_head_valid(const struct seg_head *h);
/* A head that is whole, of a layout that is not known yet: in all of them magic, layout and crc are where they are here. */
bool must_check segment_head_newer(const struct seg_head *h);
/* 0 or errno. */
int must_check segment_head_write(int fd, const struct seg *g);
/* openat() by name below a journal's folder: close-on-exec, links not followed, mode 0600, tried again when
 * interrupted. -1: errno. */
int must_check segment_open(int dirfd, const char *name, int flags);
int must_check segment_read_head(int fd, struct seg_head *h_r);
uint64_t must_check segment_new_epoch(void);
/* Reads up to len bytes; fewer at the end of the file. Pages that the disk cannot read come as zeros; *error_r
 * (if not NULL) is set to the errno of whatever could not be read, and left alone otherwise. */
size_t must_check segment_read(int fd, void *buf, size_t len, uint64_t off, int *error_r);
/* Writes all, over short writes and EINTR. *done_r = bytes written, also after an error. iov is used up. */
int must_check segment_writev(int fd, struct iovec *iov, size_t n, uint64_t off, uint64_t *done_r);
int must_check segment_zero(int fd, uint64_t from, uint64_t to);
int must_check segment_datasync(int fd);
int must_check segment_dirsync(int dirfd);
/* Makes a file of `size` bytes; fill: of written zeros (fdatasync'ed), else only reserved. */
int must_check segment_create(int dirfd, const char *name, uint64_t size, bool fill, int *fd_r);
enum fs_verdict { FS_LOCAL, FS_DOUBTFUL, FS_NETWORK };
enum fs_verdict segment_fs(long f_type, const char **name_r);
static inline uint64_t record_room(uint64_t len) { return (sizeof(struct rec_head) + len + 7) & ~7ull; }

/* ---- scan.c: finding records in a file through a sliding window ---- */
struct scan {
	int fd;
	uint64_t epoch; /* 0 = any */
	uint64_t end;	/* nothing at or behind it is looked at */
	size_t window;	/* bytes to read at once */
	char *buf;
	size_t cap, len;
	uint64_t base;
	int error; /* errno of the last read that failed; whoever asks for it sets it to 0 before */
};
struct scan_hit {
	uint64_t off; /* of the rec_head */
	struct rec_head head;
	const void *payload; /* until the next call */
};
void scan_start(struct scan *s, int fd, uint64_t epoch, uint64_t end);
void scan_forget(struct scan *s); /* the file may have changed: read again */
void scan_free(struct scan *s);
/* The record at `off`, whatever its sequence. False: none that is whole. */
bool must_check scan_at(struct scan *s, uint64_t off, struct scan_hit *hit_r);
/* The first whole record at or behind `off` that can follow a record seq-1 in front of `off`: its sequence is
 * ≥ seq, by no more than fits in between (no such bound when the epoch is any). False: none; then
 * *dirty_r = end of the last thing that looks like a piece of a record, or `off`. */
bool must_check scan_search(struct scan *s, uint64_t off, uint64_t seq, struct scan_hit *hit_r, uint64_t *dirty_r);

/* ---- list.c: the arrays; all with `list` held ---- */
void list_push_seg(struct journal *j, const struct seg *g);
void list_push_spare(struct journal *j, const struct spare *s);
struct seg *list_current(struct journal *j);
bool must_check list_take_spare(struct journal *j, uint64_t room, struct spare *s_r);
void list_account(struct journal *j); /* recomputes `held` */

/* ---- writer.c ---- */
/* Makes a new current segment for `room` bytes of records from first_seq. 0 or errno. */
int must_check writer_rotate(struct journal *j, uint64_t room, uint64_t first_seq);
int writer_fail(struct journal *j, int error); /* final */

/* ---- replay.c ---- */
struct found { /* a *.seg file at start */
	uint64_t number, size;
	struct seg_head head;
	bool head_ok;
};
/* Delivers and fills segs, spares, last_seq, next_seq. *reuse_r: appending can go on in the last segment. */
int must_check replay_run(struct journal *j, struct found *f, size_t n, uint64_t after_seq, journal_replay_fn *fn,
			  void *arg, bool *reuse_r);
/* Copies a damaged file to the quarantine and says where in *path_r (empty: it could not). */
void quarantine_copy(const struct journal *j, uint64_t number, uint64_t epoch, char path_r[static PATH_MAX]);

/* ---- recycle.c ---- */
void recycle_released(struct journal *j, uint64_t flushed_seq);	       /* with `upkeep` held */
int must_check recycle_wipe(struct journal *j, const struct spare *s); /* zeros over the whole file */
int must_check recycle_remove(struct journal *j, const struct spare *s);
/* Removes idle spares that are too small to help, so that `more` bytes fit in the quota. */
bool must_check recycle_make_room(struct journal *j, uint64_t more);

/* ---- reader.c, cursor.c ---- */
#define READER_FILES 4
struct reader_file {
	uint64_t number, used;
	int fd; /* -1: empty */
};
struct journal_reader {
	char *path;
	int dirfd;
	uint64_t clock;
	struct reader_file files[READER_FILES];
	/* The cursor: record `seq` is expected at `off` of segment `number`. fd -1: nowhere yet. */
	int fd;
	uint64_t number, off, seq;
	struct scan scan;
	struct told told;
};
/* The head as one whole, though somebody may be rewriting it. False: there is none (errno EBADMSG), or it cannot be read now. */
bool must_check reader_head(int fd, struct seg_head *h_r);
#endif
