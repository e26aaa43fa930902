/* orchestractl: options, and which command is meant. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "conf.h"
#include "ctl.h"
#include "log.h"
#include "version.h"

static const struct command commands[] = {
	{"status", "", "the process tree of the daemon", admin_status},
	{"add", "TEXT|-", "stores a memory", memory_add},
	{"search", "QUERY", "finds memories", memory_search},
	{"get", "ID", "shows a memory", memory_get},
	{"list", "", "lists memories", memory_list},
	{"delete", "ID", "deletes a memory", memory_delete},
	{"export", "[FILE|-]", "writes all memories as NDJSON", transfer_export},
	{"import", "FILE|-", "reads memories from NDJSON", transfer_import},
	{"reload", "", "makes the daemon read its configuration again", admin_reload},
	{"drain", "", "makes the daemon finish its work and leave", admin_drain},
	{"config", "get KEY", "prints the effective value of a key", admin_config},
	{"check", "[-c FILE]", "validates a configuration file", admin_check},
};

int ctl_usage(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("orchestractl: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputs("\nTry orchestractl --help.\n", stderr);
	va_end(ap);
	return CTL_USAGE;
}

static void help(void)
{
	puts("Usage: orchestractl [OPTION]... COMMAND [ARGUMENT]...\n"
	     "Memory for AI applications: talks to a running orchestrad.\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		const struct command *c = &commands[i];
		int width = 19 - (int)strlen(c->name);
		printf("  %s %-*s %s\n", c->name, width, c->arguments, c->text);
	}
	puts("\n"
	     "  --socket PATH      the daemon's Unix socket; else $ORCHESTRA_SOCKET, else the default\n"
	     "  --token-file FILE  its first line is the token to present; else $ORCHESTRA_TOKEN\n"
	     "  --namespace NAME   the namespace of memories; default \"default\"\n"
	     "  --json             prints the daemon's JSON\n"
	     "  --version, --help\n"
	     "\n"
	     "COMMAND --help lists a command's options. Exit status: 0 done, 1 failed, 2 wrong usage,\n"
	     "3 the daemon cannot be reached.");
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* The socket that a daemon with the same configuration and environment would make. */
static char *default_socket(void)
{
	const char *named = getenv("ORCHESTRA_SOCKET");
	struct conf_input input = {.env = environ};
	char *error = NULL, *path;
	if (named && *named)
		return util_strndup(named, strlen(named));
	struct conf *conf = conf_load(&input, &error);
	if (!conf) {
		fprintf(stderr, "orchestractl: %s\nName the socket with --socket.\n",
			error ? error : "the configuration cannot be read");
		free(error);
		return NULL;
	}
	path = util_strndup(conf_str(conf, CONF_LISTEN_UNIX), strlen(conf_str(conf, CONF_LISTEN_UNIX)));
	conf_free(&conf);
	return path;
}

/* The token from --token-file (its first line) or $ORCHESTRA_TOKEN: never from the command line, which everybody
 * may read. False: said why. */
static bool take_token(struct ctl *c, const char *file)
{
	char line[1024] = "";
	const char *token = getenv("ORCHESTRA_TOKEN");
	if (file) {
		FILE *f = fopen(file, "re");
		bool ok = f && fgets(line, sizeof(line), f);
		int error = f ? EINVAL : errno;
		if (f)
			fclose(f);
		if (!ok) {
			fprintf(stderr, "orchestractl: --token-file %s: %s\n", file,
				error == EINVAL ? "holds no token" : strerror(error));
			return false;
		}
		token = line;
	}
	size_t len = token ? strcspn(token, "\r\n") : 0;
	if (len) {
		struct buf b = {0};
		buf_printf(&b, "Authorization: Bearer %.*s", (int)len, token);
		buf_addc(&b, 0);
		c->authorization = b.p;
	}
	return true;
}

static void look_at_terminal(struct ctl *c)
{
	struct winsize w;
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
	c->terminal = isatty(STDOUT_FILENO);
	c->colour = c->terminal && !(no_colour && *no_colour) && !(term && strcmp(term, "dumb") == 0);
	if (c->terminal)
		c->width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 40 ? w.ws_col : 80;
}

/* Options before the command. -1: go on with argv[optind]; else the exit status. */
static int parse(struct ctl *c, int argc, char **argv)
{
	const char *token_file = NULL;
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'}, {"namespace", required_argument, NULL, 'n'},
		{"json", no_argument, NULL, 'j'},         {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},         {"token-file", required_argument, NULL, 't'},
		{0},
	};
	int opt;
	while ((opt = getopt_long(argc, argv, "+s:n:jVh", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			c->socket = optarg;
			break;
		case 't':
			token_file = optarg;
			break;
		case 'n':
			c->namespace = optarg;
			break;
		case 'j':
			c->json = true;
			break;
		case 'V':
			puts("orchestractl " PACKAGE_VERSION);
			return CTL_OK;
		case 'h':
			help();
			return CTL_OK;
		default:
			return ctl_usage("wrong option");
		}
	}
	if (optind == argc)
		return ctl_usage("which command?");
	return take_token(c, token_file) ? -1 : CTL_USAGE;
}

int main(int argc, char **argv)
{
	struct ctl c = {0};
	char *path = NULL;
	log_open("orchestractl", LOG_LV_WARN, LOG_TEXT);
	look_at_terminal(&c);
	int code = parse(&c, argc, argv);
	if (code != -1)
		return code;
	const struct command *command = find(argv[optind]);
	if (!command)
		return ctl_usage("there is no command \"%s\"", argv[optind]);
	if (!c.socket && command->run != admin_check) {
		c.socket = path = default_socket();
		if (!path)
			return CTL_UNREACHABLE;
	}
	argc -= optind;
	argv += optind;
	optind = 0; /* glibc: begin anew */
	code = command->run(&c, argc, argv);
	free(path);
	free(c.authorization);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "orchestractl: cannot write: %s\n", strerror(errno));
		code = code ? code : CTL_FAILED;
	}
	return code;
}
