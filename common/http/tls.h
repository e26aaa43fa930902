/* TLS for the HTTP server: what a certificate, its key and the settings make of a listening socket.
 *
 * OpenSSL does the protocol on the connection's own non-blocking socket; the rest of the engine sees
 * plain bytes (http-private.h has the verbs of a connection). TLS 1.2 with forward secrecy and 1.3, ALPN
 * http/1.1, no renegotiation, no compression, no early data. Sessions are resumed in TLS 1.3 only, by
 * tickets under the secret that all api workers share: in 1.2 whoever got hold of that secret could
 * read what was recorded before. */
#ifndef ORC_HTTP_TLS_H
#define ORC_HTTP_TLS_H
#include "http/http.h"
#include "tls_files.h"

struct http_tls;

/* NULL: *error_r (malloc'ed) names key, file, what is wrong and the remedy. `f` may be freed afterwards. An
 * expired certificate is taken: clients judge it, and those of other sockets should not lose the daemon for it. */
struct http_tls *must_check http_tls_new(const struct tls_files *f, bool only_13, char **error_r);
void http_tls_free(struct http_tls **t);
/* "CN=memory.example.org, serial 1A2B, valid until 2026-11-21 09:28:23Z", not terminated. */
void http_tls_describe(const struct http_tls *t, struct buf *out);
/* Unix time at which the certificate expires; 0: it cannot be told. */
int64_t http_tls_expires(const struct http_tls *t);
/* What clients will object to ("expired at …"), malloc'ed; NULL: nothing. */
char *http_tls_objection(const struct http_tls *t);

/* Connections accepted from now on use `t`, which the server takes over; those that exist keep theirs. */
void http_server_set_tls(struct http_server *s, struct http_tls *t);
/* Of what new connections use; 0 without a TLS socket. */
int64_t http_server_tls_expires(const struct http_server *s);
/* As http_server_listen(); http_server_set_tls() comes first. */
int must_check http_server_listen_tls(struct http_server *s, int fd);
#endif
