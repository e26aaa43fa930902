/* What the rooms of /v1/admin/cache share: caches.c (how they are), caches_top.c, caches_inspect.c, caches_purge.c. */
#ifndef ORC_CACHES_H
#define ORC_CACHES_H
#include "handlers.h"

/* May whoever asks know of entries of this namespace? 0, those of none, are for who may administer all. */
bool caches_may_see(const struct call *c, uint64_t ns);
/* "namespace":"…", with a comma before it; nothing when the namespace is 0 or unknown. */
void caches_namespace(struct call *c, uint64_t ns);
const char *caches_state(enum cache_age age);
#endif
