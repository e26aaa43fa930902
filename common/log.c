#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "clock.h"

#define LINE_MAX_BYTES 4096

static struct {
	char who[32];
	_Atomic int level;
	enum log_format format;
	int fd;
} sink = {.who = "orchestra", .level = LOG_LV_INFO, .fd = STDERR_FILENO};

static const char *const names[] = {"error", "warn", "info", "debug"};

void log_open(const char *who, enum log_level level, enum log_format format)
{
	snprintf(sink.who, sizeof(sink.who), "%s", who);
	atomic_store(&sink.level, (int)level);
	sink.format = format;
}

void log_to(int fd) { sink.fd = fd; }
void log_set_level(enum log_level level) { atomic_store(&sink.level, (int)level); }
bool log_enabled(enum log_level level) { return (int)level <= atomic_load_explicit(&sink.level, memory_order_relaxed); }

/* A message may quote what came from outside: controls become spaces (one line stays one line, and a
 * terminal obeys nobody), and text that is not UTF-8, or was cut within a character, loses its
 * non-ASCII bytes. */
static void make_safe(char *s)
{
	bool utf8 = util_utf8_valid(s, strlen(s));
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c < 0x20 || c == 0x7f)
			*s = ' ';
		else if (c >= 0x80 && !utf8)
			*s = '?';
	}
}

static void escape(char *out, size_t cap, const char *s)
{
	size_t n = 0;
	for (; *s && n + 2 < cap; s++) {
		if (*s == '"' || *s == '\\')
			out[n++] = '\\';
		out[n++] = *s;
	}
	out[n] = 0;
}

static void emit(enum log_level level, char *text)
{
	char line[2 * LINE_MAX_BYTES + 256], safe[2 * LINE_MAX_BYTES];
	char when[CLOCK_TEXT];
	int n;
	clock_format(clock_real_us(), when);
	make_safe(text);
	if (sink.format == LOG_JSON) {
		escape(safe, sizeof(safe), text);
		n = snprintf(line, sizeof(line),
			     "{\"time\":\"%.*s\",\"level\":\"%s\",\"process\":\"%s\",\"pid\":%d,\"message\":\"%s\"}\n",
			     CLOCK_TEXT, when, names[level], sink.who, (int)getpid(), safe);
	} else {
		n = snprintf(line, sizeof(line), "%.23sZ %-5s %s[%d]: %s\n", when, names[level], sink.who,
			     (int)getpid(), text);
	}
	if (n <= 0)
		return;
	size_t len = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
	line[len - 1] = '\n';
	(void)!write(sink.fd, line, len);
}

static void vlog(enum log_level level, const char *fmt, va_list ap)
{
	char text[LINE_MAX_BYTES];
	int error = errno; /* the caller may still want to look at it */
	if (!log_enabled(level))
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	emit(level, text);
	errno = error;
}

#define LOGGER(name, level)                                                                                            \
	void name(const char *fmt, ...)                                                                                \
	{                                                                                                              \
		va_list ap;                                                                                            \
		va_start(ap, fmt);                                                                                     \
		vlog(level, fmt, ap);                                                                                  \
		va_end(ap);                                                                                            \
	}
LOGGER(log_error, LOG_LV_ERROR)
LOGGER(log_warn, LOG_LV_WARN)
LOGGER(log_info, LOG_LV_INFO)
LOGGER(log_debug, LOG_LV_DEBUG)

void log_warn_limited(struct log_limit *l, unsigned every_s, const char *fmt, ...)
{
	char text[LINE_MAX_BYTES];
	va_list ap;
	int64_t now = clock_mono_us(), next = __atomic_load_n(&l->next_us, __ATOMIC_RELAXED);
	/* Several threads may come by: one of them takes the turn, the others count. */
	if (now < next || !__atomic_compare_exchange_n(&l->next_us, &next, now + (int64_t)every_s * 1000000, false,
						       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(&l->held, 1, __ATOMIC_RELAXED);
		return;
	}
	unsigned held = __atomic_exchange_n(&l->held, 0, __ATOMIC_RELAXED);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (held)
		log_warn("%s (%u more like this were held back)", text, held);
	else
		log_warn("%s", text);
}
