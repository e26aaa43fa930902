/* The words every process shares: roles, control messages, states, exit codes, limits.
 * What a worker is born with (fds, environment) is in contract.h. */
#ifndef ORC_VOCABULARY_H
#define ORC_VOCABULARY_H

#include <stdint.h>

/* The kinds of process; workers/roles.def has one row for each and is checked against this. */
enum worker_role_id { ROLE_SYNC, ROLE_WARMER, ROLE_PINGER, ROLE_API, ROLE_COUNT };

/* Worker slots: the supervisor's table, the wake-up eventfds, rings and statistics are all
 * indexed by slot. Slot numbers are stable for the life of the daemon. */
enum {
	SLOT_SYNC = 0,
	SLOT_WARMER = 1,
	SLOT_PINGER = 2,
	SLOT_API0 = 3, /* api workers take SLOT_API0 … SLOT_API0 + api.workers - 1 */
	API_WORKERS_MAX = 32,
	SLOT_COUNT = SLOT_API0 + API_WORKERS_MAX
};

/* Control messages on the supervisor's socket pairs (common/imsg.h). The payload type is in
 * the comment; a wrong size is a broken peer and ends the worker. */
enum ctl_type {
	CTL_READY = 1,	  /* worker → supervisor: serving; no payload */
	CTL_DRAIN,	  /* supervisor → worker: finish and exit 0; struct ctl_drain */
	CTL_CONF_PREPARE, /* supervisor → worker: validate; fd = new effective configuration */
	CTL_CONF_COMMIT,  /* supervisor → worker: use what PREPARE brought */
	CTL_CONF_ABORT,	  /* supervisor → worker: forget what PREPARE brought */
	CTL_CONF_OK,	  /* worker → supervisor: PREPARE accepted */
	CTL_CONF_BAD,	  /* worker → supervisor: PREPARE refused; payload text says why */
	CTL_COMMAND,	  /* worker → supervisor: u32 token + text ("reload", "status", …) */
	CTL_ANSWER,	  /* supervisor → worker: u32 token + i32 exit status + text (JSON) */
	CTL_PEER_STARTED, /* supervisor → worker: u32 slot; a peer was started, or was there before this worker */
	CTL_REOPEN_LOGS,  /* supervisor → worker; fd = the file of log.target, opened again, or none */
	CTL_PROGRESS,	  /* worker → supervisor: not ready yet, but alive and at work; no payload */
	CTL_TLS_FILES,	  /* supervisor → api: fd = certificate and key that the next PREPARE means */
	CTL_ASK,	  /* supervisor → worker: u32 ticket + text, for the role's asked() */
	CTL_TOLD,	  /* worker → supervisor: u32 ticket + i32 exit status + text (JSON) */
	CTL_COUNT
};

/* How a worker is to leave. */
struct ctl_drain {
	uint32_t whole;	   /* 1: the daemon ends, and readiness says so. 0: this worker only; others serve on */
	uint32_t delay_ms; /* go on accepting for so long: whoever looks at readiness turns away meanwhile */
	uint32_t idle_ms; /* api: then leave idle keep-alive connections open for so long: their next answer says close.
			    * warmer, when `whole`: the time that it has for saving */
};

/* Exit codes of workers. */
enum worker_exit {
	WORKER_EXIT_OK = 0,	/* drained, or the supervisor is gone */
	WORKER_EXIT_FAIL = 1,	/* failed; restart with backoff */
	WORKER_EXIT_FATAL = 78, /* EX_CONFIG: retrying is useless, do not respawn */
};

/* Limits of the memory model (SPEC 2.1): one place, cited by validation, docs and tests. */
enum {
	LIMIT_TARGET_NAME = 64,
	LIMIT_CONTENT = 64 * 1024,
	LIMIT_METADATA = 16 * 1024,
	LIMIT_METADATA_DEPTH = 64, /* levels; SQLite's JSON functions and many clients end at 1,000 or 2,000 */
	LIMIT_SCOPE = 256,	   /* bytes of kind, user_id, agent_id, session_id, external_id */
	LIMIT_NAMESPACE = 128,	   /* bytes of a namespace's name */
	LIMIT_DIMENSIONS = 4096,
	LIMIT_BULK = 500,
	LIMIT_LIST = 1000, /* largest `limit` of a list or search */
	LIMIT_IDEMPOTENCY_KEY = 255,
};

#endif
