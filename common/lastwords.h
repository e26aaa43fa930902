/* What a process says when it dies by its own fault: signal, thread, backtrace, in one line that a
 * supervisor finds in shared memory. Addresses are written as object+offset, which addr2line reads:
 *
 *	addr2line -fe build/orchestrad 0x1234 */
#ifndef ORC_LASTWORDS_H
#define ORC_LASTWORDS_H
#include <stdatomic.h>

#include "util.h"

/* Catches SEGV, BUS, ILL, FPE, ABRT, SYS and TRAP: the handler writes at most `cap` bytes to `area`, then their
 * number to *len (release), and lets the signal kill the process. Async-signal-safe. A process has one
 * such place; `area` and `len` stay valid to its end; NULL for both: standard error. Where a sanitizer reports by itself, its signals are left to it. */
void lastwords_install(char *area, size_t cap, _Atomic uint32_t *len);
#endif
