/* The state machine of breakers, in virtual time. Broken code this would catch: a criterion that never or always opens,
 * failures that count for ever, an open time that does not grow or grows without end, two probes at once, a dead
 * prober that keeps its place, a late report that moves another time's state, a torn reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <unistd.h>

#include "breaker-private.h"
#include "conf.h"
#include "log.h"

#define S 1000000ll
#define MS 1000ll
#define WHY "no answer"

static struct breaker rows[BREAKERS];
static int64_t now;

static const struct breaker_conf usual = {.failure_rate = 50,
					  .slow_rate = 80,
					  .min_calls = 20,
					  .consecutive = 5,
					  .slow_call_us = 2 * S,
					  .open_min_us = 5 * S,
					  .open_max_us = 300 * S,
					  .probes = 3,
					  .lease_us = 10 * S,
					  .slow_start_us = 0};

static struct breaker *fresh(const struct breaker_conf *c)
{
	memset(rows, 0, sizeof(rows));
	now = 1000 * S;
	struct breaker *b = breaker_take(rows, "up", c);
	assert_non_null(b);
	return b;
}

/* One call that took so long. True: it changed the state. */
static bool call(struct breaker *b, enum breaker_result result, int64_t took_us)
{
	struct breaker_pass pass;
	assert_int_not_equal(breaker_ask(b, now, &pass), BREAKER_NO);
	now += took_us;
	return breaker_report(b, &pass, result, WHY, now);
}

static enum breaker_answer ask(struct breaker *b)
{
	struct breaker_pass pass;
	return breaker_ask(b, now, &pass);
}

static struct breaker_view look(struct breaker *b)
{
	struct breaker_view v;
	assert_true(breaker_look(b, now, &v));
	return v;
}

/* Opens a closed one; returns for how long. */
static int64_t trip(struct breaker *b)
{
	while (!call(b, BREAKER_FAILED, 0))
		;
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	return breaker_retry_after_us(b, now);
}

/* To the next probe, which ends so. */
static bool probe(struct breaker *b, enum breaker_result result)
{
	struct breaker_pass pass;
	now += breaker_retry_after_us(b, now);
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_PROBE);
	return breaker_report(b, &pass, result, WHY, now);
}

static void recover(struct breaker *b)
{
	while (!probe(b, BREAKER_OK))
		;
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
}

static void test_consecutive(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	for (int i = 0; i < 4; i++)
		assert_false(call(b, BREAKER_FAILED, MS));
	assert_false(call(b, BREAKER_OK, MS)); /* begins anew */
	assert_false(call(b, BREAKER_VOID, MS));
	for (int i = 0; i < 4; i++)
		assert_false(call(b, BREAKER_FAILED, MS));
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_int_equal(look(b).consecutive, 4);
	assert_true(call(b, BREAKER_FAILED, MS));
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	assert_string_equal(look(b).reason, "5 failures in a row: " WHY);
	assert_int_equal(look(b).calls_total, 10); /* a void call is none */
	assert_int_equal(look(b).failures_total, 9);
	struct breaker_conf never = usual;
	never.consecutive = 0;
	b = fresh(&never);
	for (int i = 0; i < 19; i++)
		assert_false(call(b, BREAKER_FAILED, MS));
	assert_true(call(b, BREAKER_FAILED, MS)); /* the rate, with the 20th */
}

static void test_failure_rate(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	/* 9 of 20 are too few, the 10th of 21 as well; the 11th of 22 opens it. */
	for (int i = 0; i < 20; i++)
		assert_false(call(b, i % 2 || i < 2 ? BREAKER_OK : BREAKER_FAILED, MS));
	assert_int_equal(look(b).failures, 9);
	assert_false(call(b, BREAKER_FAILED, MS));
	assert_true(call(b, BREAKER_FAILED, MS));
	assert_string_equal(look(b).reason, "50 % of 22 calls within 10 s failed: " WHY);
	/* A success may be the call that makes enough of them. */
	b = fresh(&usual);
	for (int i = 0; i < 19; i++)
		assert_false(call(b, i % 2 ? BREAKER_OK : BREAKER_FAILED, MS));
	assert_true(call(b, BREAKER_OK, MS));
}

static void test_window_expires(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	for (int i = 0; i < 19; i++)
		assert_false(call(b, i % 2 ? BREAKER_OK : BREAKER_FAILED, 0));
	now += 9 * S;
	assert_int_equal(look(b).calls, 19);
	now += S;
	assert_int_equal(look(b).calls, 0);
	assert_false(call(b, BREAKER_FAILED, 0)); /* alone in its window */
	assert_int_equal(look(b).failures, 1);
	/* The seconds go by one at a time. */
	b = fresh(&usual);
	for (int i = 0; i < 30; i++) {
		assert_false(call(b, i % 3 ? BREAKER_OK : BREAKER_FAILED, 0));
		now += S;
	}
	now -= S;
	assert_int_equal(look(b).calls, 10);
	/* Who was held up for longer than the window counts, but does not clear what came after. */
	window_add(b, 0, now - 20 * S, true, false);
	assert_int_equal(look(b).calls, 11);
	/* Nor does who was let in before it last changed; a later time begins its own count. */
	window_add(b, WORD_GENERATIONS - 1, now, true, false);
	assert_int_equal(look(b).calls, 11);
	window_add(b, 1, now, true, false);
	assert_int_equal(window_sum(b, 1, now).calls, 1);
}

static void test_slow_calls(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	for (int i = 0; i < 40; i++) {
		struct breaker_pass pass;
		assert_int_equal(breaker_ask(b, now, &pass), BREAKER_GO);
		pass.since_us = now - (i % 5 ? 2 * S + 1 : 2 * S); /* just slow, and just not */
		bool opened = breaker_report(b, &pass, BREAKER_OK, NULL, now);
		assert_int_equal(opened, i == 19);
		if (opened)
			break;
	}
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	assert_string_equal(look(b).reason, "80 % of 20 calls within 10 s took longer than 2.0 s");
}

/* What was counted before it opened is not held against it afterwards. */
static void test_closed_anew(void **state)
{
	(void)state;
	struct breaker_conf c = usual;
	c.open_min_us = 10 * MS;
	struct breaker *b = fresh(&c);
	trip(b);
	recover(b);
	assert_int_equal(look(b).calls, 0);
	assert_int_equal(look(b).consecutive, 0);
	for (int i = 0; i < 4; i++)
		assert_false(call(b, BREAKER_FAILED, 0));
	assert_true(call(b, BREAKER_FAILED, 0));
}

static void test_open_time(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	int64_t least = INT64_MAX, most = 0;
	for (int i = 0; i < 400; i++) {
		b = fresh(&usual);
		now += i * 7919;
		int64_t us = trip(b);
		least = us < least ? us : least;
		most = us > most ? us : most;
	}
	assert_in_range(least, 4 * S, 4 * S + 200 * MS);
	assert_in_range(most, 6 * S - 200 * MS, 6 * S + MS);
	/* Doubled with each probe that fails, up to the limit. */
	int64_t base = 5 * S;
	for (int i = 0; i < 40; i++) {
		assert_int_equal(ask(b), BREAKER_NO);
		base = base * 2 > 300 * S ? 300 * S : base * 2;
		assert_true(probe(b, BREAKER_FAILED));
		assert_int_equal(breaker_state(b), BREAKER_OPEN);
		assert_in_range(breaker_retry_after_us(b, now), base * 4 / 5, base * 6 / 5 + MS);
	}
	assert_string_equal(look(b).reason, "the probe failed: " WHY);
}

static void test_fails_fast(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	int64_t us = trip(b);
	assert_int_equal(ask(b), BREAKER_NO);
	now += us - 1;
	assert_int_equal(ask(b), BREAKER_NO);
	assert_int_equal(look(b).rejected_total, 2);
	assert_int_equal(look(b).next_probe_us, 1);
	now += 1;
	assert_int_equal(ask(b), BREAKER_PROBE);
}

/* Calls that were let in before it opened come back late: they neither shorten nor lengthen it, and nothing counts. */
static void test_late_reports(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	struct breaker_pass late[3];
	for (size_t i = 0; i < ARRAY_LEN(late); i++)
		assert_int_equal(breaker_ask(b, now, &late[i]), BREAKER_GO);
	int64_t until = now + trip(b);
	now += S;
	assert_false(breaker_report(b, &late[0], BREAKER_FAILED, "late", now));
	assert_false(breaker_report(b, &late[1], BREAKER_OK, NULL, now));
	assert_int_equal(now + breaker_retry_after_us(b, now), until);
	recover(b);
	assert_false(breaker_report(b, &late[2], BREAKER_FAILED, "very late", now));
	assert_int_equal(look(b).calls, 0);
	assert_int_equal(look(b).consecutive, 0);
}

static void test_one_probe(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	struct breaker_pass pass, other;
	now += trip(b);
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_PROBE);
	assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
	assert_true(look(b).probing);
	for (int i = 0; i < 5; i++)
		assert_int_equal(breaker_ask(b, now, &other), BREAKER_NO);
	assert_in_range(breaker_retry_after_us(b, now), 1, S);
	/* Three in turn close it. */
	assert_false(breaker_report(b, &pass, BREAKER_OK, NULL, now));
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_PROBE);
	assert_false(breaker_report(b, &pass, BREAKER_OK, NULL, now));
	assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_PROBE);
	assert_int_equal(breaker_ask(b, now, &other), BREAKER_NO);
	assert_true(breaker_report(b, &pass, BREAKER_OK, NULL, now));
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	/* A failure in between opens it, and successes begin anew. */
	trip(b);
	assert_false(probe(b, BREAKER_OK));
	assert_false(probe(b, BREAKER_OK));
	assert_true(probe(b, BREAKER_FAILED));
	assert_false(probe(b, BREAKER_OK));
	assert_false(probe(b, BREAKER_OK));
	assert_true(probe(b, BREAKER_OK));
	/* One that was not made says nothing. */
	trip(b);
	assert_false(probe(b, BREAKER_VOID));
	assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
	assert_int_equal(breaker_retry_after_us(b, now), 0);
	assert_false(probe(b, BREAKER_OK));
}

static void test_dead_prober(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	struct breaker_pass dead, next;
	now += trip(b);
	assert_int_equal(breaker_ask(b, now, &dead), BREAKER_PROBE);
	now += 10 * S - 1;
	assert_int_equal(breaker_ask(b, now, &next), BREAKER_NO);
	now += 1;
	assert_int_equal(breaker_ask(b, now, &next), BREAKER_PROBE);
	/* It was not dead, only slow: its word counts no more, whatever it says. */
	assert_false(breaker_report(b, &dead, BREAKER_FAILED, "too late", now));
	assert_int_equal(breaker_state(b), BREAKER_HALF_OPEN);
	assert_int_equal(ask(b), BREAKER_NO);
	assert_false(breaker_report(b, &next, BREAKER_OK, NULL, now));
	assert_int_equal(word_unpack(word_load(b)).successes, 1);
	/* Its successor says that it is dead. */
	assert_int_equal(breaker_ask(b, now, &dead), BREAKER_PROBE);
	breaker_forget(rows, (uint32_t)getpid() + 1);
	assert_int_equal(ask(b), BREAKER_NO);
	breaker_forget(rows, (uint32_t)getpid());
	assert_int_equal(breaker_ask(b, now, &next), BREAKER_PROBE);
	assert_int_equal(word_unpack(word_load(b)).successes, 1); /* what others found out stands */
	assert_false(breaker_report(b, &dead, BREAKER_OK, NULL, now));
	assert_false(breaker_report(b, &next, BREAKER_OK, NULL, now));
	breaker_forget(rows, (uint32_t)getpid()); /* holds nothing any more */
	assert_true(probe(b, BREAKER_OK));
}

static unsigned level(struct breaker *b) { return word_unpack(word_load(b)).level; }

static void test_decay(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	trip(b);
	for (int i = 0; i < 3; i++)
		probe(b, BREAKER_FAILED);
	recover(b);
	assert_int_equal(level(b), 4);
	now += 59 * S;
	trip(b);
	assert_int_equal(level(b), 5);
	recover(b);
	now += 180 * S;
	trip(b);
	assert_int_equal(level(b), 3); /* 5, less 3, and 1 more */
	recover(b);
	now += 60 * S;
	trip(b);
	assert_int_equal(level(b), 3);
	recover(b);
	now += 86400 * S;
	assert_in_range(trip(b), 4 * S, 6 * S + MS);
	assert_int_equal(level(b), 1);
}

static int let_in_of_1000(struct breaker *b)
{
	int n = 0;
	for (int i = 0; i < 1000; i++)
		n += ask(b) == BREAKER_GO;
	return n;
}

static void test_slow_start(void **state)
{
	(void)state;
	struct breaker_conf c = usual;
	c.slow_start_us = 30 * S;
	struct breaker *b = fresh(&c);
	assert_int_equal(let_in_of_1000(b), 1000); /* nothing was wrong before */
	trip(b);
	recover(b);
	assert_int_equal(let_in_of_1000(b), 100);
	now += 15 * S;
	assert_in_range(let_in_of_1000(b), 540, 560);
	now += 15 * S;
	assert_int_equal(let_in_of_1000(b), 1000);
	b = fresh(&usual);
	now += 1; /* not at a whole millisecond */
	trip(b);
	recover(b);
	assert_int_equal(let_in_of_1000(b), 1000);
}

static void test_forced(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	breaker_force(b, BREAKER_FORCE_OPEN, now);
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	assert_true(look(b).forced);
	assert_string_equal(look(b).reason, "forced open by hand");
	now += 86400 * S;
	assert_int_equal(ask(b), BREAKER_NO);
	assert_in_range(breaker_retry_after_us(b, now), 1, 300 * S);
	assert_int_equal(look(b).next_probe_us, -1);
	breaker_force(b, BREAKER_FORCE_CLOSED, now);
	for (int i = 0; i < 100; i++)
		assert_false(call(b, BREAKER_FAILED, MS));
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_int_equal(look(b).failures, 100); /* one sees what it would be */
	breaker_throttle(b, now + S);
	assert_int_equal(ask(b), BREAKER_GO);
	now += S;
	breaker_force(b, BREAKER_AUTO, now);
	assert_false(look(b).forced);
	assert_int_equal(look(b).failures, 0);
	trip(b);
	breaker_force(b, BREAKER_AUTO, now); /* was not forced: nothing happens */
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	/* A probe that is under way when somebody takes over by hand has no say. */
	struct breaker_pass pass;
	now += breaker_retry_after_us(b, now);
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_PROBE);
	breaker_force(b, BREAKER_FORCE_OPEN, now);
	assert_false(breaker_report(b, &pass, BREAKER_OK, NULL, now));
	assert_int_equal(breaker_state(b), BREAKER_OPEN);
	breaker_throttle(b, now + S);
	breaker_reset(b, now);
	assert_int_equal(ask(b), BREAKER_GO);
	assert_int_equal(level(b), 0);
	assert_int_equal(look(b).to_total[BREAKER_OPEN], 3);
}

static void test_throttled(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	breaker_throttle(b, now + 10 * S);
	breaker_throttle(b, now + 2 * S); /* never earlier */
	assert_int_equal(ask(b), BREAKER_NO);
	assert_int_equal(breaker_retry_after_us(b, now), 10 * S);
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_int_equal(look(b).throttled_us, 10 * S);
	now += 10 * S;
	assert_int_equal(ask(b), BREAKER_GO);
	assert_int_equal(look(b).to_total[BREAKER_OPEN], 0);
	trip(b);
	breaker_throttle(b, now + 100 * S);
	assert_int_equal(breaker_retry_after_us(b, now), 100 * S);
	now += 99 * S;
	assert_int_equal(ask(b), BREAKER_NO);
	now += S;
	assert_int_equal(ask(b), BREAKER_PROBE);
}

static void test_misconfigured(void **state)
{
	(void)state;
	struct breaker_conf c = usual;
	c.open_max_us = 60 * S;
	struct breaker *b = fresh(&c);
	struct breaker_pass pass;
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_GO);
	breaker_report(b, &pass, BREAKER_VOID, NULL, now);
	breaker_misconfigured(b, "password authentication failed", now);
	assert_int_equal(breaker_state(b), BREAKER_CLOSED);
	assert_true(look(b).misconfigured);
	assert_string_equal(look(b).reason, "password authentication failed");
	assert_int_equal(ask(b), BREAKER_NO);
	assert_int_equal(breaker_retry_after_us(b, now), 60 * S);
	now += 60 * S;
	assert_int_equal(breaker_ask(b, now, &pass), BREAKER_GO); /* one tries */
	now += 59 * S;
	assert_int_equal(ask(b), BREAKER_NO);
	now += S;
	assert_int_equal(ask(b), BREAKER_GO); /* and another one, when nothing was heard of that */
	breaker_report(b, &pass, BREAKER_OK, NULL, now);
	assert_false(look(b).misconfigured);
	assert_int_equal(ask(b), BREAKER_GO);
	assert_int_equal(look(b).to_total[BREAKER_OPEN], 0);
	breaker_misconfigured(b, NULL, now);
	breaker_reset(b, now);
	assert_int_equal(ask(b), BREAKER_GO);
}

static void test_reason(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	char out[400];
	assert_string_equal(look(b).reason, "");
	memset(out, 'x', sizeof(out) - 1);
	out[sizeof(out) - 1] = 0;
	reason_keep(b, 7, 5, out);
	assert_int_equal(strlen(look(b).reason), BREAKER_REASON);
	reason_keep(b, 8, 6, "caf\xc3"); /* cut within a character */
	assert_string_equal(look(b).reason, "caf?");
	/* Torn in any byte: never shown; the one before is. */
	reason_keep(b, 9, 7, "the latest");
	unsigned char *p = (unsigned char *)&b->reasons[9 % REASON_OF_CONF];
	for (size_t i = 0; i < sizeof(struct breaker_reason); i++) {
		p[i] ^= 0x55;
		assert_string_equal(look(b).reason, "caf?");
		p[i] ^= 0x55;
	}
	assert_string_equal(look(b).reason, "the latest");
}

static void test_rows(void **state)
{
	(void)state;
	char name[BREAKER_NAME + 2];
	memset(rows, 0, sizeof(rows));
	assert_null(breaker_find(rows, "up"));
	struct breaker *up = breaker_take(rows, "up", &usual);
	assert_ptr_equal(up, &rows[1]);
	assert_ptr_equal(breaker_take(rows, BREAKER_STORE, NULL), &rows[0]);
	assert_ptr_equal(breaker_take(rows, "up", NULL), up);
	assert_ptr_equal(breaker_find(rows, "up"), up);
	assert_string_equal(breaker_name(up), "up");
	assert_null(breaker_name(&rows[2]));
	struct breaker_conf c;
	breaker_conf_of(up, &c);
	assert_int_equal(c.min_calls, 20);
	for (int i = 2; i < BREAKERS; i++) {
		snprintf(name, sizeof(name), "model-%d", i);
		assert_ptr_equal(breaker_take(rows, name, &usual), &rows[i]);
	}
	assert_null(breaker_take(rows, "one more", &usual)); /* a blank */
	assert_null(breaker_take(rows, "one-more", &usual)); /* full */
	assert_ptr_equal(breaker_take(rows, "model-9", &usual), &rows[9]);
	assert_null(breaker_find(rows, "one-more"));
	/* Claimed by somebody who was killed before it had a name. */
	memset(rows[9].name, 0, sizeof(rows[9].name));
	rows[9].named = 0;
	assert_null(breaker_find(rows, "model-9"));
	assert_ptr_equal(breaker_take(rows, "model-9", &usual), &rows[9]);
	assert_string_equal(breaker_name(&rows[9]), "model-9");
	memset(rows, 0, sizeof(rows));
	memset(name, 'n', sizeof(name));
	name[BREAKER_NAME + 1] = 0;
	assert_null(breaker_take(rows, name, &usual));
	name[BREAKER_NAME] = 0;
	assert_string_equal(breaker_name(breaker_take(rows, name, &usual)), name);
	assert_null(breaker_take(rows, "", &usual));
	assert_null(breaker_take(rows, "a\"b", &usual));
}

/* Generations come round: what was counted under the same number before is of no meaning. */
static void test_generations(void **state)
{
	(void)state;
	struct breaker *b = fresh(&usual);
	for (int i = 0; i < 4; i++)
		call(b, BREAKER_FAILED, MS);
	for (unsigned i = 0; i < WORD_GENERATIONS; i++) {
		breaker_reset(b, now);
		now += 10 * MS;
		if (i % 2048 == 1) {
			assert_int_equal(look(b).failures, 0);
			call(b, BREAKER_OK, MS);
			assert_int_equal(look(b).calls, 1);
		}
	}
	assert_int_equal(word_unpack(word_load(b)).generation, 0);
	assert_int_equal(look(b).failures, 0);
}

static void test_word(void **state)
{
	(void)state;
	struct word w = {.ms = ((int64_t)1 << 40) - 1,
			 .generation = 4095,
			 .state = STORED_FORCED_OPEN,
			 .level = WORD_LEVEL_MAX,
			 .successes = WORD_SUCCESSES_MAX};
	for (unsigned i = 0; i < 5; i++) {
		struct word one = {0}, r;
		one.ms = i == 0 ? w.ms : 0;
		one.generation = i == 1 ? w.generation : 0;
		one.state = i == 2 ? w.state : 0;
		one.level = i == 3 ? w.level : 0;
		one.successes = i == 4 ? w.successes : 0;
		r = word_unpack(word_pack(one));
		assert_memory_equal(&r, &one, sizeof(r));
	}
	assert_int_equal(word_unpack(word_pack(w)).ms, w.ms);
}

/* The keys of the store's breaker come to be what SPEC says: quick, and full speed at once. */
static void test_conf_of_store(void **state)
{
	(void)state;
	const char *sets[] = {"breaker.min_calls=7"};
	struct conf_input in = {.file = "/dev/null", .sets = sets, .nsets = 1};
	char *error = NULL;
	struct conf *conf = conf_load(&in, &error);
	struct breaker_conf c;
	assert_non_null(conf);
	breaker_conf_store(conf, &c);
	assert_int_equal(c.min_calls, 7);
	assert_int_equal(c.failure_rate, 50);
	assert_int_equal(c.consecutive, 5);
	assert_int_equal(c.slow_call_us, 2 * S);
	assert_int_equal(c.open_min_us, 500 * MS);
	assert_int_equal(c.open_max_us, 3 * S);
	assert_int_equal(c.probes, 1);
	assert_int_equal(c.slow_start_us, 0);
	assert_int_equal(c.lease_us, 10 * S); /* longer than a connection and a statement may take */
	conf_free(&conf);
	const char *wrong[] = {"breaker.open_min=4s"};
	in.sets = wrong;
	assert_null(conf_load(&in, &error));
	assert_non_null(strstr(error, "breaker.open_max"));
	free(error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_consecutive),    cmocka_unit_test(test_failure_rate),
		cmocka_unit_test(test_window_expires), cmocka_unit_test(test_slow_calls),
		cmocka_unit_test(test_closed_anew),    cmocka_unit_test(test_open_time),
		cmocka_unit_test(test_fails_fast),     cmocka_unit_test(test_late_reports),
		cmocka_unit_test(test_one_probe),      cmocka_unit_test(test_dead_prober),
		cmocka_unit_test(test_decay),	       cmocka_unit_test(test_slow_start),
		cmocka_unit_test(test_forced),	       cmocka_unit_test(test_throttled),
		cmocka_unit_test(test_misconfigured),  cmocka_unit_test(test_reason),
		cmocka_unit_test(test_rows),	       cmocka_unit_test(test_generations),
		cmocka_unit_test(test_word),	       cmocka_unit_test(test_conf_of_store),
	};
	log_set_level(LOG_LV_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
