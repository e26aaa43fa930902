#include "plant.h"

#include "record.h"

/* Rows are made by one writer and never move: a reader that sees `ns` (acquire) sees the name that
 * was written before it (release). Linear probing; a free row (ns 0) ends a search, and rows are never
 * freed, so a probe that passes a row once passes it for ever. */
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

struct plant_namespace *plant_make(struct plant *p, struct span name)
{
	uint64_t ns = record_ns(name);
	struct plant_namespace *row = plant_find(p, ns);
	if (row || name.len > LIMIT_NAMESPACE)
		return row;
	size_t i = home(ns), probed = 0;
	while (atomic_load_explicit(&p->namespaces[i].ns, memory_order_relaxed)) {
		if (++probed >= PLANT_NAMESPACES / 8 * 7)
			return NULL;
		i = (i + 1) & (PLANT_NAMESPACES - 1);
	}
	row = &p->namespaces[i];
	row->name_len = (uint32_t)name.len;
	memcpy(row->name, name.p, name.len);
	atomic_store_explicit(&row->ns, ns, memory_order_release);
	return row;
}
