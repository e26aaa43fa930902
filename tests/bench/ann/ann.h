/* What the programs of make bench-vectors share: a data set of sets.py, and how a search is timed.
 * One thread, one query at a time. All output is JSON, a line each; times are microseconds. */
#ifndef ORC_TESTS_ANN_H
#define ORC_TESTS_ANN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ANN_K = 10 };

struct ann_set {
	size_t n, d, queries;
	const float *base, *query; /* rows of d floats, normalised */
	const uint32_t *truth;	   /* ANN_K row numbers a query, the best first */
};
/* Maps the set that lies in a directory. Ends the process with a message when it is not one. */
void ann_open(struct ann_set *s, const char *directory);

/* Writes up to ANN_K row numbers to ids_r, returns how many. */
typedef size_t ann_search(void *index, const float *query, uint32_t *ids_r);
struct ann_round {
	const char *engine, *parameter;
	double seconds; /* how long to ask; every query once takes precedence, but never 5 times as long */
	uint32_t below; /* != 0: of the best rows only those with smaller numbers are missed when not found */
	const volatile bool *until; /* != NULL: goes on until it is true */
	bool causes;		    /* tell what searches waited for, too */
};
/* Asks every query of the set in turn after a round (with `until`: 50 queries) that is not timed, and prints
 * {"engine", "parameter", "recall", "p50_us", "p99_us", "per_s", "per_cpu_s", "searches"}, with `causes` also "p99_cpu_us" (of
 * the searches' processor time), "preempted" and "faults" (a thousand searches). Recall is the share of the ANN_K
 * best rows that were found. `per_cpu_s` counts the thread's own processor time: neighbours do not slow it down,
 * except through the memory that is shared with them. */
void ann_measure(const struct ann_set *s, const struct ann_round *r, ann_search *search, void *index);

/* An index is built once and kept as `path`, what it took beside it as `path`.json. */
struct ann_built {
	double start, cpu;
};
bool ann_kept(const char *path); /* prints what it took to build it when it is there */
struct ann_built ann_build_begin(void);
/* Prints {"engine", "index", "rows", "build_s", "build_cpu_s", "rows_per_cpu_s", "bytes_row"} and keeps it; path NULL: prints only. */
void ann_build_end(const struct ann_built *b, const struct ann_set *s, const char *engine, const char *index,
		   double bytes, const char *path);
double ann_now(void);	  /* s, monotonic */
double ann_cpu(void);	  /* s of processor time of this thread */
double ann_private(void); /* anonymous resident bytes of this process */

#ifdef __cplusplus
}
#endif
#endif
