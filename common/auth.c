#include "auth.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH 32

struct token {
	unsigned char hash[HASH];
	struct auth_principal who;
};
struct auth {
	struct token *v;
	size_t n;
	size_t more_owners;
};

/* ---- the file ---- */

static void *fail(char **error_r, const char *path, size_t line, const char *what)
{
	struct buf b = {0};
	if (line)
		buf_printf(&b, "%s:%zu: %s", path, line, what);
	else
		buf_printf(&b, "%s: %s", path, what);
	buf_addc(&b, 0);
	*error_r = b.p;
	return NULL;
}

static bool read_hash(const char *s, unsigned char out[HASH])
{
	if (strncmp(s, "sha256:", 7) != 0 || strlen(s + 7) != 2 * HASH)
		return false;
	for (int i = 0; i < HASH; i++) {
		int hi = util_hex_digit(s[7 + 2 * i]), lo = util_hex_digit(s[8 + 2 * i]);
		if (hi < 0 || lo < 0)
			return false;
		out[i] = (unsigned char)(hi << 4 | lo);
	}
	return true;
}

static bool read_rights(char *s, unsigned *rights)
{
	char *save = NULL;
	*rights = 0;
	for (char *w = strtok_r(s, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		if (strcmp(w, "read") == 0)
			*rights |= AUTH_READ;
		else if (strcmp(w, "write") == 0)
			*rights |= AUTH_WRITE;
		else if (strcmp(w, "admin") == 0)
			*rights |= AUTH_READ | AUTH_WRITE | AUTH_ADMIN;
		else
			return false;
	}
	return *rights != 0;
}

/* False: it names none, which must not become NULL, every one. */
static bool read_namespaces(char *s, struct auth_principal *who)
{
	char *save = NULL;
	const char **v = NULL;
	size_t n = 0;
	if (strcmp(s, "*") == 0)
		return true;
	for (char *w = strtok_r(s, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		v = util_realloc(v, (n + 1) * sizeof(*v));
		v[n++] = util_strndup(w, strlen(w));
	}
	who->namespaces = v;
	who->nnamespaces = n;
	return n > 0;
}

/* NULL: fine; else what is wrong with the line. */
static const char *read_line(struct auth *a, char *line)
{
	char *save = NULL, *word[5] = {NULL};
	size_t n = 0;
	for (char *w = strtok_r(line, " \t\r\n", &save); w; w = strtok_r(NULL, " \t\r\n", &save)) {
		if (*w == '#')
			break;
		if (n == 5)
			return "too many words; a line is: name sha256:HEX rights namespaces";
		word[n++] = w;
	}
	if (!n)
		return NULL;
	if (n != 4)
		return "a line is: name sha256:HEX rights namespaces (rights: read,write,admin; namespaces: a,b or *)";
	struct token t = {.who = {.name = NULL}};
	if (!read_hash(word[1], t.hash))
		return "the second word must be sha256: and 64 hexadecimal digits (printf %s TOKEN | sha256sum)";
	if (!read_rights(word[2], &t.who.rights))
		return "rights must be read, write or admin, separated by commas";
	if (!read_namespaces(word[3], &t.who))
		return "the last word must name namespaces, separated by commas, or be * for every one";
	t.who.name = util_strndup(word[0], strlen(word[0]));
	a->v = util_realloc(a->v, (a->n + 1) * sizeof(*a->v));
	a->v[a->n++] = t;
	return NULL;
}

struct auth *auth_load(const char *path, char **error_r)
{
	struct stat st;
	char *line = NULL;
	const char *bad = NULL;
	size_t cap = 0, number = 0;
	FILE *f = fopen(path, "re");
	if (!f) {
		char why[128];
		snprintf(why, sizeof(why), "uid %d cannot read it: %s", (int)geteuid(), strerror(errno));
		return fail(error_r, path, 0, why);
	}
	if (fstat(fileno(f), &st) || st.st_mode & (S_IWGRP | S_IWOTH)) {
		fclose(f);
		return fail(error_r, path, 0, "others may write this file; chmod go-w it");
	}
	struct auth *a = util_zalloc(sizeof(*a));
	while (!bad && getline(&line, &cap, f) >= 0) {
		number++;
		bad = read_line(a, line);
	}
	if (!bad && ferror(f)) {
		number = 0;
		bad = "cannot be read to its end";
	}
	free(line);
	fclose(f);
	if (!bad && !a->n) {
		number = 0;
		bad = "holds no token, so nobody could get in";
	}
	if (!bad)
		return a;
	auth_free(&a);
	return fail(error_r, path, number, bad);
}

struct auth *auth_ref(struct auth *a)
{
	if (a)
		a->more_owners++;
	return a;
}

void auth_free(struct auth **ap)
{
	struct auth *a = *ap;
	*ap = NULL;
	if (!a || a->more_owners--)
		return;
	for (size_t i = 0; i < a->n; i++) {
		for (size_t k = 0; k < a->v[i].who.nnamespaces; k++)
			free((char *)(uintptr_t)a->v[i].who.namespaces[k]);
		free((void *)(uintptr_t)a->v[i].who.namespaces);
		free((char *)(uintptr_t)a->v[i].who.name);
	}
	free(a->v);
	free(a);
}

/* ---- checking ---- */

const struct auth_principal *auth_check(const struct auth *a, struct span h)
{
	unsigned char hash[HASH];
	unsigned len = 0;
	const struct auth_principal *found = NULL;
	if (h.len < 8 || strncasecmp(h.p, "bearer ", 7) != 0)
		return NULL;
	const char *p = h.p + 7, *end = h.p + h.len;
	while (p < end && *p == ' ')
		p++;
	if (p == end || !EVP_Digest(p, (size_t)(end - p), hash, &len, EVP_sha256(), NULL) || len != HASH)
		return NULL;
	/* All of them, so that the time does not tell which one matched. */
	for (size_t i = 0; i < a->n; i++)
		if (CRYPTO_memcmp(a->v[i].hash, hash, HASH) == 0)
			found = &a->v[i].who;
	return found;
}

const struct auth_principal *auth_local_admin(void)
{
	static const struct auth_principal local = {.rights = AUTH_READ | AUTH_WRITE | AUTH_ADMIN, .name = "local"};
	return &local;
}

bool auth_allows(const struct auth_principal *p, unsigned right, struct span ns)
{
	if (!p || !(p->rights & right))
		return false;
	if (!p->namespaces)
		return true;
	for (size_t i = 0; i < p->nnamespaces; i++)
		if (span_eq(SPAN(p->namespaces[i]), ns))
			return true;
	return false;
}

/* ---- hosts ---- */

static bool port_ok(const char *p, size_t n)
{
	unsigned v = 0;
	if (!n || n > 5)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!isdigit((unsigned char)p[i]))
			return false;
		v = v * 10 + (unsigned)(p[i] - '0');
	}
	return v <= 65535;
}

/* Cuts a port off; the host without brackets. False: malformed. */
static bool split_host(struct span h, struct span *name)
{
	if (!h.len)
		return false;
	if (h.p[0] == '[') {
		const char *end = memchr(h.p, ']', h.len);
		if (!end)
			return false;
		*name = (struct span){h.p + 1, (size_t)(end - h.p - 1)};
		size_t rest = h.len - name->len - 2;
		return rest == 0 || (end[1] == ':' && port_ok(end + 2, rest - 1));
	}
	const char *colon = memchr(h.p, ':', h.len);
	*name = (struct span){h.p, colon ? (size_t)(colon - h.p) : h.len};
	return !colon || port_ok(colon + 1, h.len - name->len - 1);
}

static bool same_name(struct span a, const char *b) { return strlen(b) == a.len && strncasecmp(a.p, b, a.len) == 0; }

static bool loopback(struct span name)
{
	char text[64];
	struct in_addr v4;
	struct in6_addr v6;
	if (same_name(name, "localhost"))
		return true;
	if (name.len >= sizeof(text))
		return false;
	memcpy(text, name.p, name.len);
	text[name.len] = 0;
	if (inet_pton(AF_INET, text, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, text, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool auth_host_ok(struct span host, const char *const *names, size_t n)
{
	struct span name;
	if (!split_host(host, &name))
		return false;
	if (name.len && name.p[name.len - 1] == '.')
		name.len--;
	if (!name.len)
		return false;
	if (loopback(name))
		return true;
	for (size_t i = 0; i < n; i++)
		if (same_name(name, names[i]))
			return true;
	return false;
}

bool auth_origin_ok(struct span origin, const char *const *names, size_t n)
{
	static const char *const schemes[] = {"http://", "https://"};
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
		size_t len = strlen(schemes[i]);
		if (origin.len > len && strncasecmp(origin.p, schemes[i], len) == 0)
			return auth_host_ok((struct span){origin.p + len, origin.len - len}, names, n);
	}
	return false; /* "null", extensions, anything else */
}
