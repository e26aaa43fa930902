/* Our number reader against strtof() and jansson. Broken code this would catch: double rounding, a
 * wrong power of ten, dropped digits, over-reads at the end of a buffer, a scanner that changes what
 * jansson thinks of a body. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include "json/numbers.h"

static uint64_t rng_state = 0x1234567;
static uint64_t rng(void)
{
	uint64_t x = rng_state += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static uint32_t bits(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}

static float from_bits(uint32_t u)
{
	float f;
	memcpy(&f, &u, 4);
	return f;
}

/* Among others: what is at the end of an array, or near its beginning, is read in another way. */
static void check_inside(const char *text, float want)
{
	static const char *const before[] = {"[1.25,-0.0078125,", "[1.25, -0.0078125, ", "[\n1.25,\n-0.0078125,\n"};
	static const char *const behind[] = {",-0.5,0.12345678901234567890123456789]",
					     ", -0.5, 0.12345678901234567890123456789]", "\n,1]"};
	size_t n, i = rng() % 3, size = strlen(before[i]) + strlen(text) + strlen(behind[i]);
	char *array = malloc(size + 1);
	const char *end;
	float got[5] = {0};
	assert_non_null(array);
	snprintf(array, size + 1, "%s%s%s", before[i], text, behind[i]);
	enum floats_error e = floats_parse(array, array + size, got, ARRAY_LEN(got), &n, &end);
	if (isinf(want) ? e != FLOATS_RANGE || n != 2
			: e != FLOATS_OK || n != (i < 2 ? 5 : 4) || bits(got[2]) != bits(want) || end != array + size)
		fail_msg("%s: error %d, %zu numbers, got %a, strtof says %a", array, e, n, (double)got[2],
			 (double)want);
	free(array);
}

/* One number, in memory that ends right behind the array, so that ASan sees every over-read. */
static void check(const char *text)
{
	size_t n = strlen(text), count;
	char *array = malloc(n + 2);
	const char *behind;
	float got = 0, want = strtof(text, NULL);
	assert_non_null(array);
	array[0] = '[';
	memcpy(array + 1, text, n);
	array[n + 1] = ']';
	enum floats_error e = floats_parse(array, array + n + 2, &got, 1, &count, &behind);
	enum floats_error expect = isinf(want) ? FLOATS_RANGE : FLOATS_OK;
	if (e != expect || (e == FLOATS_OK && bits(got) != bits(want)))
		fail_msg("%s: error %d, got %a, strtof says %a", text, e, (double)got, (double)want);
	if (e == FLOATS_OK)
		assert_ptr_equal(behind, array + n + 2);
	free(array);
	check_inside(text, want);
}

static size_t random_digits(char *to, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		to[i] = (char)('0' + rng() % 10);
	if (to[0] == '0' && n > 1)
		to[0] = '1';
	return n;
}

static void random_number(char *t, size_t cap)
{
	float f = from_bits((uint32_t)rng());
	double d = (double)f;
	if (!isfinite(f))
		f = 1.5f, d = 1.5;
	switch (rng() % 8) {
	case 0: snprintf(t, cap, "%.9g", d); break;
	case 1: snprintf(t, cap, "%.17g", d); break;
	case 2: snprintf(t, cap, "%.9f", (double)(int64_t)rng() / 9.3e18); break;
	case 3: snprintf(t, cap, "%.17g", (double)(int64_t)rng() / 9.3e18); break;
	case 4: snprintf(t, cap, "%.*f", (int)(rng() % 25), (double)(int64_t)rng() / 1e16); break;
	case 5: { /* the exact boundary between two floats, and its neighbours */
		double next = (double)nextafterf(f, INFINITY), mid = isfinite(next) ? d / 2 + next / 2 : d;
		snprintf(t, cap, "%.*g", (int)(18 + rng() % 100),
			 rng() & 1 ? mid : nextafter(mid, rng() & 1 ? 1e300 : -1e300));
		break;
	}
	case 6: { /* any digits, any exponent */
		size_t n = random_digits(t, 1 + (unsigned)(rng() % 30));
		t[n++] = '.';
		for (unsigned k = 1 + (unsigned)(rng() % 30); k; k--)
			t[n++] = (char)('0' + rng() % 10);
		snprintf(t + n, cap - n, "e%d", (int)(rng() % 120) - 60);
		break;
	}
	default:
		snprintf(t, cap, "%s%lld%s", rng() & 1 ? "-" : "", (long long)(rng() >> (1 + rng() % 63)),
			 rng() & 1 ? "" : "E+3");
	}
}

static void test_random(void **state)
{
	char t[400];
	(void)state;
	for (int i = 0; i < 1200000; i++) {
		random_number(t, sizeof(t));
		check(t);
	}
}

static void test_known(void **state)
{
	/* clang-format off */
	static const char *const texts[] = {
		"0", "-0", "0.0", "-0.0e10", "0e999999999", "0.0000000000000000000000000000000000000000000000000001e52", "1", "-1", "16777216",
		"16777217", "16777218", "16777219", "33554433", "9007199254740993", "0.1", "1e-45", "7e-46", "7.0064923216240853e-46",
		"7.0064923216240854e-46", "1.1754943508222875e-38", "1.1754942106924411e-38", "1.17549429e-38",
		"3.4028234663852886e38", "3.4028235677973366e38", "3.4028235677973365e38", "3.4028236e38", "1e39", "-1e39",
		"1e999999999999999999999", "-1e-999999999999999999999", "1e-400", "123456789012345678901234567890", "0.30000001192092896",
		"1.00000005960464477539062", "1.00000005960464477539063", "1.000000059604644775390625",
		"1.00000005960464477539062500000000000000000000000000000000000000000000000001",
		"8388609.5", "8388610.5", "4194304.25", "99999999999999999999e-20", "100000000000000000000000000000000000000",
		"0.000000000000000000000000000000000000011754943508222875",
	};
	/* clang-format on */
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		check(texts[i]);
	char zeros[700];
	int n = snprintf(zeros, sizeof(zeros), "0.");
	memset(zeros + n, '0', 600);
	snprintf(zeros + n + 600, sizeof(zeros) - (size_t)n - 600, "123e600");
	check(zeros);
	memset(zeros, '1', 600);
	snprintf(zeros + 600, sizeof(zeros) - 600, ".5e-600");
	check(zeros);
}

/* ---- grammar: jansson is the oracle ---- */

static bool jansson_accepts(const char *text, size_t n)
{
	json_t *j = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
	bool ok = j && json_is_array(j);
	for (size_t i = 0; ok && i < json_array_size(j); i++)
		ok = json_is_number(json_array_get(j, i));
	json_decref(j);
	return ok;
}

static void check_text(const char *text, size_t n)
{
	float out[64];
	size_t count;
	const char *behind, *end;
	char *copy = malloc(n + 1);
	assert_non_null(copy);
	memcpy(copy, text, n);
	enum floats_error e = floats_parse(copy, copy + n, out, 64, &count, &behind);
	end = copy + n;
	while (e == FLOATS_OK && behind < end && strchr(" \t\r\n", *behind) && *behind)
		behind++;
	bool ours = e == FLOATS_OK && behind == end;
	if (e != FLOATS_RANGE && ours != jansson_accepts(text, n))
		fail_msg("'%.*s': ours %d (error %d), jansson %d", (int)n, text, ours, e, !ours);
	free(copy);
}

/* Alone, behind other numbers, and between them. */
static void check_grammar(const char *text, size_t n)
{
	char t[200];
	check_text(text, n);
	if (n == 0 || *text != '[')
		return;
	bool closed = n > 1 && text[n - 1] == ']', spaced = rng() & 1;
	int len = snprintf(t, sizeof(t), "[1.25,%s-0.0078125,%s%.*s", spaced ? " " : "", spaced ? " " : "", (int)n - 1,
			   text + 1);
	check_text(t, (size_t)len);
	len -= closed;
	len += snprintf(t + len, sizeof(t) - (size_t)len, ",%s0.123456789,0.1234567890123,-0.12345678]",
			spaced ? " " : "");
	check_text(t, (size_t)len);
}

static void test_grammar(void **state)
{
	/* clang-format off */
	static const char *const texts[] = {
		"[]", "[ ]", "[\n]", "[1]", "[1,2]", "[ 1 , 2 ]", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[", "[1", "[1,", "]", "", "1", "[+1]", "[01]",
		"[-]", "[-01]", "[.5]", "[5.]", "[5.e3]", "[1e]", "[1e+]", "[1E-]", "[1E5]", "[1e+5]", "[1.0e-05]", "[0x10]", "[NaN]", "[nan]",
		"[Infinity]", "[-Infinity]", "[inf]", "[true]", "[null]", "[\"1\"]", "[[1]]", "[{}]", "[1]]", "[1]x", "[1,2", "[1\v]", "[1\f]",
		"[- 1]", "[1 .5]", "[1. 5]", "[1e 5]", "[--1]", "[1-2]", "[1.2.3]", "[00]", "[0.0]", "[-0]", "[0e0]", "[1/2]", "[1:2]", "[123456789a]",
		"[12345678]", "[123456789]", "[1234567890123456.12345678]", "[0.12345678e1]", "[12345678.]", "[1;2]", "[\xc2\xa0" "1]", "[1\xef\xbc\x8c" "2]",
	};
	/* clang-format on */
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		for (size_t n = 0; n <= strlen(texts[i]); n++)
			check_grammar(texts[i], n);
	static const char alphabet[] = "0123456789.-+eE,[] \n";
	for (int i = 0; i < 200000; i++) {
		char t[24];
		size_t n = 1 + rng() % 18;
		t[0] = '[';
		for (size_t k = 1; k < n; k++)
			t[k] = alphabet[rng() % (sizeof(alphabet) - 1)];
		t[n++] = ']';
		check_grammar(t, n);
	}
}

static void test_limits(void **state)
{
	float out[3];
	size_t n;
	const char *behind, *t = "[1,2,3]";
	(void)state;
	assert_int_equal(floats_parse(t, t + 7, out, 3, &n, &behind), FLOATS_OK);
	assert_int_equal(n, 3);
	assert_int_equal(floats_parse(t, t + 7, out, 2, &n, &behind), FLOATS_TOO_MANY);
	t = "[]";
	assert_int_equal(floats_parse(t, t + 2, out, 0, &n, &behind), FLOATS_OK);
	t = "[1,2,\"x\"]";
	assert_int_equal(floats_parse(t, t + 9, out, 3, &n, &behind), FLOATS_NOT_NUMBER);
	assert_int_equal(n, 2);
	t = "[1,1e40]";
	assert_int_equal(floats_parse(t, t + 8, out, 3, &n, &behind), FLOATS_RANGE);
	assert_int_equal(n, 1);
	t = "[1 2]";
	assert_int_equal(floats_parse(t, t + 5, out, 3, &n, &behind), FLOATS_SYNTAX);
}

/* ---- extraction ---- */

static enum floats_extract extract(const char *body, size_t n, struct floats_found *f, struct buf *out)
{
	char *copy = malloc(n + 1); /* exact, for ASan: the +1 is never given away */
	assert_non_null(copy);
	memcpy(copy, body, n);
	out->len = 0;
	enum floats_extract e = floats_extract(copy, n, 8, 40, f, out);
	free(copy);
	return e;
}

static void test_extract(void **state)
{
	/* clang-format off */
	static const struct {
		const char *body, *out;
		enum floats_extract result;
		size_t items;
		enum floats_error bad;
	} rows[] = {
		{"{\"embedding\":[1,2]}", "{\"embedding\": 0 }", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"embedding\" : [ 1 ] , \"a\":1}", "{\"embedding\" :  0  , \"a\":1}", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"embedding\":[]}", "{\"embedding\": 0 }", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"memories\":[{\"embedding\":[1]},{\"x\":{},\"embedding\":[2,3]}]}", "{\"memories\":[{\"embedding\": 0 },{\"x\":{},\"embedding\": 1 }]}",
		 FLOATS_EXTRACT_OK, 2, FLOATS_OK},
		{"{\"m\\u0065mories\":[{\"embeddin\\u0067\":[1]}]}", "{\"m\\u0065mories\":[{\"embeddin\\u0067\": 0 }]}", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"embeddin\\u0047\":[1]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"embedding\":\"[1]\"}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"content\":\"\\\"embedding\\\":[1]\"}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"content\":\"x\\\\\",\"embedding\":[1]}", "{\"content\":\"x\\\\\",\"embedding\": 0 }", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"metadata\":{\"embedding\":[1]}}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"memories\":[{\"metadata\":{\"embedding\":[1]}}]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"memories\":[[{\"embedding\":[1]}]]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"memories\":{\"a\":{\"embedding\":[1]}}}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"others\":[{\"embedding\":[1]}]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"[{\"embedding\":[1]}]", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"memories\":1,\"others\":[{\"embedding\":[1]}]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"a\":[\"embedding\",[1]],\"b\":\"embedding\"}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"embedding\":[1],\"embedding\":[2]}", "{\"embedding\": 0 ,\"embedding\": 1 }", FLOATS_EXTRACT_OK, 2, FLOATS_OK},
		{"{\"embedding\":[1,\"x\"]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_NOT_NUMBER},
		{"{\"embedding\":[1,1e99]}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_RANGE},
		{"{\"embedding\":[1,2", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_SYNTAX},
		{"{\"embedding\":null}", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"embedding\":0}", "", FLOATS_EXTRACT_NUMBER, 0, FLOATS_OK},
		{"{\"memories\":[{\"embedding\":-1}]}", "", FLOATS_EXTRACT_NUMBER, 0, FLOATS_OK},
		{"{\"embedding\":[1,2,3,4,5,6,7,8]}", "{\"embedding\": 0 }", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"embedding\":[1,2,3,4,5,6,7,8,9]}", "", FLOATS_EXTRACT_TOO_MANY, 0, FLOATS_OK},
		{"{\"embedding\":[1]2}", "{\"embedding\": 0 2}", FLOATS_EXTRACT_OK, 1, FLOATS_OK},
		{"{\"embedding\":", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"embedding", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"{\"embedding\\", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
		{"", NULL, FLOATS_EXTRACT_OK, 0, FLOATS_OK},
	};
	/* clang-format on */
	struct floats_found f = {0};
	struct buf out = {0};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const char *want = rows[i].out ? rows[i].out : rows[i].body;
		enum floats_extract e = extract(rows[i].body, strlen(rows[i].body), &f, &out);
		if (e != rows[i].result || f.items != rows[i].items || f.bad != rows[i].bad)
			fail_msg("%s: result %d, %zu items, bad %d", rows[i].body, e, f.items, f.bad);
		if (e == FLOATS_EXTRACT_OK && (out.len != strlen(want) || (out.len && memcmp(out.p, want, out.len))))
			fail_msg("%s -> %.*s", rows[i].body, (int)out.len, out.p);
	}
	const char *three = "{\"memories\":[{\"embedding\":[1.5]},{\"embedding\":[]},{\"embedding\":[2,3]}]}";
	assert_int_equal(extract(three, strlen(three), &f, &out), FLOATS_EXTRACT_OK);
	assert_int_equal(f.items, 3);
	assert_int_equal(f.item[2].n, 2);
	assert_true(f.data[f.item[0].at] == 1.5f && f.data[f.item[2].at + 1] == 3.0f);
	floats_found_free(&f);
	buf_free(&out);
}

/* Puts the arrays back, as jansson would have read them. */
static void put_back(json_t *object, const struct floats_found *f)
{
	json_t *index = json_object_get(object, "embedding");
	if (!json_is_integer(index))
		return;
	json_int_t i = json_integer_value(index);
	assert_true(i >= 0 && (size_t)i < f->items);
	json_t *array = json_array();
	for (size_t k = 0; k < f->item[i].n; k++)
		json_array_append_new(array, json_real((double)f->data[f->item[i].at + k]));
	json_object_set_new(object, "embedding", array);
}

static void floats_only(json_t *object)
{
	json_t *array = json_object_get(object, "embedding"), *v;
	size_t i;
	json_array_foreach (array, i, v) {
		if (json_is_number(v))
			json_array_set_new(array, i, json_real((double)(float)json_number_value(v)));
	}
}

static void each_object(json_t *root, void (*fn)(json_t *))
{
	json_t *v;
	size_t i;
	fn(root);
	if (json_is_object(root))
		json_array_foreach (json_object_get(root, "memories"), i, v)
			fn(v);
}

static void compare(const char *body, size_t n, struct floats_found *f, struct buf *out)
{
	enum floats_extract e = extract(body, n, f, out);
	json_t *v, *before = json_loadb(body, n, 0, NULL), *after = NULL;
	size_t i;
	if (e == FLOATS_EXTRACT_OK) {
		after = json_loadb(out->p ? out->p : "", out->len, 0, NULL);
		if (!before != !after)
			fail_msg("'%.*s' and '%.*s': jansson does not agree with itself", (int)n, body, (int)out->len,
				 out->p);
	}
	if (after) {
		put_back(after, f);
		if (json_is_object(after))
			json_array_foreach (json_object_get(after, "memories"), i, v)
				put_back(v, f);
		each_object(before, floats_only);
		each_object(after, floats_only);
		if (!json_equal(before, after))
			fail_msg("'%.*s': another meaning after extraction", (int)n, body);
	}
	json_decref(before);
	json_decref(after);
}

static void test_extract_random(void **state)
{
	static const char *const parts[] = {
		"{",
		"}",
		"[",
		"]",
		",",
		":",
		" ",
		"\"embedding\"",
		"\"memories\"",
		"\"embedding\":[1,2]",
		"\"embedding\":[-1.5e3]",
		"\"x\"",
		"1",
		"null",
		"\\",
		"\"",
		"{\"embedding\":[0.25]}",
		"\"memories\":[",
		"\"a\":",
		"\"\\\"\"",
		"\"emb\\u0065dding\":[4]",
		"2",
	};
	static const char *const good[] = {
		"{\"memories\":[{\"embedding\":[1,2.5],\"content\":\"[\\\"]\"},{\"content\":\"x\",\"embedding\":[]}],\"embedding\":[3]}",
		"{\"content\":\"caf\\u00e9 }{][\",\"embedding\":[0.1,-2e-3],\"metadata\":{\"embedding\":[1],\"memories\":[{\"embedding\":[1]}]}}",
	};
	struct floats_found f = {0};
	struct buf out = {0};
	char t[512];
	(void)state;
	for (int i = 0; i < 60000; i++) {
		size_t n = 0;
		for (int k = (int)(rng() % 14); k >= 0; k--) {
			const char *p = parts[rng() % ARRAY_LEN(parts)];
			memcpy(t + n, p, strlen(p));
			n += strlen(p);
		}
		compare(t, n, &f, &out);
		n = strlen(good[i & 1]);
		memcpy(t, good[i & 1], n);
		for (int k = (int)(rng() % 3); k > 0; k--)
			t[rng() % n] = "{}[],:\"\\ 1e.-x"[rng() % 14];
		compare(t, n, &f, &out);
	}
	floats_found_free(&f);
	buf_free(&out);
}

/* ---- base64 ---- */

static size_t encode(const uint8_t *p, size_t n, char *out)
{
	static const char al[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t o = 0;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
			     (i + 2 < n ? p[i + 2] : 0u);
		out[o++] = al[v >> 18];
		out[o++] = al[v >> 12 & 63];
		out[o++] = i + 1 < n ? al[v >> 6 & 63] : '=';
		out[o++] = i + 2 < n ? al[v & 63] : '=';
	}
	return o;
}

static void test_base64(void **state)
{
	float in[40], out[40];
	char text[300];
	size_t got;
	(void)state;
	for (size_t n = 1; n <= 40; n++) {
		for (size_t i = 0; i < n; i++)
			do
				in[i] = from_bits((uint32_t)rng());
			while (!isfinite(in[i]));
		size_t len = encode((const uint8_t *)in, n * 4, text);
		char *copy = malloc(len);
		assert_non_null(copy);
		memcpy(copy, text, len);
		assert_int_equal(floats_base64(copy, len, out, n, &got), FLOATS_OK);
		assert_int_equal(got, n);
		assert_memory_equal(in, out, n * 4);
		assert_int_equal(floats_base64(copy, len, out, n - 1, &got), FLOATS_TOO_MANY);
		for (size_t i = 0; i < len; i++) { /* every position must be looked at */
			char was = copy[i];
			copy[i] = "\n -_*\0\x80"[rng() % 7];
			assert_int_not_equal(floats_base64(copy, len, out, n, &got), FLOATS_OK);
			copy[i] = was;
		}
		free(copy);
	}
	static const char *const bad[] = {"",	      "A",	  "AAAA", "AAAAAA",	      "AAAAAA=",  "AAAAA===",
					  "AAAAAB==", "AAAAAAA=", "====", "AAAAAA==AAAAAA==", "AAAA AA=="};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(floats_base64(bad[i], strlen(bad[i]), out, 40, &got), FLOATS_SYNTAX);
	assert_int_equal(floats_base64("AAAAAA==", 8, out, 40, &got), FLOATS_OK);
	assert_int_equal(floats_base64("AADAfw==", 8, out, 40, &got), FLOATS_NOT_FINITE); /* NaN */
	assert_int_equal(floats_base64("AACAfw==", 8, out, 40, &got), FLOATS_NOT_FINITE); /* infinity */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),  cmocka_unit_test(test_random),  cmocka_unit_test(test_grammar),
		cmocka_unit_test(test_limits), cmocka_unit_test(test_extract), cmocka_unit_test(test_extract_random),
		cmocka_unit_test(test_base64),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
