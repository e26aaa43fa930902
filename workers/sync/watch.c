#define LOG_SUBSYSTEM LOG_IN_REDIS
#include "watch.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "clock.h"
#include "log.h"

#define ASK_US 10000000	    /* between questions … */
#define ASK_AWAY_US 1000000 /* … to a server that did not answer */
#define WINDOW_US 60000000  /* that evictions are judged by */
#define SHORT_LIVES 4	    /* values are to live for a quarter of redis.ttl at least */
#define SAY_AGAIN_S 3600

struct watch {
	struct l2 *l2;
	struct plant_redis *out;
	int64_t ttl_us;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool stop;
	/* The thread's own. */
	char said[WATCH_TEXT]; /* about the settings */
	struct l2_info then;   /* at then_us, 0: never */
	int64_t then_us;
};

/* ---- judging ---- */

#define GOOD "maxmemory-policy allkeys-lfu, or volatile-lfu where others keep data in it, too"

bool watch_settings(const struct l2_info *i, char text[WATCH_TEXT])
{
	static const char *const good[] = {"allkeys-lfu", "allkeys-lru", "volatile-lfu", "volatile-lru"};
	for (size_t k = 0; k < ARRAY_LEN(good); k++)
		if (i->maxmemory && strcmp(i->policy, good[k]) == 0)
			return false;
	if (!*i->policy)
		return false; /* it does not say */
	if (!i->maxmemory)
		snprintf(
			text, WATCH_TEXT,
			"Redis has no limit of its memory (maxmemory 0): it may grow until the machine has none left. Set "
			"maxmemory, and " GOOD);
	else if (strcmp(i->policy, "noeviction") == 0)
		snprintf(
			text, WATCH_TEXT,
			"Redis keeps nothing that is new once its memory is full (maxmemory-policy noeviction): set " GOOD);
	else
		snprintf(text, WATCH_TEXT,
			 "Redis chooses what it evicts without regard to what is read (maxmemory-policy %s): set " GOOD,
			 i->policy);
	return true;
}

bool watch_evictions(const struct l2_info *then, const struct l2_info *now, int64_t between_us, int64_t ttl_us,
		     char text[WATCH_TEXT])
{
	if (now->evicted_keys <= then->evicted_keys || now->masters != then->masters)
		return false; /* none, or it was started anew */
	uint64_t n = now->evicted_keys - then->evicted_keys;
	double life_s = (double)now->keys / (double)n * (double)between_us / 1e6;
	if (life_s >= (double)ttl_us / 1e6 / SHORT_LIVES)
		return false;
	snprintf(
		text, WATCH_TEXT,
		"Redis is too small: it evicted %llu keys within %lld s and holds %llu, so that one stays for about %.0f s "
		"instead of redis.ttl (%lld s). Raise its maxmemory (%llu MiB), or lower redis.ttl or redis.value_max",
		(unsigned long long)n, (long long)between_us / 1000000, (unsigned long long)now->keys, life_s,
		(long long)ttl_us / 1000000, (unsigned long long)now->maxmemory >> 20);
	return true;
}

/* ---- asking ---- */

static void publish(struct watch *w, bool up, const struct l2_info *i)
{
	struct plant_redis *o = w->out;
	if (up) {
		atomic_store(&o->used_memory, i->used_memory);
		atomic_store(&o->maxmemory, i->maxmemory);
		atomic_store(&o->evicted_keys, i->evicted_keys);
		atomic_store(&o->keys, i->keys);
	}
	atomic_store(&o->up, up);
	atomic_store(&o->asked_us, clock_mono_us());
}

static void judge(struct watch *w, const struct l2_info *i)
{
	static struct log_limit evicting;
	char text[WATCH_TEXT] = "";
	int64_t now = clock_mono_us();
	if (watch_settings(i, text) && strcmp(text, w->said) != 0)
		log_warn("%s", text);
	memcpy(w->said, text, sizeof(w->said));
	if (w->then_us && now - w->then_us < WINDOW_US)
		return;
	if (w->then_us && watch_evictions(&w->then, i, now - w->then_us, w->ttl_us, text))
		log_warn_limited(&evicting, SAY_AGAIN_S, "%s", text);
	w->then = *i;
	w->then_us = now;
}

/* False: stopped meanwhile. */
static bool pause_for(struct watch *w, int64_t us)
{
	int64_t until = clock_mono_us() + us;
	pthread_mutex_lock(&w->lock);
	while (!w->stop && clock_wait_until(&w->wake, &w->lock, until))
		;
	bool go_on = !w->stop;
	pthread_mutex_unlock(&w->lock);
	return go_on;
}

static void *watch_main(void *arg)
{
	struct watch *w = arg;
	struct l2_info i;
	bool up;
	prctl(PR_SET_NAME, "redis");
	do {
		up = l2_info(w->l2, &i);
		publish(w, up, &i);
		if (up)
			judge(w, &i);
	} while (pause_for(w, up ? ASK_US : ASK_AWAY_US));
	return NULL;
}

struct watch *watch_start(struct l2 *l, struct plant_redis *out, int64_t ttl_us)
{
	struct watch *w = util_zalloc(sizeof(*w));
	*w = (struct watch){.l2 = l, .out = out, .ttl_us = ttl_us};
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	int e = pthread_create(&w->thread, NULL, watch_main, w);
	if (!e)
		return w;
	log_warn("Redis is not watched: no thread can be started: %s", strerror(e));
	free(w);
	return NULL;
}

void watch_stop(struct watch **wp)
{
	struct watch *w = *wp;
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->wake);
	free(w);
	*wp = NULL;
}
