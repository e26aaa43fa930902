/* JSON strings as they are written, read again by jansson. */
#include <jansson.h>

#include "api/json_out.c"
#include "model.h"

static void there_and_back(const char *s, size_t n)
{
	struct buf b = {0};
	json_error_t e;
	buf_addc(&b, '[');
	json_out_string(&b, (struct span){s, n});
	buf_addc(&b, ']');
	json_t *root = json_loadb(b.p, b.len, JSON_ALLOW_NUL, &e), *v = json_array_get(root, 0);
	assert_non_null(root);
	assert_int_equal(json_array_size(root), 1);
	assert_int_equal(json_string_length(v), n);
	assert_memory_equal(json_string_value(v), s, n);
	for (size_t i = 0; i < b.len; i++)
		assert_true((unsigned char)b.p[i] >= 0x20);
	json_decref(root);
	buf_free(&b);
}

/* Each byte at each place of a word of eight, among plain ones and among the highest. */
static void test_each_byte(void **state)
{
	(void)state;
	static const char *const around[] = {"aaaaaaaaaaaaaaaaaaaaaaaa", "éééééééééééé",
					     "\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\\"\\"};
	for (size_t k = 0; k < ARRAY_LEN(around); k++)
		for (unsigned c = 0; c < 0x80; c++)
			for (size_t at = 0; at < 24; at += k == 1 ? 2 : 1) {
				char s[24];
				memcpy(s, around[k], sizeof(s));
				s[at] = (char)c;
				if (k == 1)
					s[at + 1] = 'x';
				there_and_back(s, sizeof(s));
			}
}

static void test_lengths(void **state)
{
	(void)state;
	char s[67];
	for (unsigned round = 0; round < 20000; round++) {
		size_t n = model_next() % sizeof(s);
		for (size_t i = 0; i < n; i++) {
			uint32_t r = model_next();
			s[i] = (char)(r % 16 ? 0x20 + r / 16 % 0x60 : r / 16 % 0x20);
		}
		there_and_back(s, n);
	}
}

/* Shortest text that reads as the same number, the slow way. */
static void same_double(double d)
{
	char want[40];
	struct buf b = {0};
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(want, sizeof(want), "%.*g", digits, d);
		if (strtod(want, NULL) == d)
			break;
	}
	json_out_double(&b, d);
	buf_addc(&b, 0);
	assert_string_equal(b.p, want);
	buf_free(&b);
}

static void test_double(void **state)
{
	(void)state;
	static const double some[] = {0,       -0.0,	0.5,	   1,	     -1,	0.1,	 0.3, 1.0 / 3, 0.0001,
				      0.00001, 0.00012, 999999,	   999999.5, 1000000,	99999.9, 1e5, 1e21,    1e-300,
				      123456,  1234567, 0.1 + 0.2, 0.999999, 0.9999999, 1.5,	 100, 100.25};
	for (size_t i = 0; i < ARRAY_LEN(some); i++) {
		same_double(some[i]);
		same_double(nextafter(some[i], 2e6));
		same_double(nextafter(some[i], -1));
	}
	for (unsigned round = 0; round < 300000; round++) {
		double power = pow(10, model_next() % 12);
		same_double((model_next() % 1100000) / power);
		same_double((float)((model_next() % 1100000) / power));
		same_double(model_next() / power / 4096);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_byte), cmocka_unit_test(test_lengths),
					   cmocka_unit_test(test_double)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
