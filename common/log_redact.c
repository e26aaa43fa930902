#include "log_redact.h"

#include <ctype.h>
#include <pthread.h>
#include <strings.h>

/* Known secrets. Under a lock: they change when the configuration does, while other threads log. */
static struct {
	pthread_mutex_t lock;
	struct secret {
		uint32_t len; /* of the whole; 0 = free */
		char text[LOG_REDACT_BYTES];
	} known[LOG_REDACT_SECRETS];
	size_t next;
	_Atomic unsigned count;
} secrets = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char mark[] = "(secret)";

/* ---- what is known ---- */

static size_t kept(size_t len) { return len < LOG_REDACT_BYTES ? len : LOG_REDACT_BYTES; }

static void add(const char *p, size_t len)
{
	if (len < LOG_REDACT_LEAST || len > UINT32_MAX)
		return;
	pthread_mutex_lock(&secrets.lock);
	bool there = false;
	for (size_t i = 0; i < LOG_REDACT_SECRETS && !there; i++) {
		const struct secret *s = &secrets.known[i];
		there = s->len == len && memcmp(s->text, p, kept(len)) == 0;
	}
	if (!there) {
		struct secret *s = &secrets.known[secrets.next++ % LOG_REDACT_SECRETS];
		s->len = (uint32_t)len;
		memcpy(s->text, p, kept(len));
		secrets.count++;
	}
	pthread_mutex_unlock(&secrets.lock);
}

/* How much of the text at p is a known secret, the longest; 0: none. Called with the lock. */
static size_t known_at(const char *p, size_t left)
{
	size_t best = 0;
	for (size_t i = 0; i < LOG_REDACT_SECRETS; i++) {
		const struct secret *s = &secrets.known[i];
		size_t n = kept(s->len);
		bool cut = n > left && left >= LOG_REDACT_LEAST; /* at the end of a text that was cut */
		if (!s->len || *p != *s->text || (n > left && !cut) || memcmp(p, s->text, cut ? left : n) != 0)
			continue;
		n = s->len < left ? s->len : left;
		best = n > best ? n : best;
	}
	return best;
}

void log_redact_forget(void)
{
	pthread_mutex_lock(&secrets.lock);
	memset(secrets.known, 0, sizeof(secrets.known));
	secrets.next = 0;
	secrets.count = 0;
	pthread_mutex_unlock(&secrets.lock);
}

/* ---- what looks like one ---- */

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }
static bool is_token(char c) { return isalnum((unsigned char)c) || (c && strchr("-._~+/=", c)); }
static bool is_base64url(char c) { return isalnum((unsigned char)c) || c == '-' || c == '_'; }
static bool is_blank(char c) { return c == ' ' || c == '\t'; }
static bool ends_word(char c) { return !c || isspace((unsigned char)c) || strchr("\"'<>`|", c); }

static size_t run_of(const char *p, bool (*is)(char))
{
	size_t n = 0;
	while (p[n] && is(p[n]))
		n++;
	return n;
}

/* "://" is at p: where the password of the URL lies behind it. A password that was not escaped may hold slashes: what
 * stands behind the colon and is no port belongs to it when an at sign follows. False: there is none. */
static bool url_password(const char *p, const char **from_r, size_t *len_r)
{
	const char *start = p + 3, *end = start, *colon = NULL, *at = NULL;
	for (; !ends_word(*end) && !strchr("/?#", *end); end++) {
		if (*end == ':' && !colon)
			colon = end;
		if (*end == '@')
			at = end;
	}
	bool port = colon && run_of(colon + 1, is_word) == (size_t)(end - colon - 1);
	for (const char *d = colon ? colon + 1 : end; port && d < end; d++)
		port = isdigit((unsigned char)*d);
	if (!at && colon && !port)
		for (const char *d = end; !ends_word(*d); d++)
			at = *d == '@' ? d : at;
	if (!at || !colon || colon > at)
		return false;
	*from_r = colon + 1;
	*len_r = (size_t)(at - colon - 1);
	return *len_r > 0;
}

/* The end of a value that begins at p: of a quoted one the quote (a backslash or another quote escapes one), else a blank
 * or what separates parameters. */
static size_t value_len(const char *p, char quote)
{
	size_t n = 0;
	if (!quote)
		while (!ends_word(p[n]) && !strchr("&;,)}]", p[n]))
			n++;
	else
		for (; p[n] && (p[n] != quote || (quote == '\'' && p[n + 1] == quote)); n++)
			n += (p[n] == '\\' && p[n + 1]) || p[n] == quote;
	return n;
}

/* Keys whose values nobody may read, wherever they stand: password=x, "password": "x", api_key = 'x'. */
static const char *const keys[] = {"password", "passwd",      "pwd",	       "secret",       "token",
				   "api_key",  "apikey",      "api-key",       "access_token", "refresh_token",
				   "id_token", "private_key", "client_secret", "sslpassword",  "passphrase"};

/* A key is at p, `n` bytes long: where its value lies. A colon counts only before a quoted value: prose has colons. */
static bool keyed_value(const char *p, size_t n, const char **from_r, size_t *len_r)
{
	const char *v = p + n;
	v += *v == '\\'; /* JSON within JSON */
	v += *v == '"' || *v == '\'';
	v += run_of(v, is_blank);
	char sign = *v;
	if (sign != '=' && sign != ':')
		return false;
	v++;
	v += run_of(v, is_blank);
	char quote = *v == '"' || *v == '\'' ? *v : 0;
	if (*v == '\\' && v[1] == '"') {
		*from_r = v + 2;
		*len_r = value_len(v + 2, '\\');
		return *len_r > 0;
	}
	if (sign == ':' && !quote)
		return false;
	*from_r = v + (quote != 0);
	*len_r = value_len(*from_r, quote);
	return *len_r > 0;
}

static bool key_at(const char *p, const char **from_r, size_t *len_r)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		size_t n = strlen(keys[i]);
		if (strncasecmp(p, keys[i], n) == 0 && !is_word(p[n]) && keyed_value(p, n, from_r, len_r))
			return true;
	}
	return false;
}

/* "Bearer x", but not the word in a sentence. */
static bool bearer_at(const char *p, const char **from_r, size_t *len_r)
{
	static const char *const prose[] = {"token", "tokens", "authentication", "credential", "credentials",
					    "is",    "and"};
	if (strncasecmp(p, "bearer", 6) != 0 || !is_blank(p[6]))
		return false;
	const char *v = p + 6 + run_of(p + 6, is_blank);
	size_t n = run_of(v, is_token);
	for (size_t i = 0; i < ARRAY_LEN(prose); i++)
		if (n == strlen(prose[i]) && strncasecmp(v, prose[i], n) == 0)
			return false;
	*from_r = v;
	*len_r = n;
	return n > 0;
}

/* Authorization: Basic x, Proxy-Authorization: anything: all but the scheme. */
static bool header_at(const char *p, const char **from_r, size_t *len_r)
{
	static const char name[] = "authorization";
	size_t n = sizeof(name) - 1;
	if (strncasecmp(p, name, n) != 0 || is_word(p[n]))
		return false;
	const char *v = p + n;
	v += *v == '"' || *v == '\'';
	v += run_of(v, is_blank);
	if (*v != ':' && *v != '=')
		return false;
	v++;
	v += run_of(v, is_blank);
	v += *v == '"' || *v == '\'';
	size_t scheme = run_of(v, is_word);
	if (scheme && is_blank(v[scheme]))
		v += scheme + run_of(v + scheme, is_blank);
	*from_r = v;
	*len_r = 0;
	while (v[*len_r] && !strchr("\"'\r\n<>", v[*len_r]))
		++*len_r;
	return *len_r > 0;
}

/* header.payload.signature; the header is a JSON object, so it begins with eyJ. */
static size_t jwt_at(const char *p)
{
	size_t n = run_of(p, is_base64url), m;
	if (strncmp(p, "eyJ", 3) != 0 || n < 8 || p[n] != '.')
		return 0;
	m = run_of(p + n + 1, is_base64url);
	if (m < 4)
		return 0;
	n += 1 + m;
	if (p[n] == '.')
		n += 1 + run_of(p + n + 1, is_base64url);
	return n;
}

/* What stands at p and must not be read: [*from_r, *from_r + *len_r), which begins at p or behind it. `word`: p may begin one. */
static bool looks_secret(const char *p, bool word, const char **from_r, size_t *len_r)
{
	if (*p == ':')
		return p[1] == '/' && p[2] == '/' && url_password(p, from_r, len_r);
	if (!isalpha((unsigned char)*p))
		return false;
	if (word && *p == 'e' && (*len_r = jwt_at(p))) {
		*from_r = p;
		return true;
	}
	return header_at(p, from_r, len_r) || (word && bearer_at(p, from_r, len_r)) || key_at(p, from_r, len_r);
}

/* ---- both ---- */

void log_redact_value(const char *value)
{
	const char *from;
	size_t len;
	if (*value == '/' || !*value)
		return;
	add(value, strlen(value));
	for (const char *p = value; *p; p++) {
		if (looks_secret(p, p == value || !is_word(p[-1]), &from, &len)) {
			add(from, len);
			p = from + len - 1;
		}
	}
}

static size_t put(char *out, size_t cap, size_t n, const char *p, size_t len)
{
	size_t room = cap - 1 - n;
	len = len < room ? len : room;
	memcpy(out + n, p, len);
	return n + len;
}

/* One pass. What stands between a key and its value is looked at for known secrets too. */
size_t log_redact(char *out, size_t cap, const char *text)
{
	size_t n = 0, known, len = 0;
	const char *p = text, *end = text + strlen(text), *from = NULL, *hide; /* from: what is hidden next, with len */
	bool any = secrets.count;
	if (any)
		pthread_mutex_lock(&secrets.lock);
	while (p < end && n + 1 < cap) {
		hide = NULL;
		if (from && p >= from) {
			hide = from + len;
			from = NULL;
		} else if (any && (known = known_at(p, (size_t)(end - p)))) {
			hide = p + known;
		} else if (!from && looks_secret(p, p == text || !is_word(p[-1]), &from, &len)) {
			if (from == p)
				continue;
		}
		if (hide && hide > p) {
			n = put(out, cap, n, mark, sizeof(mark) - 1);
			p = hide;
		} else if (!hide) {
			out[n++] = *p++;
		}
	}
	if (any)
		pthread_mutex_unlock(&secrets.lock);
	out[n] = '\0';
	return n;
}
