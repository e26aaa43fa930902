/* The table of metrics, stats.def, as text: for /metrics and for docs/metrics.md. */
#ifndef ORC_METRICS_H
#define ORC_METRICS_H
#include <stdio.h>
#include "hist.h"

struct metric {
	const char *name, *type, *labels, *help;
	enum hist_unit unit; /* of a histogram */
};

enum metric_family {
#define FAMILY(id, name, type, labels, help) METRIC_##id,
#include "stats.def"
#undef STAT
	METRIC_FAMILIES
};
extern const struct metric metrics_families[]; /* by enum metric_family */
extern const struct metric metrics_hists[];    /* by enum hist_id */
extern const struct metric metrics_stats[];    /* by enum stat_id */

/* docs/metrics.md */
void metrics_write_manual(FILE *out);
#endif
