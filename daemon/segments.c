/* Shared memory, made but never mapped here. Sizes cost address space only: pages come with use. */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache.h"
#include "index/vectors.h"
#include "log.h"
#include "pending.h"
#include "plant.h"
#include "reqlog.h"
#include "rings.h"
#include "supervisor.h"
#include "trace/trace.h"
#include "words/postings.h"

static bool create(const char *name, size_t size, int *fd_r)
{
	*fd_r = supervisor_high(shm_create(name, size));
	if (*fd_r == -1)
		log_error("cannot create the shared-memory segment %s of %zu bytes: %s", name, size, strerror(errno));
	return *fd_r != -1;
}

bool segments_requests(struct supervisor *sv)
{
	size_t size = reqlog_segment_size((uint64_t)conf_int(sv->conf, CONF_LOG_REQUESTS));
	struct reqlog_header h;
	if (!size)
		return true;
	if (!create("orchestra-requests", size, &sv->fd_requests))
		return false;
	reqlog_header_fill(&h, size);
	/* Whoever is handed it by PATH.ctl gets it read-only, and cannot open it again for writing unless it is his. */
	if (fchmod(sv->fd_requests, 0400) == 0 && pwrite(sv->fd_requests, &h, sizeof(h), 0) == sizeof(h))
		return true;
	log_error("cannot write the header of the request log: %s", strerror(errno));
	return false;
}

bool segments_spans(struct supervisor *sv) { return create("orchestra-spans", trace_segment_size(), &sv->fd_spans); }

static bool create_vectors_file(struct supervisor *sv)
{
	size_t bytes = (size_t)conf_int(sv->conf, CONF_VECTORS_SPILL_BYTES);
	if (!bytes)
		return true;
	sv->fd_vectors_file = supervisor_high(shm_create_file(sv->data_dir, align_up(bytes, 4096)));
	if (sv->fd_vectors_file == -1)
		log_error("cannot reserve vectors.spill_bytes, %zu bytes, in data.dir %s: %s", bytes, sv->data_dir,
			  strerror(errno));
	return sv->fd_vectors_file != -1;
}

bool segments_create(struct supervisor *sv)
{
	const struct conf *c = sv->conf;
	size_t rings = rings_segment_size((size_t)conf_int(c, CONF_RING_BYTES));
	size_t pending = pending_segment_size((uint32_t)conf_int(c, CONF_JOURNAL_PENDING_MAX));
	size_t cache = cache_segment_size((uint64_t)conf_int(c, CONF_CACHE_L1_BYTES));
	size_t vectors = vectors_segment_size((uint64_t)conf_int(c, CONF_VECTORS_MAX_BYTES));
	size_t words = postings_segment_size((uint64_t)conf_int(c, CONF_WORDS_MAX_BYTES));
	if (!create("orchestra-plant", align_up(sizeof(struct plant), 4096), &sv->fd_plant) ||
	    !create("orchestra-rings", rings, &sv->fd_rings) ||
	    !create("orchestra-pending", pending, &sv->fd_pending) ||
	    !create("orchestra-cache", cache, &sv->fd_cache) ||
	    !create("orchestra-vectors", vectors, &sv->fd_vectors) || !create("orchestra-words", words, &sv->fd_words))
		return false;
	if (!create_vectors_file(sv) || !segments_requests(sv) || !segments_spans(sv))
		return false;
	if (!create("orchestra-vitals", align_up(sizeof(struct vitals), 4096), &sv->fd_vitals))
		return false;
	sv->vitals = vitals_open(sv->fd_vitals, false);
	if (!sv->vitals) {
		log_error("cannot map the vitals segment: %s", strerror(errno));
		return false;
	}
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++) {
		sv->fd_wake[slot] = supervisor_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
		if (sv->fd_wake[slot] == -1) {
			log_error("cannot create an eventfd: %s", strerror(errno));
			return false;
		}
	}
	return true;
}
