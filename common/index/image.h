/* Saved indexes: what lies in the shared segments of vectors and words, in a file beneath data.dir, so that a start needs
 * neither to read the store nor to cluster again.
 *
 *	index/0000000000000007.image	a generation: written once, never changed
 *	index/0000000000000007.key	what it is encrypted with
 *
 *	head | piece | piece | … | table of pieces
 *
 * A piece is a range of a segment, up to a MiB, with the place that it comes from and goes to: segments hold offsets only,
 * and what a piece means is for the recovery that a killed writer's successor runs anyway. Each piece is under a checksum
 * of its own (XXH3), and so are table and head: whatever is damaged is found before anything is published. Numbers are as
 * the machine has them; the file does not travel.
 *
 * Pieces are encrypted (AES-256 in counter mode). That keeps no secret from whoever can read both files; it is for
 * erasing, as with the file of hot memories (cache/hot_file.h): the key is overwritten and synced, and what blocks of
 * the disk still hold cannot be read. To overwrite gigabytes would take seconds.
 *
 * A generation is written under another name, synced, named, its folder synced; only then the one before it goes. Killed
 * anywhere, one of them is whole. */
#ifndef ORC_INDEX_IMAGE_H
#define ORC_INDEX_IMAGE_H
#include "store/mark.h"

#define IMAGE_FOLDER "index" /* beneath data.dir */
#define IMAGE_PIECE (1u << 20)

enum image_part { IMAGE_VECTORS, IMAGE_WORDS, IMAGE_PARTS };

/* What the owner of a segment needs to know before it reads the pieces. */
struct image_part_facts {
	uint32_t layout, used, namespaces, full;
	uint64_t live, reserved;
};
/* What holds of the whole file. */
struct image_facts {
	char kind[16];		/* of the store */
	uint64_t identity;	/* of the store, where it has one */
	uint64_t revision;	/* everything that the store had at this one is in it */
	struct store_mark mark; /* nothing in it is newer */
	int64_t saved_us;	/* clock_real_us() */
	struct image_part_facts part[IMAGE_PARTS];
};

/* ---- writing; one writer at a time ---- */
struct image_writer;
/* Begins the next generation. NULL: errno says why. */
struct image_writer *must_check image_writer_open(const char *data_dir);
/* `n` bytes that belong to `at` of a segment, copied. What follows the piece before it is put together with it. False: errno,
 * and so is every later call. */
bool must_check image_add(struct image_writer *w, enum image_part part, uint64_t at, const void *bytes, size_t n);
/* The same, of shared memory that somebody may be writing to. */
bool must_check image_add_shared(struct image_writer *w, enum image_part part, uint64_t at, const void *bytes,
				 size_t n);
/* Later than this (clock_mono_us(); 0: never) nothing is added any more: ETIME. */
void image_writer_until(struct image_writer *w, int64_t until_us);
uint64_t image_writer_bytes(const struct image_writer *w);
/* All pieces are there: writes and syncs what is left but the name. */
bool must_check image_writer_end(struct image_writer *w, const struct image_facts *facts);
/* Puts it in the place of the generation before it: takes no time. False: errno; the one before it stays. Frees w. */
bool must_check image_writer_publish(struct image_writer **w);
void image_writer_abort(struct image_writer **w); /* the generation before it stays */

/* ---- reading ---- */
struct image;
/* The newest generation below `below` (0: any) that is whole as far as head and table tell; what is not is passed over with a line in the
 * log. NULL: there is none. */
struct image *must_check image_open(const char *data_dir, uint64_t below);
void image_close(struct image **m);
const struct image_facts *image_facts(const struct image *m);
uint64_t image_generation(const struct image *m);
uint64_t image_bytes(const struct image *m);
/* May a piece lie there? */
typedef bool image_allowed_fn(void *arg, uint64_t at, uint64_t n);
/* Puts a piece where it belongs; called by two threads. False: it cannot be. */
typedef bool image_place_fn(void *arg, uint64_t at, const void *bytes, size_t n);
struct image_target {
	uint64_t from, to;     /* pieces that begin in [from, to) are meant */
	int fd;		       /* the segment that they are written to; */
	image_place_fn *place; /* or, if not NULL, what is called for each instead */
	image_allowed_fn *allowed;
	void *arg;		     /* of both */
	void (*progress)(void *arg); /* called now and then; may be NULL */
	void *progress_arg;
};
/* Writes these pieces of a part to where they belong, each one verified before. False: one of them is damaged, or not
 * allowed; some may be written. */
bool must_check image_read(struct image *m, enum image_part part, const struct image_target *t);

/* ---- erasing ---- */
/* No generation can be read any more, finished or not. True: so it is, and on the disk; else errno. */
bool must_check image_wipe(const char *data_dir);
#endif
