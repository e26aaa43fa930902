/* Cold starts, told by how long an answer takes. Pure functions of what is remembered (struct plant_heat).
 *
 * The answers of a warm target lie close together; a cold one takes some times as long. The border is drawn from the
 * median of the warm answers and their median deviation, which a few outliers do not move. Among the first answers, and
 * when warm ones appear among what was taken for warm, the faster of two clusters counts. */
#ifndef ORC_COLD_H
#define ORC_COLD_H
#include "plant.h"

#define COLD_NEEDS 5	   /* answers before any is called warm or cold */
#define COLD_NEW_NORMAL 10 /* cold ones in a row, alike: the target has become slow */

/* Answers beyond this are cold; 0: too few are known. `fixed_us`: the border by configuration, 0: none. */
uint32_t cold_border(const struct plant_heat *h, uint32_t fixed_us);
/* Takes an answer in and says what it was. */
enum plant_ping_heat cold_learn(struct plant_heat *h, uint32_t us, uint32_t fixed_us);
/* The q-th percentile of a ring of `n` entries that has taken `total`; 0: it is empty. */
uint32_t cold_percentile(const uint32_t *ring, uint32_t n, uint32_t total, double q);
#endif
