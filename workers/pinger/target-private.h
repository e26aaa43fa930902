/* Between the files that read a target. */
#ifndef ORC_TARGET_PRIVATE_H
#define ORC_TARGET_PRIVATE_H
#include <jansson.h>

#include "target.h"

/* Where we are, for messages. */
struct target_place {
	size_t index;
	const char *name; /* NULL before it is known */
	char **error_r;
};

/* Returns false, for `return target_refuse(…)`. */
bool target_refuse(const struct target_place *at, const char *fmt, ...) printf_like(2, 3);
/* A duration with its unit, within bounds; absent: *us_r stays. */
bool must_check target_duration(const struct target_place *at, json_t *o, const char *field, int64_t min, int64_t max,
				int64_t *us_r);
/* A text of 1 to `max` bytes; absent: *text_r stays. */
bool must_check target_text(const struct target_place *at, json_t *o, const char *field, size_t max, char **text_r);
/* A number from `min` to `max`; absent: *v_r stays. */
bool must_check target_number(const struct target_place *at, json_t *o, const char *field, double min, double max,
			      double *v_r);

/* target_request.c: what is asked. target_answer.c: what is to come. target_rules.c: when. */
bool must_check target_request(const struct target_place *at, json_t *o, struct target *t);
bool must_check target_answer(const struct target_place *at, json_t *o, struct target *t);
bool must_check target_rules(const struct target_place *at, json_t *o, struct target *t);
#endif
