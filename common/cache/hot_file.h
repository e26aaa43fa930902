/* What was hot in L1, in a file beneath data.dir: so that a daemon begins where its predecessor left off.
 *
 * Two forms of one format, each in a file of its own:
 *   hot/bodies   memories as they were cached, hottest first: written when the daemon leaves
 *   hot/ids      which memories they were, and no more: written now and then, for whoever is killed
 *
 *	head | block | block | …		a head and each block begin at a multiple of 4,096 bytes
 *
 * A block has a head with a checksum of its own and one of what it holds, so a file that is torn or damaged is used as
 * far as it is right. It is a copy of what the store has: nothing is synced, and what is missing is read from the store.
 *
 * Bodies are encrypted (AES-256 in counter mode) with a key of their own that lies beside them, in hot/key. That keeps no
 * secret from whoever can read both; it is for erasing: the key is overwritten and synced as soon as the bodies are
 * taken up, by hot_file_take(), and when anything is erased, by hot_file_wipe(). What blocks of the disk still hold from
 * then on cannot be read, however long they are not used again; to overwrite a gigabyte would take seconds. */
#ifndef ORC_CACHE_HOT_FILE_H
#define ORC_CACHE_HOT_FILE_H
#include "cache/cache.h"
#include "store/mark.h"

#define HOT_FOLDER "hot" /* beneath data.dir */
#define HOT_HEATS 8	 /* 0 … 7, the hottest */

enum hot_form { HOT_BODIES = 1, HOT_IDS };
enum hot_state {
	HOT_READY,
	HOT_ABSENT,
	HOT_DAMAGED, /* its head is: nothing of it can be read */
	HOT_NEWER,   /* written by a later program */
};

/* What holds of the whole file. */
struct hot_facts {
	char kind[16];		/* of the store */
	uint64_t revision;	/* every body is at least as new as this */
	struct store_mark mark; /* not older than any body */
	uint64_t entries;
	int64_t saved_us; /* clock_real_us() */
};

/* One memory. Of one without a body, nothing but the id. */
struct hot_entry {
	struct uuid id;
	struct cache_meta meta;
	uint32_t len;
};

/* ---- writing ---- */
struct hot_writer;
/* Begins the file beside the one that is there. max_bytes: it does not grow beyond. NULL: errno says why. */
struct hot_writer *must_check hot_writer_open(const char *data_dir, enum hot_form form, uint64_t max_bytes);
/* body NULL: which memory it is, and no more. heat: of this entry and, roughly, of those around it: add the hottest first. False: no room (hot_writer_full()) or an
 * error, errno of which hot_writer_finish() gives. */
bool hot_writer_add(struct hot_writer *w, unsigned heat, const struct hot_entry *e, const void *body);
bool hot_writer_full(const struct hot_writer *w);
uint64_t hot_writer_entries(const struct hot_writer *w);
uint64_t hot_writer_bytes(const struct hot_writer *w);
/* Puts the file in the place of the former one. False: errno; the former one stays. Frees w in any case. */
bool must_check hot_writer_finish(struct hot_writer **w, const struct hot_facts *facts);
void hot_writer_abort(struct hot_writer **w); /* the former file stays */

/* ---- reading ---- */
struct hot_reader;
/* Opens the file for this reader alone: the key of HOT_BODIES is overwritten and both names removed before anything is
 * returned, whatever is in them. NULL unless *state_r is HOT_READY. */
struct hot_reader *must_check hot_file_take(const char *data_dir, enum hot_form form, enum hot_state *state_r);
void hot_reader_close(struct hot_reader **r);
const struct hot_facts *hot_reader_facts(const struct hot_reader *r);
uint64_t hot_reader_entries(const struct hot_reader *r); /* in blocks that look right; bodies are yet to be checked */
/* Blocks, the hottest first. False: there are no more. A block whose content is damaged is passed over, and counted. */
bool hot_reader_block(struct hot_reader *r, unsigned *heat_r);
uint64_t hot_reader_damaged(const struct hot_reader *r); /* blocks */
/* The entries of that block; *body_r (NULL: it has none) is valid until the next block. False: there are no more. */
bool hot_reader_next(struct hot_reader *r, struct hot_entry *e_r, const void **body_r);

/* ---- erasing ---- */
/* No file with bodies can be read any more, finished or not. True: so it is; else errno. */
bool must_check hot_file_wipe(const char *data_dir);
#endif
