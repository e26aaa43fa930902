#include "live.h"

#include <stdlib.h>

#define PATIENCE_MS 20000

json_t *live_fetch(struct ctl *c, const char *fingerprint_key, int *code_r)
{
	const char *const pairs[][2] = {{"fingerprint_key", fingerprint_key}};
	char *path = client_path("/v1/admin/config", pairs, 1);
	struct answer a;
	json_t *o = NULL;
	*code_r = client_request(c, "GET", path, NULL, &a);
	free(path);
	if (*code_r == CTL_OK && a.status != 200)
		*code_r = output_problem(&a);
	else if (*code_r == CTL_OK)
		o = output_parse(&a);
	client_free(&a);
	if (!o && *code_r == CTL_OK)
		*code_r = CTL_FAILED;
	return o;
}

const json_t *live_key(const json_t *config, const char *key)
{
	json_t *o;
	size_t i;
	json_array_foreach (json_object_get(config, "keys"), i, o)
		if (strcmp(output_str(o, "key"), key) == 0)
			return o;
	return NULL;
}

/* The supervisor counts in ms, and has no other words for the rest. */
static char *line_of(const json_t *body)
{
	json_t *copy = json_copy((json_t *)(uintptr_t)body);
	const char *time = json_string_value(json_object_get(copy, "for"));
	struct buf b = {0};
	int64_t us;
	if (time && conf_duration(SPAN(time), &us))
		json_object_set_new(copy, "for_ms", json_integer(us / 1000));
	json_object_del(copy, "for");
	char *text = json_dumps(copy, JSON_COMPACT);
	buf_printf(&b, "set %s", text ? text : "{}");
	buf_addc(&b, '\0');
	free(text);
	json_decref(copy);
	return b.p;
}

json_t *live_patch(struct ctl *c, json_t *body, int *code_r)
{
	struct answer a;
	json_t *o = NULL;
	char *text = json_dumps(body, JSON_COMPACT), *line = line_of(body);
	json_decref(body);
	*code_r = client_ask(c, PATIENCE_MS, "PATCH", "/v1/admin/config", text, line, &a);
	free(text);
	free(line);
	if (*code_r == CTL_OK && a.status != 200)
		*code_r = output_problem(&a);
	else if (*code_r == CTL_OK)
		o = output_parse(&a);
	client_free(&a);
	if (!o && *code_r == CTL_OK)
		*code_r = CTL_FAILED;
	return o;
}

void live_say_audit(const json_t *answer)
{
	const char *said = output_str(answer, "audit");
	if (*said && strcmp(said, "recorded") != 0)
		fprintf(stderr, "orchestractl: the change is in force, but the audit log lacks it: %s\n", said);
}

struct conf *live_read_file(const char *file)
{
	struct conf_input input = {.file = file, .parts = true};
	char *error = NULL;
	struct conf *conf = conf_load(&input, &error);
	if (!conf)
		fprintf(stderr, "orchestractl: %s\n", error ? error : "the file cannot be read");
	free(error);
	return conf;
}

bool live_is_default(const char *source) { return strcmp(source, "default") == 0; }

int live_check(const char *key, const char *value)
{
	int k = conf_find(key, strlen(key));
	const char *near = k < 0 ? conf_near(key, strlen(key)) : NULL;
	char *error = NULL;
	if (k < 0) {
		fprintf(stderr, "orchestractl: there is no key %s%s%s%s\n", key, near ? "; did you mean " : "",
			near ? near : "; orchestractl config list shows all", near ? "?" : "");
		return CTL_USAGE;
	}
	if (!conf_is_reloadable((enum conf_key)k)) {
		fprintf(stderr,
			"orchestractl: %s cannot change in a running daemon; write it into the file and restart (orchestractl drain, "
			"then start)\n",
			key);
		return CTL_FAILED;
	}
	struct conf_input none = {.file = "/dev/null", .parts = true};
	struct conf *conf = conf_load(&none, &error);
	bool ok = conf && (!value || conf_try(conf, (enum conf_key)k, SPAN(value), &error));
	if (!ok)
		fprintf(stderr, "orchestractl: %s\n", error ? error : "the value is refused");
	free(error);
	conf_free(&conf);
	return ok ? CTL_OK : CTL_USAGE;
}

bool live_duration(const char *option, const char *text, int64_t *us_r)
{
	if (conf_duration(SPAN(text), us_r))
		return true;
	(void)ctl_usage("%s: \"%s\" is no time; expected for example 30s, 10min or 2h", option, text);
	return false;
}

void live_print_value(const json_t *key)
{
	if (json_is_true(json_object_get(key, "secret")))
		fputs(json_is_true(json_object_get(key, "set")) ? "(secret)" : "(not set)", stdout);
	else
		output_line(output_str(key, "value"), 0);
}
