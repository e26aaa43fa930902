/* The addresses behind a dsn. libpq resolves names when a connection is begun, and waits for the name service;
 * so a thread does it before, and libpq is given addresses. */
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "link-private.h"

#define TARGETS_MAX 32

struct pg_resolving {
	_Atomic unsigned holders; /* the link and the thread: the last one frees */
	_Atomic bool done;
	int efd; /* a duplicate: the link may be gone */
	char *dsn;
	struct pg_targets t;
};

void pg_targets_free(struct pg_targets *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->v[i].host);
		free(t->v[i].hostaddr);
		free(t->v[i].port);
	}
	free(t->v);
	free(t->error);
	*t = (struct pg_targets){NULL, 0, NULL};
}

static char *copy(const char *s) { return s && *s ? util_strndup(s, strlen(s)) : NULL; }

static void add(struct pg_targets *t, const char *host, const char *addr, const char *port)
{
	if (t->n == TARGETS_MAX)
		return;
	if (!t->v)
		t->v = util_zalloc(TARGETS_MAX * sizeof(*t->v));
	t->v[t->n++] = (struct pg_target){copy(host), copy(addr), copy(port)};
}

static void unknown(struct pg_targets *t, const char *host, const char *why)
{
	struct buf b = {0};
	if (t->error)
		buf_printf(&b, "%s; ", t->error);
	buf_printf(&b, "host \"%s\": %s", host, why);
	buf_addc(&b, 0);
	free(t->error);
	t->error = b.p;
}

static void look_up(struct pg_targets *t, const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	char text[64];
	if (*host == '/' || *host == '@' || !*host) {
		add(t, host, NULL, port);
		return;
	}
	int rc = getaddrinfo(host, NULL, &hints, &list);
	if (rc) {
		unknown(t, host, gai_strerror(rc));
		return;
	}
	for (struct addrinfo *a = list; a; a = a->ai_next)
		if (!getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
			add(t, host, text, port);
	freeaddrinfo(list);
}

/* The n-th of a comma-separated list; a list of one holds for all. */
static char *nth(const char *list, size_t n)
{
	if (!list || !strchr(list, ','))
		return copy(list);
	for (; n && list; n--)
		list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL;
	return list ? util_strndup(list, strcspn(list, ",")) : NULL;
}

static size_t count(const char *list)
{
	size_t n = list && *list ? 1 : 0;
	for (; list && (list = strchr(list, ',')); list++)
		n++;
	return n;
}

static void find_targets(const char *dsn, struct pg_targets *t)
{
	char *why = NULL;
	PQconninfoOption *o = pq.conninfoParse(dsn, &why);
	const char *hosts = getenv("PGHOST"), *addrs = getenv("PGHOSTADDR"), *ports = getenv("PGPORT");
	if (!o) {
		t->error = why ? util_strndup(why, strcspn(why, "\n")) : NULL;
		pq.freemem(why);
		return;
	}
	for (PQconninfoOption *i = o; i->keyword; i++) {
		if (!i->val || !*i->val)
			continue;
		hosts = strcmp(i->keyword, "host") == 0 ? i->val : hosts;
		addrs = strcmp(i->keyword, "hostaddr") == 0 ? i->val : addrs;
		ports = strcmp(i->keyword, "port") == 0 ? i->val : ports;
	}
	size_t n = count(addrs) > count(hosts) ? count(addrs) : count(hosts);
	for (size_t i = 0; i < n; i++) {
		char *host = nth(hosts, i), *addr = nth(addrs, i), *port = nth(ports, i);
		if (addr && *addr)
			add(t, host, addr, port);
		else
			look_up(t, host ? host : "", port);
		free(host);
		free(addr);
		free(port);
	}
	if (!n)
		add(t, NULL, NULL, ports);
	pq.conninfoFree(o);
}

static void release(struct pg_resolving *r)
{
	if (atomic_fetch_sub(&r->holders, 1) != 1)
		return;
	pg_targets_free(&r->t);
	close(r->efd);
	free(r->dsn);
	free(r);
}

static void *resolve_main(void *arg)
{
	struct pg_resolving *r = arg;
	prctl(PR_SET_NAME, "names");
	find_targets(r->dsn, &r->t);
	atomic_store_explicit(&r->done, true, memory_order_release);
	(void)!write(r->efd, &(uint64_t){1}, 8);
	release(r);
	return NULL;
}

struct pg_resolving *pg_resolve_start(const char *dsn, int efd)
{
	struct pg_resolving *r = util_zalloc(sizeof(*r));
	pthread_attr_t a;
	pthread_t thread;
	atomic_init(&r->holders, 2);
	r->efd = dup(efd);
	r->dsn = util_strndup(dsn, strlen(dsn));
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	int rc = pthread_create(&thread, &a, resolve_main, r);
	pthread_attr_destroy(&a);
	if (!rc)
		return r;
	release(r);
	release(r);
	return NULL;
}

bool pg_resolve_take(struct pg_resolving *r, struct pg_targets *t_r)
{
	if (!atomic_load_explicit(&r->done, memory_order_acquire))
		return false;
	*t_r = r->t;
	r->t = (struct pg_targets){NULL, 0, NULL};
	return true;
}

void pg_resolve_forget(struct pg_resolving **r)
{
	if (*r)
		release(*r);
	*r = NULL;
}
