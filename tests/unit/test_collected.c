/* What the collector found, on the loop. Broken code this would catch: sync that leaves hands a transaction to a journal thread
 * that has ended already (its flusher may find something in its last round); one that is not freed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sync/collect.c"

/* ---- the rest of sync ---- */

static struct batch group;
static unsigned handed, offered;

struct batch *commit_open(struct sync *s)
{
	assert_non_null(s->committer);
	return &group;
}
void commit_offer(struct sync *s)
{
	assert_non_null(s->committer);
	offered++;
}
void intake_internal(struct sync *s, void *txn, size_t len)
{
	assert_true(s->committer && len == 100);
	free(txn);
	handed++;
}
void sync_post(struct sync *s, void (*fn)(struct sync *s, void *arg), void *arg) { (void)s, (void)fn, (void)arg; }

static void collected(struct sync *s)
{
	struct buf *b = util_zalloc(sizeof(*b));
	char text[100] = {0};
	buf_add(b, text, sizeof(text));
	on_collected(s, b);
}

static void is_handed_over(void **state)
{
	(void)state;
	struct sync *s = util_zalloc(sizeof(*s));
	s->committer = (void *)&group; /* there is one */
	handed = offered = 0;
	collected(s);
	assert_true(handed == 1 && offered == 1);
	group.n = BATCH_TXNS; /* no room: the next round finds it again */
	collected(s);
	assert_true(handed == 1 && offered == 1);
	group.n = 0;
	s->committer = NULL; /* sync leaves */
	collected(s);
	assert_true(handed == 1 && offered == 1);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(is_handed_over)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
