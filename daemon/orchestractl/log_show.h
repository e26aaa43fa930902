/* Records of the request log: which are wanted, and how they look. */
#ifndef ORC_LOG_SHOW_H
#define ORC_LOG_SHOW_H
#include "ctl.h"
#include "reqlog.h"

struct log_filter {
	const char *route, *namespace, *token, *id, *grep; /* NULL: any */
	const char *status;				   /* "5xx", "404", "4xx,503" */
	int64_t slower_us;				   /* 0: any */
};
/* False: said what is wrong with it. */
bool must_check log_show_status_ok(const char *text);
/* "100ms", "1.5s", "250us", "40" (ms). False: it is none. */
bool must_check log_show_duration(const char *text, int64_t *us_r);
bool log_show_wanted(const struct log_filter *f, const struct reqlog_record *r);
void log_show(const struct ctl *c, const struct reqlog_record *r);
#endif
