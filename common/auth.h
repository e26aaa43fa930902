/* Who may do what: tokens (hashed at rest) with rights and namespaces. */
#ifndef ORC_AUTH_H
#define ORC_AUTH_H
#include "util.h"

enum auth_right { AUTH_READ = 1, AUTH_WRITE = 2, AUTH_ADMIN = 4 };
struct auth; /* a loaded token file */
struct auth_principal {
	unsigned rights;
	const char *name;	       /* for logs */
	const char *const *namespaces; /* NULL = every one */
	size_t nnamespaces;
};
/* File: one token per line, `name sha256:<hex of the token> rights[,rights] namespace[,namespace]|*`; # starts a comment.
 * NULL: *error_r says line and remedy; a file that others may write is refused. */
struct auth *must_check auth_load(const char *path, char **error_r);
/* Another owner of the same tokens: each of them calls auth_free(). One thread only. NULL stays NULL. */
struct auth *auth_ref(struct auth *a);
void auth_free(struct auth **a);
/* Checks `Authorization: Bearer …`; constant-time in the token. NULL: unknown. */
const struct auth_principal *auth_check(const struct auth *a, struct span authorization);
/* The principal of loopback callers when no token file is configured. */
const struct auth_principal *auth_local_admin(void);
bool auth_allows(const struct auth_principal *p, unsigned right, struct span ns_name);
/* Host header and Origin header must name loopback or a configured name. */
bool auth_host_ok(struct span host, const char *const *names, size_t n);
bool auth_origin_ok(struct span origin, const char *const *names, size_t n);
#endif
