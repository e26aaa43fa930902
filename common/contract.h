/* What a worker is born with. The supervisor forks, moves everything to these fixed numbers,
 * closes the rest and execs /proc/self/exe with `--role=NAME --slot=N`. A number without a meaning for that
 * worker (its role may not have it, or it is not configured) holds /dev/null: were it free, a later open() would take it.
 * Model: Dovecot's master-interface.h. */
#ifndef ORC_CONTRACT_H
#define ORC_CONTRACT_H

#include "vocabulary.h"

enum contract_fd {
	FD_CONTROL = 3,	  /* SOCK_SEQPACKET pair with the supervisor; EOF = the supervisor is gone */
	FD_CONF = 4,	  /* sealed memfd: the effective configuration as conf_dump_effective() wrote it */
	FD_SHM_PLANT = 5, /* plant.h: states, sequence numbers, namespaces, statistics slots */
	FD_SHM_RINGS = 6, /* ring.h: per slot a request ring (→ sync) and an answer ring (← sync). This and the next
			      * three: with MAY_READ_DATA (roles.def) */
	FD_SHM_PENDING = 7, /* pending.h */
	FD_SHM_CACHE = 8,   /* cache/cache.h */
	FD_SHM_VECTORS = 9, /* index/vectors.h */
	FD_LISTEN_TCP = 10, /* listening sockets and certificate: api only, where configured */
	FD_LISTEN_UNIX = 11,
	FD_DATA_LOCK = 12, /* the flock on data.dir/lock: held by whoever lives, released with the last */
	FD_LISTEN_TLS = 13,
	FD_VITALS = 14,	      /* vitals.h: heartbeat and last words, which the supervisor reads */
	FD_TLS_FILES = 15,    /* sealed memfd with certificate and key (tls_files.h) */
	FD_SHM_WORDS = 16,    /* words/postings.h */
	FD_LOG = 17,	      /* where log lines go: what log.target names (conf_log_target()) */
	FD_SHM_REQUESTS = 18, /* reqlog.h: api only */
	FD_SHM_SPANS = 19,    /* trace/trace.h: api, sync, pinger */
	FD_VECTORS_FILE = 20, /* rows of vectors that are not kept in memory (index/vectors.h); unlinked */
	FD_WAKE0 = 21,	      /* FD_WAKE0 + slot: that slot's eventfd (wake.h), where the role may ring it */
	FD_AFTER_LAST = FD_WAKE0 + SLOT_COUNT
};

/* Versions of what outlives a process: shared memory, journal, control messages. A live upgrade takes
 * them over as they are, so whoever changes one incompatibly counts it up here (and says in
 * daemon/handover.c if the former one can still be read). */
enum layout_version {
	LAYOUT_PLANT = 6,
	LAYOUT_RINGS = 1,
	LAYOUT_PENDING = 2,
	LAYOUT_CACHE = 4,
	LAYOUT_VECTORS = 5,
	LAYOUT_WORDS = 1,
	LAYOUT_VITALS = 1,
	LAYOUT_REQUESTS = 1, /* another one is no reason to refuse an upgrade: the segment is made anew */
	LAYOUT_SPANS = 1,    /* the same */
	LAYOUT_JOURNAL = 2,  /* 2: vectors may be packed (packed.h); segments of 1 are read as well */
	LAYOUT_CONTROL = 1,  /* imsg.h with the messages of vocabulary.h */
};

/* Environment: only these two; everything else that a worker needs is in FD_CONF. */
#define ENV_INCARNATION "ORCHESTRA_INCARNATION" /* u64, grows with every start of any worker */
#define ENV_SIMD "ORCHESTRA_SIMD"		/* scalar|avx2|avx512: caps run-time dispatch, for tests */

#endif
