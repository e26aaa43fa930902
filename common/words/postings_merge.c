/* Merges: segments of like size become one, without their dead, a few steps with each write. Writer only.
 *
 * The inputs stay in the manifest until the output is whole, and documents that die meanwhile are noted: they die in the
 * output, too, before it is published. Then the private map still leads to the inputs; it is put right step by step as well, and
 * a reference into an input is followed to the output until that is done. Only then the inputs are let go of. */
#include "postings_merge-private.h"

#include "fault.h"

#define INLINE_DOCS 512 /* a smaller merge is done at once */
#define CROWDED (POSTINGS_SEGMENTS - 24)
#define REWRITE_DOCS 64 /* a smaller segment is merged soon anyway */
#define REST 256	/* writes until a merge is tried again after there was no room for one */

static struct postings_merge **first_of(struct postings *p, const struct postings_ns *n)
{
	return &p->w->merges[n - p->ns];
}

/* ---- which ---- */

struct candidate {
	uint64_t entry;
	uint32_t live, dead, level;
};

bool postings_merge_holds(const struct postings *p, const struct postings_ns *n, uint32_t desc)
{
	const struct postings_merge *m = p->w->merges[n - p->ns];
	while (m && !(m->phase == MERGE_MAPPING && m->desc == desc))
		m = m->next;
	return m || p->w->of[desc];
}

static size_t candidates(struct postings *p, struct postings_ns *n, struct candidate *v, size_t *segments_r)
{
	struct postings_next x;
	size_t count = 0;
	postings_manifest_begin(p, n, &x);
	*segments_r = x.count;
	for (size_t i = 0; i < x.count; i++) {
		uint32_t desc = postings_entry_desc(x.v[i]), level = 0;
		const struct postings_head *h = (const void *)(p->data + p->descs[desc].offset);
		uint32_t live = h->docs - h->dead_docs;
		if (h->bytes > POSTINGS_BYTES || postings_merge_holds(p, n, desc))
			continue;
		for (uint32_t k = live; k >= POSTINGS_FANOUT; k /= POSTINGS_FANOUT)
			level++;
		v[count++] = (struct candidate){x.v[i], live, h->dead_docs, level};
	}
	return count;
}

static int smallest_first(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	return (x->live > y->live) - (x->live < y->live);
}

/* Moves those to be merged to the front of v. Returns their number; 0: none for now. */
static size_t choose(struct candidate *v, size_t n, bool crowded)
{
	uint32_t count[16] = {0}, level = 0;
	size_t chosen = 0;
	for (size_t i = 0; i < n; i++)
		count[v[i].level]++;
	while (level < ARRAY_LEN(count) && count[level] < POSTINGS_FANOUT)
		level++;
	for (size_t i = 0; i < n && level < ARRAY_LEN(count) && chosen < POSTINGS_INPUTS; i++)
		if (v[i].level == level)
			v[chosen++] = v[i];
	if (chosen)
		return chosen;
	for (size_t i = 0; i < n; i++) {
		if (v[i].live + v[i].dead < REWRITE_DOCS || v[i].dead <= v[i].live)
			continue;
		v[0] = v[i];
		return 1;
	}
	if (!crowded || n < 2)
		return 0;
	qsort(v, n, sizeof(*v), smallest_first);
	return n < POSTINGS_INPUTS ? n : POSTINGS_INPUTS;
}

static struct postings_merge *begin_with(struct postings *p, struct postings_ns *n, const struct candidate *v,
					 size_t chosen)
{
	struct postings_merge *m = util_zalloc(sizeof(*m));
	m->n = n;
	for (size_t i = 0; i < chosen; i++) {
		uint32_t desc = postings_entry_desc(v[i].entry);
		struct postings_input *in = &m->in[m->ninputs++];
		in->desc = desc;
		in->w = postings_segment_view(p, desc);
		in->docs = util_alloc((in->w.head.docs + 1) * sizeof(*in->docs));
		in->terms = util_alloc((in->w.head.terms + 1) * sizeof(*in->terms));
		m->live += v[i].live;
		p->w->of[desc] = m;
	}
	m->next = *first_of(p, n);
	*first_of(p, n) = m;
	return m;
}

/* Begins one. False: there is nothing to merge. */
static bool begin(struct postings *p, struct postings_ns *n, bool crowded, struct postings_merge **m_r)
{
	struct candidate v[POSTINGS_SEGMENTS];
	size_t segments, count = candidates(p, n, v, &segments);
	size_t chosen = choose(v, count, crowded);
	if (chosen)
		*m_r = begin_with(p, n, v, chosen);
	return chosen;
}

/* ---- ends ---- */

static void unlink_merge(struct postings *p, struct postings_merge *m)
{
	struct postings_merge **at = first_of(p, m->n);
	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	for (size_t i = 0; i < m->ninputs; i++)
		p->w->of[m->in[i].desc] = NULL;
}

static void free_merge(struct postings_merge *m)
{
	for (size_t i = 0; i < m->ninputs; i++) {
		free(m->in[i].docs);
		free(m->in[i].terms);
	}
	postings_image_free(&m->out);
	free(m->kills);
	free(m->doc);
	free(m->tf);
	free(m);
}

/* No room: everything stays as it is. */
static void give_up(struct postings *p, struct postings_merge *m)
{
	if (m->taken && m->phase != MERGE_MAPPING)
		postings_segment_free(p, m->desc);
	unlink_merge(p, m);
	free_merge(m);
}

static void end(struct postings *p, struct postings_merge *m)
{
	unlink_merge(p, m);
	FAULT_POINT(words_merged);
	for (size_t i = 0; i < m->ninputs; i++)
		postings_segment_retire(p, m->in[i].desc);
	free_merge(m);
}

static bool is_input(const struct postings_merge *m, uint32_t desc)
{
	size_t i = 0;
	while (i < m->ninputs && m->in[i].desc != desc)
		i++;
	return i < m->ninputs;
}

/* The output takes the inputs' place, and who has died since its documents were copied dies in it. */
static void publish(struct postings *p, struct postings_merge *m)
{
	struct postings_next x;
	size_t kept = 0;
	if (m->taken) {
		struct postings_view w = postings_segment_view(p, m->desc);
		for (size_t i = 0; i < m->nkills; i++) {
			const struct postings_input *in = &m->in[m->kills[i] >> 32];
			uint32_t old = (uint32_t)m->kills[i], doc = in->docs[old];
			if (doc == POSTINGS_NONE)
				continue;
			postings_manifest_die(&w, doc, postings_death(&in->w, old));
			postings_manifest_count_dead(&w, doc);
		}
	}
	postings_manifest_begin(p, m->n, &x);
	for (size_t i = 0; i < x.count; i++)
		if (!is_input(m, postings_entry_desc(x.v[i])))
			x.v[kept++] = x.v[i];
	x.count = kept;
	if (m->taken)
		x.v[x.count++] = postings_segment_open(p, m->desc);
	m->phase = MERGE_MAPPING;
	m->at_input = m->at_doc = 0;
	postings_manifest_publish(p, &x);
}

/* ---- steps ---- */

static void map_some(struct postings *p, struct postings_merge *m, uint32_t *budget)
{
	while (m->taken && m->at_doc < m->out.head.docs && *budget) {
		struct postings_view w = postings_segment_view(p, m->desc);
		uint32_t doc = m->at_doc++;
		struct uuid id = postings_id(&w, doc);
		if (!postings_death(&w, doc))
			postings_map_set(p, &id, postings_ref(p, m->desc, doc));
		*budget -= *budget < 8 ? *budget : 8;
	}
}

/* False: no room. */
static bool copy_some(struct postings *p, struct postings_merge *m, uint32_t *budget)
{
	if (!m->out.head.docs) { /* all of them are dead */
		publish(p, m);
		return true;
	}
	if (!m->taken) {
		postings_image_seal(&m->out);
		if (!postings_segment_take(p, m->n->ns, m->out.head.bytes, true, &m->desc))
			return false;
		m->taken = true;
	}
	uint64_t bytes = 64ull * *budget;
	if (postings_image_copy(&m->out, p->data + p->descs[m->desc].offset, (size_t)bytes))
		publish(p, m);
	else
		*budget = 0;
	return true;
}

static void run(struct postings *p, struct postings_merge *m, uint32_t budget)
{
	bool room = true;
	while (budget && room && m->phase < MERGE_COPYING)
		postings_merge_step(m, &budget);
	if (budget && m->phase == MERGE_COPYING)
		room = copy_some(p, m, &budget);
	if (!room) {
		p->w->rest = REST;
		give_up(p, m);
		return;
	}
	if (budget && m->phase == MERGE_MAPPING)
		map_some(p, m, &budget);
	if (m->phase == MERGE_MAPPING && (!m->taken || m->at_doc == m->out.head.docs))
		end(p, m);
}

static size_t segments_of(struct postings *p, struct postings_ns *n)
{
	struct postings_next x;
	postings_manifest_begin(p, n, &x);
	return x.count;
}

void postings_merge_all(struct postings *p, struct postings_ns *n)
{
	while (*first_of(p, n))
		run(p, *first_of(p, n), UINT32_MAX);
}

void postings_merge_some(struct postings *p, struct postings_ns *n, uint32_t budget)
{
	struct postings_merge *m, *next;
	for (m = *first_of(p, n); m; m = next) {
		next = m->next;
		run(p, m, budget);
	}
	if (p->w->rest) {
		p->w->rest--;
		return;
	}
	bool crowded = segments_of(p, n) > CROWDED;
	if (crowded)
		postings_merge_all(p, n);
	while (!p->w->rest && begin(p, n, crowded, &m)) {
		if (m->live > INLINE_DOCS && !crowded)
			break;
		run(p, m, UINT32_MAX);
	}
}

/* A segment of its own for what is alive of each that has dead documents, however large it is. */
enum postings_cleaning postings_merge_clean(struct postings *p, struct postings_ns *n, uint32_t budget)
{
	struct postings_next x;
	uint32_t rest = p->w->rest;
	p->w->rest = 0;
	if (!*first_of(p, n)) {
		postings_manifest_begin(p, n, &x);
		for (size_t i = 0; i < x.count && !*first_of(p, n); i++) {
			const struct postings_head *h = (const void *)(p->data +
								       p->descs[postings_entry_desc(x.v[i])].offset);
			struct candidate v = {x.v[i], h->docs - h->dead_docs, h->dead_docs, 0};
			if (v.dead)
				(void)begin_with(p, n, &v, 1);
		}
	}
	bool any = *first_of(p, n);
	if (any)
		run(p, *first_of(p, n), budget);
	bool stuck = p->w->rest;
	p->w->rest = stuck ? p->w->rest : rest;
	return stuck ? POSTINGS_STUCK : any ? POSTINGS_GOING_ON : POSTINGS_CLEAN;
}

/* ---- what others must know ---- */

void postings_merge_forget(struct postings *p, struct postings_ns *n)
{
	while (*first_of(p, n)) {
		struct postings_merge *m = *first_of(p, n);
		unlink_merge(p, m);
		free_merge(m);
	}
}

/* The inputs of one that is published are in no manifest any more, and the caller knows only those that are. */
void postings_merge_drop(struct postings *p, struct postings_ns *n)
{
	while (*first_of(p, n)) {
		struct postings_merge *m = *first_of(p, n);
		bool published = m->phase == MERGE_MAPPING;
		uint32_t desc[POSTINGS_INPUTS];
		size_t count = m->ninputs;
		for (size_t i = 0; i < count; i++)
			desc[i] = m->in[i].desc;
		give_up(p, m);
		for (size_t i = 0; i < count && published; i++)
			postings_segment_free(p, desc[i]);
	}
}

void postings_merge_killed(struct postings *p, uint64_t ref)
{
	struct postings_merge *m = p->w->of[postings_ref_desc(ref)];
	uint64_t input = 0;
	if (!m || m->phase == MERGE_MAPPING)
		return;
	while (m->in[input].desc != postings_ref_desc(ref))
		input++;
	if (m->nkills == m->ckills) {
		m->ckills = m->ckills ? 2 * m->ckills : 64;
		m->kills = util_realloc(m->kills, m->ckills * sizeof(*m->kills));
	}
	m->kills[m->nkills++] = input << 32 | postings_ref_doc(ref);
}

uint64_t postings_merge_moved(const struct postings *p, uint64_t ref)
{
	const struct postings_merge *m = p->w->of[postings_ref_desc(ref)];
	if (!m || m->phase != MERGE_MAPPING)
		return ref;
	size_t input = 0;
	while (m->in[input].desc != postings_ref_desc(ref))
		input++;
	uint32_t doc = m->in[input].docs[postings_ref_doc(ref)];
	AN(m->taken && doc != POSTINGS_NONE);
	return postings_ref(p, m->desc, doc);
}
