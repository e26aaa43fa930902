/* The output of a merge: its documents, its terms with their postings, the words of its documents. */
#include "postings_merge-private.h"

static void spend(uint32_t *budget, uint32_t cost) { *budget -= *budget < cost ? *budget : cost; }

static void copy_item(struct postings_image *out, const struct postings_view *w, enum postings_area a, uint32_t i,
		      size_t size)
{
	buf_add(&out->area[a], postings_area(w, a) + i * size, size);
}

/* True: there is another document; at_input and at_doc say which. */
static bool at_document(struct postings_merge *m)
{
	while (m->at_input < m->ninputs && m->at_doc == m->in[m->at_input].w.head.docs) {
		m->at_input++;
		m->at_doc = 0;
	}
	return m->at_input < m->ninputs;
}

static void step_docs(struct postings_merge *m, uint32_t *budget)
{
	const uint64_t alive = 0;
	for (; *budget && at_document(m); spend(budget, 1)) {
		struct postings_input *in = &m->in[m->at_input];
		uint32_t i = m->at_doc++;
		in->docs[i] = POSTINGS_NONE;
		if (postings_death(&in->w, i))
			continue;
		in->docs[i] = m->out.head.docs++;
		copy_item(&m->out, &in->w, AREA_IDS, i, sizeof(struct uuid));
		copy_item(&m->out, &in->w, AREA_VERSIONS, i, 8);
		copy_item(&m->out, &in->w, AREA_EXPIRIES, i, 8);
		copy_item(&m->out, &in->w, AREA_LENGTHS, i, 2);
		buf_add(&m->out.area[AREA_DEATHS], &alive, sizeof(alive));
		m->out.head.length += postings_length(&in->w, i);
	}
	if (at_document(m))
		return;
	m->phase = MERGE_TERMS;
	m->doc = util_alloc((m->out.head.docs + 1) * sizeof(*m->doc));
	m->tf = util_alloc((m->out.head.docs + 1) * sizeof(*m->tf));
}

/* ---- terms ---- */

struct front { /* the term that an input is at */
	uint64_t key;
	size_t rest;
	struct postings_term t;
	char text[8 + WORDS_STEM_MAX]; /* the part behind the key from text + 8 */
};

static bool load_front(const struct postings_input *in, struct front *f)
{
	if (in->term == in->w.head.terms)
		return false;
	f->key = postings_load64(postings_area(&in->w, AREA_KEYS) + 8 * (size_t)in->term);
	memcpy(&f->t, postings_area(&in->w, AREA_TERMS) + in->term * sizeof(f->t), sizeof(f->t));
	f->rest = f->t.len > 8 ? postings_term_rest(&in->w, &f->t, f->text + 8) : 0;
	return true;
}

static int compare(const struct front *a, const struct front *b)
{
	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	int c = memcmp(a->text + 8, b->text + 8, a->rest < b->rest ? a->rest : b->rest);
	return c ? c : (a->rest > b->rest) - (a->rest < b->rest);
}

/* Of a list of one block, as nearly all of small segments are. What makes no sense ends it. */
static uint32_t gather_few(struct postings_merge *m, const struct postings_input *in, const struct postings_term *t,
			   uint32_t n)
{
	const char *p = postings_area(&in->w, AREA_LISTS) + t->list, *end = p + t->bytes;
	uint32_t at = UINT32_MAX, room = in->w.head.at[AREA_WORDS] - in->w.head.at[AREA_LISTS];
	if (t->list > room || t->bytes > room - t->list)
		return n;
	for (uint32_t i = 0; i < t->df && p < end; i++) {
		uint32_t v = postings_varint(&p, end), next = at + (v >> 1) + 1;
		uint32_t tf = v & 1 ? postings_varint(&p, end) + 2 : 1;
		if (next >= in->w.head.docs || (next <= at && at != UINT32_MAX))
			break;
		at = next;
		m->doc[n] = in->docs[at];
		m->tf[n] = tf;
		n += in->docs[at] != POSTINGS_NONE;
	}
	return n;
}

/* Those of the input that are alive, behind the n that are there. Nobody writes to it but who merges. */
static uint32_t gather(struct postings_merge *m, struct postings_input *in, const struct postings_term *t, uint32_t n)
{
	struct postings_cursor *c = &m->cursor;
	if (t->df <= POSTINGS_BLOCK)
		return gather_few(m, in, t, n);
	for (postings_cursor_open(c, &in->w, in->term); c->doc != POSTINGS_NONE; postings_cursor_next(c)) {
		uint32_t doc = in->docs[c->doc];
		if (doc == POSTINGS_NONE)
			continue;
		m->doc[n] = doc;
		m->tf[n++] = c->tf[c->i];
	}
	return n;
}

/* The smallest term of all inputs, with all that have it. key: beside each other, as most terms differ in them. */
static void one_term(struct postings_merge *m, struct front *f, bool *more, uint64_t *key, uint32_t *budget)
{
	size_t same[POSTINGS_INPUTS], nsame = 0;
	uint32_t n = 0;
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < m->ninputs; i++)
		least = key[i] < least ? key[i] : least;
	for (size_t i = 0; i < m->ninputs; i++) {
		int c = !more[i] || key[i] != least ? 1 : nsame ? compare(&f[i], &f[same[0]]) : -1;
		if (c > 0)
			continue;
		if (c < 0)
			nsame = 0;
		same[nsame++] = i;
	}
	struct front *x = &f[same[0]];
	uint64_t first = __builtin_bswap64(x->key);
	struct span text = {x->text, x->t.len};
	memcpy(x->text, &first, sizeof(first));
	for (size_t i = 0; i < nsame; i++)
		n = gather(m, &m->in[same[i]], &f[same[i]].t, n);
	uint32_t number = n ? m->out.head.terms : POSTINGS_NONE;
	if (n)
		postings_image_term(&m->out, text, m->doc, m->tf, n);
	for (size_t i = 0; i < nsame; i++) {
		struct postings_input *in = &m->in[same[i]];
		in->terms[in->term++] = number;
		more[same[i]] = load_front(in, &f[same[i]]);
		key[same[i]] = more[same[i]] ? f[same[i]].key : UINT64_MAX;
	}
	spend(budget, n + 4 + (uint32_t)m->ninputs);
}

static void step_terms(struct postings_merge *m, uint32_t *budget)
{
	struct front f[POSTINGS_INPUTS];
	bool more[POSTINGS_INPUTS], any = false;
	uint64_t key[POSTINGS_INPUTS];
	for (size_t i = 0; i < m->ninputs; i++) {
		any |= more[i] = load_front(&m->in[i], &f[i]);
		key[i] = more[i] ? f[i].key : UINT64_MAX;
	}
	while (*budget && any) {
		one_term(m, f, more, key, budget);
		any = false;
		for (size_t i = 0; i < m->ninputs; i++)
			any |= more[i];
	}
	if (any)
		return;
	m->phase = MERGE_WORDS;
	m->at_input = m->at_doc = 0;
}

/* ---- words ---- */

static uint32_t copy_words(struct postings_merge *m, const struct postings_input *in, uint32_t doc)
{
	struct buf *b = &m->out.area[AREA_WORDS];
	uint32_t start = (uint32_t)b->len, n = 0;
	const char *p, *end;
	buf_add(&m->out.area[AREA_STARTS], &start, sizeof(start));
	postings_doc_words(&in->w, doc, &p, &end);
	buf_reserve(b, 5 * (size_t)(end - p)); /* a number takes a byte there, at least */
	char *to = b->p + b->len;
	for (; p < end; n++) {
		uint32_t x = postings_varint(&p, end), number = in->terms[x >> 1];
		to = postings_put_varint(to, number << 1 | (x & 1));
		if (x & 1)
			to = postings_put_varint(to, postings_varint(&p, end));
	}
	b->len = (size_t)(to - b->p);
	return n;
}

static void step_words(struct postings_merge *m, uint32_t *budget)
{
	while (*budget && at_document(m)) {
		const struct postings_input *in = &m->in[m->at_input];
		uint32_t doc = m->at_doc++;
		spend(budget, 1 + (in->docs[doc] == POSTINGS_NONE ? 0 : copy_words(m, in, doc)));
	}
	if (!at_document(m))
		m->phase = MERGE_COPYING;
}

void postings_merge_step(struct postings_merge *m, uint32_t *budget)
{
	switch (m->phase) {
	case MERGE_DOCS: step_docs(m, budget); break;
	case MERGE_TERMS: step_terms(m, budget); break;
	case MERGE_WORDS: step_words(m, budget); break;
	case MERGE_COPYING:
	case MERGE_MAPPING: break;
	}
}
