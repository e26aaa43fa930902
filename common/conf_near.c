/* "Did you mean …?" for keys and choices. */
#include <stdlib.h>

#include "conf-private.h"

#define WORD_MAX 48

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

/* Edits (insert, delete, replace, swap of neighbours) between two words, case ignored. */
static unsigned distance(struct span a, struct span b)
{
	unsigned d[3][WORD_MAX + 1], *before = d[0], *prev = d[1], *cur = d[2];
	if (a.len > WORD_MAX || b.len > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= b.len; j++)
		before[j] = prev[j] = (unsigned)j;
	for (size_t i = 1; i <= a.len; i++) {
		cur[0] = (unsigned)i;
		for (size_t j = 1; j <= b.len; j++) {
			bool same = lower(a.p[i - 1]) == lower(b.p[j - 1]);
			cur[j] = least(least(prev[j] + 1, cur[j - 1] + 1), prev[j - 1] + !same);
			if (i > 1 && j > 1 && lower(a.p[i - 1]) == lower(b.p[j - 2]) &&
			    lower(a.p[i - 2]) == lower(b.p[j - 1]))
				cur[j] = least(cur[j], before[j - 2] + 1);
		}
		unsigned *spare = before;
		before = prev;
		prev = cur;
		cur = spare;
	}
	return prev[b.len];
}

static struct span last_part(struct span key)
{
	const char *dot = memrchr(key.p, '.', key.len);
	return dot ? (struct span){dot + 1, (size_t)(key.p + key.len - dot - 1)} : key;
}

const char *conf_near_key(const char *key, size_t len)
{
	struct span given = {key, len};
	unsigned best = 1 + least((unsigned)(len > WORD_MAX ? WORD_MAX : len) / 3, 4);
	const char *found = NULL;
	if (len == 0)
		return NULL;
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		unsigned d = distance(given, SPAN(conf_options[k].name));
		if (d < best) {
			best = d;
			found = conf_options[k].name;
		}
	}
	/* Right word, wrong section. */
	for (int k = 0; k < CONF_KEY_COUNT && !found; k++)
		if (span_eq(last_part(given), last_part(SPAN(conf_options[k].name))))
			found = conf_options[k].name;
	return found;
}

struct span conf_near_choice(const char *choices, struct span given)
{
	struct span found = {NULL, 0};
	unsigned best = 3;
	for (const char *at = choices; *at;) {
		struct span one = {at, strcspn(at, "|")};
		unsigned d = distance(given, one);
		if (d < best && d < one.len) {
			best = d;
			found = one;
		}
		at += one.len + (at[one.len] == '|');
	}
	return found;
}
