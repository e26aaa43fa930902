/* Ids for new memories, from any thread of the worker, ascending. */
#ifndef ORC_IDS_H
#define ORC_IDS_H
#include "uuid.h"
void ids_make(struct uuid *out, size_t n);
#endif
