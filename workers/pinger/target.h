/* pinger.targets: what is kept warm, parsed and checked. */
#ifndef ORC_TARGET_H
#define ORC_TARGET_H
#include "plan.h"
#include "plant.h"

#define TARGETS_MAX (PLANT_TARGETS / 2) /* a reload may exchange all of them */
#define TARGET_NAME_MAX LIMIT_TARGET_NAME
#define TARGET_EXPECT_MAX 8
#define TARGET_HEADERS_MAX 16
#define TARGET_ANSWER_MAX 65536 /* of an answer, that expect_body is sought in */

struct target {
	char *name, *url, *method;
	char *headers[TARGET_HEADERS_MAX]; /* "Name: value" */
	size_t nheaders;
	char *body;	   /* NULL: none */
	char *socket;	   /* unix_socket, or NULL */
	char *ca_file;	   /* NULL: the system's authorities */
	char *audience;	   /* of the identity token to present, or NULL */
	char *bearer_file; /* that holds the token to present, or NULL: a path, or "credential:NAME" */
	char *expect_body; /* what the answer must contain, or NULL */
	int64_t timeout_us, connect_timeout_us;
	int64_t tls_warning_us; /* so long before its end a certificate is warned of */
	struct {
		int from, to;
	} expect[TARGET_EXPECT_MAX]; /* statuses that are well; none: 200–399 */
	size_t nexpect;
	struct window windows[WINDOWS_MAX];
	struct zone *zone;
	struct plan_rules rules; /* points into this target */
	uint64_t host;		 /* plant_host_key() */
	uint64_t what;		 /* changes with what is asked: what was learnt of another does not hold */
	char *text;		 /* of the configuration, to be compared */
};
struct target_list {
	struct target *v;
	size_t n;
};

/* A JSON list of targets. NULL: *error_r (malloc'ed) names the target, the field and the remedy. */
struct target_list *must_check target_parse(const char *json, char **error_r);
void target_free(struct target_list **l);
bool target_equal(const struct target *a, const struct target *b);
/* Is this status what the target should answer? */
bool target_expected(const struct target *t, long status);
/* Does that answer, as far as it was kept, hold what it should? */
bool target_expected_body(const struct target *t, struct span body);
#endif
