/* A second reading of filters, straight from their JSON over a tree of the body, as far as metadata goes; what is
 * said about fixed fields is taken from filter_match(). Slow and plain: the tests compare the real one with it. */
#ifndef ORC_TEST_FILTER_MODEL_H
#define ORC_TEST_FILTER_MODEL_H
#include <stdlib.h>
#include <string.h>

#include "filter/filter.h"

/* −1, 0, 1; 2: not comparable. A long double holds every int64 and every double. */
static int model_compare(const json_t *a, const json_t *b)
{
	if (json_is_number(a) && json_is_number(b)) {
		long double x = json_is_integer(a) ? (long double)json_integer_value(a)
						   : (long double)json_real_value(a);
		long double y = json_is_integer(b) ? (long double)json_integer_value(b)
						   : (long double)json_real_value(b);
		return x < y ? -1 : x > y;
	}
	if (json_is_string(a) && json_is_string(b)) {
		size_t n = json_string_length(a), m = json_string_length(b);
		int c = memcmp(json_string_value(a), json_string_value(b), n < m ? n : m);
		return c ? (c > 0 ? 1 : -1) : n < m ? -1 : n > m;
	}
	return !json_is_array(a) && !json_is_object(a) && !json_is_number(a) && !json_is_string(a) &&
			       json_typeof(a) == json_typeof(b)
		       ? 0
		       : 2;
}

static bool model_equal(const json_t *have, const json_t *want)
{
	size_t i;
	json_t *e;
	if (!json_is_array(have))
		return model_compare(have, want) == 0;
	json_array_foreach (have, i, e)
		if (model_compare(e, want) == 0)
			return true;
	return false;
}

static bool model_condition(const json_t *have, const char *op, const json_t *want)
{
	size_t i;
	json_t *e;
	op += *op == '$';
	if (strcmp(op, "exists") == 0)
		return !!have == json_is_true(want);
	if (strcmp(op, "ne") == 0)
		return !model_condition(have, "eq", want);
	if (strcmp(op, "nin") == 0)
		return !model_condition(have, "in", want);
	if (!have)
		return false;
	if (strcmp(op, "eq") == 0)
		return model_equal(have, want);
	if (strcmp(op, "in") == 0) {
		json_array_foreach (want, i, e)
			if (model_equal(have, e))
				return true;
		return false;
	}
	int c = model_compare(have, want);
	if (c == 2)
		return false;
	return op[0] == 'g' ? c > 0 || (op[2] && c == 0) : c < 0 || (op[2] && c == 0);
}

/* The value at "metadata.path"; NULL: none. */
static const json_t *model_at(const json_t *metadata, const char *path)
{
	char key[512];
	while (metadata && *path) {
		size_t n = 0;
		for (; *path && *path != '.'; path++) {
			path += *path == '\\';
			key[n++] = *path;
		}
		key[n] = 0;
		path += *path == '.';
		metadata = json_object_get(metadata, key);
	}
	return metadata;
}

static bool model_fixed_field(const char *field, json_t *v, const struct memory *m)
{
	char *error;
	json_t *alone = json_pack("{sO}", field, v);
	struct filter *f = filter_parse(alone, &error);
	AN(f);
	bool yes = filter_match(f, m);
	filter_free(&f);
	json_decref(alone);
	return yes;
}

static bool model_field(const char *field, json_t *v, const struct memory *m, const json_t *body)
{
	const char *op;
	json_t *want;
	if (strncmp(field, "metadata.", 9) != 0)
		return model_fixed_field(field, v, m);
	const json_t *have = model_at(json_object_get(body, "metadata"), field + 9);
	if (!json_is_object(v))
		return model_condition(have, "eq", v);
	json_object_foreach (v, op, want)
		if (!model_condition(have, op, want))
			return false;
	return true;
}

/* `f` is one that filter_parse() accepted. */
static bool model_matches(json_t *f, const struct memory *m, const json_t *body)
{
	const char *key;
	size_t i;
	json_t *v, *e;
	json_object_foreach (f, key, v) {
		const char *name = key + (*key == '$');
		bool yes;
		if (strcmp(name, "not") == 0) {
			yes = !model_matches(v, m, body);
		} else if (strcmp(name, "and") == 0 || strcmp(name, "or") == 0) {
			bool any = *name == 'o';
			yes = !any;
			json_array_foreach (v, i, e)
				if (model_matches(e, m, body) == any)
					yes = any;
		} else {
			yes = model_field(key, v, m, body);
		}
		if (!yes)
			return false;
	}
	return true;
}
#endif
