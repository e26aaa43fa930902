#include "changes.h"

/* Decimal digits up to INT64_MAX, which is as far as stores count. */
static bool number(struct span s, uint64_t most, uint64_t *v_r)
{
	uint64_t v = 0;
	if (!s.len)
		return false;
	for (size_t i = 0; i < s.len; i++) {
		unsigned digit = (unsigned)(unsigned char)s.p[i] - '0';
		if (digit > 9 || v > (most - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*v_r = v;
	return true;
}

bool changes_cursor_parse(struct span text, struct changes_cursor *c)
{
	const char *colon = text.len ? memchr(text.p, ':', text.len) : NULL;
	uint64_t revision, skip = 0;
	struct span first = {text.p, colon ? (size_t)(colon - text.p) : text.len};
	if (text.len >= CHANGES_CURSOR_MAX || !number(first, INT64_MAX, &revision))
		return false;
	if (!colon) {
		*c = (struct changes_cursor){revision, 0};
		return true;
	}
	if (!revision || !number((struct span){colon + 1, text.len - first.len - 1}, UINT32_MAX, &skip) || !skip)
		return false;
	*c = (struct changes_cursor){revision - 1, (uint32_t)skip};
	return true;
}

void changes_cursor_add(struct buf *b, const struct changes_cursor *c)
{
	if (c->skip)
		buf_printf(b, "%llu:%u", (unsigned long long)c->after + 1, (unsigned)c->skip);
	else
		buf_printf(b, "%llu", (unsigned long long)c->after);
}
