/* Is the daemon worth keeping? What systemd's watchdog is fed on. Pure. */
#include "supervisor.h"

#define MARGIN_US INT64_C(15000000)

bool supervisor_healthy(struct supervisor *sv, int64_t now_us)
{
	int64_t patience = conf_int(sv->conf, CONF_READY_TIMEOUT) + MARGIN_US;
	bool sync = false, api = false;
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		/* Serving, or not away for longer than a start may take. */
		bool well = c->state == CHILD_READY || now_us - c->unready_us <= patience;
		sync |= well && c->slot == SLOT_SYNC;
		api |= well && c->slot >= SLOT_API0;
	}
	return sync && api;
}
