#include "clock.h"

#include <time.h>

#define LAST_US 253402300799999999 /* 9999-12-31T23:59:59.999999Z */

static int64_t now_us(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_real_us(void) { return now_us(CLOCK_REALTIME); }
int64_t clock_mono_us(void) { return now_us(CLOCK_MONOTONIC); }

int64_t clock_mono_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

bool clock_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t mono_us)
{
	struct timespec t = {mono_us / 1000000, mono_us % 1000000 * 1000};
	return pthread_cond_clockwait(cond, lock, CLOCK_MONOTONIC, &t) == 0;
}

/* Days since 1970-01-01 of a proleptic Gregorian date, and back (H. Hinnant,
 * "chrono-compatible low-level date algorithms"). */
static int64_t days_of(int64_t y, unsigned m, unsigned d)
{
	y -= m <= 2;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	unsigned yoe = (unsigned)(y - era * 400);
	unsigned doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
	unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
	return era * 146097 + (int64_t)doe - 719468;
}

static void date_of(int64_t days, int *y_r, unsigned *m_r, unsigned *d_r)
{
	days += 719468;
	int64_t era = (days >= 0 ? days : days - 146096) / 146097;
	unsigned doe = (unsigned)(days - era * 146097);
	unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	unsigned mp = (5 * doy + 2) / 153;
	*d_r = doy - (153 * mp + 2) / 5 + 1;
	*m_r = mp < 10 ? mp + 3 : mp - 9;
	*y_r = (int)(yoe + era * 400) + (*m_r <= 2);
}

static char *put(char *p, unsigned v, int digits)
{
	for (int i = digits - 1; i >= 0; i--, v /= 10)
		p[i] = (char)('0' + v % 10);
	return p + digits;
}

void clock_format(int64_t us, char out[CLOCK_TEXT])
{
	int y;
	unsigned m, d;
	if (us < 0)
		us = 0;
	if (us > LAST_US)
		us = LAST_US;
	int64_t s = us / 1000000, day = s / 86400;
	unsigned sod = (unsigned)(s % 86400);
	date_of(day, &y, &m, &d);
	char *p = put(out, (unsigned)y, 4);
	*p++ = '-';
	p = put(p, m, 2);
	*p++ = '-';
	p = put(p, d, 2);
	*p++ = 'T';
	p = put(p, sod / 3600, 2);
	*p++ = ':';
	p = put(p, sod / 60 % 60, 2);
	*p++ = ':';
	p = put(p, sod % 60, 2);
	*p++ = '.';
	p = put(p, (unsigned)(us % 1000000), 6);
	*p = 'Z';
}

struct cursor {
	const char *p, *end;
};

static bool number(struct cursor *c, int digits, unsigned max, unsigned *out)
{
	*out = 0;
	while (digits--) {
		if (c->p == c->end || *c->p < '0' || *c->p > '9')
			return false;
		*out = *out * 10 + (unsigned)(*c->p++ - '0');
	}
	return *out <= max;
}

static bool literal(struct cursor *c, char a, char b)
{
	if (c->p == c->end || (*c->p != a && *c->p != b))
		return false;
	c->p++;
	return true;
}

static unsigned days_in(unsigned y, unsigned m)
{
	static const unsigned char days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	return days[m - 1] + (m == 2 && (y % 4 == 0 && (y % 100 != 0 || y % 400 == 0)));
}

static bool fraction(struct cursor *c, unsigned *us)
{
	unsigned n = 0, scale = 100000;
	*us = 0;
	if (c->p == c->end || *c->p != '.')
		return true;
	for (c->p++; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++, n++, scale /= 10)
		*us += (unsigned)(*c->p - '0') * scale;
	return n >= 1 && n <= 9;
}

static bool offset(struct cursor *c, int *minutes)
{
	unsigned h, m;
	*minutes = 0;
	if (literal(c, 'Z', 'z'))
		return c->p == c->end;
	int sign = c->p < c->end && *c->p == '-' ? -1 : 1;
	if (!literal(c, '+', '-') || !number(c, 2, 23, &h) || !literal(c, ':', ':') || !number(c, 2, 59, &m))
		return false;
	*minutes = sign * (int)(h * 60 + m);
	return c->p == c->end;
}

bool clock_parse(const char *s, size_t len, int64_t *out)
{
	struct cursor c = {s, s + len};
	unsigned y, mo, d, h, mi, sec, us;
	int off;
	if (!number(&c, 4, 9999, &y) || !literal(&c, '-', '-') || !number(&c, 2, 12, &mo) || mo < 1 ||
	    !literal(&c, '-', '-') || !number(&c, 2, 31, &d) || d < 1 || d > days_in(y, mo) || !literal(&c, 'T', 't') ||
	    !number(&c, 2, 23, &h) || !literal(&c, ':', ':') || !number(&c, 2, 59, &mi) || !literal(&c, ':', ':') ||
	    !number(&c, 2, 60, &sec) || !fraction(&c, &us) || !offset(&c, &off))
		return false;
	int64_t t = days_of(y, mo, d) * 86400 + h * 3600 + mi * 60 + sec - (int64_t)off * 60;
	*out = t * 1000000 + us;
	return *out <= LAST_US; /* an offset or a leap second may lead beyond what can be written */
}
