/* What doctor knows: one function a subject, over what was asked of the daemon. Pure, so that tests can make it ill. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

#include "clock.h"
#include "doctor.h"

#define LAG_WARNING_S 10.0
#define JOURNAL_WARNING 0.5
#define JOURNAL_PROBLEM 0.9
#define DISK_WARNING 0.10
#define DISK_PROBLEM 0.03
#define REDIS_WARNING 0.9
#define FDS_WARNING 0.8
#define LOOP_WARNING_S 0.1
#define HITS_WARNING 0.5
#define HITS_FEW 100.0 /* misses meanwhile; with fewer, a ratio says nothing */
#define CERTIFICATE_WARNING_S (14 * 86400.0)
#define RECENTLY_S 3600 /* a worker that died so long ago is still worth a word */

void doctor_add(struct doctor *d, enum doctor_level level, const char *subject, const char *remedy, const char *fmt,
		...)
{
	struct buf b = {0};
	va_list ap;
	char text[512];
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	buf_adds(&b, text);
	buf_addc(&b, '\0');
	if (d->n == d->cap) {
		d->cap = d->cap ? 2 * d->cap : 32;
		d->v = util_realloc(d->v, d->cap * sizeof(*d->v));
	}
	d->v[d->n++] = (struct doctor_finding){level, subject, b.p,
					       remedy ? util_strndup(remedy, strlen(remedy)) : NULL};
}

void doctor_free(struct doctor *d)
{
	for (size_t i = 0; i < d->n; i++) {
		free(d->v[i].what);
		free(d->v[i].remedy);
	}
	free(d->v);
	*d = (struct doctor){0};
}

/* What is there now; NAN: it is not known. */
static double gauge(const struct doctor_view *v, const char *metric)
{
	return v->to ? scrape_sum(v->to, metric, NULL, NULL) : NAN;
}

/* How much it rose between the two readings. */
static double rise(const struct doctor_view *v, const char *metric, const char *label, const char *value)
{
	struct scrape_pick p = {.label = {label}, .value = {SPAN(value ? value : "")}};
	if (!v->from || !v->to)
		return NAN;
	return scrape_rate(v->from, v->to, metric, &p) * (double)(v->to->at_us - v->from->at_us) / 1e6;
}

/* ---- whether it serves ---- */

static const struct {
	const char *status, *what, *remedy;
} reasons[] = {
	{"starting", "it is starting: the store or the journal is being read", "wait; its log says how far it is"},
	{"warming", "it fills its indexes or its cache, which warmer.ready_fraction makes it wait for",
	 "wait, or lower warmer.ready_fraction; \"orchestractl status\" and /readyz show how far it is"},
	{"draining", "it is finishing its work and will leave", "nothing, if that was wanted; else start it again"},
	{"journal-failed", "the journal cannot be written: no write is acknowledged",
	 "look at the disk under data.dir (dmesg, its log); repair it, then restart the daemon"},
	{"journal-error", "the journal cannot be written: no write is acknowledged",
	 "look at the disk under data.dir (dmesg, its log); repair it, then restart the daemon"},
	{"disk-full", "the disk under data.dir is full: writes are refused, reads go on",
	 "free some space there; writes are taken again at once"},
	{"journal-quota", "journal.quota is reached: writes are refused until the store has taken some",
	 "bring the store back, or raise journal.quota (needs a restart)"},
	{"journal-age", "the oldest write that the store lacks is older than sync.max_age: writes are refused",
	 "bring the store back, or raise sync.max_age"},
	{"store-failed", "the store could not be reached since the start, and nothing has been served yet",
	 "bring the store back, or correct store.dsn; its log says what is wrong"},
};
static const struct {
	const char *name, *what, *remedy;
} lacks[] = {
	{"store", "the store is away: writes gather in the journal, and what is in no cache cannot be read",
	 "bring the store back; what has gathered is flushed by itself. \"orchestractl breaker list\" shows its state"},
	{"dead-letters", "there are so many dead letters that nothing more is flushed to the store",
	 "\"orchestractl dlq list\" shows them; retry or discard some, or raise sync.dead_letters_max"},
	{"feed", "what other daemons write is not heard: their changes may be seen late, as late as cache.ttl",
	 "bring the store back; see its breaker and the log"},
	{"redis", "Redis does not answer: what is not in shared memory is read from the store",
	 "bring Redis back, or correct redis.url; nothing is lost meanwhile"},
};

static void examine_readiness(struct doctor *d, const struct doctor_view *v)
{
	const char *status = output_str(v->ready, "status"), *reason = output_str(v->ready, "reason");
	size_t i, k = 0;
	json_t *x;
	if (!v->ready)
		return;
	while (k < ARRAY_LEN(reasons) && strcmp(reasons[k].status, status) != 0)
		k++;
	if (strcmp(status, "ready") == 0)
		doctor_add(d, DOCTOR_FINE, "service", NULL, "writes are taken and reads are answered");
	else if (k < ARRAY_LEN(reasons))
		doctor_add(d, DOCTOR_PROBLEM, "service", reasons[k].remedy, "%s%s%s", reasons[k].what,
			   *reason ? ": " : "", reason);
	else
		doctor_add(d, DOCTOR_PROBLEM, "service", "see its log", "/readyz says %s%s%s", status,
			   *reason ? ": " : "", reason);
	json_array_foreach (json_object_get(v->ready, "degraded"), i, x) {
		const char *name = json_string_value(x) ? json_string_value(x) : "";
		for (k = 0; k < ARRAY_LEN(lacks) && strcmp(lacks[k].name, name) != 0; k++)
			;
		if (k < ARRAY_LEN(lacks))
			doctor_add(d, DOCTOR_PROBLEM, lacks[k].name, lacks[k].remedy, "%s", lacks[k].what);
		else
			doctor_add(d, DOCTOR_WARNING, "service", "see its log", "degraded: %s", name);
	}
}

/* ---- processes ---- */

/* Seconds since a time; a large number when there is none. */
static double seconds_since(const char *text, int64_t now_s)
{
	int64_t us;
	return clock_parse(text, strlen(text), &us) ? (double)(now_s - us / 1000000) : 1e18;
}

static bool examine_worker(struct doctor *d, const struct doctor_view *v, const json_t *w)
{
	const char *name = output_str(w, "name"), *state = output_str(w, "state"), *last = output_str(w, "last_exit");
	long long restarts = json_integer_value(json_object_get(w, "restarts"));
	double ago = seconds_since(output_str(w, "last_exit_at"), v->now_s);
	if (strcmp(state, "ready") != 0) {
		doctor_add(d, DOCTOR_PROBLEM, "workers",
			   "the log says why it died; it is started again by itself, each time a little later",
			   "%s is %s%s%s", name, state, *last ? "; it left last by " : "", last);
		return false;
	}
	if (restarts && ago < RECENTLY_S) {
		doctor_add(
			d, DOCTOR_WARNING, "workers",
			"a backtrace is in the log if it was its own fault; \"killed\" by nobody you know is the kernel's: dmesg",
			"%s: %lld restarts, the last one %.0f min ago: %s", name, restarts, ago / 60,
			*last ? last : "?");
		return false;
	}
	return true;
}

static void examine_workers(struct doctor *d, const struct doctor_view *v)
{
	size_t i;
	json_t *w, *workers = json_object_get(v->status, "workers");
	bool well = true;
	const char *version = output_str(v->status, "version");
	if (!workers)
		return;
	json_array_foreach (workers, i, w)
		well = examine_worker(d, v, w) && well;
	if (well)
		doctor_add(d, DOCTOR_FINE, "workers", NULL, "all %zu are ready", json_array_size(workers));
	if (*version && strcmp(version, v->version) != 0)
		doctor_add(d, DOCTOR_WARNING, "version",
			   "\"orchestractl upgrade\" makes it go on with the installed one",
			   "the daemon is version %s, this program %s", version, v->version);
	double delay = v->from && v->to
			       ? scrape_quantile(v->from, v->to, "orchestra_worker_loop_delay_seconds", NULL, 0.99)
			       : NAN;
	if (delay > LOOP_WARNING_S)
		doctor_add(
			d, DOCTOR_WARNING, "workers",
			"see \"orchestractl top\": either a worker has too much to do (more api.workers), or others use the processors",
			"event loops are up to %.0f ms late", delay * 1e3);
	double open = gauge(v, "orchestra_worker_open_fds"), most = gauge(v, "orchestra_worker_max_fds");
	if (open > FDS_WARNING * most)
		doctor_add(d, DOCTOR_WARNING, "workers",
			   "raise the limit of open files (LimitNOFILE=) or lower http.max_connections",
			   "%.0f of %.0f file descriptors are in use", open, most);
}

/* ---- writes ---- */

static void examine_writes(struct doctor *d, const struct doctor_view *v)
{
	double lag = gauge(v, "orchestra_journal_lag_seconds"), records = gauge(v, "orchestra_journal_lag_records");
	double held = gauge(v, "orchestra_journal_held_bytes"), quota = gauge(v, "orchestra_journal_quota_bytes");
	double dead = gauge(v, "orchestra_dead_letters"), used = quota > 0 ? held / quota : 0;
	char held_text[16], quota_text[16];
	if (!v->to)
		return;
	output_bytes(held, held_text);
	output_bytes(quota, quota_text);
	if (lag > LAG_WARNING_S)
		doctor_add(
			d, DOCTOR_WARNING, "writes",
			"nothing is lost, it is in the journal; bring the store back, or see why it is slow (breaker list, dlq list)",
			"the store lacks %.0f records, the oldest for %.0f s", records, lag);
	if (used > JOURNAL_WARNING)
		doctor_add(d, used > JOURNAL_PROBLEM ? DOCTOR_PROBLEM : DOCTOR_WARNING, "journal",
			   "writes are refused when it is full: bring the store back, or raise journal.quota",
			   "%s of %s (journal.quota) are in use", held_text, quota_text);
	if (dead > 0)
		doctor_add(
			d, DOCTOR_PROBLEM, "writes",
			"\"orchestractl dlq list\" shows them with the store's reasons; then \"dlq retry\" or \"dlq discard\"",
			"the store did not accept %.0f operations, which are acknowledged and kept", dead);
	if (!(lag > LAG_WARNING_S) && !(used > JOURNAL_WARNING) && !(dead > 0))
		doctor_add(d, DOCTOR_FINE, "writes", NULL,
			   "the store has what is older than %.0f s; the journal holds %s of %s", LAG_WARNING_S,
			   held_text, quota_text);
}

static void examine_disk(struct doctor *d, const struct doctor_view *v)
{
	double left = gauge(v, "orchestra_disk_free_bytes"), size = gauge(v, "orchestra_disk_size_bytes");
	char text[16];
	if (!(size > 0))
		return;
	output_bytes(left, text);
	bool short_of = left < DISK_WARNING * size;
	doctor_add(d,
		   left < DISK_PROBLEM * size ? DOCTOR_PROBLEM
		   : short_of		      ? DOCTOR_WARNING
					      : DOCTOR_FINE,
		   "disk", short_of ? "free some space, or move data.dir; when it is full, writes are refused" : NULL,
		   "%s are free under %s, %.0f %%", text, output_str(v->status, "data_dir"), 100 * left / size);
}

/* ---- what it depends on ---- */

static void examine_breakers(struct doctor *d, const struct doctor_view *v)
{
	size_t i;
	json_t *b, *all = json_object_get(v->breakers, "breakers");
	bool well = json_array_size(all) > 0;
	json_array_foreach (all, i, b) {
		const char *name = output_str(b, "name"), *state = output_str(b, "state");
		bool forced = json_is_true(json_object_get(b, "forced"));
		char remedy[128];
		if (strcmp(state, "closed") == 0 && !forced)
			continue;
		well = false;
		snprintf(remedy, sizeof(remedy),
			 forced ? "\"orchestractl breaker reset %.40s\" lets it decide again"
				: "it closes by itself when %.40s answers; the log says what failed",
			 name);
		doctor_add(d, forced ? DOCTOR_WARNING : DOCTOR_PROBLEM, "breakers", remedy, "the breaker of %s is %s%s",
			   name, state, forced ? ", by hand" : "");
	}
	if (well)
		doctor_add(d, DOCTOR_FINE, "breakers", NULL, "closed, all %zu", json_array_size(all));
}

static void examine_targets(struct doctor *d, const struct doctor_view *v)
{
	size_t failing = 0, all = 0;
	for (const struct scrape_row *r = NULL; v->to && (r = scrape_next(v->to, "orchestra_ping_up", r)); all++) {
		struct span name = scrape_label(r, "target");
		if (r->value > 0)
			continue;
		failing++;
		doctor_add(d, DOCTOR_WARNING, "targets",
			   "the log says what it answered; its URL and what is expected are in pinger.targets",
			   "the target %.*s did not answer as expected the last time", (int)name.len, name.p);
	}
	if (all && !failing)
		doctor_add(d, DOCTOR_FINE, "targets", NULL, "all %zu answer as expected", all);
}

static void examine_redis(struct doctor *d, const struct doctor_view *v)
{
	double up = gauge(v, "orchestra_redis_up"), used = gauge(v, "orchestra_redis_used_memory_bytes");
	double most = gauge(v, "orchestra_redis_maxmemory_bytes"),
	       evicted = rise(v, "orchestra_redis_evicted_keys_total", NULL, NULL);
	if (isnan(up))
		return; /* there is none */
	if (up <= 0)
		doctor_add(d, DOCTOR_WARNING, "redis", "bring it back, or correct redis.url",
			   "it does not say how it is");
	else if (most > 0 && used > REDIS_WARNING * most)
		doctor_add(
			d, DOCTOR_WARNING, "redis",
			"give it more memory, or lower redis.ttl or redis.value_max; see its eviction policy (allkeys-lfu suits)",
			"%.0f %% of its memory are in use%s", 100 * used / most, evicted > 0 ? ", and it evicts" : "");
	else
		doctor_add(d, DOCTOR_FINE, "redis", NULL, "it answers");
}

/* ---- speed, and what will come ---- */

static void examine_cache(struct doctor *d, const struct doctor_view *v)
{
	double hits = rise(v, "orchestra_cache_hits_total", "class", "memory");
	double misses = rise(v, "orchestra_cache_misses_total", "class", "memory");
	double evictions = rise(v, "orchestra_cache_evictions_total", "class", "memory");
	double emptied = gauge(v, "orchestra_cache_emptied_shards_total");
	if (misses > HITS_FEW && hits < HITS_WARNING * (hits + misses) && evictions > 0)
		doctor_add(d, DOCTOR_WARNING, "cache",
			   "raise cache.l1_bytes; \"orchestractl cache stats\" says what it holds",
			   "%.0f %% of reads were hits, while it evicted %.0f entries", 100 * hits / (hits + misses),
			   evictions);
	if (emptied > 0)
		doctor_add(d, DOCTOR_NOTE, "cache", NULL,
			   "%.0f of its parts were emptied, because a worker died in them", emptied);
}

static void examine_errors(struct doctor *d, const struct doctor_view *v)
{
	double errors = rise(v, "orchestra_http_requests_total", "status", "5xx");
	double refused = rise(v, "orchestra_http_rejected_total", NULL, NULL);
	if (errors > 0)
		doctor_add(d, DOCTOR_WARNING, "requests", "\"orchestractl top\" shows of which routes; the log why",
			   "%.0f were answered with an error of ours while I looked", errors);
	if (refused > 0)
		doctor_add(d, DOCTOR_NOTE, "requests",
			   "a client sends what is no HTTP, or is too slow or too large for the limits of http.*",
			   "%.0f were refused before they were read", refused);
}

static void examine_certificate(struct doctor *d, const struct doctor_view *v)
{
	double expiry = gauge(v, "orchestra_tls_certificate_expiry_seconds"), left = expiry - (double)v->now_s;
	if (!(expiry > 0))
		return;
	doctor_add(
		d,
		left <= 0		       ? DOCTOR_PROBLEM
		: left < CERTIFICATE_WARNING_S ? DOCTOR_WARNING
					       : DOCTOR_FINE,
		"certificate",
		left < CERTIFICATE_WARNING_S
			? "put the new one into the files of tls.certificate and tls.key, then \"orchestractl reload\""
			: NULL,
		left <= 0 ? "it has expired %.0f days ago" : "it is good for another %.0f days", fabs(left) / 86400);
}

void doctor_examine(struct doctor *d, const struct doctor_view *v)
{
	examine_readiness(d, v);
	examine_workers(d, v);
	examine_writes(d, v);
	examine_disk(d, v);
	examine_breakers(d, v);
	examine_redis(d, v);
	examine_targets(d, v);
	examine_cache(d, v);
	examine_errors(d, v);
	examine_certificate(d, v);
}
