/* Configuration: arbitrary bytes as the file and as --set. First byte: how the rest is split.
 * What is accepted must survive its own dump and its effective copy. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conf.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libconfig 1.5 forgets the string it was reading when the text behind it is wrong; a daemon reads
 * such a file once, at a refused start or reload. Our own allocations stay watched. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libconfig.so\n"; }

static void check_round_trip(const struct conf *c)
{
	int fd = conf_dump_effective(c);
	AN(fd >= 0);
	struct conf *copy = conf_load_effective(fd);
	AN(copy);
	close(fd);
	int dump = memfd_create("dump", MFD_CLOEXEC);
	FILE *f = fdopen(dump, "w");
	AN(f);
	conf_dump(copy, f);
	AN(fflush(f) == 0);
	char path[64], *error = NULL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dump);
	struct conf_input in = {.file = path};
	struct conf *again = conf_load(&in, &error);
	if (!again)
		fprintf(stderr, "%s\n", error);
	AN(again);
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		AN(strcmp(conf_source(c, (enum conf_key)k), conf_source(copy, (enum conf_key)k)) == 0);
		AN(k == CONF_STORE_DSN ||
		   strcmp(conf_str(c, (enum conf_key)k), conf_str(again, (enum conf_key)k)) == 0);
	}
	fclose(f);
	conf_free(&again);
	conf_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64], *error = NULL;
	static char *const env[] = {"STATE_DIRECTORY=/s", "RUNTIME_DIRECTORY=/r", NULL};
	log_set_level(LOG_LV_ERROR);
	if (size < 1)
		return 0;
	size_t split = data[0] < size ? data[0] : size - 1;
	char *set = util_strndup((const char *)data + 1, split);
	const char *sets[] = {set};
	int fd = memfd_create("conf", MFD_CLOEXEC);
	AN(write(fd, data + 1 + split, size - 1 - split) == (ssize_t)(size - 1 - split));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	struct conf_input in = {.file = path, .sets = sets, .nsets = split > 0, .env = env};
	struct conf *c = conf_load(&in, &error);
	if (c)
		check_round_trip(c);
	else
		AN(error && *error);
	free(error);
	conf_free(&c);
	free(set);
	close(fd);
	return 0;
}
