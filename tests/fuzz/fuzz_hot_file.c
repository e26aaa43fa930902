/* The file of hot memories: whatever lies in it, the reader ends, stays within its bounds, and hands out no longer body than
 * L1 takes. Checksums are made right every other time, since chance finds none. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/hot_file-private.h"
#include "crc32c.h"

static void make_right(char *p, size_t size, uint64_t nonce)
{
	struct hot_head h;
	memcpy(&h, p, sizeof(h));
	h.magic = HOT_MAGIC;
	h.version = HOT_VERSION;
	h.nonce = nonce;
	h.facts.kind[sizeof(h.facts.kind) - 1] = 0;
	h.blocks = 1000;
	h.sum = hot_head_sum(&h);
	memcpy(p, &h, sizeof(h));
	for (size_t at = HOT_ALIGN; at + sizeof(struct hot_block_head) <= size; at += HOT_ALIGN) {
		struct hot_block_head b;
		memcpy(&b, p + at, sizeof(b));
		b.magic = HOT_BLOCK_MAGIC;
		b.nonce = nonce;
		b.heat %= HOT_HEATS;
		b.number %= 1000;
		if (at + sizeof(b) + b.len <= size)
			b.content_sum = crc32c(0, p + at + sizeof(b), b.len);
		b.sum = hot_block_sum(&b);
		memcpy(p + at, &b, sizeof(b));
	}
}

static void read_all(struct hot_reader *r)
{
	volatile char sum = 0;
	unsigned heat;
	while (hot_reader_block(r, &heat)) {
		struct hot_entry e;
		const void *body;
		AN(heat < HOT_HEATS);
		while (hot_reader_next(r, &e, &body)) {
			AN(e.len <= HOT_BODY_MAX);
			for (uint32_t i = 0; body && i < e.len; i++)
				sum = (char)(sum + ((const char *)body)[i]);
		}
	}
	(void)hot_reader_entries(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct hot_key key = {.nonce = 7};
	enum hot_state state;
	if (size < 2 || size > 1u << 16)
		return 0;
	enum hot_form form = data[0] & 2 ? HOT_BODIES : HOT_IDS;
	size_t room = size + HOT_ALIGN;
	char *copy = util_zalloc(room);
	/* A head of its own, and what the fuzzer says behind it, or all of it what the fuzzer says. */
	memcpy(data[0] & 1 ? copy + HOT_ALIGN : copy, data, size);
	if (data[0] & 1) {
		struct hot_head h = {.form = form};
		memcpy(copy, &h, sizeof(h));
		make_right(copy, room, key.nonce);
	}
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	AN(fd != -1 && write(fd, copy, room) == (ssize_t)room);
	struct hot_reader *r = hot_reader_open(fd, form, &key, &state);
	AN((r != NULL) == (state == HOT_READY));
	if (r)
		read_all(r);
	hot_reader_close(&r);
	free(copy);
	return 0;
}
