/* The configuration of running daemons, as orchestractl sees it: set, config, apply, drift. */
#ifndef ORC_CTL_LIVE_H
#define ORC_CTL_LIVE_H
#include "conf.h"
#include "scrape.h"

/* ---- live.c ---- */
/* GET /v1/admin/config; fingerprint_key NULL: secrets are not compared. NULL: said why, *code_r is the exit status. */
json_t *must_check live_fetch(struct ctl *c, const char *fingerprint_key, int *code_r);
const json_t *live_key(const json_t *config, const char *key); /* its member of "keys", or NULL */
/* PATCH /v1/admin/config, or the same through PATH.ctl. The parsed answer, or NULL: said why. Both take `body` over. */
json_t *must_check live_patch(struct ctl *c, json_t *body, int *code_r);
/* Says on standard error when the change is not in the audit log. */
void live_say_audit(const json_t *answer);
/* A file by itself, values one by one. NULL: said why. */
struct conf *must_check live_read_file(const char *file);
bool live_is_default(const char *source);
/* The key and the value as the daemon will judge them, before anything is waited for. CTL_OK, or said what is wrong. */
int live_check(const char *key, const char *value);
/* "10s" of an option; false: said so. */
bool must_check live_duration(const char *option, const char *text, int64_t *us_r);
void live_print_value(const json_t *key); /* (secret) where it is one */

/* ---- effect.c: requests, errors and latency over a window, from /metrics ---- */
struct effect {
	bool valid, latency, quantiles;	  /* what the daemon exposes */
	double seconds, requests, errors; /* per second */
	double mean, p50, p95, p99;	  /* seconds; NaN without a request */
};
/* Waits for a window and says what happened in it. */
void effect_watch(struct ctl *c, const char *what, int64_t us, struct effect *e_r);
void effect_between(const struct scrape *a, const struct scrape *b, struct effect *e_r);
void effect_show(const struct ctl *c, const struct effect *before, const struct effect *after);
json_t *effect_json(const struct effect *e);

/* ---- save.c ---- */
/* Writes these keys, with the values that are in force, into `file` (NULL: the daemon's). Said what was done, or why not. */
int must_check save_keys(struct ctl *c, const json_t *config, const char *const *keys, size_t nkeys, const char *file);

#endif
