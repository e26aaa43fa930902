/* Fault points: instructions at which a test kills the process that passes them.
 *
 *	FAULT_POINT(ring_reserved);                        // dies here when the point is armed
 *	FAULT_DO(journal_torn, write_half_of(group));      // does that first, and dies then
 *
 * They exist in the test twin only (tests/orchestrad-faults, compiled with ORC_FAULT_POINTS); in every other
 * build they are nothing. fault.def lists them all.
 *
 * Arming. ENV_FAULTS names a file of fault_file_bytes() bytes, made by the test: an array of struct fault_slot in the
 * order of fault.def, mapped shared by every process at its birth. So a pass costs one load, arming needs no
 * system call in the process that is to die, and what a sandbox forbids later does not matter. The test writes skip and
 * role, then armed = 1. Who passes with that role's name takes one from skip; who finds it at 0 takes
 * `armed` from 1 to 2 by compare-and-swap, leaves its pid, and is gone: one process for each arming. */
#ifndef ORC_FAULT_H
#define ORC_FAULT_H

#define ENV_FAULTS "ORC_FAULT_FILE"

#ifdef ORC_FAULT_POINTS
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* clang-format off */
enum fault_point {
#define FAULT(id, roles, text) FAULT_##id,
#include "fault.def"
#undef FAULT
	FAULT_COUNT
};
/* clang-format on */

enum fault_state { FAULT_OFF, FAULT_ARMED, FAULT_TAKEN };

struct fault_slot {
	_Atomic uint32_t armed; /* enum fault_state */
	_Atomic uint32_t pid;	/* of who died, once `armed` is FAULT_TAKEN */
	_Atomic uint32_t skip;	/* passes that are let go first */
	char role[20];		/* "api.1" dies only, or any "api"; empty: whoever comes. NUL-terminated */
};

size_t fault_file_bytes(void);
/* Maps the file that ENV_FAULTS names; without one, or when it does not fit, nothing is ever armed. `name` is what
 * roles are compared with ("sync", "api.1", "orchestrad") and is copied. Once, before other threads. */
void fault_open(const char *name);
/* True: this pass is the one, and the caller must end in fault_die(). */
bool fault_due(enum fault_point p);
void fault_die(enum fault_point p) __attribute__((noreturn));
/* The table for tests, a line each: name, roles, text, separated by tabs. Returns an exit status. */
int fault_list(void);

#define FAULT_BIRTH(name) fault_open(name)
#define FAULT_DO(id, ...)                                                                                              \
	do {                                                                                                           \
		if (fault_due(FAULT_##id)) {                                                                           \
			__VA_ARGS__;                                                                                   \
			fault_die(FAULT_##id);                                                                         \
		}                                                                                                      \
	} while (0)
#define FAULT_POINT(id) FAULT_DO(id, (void)0)
#else
#define FAULT_BIRTH(name) ((void)0)
#define FAULT_DO(id, ...) ((void)0)
#define FAULT_POINT(id) ((void)0)
#endif
#endif
