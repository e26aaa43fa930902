/* sync's list of dead letters: what common/dead.h keeps on disk, with an index in memory. Written by the flusher's thread
 * only; the loop may ask how many letters a transaction has. */
#ifndef ORC_LETTERS_H
#define ORC_LETTERS_H
#include <pthread.h>
#include "dead.h"

/* What is known of a letter without reading its file. */
struct letter {
	uint64_t number, seq, ns, version;
	struct uuid id;
	uint32_t op, type, tries;
};
struct letters {
	pthread_mutex_t lock; /* of v, n against the loop */
	struct letter *v;     /* by number, ascending */
	size_t n, cap;
	uint64_t last; /* highest number that was ever seen */
	int dir;       /* -1: there is no folder yet */
	char *data_dir;
};

/* Reads the folder: damaged letters are reported, left where they are, and not in the list. False and errno: it cannot be
 * read. */
bool must_check letters_open(struct letters *l, const char *data_dir);
void letters_close(struct letters *l);
const struct letter *letters_find(const struct letters *l, uint64_t number);	     /* NULL: none */
const struct letter *letters_at(const struct letters *l, uint64_t seq, uint32_t op); /* NULL: none */
/* Durable when it returns 0; letter->number 0 gets the next one. A letter with this number is replaced. EDQUOT: there are
 * `max` already, and this would be one more. Else errno. */
int must_check letters_add(struct letters *l, struct dead_letter *letter, size_t max);
int must_check letters_remove(struct letters *l, uint64_t number); /* 0 or errno; durable */
/* Any thread: how many operations of this transaction lie here. */
unsigned letters_of(struct letters *l, uint64_t seq);
/* A memory is deleted at `version` by transaction `seq`, erased if `erase`: its older letters, or all, go with it.
 * And a namespace. 0 or errno; *gone_r is added to. */
int must_check letters_deleted(struct letters *l, const struct op_delete *d, uint64_t seq, unsigned *gone_r);
int must_check letters_dropped(struct letters *l, uint64_t ns, uint64_t seq, unsigned *gone_r);
#endif
