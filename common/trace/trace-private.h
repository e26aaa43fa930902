/* Inside of a tracer. */
#ifndef ORC_TRACE_PRIVATE_H
#define ORC_TRACE_PRIVATE_H
#include "trace/trace.h"
#include "vocabulary.h"

struct told_entry {
	_Atomic uint64_t id; /* of the transaction; 0: being written, or none */
	char context[sizeof(struct trace_context)];
};
struct told {
	struct told_entry v[TRACE_TOLD];
};

struct tracer {
	int fd;
	unsigned slot;
	struct stats_slot *stats;
	struct ring *ring; /* mapped when tracing is first on */
	struct told *told;
	struct trace *spare;
	uint64_t random;
	_Atomic uint64_t below; /* another thread than the tracer's may read the configuration */
	_Atomic int64_t slow_ns;
	int64_t second_ns; /* in which so many were kept for their own sake */
	unsigned failures;
};
#endif
