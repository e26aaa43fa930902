/* pinger: keeps configured HTTP targets warm. One ping per target at a time, at most PINGS_AT_ONCE
 * over all, starts spread out and intervals jittered: never a stampede. */
#define LOG_SUBSYSTEM LOG_IN_PINGER
#include <stdlib.h>
#include <sys/random.h>

#include "fault.h"
#include "log.h"
#include "transport.h"
#include "worker.h"

#define PINGS_AT_ONCE 8
#define SPREAD_US 5000000 /* first pings are spread over this, or over the interval if shorter */
#define WARN_EVERY_S 60
#define WORTH_A_NOTE 3 /* failures in a row whose end is logged: one that flaps must not flood */

struct pinger;

struct ping {
	struct pinger *p;
	const struct target *target; /* in p->targets */
	struct plant_target *row;    /* where its figures are shown */
	struct event *timer;	     /* when it is due next */
	struct exchange *exchange;   /* under way, or NULL */
	bool queued;		     /* due, but PINGS_AT_ONCE are under way */
	unsigned failures;	     /* since the last good answer */
	struct log_limit limit;
};

struct pinger {
	struct worker *w;
	struct target_list *targets, *next; /* next: between prepare and commit */
	struct ping **pings;		    /* one for each target; pointers, as events hold them */
	size_t npings;
	struct transport *transport; /* made with the first target */
	size_t active;
	size_t turn; /* where the search for queued ones goes on: fairness */
};

static struct pinger pinger;

/* ---- time ---- */

static double uniform(void)
{
	uint32_t r = 0;
	(void)!getrandom(&r, sizeof(r), GRND_NONBLOCK);
	return r / 4294967296.0;
}

static void arm(struct ping *g, double us)
{
	int64_t t = (int64_t)us;
	struct timeval tv = {t / 1000000, t % 1000000};
	evtimer_add(g->timer, &tv);
}

static void arm_first(struct ping *g, size_t i, size_t n)
{
	double spread = g->target->interval_us < SPREAD_US ? (double)g->target->interval_us : SPREAD_US;
	arm(g, spread * ((double)i + uniform()) / (double)n);
}

/* ---- pings ---- */

static void start_queued(struct pinger *p);

static void on_done(void *arg, long status, const char *error)
{
	struct ping *g = arg;
	struct pinger *p = g->p;
	const struct target *t = g->target;
	g->exchange = NULL;
	p->active--;
	bool well = !error && target_expected(t, status);
	if (!well) {
		atomic_fetch_add_explicit(&g->row->failures, 1, memory_order_relaxed);
		if (error)
			log_warn_limited(&g->limit, WARN_EVERY_S, "target %s: %s", t->name, error);
		else
			log_warn_limited(&g->limit, WARN_EVERY_S, "target %s: answered %ld", t->name, status);
	} else if (g->failures >= WORTH_A_NOTE) {
		log_info("target %s: answers well again (%ld)", t->name, status);
	}
	atomic_store_explicit(&g->row->well, well, memory_order_relaxed);
	g->failures = well ? 0 : g->failures + 1;
	start_queued(p);
}

static void start(struct ping *g)
{
	struct pinger *p = g->p;
	g->queued = false;
	p->active++;
	atomic_fetch_add_explicit(&g->row->pings, 1, memory_order_relaxed);
	g->exchange = transport_start(p->transport, g->target, on_done, g);
	FAULT_POINT(pinger_asking);
}

static void start_queued(struct pinger *p)
{
	for (size_t i = 0; i < p->npings && p->active < PINGS_AT_ONCE; i++) {
		p->turn = (p->turn + 1) % p->npings;
		if (p->pings[p->turn]->queued)
			start(p->pings[p->turn]);
	}
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct ping *g = arg;
	(void)fd, (void)what;
	arm(g, (double)g->target->interval_us * (0.9 + 0.2 * uniform()));
	if (g->exchange || g->queued)
		return; /* the last one is not over */
	if (g->p->active < PINGS_AT_ONCE)
		start(g);
	else
		g->queued = true;
}

static struct ping *ping_new(struct pinger *p, const struct target *t)
{
	struct ping *g = util_zalloc(sizeof(*g));
	*g = (struct ping){.p = p, .target = t, .row = plant_target_take(p->w->plant, t->name)};
	AN(g->row); /* TARGETS_MAX leaves as many rows as two configurations need */
	g->timer = evtimer_new(p->w->base, on_due, g);
	AN(g->timer);
	return g;
}

static void ping_free(struct ping *g)
{
	if (g->exchange) {
		transport_cancel(&g->exchange);
		g->p->active--;
	}
	plant_target_drop(g->row);
	event_free(g->timer);
	free(g);
}

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
	if (n && !p->transport) {
		p->transport = transport_open(p->w->base, &error);
		if (!p->transport) {
			log_error("no target is kept warm: %s", error ? error : "?");
			free(error);
			n = 0; /* the rest of the daemon does not depend on it */
		}
	}
	for (size_t i = 0; i < n; i++) {
		pings[i] = take_equal(p, &next->v[i]);
		if (pings[i])
			pings[i]->target = &next->v[i];
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
		arm_first(pings[i], i, n);
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
	if (p->npings)
		start_queued(p);
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
	if (next)
		use_targets(p, next);
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
	transport_close(&p->transport);
}

const struct worker_role pinger_role = {
	.name = "pinger",
	.init = pinger_init,
	.conf_prepare = pinger_conf_prepare,
	.conf_commit = pinger_conf_commit,
	.conf_abort = pinger_conf_abort,
	.load = pinger_load,
	.stop = pinger_stop,
};
