/* Values as people write them: sizes, durations, words, lists; and as the daemon uses them. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf-private.h"

struct unit {
	const char *name;
	int64_t factor;
};

static const struct unit binary_units[] = {
	{"B", 1},
	{"KiB", INT64_C(1) << 10},
	{"MiB", INT64_C(1) << 20},
	{"GiB", INT64_C(1) << 30},
	{"TiB", INT64_C(1) << 40},
};
/* What is understood besides: the short forms that nginx and PostgreSQL users type, and decimal units. */
static const struct unit size_units[] = {
	{"B", 1},
	{"KiB", INT64_C(1) << 10},
	{"MiB", INT64_C(1) << 20},
	{"GiB", INT64_C(1) << 30},
	{"TiB", INT64_C(1) << 40},
	{"k", INT64_C(1) << 10},
	{"K", INT64_C(1) << 10},
	{"M", INT64_C(1) << 20},
	{"m", INT64_C(1) << 20},
	{"G", INT64_C(1) << 30},
	{"g", INT64_C(1) << 30},
	{"T", INT64_C(1) << 40},
	{"kB", 1000},
	{"MB", 1000000},
	{"GB", 1000000000},
	{"TB", INT64_C(1000000000000)},
};
/* Of equal factors the first is how we write it. */
static const struct unit duration_units[] = {
	{"us", 1},
	{"ms", 1000},
	{"s", 1000000},
	{"min", 60000000},
	{"h", INT64_C(3600000000)},
	{"d", INT64_C(86400000000)},
	{"µs", 1},
	{"m", 60000000},
};

static bool is_space(char c) { return c == ' ' || c == '\t'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static struct span trim(struct span s)
{
	while (s.len && is_space(*s.p)) {
		s.p++;
		s.len--;
	}
	while (s.len && is_space(s.p[s.len - 1]))
		s.len--;
	return s;
}

static bool refuse(struct buf *why, const char *text)
{
	buf_adds(why, text);
	return false;
}

/* Digits at the start of *s, which moves past them. False: none, or beyond 63 bits. */
static bool take_digits(struct span *s, int64_t *r)
{
	int64_t n = 0;
	size_t i = 0;
	for (; i < s->len && is_digit(s->p[i]); i++)
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, s->p[i] - '0', &n))
			return false;
	s->p += i;
	s->len -= i;
	*r = n;
	return i > 0;
}

static const struct unit *find_unit(const struct unit *units, size_t n, struct span name)
{
	for (size_t i = 0; i < n; i++)
		if (span_eq(SPAN(units[i].name), name))
			return &units[i];
	return NULL;
}

/* The decimals after the point, times the unit, rounded down. Six of them: beyond that nobody means it. */
static bool take_fraction(struct span *s, int64_t *millionths_r)
{
	int64_t n = 0, scale = 100000;
	size_t i = 0;
	for (; i < s->len && is_digit(s->p[i]); i++, scale /= 10) {
		if (scale == 0)
			return false;
		n += (s->p[i] - '0') * scale;
	}
	s->p += i;
	s->len -= i;
	*millionths_r = n;
	return i > 0;
}

static bool parse_scaled(struct span s, const struct unit *units, size_t nunits, bool bare_ok, int64_t *r,
			 struct buf *why)
{
	int64_t whole, millionths = 0;
	bool point = false;
	if (!s.len || !is_digit(*s.p))
		return refuse(why, s.len && *s.p == '-' ? "is negative" : "is no number with a unit");
	if (!take_digits(&s, &whole))
		return refuse(why, "is too large");
	if (s.len && *s.p == '.') {
		s.p++;
		s.len--;
		point = true;
		if (!take_fraction(&s, &millionths))
			return refuse(why, "needs one to six digits after the point");
	}
	s = trim(s);
	if (s.len == 0) {
		*r = whole;
		if (point || (!bare_ok && whole != 0))
			return refuse(why, "has no unit");
		return true;
	}
	const struct unit *u = find_unit(units, nunits, s);
	if (!u) {
		refuse(why, "has an unknown unit; there are");
		for (size_t i = 0; i < nunits; i++)
			buf_printf(why, "%s %s", i ? "," : "", units[i].name);
		return false;
	}
	int64_t part = millionths * (u->factor / 1000000) + millionths * (u->factor % 1000000) / 1000000;
	if (__builtin_mul_overflow(whole, u->factor, r) || __builtin_add_overflow(*r, part, r))
		return refuse(why, "is too large");
	return true;
}

static bool parse_int(struct span s, int64_t *r, struct buf *why)
{
	bool negative = s.len && *s.p == '-';
	if (negative) {
		s.p++;
		s.len--;
	}
	if (!s.len || !is_digit(*s.p))
		return refuse(why, "is no whole number");
	if (!take_digits(&s, r))
		return refuse(why, "is too large");
	if (s.len)
		return refuse(why, "is no whole number");
	if (negative)
		*r = -*r;
	return true;
}

static bool parse_bool(struct span s, int64_t *r, struct buf *why)
{
	static const char *const words[2][4] = {{"false", "no", "off", "0"}, {"true", "yes", "on", "1"}};
	for (int v = 0; v < 2; v++)
		for (size_t i = 0; i < 4; i++)
			if (s.len == strlen(words[v][i]) && strncasecmp(s.p, words[v][i], s.len) == 0) {
				*r = v;
				return true;
			}
	return refuse(why, "is neither true nor false");
}

static bool parse_enum(const struct conf_option *o, struct span s, struct buf *why)
{
	for (const char *at = o->unit;;) {
		size_t len = strcspn(at, "|");
		if (span_eq((struct span){at, len}, s))
			return true;
		if (!at[len])
			break;
		at += len + 1;
	}
	struct span near = conf_near_choice(o->unit, s);
	refuse(why, "is not among the choices");
	if (near.p)
		buf_printf(why, " (did you mean %.*s?)", (int)near.len, near.p);
	return false;
}

static bool too_deep(const json_t *v, unsigned depth)
{
	const char *key;
	json_t *item;
	size_t i;
	if (depth > CONF_NEST_MAX)
		return true;
	if (json_is_array(v))
		json_array_foreach (v, i, item)
			if (too_deep(item, depth + 1))
				return true;
	if (json_is_object(v)) {
		json_object_foreach ((json_t *)v, key, item)
			if (too_deep(item, depth + 1))
				return true;
	}
	return false;
}

/* A list of one may be written without its brackets. Stored compact, members in their order. */
static bool parse_list(struct span s, struct buf *canonical, struct buf *why)
{
	json_error_t e;
	json_t *v = json_loadb(s.len ? s.p : "", s.len, JSON_REJECT_DUPLICATES, &e);
	if (!v) {
		buf_printf(why, "is no JSON: %s at byte %d", e.text, e.position);
		return false;
	}
	if (json_is_object(v))
		v = json_pack("[o]", v);
	bool deep = !v || too_deep(v, 0);
	char *text = deep ? NULL : json_dumps(v, JSON_COMPACT);
	json_decref(v);
	if (!text)
		return refuse(why, "is nested too deeply");
	buf_adds(canonical, text);
	free(text);
	return true;
}

static bool parse_string(struct span s, struct buf *canonical, struct buf *why)
{
	if (s.len && !util_utf8_valid(s.p, s.len))
		return refuse(why, "is no UTF-8");
	for (size_t i = 0; i < s.len; i++)
		if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f)
			return refuse(why, "contains a control character");
	buf_add(canonical, s.p, s.len);
	return true;
}

static bool parse_number(const struct conf_option *o, struct span s, int64_t *num_r, struct buf *why)
{
	s = trim(s);
	switch (o->type) {
	case CONF_T_INT: return parse_int(s, num_r, why);
	case CONF_T_BOOL: return parse_bool(s, num_r, why);
	case CONF_T_SIZE: return parse_scaled(s, size_units, ARRAY_LEN(size_units), true, num_r, why);
	default: return parse_scaled(s, duration_units, ARRAY_LEN(duration_units), false, num_r, why);
	}
}

bool conf_value_parse(const struct conf_option *o, struct span text, struct buf *canonical, int64_t *num_r,
		      struct buf *why)
{
	*num_r = 0;
	if (text.len > CONF_TEXT_MAX)
		return refuse(why, "is longer than 1 MiB");
	if (text.len && memchr(text.p, '\0', text.len))
		return refuse(why, "contains a NUL byte");
	switch (o->type) {
	case CONF_T_STRING: return parse_string(text, canonical, why);
	case CONF_T_LIST: return parse_list(text, canonical, why);
	case CONF_T_ENUM:
		text = trim(text);
		if (!parse_enum(o, text, why))
			return false;
		buf_add(canonical, text.p, text.len);
		return true;
	default: break;
	}
	if (!parse_number(o, text, num_r, why))
		return false;
	if (o->type != CONF_T_BOOL && (*num_r < o->min || *num_r > o->max))
		return refuse(why, *num_r < o->min ? "is too small" : "is too large");
	conf_value_format(o->type, *num_r, canonical);
	return true;
}

/* The largest unit of which it is a whole number: nothing is lost when it is read again. */
static const struct unit *unit_for(const struct unit *units, size_t n, int64_t num)
{
	const struct unit *best = &units[0];
	for (size_t i = 0; i < n; i++)
		if (units[i].factor > best->factor && num % units[i].factor == 0)
			best = &units[i];
	return best;
}

void conf_value_format(enum conf_type type, int64_t num, struct buf *out)
{
	const struct unit *u;
	switch (type) {
	case CONF_T_BOOL: buf_adds(out, num ? "true" : "false"); return;
	case CONF_T_SIZE: u = num ? unit_for(binary_units, ARRAY_LEN(binary_units), num) : &binary_units[0]; break;
	case CONF_T_DURATION:
		u = num ? unit_for(duration_units, ARRAY_LEN(duration_units), num) : &duration_units[2];
		break;
	default: buf_printf(out, "%lld", (long long)num); return;
	}
	buf_printf(out, "%lld %s", (long long)(num / u->factor), u->name);
}

static void expect_range(const struct conf_option *o, struct buf *out)
{
	conf_value_format(o->type, o->min, out);
	buf_adds(out, " to ");
	conf_value_format(o->type, o->max, out);
}

void conf_value_expect(const struct conf_option *o, struct buf *out)
{
	switch (o->type) {
	case CONF_T_STRING: buf_printf(out, "text (%s)", o->unit); return;
	case CONF_T_INT:
		buf_adds(out, "a whole number from ");
		expect_range(o, out);
		buf_printf(out, " (%s)", o->unit);
		return;
	case CONF_T_BOOL: buf_adds(out, "true or false"); return;
	case CONF_T_SIZE:
	case CONF_T_DURATION:
		buf_adds(out, o->type == CONF_T_SIZE ? "a size from " : "a duration from ");
		expect_range(o, out);
		if (o->type == CONF_T_SIZE && *o->unit)
			buf_printf(out, ", %s", o->unit);
		return;
	case CONF_T_ENUM:
		buf_adds(out, "one of ");
		for (const char *p = o->unit; *p; p++)
			if (*p == '|')
				buf_adds(out, ", ");
			else
				buf_addc(out, *p);
		return;
	case CONF_T_LIST: buf_printf(out, "%s", o->unit); return;
	}
}

void conf_value_show(const struct conf_option *o, const char *source, struct span text, struct buf *out)
{
	if (conf_hides(o, source)) {
		buf_adds(out, "(secret)");
		return;
	}
	bool utf8 = text.len == 0 || util_utf8_valid(text.p, text.len);
	buf_addc(out, '"');
	for (size_t i = 0; i < text.len; i++) {
		unsigned char c = (unsigned char)text.p[i];
		if (i >= 64 && (c & 0xc0) != 0x80) {
			buf_adds(out, "…");
			break;
		}
		buf_addc(out, c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8) ? '?' : (char)c);
	}
	buf_addc(out, '"');
}
