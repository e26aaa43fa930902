/* Schedules: when a target is to be warm. What the clock on the wall shows in the target's zone decides: an hour that the
 * spring skips is not there, one that the autumn repeats is there twice. Pure. */
#ifndef ORC_WINDOW_H
#define ORC_WINDOW_H
#include "zone.h"

#define WINDOWS_MAX 16

/* From `from_s` to before `to_s` of local time; behind midnight on when to_s <= from_s, and the day is the one on which it
 * began. */
struct window {
	uint8_t days; /* bit 0: Monday */
	int32_t from_s, to_s;
};

/* "mon-fri", "sat,sun", "daily", "fri-mon,wed". False: none of these. */
bool must_check window_days(const char *text, uint8_t *days_r);
/* "07:00" to "24:00". */
bool must_check window_time(const char *text, int32_t *s_r);

/* No windows: always. */
bool window_open(const struct window *w, size_t n, const struct zone *z, int64_t utc_s);
/* The first second from utc_s on that is in one; INT64_MAX: never. */
int64_t window_next(const struct window *w, size_t n, const struct zone *z, int64_t utc_s);
/* Which part of a week is in one of them. */
double window_share(const struct window *w, size_t n);
#endif
