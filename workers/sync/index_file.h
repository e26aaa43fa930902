/* Saved indexes, as sync keeps them: written by index_file.c, taken up by index_load.c. */
#ifndef ORC_SYNC_INDEX_FILE_H
#define ORC_SYNC_INDEX_FILE_H
#include <event2/event.h>

#include "index/image.h"
#include "sync.h"

struct index_file {
	struct event *timer;
	_Atomic bool on, stop, saving;
	_Atomic int64_t every_us, saved_us;
	_Atomic uint64_t changes; /* in the indexes, since what is saved */
	/* Under sync_enter(). */
	uint64_t revision; /* fleets: everything up to there is in the indexes, and decided */
	uint64_t mended;   /* times that something was put back to what the store has */
	/* Of the store that was closed at the end: to open it again would leave more of SQLite's files than the database. */
	bool known;
	struct store_mark mark;
	uint64_t identity;
	/* Who gives the file its name, and who makes all of them go. */
	pthread_mutex_t lock;
	_Atomic uint64_t wiped;
};
#endif
