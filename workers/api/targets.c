/* /v1/admin/targets: what is kept warm, from shared memory; a ping at once, by way of the supervisor; and the word of an
 * application that it has just used one. */
#include <errno.h>

#include "clock.h"
#include "handlers.h"

struct target_view {
	char name[LIMIT_TARGET_NAME + 1];
	struct plant_target_figures f;
	uint64_t pings, failures;
	int64_t touched_us;
	bool well, known; /* known: the figures are whole */
};

static const char *const outcomes[] = {"well", "status", "body", "failed", "no-token"};
static const char *const heats[] = {"unknown", "warm", "cold"};
_Static_assert(ARRAY_LEN(outcomes) == PING_OUTCOMES && ARRAY_LEN(heats) == PING_HEATS, "a word for each");

/* False: the row is free, or changed hands meanwhile. */
static bool look(const struct plant_target *t, struct target_view *v)
{
	char again[LIMIT_TARGET_NAME + 1];
	if (!plant_target_name(t, v->name))
		return false;
	v->known = plant_target_figures(t, &v->f);
	if (!v->known)
		v->f = (struct plant_target_figures){0};
	v->f.error[sizeof(v->f.error) - 1] = '\0';
	v->pings = atomic_load_explicit(&t->pings, memory_order_relaxed);
	v->failures = atomic_load_explicit(&t->failures, memory_order_relaxed);
	v->well = atomic_load_explicit(&t->well, memory_order_relaxed);
	v->touched_us = atomic_load_explicit(&t->touched_us, memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	return plant_target_name(t, again) && strcmp(again, v->name) == 0;
}

/* ---- JSON ---- */

static void seconds(struct buf *b, const char *key, int64_t us)
{
	buf_printf(b, ",\"%s\":%lld.%03lld", key, (long long)us / 1000000, (long long)us % 1000000 / 1000);
}

static void time_or_null(struct buf *b, const char *key, int64_t us)
{
	buf_printf(b, ",\"%s\":", key);
	if (us > 0)
		json_out_time(b, us);
	else
		buf_adds(b, "null");
}

static void write_ping(struct buf *b, const struct plant_ping *p)
{
	buf_adds(b, "{\"at\":");
	json_out_time(b, p->at_us);
	buf_printf(b, ",\"outcome\":\"%s\",\"status\":%u,\"heat\":\"%s\",\"took_ms\":%.1f,\"idle_seconds\":",
		   p->outcome < PING_OUTCOMES ? outcomes[p->outcome] : "?", p->status,
		   p->heat < PING_HEATS ? heats[p->heat] : "?", p->took_us / 1e3);
	if (p->idle_ms == UINT32_MAX)
		buf_adds(b, "null}");
	else
		buf_printf(b, "%u.%03u}", p->idle_ms / 1000, p->idle_ms % 1000);
}

static void write_percentiles(struct buf *b, const char *key, const uint32_t us[3], uint64_t count)
{
	buf_printf(b, ",\"%s\":{\"count\":%llu,\"p50_ms\":%.1f,\"p95_ms\":%.1f,\"p99_ms\":%.1f}", key,
		   (unsigned long long)count, us[0] / 1e3, us[1] / 1e3, us[2] / 1e3);
}

static const struct plant_ping *newest(const struct plant_target_figures *f)
{
	return f->done ? &f->pings[(f->done - 1) % PLANT_PINGS] : NULL;
}

static void write_costs(struct buf *b, const struct plant_target_figures *f)
{
	if (!f->priced)
		return;
	buf_adds(b, ",\"cost\":{\"so_far\":");
	json_out_double(b, f->cost);
	buf_adds(b, ",\"per_day\":");
	json_out_double(b, f->cost_day);
	buf_adds(b, ",\"per_month\":");
	json_out_double(b, f->cost_day * 365.25 / 12);
	buf_addc(b, '}');
}

static void write_view(struct buf *b, const struct target_view *v)
{
	const struct plant_target_figures *f = &v->f;
	const struct plant_ping *last = newest(f);
	buf_adds(b, "{\"name\":");
	json_out_string(b, SPAN(v->name));
	buf_printf(b, ",\"state\":\"%s\",\"pings\":%llu,\"failures\":%llu,\"results\":%llu",
		   !f->done		     ? "new"
		   : f->paused		     ? "paused"
		   : !v->well		     ? "failing"
		   : last->heat == PING_COLD ? "cold"
					     : "warm",
		   (unsigned long long)v->pings, (unsigned long long)v->failures, (unsigned long long)f->done);
	buf_printf(b, ",\"cold_starts\":%llu,\"skipped\":%llu,\"adapts\":%s", (unsigned long long)f->cold_starts,
		   (unsigned long long)f->skipped, f->adapts ? "true" : "false");
	seconds(b, "interval_seconds", f->interval_us);
	time_or_null(b, "next_at", f->next_us);
	buf_adds(b, ",\"last\":");
	if (last)
		write_ping(b, last);
	else
		buf_adds(b, "null");
	if (*f->error) {
		buf_adds(b, ",\"error\":");
		json_out_string(b, SPAN(f->error));
	}
	write_percentiles(b, "warm", f->warm_us, f->warm_count);
	write_percentiles(b, "cold", f->cold_us, f->cold_count);
	buf_printf(b, ",\"cold_from_ms\":%.1f", (double)f->cold_from_us / 1e3);
	int64_t idle = clock_mono_us() - v->touched_us;
	if (v->touched_us)
		seconds(b, "traffic_seconds_ago", idle > 0 ? idle : 0);
	if (f->tls_expiry_us) {
		time_or_null(b, "tls_expires_at", f->tls_expiry_us);
		buf_printf(b, ",\"tls_expires_soon\":%s", f->tls_soon ? "true" : "false");
	}
	write_costs(b, f);
	buf_addc(b, '}');
}

/* ---- reading ---- */

void targets_list(struct call *c)
{
	struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	struct target_view v;
	buf_adds(b, "{\"targets\":[");
	for (size_t i = 0, n = 0; i < PLANT_TARGETS; i++) {
		if (!look(&p->targets[i], &v))
			continue;
		if (n++)
			buf_addc(b, ',');
		write_view(b, &v);
	}
	buf_adds(b, "]}");
	c->reply.status = 200;
	call_reply(c);
}

/* The target of the path; NULL: the problem is set. */
static struct plant_target *find(struct call *c, struct target_view *v)
{
	struct plant_target *t = plant_target_find(c->api->plant, c->name);
	if (t && look(t, v))
		return t;
	problem(c, 404, "not-found", "name: there is no target \"%s\"; GET /v1/admin/targets lists them", c->name);
	return NULL;
}

void targets_get(struct call *c)
{
	struct target_view v;
	if (find(c, &v)) {
		write_view(&c->reply.body, &v);
		c->reply.status = 200;
	}
	call_reply(c);
}

void targets_history(struct call *c)
{
	struct buf *b = &c->reply.body;
	struct target_view v;
	if (find(c, &v)) {
		uint64_t n = v.f.done < PLANT_PINGS ? v.f.done : PLANT_PINGS;
		buf_adds(b, "{\"name\":");
		json_out_string(b, SPAN(v.name));
		buf_adds(b, ",\"history\":["); /* the oldest first */
		for (uint64_t i = v.f.done - n; i < v.f.done; i++) {
			if (i > v.f.done - n)
				buf_addc(b, ',');
			write_ping(b, &v.f.pings[i % PLANT_PINGS]);
		}
		buf_adds(b, "]}");
		c->reply.status = 200;
	}
	call_reply(c);
}

/* ---- doing ---- */

void targets_touch(struct call *c)
{
	struct target_view v;
	struct plant_target *t = find(c, &v);
	if (t) {
		plant_target_touch(t, clock_mono_us());
		c->reply.status = 204;
	}
	call_reply(c);
}

static void on_answer(void *arg, int status, struct span json)
{
	struct call *c = arg;
	struct target_view v;
	(void)json;
	if (status) {
		problem(c, 503, "pinger-away", "the pinger is not ready, or is being replaced; try again");
	} else if (find(c, &v)) {
		write_view(&c->reply.body, &v);
		c->reply.status = 202;
	}
	call_reply(c);
}

void targets_ping(struct call *c)
{
	struct target_view v;
	struct buf line = {0};
	if (!find(c, &v)) {
		call_reply(c);
		return;
	}
	buf_printf(&line, "ping %s", v.name);
	buf_addc(&line, '\0');
	bool sent = worker_command(c->api->w, line.p, on_answer, c) == 0;
	int cause = errno;
	buf_free(&line);
	if (sent)
		return;
	problem(c, 503, "supervisor-busy", "the supervisor takes no commands at the moment (%s); try again",
		cause == EAGAIN ? "its queue is full" : "it is gone");
	call_reply(c);
}

bool targets_is(void (*handle)(struct call *c))
{
	return handle == targets_list || handle == targets_get || handle == targets_history ||
	       handle == targets_touch || handle == targets_ping;
}
