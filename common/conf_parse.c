/* Configuration files: libconfig's tree to keys and values. */
#include <jansson.h>
#include <libconfig.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf-private.h"

/* One segment being walked. */
struct walk {
	struct conf_loading *l;
	const struct conf_segment *seg;
};

static unsigned line_of(const struct walk *w, const config_setting_t *s)
{
	return w->seg->line + (s->line ? s->line - 1 : 0);
}

/* ---- LIST keys: a libconfig tree as JSON ---- */

static json_t *to_json(const config_setting_t *s, unsigned depth);

static json_t *list_to_json(const config_setting_t *s, unsigned depth)
{
	bool group = s->type == CONFIG_TYPE_GROUP;
	json_t *out = group ? json_object() : json_array();
	for (int i = 0; out && i < config_setting_length(s); i++) {
		const config_setting_t *item = config_setting_get_elem(s, (unsigned)i);
		json_t *v = to_json(item, depth + 1);
		int rc = !v ? -1 : group ? json_object_set_new(out, item->name, v) : json_array_append_new(out, v);
		if (rc == -1) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

/* NULL: nested beyond reason, no UTF-8, or a number that JSON does not have. */
static json_t *to_json(const config_setting_t *s, unsigned depth)
{
	if (depth > CONF_NEST_MAX)
		return NULL;
	switch (s->type) {
	case CONFIG_TYPE_INT: return json_integer(s->value.ival);
	case CONFIG_TYPE_INT64: return json_integer(s->value.llval);
	case CONFIG_TYPE_FLOAT: return json_real(s->value.fval);
	case CONFIG_TYPE_BOOL: return json_boolean(s->value.ival);
	case CONFIG_TYPE_STRING: return json_string(s->value.sval ? s->value.sval : "");
	default: return list_to_json(s, depth);
	}
}

/* ---- values ---- */

static void expected(struct walk *w, const config_setting_t *s, enum conf_key k, const char *found)
{
	struct buf what = {0};
	conf_value_expect(&conf_options[k], &what);
	buf_addc(&what, '\0');
	conf_error(w->l, "%s:%u: %s: %s; expected %s", w->seg->file, line_of(w, s), conf_options[k].name, found,
		   what.p);
	buf_free(&what);
}

/* The setting as the text that a flag would carry. False: refused. */
static bool setting_text(struct walk *w, const config_setting_t *s, enum conf_key k, struct buf *b)
{
	enum conf_type type = conf_options[k].type;
	bool text_wanted = type == CONF_T_STRING || type == CONF_T_ENUM;
	if (s->type == CONFIG_TYPE_STRING) {
		buf_adds(b, s->value.sval ? s->value.sval : "");
		return true;
	}
	if (config_setting_is_aggregate(s) && type == CONF_T_LIST) {
		json_t *v = to_json(s, 0);
		char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
		json_decref(v);
		if (!text) {
			expected(w, s, k, "is nested too deeply or holds text that is no UTF-8");
			return false;
		}
		buf_adds(b, text);
		free(text);
		return true;
	}
	if (config_setting_is_aggregate(s) || type == CONF_T_LIST) {
		expected(w, s, k, config_setting_is_aggregate(s) ? "is a group or list" : "is no list");
		return false;
	}
	if (text_wanted) {
		expected(w, s, k, "is not in quotes");
		return false;
	}
	if (s->type == CONFIG_TYPE_BOOL)
		buf_adds(b, s->value.ival ? "true" : "false");
	else if (s->type == CONFIG_TYPE_FLOAT)
		buf_printf(b, "%f", s->value.fval);
	else
		buf_printf(b, "%lld", s->type == CONFIG_TYPE_INT ? s->value.ival : s->value.llval);
	return true;
}

static void take(struct walk *w, const config_setting_t *s, enum conf_key k)
{
	struct buf text = {0}, where = {0}, source = {0};
	buf_printf(&where, "%s:%u", w->seg->file, line_of(w, s));
	buf_addc(&where, '\0');
	buf_printf(&source, "file:%s", where.p);
	buf_addc(&source, '\0');
	if (setting_text(w, s, k, &text))
		conf_assign(w->l, k, (struct span){text.p, text.len}, where.p, source.p);
	buf_free(&text);
	buf_free(&where);
	buf_free(&source);
}

/* ---- the tree ---- */

static bool is_section(const char *path, size_t len)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (strncmp(conf_options[k].name, path, len) == 0 && conf_options[k].name[len] == '.')
			return true;
	return false;
}

static void unknown(struct walk *w, const config_setting_t *s, const char *path, size_t len)
{
	const char *near = conf_near_key(path, len);
	conf_error(w->l, "%s:%u: there is no key %.80s%s%s%s", w->seg->file, line_of(w, s), path,
		   near ? "; did you mean " : "", near ? near : "; see orchestrad --dump-config for all keys",
		   near ? "?" : "");
}

static void walk_group(struct walk *w, const config_setting_t *group, const char *prefix)
{
	for (int i = 0; i < config_setting_length(group); i++) {
		const config_setting_t *s = config_setting_get_elem(group, (unsigned)i);
		struct buf path = {0};
		buf_printf(&path, "%s%s%s", prefix, *prefix ? "." : "", s->name);
		size_t len = path.len;
		buf_addc(&path, '\0');
		int k = conf_find(path.p, len);
		if (k >= 0)
			take(w, s, (enum conf_key)k);
		else if (s->type == CONFIG_TYPE_GROUP && is_section(path.p, len))
			walk_group(w, s, path.p);
		else if (s->type == CONFIG_TYPE_GROUP && !*prefix && config_setting_length(s) > 0)
			walk_group(w, s, path.p); /* a misspelt section: its keys get their own messages */
		else
			unknown(w, s, path.p, len);
		buf_free(&path);
	}
}

static void parse_segment(struct conf_loading *l, const struct conf_segment *seg)
{
	struct walk w = {l, seg};
	config_t config;
	config_init(&config);
	if (config_read_string(&config, seg->text) == CONFIG_TRUE)
		walk_group(&w, config_root_setting(&config), "");
	else
		conf_error(l, "%s:%u: %s%s", seg->file, seg->line + (unsigned)config_error_line(&config) - 1,
			   config_error_text(&config),
			   strcmp(config_error_text(&config), "syntax error") == 0
				   ? "; a setting looks like name = value; with text in double quotes, "
				     "a section like name: { … };"
				   : "");
	config_destroy(&config);
}

void conf_parse_file(struct conf_loading *l, const char *path) { conf_file_read(l, path, parse_segment); }
