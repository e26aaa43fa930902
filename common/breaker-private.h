/* Inside of breakers: the word that all agree on, and the counts that belong to it.
 *
 * Every change of the word moves its generation on. So a word that is as it was has not been changed meanwhile: a prober
 * that finds its own word still there is still the one prober. And counts carry the generation under which they were
 * made: those of a former closed time need not be cleared, they do not count. */
#ifndef ORC_BREAKER_PRIVATE_H
#define ORC_BREAKER_PRIVATE_H
#include "breaker.h"

enum stored { STORED_CLOSED, STORED_HALF_OPEN, STORED_OPEN, STORED_FORCED_CLOSED, STORED_FORCED_OPEN };

#define WORD_MS_BITS 40
#define WORD_GENERATIONS 4096u
#define WORD_LEVEL_MAX 31u
#define WORD_SUCCESSES_MAX 15u
#define REASON_OF_CONF 4

struct word {
	int64_t ms;	     /* CLOSED: since when. HALF_OPEN: end of the probe's lease, 0 = none. OPEN: until when */
	unsigned generation; /* of WORD_GENERATIONS */
	enum stored state;
	unsigned level;	    /* the open time has been doubled level - 1 times */
	unsigned successes; /* of probes in this half-open time */
};

static inline uint64_t word_pack(struct word w)
{
	return ((uint64_t)w.ms & (((uint64_t)1 << WORD_MS_BITS) - 1)) | (uint64_t)w.generation << 40 |
	       (uint64_t)w.state << 52 | (uint64_t)w.level << 55 | (uint64_t)w.successes << 60;
}

static inline struct word word_unpack(uint64_t v)
{
	return (struct word){.ms = (int64_t)(v & (((uint64_t)1 << WORD_MS_BITS) - 1)),
			     .generation = (unsigned)(v >> 40) & (WORD_GENERATIONS - 1),
			     .state = (enum stored)(v >> 52 & 7),
			     .level = (unsigned)(v >> 55) & WORD_LEVEL_MAX,
			     .successes = (unsigned)(v >> 60)};
}

static inline uint64_t word_load(const struct breaker *b)
{
	return atomic_load_explicit(&b->word, memory_order_acquire);
}

/* Rounded up, so that no deadline comes early. */
static inline int64_t word_ms(int64_t us) { return (us + 999) / 1000; }

void breaker_conf_of(const struct breaker *b, struct breaker_conf *conf_r);

/* ---- breaker_window.c ---- */
struct window {
	uint64_t calls, failures, slow;
};
/* Counts a call, and again as a failure or as slow. */
void window_add(struct breaker *b, unsigned generation, int64_t now_us, bool failed, bool slow);
/* What was counted under this generation within the last BREAKER_SECONDS. */
struct window window_sum(const struct breaker *b, unsigned generation, int64_t now_us);
/* Failures in a row under this generation, with one more or none at all. */
uint64_t window_in_a_row(struct breaker *b, unsigned generation, bool failed);
uint64_t window_row_length(const struct breaker *b, unsigned generation);

/* ---- breaker_row.c ---- */
/* Keeps why; `slot` is the generation that came of it, or REASON_OF_CONF. */
void reason_keep(struct breaker *b, unsigned slot, int64_t now_us, const char *text);
#endif
