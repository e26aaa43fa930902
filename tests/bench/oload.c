/* An open-loop HTTP load: requests come at random times at a given mean rate (Poisson), whether or not earlier ones are
 * answered, as from many clients that know nothing of each other. A latency counts from the time at which the request was
 * meant to be sent, so that a server cannot hide by being slow (no "coordinated omission"). Answers in time are good:
 * 2xx within the deadline. Each request is a client's, drawn by lot, and each client has one connection: it waits until its
 * last request is answered, and what it could not send within the deadline is given up, and counts as late. With -p all
 * connections are one client's, who takes any that is free.
 *
 * usage: oload -r PER_SECOND [-t SECONDS] [-w WARMUP_S] [-c CONNS] [-d DEADLINE_MS] [-m METHOD] [-L FILE] [-S SEED] [-p]
 *              [-H 'Name: value']... HOST:PORT TARGET
 * -L: every line of the file is the body of one request, in turns; with -m GET: the target of one.
 * prints one JSON object; latencies are of 2xx answers unless said otherwise. fresh_*: from when they were sent. sent_*: how late requests were sent, which is the
 * client's own doing for as long as it is not short_of_connections (-p: the part of the time in which none was free). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_SIZE 65536
#define BUCKETS 4096	 /* log-linear: 64 per power of two of nanoseconds */
#define QUEUE (1u << 20) /* intended and not sent */
#define OWN 64		 /* of one client */

struct conn {
	int fd;
	char *in;
	size_t in_len, skip;
	bool busy, head;
	uint64_t due_ns, sent_ns;
	int status;
	struct conn *idle;
	uint64_t due[OWN]; /* what it is to send, the oldest first */
	unsigned due_at, dues;
};
struct text {
	char *p;
	size_t len;
};

static struct {
	double rate, seconds, warmup, deadline_ms;
	unsigned conns, seed;
	bool pool;
	const char *method, *where, *target;
} o = {.seconds = 5, .warmup = 1, .deadline_ms = 250, .conns = 512, .seed = 1, .method = "POST"};

static struct text *requests;
static size_t nrequests, next_request;
static uint64_t queue[QUEUE];
static size_t q_head, q_len;
static struct conn *conns, *idle;
static uint64_t ok_hist[BUCKETS], fresh_hist[BUCKETS], refused_hist[BUCKETS], sent_hist[BUCKETS];
static uint64_t short_ns, looked_ns; /* no connection was free for what was due; when that was looked at, */
static bool was_short;		     /* and was so */
static uint64_t offered, good, late, refused, busy503, other, abandoned, broken, no_retry;
static uint64_t begin_ns, end_ns, deadline_ns; /* what is measured was due between */
static unsigned long long rnd;
static int ep;

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static unsigned bucket(uint64_t ns)
{
	if (ns < 64)
		return (unsigned)ns;
	unsigned e = 63 - (unsigned)__builtin_clzll(ns);
	unsigned b = (e - 5) * 64 + (unsigned)(ns >> (e - 6) & 63);
	return b < BUCKETS ? b : BUCKETS - 1;
}

static double quantile_ms(const uint64_t *hist, double q)
{
	uint64_t total = 0, at = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		total += hist[i];
	for (unsigned i = 0; i < BUCKETS; i++) {
		at += hist[i];
		if (total && (double)at >= q * (double)total)
			return i < 64 ? i / 1e6 : (double)((uint64_t)(64 + i % 64) << (i / 64 - 1)) / 1e6;
	}
	return 0;
}

static double draw(void) /* more than 0, 1 at most */
{
	rnd = rnd * 6364136223846793005ull + 1442695040888963407ull;
	return (double)((rnd >> 11) + 1) / 9007199254740993.0;
}

static double gap_ns(void) { return -log(draw()) / o.rate * 1e9; }

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void dial(struct conn *c)
{
	int one = 1;
	char host[64] = "127.0.0.1";
	const char *colon = strrchr(o.where, ':');
	struct sockaddr_in a = {.sin_family = AF_INET};
	if (!colon || (size_t)(colon - o.where) >= sizeof(host))
		fail("HOST:PORT");
	memcpy(host, o.where, (size_t)(colon - o.where));
	host[colon - o.where] = '\0';
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	inet_pton(AF_INET, host, &a.sin_addr);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		fail("connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
	epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
	c->in_len = c->skip = 0;
	c->busy = c->head = false;
	if (o.pool) {
		c->idle = idle;
		idle = c;
	}
}

/* Requests are small: a socket whose answers are all read takes one whole. */
static void send_one(struct conn *c, uint64_t due, uint64_t now)
{
	const struct text *r = &requests[next_request++ % nrequests];
	c->due_ns = due;
	c->sent_ns = now;
	c->busy = true;
	if (send(c->fd, r->p, r->len, MSG_NOSIGNAL) != (ssize_t)r->len)
		broken++;
}

static bool measured(uint64_t due) { return due >= begin_ns && due < end_ns; }

static void send_now(struct conn *c, uint64_t due, uint64_t now)
{
	if (measured(due))
		sent_hist[bucket(now - due)]++;
	send_one(c, due, now);
}

/* What this client is to send next, if it need not wait. */
static void next_of(struct conn *c, uint64_t now)
{
	while (c->dues && !c->busy) {
		uint64_t due = c->due[c->due_at];
		c->due_at = (c->due_at + 1) % OWN;
		c->dues--;
		if (now - due > deadline_ns)
			abandoned += measured(due);
		else
			send_now(c, due, now);
	}
}

static void due_by_lot(uint64_t due, uint64_t now)
{
	struct conn *c = &conns[(size_t)((1 - draw()) * o.conns)];
	if (c->dues == OWN) { /* the oldest of so many */
		abandoned += measured(c->due[c->due_at]);
		c->due_at = (c->due_at + 1) % OWN;
		c->dues--;
	}
	c->due[(c->due_at + c->dues++) % OWN] = due;
	next_of(c, now);
}

static void finished(struct conn *c, uint64_t now)
{
	uint64_t took = now - c->due_ns;
	bool counts = measured(c->due_ns);
	c->busy = c->head = false;
	if (o.pool) {
		c->idle = idle;
		idle = c;
	}
	if (!counts) {
		;
	} else if (c->status >= 200 && c->status < 300) {
		ok_hist[bucket(took)]++;
		fresh_hist[bucket(now - c->sent_ns)]++;
		*(took <= deadline_ns ? &good : &late) += 1;
	} else {
		*(c->status == 429 ? &refused : c->status == 503 ? &busy503 : &other) += 1;
		refused_hist[bucket(took)]++;
	}
	next_of(c, now);
}

static void parse_head(struct conn *c, const char *end)
{
	bool retry = false;
	c->status = atoi(c->in + 9);
	c->skip = 0;
	for (const char *p = c->in; (p = memchr(p, '\n', (size_t)(end - p)));) {
		p++;
		if (strncasecmp(p, "Content-Length:", 15) == 0)
			c->skip = strtoul(p + 15, NULL, 10);
		retry |= strncasecmp(p, "Retry-After:", 12) == 0;
	}
	no_retry += c->status == 429 && !retry;
	c->head = true;
}

static void eat(struct conn *c)
{
	if (!c->head) {
		c->in[c->in_len] = '\0';
		char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
		if (!end)
			return;
		parse_head(c, end + 2);
		size_t head = (size_t)(end + 4 - c->in);
		memmove(c->in, c->in + head, c->in_len -= head);
	}
	size_t n = c->skip < c->in_len ? c->skip : c->in_len;
	c->skip -= n;
	c->in_len = 0; /* one request at a time: nothing follows */
	if (!c->skip)
		finished(c, now_ns());
}

static void on_event(struct conn *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_len, IN_SIZE - 1 - c->in_len, 0);
	if (n > 0) {
		c->in_len += (size_t)n;
		eat(c);
	} else if (n == 0 || errno != EAGAIN) {
		broken++;
		close(c->fd);
		if (c->busy)
			dial(c);
		else
			c->fd = -1;
	}
}

static void send_due(uint64_t now)
{
	if (was_short && measured(now))
		short_ns += now - looked_ns;
	looked_ns = now;
	was_short = false;
	while (q_len) {
		uint64_t due = queue[q_head];
		if (now - due > deadline_ns) {
			abandoned += measured(due);
		} else if (idle) {
			struct conn *c = idle;
			idle = c->idle;
			send_now(c, due, now);
		} else {
			was_short = true;
			return;
		}
		q_head = (q_head + 1) % QUEUE;
		q_len--;
	}
}

static void load(void)
{
	static struct epoll_event ev[512];
	double next = (double)now_ns();
	uint64_t stop = end_ns + deadline_ns + 1000000000u;
	for (uint64_t now; (now = now_ns()) < stop;) {
		for (; next <= (double)now && now < end_ns; next += gap_ns()) {
			offered += measured((uint64_t)next);
			if (!o.pool) {
				due_by_lot((uint64_t)next, now);
				continue;
			}
			if (q_len == QUEUE)
				fail("too many requests wait for a connection");
			queue[(q_head + q_len++) % QUEUE] = (uint64_t)next;
		}
		send_due(now);
		double wait = now < end_ns ? next - (double)now : 1e6;
		struct timespec t = {0, wait < 0 ? 0 : wait > 1e6 ? 1000000 : (long)wait};
		int n = epoll_pwait2(ep, ev, 512, &t, NULL);
		for (int i = 0; i < n; i++)
			on_event(ev[i].data.ptr);
	}
}

static void add_request(const char *target, const char *headers, const char *body, size_t n)
{
	size_t cap = strlen(target) + strlen(headers) + n + 256;
	struct text *r;
	requests = realloc(requests, (nrequests + 1) * sizeof(*requests));
	if (!requests || !(requests[nrequests].p = malloc(cap)))
		fail("memory");
	r = &requests[nrequests++];
	int len = snprintf(r->p, cap, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", o.method, target, headers);
	if (body)
		len += snprintf(r->p + len, cap - (size_t)len,
				"Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
	len += snprintf(r->p + len, cap - (size_t)len, "\r\n");
	memcpy(r->p + len, body ? body : "", n);
	r->len = (size_t)len + n;
}

static void add_lines(const char *path, const char *headers)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	bool get = strcmp(o.method, "GET") == 0;
	if (!f)
		fail(path);
	while ((n = getline(&line, &cap, f)) > 0) {
		line[n -= line[n - 1] == '\n'] = '\0';
		if (n)
			add_request(get ? line : o.target, headers, get ? NULL : line, get ? 0 : (size_t)n);
	}
	free(line);
	fclose(f);
}

static void report(void)
{
	printf("{\"rate\":%.1f,\"seconds\":%.2f,\"offered\":%llu,\"good\":%llu,\"goodput\":%.1f,\"late\":%llu,\"refused\":%llu,"
	       "\"unavailable\":%llu,\"other\":%llu,\"abandoned\":%llu,\"broken\":%llu,\"without_retry_after\":%llu,"
	       "\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p999_ms\":%.3f,\"fresh_p99_ms\":%.3f,\"refused_p50_ms\":%.3f,\"refused_p99_ms\":%.3f,"
	       "\"sent_p50_ms\":%.3f,\"sent_p99_ms\":%.3f,\"short_of_connections\":%.3f}\n",
	       o.rate, o.seconds, (unsigned long long)offered, (unsigned long long)good, (double)good / o.seconds,
	       (unsigned long long)late, (unsigned long long)refused, (unsigned long long)busy503,
	       (unsigned long long)other, (unsigned long long)abandoned, (unsigned long long)broken,
	       (unsigned long long)no_retry, quantile_ms(ok_hist, 0.5), quantile_ms(ok_hist, 0.99),
	       quantile_ms(ok_hist, 0.999), quantile_ms(fresh_hist, 0.99), quantile_ms(refused_hist, 0.5),
	       quantile_ms(refused_hist, 0.99), quantile_ms(sent_hist, 0.5), quantile_ms(sent_hist, 0.99),
	       (double)short_ns / o.seconds / 1e9);
}

int main(int argc, char **argv)
{
	char headers[4096] = "";
	const char *lines = NULL;
	for (int c; (c = getopt(argc, argv, "r:t:w:c:d:m:L:S:H:p")) != -1;)
		switch (c) {
		case 'r': o.rate = atof(optarg); break;
		case 't': o.seconds = atof(optarg); break;
		case 'w': o.warmup = atof(optarg); break;
		case 'c': o.conns = (unsigned)atoi(optarg); break;
		case 'd': o.deadline_ms = atof(optarg); break;
		case 'm': o.method = optarg; break;
		case 'L': lines = optarg; break;
		case 'p': o.pool = true; break;
		case 'S': o.seed = (unsigned)atoi(optarg); break;
		case 'H':
			snprintf(headers + strlen(headers), sizeof(headers) - strlen(headers), "%s\r\n", optarg);
			break;
		default: return 2;
		}
	if (argc - optind != 2 || o.rate <= 0 || !o.conns) {
		fprintf(stderr, "usage: oload -r PER_SECOND [options] HOST:PORT TARGET (see the top of oload.c)\n");
		return 2;
	}
	o.where = argv[optind];
	o.target = argv[optind + 1];
	if (lines)
		add_lines(lines, headers);
	else
		add_request(o.target, headers, NULL, 0);
	rnd = o.seed * 0x9e3779b97f4a7c15ull + 1;
	ep = epoll_create1(EPOLL_CLOEXEC);
	conns = calloc(o.conns, sizeof(*conns));
	for (unsigned i = 0; conns && i < o.conns; i++) {
		if (!(conns[i].in = malloc(IN_SIZE)))
			fail("memory");
		dial(&conns[i]);
	}
	deadline_ns = (uint64_t)(o.deadline_ms * 1e6);
	begin_ns = now_ns() + (uint64_t)(o.warmup * 1e9);
	end_ns = begin_ns + (uint64_t)(o.seconds * 1e9);
	load();
	late += offered - good - late - refused - busy503 - other - abandoned; /* never answered while we waited */
	report();
	return broken || no_retry ? 1 : 0;
}
