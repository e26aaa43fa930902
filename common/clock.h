/* Time: microseconds since 1970 (real) or since boot (monotonic), and RFC 3339 text. */
#ifndef ORC_CLOCK_H
#define ORC_CLOCK_H
#include <pthread.h>
#include "util.h"

int64_t clock_real_us(void);
int64_t clock_mono_us(void);
int64_t clock_mono_ns(void); /* the same clock: for what is measured, not for what is waited for */
/* Waits on a condition, made in any way, until it is signalled or that time on the monotonic clock has come, which is false: nobody
 * who sets the machine's clock makes anything wait longer. Wakes for nothing, too, as pthread_cond_wait() does. */
bool clock_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t mono_us);
/* Now, or just behind `former` where that is later: a version is never older than the one it follows, whichever
 * machine's clock that was taken from. */
static inline int64_t clock_after_us(int64_t former)
{
	int64_t now = clock_real_us();
	return now > former ? now : former + 1;
}
#define CLOCK_TEXT 27 /* 2026-11-21T05:38:38.123456Z */
/* Writes exactly CLOCK_TEXT bytes, no NUL. Years 1970–9999. */
void clock_format(int64_t real_us, char out[CLOCK_TEXT]);
/* Parses RFC 3339 date-time with `Z` or ±hh:mm and 0–9 fraction digits. False: not one, or
 * behind the year 9999 in UTC. */
bool must_check clock_parse(const char *s, size_t len, int64_t *real_us_r);
#endif
