/* Reading a segment that may be taken away meanwhile: nothing that is read is trusted before its place was checked, and
 * no result is before the generation was found unmoved behind it. */
#include <stdlib.h>

#include "postings-private.h"

uint64_t postings_manifest_load(const struct postings_ns *n, uint64_t out[POSTINGS_SEGMENTS], size_t *n_r)
{
	for (int tries = 0; tries < 64; tries++) {
		uint64_t number = atomic_load_explicit(&n->current, memory_order_acquire);
		const struct postings_manifest *m = &n->ring[number % POSTINGS_RING];
		*n_r = 0;
		if (!number)
			return 1; /* nothing was ever published */
		if (atomic_load_explicit(&m->number, memory_order_acquire) != number)
			continue;
		uint64_t count = atomic_load_explicit(&m->n, memory_order_relaxed);
		for (uint64_t i = 0; i < count && i < POSTINGS_SEGMENTS; i++)
			out[i] = atomic_load_explicit(&m->v[i], memory_order_relaxed);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&m->number, memory_order_relaxed) != number || count > POSTINGS_SEGMENTS)
			continue;
		*n_r = (size_t)count;
		return number;
	}
	return 0;
}

bool postings_view_moved(const struct postings_view *w)
{
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&w->d->gen, memory_order_relaxed) != w->gen;
}

bool postings_view_open(const struct postings *p, uint64_t ns, uint64_t entry, struct postings_view *w)
{
	uint32_t desc = postings_entry_desc(entry);
	if (desc >= POSTINGS_DESCS)
		return false;
	*w = (struct postings_view){.d = &p->descs[desc], .gen = entry >> 20};
	if (atomic_load_explicit(&w->d->gen, memory_order_acquire) != w->gen || w->gen & 1)
		return false;
	uint64_t offset = atomic_load_explicit(&w->d->offset, memory_order_relaxed);
	uint64_t bytes = atomic_load_explicit(&w->d->bytes, memory_order_relaxed);
	if (atomic_load_explicit(&w->d->ns, memory_order_relaxed) != ns || offset % POSTINGS_UNIT ||
	    offset >= p->data_bytes || bytes > p->data_bytes - offset || bytes < sizeof(w->head))
		return false;
	w->base = p->data + offset;
	shm_copy_out(&w->head, w->base, sizeof(w->head));
	return !postings_view_moved(w) && w->head.bytes == bytes;
}

void postings_term_load(const struct postings_view *w, uint32_t term, struct postings_term *t)
{
	shm_copy_out(t, postings_area(w, AREA_TERMS) + term * sizeof(*t), sizeof(*t));
}

size_t postings_term_rest(const struct postings_view *w, const struct postings_term *t, char *to)
{
	size_t len = t->len > 8 ? t->len - 8u : 0, room = w->head.at[AREA_LISTS] - w->head.at[AREA_STRINGS];
	if (len > WORDS_STEM_MAX || t->string > room || len > room - t->string)
		return 0;
	shm_copy_out(to, postings_area(w, AREA_STRINGS) + t->string, len);
	return len;
}

static uint64_t key_at(const struct postings_view *w, uint32_t term)
{
	return postings_load64(postings_area(w, AREA_KEYS) + 8 * (size_t)term);
}

/* The term against the text: < 0, 0, > 0. prefix: 0 when it begins with the text. */
static int compare(const struct postings_view *w, uint32_t term, struct span text, uint64_t key, bool prefix)
{
	uint64_t have = key_at(w, term);
	if (prefix && text.len < 8)
		have &= ~(UINT64_MAX >> 8 * text.len);
	if (have != key)
		return have < key ? -1 : 1;
	if (prefix && text.len <= 8)
		return 0;
	struct postings_term t;
	char rest[WORDS_STEM_MAX];
	postings_term_load(w, term, &t);
	size_t n = postings_term_rest(w, &t, rest), want = text.len > 8 ? text.len - 8 : 0;
	int c = memcmp(rest, text.p + (want ? 8 : 0), n < want ? n : want);
	if (c || (prefix && n >= want))
		return c;
	/* Up to 8 bytes the key says all but the length, and no stem has a NUL in it. */
	return n != want ? (n > want) - (n < want) : 0;
}

uint32_t postings_term_from(const struct postings_view *w, struct span text, uint64_t key, bool prefix)
{
	uint32_t low = 0, high = w->head.terms;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int c = compare(w, middle, text, key, prefix);
		if (c < 0 || (prefix && c == 0))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint32_t postings_term_find(const struct postings_view *w, struct span text, uint64_t key)
{
	/* By keys alone, as far as they go. */
	uint32_t low = 0, high = w->head.terms;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (key_at(w, middle) < key)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < w->head.terms; low++) {
		int c = compare(w, low, text, key, false);
		if (c == 0)
			return low;
		if (c > 0)
			break;
	}
	return POSTINGS_NONE;
}

/* ---- the words of a document ---- */

void postings_doc_words(const struct postings_view *w, uint32_t doc, const char **p, const char **end)
{
	const char *starts = postings_area(w, AREA_STARTS) + 4 * (size_t)doc, *words = postings_area(w, AREA_WORDS);
	uint32_t from = postings_load32(starts), to = postings_load32(starts + 4);
	uint32_t room = w->head.bytes - w->head.at[AREA_WORDS];
	bool good = from <= to && to <= room;
	*p = words + (good ? from : 0);
	*end = words + (good ? to : 0);
}

/* Where the phrase's first word stands, in turn; each start is tried against the places of the others. Documents are
 * short, and few come as far as here. */
struct place {
	uint32_t at, word;
};

static bool stands(const struct place *v, size_t n, size_t i, const struct postings_question *q,
		   const struct postings_phrase *f, const uint32_t *terms)
{
	uint32_t start = v[i].at;
	for (uint32_t k = 1; k < f->n; k++) {
		const struct postings_place *want = &q->places[f->from + k];
		while (i < n && v[i].at < start + want->place)
			i++;
		if (i == n || v[i].at != start + want->place || v[i].word != terms[want->word])
			return false;
	}
	return true;
}

bool postings_phrase_has(const struct postings_view *w, uint32_t doc, const struct postings_question *q,
			 const struct postings_phrase *f, const uint32_t *terms)
{
	struct place few[512], *v = few;
	const char *p, *end;
	size_t n = 0;
	uint32_t at = 0;
	bool found = false;
	postings_doc_words(w, doc, &p, &end);
	if ((size_t)(end - p) > ARRAY_LEN(few))
		v = util_alloc((size_t)(end - p) * sizeof(*v));
	while (p < end) {
		uint32_t x = postings_varint(&p, end);
		at += x & 1 ? postings_varint(&p, end) : 0;
		v[n++] = (struct place){at++, x >> 1};
	}
	for (size_t i = 0; i < n && !found; i++)
		found = v[i].word == terms[q->places[f->from].word] && stands(v, n, i, q, f, terms);
	if (v != few)
		free(v);
	return found;
}
