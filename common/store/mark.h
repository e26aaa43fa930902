/* Is a store the one that a copy was made of? A database that was put in the place of another, or set back to a former
 * state, has other changes under the same revisions, at other times. */
#ifndef ORC_STORE_MARK_H
#define ORC_STORE_MARK_H
#include "store/store.h"

/* A change that the store published, by which its history is known again: who has it has all that came before it. */
struct store_mark {
	uint64_t revision, node; /* revision 0: none, nothing is believed */
	int64_t at_us;
	uint64_t version; /* of the first memory that was changed */
	struct uuid id;
};
/* The last change there is; revision 0 when none is known. */
enum store_rc must_check store_mark_now(const struct store_ops *ops, struct store *s, struct store_mark *mark_r);
/* False: it is another one, or a former state of it, or cannot be asked; or it has forgotten what happened then. */
bool must_check store_mark_holds(const struct store_ops *ops, struct store *s, const struct store_mark *mark);
#endif
