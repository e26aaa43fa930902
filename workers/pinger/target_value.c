/* Single values of a target, and how they are refused. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "target-private.h"

bool target_refuse(const struct target_place *at, const char *fmt, ...)
{
	struct buf b = {0};
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (at->name)
		buf_printf(&b, "pinger.targets: \"%s\": %s", at->name, text);
	else
		buf_printf(&b, "pinger.targets: target %zu: %s", at->index + 1, text);
	buf_addc(&b, '\0');
	free(*at->error_r);
	*at->error_r = b.p;
	return false;
}

/* "500 ms", "30 s", "5 min", "1 h", "14 d". False: none of these. */
static bool parse_duration(const char *text, int64_t *us_r)
{
	static const struct {
		const char *unit;
		int64_t us;
	} units[] = {{"ms", 1000},	{"s", 1000000},	     {"m", 60000000},
		     {"min", 60000000}, {"h", 3600000000ll}, {"d", 86400000000ll}};
	char *end;
	errno = 0;
	double number = strtod(text, &end);
	if (end == text || errno || !(number >= 0 && number < 1e6))
		return false;
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		*us_r = (int64_t)(number * (double)units[i].us);
		return true;
	}
	return false;
}

bool target_duration(const struct target_place *at, json_t *o, const char *field, int64_t min, int64_t max,
		     int64_t *us_r)
{
	const json_t *v = json_object_get(o, field);
	const char *text = json_string_value(v);
	int64_t us;
	if (!v)
		return true;
	if (!text || !parse_duration(text, &us))
		return target_refuse(at, "%s must be a duration with a unit, such as \"30 s\" or \"500 ms\"", field);
	if (us < min || us > max)
		return target_refuse(at, "%s = \"%.64s\" must lie between %lld ms and %lld s", field, text,
				     (long long)min / 1000, (long long)max / 1000000);
	*us_r = us;
	return true;
}

bool target_text(const struct target_place *at, json_t *o, const char *field, size_t max, char **text_r)
{
	const json_t *v = json_object_get(o, field);
	size_t len = json_string_length(v);
	if (!v)
		return true;
	if (!json_is_string(v) || !len || len > max)
		return target_refuse(at, "%s must be a text of 1 to %zu bytes", field, max);
	if (strlen(json_string_value(v)) != len)
		return target_refuse(at, "%s must not hold U+0000", field);
	free(*text_r);
	*text_r = util_strndup(json_string_value(v), len);
	return true;
}

bool target_number(const struct target_place *at, json_t *o, const char *field, double min, double max, double *v_r)
{
	const json_t *v = json_object_get(o, field);
	double number = json_number_value(v);
	if (!v)
		return true;
	if (!json_is_number(v) || !(number >= min && number <= max))
		return target_refuse(at, "%s must be a number from %g to %g", field, min, max);
	*v_r = number;
	return true;
}
