/* What the cache tests share: values that can be checked without knowing what was written: every
 * byte follows from key, version and length. Include after cmocka.h. */
#ifndef ORC_TEST_CACHE_MODEL_H
#define ORC_TEST_CACHE_MODEL_H
#include <unistd.h>

#include "cache/cache.h"
#include "shm.h"

#define MODEL_VALUE_MAX (256 * 1024)

static inline uint64_t next_random(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline struct uuid model_key(uint64_t i)
{
	struct uuid k;
	uint64_t words[2] = {i, ~i};
	memcpy(k.b, words, sizeof(k.b));
	return k;
}

static inline void model_value(char *out, size_t len, uint64_t key, uint64_t version)
{
	uint64_t seed = key * 1000003 + version * 7919 + len;
	for (size_t i = 0; i < len; i += 8) {
		uint64_t w = next_random(&seed);
		memcpy(out + i, &w, len - i < 8 ? len - i : 8);
	}
}

static inline bool model_right(const char *value, size_t len, uint64_t key, uint64_t version)
{
	uint64_t seed = key * 1000003 + version * 7919 + len;
	for (size_t i = 0; i < len; i += 8) {
		uint64_t w = next_random(&seed);
		if (memcmp(value + i, &w, len - i < 8 ? len - i : 8) != 0)
			return false;
	}
	return true;
}

static inline struct cache *new_cache(uint64_t bytes, int *fd_r)
{
	int fd = shm_create("test-cache", cache_segment_size(bytes));
	assert_true(fd >= 0);
	struct cache *c = cache_open(fd, true);
	assert_non_null(c);
	if (fd_r)
		*fd_r = fd;
	else
		close(fd);
	return c;
}

static inline void model_write(struct cache *c, uint64_t key, uint64_t version, size_t len, bool fill)
{
	static _Thread_local char v[MODEL_VALUE_MAX];
	struct uuid k = model_key(key);
	struct cache_meta m = {.ns = key % 3, .version = version};
	model_value(v, len, key, version);
	if (fill)
		cache_fill(c, CACHE_MEMORY, &k, cache_epoch(c, CACHE_MEMORY, &k), &m, v, len);
	else
		cache_put(c, CACHE_MEMORY, &k, &m, v, len);
}

/* The length, or -1: a miss. Anything but a whole value of the right version fails; version
 * UINT64_MAX stands for any. */
static inline ptrdiff_t model_read(struct cache *c, uint64_t key, uint64_t version)
{
	static _Thread_local char v[MODEL_VALUE_MAX];
	struct uuid k = model_key(key);
	struct cache_meta m;
	ptrdiff_t n = cache_get(c, CACHE_MEMORY, &k, 1, v, sizeof(v), &m);
	if (n < 0)
		return n;
	if (m.ns != key % 3 || (version != UINT64_MAX && m.version != version) ||
	    !model_right(v, (size_t)n, key, m.version))
		return -2; /* the caller's assertion on what it expects fails */
	return n;
}
#endif
