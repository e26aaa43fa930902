/* What the files of merging share: postings_merge.c decides, publishes and ends; postings_merge_steps.c makes the output. */
#ifndef ORC_POSTINGS_MERGE_PRIVATE_H
#define ORC_POSTINGS_MERGE_PRIVATE_H
#include <stdlib.h>

#include "postings-private.h"

enum postings_phase {
	MERGE_DOCS,    /* documents that are alive, and their numbers */
	MERGE_TERMS,   /* terms with their postings, in order */
	MERGE_WORDS,   /* the words of each document */
	MERGE_COPYING, /* to shared memory */
	MERGE_MAPPING, /* published; the private map still leads to the inputs */
};
struct postings_input {
	uint32_t desc;
	struct postings_view w;
	uint32_t *docs, *terms; /* number here → number in the output; NONE: dead */
	uint32_t term;		/* the next one */
};
struct postings_merge {
	struct postings_merge *next; /* of the namespace */
	struct postings_ns *n;
	enum postings_phase phase;
	struct postings_input in[POSTINGS_INPUTS];
	size_t ninputs;
	uint32_t at_input, at_doc; /* DOCS, WORDS: the next one; MAPPING: of the output */
	uint32_t live;		   /* documents of the inputs, when it began */
	struct postings_image out;
	uint32_t desc;	 /* of the output */
	bool taken;	 /* it has one */
	uint64_t *kills; /* input << 32 | document: died since it began */
	size_t nkills, ckills;
	uint32_t *doc, *tf; /* scratch: postings of one term */
	struct postings_cursor cursor;
};
/* Some of the phases before MERGE_COPYING; takes what it costs from the budget. */
void postings_merge_step(struct postings_merge *m, uint32_t *budget);
#endif
