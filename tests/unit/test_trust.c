/* Which copies are right. Broken code this would catch: a copy believed although its memory was changed behind it, or
 * although nobody knows what happened since; a later, lower revision that makes an older copy right again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "cache/trust.h"

static struct uuid id(unsigned n) { return (struct uuid){.b = {[0] = 1, [14] = (uint8_t)(n >> 8), [15] = (uint8_t)n}}; }

static void nothing_before_it_is_known(void **state)
{
	(void)state;
	struct trust *t = util_zalloc(sizeof(*t));
	struct uuid a = id(1);
	trust_begin(t);
	assert_false(trust_holds(t, &a, UINT64_MAX - 1));
	trust_since(t, 100);
	assert_true(trust_holds(t, &a, 100));
	assert_true(trust_holds(t, &a, 101));
	assert_false(trust_holds(t, &a, 99));
	free(t);
}

static void changes(void **state)
{
	(void)state;
	struct trust *t = util_zalloc(sizeof(*t));
	struct uuid a = id(1), b = id(2), same_stripe = a;
	same_stripe.b[3] = 9;
	trust_since(t, 10);
	trust_changed(t, &a, 20);
	assert_false(trust_holds(t, &a, 19));
	assert_true(trust_holds(t, &a, 20)); /* the copy was made behind the change */
	assert_true(trust_holds(t, &b, 19));
	assert_false(trust_holds(t, &same_stripe, 19));
	trust_changed(t, &a, 15); /* noted late */
	assert_false(trust_holds(t, &a, 19));
	assert_int_equal(trust_last(t, &a), 20);
	trust_changed(t, &a, 0); /* a batch that changed nothing others read */
	assert_false(trust_holds(t, &a, 19));
	free(t);
}

static void everything(void **state)
{
	(void)state;
	struct trust *t = util_zalloc(sizeof(*t));
	struct uuid a = id(1);
	trust_begin(t);
	trust_all_changed(t, 50); /* while it looks back */
	trust_since(t, 10);
	assert_false(trust_holds(t, &a, 49));
	assert_true(trust_holds(t, &a, 50));
	trust_all_changed(t, 40);
	assert_false(trust_holds(t, &a, 49));
	trust_begin(t); /* a successor knows nothing */
	assert_false(trust_holds(t, &a, 60));
	free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_before_it_is_known),
		cmocka_unit_test(changes),
		cmocka_unit_test(everything),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
