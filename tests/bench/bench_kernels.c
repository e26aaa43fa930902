/* The kernels over quantised vectors, each family of this processor beside a plain sequential read of the same memory:
 * nanoseconds an item, and bytes read a second, from a block that stays in L2 and from one far larger than L3. The
 * figures are the best of several rounds. Prints a table.
 *
 * usage: bench_kernels MIB ROUNDS [FAMILY] */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "index/quantize.h"

enum { SMALL = 256 << 10, SLICE = 2 << 20, MOST_SLICES = 4096, SCATTERED = 96 };

static char *block;
static size_t large, rounds;
static volatile uint64_t sink;

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t rng = 88172645463325252ull;
static uint64_t next(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* What one measurement calls: `items` items of `each` bytes from `p`. */
struct job {
	const struct quantize_kernels *k;
	const char *name;
	size_t each, n, tile;
	void (*run)(const struct job *j, const char *p, size_t items);
};

static _Alignas(64) char query[4 * 4096 * 4];
static _Alignas(64) uint32_t out[4096 + 16], factors[4096], found[4096 + 16];
static float est[4096 + 16];

typedef uint64_t wide_t __attribute__((vector_size(16), may_alias));

static void run_read(const struct job *j, const char *p, size_t items)
{
	wide_t s[8] = {{0}};
	for (size_t i = 0; i < items * j->each; i += sizeof(s)) {
		for (size_t k = 0; k < 8; k++)
			s[k] += ((const wide_t *)(const void *)(p + i))[k];
	}
	for (size_t k = 0; k < 8; k++)
		sink += s[k][0] + s[k][1];
}

static void run_codes(const struct job *j, const char *p, size_t items)
{
	j->k->codes((const uint64_t *)(const void *)query, (const uint64_t *)(const void *)p, items, j->n / 64, out,
		    NULL);
}

/* Lists from anywhere in the block, as a search meets them. */
static void run_lists(const struct job *j, const char *p, size_t items)
{
	size_t lists = large / (items * j->each);
	(void)p;
	run_codes(j, block + next() % lists * items * j->each, items);
}

/* The same where the caller knows the next list and fetches its beginning meanwhile. */
static void run_lists_told(const struct job *j, const char *p, size_t items)
{
	static const char *list;
	size_t bytes = items * j->each, lists = large / bytes;
	const char *this = list ? list : block;
	(void)p;
	list = block + next() % lists * bytes;
	for (size_t at = 0; at < bytes && at < 8192; at += CACHE_LINE)
		__builtin_prefetch(list + at);
	run_codes(j, this, items);
}

static void run_select(const struct job *j, const char *p, size_t items)
{
	const struct quantize_line l = {0.2F, 0.5F, -1.0F / 4096, 0.01F, 0.6F};
	sink += j->k->select((const uint32_t *)(const void *)p, factors, items, &l, found, est);
}

static void run_bytes(const struct job *j, const char *p, size_t items)
{
	j->k->bytes((const int8_t *)query, (const uint8_t *)p, items, j->n, j->n, (int32_t *)out);
}

static void run_bytes_lists(const struct job *j, const char *p, size_t items)
{
	size_t lists = large / (items * j->each);
	(void)p;
	run_bytes(j, block + next() % lists * items * j->each, items);
}

static void run_pair(const struct job *j, const char *p, size_t items)
{
	int32_t two[2];
	for (size_t i = 0; i < items; i++) {
		j->k->bytes_pair((const int8_t *)query, (const int8_t *)query + j->n, (const uint8_t *)p + i * j->n,
				 j->n, two);
		sink += (uint64_t)two[0];
	}
}

/* Rows from anywhere in the block, as re-ranking meets them. */
static void run_scattered(const struct job *j, const char *p, size_t items)
{
	size_t rows = large / j->n;
	int32_t two[2];
	(void)p;
	for (size_t i = 0; i < items; i++) {
		const uint8_t *row = (const uint8_t *)block + next() % rows * j->n;
		j->k->bytes_pair((const int8_t *)query, (const int8_t *)query + j->n, row, j->n, two);
		sink += (uint64_t)two[0];
	}
}

static void run_half_dot(const struct job *j, const char *p, size_t items)
{
	for (size_t i = 0; i < items; i++)
		est[i % 64] = j->k->half_dot((const float *)(const void *)query,
					     (const uint16_t *)(const void *)(p + i * j->each), j->n);
}

static void run_to_half(const struct job *j, const char *p, size_t items)
{
	for (size_t i = 0; i < items; i++)
		j->k->to_half((const float *)(const void *)(p + i * j->each), j->n, (uint16_t *)out);
}

static void run_to_bytes(const struct job *j, const char *p, size_t items)
{
	for (size_t i = 0; i < items; i++)
		j->k->to_bytes((const float *)(const void *)(p + i * j->each), j->n, 100, (uint8_t *)out);
}

static void run_to_code(const struct job *j, const char *p, size_t items)
{
	for (size_t i = 0; i < items; i++)
		j->k->to_code((const float *)(const void *)(p + i * j->each), j->n, (uint64_t *)(void *)found);
}

static void run_flip(const struct job *j, const char *p, size_t items)
{
	(void)p;
	for (size_t i = 0; i < items; i++)
		j->k->flip(est, (const uint64_t *)(const void *)query, j->n);
}

static void run_hadamard(const struct job *j, const char *p, size_t items)
{
	(void)p;
	for (size_t i = 0; i < items; i++)
		j->k->hadamard(est, j->n);
}

/* Nanoseconds an item over `bytes` of the block, a tile (a list of entries) at a call. A slice's time is the best of all
 * rounds through the block: a whole round does not pass undisturbed on a machine that others use. */
static double best(const struct job *j, size_t bytes)
{
	static double least[MOST_SLICES];
	size_t tile = j->tile * j->each, per_slice = SLICE / tile ? SLICE / tile : 1;
	size_t slices = bytes / tile / per_slice, again = bytes < SLICE ? SLICE / bytes : 1;
	if (!slices) {
		slices = 1;
		per_slice = bytes / tile;
	}
	double sum = 0;
	for (size_t r = 0; r < rounds; r++) {
		for (size_t s = 0; s < slices; s++) {
			double start = now_ns();
			for (size_t t = 0; t < per_slice * again; t++)
				j->run(j, block + (s * per_slice + t % per_slice) * tile, j->tile);
			double ns = (now_ns() - start) / (double)(per_slice * again * j->tile);
			least[s] = r == 0 || ns < least[s] ? ns : least[s];
		}
	}
	for (size_t s = 0; s < slices; s++)
		sum += least[s];
	return sum / (double)slices;
}

static void say(const struct job *j, bool far)
{
	double near_ns = best(j, SMALL);
	printf("%-8s %-16s %5zu %9.2f %7.1f", j->k ? j->k->name : "-", j->name, j->n, near_ns,
	       (double)j->each / near_ns);
	if (far) {
		double far_ns = best(j, large);
		printf(" %9.2f %7.1f", far_ns, (double)j->each / far_ns);
	}
	printf("\n");
}

/* What has no place of its own in L2. */
static void say_one(const char *name, const struct job *j)
{
	double ns = best(j, large);
	printf("%-8s %-12s %3zu %5zu %9s %7s %9.2f %7.1f\n", j->k->name, name, j->tile, j->n, "", "", ns,
	       (double)j->each / ns);
}

static void family(const struct quantize_kernels *k)
{
	static const size_t dims[] = {512, 1024, 1536, 3072, 4096, 768}, rows[] = {128, 512, 1536};
	for (size_t i = 0; i < ARRAY_LEN(dims); i++)
		say(&(struct job){k, "codes", dims[i] / 8, dims[i], 341, run_codes}, true);
	for (size_t n = 32; n <= 512; n *= 4)
		say_one("codes, lists", &(struct job){k, "", 192, 1536, n, run_lists});
	for (size_t n = 32; n <= 512; n *= 4)
		say_one("lists, told", &(struct job){k, "", 192, 1536, n, run_lists_told});
	say(&(struct job){k, "select", 4, 341, 341, run_select}, false);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		say(&(struct job){k, "bytes", rows[i], rows[i], 170, run_bytes}, true);
		say_one("bytes, lists", &(struct job){k, "", rows[i], rows[i], 50, run_bytes_lists});
		say(&(struct job){k, "bytes, 7 rows", rows[i], rows[i], 7, run_bytes}, false);
	}
	say(&(struct job){k, "bytes_pair", 1536, 1536, 8, run_pair}, true);
	say_one("pair, rows", &(struct job){k, "", 1536, 1536, SCATTERED, run_scattered});
	say(&(struct job){k, "half_dot", 3072, 1536, 8, run_half_dot}, true);
	say(&(struct job){k, "to_half", 6144, 1536, 8, run_to_half}, true);
	say(&(struct job){k, "to_bytes", 6144, 1536, 8, run_to_bytes}, true);
	say(&(struct job){k, "to_code", 6144, 1536, 8, run_to_code}, true);
	say(&(struct job){k, "flip", 6144, 1536, 8, run_flip}, false);
	for (size_t n = 64; n <= 4096; n *= 2)
		say(&(struct job){k, "hadamard", n * 4, n, 8, run_hadamard}, false);
}

int main(int argc, char **argv)
{
	static const char *const families[] = {"scalar", "avx2", "avx512", "neon"};
	large = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : 0;
	rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	if (argc < 3 || large < SMALL || large / SLICE > MOST_SLICES || !rounds) {
		fprintf(stderr, "usage: %s MIB ROUNDS [FAMILY]\n", argv[0]);
		return 2;
	}
	block = mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0); /* as the index's: small pages */
	if (block == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	for (size_t i = 0; i < large; i += 8)
		memcpy(block + i, &(uint64_t){next()}, 8);
	for (size_t i = 0; i < sizeof(query); i += 4)
		memcpy(query + i, &(float){(float)(next() % 1000) / 1000 - 0.5F}, 4);
	for (size_t i = 0; i < ARRAY_LEN(factors); i++)
		factors[i] = 0x1c001c00 + (uint32_t)next() % 0x1000;
	printf("%-8s %-16s %5s %9s %7s %9s %7s\n", "family", "kernel", "n", "ns in L2", "GB/s", "ns memory", "GB/s");
	say(&(struct job){NULL, "plain read", 192, 0, 341, run_read}, true);
	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		if (quantize_by_name(families[i]) && (argc == 3 || strcmp(argv[3], families[i]) == 0))
			family(quantize_by_name(families[i]));
	}
	say(&(struct job){NULL, "plain read", 192, 0, 341, run_read}, true);
	return 0;
}
