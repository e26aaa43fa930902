/* The namespace table of the plant. Broken code this would catch: a row that is found before its name is
 * written, a free row returned, an endless probe in a full table, two rows for one name, more rows than
 * the load limit, a row lost behind the end of the table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plant.h"
#include "record.h"

static struct plant *p;

static int open_plant(void **state)
{
	(void)state;
	size_t size;
	int fd = shm_create("plant", align_up(sizeof(struct plant), 4096));
	p = shm_map(fd, false, &size);
	close(fd);
	return p ? 0 : -1;
}

static size_t name_of(unsigned i, char out[32]) { return (size_t)snprintf(out, 32, "namespace-%u", i); }

/* What a reader may rely on: a row that is found carries its whole name. */
static bool check(const struct plant_namespace *row, uint64_t ns)
{
	char name[LIMIT_NAMESPACE];
	if (row->name_len > LIMIT_NAMESPACE)
		return false;
	memcpy(name, row->name, row->name_len);
	return record_ns((struct span){name, row->name_len}) == ns;
}

static _Atomic bool stop;
static _Atomic unsigned long bad, hits;

static void *look(void *arg)
{
	unsigned i = (unsigned)(uintptr_t)arg;
	char name[32];
	while (!atomic_load(&stop)) {
		i = i * 1664525 + 1013904223;
		uint64_t ns = record_ns((struct span){name, name_of((i >> 8) % 20000, name)});
		struct plant_namespace *row = plant_find(p, ns);
		if (row) {
			atomic_fetch_add(&hits, 1);
			if (!check(row, ns))
				atomic_fetch_add(&bad, 1);
		}
	}
	return NULL;
}

static void test_fill(void **state)
{
	(void)state;
	char name[32];
	pthread_t t[2];
	assert_null(plant_find(p, 0));
	assert_null(plant_find(p, 12345));
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, look, (void *)(i + 1)), 0);
	unsigned made = 0;
	for (; made < PLANT_NAMESPACES; made++) {
		struct span n = {name, name_of(made, name)};
		struct plant_namespace *row = plant_make(p, n);
		if (!row)
			break;
		assert_ptr_equal(row, plant_make(p, n));
		assert_ptr_equal(row, plant_find(p, record_ns(n)));
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	assert_int_equal(made, PLANT_NAMESPACES / 8 * 7);
	assert_int_equal(bad, 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct span n = {name, name_of(i, name)};
		struct plant_namespace *row = plant_find(p, record_ns(n));
		assert_true(!row == (i >= made));
		assert_true(!row || (row->name_len == n.len && memcmp(row->name, n.p, n.len) == 0));
		if (i < made)
			assert_ptr_equal(row, plant_make(p, n)); /* full, but known */
	}
	assert_null(plant_find(p, 0));
}

static void test_names(void **state)
{
	(void)state;
	char name[LIMIT_NAMESPACE + 1];
	memset(name, 'n', sizeof(name));
	assert_null(plant_make(p, (struct span){name, LIMIT_NAMESPACE + 1}));
	struct plant_namespace *row = plant_make(p, (struct span){name, LIMIT_NAMESPACE});
	assert_non_null(row);
	assert_memory_equal(row->name, name, LIMIT_NAMESPACE);
	assert_int_equal(row->name_len, LIMIT_NAMESPACE);
	assert_int_equal(row->exists, 0); /* who made it says so later */
	/* Where a sync was killed before its last store: the row is free, and is written again. */
	atomic_store(&row->ns, 0);
	memset(row->name, '?', sizeof(row->name));
	assert_null(plant_find(p, record_ns((struct span){name, LIMIT_NAMESPACE})));
	assert_ptr_equal(plant_make(p, (struct span){name, LIMIT_NAMESPACE}), row);
	assert_memory_equal(row->name, name, LIMIT_NAMESPACE);
}

/* A target keeps its figures over a reload and a restart of the pinger; a row changes hands only when no
 * free one is left, and then starts at nought; a name half written (by a killed pinger) is not shown. */
static void test_target_rows(void **state)
{
	(void)state;
	char name[32], out[LIMIT_TARGET_NAME + 1];
	struct plant_target *a = plant_target_take(p, "a");
	assert_non_null(a);
	assert_true(plant_target_name(a, out));
	assert_string_equal(out, "a");
	atomic_store(&a->pings, 7);
	plant_target_drop(a);
	assert_false(plant_target_name(a, out));
	for (unsigned i = 0; i < PLANT_TARGETS - 1; i++) {
		name_of(i, name);
		assert_ptr_not_equal(plant_target_take(p, name), a); /* others come first: "a" may come back */
	}
	assert_ptr_equal(plant_target_take(p, "a"), a);
	assert_int_equal(atomic_load(&a->pings), 7);
	assert_null(plant_target_take(p, "one more"));
	plant_target_drop(a);
	assert_ptr_equal(plant_target_take(p, "one more"), a);
	assert_int_equal(atomic_load(&a->pings), 0);
	atomic_fetch_add(&a->change, 1); /* killed while writing the name */
	assert_false(plant_target_name(a, out));
	plant_target_drop(a);
	assert_ptr_equal(plant_target_take(p, "one more"), a);
	assert_true(plant_target_name(a, out));
	assert_string_equal(out, "one more");
	/* The pinger was killed, and its successor has another configuration. */
	atomic_store(&a->pings, 5);
	plant_target_drop_all(p);
	for (unsigned i = 0; i < PLANT_TARGETS; i++)
		assert_false(plant_target_name(&p->targets[i], out));
	assert_ptr_equal(plant_target_take(p, "one more"), a);
	assert_int_equal(atomic_load(&a->pings), 5);
	for (unsigned i = 1; i < PLANT_TARGETS; i++) {
		name_of(i + PLANT_TARGETS, name);
		assert_non_null(plant_target_take(p, name));
	}
}

/* Figures are whole or are not shown; what a killed pinger left half written is hidden until the next one writes. */
static _Atomic bool figures_stop;
static _Atomic unsigned long torn, seen;

static void *read_figures(void *arg)
{
	static _Thread_local struct plant_target_figures f;
	while (!atomic_load(&figures_stop)) {
		if (!plant_target_figures(arg, &f))
			continue;
		atomic_fetch_add(&seen, 1);
		for (size_t i = 0; i < PLANT_PINGS; i++)
			if (f.pings[i].took_us != (uint32_t)f.done)
				atomic_fetch_add(&torn, 1);
	}
	return NULL;
}

static void test_target_figures(void **state)
{
	(void)state;
	static struct plant_target_figures f, back;
	plant_target_drop_all(p);
	struct plant_target *t = plant_target_take(p, "figures");
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, read_figures, t), 0);
	for (uint32_t n = 0; n < 20000 || !atomic_load(&seen); n++) {
		f.done = n;
		for (size_t i = 0; i < PLANT_PINGS; i++)
			f.pings[i].took_us = n;
		plant_target_publish(t, &f);
	}
	atomic_store(&figures_stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(torn, 0);
	assert_true(plant_target_figures(t, &back));
	assert_memory_equal(&f, &back, sizeof(f));
	atomic_fetch_add(&t->turn, 1); /* killed here */
	assert_false(plant_target_figures(t, &back));
	plant_target_publish(t, &f);
	assert_true(plant_target_figures(t, &back));
	/* The row of another name has none of it. */
	plant_target_drop(t);
	for (size_t i = 0; i < PLANT_TARGETS; i++)
		atomic_store(&p->targets[i].live, &p->targets[i] != t);
	assert_ptr_equal(plant_target_take(p, "another"), t);
	assert_true(plant_target_figures(t, &back) && back.done == 0);
	plant_target_drop_all(p);
}

static void test_touch(void **state)
{
	(void)state;
	plant_target_drop_all(p);
	struct plant_target *a = plant_target_take(p, "touch-a"), *b = plant_target_take(p, "touch-b");
	atomic_store(&a->host, plant_host_key(SPAN("h:1")));
	atomic_store(&b->host, plant_host_key(SPAN("H:1")));
	plant_target_touch(a, 100);
	plant_target_touch(a, 50); /* somebody who was slower */
	assert_int_equal(atomic_load(&a->touched_us), 100);
	assert_int_equal(plant_host_touch(p, plant_host_key(SPAN("h:1")), 200), 2);
	assert_true(atomic_load(&a->touched_us) == 200 && atomic_load(&b->touched_us) == 200);
	plant_target_drop(b);
	assert_int_equal(plant_host_touch(p, plant_host_key(SPAN("h:1")), 300), 1);
	assert_int_equal(plant_host_touch(p, plant_host_key(SPAN("h:2")), 300), 0);
	assert_ptr_equal(plant_target_find(p, "touch-a"), a);
	assert_null(plant_target_find(p, "touch-b"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_names, open_plant),
					   cmocka_unit_test_setup(test_fill, open_plant),
					   cmocka_unit_test_setup(test_target_rows, open_plant),
					   cmocka_unit_test_setup(test_target_figures, open_plant),
					   cmocka_unit_test_setup(test_touch, open_plant)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
