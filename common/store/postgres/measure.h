/* What "orchestractl tune vectors" needs to know of a server that searches vectors itself (pgvector). Of a handle that store_ops.open()
 * made, with a connection of its own. */
#ifndef ORC_MEASURE_H
#define ORC_MEASURE_H
#include "store/store.h"

/* An index over vectors of one dimension, of all namespaces. */
struct pg_vector_index {
	char name[64], kind[16]; /* "hnsw" or "ivfflat"; "": there is none */
	bool valid;		 /* its build has ended */
	long lists;		 /* of IVFFlat */
	long m, ef_construction; /* of HNSW */
	double rows;		 /* as the server estimates */
	int64_t bytes;
	long parts; /* of a partitioned table: one each, and each has its own lists */
};
struct pg_measure {
	bool vector;	  /* the column has pgvector's type */
	char version[24]; /* of pgvector; "": it is not installed */
	bool iterates;	  /* 0.8: an index goes on until enough rows match */
	struct pg_vector_index index;
};
enum store_rc must_check pg_measure_look(struct store *s, uint32_t dim, struct pg_measure *m_r);
/* Makes the handle's session a careful one: a statement whose client has left ends within a second, and with `alone` none takes
 * further processes of the server's. */
void pg_measure_session(struct store *s, bool alone);
/* Would the server's planner search an index for this question, with this effort? */
enum store_rc must_check pg_nearest_plan(struct store *s, const struct store_nearest *q, bool *indexed_r);
#endif
