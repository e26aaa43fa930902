/* add, search, get, list, delete. */
#include <stdlib.h>

#include "ctl.h"

/* ---- arguments ---- */

/* Everything of standard input, or of the words of the command line. NULL: nothing there. */
static char *read_text(int argc, char **argv)
{
	struct buf b = {0};
	char piece[8192];
	size_t n;
	if (argc == 1 && strcmp(argv[0], "-") == 0) {
		while ((n = fread(piece, 1, sizeof(piece), stdin)) > 0)
			buf_add(&b, piece, n);
		while (b.len && b.p[b.len - 1] == '\n')
			b.len--;
	} else {
		for (int i = 0; i < argc; i++) {
			if (i)
				buf_addc(&b, ' ');
			buf_adds(&b, argv[i]);
		}
	}
	if (b.len == 0) {
		buf_free(&b);
		return NULL;
	}
	buf_addc(&b, '\0');
	return b.p;
}

static bool set_json(json_t *o, const char *key, const char *text)
{
	json_error_t e;
	json_t *v = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!v || !json_is_object(v)) {
		fprintf(stderr, "orchestractl: --%s must be a JSON object: %s\n", key,
			v ? "it is another kind of value" : e.text);
		json_decref(v);
		return false;
	}
	json_object_set_new(o, key, v);
	return true;
}

/* The daemon knows the limits; here it must only be a number. */
static bool set_number(json_t *o, const char *key, const char *text, bool integer)
{
	char *end;
	double x = strtod(text, &end);
	if (end == text || *end || !(x > -1e15 && x < 1e15) || (integer && x != (double)(long long)x)) {
		fprintf(stderr, "orchestractl: --%s must be a %snumber, not \"%s\"\n", key, integer ? "whole " : "",
			text);
		return false;
	}
	json_object_set_new(o, key, integer ? json_integer((json_int_t)x) : json_real(x));
	return true;
}

static bool set_text(json_t *o, const char *key, const char *text)
{
	json_t *v = json_string(text);
	if (!v) {
		fprintf(stderr, "orchestractl: the %s is no valid UTF-8\n", key);
		return false;
	}
	json_object_set_new(o, key, v);
	return true;
}

static int post(struct ctl *c, const char *path, json_t *body, struct answer *a)
{
	if (c->namespace)
		json_object_set_new(body, "namespace", json_string(c->namespace));
	char *text = json_dumps(body, JSON_COMPACT);
	AN(text);
	int code = client_request(c, "POST", path, text, a);
	free(text);
	return code;
}

/* ---- add ---- */

static const char add_help[] =
	"Usage: orchestractl add [OPTION]... TEXT|-\n"
	"Stores TEXT, or standard input for -, as a memory.\n\n"
	"  --kind K  --user U  --agent A  --session S   what it is and whom it belongs to\n"
	"  --metadata JSON      an object\n"
	"  --importance X       0 to 1\n"
	"  --ttl SECONDS        vanishes after that\n"
	"  --external-id ID     your own id; the memory that has it is updated: what you do not\n"
	"                       give keeps its value\n";

static bool add_option(json_t *body, int opt, const char *value)
{
	switch (opt) {
	case 'k': return set_text(body, "kind", value);
	case 'u': return set_text(body, "user_id", value);
	case 'a': return set_text(body, "agent_id", value);
	case 's': return set_text(body, "session_id", value);
	case 'm': return set_json(body, "metadata", value);
	case 't': return set_number(body, "ttl", value, true);
	case 'e': return set_text(body, "external_id", value);
	case 'i': return set_number(body, "importance", value, false);
	default: return false;
	}
}

static int add_send(struct ctl *c, json_t *body)
{
	struct answer a;
	int code = post(c, "/v1/memories", body, &a);
	if (code == CTL_OK && a.status / 100 != 2) {
		code = output_problem(&a);
	} else if (code == CTL_OK && c->json) {
		output_raw(&a);
	} else if (code == CTL_OK) {
		json_t *o = output_parse(&a);
		printf("%s%s%s%s version %lld\n", a.status == 201 ? "Stored " : "Kept ", output_colour(c, C_BOLD),
		       output_str(o, "id"), output_colour(c, C_PLAIN),
		       (long long)json_integer_value(json_object_get(o, "version")));
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	client_free(&a);
	return code;
}

int memory_add(struct ctl *c, int argc, char **argv)
{
	/* clang-format off */
	static const struct option options[] = {
		{"kind", required_argument, NULL, 'k'},     {"user", required_argument, NULL, 'u'},
		{"agent", required_argument, NULL, 'a'},    {"session", required_argument, NULL, 's'},
		{"metadata", required_argument, NULL, 'm'}, {"ttl", required_argument, NULL, 't'},
		{"external-id", required_argument, NULL, 'e'},
		{"importance", required_argument, NULL, 'i'}, {"help", no_argument, NULL, 'h'}, {0},
	};
	/* clang-format on */
	json_t *body = json_object();
	int opt, code = CTL_USAGE;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		if (opt == 'h') {
			fputs(add_help, stdout);
			code = CTL_OK;
			goto out;
		}
		if (!add_option(body, opt, optarg))
			goto out;
	}
	char *text = read_text(argc - optind, argv + optind);
	if (!text)
		code = ctl_usage("add: which text?");
	else if (set_text(body, "content", text))
		code = add_send(c, body);
	free(text);
out:
	json_decref(body);
	return code;
}

/* ---- search and list ---- */

/* On a narrow terminal the content is worth more than the time. */
static void show_row(struct ctl *c, const json_t *m, bool scored)
{
	char created[21]; /* UTC, as everywhere */
	bool timed = !c->width || c->width >= 110;
	int used = 36 + 2 + (timed ? 20 + 2 : 0) + (scored ? 8 : 0);
	snprintf(created, sizeof(created), "%.19sZ", output_str(m, "created_at"));
	if (strlen(created) > 10)
		created[10] = ' ';
	if (scored)
		printf("%s%6.3f%s  ", output_colour(c, C_GREEN), json_number_value(json_object_get(m, "score")),
		       output_colour(c, C_PLAIN));
	printf("%s%-36s  ", output_colour(c, C_DIM), output_str(m, "id"));
	if (timed)
		printf("%-20s  ", created);
	fputs(output_colour(c, C_PLAIN), stdout);
	output_line(output_str(m, "content"), c->width > used + 20 ? c->width - used : c->width ? 60 : 0);
	putchar('\n');
}

static void show_degraded(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *v;
	json_array_foreach (json_object_get(o, "degraded"), i, v) {
		const char *part = json_string_value(v) ? json_string_value(v) : "";
		bool vector = strcmp(part, "vector") == 0;
		fprintf(stderr, "%sNote: %s%s%s\n", output_colour(c, C_YELLOW),
			vector ? "vectors took no part, or not all of them: the index is still being filled after a "
				 "start, is full, or holds your own vectors"
			       : "not all parts took part: ",
			vector ? "" : part, output_colour(c, C_PLAIN));
	}
}

static int show_results(struct ctl *c, const struct answer *a)
{
	size_t i;
	json_t *m, *o = output_parse(a), *results = json_object_get(o, "results");
	if (!o)
		return CTL_FAILED;
	json_array_foreach (results, i, m)
		show_row(c, m, true);
	if (json_array_size(results) == 0)
		fprintf(stderr, "Nothing found in namespace %s.\n", c->namespace ? c->namespace : "default");
	show_degraded(c, o);
	json_t *explained = json_object_get(o, "explain");
	if (explained) {
		char *text = json_dumps(explained, JSON_INDENT(2));
		printf("%s%s%s\n", output_colour(c, C_DIM), text ? text : "", output_colour(c, C_PLAIN));
		free(text);
	}
	json_decref(o);
	return CTL_OK;
}

static const char search_help[] = "Usage: orchestractl search [OPTION]... QUERY\n"
				  "Finds memories, best first.\n\n"
				  "  --kind K  --user U  --agent A  --session S   only these\n"
				  "  --mode M        hybrid (the default), text or vector\n"
				  "  --limit N       1 to 1000; default 10\n"
				  "  --filter JSON   conditions, such as '{\"metadata.lang\": \"en\"}'\n"
				  "  --explain       how many candidates, and how long each step took\n";

/* False: said what is wrong. */
static bool search_option(json_t *body, int opt, const char *value)
{
	switch (opt) {
	case 'm': return set_text(body, "mode", value);
	case 'l': return set_number(body, "limit", value, true);
	case 'f': return set_json(body, "filter", value);
	case 'k': return set_text(body, "kind", value);
	case 'u': return set_text(body, "user_id", value);
	case 'a': return set_text(body, "agent_id", value);
	case 's': return set_text(body, "session_id", value);
	case 'e': return json_object_set_new(body, "explain", json_true()) == 0;
	default: return false;
	}
}

static int search_send(struct ctl *c, json_t *body)
{
	struct answer a;
	int code = post(c, "/v1/memories/search", body, &a);
	if (code == CTL_OK && a.status != 200)
		code = output_problem(&a);
	else if (code == CTL_OK && c->json)
		output_raw(&a);
	else if (code == CTL_OK)
		code = show_results(c, &a);
	client_free(&a);
	return code;
}

int memory_search(struct ctl *c, int argc, char **argv)
{
	/* clang-format off */
	static const struct option options[] = {
		{"mode", required_argument, NULL, 'm'},   {"limit", required_argument, NULL, 'l'},
		{"filter", required_argument, NULL, 'f'}, {"explain", no_argument, NULL, 'e'},
		{"kind", required_argument, NULL, 'k'},   {"user", required_argument, NULL, 'u'},
		{"agent", required_argument, NULL, 'a'},  {"session", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},         {0},
	};
	/* clang-format on */
	json_t *body = json_object();
	bool ok = true;
	int opt, code = CTL_USAGE;
	while (ok && (opt = ctl_options(argc, argv, ":", options)) != -1) {
		if (opt == 'h') {
			fputs(search_help, stdout);
			json_decref(body);
			return CTL_OK;
		}
		ok = search_option(body, opt, optarg);
	}
	char *query = ok ? read_text(argc - optind, argv + optind) : NULL;
	if (ok && !query)
		code = ctl_usage("search: for what?");
	else if (query && set_text(body, "query", query))
		code = search_send(c, body);
	free(query);
	json_decref(body);
	return code;
}

enum { LIST_LIMIT, LIST_KIND, LIST_USER, LIST_AGENT, LIST_SESSION, LIST_CURSOR, LIST_NAMESPACE, LIST_PAIRS };

static const char list_help[] = "Usage: orchestractl list [OPTION]...\n"
				"Lists memories.\n\n"
				"  --kind K  --user U  --agent A  --session S   only these\n"
				"  --limit N     on one page, 1 to 1000; default 50\n"
				"  --cursor C    the page that begins there, from the answer before\n"
				"  --all         all pages\n";

/* One page. *next_r: the cursor of the next one, or NULL; the caller frees. */
static int list_page(struct ctl *c, const char *const (*pairs)[2], char **next_r)
{
	struct answer a;
	size_t i;
	json_t *m, *o = NULL;
	char *path = client_path("/v1/memories", pairs, LIST_PAIRS);
	int code = client_request(c, "GET", path, NULL, &a);
	*next_r = NULL;
	if (code == CTL_OK && a.status != 200)
		code = output_problem(&a);
	else if (code == CTL_OK && !(o = output_parse(&a)))
		code = CTL_FAILED;
	if (o) {
		const char *next = output_str(o, "next_cursor");
		*next_r = *next ? util_strndup(next, strlen(next)) : NULL;
		if (c->json)
			output_raw(&a);
		else
			json_array_foreach (json_object_get(o, "memories"), i, m)
				show_row(c, m, false);
	}
	json_decref(o);
	free(path);
	client_free(&a);
	return code;
}

static int list_pages(struct ctl *c, const char *(*pairs)[2], bool all)
{
	char *cursor = NULL, *next = NULL;
	int code;
	do {
		free(cursor);
		cursor = next;
		if (cursor)
			pairs[LIST_CURSOR][1] = cursor;
		code = list_page(c, (const char *const(*)[2])pairs, &next);
	} while (code == CTL_OK && all && next);
	if (code == CTL_OK && next && !c->json)
		fprintf(stderr, "There are more: --all, or --cursor %s\n", next);
	free(cursor);
	free(next);
	return code;
}

int memory_list(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"limit", required_argument, NULL, LIST_LIMIT},
		{"kind", required_argument, NULL, LIST_KIND},
		{"user", required_argument, NULL, LIST_USER},
		{"agent", required_argument, NULL, LIST_AGENT},
		{"session", required_argument, NULL, LIST_SESSION},
		{"cursor", required_argument, NULL, LIST_CURSOR},
		{"all", no_argument, NULL, 'A'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *pairs[LIST_PAIRS][2] = {
		{"limit", NULL},      {"kind", NULL},	{"user_id", NULL},	     {"agent_id", NULL},
		{"session_id", NULL}, {"cursor", NULL}, {"namespace", c->namespace},
	};
	bool all = false;
	int opt;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		if (opt == 'h') {
			fputs(list_help, stdout);
			return CTL_OK;
		}
		if (opt == 'A')
			all = true;
		else if (opt >= 0 && opt < LIST_PAIRS)
			pairs[opt][1] = optarg;
		else
			return CTL_USAGE;
	}
	if (optind < argc)
		return ctl_usage("list: unexpected \"%s\"", argv[optind]);
	if (!pairs[LIST_LIMIT][1])
		pairs[LIST_LIMIT][1] = all ? "500" : "50";
	return list_pages(c, pairs, all);
}

/* ---- get and delete ---- */

static void show_memory(struct ctl *c, const json_t *o)
{
	/* clang-format off */
	static const char *const fields[] = {
		"id", "namespace", "kind", "user_id", "agent_id", "session_id", "external_id",
		"version", "importance", "created_at", "updated_at", "expires_at", "embedding_model",
		"metadata",
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		const json_t *v = json_object_get(o, fields[i]);
		if (!v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0))
			continue;
		printf("%s%-16s%s", output_colour(c, C_DIM), fields[i], output_colour(c, C_PLAIN));
		char *text = json_is_string(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
		output_line(text ? text : json_string_value(v), 0);
		putchar('\n');
		free(text);
	}
	putchar('\n');
	if (!c->terminal) {
		puts(output_str(o, "content"));
		return;
	}
	/* A terminal must not be steered by what somebody stored: line by line. */
	char *copy = util_strndup(output_str(o, "content"), strlen(output_str(o, "content")));
	for (char *line = copy, *end; line; line = end) {
		end = strchr(line, '\n');
		if (end)
			*end++ = '\0';
		output_line(line, 0);
		putchar('\n');
	}
	free(copy);
}

int memory_get(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		puts("Usage: orchestractl get ID\nShows a memory: its fields, an empty line, its content.");
		return CTL_OK;
	}
	if (argc != 2)
		return ctl_usage("get: exactly one ID");
	char *id = client_escape(argv[1]);
	struct buf path = {0};
	buf_printf(&path, "/v1/memories/%s", id);
	buf_addc(&path, '\0');
	int code = client_request(c, "GET", path.p, NULL, &a);
	if (code == CTL_OK && a.status != 200) {
		code = output_problem(&a);
	} else if (code == CTL_OK && c->json) {
		output_raw(&a);
	} else if (code == CTL_OK) {
		json_t *o = output_parse(&a);
		if (o)
			show_memory(c, o);
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	free(id);
	buf_free(&path);
	client_free(&a);
	return code;
}

static int delete_one(struct ctl *c, const char *id, bool erase)
{
	struct answer a;
	char *escaped = client_escape(id);
	struct buf path = {0};
	buf_printf(&path, "/v1/memories/%s%s", escaped, erase ? "?erase=true" : "");
	buf_addc(&path, '\0');
	int code = client_request(c, "DELETE", path.p, NULL, &a);
	if (code == CTL_OK && a.status / 100 != 2)
		code = output_problem(&a);
	else if (code == CTL_OK && c->json && a.body.len)
		output_raw(&a);
	else if (code == CTL_OK && !c->json)
		printf("%s %s\n", erase ? "Erased" : "Deleted", id);
	free(escaped);
	buf_free(&path);
	client_free(&a);
	return code;
}

int memory_delete(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"erase", no_argument, NULL, 'e'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool erase = false;
	int opt, code = CTL_OK;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		if (opt == 'h') {
			puts("Usage: orchestractl delete [--erase] ID...\n"
			     "Deletes memories; they can be restored until memories.trash_ttl (30 days) has passed.\n\n"
			     "  --erase   removes the content from store, journal, history and caches; it\n"
			     "            cannot be restored");
			return CTL_OK;
		}
		if (opt != 'e')
			return CTL_USAGE;
		erase = true;
	}
	if (optind == argc)
		return ctl_usage("delete: which ID?");
	for (int i = optind; i < argc && code != CTL_UNREACHABLE; i++) {
		int one = delete_one(c, argv[i], erase);
		code = one ? one : code;
	}
	return code;
}
