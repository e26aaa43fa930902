/* Put, remove, drop. Writer only. */
#include <errno.h>

#include "fault.h"
#include "postings-private.h"

#define STEPS_MIN 2048u	 /* of merges, with each write */
#define STEPS_FACTOR 64u /* and more with longer documents: a merge ends long before the next one of its size is due */

/* The row counts as used before its slot names it: killed in between, a row is lost, never shared by two namespaces. */
static struct postings_ns *make_row(struct postings *p, uint64_t ns)
{
	struct postings_ns *n = postings_ns_find(p, ns);
	uint32_t row = atomic_load_explicit(&p->super->namespaces, memory_order_relaxed), i = 0;
	if (n || row >= POSTINGS_NAMESPACES)
		return n;
	while (atomic_load_explicit(&p->slots[(ns + i) & (POSTINGS_SLOTS - 1)], memory_order_relaxed))
		i++; /* ends: there are more slots than rows */
	atomic_store_explicit(&p->super->namespaces, row + 1, memory_order_relaxed);
	n = &p->ns[row];
	atomic_store_explicit(&n->ns, ns, memory_order_relaxed);
	FAULT_POINT(words_ns_row);
	atomic_store_explicit(&p->slots[(ns + i) & (POSTINGS_SLOTS - 1)], row + 1, memory_order_release);
	return n;
}

void postings_lacks(struct postings *p, uint64_t ns)
{
	struct postings_ns *n = make_row(p, ns);
	_Atomic uint32_t *flag = n ? &n->incomplete : &p->super->ns_full;
	atomic_store_explicit(flag, 1, memory_order_release);
}

static struct postings_ns *row_of(const struct postings *p, uint64_t ref)
{
	struct postings_ns *n = postings_ns_find(p, p->descs[postings_ref_desc(ref)].ns);
	AN(n);
	return n;
}

static uint64_t version_of(const struct postings *p, uint64_t ref)
{
	struct postings_view w = postings_segment_view(p, postings_ref_desc(ref));
	return postings_version_of(&w, postings_ref_doc(ref));
}

static void kill_alone(struct postings *p, uint64_t ref)
{
	struct postings_next x;
	postings_manifest_begin(p, row_of(p, ref), &x);
	postings_manifest_kill(p, &x, ref);
	postings_manifest_publish(p, &x);
}

/* The document as a segment of its own. */
static bool make_segment(struct postings *p, struct postings_ns *n, uint32_t *desc_r)
{
	struct postings_image *m = &p->w->one;
	if (!postings_segment_take(p, n->ns, m->head.bytes, false, desc_r))
		return false;
	(void)postings_image_copy(m, p->data + p->descs[*desc_r].offset, SIZE_MAX);
	return true;
}

/* The old version dies with the manifest that has the new one. When there is no room for that, the old one goes nevertheless: an
 * outdated text must not answer searches; the namespace is incomplete. */
static bool publish_new(struct postings *p, struct postings_ns *n, const struct uuid *id, uint64_t old)
{
	struct postings_next x;
	uint32_t desc;
	postings_manifest_begin(p, n, &x);
	if (x.count == POSTINGS_SEGMENTS || !make_segment(p, n, &desc))
		return false;
	bool here = old && row_of(p, old) == n;
	x.v[x.count++] = postings_segment_open(p, desc);
	if (here)
		postings_manifest_kill(p, &x, old);
	atomic_store_explicit(&n->live, n->live + 1, memory_order_relaxed);
	atomic_store_explicit(&p->super->live, p->super->live + 1, memory_order_relaxed);
	postings_manifest_publish(p, &x);
	postings_map_set(p, id, postings_ref(p, desc, 0));
	if (old && !here)
		kill_alone(p, old);
	return true;
}

void postings_language(struct postings *p, enum language l) { words_language(p->w->words, l); }

int postings_put(struct postings *p, uint64_t ns, const struct uuid *id, uint64_t version, int64_t expires_us,
		 struct span content)
{
	AN(p->w);
	if (!ns)
		return EINVAL;
	uint64_t old = postings_map_find(p, id);
	if (old && version_of(p, old) >= version)
		return 0;
	struct postings_ns *n = make_row(p, ns);
	postings_segment_reclaim(p, false);
	postings_image_document(&p->w->one, p->w->words, id, version, expires_us, content);
	uint32_t steps = STEPS_MIN + STEPS_FACTOR * p->w->one.head.terms;
	bool done = n && publish_new(p, n, id, old);
	if (!done && n) { /* merges under way hold twice what they will */
		postings_merge_all(p, n);
		old = postings_map_find(p, id);
		done = publish_new(p, n, id, old);
	}
	if (!done) {
		postings_lacks(p, ns);
		if (old) {
			postings_map_erase(p, id);
			kill_alone(p, old);
		}
	}
	if (n)
		postings_merge_some(p, n, steps);
	return done ? 0 : ENOSPC;
}

void postings_remove(struct postings *p, const struct uuid *id, uint64_t version)
{
	AN(p->w);
	uint64_t ref = postings_map_find(p, id);
	if (!ref || version_of(p, ref) > version)
		return;
	struct postings_ns *n = row_of(p, ref);
	postings_segment_reclaim(p, false);
	postings_map_erase(p, id);
	kill_alone(p, ref);
	postings_merge_some(p, n, STEPS_MIN);
}

/* The references of its documents in the private map become void with the segments. */
void postings_drop(struct postings *p, uint64_t ns)
{
	AN(p->w);
	struct postings_next x;
	uint32_t gone[POSTINGS_SEGMENTS];
	struct postings_ns *n = postings_ns_find(p, ns);
	if (!n)
		return;
	postings_merge_drop(p, n);
	postings_manifest_begin(p, n, &x);
	size_t count = x.count;
	for (size_t i = 0; i < count; i++)
		gone[i] = postings_entry_desc(x.v[i]);
	x.count = 0;
	postings_manifest_publish(p, &x);
	FAULT_POINT(words_dropping);
	/* At once, not after a while: the ids must not be found any more. */
	for (size_t i = 0; i < count; i++)
		postings_segment_free(p, gone[i]);
	atomic_store_explicit(&p->super->live, p->super->live - n->live, memory_order_relaxed);
	atomic_store_explicit(&n->live, 0, memory_order_relaxed);
	atomic_store_explicit(&n->incomplete, 0, memory_order_release);
}

uint64_t postings_version(struct postings *p, const struct uuid *id)
{
	AN(p->w);
	uint64_t ref = postings_map_find(p, id);
	return ref ? version_of(p, ref) : 0;
}
