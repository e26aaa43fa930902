/* Values that are tried on a running daemon: a layer between the file and what fixes a key. */
#include <stdlib.h>

#include "conf-private.h"

struct conf *conf_copy(const struct conf *c)
{
	struct conf *copy = util_zalloc(sizeof(*copy));
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		conf_take(copy, c, (enum conf_key)k);
	return copy;
}

void conf_take(struct conf *to, const struct conf *from, enum conf_key k)
{
	const struct conf_value *v = &from->v[k];
	conf_replace(to, k, v->text, v->num);
	free(to->v[k].source);
	to->v[k].source = util_strndup(v->source, strlen(v->source));
}

bool conf_is_reloadable(enum conf_key k) { return conf_options[k].flags & CONF_F_RELOAD; }
const char *conf_default(enum conf_key k) { return conf_options[k].dflt; }
const char *conf_help(enum conf_key k) { return conf_options[k].text; }
enum conf_type conf_type(enum conf_key k) { return conf_options[k].type; }

void conf_range(enum conf_key k, struct buf *out) { conf_value_expect(&conf_options[k], out); }

bool conf_is_fixed(const struct conf *base, enum conf_key k)
{
	const char *source = conf_source(base, k);
	return strcmp(source, "flag") == 0 || strncmp(source, "env ", 4) == 0 ||
	       strcmp(source, CONF_SOURCE_CREDENTIAL) == 0;
}

/* The gathered errors as one text; true when there are none. */
static bool settle(struct conf_loading *l, char **error_r)
{
	if (l->nerrors)
		*error_r = util_strndup(l->errors.p, l->errors.len);
	buf_free(&l->errors);
	return l->nerrors == 0;
}

bool conf_try(struct conf *c, enum conf_key k, struct span text, char **error_r)
{
	struct conf_loading l = {.c = c};
	/* What is relative to the caller's folder would be read relative to the daemon's. */
	if (conf_options[k].flags & CONF_F_PATH && text.len && *text.p != '/')
		conf_error(&l, "set: %s = \"%.*s\" is a relative path; name the file from the root on",
			   conf_options[k].name, (int)(text.len < 200 ? text.len : 200), text.p);
	else
		conf_assign(&l, k, text, "set", CONF_SOURCE_TRIED);
	return settle(&l, error_r);
}

bool conf_put(struct conf *c, enum conf_key k, struct span text, const char *source, char **error_r)
{
	struct conf_loading l = {.c = c};
	conf_assign(&l, k, text, source, source);
	return settle(&l, error_r);
}

bool conf_try_whole(struct conf *c, char **error_r)
{
	struct conf_input none = {.file = NULL};
	struct conf_loading l = {.c = c, .in = &none};
	bool tried[CONF_KEY_COUNT];
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		tried[k] = strcmp(c->v[k].source, CONF_SOURCE_TRIED) == 0;
	conf_check_complete(&l);
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		if (!tried[k])
			continue;
		free(c->v[k].source); /* a computed one (api.workers = 0) says "default" */
		c->v[k].source = util_strndup(CONF_SOURCE_TRIED, strlen(CONF_SOURCE_TRIED));
	}
	if (l.nerrors == 0)
		conf_check_whole(&l);
	return settle(&l, error_r);
}

const char *conf_near(const char *key, size_t len) { return conf_near_key(key, len); }

bool conf_duration(struct span text, int64_t *us_r)
{
	struct buf canonical = {0}, why = {0};
	bool ok = conf_value_parse(&conf_options[CONF_WARMER_EVERY], text, &canonical, us_r, &why);
	buf_free(&canonical);
	buf_free(&why);
	return ok;
}

bool conf_canonical(enum conf_key k, struct span text, struct buf *out)
{
	struct buf why = {0};
	int64_t num;
	bool ok = conf_value_parse(&conf_options[k], text, out, &num, &why);
	buf_addc(out, '\0');
	out->len--;
	buf_free(&why);
	return ok;
}
