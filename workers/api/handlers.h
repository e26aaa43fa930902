/* The handlers that routes.def names, and what they share. Each takes the call over and answers it
 * now or later. */
#ifndef ORC_HANDLERS_H
#define ORC_HANDLERS_H
#include "api.h"

/* memories.c, memories_add.c */
void memories_add(struct call *c);
void memories_get(struct call *c);
void memories_patch(struct call *c);
void memories_delete(struct call *c);
void memories_history(struct call *c);
void memories_restore(struct call *c);
void memories_supersede(struct call *c);
/* GET of a memory that L1 holds, without a struct call: true = answered. */
bool memories_get_fast(struct api *a, struct http_request *r);

/* Appends "durability":"…" to the reply. stored false: nothing was, and it says where all that was read is by now. */
void memories_durability(struct call *c, bool stored);
void memories_etag(struct buf *head, uint64_t version);

bool memories_not_found(struct call *c); /* the problem; false */

/* Shared with bulk deletes. */
void memories_receipt(struct call *c, size_t n); /* the answer to an erase */
int memories_erase_param(struct call *c);	 /* 1, 0, or -1: problem set */

/* list.c */
void list_memories(struct call *c);
void list_by_ids(struct call *c);
void list_count(struct call *c);
void bulk_delete(struct call *c);

/* search.c */
void search_memories(struct call *c);

/* transfer.c */
void transfer_export(struct call *c);
void transfer_import(struct call *c);
bool transfer_body(struct call *c, const char *p, size_t n);
void transfer_body_end(struct call *c);
bool transfer_is(const struct call *c); /* an export or import */
void transfer_gone(struct call *c);

/* changes.c */
void changes_follow(struct call *c);
bool changes_is(const struct call *c); /* a request that changes_follow() has */
void changes_gone(struct call *c);

/* namespaces.c */
void namespaces_list(struct call *c);
/* A memory is about to be written to it: makes it in the configured language, where that is not English and it is not there. */
void namespaces_ensure(struct call *c, struct span name, struct txn_builder *t);
void namespaces_create(struct call *c);
void namespaces_get(struct call *c);
void namespaces_patch(struct call *c);
void namespaces_delete(struct call *c);

/* dead.c */
void dead_list(struct call *c);
void dead_get(struct call *c);
void dead_retry(struct call *c);
void dead_retry_all(struct call *c);
void dead_discard(struct call *c);
void dead_discard_all(struct call *c);

/* admin.c, probes.c */
void admin_status(struct call *c);
void admin_config(struct call *c);
void admin_reload(struct call *c);
void admin_upgrade(struct call *c);
void admin_drain(struct call *c);
/* warm.c */
void warm_start(struct call *c);
void warm_show(struct call *c);
void warm_cancel(struct call *c);
/* breakers.c */
void breakers_list(struct call *c);
void breakers_open(struct call *c);
void breakers_close(struct call *c);
void breakers_reset(struct call *c);
bool breakers_is(void (*handle)(struct call *c)); /* one of these: they need nothing that sync serves */

/* targets.c */
void targets_list(struct call *c);
void targets_get(struct call *c);
void targets_history(struct call *c);
void targets_ping(struct call *c);
void targets_touch(struct call *c);
bool targets_is(void (*handle)(struct call *c)); /* one of these: they need nothing that sync serves */

/* caches*.c */
void caches_get(struct call *c);
void caches_top(struct call *c);
void caches_inspect(struct call *c);
void caches_purge(struct call *c);

/* config.c, audit.c, who.c */
void config_list(struct call *c);
void config_patch(struct call *c);
void audit_list(struct call *c);
/* True: this action is noted before it is answered, and call_reply() is called again then. */
bool audit_first(struct call *c);
bool audit_asked(struct worker *w, struct span text, struct buf *answer);
void who_text(const struct call *c, struct buf *b);
/* A command to the supervisor in the caller's name; when it cannot be sent the call is answered. */
void who_relay(struct call *c, const char *command, worker_answer_fn *answer);
bool who_is_whole(struct call *c); /* a credential of every namespace; false: the problem is set */

void probes_livez(struct call *c);
void probes_readyz(struct call *c);
void probes_startupz(struct call *c);
int64_t probes_lag_us(struct plant *p);		 /* age of the oldest write that the store lacks */
void probes_lag(struct plant *p, struct buf *b); /* fields of the status */
/* metrics.c */
void metrics_get(struct call *c);
#endif
