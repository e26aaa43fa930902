/* What this process takes: processor time, memory, file descriptors; from /proc/self into the plant, once a second. */
#ifndef ORC_SELF_H
#define ORC_SELF_H
#include "plant.h"

/* Before the sandbox, behind which nobody opens anything there. */
void self_open(const struct plant_worker *w);
void self_look(struct plant_worker *w);
#endif
