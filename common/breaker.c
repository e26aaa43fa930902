#define LOG_SUBSYSTEM LOG_IN_BREAKER
#include "breaker-private.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "log.h"

#define LOG_AGAIN_US 60000000 /* openings by failed probes: one line in so long */
#define PROBE_WAIT_US 200000  /* while somebody probes, the others look again so soon at the latest */

/* ---- transitions ---- */

static bool move(struct breaker *b, uint64_t from, struct word *to)
{
	to->generation = (word_unpack(from).generation + 1) & (WORD_GENERATIONS - 1);
	return atomic_compare_exchange_strong(&b->word, &from, word_pack(*to));
}

static void tally(struct breaker *b, enum breaker_state to)
{
	atomic_fetch_add_explicit(&b->to_total[to], 1, memory_order_relaxed);
}

/* A dependency that stays away is probed every few seconds for hours. */
static bool may_log(struct breaker *b, int64_t now_us)
{
	int64_t last = atomic_load(&b->logged_us);
	return (!last || now_us - last >= LOG_AGAIN_US) && atomic_compare_exchange_strong(&b->logged_us, &last, now_us);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static int64_t open_us(const struct breaker_conf *c, unsigned level, int64_t now_us)
{
	int64_t us = c->open_min_us, max = c->open_max_us > us ? c->open_max_us : us;
	for (unsigned n = 1; n < level && us < max; n++)
		us = us > max / 2 ? max : us * 2;
	int64_t fifth = us / 5;
	uint64_t chance = mix((uint64_t)now_us ^ (uint64_t)getpid() << 40);
	return us - fifth + (int64_t)(chance % (uint64_t)(2 * fifth + 1));
}

static bool open_it(struct breaker *b, uint64_t from, unsigned level, const struct breaker_conf *c, const char *why,
		    int64_t now_us)
{
	level = level < WORD_LEVEL_MAX ? level + 1 : level;
	int64_t us = open_us(c, level, now_us);
	struct word to = {.state = STORED_OPEN, .level = level, .ms = word_ms(now_us + us)};
	bool again = word_unpack(from).state == STORED_HALF_OPEN;
	if (!move(b, from, &to))
		return false;
	tally(b, BREAKER_OPEN);
	reason_keep(b, to.generation, now_us, why);
	const char *name = breaker_name(b);
	if (again && !may_log(b, now_us))
		log_debug("breaker %s: half-open -> open: %s; next probe in %.1f s", name, why, (double)us / 1e6);
	else
		log_warn_event(breaker_open, LOG_FIELDS(LOG_S("breaker", name)),
			       "breaker %s: %s -> open: %s; next probe in %.1f s", name, again ? "half-open" : "closed",
			       why, (double)us / 1e6);
	if (!again)
		atomic_store(&b->logged_us, now_us);
	return true;
}

/* ---- asking ---- */

/* 10 % of the callers at first, all of them at the end of slow_start_us; evenly spread. */
static bool slow_start_lets_in(struct breaker *b, struct word w, int64_t now_us)
{
	struct breaker_conf c;
	if (!w.level)
		return true;
	breaker_conf_of(b, &c);
	int64_t age = now_us - w.ms * 1000;
	if (c.slow_start_us <= 0 || age >= c.slow_start_us)
		return true;
	uint64_t share = age < 0 ? 10 : 10 + (uint64_t)(90 * (double)age / (double)c.slow_start_us);
	return atomic_fetch_add_explicit(&b->ticket, 1, memory_order_relaxed) * 61 % 100 < share;
}

/* Nobody else has this turn. */
static bool take_turn(struct breaker *b, int64_t due_us, int64_t now_us)
{
	struct breaker_conf c;
	breaker_conf_of(b, &c);
	return atomic_compare_exchange_strong(&b->misconfigured_us, &due_us, now_us + c.open_max_us);
}

static bool held_back(struct breaker *b, int64_t now_us)
{
	int64_t due = atomic_load_explicit(&b->misconfigured_us, memory_order_relaxed);
	if (now_us < atomic_load_explicit(&b->throttled_us, memory_order_relaxed))
		return true;
	return due && (now_us < due || !take_turn(b, due, now_us));
}

/* The one that changes the word has the probe. */
static enum breaker_answer take_probe(struct breaker *b, uint64_t from, int64_t now_us, struct breaker_pass *pass)
{
	struct word w = word_unpack(from);
	bool half_open = w.state == STORED_HALF_OPEN;
	struct breaker_conf c;
	breaker_conf_of(b, &c);
	struct word to = {.state = STORED_HALF_OPEN,
			  .level = w.level,
			  .successes = half_open ? w.successes : 0,
			  .ms = word_ms(now_us + c.lease_us)};
	if (!move(b, from, &to))
		return BREAKER_NO;
	pass->word = word_pack(to);
	atomic_store(&b->prober, (uint64_t)to.generation << 32 | (uint32_t)getpid());
	if (!half_open) {
		tally(b, BREAKER_HALF_OPEN);
		log_debug("breaker %s: open -> half-open", breaker_name(b));
	} else if (w.ms) {
		log_warn("breaker %s: a probe was not answered for; another one goes", breaker_name(b));
	}
	return BREAKER_PROBE;
}

static enum breaker_answer decide(struct breaker *b, int64_t now_us, struct breaker_pass *pass)
{
	struct word w = word_unpack(pass->word);
	switch (w.state) {
	case STORED_FORCED_CLOSED: return BREAKER_GO;
	case STORED_FORCED_OPEN: return BREAKER_NO;
	case STORED_CLOSED: return !held_back(b, now_us) && slow_start_lets_in(b, w, now_us) ? BREAKER_GO : BREAKER_NO;
	default: break;
	}
	/* A turn is not used up by somebody who may not go anyway. */
	if ((w.ms && now_us < w.ms * 1000) || held_back(b, now_us))
		return BREAKER_NO;
	return take_probe(b, pass->word, now_us, pass);
}

enum breaker_answer breaker_ask(struct breaker *b, int64_t now_us, struct breaker_pass *pass_r)
{
	*pass_r = (struct breaker_pass){.word = word_load(b), .since_us = now_us};
	pass_r->answer = decide(b, now_us, pass_r);
	if (pass_r->answer == BREAKER_NO)
		atomic_fetch_add_explicit(&b->rejected_total, 1, memory_order_relaxed);
	return pass_r->answer;
}

/* ---- reporting ---- */

/* Appends what the caller says, cut where a reason ends. */
static void because(char out[BREAKER_REASON + 1], const char *why, const char *fmt, ...) printf_like(3, 4);
static void because(char out[BREAKER_REASON + 1], const char *why, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(out, BREAKER_REASON + 1, fmt, ap);
	va_end(ap);
	if (why && *why && n >= 0 && n < BREAKER_REASON)
		snprintf(out + n, (size_t)(BREAKER_REASON + 1 - n), "%s%s", n ? ": " : "", why);
}

static uint64_t percent(uint64_t part, uint64_t of) { return of ? part * 100 / of : 0; }
/* Is the rate reached? Compared without rounding. */
static bool reaches(uint64_t part, uint64_t of, int64_t rate) { return rate > 0 && part * 100 >= of * (uint64_t)rate; }

/* What a closed breaker opens for, into `text`; false: for nothing. */
static bool too_bad(const struct breaker_conf *c, struct window n, uint64_t in_a_row, const char *why, char *text)
{
	if (c->consecutive > 0 && in_a_row >= (uint64_t)c->consecutive) {
		because(text, why, "%llu failures in a row", (unsigned long long)in_a_row);
		return true;
	}
	if (n.calls < (uint64_t)(c->min_calls > 0 ? c->min_calls : 1))
		return false;
	if (reaches(n.failures, n.calls, c->failure_rate))
		because(text, why, "%llu %% of %llu calls within %d s failed",
			(unsigned long long)percent(n.failures, n.calls), (unsigned long long)n.calls, BREAKER_SECONDS);
	else if (reaches(n.slow, n.calls, c->slow_rate))
		because(text, why, "%llu %% of %llu calls within %d s took longer than %.1f s",
			(unsigned long long)percent(n.slow, n.calls), (unsigned long long)n.calls, BREAKER_SECONDS,
			(double)c->slow_call_us / 1e6);
	else
		return false;
	return true;
}

/* Doublings that are left after the time for which it has been well. */
static unsigned level_left(struct word closed, int64_t now_us)
{
	int64_t well = (now_us - closed.ms * 1000) / BREAKER_HEAL_US;
	return well <= 0 ? closed.level : well >= (int64_t)closed.level ? 0 : closed.level - (unsigned)well;
}

static bool report_call(struct breaker *b, const struct breaker_pass *pass, bool failed, const char *why,
			int64_t now_us)
{
	uint64_t v = word_load(b);
	struct word w = word_unpack(v);
	struct breaker_conf c;
	char text[BREAKER_REASON + 1] = "";
	/* It was opened, or closed again, since this call was let in: what it brings is about another time. */
	if (w.generation != word_unpack(pass->word).generation)
		return false;
	breaker_conf_of(b, &c);
	bool slow = c.slow_call_us > 0 && now_us - pass->since_us > c.slow_call_us;
	window_add(b, w.generation, now_us, failed, slow);
	uint64_t in_a_row = window_in_a_row(b, w.generation, failed);
	return w.state == STORED_CLOSED && too_bad(&c, window_sum(b, w.generation, now_us), in_a_row, why, text) &&
	       open_it(b, v, level_left(w, now_us), &c, text, now_us);
}

static bool report_probe(struct breaker *b, const struct breaker_pass *pass, enum breaker_result result,
			 const char *why, int64_t now_us)
{
	struct word w = word_unpack(pass->word), to = {.state = STORED_HALF_OPEN, .level = w.level};
	struct breaker_conf c;
	char text[BREAKER_REASON + 1] = "";
	breaker_conf_of(b, &c);
	if (result == BREAKER_FAILED) {
		because(text, why, "the probe failed");
		return open_it(b, pass->word, w.level, &c, text, now_us);
	}
	to.successes = w.successes + (result == BREAKER_OK && w.successes < WORD_SUCCESSES_MAX);
	bool closes = result == BREAKER_OK && (to.successes >= c.probes || to.successes == WORD_SUCCESSES_MAX);
	if (closes)
		to = (struct word){.state = STORED_CLOSED, .level = w.level, .ms = now_us / 1000};
	if (!move(b, pass->word, &to) || !closes)
		return false;
	tally(b, BREAKER_CLOSED);
	log_info_event(breaker_closed, LOG_FIELDS(LOG_S("breaker", breaker_name(b))),
		       "breaker %s: half-open -> closed: the probe was answered well", breaker_name(b));
	return true;
}

bool breaker_report(struct breaker *b, const struct breaker_pass *pass, enum breaker_result result, const char *why,
		    int64_t now_us)
{
	if (pass->answer == BREAKER_NO)
		return false;
	if (result != BREAKER_VOID)
		atomic_fetch_add_explicit(&b->calls_total, 1, memory_order_relaxed);
	if (result == BREAKER_FAILED)
		atomic_fetch_add_explicit(&b->failures_total, 1, memory_order_relaxed);
	if (result == BREAKER_OK && atomic_load_explicit(&b->misconfigured_us, memory_order_relaxed) &&
	    atomic_exchange(&b->misconfigured_us, 0))
		log_info("breaker %s: the credentials are accepted again", breaker_name(b));
	if (pass->answer == BREAKER_PROBE)
		return report_probe(b, pass, result, why, now_us);
	return result != BREAKER_VOID && report_call(b, pass, result == BREAKER_FAILED, why, now_us);
}

void breaker_throttle(struct breaker *b, int64_t until_us)
{
	int64_t old = atomic_load(&b->throttled_us);
	while (old < until_us && !atomic_compare_exchange_weak(&b->throttled_us, &old, until_us))
		;
}

void breaker_misconfigured(struct breaker *b, const char *why, int64_t now_us)
{
	struct breaker_conf c;
	breaker_conf_of(b, &c);
	reason_keep(b, REASON_OF_CONF, now_us, why ? why : "");
	int64_t due = now_us + c.open_max_us;
	if (!atomic_exchange(&b->misconfigured_us, due > 0 ? due : 1))
		log_error_event(
			credentials_refused, LOG_FIELDS(LOG_S("breaker", breaker_name(b))),
			"breaker %s: our credentials are refused (%s); correct them, or what they are checked against",
			breaker_name(b), why ? why : "no reason given");
}

/* ---- looking ---- */

enum breaker_state breaker_state(const struct breaker *b)
{
	switch (word_unpack(word_load(b)).state) {
	case STORED_HALF_OPEN: return BREAKER_HALF_OPEN;
	case STORED_OPEN:
	case STORED_FORCED_OPEN: return BREAKER_OPEN;
	default: return BREAKER_CLOSED;
	}
}

int64_t breaker_retry_after_us(const struct breaker *b, int64_t now_us)
{
	struct word w = word_unpack(word_load(b));
	struct breaker_conf c;
	breaker_conf_of(b, &c);
	if (w.state == STORED_FORCED_CLOSED)
		return 0;
	if (w.state == STORED_FORCED_OPEN)
		return c.open_max_us;
	int64_t until = 0, throttled = atomic_load_explicit(&b->throttled_us, memory_order_relaxed),
		due = atomic_load_explicit(&b->misconfigured_us, memory_order_relaxed);
	if (w.state == STORED_OPEN)
		until = w.ms * 1000;
	else if (w.state == STORED_HALF_OPEN && w.ms)
		until = w.ms * 1000 < now_us + PROBE_WAIT_US ? w.ms * 1000 : now_us + PROBE_WAIT_US;
	until = throttled > until ? throttled : until;
	until = due > until ? due : until;
	return until > now_us ? until - now_us : 0;
}

/* ---- by hand ---- */

static void set_by_hand(struct breaker *b, enum stored state, const char *said, int64_t now_us)
{
	struct word to;
	uint64_t from;
	enum breaker_state shown = state == STORED_FORCED_OPEN ? BREAKER_OPEN : BREAKER_CLOSED, before;
	do {
		from = word_load(b);
		before = breaker_state(b);
		to = (struct word){.state = state, .ms = word_ms(now_us)};
	} while (!move(b, from, &to));
	if (before != shown)
		tally(b, shown);
	if (shown == BREAKER_OPEN)
		reason_keep(b, to.generation, now_us, said);
	log_warn("breaker %s: %s -> %s: %s", breaker_name(b), breaker_state_name(before), breaker_state_name(shown),
		 said);
}

void breaker_force(struct breaker *b, enum breaker_force how, int64_t now_us)
{
	enum stored state = word_unpack(word_load(b)).state;
	if (how == BREAKER_FORCE_OPEN)
		set_by_hand(b, STORED_FORCED_OPEN, "forced open by hand", now_us);
	else if (how == BREAKER_FORCE_CLOSED)
		set_by_hand(b, STORED_FORCED_CLOSED, "forced closed by hand", now_us);
	else if (state == STORED_FORCED_OPEN || state == STORED_FORCED_CLOSED)
		set_by_hand(b, STORED_CLOSED, "forced no more", now_us);
}

void breaker_reset(struct breaker *b, int64_t now_us)
{
	atomic_store(&b->throttled_us, 0);
	atomic_store(&b->misconfigured_us, 0);
	atomic_store(&b->logged_us, 0);
	set_by_hand(b, STORED_CLOSED, "reset by hand", now_us);
}

void breaker_forget(struct breaker rows[BREAKERS], uint32_t pid)
{
	for (unsigned i = 0; i < BREAKERS; i++) {
		struct breaker *b = &rows[i];
		uint64_t v = word_load(b), prober = atomic_load(&b->prober);
		struct word w = word_unpack(v), to = w;
		if (w.state != STORED_HALF_OPEN || !w.ms || prober != ((uint64_t)w.generation << 32 | pid))
			continue;
		to.ms = 0;
		if (move(b, v, &to))
			log_info("breaker %s: its prober (pid %u) died; another probe may go", breaker_name(b), pid);
	}
}
