/* Time zones: the files of tzdata, and the rule at their end that goes on for ever. */
#include "zone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 65536 /* the largest of tzdata has 3.5 KB */
#define HEAD 44
#define DAY 86400

/* One end of daylight saving time: "M3.5.0/2", "J60", "59". */
struct edge {
	enum { EDGE_JULIAN, EDGE_DAY, EDGE_WEEKDAY } kind;
	int month, week, day;
	int32_t time_s; /* local, as it is before the change */
};

struct zone {
	size_t n;
	int64_t *at; /* ascending; from at[i] on, offset[i] holds */
	int32_t *offset;
	int32_t first;	 /* before at[0] */
	bool ruled, dst; /* behind the last one the rule holds; it has daylight saving time */
	int32_t std_s, dst_s;
	struct edge begin, end;
};

/* ---- the rule: POSIX's TZ ---- */

static bool number(const char **p, int max, int *v_r)
{
	int v = 0;
	const char *from = *p;
	while (**p >= '0' && **p <= '9' && v <= max)
		v = v * 10 + *(*p)++ - '0';
	*v_r = v;
	return *p > from && v <= max;
}

/* [+-]hh[:mm[:ss]] */
static bool duration(const char **p, int32_t *s_r)
{
	int sign = **p == '-' ? -1 : 1, h, m = 0, s = 0;
	*p += **p == '-' || **p == '+';
	if (!number(p, 167, &h))
		return false;
	if (**p == ':' && (++*p, !number(p, 59, &m)))
		return false;
	if (**p == ':' && (++*p, !number(p, 59, &s)))
		return false;
	*s_r = sign * (h * 3600 + m * 60 + s);
	return true;
}

static bool skip_name(const char **p)
{
	size_t n = **p == '<' ? strcspn(*p, ">") + 1 : strcspn(*p, "+-,0123456789");
	if (n < 3 || n > strlen(*p))
		return false;
	*p += n;
	return true;
}

static bool read_edge(const char **p, struct edge *e)
{
	e->time_s = 7200;
	if (**p == 'M') {
		e->kind = EDGE_WEEKDAY;
		++*p;
		if (!number(p, 12, &e->month) || e->month < 1 || *(*p)++ != '.' || !number(p, 5, &e->week) ||
		    e->week < 1 || *(*p)++ != '.' || !number(p, 6, &e->day))
			return false;
	} else {
		e->kind = **p == 'J' ? EDGE_JULIAN : EDGE_DAY;
		*p += **p == 'J';
		if (!number(p, 365, &e->day))
			return false;
	}
	return **p != '/' || (++*p, duration(p, &e->time_s));
}

static bool read_rule(struct zone *z, const char *p)
{
	if (!skip_name(&p) || !duration(&p, &z->std_s))
		return false;
	z->std_s = -z->std_s; /* POSIX counts westward */
	if (!*p)
		return true;
	z->dst = true;
	if (!skip_name(&p))
		return false;
	z->dst_s = -z->std_s - 3600;
	if (*p != ',' && !duration(&p, &z->dst_s))
		return false;
	z->dst_s = -z->dst_s;
	return *p++ == ',' && read_edge(&p, &z->begin) && *p++ == ',' && read_edge(&p, &z->end) && !*p;
}

static bool is_leap(int64_t y) { return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0; }

/* Days from 1970-01-01 to the first of January. */
static int64_t year_begins(int64_t y)
{
	y--;
	return 365 * y + y / 4 - y / 100 + y / 400 - 719162;
}

static int64_t year_of(int64_t day)
{
	int64_t y = 1970 + day / 366;
	while (year_begins(y + 1) <= day)
		y++;
	return y;
}

static int64_t edge_day(const struct edge *e, int64_t y)
{
	static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
	int64_t day = year_begins(y);
	bool leap = is_leap(y);
	if (e->kind == EDGE_JULIAN) /* 1 … 365, the 29th of February is not counted */
		return day + e->day - 1 + (leap && e->day >= 60);
	if (e->kind == EDGE_DAY)
		return day + e->day;
	int64_t first = day + before[e->month - 1] + (leap && e->month > 2);
	int64_t next = day + before[e->month] + (leap && e->month > 1);
	int64_t weekday = ((first + 4) % 7 + 7) % 7; /* 0: Sunday, as in the rule */
	int64_t d = first + (e->day - weekday + 7) % 7 + 7 * (e->week - 1);
	while (d >= next)
		d -= 7;
	return d;
}

static int32_t by_rule(const struct zone *z, int64_t utc_s, int64_t *until_r)
{
	*until_r = INT64_MAX;
	if (!z->dst)
		return z->std_s;
	int64_t y = year_of((utc_s - utc_s % DAY) / DAY), last = INT64_MIN;
	int32_t offset = z->std_s;
	for (int64_t i = y - 1; i <= y + 1; i++) {
		int64_t begin = edge_day(&z->begin, i) * DAY + z->begin.time_s - z->std_s;
		int64_t end = edge_day(&z->end, i) * DAY + z->end.time_s - z->dst_s;
		if (begin <= utc_s && begin > last)
			last = begin, offset = z->dst_s;
		if (end <= utc_s && end > last)
			last = end, offset = z->std_s;
		if (begin > utc_s && begin < *until_r)
			*until_r = begin;
		if (end > utc_s && end < *until_r)
			*until_r = end;
	}
	return offset;
}

int32_t zone_offset(const struct zone *z, int64_t utc_s, int64_t *until_r)
{
	if (utc_s < 0)
		utc_s = 0;	  /* nobody plans for before 1970 */
	size_t lo = 0, hi = z->n; /* at[lo - 1] <= utc_s < at[hi] */
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (z->at[mid] <= utc_s)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == z->n && z->ruled)
		return by_rule(z, utc_s, until_r);
	*until_r = lo < z->n ? z->at[lo] : INT64_MAX;
	return lo ? z->offset[lo - 1] : z->first;
}

/* ---- the file ---- */

static uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t be64(const unsigned char *p) { return (int64_t)((uint64_t)be32(p) << 32 | be32(p + 4)); }

struct head {
	uint32_t isut, isstd, leap, times, types, chars;
};

/* The bytes of the block behind the head, times of `wide` bytes; 0: no head, or more than a file may have. */
static size_t read_head(const unsigned char *p, size_t len, size_t wide, struct head *h)
{
	if (len < HEAD || memcmp(p, "TZif", 4) != 0)
		return 0;
	*h = (struct head){be32(p + 20), be32(p + 24), be32(p + 28), be32(p + 32), be32(p + 36), be32(p + 40)};
	if (h->isut > FILE_MAX || h->isstd > FILE_MAX || h->leap > FILE_MAX || h->times > FILE_MAX || h->types > 256 ||
	    !h->types || h->chars > FILE_MAX)
		return 0;
	size_t n = HEAD + h->times * (wide + 1) + h->types * 6 + h->chars + h->leap * (wide + 4) + h->isstd + h->isut;
	return n <= len ? n : 0;
}

static bool take_times(struct zone *z, const unsigned char *p, const struct head *h)
{
	const unsigned char *type = p + HEAD + h->times * 8, *info = type + h->times;
	z->n = h->times;
	z->at = util_alloc((z->n + 1) * sizeof(*z->at));
	z->offset = util_alloc((z->n + 1) * sizeof(*z->offset));
	z->first = (int32_t)be32(info);
	for (size_t i = 0; i < z->n; i++) {
		if (type[i] >= h->types)
			return false;
		z->at[i] = be64(p + HEAD + i * 8);
		z->offset[i] = (int32_t)be32(info + type[i] * 6);
		if ((i && z->at[i] <= z->at[i - 1]) || z->offset[i] < -7 * DAY || z->offset[i] > 7 * DAY)
			return false;
	}
	return true;
}

struct zone *zone_parse(struct span content)
{
	const unsigned char *p = (const unsigned char *)content.p;
	struct head h;
	size_t first = read_head(p, content.len, 4, &h);
	if (!first || p[4] < '2')
		return NULL; /* files with 32 bits only were made before 2005 */
	p += first;
	size_t len = content.len - first, block = read_head(p, len, 8, &h);
	char rule[128];
	if (!block)
		return NULL;
	struct zone *z = util_zalloc(sizeof(*z));
	const char *foot = (const char *)p + block,
		   *end = len > block + 1 && *foot == '\n' ? memchr(foot + 1, '\n', len - block - 1) : NULL;
	bool ok = take_times(z, p, &h) && end && (size_t)(end - foot) < sizeof(rule);
	if (ok && end > foot + 1) {
		size_t n = (size_t)(end - foot) - 1;
		memcpy(rule, foot + 1, n);
		rule[n] = '\0';
		z->ruled = ok = read_rule(z, rule);
	}
	if (!ok)
		zone_free(&z);
	return z;
}

static bool name_ok(const char *name)
{
	size_t n = strlen(name);
	if (!n || n > ZONE_NAME_MAX || strstr(name, "..") || *name == '/')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/.") == n;
}

struct zone *zone_open(const char *folder, const char *name, char **error_r)
{
	char path[512], content[FILE_MAX];
	*error_r = NULL;
	if (!name_ok(name)) {
		(void)util_error(error_r, "there is no zone of this name; expected one such as Europe/Berlin");
		return NULL;
	}
	if (strcmp(name, "UTC") == 0)
		return util_zalloc(sizeof(struct zone));
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd == -1) {
		if (access(folder, F_OK) == -1)
			(void)util_error(error_r, "there is no time zone database in %s; install tzdata, or use UTC",
					 folder);
		else
			(void)util_error(error_r, "cannot read %s: %s; expected a zone such as Europe/Berlin", path,
					 strerror(errno));
		return NULL;
	}
	ssize_t n = read(fd, content, sizeof(content));
	close(fd);
	struct zone *z = n > 0 ? zone_parse((struct span){content, (size_t)n}) : NULL;
	if (!z)
		(void)util_error(error_r, "%s is no zone; expected one such as Europe/Berlin", path);
	return z;
}

void zone_free(struct zone **zp)
{
	struct zone *z = *zp;
	*zp = NULL;
	if (!z)
		return;
	free(z->at);
	free(z->offset);
	free(z);
}
