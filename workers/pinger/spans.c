#define LOG_SUBSYSTEM LOG_IN_PINGER
#include "spans.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "ring.h"
#include "trace/otlp.h"
#include "trace/trace.h"

#define TIMEOUT_US 10000000
#define ANSWER_MAX 4096
#define OWN_HEADERS 2
#define PAUSE_MIN_US 500000
#define WARN_EVERY_S 60

struct spans {
	struct worker *w;
	struct transport *transport;
	struct event *timer;
	struct ring *rings[SLOT_COUNT];
	unsigned turn; /* which ring is emptied first: fairness */
	struct exchange *exchange;
	struct buf body; /* the request under way, or that is tried again; empty: none */
	unsigned held;	 /* spans in it */
	int64_t since_us, retry_at_us;
	unsigned failures;
	bool on;
	char *endpoint, *service;
	char *headers[OTLP_HEADERS_MAX + OWN_HEADERS]; /* the first are ours */
	size_t nheaders;
	char host[64], instance[96];
	struct otlp_resource resource;
	struct log_limit limit;
};

/* ---- settings ---- */

static void forget_headers(struct spans *s)
{
	for (size_t i = OWN_HEADERS; i < s->nheaders; i++) {
		explicit_bzero(s->headers[i], strlen(s->headers[i]));
		free(s->headers[i]);
	}
	s->nheaders = OWN_HEADERS;
}

static void name_ourselves(struct spans *s)
{
	if (gethostname(s->host, sizeof(s->host) - 1))
		*s->host = '\0';
	snprintf(s->instance, sizeof(s->instance), "%s-%llx", s->host,
		 (unsigned long long)atomic_load(&s->w->plant->born_us));
}

static void drop_waiting(struct spans *s)
{
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		ring_advance(s->rings[i], ring_head(s->rings[i]) + ring_used(s->rings[i]));
	s->body.len = s->held = 0;
}

void spans_conf(struct spans *s, const struct conf *c)
{
	static const struct timeval every = {0, SPANS_EVERY_MS * 1000};
	const char *endpoint = conf_str(c, CONF_TRACE_ENDPOINT), *service = conf_str(c, CONF_TRACE_SERVICE);
	bool elsewhere = !s->endpoint || strcmp(s->endpoint, endpoint) != 0;
	free(s->endpoint);
	free(s->service);
	s->endpoint = util_strndup(endpoint, strlen(endpoint));
	s->service = util_strndup(service, strlen(service));
	forget_headers(s);
	size_t given = 0;
	if (otlp_headers(conf_str(c, CONF_TRACE_HEADERS), s->headers + OWN_HEADERS, &given))
		s->nheaders += given;
	name_ourselves(s);
	s->resource = (struct otlp_resource){.service = s->service,
					     .version = ORCHESTRA_VERSION,
					     .instance = s->instance,
					     .host = s->host,
					     .store = conf_store_is_file(c) ? "sqlite" : "postgresql"};
	s->on = *endpoint;
	if (elsewhere) { /* that one may be well */
		s->failures = 0;
		s->retry_at_us = 0;
	}
	if (s->on) {
		event_add(s->timer, &every);
		return;
	}
	event_del(s->timer);
	transport_cancel(&s->exchange);
	drop_waiting(s);
	stats_add(s->w->stats, STAT_TRACE_WAITING, -stats_value(s->w->stats, STAT_TRACE_WAITING));
}

/* ---- what comes of a request ---- */

int64_t spans_pause_us(unsigned failures, int64_t retry_after_s, double random)
{
	int64_t us = PAUSE_MIN_US;
	for (unsigned i = 1; i < failures && us < SPANS_PAUSE_MAX_US; i++)
		us *= 2;
	us = (int64_t)((double)us * (0.75 + random / 2));
	int64_t asked = retry_after_s > SPANS_PAUSE_MAX_US / 1000000 ? SPANS_PAUSE_MAX_US : retry_after_s * 1000000;
	us = us < asked ? asked : us;
	return us < SPANS_PAUSE_MAX_US ? us : SPANS_PAUSE_MAX_US;
}

static void look(struct spans *s);

static void done_with(struct spans *s, enum stat_id id, uint64_t n)
{
	stats_add(s->w->stats, id, n);
	s->body.len = s->held = 0;
}

static void take_success(struct spans *s, const struct transport_answer *a)
{
	char *why = NULL;
	uint64_t rejected = otlp_rejected(a->body, &why);
	rejected = rejected < s->held ? rejected : s->held;
	if (rejected)
		log_warn_limited(&s->limit, WARN_EVERY_S, "trace.endpoint has rejected %llu spans: %.200s",
				 (unsigned long long)rejected, why ? why : "it does not say why");
	free(why);
	if (s->failures > 1)
		log_info("trace.endpoint takes traces again");
	s->failures = 0;
	s->retry_at_us = 0;
	stats_add(s->w->stats, STAT_TRACE_DROPPED_REJECTED, rejected);
	bool more = s->held == SPANS_BATCH;
	done_with(s, STAT_TRACE_EXPORTED, s->held - rejected);
	if (more)
		look(s);
}

static bool worth_another_try(long status)
{
	return !status || status == 429 || status == 502 || status == 503 || status == 504;
}

static void on_done(void *arg, const struct transport_answer *a)
{
	struct spans *s = arg;
	uint32_t random = 0;
	s->exchange = NULL;
	if (!a->error && a->status >= 200 && a->status < 300) {
		take_success(s, a);
		return;
	}
	stats_add(s->w->stats, STAT_TRACE_EXPORT_ERRORS, 1);
	s->failures++;
	if (a->error)
		log_warn_limited(&s->limit, WARN_EVERY_S, "trace.endpoint: %s", a->error);
	else
		log_warn_limited(&s->limit, WARN_EVERY_S, "trace.endpoint answers %ld", a->status);
	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
	int64_t now = clock_mono_us();
	s->retry_at_us = now + spans_pause_us(s->failures, a->retry_after_s, random / 4294967296.0);
	if (!worth_another_try(a->error ? 0 : a->status))
		done_with(s, STAT_TRACE_DROPPED_REJECTED, s->held);
	else if (now - s->since_us > SPANS_PATIENCE_US)
		done_with(s, STAT_TRACE_DROPPED_UNREACHABLE, s->held);
}

/* ---- requests ---- */

static void send_held(struct spans *s)
{
	struct transport_request r = {.url = s->endpoint,
				      .method = "POST",
				      .body = s->body.p,
				      .headers = s->headers,
				      .nheaders = s->nheaders,
				      .timeout_us = TIMEOUT_US,
				      .connect_timeout_us = TIMEOUT_US,
				      .keep = ANSWER_MAX};
	s->exchange = transport_start(s->transport, &r, on_done, s);
}

/* Up to a request's worth from one ring. What a worker that was taken over has put there is counted and passed. */
static void take_from(struct spans *s, struct ring *r)
{
	uint64_t cursor = ring_head(r);
	const void *p;
	size_t len;
	errno = 0;
	while (s->held < SPANS_BATCH && s->body.len < SPANS_BATCH_BYTES && (p = ring_peek(r, &cursor, &len))) {
		if (otlp_span(&s->body, &s->resource, p, len, !s->held))
			s->held++;
		else
			stats_add(s->w->stats, STAT_TRACE_DROPPED_BROKEN, 1);
		ring_advance(r, cursor);
		errno = 0;
	}
	if (errno == EPROTO) {
		stats_add(s->w->stats, STAT_TRACE_DROPPED_BROKEN, 1);
		ring_advance(r, ring_head(r) + ring_used(r));
	}
}

static void gather(struct spans *s)
{
	s->body.len = s->held = 0;
	otlp_begin(&s->body, &s->resource);
	for (unsigned i = 0; i < SLOT_COUNT; i++) {
		s->turn = (s->turn + 1) % SLOT_COUNT;
		take_from(s, s->rings[s->turn]);
	}
	otlp_end(&s->body);
	buf_addc(&s->body, '\0');
	s->since_us = clock_mono_us();
}

static void show_waiting(struct spans *s)
{
	uint64_t n = s->held ? s->body.len : 0;
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		n += ring_used(s->rings[i]);
	atomic_store_explicit(&s->w->stats->v[STAT_TRACE_WAITING], n, memory_order_relaxed);
}

static void look(struct spans *s)
{
	show_waiting(s);
	if (s->exchange || clock_mono_us() < s->retry_at_us)
		return;
	if (!s->held)
		gather(s);
	if (s->held)
		send_held(s);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	look(arg);
}

/* ---- life ---- */

struct spans *spans_open(struct worker *w, struct transport *t)
{
	static char type[] = "Content-Type: application/json", expect[] = "Expect:";
	struct spans *s = util_zalloc(sizeof(*s));
	s->w = w;
	s->transport = t;
	s->headers[0] = type;
	s->headers[1] = expect; /* no asking before the body is sent */
	s->nheaders = OWN_HEADERS;
	for (unsigned i = 0; i < SLOT_COUNT; i++) {
		s->rings[i] = trace_ring(FD_SHM_SPANS, i);
		if (s->rings[i])
			continue;
		log_error("no trace is sent: cannot map the segment of spans: %s", strerror(errno));
		while (i--)
			ring_close(&s->rings[i]);
		free(s);
		return NULL;
	}
	s->timer = event_new(w->base, -1, EV_PERSIST, on_timer, s);
	AN(s->timer);
	return s;
}

void spans_close(struct spans **sp)
{
	struct spans *s = *sp;
	*sp = NULL;
	if (!s)
		return;
	transport_cancel(&s->exchange);
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		ring_close(&s->rings[i]);
	forget_headers(s);
	free(s->endpoint);
	free(s->service);
	buf_free(&s->body);
	event_free(s->timer);
	free(s);
}
