#include "ann.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
double ann_now(void) { return seconds(CLOCK_MONOTONIC); }
double ann_cpu(void) { return seconds(CLOCK_THREAD_CPUTIME_ID); }

double ann_private(void)
{
	char line[200];
	double kib = 0;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "RssAnon:", 8) == 0)
			kib = strtod(line + 8, NULL);
	}
	if (f)
		fclose(f);
	return kib * 1024;
}

static void die(const char *directory, const char *what)
{
	fprintf(stderr, "%s is no data set of tests/bench/ann/sets.py: %s\n", directory, what);
	exit(2);
}

static const void *map(const char *directory, const char *name, size_t *bytes_r)
{
	char path[4096];
	struct stat st;
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) || st.st_size == 0)
		die(directory, name);
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		die(directory, name);
	*bytes_r = (size_t)st.st_size;
	return p;
}

void ann_open(struct ann_set *s, const char *directory)
{
	size_t base, query, truth;
	s->base = map(directory, "base.f32", &base);
	s->query = map(directory, "queries.f32", &query);
	s->truth = map(directory, "truth.u32", &truth);
	s->queries = truth / (ANN_K * sizeof(*s->truth));
	if (s->queries == 0 || truth % (ANN_K * sizeof(*s->truth)) || query % (s->queries * sizeof(float)))
		die(directory, "the files do not fit each other");
	s->d = query / (s->queries * sizeof(float));
	s->n = base / (s->d * sizeof(float));
	if (base % (s->d * sizeof(float)))
		die(directory, "base.f32 does not hold whole rows");
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

struct asked {
	double *took, *cpu; /* cpu: NULL, or also by the thread's clock */
	uint32_t (*ids)[ANN_K];
	uint8_t *got;
	size_t n, cap;
};

static double recall(const struct ann_set *s, const struct asked *a, uint32_t below)
{
	size_t hits = 0, wanted = 0;
	for (size_t i = 0; i < a->n; i++) {
		const uint32_t *truth = s->truth + i % s->queries * ANN_K;
		for (size_t t = 0; t < ANN_K; t++) {
			if (below && truth[t] >= below)
				continue;
			wanted++;
			for (size_t j = 0; j < a->got[i]; j++) {
				if (a->ids[i][j] == truth[t]) {
					hits++;
					break;
				}
			}
		}
	}
	return wanted ? (double)hits / (double)wanted : 1;
}

/* Whole rounds of the queries where time allows. */
static void ask(const struct ann_set *s, const struct ann_round *r, ann_search *search, void *index, struct asked *a)
{
	double begin = ann_now(), now = begin;
	for (a->n = 0; a->n < a->cap; a->n++) {
		bool rounded = a->n % s->queries == 0 && a->n > 0;
		if (r->until ? *r->until && a->n > 0 : now > begin + (rounded ? r->seconds : 5 * r->seconds))
			break;
		const float *q = s->query + a->n % s->queries * s->d;
		double start = ann_now(), cpu = a->cpu ? ann_cpu() : 0;
		a->got[a->n] = (uint8_t)search(index, q, a->ids[a->n]);
		if (a->cpu)
			a->cpu[a->n] = ann_cpu() - cpu;
		now = ann_now();
		a->took[a->n] = now - start;
	}
}

static void print_causes(struct asked *a, const struct rusage *before)
{
	struct rusage after;
	double n = (double)a->n / 1000;
	getrusage(RUSAGE_SELF, &after);
	qsort(a->cpu, a->n, sizeof(*a->cpu), ascending);
	printf(", \"p50_cpu_us\": %.1f, \"p99_cpu_us\": %.1f, \"preempted\": %.1f, \"faults\": %.1f",
	       a->cpu[a->n / 2] * 1e6, a->cpu[a->n * 99 / 100] * 1e6, (double)(after.ru_nivcsw - before->ru_nivcsw) / n,
	       (double)(after.ru_minflt - before->ru_minflt) / n);
}

void ann_measure(const struct ann_set *s, const struct ann_round *r, ann_search *search, void *index)
{
	struct asked a = {.cap = 400000};
	struct ann_round first = {.seconds = r->seconds};
	a.took = calloc(a.cap, sizeof(*a.took));
	a.ids = calloc(a.cap, sizeof(*a.ids));
	a.got = calloc(a.cap, sizeof(*a.got));
	if (!a.took || !a.ids || !a.got)
		exit(2);
	a.cap = r->until && s->queries > 50 ? 50 : s->queries; /* what goes on meanwhile does not wait */
	ask(s, &first, search, index, &a);
	a.cap = 400000;
	a.cpu = r->causes ? calloc(a.cap, sizeof(*a.cpu)) : NULL;
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	double begin = ann_now(), cpu = ann_cpu();
	ask(s, r, search, index, &a);
	double wall = ann_now() - begin, spent = ann_cpu() - cpu, n = (double)a.n, found = recall(s, &a, r->below);
	qsort(a.took, a.n, sizeof(*a.took), ascending);
	printf("{\"engine\": \"%s\", \"parameter\": \"%s\", \"recall\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
	       "\"per_s\": %.1f, \"per_cpu_s\": %.1f, \"searches\": %zu",
	       r->engine, r->parameter, found, a.took[a.n / 2] * 1e6, a.took[a.n * 99 / 100] * 1e6, n / wall, n / spent,
	       a.n);
	if (a.cpu)
		print_causes(&a, &usage);
	puts("}");
	fflush(stdout);
	free(a.cpu);
	free(a.took);
	free(a.ids);
	free(a.got);
}

static void beside(char *to, size_t size, const char *path) { snprintf(to, size, "%s.json", path); }

bool ann_kept(const char *path)
{
	char name[4096], line[1000];
	beside(name, sizeof(name), path);
	FILE *f = access(path, R_OK) == 0 ? fopen(name, "r") : NULL;
	if (!f)
		return false;
	bool got = fgets(line, sizeof(line), f) != NULL;
	if (got)
		fputs(line, stdout);
	fclose(f);
	fflush(stdout);
	return got;
}

struct ann_built ann_build_begin(void)
{
	struct ann_built b = {ann_now(), ann_cpu()};
	return b;
}

void ann_build_end(const struct ann_built *b, const struct ann_set *s, const char *engine, const char *index,
		   double bytes, const char *path)
{
	char name[4096], line[1000];
	double cpu = ann_cpu() - b->cpu;
	snprintf(line, sizeof(line),
		 "{\"engine\": \"%s\", \"index\": \"%s\", \"rows\": %zu, \"build_s\": %.3f, \"build_cpu_s\": %.3f, "
		 "\"rows_per_cpu_s\": %.0f, \"bytes_row\": %.0f}\n",
		 engine, index, s->n, ann_now() - b->start, cpu, (double)s->n / cpu, bytes / (double)s->n);
	fputs(line, stdout);
	fflush(stdout);
	if (!path)
		return;
	beside(name, sizeof(name), path);
	FILE *f = fopen(name, "w");
	if (!f || fputs(line, f) < 0 || fclose(f)) {
		perror(name);
		exit(2);
	}
}
