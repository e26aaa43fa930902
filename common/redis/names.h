/* The addresses of a host, found by a thread: the name service may take its time. */
#ifndef ORC_REDIS_NAMES_H
#define ORC_REDIS_NAMES_H
#include <sys/socket.h>

#include "util.h"

#define NAMES_MAX 8
struct names_address {
	struct sockaddr_storage sa;
	socklen_t len;
};
struct names_query;
/* Addresses of host (a name, an address, or a path where port is 0). efd is written to when they are there; the number is
 * duplicated. NULL: no thread can be made. */
struct names_query *must_check names_ask(const char *host, int port, int efd);
/* False: not yet. Else *n_r addresses; none: *why_r says why, as long as q lives. */
bool must_check names_take(struct names_query *q, struct names_address out[NAMES_MAX], size_t *n_r, const char **why_r);
/* The thread may go on for itself. */
void names_forget(struct names_query **q);
/* Without asking anybody: host is an address or a path. */
bool must_check names_literal(const char *host, int port, struct names_address *out_r);
#endif
