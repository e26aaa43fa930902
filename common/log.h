/* The log of every process: one sink.
 *
 *	log_warn("flush to the store failed: %s", why);
 *	log_warn_event(worker_died, LOG_FIELDS(LOG_S("worker", name), LOG_I("pid", pid)), "%s died: %s", name, how);
 *
 * A line is text, a JSON object, or a message to the journal with fields. To each the sink adds time, level, who speaks, the
 * subsystem, and the request that is being handled (log_request_set()). A line that is not wanted costs one relaxed
 * load and a branch. Each place in the code may write so much in ten seconds (log_rate()); what is held back is counted
 * and said. Secrets are made unreadable here and nowhere else (log_redact.h).
 *
 * Nothing here waits: a sink that takes nothing at the moment (a full pipe, a full disk, a journal that is away) loses
 * the line, which is counted, and said as soon as it takes lines again. */
#ifndef ORC_LOG_H
#define ORC_LOG_H
#include <stdatomic.h>

#include "util.h"

enum log_level { LOG_LV_ERROR, LOG_LV_WARN, LOG_LV_INFO, LOG_LV_DEBUG, LOG_LEVELS };
enum log_format { LOG_TEXT, LOG_JSON, LOG_JOURNAL };

/* clang-format off */
enum log_subsystem {
#define SUBSYSTEM(id, name, text) LOG_IN_##id,
#include "log.def"
	LOG_SUBSYSTEMS
};
enum log_event {
	LOG_EV_none,
#define EVENT(name) LOG_EV_##name,
#include "log.def"
	LOG_EVENTS
};
/* clang-format on */

/* A file that belongs elsewhere says so in front of its includes. */
#ifndef LOG_SUBSYSTEM
#define LOG_SUBSYSTEM LOG_IN_SUPERVISOR
#endif

/* What is known beside the message. Names are in snake_case. */
struct log_field {
	const char *name; /* NULL ends the list */
	const char *text; /* NULL: the number counts */
	long long number;
};
#define LOG_S(name_, text_)                                                                                            \
	{                                                                                                              \
		.name = (name_), .text = (text_) ? (text_) : ""                                                        \
	}
#define LOG_I(name_, n_)                                                                                               \
	{                                                                                                              \
		.name = (name_), .number = (long long)(n_)                                                             \
	}
#define LOG_FIELDS(...) ((const struct log_field[]){__VA_ARGS__, {.name = NULL}})

/* A place in the code that logs. */
struct log_site {
	const char *file, *func;
	int line;
	uint8_t level, subsystem;
	uint16_t event;
	_Atomic int64_t window_us; /* when its current ten seconds began */
	_Atomic unsigned said, held;
};

extern _Atomic int log_levels[LOG_SUBSYSTEMS];

/* clang-format off */
#define log_enabled(level) ((int)(level) <= atomic_load_explicit(&log_levels[LOG_SUBSYSTEM], memory_order_relaxed))
#define LOG_SITE(level_, event_)                                                                                       \
	static struct log_site log_site_ = {.file = __FILE__, .func = __func__, .line = __LINE__,                       \
					    .level = (level_), .subsystem = LOG_SUBSYSTEM, .event = (event_)}
#define LOG_AT(level_, event_, fields_, ...)                                                                           \
	do {                                                                                                            \
		if (log_enabled(level_)) {                                                                              \
			LOG_SITE(level_, event_);                                                                       \
			log_write(&log_site_, fields_, __VA_ARGS__);                                                    \
		}                                                                                                       \
	} while (0)
#define LOG_LIMITED(event_, fields_, limit_, every_s_, ...)                                                            \
	do {                                                                                                            \
		if (log_enabled(LOG_LV_WARN)) {                                                                         \
			LOG_SITE(LOG_LV_WARN, event_);                                                                  \
			log_write_limited(&log_site_, limit_, every_s_, fields_, __VA_ARGS__);                          \
		}                                                                                                       \
	} while (0)
/* clang-format on */

#define log_error(...) LOG_AT(LOG_LV_ERROR, LOG_EV_none, NULL, __VA_ARGS__)
#define log_warn(...) LOG_AT(LOG_LV_WARN, LOG_EV_none, NULL, __VA_ARGS__)
#define log_info(...) LOG_AT(LOG_LV_INFO, LOG_EV_none, NULL, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_LV_DEBUG, LOG_EV_none, NULL, __VA_ARGS__)
/* With fields: LOG_FIELDS(…), or NULL. */
#define log_error_fields(fields, ...) LOG_AT(LOG_LV_ERROR, LOG_EV_none, fields, __VA_ARGS__)
#define log_warn_fields(fields, ...) LOG_AT(LOG_LV_WARN, LOG_EV_none, fields, __VA_ARGS__)
#define log_info_fields(fields, ...) LOG_AT(LOG_LV_INFO, LOG_EV_none, fields, __VA_ARGS__)
/* With the name of an event of log.def, and fields or NULL. */
#define log_error_event(event, fields, ...) LOG_AT(LOG_LV_ERROR, LOG_EV_##event, fields, __VA_ARGS__)
#define log_warn_event(event, fields, ...) LOG_AT(LOG_LV_WARN, LOG_EV_##event, fields, __VA_ARGS__)
#define log_info_event(event, fields, ...) LOG_AT(LOG_LV_INFO, LOG_EV_##event, fields, __VA_ARGS__)
/* Like log_warn, but at most once per `every_s` seconds per call site; says how many were held back. */
struct log_limit {
	int64_t next_us;
	unsigned held;
};
#define log_warn_limited(limit, every_s, ...) LOG_LIMITED(LOG_EV_none, NULL, limit, every_s, __VA_ARGS__)
#define log_warn_limited_event(event, limit, every_s, ...)                                                             \
	LOG_LIMITED(LOG_EV_##event, NULL, limit, every_s, __VA_ARGS__)

/* Behind the macros. errno stays what it was. */
void log_write(struct log_site *s, const struct log_field *fields, const char *fmt, ...) printf_like(3, 4);
void log_write_limited(struct log_site *s, struct log_limit *l, unsigned every_s, const struct log_field *fields,
		       const char *fmt, ...) printf_like(5, 6);

/* ---- the sink of this process ---- */

/* Who speaks: "orchestrad", "api.0", "sync". Copied. Sets one level for all subsystems. */
void log_open(const char *who, enum log_level level, enum log_format format);
/* A descriptor that stays open, 2 until this is called. A datagram socket that is not connected is taken for a way to the
 * journal, whatever log_open() was told: messages go to the socket of that path (copied). */
void log_to(int fd, const char *journal);
void log_set_level(enum log_level level); /* of all subsystems */
/* Lines that one place in the code may write in ten seconds, errors ten times as many; 0: as many as it likes. */
void log_set_rate(unsigned lines);
struct stats_slot;
void log_count_in(struct stats_slot *s); /* where lines are counted by level, and those that are lost */

/* "store=debug,http=warn", on top of `base`, into out. False: *error_r (malloc'ed) says what there is. */
bool must_check log_levels_parse(const char *text, enum log_level base, uint8_t out[LOG_SUBSYSTEMS], char **error_r);
void log_levels_set(const uint8_t levels[LOG_SUBSYSTEMS]);
const char *log_subsystem_name(enum log_subsystem s);
const char *log_event_name(enum log_event e); /* "" for none */

/* ---- the request that this thread is at ---- */

struct log_request {
	char id[65], trace[33], span[17]; /* empty: none, or not known */
};
/* Lines of this thread carry what fn says of arg, until it is NULL again. fn is called only when a line is written. */
typedef void log_request_fn(const void *arg, struct log_request *r);
void log_request_set(log_request_fn *fn, const void *arg);
#endif
