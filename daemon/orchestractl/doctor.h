/* orchestractl doctor: what is wrong with a daemon, and what to do about it. */
#ifndef ORC_DOCTOR_H
#define ORC_DOCTOR_H
#include "scrape.h"

enum doctor_level { DOCTOR_FINE, DOCTOR_NOTE, DOCTOR_WARNING, DOCTOR_PROBLEM, DOCTOR_LEVELS };

struct doctor_finding {
	enum doctor_level level;
	const char *subject; /* "store", "workers" … */
	char *what, *remedy; /* remedy: NULL when there is nothing to do */
};
/* What was asked of a daemon; each may be NULL. */
struct doctor_view {
	const json_t *status, *ready, *breakers;
	const struct scrape *from, *to; /* some time apart */
	const char *version;		/* of this program */
	int64_t now_s;			/* Unix time */
};
struct doctor {
	struct doctor_finding *v;
	size_t n, cap;
};

void doctor_add(struct doctor *d, enum doctor_level level, const char *subject, const char *remedy, const char *fmt,
		...) printf_like(5, 6);
/* All that is to be said about a daemon that answers; every subject that was looked at gets a finding, if only a fine one. */
void doctor_examine(struct doctor *d, const struct doctor_view *v);
void doctor_free(struct doctor *d);
#endif
