/* What was measured of the store's own index, and what follows from it. */
#include "tune.h"
#include "tune_choice.h"

/* ---- another build of it ---- */

/* False: this one serves. *b: the other. */
static bool other_build(const struct tune *t, const struct tune_point *best, struct tune_build *b)
{
	const struct pg_vector_index *x = &t->server.index;
	*b = (struct tune_build){.lists_kind = x->lists != 0,
				 .lists = x->lists,
				 .m = x->m,
				 .ef_construction = x->ef_construction,
				 .rows = x->rows / (double)(x->parts ? x->parts : 1)};
	if (best && best->indexed < 1 && !b->lists_kind)
		return false; /* not the index's merit */
	return tune_choice_rebuild(b, best ? best->effort : 0);
}

static void write_command(const struct tune *t, const struct tune_build *b, char out[160])
{
	if (b->lists_kind)
		snprintf(out, 160, "orchestractl migrate index --kind ivfflat --dimensions %u --lists %ld", t->dim,
			 b->lists);
	else
		snprintf(out, 160,
			 "orchestractl migrate index --kind hnsw --dimensions %u --m %ld --ef-construction %ld", t->dim,
			 b->m, b->ef_construction);
}

/* Lists, and an HNSW graph, are as they were built; that takes long, and is left to whoever reads this. */
static void show_rebuild(const struct tune *t, const struct tune_point *best)
{
	struct tune_build b;
	char command[160];
	if (!other_build(t, best, &b))
		return;
	write_command(t, &b, command);
	if (b.lists_kind)
		printf("The index has %ld lists; for %.0f vectors %ld are advised. A rebuild, while searches go on:\n  %s\n",
		       t->server.index.lists, b.rows, b.lists, command);
	else
		printf("%s: a denser graph finds more with less. A rebuild, while searches go on:\n  %s\n",
		       best ? "That is a wide search" : "No hnsw.ef_search finds enough", command);
}

/* ---- for people ---- */

static double share(uint64_t sum, const struct tune_point *p) { return (double)sum / (double)p->answers; }

static void show_head(const struct tune *t)
{
	const struct pg_vector_index *x = &t->server.index;
	char size[16];
	output_bytes((double)x->bytes, size);
	printf("Namespace %s: %llu memories; %zu questions, %zu answers wanted to each, %u rounds\n", t->c->namespace,
	       (unsigned long long)t->memories, t->n, t->limit, t->rounds);
	printf("Measured: the store's index %s (pgvector %s, %s, ", x->name, t->server.version,
	       x->lists ? "IVFFlat" : "HNSW");
	if (x->lists)
		printf("lists = %ld", x->lists);
	else
		printf("m = %ld, ef_construction = %ld", x->m, x->ef_construction);
	printf("), about %.0f vectors of all namespaces in %s\n", x->rows, size);
	puts(t->by_store ? "" : "The daemon's own index holds this namespace's vectors, and searches ask that one.\n");
}

static const char *plan_of(const struct tune_point *p)
{
	return p->indexed >= 1 ? "index" : p->indexed > 0 ? "index or not" : "all vectors";
}

static void show_table(const struct tune *t, const struct tune_point *best)
{
	const struct ctl *c = t->c;
	printf("%s%10s  %6s  %8s %8s  %6s %6s  %s%s\n", output_colour(c, C_DIM),
	       t->server.index.lists ? "PROBES" : "EF_SEARCH", "RECALL", "STORE", "P99", "ROWS", "WHOLE", "PLAN",
	       output_colour(c, C_PLAIN));
	for (size_t i = 0; i < t->npoints; i++) {
		const struct tune_point *p = &t->points[i];
		printf("%s%10u  %6.4f  %8lld %8lld  %6.0f %5.0f%%  %s%s\n",
		       output_colour(c, p == best ? C_GREEN : C_PLAIN), p->effort, tune_recall(p),
		       (long long)p->vector_p50, (long long)p->vector_p99, share(p->read, p), 100 * share(p->whole, p),
		       plan_of(p), output_colour(c, C_PLAIN));
	}
	puts("STORE: microseconds from here to the store and back for a question, median and 99th percentile.\n"
	     "ROWS: that came for it, on average. WHOLE: the index yielded too few, and all vectors were compared.\n"
	     "PLAN: what the server's planner chooses for it.\n");
}

static void show_notes(const struct tune *t)
{
	size_t without = 0;
	for (size_t i = 0; i < t->npoints; i++)
		without += t->points[i].indexed < 1;
	if (without)
		printf("With %zu of %zu settings the server does not always search the index: its planner holds comparing all vectors "
		       "that count for cheaper (ANALYZE memories; random_page_cost).\n",
		       without, t->npoints);
	if (!t->server.iterates)
		printf("pgvector %s ends its search where the filter and the namespace have left too few; 0.8 and later go on.\n",
		       t->server.version);
}

static void show_people(const struct tune *t, const struct tune_point *best)
{
	show_head(t);
	show_table(t, best);
	tune_report_curve(t, best);
	if (best)
		tune_report_recommend(t, best);
	else
		printf("No setting finds %.4g of the nearest.\n", t->wanted);
	show_notes(t);
	show_rebuild(t, best);
}

/* ---- for programs ---- */

static json_t *json_index(const struct pg_vector_index *x)
{
	json_t *o = json_pack("{s:s,s:s,s:I,s:I}", "name", x->name, "kind", x->kind, "rows", (json_int_t)x->rows,
			      "bytes", (json_int_t)x->bytes);
	AN(o);
	if (x->lists) {
		json_object_set_new(o, "lists", json_integer(x->lists));
	} else {
		json_object_set_new(o, "m", json_integer(x->m));
		json_object_set_new(o, "ef_construction", json_integer(x->ef_construction));
	}
	return o;
}

static json_t *json_points(const struct tune *t)
{
	json_t *points = json_array();
	for (size_t i = 0; i < t->npoints; i++) {
		const struct tune_point *p = &t->points[i];
		json_array_append_new(points, json_pack("{s:i,s:f,s:o,s:f,s:f,s:f,s:I}", "value", (int)p->effort,
							"recall", tune_recall(p), "store_us",
							tune_report_json_times(p->vector_p50, p->vector_p99), "rows",
							share(p->read, p), "whole", share(p->whole, p), "index",
							p->indexed, "answers", (json_int_t)p->answers));
	}
	return points;
}

static json_t *json_rebuild(const struct tune *t, const struct tune_point *best)
{
	struct tune_build b;
	char command[160];
	if (!other_build(t, best, &b))
		return json_null();
	write_command(t, &b, command);
	return json_string(command);
}

static void show_json(const struct tune *t, const struct tune_point *best)
{
	json_t *o = json_pack(
		"{s:s,s:I,s:s,s:s,s:b,s:o,s:I,s:I,s:i,s:f,s:s,s:o,s:o,s:o,s:o}", "namespace", t->c->namespace,
		"memories", (json_int_t)t->memories, "tier", "store", "pgvector", t->server.version, "iterative_scan",
		t->server.iterates, "index", json_index(&t->server.index), "questions", (json_int_t)t->n, "limit",
		(json_int_t)t->limit, "rounds", (int)t->rounds, "wanted", t->wanted, "key", t->key, "configured",
		t->configured ? json_integer(t->configured) : json_null(), "points", json_points(t), "recommended",
		best ? json_pack("{s:s,s:i,s:f}", "key", t->key, "value", (int)best->effort, "recall",
				 tune_recall(best))
		     : json_null(),
		"rebuild", json_rebuild(t, best));
	AN(o);
	json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(o);
}

void tune_store_report_show(const struct tune *t, const struct tune_point *best)
{
	if (t->c->json)
		show_json(t, best);
	else
		show_people(t, best);
}
