/* An HTTP load client that costs less than the servers it measures: one epoll, pre-built requests,
 * and of every answer only status, Content-Length and the end of the head are read.
 *
 * usage: hload [-c CONNS] [-p PIPELINE] [-t SECONDS | -n REQUESTS] [-m METHOD] [-b BODY | -B FILE | -L FILE]
 *              [-H 'Name: value']... [-s STATUS] [-w WARMUP_S] [-P SERVER_PID] [-T] HOST:PORT|/unix/path TARGET
 * prints one JSON object; exit 1 if an answer had another status or a connection broke.
 * -L: every line of the file is the body of one request; they are sent in turns, from the top again at the end.
 * -T speaks TLS and trusts any certificate.
 * -P adds the server's CPU time (utime + stime of that process): requests per CPU-second. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define IN_SIZE (256 * 1024)
#define BUCKETS 4096 /* log-linear: 64 per power of two of nanoseconds */

struct conn {
	int fd;
	SSL *tls; /* NULL: plain text */
	char *in;
	size_t in_len, skip; /* skip: body bytes still to come */
	const char *out;
	size_t out_off, out_len;
	unsigned waiting;
	uint64_t *sent_ns;
	unsigned first;
	bool want_write;
};

static struct {
	unsigned conns, pipeline;
	double seconds, warmup;
	uint64_t count;
	int status, pid;
	const char *method, *where, *target;
	SSL_CTX *tls;
	struct batch {
		char *p;
		size_t len;
	} * batches; /* o.pipeline requests each */
	size_t nbatches, next_batch;
} o = {.conns = 64, .pipeline = 1, .seconds = 3, .warmup = 0.3, .status = 200, .method = "GET"};

static uint64_t done, wrong, broken, bytes_in, hist[BUCKETS];
static bool measuring;
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

static double quantile_us(double q)
{
	uint64_t total = 0, at = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		total += hist[i];
	for (unsigned i = 0; i < BUCKETS; i++) {
		at += hist[i];
		if (total && (double)at >= q * (double)total)
			return i < 64 ? i / 1e3 : (double)((uint64_t)(64 + i % 64) << (i / 64 - 1)) / 1e3;
	}
	return 0;
}

static int dial(void)
{
	int one = 1;
	if (*o.where == '/') {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		snprintf(a.sun_path, sizeof(a.sun_path), "%s", o.where);
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
	}
	char host[64];
	const char *colon = strrchr(o.where, ':');
	struct sockaddr_in a = {.sin_family = AF_INET};
	if (!colon || (size_t)(colon - o.where) >= sizeof(host))
		return -1;
	memcpy(host, o.where, (size_t)(colon - o.where));
	host[colon - o.where] = '\0';
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
		return -1;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

/* The handshake, before the socket becomes non-blocking; not part of what is measured. */
static bool secure(struct conn *c)
{
	if (!o.tls)
		return true;
	c->tls = SSL_new(o.tls);
	return c->tls && SSL_set_fd(c->tls, c->fd) && SSL_connect(c->tls) == 1;
}

static ssize_t tls_result(struct conn *c, int n)
{
	if (n > 0)
		return n;
	int e = SSL_get_error(c->tls, n);
	errno = e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
	return e == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static ssize_t put(struct conn *c, const char *p, size_t n)
{
	return c->tls ? tls_result(c, SSL_write(c->tls, p, (int)n)) : send(c->fd, p, n, MSG_NOSIGNAL);
}

static ssize_t take(struct conn *c, char *p, size_t n)
{
	return c->tls ? tls_result(c, SSL_read(c->tls, p, (int)n)) : recv(c->fd, p, n, 0);
}

static void arm(struct conn *c, bool write)
{
	if (write == c->want_write)
		return;
	c->want_write = write;
	struct epoll_event e = {.events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
	epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static void push(struct conn *c)
{
	while (c->out_off < c->out_len) {
		ssize_t n = put(c, c->out + c->out_off, c->out_len - c->out_off);
		if (n < 0) {
			if (errno == EAGAIN) {
				arm(c, true);
				return;
			}
			broken++;
			return;
		}
		c->out_off += (size_t)n;
	}
	arm(c, false);
}

/* All requests of one batch go out together, as a pipelining client would send them. */
static void start_batch(struct conn *c)
{
	uint64_t t = now_ns();
	for (unsigned i = 0; i < o.pipeline; i++)
		c->sent_ns[i] = t;
	c->first = 0;
	c->waiting = o.pipeline;
	const struct batch *b = &o.batches[o.next_batch];
	o.next_batch = (o.next_batch + 1) % o.nbatches;
	c->out = b->p;
	c->out_off = 0;
	c->out_len = b->len;
	push(c);
}

static size_t content_length(const char *p, size_t n)
{
	for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p)));) {
		p++;
		if ((size_t)(end - p) > 16 && (*p | 32) == 'c' && strncasecmp(p, "Content-Length:", 15) == 0)
			return strtoul(p + 15, NULL, 10);
	}
	return 0;
}

static void answer(struct conn *c, int status, uint64_t t)
{
	if (status != o.status)
		wrong++;
	c->waiting--;
	if (measuring) {
		done++;
		hist[bucket(t - c->sent_ns[c->first])]++;
	}
	c->first++;
}

static void eat(struct conn *c)
{
	size_t at = 0;
	uint64_t t = now_ns();
	for (;;) {
		size_t left = c->in_len - at;
		if (c->skip) {
			size_t n = c->skip < left ? c->skip : left;
			c->skip -= n;
			at += n;
			if (c->skip)
				break;
			continue;
		}
		if (!left || !c->waiting)
			break;
		const char *end = memmem(c->in + at, left, "\r\n\r\n", 4);
		if (!end)
			break;
		size_t head = (size_t)(end - (c->in + at)) + 4;
		c->skip = content_length(c->in + at, head);
		answer(c, atoi(c->in + at + 9), t);
		at += head;
	}
	memmove(c->in, c->in + at, c->in_len - at);
	c->in_len -= at;
}

static bool read_some(struct conn *c)
{
	ssize_t n = take(c, c->in + c->in_len, IN_SIZE - c->in_len);
	if (n <= 0) {
		if (n < 0 && errno == EAGAIN)
			return false;
		broken++;
		epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL);
		return false;
	}
	if (measuring)
		bytes_in += (uint64_t)n;
	c->in_len += (size_t)n;
	eat(c);
	if (!c->waiting && !c->skip)
		start_batch(c);
	return true;
}

static void on_event(struct conn *c, uint32_t events)
{
	if (events & EPOLLOUT)
		push(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		while (read_some(c) && c->tls && SSL_has_pending(c->tls))
			;
}

static double server_cpu(void)
{
	char path[64], text[1024];
	unsigned long u = 0, s = 0;
	if (!o.pid)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", o.pid);
	FILE *f = fopen(path, "r");
	if (!f)
		return 0;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	const char *p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) != 2)
		return 0;
	return (double)(u + s) / (double)sysconf(_SC_CLK_TCK);
}

static char *read_file(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	char *p = NULL;
	size_t n = 0, got;
	if (!f)
		return NULL;
	do {
		p = realloc(p, n + 65536);
		got = p ? fread(p + n, 1, 65536, f) : 0;
		n += got;
	} while (got);
	fclose(f);
	*len = n;
	return p;
}

static void build_request(const char *headers, const char *body, size_t body_len)
{
	size_t cap = strlen(headers) + body_len + strlen(o.target) + 512;
	char *p = malloc(cap);
	o.batches = realloc(o.batches, (o.nbatches + 1) * sizeof(*o.batches));
	if (!p || !o.batches)
		exit(2);
	int n = snprintf(p, cap, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", o.method, o.target, headers);
	if (body)
		n += snprintf(p + n, cap - (size_t)n, "Content-Length: %zu\r\n", body_len);
	n += snprintf(p + n, cap - (size_t)n, "\r\n");
	if (body_len)
		memcpy(p + n, body, body_len);
	size_t len = (size_t)n + body_len;
	struct batch *b = &o.batches[o.nbatches++];
	*b = (struct batch){malloc(len * o.pipeline), len * o.pipeline};
	if (!b->p)
		exit(2);
	for (unsigned i = 0; i < o.pipeline; i++)
		memcpy(b->p + i * len, p, len);
	free(p);
}

static void build_requests(const char *headers, const char *lines, size_t len)
{
	for (const char *p = lines, *end = lines + len; p < end;) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((nl ? nl : end) - p);
		if (n)
			build_request(headers, p, n);
		p += n + 1;
	}
}

static void options(int argc, char **argv)
{
	static char headers[8192];
	const char *body = NULL, *lines = NULL;
	size_t body_len = 0, lines_len = 0;
	int ch;
	while ((ch = getopt(argc, argv, "c:p:t:n:m:b:B:L:H:s:w:P:T")) != -1) {
		size_t h = strlen(headers);
		switch (ch) {
		case 'c': o.conns = (unsigned)atoi(optarg); break;
		case 'p': o.pipeline = (unsigned)atoi(optarg); break;
		case 't': o.seconds = atof(optarg); break;
		case 'n': o.count = strtoull(optarg, NULL, 10); break;
		case 'm': o.method = optarg; break;
		case 'b':
			body = optarg;
			body_len = strlen(optarg);
			break;
		case 'B': body = read_file(optarg, &body_len); break;
		case 'L': lines = read_file(optarg, &lines_len); break;
		case 'H': snprintf(headers + h, sizeof(headers) - h, "%s\r\n", optarg); break;
		case 's': o.status = atoi(optarg); break;
		case 'w': o.warmup = atof(optarg); break;
		case 'P': o.pid = atoi(optarg); break;
		case 'T':
			o.tls = SSL_CTX_new(TLS_client_method());
			SSL_CTX_set_mode(o.tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_AUTO_RETRY);
			SSL_CTX_set_read_ahead(o.tls, 1);
			break;
		default: exit(2);
		}
	}
	if (argc - optind != 2 || !o.conns || !o.pipeline) {
		fprintf(stderr, "usage: %s [options] HOST:PORT|/path TARGET\n", argv[0]);
		exit(2);
	}
	o.where = argv[optind];
	o.target = argv[optind + 1];
	if (lines)
		build_requests(headers, lines, lines_len);
	else
		build_request(headers, body, body_len);
	if (!o.nbatches)
		exit(2);
}

static void connect_all(struct conn *conns)
{
	for (unsigned i = 0; i < o.conns; i++) {
		struct conn *c = &conns[i];
		c->fd = dial();
		c->in = malloc(IN_SIZE);
		c->sent_ns = calloc(o.pipeline, sizeof(uint64_t));
		if (c->fd < 0 || !c->in || !c->sent_ns || !secure(c)) {
			perror(o.where);
			exit(2);
		}
		fcntl(c->fd, F_SETFL, O_NONBLOCK);
		struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
		epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
		start_batch(c);
	}
}

int main(int argc, char **argv)
{
	options(argc, argv);
	struct conn *conns = calloc(o.conns, sizeof(*conns));
	struct epoll_event ev[256];
	if (!conns)
		return 2;
	ep = epoll_create1(0);
	connect_all(conns);
	uint64_t begin = now_ns(), start = 0, end;
	double cpu0 = 0;
	for (;;) {
		int n = epoll_wait(ep, ev, 256, 100);
		for (int i = 0; i < n; i++)
			on_event(ev[i].data.ptr, ev[i].events);
		end = now_ns();
		if (!measuring && (double)(end - begin) >= o.warmup * 1e9) {
			measuring = true;
			start = end;
			cpu0 = server_cpu();
		}
		if (measuring && (o.count ? done >= o.count : (double)(end - start) >= o.seconds * 1e9))
			break;
		if (broken >= o.conns)
			break;
	}
	double wall = start ? (double)(end - start) / 1e9 : 0, cpu = server_cpu() - cpu0;
	printf("{\"requests\":%llu,\"seconds\":%.3f,\"rps\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,"
	       "\"mb_in\":%.1f,\"wrong_status\":%llu,\"broken\":%llu",
	       (unsigned long long)done, wall, wall > 0 ? (double)done / wall : 0, quantile_us(0.5), quantile_us(0.99),
	       quantile_us(0.999), (double)bytes_in / 1e6, (unsigned long long)wrong, (unsigned long long)broken);
	if (o.pid && cpu > 0)
		printf(",\"server_cpu_s\":%.3f,\"rps_per_cpu\":%.0f,\"cpu_us\":%.3f", cpu, (double)done / cpu,
		       cpu * 1e6 / (double)(done ? done : 1));
	printf("}\n");
	return wrong || broken ? 1 : 0;
}
