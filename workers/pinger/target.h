/* pinger.targets: what is kept warm, parsed and checked. */
#ifndef ORC_TARGET_H
#define ORC_TARGET_H
#include "plant.h"

#define TARGETS_MAX (PLANT_TARGETS / 2) /* a reload may exchange all of them */
#define TARGET_NAME_MAX LIMIT_TARGET_NAME
#define TARGET_EXPECT_MAX 8

struct target {
	char *name, *url, *method;
	int64_t interval_us, timeout_us;
	int expect[TARGET_EXPECT_MAX]; /* statuses that are well; none: 200–399 */
	size_t nexpect;
};
struct target_list {
	struct target *v;
	size_t n;
};

/* A JSON list of {name, url, interval, timeout, method, expect}. NULL: *error_r (malloc'ed) names the target,
 * the field and the remedy. */
struct target_list *must_check target_parse(const char *json, char **error_r);
void target_free(struct target_list **l);
bool target_equal(const struct target *a, const struct target *b);
/* Is this status what the target should answer? */
bool target_expected(const struct target *t, long status);
#endif
