/* The hot file: reading, which believes nothing that a checksum does not cover, and no length that is not within bounds. */
#include "cache/hot_file-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"

struct place { /* of a block */
	uint64_t at;
	struct hot_block_head head;
};

struct hot_reader {
	int fd;
	struct hot_head head;
	struct hot_key key;
	EVP_CIPHER_CTX *cipher;
	struct place *blocks; /* the hottest first */
	size_t n, cap, next;
	uint64_t entries, damaged;
	char *content;
	size_t len, pos;
};

static bool read_all(int fd, void *to, size_t len, uint64_t at)
{
	for (char *p = to; len;) {
		ssize_t n = pread(fd, p, len, (off_t)at);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

static bool head_is_right(const struct hot_reader *r, const struct hot_block_head *h)
{
	return h->magic == HOT_BLOCK_MAGIC && h->sum == hot_block_sum(h) && h->nonce == r->head.nonce && h->len &&
	       h->len <= HOT_BLOCK_MAX && h->heat < HOT_HEATS && h->number < r->head.blocks;
}

static int by_heat(const void *a, const void *b)
{
	const struct place *x = a, *y = b;
	if (x->head.heat != y->head.heat)
		return x->head.heat > y->head.heat ? -1 : 1;
	return x->at < y->at ? -1 : 1;
}

/* Where a head is damaged, the next one is looked for: at every place where one may be. */
static void find_blocks(struct hot_reader *r, uint64_t size)
{
	struct place p;
	uint64_t expected = 0;
	for (p.at = HOT_ALIGN; p.at + sizeof(p.head) <= size;) {
		if (!read_all(r->fd, &p.head, sizeof(p.head), p.at) || !head_is_right(r, &p.head) ||
		    p.head.number < expected) {
			p.at += HOT_ALIGN;
			continue;
		}
		if (r->n == r->cap) {
			r->cap = r->cap ? 2 * r->cap : 64;
			r->blocks = util_realloc(r->blocks, r->cap * sizeof(*r->blocks));
		}
		r->blocks[r->n++] = p;
		r->entries += p.head.entries;
		r->damaged += p.head.number - expected;
		expected = p.head.number + 1u;
		p.at += align_up(sizeof(p.head) + p.head.len, HOT_ALIGN);
	}
	r->damaged += r->head.blocks - expected;
	if (r->n)
		qsort(r->blocks, r->n, sizeof(*r->blocks), by_heat);
}

static enum hot_state read_head(struct hot_reader *r, enum hot_form form)
{
	struct hot_head *h = &r->head;
	if (!read_all(r->fd, h, sizeof(*h), 0) || h->magic != HOT_MAGIC)
		return HOT_DAMAGED;
	if (h->version > HOT_VERSION)
		return HOT_NEWER;
	if (h->version != HOT_VERSION || h->sum != hot_head_sum(h) || h->form != (uint32_t)form ||
	    !memchr(h->facts.kind, 0, sizeof(h->facts.kind)))
		return HOT_DAMAGED;
	return HOT_READY;
}

/* Whatever is in a file of bodies, from here on it can be read by this process only, and only while it lives. */
static bool make_ours(int dir, struct hot_key *key_r)
{
	if (!hot_file_shred(dir, "key", key_r))
		return false;
	FAULT_POINT(hot_taken);
	return unlinkat(dir, hot_file_name(HOT_BODIES), 0) == 0 || errno == ENOENT;
}

struct hot_reader *hot_reader_open(int fd, enum hot_form form, const struct hot_key *key, enum hot_state *state_r)
{
	struct stat st;
	*state_r = HOT_DAMAGED;
	if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
		close(fd);
		return NULL;
	}
	struct hot_reader *r = util_zalloc(sizeof(*r));
	r->fd = fd;
	r->key = *key;
	*state_r = read_head(r, form);
	if (*state_r == HOT_READY && form == HOT_BODIES && r->key.nonce != r->head.nonce)
		*state_r = HOT_DAMAGED;
	if (*state_r != HOT_READY) {
		hot_reader_close(&r);
		return NULL;
	}
	r->cipher = EVP_CIPHER_CTX_new();
	AN(r->cipher);
	r->content = util_alloc(HOT_BLOCK_MAX);
	find_blocks(r, (uint64_t)st.st_size);
	return r;
}

struct hot_reader *hot_file_take(const char *data_dir, enum hot_form form, enum hot_state *state_r)
{
	struct hot_key key = {0};
	struct hot_reader *r = NULL;
	int dir = hot_file_folder(data_dir, false);
	int fd = dir == -1 ? -1 : openat(dir, hot_file_name(form), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	*state_r = fd == -1 && errno == ENOENT ? HOT_ABSENT : HOT_DAMAGED;
	bool ours = dir == -1 || form != HOT_BODIES || make_ours(dir, &key);
	if (fd != -1 && ours)
		r = hot_reader_open(fd, form, &key, state_r);
	else if (fd != -1)
		close(fd);
	if (dir != -1)
		close(dir);
	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

void hot_reader_close(struct hot_reader **rp)
{
	struct hot_reader *r = *rp;
	if (!r)
		return;
	close(r->fd);
	EVP_CIPHER_CTX_free(r->cipher);
	OPENSSL_cleanse(&r->key, sizeof(r->key));
	free(r->blocks);
	free(r->content);
	free(r);
	*rp = NULL;
}

const struct hot_facts *hot_reader_facts(const struct hot_reader *r) { return &r->head.facts; }
uint64_t hot_reader_entries(const struct hot_reader *r) { return r->entries; }
uint64_t hot_reader_damaged(const struct hot_reader *r) { return r->damaged; }

bool hot_reader_block(struct hot_reader *r, unsigned *heat_r)
{
	while (r->next < r->n) {
		const struct place *p = &r->blocks[r->next++];
		r->len = r->pos = 0;
		if (!read_all(r->fd, r->content, p->head.len, p->at + sizeof(p->head)) ||
		    crc32c(0, r->content, p->head.len) != p->head.content_sum ||
		    (r->head.form == HOT_BODIES &&
		     !hot_file_crypt(r->cipher, r->key.key, p->head.number, r->content, p->head.len))) {
			r->damaged++;
			continue;
		}
		r->len = p->head.len;
		*heat_r = p->head.heat;
		return true;
	}
	return false;
}

bool hot_reader_next(struct hot_reader *r, struct hot_entry *e_r, const void **body_r)
{
	struct hot_record rec;
	size_t left = r->len - r->pos;
	const char *at = r->content + r->pos;
	*e_r = (struct hot_entry){.len = 0};
	*body_r = NULL;
	if (r->head.form == HOT_IDS) {
		if (left < sizeof(e_r->id))
			return false;
		memcpy(&e_r->id, at, sizeof(e_r->id));
		r->pos += sizeof(e_r->id);
		return true;
	}
	if (left < sizeof(rec))
		return false;
	memcpy(&rec, at, sizeof(rec));
	if (rec.len > HOT_BODY_MAX || sizeof(rec) + align_up(rec.len, 8) > left)
		return false;
	*e_r = (struct hot_entry){.id = rec.id,
				  .len = rec.len,
				  .meta = {.ns = rec.ns,
					   .version = rec.version,
					   .filled_us = rec.filled_us,
					   .fresh_ms = rec.fresh_ms,
					   .gone_ms = rec.gone_ms,
					   .tag = rec.tag,
					   .flags = rec.flags}};
	*body_r = rec.id_only ? NULL : at + sizeof(rec);
	r->pos += sizeof(rec) + align_up(rec.len, 8);
	return true;
}
