/* /v1/admin/warm: asks the warmer, by way of the supervisor, and shows what it says of itself in the plant. */
#include <errno.h>

#include "draft.h"
#include "handlers.h"

static const char *const states[] = {"never", "running", "done", "cancelled", "failed"};
static const char *const sources[] = {"none", "file", "ids", "store"};
static const char *const kinds[] = {"start", "schedule", "all", "namespace"};

static uint64_t now_is(const _Atomic uint64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }

static void time_or_null(struct buf *b, const char *key, int64_t us)
{
	buf_printf(b, ",\"%s\":", key);
	if (us)
		json_out_time(b, us);
	else
		buf_adds(b, "null");
}

static const char *name_of(const char *const *names, size_t n, uint32_t i) { return i < n ? names[i] : "?"; }

static void show(struct call *c, int status)
{
	struct plant *p = c->api->plant;
	struct plant_warm *w = &p->warm;
	struct buf *b = &c->reply.body;
	const struct plant_namespace *row = plant_find(p, now_is(&w->ns));
	buf_printf(b,
		   "{\"job\":%llu,\"state\":\"%s\",\"kind\":\"%s\",\"source\":\"%s\",\"loaded\":%llu,\"skipped\":%llu,"
		   "\"total\":%llu,\"bytes\":%llu,\"pause_ms\":%.1f",
		   (unsigned long long)now_is(&w->job),
		   name_of(states, ARRAY_LEN(states), atomic_load_explicit(&w->state, memory_order_acquire)),
		   name_of(kinds, ARRAY_LEN(kinds), atomic_load_explicit(&w->kind, memory_order_relaxed)),
		   name_of(sources, ARRAY_LEN(sources), atomic_load_explicit(&w->source, memory_order_relaxed)),
		   (unsigned long long)now_is(&w->loaded), (unsigned long long)now_is(&w->skipped),
		   (unsigned long long)now_is(&w->total), (unsigned long long)now_is(&w->bytes),
		   (double)atomic_load_explicit(&w->pause_us, memory_order_relaxed) / 1e3);
	buf_adds(b, ",\"namespace\":");
	if (row && atomic_load_explicit(&w->kind, memory_order_relaxed) == WARM_NAMESPACE)
		json_out_string(b, (struct span){row->name, row->name_len});
	else
		buf_adds(b, "null");
	time_or_null(b, "started_at", atomic_load_explicit(&w->started_us, memory_order_relaxed));
	time_or_null(b, "ended_at", atomic_load_explicit(&w->ended_us, memory_order_relaxed));
	time_or_null(b, "saved_at", atomic_load_explicit(&w->saved_us, memory_order_relaxed));
	buf_printf(b, ",\"saved\":%llu}", (unsigned long long)now_is(&w->saved));
	c->reply.status = status;
	call_reply(c);
}

void warm_show(struct call *c) { show(c, 200); }

/* ---- orders ---- */

static void on_answer(void *arg, int status, struct span json)
{
	struct call *c = arg;
	if (!status) {
		show(c, c->route->method == HTTP_M_POST ? 202 : 200);
		return;
	}
	if (memmem(json.p, json.len, "\"running\":true", 14))
		problem(c, 409, "warming",
			"job %llu is under way; wait for its end, or cancel it with DELETE /v1/admin/warm",
			(unsigned long long)now_is(&c->api->plant->warm.job));
	else
		problem(c, 503, "warmer-away", "the warmer is not ready, or is being replaced; try again");
	call_reply(c);
}

static void order(struct call *c, const char *line)
{
	if (worker_command(c->api->w, line, on_answer, c) == 0)
		return;
	problem(c, 503, "supervisor-busy", "the supervisor takes no commands at the moment (%s); try again",
		errno == EAGAIN ? "its queue is full" : "it is gone");
	call_reply(c);
}

void warm_cancel(struct call *c) { order(c, "warm cancel"); }

struct wish {
	bool all;
	struct span ns; /* empty: none */
	uint64_t limit;
};

static bool read_limit(struct call *c, const json_t *v, uint64_t *limit_r)
{
	if (!json_is_integer(v) || json_integer_value(v) < 1) {
		problem(c, 400, "invalid-field", "limit: must be a whole number from 1 on: how many memories at most");
		return false;
	}
	*limit_r = (uint64_t)json_integer_value(v);
	return true;
}

static bool read_wish(struct call *c, json_t *root, struct wish *w)
{
	const char *key;
	json_t *v;
	json_object_foreach (root, key, v) {
		bool known = true, ok = true;
		if (strcmp(key, "all") == 0)
			ok = json_is_true(v), w->all = true;
		else if (strcmp(key, "namespace") == 0)
			ok = json_is_string(v) && json_string_length(v),
			w->ns = (struct span){json_string_value(v), json_string_length(v)};
		else if (strcmp(key, "limit") == 0 && !read_limit(c, v, &w->limit))
			return false;
		else
			known = strcmp(key, "limit") == 0;
		if (!known || !ok) {
			problem(c, 400, "invalid-field", "%s: %s", key,
				!known	      ? "is unknown; there are namespace, all and limit"
				: *key == 'a' ? "must be true, or be left out"
					      : "must be a name");
			return false;
		}
	}
	if (!json_is_object(root) || w->all == (w->ns.len != 0)) {
		problem(c, 400, "invalid-field", "body: expected {\"namespace\": NAME} or {\"all\": true}");
		return false;
	}
	return true;
}

static bool build(struct call *c, const struct wish *w, struct buf *line)
{
	if (w->ns.len && !plant_exists(c->api->plant, record_ns(w->ns))) {
		problem_no_namespace(c);
		return false;
	}
	if (w->ns.len)
		buf_printf(line, "warm namespace %016llx %llu", (unsigned long long)record_ns(w->ns),
			   (unsigned long long)w->limit);
	else
		buf_printf(line, "warm all %llu", (unsigned long long)w->limit);
	buf_addc(line, '\0');
	return true;
}

void warm_start(struct call *c)
{
	struct body_json b;
	struct wish w = {.limit = 0};
	struct buf line = {0};
	bool ok = body_json_parse(c, http_body(c->req), &b) && read_wish(c, b.root, &w) && build(c, &w, &line);
	body_json_free(&b);
	if (ok)
		order(c, line.p);
	else
		call_reply(c);
	buf_free(&line);
}
