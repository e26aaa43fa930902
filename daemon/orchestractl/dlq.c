/* dlq: what the store did not accept. */
#include <stdlib.h>

#include "ctl.h"

#define REASON_COLUMNS 40
#define PREVIEW_COLUMNS 40

static const char usage[] =
	"Usage: orchestractl dlq list\n"
	"       orchestractl dlq show NUMBER\n"
	"       orchestractl dlq retry NUMBER... | --all\n"
	"       orchestractl dlq discard NUMBER... | --all\n"
	"Dead letters: writes that the store did not accept, with the reason. Once the cause is gone they can be tried\n"
	"again; what was written to the same memory since wins. What is discarded is gone.";

static int answered(struct ctl *c, struct answer *a, int code)
{
	if (code == CTL_OK && c->json)
		output_raw(a);
	if (code == CTL_OK && a->status != 200)
		code = c->json ? CTL_FAILED : output_problem(a);
	return code;
}

/* ---- list, show ---- */

static void show_line(struct ctl *c, const json_t *l)
{
	printf("%7lld  %.19sZ  %-9.9s %5lld  ", (long long)json_integer_value(json_object_get(l, "number")),
	       output_str(l, "at"), output_str(l, "operation"),
	       (long long)json_integer_value(json_object_get(l, "tries")));
	output_line(output_str(l, "reason"), REASON_COLUMNS);
	fputs("  ", stdout);
	fputs(output_colour(c, C_DIM), stdout);
	output_line(*output_str(l, "preview") ? output_str(l, "preview") : output_str(l, "id"), PREVIEW_COLUMNS);
	puts(output_colour(c, C_PLAIN));
}

static int list(struct ctl *c)
{
	struct buf path = {0};
	char cursor[32] = "";
	bool more = true;
	int code = CTL_OK;
	size_t shown = 0, i;
	json_t *l;
	while (more && code == CTL_OK) {
		struct answer a;
		path.len = 0;
		buf_printf(&path, "/v1/admin/dead-letters?limit=1000%s%s", *cursor ? "&cursor=" : "", cursor);
		buf_addc(&path, 0);
		code = answered(c, &a, client_request(c, "GET", path.p, NULL, &a));
		json_t *o = code == CTL_OK ? output_parse(&a) : NULL;
		if (!c->json)
			json_array_foreach (json_object_get(o, "dead_letters"), i, l) {
				if (!shown++)
					printf("%s NUMBER  AT                    OPERATION TRIES  %-40s  WHAT%s\n",
					       output_colour(c, C_DIM), "REASON", output_colour(c, C_PLAIN));
				show_line(c, l);
			}
		snprintf(cursor, sizeof(cursor), "%s", output_str(o, "next_cursor"));
		more = *cursor != 0;
		json_decref(o);
		client_free(&a);
	}
	if (code == CTL_OK && !shown && !c->json)
		puts("There are no dead letters.");
	buf_free(&path);
	return code;
}

static void show_fields(const json_t *o)
{
	const char *key;
	json_t *v;
	json_object_foreach ((json_t *)(uintptr_t)o, key, v) {
		char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_INDENT(2));
		printf("%-10s ", key);
		if (text)
			puts(text);
		else
			output_line(json_string_value(v), 0), putchar('\n');
		free(text);
	}
}

/* ---- one letter, or all ---- */

static bool is_number(const char *s) { return *s && strspn(s, "0123456789") == strlen(s) && strlen(s) < 11; }

static int show(struct ctl *c, const char *number)
{
	struct answer a;
	struct buf path = {0};
	buf_printf(&path, "/v1/admin/dead-letters/%s", number);
	buf_addc(&path, 0);
	int code = answered(c, &a, client_request(c, "GET", path.p, NULL, &a));
	if (code == CTL_OK && !c->json) {
		json_t *o = output_parse(&a);
		show_fields(o);
		json_decref(o);
	}
	client_free(&a);
	buf_free(&path);
	return code;
}

static int order_all(struct ctl *c, bool retry)
{
	struct answer a;
	int code = retry ? client_request(c, "POST", "/v1/admin/dead-letters:retry", NULL, &a)
			 : client_request(c, "DELETE", "/v1/admin/dead-letters?confirm=true", NULL, &a);
	code = answered(c, &a, code);
	if (code == CTL_OK && !c->json) {
		json_t *o = output_parse(&a);
		printf("%lld %s, %lld remain\n",
		       (long long)json_integer_value(json_object_get(o, retry ? "stored" : "discarded")),
		       retry ? "stored" : "discarded", (long long)json_integer_value(json_object_get(o, "remaining")));
		json_decref(o);
	}
	client_free(&a);
	return code;
}

static int order_one(struct ctl *c, bool retry, const char *number)
{
	struct answer a;
	struct buf path = {0};
	buf_printf(&path, "/v1/admin/dead-letters/%s%s", number, retry ? "/retry" : "");
	buf_addc(&path, 0);
	int code = answered(c, &a, client_request(c, retry ? "POST" : "DELETE", path.p, NULL, &a));
	if (code == CTL_OK && !c->json)
		printf("%s %s\n", retry ? "Stored" : "Discarded", number);
	client_free(&a);
	buf_free(&path);
	return code;
}

static int orders(struct ctl *c, bool retry, int argc, char **argv)
{
	int code = CTL_OK;
	if (argc == 1 && strcmp(argv[0], "--all") == 0)
		return order_all(c, retry);
	for (int i = 0; i < argc; i++)
		if (!is_number(argv[i]))
			return ctl_usage("dlq: \"%s\" is no number of a dead letter", argv[i]);
	for (int i = 0; i < argc && code != CTL_UNREACHABLE; i++) {
		int one = order_one(c, retry, argv[i]);
		code = one == CTL_OK ? code : one;
	}
	return code;
}

int dlq_run(struct ctl *c, int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	if (argc > 1 && strcmp(argv[argc - 1], "--help") == 0) {
		puts(usage);
		return CTL_OK;
	}
	if (strcmp(verb, "list") == 0 && argc == 2)
		return list(c);
	if (strcmp(verb, "show") == 0 && argc == 3 && is_number(argv[2]))
		return show(c, argv[2]);
	if (strcmp(verb, "retry") == 0 && argc > 2)
		return orders(c, true, argc - 2, argv + 2);
	if (strcmp(verb, "discard") == 0 && argc > 2)
		return orders(c, false, argc - 2, argv + 2);
	return ctl_usage(
		"dlq: expected \"list\", \"show NUMBER\", or \"retry\" or \"discard\" with NUMBER... or --all");
}
