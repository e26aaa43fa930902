/* After all sources are read: defaults that depend on the machine or on other keys, and checks
 * that no single value can answer. */
#include <arpa/inet.h>
#include <jansson.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf-private.h"
#include "log.h"
#include "redis/url.h"
#include "trace/otlp.h"

#define API_WORKERS_DEFAULT_MAX 4
#define REDIS_PREFIX_MAX 64

/* ---- defaults ---- */

static void computed(struct conf *c, enum conf_key k, const char *text, int64_t num)
{
	conf_replace(c, k, text, num);
	free(c->v[k].source);
	c->v[k].source = util_strndup("default", strlen("default"));
}

/* An absolute path from the environment; systemd may name several, with colons: the first. */
static bool env_dir(const struct conf_input *in, const char *name, const char *below, struct buf *out)
{
	const char *v = conf_env_get(in->env, name);
	size_t len = v ? strcspn(v, ":") : 0;
	if (len < 2 || *v != '/' || !util_utf8_valid(v, len))
		return false;
	buf_add(out, v, len);
	buf_adds(out, below);
	buf_addc(out, '\0');
	return true;
}

static bool home_dir(const struct conf_input *in, const char *below, struct buf *out)
{
	const struct passwd *pw;
	if (env_dir(in, "HOME", below, out))
		return true;
	pw = getpwuid(geteuid());
	if (!pw || !pw->pw_dir || *pw->pw_dir != '/' || !pw->pw_dir[1])
		return false;
	buf_printf(out, "%s%s", pw->pw_dir, below);
	buf_addc(out, '\0');
	return true;
}

static void complete_data_dir(struct conf_loading *l)
{
	struct buf b = {0};
	if (*conf_str(l->c, CONF_DATA_DIR))
		return;
	if (!env_dir(l->in, "STATE_DIRECTORY", "", &b)) {
		if (geteuid() == 0) {
			buf_adds(&b, "/var/lib/orchestra");
			buf_addc(&b, '\0');
		} else if (!env_dir(l->in, "XDG_STATE_HOME", "/orchestra", &b) &&
			   !home_dir(l->in, "/.local/state/orchestra", &b)) {
			conf_error(l, "data.dir: no home directory to put a default in; "
				      "say --set data.dir=/some/folder");
			return;
		}
	}
	computed(l->c, CONF_DATA_DIR, b.p, 0);
	buf_free(&b);
}

static void complete_listen_unix(struct conf_loading *l)
{
	struct buf b = {0};
	if (*conf_str(l->c, CONF_LISTEN_UNIX))
		return;
	if (!env_dir(l->in, "RUNTIME_DIRECTORY", "/orchestra.sock", &b)) {
		if (geteuid() == 0)
			buf_adds(&b, "/run/orchestra/orchestra.sock");
		else if (!env_dir(l->in, "XDG_RUNTIME_DIR", "/orchestra/orchestra.sock", &b))
			buf_printf(&b, "%s/orchestra.sock", conf_str(l->c, CONF_DATA_DIR));
		buf_addc(&b, '\0');
	}
	computed(l->c, CONF_LISTEN_UNIX, b.p, 0);
	buf_free(&b);
}

/* A path typed relative means the folder where the daemon was started, and keeps meaning it. */
static void make_absolute(struct conf *c, enum conf_key k)
{
	char cwd[PATH_MAX];
	const char *text = conf_str(c, k);
	if (!*text || *text == '/' || !getcwd(cwd, sizeof(cwd)))
		return;
	struct buf b = {0};
	buf_printf(&b, "%s/%s", strcmp(cwd, "/") == 0 ? "" : cwd, text);
	buf_addc(&b, '\0');
	conf_replace(c, k, b.p, 0);
	buf_free(&b);
}

void conf_check_complete(struct conf_loading *l)
{
	char workers[16];
	/* What a container platform collects is standard output; elsewhere that is for answers. */
	if (strcmp(conf_str(l->c, CONF_LOG_TARGET), "auto") == 0)
		computed(l->c, CONF_LOG_TARGET, getpid() == 1 ? "stdout" : "stderr", 0);
	complete_data_dir(l);
	make_absolute(l->c, CONF_DATA_DIR);
	complete_listen_unix(l);
	make_absolute(l->c, CONF_LISTEN_UNIX);
	make_absolute(l->c, CONF_AUTH_TOKENS_FILE);
	make_absolute(l->c, CONF_TLS_CERTIFICATE);
	make_absolute(l->c, CONF_TLS_KEY);
	make_absolute(l->c, CONF_TLS_CLIENT_CA);
	if (conf_store_is_file(l->c) && !*conf_str(l->c, CONF_STORE_DSN)) {
		struct buf b = {0};
		buf_printf(&b, "%s/store.db", conf_str(l->c, CONF_DATA_DIR));
		buf_addc(&b, '\0');
		computed(l->c, CONF_STORE_DSN, b.p, 0);
		buf_free(&b);
	}
	if (conf_store_is_file(l->c))
		make_absolute(l->c, CONF_STORE_DSN);
	if (conf_int(l->c, CONF_API_WORKERS) == 0) {
		unsigned n = conf_env_cores();
		n = n > API_WORKERS_DEFAULT_MAX ? API_WORKERS_DEFAULT_MAX : n < 1 ? 1 : n;
		snprintf(workers, sizeof(workers), "%u", n);
		computed(l->c, CONF_API_WORKERS, workers, n);
	}
}

/* ---- checks ---- */

static void wrong(struct conf_loading *l, enum conf_key k, const char *fmt, ...) printf_like(3, 4);
static void wrong(struct conf_loading *l, enum conf_key k, const char *fmt, ...)
{
	const char *source = conf_source(l->c, k);
	char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) == -1)
		text = NULL;
	va_end(ap);
	struct buf shown = {0};
	conf_value_show(&conf_options[k], source, SPAN(l->c->v[k].text), &shown);
	buf_addc(&shown, '\0');
	bool file = strncmp(source, "file:", 5) == 0, env = strncmp(source, "env ", 4) == 0;
	conf_error(l, "%s%s: %s = %s: %s", env ? "environment " : "",
		   file				 ? source + 5
		   : env			 ? source + 4
		   : strcmp(source, "flag") == 0 ? "--set"
						 : source,
		   conf_options[k].name, shown.p, text ? text : "is refused");
	buf_free(&shown);
	free(text);
}

/* Splits host:port; brackets around IPv6 go. */
static bool split_address(const char *text, char *host, size_t cap, long *port_r)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
	if (!colon || digits == 0 || digits > 5 || colon[1 + digits])
		return false;
	*port_r = strtol(colon + 1, NULL, 10);
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	} else if (memchr(text, ':', len)) {
		return false; /* ::1:7700 could be read in two ways */
	}
	if (len == 0 || len >= cap || *port_r > 65535)
		return false;
	memcpy(host, text, len);
	host[len] = '\0';
	return true;
}

static void check_address(struct conf_loading *l, enum conf_key k)
{
	char host[INET6_ADDRSTRLEN];
	struct in_addr v4;
	struct in6_addr v6;
	bool loopback;
	long port;
	if (!*conf_str(l->c, k))
		return;
	if (!split_address(conf_str(l->c, k), host, sizeof(host), &port)) {
		wrong(l, k,
		      "expected host:port with a port up to 65535, for example "
		      "\"127.0.0.1:7700\" or \"[::1]:7700\"");
		return;
	}
	if (inet_pton(AF_INET, host, &v4) == 1) {
		loopback = ntohl(v4.s_addr) >> 24 == 127;
	} else if (inet_pton(AF_INET6, host, &v6) == 1) {
		loopback = IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
	} else if (strcmp(host, "localhost") == 0 || strcmp(host, "*") == 0) {
		loopback = *host == 'l';
	} else {
		wrong(l, k, "the host must be an address, localhost or *; names are not looked up");
		return;
	}
	if (!loopback && !*conf_str(l->c, CONF_AUTH_TOKENS_FILE))
		wrong(l, k,
		      "others than this machine could connect, and there is no authentication; "
		      "set auth.tokens_file, or listen on 127.0.0.1");
}

static void check_tls(struct conf_loading *l)
{
	static const enum conf_key needed[] = {CONF_TLS_CERTIFICATE, CONF_TLS_KEY};
	check_address(l, CONF_LISTEN_TLS);
	if (!*conf_str(l->c, CONF_LISTEN_TLS))
		return;
	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		if (!*conf_str(l->c, needed[i]))
			wrong(l, CONF_LISTEN_TLS, "there is no TLS without a certificate and its key; set %s",
			      conf_options[needed[i]].name);
}

static void check_names(struct conf_loading *l)
{
	json_t *list = json_loads(conf_str(l->c, CONF_LISTEN_NAMES), 0, NULL), *item;
	size_t i;
	json_array_foreach (list, i, item) {
		const char *name = json_string_value(item);
		if (!name || !*name || strlen(name) > 253 || strpbrk(name, " /:@?#")) {
			wrong(l, CONF_LISTEN_NAMES,
			      "item %zu is no host name; expected a list such as "
			      "[\"memory.example.org\"], names without scheme and port",
			      i + 1);
			break;
		}
	}
	json_decref(list);
}

static void check_times(struct conf_loading *l)
{
	json_t *list = json_loads(conf_str(l->c, CONF_WARMER_AT), 0, NULL), *item;
	unsigned hour, minute;
	int end;
	size_t i;
	json_array_foreach (list, i, item) {
		const char *t = json_is_string(item) ? json_string_value(item) : "";
		end = 0;
		if (strlen(t) == 5 && strspn(t, "0123456789:") == 5 &&
		    sscanf(t, "%2u:%2u%n", &hour, &minute, &end) == 2 && end == 5 && hour < 24 && minute < 60)
			continue;
		wrong(l, CONF_WARMER_AT,
		      "item %zu is no time of the day; expected a list such as [\"06:30\", \"18:00\"]", i + 1);
		break;
	}
	json_decref(list);
}

static void check_breaker(struct conf_loading *l)
{
	if (conf_int(l->c, CONF_BREAKER_OPEN_MAX) >= conf_int(l->c, CONF_BREAKER_OPEN_MIN))
		return;
	char *min = conf_text(l->c, CONF_BREAKER_OPEN_MIN);
	wrong(l, CONF_BREAKER_OPEN_MAX, "must be at least breaker.open_min (%s); raise it, or lower that one", min);
	free(min);
}

static void check_redis(struct conf_loading *l)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	const char *prefix = conf_str(l->c, CONF_REDIS_PREFIX), *url = conf_str(l->c, CONF_REDIS_URL);
	char *error = NULL;
	size_t n = strlen(prefix);
	if (!n || n > REDIS_PREFIX_MAX || strspn(prefix, letters) != n)
		wrong(l, CONF_REDIS_PREFIX, "expected 1 to %d letters, digits, dots, dashes and underscores",
		      REDIS_PREFIX_MAX);
	if (!*url)
		return;
	struct redis_url *u = redis_url_parse(url, &error);
	if (!u)
		wrong(l, CONF_REDIS_URL, "%s", error ? error + strlen("redis.url: ") : "is refused");
	free(error);
	redis_url_free(&u);
}

/* Where traces go; what libcurl would only say later, for each attempt. */
static void check_trace(struct conf_loading *l)
{
	const char *url = conf_str(l->c, CONF_TRACE_ENDPOINT);
	size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
	if (*url && (!scheme || !url[scheme] || url[scheme] == '/' || strchr(url, '@')))
		wrong(l, CONF_TRACE_ENDPOINT,
		      "expected http://host:port/v1/traces or https://…, without user and password: those belong in "
		      "trace.headers");
	for (const char *p = url; *p; p++)
		if ((unsigned char)*p <= 0x20 || *p == 0x7f) {
			wrong(l, CONF_TRACE_ENDPOINT, "must not hold blanks or control characters");
			break;
		}
	size_t n;
	if (!otlp_headers(conf_str(l->c, CONF_TRACE_HEADERS), NULL, &n))
		wrong(l, CONF_TRACE_HEADERS, "expected name=value, and commas between several of them, %d at most",
		      OTLP_HEADERS_MAX);
}

#define DATA_DIR_MAX 480 /* SQLite opens paths of at most 512 bytes, and adds names to this one */

/* Where lines go, and which: names that are wrong would be noticed when somebody misses a line. */
static void check_log(struct conf_loading *l)
{
	uint8_t levels[LOG_SUBSYSTEMS];
	const char *target = conf_str(l->c, CONF_LOG_TARGET), *format = conf_str(l->c, CONF_LOG_FORMAT);
	bool journal = strcmp(target, "journal") == 0 || strncmp(target, "journal:/", 9) == 0;
	char *error = NULL;
	if (!journal && *target != '/' && strcmp(target, "stderr") != 0 && strcmp(target, "stdout") != 0)
		wrong(l, CONF_LOG_TARGET,
		      "is none of auto, stderr, stdout, journal, journal:/path/of/a/socket and /path/of/a/file");
	if (strncmp(target, "journal:", 8) == 0 && strlen(target) - 8 >= sizeof(((struct sockaddr_un *)0)->sun_path))
		wrong(l, CONF_LOG_TARGET,
		      "is longer than the %zu bytes that a socket's path may have; choose a shorter one",
		      sizeof(((struct sockaddr_un *)0)->sun_path) - 1);
	if (journal && strcmp(format, "auto") != 0)
		wrong(l, CONF_LOG_FORMAT,
		      "the journal takes fields; leave log.format at auto, or choose another log.target");
	if (!log_levels_parse(conf_str(l->c, CONF_LOG_LEVELS), LOG_LV_INFO, levels, &error))
		wrong(l, CONF_LOG_LEVELS, "%s", error ? error : "is malformed");
	free(error);
}

static void check_data_dir(struct conf_loading *l)
{
	if (strlen(conf_str(l->c, CONF_DATA_DIR)) > DATA_DIR_MAX)
		wrong(l, CONF_DATA_DIR, "is longer than %d bytes, more than SQLite can open; choose a shorter one",
		      DATA_DIR_MAX);
}

static void check_unix(struct conf_loading *l)
{
	const char *mode = conf_str(l->c, CONF_LISTEN_UNIX_MODE);
	size_t len = strlen(mode), most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	if (len < 3 || len > 4 || strspn(mode, "01234567") != len || (len == 4 && *mode != '0'))
		wrong(l, CONF_LISTEN_UNIX_MODE, "expected octal permissions such as \"0660\"");
	/* PATH.ctl stands beside it and must fit, too. */
	if (strlen(conf_str(l->c, CONF_LISTEN_UNIX)) + strlen(".ctl") > most)
		wrong(l, CONF_LISTEN_UNIX,
		      "is longer than the %zu bytes that a socket's path may have; "
		      "choose a shorter one",
		      most - strlen(".ctl"));
}

void conf_check_whole(struct conf_loading *l)
{
	uint64_t ring = (uint64_t)conf_int(l->c, CONF_RING_BYTES);
	check_address(l, CONF_LISTEN_TCP);
	check_tls(l);
	check_names(l);
	check_times(l);
	check_unix(l);
	check_data_dir(l);
	check_breaker(l);
	check_trace(l);
	check_redis(l);
	check_log(l);
	if (ring & (ring - 1))
		wrong(l, CONF_RING_BYTES, "is no power of two; take for example \"8 MiB\"");
}
