/* One log sink: lines as text or JSON (log.format) on stderr, or where log_to() says, one write(2) per line. */
#ifndef ORC_LOG_H
#define ORC_LOG_H
#include "util.h"

enum log_level { LOG_LV_ERROR, LOG_LV_WARN, LOG_LV_INFO, LOG_LV_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

/* Who speaks: "orchestrad", "api.0", "sync". Copied. */
void log_open(const char *who, enum log_level level, enum log_format format);
/* log.target: a descriptor that stays open, 2 until this is called. */
void log_to(int fd);
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
void log_error(const char *fmt, ...) printf_like(1, 2);
void log_warn(const char *fmt, ...) printf_like(1, 2);
void log_info(const char *fmt, ...) printf_like(1, 2);
void log_debug(const char *fmt, ...) printf_like(1, 2);
/* Like log_warn, but at most once per `every_s` seconds per call site; says how many were held back. */
struct log_limit {
	int64_t next_us;
	unsigned held;
};
void log_warn_limited(struct log_limit *l, unsigned every_s, const char *fmt, ...) printf_like(3, 4);
#endif
