/* The vector index of common/index/vectors.h over a data set of sets.py, as the product uses it: one process writes the
 * shared memory, another searches it.
 *   ours SET_DIRECTORY SECONDS [automatic | recall=R | probes=P | exact | scan | beside=ROWS_A_SECOND | recluster | allow=SHARE] …
 * Each word is a measurement, in this order: searches while the lists are made anew, searches beside inserts, then
 * searches of an index at rest: as it likes, by recall target, by number of lists, exact, or over the codes of all lists;
 * with `allow`, searches that may answer with that share of the rows only, beside the exact answer of the index itself. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ann.h"
#include "index/vectors.h"
#include "shm.h"

enum { NS = 1, RESERVE = 20000 };

struct knobs {
	double recall; /* target; 0: the default */
	unsigned probes;
	bool exact;
	const struct vectors_allow *allow;
};

static struct vectors_query ask(const struct knobs *k, const float *x, uint32_t dim)
{
	return (struct vectors_query){.ns = NS,
				      .dim = dim,
				      .x = x,
				      .k = ANN_K,
				      .metric = VECTORS_COSINE,
				      .allow = k->allow,
				      .min_score = -INFINITY,
				      .recall = (float)k->recall,
				      .probes = k->probes,
				      .exact = k->exact};
}

/* ---- rows ---- */

static struct uuid number(uint64_t row)
{
	struct uuid id = {{0}};
	uint64_t random = (row + 1) * 0x9e3779b97f4a7c15ull;
	random = (random ^ (random >> 31)) * 0xd6e8feb86659fd93ull;
	memcpy(id.b, &row, 8);
	memcpy(id.b + 8, &random, 8);
	return id;
}

struct bench {
	struct ann_set set;
	int fd, file; /* file: of rows; -1: none */
	struct vectors *writer;
	double seconds;
	uint64_t rows; /* inserted */
	double insert_cpu, work_cpu;
};

struct reader {
	struct vectors *v;
	uint32_t dim;
	struct knobs knobs;
};

static size_t search(void *index, const float *x, uint32_t *ids_r)
{
	const struct reader *r = index;
	struct vectors_query q = ask(&r->knobs, x, r->dim);
	struct vectors_hit hits[ANN_K];
	size_t n = vectors_search(r->v, &q, hits, NULL);
	for (size_t i = 0; i < n; i++)
		memcpy(&ids_r[i], hits[i].id.b, sizeof(ids_r[i]));
	return n;
}

static void insert(struct bench *b, uint64_t until)
{
	double cpu = ann_cpu();
	for (; b->rows < until; b->rows++) {
		struct uuid id = number(b->rows);
		if (vectors_insert(b->writer, NS, &id, 1, 0, (uint32_t)b->set.d, b->set.base + b->rows * b->set.d)) {
			perror("vectors_insert");
			exit(2);
		}
	}
	b->insert_cpu += ann_cpu() - cpu;
}

static void settle(struct bench *b)
{
	double cpu = ann_cpu();
	while (vectors_work(b->writer))
		;
	b->work_cpu += ann_cpu() - cpu;
}

/* ---- the process that searches ---- */

static pid_t begin_reader(const struct bench *b, const struct knobs *k, const struct ann_round *r)
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	struct reader reader = {vectors_open_spilled(b->fd, b->file, false), (uint32_t)b->set.d, *k};
	if (!reader.v)
		_exit(2);
	ann_measure(&b->set, r, search, &reader);
	_exit(0);
}

static void end_reader(pid_t pid)
{
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
		fprintf(stderr, "the searching process failed\n");
		exit(2);
	}
}

static volatile bool *shared_flag(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		exit(2);
	return p;
}

static void at_rest(struct bench *b, const char *word, const struct knobs *k)
{
	struct ann_round r = {"ours", word, b->seconds, 0, NULL, false};
	end_reader(begin_reader(b, k, &r));
}

/* What the sync worker's indexer is: a thread that does what is due while the others insert. */
struct indexer {
	struct vectors *v;
	_Atomic bool stop;
};

static void *indexer_main(void *arg)
{
	struct indexer *x = arg;
	vectors_work_yield();
	while (!x->stop) {
		if (!vectors_work(x->v))
			usleep(1000);
	}
	return NULL;
}

/* The rows that are inserted meanwhile are of the set: of the best ones those that were there before must be found. */
static void beside(struct bench *b, const char *word, const struct knobs *k, double rate)
{
	volatile bool *done = shared_flag();
	struct ann_round r = {"ours", word, b->seconds, (uint32_t)b->rows, done, false};
	struct indexer indexer = {.v = b->writer};
	pthread_t thread;
	pid_t pid = begin_reader(b, k, &r);
	if (pthread_create(&thread, NULL, indexer_main, &indexer))
		exit(2);
	double start = ann_now(), end = start + 5 * b->seconds;
	uint64_t from = b->rows;
	for (double now = start; now < end && b->rows < b->set.n; now = ann_now()) {
		uint64_t due = from + (uint64_t)((now - start) * rate);
		if (b->rows < due)
			insert(b, due < b->set.n ? due : b->set.n);
		else
			usleep(500);
	}
	*done = true;
	indexer.stop = true;
	vectors_work_stop(b->writer);
	pthread_join(thread, NULL);
	end_reader(pid);
}

static void *settle_main(void *arg)
{
	vectors_work_yield();
	settle(arg);
	return NULL;
}

/* The same searches of the same index, before and while: the lists that are made anew are also too few and too long. */
static void reclustering(struct bench *b, const char *word, const struct knobs *k)
{
	volatile bool *done = shared_flag();
	pthread_t thread;
	struct ann_round idle = {"ours", "before recluster", 2 * b->seconds, (uint32_t)b->rows, NULL, true};
	struct ann_round r = {"ours", word, b->seconds, (uint32_t)b->rows, done, true};
	end_reader(begin_reader(b, k, &idle));
	pid_t pid = begin_reader(b, k, &r);
	double start = ann_now();
	if (pthread_create(&thread, NULL, settle_main, b))
		exit(2);
	pthread_join(thread, NULL);
	double took = ann_now() - start;
	*done = true;
	end_reader(pid);
	printf("{\"engine\": \"ours\", \"work_s\": %.3f}\n", took);
}

/* ---- answers among some of the rows ---- */

static bool chosen(uint64_t row, double share)
{
	return (double)((row * 0x9e3779b97f4a7c15ull) >> 40) / (1 << 24) < share;
}

/* The index's own exact answers take the place of the set's. */
static void filtered(struct bench *b, const char *word, const struct knobs *k, double share)
{
	struct vectors_allow *allow = vectors_allow_new((size_t)(share * (double)b->set.n));
	for (uint64_t i = 0; allow && i < b->set.n; i++) {
		struct uuid id = number(i);
		if (chosen(i, share))
			vectors_allow_add(allow, &id);
	}
	uint32_t *truth = calloc(b->set.queries * ANN_K, sizeof(*truth));
	if (!allow || !truth)
		exit(2);
	memset(truth, 0xff, b->set.queries * ANN_K * sizeof(*truth));
	struct bench some = *b;
	struct reader exact = {
		vectors_open_spilled(b->fd, b->file, false), (uint32_t)b->set.d, {.exact = true, .allow = allow}};
	some.set.queries = b->set.queries < 200 ? b->set.queries : 200;
	for (size_t i = 0; exact.v && i < some.set.queries; i++)
		search(&exact, b->set.query + i * b->set.d, truth + i * ANN_K);
	some.set.truth = truth;
	struct ann_round r = {"ours", word, b->seconds, (uint32_t)b->set.n, NULL, false};
	struct knobs with = *k;
	with.allow = allow;
	end_reader(begin_reader(&some, &with, &r));
	vectors_close(&exact.v);
	vectors_allow_free(&allow);
	free(truth);
}

/* ---- */

static bool value(const char *word, const char *name, double *value_r)
{
	size_t n = strlen(name);
	if (strncmp(word, name, n) || word[n] != '=')
		return false;
	*value_r = strtod(word + n + 1, NULL);
	return true;
}

static const char *word(int argc, char **argv, const char *name)
{
	for (int i = 3; i < argc; i++) {
		if (strncmp(argv[i], name, strlen(name)) == 0)
			return argv[i];
	}
	return NULL;
}

static void fill(struct bench *b, int argc, char **argv)
{
	const struct knobs automatic = {0};
	const char *w, *wanted = word(argc, argv, "recluster");
	double v;
	if (wanted) {
		insert(b, b->set.n * 2 / 5);
		settle(b);
		insert(b, b->set.n - b->set.n / 10);
		reclustering(b, wanted, &automatic);
	}
	if ((w = word(argc, argv, "beside")) && value(w, "beside", &v)) {
		insert(b, b->set.n - (b->set.n / 10 < RESERVE ? b->set.n / 10 : RESERVE));
		settle(b);
		beside(b, w, &automatic, v);
	}
	insert(b, b->set.n);
	settle(b);
}

/* Memory is what the segment's file takes; `used_bytes_row` what the index says is in use of it. */
static void report(const struct bench *b, double private_before)
{
	double n = (double)b->set.n, private = ann_private() - private_before, cpu = b->insert_cpu + b->work_cpu;
	struct stat st;
	double bytes = fstat(b->fd, &st) ? 0 : (double)st.st_blocks * 512;
	printf("{\"engine\": \"ours\", \"index\": \"\", \"rows\": %zu, \"build_cpu_s\": %.3f, \"rows_per_cpu_s\": %.0f, "
	       "\"inserts_per_cpu_s\": %.0f, \"bytes_row\": %.0f, \"used_bytes_row\": %.0f, "
	       "\"file_bytes_row\": %.0f, \"writer_private_bytes_row\": %.0f}\n",
	       b->set.n, cpu, n / cpu, n / b->insert_cpu, bytes / n, (double)vectors_bytes(b->writer) / n,
	       (double)vectors_spilled(b->writer) / n, private / n);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr,
			"usage: ours SET_DIRECTORY SECONDS [automatic | recall=R | probes=P | exact | scan | beside=RATE | recluster | "
			"allow=SHARE] ...\n");
		return 2;
	}
	struct bench b = {
		.seconds = strtod(argv[2], NULL), .fd = memfd_create("bench-vectors", MFD_CLOEXEC), .file = -1};
	const char *folder = getenv("ANN_SPILL"); /* rows go into a file there */
	ann_open(&b.set, argv[1]);
	if (folder && (b.file = shm_create_file(folder, (b.set.d * 4 + 256) * b.set.n * 3 / 2)) == -1) {
		perror(folder);
		return 2;
	}
	double private = ann_private();
	if (b.fd < 0 ||
	    ftruncate(b.fd, (off_t)vectors_segment_size((b.set.d * 4 + 256) * b.set.n * 3 / 2 + (256U << 20))) ||
	    !(b.writer = vectors_open_spilled(b.fd, b.file, true))) {
		perror("vectors_open");
		return 2;
	}
	if (folder)
		vectors_stages_set(
			b.writer,
			&(struct vectors_stages){.exact_bytes = 16U << 20, .flat_rows = 16384, .spill_first = true});
	fill(&b, argc, argv);
	report(&b, private);
	for (int i = 3; i < argc; i++) {
		struct knobs k = {0};
		double v;
		if (value(argv[i], "recall", &k.recall) || strcmp(argv[i], "automatic") == 0)
			at_rest(&b, argv[i], &k);
		else if (value(argv[i], "probes", &v))
			at_rest(&b, argv[i], &(struct knobs){.probes = (unsigned)v});
		else if (strcmp(argv[i], "scan") == 0)
			at_rest(&b, argv[i], &(struct knobs){.probes = UINT32_MAX});
		else if (strcmp(argv[i], "exact") == 0)
			at_rest(&b, argv[i], &(struct knobs){.exact = true});
		else if (value(argv[i], "allow", &v))
			filtered(&b, argv[i], &k, v);
	}
	vectors_close(&b.writer);
	close(b.fd);
	return 0;
}
