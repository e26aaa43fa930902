/* tune vectors: questions, how they are asked, and what came of it. */
#ifndef ORC_TUNE_H
#define ORC_TUNE_H
#include <limits.h>

#include "ctl.h"
#include "measure.h"
#include "store.h"
#include "uuid.h"

#define TUNE_QUESTIONS_MAX 10000
#define TUNE_PROBES_MAX 32
#define TUNE_AIMS_MAX (16 + TUNE_PROBES_MAX)

struct tune_question {
	char *body;		 /* JSON of a search, without its last brace */
	char own[UUID_TEXT + 1]; /* the memory that it was made of, left out of answers; "": none */
	struct tune_exact {
		char (*ids)[UUID_TEXT + 1]; /* the best, by comparing all */
		size_t n;
		double floor; /* score of the last of them */
	} exact;
};

/* One way to ask, and what came of it. */
struct tune_point {
	double recall;	 /* that is aimed at; 0: `probes` or `effort` */
	unsigned probes; /* lists to read; 0: by `recall` */
	unsigned effort; /* of the store's index: hnsw.ef_search or ivfflat.probes */
	double indexed;	 /* share of the questions for which the server's planner takes that index */
	uint64_t whole;	 /* answers for which it was not enough, and all vectors were compared */
	uint64_t answers, found, wanted;
	int64_t *vector_us, *request_us; /* of every answer; request_us NULL: the store was asked, not the daemon */
	uint64_t read, codes, compared;	 /* sums over the answers */
	int64_t vector_p50, vector_p99, request_p50, request_p99;
};

struct tune_numbers {
	unsigned v[TUNE_PROBES_MAX];
	size_t n;
};

struct tune {
	struct ctl *c;
	const char *queries, *svg; /* files; NULL: none */
	size_t sample, limit;
	double wanted;	 /* recall; 0: the daemon's own */
	bool apply, yes; /* yes: nobody is asked */
	struct tune_numbers probes, ef_search;
	unsigned rounds; /* 0: by the number of questions */
	/* what the daemon says of itself */
	const char *key;     /* that is tuned: vectors.recall, or one of the store's */
	unsigned configured; /* its value, vectors.recall in percent; 0: not told */
	uint64_t memories;
	char *embedder; /* of the namespace's vectors; NULL: there are none */
	uint32_t dim;
	/* the measurement */
	struct tune_question *questions;
	size_t n, room;
	struct tune_point points[TUNE_AIMS_MAX];
	size_t npoints;
	uint64_t lists;	  /* of the index; 0: all vectors are compared */
	bool by_store;	  /* the store compares vectors */
	bool lists_moved; /* the index was made anew meanwhile */
	/* of the store itself */
	bool ask_store; /* it is to be measured, whatever the daemon's index holds */
	struct store_options store;
	int64_t timeout_us;
	struct pg_measure server;
};

/* ---- tune_questions.c ---- */
/* Fills t->questions from the file, or with memories of the namespace. Exit status; what was wrong was said. */
int must_check tune_questions_read(struct tune *t);
int must_check tune_questions_sample(struct tune *t);
void tune_questions_free(struct tune *t);

/* ---- tune_ask.c ---- */
/* True once the user wants it to end. */
bool tune_interrupted(void);
/* On: an interrupt ends the process at once, as the server is waited for. */
void tune_interrupt_ends(bool on);
/* Who compares vectors: sets t->lists and t->by_store. */
int must_check tune_ask_where(struct tune *t);
/* Asks every question with all vectors compared; sets what the others are measured against. */
int must_check tune_ask_exact(struct tune *t);
/* Asks every question in each way of t->points, in t->rounds rounds, and works the figures out. */
int must_check tune_ask_points(struct tune *t);
double tune_recall(const struct tune_point *p); /* measured, 0…1 */
void tune_work_out(struct tune_point *p);	/* quantiles, of what was measured */
bool tune_is_best(const struct tune_exact *e, const char *id, double score);

/* ---- tune_store.c ---- */
/* The same of the store's own index, over a connection of this program's. */
int must_check tune_store(struct tune *t);

/* ---- tune_store_report.c ---- */
void tune_store_report_show(const struct tune *t, const struct tune_point *best);

/* ---- tune_report.c ---- */
void tune_report_name(const struct tune_point *p, char out[24]);
void tune_report_recommend(const struct tune *t, const struct tune_point *best);
void tune_report_curve(const struct tune *t, const struct tune_point *best);
const struct tune_point *tune_report_configured(const struct tune *t); /* NULL: it was not measured, or is not known */
json_t *tune_report_json_times(int64_t p50, int64_t p99);
/* The first of the points that finds enough; NULL: none does. */
const struct tune_point *tune_report_best(const struct tune *t);
/* Table, curve and recommendation, or one line of JSON. */
void tune_report_show(const struct tune *t, const struct tune_point *best);
/* When there is nothing to choose from: says why. */
void tune_report_nothing(const struct tune *t);
/* What was asked for beside that, the drawing and putting it into force; the exit status, CTL_FAILED where there is no best. */
int must_check tune_report_end(const struct tune *t, const struct tune_point *best);
#endif
