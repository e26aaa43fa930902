/* config drift: the keys in which files and daemons differ, and what explains each. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "live.h"

#define PROFILES_MAX 16
#define COLUMN 26

struct profile {
	const char *name, *spec;
	struct conf *file; /* or … */
	json_t *config;	   /* … a daemon's */
};
struct drift {
	struct ctl *c;
	struct profile p[PROFILES_MAX];
	size_t n;
	char key[65]; /* of the hashes by which secrets are compared: drawn for this run */
};

static bool draw_key(struct drift *d)
{
	unsigned char raw[32];
	if (RAND_bytes(raw, sizeof(raw)) != 1)
		return false;
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(d->key + 2 * i, 3, "%02x", raw[i]);
	return true;
}

static int read_profile(struct drift *d, struct profile *p)
{
	struct stat st;
	int code;
	bool daemon = strstr(p->spec, "://") || (stat(p->spec, &st) == 0 && S_ISSOCK(st.st_mode));
	if (!daemon) {
		p->file = live_read_file(p->spec);
		return p->file ? CTL_OK : CTL_FAILED;
	}
	const char *own = d->c->socket;
	code = client_aim(d->c, p->spec);
	if (code == CTL_OK)
		p->config = live_fetch(d->c, d->key, &code);
	d->c->socket = own;
	d->c->url = NULL;
	return code;
}

/* ---- values ---- */

struct cell {
	const char *source;
	char *shown, *compare; /* malloc'ed */
	bool is_default, secret;
};

static char *copy_of(const char *s) { return util_strndup(s, strlen(s)); }

static char *hash_of(const struct drift *d, const char *value)
{
	unsigned char raw[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	struct buf b = {0};
	AN(HMAC(EVP_sha256(), d->key, (int)strlen(d->key), (const unsigned char *)value, strlen(value), raw, &len));
	for (unsigned i = 0; i < len; i++)
		buf_printf(&b, "%02x", raw[i]);
	buf_addc(&b, '\0');
	return b.p;
}

static void cell_of(const struct drift *d, const struct profile *p, enum conf_key k, struct cell *cell_r)
{
	struct cell cell = {.source = "default"};
	if (p->file) {
		const char *value = conf_str(p->file, k);
		cell.source = conf_source(p->file, k);
		cell.secret = conf_is_secret(p->file, k);
		cell.compare = cell.secret ? hash_of(d, value) : copy_of(value);
		cell.shown = copy_of(cell.secret ? (*value ? "(secret)" : "(not set)") : value);
	} else {
		const json_t *o = live_key(p->config, conf_key_name(k));
		bool set = json_is_true(json_object_get(o, "set"));
		cell.source = o ? output_str(o, "source") : "unknown there";
		cell.secret = json_is_true(json_object_get(o, "secret"));
		cell.compare = copy_of(output_str(o, cell.secret ? "fingerprint" : "value"));
		cell.shown = copy_of(cell.secret ? (set ? "(secret)" : "(not set)") : output_str(o, "value"));
	}
	cell.is_default = live_is_default(cell.source);
	*cell_r = cell;
}

/* Defaults that depend on the machine are alike, whatever they come to. */
static bool alike(const struct cell *a, const struct cell *b)
{
	return (a->is_default && b->is_default) || strcmp(a->compare, b->compare) == 0;
}

/* Secrets that differ are told apart by letters, in order of appearance. */
static void letter(struct cell *cells, size_t n)
{
	char next = 'A', of[PROFILES_MAX] = {0};
	for (size_t i = 0; i < n; i++) {
		if (strcmp(cells[i].shown, "(secret)") != 0)
			continue;
		for (size_t j = 0; j < i && !of[i]; j++)
			if (of[j] && alike(&cells[i], &cells[j]))
				of[i] = of[j];
		of[i] = of[i] ? of[i] : next++;
		free(cells[i].shown);
		cells[i].shown = copy_of("(secret A)");
		cells[i].shown[8] = of[i];
	}
}

/* ---- showing ---- */

/* The part of a path that tells: its end. */
static void print_cell(const char *text, bool path)
{
	size_t len = strlen(text);
	if (path && len > COLUMN - 1) {
		printf("…%s ", text + len - (COLUMN - 2));
		return;
	}
	output_line(text, COLUMN - 1);
	for (size_t i = len > COLUMN - 1 ? COLUMN - 1 : len; i < COLUMN; i++)
		putchar(' ');
}

static void show_key(const struct drift *d, enum conf_key k, const struct cell *cells)
{
	printf("%-26s", conf_key_name(k));
	for (size_t i = 0; i < d->n; i++)
		print_cell(*cells[i].shown ? cells[i].shown : "\"\"", false);
	printf("\n%s%-26s", output_colour(d->c, C_DIM), "");
	for (size_t i = 0; i < d->n; i++)
		print_cell(strncmp(cells[i].source, "file:", 5) == 0 ? cells[i].source + 5 : cells[i].source, true);
	printf("%s\n", output_colour(d->c, C_PLAIN));
}

static json_t *json_key(const struct drift *d, enum conf_key k, const struct cell *cells)
{
	json_t *values = json_object();
	for (size_t i = 0; i < d->n; i++)
		json_object_set_new(values, d->p[i].name,
				    json_pack("{s:s s:s}", "value", cells[i].shown, "source", cells[i].source));
	return json_pack("{s:s s:o}", "key", conf_key_name(k), "values", values);
}

static bool compare_key(struct drift *d, enum conf_key k, json_t *list, unsigned known)
{
	struct cell cells[PROFILES_MAX];
	bool differ = false;
	for (size_t i = 0; i < d->n; i++) {
		cell_of(d, &d->p[i], k, &cells[i]);
		differ |= i && !alike(&cells[0], &cells[i]);
	}
	if (differ) {
		letter(cells, d->n);
		json_array_append_new(list, json_key(d, k, cells));
		if (!d->c->json && !known) {
			printf("%s%-26s", output_colour(d->c, C_BOLD), "KEY");
			for (size_t i = 0; i < d->n; i++)
				print_cell(d->p[i].name, false);
			printf("%s\n", output_colour(d->c, C_PLAIN));
		}
		if (!d->c->json)
			show_key(d, k, cells);
	}
	for (size_t i = 0; i < d->n; i++) {
		free(cells[i].shown);
		free(cells[i].compare);
	}
	return differ;
}

static int compare_all(struct drift *d)
{
	unsigned differ = 0;
	json_t *list = json_array();
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		differ += compare_key(d, (enum conf_key)k, list, differ);
	if (d->c->json) {
		json_t *o = json_pack("{s:O}", "differences", list);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else if (!differ) {
		puts("They are alike.");
	}
	json_decref(list);
	return differ ? CTL_FAILED : CTL_OK;
}

int drift_run(struct ctl *c, int n, char **profiles)
{
	struct drift d = {.c = c};
	int code = CTL_OK;
	if (n < 2 || n > PROFILES_MAX)
		return ctl_usage("config drift: expected 2 to %d of NAME=FILE, NAME=SOCKET or NAME=URL", PROFILES_MAX);
	if (!draw_key(&d))
		return CTL_FAILED;
	for (int i = 0; i < n && code == CTL_OK; i++) {
		char *sign = strchr(profiles[i], '=');
		if (!sign || sign == profiles[i] || !sign[1]) {
			code = ctl_usage("config drift: \"%s\" is no NAME=FILE, NAME=SOCKET or NAME=URL", profiles[i]);
			break;
		}
		*sign = '\0';
		struct profile *p = &d.p[d.n++];
		*p = (struct profile){.name = profiles[i], .spec = sign + 1};
		code = read_profile(&d, p);
	}
	if (code == CTL_OK)
		code = compare_all(&d);
	for (size_t i = 0; i < d.n; i++) {
		conf_free(&d.p[i].file);
		json_decref(d.p[i].config);
	}
	return code;
}
