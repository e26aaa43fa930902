/* Changing one setting of an arbitrary file. First byte: which key. What the parser took before, it takes afterwards, with that
 * value and no other changed; or the change is refused. */
#include <stdio.h>
#include <stdlib.h>

#include "conf.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libconfig 1.5 forgets the string it was reading when the text behind it is wrong. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libconfig.so\n"; }

static struct conf *load(struct span text)
{
	struct conf_draft draft = {"/dev/null", text};
	struct conf_input in = {.file = "/dev/null", .parts = true, .drafts = &draft, .ndrafts = 1};
	char *error = NULL;
	struct conf *c = conf_load(&in, &error);
	free(error);
	return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	log_set_level(LOG_LV_ERROR);
	if (size < 1 || memchr(data + 1, 0, size - 1) || memmem(data + 1, size - 1, "@include", 8))
		return 0;
	enum conf_key k = (enum conf_key)(data[0] % CONF_KEY_COUNT);
	struct span text = {(const char *)data + 1, size - 1};
	struct conf_input none = {.file = "/dev/null", .parts = true};
	struct buf out = {0};
	char *error = NULL;
	struct conf *dflt = conf_load(&none, &error), *before = load(text);
	AN(dflt);
	if (!conf_edit(text, k, conf_str(dflt, k), &out, &error)) {
		AN(error && *error);
		free(error);
	} else if (before) {
		/* A section that comes twice is one file cut in two only with an @include between: libconfig refuses it else. */
		struct conf *after = load((struct span){out.p, out.len});
		AN(after);
		for (int i = 0; i < CONF_KEY_COUNT; i++)
			AN(strcmp(conf_str(after, (enum conf_key)i),
				  conf_str(i == (int)k ? dflt : before, (enum conf_key)i)) == 0);
		conf_free(&after);
	}
	conf_free(&dflt);
	conf_free(&before);
	buf_free(&out);
	return 0;
}
