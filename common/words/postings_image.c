/* A segment in the making: its arrays grow one by one in private memory, and are copied to shared memory when all of
 * them are there. */
#include <stdlib.h>

#include "postings-private.h"

void postings_image_clear(struct postings_image *m)
{
	for (size_t i = 0; i < AREA_COUNT; i++)
		m->area[i].len = 0;
	memset(&m->head, 0, sizeof(m->head));
	m->copied = 0;
}

void postings_image_free(struct postings_image *m)
{
	for (size_t i = 0; i < AREA_COUNT; i++)
		buf_free(&m->area[i]);
}

static void put_block(struct postings_image *m, const uint32_t *docs, const uint32_t *tf, uint32_t from, uint32_t n,
		      struct postings_skip *s)
{
	struct buf *b = &m->area[AREA_LISTS];
	const uint16_t *lengths = (const void *)m->area[AREA_LENGTHS].p;
	uint32_t before = from ? docs[from - 1] : UINT32_MAX; /* one before document 0 */
	*s = (struct postings_skip){.min_length = UINT16_MAX};
	buf_reserve(b, 10 * (size_t)n);
	char *p = b->p + b->len;
	for (uint32_t i = from; i < from + n; i++) {
		uint32_t count = tf[i] < POSTINGS_LENGTH ? tf[i] : POSTINGS_LENGTH;
		p = postings_put_varint(p, (docs[i] - before - 1) << 1 | (count > 1));
		if (count > 1)
			p = postings_put_varint(p, count - 2);
		if (count > s->max_tf)
			s->max_tf = (uint16_t)count;
		if (lengths[docs[i]] < s->min_length)
			s->min_length = lengths[docs[i]];
		before = docs[i];
	}
	s->last = docs[from + n - 1];
	b->len = (size_t)(p - b->p);
}

void postings_image_term(struct postings_image *m, struct span text, const uint32_t *docs, const uint32_t *tf,
			 uint32_t n)
{
	struct buf *lists = &m->area[AREA_LISTS];
	uint32_t blocks = (n + POSTINGS_BLOCK - 1) / POSTINGS_BLOCK;
	uint64_t key = postings_key(text);
	struct postings_term t = {.string = (uint32_t)m->area[AREA_STRINGS].len,
				  .df = n,
				  .min_length = UINT16_MAX,
				  .len = (uint16_t)text.len};
	if (blocks > 1) {
		while (lists->len & 3)
			buf_addc(lists, 0);
		buf_reserve(lists, blocks * sizeof(struct postings_skip));
	}
	size_t skips = lists->len;
	t.list = (uint32_t)skips;
	lists->len += blocks > 1 ? blocks * sizeof(struct postings_skip) : 0;
	size_t first = lists->len;
	for (uint32_t k = 0; k < blocks; k++) {
		uint32_t from = k * POSTINGS_BLOCK;
		struct postings_skip s;
		put_block(m, docs, tf, from, n - from < POSTINGS_BLOCK ? n - from : POSTINGS_BLOCK, &s);
		s.end = (uint32_t)(lists->len - first);
		if (blocks > 1)
			memcpy(lists->p + skips + k * sizeof(s), &s, sizeof(s));
		t.max_tf = s.max_tf > t.max_tf ? s.max_tf : t.max_tf;
		t.min_length = s.min_length < t.min_length ? s.min_length : t.min_length;
	}
	t.bytes = (uint32_t)(lists->len - skips);
	buf_add(&m->area[AREA_KEYS], &key, sizeof(key));
	buf_add(&m->area[AREA_TERMS], &t, sizeof(t));
	if (text.len > sizeof(key))
		buf_add(&m->area[AREA_STRINGS], text.p + sizeof(key), text.len - sizeof(key));
	m->head.terms++;
}

void postings_image_seal(struct postings_image *m)
{
	uint32_t end = (uint32_t)(m->area[AREA_WORDS].len);
	buf_add(&m->area[AREA_STARTS], &end, sizeof(end));
	size_t at = align_up(sizeof(m->head), 8);
	for (size_t i = 0; i < AREA_COUNT; i++) {
		struct buf *b = &m->area[i];
		while (b->len & 7)
			buf_addc(b, 0);
		m->head.at[i] = (uint32_t)at;
		at += b->len;
	}
	AN(at <= UINT32_MAX);
	m->head.bytes = (uint32_t)at;
	m->copied = 0;
}

/* Piece by piece, each from where the one before it ended. */
bool postings_image_copy(struct postings_image *m, char *to, size_t budget)
{
	if (!m->copied) {
		shm_copy_in(to, &m->head, sizeof(m->head));
		m->copied = align_up(sizeof(m->head), 8);
	}
	for (size_t i = 0; i < AREA_COUNT; i++) {
		size_t end = m->head.at[i] + m->area[i].len;
		while (m->copied < end) {
			size_t n = end - m->copied < budget ? end - m->copied : budget & ~(size_t)7;
			if (!n)
				return false;
			shm_copy_in(to + m->copied, m->area[i].p + (m->copied - m->head.at[i]), n);
			m->copied += n;
			budget -= n;
		}
	}
	return true;
}

/* ---- one document ---- */

struct sorted {
	uint64_t key;
	const struct word *word;
	uint32_t number; /* in the text */
};

static int by_text(const void *a, const void *b)
{
	const struct sorted *x = a, *y = b;
	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	struct span s = x->word->stem, t = y->word->stem;
	int c = memcmp(s.p, t.p, s.len < t.len ? s.len : t.len);
	return c ? c : (s.len > t.len) - (s.len < t.len);
}

/* The words that count as (number << 1 | gap), in order of their places. `number_at`: of each place its term; NONE: none. */
static void put_words(struct buf *b, const uint32_t *number_at, uint32_t length)
{
	uint32_t expected = 0;
	if (!length)
		return;
	buf_reserve(b, 10 * (size_t)length);
	char *p = b->p + b->len;
	for (uint32_t at = 0; at < length; at++) {
		if (number_at[at] == POSTINGS_NONE)
			continue;
		p = postings_put_varint(p, number_at[at] << 1 | (at != expected));
		if (at != expected)
			p = postings_put_varint(p, at - expected);
		expected = at + 1;
	}
	b->len = (size_t)(p - b->p);
}

static void put_terms(struct postings_image *m, const struct words_text *t)
{
	struct sorted few[256], *v = few;
	uint32_t places_few[1024], *places = places_few, n = 0;
	if (t->n > ARRAY_LEN(few))
		v = util_alloc(t->n * sizeof(*v));
	if (t->length > ARRAY_LEN(places_few))
		places = util_alloc(t->length * sizeof(*places));
	memset(places, 0xff, t->length * sizeof(*places));
	for (size_t i = 0; i < t->n; i++)
		if (word_counts(t, &t->v[i]))
			v[n++] = (struct sorted){postings_key(t->v[i].stem), &t->v[i], 0};
	if (n)
		qsort(v, n, sizeof(*v), by_text);
	for (uint32_t i = 0; i < n; i++) {
		const struct word *x = v[i].word;
		uint32_t doc = 0;
		postings_image_term(m, x->stem, &doc, &x->count, 1);
		for (uint32_t at = x->first; at < t->length; at = t->next[at])
			places[at] = i;
	}
	put_words(&m->area[AREA_WORDS], places, t->length);
	if (v != few)
		free(v);
	if (places != places_few)
		free(places);
}

void postings_image_document(struct postings_image *m, struct words *w, const struct uuid *id, uint64_t version,
			     int64_t expires_us, struct span content)
{
	struct words_text t;
	uint64_t alive = 0;
	uint32_t start = 0;
	words_analyze(w, content, &t);
	uint16_t length = (uint16_t)(t.counting < POSTINGS_LENGTH ? t.counting : POSTINGS_LENGTH);
	postings_image_clear(m);
	buf_add(&m->area[AREA_IDS], id, sizeof(*id));
	buf_add(&m->area[AREA_VERSIONS], &version, sizeof(version));
	buf_add(&m->area[AREA_EXPIRIES], &expires_us, sizeof(expires_us));
	buf_add(&m->area[AREA_DEATHS], &alive, sizeof(alive));
	buf_add(&m->area[AREA_LENGTHS], &length, sizeof(length));
	buf_add(&m->area[AREA_STARTS], &start, sizeof(start));
	m->head.docs = 1;
	m->head.length = length;
	put_terms(m, &t);
	postings_image_seal(m);
}
