/* Schedules: when a target is to be warm. */
#include "window.h"

#define DAY 86400
#define TRANSITIONS_MAX 64 /* that a search for the next opening crosses: years of them */

static int day_index(const char *p, size_t len)
{
	static const char names[] = "montuewedthufrisatsun";
	for (int i = 0; len == 3 && i < 7; i++)
		if (memcmp(names + 3 * i, p, 3) == 0)
			return i;
	return -1;
}

bool window_days(const char *text, uint8_t *days_r)
{
	uint8_t days = 0;
	if (strcmp(text, "daily") == 0) {
		*days_r = 0x7f;
		return true;
	}
	for (const char *p = text;; p++) {
		size_t n = strcspn(p, ","), dash = strcspn(p, "-,");
		int from = day_index(p, dash), to = dash < n ? day_index(p + dash + 1, n - dash - 1) : from;
		if (from < 0 || to < 0)
			return false;
		for (int d = from;; d = (d + 1) % 7) {
			days |= (uint8_t)(1u << d);
			if (d == to)
				break;
		}
		p += n;
		if (!*p)
			break;
	}
	*days_r = days;
	return true;
}

bool window_time(const char *text, int32_t *s_r)
{
	if (strlen(text) != 5 || text[2] != ':' || strspn(text, "0123456789:") != 5 || text[0] == ':' ||
	    text[1] == ':' || text[3] == ':' || text[4] == ':')
		return false;
	int h = (text[0] - '0') * 10 + text[1] - '0', m = (text[3] - '0') * 10 + text[4] - '0';
	*s_r = h * 3600 + m * 60;
	return m < 60 && *s_r <= DAY;
}

static bool holds(const struct window *w, int64_t day, int32_t s)
{
	unsigned today = 1u << ((day + 3) % 7), yesterday = 1u << ((day + 2) % 7);
	if (w->from_s < w->to_s)
		return w->days & today && s >= w->from_s && s < w->to_s;
	return (w->days & today && s >= w->from_s) || (w->days & yesterday && s < w->to_s);
}

bool window_open(const struct window *w, size_t n, const struct zone *z, int64_t utc_s)
{
	int64_t until, local = utc_s + (z ? zone_offset(z, utc_s, &until) : 0);
	for (size_t i = 0; i < n; i++)
		if (holds(&w[i], local / DAY, (int32_t)(local % DAY)))
			return true;
	return n == 0;
}

/* The first beginning of a window behind this local time. */
static int64_t next_beginning(const struct window *w, size_t n, int64_t local)
{
	int64_t best = INT64_MAX;
	for (size_t i = 0; i < n; i++)
		for (int64_t day = local / DAY; day <= local / DAY + 7; day++) {
			int64_t at = day * DAY + w[i].from_s;
			if (w[i].days & 1u << ((day + 3) % 7) && at > local && at < best)
				best = at;
		}
	return best;
}

/* Between two changes of the offset local time runs like any other, so the next opening is a beginning there, or the
 * change itself. */
int64_t window_next(const struct window *w, size_t n, const struct zone *z, int64_t utc_s)
{
	for (int i = 0; i < TRANSITIONS_MAX; i++) {
		int64_t until = INT64_MAX, offset = z ? zone_offset(z, utc_s, &until) : 0;
		if (window_open(w, n, z, utc_s))
			return utc_s;
		int64_t at = next_beginning(w, n, utc_s + offset);
		if (at == INT64_MAX)
			return INT64_MAX;
		if (at - offset < until)
			return at - offset;
		utc_s = until;
	}
	return INT64_MAX;
}

double window_share(const struct window *w, size_t n)
{
	unsigned open = 0;
	if (!n)
		return 1;
	for (int64_t minute = 0; minute < 7 * 1440; minute++)
		for (size_t i = 0; i < n; i++)
			if (holds(&w[i], 4 + minute / 1440, (int32_t)(minute % 1440) * 60)) {
				open++;
				break;
			}
	return open / (7.0 * 1440);
}
