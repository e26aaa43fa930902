/* orchestrad: options, and which of its lives this process is to live. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fault.h"
#include "handover.h"
#include "log.h"
#include "metrics.h"
#include "version.h"
#include "worker.h"

#define SETS_MAX 256

enum action { ACT_RUN, ACT_CHECK, ACT_DUMP, ACT_VERSION, ACT_HELP, ACT_MANUAL, ACT_SAMPLE, ACT_METRICS, ACT_HANDOVER };
enum {
	OPT_SET = 256,
	OPT_CHECK,
	OPT_PROBE,
	OPT_DUMP,
	OPT_FOREGROUND,
	OPT_ROLE,
	OPT_SLOT,
	OPT_MANUAL,
	OPT_SAMPLE,
	OPT_METRICS,
	OPT_HANDOVER
};

static const struct option options[] = {
	{"config", required_argument, NULL, 'c'},
	{"set", required_argument, NULL, OPT_SET},
	{"check", no_argument, NULL, OPT_CHECK},
	{"probe", no_argument, NULL, OPT_PROBE},
	{"dump-config", no_argument, NULL, OPT_DUMP},
	{"foreground", no_argument, NULL, OPT_FOREGROUND},
	{"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'},
	{"role", required_argument, NULL, OPT_ROLE}, /* the supervisor's own use */
	{"slot", required_argument, NULL, OPT_SLOT},
	{"check-handover", no_argument, NULL, OPT_HANDOVER}, /* before an upgrade: may this binary take over? */
	{"dump-manual", no_argument, NULL, OPT_MANUAL},	     /* the build's own use */
	{"dump-sample", no_argument, NULL, OPT_SAMPLE},
	{"dump-metrics", no_argument, NULL, OPT_METRICS},
	{0},
};

static const char help[] =
	"Usage: orchestrad [-c FILE] [--set KEY=VALUE]...\n"
	"Memory for AI applications: the daemon.\n"
	"\n"
	"  -c, --config FILE   configuration; default /etc/orchestra/orchestra.conf if present\n"
	"      --set KEY=VALUE overrides a key, as often as needed; survives reloads\n"
	"      --check         says OK, or everything that would keep it from starting\n"
	"      --probe         with --check: also tries store, disk, addresses and pinger targets\n"
	"      --dump-config   prints the effective configuration and where each value is from\n"
	"      --foreground    stays in the foreground, which it does anyway\n"
	"      --version       prints the version\n"
	"      --help          prints this\n"
	"\n"
	"Signals: HUP reloads, TERM and INT drain and leave (again: at once), QUIT leaves at once,\n"
	"USR1 reopens logs, USR2 upgrades to the binary that lies at its path now. orchestractl(1) talks to a running daemon; orchestrad(8) tells more.\n";

struct arguments {
	enum action action;
	struct conf_input input;
	const char *sets[SETS_MAX];
	const char *role;
	unsigned slot;
	bool probe;
};

static bool parse(int argc, char **argv, struct arguments *a)
{
	int opt;
	while ((opt = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		switch (opt) {
		case 'c': a->input.file = optarg; break;
		case OPT_SET:
			if (a->input.nsets == SETS_MAX) {
				fprintf(stderr, "orchestrad: at most %d --set\n", SETS_MAX);
				return false;
			}
			a->sets[a->input.nsets++] = optarg;
			break;
		case OPT_CHECK: a->action = ACT_CHECK; break;
		case OPT_PROBE:
			a->action = ACT_CHECK;
			a->probe = true;
			break;
		case OPT_DUMP: a->action = ACT_DUMP; break;
		case OPT_FOREGROUND: break;
		case 'V': a->action = ACT_VERSION; break;
		case 'h': a->action = ACT_HELP; break;
		case OPT_ROLE: a->role = optarg; break;
		case OPT_SLOT: a->slot = (unsigned)strtoul(optarg, NULL, 10); break;
		case OPT_HANDOVER: a->action = ACT_HANDOVER; break;
		case OPT_MANUAL: a->action = ACT_MANUAL; break;
		case OPT_SAMPLE: a->action = ACT_SAMPLE; break;
		case OPT_METRICS: a->action = ACT_METRICS; break;
		default: return false;
		}
	}
	if (optind < argc)
		fprintf(stderr, "orchestrad: unexpected argument \"%s\"\n", argv[optind]);
	return optind == argc;
}

static int dump(const struct conf_input *input)
{
	char *error = NULL;
	struct conf *c = conf_load(input, &error);
	if (!c) {
		fprintf(stderr, "orchestrad: %s\n", error ? error : "the configuration cannot be read");
		free(error);
		return 1;
	}
	conf_dump(c, stdout);
	conf_free(&c);
	return fflush(stdout) == 0 ? 0 : 1;
}

/* Whoever starts us with 0, 1 or 2 closed must not get our sockets as its standard error. */
static void open_standard(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

/* The document that another image of this process has left, or -1. Nobody else is to see it. */
static int take_document(void)
{
	const char *number = getenv(ENV_HANDOVER);
	char *end;
	long fd = number ? strtol(number, &end, 10) : -1;
	if (!number)
		return -1;
	if (!*number || *end || fd < 0 || fd > INT_MAX || fcntl((int)fd, F_SETFD, FD_CLOEXEC) == -1)
		fd = -1;
	unsetenv(ENV_HANDOVER);
	return (int)fd;
}

int main(int argc, char **argv)
{
	static struct arguments a;
#ifdef ORC_FAULT_POINTS
	if (argc == 2 && strcmp(argv[1], "--list-faults") == 0)
		return fault_list();
#endif
	open_standard();
	log_open("orchestrad", LOG_LV_INFO, LOG_TEXT);
	log_to(getpid() == 1 ? STDOUT_FILENO : STDERR_FILENO, NULL); /* until log.target is known */
	a.input.sets = a.sets;
	a.input.env = environ;
	if (!parse(argc, argv, &a)) {
		fputs("Try orchestrad --help.\n", stderr);
		return 2;
	}
	if (a.role)
		return worker_main(a.role, a.slot);
	FAULT_BIRTH("supervisor");
	switch (a.action) {
	case ACT_CHECK: return check_run(&a.input, a.probe, stdout);
	case ACT_DUMP: return dump(&a.input);
	case ACT_VERSION: puts("orchestrad " PACKAGE_VERSION); return 0;
	case ACT_HELP: fputs(help, stdout); return 0;
	case ACT_MANUAL: conf_write_manual(stdout); return 0;
	case ACT_SAMPLE: conf_write_sample(stdout); return 0;
	case ACT_METRICS: metrics_write_manual(stdout); return 0;
	case ACT_HANDOVER: return check_handover(&a.input, FD_DOCUMENT, stdout);
	case ACT_RUN: break;
	}
	prctl(PR_SET_NAME, "orchestrad", 0, 0,
	      0); /* an upgrade executes a descriptor, and would be named by its number */
	int document = take_document();
	return document == -1 ? supervisor_run(&a.input, argv) : supervisor_take_over(&a.input, argv, document);
}
