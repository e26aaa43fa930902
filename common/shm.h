/* Shared-memory segments: sealed memfds with a checked header.
 *
 * Caveats (read before use):
 * - Offsets, never pointers, inside a segment: every process maps it elsewhere.
 * - The size is fixed at birth (F_SEAL_SHRINK|F_SEAL_GROW): pages are allocated on first touch,
 *   so a generous size costs address space only.
 * - Anyone may be SIGKILLed at any instruction. Publish with a release store as the last step;
 *   what was not published does not exist.
 * - The supervisor creates and maps nothing: it passes fds. Formatting is done by the first
 *   owner (sync), which is always the first worker to attach. */
#ifndef ORC_SHM_H
#define ORC_SHM_H
#include <stdatomic.h>
#include "util.h"

struct shm_header {
	uint64_t magic;		    /* one per kind of segment */
	uint32_t layout;	    /* version of the layout; a mismatch refuses to attach */
	_Atomic uint32_t formatted; /* 1 once the owner has laid the segment out */
	uint64_t size;
	_Atomic uint64_t generation; /* grows when the owner re-formats */
};

/* Creates a sealed memfd of `size` bytes named `name` (shown in /proc). -1 and errno on failure. */
int must_check shm_create(const char *name, size_t size);
/* The same in an unlinked file of `dir`, for what may lie on the disk: nobody else can open it, and it goes with whoever
 * holds it last. All of its room is reserved: the disk cannot be full when a page is written to. */
int must_check shm_create_file(const char *dir, size_t size);
/* A memfd that holds the parts, one behind the other, and never changes. -1 and errno on failure. */
int must_check shm_sealed(const char *name, const struct span *parts, size_t n);
/* Maps the whole of `fd` shared. NULL and errno on failure. *size_r gets its size.
 * `huge` asks for huge pages (advice; refusal is not an error). */
void *must_check shm_map(int fd, bool huge, size_t *size_r);
/* Copies n bytes out of shared memory that a writer may be changing: relaxed atomic 8-byte
 * loads where aligned, so that it is no data race in C11; the caller validates afterwards
 * (acquire fence + re-check of its publication word). */
void shm_copy_out(void *dst, const void *shared_src, size_t n);
/* The writer's counterpart. */
void shm_copy_in(void *shared_dst, const void *src, size_t n);
#endif
