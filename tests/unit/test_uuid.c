/* UUIDv7. Broken code this would catch: ids that do not ascend within a millisecond, of one process
 * or of two, when a millisecond has no ticks left or when the clock steps back; wrong version or variant bits; the same ids in a forked child; a
 * parser that takes other forms than the canonical one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>
#include <sys/wait.h>

/* The clock is ours, so that it can step back. */
#define clock_real_us test_clock_us
#include "../../common/uuid.c"
#include <time.h>
#include <unistd.h>

static int64_t step_us;
int64_t test_clock_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 + step_us;
}

enum { N = 100000 };

static void check_form(const struct uuid *u)
{
	assert_int_equal(u->b[6] >> 4, 7);
	assert_int_equal(u->b[8] >> 6, 2);
}

static void test_ascending(void **ctx)
{
	(void)ctx;
	struct uuid last = uuid_make();
	int64_t start = clock_real_us() / 1000;
	for (int i = 0; i < N; i++) {
		struct uuid u = uuid_make();
		check_form(&u);
		assert_true(uuid_cmp(&last, &u) < 0);
		last = u;
	}
	int64_t end = clock_real_us() / 1000;
	/* Much faster than 4096 a millisecond would run ahead of the clock, but only as far as needed. */
	assert_true(uuid_time_ms(&last) >= start);
	assert_true(uuid_time_ms(&last) <= end + N / 4096 + 1);
}

static void test_many(void **ctx)
{
	(void)ctx;
	struct uuid *v = calloc(20000, sizeof(*v)), before = uuid_make();
	uuid_make_many(v, 20000); /* more than one millisecond has ticks */
	assert_true(uuid_cmp(&before, &v[0]) < 0);
	for (size_t i = 1; i < 20000; i++) {
		check_form(&v[i]);
		assert_true(uuid_cmp(&v[i - 1], &v[i]) < 0);
	}
	free(v);
	uuid_make_many(NULL, 0);
}

static void test_clock_steps_back(void **ctx)
{
	(void)ctx;
	struct uuid last = uuid_make();
	for (int step = 0; step < 3; step++) {
		step_us -= 3600 * 1000000ll;
		for (int i = 0; i < 5000; i++) {
			struct uuid u = uuid_make();
			check_form(&u);
			assert_true(uuid_cmp(&last, &u) < 0);
			last = u;
		}
	}
	step_us = 0;
	struct uuid u = uuid_make();
	assert_true(uuid_cmp(&last, &u) < 0);
}

/* What several workers give out is in the order of the machine's clock, not only of their own counters. */
static void test_within_a_millisecond(void **ctx)
{
	(void)ctx;
	struct uuid last = {0}, u;
	for (int i = 0; i < 2000; i++) {
		int64_t us = clock_real_us();
		while (clock_real_us() < us + 2)
			;
		state.tick = 0; /* another process, which has given out none */
		u = uuid_make();
		check_form(&u);
		assert_true(uuid_cmp(&last, &u) < 0);
		last = u;
	}
}

static void test_random_part(void **ctx)
{
	(void)ctx;
	/* Each of the 62 random bits is about as often 1 as 0. */
	unsigned ones[64] = {0};
	for (int i = 0; i < 4000; i++) {
		struct uuid u = uuid_make();
		for (int b = 0; b < 64; b++)
			ones[b] += u.b[8 + b / 8] >> (7 - b % 8) & 1;
	}
	for (int b = 2; b < 64; b++)
		assert_in_range(ones[b], 1600, 2400);
}

static void test_fork(void **ctx)
{
	(void)ctx;
	int p[2];
	struct uuid child[8];
	uuid_make();
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (pid == 0) {
		uuid_make_many(child, 8);
		_exit(write(p[1], child, sizeof(child)) != sizeof(child));
	}
	struct uuid mine[8];
	uuid_make_many(mine, 8);
	assert_int_equal(read(p[0], child, sizeof(child)), sizeof(child));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	for (int i = 0; i < 8; i++)
		assert_memory_not_equal(mine[i].b + 8, child[i].b + 8, 8);
	close(p[0]);
	close(p[1]);
}

static void test_text(void **ctx)
{
	(void)ctx;
	struct uuid u, back;
	char text[UUID_TEXT + 1] = "";
	static const char known[] = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"; /* RFC 9562 A.6 */
	assert_true(uuid_parse(known, UUID_TEXT, &u));
	assert_int_equal(uuid_time_ms(&u), 0x017f22e279b0);
	uuid_format(&u, text);
	assert_string_equal(text, known);
	assert_true(uuid_parse("017F22E2-79B0-7CC3-98C4-DC0C0C07398F", UUID_TEXT, &back));
	assert_int_equal(uuid_cmp(&u, &back), 0);
	for (int i = 0; i < 1000; i++) {
		u = uuid_make();
		uuid_format(&u, text);
		assert_true(uuid_parse(text, UUID_TEXT, &back));
		assert_int_equal(uuid_cmp(&u, &back), 0);
	}
	assert_false(uuid_parse(known, UUID_TEXT - 1, &u));
	assert_false(uuid_parse("017f22e2-79b0-7cc3-98c4-dc0c0c07398f0", UUID_TEXT + 1, &u));
	assert_false(uuid_parse("{17f22e2-79b0-7cc3-98c4-dc0c0c07398f", UUID_TEXT, &u));
	/* Every byte value at every place: only hex digits, and dashes where they belong. */
	for (int at = 0; at < UUID_TEXT; at++)
		for (int c = 0; c < 256; c++) {
			memcpy(text, known, UUID_TEXT);
			text[at] = (char)c;
			bool dash = at == 8 || at == 13 || at == 18 || at == 23;
			bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
			assert_int_equal(uuid_parse(text, UUID_TEXT, &u), dash ? c == '-' : hex);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_ascending),
					   cmocka_unit_test(test_many),
					   cmocka_unit_test(test_clock_steps_back),
					   cmocka_unit_test(test_within_a_millisecond),
					   cmocka_unit_test(test_random_part),
					   cmocka_unit_test(test_fork),
					   cmocka_unit_test(test_text)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
