/* How answers look to people. */
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "ctl.h"

#define PROGRESS_EVERY_US 100000
#define BAR 24

const char *output_colour(const struct ctl *c, enum colour k)
{
	static const char *const codes[] = {"\033[0m", "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m"};
	return c->colour ? codes[k] : "";
}

const char *output_str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

const char *output_count(const json_t *o, const char *key, char out[24])
{
	const json_t *v = json_object_get(o, key);
	if (v)
		snprintf(out, 24, "%lld", (long long)json_integer_value(v));
	else
		snprintf(out, 24, "-");
	return out;
}

void output_raw(const struct answer *a)
{
	fwrite(a->body.p, 1, a->body.len, stdout);
	if (a->body.len == 0 || a->body.p[a->body.len - 1] != '\n')
		putchar('\n');
}

json_t *output_parse(const struct answer *a)
{
	json_error_t e;
	json_t *o = json_loadb(a->body.p, a->body.len, 0, &e);
	if (!o)
		fprintf(stderr, "orchestractl: the daemon's answer is no JSON: %s\n", e.text);
	return o;
}

int output_problem(const struct answer *a)
{
	json_t *o = json_loadb(a->body.p ? a->body.p : "", a->body.len, 0, NULL);
	const char *title = output_str(o, "title"), *detail = output_str(o, "detail");
	if (!*title)
		title = output_str(o, "error");
	if (*title && *detail)
		fprintf(stderr, "orchestractl: %s: %s%s\n", title, detail,
			a->status == 401 ? " (--token-file FILE, or $ORCHESTRA_TOKEN)" : "");
	else if (*title)
		fprintf(stderr, "orchestractl: %s\n", title);
	else
		fprintf(stderr, "orchestractl: the daemon answered status %ld: %.500s\n", a->status,
			a->body.p ? a->body.p : "");
	json_decref(o);
	return CTL_FAILED;
}

/* Content comes from anybody: what could steer the terminal becomes a blank. C1 controls are the
 * two bytes C2 80 … C2 9F. */
void output_line(const char *text, int columns)
{
	const unsigned char *p = (const unsigned char *)text;
	int used = 0;
	bool blank = true;
	for (; *p; p++) {
		bool c1 = *p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;
		bool white = *p <= 0x20 || *p == 0x7f || c1;
		p += c1;
		if (white && blank)
			continue;
		bool begins = white || (*p & 0xc0) != 0x80;
		if (columns && begins && used >= columns - 1 && p[1]) {
			fputs("…", stdout);
			return;
		}
		used += begins;
		putchar(white ? ' ' : *p);
		blank = white;
	}
}

void output_bytes(double bytes, char out[16])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t i = 0;
	while (bytes >= 1023.5 && i + 1 < ARRAY_LEN(units)) { /* never "1024 KiB" */
		bytes /= 1024;
		i++;
	}
	snprintf(out, 16, i && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, units[i]);
}

void output_duration(double seconds, char out[16])
{
	long s = (long)seconds;
	if (s < 60)
		snprintf(out, 16, "%.1fs", seconds);
	else if (s < 3600)
		snprintf(out, 16, "%ldm %02lds", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, 16, "%ldh %02ldm", s / 3600, s % 3600 / 60);
	else
		snprintf(out, 16, "%ldd %02ldh", s / 86400 % 100000, s % 86400 / 3600);
}

/* ---- progress ---- */

void output_bar(const char *what, uint64_t done, uint64_t total, bool on)
{
	if (!on)
		return;
	int full = total ? (int)((double)(done < total ? done : total) / (double)total * BAR) : 0;
	fprintf(stderr, "\r\033[K%s [", what);
	for (int i = 0; i < BAR; i++)
		fputc(i < full ? '#' : '.', stderr);
	fprintf(stderr, "] %llu of %llu", (unsigned long long)done, (unsigned long long)total);
}

void progress_start(struct progress *p, const char *verb, uint64_t total_bytes)
{
	*p = (struct progress){
		.on = isatty(STDERR_FILENO), .verb = verb, .total_bytes = total_bytes, .started_us = clock_mono_us()};
}

static void show(struct progress *p, int64_t now)
{
	char bytes[16], rate[16];
	double seconds = (double)(now - p->started_us) / 1e6 + 1e-6;
	output_bytes((double)p->bytes, bytes);
	output_bytes((double)p->bytes / seconds, rate);
	fprintf(stderr, "\r\033[K%s ", p->verb);
	if (p->total_bytes) {
		int full = (int)((double)p->bytes / (double)p->total_bytes * BAR);
		fputc('[', stderr);
		for (int i = 0; i < BAR; i++)
			fputc(i < full ? '#' : '.', stderr);
		fprintf(stderr, "] %3.0f %%  ", (double)p->bytes * 100 / (double)p->total_bytes);
	}
	fprintf(stderr, "%s  %llu records", bytes, (unsigned long long)p->records);
	if (seconds > 0.2) /* before that, it is only what the buffers took */
		fprintf(stderr, "  %s/s  %.0f records/s", rate, (double)p->records / seconds);
}

void progress_piece(void *progress, const char *piece, size_t n)
{
	struct progress *p = progress;
	p->bytes += n;
	for (const char *at = piece; at && (at = memchr(at, '\n', n - (size_t)(at - piece))); at++)
		p->records++;
	int64_t now = p->on ? clock_mono_us() : 0;
	if (p->on && now - p->shown_us >= PROGRESS_EVERY_US) {
		show(p, now);
		p->shown_us = now;
	}
}

void progress_end(struct progress *p)
{
	if (!p->on)
		return;
	show(p, clock_mono_us());
	fputc('\n', stderr);
}
