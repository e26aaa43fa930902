/* L2 while its Redis is dead, silent, killed, restarted, locked or hostile. Broken code this would catch: a reader that waits
 * longer than it may, or for ever; a breaker that does not open, or not close again; a wrong password that counts as
 * a failure; a connection that is not made again; a gap in the subscription that nobody is told of; an answer that is
 * believed, or that memory is taken for without end. */
#include "redis_model.h"

static struct redis_server server;
static char url[128];
static const char *const quick[] = {"redis.answer_timeout=60 ms", "redis.connect_timeout=1 s", NULL};

static int begin(void **state)
{
	(void)state;
	redis_test_make(&server, "redis-server", NULL);
	redis_test_start(&server);
	snprintf(url, sizeof(url), "redis://127.0.0.1:%d", server.port);
	return 0;
}

static int end(void **state)
{
	(void)state;
	redis_test_end(&server);
	return 0;
}

static struct breaker_view breaker(struct l2_test *t)
{
	struct breaker_view v;
	assert_true(breaker_look(breaker_find(t->breakers, "redis"), clock_mono_us(), &v));
	return v;
}

/* Asks until the breaker says no more; then nothing is asked any more. */
static void opens(struct l2_test *t)
{
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; breaker(t).state == BREAKER_CLOSED; usleep(500)) {
		(void)l2_test_has(t, 1);
		assert_true(clock_mono_us() < until);
	}
}

static void recovers(struct l2_test *t)
{
	l2_test_put(t, 1, SPAN("here"));
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, 1); usleep(10000)) {
		l2_test_put(t, 1, SPAN("here"));
		assert_true(clock_mono_us() < until);
	}
	REDIS_UNTIL(l2_test_has(t, 1) && breaker(t).state == BREAKER_CLOSED);
}

static void dead_from_the_start(void **state)
{
	(void)state;
	redis_test_kill(&server);
	struct l2_test *t = l2_test_open(url, quick);
	opens(t);
	assert_non_null(strstr(breaker(t).reason, "refused"));
	char text[256];
	l2_error(t->l2, text, sizeof(text));
	assert_non_null(strstr(text, "127.0.0.1"));
	redis_test_start(&server);
	recovers(t);
	l2_test_end(t);
}

static void killed(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_open(url, quick);
	recovers(t);
	for (int i = 0; i < 3; i++) {
		redis_test_kill(&server);
		assert_false(l2_test_has(t, 1));
		opens(t);
		redis_test_start(&server);
		recovers(t);
	}
	l2_test_end(t);
}

/* It is there, and says nothing: the kernel goes on taking connections for it. */
static void stopped(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_open(url, quick);
	recovers(t);
	for (int i = 0; i < 2; i++) {
		kill(server.pid, SIGSTOP);
		struct l2_value v;
		assert_false(l2_test_get(t, 1, &v)); /* that it returns at all is the point */
		opens(t);
		assert_non_null(strstr(breaker(t).reason, "no answer within"));
		uint64_t puts = l2_test_count(t, STAT_L2_DROPPED);
		for (int k = 0; k < 50; k++)
			l2_test_put(t, 2, SPAN("nobody waits"));
		assert_in_range(l2_test_count(t, STAT_L2_DROPPED), puts + 45, puts + 50); /* but for probes */
		kill(server.pid, SIGCONT);
		recovers(t);
	}
	l2_test_end(t);
}

/* Who waits when the worker leaves is let go at once. */
static void *wait_long(void *arg)
{
	struct l2_value v;
	struct uuid key = l2_test_key(1);
	bool asked = l2_get_many(((struct l2_test *)arg)->l2, CACHE_MEMORY, &key, 1, &v);
	return (void *)(uintptr_t)(asked || v.found);
}

static void leaving(void **state)
{
	(void)state;
	struct l2_test *t = l2_test_patient(url);
	pthread_t waiter;
	void *got;
	kill(server.pid, SIGSTOP);
	int64_t began = clock_mono_us();
	assert_int_equal(pthread_create(&waiter, NULL, wait_long, t), 0);
	usleep(50000);
	assert_int_equal(write(t->efd, &(uint64_t){1}, 8), 8);
	pthread_join(waiter, &got);
	assert_null(got);
	assert_true(clock_mono_us() - began < 9000000); /* redis.answer_timeout is 10 s */
	assert_false(l2_test_answers(t));
	assert_false(l2_notify(t->l2, SPAN("too late")));
	kill(server.pid, SIGCONT);
	l2_test_end(t);
}

/* What we may not do is no failure of Redis, and people are told. */
static void not_let_in(void **state)
{
	(void)state;
	char text[200];
	redis_test_do(&server, "ACL SETUSER bob on >right ~orchestra:* +@all");
	redis_test_do(&server, "ACL SETUSER default off");
	snprintf(text, sizeof(text), "redis://bob:wrong@127.0.0.1:%d", server.port);
	struct l2_test *t = l2_test_open(text, quick);
	REDIS_UNTIL(!l2_test_has(t, 1) && breaker(t).misconfigured);
	assert_non_null(strstr(breaker(t).reason, "WRONGPASS"));
	assert_int_equal(breaker(t).state, BREAKER_CLOSED);
	l2_test_end(t);
	snprintf(text, sizeof(text), "redis://127.0.0.1:%d", server.port);
	t = l2_test_open(text, quick);
	REDIS_UNTIL(!l2_test_has(t, 1) && breaker(t).misconfigured);
	assert_non_null(strstr(breaker(t).reason, "NOAUTH"));
	l2_test_end(t);
	snprintf(text, sizeof(text), "redis://bob:%%72ight@127.0.0.1:%d", server.port);
	t = l2_test_open(text, quick);
	recovers(t);
	assert_false(breaker(t).misconfigured);
	l2_test_end(t);
}

/* The rights that docs/operations.md asks for are enough; with less, it says so. */
static void few_rights(void **state)
{
	(void)state;
	char text[200];
	redis_test_do(&server,
		      "ACL SETUSER ann on >pw ~orchestra:* &orchestra:* -@all +getrange +set +unlink +scan +publish "
		      "+subscribe +ping +select +info +client|setname +role +cluster|slots +asking");
	redis_test_do(&server, "ACL SETUSER nora on >pw ~other:* resetchannels -@all +getrange +set +ping");
	snprintf(text, sizeof(text), "redis://ann:pw@127.0.0.1:%d", server.port);
	struct l2_test *t = l2_test_open(text, quick);
	struct l2_info info;
	uint64_t n;
	recovers(t);
	REDIS_UNTIL(l2_info(t->l2, &info));
	REDIS_UNTIL(l2_clear(t->l2, 0, NULL, NULL, &n) && n == 1);
	REDIS_UNTIL(l2_notify(t->l2, SPAN("x")));
	assert_false(breaker(t).misconfigured);
	l2_test_end(t);
	snprintf(text, sizeof(text), "redis://nora:pw@127.0.0.1:%d", server.port);
	t = l2_test_open(text, quick);
	REDIS_UNTIL(!l2_test_has(t, 1) && breaker(t).misconfigured);
	assert_non_null(strstr(breaker(t).reason, "NOPERM"));
	l2_test_end(t);
}

/* ---- notices ---- */

static _Atomic int heard, gaps, links;
static char last[64];

static void on_message(void *arg, struct span m)
{
	(void)arg;
	snprintf(last, sizeof(last), "%.*s", (int)m.len, m.p);
	atomic_fetch_add(&heard, 1);
}

static void on_gap(void *arg, bool connected)
{
	(void)arg;
	atomic_fetch_add(connected ? &links : &gaps, 1);
}

static void notices(void **state)
{
	(void)state;
	static const char *const patient[] = {"redis.answer_timeout=500 ms", "redis.connect_timeout=30 s", NULL};
	heard = gaps = links = 0;
	struct l2_test *t = l2_test_make(url, patient), *other = l2_test_patient(url), *stranger = l2_test_patient(url);
	l2_listen(t->l2, on_message, on_gap, NULL);
	l2_test_loop(t);
	l2_set_store(stranger->l2, 8);
	REDIS_UNTIL(links == 1);
	REDIS_UNTIL(l2_notify(stranger->l2, SPAN("of another store")));
	REDIS_UNTIL(l2_notify(other->l2, SPAN("first")));
	REDIS_UNTIL(heard == 1);
	assert_string_equal(last, "first");
	redis_test_do(&server, "PUBLISH orchestra:notices x"); /* too short to be one */
	redis_test_kill(&server);
	REDIS_UNTIL(gaps == 1);
	redis_test_start(&server);
	REDIS_UNTIL(links == 2);
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; heard == 1; usleep(10000)) {
		(void)l2_notify(other->l2, SPAN("second"));
		assert_true(clock_mono_us() < until);
	}
	assert_string_equal(last, "second");
	kill(server.pid, SIGSTOP); /* silence is a gap, too */
	REDIS_UNTIL(gaps == 2);
	kill(server.pid, SIGCONT);
	REDIS_UNTIL(links == 3);
	char *large = util_zalloc(L2_MESSAGE_MAX + 1);
	assert_false(l2_notify(other->l2, (struct span){large, L2_MESSAGE_MAX + 1}));
	free(large);
	l2_test_end(stranger);
	l2_test_end(other);
	l2_test_end(t);
}

/* ---- a server that is none ---- */

struct fake {
	int fd, port;
	pthread_t thread;
	const char *says; /* to the first command behind the greeting */
	bool endless, hangs_up;
	_Atomic int met, talking;
	_Atomic size_t poured;
};

static void talk(struct fake *f, int fd)
{
	char in[4096], filler[4096];
	memset(filler, 'x', sizeof(filler));
	if (recv(fd, in, sizeof(in), 0) <= 0 || send(fd, "+OK\r\n", 5, MSG_NOSIGNAL) != 5 ||
	    recv(fd, in, sizeof(in), 0) <= 0)
		return;
	(void)!send(fd, f->says, strlen(f->says), MSG_NOSIGNAL);
	while (f->endless && send(fd, filler, sizeof(filler), MSG_NOSIGNAL) == (ssize_t)sizeof(filler))
		atomic_fetch_add(&f->poured, sizeof(filler));
	while (!f->hangs_up && recv(fd, in, sizeof(in), 0) > 0)
		;
}

struct guest {
	struct fake *f;
	int fd;
};

static void *guest_main(void *arg)
{
	struct guest g = *(struct guest *)arg;
	free(arg);
	talk(g.f, g.fd);
	close(g.fd);
	atomic_fetch_sub(&g.f->talking, 1);
	return NULL;
}

static void *fake_main(void *arg)
{
	struct fake *f = arg;
	pthread_t thread;
	for (int fd; (fd = accept(f->fd, NULL, NULL)) != -1;) {
		struct guest *g = util_zalloc(sizeof(*g));
		*g = (struct guest){f, fd};
		atomic_fetch_add(&f->met, 1);
		atomic_fetch_add(&f->talking, 1);
		if (pthread_create(&thread, NULL, guest_main, g) == 0)
			pthread_detach(thread);
	}
	return NULL;
}

static void fake_begin(struct fake *f)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	f->fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(f->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(f->fd, 16), 0);
	assert_int_equal(getsockname(f->fd, (struct sockaddr *)&sa, &len), 0);
	f->port = ntohs(sa.sin_port);
	assert_int_equal(pthread_create(&f->thread, NULL, fake_main, f), 0);
}

static void hostile(void **state)
{
	/* gives_up: the connection must be ended by us, which the next one shows. */
	static const struct {
		const char *says;
		bool gives_up, endless, hangs_up;
	} cases[] = {
		{"garbage\r\n", true, false, false},
		{"$99999999999999999999\r\n", true, false, false},
		{"$-7\r\n", true, false, false},
		{"$1000000000\r\n", true, true, false},
		{"+", true, true, false},
		{"*1000000000\r\n", true, false, false},
		{"*60000\r\n*60000\r\n", true, false, false},
		{"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", true, false, false},
		{"$3\r\nabc\r\n$3\r\nabc\r\n$3\r\nabc\r\n", true, false, false},
		{":1\r\n", false, false, false},
		{"*-1\r\n", false, false, false},
		{"*2\r\n$1\r\na\r\n", true, false, false},
		{"-\r\n", false, false, false},
		{"-MOVED 99999 nowhere:0\r\n", false, false, false},
		{"-MOVED\r\n", false, false, false},
		{"$0\r\n\r\n", false, false, false},
		{"", true, false, false},
		{"", true, false, true},
	};
	static const char *const sets[] = {"redis.answer_timeout=60 ms", "redis.connections=1", NULL};
	(void)state;
	for (size_t i = 0; i < 2 * ARRAY_LEN(cases); i++) {
		bool cluster = i % 2;
		struct fake f = {
			.says = cases[i / 2].says, .endless = cases[i / 2].endless, .hangs_up = cases[i / 2].hangs_up};
		char text[128];
		fake_begin(&f);
		snprintf(text, sizeof(text), "redis%s://127.0.0.1:%d", cluster ? "-cluster" : "", f.port);
		struct l2_test *t = l2_test_open(text, sets);
		REDIS_UNTIL(f.met > 0);
		int64_t until = clock_mono_us() + REDIS_PATIENCE_US;
		for (int asked = 0; asked < 5 || (cases[i / 2].gives_up && f.met < 3); asked++) {
			assert_false(l2_test_has(t, 1));
			l2_test_put(t, 1, SPAN("x"));
			usleep(2000);
			if (clock_mono_us() > until)
				fail_msg("case %zu: not given up", i);
		}
		assert_in_range(f.poured, 0, 64u << 20); /* socket buffers included, over some connections */
		l2_test_end(t);
		shutdown(f.fd, SHUT_RDWR);
		pthread_join(f.thread, NULL);
		REDIS_UNTIL(f.talking == 0);
		close(f.fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(dead_from_the_start, begin, end),
		cmocka_unit_test_setup_teardown(killed, begin, end),
		cmocka_unit_test_setup_teardown(stopped, begin, end),
		cmocka_unit_test_setup_teardown(leaving, begin, end),
		cmocka_unit_test_setup_teardown(not_let_in, begin, end),
		cmocka_unit_test_setup_teardown(few_rights, begin, end),
		cmocka_unit_test_setup_teardown(notices, begin, end),
		cmocka_unit_test(hostile),
	};
	redis_test_need();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
