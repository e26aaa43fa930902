/* warmer.at: times of the day, as a JSON list of "HH:MM" of local time. */
#include <jansson.h>
#include <time.h>

#include "clock.h"
#include "warmer.h"

/* Seconds since the epoch of that time on the day that is `days` after now's; a time that the day does not have is what
 * mktime() makes of it. */
static time_t at_day(const char *text, time_t now, int days)
{
	struct tm tm;
	if (!localtime_r(&now, &tm))
		return 0;
	tm.tm_mday += days;
	tm.tm_hour = (text[0] - '0') * 10 + text[1] - '0';
	tm.tm_min = (text[3] - '0') * 10 + text[4] - '0';
	tm.tm_sec = 0;
	tm.tm_isdst = -1;
	return mktime(&tm);
}

int64_t schedule_next(const char *at, int64_t now_us)
{
	json_t *list = json_loads(at, 0, NULL), *v;
	time_t now = (time_t)(now_us / 1000000), next = 0;
	size_t i;
	json_array_foreach (list, i, v) {
		const char *text = json_string_value(v);
		if (!text || json_string_length(v) != 5)
			continue; /* the configuration lets no other pass */
		for (int days = 0; days <= 1; days++) {
			time_t t = at_day(text, now, days);
			if (t > now && (!next || t < next))
				next = t;
		}
	}
	json_decref(list);
	return (int64_t)next * 1000000;
}
