#include "vitals.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

struct vitals *vitals_open(int fd, bool write)
{
	struct stat st;
	if (fstat(fd, &st) == -1)
		return NULL;
	if (st.st_size < (off_t)sizeof(struct vitals)) {
		errno = EINVAL;
		return NULL;
	}
	void *p = mmap(NULL, sizeof(struct vitals), write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

void vitals_close(struct vitals **v)
{
	if (*v)
		munmap(*v, sizeof(**v));
	*v = NULL;
}

void vitals_begin(struct vitals_slot *s, uint64_t incarnation)
{
	atomic_store_explicit(&s->words_len, 0, memory_order_relaxed);
	vitals_beat(s, 0, 0);
	atomic_store_explicit(&s->incarnation, incarnation, memory_order_release);
}

void vitals_beat(struct vitals_slot *s, uint64_t waiting, uint64_t working)
{
	atomic_store_explicit(&s->waiting, waiting, memory_order_relaxed);
	atomic_store_explicit(&s->working, working, memory_order_relaxed);
	atomic_store_explicit(&s->beats, atomic_load_explicit(&s->beats, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

bool vitals_words(const struct vitals_slot *s, uint64_t incarnation, char *out, size_t cap)
{
	size_t n = atomic_load_explicit(&s->words_len, memory_order_acquire);
	if (!n || atomic_load_explicit(&s->incarnation, memory_order_relaxed) != incarnation)
		return false;
	n = n < VITALS_WORDS ? n : VITALS_WORDS;
	n = n < cap - 1 ? n : cap - 1;
	shm_copy_out(out, s->words, n);
	out[n] = '\0';
	for (size_t i = 0; i < n; i++)
		if (out[i] < 0x20 || out[i] > 0x7e)
			out[i] = '?';
	return true;
}
