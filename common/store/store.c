#include "store/store.h"

extern const struct store_ops sqlite_store;

const struct store_ops *store_by_kind(const char *kind) { return strcmp(kind, "sqlite") == 0 ? &sqlite_store : NULL; }
