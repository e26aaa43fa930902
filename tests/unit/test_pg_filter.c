/* What test_filter_sql.c says of filters, of PostgreSQL's SQL and what is checked behind it. */
#define POSTGRES 1
#include "test_filter_sql.c"

/* What filter.h promises to be exact, and so is counted by the server; each also compared. */
static void test_exactness(void **state)
{
	/* clang-format off */
	static const struct {
		const char *filter;
		bool exact, binds;
	} cases[] = {
		{"{\"user_id\":\"a\"}", true, true},
		{"{\"user_id\":{\"gt\":\"A\"},\"importance\":{\"gte\":0.3},\"pinned\":true}", true, true},
		{"{\"importance\":1e300,\"version\":{\"lt\":9.3e18},\"expires_at\":{\"exists\":false}}", true, false},
		{"{\"id\":{\"gte\":\"00000000-0000-0000-0000-000000005a07\"}}", true, false},
		{"{\"created_at\":{\"gt\":\"1969-12-31T23:59:59.999999Z\"}}", true, false},
		{"{\"created_at\":{\"lt\":\"0000-01-01T00:00:00Z\"}}", true, false},
		{"{\"updated_at\":{\"lte\":\"9999-12-31T23:59:59.999999Z\"}}", true, false},
		{"{\"metadata.a\":{\"exists\":true},\"metadata.b.c\":{\"exists\":false}}", true, true},
		{"{\"metadata.a\":1,\"metadata.b\":{\"gte\":-0.5},\"metadata.c\":{\"in\":[null,true,\"a\"]}}", true, true},
		{"{\"metadata.a\":{\"lt\":9007199254740992}}", true, true},
		{"{\"metadata.a\":{\"lt\":9007199254740993}}", false, true},
		{"{\"not\":{\"metadata.a\":9007199254740993}}", false, false},
		{"{\"metadata.a\":{\"nin\":[1,2,3,4,5,6,7,8,1e18]}}", false, false},
		{"{\"user_id\":\"a\\u0000\"}", true, false},
		{"{\"user_id\":{\"in\":[\"a\\u0000\",\"b\"]}}", true, true},
		{"{\"user_id\":{\"nin\":[\"a\\u0000\",\"b\"]}}", true, true},
		{"{\"user_id\":{\"gte\":\"a\\u0000\"}}", false, false},
		{"{\"metadata.a\":\"a\\u0000\"}", true, false},
		{"{\"metadata.a\":{\"ne\":\"a\\u0000\"}}", true, false},
		{"{\"metadata.a\":{\"lte\":\"a\\u0000\"}}", false, false},
		{"{\"not\":{\"metadata.a\":{\"lte\":\"b\\u0000\"}}}", false, false},
	};
	/* clang-format on */
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *error;
		struct buf sql = {NULL, 0, 0};
		struct filter_args args = {.v = NULL};
		json_t *j = json_loads(cases[i].filter, JSON_ALLOW_NUL, NULL);
		struct filter *f = filter_parse(j, &error);
		assert_non_null(f);
		if (filter_postgres(f, 3, &sql, &args) != cases[i].exact || (args.n > 0) != cases[i].binds)
			fail_msg("%s: exact %d, %zu texts", cases[i].filter, !cases[i].exact, args.n);
		compare(ops, store, f, NULL, cases[i].filter);
		buf_free(&sql);
		filter_args_free(&args);
		filter_free(&f);
		json_decref(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {COMMON_TESTS, cmocka_unit_test(test_exactness)};
	return cmocka_run_group_tests(tests, open_store, close_store);
}
