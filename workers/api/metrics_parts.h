/* What /metrics (metrics.c) is put together from. */
#ifndef ORC_METRICS_PARTS_H
#define ORC_METRICS_PARTS_H
#include "api.h"
#include "expo.h"

/* metrics_parts.c */
void metrics_stat_rows(struct expo *e, struct plant *p);
void metrics_hist_rows(struct expo *e, struct plant *p);
void metrics_routes(struct expo *e, struct plant *p);
void metrics_workers(struct expo *e, struct plant *p, const struct vitals_slot *vitals); /* vitals: of slot 0 */
/* breakers.c, caches_metrics.c, targets_metrics.c */
void breakers_metrics(struct expo *e, const struct plant *p);
void caches_metrics(struct expo *e, struct api *a);
void targets_metrics(struct expo *e, const struct plant *p);
#endif
