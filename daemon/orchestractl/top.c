/* orchestractl top: the daemon's figures, again and again. It asks as any client does: one page of metrics, the process tree
 * and /readyz a frame. */
#include "top.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "clock.h"

#define DELAY_DEFAULT_MS 2000
#define DELAY_MIN_MS 200
#define DELAY_MAX_MS 60000
#define FIRST_MS 500 /* until the first rates are shown */
#define ALTERNATE "\033[?1049h\033[?25l"
#define NORMAL "\033[?25h\033[?1049l"

static struct termios usual;
static volatile sig_atomic_t asked_to_stop;

/* ---- readings ---- */

static json_t *ask(struct ctl *c, const char *path)
{
	struct answer a;
	json_t *o = NULL;
	bool quiet = c->quiet;
	c->quiet = true;
	if (client_request(c, "GET", path, NULL, &a) == CTL_OK && (a.status == 200 || a.status == 503))
		o = json_loadb(a.body.p, a.body.len, 0, NULL);
	client_free(&a);
	c->quiet = quiet;
	return o;
}

static void reading_free(struct top_reading *r)
{
	scrape_free(&r->metrics);
	json_decref(r->status);
	json_decref(r->ready);
	*r = (struct top_reading){0};
}

/* False: the daemon did not answer, which was said. */
static bool take_reading(struct top *t)
{
	struct top_reading r = {.metrics = scrape_read(t->c)};
	if (!r.metrics)
		return false;
	r.status = ask(t->c, "/v1/admin/status");
	r.ready = ask(t->c, "/readyz");
	reading_free(&t->last);
	t->last = t->now;
	t->now = r;
	double rate = t->last.metrics ? top_requests(t, NULL) : NAN;
	if (isnan(rate))
		return true;
	if (t->nhistory == TOP_HISTORY)
		memmove(t->history, t->history + 1, --t->nhistory * sizeof(*t->history));
	t->history[t->nhistory++] = rate;
	return true;
}

/* ---- the terminal ---- */

static void on_signal(int sig)
{
	(void)sig;
	asked_to_stop = 1;
}

static void leave_screen(void)
{
	(void)!write(STDOUT_FILENO, NORMAL, sizeof(NORMAL) - 1);
	(void)tcsetattr(STDIN_FILENO, TCSANOW, &usual);
}

static void enter_screen(void)
{
	struct sigaction sa = {.sa_handler = on_signal};
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	if (tcgetattr(STDIN_FILENO, &usual) == 0) {
		struct termios raw = usual;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	(void)!write(STDOUT_FILENO, ALTERNATE, sizeof(ALTERNATE) - 1);
}

static void show(struct top *t, bool screen)
{
	struct buf text = {0}, out = {0};
	struct winsize w;
	t->rows = t->columns = 0;
	if (screen && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0) {
		t->rows = w.ws_row;
		t->columns = w.ws_col;
	}
	top_draw(t, &text);
	buf_addc(&text, '\0');
	int line = 0;
	if (screen)
		buf_adds(&out, "\033[H");
	for (const char *p = text.p; *p && !(screen && t->rows && line >= t->rows); line++) {
		size_t n = strcspn(p, "\n");
		if (screen && line)
			buf_addc(&out, '\n');
		buf_add(&out, p, n);
		buf_adds(&out, screen ? "\033[K" : "\n");
		p += n + (p[n] == '\n');
	}
	buf_adds(&out, screen ? "\033[J" : "\n");
	fwrite(out.p, 1, out.len, stdout);
	fflush(stdout);
	buf_free(&text);
	buf_free(&out);
}

/* Waits for the next frame, or for a key. False: to leave. */
static bool pause_for(int64_t until_us, int *delay_ms, bool keys)
{
	while (!asked_to_stop) {
		int64_t left = (until_us - clock_mono_us()) / 1000;
		struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
		int n = left <= 0 ? 0 : poll(&p, keys, (int)left);
		char key;
		if (n == 0)
			return true;
		if (n < 0)
			continue; /* a signal: the window has another size, or we are to leave */
		if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q' || key == 3)
			return false;
		if (key == '+' && *delay_ms > DELAY_MIN_MS)
			*delay_ms = *delay_ms / 2 < DELAY_MIN_MS ? DELAY_MIN_MS : *delay_ms / 2;
		if (key == '-' && *delay_ms < DELAY_MAX_MS)
			*delay_ms = *delay_ms * 2 > DELAY_MAX_MS ? DELAY_MAX_MS : *delay_ms * 2;
		return true; /* any other key: at once */
	}
	return false;
}

/* ---- the command ---- */

static int run(struct top *t, int delay_ms, long frames)
{
	bool screen = t->c->terminal && !t->c->json && isatty(STDIN_FILENO) && frames != 1, ok = take_reading(t);
	if (!ok)
		return CTL_UNREACHABLE;
	if (screen)
		enter_screen();
	for (long frame = 0; ok && (!frames || frame < frames); frame++) {
		int ms = frame ? delay_ms : delay_ms < FIRST_MS ? delay_ms : FIRST_MS;
		if (!pause_for(clock_mono_us() + (int64_t)ms * 1000, &delay_ms, screen))
			break;
		ok = take_reading(t);
		if (ok && t->c->json) {
			json_t *o = top_json(t);
			json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
			putchar('\n');
			fflush(stdout);
			json_decref(o);
		} else if (ok) {
			show(t, screen);
		}
	}
	if (screen)
		leave_screen();
	reading_free(&t->last);
	reading_free(&t->now);
	return ok ? CTL_OK : CTL_UNREACHABLE;
}

static bool parse_number(const char *text, double least, double most, double *out)
{
	char *end;
	errno = 0;
	*out = strtod(text, &end);
	return end != text && !*end && !errno && *out >= least && *out <= most;
}

int top_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {{"delay", required_argument, NULL, 'd'},
						{"frames", required_argument, NULL, 'n'},
						{"once", no_argument, NULL, '1'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	struct top *t = util_zalloc(sizeof(*t));
	double delay = DELAY_DEFAULT_MS / 1000.0, frames = 0;
	int opt, code = CTL_OK;
	bool go = true;
	while (go && (opt = ctl_options(argc, argv, ":d:n:1h", options)) != -1) {
		switch (opt) {
		case 'd':
			if (!parse_number(optarg, DELAY_MIN_MS / 1000.0, DELAY_MAX_MS / 1000.0, &delay))
				code = ctl_usage("top: --delay: expected seconds from %.1f to %d, not \"%s\"",
						 DELAY_MIN_MS / 1000.0, DELAY_MAX_MS / 1000, optarg);
			break;
		case 'n':
			if (!parse_number(optarg, 1, 1e9, &frames))
				code = ctl_usage("top: --frames: expected how many, from 1, not \"%s\"", optarg);
			break;
		case '1': frames = 1; break;
		case 'h':
			puts("Usage: orchestractl top [--delay SECONDS] [--frames N | --once]\n"
			     "Shows requests, latencies, writes, caches and processes, again every 2 seconds.\n"
			     "Keys: q leaves, + and - change the pace, any other shows the next frame at once.\n"
			     "--once prints one frame, and --json each as a line for scripts.");
			go = false;
			break;
		default: code = CTL_USAGE;
		}
		go = go && code == CTL_OK;
	}
	if (go && optind < argc)
		code = ctl_usage("top: unexpected \"%s\"", argv[optind]);
	else if (go) {
		t->c = c;
		c->keep_open = true;
		code = run(t, (int)(delay * 1000), (long)frames);
	}
	free(t);
	return code;
}
