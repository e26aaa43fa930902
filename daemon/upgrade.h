/* Upgrade: another binary in the same process, while it serves.
 *
 * The running image checks the new binary (it runs it with --check-handover: can it read the hand-over
 * document and the configuration, are the layouts of shared memory its own?), then replaces itself by
 * it: same pid, same children, same sockets. The new image starts new workers beside the old ones: sync
 * first (the old one leaves when what it took is durable and answered; what lies in the rings waits for
 * the new one), then api workers in slots of their own, one by one, then warmer and pinger. When all of
 * them serve, the old api workers are told to leave. Until then the upgrade can fail: a new worker that does
 * not become ready makes the new image hand back to the old one, whose binary it holds open, although
 * its file may be gone. Nothing listens anew, nobody is refused.
 *
 * While an upgrade runs, another one and a reload are refused or wait. */
#ifndef ORC_UPGRADE_H
#define ORC_UPGRADE_H
#include <jansson.h>

#include "supervisor.h"

#define UPGRADE_CHECK_S 10 /* the new binary's own check */
#define UPGRADE_BACK_S 5   /* how long new workers may take to leave when the old binary comes back */

void upgrade_open(struct supervisor *sv);
void upgrade_free(struct supervisor *sv);
/* Takes r over; NULL: a signal. Answers when all is done, or has failed and the old binary serves. */
void upgrade_start(struct supervisor *sv, struct reply *r);
/* The new image: the configuration, as at a reload; the former one, when it comes back: as it left it. False: there
 * is none, which cannot be after the check. */
bool must_check upgrade_configure(struct supervisor *sv, json_t *doc);
/* It has adopted everything (handover.c): go on, by the document's purpose. `waiting`: who waits for the end. */
void upgrade_adopted(struct supervisor *sv, json_t *doc, struct reply *waiting);
/* For the document. */
json_t *upgrade_replies(struct supervisor *sv);
bool upgrade_under_way(const struct supervisor *sv);
int64_t upgrade_began_us(const struct supervisor *sv);
bool upgrade_reloads_after(const struct supervisor *sv);
bool upgrade_starting(const struct supervisor *sv);
bool upgrade_active(const struct supervisor *sv);
const char *upgrade_phase(const struct supervisor *sv); /* for people; NULL: none */
/* A reload that was asked for by a signal meanwhile is done when the upgrade is over. */
void upgrade_reload_after(struct supervisor *sv);
/* The daemon leaves instead. */
void upgrade_cancel(struct supervisor *sv);

/* What befalls children. */
bool upgrade_reaped(struct supervisor *sv, pid_t pid, int status); /* true: it was the check */
void upgrade_child_ready(struct child *c);
/* Before the restart policy: true when the upgrade has decided what becomes of it. */
bool upgrade_child_gone(struct child *c, bool asked);

#endif
