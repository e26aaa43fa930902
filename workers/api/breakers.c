/* /v1/admin/breakers, and their rows of /metrics: from shared memory, without asking anybody. */
#include <stdio.h>

#include "clock.h"
#include "handlers.h"
#include "metrics_parts.h"

/* for (…) over the rows that are in use: BREAKERS when there is none any more. */
static unsigned next(const struct plant *p, unsigned i, int64_t now_us, struct breaker_view *v)
{
	while (i < BREAKERS && !breaker_look(&p->breakers[i], now_us, v))
		i++;
	return i;
}

static double rate(uint64_t part, uint64_t of) { return of ? (double)part / (double)of : 0; }

static void write_row(struct buf *b, const struct breaker_view *v)
{
	buf_adds(b, "{\"name\":");
	json_out_string(b, SPAN(v->name)); /* its characters are visible ASCII */
	buf_printf(b, ",\"state\":\"%s\",\"forced\":%s,\"probing\":%s,\"calls\":%llu,\"failures\":%llu,\"slow\":%llu",
		   breaker_state_name(v->state), v->forced ? "true" : "false", v->probing ? "true" : "false",
		   (unsigned long long)v->calls, (unsigned long long)v->failures, (unsigned long long)v->slow);
	buf_adds(b, ",\"failure_rate\":");
	json_out_double(b, rate(v->failures, v->calls));
	buf_adds(b, ",\"slow_rate\":");
	json_out_double(b, rate(v->slow, v->calls));
	buf_printf(b, ",\"consecutive_failures\":%llu,\"opened\":%llu,\"rejected\":%llu",
		   (unsigned long long)v->consecutive, (unsigned long long)v->to_total[BREAKER_OPEN],
		   (unsigned long long)v->rejected_total);
	if (v->next_probe_us >= 0)
		buf_printf(b, ",\"next_probe_ms\":%lld", (long long)(v->next_probe_us + 999) / 1000);
	if (v->throttled_us)
		buf_printf(b, ",\"throttled_ms\":%lld", (long long)(v->throttled_us + 999) / 1000);
	buf_printf(b, ",\"misconfigured\":%s", v->misconfigured ? "true" : "false");
	if (v->reason[0]) {
		buf_adds(b, ",\"reason\":");
		json_out_string(b, SPAN(v->reason));
	}
	buf_addc(b, '}');
}

void breakers_list(struct call *c)
{
	const struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	struct breaker_view v;
	int64_t now = clock_mono_us();
	buf_adds(b, "{\"breakers\":[");
	for (unsigned i = next(p, 0, now, &v), n = 0; i < BREAKERS; i = next(p, i + 1, now, &v)) {
		if (n++)
			buf_addc(b, ',');
		write_row(b, &v);
	}
	buf_adds(b, "]}");
	c->reply.status = 200;
	call_reply(c);
}

/* ---- by hand ---- */

static void steer(struct call *c, void (*turn)(struct breaker *b, int64_t now_us))
{
	struct breaker *b = breaker_find(c->api->plant->breakers, c->name);
	struct breaker_view v;
	int64_t now = clock_mono_us();
	if (!b) {
		problem(c, 404, "not-found", "name: there is no breaker \"%s\"; GET /v1/admin/breakers lists them",
			c->name);
		call_reply(c);
		return;
	}
	turn(b, now);
	if (breaker_look(b, now, &v))
		write_row(&c->reply.body, &v);
	c->reply.status = 200;
	call_reply(c);
}

static void open_now(struct breaker *b, int64_t now_us) { breaker_force(b, BREAKER_FORCE_OPEN, now_us); }
static void close_now(struct breaker *b, int64_t now_us) { breaker_force(b, BREAKER_FORCE_CLOSED, now_us); }

void breakers_open(struct call *c) { steer(c, open_now); }
void breakers_close(struct call *c) { steer(c, close_now); }
void breakers_reset(struct call *c) { steer(c, breaker_reset); }

bool breakers_is(void (*handle)(struct call *c))
{
	return handle == breakers_list || handle == breakers_open || handle == breakers_close ||
	       handle == breakers_reset;
}

/* ---- metrics ---- */

static uint64_t state_of(const struct breaker_view *v) { return v->state; }
static uint64_t rejected_of(const struct breaker_view *v) { return v->rejected_total; }
static uint64_t calls_of(const struct breaker_view *v) { return v->calls_total; }
static uint64_t failures_of(const struct breaker_view *v) { return v->failures_total; }

static void rows(struct expo *e, const struct plant *p, enum metric_family id,
		 uint64_t (*value)(const struct breaker_view *v))
{
	const struct metric *m = &metrics_families[id];
	struct breaker_view v;
	char labels[sizeof(v.name) + 32];
	int64_t now = clock_mono_us();
	expo_head(e, m);
	for (unsigned i = next(p, 0, now, &v); i < BREAKERS; i = next(p, i + 1, now, &v)) {
		snprintf(labels, sizeof(labels), "dependency=\"%s\"", v.name);
		expo_u64(e, m, labels, value(&v));
	}
}

static void transitions(struct expo *e, const struct plant *p)
{
	const struct metric *m = &metrics_families[METRIC_BREAKER_TRANSITIONS];
	struct breaker_view v;
	char labels[sizeof(v.name) + 64];
	int64_t now = clock_mono_us();
	expo_head(e, m);
	for (unsigned i = next(p, 0, now, &v); i < BREAKERS; i = next(p, i + 1, now, &v))
		for (enum breaker_state to = BREAKER_CLOSED; to <= BREAKER_OPEN; to++) {
			snprintf(labels, sizeof(labels), "dependency=\"%s\",to=\"%s\"", v.name, breaker_state_name(to));
			expo_u64(e, m, labels, v.to_total[to]);
		}
}

void breakers_metrics(struct expo *e, const struct plant *p)
{
	rows(e, p, METRIC_BREAKER_STATE, state_of);
	transitions(e, p);
	rows(e, p, METRIC_BREAKER_CALLS, calls_of);
	rows(e, p, METRIC_BREAKER_FAILURES, failures_of);
	rows(e, p, METRIC_BREAKER_REJECTED, rejected_of);
}
