#include "plant.h"

#include "fault.h"
#include "record.h"

_Static_assert(sizeof(((struct plant_namespace *)0)->embedder) == RECORD_EMBEDDER_MAX + 1, "NUL-terminated");

/* Rows are made by one writer and never move: a reader that sees `ns` (acquire) sees the name that
 * was written before it (release). Linear probing; a free row (ns 0) ends a search, and rows are never
 * freed, so a probe that passes a row once passes it for ever. */
bool plant_overloaded(const struct plant *p)
{
	uint64_t standing = 0;
	for (unsigned s = 0; s < SLOT_COUNT; s++)
		for (unsigned i = STAT_OVERLOAD_STANDING_READERS; i <= STAT_OVERLOAD_STANDING_LOOP; i++)
			standing |= atomic_load_explicit(&p->worker[s].stats.v[i], memory_order_relaxed);
	return standing;
}

static size_t home(uint64_t ns) { return (size_t)ns & (PLANT_NAMESPACES - 1); }

struct plant_namespace *plant_find(struct plant *p, uint64_t ns)
{
	size_t i = home(ns);
	for (size_t n = 0; n < PLANT_NAMESPACES; n++, i = (i + 1) & (PLANT_NAMESPACES - 1)) {
		uint64_t at = atomic_load_explicit(&p->namespaces[i].ns, memory_order_acquire);
		if (at == ns)
			return ns ? &p->namespaces[i] : NULL;
		if (!at)
			return NULL;
	}
	return NULL;
}

/* Rows in use. Only sync makes rows, in one plant; counted once in its life, then kept. */
static size_t rows_used(const struct plant *p, bool one_more)
{
	static const struct plant *of;
	static size_t used;
	if (of != p) {
		used = 0;
		for (size_t i = 0; i < PLANT_NAMESPACES; i++)
			used += atomic_load_explicit(&p->namespaces[i].ns, memory_order_relaxed) != 0;
		of = p;
	}
	return used += one_more;
}

/* A sync that is killed before the last store has changed a free row only: its successor writes it
 * again. After that store the row is whole. */
bool plant_exists(struct plant *p, uint64_t ns)
{
	const struct plant_namespace *row = plant_find(p, ns);
	return row && atomic_load_explicit(&row->exists, memory_order_acquire);
}

struct plant_namespace *plant_make(struct plant *p, struct span name)
{
	uint64_t ns = record_ns(name);
	struct plant_namespace *row = plant_find(p, ns);
	if (row)
		return row;
	if (name.len > LIMIT_NAMESPACE || rows_used(p, false) >= PLANT_NAMESPACES / 8 * 7)
		return NULL;
	size_t i = home(ns);
	while (atomic_load_explicit(&p->namespaces[i].ns, memory_order_relaxed))
		i = (i + 1) & (PLANT_NAMESPACES - 1); /* ends: an eighth is free */
	row = &p->namespaces[i];
	row->name_len = (uint32_t)name.len;
	if (name.len)
		memcpy(row->name, name.p, name.len);
	FAULT_POINT(plant_named);
	atomic_store_explicit(&row->ns, ns, memory_order_release);
	FAULT_POINT(plant_published);
	rows_used(p, true);
	return row;
}

void plant_know(struct plant *p, uint64_t seq, uint64_t id)
{
	struct plant_known *k = &p->known[seq % PLANT_KNOWN];
	atomic_store_explicit(&k->seq, 0, memory_order_relaxed);
	atomic_store_explicit(&k->id, id, memory_order_release);
	FAULT_POINT(plant_knowing);
	atomic_store_explicit(&k->seq, seq, memory_order_release);
}

uint64_t plant_known(const struct plant *p, uint64_t seq)
{
	const struct plant_known *k = &p->known[seq % PLANT_KNOWN];
	return atomic_load_explicit(&k->seq, memory_order_acquire) == seq ? k->id : 0;
}

static void rename_target(struct plant_target *t, const char *name)
{
	uint32_t change = atomic_load_explicit(&t->change, memory_order_relaxed) |
			  1; /* odd already: left by a killed pinger */
	size_t len = strlen(name);
	atomic_store_explicit(&t->change, change, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	AN(len <= LIMIT_TARGET_NAME);
	char text[sizeof(t->name)] = {0};
	memcpy(text, name, len);
	shm_copy_in(t->name, text, sizeof(text));
	FAULT_POINT(target_renaming);
	static const struct plant_target_figures none;
	plant_target_publish(t, &none);
	atomic_store_explicit(&t->pings, 0, memory_order_relaxed);
	atomic_store_explicit(&t->failures, 0, memory_order_relaxed);
	atomic_store_explicit(&t->touched_us, 0, memory_order_relaxed);
	atomic_store_explicit(&t->change, change + 1, memory_order_release);
}

struct plant_target *plant_target_take(struct plant *p, const char *name)
{
	struct plant_target *row = NULL;
	for (size_t i = 0; i < PLANT_TARGETS; i++) {
		struct plant_target *t = &p->targets[i];
		bool whole = !(atomic_load_explicit(&t->change, memory_order_relaxed) & 1);
		if (whole && strcmp(t->name, name) == 0) {
			row = t;
			break;
		}
		/* A row that nobody used yet before one whose counters may come back into use. */
		if (!atomic_load_explicit(&t->live, memory_order_relaxed) && (!row || (row->name[0] && !t->name[0])))
			row = t;
	}
	if (!row)
		return NULL;
	if (strcmp(row->name, name) != 0 || atomic_load_explicit(&row->change, memory_order_relaxed) & 1)
		rename_target(row, name);
	atomic_store_explicit(&row->well, 0, memory_order_relaxed);
	FAULT_POINT(target_named);
	atomic_store_explicit(&row->live, 1, memory_order_release);
	return row;
}

void plant_target_drop(struct plant_target *t) { atomic_store_explicit(&t->live, 0, memory_order_release); }

void plant_target_drop_all(struct plant *p)
{
	for (size_t i = 0; i < PLANT_TARGETS; i++)
		plant_target_drop(&p->targets[i]);
}

bool plant_target_name(const struct plant_target *t, char out[LIMIT_TARGET_NAME + 1])
{
	uint32_t change = atomic_load_explicit(&t->change, memory_order_acquire);
	if (change & 1 || !atomic_load_explicit(&t->live, memory_order_acquire))
		return false;
	shm_copy_out(out, t->name, LIMIT_TARGET_NAME + 1);
	atomic_thread_fence(memory_order_acquire);
	out[LIMIT_TARGET_NAME] = 0;
	return atomic_load_explicit(&t->change, memory_order_relaxed) == change;
}

struct plant_target *plant_target_find(struct plant *p, const char *name)
{
	char at[LIMIT_TARGET_NAME + 1];
	for (size_t i = 0; i < PLANT_TARGETS; i++)
		if (plant_target_name(&p->targets[i], at) && strcmp(at, name) == 0)
			return &p->targets[i];
	return NULL;
}

/* ---- figures ---- */

#define FIGURES_HALF (sizeof(struct plant_target_figures) / 16 * 8)
#define READS_MAX 64 /* a copy takes a microsecond, and there is a writing every 100 ms at most */

_Static_assert(sizeof(struct plant_target_figures) % 8 == 0, "copied by words");

void plant_target_publish(struct plant_target *t, const struct plant_target_figures *f)
{
	uint32_t turn = atomic_load_explicit(&t->turn, memory_order_relaxed) |
			1; /* odd already: left by a killed one */
	char *to = (char *)&t->figures;
	const char *from = (const char *)f;
	atomic_store_explicit(&t->turn, turn, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	shm_copy_in(to, from, FIGURES_HALF);
	FAULT_POINT(target_figures);
	shm_copy_in(to + FIGURES_HALF, from + FIGURES_HALF, sizeof(*f) - FIGURES_HALF);
	atomic_store_explicit(&t->turn, turn + 1, memory_order_release);
}

bool plant_target_figures(const struct plant_target *t, struct plant_target_figures *out)
{
	for (int i = 0; i < READS_MAX; i++) {
		uint32_t turn = atomic_load_explicit(&t->turn, memory_order_acquire);
		if (turn & 1)
			continue;
		shm_copy_out(out, &t->figures, sizeof(*out));
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&t->turn, memory_order_relaxed) == turn)
			return true;
	}
	return false;
}

/* ---- real traffic ---- */

void plant_target_touch(struct plant_target *t, int64_t mono_us)
{
	int64_t was = atomic_load_explicit(&t->touched_us, memory_order_relaxed);
	while (was < mono_us && !atomic_compare_exchange_weak_explicit(&t->touched_us, &was, mono_us,
								       memory_order_relaxed, memory_order_relaxed))
		;
}

uint64_t plant_host_key(struct span host_port)
{
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a: names, not secrets; two that meet only spare a ping */
	for (size_t i = 0; i < host_port.len; i++) {
		unsigned char c = (unsigned char)host_port.p[i];
		h = (h ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 0x100000001b3u;
	}
	return h ? h : 1;
}

unsigned plant_host_touch(struct plant *p, uint64_t host, int64_t mono_us)
{
	unsigned n = 0;
	for (size_t i = 0; i < PLANT_TARGETS; i++) {
		struct plant_target *t = &p->targets[i];
		if (atomic_load_explicit(&t->host, memory_order_relaxed) != host ||
		    !atomic_load_explicit(&t->live, memory_order_acquire))
			continue;
		plant_target_touch(t, mono_us);
		n++;
	}
	return n;
}
