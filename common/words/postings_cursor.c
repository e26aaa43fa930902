/* A word's postings in a segment, in blocks: copied out, decoded, and looked at only where they are needed. */
#include "postings-private.h"

#define BLOCK_BYTES (POSTINGS_BLOCK * 8) /* a posting takes at most 5 + 3 */

static struct postings_skip skip_at(const struct postings_cursor *c, uint32_t block)
{
	struct postings_skip s;
	shm_copy_out(&s, c->skips + block * sizeof(s), sizeof(s));
	return s;
}

/* Bytes to (document, tf). What makes no sense ends the list: the search will find that the segment has moved. */
static uint32_t decode(struct postings_cursor *c, const uint8_t *p, const uint8_t *end, uint32_t before)
{
	uint32_t n = 0, doc = before;
	while (p < end && n < POSTINGS_BLOCK) {
		uint32_t v = *p++;
		if (v & 0x80) {
			unsigned shift = 7;
			v &= 0x7f;
			for (; p < end && shift < 35; shift += 7) {
				uint32_t b = *p++;
				v |= (b & 0x7f) << shift;
				if (!(b & 0x80))
					break;
			}
		}
		uint32_t tf = 1;
		if (v & 1 && p < end) {
			tf = *p & 0x7fu;
			for (unsigned shift = 7; *p++ & 0x80 && p < end && shift < 21; shift += 7)
				tf |= (*p & 0x7fu) << shift;
			tf += 2;
		}
		uint32_t next = doc + (v >> 1) + 1;
		if (next >= c->docs || (next <= doc && doc != UINT32_MAX))
			break;
		doc = next;
		c->v[n] = doc;
		c->tf[n++] = tf;
	}
	return n;
}

static void end_here(struct postings_cursor *c)
{
	c->doc = POSTINGS_NONE;
	c->i = c->n = 0;
	c->block = c->blocks;
}

static void load_list_block(struct postings_cursor *c, uint32_t block)
{
	uint32_t from = block * POSTINGS_BLOCK, left = c->list->n - from;
	c->n = left < POSTINGS_BLOCK ? left : POSTINGS_BLOCK;
	memcpy(c->v, c->list->doc + from, c->n * sizeof(*c->v));
	memcpy(c->tf, c->list->tf + from, c->n * sizeof(*c->tf));
}

static void load_block(struct postings_cursor *c, uint32_t block)
{
	uint8_t bytes[BLOCK_BYTES];
	c->block = block;
	c->i = 0;
	if (c->list) {
		load_list_block(c, block);
		return;
	}
	struct postings_skip before = {.last = UINT32_MAX}, here = {.end = (uint32_t)(c->end - c->bytes)};
	if (c->blocks > 1) {
		here = skip_at(c, block);
		if (block)
			before = skip_at(c, block - 1);
	}
	if (before.end > here.end || here.end > (size_t)(c->end - c->bytes) || here.end - before.end > sizeof(bytes)) {
		end_here(c);
		return;
	}
	shm_copy_out(bytes, c->bytes + before.end, here.end - before.end);
	c->n = decode(c, bytes, bytes + (here.end - before.end), before.last);
}

static uint32_t last_of(const struct postings_cursor *c, uint32_t block)
{
	if (c->list)
		return c->list->doc[block + 1 < c->blocks ? (block + 1) * POSTINGS_BLOCK - 1 : c->list->n - 1];
	return c->blocks > 1 ? skip_at(c, block).last : POSTINGS_NONE;
}

static uint32_t block_with(const struct postings_cursor *c, uint32_t from, uint32_t doc)
{
	while (from < c->blocks && last_of(c, from) < doc)
		from++;
	return from;
}

void postings_cursor_seek(struct postings_cursor *c, uint32_t doc)
{
	if (c->doc == POSTINGS_NONE || c->doc >= doc)
		return;
	if (!c->n || c->v[c->n - 1] < doc) {
		uint32_t block = block_with(c, c->block + 1, doc);
		if (block >= c->blocks) {
			end_here(c);
			return;
		}
		load_block(c, block);
	}
	while (c->i < c->n && c->v[c->i] < doc)
		c->i++;
	if (c->i == c->n)
		end_here(c); /* only garbage has no such document in the block */
	else
		c->doc = c->v[c->i];
}

void postings_cursor_look(struct postings_cursor *c, uint32_t doc)
{
	if (c->shallow != POSTINGS_NONE && c->last >= doc)
		return;
	c->shallow = block_with(c, c->shallow == POSTINGS_NONE ? 0 : c->shallow + 1, doc);
	c->last = c->shallow < c->blocks ? last_of(c, c->shallow) : POSTINGS_NONE;
	c->max_tf = 0;
	c->min_length = 0;
	if (c->shallow >= c->blocks)
		return;
	c->max_tf = c->term.max_tf;
	c->min_length = c->term.min_length;
	if (!c->list && c->blocks > 1) {
		struct postings_skip s = skip_at(c, c->shallow);
		c->max_tf = s.max_tf;
		c->min_length = s.min_length;
	}
}

static void begin(struct postings_cursor *c)
{
	c->shallow = POSTINGS_NONE;
	c->doc = POSTINGS_NONE;
	if (c->blocks)
		load_block(c, 0);
	if (c->n)
		c->doc = c->v[0];
	else
		end_here(c);
}

void postings_cursor_open(struct postings_cursor *c, const struct postings_view *w, uint32_t term)
{
	uint32_t room = w->head.at[AREA_WORDS] - w->head.at[AREA_LISTS];
	c->list = NULL;
	c->n = c->blocks = 0;
	c->docs = w->head.docs;
	postings_term_load(w, term, &c->term);
	uint32_t blocks = (uint32_t)(((uint64_t)c->term.df + POSTINGS_BLOCK - 1) / POSTINGS_BLOCK);
	uint64_t skips = blocks > 1 ? (uint64_t)blocks * sizeof(struct postings_skip) : 0;
	if (c->term.list <= room && c->term.bytes <= room - c->term.list && skips <= c->term.bytes) {
		c->blocks = blocks;
		c->skips = postings_area(w, AREA_LISTS) + c->term.list;
		c->bytes = c->skips + skips;
		c->end = c->skips + c->term.bytes;
	}
	begin(c);
}

void postings_cursor_list(struct postings_cursor *c, struct postings_list *l)
{
	c->list = l;
	c->n = 0;
	c->blocks = (l->n + POSTINGS_BLOCK - 1) / POSTINGS_BLOCK;
	c->term = (struct postings_term){.max_tf = l->max_tf, .min_length = l->min_length};
	begin(c);
}
