/* Any text, any field, any known secret: the redactor ends within its bounds and lets no known secret through; every format makes
 * one line (the journal: lines that are fields), JSON is JSON, and nothing in it steers a terminal. */
#include <jansson.h>
#include <stdlib.h>

#include "log-private.h"
#include "log_redact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct log_site site = {.file = "fuzz.c",
			       .func = "fuzz",
			       .line = 1,
			       .level = LOG_LV_WARN,
			       .subsystem = LOG_IN_API,
			       .event = LOG_EV_worker_died};

static void check_line(const char *line, size_t n)
{
	AN(n && n <= LOG_LINE_BYTES && line[n - 1] == '\n' && util_utf8_valid(line, n));
	for (size_t i = 0; i + 1 < n; i++)
		AN((unsigned char)line[i] >= 0x20 && line[i] != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char line[LOG_LINE_BYTES], text[LOG_LINE_BYTES];
	size_t known = size ? data[0] % 32u : 0;
	if (size < known + 1)
		return 0;
	char *secret = util_strndup((const char *)data + 1, known),
	     *rest = util_strndup((const char *)data + 1 + known, size - known - 1);
	log_redact_forget();
	log_redact_value(secret);
	size_t cap = size % 7 ? sizeof(text) : 1 + size % 61;
	size_t n = log_redact(text, cap, rest);
	AN(n < cap && strlen(text) == n);
	bool looked_for = strlen(secret) >= LOG_REDACT_LEAST && *secret != '/';
	AN(!looked_for || strstr("(secret)", secret) || strstr(secret, "secret") || !strstr(text, secret) ||
	   strchr(secret, '(') || strchr(secret, ')'));
	log_make_safe(text);
	struct log_request r = {.id = "id", .trace = "0af7651916cd43dd8448eb211c80319c"};
	struct log_field fields[] = {LOG_S("a", rest), LOG_I("b", size), LOG_S("c", secret), {.name = NULL}};
	struct log_line l = {&site, fields, "api.0", text, &r, (int64_t)size};
	n = log_format_text(&l, line);
	check_line(line, n);
	n = log_format_json(&l, line);
	check_line(line, n);
	json_t *o = json_loadb(line, n, 0, NULL);
	AN(o && json_object_get(o, "message"));
	json_decref(o);
	n = log_format_journal(&l, line);
	AN(n && n <= LOG_LINE_BYTES && line[n - 1] == '\n');
	for (const char *p = line; p < line + n;) {
		const char *end = memchr(p, '\n', (size_t)(line + n - p));
		AN(end && memchr(p, '=', (size_t)(end - p)) && *p >= 'A' && *p <= 'Z');
		p = end + 1;
	}
	free(secret);
	free(rest);
	return 0;
}
