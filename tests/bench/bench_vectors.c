/* Search latency of the vector index, one thread, one query at a time, against what a plain
 * sequential read of the same memory takes, and optionally against FAISS (bench_faiss).
 * Prints one JSON object per size.
 *   bench_vectors [--against ./bench_faiss] [rows …]     (default 10000 100000; 1536 dimensions)
 * SIMD family: ORCHESTRA_SIMD. */
#include <immintrin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "index/vectors-private.h"

enum { DIM = 1536, K = 10, SECONDS = 4 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t rng = 88172645463325252ull; /* bench_faiss.cpp makes the same numbers */

static void make_row(float *x)
{
	double sum = 0;
	for (int i = 0; i < DIM; i++) {
		rng ^= rng << 13;
		rng ^= rng >> 7;
		rng ^= rng << 17;
		x[i] = (float)(rng >> 40) / (float)(1 << 23) - 1;
		sum += (double)x[i] * x[i];
	}
	for (int i = 0; i < DIM; i++)
		x[i] = (float)(x[i] / sqrt(sum));
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct times {
	double *t;
	size_t n, cap;
	double end;
};

static struct times begin(void) { return (struct times){calloc(100000, sizeof(double)), 0, 100000, now() + SECONDS}; }

static bool more(const struct times *s) { return s->n < 20 || (s->n < s->cap && now() < s->end); }

static double percentile(struct times *s, double p)
{
	qsort(s->t, s->n, sizeof(*s->t), ascending);
	return s->t[(size_t)(p * (double)(s->n - 1))];
}

/* As fast as one core reads: wide loads, eight streams of additions, nothing else. */
__attribute__((target("avx2"))) static double read_once(const char *p, size_t bytes)
{
	__m256i s[8];
	memset(s, 0, sizeof(s));
	double start = now();
	for (size_t i = 0; i + 256 <= bytes; i += 256) {
		_mm_prefetch(p + i + 4096, _MM_HINT_T0);
		_mm_prefetch(p + i + 4096 + 64, _MM_HINT_T0);
		_mm_prefetch(p + i + 4096 + 128, _MM_HINT_T0);
		_mm_prefetch(p + i + 4096 + 192, _MM_HINT_T0);
		for (int k = 0; k < 8; k++)
			s[k] = _mm256_add_epi64(s[k],
						_mm256_loadu_si256((const __m256i *)(const void *)(p + i + 32 * k)));
	}
	double took = now() - start;
	for (int k = 1; k < 8; k++)
		s[0] = _mm256_add_epi64(s[0], s[k]);
	volatile long long sink = _mm256_extract_epi64(s[0], 0);
	(void)sink;
	return took;
}

static double read_gbs(const char *p, size_t bytes)
{
	struct times s = begin();
	s.end = now() + 1.5;
	for (; more(&s); s.n++)
		s.t[s.n] = read_once(p, bytes);
	double p50 = percentile(&s, 0.5);
	free(s.t);
	return (double)bytes / p50 / 1e9;
}

static double huge_gbs(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 0;
	madvise(p, bytes, MADV_HUGEPAGE);
	memset(p, 1, bytes);
	double gbs = read_gbs(p, bytes);
	munmap(p, bytes);
	return gbs;
}

static double private_bytes(void)
{
	char line[200];
	double kib = 0;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = atof(line + 8);
	}
	if (f)
		fclose(f);
	return kib * 1024;
}

static void against(const char *program, size_t rows, double p50, double p99)
{
	char command[400], line[400] = "";
	double f50 = 0, f99 = 0;
	snprintf(command, sizeof(command), "%s %zu", program, rows);
	FILE *f = popen(command, "r");
	if (f && fgets(line, sizeof(line), f)) {
		const char *a = strstr(line, "\"p50_ms\": "), *b = strstr(line, "\"p99_ms\": ");
		f50 = a ? atof(a + 10) : 0;
		f99 = b ? atof(b + 10) : 0;
		line[strcspn(line, "\n")] = 0;
	}
	if (f)
		pclose(f);
	if (f50 > 0)
		printf(", \"faiss\": %s, \"faiss_over_ours_p50\": %.2f, \"faiss_over_ours_p99\": %.2f", line,
		       f50 / (p50 * 1e3), f99 / (p99 * 1e3));
}

/* A search, then a plain read of as much of the same memory, in turns: what else the machine does
 * slows down both. */
static void measure(struct vectors *v, struct times *s, struct times *reads, size_t bytes, enum vectors_metric metric)
{
	float q[DIM];
	struct vectors_hit hits[K];
	struct vectors_query query = {1, DIM, q, K, metric, NULL, 0, -INFINITY};
	make_row(q);
	(void)vectors_search(v, &query, hits, NULL); /* maps the pages */
	*reads = begin();
	for (*s = begin(); more(s); s->n++) {
		make_row(q);
		reads->t[reads->n++] = read_once(v->data, bytes);
		double start = now();
		(void)vectors_search(v, &query, hits, NULL);
		s->t[s->n] = now() - start;
	}
}

static void bench(size_t rows, const char *faiss)
{
	size_t limit = rows * (DIM * 4 + 64) * 5 / 4 + (64 << 20);
	int fd = memfd_create("bench-vectors", MFD_CLOEXEC);
	float x[DIM];
	struct stat st;
	if (fd < 0 || ftruncate(fd, (off_t)vectors_segment_size(limit)))
		exit(1);
	struct vectors *w = vectors_open(fd, true);
	double spent = 0, before = private_bytes();
	for (size_t i = 0; i < rows; i++) {
		struct uuid id = {{0}};
		memcpy(id.b, &i, sizeof(i));
		make_row(x);
		double start = now();
		if (vectors_insert(w, 1, &id, 1, 0, DIM, x))
			exit(1);
		spent += now() - start;
	}
	double writer = private_bytes() - before;
	struct vectors *v = vectors_open(fd, false);
	struct times s, l2, reads, unused;
	measure(v, &s, &reads, rows * DIM * 4, VECTORS_COSINE);
	measure(v, &l2, &unused, 4096, VECTORS_L2);
	double bytes = (double)rows * DIM * 4, p50 = percentile(&s, 0.5), p99 = percentile(&s, 0.99);
	double same = bytes / percentile(&reads, 0.5) / 1e9, huge = huge_gbs((size_t)bytes);
	fstat(fd, &st);
	printf("{\"rows\": %zu, \"dim\": %d, \"k\": %d, \"simd\": \"%s\", \"searches\": %zu, \"p50_ms\": %.3f, "
	       "\"p99_ms\": %.3f, \"l2_p50_ms\": %.3f, \"gb_s\": %.1f, \"read_gb_s\": %.1f, \"of_bandwidth\": %.3f, "
	       "\"read_huge_pages_gb_s\": %.1f, \"inserts_s\": %.0f, \"shared_mb_per_100k\": %.1f, "
	       "\"writer_private_mb_per_100k\": %.1f",
	       rows, DIM, K, v->kernels->name, s.n, p50 * 1e3, p99 * 1e3, percentile(&l2, 0.5) * 1e3, bytes / p50 / 1e9,
	       same, bytes / p50 / 1e9 / same, huge, (double)rows / spent,
	       (double)st.st_blocks * 512 / (double)rows * 1e5 / 1e6, writer / (double)rows * 1e5 / 1e6);
	free(s.t);
	free(l2.t);
	free(reads.t);
	free(unused.t);
	vectors_close(&v);
	vectors_close(&w);
	close(fd);
	if (faiss)
		against(faiss, rows, p50, p99);
	printf("}\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *faiss = NULL;
	int i = 1;
	if (argc > 2 && strcmp(argv[1], "--against") == 0) {
		faiss = argv[2];
		i = 3;
	}
	if (i == argc) {
		bench(10000, faiss);
		bench(100000, faiss);
	}
	for (; i < argc; i++)
		bench(strtoul(argv[i], NULL, 10), faiss);
	return 0;
}
