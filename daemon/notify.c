/* What systemd is told. Only the supervisor speaks; workers are born without NOTIFY_SOCKET. */
#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#include "clock.h"
#include "supervisor.h"

void notify_ready(const struct supervisor *sv)
{
	sd_notifyf(0, "READY=1\nSTATUS=Serving on %s%s%s", sv->tcp_address, sv->tcp_address[0] ? " and " : "",
		   sv->unix_path);
}

void notify_reloading(void)
{
	/* Without MONOTONIC_USEC `systemctl reload` waits for ever (Type=notify-reload). */
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)clock_mono_us());
}

void notify_stopping(const char *status) { sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status); }

void notify_status(const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A reload that failed is over, too: READY=1 with the reason. */
	sd_notifyf(0, "READY=1\nSTATUS=%s", text);
}
