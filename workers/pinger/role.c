/* pinger: keeps configured HTTP targets warm. One ping per target at a time, at most PINGS_AT_ONCE
 * over all, starts spread out and intervals jittered: never a stampede. Here: which targets there are, and the life of the
 * process; ping.c has the life of a target, plan.h what is decided and why. */
#define LOG_SUBSYSTEM LOG_IN_PINGER
#include <stdlib.h>

#include "fault.h"
#include "pinger.h"

static struct pinger pinger;

/* ---- targets ---- */

static struct ping *take_equal(struct pinger *p, const struct target *t)
{
	for (size_t i = 0; i < p->npings; i++) {
		struct ping *g = p->pings[i];
		if (!g || !target_equal(g->target, t))
			continue;
		p->pings[i] = NULL;
		return g;
	}
	return NULL;
}

/* Pings of targets that stay the same keep their rhythm; the others end or begin. Takes next over. */
static void use_targets(struct pinger *p, struct target_list *next)
{
	struct ping **pings = util_zalloc((next->n + 1) * sizeof(*pings));
	size_t n = next->n, added = 0, removed = 0;
	char *error = NULL;
	if (n && !p->transport)
		p->transport = transport_open(p->w->base, &error);
	if (n && !p->transport) {
		log_error("no target is kept warm: %s", error ? error : "?");
		free(error);
		n = 0; /* the rest of the daemon does not depend on it */
	} else if (n && !p->tokens) {
		p->tokens = tokens_open(p->transport);
	}
	for (size_t i = 0; i < n; i++) {
		pings[i] = take_equal(p, &next->v[i]);
		if (pings[i])
			ping_use(pings[i], &next->v[i]);
	}
	for (size_t i = 0; i < p->npings; i++) {
		if (p->pings[i]) {
			FAULT_POINT(pinger_ending);
			ping_free(p->pings[i]);
			removed++;
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (pings[i])
			continue;
		pings[i] = ping_new(p, &next->v[i]);
		ping_first(pings[i], i, n);
		added++;
	}
	free(p->pings);
	target_free(&p->targets);
	p->pings = pings;
	p->npings = n;
	p->targets = next;
	p->turn = 0;
	if (added || removed)
		log_info("%zu targets: %zu new or changed, %zu ended", p->npings, added, removed);
	if (p->tokens)
		tokens_keep(p->tokens, next);
	if (p->npings)
		ping_queued(p);
}

/* ---- traces ---- */

static void use_tracing(struct pinger *p)
{
	const struct conf *c = p->w->conf;
	char *error = NULL;
	p->tracing = trace_conf(p->tracer, c);
	if (p->tracing && !p->transport)
		p->transport = transport_open(p->w->base, &error);
	if (p->tracing && !p->transport) {
		log_error("no trace is sent: %s", error ? error : "?");
		free(error);
		p->tracing = false;
	}
	if (p->tracing && !p->spans)
		p->spans = spans_open(p->w, p->transport);
	if (p->spans)
		spans_conf(p->spans, c);
}

/* ---- life ---- */

static int pinger_init(struct worker *w)
{
	char *error = NULL;
	struct target_list *targets = target_parse(conf_str(w->conf, CONF_PINGER_TARGETS), &error);
	if (!targets) {
		log_error("%s", error ? error : "pinger.targets: unusable");
		free(error);
		return WORKER_EXIT_FATAL;
	}
	pinger.w = w;
	w->role_data = &pinger;
	plant_target_drop_all(w->plant);
	pinger.tracer = trace_open(FD_SHM_SPANS, w->slot, w->stats);
	use_tracing(&pinger);
	use_targets(&pinger, targets);
	return 0;
}

static void pinger_conf_abort(struct worker *w)
{
	struct pinger *p = w->role_data;
	target_free(&p->next);
}

static int pinger_conf_prepare(struct worker *w, const struct conf *next, char **error_r)
{
	struct pinger *p = w->role_data;
	target_free(&p->next);
	p->next = target_parse(conf_str(next, CONF_PINGER_TARGETS), error_r);
	return p->next ? 0 : -1;
}

static void pinger_conf_commit(struct worker *w)
{
	struct pinger *p = w->role_data;
	struct target_list *next = p->next;
	p->next = NULL;
	use_tracing(p);
	if (next)
		use_targets(p, next);
}

/* "NAME": now. */
static bool pinger_asked(struct worker *w, struct span text, struct buf *answer)
{
	struct pinger *p = w->role_data;
	for (size_t i = 0; i < p->npings; i++)
		if (span_eq(SPAN(p->pings[i]->target->name), text)) {
			ping_now(p->pings[i]);
			buf_adds(answer, "{\"ok\":true}");
			return true;
		}
	buf_adds(answer, "{\"ok\":false,\"error\":\"there is no such target\"}");
	return false;
}

static void pinger_load(struct worker *w, uint64_t *waiting_r, uint64_t *working_r)
{
	struct pinger *p = w->role_data;
	for (size_t i = 0; i < p->npings; i++)
		*waiting_r += p->pings[i]->queued;
	*working_r = p->active;
}

static void pinger_stop(struct worker *w)
{
	struct pinger *p = w->role_data;
	for (size_t i = 0; i < p->npings; i++)
		ping_free(p->pings[i]);
	free(p->pings);
	target_free(&p->targets);
	target_free(&p->next);
	spans_close(&p->spans);
	trace_close(&p->tracer);
	tokens_close(&p->tokens);
	transport_close(&p->transport);
}

const struct worker_role pinger_role = {
	.name = "pinger",
	.init = pinger_init,
	.conf_prepare = pinger_conf_prepare,
	.conf_commit = pinger_conf_commit,
	.conf_abort = pinger_conf_abort,
	.load = pinger_load,
	.asked = pinger_asked,
	.stop = pinger_stop,
};
