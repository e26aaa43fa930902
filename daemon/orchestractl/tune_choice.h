/* What is measured of a server's index of vectors, what is chosen from it, and what another build of the index would be. Arithmetic
 * only. */
#ifndef ORC_TUNE_CHOICE_H
#define ORC_TUNE_CHOICE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Efforts to measure, ascending, each once: rungs from `least` to `most`, what is configured, and `more`. How many; at most
 * `room`. */
size_t tune_choice_ladder(unsigned least, unsigned most, unsigned configured, const unsigned *more, size_t nmore,
			  unsigned *out, size_t room);

struct tune_found {
	double recall; /* 0…1 */
	int64_t us;    /* a question's median */
};
/* Of what was measured, by ascending effort: which finds `wanted` and takes the least, the lower effort where two take about the
 * same. -1: none finds enough. */
int tune_choice_best(const struct tune_found *v, size_t n, double wanted);

/* Lists of an IVFFlat index over so many vectors, as pgvector advises: a thousandth, above a million the root. */
long tune_choice_lists(double rows);

struct tune_build {
	bool lists_kind;	 /* IVFFlat; else HNSW */
	long lists;		 /* of each part */
	long m, ef_construction; /* of HNSW */
	double rows;		 /* of each part */
};
/* Would another build serve better? `effort`: what finds enough with this one; 0: nothing does. *b becomes that build. */
bool tune_choice_rebuild(struct tune_build *b, unsigned effort);
#endif
