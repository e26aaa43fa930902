/* systemd's watchdog (WatchdogSec=), fed from the supervisor's own loop: a loop that hangs feeds nobody, and neither
 * does one whose workers are gone for too long. systemd then ends all of them and starts anew. */
#include <systemd/sd-daemon.h>

#include "clock.h"
#include "log.h"
#include "supervisor.h"

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *sv = arg;
	(void)fd, (void)what;
	if (sv->state != SUPERVISOR_RUNNING)
		return; /* systemd waits with limits of its own for a start and a stop */
	bool healthy = supervisor_healthy(sv, clock_mono_us());
	if (healthy)
		notify_alive();
	if (healthy == sv->starving) {
		if (healthy)
			log_info("workers are back: systemd's watchdog is fed again");
		else
			log_error_event(
				watchdog_starved, NULL,
				"sync, or every api worker, is away for too long: systemd's watchdog is not fed "
				"any more and will restart the daemon");
	}
	sv->starving = !healthy;
}

void watchdog_open(struct supervisor *sv)
{
	uint64_t us;
	if (sd_watchdog_enabled(0, &us) <= 0) /* also when WATCHDOG_PID is another process */
		return;
	us /= 3; /* two may come late before it bites */
	struct timeval tv = {(time_t)(us / 1000000), (suseconds_t)(us % 1000000)};
	sv->watchdog = event_new(sv->base, -1, EV_PERSIST, on_tick, sv);
	AN(sv->watchdog && event_add(sv->watchdog, &tv) == 0);
}

void watchdog_free(struct supervisor *sv)
{
	if (sv->watchdog)
		event_free(sv->watchdog);
	sv->watchdog = NULL;
}
