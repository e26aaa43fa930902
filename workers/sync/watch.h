/* How Redis is: asked now and then by a thread of its own, published for /metrics, and said in the log when its settings
 * defeat what it is for. */
#ifndef ORC_WATCH_H
#define ORC_WATCH_H
#include "cache/l2.h"
#include "plant.h"

struct watch;
/* ttl_us: redis.ttl. `out` has no other writer. NULL: no thread could be started, and the log says so. */
struct watch *watch_start(struct l2 *l, struct plant_redis *out, int64_t ttl_us);
/* Ends the thread; l2_stop() first, or this waits for an answer. NULL is fine. */
void watch_stop(struct watch **w);

#define WATCH_TEXT 512
/* What is wrong with the server's limit of memory and what it does there, with the remedy. False: nothing is. */
bool must_check watch_settings(const struct l2_info *i, char text_r[WATCH_TEXT]);
/* Whether what was evicted between `then` and `now` says that values live for a fraction of redis.ttl only. */
bool must_check watch_evictions(const struct l2_info *then, const struct l2_info *now, int64_t between_us,
				int64_t ttl_us, char text_r[WATCH_TEXT]);
#endif
