/* Finds the end of a head and refuses what RFC 9112 forbids in one: CR and LF that do not stand
 * together, control characters, folded lines. llhttp gets a head only whole and only after this, so
 * its spans are never split and none of its tolerances (bare LF or CR, NUL) can be reached.
 *
 * The scan goes on where it stopped, so a head that comes byte by byte costs as much as one that
 * comes at once. */
#include "http/http-private.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* The first byte at or after `i` that is a control character; `len` if there is none. */
static size_t next_control(const char *p, size_t i, size_t len)
{
#ifdef __SSE2__
	const __m128i limit = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f);
	while (i + 16 <= len) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
		__m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, limit), v);
		unsigned m = (unsigned)_mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(v, del)));
		if (m)
			return i + (size_t)__builtin_ctz(m);
		i += 16;
	}
#endif
	for (; i < len; i++) {
		unsigned char ch = (unsigned char)p[i];
		if (ch < 0x20 || ch == 0x7f)
			break;
	}
	return i;
}

enum http_scan_result http_scan_head(struct http_scan *st, const char *p, size_t len, const char **why_r)
{
	size_t i = st->at;

	for (;;) {
		i = next_control(p, i, len);
		if (i == len)
			break;
		if (p[i] == '\t') { /* legal in values; llhttp refuses it in names, parse.c in the request line */
			i++;
			continue;
		}
		if (p[i] != '\r') {
			*why_r = p[i] == '\n' ? "line ends with a bare LF" : "control character in the head";
			return HTTP_SCAN_BAD;
		}
		if (i + 1 == len)
			break; /* look at the CR again when the next byte is here */
		if (p[i + 1] != '\n') {
			*why_r = "CR without LF";
			return HTTP_SCAN_BAD;
		}
		if (i == st->line) {
			st->at = (uint32_t)(i + 2);
			return HTTP_SCAN_DONE;
		}
		if (st->lines == 0) {
			st->first = (uint32_t)i;
		} else if (p[st->line] == ' ' || p[st->line] == '\t') {
			*why_r = "folded header line";
			return HTTP_SCAN_BAD;
		}
		st->lines++;
		i += 2;
		st->line = (uint32_t)i;
	}
	st->at = (uint32_t)i;
	return HTTP_SCAN_MORE;
}
