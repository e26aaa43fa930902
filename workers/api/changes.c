/* The followers of the feed in this worker: who waits where, what is read for them, what they are given.
 *
 * All on the loop. A timer looks at how far the feed has come (plant->feed_revision); it runs only while somebody
 * follows. Followers that have caught up stand at the same place, so that one page serves them all; one that does not
 * take what it is sent stands still until it does, and is cut off by the engine's write timeout. */
#include "changes.h"

#include <stdlib.h>

#include "clock.h"
#include "handlers.h"

#define LOOK_US 50000	/* how often it is looked whether there is more */
#define SWEEP_US 250000 /* … and at everybody's times */
#define RETRY_US 500000 /* after the store could not be read */
#define READS_AT_ONCE 2
#define PAGES_MAX 64 /* pages without an end that one answer looks through */

struct changes {
	struct api *api;
	struct event *ev;
	struct follower *first, **last; /* those at the front are served first, and go to the back then */
	struct changes_page *reads[READS_AT_ONCE];
	uint64_t seen; /* where the feed ended at the last look */
	int64_t swept_us;
	bool draining;
	unsigned parted; /* streams that were sent away: they come back one after the other */
};

static uint64_t end_of_feed(const struct changes *s)
{
	return atomic_load_explicit(&s->api->plant->feed_revision, memory_order_acquire);
}

static void unlink_follower(struct changes *s, struct follower *f)
{
	*f->pprev = f->next;
	if (f->next)
		f->next->pprev = f->pprev;
	else
		s->last = f->pprev;
}

static void link_follower(struct changes *s, struct follower *f)
{
	f->next = NULL;
	f->pprev = s->last;
	*s->last = f;
	s->last = &f->next;
}

static void free_follower(void *state)
{
	struct follower *f = state;
	changes_query_free(&f->q);
	buf_free(&f->list);
	free(f);
}

/* ---- answers ---- */

static void answer(struct changes *s, struct follower *f)
{
	struct call *c = f->c;
	struct buf *b = &c->reply.body;
	unlink_follower(s, f);
	if (!c->reply.status) {
		c->reply.status = 200;
		buf_adds(b, "{\"changes\":[");
		buf_add(b, f->list.p, f->list.len);
		buf_adds(b, "],\"cursor\":\"");
		changes_cursor_add(b, &f->at);
		buf_printf(b, "\",\"more\":%s}", f->at.after < end_of_feed(s) ? "true" : "false");
		buf_adds(&c->reply.head, "Cache-Control: no-store\r\n");
	}
	*http_user(c->req) = NULL;
	call_reply(c);
}

static bool caught_up(const struct changes *s, const struct follower *f)
{
	return f->trusted && f->at.after >= end_of_feed(s);
}

/* An empty answer says that nothing was changed: not when nobody can know. */
static bool feed_lost(const struct changes *s)
{
	return atomic_load_explicit(&s->api->plant->feed_lost, memory_order_acquire);
}

static void answer_if_due(struct changes *s, struct follower *f, int64_t now)
{
	bool full = f->n == f->q.limit || f->pages >= PAGES_MAX, end = caught_up(s, f);
	if (!full && !(end && (f->n || now >= f->until_us || s->draining)))
		return;
	if (!f->n && end && feed_lost(s))
		problem_store(f->c, "the feed of the fleet is not followed at the moment");
	answer(s, f);
}

static void expired_problem(struct call *c, uint64_t end)
{
	problem(c, 410, "changes-expired",
		"after: the feed no longer holds what came behind this cursor (changes.keep says how long it does), or the "
		"cursor is of another store; list the memories again, then follow from \"cursor\"");
	c->reply.body.len--; /* the closing brace */
	buf_printf(&c->reply.body, ",\"cursor\":\"%llu\"}", (unsigned long long)end);
}

/* ---- streams ---- */

static void pump(struct changes *s, int64_t now);

static void on_drained(void *arg, struct http_request *r)
{
	struct call *c = *http_user(r);
	(void)arg;
	if (!c)
		return;
	((struct follower *)c->state)->blocked = false;
	pump(c->api->changes, clock_mono_us());
}

/* With the last words, if any. */
static void end_stream(struct changes *s, struct follower *f, const struct buf *words)
{
	struct call *c = f->c;
	unlink_follower(s, f);
	if (words)
		(void)http_write(c->req, words->p, words->len);
	*http_user(c->req) = NULL;
	http_end(c->req);
	call_free(c);
}

static void part(struct changes *s, struct follower *f, int64_t now)
{
	struct buf b = {0};
	if (!f->streaming)
		changes_stream_begin(f, on_drained, now);
	buf_printf(&b, "retry: %u\n", CHANGES_COME_BACK_MS + s->parted++ % 100 * 10);
	changes_stream_id(f, &b);
	buf_addc(&b, '\n');
	end_stream(s, f, &b);
	buf_free(&b);
}

static void expire(struct changes *s, struct follower *f, uint64_t end)
{
	struct buf b = {0};
	expired_problem(f->c, end);
	if (!f->streaming) {
		answer(s, f);
		return;
	}
	buf_adds(&b, "event: changes-expired\ndata: ");
	buf_add(&b, f->c->reply.body.p, f->c->reply.body.len);
	buf_adds(&b, "\n\n");
	end_stream(s, f, &b);
	buf_free(&b);
}

/* ---- what was read ---- */

bool changes_follower_sees(const struct follower *f, const struct changes_page *p, const struct changes_entry *e)
{
	struct span name = {p->names.p + e->name_at, e->name_len};
	return changes_query_wants(&f->q, name) && call_may(f->c, AUTH_READ, name);
}

static void take_list(struct follower *f, const struct changes_page *p)
{
	f->pages++;
	f->at = p->to;
	for (size_t i = 0; i < p->n; i++) {
		const struct changes_entry *e = &p->v[i];
		if (!changes_follower_sees(f, p, e))
			continue;
		if (f->n++)
			buf_addc(&f->list, ',');
		buf_add(&f->list, p->text.p + e->object_at, e->object_len);
		if (f->n == f->q.limit) {
			f->at = e->next;
			return;
		}
	}
}

static void serve(struct changes *s, struct follower *f, const struct changes_page *p, int64_t now)
{
	f->page = NULL;
	if (p->outcome == CHANGES_EXPIRED) {
		expire(s, f, p->upto);
		return;
	}
	unlink_follower(s, f);
	link_follower(s, f);
	if (p->outcome == CHANGES_UNREADABLE && !f->q.stream) {
		problem_store(f->c, p->error);
		answer(s, f);
		return;
	}
	if (f->q.stream && !f->streaming)
		changes_stream_begin(f, on_drained, now);
	if (p->outcome == CHANGES_UNREADABLE) {
		f->retry_us = now + RETRY_US;
		return;
	}
	f->trusted = true;
	if (f->q.stream)
		changes_stream_take(f, p, now);
	else
		take_list(f, p);
}

/* ---- what is to be read ---- */

static bool needs(const struct changes *s, const struct follower *f, int64_t now)
{
	return !f->page && !f->blocked && now >= f->retry_us && !caught_up(s, f);
}

static void on_page(struct call *c);

static struct changes_page **slot_for(struct changes *s, const struct changes_cursor *at, bool *joins_r)
{
	struct changes_page **vacant = NULL;
	for (size_t i = 0; i < READS_AT_ONCE; i++) {
		*joins_r = s->reads[i] && changes_cursor_same(&s->reads[i]->from, at);
		if (*joins_r)
			return &s->reads[i];
		if (!s->reads[i])
			vacant = &s->reads[i];
	}
	return vacant;
}

static struct changes_page *start_read(struct changes *s, const struct follower *f)
{
	struct changes_page *p = util_zalloc(sizeof(*p));
	struct call *c = util_zalloc(sizeof(*c));
	bool all = f->q.stream || f->q.nnames || f->c->who->namespaces;
	*p = (struct changes_page){.owner = s, .from = f->at, .max = all ? CHANGES_PAGE : f->q.limit - f->n};
	*c = (struct call){.api = s->api,
			   .read = changes_page_read,
			   .finish = on_page,
			   .state = p,
			   .free_state = changes_page_free};
	if (jobs_submit(s->api->jobs, c))
		return p;
	call_free(c);
	return NULL;
}

/* Everybody who can go on gets a page to wait for, as far as pages may be read at once. */
static void pump(struct changes *s, int64_t now)
{
	for (struct follower *f = s->first, *next; f; f = next) {
		bool joins;
		next = f->next;
		if (!needs(s, f, now))
			continue;
		struct changes_page **slot = slot_for(s, &f->at, &joins);
		if (!slot)
			return;
		if (!joins && !(*slot = start_read(s, f))) {
			f->retry_us = now + LOOK_US; /* too much waits for the threads */
			continue;
		}
		f->page = *slot;
	}
}

static void answer_due(struct changes *s, int64_t now)
{
	for (struct follower *f = s->first, *next; f; f = next) {
		next = f->next;
		if (!f->q.stream && !f->page)
			answer_if_due(s, f, now);
	}
}

static void on_page(struct call *c)
{
	struct changes_page *p = c->state;
	struct changes *s = p->owner;
	int64_t now = clock_mono_us();
	struct follower *end = NULL, *f, *next;
	for (size_t i = 0; i < READS_AT_ONCE; i++)
		if (s->reads[i] == p)
			s->reads[i] = NULL;
	/* Those who are served go to the back: behind `end` nobody is left who waits for it. */
	for (f = s->first; f; f = f->next)
		end = f;
	for (f = s->first; f; f = next) {
		next = f == end ? NULL : f->next;
		if (f->page == p)
			serve(s, f, p, now);
	}
	answer_due(s, now);
	pump(s, now);
	call_free(c);
}

/* ---- looking ---- */

/* A token that was taken away ends what it began. */
static bool still_admitted(struct changes *s, struct follower *f)
{
	struct call *c = f->c;
	if (c->auth == s->api->auth)
		return true;
	const struct auth_principal *who = router_who(s->api, c->req);
	if (!who || !(who->rights & AUTH_READ))
		return false;
	auth_free(&c->auth);
	c->auth = auth_ref(s->api->auth);
	c->who = who;
	return true;
}

static void sweep(struct changes *s, int64_t now)
{
	for (struct follower *f = s->first, *next; f; f = next) {
		next = f->next;
		if (f->q.stream && f->streaming && !still_admitted(s, f))
			end_stream(s, f, NULL);
		else if (f->q.stream && s->draining && !f->page)
			part(s, f, now);
		else if (f->streaming && !f->blocked && now >= f->alive_us)
			changes_stream_keep_alive(f, now);
	}
}

/* A server whose place was taken by a copy that lacks its last changes: places behind its end are none any more. */
static void look_back(struct changes *s)
{
	uint64_t end = end_of_feed(s);
	for (struct follower *f = end < s->seen ? s->first : NULL; f; f = f->next)
		f->trusted = false;
	s->seen = end;
}

static void look(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval later = {0, LOOK_US};
	struct changes *s = arg;
	int64_t now = clock_mono_us();
	(void)fd, (void)what;
	look_back(s);
	if (now - s->swept_us >= SWEEP_US || s->draining) {
		s->swept_us = now;
		sweep(s, now);
	}
	answer_due(s, now);
	pump(s, now);
	if (s->first)
		event_add(s->ev, &later);
}

/* ---- requests ---- */

/* A daemon that was started while the store is away does not know where the feed ends. */
static bool now_known(const struct changes *s)
{
	const struct plant *p = s->api->plant;
	return !s->api->shared.ops->fleet || end_of_feed(s) || atomic_load_explicit(&p->feed_us, memory_order_acquire);
}

void changes_follow(struct call *c)
{
	struct changes *s = c->api->changes;
	struct changes_query q;
	if (!changes_query_read(c, &q)) {
		call_reply(c);
		return;
	}
	if (q.from_now && !now_known(s)) {
		changes_query_free(&q);
		problem_store(c, "it has not been reached yet, so nobody knows where its feed ends");
		call_reply(c);
		return;
	}
	struct follower *f = util_zalloc(sizeof(*f));
	int64_t now = clock_mono_us();
	uint64_t end = end_of_feed(s);
	*f = (struct follower){.c = c, .q = q, .at = q.at, .until_us = now + q.wait_us};
	if (q.from_now)
		f->at = (struct changes_cursor){end, 0};
	f->trusted = f->at.after == end && !f->at.skip;
	c->state = f;
	c->free_state = free_follower;
	*http_user(c->req) = c;
	link_follower(s, f);
	if (q.stream && f->trusted)
		changes_stream_begin(f, on_drained, now);
	if (q.stream && s->draining && f->trusted)
		part(s, f, now);
	else if (!q.stream)
		answer_if_due(s, f, now);
	pump(s, now);
	if (s->first && !event_pending(s->ev, EV_TIMEOUT, NULL))
		look(-1, 0, s);
}

bool changes_is(const struct call *c) { return c->route && c->route->handle == changes_follow; }

/* A half-closed client still takes what it is sent. */
void changes_gone(struct call *c)
{
	struct follower *f = c->state;
	if (!http_gone(c->req))
		return;
	unlink_follower(c->api->changes, f);
	http_abort(c->req);
	call_free(c);
}

void changes_drain(struct changes *s)
{
	s->draining = true;
	if (s->first)
		look(-1, 0, s);
}

struct changes *changes_open(struct api *a)
{
	struct changes *s = util_zalloc(sizeof(*s));
	s->api = a;
	s->last = &s->first;
	s->ev = event_new(a->base, -1, 0, look, s);
	return s;
}

/* After the server and the threads: nobody follows any more. */
void changes_free(struct changes **sp)
{
	struct changes *s = *sp;
	if (!s)
		return;
	event_free(s->ev);
	free(s);
	*sp = NULL;
}
