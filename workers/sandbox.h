/* What a worker gives up at birth: all that its role does not need. Irrevocable, and inherited by its threads.
 *
 * In this order: no new privileges; all capabilities; the file system, ports, signals (Landlock); system calls
 * (seccomp). What the role may is its row in roles.def. Refused calls return an error (EPERM, EACCES, ENOSYS), so
 * the code that made them says so in the log; nothing is killed.
 *
 *	sync	writes beneath data.dir and the folder of the store's file; reads everything
 *	warmer	reads everything; writes one existing file, SQLite's -shm: readers take their locks in it
 *	api	the same
 *	pinger	writes nothing, reads neither data.dir nor the store; opens sockets to the network
 *
 * Where the kernel lacks Landlock or seccomp, the worker goes on without; the one that writes data says so, the
 * others are silent: one line for the daemon. */
#ifndef ORC_SANDBOX_H
#define ORC_SANDBOX_H

#include "conf.h"
#include "worker.h"

/* Call while the process has one thread. `conf` is read for data.dir, store.*, redis.url and daemon.sandbox; with
 * daemon.sandbox = off nothing is given up. Creates store.db-shm, empty, where a reader finds none. */
void sandbox_enter(const struct worker_row *row, const struct conf *conf);

#endif
