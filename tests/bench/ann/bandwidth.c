/* How fast one core reads memory in order: the limit of any search that looks at every row.
 *   bandwidth        prints {"read_huge_pages_gb_s", "read_gb_s"}; the second with pages of 4 KiB */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ann.h"

enum { MIB = 512, ROUNDS = 40 };

typedef uint64_t block __attribute__((vector_size(64), aligned(64)));

/* Eight streams of additions over whole cache lines, nothing else. */
static double read_once(const char *p, size_t bytes)
{
	block sum[8] = {{0}};
	double start = ann_cpu(); /* neighbours take time, which is not the memory's */
	for (size_t i = 0; i + sizeof(sum) <= bytes; i += sizeof(sum)) {
		for (size_t k = 0; k < 8; k++) {
			__builtin_prefetch(p + i + 8192 + 64 * k);
			sum[k] += *(const block *)(const void *)(p + i + 64 * k);
		}
	}
	double took = ann_cpu() - start;
	for (size_t k = 1; k < 8; k++)
		sum[0] += sum[k];
	volatile uint64_t sink = sum[0][0];
	(void)sink;
	return took;
}

static double gbs(int advice)
{
	size_t bytes = (size_t)MIB << 20;
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		exit(2);
	madvise(p, bytes, advice);
	memset(p, 1, bytes);
	double best = 1e9;
	for (int i = 0; i < ROUNDS; i++) {
		double took = read_once(p, bytes);
		best = took < best ? took : best;
	}
	munmap(p, bytes);
	return (double)bytes / best / 1e9;
}

int main(void)
{
	double huge = gbs(MADV_HUGEPAGE), small = gbs(MADV_NOHUGEPAGE);
	printf("{\"read_huge_pages_gb_s\": %.2f, \"read_gb_s\": %.2f}\n", huge, small);
	return 0;
}
