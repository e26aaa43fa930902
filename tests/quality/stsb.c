/* How well the built-in embedder's cosine agrees with people: Pearson and Spearman on STS-B.
 *
 * usage: stsb FILE   — lines of genre, file, year, index, score 0–5, sentence, sentence, separated by tabs
 * prints one line of JSON; exit 77 (skipped) when the file is absent, 1 when a correlation is below the goal given
 * by STSB_MIN (default 0.70). */
#include "embed/embed.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct ranked {
	double value;
	size_t at;
};

static double stsb_pearson(const double *x, const double *y, size_t n)
{
	double mx = 0, my = 0, xy = 0, xx = 0, yy = 0;
	for (size_t i = 0; i < n; i++) {
		mx += x[i] / (double)n;
		my += y[i] / (double)n;
	}
	for (size_t i = 0; i < n; i++) {
		xy += (x[i] - mx) * (y[i] - my);
		xx += (x[i] - mx) * (x[i] - mx);
		yy += (y[i] - my) * (y[i] - my);
	}
	return xy / sqrt(xx * yy);
}

static int stsb_compare(const void *a, const void *b)
{
	double x = ((const struct ranked *)a)->value, y = ((const struct ranked *)b)->value;
	return (x > y) - (x < y);
}

/* Ranks, equal values sharing the mean of theirs. */
static void stsb_rank(const double *x, size_t n, double *out)
{
	struct ranked *r = util_alloc(n * sizeof(*r));
	for (size_t i = 0; i < n; i++)
		r[i] = (struct ranked){x[i], i};
	qsort(r, n, sizeof(*r), stsb_compare);
	for (size_t i = 0, j; i < n; i = j) {
		for (j = i + 1; j < n && r[j].value <= r[i].value; j++)
			;
		for (size_t k = i; k < j; k++)
			out[r[k].at] = (double)(i + j - 1) / 2;
	}
	free(r);
}

/* The human score and the cosine of one line; false: not a line of the set. */
static bool stsb_line(char *line, double *human_r, double *cosine_r)
{
	static float x[2][4096];
	const struct embedder *e = embed_hashed();
	char *field[7] = {0}, *save = line;
	for (size_t i = 0; i < 7; i++) {
		field[i] = strsep(&save, "\t\r\n");
		if (field[i] == NULL)
			return false;
	}
	*human_r = strtod(field[4], NULL);
	*cosine_r = 0;
	for (size_t k = 0; k < 2; k++) {
		struct span t = SPAN(field[5 + k]);
		e->embed(e, &t, 1, x[k]);
	}
	for (size_t i = 0; i < e->dimensions; i++)
		*cosine_r += (double)x[0][i] * (double)x[1][i];
	return true;
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: stsb FILE\n");
		return 2;
	}
	FILE *f = fopen(argv[1], "r");
	if (f == NULL) {
		fprintf(stderr, "SKIPPED: no STS-B at %s\n", argv[1]);
		return 77;
	}
	size_t n = 0, cap = 0, size = 0;
	double *human = NULL, *cosine = NULL;
	char *line = NULL;
	while (getline(&line, &size, f) > 0) {
		if (n == cap) {
			cap = cap ? 2 * cap : 1024;
			human = util_realloc(human, cap * sizeof(*human));
			cosine = util_realloc(cosine, cap * sizeof(*cosine));
		}
		n += stsb_line(line, &human[n], &cosine[n]);
	}
	fclose(f);
	free(line);
	if (n < 100) {
		fprintf(stderr, "%s: only %zu pairs\n", argv[1], n);
		return 2;
	}
	double *rh = util_alloc(n * sizeof(*rh)), *rc = util_alloc(n * sizeof(*rc));
	stsb_rank(human, n, rh);
	stsb_rank(cosine, n, rc);
	double pearson = stsb_pearson(human, cosine, n), spearman = stsb_pearson(rh, rc, n);
	const char *min = getenv("STSB_MIN");
	double goal = min ? strtod(min, NULL) : 0.70;
	bool met = pearson >= goal && spearman >= goal;
	printf("{\"embedder\":\"%s\",\"pairs\":%zu,\"pearson\":%.4f,\"spearman\":%.4f,\"goal\":%."
	       "2f,\"met\":%s}\n",
	       embed_hashed()->id, n, pearson, spearman, goal, met ? "true" : "false");
	free(rh);
	free(rc);
	free(human);
	free(cosine);
	return met ? 0 : 1;
}
