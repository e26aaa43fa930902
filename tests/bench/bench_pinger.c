/* The pinger's policy beside cron jobs of fixed intervals: four weeks of virtual time on platforms that go cold in four ways,
 * with users that come by Poisson, by day more than by night. Prints a table for docs/benchmarks.md: pings a day; cold starts that
 * users meet a day. */
#include <stdio.h>

#include "../unit/platform_model.h"

#define DAYS 28
#define SEEDS 5

static const char *const kinds[] = {"15 min", "10 to 20 min, random", "15 min, at night 6", "15 min, moved once a day"};
static const double crons[] = {2, 5, 10, 14, 20};

static void cell(const struct platform *p, const struct plan_rules *r, bool told)
{
	struct platform_result sum = {0};
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct platform at = *p;
		at.seed = seed * 7919;
		struct platform_result one = platform_run(at, r, told, DAYS);
		sum.pings += one.pings;
		sum.user_colds += one.user_colds;
	}
	printf(" %.0f; %.2f |", (double)sum.pings / DAYS / SEEDS, (double)sum.user_colds / DAYS / SEEDS);
}

static void row(const struct platform *p)
{
	struct plan_rules found = platform_auto();
	printf("| %s | %g, %g |", kinds[p->kind], p->day_per_hour, p->night_per_hour);
	cell(p, NULL, false);
	for (size_t i = 0; i < ARRAY_LEN(crons); i++) {
		struct plan_rules r = platform_cron(crons[i]);
		cell(p, &r, false);
	}
	cell(p, &found, false);
	cell(p, &found, true);
	putchar('\n');
}

int main(void)
{
	static const double users[][2] = {{20, 1}, {2, 0.2}};
	printf("| Stays warm for | Users an hour by day, night | no pinger |");
	for (size_t i = 0; i < ARRAY_LEN(crons); i++)
		printf(" every %g min |", crons[i]);
	puts(" auto | auto, told of users |");
	for (size_t i = 0; i < ARRAY_LEN(crons) + 5; i++)
		fputs("|---", stdout);
	puts("|");
	for (int kind = 0; kind < PLATFORM_KINDS; kind++)
		for (size_t u = 0; u < ARRAY_LEN(users); u++)
			row(&(struct platform){.kind = (enum platform_kind)kind,
					       .day_per_hour = users[u][0],
					       .night_per_hour = users[u][1]});
	return 0;
}
