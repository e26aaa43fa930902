/* What test_store_language.c says of the store, of PostgreSQL. */
#define POSTGRES 1
#include "test_store_language.c"
