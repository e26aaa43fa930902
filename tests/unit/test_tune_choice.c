/* What "tune" measures of a server's index and chooses. Broken code that this would catch: a rung twice or out of order or beyond what
 * the index has, what is configured left unmeasured, a recommendation that finds too little or takes more than it must, advice of a
 * rebuild where it changes nothing, options that pgvector refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tune_choice.h"
#include "util.h"

static void check_ladder(unsigned least, unsigned most, unsigned configured, const unsigned *more, size_t nmore,
			 const unsigned *want, size_t n)
{
	unsigned got[48];
	assert_int_equal(tune_choice_ladder(least, most, configured, more, nmore, got, ARRAY_LEN(got)), n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(got[i], want[i]);
}
#define V(...) ((const unsigned[]){__VA_ARGS__})
#define LADDER(least, most, configured, more, nmore, ...)                                                              \
	check_ladder(least, most, configured, more, nmore, V(__VA_ARGS__), ARRAY_LEN(V(__VA_ARGS__)))

static void a_ladder_ascends_to_what_the_index_has(void **state)
{
	(void)state;
	LADDER(10, 1000, 200, NULL, 0, 10, 20, 40, 80, 120, 200, 400, 700, 1000);
	LADDER(10, 1000, 333, V(7, 50, 20), 3, 7, 10, 20, 40, 50, 80, 120, 200, 333, 400, 700, 1000);
	LADDER(1, 30, 20, NULL, 0, 1, 2, 5, 10, 20);
	LADDER(1, 15, 20, NULL, 0, 1, 2, 5, 10, 15);
	LADDER(1, 15, 0, V(300), 1, 1, 2, 5, 10, 15);
	LADDER(1, 1, 20, NULL, 0, 1);
	unsigned few[3];
	assert_int_equal(tune_choice_ladder(1, 1000, 200, V(3, 4), 2, few, 3), 3);
}

static int best(const struct tune_found *v, size_t n, double wanted) { return tune_choice_best(v, n, wanted); }

static void the_cheapest_that_finds_enough(void **state)
{
	(void)state;
	const struct tune_found rising[] = {{0.8, 100}, {0.95, 150}, {0.99, 300}, {1, 700}};
	assert_int_equal(best(rising, 4, 0.5), 0);
	assert_int_equal(best(rising, 4, 0.95), 1);
	assert_int_equal(best(rising, 4, 0.96), 2);
	assert_int_equal(best(rising, 4, 1), 3);
	assert_int_equal(best(rising, 3, 1), -1);
	assert_int_equal(best(rising, 0, 0.5), -1);
	/* The planner may turn to comparing all, which is quicker. */
	const struct tune_found turning[] = {{0.9, 400}, {0.98, 900}, {1, 300}, {1, 290}};
	assert_int_equal(best(turning, 4, 0.9), 2);
	assert_int_equal(best(turning, 4, 0.99), 2); /* a tenth more is chance */
	const struct tune_found alike[] = {{1, 110}, {1, 100}, {1, 105}}, instant[] = {{1, 1}, {1, 0}};
	assert_int_equal(best(alike, 3, 1), 0);
	assert_int_equal(best(instant, 2, 1), 1);
}

static void lists_as_pgvector_advises(void **state)
{
	(void)state;
	assert_int_equal(tune_choice_lists(0), 1);
	assert_int_equal(tune_choice_lists(999), 1);
	assert_int_equal(tune_choice_lists(40000), 40);
	assert_int_equal(tune_choice_lists(1e6), 1000);
	assert_int_equal(tune_choice_lists(4e6), 2000);
}

static void a_rebuild_is_advised_where_it_helps(void **state)
{
	(void)state;
	struct tune_build b = {.lists_kind = true, .lists = 100, .rows = 100000};
	assert_false(tune_choice_rebuild(&b, 20));
	b = (struct tune_build){.lists_kind = true, .lists = 100, .rows = 150000};
	assert_false(tune_choice_rebuild(&b, 0));
	b = (struct tune_build){.lists_kind = true, .lists = 100, .rows = 30000};
	assert_true(tune_choice_rebuild(&b, 20) && b.lists == 30);
	b = (struct tune_build){.lists_kind = true, .lists = 100, .rows = 1999};
	assert_false(tune_choice_rebuild(&b, 20));
	b = (struct tune_build){.lists_kind = true, .lists = 100, .rows = 4e6};
	assert_true(tune_choice_rebuild(&b, 20) && b.lists == 2000);

	b = (struct tune_build){.m = 16, .ef_construction = 64};
	assert_false(tune_choice_rebuild(&b, 200));
	assert_true(tune_choice_rebuild(&b, 0) && b.m == 32 && b.ef_construction == 128);
	assert_true(tune_choice_rebuild(&b, 1000) && b.m == 64 && b.ef_construction == 256);
	assert_true(tune_choice_rebuild(&b, 1000) && b.m == 64 && b.ef_construction == 512);
	assert_false(tune_choice_rebuild(&b, 0)); /* no build does */
	b = (struct tune_build){.m = 50, .ef_construction = 50};
	assert_true(tune_choice_rebuild(&b, 0) && b.m == 64 && b.ef_construction >= 2 * b.m);
	b = (struct tune_build){.m = 100, .ef_construction = 1000};
	assert_false(tune_choice_rebuild(&b, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_ladder_ascends_to_what_the_index_has),
		cmocka_unit_test(the_cheapest_that_finds_enough),
		cmocka_unit_test(lists_as_pgvector_advises),
		cmocka_unit_test(a_rebuild_is_advised_where_it_helps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
