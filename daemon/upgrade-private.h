/* Insiders of the upgrade: the state machine (upgrade.c), what the former image does (upgrade_check.c) and what the
 * new one does (upgrade_steps.c). */
#ifndef ORC_UPGRADE_PRIVATE_H
#define ORC_UPGRADE_PRIVATE_H
#include "upgrade.h"

/* CHECK lives in the former image; SYNC, API, REST and BACK in the new one. */
enum phase { PHASE_NONE, PHASE_CHECK, PHASE_SYNC, PHASE_API, PHASE_REST, PHASE_BACK };

struct upgrade {
	struct supervisor *sv;
	enum phase phase;
	int64_t began_us;
	struct reply *replies;
	bool reload_after;
	bool starting; /* the daemon has not said yet that it serves */
	unsigned held; /* signals are blocked; turns of the loop until the exec + 1 (upgrade_hold()) */
	/* check */
	int fd_program, output;
	pid_t checker;
	struct buf said;
	struct event *timer;
	/* after the exec */
	int fd_former; /* the binary to go back to … */
	int fd_former_conf;
	uint64_t former_generation; /* … and its configuration */
	char from[32];
	unsigned from_version; /* of hand-over documents that it reads */
	char *reason;	       /* to go back */
};

/* upgrade.c */
void upgrade_close_fd(int *fd);
/* It is over, and this image serves: with the new binary, or with the one that served before. */
void upgrade_succeeded(struct upgrade *u);
void upgrade_failed(struct upgrade *u, const char *why);
/* Nothing may be lost between two images: from here on signals wait, blocked, until the next one has its handlers.
 * Those that libevent's handler has noted already are dispatched first, which takes two turns of the loop; then the
 * phase goes on in upgrade_check_passed() or upgrade_hand_back(). */
void upgrade_hold(struct upgrade *u);
/* Executes that binary in this process, with a document. Returns only when it cannot (errno). */
void upgrade_become(struct supervisor *sv, int program, int document);

/* upgrade_check.c */
bool must_check upgrade_check_start(struct upgrade *u); /* false: errno */
void upgrade_check_late(struct upgrade *u);
void upgrade_check_passed(struct upgrade *u);

/* upgrade_steps.c */
bool upgrade_any_to_go(struct supervisor *sv); /* before the former binary can come back */
void upgrade_hand_back(struct upgrade *u);
void upgrade_step(struct upgrade *u); /* whatever can be done; in another phase than SYNC, API and REST nothing */

#endif
