/* Rows of breakers: names, parameters, reasons, and the whole of one for people to look at. */
#include "breaker-private.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "conf.h"
#include "crc32c.h"
#include "shm.h"

#define LEASE_MARGIN_US 2000000 /* of a probe, beyond what connection and statement may take */
#define SLOW_RATE 80

_Static_assert(sizeof(struct breaker_conf) % 8 == 0 && sizeof(struct breaker_reason) % 8 == 0 &&
		       offsetof(struct breaker, conf) % 8 == 0 && offsetof(struct breaker, reasons) % 8 == 0 &&
		       offsetof(struct breaker, name) % 8 == 0,
	       "copied by words");

/* ---- names ---- */

static bool name_valid(const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\')
			return false;
	return len > 0 && len <= BREAKER_NAME;
}

static uint64_t id_of(const char *name, size_t len)
{
	uint64_t id = XXH3_64bits(name, len);
	return id ? id : 1;
}

/* Rows are taken in order and never given back: whoever looks for a name finds the same row, or the same free one.
 * Row 0 is the store's, whoever comes first. */
static struct breaker *row_of(struct breaker *rows, const char *name, bool take)
{
	size_t len = strlen(name);
	if (!name_valid(name, len))
		return NULL;
	bool store = strcmp(name, BREAKER_STORE) == 0;
	uint64_t id = id_of(name, len);
	for (unsigned i = store ? 0 : 1; i < (store ? 1 : BREAKERS); i++) {
		uint64_t at = atomic_load(&rows[i].id);
		if (!at && !take)
			return NULL;
		if (at == id || (!at && (atomic_compare_exchange_strong(&rows[i].id, &at, id) || at == id)))
			return &rows[i];
	}
	return NULL;
}

/* Who is killed before `named` is set leaves a row that is found by its id: the next one writes the same name again. */
struct breaker *breaker_take(struct breaker rows[BREAKERS], const char *name, const struct breaker_conf *conf)
{
	struct breaker *b = row_of(rows, name, true);
	if (!b)
		return NULL;
	if (!atomic_load(&b->named)) {
		char text[sizeof(b->name)] = {0};
		memcpy(text, name, strlen(name));
		shm_copy_in(b->name, text, sizeof(text));
	}
	if (conf)
		breaker_configure(b, conf);
	atomic_store_explicit(&b->named, 1, memory_order_release);
	return b;
}

struct breaker *breaker_find(struct breaker rows[BREAKERS], const char *name)
{
	struct breaker *b = row_of(rows, name, false);
	return b && breaker_name(b) ? b : NULL;
}

const char *breaker_name(const struct breaker *b)
{
	return atomic_load_explicit(&b->named, memory_order_acquire) ? b->name : NULL;
}

/* ---- parameters ---- */

/* One number at a time: for a moment some are of the former set. */
void breaker_configure(struct breaker *b, const struct breaker_conf *conf)
{
	shm_copy_in(&b->conf, conf, sizeof(*conf));
}

void breaker_conf_of(const struct breaker *b, struct breaker_conf *conf_r)
{
	shm_copy_out(conf_r, &b->conf, sizeof(*conf_r));
}

void breaker_conf_store(const struct conf *c, struct breaker_conf *conf_r)
{
	*conf_r = (struct breaker_conf){.failure_rate = conf_int(c, CONF_BREAKER_FAILURE_RATE),
					.slow_rate = SLOW_RATE,
					.min_calls = conf_int(c, CONF_BREAKER_MIN_CALLS),
					.consecutive = conf_int(c, CONF_BREAKER_CONSECUTIVE),
					.slow_call_us = conf_int(c, CONF_BREAKER_SLOW_CALL),
					.open_min_us = conf_int(c, CONF_BREAKER_OPEN_MIN),
					.open_max_us = conf_int(c, CONF_BREAKER_OPEN_MAX),
					.probes = 1,
					.lease_us = conf_int(c, CONF_STORE_CONNECT_TIMEOUT) +
						    conf_int(c, CONF_STORE_ANSWER_TIMEOUT) + LEASE_MARGIN_US};
}

/* ---- reasons ---- */

/* Two may write at once, and either may be killed in the middle: a reader takes what its sum fits, so a torn one is
 * none. Those who come in turn write to different places. */
static uint32_t sum_of(const struct breaker_reason *r)
{
	struct breaker_reason copy = *r;
	copy.crc = 0;
	return crc32c(0, &copy, sizeof(copy));
}

void reason_keep(struct breaker *b, unsigned slot, int64_t now_us, const char *text)
{
	struct breaker_reason r = {.at_us = now_us > 0 ? now_us : 1};
	r.len = (uint32_t)strnlen(text, sizeof(r.text));
	memcpy(r.text, text, r.len);
	util_utf8_scrub(r.text, r.len);
	r.crc = sum_of(&r);
	shm_copy_in(&b->reasons[slot == REASON_OF_CONF ? slot : slot % REASON_OF_CONF], &r, sizeof(r));
}

static int64_t reason_read(const struct breaker *b, unsigned slot, int64_t after_us, char out[BREAKER_REASON + 1])
{
	struct breaker_reason r;
	shm_copy_out(&r, &b->reasons[slot], sizeof(r));
	if (r.at_us <= after_us || r.len > sizeof(r.text) || sum_of(&r) != r.crc)
		return after_us;
	memcpy(out, r.text, r.len);
	out[r.len] = 0;
	return r.at_us;
}

static void reason_find(const struct breaker *b, bool of_conf, char out[BREAKER_REASON + 1])
{
	int64_t at = 0;
	out[0] = 0;
	if (of_conf)
		(void)reason_read(b, REASON_OF_CONF, 0, out);
	for (unsigned i = 0; !of_conf && i < REASON_OF_CONF; i++)
		at = reason_read(b, i, at, out);
}

/* ---- looking ---- */

const char *breaker_state_name(enum breaker_state s)
{
	return s == BREAKER_CLOSED ? "closed" : s == BREAKER_OPEN ? "open" : "half-open";
}

bool breaker_look(const struct breaker *b, int64_t now_us, struct breaker_view *v)
{
	struct word w = word_unpack(word_load(b));
	*v = (struct breaker_view){.name = breaker_name(b), .next_probe_us = -1};
	if (!v->name)
		return false;
	struct window n = window_sum(b, w.generation, now_us);
	bool closed = w.state == STORED_CLOSED || w.state == STORED_FORCED_CLOSED;
	v->state = closed ? BREAKER_CLOSED : w.state == STORED_HALF_OPEN ? BREAKER_HALF_OPEN : BREAKER_OPEN;
	v->forced = w.state == STORED_FORCED_CLOSED || w.state == STORED_FORCED_OPEN;
	v->probing = w.state == STORED_HALF_OPEN && w.ms * 1000 > now_us;
	v->calls = n.calls;
	v->failures = n.failures;
	v->slow = n.slow;
	v->consecutive = window_row_length(b, w.generation);
	v->calls_total = atomic_load_explicit(&b->calls_total, memory_order_relaxed);
	v->failures_total = atomic_load_explicit(&b->failures_total, memory_order_relaxed);
	v->rejected_total = atomic_load_explicit(&b->rejected_total, memory_order_relaxed);
	for (unsigned i = 0; i < ARRAY_LEN(v->to_total); i++)
		v->to_total[i] = atomic_load_explicit(&b->to_total[i], memory_order_relaxed);
	if (w.state == STORED_OPEN || w.state == STORED_HALF_OPEN)
		v->next_probe_us = w.ms * 1000 > now_us ? w.ms * 1000 - now_us : 0;
	int64_t throttled = atomic_load_explicit(&b->throttled_us, memory_order_relaxed);
	v->throttled_us = throttled > now_us ? throttled - now_us : 0;
	v->misconfigured = atomic_load_explicit(&b->misconfigured_us, memory_order_relaxed) != 0;
	reason_find(b, v->misconfigured, v->reason);
	return true;
}
