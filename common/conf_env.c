/* What comes from outside the file: ORCHESTRA_* and platform variables, --set. */
#define LOG_SUBSYSTEM LOG_IN_CONF
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf-private.h"
#include "log.h"

#define PREFIX "ORCHESTRA_"
#define API_WORKERS_AUTO 32.0

const char *conf_env_get(char *const *env, const char *name)
{
	size_t len = strlen(name);
	for (; env && *env; env++)
		if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
			return *env + len + 1;
	return NULL;
}

void conf_env_name(enum conf_key k, struct buf *out)
{
	buf_adds(out, PREFIX);
	for (const char *p = conf_options[k].name; *p; p++)
		buf_addc(out, *p == '.' ? '_' : *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p);
	buf_addc(out, '\0');
}

unsigned conf_env_cores(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return (unsigned)CPU_COUNT(&set);
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (unsigned)n : 1;
}

/* Digits with at most one point; anything else, and zero, is -1. */
static double decimal(const char *s)
{
	double v = 0, scale = 1;
	bool point = false, digit = false;
	if (strlen(s) > 16)
		return -1;
	for (; *s; s++) {
		if (*s == '.' && !point) {
			point = true;
			continue;
		}
		if (*s < '0' || *s > '9')
			return -1;
		digit = true;
		v = v * 10 + (*s - '0');
		scale *= point ? 10 : 1;
	}
	return digit && v > 0 ? v / scale : -1;
}

void conf_env_concurrency(struct conf_loading *l)
{
	const char *web = conf_env_get(l->in->env, "WEB_CONCURRENCY");
	const char *per = conf_env_get(l->in->env, "WORKERS_PER_CORE");
	char text[32];
	if (web && *web) {
		if (strcmp(web, "0") == 0)
			conf_error(l, "environment WEB_CONCURRENCY: 0 workers serve nobody; allowed: 1 to 32, "
				      "or unset it");
		else
			conf_assign(l, CONF_API_WORKERS, SPAN(web), "environment WEB_CONCURRENCY",
				    "env WEB_CONCURRENCY");
		return;
	}
	if (!per || !*per)
		return;
	double workers = decimal(per) * conf_env_cores();
	if (workers < 0) {
		conf_error(l, "environment WORKERS_PER_CORE: \"%.40s\" is no number above 0, such as 1 or 0.5", per);
		return;
	}
	workers = workers < 1 ? 1 : workers > API_WORKERS_AUTO ? API_WORKERS_AUTO : workers;
	snprintf(text, sizeof(text), "%d", (int)workers);
	conf_assign(l, CONF_API_WORKERS, SPAN(text), "environment WORKERS_PER_CORE", "env WORKERS_PER_CORE");
}

/* Variables of ours that are no keys. */
static bool is_helper(struct span name)
{
	static const char *const helpers[] = {"CONFIG", "INCARNATION", "SIMD", "SOCKET", "TOKEN", "URL"};
	for (size_t i = 0; i < ARRAY_LEN(helpers); i++)
		if (span_eq(SPAN(helpers[i]), name))
			return true;
	return false;
}

static void warn_unknown(const char *var, size_t len)
{
	char key[64];
	size_t n = len - strlen(PREFIX) < sizeof(key) ? len - strlen(PREFIX) : sizeof(key);
	const char *at = var + strlen(PREFIX);
	bool dotted = false;
	for (size_t i = 0; i < n; i++) {
		key[i] = at[i] == '_' && !dotted ? '.' : at[i] >= 'A' && at[i] <= 'Z' ? (char)(at[i] + 32) : at[i];
		dotted |= at[i] == '_';
	}
	int near = -1;
	const char *name = conf_near_key(key, n);
	if (name)
		near = conf_find(name, strlen(name));
	struct buf b = {0};
	if (near >= 0)
		conf_env_name((enum conf_key)near, &b);
	log_warn("environment: %.*s is no key of ours and is ignored%s%s%s", (int)(len < 80 ? len : 80), var,
		 near >= 0 ? "; did you mean " : "", near >= 0 ? b.p : "", near >= 0 ? "?" : "");
	buf_free(&b);
}

static void take_variable(struct conf_loading *l, const char *var, size_t len)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		struct buf name = {0}, where = {0}, source = {0};
		conf_env_name((enum conf_key)k, &name);
		bool hit = name.len - 1 == len && memcmp(name.p, var, len) == 0;
		if (hit) {
			buf_printf(&where, "environment %s", name.p);
			buf_addc(&where, '\0');
			buf_printf(&source, "env %s", name.p);
			buf_addc(&source, '\0');
			conf_assign(l, (enum conf_key)k, SPAN(var + len + 1), where.p, source.p);
		}
		buf_free(&name);
		buf_free(&where);
		buf_free(&source);
		if (hit)
			return;
	}
	if (!is_helper((struct span){var + strlen(PREFIX), len - strlen(PREFIX)}))
		warn_unknown(var, len);
}

void conf_env_read(struct conf_loading *l)
{
	for (char *const *e = l->in->env; e && *e; e++)
		if (strncmp(*e, PREFIX, strlen(PREFIX)) == 0 && strchr(*e, '='))
			take_variable(l, *e, strcspn(*e, "="));
}

void conf_env_sets(struct conf_loading *l)
{
	for (size_t i = 0; i < l->in->nsets; i++) {
		const char *set = l->in->sets[i];
		size_t len = strcspn(set, "=");
		int k = conf_find(set, len);
		if (!set[len]) {
			conf_error(l,
				   "--set %.80s: expected section.key=value, for example "
				   "--set listen.tcp=127.0.0.1:7700",
				   set);
		} else if (k < 0) {
			const char *near = conf_near_key(set, len);
			conf_error(l, "--set: there is no key %.*s%s%s%s", (int)(len < 80 ? len : 80), set,
				   near ? "; did you mean " : "",
				   near ? near : "; see orchestrad --dump-config for all keys", near ? "?" : "");
		} else {
			conf_assign(l, (enum conf_key)k, SPAN(set + len + 1), "--set", "flag");
		}
	}
}
