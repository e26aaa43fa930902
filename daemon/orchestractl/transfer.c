/* export and import: NDJSON of any size, streamed both ways. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl.h"

#define LINES_SHOWN 20

/* "X.part" beside X, so that a broken export never looks like a whole one. */
static FILE *open_part(const char *path, char **part_r)
{
	struct buf b = {0};
	buf_printf(&b, "%s.part", path);
	buf_addc(&b, '\0');
	*part_r = b.p;
	int fd = open(b.p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); /* memories are private */
	FILE *f = fd == -1 ? NULL : fdopen(fd, "w");
	if (!f)
		fprintf(stderr, "orchestractl: cannot write %s: %s\n", b.p, strerror(errno));
	return f;
}

static int finish_part(FILE *f, const char *part, const char *path, int code)
{
	bool written = fflush(f) == 0 && fsync(fileno(f)) == 0;
	if (fclose(f) != 0 || !written || (code == CTL_OK && rename(part, path) == -1)) {
		fprintf(stderr, "orchestractl: cannot write %s: %s\n", path, strerror(errno));
		code = code ? code : CTL_FAILED;
	}
	if (code != CTL_OK)
		unlink(part);
	return code;
}

int transfer_export(struct ctl *c, int argc, char **argv)
{
	const char *const pairs[][2] = {{"namespace", c->namespace}};
	const char *to = argc > 1 ? argv[1] : "-";
	struct progress p;
	struct answer a;
	char *part = NULL;
	if (argc == 2 && strcmp(to, "--help") == 0) {
		puts("Usage: orchestractl export [FILE|-]\nWrites all memories of the namespace as NDJSON.");
		return CTL_OK;
	}
	if (argc > 2)
		return ctl_usage("export: at most one FILE");
	bool file = strcmp(to, "-") != 0;
	FILE *out = file ? open_part(to, &part) : stdout;
	if (!out) {
		free(part);
		return CTL_FAILED;
	}
	char *path = client_path("/v1/memories:export", pairs, ARRAY_LEN(pairs));
	progress_start(&p, "export", 0);
	p.on = p.on && (file || !c->terminal); /* not between the lines of the data */
	int code = client_download(c, path, out, progress_piece, &p, &a);
	progress_end(&p);
	if (code == CTL_OK && a.status != 200)
		code = output_problem(&a);
	if (file)
		code = finish_part(out, part, to, code);
	if (file && code == CTL_OK && !p.on)
		fprintf(stderr, "%llu memories written to %s\n", (unsigned long long)p.records, to);
	free(path);
	free(part);
	client_free(&a);
	return code;
}

static long long count(const json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

/* What the answer's skipped_because says, in words. `absent`: the namespace does not hold the memory. */
/* clang-format off */
static const struct {
	const char *name, *text;
	bool absent;
} skips[] = {
	{"id_exists", "the namespace has a memory with that id", false},
	{"external_id_exists", "the namespace has a memory with that external_id", false},
	{"imported_before", "imported from the same lines less than 24 hours ago", false},
	{"expired", "expired", false},
	{"id_deleted", "the memory with that id was deleted: restore it, or take the id out", true},
	{"id_in_other_namespace", "another namespace has the memory with that id; to copy it, take the ids out: "
				  "jq -c 'del(.id)'", true},
};
/* clang-format on */

/* True when memories are missing that the file has and that nobody refused. */
static bool show_skips(const json_t *o, bool silent)
{
	const json_t *why = json_object_get(o, "skipped_because");
	bool absent = false;
	for (size_t i = 0; i < ARRAY_LEN(skips); i++) {
		long long n = count(why, skips[i].name);
		absent |= n && skips[i].absent;
		if (n && !silent)
			fprintf(stderr, "%lld skipped: %s\n", n, skips[i].text);
	}
	return absent;
}

static int show_summary(struct ctl *c, const struct answer *a)
{
	size_t i;
	json_t *e, *o = output_parse(a), *errors = json_object_get(o, "errors");
	if (!o)
		return CTL_FAILED;
	long long failed = count(o, "failed");
	if (c->json) {
		output_raw(a);
	} else {
		printf("%s%lld imported%s, %lld skipped, %s%lld failed%s\n", output_colour(c, C_GREEN),
		       count(o, "imported"), output_colour(c, C_PLAIN), count(o, "skipped"),
		       failed ? output_colour(c, C_RED) : "", failed, output_colour(c, C_PLAIN));
		fflush(stdout);
		json_array_foreach (errors, i, e) {
			if (i == LINES_SHOWN)
				break;
			fprintf(stderr, "line %lld: %s\n", count(e, "line"), output_str(e, "detail"));
		}
		if (json_array_size(errors) > LINES_SHOWN)
			fprintf(stderr, "… and %zu more (--json shows all that were reported)\n",
				json_array_size(errors) - LINES_SHOWN);
	}
	bool absent = show_skips(o, c->json) && !count(o, "imported");
	json_decref(o);
	return failed || absent ? CTL_FAILED : CTL_OK;
}

int transfer_import(struct ctl *c, int argc, char **argv)
{
	const char *const pairs[][2] = {{"namespace", c->namespace}};
	struct progress p;
	struct answer a;
	struct stat st;
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		puts("Usage: orchestractl import FILE|-\n"
		     "Stores the memories of an NDJSON file, one a line. Lines that are there already are\n"
		     "skipped. Exit status 1 when lines were refused (their numbers are told; the others are\n"
		     "stored), or when nothing was imported because the ids belong to another namespace or\n"
		     "to deleted memories.");
		return CTL_OK;
	}
	if (argc != 2)
		return ctl_usage("import: exactly one FILE, or - for standard input");
	FILE *in = strcmp(argv[1], "-") == 0 ? stdin : fopen(argv[1], "re");
	if (!in || fstat(fileno(in), &st) == -1 || S_ISDIR(st.st_mode)) {
		fprintf(stderr, "orchestractl: cannot read %s: %s\n", argv[1],
			in ? "it is a directory" : strerror(errno));
		if (in && in != stdin)
			fclose(in);
		return CTL_FAILED;
	}
	char *path = client_path("/v1/memories:import", pairs, ARRAY_LEN(pairs));
	progress_start(&p, "import", S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0);
	int code = client_upload(c, path, in, progress_piece, &p, &a);
	progress_end(&p);
	if (code == CTL_OK)
		code = a.status == 200 ? show_summary(c, &a) : output_problem(&a);
	if (in != stdin)
		fclose(in);
	free(path);
	client_free(&a);
	return code;
}
