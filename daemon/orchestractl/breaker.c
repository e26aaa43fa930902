/* breaker list, open, close, reset: what stands between the daemon and what it depends on. */
#include <stdlib.h>

#include "ctl.h"

static void show_row(struct ctl *c, const json_t *o)
{
	const char *state = output_str(o, "state");
	bool closed = strcmp(state, "closed") == 0, forced = json_is_true(json_object_get(o, "forced"));
	const json_t *next = json_object_get(o, "next_probe_ms"), *throttled = json_object_get(o, "throttled_ms");
	enum colour colour = closed && !forced ? C_GREEN : strcmp(state, "open") == 0 ? C_RED : C_YELLOW;
	char probe[24] = "-";
	if (next)
		snprintf(probe, sizeof(probe), "%.1fs", (double)json_integer_value(next) / 1000);
	printf("%-16s %s%-9s%s %-6s %7lld %6.0f%% %6.0f%% %6lld %7lld %8lld %7s  ", output_str(o, "name"),
	       output_colour(c, colour), state, output_colour(c, C_PLAIN), forced ? "yes" : "no",
	       (long long)json_integer_value(json_object_get(o, "calls")),
	       100 * json_number_value(json_object_get(o, "failure_rate")),
	       100 * json_number_value(json_object_get(o, "slow_rate")),
	       (long long)json_integer_value(json_object_get(o, "consecutive_failures")),
	       (long long)json_integer_value(json_object_get(o, "opened")),
	       (long long)json_integer_value(json_object_get(o, "rejected")), probe);
	if (json_is_true(json_object_get(o, "misconfigured")))
		fputs("credentials refused: ", stdout);
	if (throttled)
		printf("throttled for %.1f s; ", (double)json_integer_value(throttled) / 1000);
	output_line(output_str(o, "reason"), 0);
	putchar('\n');
}

static void show_head(struct ctl *c)
{
	printf("%s%-16s %-9s %-6s %7s %7s %7s %6s %7s %8s %7s  %s%s\n", output_colour(c, C_DIM), "NAME", "STATE",
	       "FORCED", "CALLS", "FAILED", "SLOW", "IN ROW", "OPENED", "REJECTED", "PROBE", "LAST REASON",
	       output_colour(c, C_PLAIN));
}

static void show(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *row, *rows = json_object_get(o, "breakers");
	show_head(c);
	json_array_foreach (rows, i, row)
		show_row(c, row);
	if (!rows)
		show_row(c, o);
}

int breaker_command(struct ctl *c, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[argc - 1], "--help") == 0) {
		puts("Usage: orchestractl breaker list\n"
		     "       orchestractl breaker open|close|reset NAME\n"
		     "Shows the circuit breakers, counts of the last 10 s; opens or closes one by hand until it is reset.");
		return CTL_OK;
	}
	if (argc == 2 && strcmp(argv[1], "list") == 0)
		return client_show(c, "GET", "/v1/admin/breakers", NULL, show);
	if (argc != 3 ||
	    (strcmp(argv[1], "open") != 0 && strcmp(argv[1], "close") != 0 && strcmp(argv[1], "reset") != 0))
		return ctl_usage(
			"breaker: expected \"list\", or \"open\", \"close\" or \"reset\" and the NAME of a breaker");
	struct buf path = {0};
	char *name = client_escape(argv[2]);
	buf_printf(&path, "/v1/admin/breakers/%s/%s", name, argv[1]);
	buf_addc(&path, '\0');
	int code = client_show(c, "POST", path.p, NULL, show);
	buf_free(&path);
	free(name);
	return code;
}
