/* Tokens out of files, and when one ends. */
#include "token.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CREDENTIAL "credential:"

static bool find_path(const char *path, char out[4096], char *error)
{
	const char *folder = getenv("CREDENTIALS_DIRECTORY");
	if (strncmp(path, CREDENTIAL, sizeof(CREDENTIAL) - 1) != 0) {
		snprintf(out, 4096, "%s", path);
		return true;
	}
	if (folder && *folder)
		snprintf(out, 4096, "%s/%s", folder, path + sizeof(CREDENTIAL) - 1);
	else
		snprintf(error, TOKEN_ERROR_MAX,
			 "bearer_file %.100s: there is no CREDENTIALS_DIRECTORY; add LoadCredential= to the unit",
			 path);
	return folder && *folder;
}

/* Visible ASCII only: it becomes a line of the request's head. */
static bool is_token(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] <= 0x20 || p[i] >= 0x7f)
			return false;
	return n > 0;
}

char *token_read_file(const char *path, char error[TOKEN_ERROR_MAX])
{
	char at[4096], content[TOKEN_MAX + 1];
	struct stat st;
	if (!find_path(path, at, error))
		return NULL;
	int fd = open(at, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	ssize_t n = fd == -1 || fstat(fd, &st) == -1 ? -1 : read(fd, content, sizeof(content));
	int cause = errno;
	if (fd != -1)
		close(fd);
	if (n == -1) {
		snprintf(error, TOKEN_ERROR_MAX, "bearer_file %.100s cannot be read: %s; let uid %u read it", path,
			 strerror(cause), (unsigned)geteuid());
		return NULL;
	}
	size_t len = 0;
	while (len < (size_t)n && content[len] != '\n' && content[len] != '\r')
		len++;
	char *token = NULL;
	if (S_ISREG(st.st_mode) && len <= TOKEN_MAX && is_token(content, len))
		token = util_strndup(content, len);
	else
		snprintf(error, TOKEN_ERROR_MAX,
			 "bearer_file %.100s: expected a file whose first line is a token of at most %d bytes", path,
			 TOKEN_MAX);
	explicit_bzero(content, sizeof(content));
	return token;
}

void token_free(char **token)
{
	if (*token)
		explicit_bzero(*token, strlen(*token));
	free(*token);
	*token = NULL;
}

static int sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* base64url without padding; false: it is not. */
static bool decode(struct span in, struct buf *out)
{
	uint32_t bits = 0;
	unsigned have = 0;
	for (size_t i = 0; i < in.len; i++) {
		int v = sextet(in.p[i]);
		if (v < 0)
			return false;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			buf_addc(out, (char)(bits >> have));
		}
	}
	return true;
}

/* Nobody's word is taken for anything but when to fetch the next one, or to have one put there: the target checks the
 * signature. */
int64_t token_expiry(const char *jwt)
{
	const char *dot = strchr(jwt, '.'), *end = dot ? strchr(dot + 1, '.') : NULL;
	struct buf b = {0};
	json_int_t exp = 0;
	if (!end || !is_token(jwt, strlen(jwt)))
		return 0;
	if (decode((struct span){dot + 1, (size_t)(end - dot - 1)}, &b) && b.len) {
		json_t *o = json_loadb(b.p, b.len, 0, NULL);
		exp = json_integer_value(json_object_get(o, "exp"));
		json_decref(o);
	}
	buf_free(&b);
	return exp > 0 && exp < INT64_MAX / 1000000 ? (int64_t)exp : 0;
}
