#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "log-private.h"
#include "log_redact.h"
#include "stats.h"

#define TEXT_BYTES 8192 /* of a message before secrets are taken out and it is cut to a line */
#define WINDOW_US 10000000
#define ERRORS_MORE 10 /* times as many as of other lines */

enum way { WAY_WRITE, WAY_POLL, WAY_SEND, WAY_JOURNAL };

static struct {
	char who[32];
	enum log_format format;
	int fd;
	enum way way;
	struct sockaddr_un journal;
	_Atomic unsigned rate;
	_Atomic unsigned lost; /* since it was last said */
	_Atomic bool torn;     /* the last line has no end */
	struct stats_slot *_Atomic stats;
} sink = {.who = "orchestra", .fd = STDERR_FILENO}; /* no rate before the configuration says one */

static _Thread_local struct {
	log_request_fn *fn;
	const void *arg;
} current;

void log_open(const char *who, enum log_level level, enum log_format format)
{
	snprintf(sink.who, sizeof(sink.who), "%s", who);
	log_set_level(level);
	sink.format = format;
}

/* Writes must not wait. Files of the disk never do in the sense that anything could be done about it; pipes and terminals
 * do unless their descriptor says otherwise, which is asked first then. */
void log_to(int fd, const char *journal)
{
	struct stat st;
	int type = 0, flags = fcntl(fd, F_GETFL);
	socklen_t len = sizeof(type);
	sink.fd = fd;
	sink.way = WAY_WRITE;
	if (fstat(fd, &st) == -1)
		return;
	if (S_ISSOCK(st.st_mode)) {
		bool datagrams = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_DGRAM;
		sink.way = datagrams && journal ? WAY_JOURNAL : WAY_SEND;
	} else if (!S_ISREG(st.st_mode) && !(flags != -1 && flags & O_NONBLOCK)) {
		sink.way = WAY_POLL;
	}
	if (sink.way != WAY_JOURNAL)
		return;
	sink.format = LOG_JOURNAL;
	sink.journal.sun_family = AF_UNIX;
	snprintf(sink.journal.sun_path, sizeof(sink.journal.sun_path), "%s", journal);
}

void log_set_rate(unsigned lines) { atomic_store_explicit(&sink.rate, lines, memory_order_relaxed); }
void log_count_in(struct stats_slot *s) { atomic_store_explicit(&sink.stats, s, memory_order_release); }

void log_request_set(log_request_fn *fn, const void *arg)
{
	current.fn = fn;
	current.arg = arg;
}

static void count(enum stat_id id)
{
	struct stats_slot *s = atomic_load_explicit(&sink.stats, memory_order_acquire);
	if (s)
		stats_add_shared(s, id, 1);
}

/* ---- out ---- */

static ssize_t send_journal(const char *line, size_t len)
{
	struct iovec iov = {(void *)(uintptr_t)line, len};
	struct msghdr m = {
		.msg_name = &sink.journal, .msg_namelen = sizeof(sink.journal), .msg_iov = &iov, .msg_iovlen = 1};
	return sendmsg(sink.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static ssize_t out_once(const char *line, size_t len)
{
	struct pollfd p = {.fd = sink.fd, .events = POLLOUT};
	switch (sink.way) {
	case WAY_JOURNAL: return send_journal(line, len);
	case WAY_SEND: return send(sink.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	case WAY_POLL:
		if (poll(&p, 1, 0) == 0) {
			errno = EAGAIN;
			return -1;
		}
		break;
	case WAY_WRITE: break;
	}
	return write(sink.fd, line, len);
}

static bool out(const char *line, size_t len)
{
	ssize_t n;
	if (sink.torn && sink.way != WAY_JOURNAL) { /* begins a line of its own */
		if (out_once("\n", 1) != 1)
			return false;
		sink.torn = false;
	}
	do
		n = out_once(line, len);
	while (n == -1 && errno == EINTR);
	if (n > 0 && (size_t)n < len)
		sink.torn = true;
	return n == (ssize_t)len;
}

static size_t format(const struct log_line *l, char line[LOG_LINE_BYTES])
{
	return sink.format == LOG_JSON	    ? log_format_json(l, line)
	       : sink.format == LOG_JOURNAL ? log_format_journal(l, line)
					    : log_format_text(l, line);
}

/* The first line that goes out again says what did not. */
static bool say_lost(const struct log_request *r, int64_t now_us, unsigned n)
{
	static struct log_site site = {.file = __FILE__,
				       .func = "say_lost",
				       .line = __LINE__,
				       .level = LOG_LV_WARN,
				       .subsystem = LOG_IN_SUPERVISOR,
				       .event = LOG_EV_log_lines_dropped};
	char text[96], line[LOG_LINE_BYTES];
	struct log_field fields[] = {LOG_I("lines", n), {.name = NULL}};
	snprintf(text, sizeof(text), "%u log lines were lost: what takes them was full, or away", n);
	struct log_line l = {&site, fields, sink.who, text, r, now_us};
	return out(line, format(&l, line));
}

static void emit(struct log_site *s, const struct log_field *fields, char *raw)
{
	static const enum stat_id by_level[LOG_LEVELS] = {STAT_LOG_ERRORS, STAT_LOG_WARNINGS, STAT_LOG_INFOS,
							  STAT_LOG_DEBUGS};
	static const struct log_request none = {.id = ""};
	char text[LOG_LINE_BYTES], line[LOG_LINE_BYTES];
	struct log_request request = {.id = ""};
	if (current.fn)
		current.fn(current.arg, &request);
	log_redact(text, sizeof(text), raw);
	log_make_safe(text);
	struct log_line l = {s, fields, sink.who, text, &request, clock_real_us()};
	unsigned lost = atomic_load_explicit(&sink.lost, memory_order_relaxed);
	if (lost && say_lost(&none, l.now_us, lost))
		atomic_fetch_sub_explicit(&sink.lost, lost, memory_order_relaxed);
	if (out(line, format(&l, line))) {
		count(by_level[s->level]);
		return;
	}
	atomic_fetch_add_explicit(&sink.lost, 1, memory_order_relaxed);
	count(STAT_LOG_LOST);
}

/* ---- how many ---- */

/* *held_r: how many were held back before this one. Threads may count past each other by a line or two. */
static bool admit(struct log_site *s, unsigned *held_r)
{
	unsigned rate = atomic_load_explicit(&sink.rate, memory_order_relaxed);
	uint64_t most = s->level == LOG_LV_ERROR ? (uint64_t)rate * ERRORS_MORE : rate;
	int64_t now = clock_mono_us(), since = atomic_load_explicit(&s->window_us, memory_order_relaxed);
	*held_r = 0;
	if (!rate)
		return true;
	if (since == 0 || now - since >= WINDOW_US) {
		if (atomic_compare_exchange_strong_explicit(&s->window_us, &since, now, memory_order_relaxed,
							    memory_order_relaxed)) {
			atomic_store_explicit(&s->said, 0, memory_order_relaxed);
			*held_r = atomic_exchange_explicit(&s->held, 0, memory_order_relaxed);
		}
	}
	if (atomic_fetch_add_explicit(&s->said, 1, memory_order_relaxed) < most)
		return true;
	atomic_fetch_add_explicit(&s->held, 1, memory_order_relaxed);
	count(STAT_LOG_HELD);
	return false;
}

#define NOTE_BYTES 64 /* that text leaves behind the message */

static void note_held(char *text, unsigned held)
{
	if (held)
		snprintf(text + strlen(text), NOTE_BYTES, " (%u more like this were held back)", held);
}

void log_write(struct log_site *s, const struct log_field *fields, const char *fmt, ...)
{
	char text[TEXT_BYTES];
	int error = errno; /* the caller may still want to look at it */
	unsigned held;
	va_list ap;
	if (!admit(s, &held))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - NOTE_BYTES, fmt, ap);
	va_end(ap);
	note_held(text, held);
	emit(s, fields, text);
	errno = error;
}

void log_write_limited(struct log_site *s, struct log_limit *l, unsigned every_s, const struct log_field *fields,
		       const char *fmt, ...)
{
	char text[TEXT_BYTES];
	int error = errno;
	va_list ap;
	int64_t now = clock_mono_us(), next = __atomic_load_n(&l->next_us, __ATOMIC_RELAXED);
	/* Several threads may come by: one of them takes the turn, the others count. */
	if (now < next || !__atomic_compare_exchange_n(&l->next_us, &next, now + (int64_t)every_s * 1000000, false,
						       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		__atomic_fetch_add(&l->held, 1, __ATOMIC_RELAXED);
		count(STAT_LOG_HELD);
		return;
	}
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text) - NOTE_BYTES, fmt, ap);
	va_end(ap);
	note_held(text, __atomic_exchange_n(&l->held, 0, __ATOMIC_RELAXED));
	emit(s, fields, text);
	errno = error;
}
