/* Text for Prometheus: families of the table in common/metrics.h, in the classic format or in that of OpenMetrics, where
 * the name of a counter's family has no "_total" and the text ends with "# EOF". */
#ifndef ORC_EXPO_H
#define ORC_EXPO_H
#include "metrics.h"
#include "util.h"

struct expo {
	struct buf *b;
	bool open_metrics;
};

/* Which of the two an Accept header prefers (RFC 9110 12.5.1); without a preference the classic one. */
bool expo_wants_open_metrics(struct span accept);
const char *expo_content_type(bool open_metrics);

/* HELP and TYPE; before the samples of a family, once. */
void expo_head(struct expo *e, const struct metric *m);
/* A sample. labels: without braces, "" for none. */
void expo_u64(struct expo *e, const struct metric *m, const char *labels, uint64_t v);
void expo_i64(struct expo *e, const struct metric *m, const char *labels, int64_t v);
void expo_us(struct expo *e, const struct metric *m, const char *labels, uint64_t us); /* as seconds */
/* Head and the only sample. */
void expo_one(struct expo *e, enum metric_family id, uint64_t v);
void expo_one_us(struct expo *e, enum metric_family id, uint64_t us);

/* The trace of a coarse bucket; false: there is none. */
struct expo_trace {
	unsigned char id[16];
	double value;
	int64_t at_us;
};
typedef bool expo_trace_fn(void *arg, unsigned bucket, struct expo_trace *t_r);
/* The samples of a histogram: coarse buckets, sum, count. trace may be NULL. */
void expo_hist(struct expo *e, const struct metric *m, const char *labels, const struct hist_sum *h,
	       expo_trace_fn *trace, void *arg);
void expo_end(struct expo *e);
#endif
