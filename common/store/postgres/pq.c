#include "pq.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

#define LIBRARY "libpq.so.5"

struct pq_library pq;
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static bool load(char **error_r)
{
	void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	const char *missing = NULL;
#define F(name)                                                                                                        \
	pq.name = handle ? (__typeof__(pq.name))(uintptr_t)dlsym(handle, "PQ" #name) : NULL;                           \
	if (!pq.name)                                                                                                  \
		missing = "PQ" #name;
	PQ_FUNCTIONS(F)
#undef F
	if (handle && !missing) {
		pq.handle = handle;
		return true;
	}
	if (asprintf(error_r, "cannot load %s, which store.kind = postgres needs (package libpq5): %s", LIBRARY,
		     handle ? missing : dlerror()) == -1)
		*error_r = NULL;
	if (handle)
		dlclose(handle);
	return false;
}

bool pq_load(char **error_r)
{
	pthread_mutex_lock(&loading);
	bool ok = pq.handle || load(error_r);
	pthread_mutex_unlock(&loading);
	return ok;
}
