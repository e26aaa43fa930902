#include "redis/names.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <unistd.h>

struct names_query {
	_Atomic unsigned holders; /* who asked, and the thread: the last one frees */
	_Atomic bool done;
	int efd, port;
	char *host;
	struct names_address v[NAMES_MAX];
	size_t n;
	const char *why;
};

bool names_literal(const char *host, int port, struct names_address *out)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	*out = (struct names_address){.len = 0};
	if (!port) {
		if (strlen(host) >= sizeof(un.sun_path))
			return false;
		memcpy(un.sun_path, host, strlen(host) + 1);
		memcpy(&out->sa, &un, out->len = sizeof(un));
	} else if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
		memcpy(&out->sa, &v4, out->len = sizeof(v4));
	} else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
		memcpy(&out->sa, &v6, out->len = sizeof(v6));
	}
	return out->len > 0;
}

static void release(struct names_query *q)
{
	if (atomic_fetch_sub(&q->holders, 1) != 1)
		return;
	close(q->efd);
	free(q->host);
	free(q);
}

static void look_up(struct names_query *q)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	char port[8];
	snprintf(port, sizeof(port), "%d", q->port);
	int rc = getaddrinfo(q->host, port, &hints, &list);
	for (struct addrinfo *a = rc ? NULL : list; a && q->n < NAMES_MAX; a = a->ai_next) {
		if (a->ai_addrlen > sizeof(q->v->sa))
			continue;
		memcpy(&q->v[q->n].sa, a->ai_addr, a->ai_addrlen);
		q->v[q->n++].len = a->ai_addrlen;
	}
	q->why = rc ? gai_strerror(rc) : q->n ? NULL : "no address";
	if (!rc)
		freeaddrinfo(list);
}

static void *names_main(void *arg)
{
	struct names_query *q = arg;
	prctl(PR_SET_NAME, "names");
	look_up(q);
	atomic_store_explicit(&q->done, true, memory_order_release);
	(void)!write(q->efd, &(uint64_t){1}, 8);
	release(q);
	return NULL;
}

struct names_query *names_ask(const char *host, int port, int efd)
{
	struct names_query *q = util_zalloc(sizeof(*q));
	pthread_attr_t a;
	pthread_t thread;
	atomic_init(&q->holders, 2);
	q->efd = dup(efd);
	q->port = port;
	q->host = util_strndup(host, strlen(host));
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	int rc = q->efd == -1 ? -1 : pthread_create(&thread, &a, names_main, q);
	pthread_attr_destroy(&a);
	if (!rc)
		return q;
	release(q);
	release(q);
	return NULL;
}

bool names_take(struct names_query *q, struct names_address out[NAMES_MAX], size_t *n_r, const char **why_r)
{
	if (!atomic_load_explicit(&q->done, memory_order_acquire))
		return false;
	memcpy(out, q->v, q->n * sizeof(*out));
	*n_r = q->n;
	*why_r = q->why;
	return true;
}

void names_forget(struct names_query **q)
{
	if (*q)
		release(*q);
	*q = NULL;
}
