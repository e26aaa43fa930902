/* What people read, out of the same table: --dump-config, etc/orchestra.conf, docs/configuration.md. */
#include <jansson.h>
#include <stdlib.h>

#include "conf-private.h"

static struct span section_of(enum conf_key k)
{
	const char *name = conf_options[k].name, *dot = strchr(name, '.');
	return (struct span){name, dot ? (size_t)(dot - name) : 0};
}

static const char *leaf_of(enum conf_key k)
{
	const char *dot = strchr(conf_options[k].name, '.');
	return dot ? dot + 1 : conf_options[k].name;
}

/* Sections in the order of their first key, keys in the order of the table; those without a
 * section come last. Returns false at the end. Start with *k = -1. */
static bool next_key(int *k, bool done[CONF_KEY_COUNT])
{
	if (*k >= 0)
		done[*k] = true;
	for (int i = 0; *k >= 0 && section_of((enum conf_key) * k).len && i < CONF_KEY_COUNT; i++)
		if (!done[i] && span_eq(section_of((enum conf_key)i), section_of((enum conf_key) * k))) {
			*k = i;
			return true;
		}
	for (int plain = 0; plain < 2; plain++)
		for (int i = 0; i < CONF_KEY_COUNT; i++)
			if (!done[i] && (section_of((enum conf_key)i).len == 0) == plain) {
				*k = i;
				return true;
			}
	return false;
}

static bool same_section(int a, enum conf_key b)
{
	return a >= 0 && span_eq(section_of((enum conf_key)a), section_of(b));
}

/* ---- values in libconfig's words ---- */

static void quoted(const char *s, FILE *out)
{
	fputc('"', out);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			fputc('\\', out);
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			fprintf(out, "\\x%02X", (unsigned char)*s);
		else
			fputc(*s, out);
	}
	fputc('"', out);
}

static bool is_name(const char *s)
{
	if (!((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z')))
		return false;
	for (; *s; s++)
		if (!((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '_' ||
		      *s == '-'))
			return false;
	return true;
}

/* Can libconfig say this? It has no null, no names with blanks; its fractions are not exact. */
static bool is_native(const json_t *v)
{
	const char *key;
	json_t *item;
	size_t i;
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		json_object_foreach ((json_t *)v, key, item)
			if (!is_name(key) || !is_native(item))
				return false;
		return true;
	case JSON_ARRAY:
		json_array_foreach (v, i, item)
			if (!is_native(item))
				return false;
		return true;
	case JSON_INTEGER: /* its lexer reads the digits first: -2^63 would saturate */
		return json_integer_value(v) > INT64_MIN;
	case JSON_STRING:
	case JSON_TRUE:
	case JSON_FALSE: return true;
	default: return false;
	}
}

static void native(const json_t *v, FILE *out)
{
	const char *key;
	json_t *item;
	size_t i;
	long long n;
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		fputs("{ ", out);
		json_object_foreach ((json_t *)v, key, item) {
			fprintf(out, "%s = ", key);
			native(item, out);
			fputs("; ", out);
		}
		fputc('}', out);
		return;
	case JSON_ARRAY:
		fputc('(', out);
		json_array_foreach (v, i, item) {
			fputs(i ? ", " : " ", out);
			native(item, out);
		}
		fputs(json_array_size(v) ? " )" : ")", out);
		return;
	case JSON_STRING: quoted(json_string_value(v), out); return;
	case JSON_INTEGER:
		n = json_integer_value(v);
		fprintf(out, "%lld%s", n, n > INT32_MAX || n < -INT32_MAX ? "L" : "");
		return;
	default: fputs(json_is_true(v) ? "true" : "false", out);
	}
}

static void write_value(enum conf_type type, const char *text, FILE *out)
{
	if (type == CONF_T_INT || type == CONF_T_BOOL) {
		fputs(text, out);
		return;
	}
	json_t *v = type == CONF_T_LIST ? json_loads(text, 0, NULL) : NULL;
	if (v && is_native(v))
		native(v, out);
	else
		quoted(text, out);
	json_decref(v);
}

/* A source in a comment: a file name may hold anything. */
static void comment(const char *s, FILE *out)
{
	for (; *s; s++)
		fputc((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s, out);
}

/* ---- --dump-config ---- */

static void dump_key(const struct conf *c, enum conf_key k, FILE *out)
{
	const struct conf_option *o = &conf_options[k];
	const char *source = conf_source(c, k);
	bool hide = conf_is_secret(c, k) && strcmp(source, "default") != 0;
	fprintf(out, "%s%s%s = ", section_of(k).len ? "\t" : "", hide ? "# " : "", leaf_of(k));
	if (hide)
		fputs("(secret)", out);
	else
		write_value(o->type, c->v[k].text, out);
	fputs(";  # ", out);
	comment(source, out);
	fputc('\n', out);
}

void conf_dump(const struct conf *c, FILE *out)
{
	bool done[CONF_KEY_COUNT] = {false};
	int last = -1;
	fputs("# The configuration in effect, and where each value comes from.\n", out);
	for (int k = -1; next_key(&k, done); last = k) {
		struct span section = section_of((enum conf_key)k);
		if (!same_section(last, (enum conf_key)k)) {
			if (last >= 0 && section_of((enum conf_key)last).len)
				fputs("};\n", out);
			if (section.len)
				fprintf(out, "%.*s: {\n", (int)section.len, section.p);
		}
		dump_key(c, (enum conf_key)k, out);
	}
	if (last >= 0 && section_of((enum conf_key)last).len)
		fputs("};\n", out);
}

/* ---- etc/orchestra.conf ---- */

/* Text as comment lines of at most 96 columns. */
static void wrapped(const char *text, const char *prefix, FILE *out)
{
	size_t column = 0, width = 96 - strlen(prefix);
	while (*text) {
		size_t word = strcspn(text, " ");
		if (column && column + 1 + word > width) {
			fputc('\n', out);
			column = 0;
		}
		fputs(column ? " " : prefix, out);
		column += word + (column ? 1 : 0);
		fwrite(text, 1, word, out);
		text += word;
		text += strspn(text, " ");
	}
	fputc('\n', out);
}

static void sample_key(enum conf_key k, FILE *out)
{
	const struct conf_option *o = &conf_options[k];
	const char *indent = section_of(k).len ? "\t" : "";
	struct buf text = {0};
	buf_adds(&text, o->text);
	buf_adds(&text, " (");
	conf_value_expect(o, &text);
	buf_adds(&text, o->flags & CONF_F_RELOAD ? ")" : "; changes need a restart)");
	buf_addc(&text, '\0');
	wrapped(text.p, section_of(k).len ? "\t# " : "# ", out);
	buf_free(&text);
	fprintf(out, "%s#%s = ", indent, leaf_of(k));
	write_value(o->type, o->dflt, out);
	fputs(";\n", out);
}

void conf_write_sample(FILE *out)
{
	bool done[CONF_KEY_COUNT] = {false};
	int last = -1;
	fputs("# AI Orchestra. Every key with its default: remove the # of what you change, then\n"
	      "# `orchestrad --check -c FILE`, and `orchestractl reload` for a running daemon.\n"
	      "# The manual is docs/configuration.md. Read without -c when installed as\n"
	      "# " CONF_SYSTEM_FILE ". Other files: @include \"name\" on a line of its own, outside\n"
	      "# of sections; what is read later wins.\n",
	      out);
	for (int k = -1; next_key(&k, done); last = k) {
		struct span section = section_of((enum conf_key)k);
		if (!same_section(last, (enum conf_key)k)) {
			fputs(last >= 0 && section_of((enum conf_key)last).len ? "};\n\n" : "\n", out);
			if (section.len)
				fprintf(out, "%.*s: {\n", (int)section.len, section.p);
		} else {
			fputc('\n', out);
		}
		sample_key((enum conf_key)k, out);
	}
	if (last >= 0 && section_of((enum conf_key)last).len)
		fputs("};\n", out);
}
