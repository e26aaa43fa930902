/* Traces on their way out: takes spans from the rings of all workers (trace/trace.h) and sends them to trace.endpoint, as
 * OTLP/JSON over HTTP.
 *
 * One request at a time, of at most SPANS_BATCH spans, which are held until the receiver has taken them: 2xx; or refused them, or
 * could not be reached for SPANS_PATIENCE_US. While it does not answer, or says Retry-After, it is asked ever more rarely;
 * the rings fill up meanwhile, and then spans are dropped, where they are made, without anybody waiting. So what is held in
 * memory here is one request. */
#ifndef ORC_SPANS_H
#define ORC_SPANS_H
#include "transport.h"
#include "worker.h"

#define SPANS_BATCH 512
#define SPANS_BATCH_BYTES (1u << 20)
#define SPANS_EVERY_MS 250
#define SPANS_PATIENCE_US 60000000
#define SPANS_PAUSE_MAX_US 30000000

struct spans;
/* NULL: the rings cannot be mapped, which was logged. */
struct spans *must_check spans_open(struct worker *w, struct transport *t);
/* trace.* of this configuration from now on. Without an endpoint what waits is dropped uncounted. */
void spans_conf(struct spans *s, const struct conf *c);
void spans_close(struct spans **s);
/* How long to wait after so many failures in a row; `random` from 0 to 1. What Retry-After says (0: nothing) counts where
 * it is longer, up to SPANS_PAUSE_MAX_US. */
int64_t spans_pause_us(unsigned failures, int64_t retry_after_s, double random);
#endif
