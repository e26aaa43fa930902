/* Replay: every good record behind after_seq, in order, once; what is missing is said aloud.
 *
 * One number carries the whole account: `want`, the sequence that nobody has yet (neither store nor
 * caller). Whenever something proves that records from `want` up to b existed (a good record behind them, or
 * the head of a later segment, which is written only after everything in front of it), they are lost and
 * reported as such, and the segment that should have held them goes to the quarantine. A bad record with
 * nothing behind it proves nothing: it was never acknowledged, and is cut. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

#define WINDOW (4u << 20)

struct replay {
	struct journal *j;
	uint64_t after_seq, want;
	uint64_t told; /* losses up to here have been reported */
	journal_replay_fn *fn;
	void *arg;
	struct scan scan;
	bool whole;	 /* the segment at hand: undamaged */
	uint64_t dirty;	 /* … end of what looks like a torn record behind its last good one */
	uint64_t before; /* number and epoch of the segment in front of the one at hand; 0 = none */
	uint64_t before_epoch;
};

static void lost(struct replay *r, uint64_t from, uint64_t to, uint64_t number, uint64_t epoch, uint64_t at)
{
	char copy[PATH_MAX] = "";
	if (from < r->want)
		from = r->want;
	if (from <= r->told)
		from = r->told + 1;
	if (from > to)
		return;
	r->told = to;
	struct told *told = &r->j->told;
	if (told->n < TOLD_RANGES) {
		told->range[told->n].from = from;
		told->range[told->n++].to = to;
	}
	if (!number) {
		log_error_event(
			journal_lost, NULL,
			"journal: records %llu to %llu are lost: the store ends at %llu and the journal in %s begins "
			"behind them (was the store restored from an older copy?)",
			(unsigned long long)from, (unsigned long long)to, (unsigned long long)r->after_seq, r->j->path);
		return;
	}
	quarantine_copy(r->j, number, epoch, copy);
	log_error_event(
		journal_lost, NULL,
		"journal: records %llu to %llu are lost: %s/%s is damaged at byte %llu. %s%s%s. Records behind the damage "
		"are kept; what is lost may be found in a backup",
		(unsigned long long)from, (unsigned long long)to, r->j->path, segment_name(KIND_SEG, number).text,
		(unsigned long long)at, copy[0] ? "A copy of the file lies in " : "No copy", copy,
		copy[0] ? "" : " could be kept");
}

static void deliver(struct replay *r, const struct seg *g, const struct scan_hit *h)
{
	if (h->head.seq < r->want)
		return; /* the store has it */
	r->want = h->head.seq + 1;
	r->fn(r->arg, h->head.seq, g->number, h->off + sizeof(struct rec_head), h->payload, h->head.len);
	FAULT_POINT(replay_delivered);
}

/* From g->start on. Fills end and last_seq. */
static void walk(struct replay *r, struct seg *g)
{
	struct scan_hit h;
	uint64_t off = g->start, seq = g->first_seq;
	for (;;) {
		if (!scan_at(&r->scan, off, &h) || h.head.seq != seq) {
			if (!scan_search(&r->scan, off, seq, &h, &r->dirty))
				break;
			r->whole = false;
			lost(r, seq, h.head.seq - 1, g->number, g->epoch, off);
		}
		deliver(r, g, &h);
		off = h.off + record_room(h.head.len);
		seq = h.head.seq + 1;
		g->last_seq = h.head.seq;
	}
	g->end = off;
}

/* The head is damaged, so the epoch is not known. Any record with a right CRC that is newer than all before
 * tells it: what an earlier life of the file left is older. */
static bool salvage(struct replay *r, const struct found *f, int fd, struct seg *g)
{
	struct scan_hit h;
	uint64_t dirty;
	char copy[PATH_MAX];
	scan_start(&r->scan, fd, 0, f->size);
	bool some = scan_search(&r->scan, SEG_DATA_START, r->want, &h, &dirty) && h.head.seq <= INT64_MAX;
	quarantine_copy(r->j, f->number, some ? h.head.epoch : 0, copy);
	log_error_event(journal_quarantine, NULL, "journal: the head of %s/%s is damaged (copy: %s); %s", r->j->path,
			segment_name(KIND_SEG, f->number).text, copy[0] ? copy : "none",
			some ? "its records are read nevertheless"
			     : "it holds no record that the store lacks, or none that can be read");
	if (!some)
		return false;
	r->whole = false;
	*g = (struct seg){.number = f->number,
			  .epoch = h.head.epoch,
			  .size = f->size,
			  .first_seq = h.head.seq,
			  .start = h.off,
			  .end = h.off,
			  .stale = true};
	/* Readers of this and other processes need a head as well. */
	int e = segment_head_write(fd, g);
	if (!e)
		e = segment_datasync(fd);
	if (e)
		log_error("journal: the head of segment %llu cannot be repaired: %s", (unsigned long long)g->number,
			  strerror(e));
	return true;
}

/* Nothing in the file counts: it waits for its next life. */
static int make_spare(struct replay *r, const struct found *f)
{
	struct journal *j = r->j;
	struct spare s = {.id = j->next_id++, .size = f->size, .stale = true};
	if (renameat(j->dirfd, segment_name(KIND_SEG, f->number).text, j->dirfd, segment_name(KIND_SPARE, s.id).text) ==
	    -1)
		return errno;
	list_push_spare(j, &s);
	return 0;
}

static int segment_fd(struct replay *r, const struct found *f, int *fd_r)
{
	*fd_r = segment_open(r->j->dirfd, segment_name(KIND_SEG, f->number).text, O_RDWR);
	return *fd_r == -1 ? errno : 0;
}

/* Decides what the file is. *g_r.number 0: a spare now. */
static int identify(struct replay *r, const struct found *f, int fd, struct seg *g_r)
{
	const struct seg_head *h = &f->head;
	char copy[PATH_MAX];
	*g_r = (struct seg){0};
	r->whole = f->size == h->size && f->size % 8 == 0;
	if (!f->head_ok)
		return salvage(r, f, fd, g_r) ? 0 : make_spare(r, f);
	if (h->segment != f->number) {
		/* A name given shortly before a power cut, whose head did not reach the disk (writer.c, enlist):
		 * nothing was acknowledged in it. The file's former life had a lower number. */
		if (h->segment > f->number)
			quarantine_copy(r->j, f->number, h->epoch, copy);
		return make_spare(r, f);
	}
	uint64_t size = h->size < f->size ? h->size : f->size;
	*g_r = (struct seg){.number = f->number,
			    .epoch = h->epoch,
			    .size = size,
			    .first_seq = h->first_seq,
			    .start = h->start,
			    .end = h->start,
			    .stale = true};
	return 0;
}

static int replay_file(struct replay *r, const struct found *f, const struct found *next)
{
	struct journal *j = r->j;
	struct seg g;
	int fd, e = segment_fd(r, f, &fd);
	if (e)
		return e;
	e = identify(r, f, fd, &g);
	if (!e && g.number) {
		/* Somebody is missing between the segment in front and this one. */
		lost(r, r->want, g.first_seq - 1, r->before, r->before_epoch, j->nsegs ? j->segs[j->nsegs - 1].end : 0);
		if (next && next->head_ok && next->head.segment == next->number && g.first_seq < next->head.first_seq &&
		    next->head.first_seq <= r->want && f->head_ok) {
			g.last_seq = next->head.first_seq - 1; /* the store has all of it */
			g.end = g.size;
		} else {
			scan_start(&r->scan, fd, g.epoch, g.size);
			walk(r, &g);
		}
		r->before = g.number;
		r->before_epoch = g.epoch;
		if (g.last_seq > atomic_load(&j->last_seq))
			atomic_store(&j->last_seq, g.last_seq);
		list_push_seg(j, &g);
	}
	close(fd);
	return e;
}

/* A process that was killed between pwrite and fdatasync left records in the page cache only; we are about
 * to treat them as durable. After a *failed* fdatasync their pages even count as clean, so they are
 * written once more before they are synced. */
static int settle(struct replay *r, int fd, const struct seg *g)
{
	size_t cap = WINDOW;
	char *buf = util_alloc(cap);
	uint64_t done;
	int e = 0;
	for (uint64_t off = g->start; !e && g->last_seq > r->after_seq && off < g->end;) {
		size_t n = g->end - off < cap ? (size_t)(g->end - off) : cap;
		if (segment_read(fd, buf, n, off, NULL) != n)
			break; /* shorter than a moment ago: nothing left to settle */
		struct iovec iov = {buf, n};
		e = segment_writev(fd, &iov, 1, off, &done);
		off += n;
	}
	free(buf);
	return e;
}

static int finish_last(struct replay *r, const struct found *f)
{
	struct journal *j = r->j;
	if (!j->nsegs)
		return 0;
	struct seg *g = &j->segs[j->nsegs - 1];
	int fd, e;
	if (g->number != f->number)
		return 0; /* the last file became a spare: what precedes it was synced before it was named */
	e = segment_fd(r, f, &fd);
	if (e)
		return e;
	if (r->dirty > g->end) {
		log_warn(
			"journal: %llu bytes of an unfinished record behind record %llu are cut from %s/%s (never acknowledged)",
			(unsigned long long)(r->dirty - g->end), (unsigned long long)g->last_seq, j->path,
			segment_name(KIND_SEG, g->number).text);
		/* Left there, a piece of it might complete a later record by accident. */
		FAULT_POINT(replay_cutting);
		e = segment_zero(fd, g->end, r->dirty);
		FAULT_POINT(replay_cut);
	}
	if (!e && r->whole)
		e = settle(r, fd, g);
	FAULT_POINT(replay_settled);
	if (!e)
		e = segment_datasync(fd);
	close(fd);
	return e;
}

int replay_run(struct journal *j, struct found *f, size_t n, uint64_t after_seq, journal_replay_fn *fn, void *arg,
	       bool *reuse_r)
{
	struct replay r = {.j = j,
			   .after_seq = after_seq,
			   .want = after_seq + 1,
			   .fn = fn,
			   .arg = arg,
			   .scan = {.window = WINDOW}};
	int e = 0;
	if (after_seq == JOURNAL_ALL) {
		after_seq = n && f[0].head_ok && f[0].head.first_seq ? f[0].head.first_seq - 1 : 0;
		r.after_seq = after_seq;
		r.want = after_seq + 1;
	}
	for (size_t i = 0; i < n && !e; i++) {
		r.dirty = 0;
		e = replay_file(&r, &f[i], i + 1 < n ? &f[i + 1] : NULL);
	}
	if (!e && n)
		e = finish_last(&r, &f[n - 1]);
	scan_free(&r.scan);
	if (e)
		return e;
	j->released = after_seq;
	j->next_seq = (j->last_seq > after_seq ? j->last_seq : after_seq) + 1;
	*reuse_r = false;
	if (j->nsegs && r.whole && j->segs[j->nsegs - 1].number == f[n - 1].number) {
		const struct seg *g = &j->segs[j->nsegs - 1];
		/* Not in one of an older layout: an older program would take what is appended for its own. */
		*reuse_r = f[n - 1].head.layout == SEG_LAYOUT &&
			   (g->last_seq ? g->last_seq + 1 : g->first_seq) == j->next_seq;
	}
	return 0;
}
