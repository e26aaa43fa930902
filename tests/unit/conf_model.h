/* What the configuration tests share. Include after cmocka.h. */
#ifndef ORC_TEST_CONF_MODEL_H
#define ORC_TEST_CONF_MODEL_H
#include <stdio.h>

#include "conf.h"

static inline struct conf *conf_model_load(const char *file, char *const *env, const char *const *sets, char **error_r)
{
	size_t n = 0;
	while (sets && sets[n])
		n++;
	struct conf_input in = {.file = file, .sets = sets, .nsets = n, .env = env};
	return conf_load(&in, error_r);
}

static inline struct conf *conf_model_must_load(const char *file, char *const *env, const char *const *sets)
{
	char *error = NULL;
	struct conf *c = conf_model_load(file, env, sets, &error);
	if (!c)
		fprintf(stderr, "%s\n", error);
	assert_non_null(c);
	return c;
}

#endif
