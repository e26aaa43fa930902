/* Between the files of the hot file: what lies on the disk. Numbers as the machine has them: the file does not travel. */
#ifndef ORC_CACHE_HOT_FILE_PRIVATE_H
#define ORC_CACHE_HOT_FILE_PRIVATE_H
#include <openssl/evp.h>

#include "cache/hot_file.h"

#define HOT_MAGIC 0x31454c4946544f48ull /* "HOTFILE1" */
#define HOT_BLOCK_MAGIC 0x4b4c4254u
#define HOT_VERSION 1
#define HOT_ALIGN 4096u
#define HOT_BLOCK_FULL (1u << 20)		    /* a block is written when it holds this much … */
#define HOT_BLOCK_MAX (HOT_BLOCK_FULL + (2u << 20)) /* … and holds at most this much */
#define HOT_BODY_MAX (1u << 20)
#define HOT_KEY 32

struct hot_head {
	uint64_t magic;
	uint32_t version, form;
	uint64_t nonce; /* of this file: its blocks have it, too */
	struct hot_facts facts;
	uint32_t blocks;
	uint32_t sum; /* CRC32C of the head with this 0 */
};

/* hot/key */
struct hot_key {
	uint64_t nonce; /* of the bodies that it is for */
	unsigned char key[HOT_KEY];
};

struct hot_block_head {
	uint32_t magic, len; /* len: of what follows */
	uint64_t nonce;
	uint32_t number, entries; /* number: 0, 1, … in the order of writing; counts the key stream */
	uint32_t heat, content_sum;
	uint32_t reserved[7];
	uint32_t sum; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct hot_block_head) == 64, "one line");

struct hot_record { /* a body follows, filled up to a multiple of 8 bytes */
	struct uuid id;
	uint64_t ns, version;
	int64_t filled_us;
	uint32_t fresh_ms, gone_ms, len;
	uint16_t tag;
	uint8_t flags, id_only;
};
_Static_assert(sizeof(struct hot_record) == 56, "no holes");

const char *hot_file_name(enum hot_form form);
/* The folder, opened; made when it is missing and `make`. -1: errno. */
int hot_file_folder(const char *data_dir, bool make);
uint32_t hot_head_sum(const struct hot_head *h);
uint32_t hot_block_sum(const struct hot_block_head *h);
/* Encrypts or decrypts the content of block `number` in place. */
bool hot_file_crypt(EVP_CIPHER_CTX *ctx, const unsigned char key[HOT_KEY], uint32_t number, char *p, size_t len);
/* Reads the key into *key_r (all zeros: there is none), overwrites it on the disk, and removes its name. False: errno; it
 * may still be there. */
bool hot_file_shred(int dir, const char *name, struct hot_key *key_r);
/* Takes fd over. */
struct hot_reader *must_check hot_reader_open(int fd, enum hot_form form, const struct hot_key *key,
					      enum hot_state *state_r);
#endif
