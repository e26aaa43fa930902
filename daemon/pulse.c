#include "pulse.h"

enum pulse_verdict pulse_tick(struct pulse *p, uint64_t beats, unsigned limit)
{
	if (beats != p->beats) {
		*p = (struct pulse){.beats = beats};
		return PULSE_FINE;
	}
	if (!limit) {
		p->missed = 0;
		return PULSE_FINE;
	}
	p->missed++;
	if (!p->aborted_at && p->missed >= limit) {
		p->aborted_at = p->missed;
		return PULSE_ABORT;
	}
	return p->aborted_at && p->missed == p->aborted_at + PULSE_GRACE_TICKS ? PULSE_KILL : PULSE_FINE;
}
