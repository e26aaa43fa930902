/* L2 on a cluster of three masters, and behind sentinels. Broken code this would catch: a wrong slot, a key that is asked of a
 * node that has it not, MOVED or ASK not followed, or followed for ever, a map that is not read again; a node's death
 * that costs the others' keys; a former master that is still written to after a failover. */
#include "redis_model.h"

#include "redis/redis.h"

/* ---- cluster ---- */

static struct redis_server node[3];
static char seeds[200];

static bool cluster_ok(struct redis_server *s)
{
	redisReply *r = redis_test_ask(s, "CLUSTER INFO");
	bool ok = strstr(r->str, "cluster_state:ok") && strstr(r->str, "cluster_known_nodes:3");
	freeReplyObject(r);
	return ok;
}

static int cluster_begin(void **state)
{
	char command[512];
	(void)state;
	for (int i = 0; i < 3; i++) {
		redis_test_make(&node[i], "redis-server", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
				"--cluster-require-full-coverage", "no", NULL);
		redis_test_start(&node[i]);
	}
	snprintf(command, sizeof(command),
		 "redis-cli --cluster create 127.0.0.1:%d 127.0.0.1:%d 127.0.0.1:%d --cluster-yes >%s/create 2>&1",
		 node[0].port, node[1].port, node[2].port, node[0].dir);
	assert_int_equal(system(command), 0);
	for (int i = 0; i < 3; i++)
		REDIS_UNTIL(cluster_ok(&node[i]));
	/* A name for the seed: the map calls it otherwise. */
	snprintf(seeds, sizeof(seeds), "redis-cluster://localhost:%d,127.0.0.1:1", node[1].port);
	return 0;
}

static int cluster_end(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		redis_test_end(&node[i]);
	return 0;
}

static const char *name_of(unsigned n)
{
	static char text[128];
	struct uuid key = l2_test_key(n);
	char id[UUID_TEXT];
	uuid_format(&key, id);
	snprintf(text, sizeof(text), "orchestra:-:m:%.*s", UUID_TEXT, id);
	return text;
}

/* The key under test: one of this node. */
static unsigned key_at(int which)
{
	for (unsigned n = 0;; n++) {
		int slot = redis_slot(name_of(n), strlen(name_of(n)));
		if (slot / 5462 == which) /* 0-5460, 5461-10922, 10923-16383, give or take one */
			return n;
	}
}

static void slots(void **state)
{
	static const char *const keys[] = {
		"123456789", "",   "a",	 "{user1000}.following", "foo{}{bar}", "foo{{bar}}zap", "foo{bar}{zap}",
		"{",	     "}{", "x{y"};
	(void)state;
	assert_int_equal(redis_slot("123456789", 9), 0x31c3);
	assert_int_equal(redis_slot("{user1000}.following", 20), redis_slot("user1000", 8));
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		assert_int_equal(redis_slot(keys[i], strlen(keys[i])),
				 redis_test_number(&node[0], "CLUSTER KEYSLOT %s", keys[i]));
}

static void spread(void **state)
{
	enum { N = 400 };
	static struct uuid keys[N];
	static struct l2_value v[N];
	struct l2_test *t = l2_test_patient(seeds);
	struct l2_info info;
	(void)state;
	REDIS_UNTIL(l2_info(t->l2, &info) && info.masters == 3);
	assert_string_equal(info.mode, "cluster");
	for (unsigned i = 0; i < N; i++) {
		keys[i] = l2_test_key(i);
		l2_test_put(t, i, SPAN(name_of(i)));
	}
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == N);
	assert_true(l2_get_many(t->l2, CACHE_MEMORY, keys, N, v));
	for (unsigned i = 0; i < N; i++)
		assert_true(v[i].found && span_eq(v[i].body, SPAN(name_of(i))));
	l2_values_free(v, N);
	for (int i = 0; i < 3; i++)
		assert_in_range(redis_test_number(&node[i], "DBSIZE", ""), N / 6, N / 2);
	/* Sent where they belong: nobody had to be told. */
	for (int i = 0; i < 3; i++) {
		redisReply *r = redis_test_ask(&node[i], "INFO errorstats");
		assert_null(strstr(r->str, "errorstat_ASK"));
		freeReplyObject(r);
	}
	uint64_t n;
	assert_true(l2_clear(t->l2, CACHE_MEMORY, NULL, NULL, &n));
	assert_int_equal(n, N);
	l2_test_end(t);
}

static void id_of(struct redis_server *s, char out[64])
{
	redisReply *r = redis_test_ask(s, "CLUSTER MYID");
	snprintf(out, 64, "%s", r->str);
	freeReplyObject(r);
}

static uint64_t refusals(struct redis_server *s, const char *what)
{
	redisReply *r = redis_test_ask(s, "INFO errorstats");
	char *p = strstr(r->str, what);
	uint64_t n = p ? strtoull(strstr(p, "count=") + 6, NULL, 10) : 0;
	freeReplyObject(r);
	return n;
}

static void resharded(void **state)
{
	struct l2_test *t = l2_test_patient(seeds);
	char from[64], to[64];
	unsigned n = key_at(0);
	int slot = redis_slot(name_of(n), strlen(name_of(n)));
	struct l2_info info;
	(void)state;
	REDIS_UNTIL(l2_info(t->l2, &info) && info.masters == 3);
	l2_test_put(t, n, SPAN("moving"));
	REDIS_UNTIL(l2_test_has(t, n));
	id_of(&node[0], from);
	id_of(&node[2], to);
	redis_test_do(&node[2], "CLUSTER SETSLOT %d IMPORTING %s", slot, from);
	redis_test_do(&node[0], "CLUSTER SETSLOT %d MIGRATING %s", slot, to);
	assert_true(l2_test_has(t, n));
	redis_test_do(&node[0], "MIGRATE 127.0.0.1 %d %s 0 5000", node[2].port, name_of(n));
	assert_int_equal(refusals(&node[0], "errorstat_ASK:"), 0);
	assert_true(l2_test_has(t, n));
	assert_int_equal(refusals(&node[0], "errorstat_ASK:"), 1);
	assert_true(l2_test_has(t, n));
	assert_int_equal(refusals(&node[0], "errorstat_ASK:"), 2); /* it says nothing about the next time */
	for (int i = 2; i >= 0; i--)
		redis_test_do(&node[i], "CLUSTER SETSLOT %d NODE %s", slot, to);
	assert_true(l2_test_has(t, n));
	uint64_t moved = refusals(&node[0], "errorstat_MOVED:");
	assert_true(moved <= 1); /* 0: the map was read again before */
	for (int i = 0; i < 20; i++)
		assert_true(l2_test_has(t, n));
	assert_int_equal(refusals(&node[0], "errorstat_MOVED:"), moved); /* learnt */
	l2_test_end(t);
}

static void one_dies(void **state)
{
	static const char *const sets[] = {"redis.answer_timeout=500 ms", NULL};
	struct l2_test *t = l2_test_open(seeds, sets);
	struct l2_info info;
	(void)state;
	REDIS_UNTIL(l2_info(t->l2, &info) && info.masters == 3);
	struct uuid keys[3];
	struct l2_value v[3];
	for (int i = 0; i < 3; i++) {
		keys[i] = l2_test_key(key_at(i));
		l2_test_put(t, key_at(i), SPAN("x"));
	}
	REDIS_UNTIL(l2_test_count(t, STAT_L2_PUTS) == 3);
	redis_test_kill(&node[1]);
	/* One slot of node 0 went to node 2 before, none of node 1. */
	REDIS_UNTIL(l2_get_many(t->l2, CACHE_MEMORY, keys, 3, v) && (l2_values_free(v, 3), true) &&
		    l2_get_many(t->l2, CACHE_MEMORY, keys, 3, v) && v[0].found && !v[1].found && v[2].found);
	l2_values_free(v, 3);
	redis_test_start(&node[1]);
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, key_at(1)); usleep(20000)) {
		l2_test_put(t, key_at(1), SPAN("x"));
		assert_true(clock_mono_us() < until);
	}
	l2_test_end(t);
}

/* ---- sentinel ---- */

static struct redis_server master, replica, sentinel[3];
static char by_name[256];

/* The sentinel knows the others and the replica. */
static bool informed(struct redis_server *s)
{
	redisReply *r = redis_test_ask(s, "SENTINEL MASTER mymaster");
	int known = 0;
	for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i + 1 < r->elements; i += 2) {
		if (strcmp(r->element[i]->str, "num-slaves") == 0)
			known += atoi(r->element[i + 1]->str) == 1;
		if (strcmp(r->element[i]->str, "num-other-sentinels") == 0)
			known += atoi(r->element[i + 1]->str) == 2;
	}
	freeReplyObject(r);
	return known == 2;
}

static void sentinel_make(struct redis_server *s)
{
	char path[96];
	redis_test_make(s, "redis-sentinel", NULL);
	snprintf(path, sizeof(path), "%s/conf", s->dir);
	FILE *f = fopen(path, "w");
	fprintf(f,
		"bind 127.0.0.1\nport %d\ndir %s\nsentinel monitor mymaster 127.0.0.1 %d 2\n"
		"sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 3000\n"
		"sentinel auth-pass mymaster pw\n",
		s->port, s->dir, master.port);
	fclose(f);
	snprintf(s->text[1], 128, "%s", path);
	s->args[2] = NULL;
	redis_test_start(s);
}

static int sentinel_begin(void **state)
{
	(void)state;
	redis_test_make(&master, "redis-server", "--requirepass", "pw", "--masterauth", "pw", NULL);
	redis_test_start(&master);
	char port[8];
	snprintf(port, sizeof(port), "%d", master.port);
	redis_test_make(&replica, "redis-server", "--requirepass", "pw", "--masterauth", "pw", "--replicaof",
			"127.0.0.1", port, NULL);
	redis_test_start(&replica);
	for (int i = 0; i < 3; i++)
		sentinel_make(&sentinel[i]);
	for (int i = 0; i < 3; i++)
		REDIS_UNTIL(informed(&sentinel[i]));
	snprintf(by_name, sizeof(by_name), "redis-sentinel://:pw@127.0.0.1:1,127.0.0.1:%d,127.0.0.1:%d/mymaster/2",
		 sentinel[0].port, sentinel[1].port);
	return 0;
}

static int sentinel_end(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		redis_test_end(&sentinel[i]);
	redis_test_end(&replica);
	redis_test_end(&master);
	return 0;
}

static _Atomic int gaps, links;

static void on_message(void *arg, struct span m) { (void)arg, (void)m; }
static void on_gap(void *arg, bool connected)
{
	(void)arg;
	atomic_fetch_add(connected ? &links : &gaps, 1);
}

static void failover(void **state)
{
	static const char *const sets[] = {"redis.answer_timeout=500 ms", NULL};
	(void)state;
	struct l2_test *t = l2_test_make(by_name, sets);
	l2_listen(t->l2, on_message, on_gap, NULL);
	l2_test_loop(t);
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, 1); usleep(10000)) {
		l2_test_put(t, 1, SPAN("first"));
		assert_true(clock_mono_us() < until);
	}
	REDIS_UNTIL(links == 1);
	redis_test_kill(&master);
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, 2); usleep(10000)) {
		l2_test_put(t, 2, SPAN("second"));
		assert_true(clock_mono_us() < until);
	}
	REDIS_UNTIL(links >= 2 && gaps >= 1);
	/* The former master comes back as a replica: nobody writes to it. Then the other one is stopped, not killed. */
	redis_test_start(&master);
	sleep(1);
	kill(replica.pid, SIGSTOP);
	for (int64_t until = clock_mono_us() + REDIS_PATIENCE_US; !l2_test_has(t, 3); usleep(10000)) {
		l2_test_put(t, 3, SPAN("third"));
		assert_true(clock_mono_us() < until);
	}
	kill(replica.pid, SIGCONT);
	redis_test_kill(&sentinel[0]); /* the one that was asked: there are others */
	for (int i = 0; i < 20; i++, usleep(100000))
		assert_true(l2_test_has(t, 3));
	l2_test_end(t);
}

static void unknown_master(void **state)
{
	char text[256], why[256] = "";
	(void)state;
	snprintf(text, sizeof(text), "redis-sentinel://127.0.0.1:%d/nobody", sentinel[1].port);
	struct l2_test *t = l2_test_open(text, NULL);
	REDIS_UNTIL((l2_error(t->l2, why, sizeof(why)), strstr(why, "\"nobody\"")));
	assert_false(l2_test_answers(t));
	l2_test_end(t);
}

int main(void)
{
	const struct CMUnitTest cluster[] = {
		cmocka_unit_test(slots),
		cmocka_unit_test(spread),
		cmocka_unit_test(resharded),
		cmocka_unit_test(one_dies),
	};
	const struct CMUnitTest sentinels[] = {
		cmocka_unit_test(failover),
		cmocka_unit_test(unknown_master),
	};
	redis_test_need();
	return cmocka_run_group_tests(cluster, cluster_begin, cluster_end) +
	       cmocka_run_group_tests(sentinels, sentinel_begin, sentinel_end);
}
