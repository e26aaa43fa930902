#include "uuid.h"

#include <pthread.h>
#include <sys/random.h>

#include "clock.h"

/* State of this process: the last millisecond given out and the counter within it. */
static struct {
	int64_t ms;
	uint32_t counter; /* 12 bits used */
	uint8_t pool[256]; /* getrandom() up to 256 bytes is neither short nor interrupted */
	size_t left;
	bool watched;
} state;

/* A child of fork must not give out its parent's random bytes again. */
static void forget(void) { state.left = 0; }

static void random_bytes(uint8_t *out, size_t n)
{
	if (!state.watched)
		state.watched = pthread_atfork(NULL, NULL, forget) == 0;
	if (state.left < n) {
		AN(getrandom(state.pool, sizeof(state.pool), 0) == (ssize_t)sizeof(state.pool));
		state.left = sizeof(state.pool);
	}
	state.left -= n;
	memcpy(out, state.pool + state.left, n);
	memset(state.pool + state.left, 0, n);
}

struct uuid uuid_make(void)
{
	struct uuid u = {0};
	int64_t now = clock_real_us() / 1000;
	random_bytes(u.b + 6, 10);
	if (now > state.ms) {
		state.ms = now;
		state.counter = u.b[7]; /* start low enough that thousands fit into the millisecond */
	} else if (++state.counter > 0xfff) {
		state.ms++; /* borrow from the future rather than wait (RFC 9562 6.2) */
		state.counter = 0;
	}
	for (int i = 0; i < 6; i++)
		u.b[i] = (uint8_t)(state.ms >> (40 - 8 * i));
	u.b[6] = (uint8_t)(0x70 | state.counter >> 8);
	u.b[7] = (uint8_t)state.counter;
	u.b[8] = (uint8_t)(0x80 | (u.b[8] & 0x3f));
	return u;
}

void uuid_make_many(struct uuid *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = uuid_make();
}

void uuid_format(const struct uuid *u, char out[UUID_TEXT])
{
	static const char hex[] = "0123456789abcdef";
	char *p = out;
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[u->b[i] >> 4];
		*p++ = hex[u->b[i] & 15];
	}
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool uuid_parse(const char *s, size_t len, struct uuid *out)
{
	if (len != UUID_TEXT)
		return false;
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			if (*s++ != '-')
				return false;
		int hi = digit(s[0]), lo = digit(s[1]);
		if (hi < 0 || lo < 0)
			return false;
		out->b[i] = (uint8_t)(hi << 4 | lo);
		s += 2;
	}
	return true;
}

int64_t uuid_time_ms(const struct uuid *u)
{
	int64_t ms = 0;
	for (int i = 0; i < 6; i++)
		ms = ms << 8 | u->b[i];
	return ms;
}
