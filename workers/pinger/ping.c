/* The life of one target: when it is due, what it is asked with, what its answer means, and how all may see it. */
#define LOG_SUBSYSTEM LOG_IN_PINGER
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "clock.h"
#include "fault.h"
#include "pinger.h"

#define WARN_EVERY_S 60
#define WARN_TLS_EVERY_S 86400
#define WORTH_A_NOTE 3 /* failures in a row whose end is logged: one that flaps must not flood */

static double uniform(void)
{
	uint32_t r = 0;
	(void)!getrandom(&r, sizeof(r), GRND_NONBLOCK);
	return r / 4294967296.0;
}

static int64_t touched(const struct ping *g) { return atomic_load_explicit(&g->row->touched_us, memory_order_relaxed); }

static void publish(struct ping *g) { plant_target_publish(g->row, &g->figures); }

static void arm(struct ping *g, int64_t us)
{
	if (us < 0)
		us = 0;
	struct timeval tv = {us / 1000000, us % 1000000};
	evtimer_add(g->timer, &tv);
	g->figures.next_us = clock_real_us() + us;
}

/* ---- results ---- */

static uint32_t idle_ms(int64_t gap_us)
{
	return gap_us < 0 ? UINT32_MAX : gap_us / 1000 < UINT32_MAX ? (uint32_t)(gap_us / 1000) : UINT32_MAX - 1;
}

static void __attribute__((format(printf, 2, 3))) complain(struct ping *g, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(g->figures.error, sizeof(g->figures.error), fmt, ap);
	va_end(ap);
	/* Words of others: what is cut in the middle of a character is none. */
	util_utf8_scrub(g->figures.error, strlen(g->figures.error));
	log_warn_limited(&g->limit, WARN_EVERY_S, "target %s: %s", g->target->name, g->figures.error);
}

/* ---- its trace ---- */

static void begin_trace(struct ping *g)
{
	struct tracer *t = g->p->tracer;
	g->traced = g->p->tracing;
	if (!g->traced)
		return;
	g->trace = trace_new(t);
	g->sampled = trace_samples(t, g->trace.trace);
}

static bool names_trace(const struct target *t)
{
	for (size_t i = 0; i < t->nheaders; i++)
		if (strncasecmp(t->headers[i], "traceparent", 11) == 0)
			return true;
	return false;
}

/* A span without the URL, which may hold what is nobody's business: the target's name tells which it was. */
static void end_trace(struct ping *g, enum plant_ping_outcome outcome, long status)
{
	static const char *const errors[] = {[PING_FAILED] = "unreachable",
					     [PING_STATUS] = "status",
					     [PING_BODY] = "body",
					     [PING_NO_TOKEN] = "token"};
	int64_t now = clock_mono_ns(), began = g->sent_us * 1000;
	struct trace_span s;
	bool failed = outcome != PING_WELL;
	if (!g->traced || !trace_keeps(g->p->tracer, g->sampled, failed, now - began, now))
		return;
	trace_span_begin(&s, TRACE_PING, &g->trace);
	s.r.flags = (uint8_t)((g->sampled ? TRACE_SAMPLED : 0) | (failed ? TRACE_FAILED : 0));
	trace_text(&s, TRACE_KEY_METHOD, SPAN(g->target->method));
	trace_text(&s, TRACE_KEY_TARGET, SPAN(g->target->name));
	if (status)
		trace_int(&s, TRACE_KEY_STATUS, status);
	if (failed && outcome < ARRAY_LEN(errors) && errors[outcome])
		trace_text(&s, TRACE_KEY_ERROR, SPAN(errors[outcome]));
	trace_write(g->p->tracer, &s, began, now);
}

static void over(struct ping *g, enum plant_ping_outcome outcome, long status, uint32_t took_us)
{
	const struct plan_rules *r = &g->target->rules;
	struct plant_target_figures *f = &g->figures;
	int64_t now = clock_mono_us();
	bool well = outcome == PING_WELL;
	struct plant_ping result = {.at_us = g->sent_real_us,
				    .took_us = took_us,
				    .idle_ms = idle_ms(g->gap_us),
				    .status = (uint16_t)status,
				    .outcome = (uint8_t)outcome};
	if (well) {
		result.heat = (uint8_t)plan_answered(r, f, g->gap_us, took_us, now);
		f->error[0] = '\0';
		if (g->failures >= WORTH_A_NOTE)
			log_info("target %s: answers well again (%ld)", g->target->name, status);
	} else {
		plan_failed(f);
		atomic_fetch_add_explicit(&g->row->failures, 1, memory_order_relaxed);
	}
	plan_remember(r, f, &result);
	if (!r->interval_us) /* a pause of that length, and what it has learnt holds for this one already */
		arm(g, plan_wait(r, f, uniform()));
	end_trace(g, outcome, status);
	g->failures = well ? 0 : g->failures + 1;
	atomic_store_explicit(&g->row->well, well, memory_order_relaxed);
	g->p->active--;
	publish(g);
}

static void look_at_certificate(struct ping *g, int64_t ends_us)
{
	struct plant_target_figures *f = &g->figures;
	if (ends_us)
		f->tls_expiry_us = ends_us;
	int64_t left = f->tls_expiry_us - clock_real_us();
	f->tls_soon = f->tls_expiry_us && left < g->target->tls_warning_us;
	if (f->tls_soon)
		log_warn_limited(&g->tls_limit, WARN_TLS_EVERY_S, "target %s: its certificate ends in %lld days",
				 g->target->name, (long long)(left / 86400000000ll));
}

static void on_done(void *arg, const struct transport_answer *a)
{
	struct ping *g = arg;
	const struct target *t = g->target;
	enum plant_ping_outcome outcome = PING_WELL;
	g->exchange = NULL;
	look_at_certificate(g, a->tls_expiry_us);
	if (a->error) {
		outcome = PING_FAILED;
		complain(g, "%s", a->error);
	} else if (!target_expected(t, a->status)) {
		outcome = PING_STATUS;
		complain(g, "answered %ld", a->status);
	} else if (!target_expected_body(t, a->body)) {
		outcome = PING_BODY;
		complain(g, "answered %ld, but without expect_body", a->status);
	}
	over(g, outcome, a->error ? 0 : a->status, a->took_us);
	ping_queued(g->p);
}

/* ---- requests ---- */

static void ask(struct ping *g, const char *token)
{
	struct transport_request r = transport_request_of(g->target, token);
	char parent[TRACE_PARENT + 1];
	if (g->traced && !names_trace(g->target)) {
		trace_parent_write(parent, &g->trace, g->sampled);
		r.traceparent = parent;
	}
	g->exchange = transport_start(g->p->transport, &r, on_done, g);
	FAULT_POINT(pinger_asking);
}

static void on_token(void *arg, const char *token, const char *error)
{
	struct ping *g = arg;
	g->wait = NULL;
	if (token) {
		g->sent_us = clock_mono_us(); /* the pause was longer by what the token took */
		ask(g, token);
		return;
	}
	complain(g, "%s", error);
	over(g, PING_NO_TOKEN, 0, 0);
	ping_queued(g->p);
}

/* May be over at its return: then nothing of it is left to be done. */
static void start(struct ping *g)
{
	const struct target *t = g->target;
	char error[TOKEN_ERROR_MAX];
	char *read = NULL;
	const char *token = NULL;
	g->queued = g->forced = false;
	g->figures.paused = 0;
	g->p->active++;
	g->sent_us = clock_mono_us();
	g->sent_real_us = clock_real_us();
	begin_trace(g);
	g->gap_us = plan_gap(&g->figures, touched(g), g->sent_us);
	atomic_fetch_add_explicit(&g->row->pings, 1, memory_order_relaxed);
	if (t->bearer_file) {
		token = read = token_read_file(t->bearer_file, error);
		if (!read) {
			complain(g, "%s", error);
			over(g, PING_NO_TOKEN, 0, 0);
			return;
		}
		g->figures.token_expiry_us = token_expiry(token) *
					     1000000; /* others put a new one there, or forget to */
	} else if (t->audience) {
		token = tokens_get(g->p->tokens, t->audience, on_token, g, &g->wait);
		if (!token)
			return;
	}
	ask(g, token);
	token_free(&read);
}

void ping_queued(struct pinger *p)
{
	for (size_t i = 0; i < p->npings && p->active < PINGS_AT_ONCE; i++) {
		p->turn = (p->turn + 1) % p->npings;
		if (p->pings[p->turn]->queued)
			start(p->pings[p->turn]);
	}
}

static bool under_way(const struct ping *g) { return g->exchange || g->wait || g->queued; }

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct ping *g = arg;
	const struct plan_rules *r = &g->target->rules;
	(void)fd, (void)what;
	struct plan_next next = {PLAN_PING, plan_wait(r, &g->figures, uniform())};
	if (!under_way(g) && !g->forced)
		next = plan_due(r, &g->figures, touched(g), clock_mono_us(), clock_real_us(), uniform());
	arm(g, next.wait_us);
	if (under_way(g))
		return; /* the last one is not over */
	if (next.act != PLAN_PING) {
		if (next.act == PLAN_PAUSE) /* until then it is looked at now and then */
			g->figures.next_us = plan_opens(r, clock_real_us());
		g->figures.skipped += next.act == PLAN_SKIP;
		g->figures.paused = next.act == PLAN_PAUSE;
	} else if (g->p->active < PINGS_AT_ONCE) {
		start(g);
	} else {
		g->queued = true;
	}
	publish(g);
}

/* ---- targets ---- */

void ping_use(struct ping *g, const struct target *t)
{
	struct plant_target_figures *f = &g->figures;
	g->target = t;
	if (f->what != t->what) {
		f->adapt = (struct plant_adapt){0};
		f->heat = (struct plant_heat){0};
		f->used_us = f->tls_expiry_us = f->token_expiry_us = 0;
	}
	f->what = t->what;
	f->adapts = !t->rules.interval_us;
	f->priced = t->rules.cost_request > 0 || t->rules.cost_second > 0;
	f->min_us = t->rules.limits.min_us;
	f->max_us = t->rules.limits.max_us;
	f->interval_us = plan_interval(&t->rules, f);
	atomic_store_explicit(&g->row->host, t->host, memory_order_relaxed);
}

struct ping *ping_new(struct pinger *p, const struct target *t)
{
	struct ping *g = util_zalloc(sizeof(*g));
	*g = (struct ping){.p = p, .row = plant_target_take(p->w->plant, t->name)};
	AN(g->row); /* TARGETS_MAX leaves as many rows as two configurations need */
	/* What a killed pinger was writing is forgotten, never guessed. */
	if (!plant_target_figures(g->row, &g->figures))
		g->figures = (struct plant_target_figures){0};
	ping_use(g, t);
	g->timer = evtimer_new(p->w->base, on_due, g);
	AN(g->timer);
	return g;
}

void ping_free(struct ping *g)
{
	if (g->exchange || g->wait)
		g->p->active--;
	transport_cancel(&g->exchange);
	tokens_give_up(&g->wait);
	plant_target_drop(g->row);
	event_free(g->timer);
	free(g);
}

void ping_first(struct ping *g, size_t i, size_t n)
{
	arm(g, plan_first(&g->target->rules, i, n, uniform()));
	publish(g);
}

void ping_now(struct ping *g)
{
	if (under_way(g))
		return; /* that one is now */
	g->forced = true;
	event_active(g->timer, EV_TIMEOUT, 0);
}
