/* Between the files of saved indexes: what lies on the disk. */
#ifndef ORC_INDEX_IMAGE_PRIVATE_H
#define ORC_INDEX_IMAGE_PRIVATE_H
#include <openssl/evp.h>

#include "index/image.h"

#define IMAGE_MAGIC 0x3145474d4958444eull
#define IMAGE_VERSION 1
#define IMAGE_HEAD 4096u
#define IMAGE_KEY 32
#define IMAGE_PIECES_MAX (1u << 24)
#define IMAGE_NAME 40 /* 16 digits, ".image.new", NUL */

struct image_head {
	uint64_t magic;
	uint32_t version, pieces;
	uint64_t generation, nonce; /* nonce: the key file has it, too */
	uint64_t table, bytes;	    /* where the table begins; of the whole file */
	struct image_facts facts;
	uint64_t table_sum;
	uint64_t sum; /* XXH3 of what is before it */
};
_Static_assert(sizeof(struct image_head) <= IMAGE_HEAD, "a head fits");

struct image_piece {
	uint32_t part, len;
	uint64_t at;   /* in the segment */
	uint64_t file; /* in the file */
	uint64_t sum;  /* XXH3 of what lies there */
};
_Static_assert(sizeof(struct image_piece) == 32, "no holes");

struct image_key {
	uint64_t nonce;
	unsigned char key[IMAGE_KEY];
};

/* The folder, opened; made when it is missing and `make`. -1: errno. */
int image_folder(const char *data_dir, bool make);
void image_name(char out[IMAGE_NAME], uint64_t generation, const char *suffix);
/* The generation that a file belongs to; its suffix. False: the name is none of ours. */
bool must_check image_name_read(const char *name, uint64_t *generation_r, const char **suffix_r);
/* Calls fn for each of our files. False: errno. */
bool must_check image_walk(int dir,
			   bool (*fn)(void *arg, int dir, const char *name, uint64_t generation, const char *suffix),
			   void *arg);
/* Makes a generation unreadable: its key is overwritten first. False: errno, something is left. */
bool must_check image_remove(int dir, const char *name, const char *suffix);
/* Encrypts or decrypts a piece in place. */
bool must_check image_crypt(EVP_CIPHER_CTX *ctx, const unsigned char key[IMAGE_KEY], uint32_t number, void *p,
			    size_t n);
uint64_t image_head_sum(const struct image_head *h);
#endif
