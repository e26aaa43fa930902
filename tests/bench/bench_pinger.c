/* The pinger's policy beside cron jobs of fixed intervals: four weeks of virtual time on platforms that go cold in four ways,
 * with users that come by Poisson, by day more than by night. Prints a table for docs/benchmarks.md. */
#include <stdio.h>

#include "../unit/platform_model.h"

#define DAYS 28
#define SEEDS 5

static const char *const kinds[] = {"15 min", "10 to 20 min, random", "15 min, at night 6", "15 min, moved once a day"};
static const double crons[] = {1, 2, 5, 10, 14, 20, 30};

static void row(const struct platform *p, const char *name, const struct plan_rules *r, bool told)
{
	struct platform_result sum = {0};
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		struct platform at = *p;
		at.seed = seed * 7919;
		struct platform_result one = platform_run(at, r, told, DAYS);
		sum.pings += one.pings;
		sum.ping_colds += one.ping_colds;
		sum.users += one.users;
		sum.user_colds += one.user_colds;
		sum.interval_us += one.interval_us / SEEDS;
	}
	printf("| %s | %.1f, %.1f | %s | %.0f | %.2f | %.3f %% | %.1f |\n", kinds[p->kind], p->day_per_hour,
	       p->night_per_hour, name, (double)sum.pings / DAYS / SEEDS, (double)sum.user_colds / DAYS / SEEDS,
	       100.0 * (double)sum.user_colds / (double)sum.users, (double)sum.interval_us / MINUTE_US);
}

int main(void)
{
	static const double users[][2] = {{20, 1}, {2, 0.2}};
	puts("| Stays warm for | Users an hour, day and night | Pinger | Pings a day | Cold starts of users a day | of their "
	     "requests | Interval at the end, min |\n|---|---|---|---|---|---|---|");
	for (int kind = 0; kind < PLATFORM_KINDS; kind++)
		for (size_t u = 0; u < 2; u++) {
			struct platform p = {.kind = (enum platform_kind)kind,
					     .day_per_hour = users[u][0],
					     .night_per_hour = users[u][1]};
			char name[32];
			row(&p, "none", NULL, false);
			for (size_t i = 0; i < ARRAY_LEN(crons); i++) {
				struct plan_rules r = platform_cron(crons[i]);
				snprintf(name, sizeof(name), "every %.0f min", crons[i]);
				row(&p, name, &r, false);
			}
			struct plan_rules found = platform_auto();
			row(&p, "auto", &found, false);
			row(&p, "auto, told of users", &found, true);
		}
	return 0;
}
