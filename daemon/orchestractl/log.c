/* log: the requests, as the api workers note them in shared memory (reqlog.h). The daemon hands over the memory once, read-only,
 * by PATH.ctl. The connection stays open: to us its end says that the daemon has gone, and to the supervisor that we have. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl.h"
#include "log_show.h"

#define IDLE_US 20000 /* between looks when nothing came … */
#define BUSY_US 2000  /* … and when something did */
#define AGAIN_US 500000
#define PAST 10

struct follow {
	struct ctl *c;
	struct log_filter filter;
	struct reqlog_reader reader;
	int sock; /* -1: none */
	dev_t device;
	ino_t inode; /* of the segment */
	struct reqlog_record *found;
	size_t n, room;
};

static int help(void)
{
	puts("Usage: orchestractl log [OPTION]...\n"
	     "Prints the requests that the daemon answers, as they come, until interrupted. It reads them from shared memory\n"
	     "and the daemon waits for nobody. Before them, the last ones that were answered; of pipelined hits of that time the first.\n"
	     "\n"
	     "  -n N              so many of the last ones; default 10\n"
	     "  --no-follow       only those\n"
	     "  --status LIST     with these statuses: 5xx, 404, or several with commas\n"
	     "  --slower TIME     that took at least so long: 100ms, 1.5s\n"
	     "  --route TEXT      whose route has this in it: /v1/memories/search\n"
	     "  --token NAME      by this token\n"
	     "  --id ID           with this request id\n"
	     "  --grep TEXT       with this anywhere\n"
	     "\n"
	     "With --namespace, of that namespace only. With --json, an object a line.\n"
	     "Records that were overwritten before they could be read are counted on standard error.");
	return CTL_OK;
}

/* ---- the segment ---- */

static int take_fd(int sock, struct buf *line)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	int fd = -1;
	while (!memchr(line->p ? line->p : "", '\n', line->len)) {
		char piece[1024];
		struct iovec iov = {piece, sizeof(piece)};
		struct msghdr m = {.msg_iov = &iov,
				   .msg_iovlen = 1,
				   .msg_control = control.space,
				   .msg_controllen = sizeof(control.space)};
		ssize_t n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
		if (n <= 0)
			break;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		if (h && h->cmsg_type == SCM_RIGHTS && fd == -1)
			memcpy(&fd, CMSG_DATA(h), sizeof(fd));
		buf_add(line, piece, (size_t)n);
	}
	buf_addc(line, '\0');
	return fd;
}

/* A segment other than the one that we read: from its beginning, but what is asked for of the past at the first one. */
static int use(struct follow *f, int fd, bool first)
{
	struct stat st;
	struct reqlog_reader next;
	char *error = NULL;
	if (fstat(fd, &st) == 0 && !first && st.st_dev == f->device && st.st_ino == f->inode)
		return CTL_OK;
	if (!reqlog_attach(&next, fd, &error)) {
		fprintf(stderr, "orchestractl: %s\n", error ? error : "no request log");
		free(error);
		return CTL_FAILED;
	}
	next.lost = f->reader.lost;
	reqlog_detach(&f->reader);
	f->reader = next;
	f->device = st.st_dev;
	f->inode = st.st_ino;
	return CTL_OK;
}

static int attach(struct follow *f, bool first)
{
	struct buf line = {0};
	f->sock = client_control_open(f->c);
	if (f->sock == -1)
		return CTL_UNREACHABLE;
	int fd = dprintf(f->sock, "log\n") > 0 ? take_fd(f->sock, &line) : -1, code = CTL_UNREACHABLE;
	if (fd != -1) {
		code = use(f, fd, first);
		close(fd);
	} else if (line.len > 1) {
		struct answer a = {.status = 500, .body = line};
		code = output_problem(&a);
	} else if (!f->c->quiet) {
		fprintf(stderr, "orchestractl: the supervisor did not answer\n");
	}
	buf_free(&line);
	return code;
}

/* ---- reading ---- */

static int by_time(const void *a, const void *b)
{
	const struct reqlog_record *x = a, *y = b;
	return (x->end_us > y->end_us) - (x->end_us < y->end_us);
}

/* What is there of all rings, in the order in which it happened. */
static void collect(struct follow *f)
{
	struct reqlog_record r;
	f->n = 0;
	for (unsigned ring = 0; ring < API_WORKERS_MAX; ring++) {
		for (uint64_t i = 0; i < f->reader.slots && reqlog_next(&f->reader, ring, &r); i++) {
			if (!log_show_wanted(&f->filter, &r))
				continue;
			if (f->n == f->room) {
				f->room = f->room ? f->room * 2 : 256;
				f->found = util_realloc(f->found, f->room * sizeof(r));
			}
			f->found[f->n++] = r;
		}
	}
	if (f->n)
		qsort(f->found, f->n, sizeof(r), by_time);
}

static void print(struct follow *f, size_t most)
{
	for (size_t i = f->n > most ? f->n - most : 0; i < f->n; i++)
		log_show(f->c, &f->found[i]);
	fflush(stdout);
	if (f->reader.lost)
		fprintf(stderr, "orchestractl: %llu records were overwritten before they were read\n",
			(unsigned long long)f->reader.lost);
	f->reader.lost = 0;
}

/* False: the daemon has closed the connection: it has gone, or it thinks that we have. */
static bool connected(const struct follow *f)
{
	struct pollfd p = {.fd = f->sock, .events = POLLIN};
	return f->sock != -1 && poll(&p, 1, 0) == 0;
}

/* Goes on with the daemon that is there, be it the same one. */
static int reattach(struct follow *f, bool *away)
{
	if (f->sock != -1)
		close(f->sock);
	f->c->quiet = true;
	int code = attach(f, false);
	if (code == CTL_UNREACHABLE) {
		if (!*away)
			fprintf(stderr, "orchestractl: the daemon has gone; waiting for the next one\n");
		*away = true;
		usleep(AGAIN_US);
		return CTL_OK;
	}
	*away = false;
	return code;
}

static int follow(struct follow *f)
{
	bool away = false;
	for (int code = CTL_OK; code == CTL_OK && !ferror(stdout);) {
		bool there = connected(f);
		collect(f);
		print(f, SIZE_MAX);
		if (!there && (code = reattach(f, &away)) != CTL_OK)
			return code;
		usleep(f->n ? BUSY_US : IDLE_US);
	}
	return CTL_OK;
}

static int run(struct follow *f, size_t past, bool go_on)
{
	int code = attach(f, true);
	if (code != CTL_OK)
		return code;
	reqlog_rewind(&f->reader, UINT64_MAX);
	collect(f);
	f->reader.lost = 0; /* nobody has asked for what was overwritten before we came */
	print(f, past);
	return go_on ? follow(f) : CTL_OK;
}

/* ---- the command ---- */

static bool number(const char *text, size_t *out)
{
	char *end;
	*out = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end;
}

int log_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {{"no-follow", no_argument, NULL, 'F'},
						{"status", required_argument, NULL, 's'},
						{"slower", required_argument, NULL, 'd'},
						{"route", required_argument, NULL, 'r'},
						{"token", required_argument, NULL, 't'},
						{"id", required_argument, NULL, 'i'},
						{"grep", required_argument, NULL, 'g'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	struct follow f = {.c = c, .sock = -1, .filter = {.namespace = c->namespace}};
	size_t past = PAST;
	bool go_on = true;
	int opt;
	while ((opt = ctl_options(argc, argv, ":n:h", options)) != -1) {
		switch (opt) {
		case 'n':
			if (!number(optarg, &past))
				return ctl_usage("log: -n %s: must be a whole number", optarg);
			break;
		case 'F': go_on = false; break;
		case 's':
			if (!log_show_status_ok(optarg))
				return ctl_usage("log: --status %s: must be like 404, 5xx or 4xx,503", optarg);
			f.filter.status = optarg;
			break;
		case 'd':
			if (!log_show_duration(optarg, &f.filter.slower_us))
				return ctl_usage("log: --slower %s: must be a time such as 100ms or 1.5s", optarg);
			break;
		case 'r': f.filter.route = optarg; break;
		case 't': f.filter.token = optarg; break;
		case 'i': f.filter.id = optarg; break;
		case 'g': f.filter.grep = optarg; break;
		case 'h': return help();
		default: return CTL_USAGE;
		}
	}
	if (optind != argc)
		return ctl_usage("log: \"%s\" is too much; what is wanted stands behind options", argv[optind]);
	int code = run(&f, past, go_on);
	if (f.sock != -1)
		close(f.sock);
	reqlog_detach(&f.reader);
	free(f.found);
	return code;
}
