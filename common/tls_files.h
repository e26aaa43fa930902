/* Certificate and key of listen.tls on their way from the files to the api workers.
 *
 * The supervisor reads the files (after it has become the user it runs as) and passes their bytes on
 * in a sealed memfd, without understanding them: so all api workers have the same pair, those that
 * are born later too, whatever stands half renewed on the disk at that moment. With them goes the
 * secret of the session tickets, made anew each time: a ticket from one worker is good at another. */
#ifndef ORC_TLS_FILES_H
#define ORC_TLS_FILES_H
#include "conf.h"

#define TLS_FILE_MAX (1u << 20) /* bytes of one file */
#define TLS_TICKET_BYTES 80	/* what SSL_CTX_set_tlsext_ticket_keys() takes */

enum tls_file { TLS_CERTIFICATE, TLS_KEY, TLS_CLIENT_CA, TLS_FILE_COUNT };

struct tls_files {
	struct {
		const char *path; /* of the configuration; "": not set, and pem is empty */
		struct buf pem;
	} file[TLS_FILE_COUNT];
	unsigned char ticket[TLS_TICKET_BYTES];
};

/* "tls.key" */
const char *tls_files_key(enum tls_file i);
/* Reads what tls.certificate, tls.key and tls.client_ca name, and makes a ticket secret. False: *error_r
 * (malloc'ed) names key and file. Either way tls_files_free() ends it; paths stay those of `c`. */
bool must_check tls_files_read(const struct conf *c, struct tls_files *f_r, char **error_r);
/* One memfd, sealed, close-on-exec. -1: errno. */
int must_check tls_files_pack(const struct tls_files *f);
/* What was packed, with the paths of `c` for messages. False: it is none. */
bool must_check tls_files_unpack(int fd, const struct conf *c, struct tls_files *f_r);
/* Frees and wipes. */
void tls_files_free(struct tls_files *f);
#endif
