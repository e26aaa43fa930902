/* What a target is to answer. */
#include <stdio.h>

#include "target-private.h"

#define EXPECT_BODY_MAX 1024
#define TLS_WARNING_MAX_US (365 * 86400 * 1000000ll)
#define TLS_WARNING_US (14 * 86400 * 1000000ll)

/* 204, "2xx", "200-299". */
static bool parse_status(const json_t *v, int *from_r, int *to_r)
{
	const char *text = json_string_value(v);
	unsigned a, b;
	int end = -1;
	if (json_is_integer(v)) {
		json_int_t status = json_integer_value(v);
		*from_r = *to_r = status >= 100 && status <= 599 ? (int)status : 0;
		return *from_r != 0;
	}
	if (!text)
		return false;
	if (sscanf(text, "%1uxx%n", &a, &end) == 1 && end == 3 && !text[3]) {
		a *= 100;
		b = a + 99;
	} else if (end = -1, sscanf(text, "%3u-%3u%n", &a, &b, &end) != 2 || end < 0 || text[end]) {
		return false;
	}
	*from_r = (int)a;
	*to_r = (int)b;
	return a >= 100 && b <= 599 && a <= b;
}

static bool read_status(const struct target_place *at, const json_t *v, struct target *t)
{
	int from, to;
	if (!parse_status(v, &from, &to))
		return target_refuse(at,
				     "expect must be a status from 100 to 599, a range such as \"200-299\" or \"2xx\", "
				     "or a list of them");
	if (t->nexpect == TARGET_EXPECT_MAX)
		return target_refuse(at, "expect has more than %d statuses; write ranges such as \"200-299\"",
				     TARGET_EXPECT_MAX);
	t->expect[t->nexpect].from = from;
	t->expect[t->nexpect++].to = to;
	return true;
}

static bool read_expect(const struct target_place *at, const json_t *v, struct target *t)
{
	size_t i;
	json_t *item;
	if (!v)
		return true;
	if (!json_is_array(v))
		return read_status(at, v, t);
	if (json_array_size(v) == 0)
		return target_refuse(at, "expect must not be empty; leave it out to accept 200 to 399");
	json_array_foreach (v, i, item) {
		if (!read_status(at, item, t))
			return false;
	}
	return true;
}

bool target_answer(const struct target_place *at, json_t *o, struct target *t)
{
	t->tls_warning_us = TLS_WARNING_US;
	if (!read_expect(at, json_object_get(o, "expect"), t) ||
	    !target_text(at, o, "expect_body", EXPECT_BODY_MAX, &t->expect_body) ||
	    !target_duration(at, o, "tls_warning", 0, TLS_WARNING_MAX_US, &t->tls_warning_us))
		return false;
	if (t->expect_body && strcmp(t->method, "HEAD") == 0)
		return target_refuse(at, "expect_body: the answer to HEAD has no body; use GET");
	return true;
}

bool target_expected(const struct target *t, long status)
{
	for (size_t i = 0; i < t->nexpect; i++)
		if (status >= t->expect[i].from && status <= t->expect[i].to)
			return true;
	return t->nexpect == 0 && status >= 200 && status <= 399;
}

bool target_expected_body(const struct target *t, struct span body)
{
	return !t->expect_body || (body.len && memmem(body.p, body.len, t->expect_body, strlen(t->expect_body)));
}
