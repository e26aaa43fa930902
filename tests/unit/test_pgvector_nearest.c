/* What test_store_nearest.c says of the store, of PostgreSQL with pgvector. */
#define POSTGRES 1
#define PGVECTOR 1
#include "test_store_nearest.c"
