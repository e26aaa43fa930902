/* When a target is pinged, what is cold, and what it costs. */
#include <stdlib.h>

#include "target-private.h"

#define INTERVAL_MIN_US 100000ll
#define INTERVAL_MAX_US (24 * 3600 * 1000000ll)
#define AUTO_MIN_US (60 * 1000000ll)
#define AUTO_MAX_US (3600 * 1000000ll)
#define COLD_MAX_US (600 * 1000000ll)
#define JITTER_PERCENT 10

static bool read_interval(const struct target_place *at, json_t *o, struct plan_rules *r)
{
	const json_t *v = json_object_get(o, "interval");
	const char *text = json_string_value(v);
	bool adapts = text && strcmp(text, "auto") == 0;
	static const char *const bounds[] = {"min_interval", "max_interval"};
	r->limits = (struct adapt_limits){AUTO_MIN_US, AUTO_MAX_US};
	if (!v)
		return target_refuse(at, "interval must be a duration with a unit, such as \"30 s\", or \"auto\"");
	for (size_t i = 0; i < ARRAY_LEN(bounds); i++)
		if (!adapts && json_object_get(o, bounds[i]))
			return target_refuse(at, "%s needs interval = \"auto\"", bounds[i]);
	if (!adapts)
		return target_duration(at, o, "interval", INTERVAL_MIN_US, INTERVAL_MAX_US, &r->interval_us);
	if (!target_duration(at, o, bounds[0], INTERVAL_MIN_US, INTERVAL_MAX_US, &r->limits.min_us) ||
	    !target_duration(at, o, bounds[1], INTERVAL_MIN_US, INTERVAL_MAX_US, &r->limits.max_us))
		return false;
	return r->limits.min_us <= r->limits.max_us ||
	       target_refuse(at, "min_interval must not be longer than max_interval (default 1 h)");
}

static bool read_window(const struct target_place *at, json_t *o, struct window *w)
{
	static const char *const fields[] = {"days", "from", "to"};
	const char *key, *text[3] = {"daily", NULL, NULL};
	json_t *v;
	json_object_foreach (o, key, v) {
		size_t i = 0;
		while (i < ARRAY_LEN(fields) && strcmp(fields[i], key) != 0)
			i++;
		if (i == ARRAY_LEN(fields))
			return target_refuse(at, "schedule: unknown field \"%.64s\"; there are days, from, to", key);
		text[i] = json_string_value(v);
	}
	if (!json_is_object(o) || !text[0] || !window_days(text[0], &w->days))
		return target_refuse(at, "schedule: days must be such as \"mon-fri\", \"sat,sun\" or \"daily\"");
	if (!text[1] || !window_time(text[1], &w->from_s) || w->from_s == 86400 || !text[2] ||
	    !window_time(text[2], &w->to_s))
		return target_refuse(at, "schedule: from and to must be times such as \"07:00\" and \"20:00\", "
					 "from 00:00 to 24:00");
	return w->from_s != w->to_s ||
	       target_refuse(at, "schedule: from and to are the same; write 00:00 and 24:00 for a whole day");
}

static bool read_schedule(const struct target_place *at, json_t *list, struct target *t)
{
	size_t i;
	json_t *v;
	if (!list)
		return true;
	size_t n = json_is_object(list) ? 1 : json_array_size(list);
	if (!n || n > WINDOWS_MAX)
		return target_refuse(at,
				     "schedule must be a list of 1 to %d such as {\"days\": \"mon-fri\", \"from\": "
				     "\"07:00\", \"to\": \"20:00\"}",
				     WINDOWS_MAX);
	t->rules.nwindows = n;
	if (json_is_object(list))
		return read_window(at, list, &t->windows[0]);
	json_array_foreach (list, i, v) {
		if (!read_window(at, v, &t->windows[i]))
			return false;
	}
	return true;
}

static bool read_zone(const struct target_place *at, const json_t *v, struct target *t)
{
	char *error;
	if (!v)
		return true;
	if (!t->rules.nwindows)
		return target_refuse(at, "zone needs a schedule");
	if (!json_is_string(v))
		return target_refuse(at, "zone must be a name such as \"Europe/Berlin\"");
	t->zone = zone_open(ZONE_FOLDER, json_string_value(v), &error);
	if (t->zone)
		return true;
	(void)target_refuse(at, "zone \"%.64s\": %s", json_string_value(v), error ? error : "?");
	free(error);
	return false;
}

bool target_rules(const struct target_place *at, json_t *o, struct target *t)
{
	struct plan_rules *r = &t->rules;
	double percent = JITTER_PERCENT, million = 0;
	int64_t cold_us = 0;
	if (!read_interval(at, o, r) || !target_number(at, o, "jitter", 0, 50, &percent) ||
	    !read_schedule(at, json_object_get(o, "schedule"), t) || !read_zone(at, json_object_get(o, "zone"), t) ||
	    !target_duration(at, o, "cold_after", 1000, COLD_MAX_US, &cold_us) ||
	    !target_number(at, o, "cost_per_million_requests", 0, 1e9, &million) ||
	    !target_number(at, o, "cost_per_second", 0, 1e6, &r->cost_second))
		return false;
	r->jitter = percent / 100;
	r->cold_after_us = (uint32_t)cold_us;
	r->cost_request = million / 1e6;
	r->windows = t->windows;
	r->zone = t->zone;
	r->open_share = window_share(t->windows, r->nwindows);
	return true;
}
