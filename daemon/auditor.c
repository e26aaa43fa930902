#include "auditor.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "audit.h"
#include "clock.h"
#include "log.h"

struct item {
	struct item *next;
	struct buf fields;
	struct auditor_limits limits;
	/* the loop's */
	struct reply *waiting;
	bool ok;
	json_t *answer;
	/* the thread's */
	int error;
	uint64_t seq;
	char hash[65];
};

struct queue {
	struct item *first, **last;
};

struct auditor {
	struct supervisor *sv;
	pthread_t thread;
	bool started;
	unsigned pending;    /* noted and not answered */
	uint64_t lost, told; /* entries that could not be written; of these, a worker counts */
	struct log_limit complaint;
	struct event *ev;
	int efd;
	pthread_mutex_t lock;
	pthread_cond_t more, idle;
	struct queue todo, done;
	bool stop, working;
	struct auditor_file file; /* the thread's */
};

static void push(struct queue *q, struct item *i)
{
	i->next = NULL;
	*q->last = i;
	q->last = &i->next;
}

static struct item *take_all(struct queue *q)
{
	struct item *first = q->first;
	q->first = NULL;
	q->last = &q->first;
	return first;
}

/* ---- the thread ---- */

/* One sync for all that came meanwhile. */
static void write_batch(struct auditor *a, struct item *first)
{
	bool any = false;
	for (struct item *i = first; i; i = i->next) {
		i->error = auditor_file_add(&a->file, (struct span){i->fields.p, i->fields.len}, &i->limits);
		i->seq = a->file.seq;
		memcpy(i->hash, a->file.hash, sizeof(i->hash));
		any |= !i->error;
	}
	int e = any ? auditor_file_sync(&a->file) : 0;
	for (struct item *i = first; i; i = i->next)
		i->error = i->error ? i->error : e;
}

static void *auditor_main(void *arg)
{
	struct auditor *a = arg;
	prctl(PR_SET_NAME, "audit");
	pthread_mutex_lock(&a->lock);
	for (;;) {
		struct item *first = take_all(&a->todo);
		if (!first && a->stop)
			break;
		if (!first) {
			pthread_cond_wait(&a->more, &a->lock);
			continue;
		}
		a->working = true;
		pthread_mutex_unlock(&a->lock);
		write_batch(a, first);
		pthread_mutex_lock(&a->lock);
		for (struct item *next; first; first = next) {
			next = first->next;
			push(&a->done, first);
		}
		a->working = false;
		pthread_cond_broadcast(&a->idle);
		(void)!write(a->efd, &(uint64_t){1}, 8);
	}
	pthread_mutex_unlock(&a->lock);
	auditor_file_close(&a->file);
	return NULL;
}

/* With the first entry, as the user that the daemon has become. Signals are the loop's. */
static bool start_thread(struct auditor *a)
{
	sigset_t all, before;
	if (a->started)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	a->file.dir = a->sv->data_dir;
	a->started = pthread_create(&a->thread, NULL, auditor_main, a) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return a->started;
}

/* ---- answers ---- */

void auditor_look(struct supervisor *sv)
{
	struct auditor *a = sv->auditor;
	char line[40];
	if (a->told == a->lost)
		return;
	snprintf(line, sizeof(line), "audit-lost %llu", (unsigned long long)(a->lost - a->told));
	if (control_tell_api(sv, line))
		a->told = a->lost;
}

static void answer(struct auditor *a, struct item *i)
{
	if (i->error) {
		a->lost++;
		log_warn_limited(&a->complaint, 60,
				 "audit: an entry could not be written to %s/%s: %s; the action went on",
				 a->sv->data_dir, AUDIT_FILE, strerror(i->error));
	} else {
		log_info("audit: entry %llu, hash %s", (unsigned long long)i->seq, i->hash);
	}
	if (i->answer && i->error) {
		char text[128];
		snprintf(text, sizeof(text), "not recorded: %s", strerror(i->error));
		json_object_set_new(i->answer, "audit", json_string(text));
	} else if (i->answer) {
		json_object_set_new(i->answer, "audit", json_string("recorded"));
	}
	char *json = i->answer ? json_dumps(i->answer, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
	control_reply_all(&i->waiting, i->ok, json ? json : "{\"ok\":false,\"error\":\"no UTF-8\"}");
	free(json);
	json_decref(i->answer);
	buf_free(&i->fields);
	free(i);
	a->pending--;
}

static void deliver(struct auditor *a)
{
	pthread_mutex_lock(&a->lock);
	struct item *first = take_all(&a->done);
	pthread_mutex_unlock(&a->lock);
	for (struct item *next; first; first = next) {
		next = first->next;
		answer(a, first);
	}
	auditor_look(a->sv);
	if (!a->pending)
		drain_step(a->sv);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	uint64_t n;
	(void)what;
	(void)!read((int)fd, &n, sizeof(n));
	deliver(arg);
}

/* ---- entries ---- */

json_t *auditor_text(const char *text)
{
	size_t len = text ? strlen(text) : 0;
	char cut[AUDITOR_TEXT_MAX + 48];
	if (!text)
		return NULL;
	if (len <= AUDITOR_TEXT_MAX)
		return json_string(text);
	size_t n = AUDITOR_TEXT_MAX;
	while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
		n--;
	snprintf(cut, sizeof(cut), "%.*s… (%zu bytes)", (int)n, text, len);
	return json_string(cut);
}

/* The members without their braces. Too many of them: those that matter. */
static void write_fields(struct buf *b, const char *who, const char *what, json_t *fields)
{
	char time[CLOCK_TEXT];
	clock_format(clock_real_us(), time);
	json_t *o = json_pack("{s:s% s:s s:s}", "time", time, sizeof(time), "who", who, "what", what);
	AN(o);
	json_object_update_missing(o, fields);
	char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15));
	if (text && strlen(text) > AUDITOR_FIELDS_MAX) {
		free(text);
		json_object_del(o, "changes");
		json_object_set_new(o, "changes_left_out",
				    json_integer((json_int_t)json_array_size(json_object_get(fields, "changes"))));
		text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15));
	}
	AN(text);
	size_t len = strlen(text);
	AN(len <= AUDITOR_FIELDS_MAX);
	buf_add(b, text + 1, len - 2);
	free(text);
	json_decref(o);
}

void auditor_note(struct supervisor *sv, const char *who, const char *what, json_t *fields, struct reply **waiting,
		  bool ok, json_t *reply)
{
	struct auditor *a = sv->auditor;
	struct item *i = util_zalloc(sizeof(*i));
	i->ok = ok;
	i->answer = reply;
	i->waiting = waiting ? *waiting : NULL;
	if (waiting)
		*waiting = NULL;
	i->limits = (struct auditor_limits){.max_bytes = (uint64_t)conf_int(sv->conf, CONF_AUDIT_MAX_BYTES),
					    .keep = (unsigned)conf_int(sv->conf, CONF_AUDIT_KEEP)};
	write_fields(&i->fields, who, what, fields);
	json_decref(fields);
	i->error = a->pending >= AUDITOR_QUEUE ? ENOBUFS : start_thread(a) ? 0 : EAGAIN;
	a->pending++;
	if (i->error) {
		answer(a, i);
		return;
	}
	pthread_mutex_lock(&a->lock);
	push(&a->todo, i);
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
}

bool auditor_busy(const struct supervisor *sv) { return sv->auditor->pending > 0; }

void auditor_settle(struct supervisor *sv)
{
	struct auditor *a = sv->auditor;
	int64_t until = clock_mono_us() + AUDITOR_WAIT_MS * 1000;
	pthread_mutex_lock(&a->lock);
	while ((a->todo.first || a->working) && clock_wait_until(&a->idle, &a->lock, until))
		;
	pthread_mutex_unlock(&a->lock);
	deliver(a);
}

/* ---- life ---- */

void auditor_begin(struct supervisor *sv)
{
	struct auditor *a = util_zalloc(sizeof(*a));
	a->sv = sv;
	a->todo.last = &a->todo.first;
	a->done.last = &a->done.first;
	a->file.fd = a->file.fd_dir = -1;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->more, NULL);
	pthread_cond_init(&a->idle, NULL);
	a->efd = supervisor_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	a->ev = event_new(sv->base, a->efd, EV_READ | EV_PERSIST, on_done, a);
	AN(a->ev && event_add(a->ev, NULL) == 0);
	sv->auditor = a;
}

void auditor_end(struct supervisor *sv)
{
	struct auditor *a = sv->auditor;
	if (!a)
		return;
	if (a->started)
		auditor_settle(sv);
	pthread_mutex_lock(&a->lock);
	bool stuck = a->todo.first || a->working;
	a->stop = true;
	pthread_cond_signal(&a->more);
	pthread_mutex_unlock(&a->lock);
	event_free(a->ev);
	sv->auditor = NULL;
	if (stuck)
		return; /* in the disk's hands: it ends with the process, and so does its memory */
	if (a->started)
		pthread_join(a->thread, NULL);
	close(a->efd);
	free(a);
}
