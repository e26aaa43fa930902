/* What goes into a stream of Server-Sent Events (WHATWG HTML, 9.2). */
#include "changes.h"

#define KEEP_ALIVE_US 15000000 /* longest silence */

static void send_text(struct follower *f, const struct buf *b, int64_t now)
{
	f->alive_us = now + KEEP_ALIVE_US;
	f->blocked = !http_write(f->c->req, b->p, b->len);
}

void changes_stream_id(struct follower *f, struct buf *b)
{
	buf_adds(b, "id: ");
	changes_cursor_add(b, &f->at);
	buf_addc(b, '\n');
	f->told = f->at;
}

void changes_stream_begin(struct follower *f, void (*on_drain)(void *arg, struct http_request *r), int64_t now)
{
	struct buf b = {0};
	f->streaming = true;
	router_count(f->c, 200);
	http_stream_begin(f->c->req, 200, "text/event-stream", "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n",
			  on_drain);
	buf_printf(&b, "retry: %d\n", CHANGES_COME_BACK_MS);
	changes_stream_id(f, &b);
	buf_addc(&b, '\n');
	send_text(f, &b, now);
	buf_free(&b);
}

void changes_stream_keep_alive(struct follower *f, int64_t now)
{
	struct buf b = {0};
	buf_adds(&b, ": keep-alive\n");
	if (!changes_cursor_same(&f->at, &f->told))
		changes_stream_id(f, &b); /* what it does not see moves it too, or it would expire */
	buf_addc(&b, '\n');
	send_text(f, &b, now);
	buf_free(&b);
}

void changes_stream_take(struct follower *f, const struct changes_page *p, int64_t now)
{
	struct buf b = {0};
	f->at = p->to;
	for (size_t i = 0; i < p->n; i++) {
		if (!changes_follower_sees(f, p, &p->v[i]))
			continue;
		buf_add(&b, p->text.p + p->v[i].event_at, p->v[i].event_len);
		f->told = p->v[i].next;
	}
	if (b.len)
		send_text(f, &b, now);
	buf_free(&b);
}
