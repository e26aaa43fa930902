/* orchestractl: options, and which command is meant. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "conf.h"
#include "ctl.h"
#include "log.h"
#include "version.h"

static int completion(struct ctl *c, int argc, char **argv);

static const struct command commands[] = {
	{"status", "", "the process tree of the daemon", admin_status},
	{"top", "", "shows requests, latencies, caches and processes as they are, again and again", top_command},
	{"doctor", "", "says what is wrong with the daemon, and what to do about it", doctor_command},
	{"add", "TEXT|-", "stores a memory", memory_add},
	{"search", "QUERY", "finds memories", memory_search},
	{"get", "ID", "shows a memory", memory_get},
	{"list", "", "lists memories", memory_list},
	{"delete", "ID...", "deletes memories", memory_delete},
	{"export", "[FILE|-]", "writes all memories as NDJSON", transfer_export},
	{"import", "FILE|-", "reads memories from NDJSON", transfer_import},
	{"changes", "", "prints what was changed", changes_command},
	{"log", "", "follows the requests that the daemon answers", log_command},
	{"namespaces", "", "lists the namespaces, with how much is in them", admin_namespaces},
	{"dlq", "list|show|...", "lists, retries or discards writes that the store did not accept", dlq_run},
	{"reload", "", "makes the daemon read its configuration again", admin_reload},
	{"upgrade", "", "makes the daemon go on with the binary that lies at its path now", admin_upgrade},
	{"drain", "", "makes the daemon finish its work and leave", admin_drain},
	{"migrate", "status|up|down", "the schema of a PostgreSQL store", migrate_command},
	{"config", "VERB ...", "the configuration in force: get, list, diff, save, drift", config_command},
	{"set", "KEY VALUE", "tries a value on the running daemon", set_command},
	{"unset", "KEY...", "takes back what is tried", unset_command},
	{"apply", "FILE ...", "makes daemons match a configuration file", apply_command},
	{"audit", "[verify]", "who changed what; or whether that was tampered with", audit_command},
	{"breaker", "VERB [NAME]", "shows the circuit breakers (list), or turns one (open, close, reset)",
	 breaker_command},
	{"ping", "VERB [NAME]", "shows what is kept warm (list, history), or pings one at once (now)", ping_command},
	{"warm", "--all | ...", "brings memories into the cache", warm_run},
	{"tune", "vectors", "measures what searches find and take on your data, and recommends", tune_command},
	{"cache", "stats|top|...", "shows what the caches hold, why a memory is seen as it is; or empties them",
	 cache_command},
	{"check", "[-c FILE]", "validates a configuration file", admin_check},
	{"completion", "", "prints a script that completes commands in bash", completion},
};

/* Commands and the options that stand anywhere; file names behind them. */
static int completion(struct ctl *c, int argc, char **argv)
{
	(void)c;
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		puts("Usage: orchestractl completion\nPrints a script for bash: source <(orchestractl completion)");
		return CTL_OK;
	}
	if (argc > 1)
		return ctl_usage("completion: unexpected \"%s\"", argv[1]);
	fputs("_orchestractl()\n{\n\tlocal word=${COMP_WORDS[COMP_CWORD]} i seen=\n"
	      "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	      "\t\tcase ${COMP_WORDS[i]} in\n"
	      "\t\t--socket | --token-file | --namespace) ((i++)) ;;\n"
	      "\t\t-*) ;;\n"
	      "\t\t*) seen=1 ;;\n"
	      "\t\tesac\n"
	      "\tdone\n"
	      "\tCOMPREPLY=()\n"
	      "\tif [[ $word == -* ]]; then\n"
	      "\t\tCOMPREPLY=($(compgen -W '--socket --token-file --namespace --json --help --version' -- \"$word\"))\n"
	      "\telif [[ -z $seen && ${COMP_WORDS[COMP_CWORD - 1]} != --@(socket|token-file|namespace) ]]; then\n"
	      "\t\tCOMPREPLY=($(compgen -W '",
	      stdout);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		printf("%s%s", i ? " " : "", commands[i].name);
	puts("' -- \"$word\"))\n\tfi\n}\ncomplete -o default -F _orchestractl orchestractl");
	return CTL_OK;
}

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

int ctl_options(int argc, char **argv, const char *letters, const struct option *options)
{
	opterr = 0;
	int opt = getopt_long(argc, argv, letters, options, NULL);
	if (opt != '?' && opt != ':')
		return opt;
	/* getopt has passed the word of a long option; of a letter it tells which. */
	char letter[] = {'-', (char)optopt, '\0'};
	const char *word = strncmp(argv[optind - 1], "--", 2) == 0 ? argv[optind - 1] : letter;
	if (opt == ':')
		fprintf(stderr, "orchestractl: %s: %s needs a value\n", argv[0], word);
	else
		fprintf(stderr, "orchestractl: %s: there is no option %s\n", argv[0], word);
	fprintf(stderr, "Try orchestractl %s --help.\n", argv[0]);
	return '?';
}

void ctl_broken_pipe(int error)
{
	if (error != EPIPE)
		return;
	signal(SIGPIPE, SIG_DFL);
	raise(SIGPIPE);
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
	     "These may also stand behind the command. COMMAND --help lists a command's own options.\n"
	     "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the daemon cannot be reached.");
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

char *ctl_socket(void)
{
	const char *named = getenv("ORCHESTRA_SOCKET");
	struct conf_input input = {.env = environ};
	char *error = NULL, *path;
	if (named && *named)
		return util_strndup(named, strlen(named));
	/* The daemon's secrets are none of ours, and ExecReload= has the variable without access to the directory. */
	unsetenv("CREDENTIALS_DIRECTORY");
	struct conf *conf = conf_load(&input, &error);
	/* A file with an error must not keep anybody from asking the daemon that runs, about that error for one. */
	if (!conf) {
		fprintf(stderr, "orchestractl: %s\n", error ? error : "the configuration cannot be read");
		free(error);
		error = NULL;
		input.file = "/dev/null";
		conf = conf_load(&input, &error);
	}
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

/* Brings the options that every command has to the front, so that they may also stand behind the command;
 * what follows "--" is text. The option that lacks its value, or NULL. */
static const char *hoist(int argc, char **argv)
{
	static const char *const names[] = {"--json", "--namespace", "--socket", "--token-file"};
	int front = 1;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		size_t n = strcspn(argv[i], "="), k = 0;
		while (k < ARRAY_LEN(names) && (strlen(names[k]) != n || strncmp(names[k], argv[i], n) != 0))
			k++;
		int words = k == ARRAY_LEN(names) ? 0 : k == 0 || argv[i][n] == '=' ? 1 : 2;
		if (i + words > argc)
			return argv[i];
		for (int w = 0; w < words; w++, front++) {
			char *word = argv[i + w];
			memmove(argv + front + 1, argv + front, (size_t)(i + w - front) * sizeof(*argv));
			argv[front] = word;
		}
		i += words ? words - 1 : 0;
	}
	return NULL;
}

/* Options before the command. -1: go on with argv[optind]; else the exit status. */
static int parse(struct ctl *c, int argc, char **argv)
{
	const char *token_file = NULL;
	/* clang-format off */
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'}, {"namespace", required_argument, NULL, 'n'},
		{"json", no_argument, NULL, 'j'},         {"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},         {"token-file", required_argument, NULL, 't'},
		{0},
	};
	/* clang-format on */
	int opt;
	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+:s:n:jVh", options, NULL)) != -1) {
		switch (opt) {
		case 's': c->socket = optarg; break;
		case 't': token_file = optarg; break;
		case 'n': c->namespace = optarg; break;
		case 'j': c->json = true; break;
		case 'V': puts("orchestractl " PACKAGE_VERSION); return CTL_OK;
		case 'h': help(); return CTL_OK;
		case ':': return ctl_usage("%s needs a value", argv[optind - 1]);
		default:
			return ctl_usage("there is no option %s here; the options of a command stand behind it",
					 argv[optind - 1]);
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
	static char long_help[] = "--help";
	log_open("orchestractl", LOG_LV_WARN, LOG_TEXT);
	look_at_terminal(&c);
	const char *lacks = hoist(argc, argv);
	int code = lacks ? ctl_usage("%s needs a value", lacks) : parse(&c, argc, argv);
	if (code != -1)
		return code;
	if (strcmp(argv[optind], "help") == 0) {
		if (optind + 1 == argc) {
			help();
			return CTL_OK;
		}
		argv[optind] = argv[optind + 1]; /* "help add" is "add --help" */
		argv[optind + 1] = long_help;
	}
	const struct command *command = find(argv[optind]);
	if (!command)
		return ctl_usage("there is no command \"%s\"", argv[optind]);
	if (!c.socket && command->run != admin_check && command->run != migrate_command && command->run != completion) {
		c.socket = path = ctl_socket();
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
		ctl_broken_pipe(errno);
		fprintf(stderr, "orchestractl: cannot write: %s\n", strerror(errno));
		code = code ? code : CTL_FAILED;
	}
	return code;
}
