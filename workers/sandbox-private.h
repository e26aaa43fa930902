/* Between the files of the sandbox. */
#ifndef ORC_SANDBOX_PRIVATE_H
#define ORC_SANDBOX_PRIVATE_H

#include <limits.h>

#include "sandbox.h"

/* Sanitizers stop all threads by a process of their own that traces this one, when they look for leaks. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_FOR_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(leak_sanitizer)
#define SANDBOX_FOR_SANITIZER 1
#endif
#endif
#ifndef SANDBOX_FOR_SANITIZER
#define SANDBOX_FOR_SANITIZER 0
#endif

/* Real paths, without symbolic links; "" when there is none. */
struct sandbox_paths {
	char data[PATH_MAX];
	char store[PATH_MAX];	  /* the store's file, whether it exists yet or not */
	char store_dir[PATH_MAX]; /* that holds it and what SQLite puts beside it */
};

/* 0 or errno. *abi_r: the version of Landlock that was used. */
int sandbox_landlock(unsigned may, const struct sandbox_paths *paths, int *abi_r);
/* 0 or errno. `net`: sockets to other machines may be opened. */
int sandbox_seccomp(unsigned may, bool net);

#endif
