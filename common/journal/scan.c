/* Finding records in a mapped segment. */
#include "crc32c.h"
#include "journal-private.h"

uint32_t scan_crc(const struct rec_head *h, const void *payload)
{
	struct rec_head copy = *h;
	copy.crc = 0;
	return crc32c(crc32c(0, &copy, sizeof(copy)), payload, h->len);
}

const struct rec_head *scan_record(const char *map, uint64_t size, uint64_t at, uint64_t epoch)
{
	if (at > size || size - at < sizeof(struct rec_head))
		return NULL;
	const struct rec_head *h = (const void *)(map + at);
	if (h->magic != REC_MAGIC || h->epoch != epoch || h->len > size - at - sizeof(*h))
		return NULL;
	return scan_crc(h, h + 1) == h->crc ? h : NULL;
}

const struct rec_head *scan_forward(const char *map, uint64_t size, uint64_t at, uint64_t epoch, uint64_t min_seq)
{
	for (at = align_up(at, 8); at + sizeof(struct rec_head) <= size; at += 8) {
		const struct rec_head *h = (const void *)(map + at);
		if (h->magic == REC_MAGIC && h->epoch == epoch && h->seq >= min_seq &&
		    (h = scan_record(map, size, at, epoch)))
			return h;
	}
	return NULL;
}
