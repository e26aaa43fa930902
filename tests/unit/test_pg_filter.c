/* What test_filter_sql.c says of filters, of PostgreSQL's SQL and what is checked behind it. */
#define POSTGRES 1
#include "test_filter_sql.c"
