/* Values that are tried on the running daemon, on top of what the file says.
 *
 * They win over the file and lose against flags, environment and credentials: a key that those fix is refused, for what
 * was tried could never be saved with any effect. Only keys that a reload may change can be tried. All that one request
 * asks for is applied by the two phases of reload.c, or nothing; values with a time are put back by the supervisor
 * when it is over. They survive reloads and upgrades; a new start forgets them.
 *
 * A set of tried values is never changed while it is in force: a change proposes another one, which takes its place when all
 * workers have agreed. `base` is the configuration without them. */
#ifndef ORC_TRIED_H
#define ORC_TRIED_H
#include <jansson.h>

#include "supervisor.h"

#define TRIED_VALUE_MAX 16384 /* bytes of one value; it goes through messages of IMSG_MAX */
#define TRIED_TOTAL_MAX 40960 /* of all of them */
#define TRIED_FOR_MAX_MS (INT64_C(30) * 86400 * 1000)

struct tried_value {
	char *text;			 /* canonical; NULL: this key is not tried */
	int64_t since_real_us, until_us; /* monotonic; 0 = until it is unset */
	char who[96];
};
struct tried {
	struct conf *base; /* NULL while n is 0: the configuration in force has none of them */
	unsigned n;
	struct tried_value v[CONF_KEY_COUNT];
};

struct tried *must_check tried_new(void);
void tried_free(struct tried **t);

/* What a request asks for ({"set":{…},"unset":[…]|true,"for_ms":N}): the configuration that would be in force, and the set that
 * goes with it. NULL: *error_r says why, and *type_r in a word: "invalid", "unknown", "needs-restart", "fixed", "too-large", "not-tried". */
struct conf *must_check tried_propose(struct supervisor *sv, const json_t *request, const char *who, struct tried **t_r,
				      const char **type_r, char **error_r);
/* Without those whose time is over. */
struct conf *must_check tried_expire(struct supervisor *sv, struct tried **t_r, char **error_r);
/* Without any. */
struct conf *must_check tried_drop(struct supervisor *sv, struct tried **t_r);
/* The present set over a configuration that was loaded anew (taken over, also on failure). What that says itself by now is
 * not tried any more. NULL: both together make no sense. */
struct conf *must_check tried_rebase(struct supervisor *sv, struct conf *loaded, struct tried **t_r, char **error_r);
/* [key]: tried at present, and not in t. */
json_t *must_check tried_settled(const struct supervisor *sv, const struct tried *t);
/* It is in force now: takes *t over. The timer is set. */
void tried_commit(struct supervisor *sv, struct tried **t);

bool tried_due(const struct supervisor *sv, int64_t now_us); /* is the time of one of them over? */
void tried_stuck(struct supervisor *sv);		     /* it could not be put back: again, in a while */

json_t *tried_json(const struct supervisor *sv); /* [{key, value, base, base_source, since, left_s, who}] */
json_t *tried_handover(const struct supervisor *sv);
/* From another image, whose configuration sv->conf is. */
void tried_adopt(struct supervisor *sv, const json_t *list);
/* conf (loaded anew, taken over) with them. Never fails: what does not fit any more is left out. */
struct conf *tried_over_next(struct supervisor *sv, struct conf *next);
void tried_begin(struct supervisor *sv);
void tried_end(struct supervisor *sv);
#endif
