/* What systemd is told. Only the supervisor speaks; workers are born without NOTIFY_SOCKET. READY=1 is said once
 * at the start and once at the end of each reload, and nothing at all after STOPPING=1. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "clock.h"
#include "supervisor.h"

#define STATUS_MAX 1000

static bool owe_ready = true, stopping;

/* One line of UTF-8: a newline would begin another assignment, and systemd drops a status with half a character. */
static void tidy(char *text)
{
	size_t len = strlen(text);
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = *p == '\n' ? ';' : ' ';
	while (len && !util_utf8_valid(text, len))
		text[--len] = '\0';
}

static void say(const char *first, const char *status)
{
	char text[STATUS_MAX];
	snprintf(text, sizeof(text), "%s", status);
	tidy(text);
	sd_notifyf(0, "%sSTATUS=%s", first, text);
}

static void ready(const char *status)
{
	if (stopping)
		return;
	say(owe_ready ? "READY=1\n" : "", status);
	owe_ready = false;
}

void notify_ready(const struct supervisor *sv)
{
	char *where = listen_describe(sv), text[STATUS_MAX];
	snprintf(text, sizeof(text), "Serving on %s", where);
	free(where);
	ready(text);
}

void notify_adopted(void) { owe_ready = false; }

void notify_reloading(void)
{
	if (stopping)
		return;
	owe_ready = true;
	/* Without MONOTONIC_USEC `systemctl reload` waits for ever (Type=notify-reload). */
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=Reloading", (long long)clock_mono_us());
}

void notify_stopping(const char *status)
{
	if (!stopping)
		say("STOPPING=1\n", status);
	stopping = true;
}

void notify_status(const char *fmt, ...)
{
	char text[STATUS_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* A reload that failed is over, too: READY=1 with the reason. */
	ready(text);
}

void notify_alive(void)
{
	if (!stopping)
		sd_notify(0, "WATCHDOG=1");
}
