/* The warmer's life: asks sync for the refill of the vector index, has L1 warmed (work.c), takes orders from the api by way
 * of the supervisor, and saves what is hot before it leaves. */
#define LOG_SUBSYSTEM LOG_IN_WARMER
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "rings.h"
#include "warmer.h"

#define LATE_LEAVE_US 2000000 /* a call to the store that does not return is not waited for any longer */
#define SAVE_MARGIN_US 50000  /* the supervisor's patience is longer than ours */

static struct warmer state;

/* ---- the vector index ---- */

static bool ask_refill(struct warmer *m)
{
	struct ring_msg_head *h = ring_reserve(m->requests, sizeof(*h));
	if (!h)
		return false;
	*h = (struct ring_msg_head){.type = MSG_REFILL};
	ring_commit(m->requests, sizeof(*h));
	worker_wake_peer(m->w, SLOT_SYNC);
	return true;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	struct timeval again = {0, 5000};
	(void)fd, (void)what;
	if (atomic_load_explicit(&m->plant->served_once, memory_order_acquire))
		m->asked = ask_refill(m);
	if (!m->asked)
		event_add(m->timer, &again);
}

/* ---- timers ---- */

static void arm(struct event *e, int64_t us)
{
	struct timeval tv = {us / 1000000, us % 1000000};
	event_add(e, &tv);
}

static const char *saves(const struct warmer *m) { return conf_str(m->w->conf, CONF_WARMER_SAVE); }

static void arm_save(struct warmer *m)
{
	int64_t every = conf_int(m->w->conf, CONF_WARMER_SAVE_EVERY);
	event_del(m->save_timer);
	if (every && strcmp(saves(m), "off") != 0)
		arm(m->save_timer, every);
}

static void on_save(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	(void)fd, (void)what;
	if (m->leaving || strcmp(saves(m), "off") == 0)
		return;
	(void)work_give(m, &(struct job){.work = WORK_SAVE, .form = HOT_IDS});
	arm_save(m);
}

/* The next moment of warmer.every or warmer.at. The clock of the wall may be set: it is looked at again every minute. */
static void arm_warm(struct warmer *m)
{
	int64_t now = clock_real_us(), next = m->next_every_us, least = 1000, most = 60000000;
	if (m->next_at_us && (!next || m->next_at_us < next))
		next = m->next_at_us;
	event_del(m->warm_timer);
	if (next)
		arm(m->warm_timer, next - now < least ? least : next - now > most ? most : next - now);
}

static void plan(struct warmer *m)
{
	int64_t now = clock_real_us(), every = conf_int(m->w->conf, CONF_WARMER_EVERY);
	m->next_every_us = every ? now + every : 0;
	m->next_at_us = schedule_next(conf_str(m->w->conf, CONF_WARMER_AT), now);
	arm_warm(m);
}

static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	int64_t now = clock_real_us();
	(void)fd, (void)what;
	bool due = (m->next_every_us && now >= m->next_every_us) || (m->next_at_us && now >= m->next_at_us);
	if (due && !m->leaving && !work_give(m, &(struct job){.work = WORK_WARM, .kind = WARM_BY_SCHEDULE}))
		log_info("warming by schedule is left out: the warmer is at work");
	if (due)
		plan(m);
	else
		arm_warm(m);
}

/* ---- leaving ---- */

/* What hangs, hangs in the kernel or in the library of a server, and holds no lock of L1. */
static void on_late(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	(void)fd, (void)what;
	if (!work_busy(m))
		return;
	log_warn(m->leave_us ? "leaving in the middle of a call to the store"
			     : "saving what is hot takes longer than there is time for; the next start is colder");
	_exit(WORKER_EXIT_OK);
}

static void save_and_leave(struct warmer *m)
{
	bool ids = strcmp(saves(m), "ids") == 0;
	const struct job j = {.work = WORK_SAVE, .form = ids ? HOT_IDS : HOT_BODIES, .until_us = m->leave_us};
	bool whole = m->w->leave.whole && !m->w->orphan && strcmp(saves(m), "off") != 0;
	int64_t left = m->leave_us - clock_mono_us() - SAVE_MARGIN_US;
	m->leave_us = 0; /* once */
	if (!whole || !j.until_us || left <= 0 || !work_give(m, &j))
		worker_exit(m->w, WORKER_EXIT_OK);
	else
		arm(m->late, left);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	uint64_t n;
	(void)what;
	(void)!read(fd, &n, sizeof(n));
	if (m->leaving) {
		save_and_leave(m);
		return;
	}
	/* What was just warmed is worth knowing should we be killed: saved once, even if there was nothing or it failed. */
	int64_t ended_us = atomic_load(&m->plant->warm.ended_us);
	if (ended_us && ended_us != m->warmed_us && conf_int(m->w->conf, CONF_WARMER_SAVE_EVERY))
		on_save(-1, 0, m);
	m->warmed_us = ended_us;
}

static void warmer_drain(struct worker *w)
{
	struct warmer *m = w->role_data;
	int64_t limit_us = w->leave.idle_ms ? (int64_t)w->leave.idle_ms * 1000
					    : conf_int(w->conf, CONF_DRAIN_TIMEOUT) / 10;
	m->leaving = true;
	m->leave_us = clock_mono_us() + limit_us;
	atomic_store(&m->cancel, true);
	if (!work_busy(m))
		save_and_leave(m);
	else
		arm(m->late, LATE_LEAVE_US < limit_us ? LATE_LEAVE_US : limit_us);
}

/* ---- orders: "all LIMIT", "namespace NUMBER LIMIT", "cancel" ---- */

static bool start(struct warmer *m, const struct job *j, struct buf *answer)
{
	if (m->leaving || !work_give(m, j)) {
		buf_printf(answer, "{\"ok\":false,\"running\":true,\"job\":%llu}",
			   (unsigned long long)atomic_load(&m->plant->warm.job));
		return false;
	}
	buf_printf(answer, "{\"ok\":true,\"job\":%llu}", (unsigned long long)atomic_load(&m->plant->warm.job));
	return true;
}

static bool warmer_asked(struct worker *w, struct span text, struct buf *answer)
{
	struct warmer *m = w->role_data;
	struct job j = {.work = WORK_WARM, .kind = WARM_ALL};
	char line[96];
	unsigned long long ns = 0, limit = 0;
	int end = -1;
	snprintf(line, sizeof(line), "%.*s", (int)text.len, text.p);
	if (strcmp(line, "cancel") == 0) {
		atomic_store(&m->cancel, true);
		buf_adds(answer, "{\"ok\":true}");
		return true;
	}
	if (sscanf(line, "namespace %16llx %20llu%n", &ns, &limit, &end) == 2 && end > 0 && !line[end]) {
		j.kind = WARM_NAMESPACE;
		j.ns = ns;
	} else if (sscanf(line, "all %20llu%n", &limit, &end) != 1 || end < 0 || line[end]) {
		buf_adds(answer,
			 "{\"ok\":false,\"error\":\"expected warm all LIMIT, namespace NUMBER LIMIT, or cancel\"}");
		return false;
	}
	j.limit = limit;
	return start(m, &j, answer);
}

/* ---- life ---- */

static void take_conf(struct warmer *m, const struct conf *c)
{
	uint64_t max = (uint64_t)conf_int(c, CONF_WARMER_FILE_MAX);
	cache_policy_from(c, m->ops && m->ops->fleet, &m->policy);
	atomic_store(&m->file_max, max ? max : (uint64_t)conf_int(c, CONF_CACHE_L1_BYTES));
	atomic_store(&m->pace.max_delay_us, conf_int(c, CONF_WARMER_MAX_DELAY));
}

static void make_events(struct warmer *m)
{
	static const struct timeval soon = {0, 0};
	struct event_base *base = m->w->base;
	m->timer = evtimer_new(base, on_timer, m);
	m->save_timer = evtimer_new(base, on_save, m);
	m->warm_timer = evtimer_new(base, on_due, m);
	m->done = event_new(base, m->done_fd, EV_READ | EV_PERSIST, on_done, m);
	m->late = evtimer_new(base, on_late, m);
	AN(m->timer && m->save_timer && m->warm_timer && m->late && m->done);
	AN(event_add(m->done, NULL) == 0 && event_add(m->timer, &soon) == 0);
}

static int warmer_init(struct worker *w)
{
	struct warmer *m = &state;
	size_t bytes = (size_t)conf_int(w->conf, CONF_RING_BYTES);
	w->role_data = m;
	m->w = w;
	m->plant = m->pace.plant = w->plant;
	m->requests = ring_open(FD_SHM_RINGS, rings_request_offset(bytes, w->slot), bytes);
	m->cache = cache_open(FD_SHM_CACHE, false);
	m->pending = pending_open(FD_SHM_PENDING, false, (uint32_t)conf_int(w->conf, CONF_JOURNAL_PENDING_MAX));
	store_conf_from(w->conf, "warmer", &m->store_conf);
	m->store_conf.breaker = &w->plant->breakers[0];
	m->ops = store_by_kind(m->store_conf.kind);
	take_conf(m, w->conf);
	if (!m->requests || !m->cache || !m->pending || !m->ops || !work_start(m)) {
		log_error("cannot map the shared segments: %s", strerror(errno));
		return WORKER_EXIT_FAIL;
	}
	make_events(m);
	arm_save(m);
	plan(m);
	atomic_store(&w->plant->warm.active, 0);
	if (atomic_load(&w->plant->warm.state) == WARM_RUNNING) /* our predecessor died in it */
		atomic_store(&w->plant->warm.state, WARM_FAILED);
	if (!atomic_load(&w->plant->warm_done))
		(void)work_give(m, &(struct job){.work = WORK_WARM, .kind = WARM_AT_START});
	return 0;
}

static void warmer_on_wake(struct worker *w) { wake_prepare(&w->plant->wake[w->slot]); }

/* The new sync may have lost the request that its predecessor had not taken up. */
static void warmer_peer_started(struct worker *w, unsigned slot)
{
	if (slot == SLOT_SYNC)
		(void)!ask_refill(w->role_data);
}

static int warmer_conf_prepare(struct worker *w, const struct conf *next, char **error_r)
{
	(void)w, (void)next, (void)error_r;
	return 0;
}

static void warmer_conf_commit(struct worker *w)
{
	struct warmer *m = w->role_data;
	take_conf(m, w->conf);
	arm_save(m);
	plan(m);
}

static void warmer_load(struct worker *w, uint64_t *waiting_r, uint64_t *working_r)
{
	(void)waiting_r;
	*working_r = work_busy(w->role_data);
}

static void warmer_stop(struct worker *w) { work_stop(w->role_data); }

const struct worker_role warmer_role = {
	.name = "warmer",
	.init = warmer_init,
	.on_wake = warmer_on_wake,
	.conf_prepare = warmer_conf_prepare,
	.conf_commit = warmer_conf_commit,
	.drain = warmer_drain,
	.load = warmer_load,
	.asked = warmer_asked,
	.peer_started = warmer_peer_started,
	.stop = warmer_stop,
};
