/* The plant: one small segment with what every process looks at: sequence numbers, states,
 * namespaces, statistics slots, breakers and the wake-up flags. Each field names its only writer. */
#ifndef ORC_PLANT_H
#define ORC_PLANT_H
#include "breaker.h"
#include "cache/trust.h"
#include "flight.h"
#include "shm.h"
#include "vocabulary.h"
#include "wake.h"
#include "stats.h"

#define PLANT_MAGIC 0x31544e414c50434full
#define PLANT_NAMESPACES 16384 /* power of two; open addressing, at most 7/8 used */

enum plant_sync { SYNC_STARTING, SYNC_REPLAYING, SYNC_SERVING, SYNC_JOURNAL_FAILED, SYNC_STORE_FAILED, SYNC_DRAINING };
enum plant_refill { REFILL_NONE, REFILL_RUNNING, REFILL_DONE };

/* A namespace as readers see it. Writer: sync. Published by the release store of `ns`;
 * name and ns never change afterwards, the rest are single atomics. A dropped namespace keeps
 * its row with `exists` 0. */
struct plant_namespace {
	_Atomic uint64_t ns; /* record_ns(name); 0 = free row */
	_Atomic uint32_t exists;
	_Atomic uint32_t dim;	       /* 0 = no vector yet */
	_Atomic uint64_t generation;   /* grows with every applied write: ETag of lists, search cache */
	_Atomic uint64_t count, bytes; /* live memories */
	_Atomic uint64_t quota_count, quota_bytes;
	_Atomic uint32_t relaxed;
	_Atomic uint32_t embedder_set; /* 1 after embedder[] is complete */
	_Atomic uint32_t language;     /* enum language: how its words are analysed */
	_Atomic int64_t created_us;
	char embedder[64]; /* NUL-terminated id of the vector space */
	uint32_t name_len;
	char name[LIMIT_NAMESPACE];
};

struct plant_worker {
	_Alignas(CACHE_LINE) _Atomic uint32_t pid; /* all: the worker itself, at birth */
	_Atomic uint32_t ready;
	/* api, while plant->warm.active: clock_mono_us() when it looked last how late its loop is (0: it does not); how often it
	 * looked, and found it later than warmer.max_delay. */
	_Atomic int64_t late_seen_us;
	_Atomic uint64_t ticks, late_ticks;
	_Atomic uint64_t incarnation;
	_Atomic int64_t started_us;
	/* What the process takes, as of its last heartbeat (workers/self.c). cpu_us goes on where its predecessor's ended. */
	_Atomic uint64_t cpu_us, resident_bytes, private_bytes, fds, fds_max; /* 0: not known */
	struct stats_slot stats;
};

/* What is known of a keep-warm target. Writer: pinger, but for touched_us. A row belongs to a name until a reload drops the
 * target and another one needs the row. `change` is odd while the name is being written, and moves with it; so is `turn`
 * while the figures are. */
#define PLANT_TARGETS 512
#define PLANT_PINGS 128	     /* results that are remembered of a target */
#define PLANT_WARM_TIMES 128 /* answers of a warm target, for percentiles and for telling cold ones */
#define PLANT_COLD_TIMES 32
enum plant_ping_outcome { PING_WELL, PING_STATUS, PING_BODY, PING_FAILED, PING_NO_TOKEN, PING_OUTCOMES };
enum plant_ping_heat { PING_UNKNOWN, PING_WARM, PING_COLD, PING_HEATS };
struct plant_ping {
	int64_t at_us;	  /* clock_real_us() when it was sent */
	uint32_t took_us; /* until the whole answer, or until it was given up */
	uint32_t idle_ms; /* since the target was last known to be in use; UINT32_MAX: nothing is known */
	uint16_t status;  /* 0: no answer */
	uint8_t outcome, heat;
	uint32_t unused;
};
/* Answer times of the past, by which warm and cold are told apart (workers/pinger/cold.h). */
struct plant_heat {
	uint32_t nwarm, ncold; /* ever; the newest lies at (n - 1) mod the size of its ring */
	uint32_t warm_us[PLANT_WARM_TIMES], cold_us[PLANT_COLD_TIMES];
	uint32_t cold_in_row, unused;
};
/* What is known about how long the target stays warm (workers/pinger/adapt.h). Times are clock_mono_us(). */
struct plant_adapt {
	int64_t interval_us;   /* in use; 0: nothing is known yet */
	int64_t proven_us;     /* longest pause since the last cold start after which it was warm */
	int64_t cold_us;       /* pauses from here on are taken for too long; 0: none is known. Fades */
	int64_t wall_us;       /* shortest pause of the last trouble after which it was cold */
	int64_t hold_us;       /* so long no longer interval is tried after a cold start */
	int64_t hold_until_us; /* nor before this */
	int64_t last_cold_us;
	uint32_t streak; /* warm answers in a row behind pauses that were beyond wall_us once */
	uint32_t proofs; /* warm answers in a row behind whole intervals of this length */
};
struct plant_target_figures {
	uint64_t what;			     /* that was asked; of something else what was learnt does not hold */
	int64_t next_us;		     /* clock_real_us() of the next ping; 0: none is planned */
	int64_t used_us;		     /* clock_mono_us() of the last good answer; 0: unknown */
	int64_t interval_us, min_us, max_us; /* in use; its bounds when it adapts itself */
	uint32_t adapts, paused;	     /* interval = "auto"; out of its schedule */
	uint64_t done, cold_starts, skipped; /* results, those that were cold, pings that real traffic spared */
	uint64_t warm_sum_us, cold_sum_us, warm_count, cold_count;
	uint32_t warm_us[3], cold_us[3]; /* p50, p95, p99 of what is remembered; 0: nothing is */
	uint64_t cold_from_us;		 /* answers that take longer are cold starts; 0: not known yet */
	int64_t tls_expiry_us;		 /* clock_real_us(); 0: no TLS, or not seen yet */
	int64_t token_expiry_us;	 /* of the token that bearer_file held at the last ping; 0: it does not say */
	uint32_t tls_soon, priced;	 /* within its warning; it has a price */
	double cost, cost_day;		 /* of all pings so far; of a day like this */
	char error[120];		 /* of the last failure, "" when the last ping was well; NUL-terminated */
	struct plant_adapt adapt;
	struct plant_heat heat;
	struct plant_ping pings[PLANT_PINGS]; /* the newest at (done - 1) mod PLANT_PINGS */
};
struct plant_target {
	_Atomic uint32_t change, live;
	char name[LIMIT_TARGET_NAME + 1]; /* NUL-terminated */
	_Atomic uint64_t pings, failures;
	_Atomic uint32_t well; /* the last ping was answered as expected */
	_Atomic uint32_t turn;
	_Atomic uint64_t host;	    /* plant_host_key() of where it is; 0: a socket file */
	_Atomic int64_t touched_us; /* clock_mono_us() of the last answer to real traffic; writers: all */
	_Alignas(8) struct plant_target_figures figures;
};

/* What the warmer is doing. Writer: warmer. */
enum plant_warm_state { WARM_NEVER, WARM_RUNNING, WARM_DONE, WARM_CANCELLED, WARM_FAILED };
enum plant_warm_source { WARM_FROM_NOTHING, WARM_FROM_FILE, WARM_FROM_IDS, WARM_FROM_STORE, WARM_SOURCES };
enum plant_warm_kind { WARM_AT_START, WARM_BY_SCHEDULE, WARM_ALL, WARM_NAMESPACE };
struct plant_warm {
	_Atomic uint32_t active; /* 1: it loads or saves, and api workers say how late they are */
	_Atomic uint32_t state, source, kind;
	_Atomic uint64_t job;			 /* number of the last one; 0: there was none */
	_Atomic uint64_t loaded, skipped, total; /* memories; total: as far as it is known */
	_Atomic uint64_t bytes;
	_Atomic int64_t started_us, ended_us; /* clock_real_us() */
	_Atomic uint64_t ns;		      /* WARM_NAMESPACE */
	_Atomic uint64_t saved;		      /* memories in the file that was written last */
	_Atomic int64_t saved_us;
	_Atomic uint32_t pause_us; /* how long it sleeps between two slices: what live latency makes it do */
};

/* What Redis says of itself, asked now and then. The numbers are those of its last answer, sums over its masters. Writer: sync. */
struct plant_redis {
	_Atomic int64_t asked_us; /* clock_mono_us(); 0: it was never asked, as there is none */
	_Atomic uint32_t up;	  /* it answered when it was asked last */
	_Atomic uint64_t used_memory, maxmemory, evicted_keys, keys;
};

/* The last transactions that were made visible: the one of sequence n lies at n mod PLANT_KNOWN. For a sync that comes after:
 * senders that a killed one left without an answer ask again, perhaps when the store has taken what they sent and
 * the journal has let it go. Far more than can be under way when that happens. Writer: sync. */
#define PLANT_KNOWN 32768
struct plant_known {
	_Atomic uint64_t id, seq; /* seq 0: being written, or never used */
};

struct plant {
	struct shm_header h;
	struct wake wake[SLOT_COUNT];
	/* writer: sync */
	_Alignas(CACHE_LINE) _Atomic uint64_t applied_seq; /* every record ≤ this is durable and visible */
	_Atomic uint64_t flushed_seq;			   /* every record ≤ this is in the store */
	_Atomic uint32_t sync_state;			   /* enum plant_sync */
	_Atomic uint32_t refill_state;			   /* enum plant_refill: vector index */
	_Atomic uint64_t refill_done, refill_total;
	_Atomic int64_t born_us;	       /* clock_real_us() when this segment was laid out */
	_Atomic uint64_t disk_free, disk_size; /* bytes of the file system of data.dir; 0: not known */
	_Atomic uint32_t served_once;	       /* 1 from the first SYNC_SERVING on: what is shared is whole */
	_Atomic uint32_t ack_store;	       /* sync.ack = store: api waits for TXN_STORED */
	_Atomic uint64_t journal_bytes, journal_quota;
	_Atomic uint64_t lag_bytes;	     /* of transactions that the store lacks */
	_Atomic int64_t oldest_unflushed_us; /* clock_mono_us() since when the oldest of them waits; 0: there is none */
	_Atomic uint64_t dead_letters;	     /* how many there are */
	_Atomic uint64_t dead_mended;	     /* shared memory shows none of those up to this record */
	_Atomic uint32_t dead_full;	     /* 1: there is no room for another, and nothing is flushed */
	_Atomic uint32_t
		refusing; /* enum txn_status (BUSY, DISK_FULL) of the last refusal for want of room; 0 since a write was accepted */
	_Atomic int64_t refused_us;	 /* clock_mono_us() of it */
	_Atomic uint32_t reason_len;	 /* release-stored after reason[] was written, at each new reason */
	char reason[512];		 /* why sync_state is *_FAILED */
	_Atomic uint64_t feed_revision;	 /* what the feed says up to here is in caches and index */
	_Atomic int64_t feed_us;	 /* clock_mono_us() when it was last heard of */
	_Atomic uint64_t store_identity; /* which store it is; 0: not known yet */
	_Atomic uint32_t store_known;	 /* 1: namespaces and flushed_seq are what the store said */
	_Atomic uint32_t feed_lost;	 /* 1: the store is not to be reached, others' writes are not known */
	_Atomic uint32_t unmended;	 /* so many memories are shown as the store did not accept them */
	_Atomic int64_t served_us;	 /* clock_mono_us() when served_once was set */
	struct plant_warm warm;
	_Atomic uint32_t warm_done; /* writer: warmer; 1: what is warmed at the start is, or is given up */
	_Atomic uint32_t draining;  /* writer: the supervisor's only word in here, via CTL_DRAIN → sync */
	struct plant_worker worker[SLOT_COUNT];
	struct plant_target targets[PLANT_TARGETS];
	struct breaker breakers[BREAKERS]; /* writers: all (breaker.h) */
	struct plant_namespace namespaces[PLANT_NAMESPACES];
	struct plant_known known[PLANT_KNOWN];
	struct trust trust;	/* writer: sync */
	struct flights flights; /* writers: api */
	struct plant_redis redis;
};

/* Does some worker refuse requests at the moment, because a queue is standing? */
bool plant_overloaded(const struct plant *p);

/* The row of a namespace or NULL (lock-free; never returns a free row). */
struct plant_namespace *plant_find(struct plant *p, uint64_t ns);
/* Is there a namespace of this number? Neither one that was dropped nor one that never was. */
bool plant_exists(struct plant *p, uint64_t ns);
/* The store has told which namespaces there are: before, that there is no row says nothing. */
static inline bool plant_store_known(struct plant *p)
{
	return atomic_load_explicit(&p->store_known, memory_order_acquire);
}
/* sync only: the row of `name`, made when missing. NULL: the table is full. */
struct plant_namespace *plant_make(struct plant *p, struct span name);

/* sync only: transaction `id` has number `seq`. */
void plant_know(struct plant *p, uint64_t seq, uint64_t id);
/* sync only: the transaction that had this number; 0: it is not known any more. */
uint64_t plant_known(const struct plant *p, uint64_t seq);

/* pinger only: the row of a target: the one that its name had before, else a fresh one. NULL: all rows are live. */
struct plant_target *plant_target_take(struct plant *p, const char *name);
/* pinger only: the target is no longer configured. */
void plant_target_drop(struct plant_target *t);
/* pinger only, at its birth: what a killed predecessor had taken may be configured no longer. */
void plant_target_drop_all(struct plant *p);
/* Copies the name of a live row (lock-free). False: the row is free or is changing hands. */
bool plant_target_name(const struct plant_target *t, char out[LIMIT_TARGET_NAME + 1]);
/* The live row of this name, or NULL (lock-free). */
struct plant_target *plant_target_find(struct plant *p, const char *name);
/* pinger only: everybody sees `f` from now on. */
void plant_target_publish(struct plant_target *t, const struct plant_target_figures *f);
/* Copies the figures (lock-free). False: they are being written, or a killed pinger has left them half written. */
bool plant_target_figures(const struct plant_target *t, struct plant_target_figures *out);
/* The target has answered real traffic: the next ping can wait. Anybody, at any time. */
void plant_target_touch(struct plant_target *t, int64_t mono_us);
/* "host:port", in lower case: what targets of one address have in common. Never 0. */
uint64_t plant_host_key(struct span host_port);
/* plant_target_touch() of all targets that are at this address. How many these are. */
unsigned plant_host_touch(struct plant *p, uint64_t host, int64_t mono_us);
#endif
