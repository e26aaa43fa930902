/* Changing one setting in the text that a person wrote.
 *
 * The text is walked with libconfig's grammar: comments, strings, settings, groups, lists, @include lines. Nothing is
 * written anew but the value itself, so comments, order, indentation and line ends stay as they are. What a value holds
 * besides itself (a comment between the items of a list) would be lost, and is refused. Whoever calls reads the result
 * with the real parser before it takes the place of the file. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf-private.h"

#define NONE SIZE_MAX

struct edit {
	const char *text;
	size_t len, at;
	const char *section, *name; /* looked for: "sync" or "", "debounce_ms" */
	bool comment;		    /* one was passed since this was cleared */
	const char *wrong;
	/* the last of them */
	size_t value_from, value_to;
	bool value_comment;
	size_t open, close;	    /* braces of the section */
	size_t last_from, last_end; /* its last setting, terminator included; NONE when it is empty */
};

/* ---- the walk ---- */

static char look(const struct edit *e, size_t ahead) { return e->at + ahead < e->len ? e->text[e->at + ahead] : '\0'; }

static bool fail(struct edit *e, const char *why)
{
	e->wrong = e->wrong ? e->wrong : why;
	return false;
}

static bool skip_comment(struct edit *e)
{
	e->comment = true;
	if (look(e, 0) == '#' || look(e, 1) == '/') {
		while (e->at < e->len && look(e, 0) != '\n')
			e->at++;
		return true;
	}
	const char *end = memmem(e->text + e->at + 2, e->len - e->at - 2, "*/", 2);
	if (!end)
		return fail(e, "a comment never ends");
	e->at = (size_t)(end - e->text) + 2;
	return true;
}

static bool skip_blanks(struct edit *e)
{
	while (e->at < e->len) {
		char c = look(e, 0);
		if (c == ' ' || (c >= '\t' && c <= '\r'))
			e->at++;
		else if (c == '#' || (c == '/' && (look(e, 1) == '/' || look(e, 1) == '*'))) {
			if (!skip_comment(e))
				return false;
		} else
			break;
	}
	return true;
}

static bool skip_string(struct edit *e)
{
	for (e->at++; e->at < e->len && look(e, 0) != '"'; e->at++)
		if (look(e, 0) == '\\')
			e->at++;
	if (e->at >= e->len)
		return fail(e, "a string never ends");
	e->at++;
	return true;
}

static bool is_name(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '*' ||
	       c == '-';
}

/* "a" "b" is one string for libconfig. */
static bool skip_strings(struct edit *e, size_t *end_r)
{
	do {
		if (!skip_string(e))
			return false;
		*end_r = e->at;
		bool before = e->comment;
		size_t at = e->at;
		if (!skip_blanks(e))
			return false;
		if (look(e, 0) != '"') { /* those were behind the value */
			e->at = at;
			e->comment = before;
			return true;
		}
	} while (true);
}

static bool settings(struct edit *e, bool wanted, unsigned depth);

/* Of a list or array, with its brackets. */
static bool skip_items(struct edit *e, char close, unsigned depth);

static bool skip_value(struct edit *e, size_t *end_r, unsigned depth)
{
	char c = look(e, 0);
	bool ok = true;
	if (depth > CONF_NEST_MAX)
		return fail(e, "groups and lists are nested too deeply");
	if (c == '"')
		return skip_strings(e, end_r);
	if (c == '{') {
		e->at++;
		ok = settings(e, false, depth + 1);
		ok = ok && (look(e, 0) == '}' || fail(e, "a group never ends"));
		e->at += ok;
	} else if (c == '(' || c == '[') {
		ok = skip_items(e, c == '(' ? ')' : ']', depth);
	} else {
		size_t from = e->at;
		while (is_name(look(e, 0)) || look(e, 0) == '.' || look(e, 0) == '+')
			e->at++;
		ok = e->at > from || fail(e, "a value is missing");
	}
	*end_r = e->at;
	return ok;
}

static bool skip_items(struct edit *e, char close, unsigned depth)
{
	size_t end;
	e->at++;
	for (;;) {
		if (!skip_blanks(e))
			return false;
		if (look(e, 0) == close)
			break;
		if (look(e, 0) == ',')
			e->at++;
		else if (!skip_value(e, &end, depth + 1))
			return false;
	}
	e->at++;
	return true;
}

static bool skip_include(struct edit *e)
{
	e->at += strlen("@include");
	if (!skip_blanks(e) || look(e, 0) != '"')
		return fail(e, "@include names no file");
	return skip_string(e);
}

/* The section that is looked for: its braces, and its settings. */
static bool enter(struct edit *e, size_t *end_r)
{
	e->open = e->at++;
	e->last_from = e->last_end = NONE;
	if (!settings(e, true, 1) || look(e, 0) != '}')
		return fail(e, "a group never ends");
	e->close = e->at++;
	*end_r = e->at;
	return true;
}

/* One: name, sign, value, terminator. `wanted`: in the section that is looked for. */
static bool setting(struct edit *e, bool wanted, unsigned depth)
{
	size_t from = e->at, end;
	while (is_name(look(e, 0)))
		e->at++;
	struct span name = {e->text + from, e->at - from};
	if (!name.len)
		return fail(e, "a setting has no name");
	if (!skip_blanks(e) || (look(e, 0) != ':' && look(e, 0) != '='))
		return fail(e, "a setting has no value");
	e->at++;
	if (!skip_blanks(e))
		return false;
	size_t value = e->at;
	e->comment = false;
	bool group = look(e, 0) == '{', mine = wanted && span_eq(name, SPAN(e->name));
	bool section = depth == 0 && *e->section && group && span_eq(name, SPAN(e->section));
	if (!(section ? enter(e, &end) : skip_value(e, &end, depth)))
		return false;
	if (mine) {
		e->value_from = value;
		e->value_to = end;
		e->value_comment = e->comment;
	}
	size_t at = e->at;
	if (!skip_blanks(e))
		return false;
	if (look(e, 0) == ';' || look(e, 0) == ',')
		end = ++e->at;
	else
		e->at = at;
	if (wanted) {
		e->last_from = from;
		e->last_end = end;
	}
	return true;
}

static bool settings(struct edit *e, bool wanted, unsigned depth)
{
	for (;;) {
		if (!skip_blanks(e))
			return false;
		if (e->at >= e->len || look(e, 0) == '}')
			return true;
		bool include = depth == 0 && look(e, 0) == '@';
		if (!(include ? skip_include(e) : setting(e, wanted, depth)))
			return false;
	}
}

static bool walk(struct edit *e)
{
	if (e->len >= 3 && memcmp(e->text, "\xef\xbb\xbf", 3) == 0)
		e->at = 3;
	return settings(e, !*e->section, 0) && (e->at == e->len || fail(e, "there is a } too many"));
}

/* ---- a value as libconfig reads it ---- */

static void quote(struct span s, struct buf *out)
{
	buf_addc(out, '"');
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (c == '"' || c == '\\')
			buf_addc(out, '\\');
		if (c == '\n')
			buf_adds(out, "\\n");
		else if (c < ' ' || c == 127)
			buf_printf(out, "\\x%02x", c);
		else
			buf_addc(out, (char)c);
	}
	buf_addc(out, '"');
}

static bool plain_name(const char *s)
{
	bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '*';
	while (is_name(*s))
		s++;
	return letter && !*s;
}

/* False: JSON that libconfig's lists do not have. */
static bool from_json(const json_t *v, struct buf *out)
{
	const char *key;
	json_t *item;
	size_t i;
	bool ok = true;
	switch (json_typeof(v)) {
	case JSON_STRING: quote((struct span){json_string_value(v), json_string_length(v)}, out); return true;
	case JSON_TRUE: buf_adds(out, "true"); return true;
	case JSON_FALSE: buf_adds(out, "false"); return true;
	case JSON_INTEGER:
		buf_printf(out, "%lld%s", (long long)json_integer_value(v),
			   llabs(json_integer_value(v)) > INT32_MAX ? "L" : "");
		return true;
	case JSON_ARRAY:
		buf_addc(out, '(');
		json_array_foreach (v, i, item) {
			buf_adds(out, i ? ", " : "");
			ok = ok && from_json(item, out);
		}
		buf_addc(out, ')');
		return ok;
	case JSON_OBJECT:
		buf_addc(out, '{');
		json_object_foreach ((json_t *)(uintptr_t)v, key, item) {
			buf_printf(out, " %s = ", key);
			ok = ok && plain_name(key) && from_json(item, out);
			buf_addc(out, ';');
		}
		buf_adds(out, " }");
		return ok;
	default: return false; /* null, and reals: %f would change them */
	}
}

static void write_list(const char *value, struct buf *out)
{
	json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
	size_t before = out->len;
	if (!v || !from_json(v, out)) { /* a string that holds the list is as good */
		out->len = before;
		quote(SPAN(value), out);
	}
	json_decref(v);
}

static void write_value(enum conf_key k, const char *value, struct buf *out)
{
	switch (conf_options[k].type) {
	case CONF_T_INT:
	case CONF_T_BOOL:
		buf_adds(out, value);
		/* "4294967296" without it would be read as 0 */
		if (strtoll(value, NULL, 10) > INT32_MAX)
			buf_addc(out, 'L');
		return;
	case CONF_T_LIST: write_list(value, out); return;
	default: quote(SPAN(value), out);
	}
}

/* ---- the change ---- */

static const char *line_end(const struct edit *e)
{
	const char *newline = memchr(e->text, '\n', e->len);
	return newline && newline > e->text && newline[-1] == '\r' ? "\r\n" : "\n";
}

static size_t line_start(const struct edit *e, size_t at)
{
	while (at && e->text[at - 1] != '\n')
		at--;
	return at;
}

/* The blanks that the line of `at` begins with. */
static struct span indent_of(const struct edit *e, size_t at)
{
	size_t from = line_start(e, at), n = 0;
	while (from + n < at && (e->text[from + n] == ' ' || e->text[from + n] == '\t'))
		n++;
	return (struct span){e->text + from, n};
}

static bool only_blanks(const struct edit *e, size_t from, size_t to)
{
	for (; from < to; from++)
		if (e->text[from] != ' ' && e->text[from] != '\t')
			return false;
	return true;
}

static void add_setting(const struct edit *e, enum conf_key k, const char *value, struct buf *out)
{
	buf_printf(out, "%s = ", e->name);
	write_value(k, value, out);
	buf_addc(out, ';');
}

/* Before the closing brace: on a line of its own where that has one. */
static void add_to_section(struct edit *e, enum conf_key k, const char *value, struct buf *out)
{
	size_t start = line_start(e, e->close);
	bool own_line = start > e->open && only_blanks(e, start, e->close);
	size_t at = own_line ? start : e->close;
	buf_add(out, e->text, at);
	if (own_line) {
		struct span outer = indent_of(e, e->close), inner = outer;
		bool like_last = e->last_from != NONE && line_start(e, e->last_from) > e->open;
		if (like_last)
			inner = indent_of(e, e->last_from);
		buf_add(out, inner.p, inner.len);
		if (!like_last)
			buf_addc(out, '\t');
		add_setting(e, k, value, out);
		buf_adds(out, line_end(e));
	} else {
		buf_adds(out, at && (e->text[at - 1] == ' ' || e->text[at - 1] == '\t') ? "" : " ");
		add_setting(e, k, value, out);
		buf_addc(out, ' ');
	}
	buf_add(out, e->text + at, e->len - at);
}

static void add_at_end(const struct edit *e, enum conf_key k, const char *value, struct buf *out)
{
	const char *nl = line_end(e);
	buf_add(out, e->text, e->len);
	if (e->len && e->text[e->len - 1] != '\n')
		buf_adds(out, nl);
	if (e->len)
		buf_adds(out, nl);
	if (*e->section)
		buf_printf(out, "%s: {%s\t", e->section, nl);
	add_setting(e, k, value, out);
	buf_adds(out, nl);
	if (*e->section)
		buf_printf(out, "};%s", nl);
}

static void change_value(const struct edit *e, enum conf_key k, const char *value, struct buf *out)
{
	buf_add(out, e->text, e->value_from);
	write_value(k, value, out);
	buf_add(out, e->text + e->value_to, e->len - e->value_to);
}

static unsigned line_of(const struct edit *e, size_t at)
{
	unsigned line = 1;
	for (size_t i = 0; i < at && i < e->len; i++)
		line += e->text[i] == '\n';
	return line;
}

bool conf_edit(struct span text, enum conf_key k, const char *value, struct buf *out, char **error_r)
{
	const char *name = conf_options[k].name, *dot = strchr(name, '.');
	char section[32] = "";
	if (dot) {
		AN((size_t)(dot - name) < sizeof(section));
		memcpy(section, name, (size_t)(dot - name));
	}
	struct edit e = {.text = text.len ? text.p : "",
			 .len = text.len,
			 .section = section,
			 .name = dot ? dot + 1 : name,
			 .value_from = NONE,
			 .open = NONE,
			 .last_from = NONE};
	if (!walk(&e))
		return util_error(error_r, "line %u: %s; mend it, then save", line_of(&e, e.at), e.wrong);
	if (e.value_from != NONE && e.value_comment)
		return util_error(error_r,
				  "line %u: the value of %s holds a comment, which would be lost; change it by hand",
				  line_of(&e, e.value_from), name);
	if (e.value_from != NONE)
		change_value(&e, k, value, out);
	else if (e.open != NONE)
		add_to_section(&e, k, value, out);
	else
		add_at_end(&e, k, value, out);
	return true;
}
