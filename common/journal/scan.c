/* Finding records in a segment file. Big reads into a window rather than a mapping: a page that
 * the disk has lost, or a file that somebody cut short, is then an answer and not a SIGBUS. */
#include "journal/journal-private.h"

#include <stdlib.h>

#include "crc32c.h"

void scan_start(struct scan *s, int fd, uint64_t epoch, uint64_t end)
{
	s->fd = fd;
	s->epoch = epoch;
	s->end = end;
	scan_forget(s);
}

void scan_forget(struct scan *s) { s->base = s->len = 0; }

void scan_free(struct scan *s)
{
	free(s->buf);
	s->buf = NULL;
	s->cap = 0;
	scan_forget(s);
}

static void make_room(struct scan *s, size_t n)
{
	if (s->cap >= n && (s->cap <= s->window || n > s->window))
		return;
	free(s->buf); /* what it holds is about to be replaced; a rare giant's buffer is given back */
	s->buf = util_alloc(n);
	s->cap = n;
}

/* The bytes [off, off + need), or NULL when they do not all exist. */
static const char *view(struct scan *s, uint64_t off, uint64_t need)
{
	if (off > s->end || need > s->end - off)
		return NULL;
	if (off < s->base || off + need > s->base + s->len) {
		uint64_t n = need > s->window ? need : s->window;
		if (n > s->end - off)
			n = s->end - off;
		scan_forget(s);
		make_room(s, need > s->window ? (size_t)need : s->window);
		s->len = segment_read(s->fd, s->buf, (size_t)n, off, &s->error);
		s->base = off;
		if (s->len < need)
			return NULL;
	}
	return s->buf + (off - s->base);
}

bool scan_at(struct scan *s, uint64_t off, struct scan_hit *hit_r)
{
	struct rec_head h;
	const char *p = view(s, off, sizeof(h));
	if (!p)
		return false;
	memcpy(&h, p, sizeof(h));
	if (h.magic != REC_MAGIC || h.flags || !h.seq || !h.epoch || (s->epoch && h.epoch != s->epoch))
		return false;
	p = view(s, off, sizeof(h) + (uint64_t)h.len);
	if (!p)
		return false;
	*hit_r = (struct scan_hit){.off = off, .head = h, .payload = p + sizeof(h)};
	h.crc = 0;
	return crc32c(crc32c(0, &h, sizeof(h)), hit_r->payload, h.len) == hit_r->head.crc;
}

/* The first 8-aligned place at or behind `off` where a record of our epoch may begin; UINT64_MAX: none. */
static uint64_t next_candidate(struct scan *s, uint64_t off)
{
	const char *p;
	for (; (p = view(s, off, sizeof(struct rec_head)));) {
		size_t n = (size_t)(s->base + s->len - off);
		for (size_t i = 0; i + sizeof(struct rec_head) <= n; i += 8) {
			struct rec_head h;
			memcpy(&h, p + i, sizeof(h));
			if (s->epoch ? h.epoch == s->epoch : h.magic == REC_MAGIC)
				return off + i;
		}
		off += (n - sizeof(struct rec_head)) / 8 * 8 + 8;
	}
	return UINT64_MAX;
}

static uint64_t claimed_end(struct scan *s, uint64_t off)
{
	struct rec_head h;
	const char *p = view(s, off, sizeof(h));
	if (!p)
		return off;
	memcpy(&h, p, sizeof(h));
	return record_room(h.len) < s->end - off ? off + record_room(h.len) : s->end;
}

bool scan_search(struct scan *s, uint64_t off, uint64_t seq, struct scan_hit *hit_r, uint64_t *dirty_r)
{
	uint64_t dirty = off;
	for (uint64_t at = off; (at = next_candidate(s, at)) != UINT64_MAX; at += 8) {
		if (scan_at(s, at, hit_r) && hit_r->head.seq >= seq &&
		    (!s->epoch || hit_r->head.seq - seq <= (at - off) / sizeof(struct rec_head))) {
			*dirty_r = dirty;
			return true;
		}
		uint64_t end = claimed_end(s, at);
		if (end > dirty)
			dirty = end;
	}
	*dirty_r = dirty;
	return false;
}
