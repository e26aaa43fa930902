/* The sync worker fed by its ring, beside the bare writer: preallocated zero-filled segment, records
 * with CRC32C, one pwritev and one fdatasync a group, at the same record and group size.
 *
 * Stands in for the supervisor (makes the shared segments, starts `orchestrad --role=sync` by
 * contract.h) and for one api worker (fills the request ring, takes the answers), so that nothing but
 * ring, validation, journal, indexes and answers is measured. Then lets the store catch up: the
 * rate of the flush.
 *
 * usage: bench_sync [-n RECORDS] [-w WINDOW] [-r ROUNDS] [-D DIM] [-f] ORCHESTRAD DATA_DIR
 *   -w  transactions under way at once: decides the size of the groups
 *   -D  dimensions of the vectors; 0: none
 *   -f  the flush to the store goes on meanwhile; without it it is held back until a round is over
 * prints one JSON object */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/cache.h"
#include "clock.h"
#include "conf.h"
#include "contract.h"
#include "crc32c.h"
#include "imsg.h"
#include "index/vectors.h"
#include "journal/journal.h"
#include "pending.h"
#include "plant.h"
#include "record.h"
#include "rings.h"
#include "vitals.h"
#include "words/postings.h"

enum { SLOT = SLOT_API0, HIGH = 100 };

static struct {
	size_t n, window, rounds, dim;
	bool flowing;
	const char *orchestrad, *dir;
} o = {.n = 16000, .window = 128, .rounds = 5, .dim = 1536};

static struct conf *conf;
static struct plant *plant;
static struct ring *requests, *answers;
static int fd_of[FD_AFTER_LAST], control;
static pid_t child;
enum { TXNS = 512, TOPICS = 64 };
static struct buf txns[TXNS]; /* the transactions that are sent again and again … */
static size_t id_at;	      /* … with another memory id here */
static uint64_t next_txn = 1, next_memory = 1;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	if (child > 0)
		kill(child, SIGKILL);
	exit(1);
}

/* ---- the supervisor's part ---- */

static int high(int fd)
{
	int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, HIGH);
	if (up < 0)
		die("descriptor");
	close(fd);
	return up;
}

/* `held`: the store waits until it is told; else as in daily life. */
static struct conf *load_conf(bool held)
{
	char dir[512], unix_path[512];
	const char *sets[] = {dir,
			      unix_path,
			      "api.workers=1",
			      "log.level=warn",
			      "journal.quota=8 GiB",
			      "sync.ack=journal",
			      held ? "sync.debounce_ms=60000" : "sync.debounce_ms=100",
			      held ? "sync.batch_max=100000" : "sync.batch_max=500"};
	struct conf_input in = {.sets = sets, .nsets = sizeof(sets) / sizeof(*sets)};
	char *error = NULL;
	snprintf(dir, sizeof(dir), "data.dir=%s", o.dir);
	snprintf(unix_path, sizeof(unix_path), "listen.unix=%s/s", o.dir);
	struct conf *c = conf_load(&in, &error);
	if (!c) {
		fprintf(stderr, "%s\n", error);
		exit(1);
	}
	return c;
}

static void hold_flush(bool held)
{
	struct conf *c = load_conf(held);
	int fd = conf_dump_effective(c);
	if (fd < 0 || !imsg_send(control, CTL_CONF_PREPARE, "", 0, fd) ||
	    !imsg_send(control, CTL_CONF_COMMIT, "", 0, -1))
		die("reload");
	close(fd);
	conf_free(&c);
	usleep(20000);
}

static void make_segments(void)
{
	size_t size;
	for (int i = 0; i < FD_AFTER_LAST; i++)
		fd_of[i] = -1;
	fd_of[FD_CONF] = high(conf_dump_effective(conf));
	fd_of[FD_SHM_PLANT] = high(shm_create("bench-plant", align_up(sizeof(struct plant), 4096)));
	fd_of[FD_SHM_RINGS] = high(
		shm_create("bench-rings", rings_segment_size((size_t)conf_int(conf, CONF_RING_BYTES))));
	fd_of[FD_SHM_PENDING] = high(
		shm_create("bench-pending", pending_segment_size((uint32_t)conf_int(conf, CONF_JOURNAL_PENDING_MAX))));
	fd_of[FD_SHM_CACHE] = high(
		shm_create("bench-cache", cache_segment_size((uint64_t)conf_int(conf, CONF_CACHE_L1_BYTES))));
	fd_of[FD_SHM_VECTORS] = high(
		shm_create("bench-vectors", vectors_segment_size((uint64_t)conf_int(conf, CONF_VECTORS_MAX_BYTES))));
	fd_of[FD_SHM_WORDS] = high(
		shm_create("bench-words", postings_segment_size((uint64_t)conf_int(conf, CONF_WORDS_MAX_BYTES))));
	fd_of[FD_VITALS] = high(shm_create("bench-vitals", align_up(sizeof(struct vitals), 4096)));
	for (int slot = 0; slot < SLOT_COUNT; slot++)
		fd_of[FD_WAKE0 + slot] = high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	plant = shm_map(fd_of[FD_SHM_PLANT], false, &size);
	if (!plant)
		die("plant");
}

static void start_sync(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		die("socketpair");
	control = high(pair[0]);
	fd_of[FD_CONTROL] = high(pair[1]);
	child = fork();
	if (child == 0) {
		char *argv[] = {(char *)(uintptr_t) "orchestra: sync", (char *)(uintptr_t) "--role=sync",
				(char *)(uintptr_t) "--slot=0", NULL};
		char *env[] = {(char *)(uintptr_t)ENV_INCARNATION "=1", NULL};
		for (int to = FD_CONTROL; to < FD_AFTER_LAST; to++)
			if (fd_of[to] == -1 ? close(to) && errno != EBADF : dup2(fd_of[to], to) == -1)
				_exit(1);
		execve(o.orchestrad, argv, env);
		_exit(127);
	}
	close(fd_of[FD_CONTROL]);
	uint32_t slot = SLOT_API0;
	if (!imsg_send(control, CTL_PEER_STARTED, &slot, sizeof(slot), -1))
		die("sync");
	for (int i = 0; i < 10000; i++) {
		if (atomic_load(&plant->sync_state) == SYNC_SERVING)
			return;
		if (waitpid(child, NULL, WNOHANG))
			break;
		usleep(1000);
	}
	errno = ETIMEDOUT;
	die("sync does not serve");
}

static void stop_sync(void)
{
	struct ctl_drain how = {.whole = 1};
	if (!imsg_send(control, CTL_DRAIN, &how, sizeof(how), -1))
		kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* ---- the api worker's part ---- */

static uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x9e3779b97f4a7c15u;
}

static void make_txn(struct buf *to, uint64_t *random)
{
	static float x[4096];
	char body[700],
		content[] = "Ada likes her tea without sugar, prefers short answers and wants meetings after ten; "
			    "she asked to be reminded of the release on Friday.";
	uint8_t pattern[16] = "\xf3\x91\x07\xc2~bench-memor";
	struct memory m = {.version = 1,
			   .importance = 0.5f,
			   .content = SPAN(content),
			   .ns_name = SPAN_LIT("default"),
			   .replaces_bytes = -1,
			   .dim = (uint32_t)o.dim};
	struct txn_builder t;
	double sum = 0;
	uint64_t topic = (draw(random) % TOPICS + 1) * 0xd6e8feb86659fd93u;
	for (size_t i = 0; i < o.dim; i++) { /* half its topic, half its own */
		x[i] = (float)((double)(draw(&topic) >> 40) + (double)(draw(random) >> 40) - 0x1p24);
		sum += (double)x[i] * x[i];
	}
	for (size_t i = 0; i < o.dim; i++)
		x[i] = (float)(x[i] / sqrt(sum));
	int n = snprintf(
		body, sizeof(body),
		"{\"id\":\"00000000-0000-7000-8000-000000000000\",\"namespace\":\"default\",\"content\":\"%s\","
		"\"importance\":0.5,\"embedding_model\":\"bench\",\"metadata\":{},\"created_at\":\"2026-01-01T00:00:00.000000Z\","
		"\"updated_at\":\"2026-01-01T00:00:00.000000Z\",\"version\":1}",
		content);
	m.ns = record_ns(m.ns_name);
	m.created_us = m.updated_us = clock_real_us();
	m.content_hash = record_content_key(m.ns, m.content);
	m.body = (struct span){body, (size_t)n};
	memcpy(m.id.b, pattern, sizeof(pattern));
	if (o.dim) {
		m.embedding = x;
		m.embedder = SPAN_LIT("bench");
	}
	txn_begin(&t, to, 1, SLOT, 0, 0);
	txn_op_put(&t, &m);
	txn_end(&t);
	char *at = memmem(to->p, to->len, pattern, sizeof(pattern));
	if (!at)
		die("the record's layout has changed");
	id_at = (size_t)(at - to->p);
}

/* Vectors that are all alike would be one cluster of the index, and the indexer's worst case. */
static void make_txns(void)
{
	uint64_t random = 1;
	for (size_t i = 0; i < TXNS; i++)
		make_txn(&txns[i], &random);
}

static bool send_one(uint32_t flags)
{
	const struct buf *txn = &txns[next_memory % TXNS]; /* all of one length */
	size_t len = sizeof(struct ring_msg_head) + txn->len;
	char *p = ring_reserve(requests, len);
	if (!p)
		return false;
	*(struct ring_msg_head *)(void *)p = (struct ring_msg_head){.type = MSG_TXN, .total = txn->len};
	p += sizeof(struct ring_msg_head);
	memcpy(p, txn->p, txn->len);
	struct txn_head *h = (void *)p;
	h->id = next_txn++;
	h->flags = flags;
	/* ascending, as UUIDv7 are */
	for (int i = 0; i < 8; i++)
		p[id_at + (size_t)i] = (char)(next_memory >> (56 - 8 * i));
	next_memory++;
	ring_commit(requests, len);
	return true;
}

static size_t take_answers(uint32_t want)
{
	uint64_t cursor = ring_head(answers);
	size_t len, n = 0;
	const struct txn_answer *a;
	while ((a = ring_peek(answers, &cursor, &len))) {
		if (a->status != TXN_OK && a->status != TXN_STORED) {
			fprintf(stderr, "sync refused a transaction (%u)\n", a->status);
			kill(child, SIGKILL);
			exit(1);
		}
		n += a->status == want;
		ring_advance(answers, cursor);
	}
	return n;
}

static void sleep_until_woken(void)
{
	struct wake *w = &plant->wake[SLOT];
	struct pollfd p = {.fd = fd_of[FD_WAKE0 + SLOT], .events = POLLIN};
	wake_prepare(w);
	if (!ring_empty(answers)) {
		wake_cancel(w);
		return;
	}
	if (poll(&p, 1, 60000) == 0) {
		errno = ETIMEDOUT;
		die("no answer");
	}
	wake_ack(w, p.fd);
}

static uint64_t syncs(void) { return stats_value(&plant->worker[SLOT_SYNC].stats, STAT_JOURNAL_SYNCS); }

static double child_cpu(void)
{
	char path[64], text[1024];
	unsigned long u = 0, s = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)child);
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	if (f)
		fclose(f);
	text[n] = 0;
	const char *p = strrchr(text, ')');
	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &u, &s) != 2)
		return 0;
	return (double)(u + s) / (double)sysconf(_SC_CLK_TCK);
}

struct round {
	double rate, group, cpu_us, flush;
};

static void run_sync(struct round *r)
{
	size_t sent = 0, done = 0;
	uint64_t syncs0 = syncs();
	double cpu = child_cpu();
	int64_t start = clock_mono_us();
	while (done < o.n) {
		size_t before = sent;
		while (sent < o.n && sent - done < o.window && send_one(0))
			sent++;
		if (sent != before)
			wake_signal(&plant->wake[SLOT_SYNC], fd_of[FD_WAKE0 + SLOT_SYNC]);
		size_t got = take_answers(TXN_OK);
		done += got;
		if (!got)
			sleep_until_woken();
	}
	int64_t took = clock_mono_us() - start;
	r->rate = (double)o.n / ((double)took / 1e6);
	r->group = (double)o.n / (double)(syncs() - syncs0);
	r->cpu_us = (child_cpu() - cpu) * 1e6 / (double)o.n;
}

/* One transaction that waits for the store lets the flush begin; its second answer ends it. */
static void run_flush(struct round *r)
{
	uint64_t from = atomic_load(&plant->flushed_seq), to;
	if (!o.flowing)
		hold_flush(false);
	int64_t start = clock_mono_us();
	if (!send_one(TXN_WAIT_STORE))
		die("ring");
	wake_signal(&plant->wake[SLOT_SYNC], fd_of[FD_WAKE0 + SLOT_SYNC]);
	while (!take_answers(TXN_STORED))
		sleep_until_woken();
	to = atomic_load(&plant->flushed_seq);
	r->flush = (double)(to - from) / ((double)(clock_mono_us() - start) / 1e6);
	if (!o.flowing)
		hold_flush(true);
}

/* ---- the bare writer ---- */

static int bare_file;
static char *source; /* as large as the ring and full of records: the writer reads as much memory as sync does */
static size_t stride, in_source;

static void bare_open(void)
{
	static char zeros[1 << 20];
	char path[600];
	stride = align_up(txns[0].len, CACHE_LINE);
	in_source = (size_t)conf_int(conf, CONF_RING_BYTES) / stride;
	source = util_zalloc(in_source * stride);
	for (size_t i = 0; i < in_source; i++)
		memcpy(source + i * stride, txns[i % TXNS].p, txns[0].len);
	snprintf(path, sizeof(path), "%s/bare.seg", o.dir);
	bare_file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	size_t need = o.n * (txns[0].len + 64);
	for (size_t at = 0; at < need; at += sizeof(zeros))
		if (pwrite(bare_file, zeros, sizeof(zeros), (off_t)at) != (ssize_t)sizeof(zeros))
			die(path);
	if (fsync(bare_file))
		die(path);
}

static double run_bare(size_t group)
{
	static struct rec_head heads[4096];
	static struct iovec v[3 * 4096];
	static const char pad[8];
	off_t at = 0;
	int64_t start = clock_mono_us();
	for (size_t done = 0; done < o.n;) {
		size_t n = o.n - done < group ? o.n - done : group, k = 0;
		ssize_t bytes = 0;
		for (size_t i = 0; i < n; i++) {
			char *record = source + (done + i) % in_source * stride;
			heads[i] = (struct rec_head){
				.magic = REC_MAGIC, .seq = done + i, .epoch = 1, .len = (uint32_t)txns[0].len};
			heads[i].crc = crc32c(crc32c(0, &heads[i], sizeof(heads[i])), record, txns[0].len);
			v[k++] = (struct iovec){&heads[i], sizeof(heads[i])};
			v[k++] = (struct iovec){record, txns[0].len};
			if (txns[0].len % 8)
				v[k++] = (struct iovec){(void *)(uintptr_t)pad, 8 - txns[0].len % 8};
		}
		for (size_t i = 0; i < k; i += 1024) {
			size_t some = k - i < 1024 ? k - i : 1024;
			ssize_t wrote = pwritev(bare_file, v + i, (int)some, at + bytes);
			if (wrote < 0)
				die("pwritev");
			bytes += wrote;
		}
		if (fdatasync(bare_file))
			die("fdatasync");
		at += bytes;
		done += n;
	}
	return (double)o.n / ((double)(clock_mono_us() - start) / 1e6);
}

/* ---- */

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), ascending);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void options(int argc, char **argv)
{
	int ch;
	while ((ch = getopt(argc, argv, "n:w:r:fD:")) != -1) {
		switch (ch) {
		case 'n': o.n = strtoul(optarg, NULL, 10); break;
		case 'w': o.window = strtoul(optarg, NULL, 10); break;
		case 'r': o.rounds = strtoul(optarg, NULL, 10); break;
		case 'f': o.flowing = true; break;
		case 'D': o.dim = strtoul(optarg, NULL, 10); break;
		default: exit(2);
		}
	}
	if (argc - optind != 2 || !o.rounds || o.rounds > 100 || !o.window || o.window > RINGS_IN_FLIGHT_MAX ||
	    o.dim > 4096) {
		fprintf(stderr, "usage: %s [-n RECORDS] [-w WINDOW] [-r ROUNDS] [-D DIM] [-f] ORCHESTRAD DATA_DIR\n",
			argv[0]);
		exit(2);
	}
	o.orchestrad = argv[optind];
	o.dir = argv[optind + 1];
}

int main(int argc, char **argv)
{
	double rate[100], bare[100], ratio[100], group[100], cpu[100], flush[100];
	struct round r;
	options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	mkdir(o.dir, 0700);
	conf = load_conf(!o.flowing);
	make_segments();
	make_txns();
	start_sync();
	size_t bytes = (size_t)conf_int(conf, CONF_RING_BYTES);
	requests = ring_open(fd_of[FD_SHM_RINGS], rings_request_offset(bytes, SLOT), bytes);
	answers = ring_open(fd_of[FD_SHM_RINGS], rings_answer_offset(bytes, SLOT), RINGS_ANSWER_BYTES);
	if (!requests || !answers)
		die("rings");
	bare_open();
	run_sync(&r); /* warms both up, and shows how large the groups are */
	run_flush(&r);
	usleep(300000);
	for (size_t i = 0; i < o.rounds; i++) {
		run_sync(&r);
		size_t g = (size_t)(r.group + 0.5);
		bare[i] = run_bare(g ? g : 1);
		rate[i] = r.rate;
		group[i] = r.group;
		cpu[i] = r.cpu_us;
		ratio[i] = rate[i] / bare[i];
		run_flush(&r);
		flush[i] = r.flush;
		usleep(300000); /* spare segments are made meanwhile */
	}
	stop_sync();
	printf("{\"record_bytes\":%zu,\"records\":%zu,\"window\":%zu,\"rounds\":%zu,\"group\":%.1f,\"sync_per_s\":%.0f,\"bare_per_s\":%.0f,"
	       "\"ratio\":%.3f,\"sync_cpu_us\":%.2f,\"flush_per_s\":%.0f}\n",
	       txns[0].len, o.n, o.window, o.rounds, median(group, o.rounds), median(rate, o.rounds),
	       median(bare, o.rounds), median(ratio, o.rounds), median(cpu, o.rounds), median(flush, o.rounds));
	return 0;
}
