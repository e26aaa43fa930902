#include "words/language-private.h"

#include <jansson.h>
#include <strings.h>

const struct language_row language_rows[LANGUAGES] = {
#define LANGUAGE(id, name, iso, stemmer, flags) [LANGUAGE_##id] = {name, iso, stemmer, flags},
#include "words/language.def"
#undef LANGUAGE
};

static bool is(struct span s, const char *name)
{
	return s.len && strlen(name) == s.len && strncasecmp(s.p, name, s.len) == 0;
}

bool language_find(struct span name, enum language *l_r)
{
	for (unsigned i = 0; i < LANGUAGES; i++) {
		if (!is(name, language_rows[i].name) && !is(name, language_rows[i].iso))
			continue;
		*l_r = (enum language)i;
		return true;
	}
	*l_r = LANGUAGE_NORWEGIAN; /* both ways of writing it; Snowball has one algorithm */
	return is(name, "nb") || is(name, "nn");
}

static const struct language_row *row(enum language l)
{
	return &language_rows[(unsigned)l < LANGUAGES ? l : LANGUAGE_NONE];
}

const char *language_name(enum language l) { return row(l)->name; }
const char *language_iso(enum language l) { return row(l)->iso; }

void language_write_settings(enum language l, struct buf *b)
{
	if (l == LANGUAGE_ENGLISH)
		buf_adds(b, "{}");
	else
		buf_printf(b, "{\"language\":\"%s\"}", language_name(l));
}

enum language language_stored(struct span name)
{
	enum language l = LANGUAGE_ENGLISH;
	return !name.len || language_find(name, &l) ? l : LANGUAGE_NONE;
}

enum language language_read_settings(struct span json)
{
	json_t *o = json_loadb(json.p ? json.p : "", json.len, 0, NULL);
	const json_t *v = json_object_get(o, "language");
	enum language l = language_stored((struct span){json_string_value(v), json_string_length(v)});
	json_decref(o);
	return l;
}
