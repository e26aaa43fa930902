/* The selection that query parameters make: namespace, scopes, filter, order, page. */
#ifndef ORC_LIST_H
#define ORC_LIST_H
#include "api.h"

struct list_select {
	struct store_list q;
	struct filter *filter;
	char ns_name[LIMIT_NAMESPACE + 1];
	struct span ns;
};
/* Reads the parameters of c's request; becomes c->state. NULL: problem set. */
struct list_select *must_check list_select(struct call *c, unsigned right);
void list_select_free(void *state);
/* ?include=embedding. False: problem set. */
bool must_check list_include(struct call *c, bool *embedding_r);
/* Splices the vector into a memory's JSON that ends b. */
void list_vector(struct buf *b, const struct memory *m);
#endif
