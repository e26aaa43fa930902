/* The hot file: writing. Blocks of about a megabyte, each with one write; nothing is synced: a power failure costs what had
 * not reached the disk, which the checksums tell, and the daemon then begins colder. */
#include "cache/hot_file-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"

struct hot_writer {
	enum hot_form form;
	int dir, fd, error;
	uint64_t max, at; /* at: where the next block begins */
	uint64_t entries, block_entries;
	unsigned heat;
	bool full;
	struct hot_head head;
	struct hot_key key;
	EVP_CIPHER_CTX *cipher;
	size_t used; /* of the block's content */
	char *block; /* head and content */
};

static void name_of(const struct hot_writer *w, char out[16]) { snprintf(out, 16, "%s.new", hot_file_name(w->form)); }

struct hot_writer *hot_writer_open(const char *data_dir, enum hot_form form, uint64_t max_bytes)
{
	char name[16];
	struct hot_writer *w = util_zalloc(sizeof(*w));
	w->form = form;
	w->max = max_bytes;
	w->at = HOT_ALIGN;
	w->fd = -1;
	w->block = util_alloc(sizeof(struct hot_block_head) + HOT_BLOCK_MAX + HOT_ALIGN);
	w->cipher = EVP_CIPHER_CTX_new();
	AN(w->cipher);
	name_of(w, name);
	w->dir = hot_file_folder(data_dir, true);
	w->head = (struct hot_head){.magic = HOT_MAGIC, .version = HOT_VERSION, .form = form};
	bool ok = w->dir != -1 && getrandom(&w->key, sizeof(w->key), 0) == sizeof(w->key);
	w->head.nonce = w->key.nonce;
	if (ok && unlinkat(w->dir, name, 0) == -1 && errno != ENOENT)
		ok = false;
	if (ok)
		w->fd = openat(w->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->fd != -1)
		return w;
	int error = errno;
	hot_writer_abort(&w);
	errno = error;
	return NULL;
}

static bool write_at(struct hot_writer *w, const char *p, size_t len, uint64_t at)
{
	while (len && !w->error) {
		ssize_t n = pwrite(w->fd, p, len, (off_t)at);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0) {
			w->error = n == -1 ? errno : ENOSPC;
			break;
		}
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return !w->error;
}

static bool write_block(struct hot_writer *w)
{
	struct hot_block_head *h = (struct hot_block_head *)(void *)w->block;
	char *content = w->block + sizeof(*h);
	size_t len = align_up(sizeof(*h) + w->used, HOT_ALIGN);
	if (!w->used || w->error)
		return !w->error;
	if (w->form == HOT_BODIES && !hot_file_crypt(w->cipher, w->key.key, w->head.blocks, content, w->used)) {
		w->error = EIO;
		return false;
	}
	*h = (struct hot_block_head){.magic = HOT_BLOCK_MAGIC,
				     .len = (uint32_t)w->used,
				     .nonce = w->head.nonce,
				     .number = w->head.blocks++,
				     .entries = (uint32_t)w->block_entries,
				     .heat = w->heat,
				     .content_sum = crc32c(0, content, w->used)};
	h->sum = hot_block_sum(h);
	memset(content + w->used, 0, len - sizeof(*h) - w->used);
	if (!write_at(w, w->block, len, w->at))
		return false;
	FAULT_POINT(hot_block_written);
	w->at += len;
	w->used = w->block_entries = 0;
	return true;
}

static bool has_room(struct hot_writer *w, size_t len)
{
	if (w->at + sizeof(struct hot_block_head) + w->used + len + HOT_ALIGN > w->max)
		w->full = true;
	return !w->full;
}

bool hot_writer_add(struct hot_writer *w, unsigned heat, const struct hot_entry *e, const void *body)
{
	const struct hot_record r = {.id = e->id,
				     .ns = e->meta.ns,
				     .version = e->meta.version,
				     .filled_us = e->meta.filled_us,
				     .fresh_ms = e->meta.fresh_ms,
				     .gone_ms = e->meta.gone_ms,
				     .tag = e->meta.tag,
				     .flags = e->meta.flags,
				     .len = body ? e->len : 0,
				     .id_only = !body};
	bool whole = w->form == HOT_BODIES;
	size_t len = whole ? sizeof(r) + align_up(r.len, 8) : sizeof(e->id);
	char *to;
	if (w->error || r.len > HOT_BODY_MAX || !has_room(w, len))
		return false;
	if ((w->used >= HOT_BLOCK_FULL || (w->used && heat != w->heat)) && !write_block(w))
		return false;
	w->heat = heat < HOT_HEATS ? heat : HOT_HEATS - 1;
	to = w->block + sizeof(struct hot_block_head) + w->used;
	memcpy(to, whole ? (const void *)&r : (const void *)&e->id, whole ? sizeof(r) : sizeof(e->id));
	if (whole && r.len) {
		memset(to + len - 8, 0, 8);
		memcpy(to + sizeof(r), body, r.len);
	}
	w->used += len;
	w->block_entries++;
	w->entries++;
	return true;
}

bool hot_writer_full(const struct hot_writer *w) { return w->full; }
uint64_t hot_writer_entries(const struct hot_writer *w) { return w->entries; }
uint64_t hot_writer_bytes(const struct hot_writer *w) { return w->at + w->used; }

static void write_head(struct hot_writer *w, const struct hot_facts *facts)
{
	w->head.facts = *facts;
	w->head.facts.entries = w->entries;
	w->head.sum = hot_head_sum(&w->head);
	memset(w->block, 0, HOT_ALIGN);
	memcpy(w->block, &w->head, sizeof(w->head));
	(void)write_at(w, w->block, HOT_ALIGN, 0);
}

static bool write_key(struct hot_writer *w)
{
	int fd = openat(w->dir, "key.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t n = fd == -1 ? -1 : write(fd, &w->key, sizeof(w->key));
	if (n != sizeof(w->key))
		w->error = n == -1 ? errno : ENOSPC;
	if (fd != -1)
		close(fd);
	return !w->error;
}

/* The head comes last: who reads half a file finds none. */
bool hot_writer_finish(struct hot_writer **wp, const struct hot_facts *facts)
{
	struct hot_writer *w = *wp;
	bool has_key = w->form == HOT_BODIES;
	char name[16];
	name_of(w, name);
	if (write_block(w))
		write_head(w, facts);
	if (close(w->fd) == -1 && !w->error)
		w->error = errno;
	w->fd = -1;
	if (!w->error && has_key)
		(void)write_key(w);
	FAULT_POINT(hot_file_whole);
	if (!w->error && renameat(w->dir, name, w->dir, hot_file_name(w->form)) == -1)
		w->error = errno;
	FAULT_POINT(hot_file_named);
	if (!w->error && has_key && renameat(w->dir, "key.new", w->dir, "key") == -1)
		w->error = errno;
	int error = w->error;
	if (!error)
		w->form = 0; /* nothing is left to be taken away */
	hot_writer_abort(wp);
	errno = error;
	return !error;
}

void hot_writer_abort(struct hot_writer **wp)
{
	struct hot_writer *w = *wp;
	char name[16];
	if (!w)
		return;
	name_of(w, name);
	if (w->fd != -1)
		close(w->fd);
	if (w->dir != -1) {
		if (w->form)
			(void)!unlinkat(w->dir, name, 0);
		if (w->form == HOT_BODIES)
			(void)!hot_file_shred(w->dir, "key.new", &w->key);
		close(w->dir);
	}
	EVP_CIPHER_CTX_free(w->cipher);
	OPENSSL_cleanse(&w->key, sizeof(w->key));
	free(w->block);
	free(w);
	*wp = NULL;
}
