/* What was written recently: key → sequence of its last write, bounded.
 *
 * This is the memory of optimistic concurrency: a transaction that read key K at read_seq is
 * valid unless K was written later. Keys fall out oldest first; `floor` is the highest sequence
 * that may have fallen out, so a transaction whose read_seq is below it cannot be judged and is
 * told to read again (a retry, never an error). */
#ifndef ORC_RECENT_H
#define ORC_RECENT_H
#include "util.h"

struct recent;
struct recent *must_check recent_new(size_t capacity /* power of two */, uint64_t floor);
void recent_free(struct recent **r);
void recent_write(struct recent *r, uint64_t key, uint64_t seq);
/* Sequence of the last remembered write of key; 0 = none remembered. */
uint64_t recent_seq(const struct recent *r, uint64_t key);
uint64_t recent_floor(const struct recent *r);
/* True when a reader that saw everything up to read_seq may rely on what it read under key. */
bool recent_unchanged(const struct recent *r, uint64_t key, uint64_t read_seq);
#endif
