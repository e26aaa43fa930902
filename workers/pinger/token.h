/* What a target is shown as its credential: a token from a file, or an identity token of the metadata server. Tokens are
 * never logged and stay in this process.
 *
 * Identity tokens are asked of http://$GCE_METADATA_HOST (metadata.google.internal), one for each audience however many
 * targets want it; kept until shortly before they end, and fetched anew ahead of that while the old one still serves.
 * Files are read at every ping, a few hundred bytes: whoever replaces them need not tell. */
#ifndef ORC_TOKEN_H
#define ORC_TOKEN_H
#include "transport.h"

#define TOKEN_MAX 16384
#define TOKEN_ERROR_MAX 256

struct tokens;
struct token_wait; /* somebody who waits for a token */

/* `token` NULL: `error` says why. Called from the loop, never from tokens_get(). */
typedef void token_fn(void *arg, const char *token, const char *error);

/* The first line of a file, or of "credential:NAME". NULL: error says why and what to do. */
char *must_check token_read_file(const char *path, char error[TOKEN_ERROR_MAX]);
void token_free(char **token); /* wiped */
/* When a JWT ends, seconds since 1970; 0: it is none, or does not say. */
int64_t token_expiry(const char *jwt);

struct tokens *must_check tokens_open(struct transport *t);
/* The token now, valid until the next call; or NULL, and `fn` is called later unless *wait_r is given up: then it is over,
 * and `fn` is not to give it up. */
const char *tokens_get(struct tokens *k, const char *audience, token_fn *fn, void *arg, struct token_wait **wait_r);
void tokens_give_up(struct token_wait **wait);
/* Forgets the tokens of audiences that no target has. */
void tokens_keep(struct tokens *k, const struct target_list *l);
void tokens_close(struct tokens **k);
#endif
