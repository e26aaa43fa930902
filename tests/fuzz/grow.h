/* JSON text grown from bytes: every byte decides something, and every input gives well-formed text (but for what a
 * fuzzer spoils on purpose). jansson is not instrumented, so random bytes would not find their way through it. */
#ifndef ORC_FUZZ_GROW_H
#define ORC_FUZZ_GROW_H
#include "util.h"

#define GROW __attribute__((unused)) static

struct input {
	const uint8_t *p, *end;
};

GROW unsigned grow_byte(struct input *in) { return in->p < in->end ? *in->p++ : 0; }
#define GROW_PICK(in, list) ((list)[grow_byte(in) % ARRAY_LEN(list)])

/* Escapes or not: what stands between quotes may be said in several ways. */
GROW void grow_text(struct input *in, struct buf *out)
{
	static const char *const pieces[] = {"a",
					     "b",
					     "ab",
					     "\\u0061",
					     "\\\\",
					     "\\\"",
					     "\\n",
					     "\\/",
					     "\\u0000",
					     "\\u0001",
					     "\\ud83d\\ude00",
					     "\xf0\x9f\x98\x80",
					     "\xc3\xa4",
					     "\xef\xbb\xbf",
					     ".",
					     "$",
					     "metadata",
					     "embedding",
					     "content",
					     " ",
					     "\x7f",
					     "\xe2\x80\xa8",
					     "0",
					     "}",
					     "]",
					     "\\u00e4",
					     "'",
					     "%",
					     ":",
					     ","};
	for (unsigned n = grow_byte(in) % 5; n; n--)
		buf_adds(out, GROW_PICK(in, pieces));
}

GROW void grow_string(struct input *in, struct buf *out)
{
	buf_addc(out, '"');
	grow_text(in, out);
	buf_addc(out, '"');
}

GROW void grow_scalar(struct input *in, struct buf *out)
{
	/* clang-format off */
	static const char *const scalars[] = {
		"null", "true", "false", "0", "1", "-1", "-0", "-0.0", "0.0", "2", "0.5", "0.1", "0.30000000000000004", "1e300", "-1e300", "5e-324",
		"1.7976931348623157e308", "9007199254740992", "9007199254740993", "9007199254740992.0", "9223372036854775807", "-9223372036854775808",
		"9223372036854775808.0", "1E+2", "100", "3153600000", "1e-7", "\"\"", "\"a\"", "\"b\"", "\"1\"", "\"true\"",
		"\"2026-11-21T05:38:38.123456Z\"", "\"9999-12-31T23:59:60.9Z\"", "\"1970-01-01T00:00:01+00:00\"", "\"2100-02-29T00:00:00Z\"",
		"\"2100-02-28t23:59:59.999999999-23:59\"", "\"0189b3f0-5a5a-7abc-8def-00000000005a\"", "\"0189B3F0-5A5A-7ABC-8DEF-00000000005A\"",
		"\"00000000-0000-0000-0000-000000005a00\"", "\"AACAPwAAAEA=\"", "\"AACAPw\"", "[]", "{}", "[1,2,3]", "[0,0]", "[1e39]", "[1,\"a\"]"};
	/* clang-format on */
	unsigned what = grow_byte(in);
	if (what < 64)
		grow_string(in, out);
	else
		buf_adds(out, scalars[(what - 64) % ARRAY_LEN(scalars)]);
}

GROW void grow_blank(struct input *in, struct buf *out)
{
	static const char *const blanks[] = {"", "", "", "", "", "", " ", "\n\t\r "};
	buf_adds(out, GROW_PICK(in, blanks));
}

GROW void grow_value(struct input *in, struct buf *out, int depth)
{
	unsigned what = grow_byte(in), n = what >> 4 & 3;
	grow_blank(in, out);
	switch (depth < 5 ? what & 7 : 0) {
	case 6:
		buf_addc(out, '[');
		for (unsigned i = 0; i < n; i++) {
			buf_adds(out, i ? "," : "");
			grow_value(in, out, depth + 1);
		}
		buf_addc(out, ']');
		break;
	case 7:
		buf_addc(out, '{');
		for (unsigned i = 0; i < n; i++) {
			buf_adds(out, i ? "," : "");
			grow_string(in, out);
			buf_addc(out, ':');
			grow_value(in, out, depth + 1);
		}
		buf_addc(out, '}');
		break;
	default: grow_scalar(in, out);
	}
	grow_blank(in, out);
}

/* An object; nothing but. */
GROW void grow_object(struct input *in, struct buf *out)
{
	buf_addc(out, '{');
	for (unsigned n = grow_byte(in) % 5, i = 0; i < n; i++) {
		buf_adds(out, i ? "," : "");
		grow_string(in, out);
		buf_addc(out, ':');
		grow_value(in, out, 0);
	}
	buf_addc(out, '}');
}

/* A few bytes of it become others. */
GROW void grow_spoil(struct input *in, struct buf *out)
{
	for (unsigned n = grow_byte(in) % 4; n && out->len; n--) {
		unsigned at = grow_byte(in) << 8 | grow_byte(in);
		out->p[at % out->len] = (char)grow_byte(in);
	}
}
#endif
