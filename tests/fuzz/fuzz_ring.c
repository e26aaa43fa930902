/* A peer that lies: it writes any index and any byte of the shared part, between honest steps. The other side
 * must answer EPROTO, EAGAIN or a record inside the mapping, and go on after it dropped the nonsense. */
#include "../../common/ring.c" /* the liar knows how a record's head is made */
#include "shm.h"

#define CAPACITY 4096u

static struct ring *producer, *consumer;
static struct ring_shared *raw;
static char *bytes; /* the data area as the liar sees it */
static const char *base;
static int fd;
static volatile unsigned sink;

static void open_once(void)
{
	size_t size;
	fd = shm_create("fuzz", ring_footprint(CAPACITY));
	char *all = shm_map(fd, false, &size);
	AN(all);
	raw = (struct ring_shared *)(void *)all;
	bytes = all + size - CAPACITY;
}

/* Fresh views each time: what an input does may not depend on the one before. */
static void restart(void)
{
	memset(raw, 0, sizeof(*raw));
	memset(bytes, 0, CAPACITY);
	ring_close(&producer);
	ring_close(&consumer);
	producer = ring_open(fd, 0, CAPACITY);
	consumer = ring_open(fd, 0, CAPACITY);
	AN(producer && consumer);
}

/* Where this view's data area begins: an empty ring's first record lies there. */
static const char *base_of(struct ring *r)
{
	raw->tail = raw->head = 0;
	const char *p = ring_reserve(r, 8);
	AN(p);
	return p - 8;
}

struct input {
	const uint8_t *p, *end;
};

static uint64_t take(struct input *in, unsigned n)
{
	uint64_t v = 0;
	while (n-- && in->p < in->end)
		v = v << 8 | *in->p++;
	return v;
}

/* Small offsets from where things are, or anything at all. */
static uint64_t lie(struct input *in, uint64_t near)
{
	uint64_t how = take(in, 1);
	return how & 1 ? near + take(in, 2) - (how & 2 ? 0x8000 : 0) : take(in, 8);
}

static void walk(struct ring *r, uint64_t steps)
{
	uint64_t cursor = ring_head(r);
	size_t len;
	for (unsigned n = 0; n < steps; n++) {
		uint64_t before = cursor;
		errno = 0;
		const char *p = ring_peek(r, &cursor, &len);
		if (!p) {
			AN(errno == EAGAIN || errno == EPROTO);
			AN(cursor == before);
			if (errno == EPROTO) {
				ring_advance(r, ring_head(r) + ring_used(r));
				AN(ring_empty(r));
				return;
			}
			break;
		}
		AN(len <= CAPACITY / 4 && p >= base && p + len <= base + 2 * CAPACITY);
		AN(((uintptr_t)p & 7) == 0);
		AN(cursor - before <= CAPACITY / 4 + 16);
		AN(r->seen - cursor <= CAPACITY); /* not past what the producer published */
		for (size_t i = 0; i < len; i++)
			sink += (unsigned char)p[i];
	}
	ring_advance(r, cursor);
}

static void produce(struct ring *r, size_t len, const char *in)
{
	errno = 0;
	char *p = ring_reserve(r, len);
	if (!p) {
		AN(errno == EAGAIN || errno == EPROTO || (errno == EMSGSIZE && len > CAPACITY / 4));
		return;
	}
	AN(len <= CAPACITY / 4 && p >= in && p + len <= in + 2 * CAPACITY && ((uintptr_t)p & 7) == 0);
	memset(p, 0x5a, len);
	ring_commit(r, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	if (!raw)
		open_once();
	restart();
	base = base_of(consumer);
	const char *producer_base = base_of(producer);
	while (in.p < in.end) {
		switch (take(&in, 1) % 8) {
		case 0: raw->tail = lie(&in, raw->tail); break;
		case 1: raw->head = lie(&in, raw->head); break;
		case 2: bytes[take(&in, 2) % CAPACITY] = (char)take(&in, 1); break;
		case 3: /* a length of an existing record */
			bytes[(raw->head + take(&in, 1) * 8) % CAPACITY] ^= (char)take(&in, 1);
			break;
		case 4: produce(producer, take(&in, 2) % (CAPACITY / 2), producer_base); break;
		case 5: { /* a well-made head with any length, where the consumer looks next or further on */
			uint64_t at = align_up(raw->head, 8) + take(&in, 1) * 8;
			uint64_t h = record_head(at, (uint32_t)lie(&in, CAPACITY / 4));
			memcpy(bytes + at % CAPACITY, &h, sizeof(h));
			break;
		}
		default: walk(consumer, take(&in, 1));
		}
	}
	return 0;
}
