/* Tests on Redis: servers of the test's own, in a directory that goes with them; they die with the test. And an L2 on a
 * loop of its own. Without redis-server on the machine the test is skipped. */
#ifndef ORC_TEST_REDIS_MODEL_H
#define ORC_TEST_REDIS_MODEL_H
#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <hiredis/hiredis.h>

#include "breaker.h"
#include "cache/l2.h"
#include "clock.h"
#include "conf.h"
#include "stats.h"
#include "conf_model.h"

#define REDIS_HELPER __attribute__((unused)) static /* each test uses some of these */
#define REDIS_PATIENCE_US 60000000

/* ---- servers ---- */

struct redis_server {
	int port;
	pid_t pid;
	char dir[64], socket[96];
	char *args[24]; /* behind redis-server */
	char text[24][128];
};

REDIS_HELPER void redis_test_need(void)
{
	if (system("redis-server --version >/dev/null 2>&1") != 0) {
		fprintf(stderr, "skipped: no redis-server\n");
		exit(77);
	}
}

/* Nobody listens there, nor 10,000 further, at the cluster's bus. Below the ports that the kernel hands out to connections, which would
 * take it before the server does; at random, as other tests choose at the same time. */
REDIS_HELPER bool port_is_free(int port)
{
	struct sockaddr_in sa = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	bool ok = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) == 0 &&
		  bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
	close(fd);
	return ok;
}

REDIS_HELPER int free_port(void)
{
	uint16_t n = 0;
	int port;
	do {
		assert_int_equal(getrandom(&n, sizeof(n), 0), sizeof(n));
		port = 12000 + n % 10000;
	} while (!port_is_free(port) || !port_is_free(port + 10000));
	return port;
}

REDIS_HELPER void spawn(pid_t *pid_r, const char *program, char *const *args, const char *log)
{
	pid_t parent = getpid();
	*pid_r = fork();
	if (*pid_r)
		return;
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		execvp(program, args);
	_exit(127);
}

REDIS_HELPER redisContext *redis_test_session(struct redis_server *s)
{
	struct timeval t = {10, 0};
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; clock_mono_us() < until; usleep(2000)) {
		redisContext *c = redisConnectWithTimeout("127.0.0.1", s->port, t);
		if (c && !c->err) {
			redisSetTimeout(c, t);
			return c;
		}
		if (c)
			redisFree(c);
	}
	fail_msg("Redis at port %d does not answer", s->port);
	return NULL;
}

/* One command, on a connection of its own. The reply is the caller's. */
REDIS_HELPER redisReply *redis_test_ask(struct redis_server *s, const char *fmt, ...)
{
	va_list ap;
	redisContext *c = redis_test_session(s);
	va_start(ap, fmt);
	redisReply *r = redisvCommand(c, fmt, ap);
	va_end(ap);
	if (!r)
		fail_msg("%s: %s", fmt, c->errstr);
	redisFree(c);
	return r;
}

#define redis_test_do(s, ...) freeReplyObject(redis_test_ask(s, __VA_ARGS__))

REDIS_HELPER long long redis_test_number(struct redis_server *s, const char *fmt, const char *arg)
{
	redisReply *r = redis_test_ask(s, fmt, arg);
	long long n = r->type == REDIS_REPLY_INTEGER ? r->integer : -1;
	freeReplyObject(r);
	return n;
}

REDIS_HELPER void redis_test_run(struct redis_server *s)
{
	char log[96];
	snprintf(log, sizeof(log), "%s/log", s->dir);
	spawn(&s->pid, s->args[0], s->args, log);
}

/* Starts it again where it was. */
REDIS_HELPER void redis_test_start(struct redis_server *s)
{
	redis_test_run(s);
	for (bool up = false; !up; usleep(2000)) {
		redisReply *r = redis_test_ask(s, "PING");
		up = r->type == REDIS_REPLY_STATUS || strstr(r->str, "NOAUTH") != NULL;
		freeReplyObject(r);
	}
}

/* More arguments of redis-server, up to NULL. */
REDIS_HELPER void redis_test_make(struct redis_server *s, const char *program, ...)
{
	size_t n = 0;
	va_list ap;
	memset(s, 0, sizeof(*s));
	snprintf(s->dir, sizeof(s->dir), "/tmp/orchestra-redis-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	s->port = free_port();
	snprintf(s->socket, sizeof(s->socket), "%s/redis.sock", s->dir);
	snprintf(s->text[n++], 128, "%s", program);
	va_start(ap, program);
	for (const char *a; (a = va_arg(ap, const char *));)
		snprintf(s->text[n++], 128, "%s", a);
	va_end(ap);
	const char *usual[] = {"--bind", "127.0.0.1",	 "--dir",   s->dir,  "--save",
			       "",	 "--unixsocket", s->socket, "--port"};
	for (size_t i = 0; i < ARRAY_LEN(usual); i++)
		snprintf(s->text[n++], 128, "%s", usual[i]);
	snprintf(s->text[n++], 128, "%d", s->port);
	assert_true(n < ARRAY_LEN(s->args));
	for (size_t i = 0; i < n; i++)
		s->args[i] = s->text[i];
}

REDIS_HELPER void redis_test_kill(struct redis_server *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	s->pid = 0;
}

REDIS_HELPER void redis_test_end(struct redis_server *s)
{
	char command[128];
	redis_test_kill(s);
	snprintf(command, sizeof(command), "rm -rf %s", s->dir);
	assert_int_equal(system(command), 0);
}

/* ---- an L2 and its loop ---- */

struct l2_test {
	struct l2 *l2;
	struct conf *conf;
	struct event_base *loop;
	struct event *bell;
	int efd;
	pthread_t thread;
	struct breaker breakers[BREAKERS];
	struct stats_slot stats;
};

REDIS_HELPER void l2_test_on_bell(evutil_socket_t fd, short what, void *arg)
{
	struct l2_test *t = arg;
	(void)fd, (void)what;
	l2_stop(t->l2);
	event_base_loopbreak(t->loop);
}

REDIS_HELPER void *l2_test_main(void *arg)
{
	struct l2_test *t = arg;
	event_base_loop(t->loop, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

/* Made, its loop does not run yet. The sets are those of a configuration, up to NULL. */
REDIS_HELPER struct l2_test *l2_test_make(const char *url, const char *const *more)
{
	void *room = NULL;
	char set[512], *error = NULL;
	const char *sets[16] = {"data.dir=/tmp", set};
	assert_int_equal(posix_memalign(&room, CACHE_LINE, sizeof(struct l2_test)), 0);
	struct l2_test *t = memset(room, 0, sizeof(*t));
	snprintf(set, sizeof(set), "redis.url=%s", url);
	for (size_t i = 2; more && *more; more++)
		sets[i++] = *more;
	t->conf = conf_model_must_load(NULL, NULL, sets);
	t->loop = event_base_new();
	t->l2 = l2_open(t->conf, t->loop, t->breakers, &t->stats, "test", &error);
	if (!t->l2)
		fail_msg("%s", error);
	l2_set_store(t->l2, 7);
	t->efd = eventfd(0, EFD_NONBLOCK);
	t->bell = event_new(t->loop, t->efd, EV_READ | EV_PERSIST, l2_test_on_bell, t);
	event_add(t->bell, NULL);
	return t;
}

REDIS_HELPER void l2_test_loop(struct l2_test *t)
{
	assert_int_equal(pthread_create(&t->thread, NULL, l2_test_main, t), 0);
}

REDIS_HELPER void l2_test_end(struct l2_test *t)
{
	assert_int_equal(write(t->efd, &(uint64_t){1}, 8), 8);
	pthread_join(t->thread, NULL);
	l2_free(&t->l2);
	event_free(t->bell);
	close(t->efd);
	event_base_free(t->loop);
	conf_free(&t->conf);
	free(t);
}

REDIS_HELPER struct uuid l2_test_key(unsigned n)
{
	struct uuid u = {{0x01, 0x90, [6] = 0x70, [8] = 0x80}};
	u.b[14] = (uint8_t)(n >> 8);
	u.b[15] = (uint8_t)n;
	return u;
}

REDIS_HELPER struct cache_meta l2_test_meta(void)
{
	return (struct cache_meta){
		.ns = 11, .version = 3, .filled_us = clock_real_us(), .fresh_ms = 60000, .gone_ms = 600000, .tag = 5};
}

REDIS_HELPER bool l2_test_get(struct l2_test *t, unsigned n, struct l2_value *v)
{
	struct uuid key = l2_test_key(n);
	return l2_get_many(t->l2, CACHE_MEMORY, &key, 1, v);
}

REDIS_HELPER bool l2_test_has(struct l2_test *t, unsigned n)
{
	struct l2_value v;
	(void)l2_test_get(t, n, &v);
	bool found = v.found;
	l2_values_free(&v, 1);
	return found;
}

REDIS_HELPER void l2_test_put(struct l2_test *t, unsigned n, struct span body)
{
	struct uuid key = l2_test_key(n);
	struct cache_meta m = l2_test_meta();
	l2_put(t->l2, CACHE_MEMORY, &key, 100 + n, &m, body);
}

REDIS_HELPER uint64_t l2_test_count(struct l2_test *t, enum stat_id id) { return stats_value(&t->stats, id); }

#define REDIS_UNTIL(condition)                                                                                         \
	do {                                                                                                           \
		int64_t until_us = clock_mono_us() + REDIS_PATIENCE_US;                                                \
		while (!(condition)) {                                                                                 \
			if (clock_mono_us() > until_us)                                                                \
				fail_msg("never: %s", #condition);                                                     \
			usleep(2000);                                                                                  \
		}                                                                                                      \
	} while (0)

/* It answers, whatever it has. */
REDIS_HELPER bool l2_test_answers(struct l2_test *t)
{
	struct l2_value v;
	bool ok = l2_test_get(t, 65535, &v);
	l2_values_free(&v, 1);
	return ok;
}

REDIS_HELPER struct l2_test *l2_test_open(const char *url, const char *const *more)
{
	struct l2_test *t = l2_test_make(url, more);
	l2_test_loop(t);
	return t;
}

/* With time to answer that no busy machine exceeds: for tests that are not about it. */
REDIS_HELPER struct l2_test *l2_test_patient(const char *url)
{
	static const char *const sets[] = {"redis.answer_timeout=10 s", "redis.connect_timeout=30 s", NULL};
	struct l2_test *t = l2_test_open(url, sets);
	struct l2_info info;
	REDIS_UNTIL(l2_test_answers(t));
	REDIS_UNTIL(l2_info(t->l2, &info)); /* over the connection of those who put, which comes up by itself */
	return t;
}
#endif
