/* Whether a worker that should be beating is stuck. Pure: no clock but the supervisor's own ticks.
 *
 * Beats are compared tick by tick and never with a clock: when the whole machine was stopped (a
 * snapshot, SIGSTOP, suspend), the supervisor has not ticked either, and nobody is blamed for the gap
 * (Varnish dbc956693). The limits are ordered: beat < stuck < not ready in time < systemd's watchdog. */
#ifndef ORC_PULSE_H
#define ORC_PULSE_H
#include "util.h"

#define PULSE_TICK_S 1
#define PULSE_GRACE_TICKS 3 /* from SIGABRT, which leaves a backtrace, to SIGKILL */

struct pulse {
	uint64_t beats;
	unsigned missed;     /* ticks without a beat */
	unsigned aborted_at; /* `missed` when it was found stuck; 0 = not yet */
};
enum pulse_verdict { PULSE_FINE, PULSE_ABORT, PULSE_KILL };

/* One tick. `limit`: ticks without a beat that make a worker stuck; 0 = never. */
enum pulse_verdict pulse_tick(struct pulse *p, uint64_t beats, unsigned limit);
#endif
