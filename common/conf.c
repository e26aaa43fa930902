/* The configuration as a whole: the table, loading in order of precedence, access, and the
 * effective copy that workers are born with. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf-private.h"
#include "shm.h"

#define EFFECTIVE_MAGIC "orchestra-conf 1"
#define EFFECTIVE_MAX (CONF_KEY_COUNT * (size_t)(CONF_TEXT_MAX + 65536))

/* clang-format off */
const struct conf_option conf_options[CONF_KEY_COUNT] = {
#define CONF(id, key, type, dflt, min, max, unit, flags, text)                                     \
	[CONF_##id] = {key, CONF_T_##type, dflt, min, max, unit, flags, text},
#include "conf.def"
#undef CONF
};
/* clang-format on */

/* ---- values ---- */

static char *dup_text(const char *s) { return util_strndup(s, strlen(s)); }

void conf_replace(struct conf *c, enum conf_key k, const char *text, int64_t num)
{
	char *copy = dup_text(text);
	free(c->v[k].text);
	c->v[k].text = copy;
	c->v[k].num = num;
}

static void set_source(struct conf *c, enum conf_key k, const char *source)
{
	char *copy = dup_text(source);
	free(c->v[k].source);
	c->v[k].source = copy;
}

static struct conf *new_with_defaults(void)
{
	struct conf *c = util_zalloc(sizeof(*c));
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		struct buf text = {0}, why = {0};
		int64_t num;
		/* A default outside its own range is a bug of the table, found by the first start. */
		AN(conf_value_parse(&conf_options[k], SPAN(conf_options[k].dflt), &text, &num, &why));
		buf_addc(&text, '\0');
		conf_replace(c, (enum conf_key)k, text.p, num);
		set_source(c, (enum conf_key)k, "default");
		buf_free(&text);
		buf_free(&why);
	}
	return c;
}

void conf_free(struct conf **c)
{
	if (!*c)
		return;
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		free((*c)->v[k].text);
		free((*c)->v[k].source);
	}
	free(*c);
	*c = NULL;
}

/* ---- loading ---- */

void conf_error(struct conf_loading *l, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	if (++l->nerrors > CONF_ERRORS_MAX)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) == -1)
		text = NULL;
	va_end(ap);
	if (l->errors.len)
		buf_addc(&l->errors, '\n');
	buf_adds(&l->errors, text ? text : "out of memory");
	free(text);
}

void conf_assign(struct conf_loading *l, enum conf_key k, struct span text, const char *where, const char *source)
{
	const struct conf_option *o = &conf_options[k];
	struct buf canonical = {0}, why = {0};
	int64_t num;
	if (conf_value_parse(o, text, &canonical, &num, &why)) {
		buf_addc(&canonical, '\0');
		conf_replace(l->c, k, canonical.p, num);
		set_source(l->c, k, source);
	} else {
		struct buf shown = {0}, expect = {0};
		conf_value_show(o, source, text, &shown);
		conf_value_expect(o, &expect);
		conf_error(l, "%s: %s = %.*s %.*s; expected %.*s%s%s%s", where, o->name, (int)shown.len, shown.p,
			   (int)why.len, why.p, (int)expect.len, expect.p, *o->dflt ? "; the default is " : "", o->dflt,
			   *o->dflt ? "" : "");
		buf_free(&shown);
		buf_free(&expect);
	}
	buf_free(&canonical);
	buf_free(&why);
}

const char *conf_file_of(const struct conf_input *in)
{
	const char *path = in->file, *named = conf_env_get(in->env, "ORCHESTRA_CONFIG");
	if (!path && named && *named)
		path = named;
	if (!path && access(CONF_SYSTEM_FILE, F_OK) == 0)
		path = CONF_SYSTEM_FILE;
	return path;
}

static void load_file(struct conf_loading *l)
{
	const char *path = conf_file_of(l->in);
	if (path)
		conf_parse_file(l, path);
}

struct conf *conf_load(const struct conf_input *in, char **error_r)
{
	struct conf_loading l = {.c = new_with_defaults(), .in = in};
	load_file(&l);
	conf_credentials_read(&l);
	conf_env_concurrency(&l);
	conf_env_read(&l);
	conf_env_sets(&l);
	if (l.nerrors == 0 && !in->parts) {
		conf_check_complete(&l);
		conf_check_whole(&l);
	}
	if (l.nerrors == 0) {
		buf_free(&l.errors);
		return l.c;
	}
	if (l.nerrors > CONF_ERRORS_MAX)
		buf_printf(&l.errors, "\nand %u more", l.nerrors - CONF_ERRORS_MAX);
	*error_r = util_strndup(l.errors.p, l.errors.len);
	buf_free(&l.errors);
	conf_free(&l.c);
	return NULL;
}

/* ---- access ---- */

const char *conf_str(const struct conf *c, enum conf_key k) { return c->v[k].text; }
int64_t conf_int(const struct conf *c, enum conf_key k) { return c->v[k].num; }
const char *conf_source(const struct conf *c, enum conf_key k) { return c->v[k].source; }
char *conf_text(const struct conf *c, enum conf_key k) { return dup_text(c->v[k].text); }
const char *conf_key_name(enum conf_key k) { return conf_options[k].name; }

bool conf_hides(const struct conf_option *o, const char *source)
{
	return o->flags & CONF_F_SECRET || (strcmp(source, CONF_SOURCE_CREDENTIAL) == 0 && !(o->flags & CONF_F_PATH));
}

bool conf_is_secret(const struct conf *c, enum conf_key k) { return conf_hides(&conf_options[k], conf_source(c, k)); }

int conf_find(const char *key, size_t len)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (strlen(conf_options[k].name) == len && memcmp(conf_options[k].name, key, len) == 0)
			return k;
	return -1;
}

void conf_diff(const struct conf *a, const struct conf *b, void (*fn)(void *arg, enum conf_key k, bool reloadable),
	       void *arg)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (strcmp(a->v[k].text, b->v[k].text) != 0)
			fn(arg, (enum conf_key)k, conf_options[k].flags & CONF_F_RELOAD);
}

void conf_carry(struct conf *next, const struct conf *running)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		if (conf_options[k].flags & CONF_F_RELOAD || !*running->v[k].source)
			continue;
		conf_replace(next, (enum conf_key)k, running->v[k].text, running->v[k].num);
		set_source(next, (enum conf_key)k, running->v[k].source);
	}
}

/* ---- the effective copy: NUL-terminated strings: magic, then name, text, source of every key ---- */

int conf_dump_effective(const struct conf *c)
{
	struct buf b = {0};
	buf_add(&b, EFFECTIVE_MAGIC, sizeof(EFFECTIVE_MAGIC));
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		buf_add(&b, conf_options[k].name, strlen(conf_options[k].name) + 1);
		buf_add(&b, c->v[k].text, strlen(c->v[k].text) + 1);
		buf_add(&b, c->v[k].source, strlen(c->v[k].source) + 1);
	}
	int fd = shm_sealed("orchestra-conf", &(struct span){b.p, b.len}, 1);
	buf_free(&b);
	return fd;
}

/* pread: the offset of a memfd is shared by all who inherited it. */
static bool read_effective(int fd, struct buf *b)
{
	struct stat st;
	if (fstat(fd, &st) == -1)
		return false;
	if (st.st_size <= 0 || (uint64_t)st.st_size > EFFECTIVE_MAX) {
		errno = EINVAL;
		return false;
	}
	buf_reserve(b, (size_t)st.st_size);
	while (b->len < (size_t)st.st_size) {
		ssize_t n = pread(fd, b->p + b->len, (size_t)st.st_size - b->len, (off_t)b->len);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		b->len += (size_t)n;
	}
	errno = EINVAL;
	return b->p[b->len - 1] == '\0';
}

/* The next string of the copy, or NULL at its end. */
static const char *next_string(const struct buf *b, size_t *at)
{
	if (*at >= b->len)
		return NULL;
	const char *s = b->p + *at;
	*at += strlen(s) + 1; /* the last byte is known to be NUL */
	return s;
}

/* 1: taken; 0: not a key of ours, or not a value of it; -1: that is no list of keys. */
static int take_effective(struct conf *c, const struct buf *b, size_t *at, bool *seen)
{
	const char *name = next_string(b, at), *text = next_string(b, at), *source = next_string(b, at);
	int k = source ? conf_find(name, strlen(name)) : -1;
	struct buf canonical = {0}, why = {0};
	int64_t num;
	if (!source)
		return -1;
	bool ok = k >= 0 && !seen[k] && conf_value_parse(&conf_options[k], SPAN(text), &canonical, &num, &why);
	if (ok) {
		conf_replace(c, (enum conf_key)k, text, num);
		set_source(c, (enum conf_key)k, source);
		seen[k] = true;
	}
	buf_free(&canonical);
	buf_free(&why);
	return ok;
}

static struct conf *load_effective(int fd, bool foreign)
{
	struct buf b = {0};
	bool seen[CONF_KEY_COUNT] = {false};
	size_t at = 0, n = 0;
	int took = 1;
	if (!read_effective(fd, &b) || strcmp(b.p, EFFECTIVE_MAGIC) != 0) {
		buf_free(&b);
		return NULL;
	}
	struct conf *c = new_with_defaults();
	at = sizeof(EFFECTIVE_MAGIC);
	while (at < b.len && (took = take_effective(c, &b, &at, seen)) >= (foreign ? 0 : 1))
		n += (size_t)took;
	for (int k = 0; foreign && k < CONF_KEY_COUNT; k++)
		if (!seen[k])
			set_source(c, (enum conf_key)k, "");
	if (took < 0 || (!foreign && (took == 0 || n != CONF_KEY_COUNT))) {
		conf_free(&c);
		errno = EINVAL;
	}
	buf_free(&b);
	return c;
}

struct conf *conf_load_effective(int fd) { return load_effective(fd, false); }
struct conf *conf_load_foreign(int fd) { return load_effective(fd, true); }

bool conf_store_is_file(const struct conf *c) { return strcmp(conf_str(c, CONF_STORE_KIND), "sqlite") == 0; }
