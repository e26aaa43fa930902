/* Calls of this process that want the same: one does the work, the others wait for its answer. On the loop. */
#ifndef ORC_HERD_H
#define ORC_HERD_H
#include "api.h"

#define HERD_MAX 65536 /* calls that wait; beyond, they do the work themselves */

struct herd;
/* What the waiter's answer is made from: the leader, whose work is done. Must lead to call_reply(waiter). */
typedef void herd_answer_fn(struct call *leader, struct call *waiter);

struct herd *herd_new(void);
/* A key that is another one whenever `moves` is: what moves with each write that the work might miss. */
struct uuid herd_key(struct uuid what, uint64_t moves);
/* True: `c` waits for somebody who wants `key`; answer() will be called for it. False: it does the work, and calls
 * herd_end() when that is done, however it ended. key: of everything that the work depends on. */
bool must_check herd_join(struct herd *h, const struct uuid *key, struct call *c, herd_answer_fn *answer);
bool herd_has(struct herd *h, const struct uuid *key); /* somebody leads for it */
/* Answers those who wait for c; before c itself is answered, which ends its life. Nothing when c leads nobody. */
void herd_end(struct herd *h, struct call *c);
bool herd_followed(struct herd *h, const struct call *c); /* somebody waits for c */
/* Frees the calls that still wait: their clients have gone. */
void herd_free(struct herd **h);
#endif
