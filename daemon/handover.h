/* The hand-over document: what one image of the supervisor tells the one that takes its place in the same
 * process. JSON in a sealed memfd; everything that it numbers (descriptors, children) is inherited.
 *
 * A document says its version, and the least version that may read it. A reader takes its own
 * version and the one before; fields that it does not know are ignored, fields that an older writer
 * does not have get defaults (HAProxy e16d32050: a state string that lacked a field crashed the
 * new master). Shared memory is not in it: its layouts are compared, number by number. */
#ifndef ORC_HANDOVER_H
#define ORC_HANDOVER_H
#include <jansson.h>

#include "supervisor.h"

#define HANDOVER_VERSION 1
#define ENV_HANDOVER "ORCHESTRA_HANDOVER" /* descriptor of the document, for the image that takes over */

#define FD_DOCUMENT 3 /* where --check-handover finds it */

#define HANDOVER_FIT "fit to take over" /* what --check-handover says then: other programs exit 0 as well */

/* HANDOVER_VERSION. The test twin stands for other versions of the program, too: ORC_HANDOVER_VERSION, and
 * ORC_HANDOVER_LACKS names fields, separated by commas, that its documents do not have. */
unsigned handover_version(void);

enum handover_purpose { HANDOVER_UPGRADE, HANDOVER_ROLLBACK };

/* The state of the supervisor in the words of that version; `reason` of a rollback, or NULL. A memfd, or -1 (errno). */
int must_check handover_write(struct supervisor *sv, unsigned version,
#define FD_DOCUMENT 3 /* where --check-handover finds it */

			      enum handover_purpose purpose, const char *reason);
/* Reads and judges the document. NULL: *error_r (malloc'ed) says why this program cannot take over from it. */
json_t *must_check handover_read(int fd, char **error_r);
/* The state into a fresh supervisor: descriptors and paths; then, when it has its configuration, the children.
 * False: *error_r (malloc'ed). */
bool must_check handover_adopt(struct supervisor *sv, json_t *doc, char **error_r);
bool must_check handover_adopt_children(struct supervisor *sv, json_t *doc, char **error_r);
/* Lets every descriptor that a document names cross exec, or not. */
void handover_keep_open(struct supervisor *sv, bool across_exec);

#endif
