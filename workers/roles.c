/* roles.def as a table. */
#include <stdio.h>
#include <string.h>

#include "worker.h"

#define ROLE(id, name, text, role, wants, may, restart) extern const struct worker_role role;
#include "roles.def"
#undef ROLE

const struct worker_row worker_rows[] = {
#define ROLE(id, name, text, role, wants, may, restart) [ROLE_##id] = {name, text, &role, wants, may, restart},
#include "roles.def"
#undef ROLE
};

_Static_assert(ARRAY_LEN(worker_rows) == ROLE_COUNT, "roles.def has a row for each role");

int worker_role_find(const char *name)
{
	for (int i = 0; i < ROLE_COUNT; i++)
		if (strcmp(worker_rows[i].name, name) == 0)
			return i;
	return -1;
}

enum worker_role_id worker_role_of_slot(unsigned slot)
{
	switch (slot) {
	case SLOT_SYNC: return ROLE_SYNC;
	case SLOT_WARMER: return ROLE_WARMER;
	case SLOT_PINGER: return ROLE_PINGER;
	default: return ROLE_API;
	}
}

const char *worker_slot_name(unsigned slot, char out[24])
{
	const char *role = worker_rows[worker_role_of_slot(slot)].name;
	if (slot < SLOT_API0)
		snprintf(out, 24, "%s", role);
	else
		snprintf(out, 24, "%s.%u", role, slot - SLOT_API0);
	return out;
}
