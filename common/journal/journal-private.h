/* What the files of the journal share; not for anybody else. */
#ifndef ORC_JOURNAL_PRIVATE_H
#define ORC_JOURNAL_PRIVATE_H
#include <pthread.h>
#include <stdatomic.h>

#include "journal/journal.h"

#define SEG_LAYOUT 1
#define REC_VOID 0x80000000u /* rec_head.flags: payload was erased; the rest is the index within the group */

static inline size_t rec_bytes(size_t len) { return align_up(sizeof(struct rec_head) + len, 8); }

struct segment {
	uint64_t number, first_seq, last_seq; /* last_seq < first_seq: no record yet */
	uint64_t epoch, size;
	uint64_t used;        /* where the next record goes */
	uint64_t stale;       /* bytes below it may hold an earlier life of the file */
	int fd;
};

/* segment.c */
int segment_dir_open(const char *data_dir, char **error_r);
void segment_name(uint64_t number, char out[32]);
int must_check segment_write_head(struct segment *s);
bool must_check segment_read_head(int fd, struct seg_head *h_r);
/* A new zero-filled file `name` of `size` bytes. fd or -1 and errno. */
int must_check segment_create(int dirfd, const char *name, uint64_t size);
int must_check segment_zero(int fd, uint64_t from, uint64_t to);

/* scan.c: records in memory */
/* The record at `at` of a mapped segment, with this epoch and a good CRC; NULL otherwise. */
const struct rec_head *scan_record(const char *map, uint64_t size, uint64_t at, uint64_t epoch);
/* The next good record at or behind `at` with seq >= min_seq. */
const struct rec_head *scan_forward(const char *map, uint64_t size, uint64_t at, uint64_t epoch, uint64_t min_seq);
uint32_t scan_crc(const struct rec_head *h, const void *payload);

/* replay.c */
struct found {
	struct segment *v;
	size_t n;
};
/* Opens all segments of the directory in order of number. */
bool must_check replay_find(int dirfd, struct found *f, char **error_r);
/* Delivers records > after_seq; fills in each segment's last_seq and used. Returns the last sequence. */
uint64_t replay_run(const char *data_dir, struct found *f, uint64_t after_seq, journal_replay_fn *fn, void *arg);
#endif
