/* From the rings to the open batch. */
#define LOG_SUBSYSTEM LOG_IN_SYNC
#include <errno.h>
#include <stdlib.h>

#include "fault.h"
#include "log.h"
#include "sync.h"

void intake_open(struct sync *s, unsigned slot)
{
	size_t bytes = (size_t)conf_int(s->w->conf, CONF_RING_BYTES);
	struct peer *p = &s->peer[slot];
	if (slot == SLOT_SYNC || p->requests)
		return;
	p->requests = ring_open(FD_SHM_RINGS, rings_request_offset(bytes, slot), bytes);
	p->answers = ring_open(FD_SHM_RINGS, rings_answer_offset(bytes, slot), RINGS_ANSWER_BYTES);
	if (!p->requests || !p->answers) {
		log_error("cannot map the rings of slot %u: %s", slot, strerror(errno));
		exit(WORKER_EXIT_FAIL);
	}
	p->peeked = ring_head(p->requests);
}

bool intake_room(const struct batch *g) { return g->n < BATCH_TXNS && g->bytes < BATCH_BYTES; }

static void assembly_drop(struct peer *p)
{
	free(p->assembly);
	p->assembly = NULL;
	p->assembly_len = p->assembly_total = 0;
}

/* A transaction larger than a quarter of the ring comes in pieces. Its sender may have died half
 * way: then the next thing in the ring is a whole message or a first piece, and what was gathered
 * goes. Returns the complete transaction (malloc'ed) or NULL. */
static char *assemble(struct peer *p, const struct ring_msg_head *h, const char *data, size_t len, size_t *total_r)
{
	if (h->part & FRAGMENT_FIRST) {
		assembly_drop(p);
		if (h->total > ASSEMBLY_MAX || h->total < len) {
			log_error("a fragmented transaction of %zu bytes is refused", (size_t)h->total);
			return NULL;
		}
		p->assembly = util_alloc(h->total);
		p->assembly_total = h->total;
	}
	if (!p->assembly || h->total != p->assembly_total || len > p->assembly_total - p->assembly_len) {
		assembly_drop(p);
		return NULL;
	}
	memcpy(p->assembly + p->assembly_len, data, len);
	p->assembly_len += len;
	FAULT_POINT(intake_fragment);
	if (!(h->part & FRAGMENT_LAST))
		return NULL;
	if (p->assembly_len != p->assembly_total) {
		assembly_drop(p);
		return NULL;
	}
	char *whole = p->assembly;
	*total_r = p->assembly_total;
	p->assembly = NULL;
	assembly_drop(p);
	return whole;
}

static void intake_message(struct sync *s, uint32_t slot, const char *msg, size_t len)
{
	struct peer *p = &s->peer[slot];
	const struct ring_msg_head *h = (const void *)msg;
	if (len < sizeof(*h)) {
		log_error("a message of %zu bytes from slot %u is too short; dropped", len, slot);
		return;
	}
	const char *data = msg + sizeof(*h);
	len -= sizeof(*h);
	switch (h->type) {
	case MSG_TXN:
		assembly_drop(p);
		sequence_txn(s, slot, data, len, NULL);
		break;
	case MSG_FRAGMENT: {
		size_t total = 0;
		char *whole = assemble(p, h, data, len, &total);
		if (whole)
			sequence_txn(s, slot, whole, total, whole);
		break;
	}
	case MSG_REFILL: refill_start(s); break;
	default: log_error("a message of unknown type %u from slot %u; dropped", h->type, slot);
	}
}

/* Ring space in front of the oldest record that a batch still points at goes back to its sender. */
static void release_ring(struct sync *s, uint32_t slot, uint64_t cursor)
{
	struct peer *p = &s->peer[slot];
	if (cursor == ring_head(p->requests))
		return;
	ring_advance(p->requests, cursor);
	s->to_wake |= 1ull << slot; /* it may wait for room */
}

static void drain_ring(struct sync *s, uint32_t slot)
{
	struct peer *p = &s->peer[slot];
	while (intake_room(s->open)) {
		size_t len;
		const char *msg = ring_peek(p->requests, &p->peeked, &len);
		if (!msg) {
			if (errno == EPROTO) {
				/* A broken producer: nothing behind this point can be trusted. */
				log_error("the ring of slot %u is corrupt; its unread part is dropped", slot);
				p->peeked = ring_head(p->requests) + ring_used(p->requests);
			}
			break;
		}
		intake_message(s, slot, msg, len);
	}
	if (p->held == 0)
		release_ring(s, slot, p->peeked);
	s->open->cursor[slot] = p->peeked;
}

void intake_run(struct sync *s)
{
	/* Start at another ring each time so that a busy worker cannot starve the others when the
	 * batch has a limit. */
	static unsigned turn;
	turn++;
	commit_open(s);
	if (s->leaving)
		return;
	for (unsigned i = 0; i < SLOT_COUNT && intake_room(s->open); i++) {
		unsigned slot = (turn + i) % SLOT_COUNT;
		if (s->peer[slot].requests)
			drain_ring(s, slot);
	}
}

void intake_advance(struct sync *s, struct batch *g)
{
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++) {
		struct peer *p = &s->peer[slot];
		if (!p->requests)
			continue;
		if (g->uses_ring[slot])
			release_ring(s, slot, p->held ? g->cursor[slot] : p->peeked);
		g->uses_ring[slot] = false;
	}
}

void intake_internal(struct sync *s, void *txn, size_t len)
{
	commit_open(s);
	sequence_txn(s, SLOT_SYNC, txn, len, txn);
}
