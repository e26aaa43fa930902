/* What each subsystem says: log.level for all, log.levels for some. */
#include "log.h"

static const char *const subsystems[LOG_SUBSYSTEMS] = {
#define SUBSYSTEM(id, name, text) [LOG_IN_##id] = name,
#include "log.def"
};

static const char *const events[LOG_EVENTS] = {
	[LOG_EV_none] = "",
#define EVENT(name) [LOG_EV_##name] = #name,
#include "log.def"
};

_Atomic int log_levels[LOG_SUBSYSTEMS] = {
#define SUBSYSTEM(id, name, text) [LOG_IN_##id] = LOG_LV_INFO,
#include "log.def"
};

const char *log_subsystem_name(enum log_subsystem s) { return s < LOG_SUBSYSTEMS ? subsystems[s] : ""; }
const char *log_event_name(enum log_event e) { return e < LOG_EVENTS ? events[e] : ""; }

static int find(const char *const *names, size_t n, struct span s)
{
	for (size_t i = 0; i < n; i++)
		if (span_eq(SPAN(names[i]), s))
			return (int)i;
	return -1;
}

static bool refuse(char **error_r, struct span what, const char *of, const char *const *names, size_t n)
{
	struct buf all = {0};
	for (size_t i = 0; i < n; i++)
		buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
	buf_addc(&all, '\0');
	(void)util_error(error_r, "\"%.*s\" is no %s; there are %s", (int)(what.len < 40 ? what.len : 40), what.p, of,
			 all.p);
	buf_free(&all);
	return false;
}

static struct span trimmed(const char *p, size_t len)
{
	while (len && (*p == ' ' || *p == '\t')) {
		p++;
		len--;
	}
	while (len && (p[len - 1] == ' ' || p[len - 1] == '\t'))
		len--;
	return (struct span){p, len};
}

bool log_levels_parse(const char *text, enum log_level base, uint8_t out[LOG_SUBSYSTEMS], char **error_r)
{
	static const char *const levels[] = {"error", "warn", "info", "debug"};
	memset(out, (int)base, LOG_SUBSYSTEMS);
	while (*text) {
		size_t n = strcspn(text, ",");
		struct span one = trimmed(text, n);
		text += n + (text[n] == ',');
		if (!one.len)
			continue;
		const char *sign = memchr(one.p, '=', one.len);
		if (!sign)
			return util_error(error_r, "\"%.*s\" has no level; write for example \"store=debug,http=warn\"",
					  (int)(one.len < 40 ? one.len : 40), one.p);
		struct span name = trimmed(one.p, (size_t)(sign - one.p)),
			    level = trimmed(sign + 1, one.len - (size_t)(sign + 1 - one.p));
		int s = find(subsystems, LOG_SUBSYSTEMS, name), l = find(levels, ARRAY_LEN(levels), level);
		if (s < 0)
			return refuse(error_r, name, "subsystem", subsystems, LOG_SUBSYSTEMS);
		if (l < 0)
			return refuse(error_r, level, "level", levels, ARRAY_LEN(levels));
		out[s] = (uint8_t)l;
	}
	return true;
}

void log_levels_set(const uint8_t levels[LOG_SUBSYSTEMS])
{
	for (size_t i = 0; i < LOG_SUBSYSTEMS; i++)
		atomic_store_explicit(&log_levels[i], levels[i], memory_order_relaxed);
}

void log_set_level(enum log_level level)
{
	uint8_t all[LOG_SUBSYSTEMS];
	memset(all, (int)level, sizeof(all));
	log_levels_set(all);
}
