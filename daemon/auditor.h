/* The audit log's only writer (common/audit.h has its form).
 *
 * All changes come through the supervisor: it reloads, sets, drains and upgrades, and api workers tell it what they did
 * (control.c: "audit …"). So it writes. A disk that hangs must not hang the one process that restarts all others, so a
 * thread of its own does: it takes what is queued, writes it in one piece and syncs once. The queue is bounded; who waits
 * for an answer gets it when the entry is durable, or with the reason why it is not. The action itself is never undone for
 * want of an entry: an operator who has to act on a full disk must be able to. */
#ifndef ORC_AUDITOR_H
#define ORC_AUDITOR_H
#include <jansson.h>

#include "supervisor.h"

#define AUDITOR_QUEUE 256	 /* entries that wait for the disk; beyond, they are counted as lost */
#define AUDITOR_WAIT_MS 2000	 /* for the disk before another image takes over, or the daemon ends */
#define AUDITOR_TEXT_MAX 512	 /* bytes of a value in an entry or in an answer */
#define AUDITOR_NOTE_MAX 8192	 /* of what a worker has noted */
#define AUDITOR_FIELDS_MAX 15360 /* of all members of an entry */

void auditor_begin(struct supervisor *sv);
/* What is queued is written before this returns, if the disk does it in AUDITOR_WAIT_MS. */
void auditor_end(struct supervisor *sv);
/* An entry: `fields` (taken over) are its members besides who and what. Then `answer` (an object, taken over, may be NULL), with
 * "audit": "recorded" or why not, goes to all of *waiting. */
void auditor_note(struct supervisor *sv, const char *who, const char *what, json_t *fields, struct reply **waiting,
		  bool ok, json_t *answer);
/* Is anything not durable yet? */
bool auditor_busy(const struct supervisor *sv);
/* Waits for it, for AUDITOR_WAIT_MS at most. */
void auditor_settle(struct supervisor *sv);
/* An api worker serves: what it has not counted yet it is told. */
void auditor_look(struct supervisor *sv);
/* text, shortened for an entry: a new string. NULL stays NULL. */
json_t *auditor_text(const char *text);

/* auditor_file.c: the file itself; for that thread only. */
struct auditor_file {
	const char *dir;
	int fd_dir, fd; /* -1: not open */
	uint64_t seq, first, size;
	char hash[65];
	bool repair; /* the next write begins with what torn bytes there are */
	uint64_t torn_bytes;
	char torn_hash[65];
};
struct auditor_limits {
	uint64_t max_bytes;
	unsigned keep;
};
/* One more entry; durable only after auditor_file_sync(). 0 or errno. */
int must_check auditor_file_add(struct auditor_file *f, struct span fields, const struct auditor_limits *limits);
int must_check auditor_file_sync(struct auditor_file *f);
void auditor_file_close(struct auditor_file *f);
#endif
