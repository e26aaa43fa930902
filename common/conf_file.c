/* Reading configuration files: includes, and what libconfig 1.5 would silently get wrong.
 *
 * libconfig reads the text, but never the file: a file is cut at its @include lines, which makes
 * a later file able to override an earlier one (libconfig refuses a key that comes twice), keeps
 * absolute paths absolute, and leaves true file names and line numbers in every message.
 *
 * The scanner below knows comments and strings and looks for what libconfig takes without a word:
 * whole numbers beyond 31 bits (4294967296 becomes 0) and \x00 in strings (the rest is lost). */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf-private.h"

struct reading {
	struct conf_loading *l;
	void (*segment)(struct conf_loading *l, const struct conf_segment *s);
	unsigned files, depth;
	const char *open[CONF_DEPTH_MAX + 1]; /* the chain of files being read */
};

struct scan {
	struct reading *r;
	const char *file;
	char *p; /* next byte; the text ends with a NUL */
	unsigned line;
	int braces; /* depth of {}, (), [] */
	char *from; /* begin of the segment */
	unsigned from_line;
	bool line_start; /* only blanks since the last newline */
	unsigned clean;	 /* errors known when the segment began */
};

static void read_path(struct reading *r, const char *path, const char *where);

/* The whole of a regular file or pipe, NUL-terminated; CR before LF and a leading BOM go. */
static bool slurp(int fd, struct buf *b)
{
	ssize_t n;
	do {
		buf_reserve(b, 16384);
		n = read(fd, b->p + b->len, b->cap - b->len - 1);
		if (n > 0)
			b->len += (size_t)n;
	} while ((n > 0 || (n == -1 && errno == EINTR)) && b->len <= CONF_FILE_MAX);
	if (n == -1)
		return false;
	b->p[b->len] = '\0';
	return true;
}

static void tidy(struct buf *b)
{
	size_t from = b->len >= 3 && memcmp(b->p, "\xef\xbb\xbf", 3) == 0 ? 3 : 0, to = 0;
	for (; from < b->len; from++)
		if (b->p[from] != '\r' || b->p[from + 1] != '\n')
			b->p[to++] = b->p[from];
	b->len = to;
	b->p[to] = '\0';
}

static void flush(struct scan *s, char *to)
{
	struct conf_segment seg = {s->file, s->from_line, s->from};
	char keep = *to;
	*to = '\0';
	/* After a complaint of ours libconfig's would be about the same places, and worse. */
	if (*s->from && s->r->l->nerrors == s->clean)
		s->r->segment(s->r->l, &seg);
	*to = keep;
}

static void skip_comment(struct scan *s)
{
	if (*s->p == '#' || s->p[1] == '/') {
		s->p += strcspn(s->p, "\n");
		return;
	}
	unsigned began = s->line;
	for (s->p += 2; *s->p && !(s->p[0] == '*' && s->p[1] == '/'); s->p++)
		s->line += *s->p == '\n';
	if (*s->p)
		s->p += 2;
	else
		conf_error(s->r->l, "%s:%u: this comment never ends; close it with */", s->file, began);
}

static void skip_string(struct scan *s)
{
	unsigned began = s->line;
	for (s->p++; *s->p && *s->p != '"'; s->p++) {
		s->line += *s->p == '\n';
		if (*s->p != '\\' || !s->p[1])
			continue;
		if (s->p[1] == 'x' && s->p[2] == '0' && s->p[3] == '0')
			conf_error(s->r->l, "%s:%u: \\x00 in a string; a value cannot contain a NUL byte", s->file,
				   s->line);
		s->p++;
		s->line += *s->p == '\n';
	}
	if (*s->p)
		s->p++;
	else
		conf_error(s->r->l, "%s:%u: this string never ends; close it with \"", s->file, began);
}

static bool is_word(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '*' ||
	       c == '-' || c == '.';
}

/* A word that begins with a digit: a number for libconfig. */
static void check_number(struct scan *s, const char *p, size_t len)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(p, &end, p[0] == '0' && (p[1] | 32) == 'x' ? 16 : 10);
	bool wide = *end == 'L' || *end == 'l';
	if (end != p + len && !(wide && end <= p + len)) /* a float, or a name such as 4x */
		return;
	if (errno == ERANGE || v > (wide ? (unsigned long long)INT64_MAX : (unsigned long long)INT32_MAX))
		conf_error(s->r->l,
			   "%s:%u: the bare number %.*s is beyond %s; write it as a string with a unit, "
			   "for example \"4 GiB\" or \"30 d\"",
			   s->file, s->line, (int)(len < 40 ? len : 40), p, wide ? "63 bits" : "31 bits");
}

static void skip_word(struct scan *s)
{
	char *p = s->p;
	while (is_word(*s->p))
		s->p++;
	if (*p == '-' && p[1])
		p++;
	if (*p >= '0' && *p <= '9')
		check_number(s, p, (size_t)(s->p - p));
}

/* The file named in an include line: relative to the folder of the file that includes it. */
static void read_included(struct scan *s, const char *name, size_t len)
{
	const char *slash = strrchr(s->file, '/');
	struct buf path = {0}, where = {0};
	if (*name != '/' && slash)
		buf_add(&path, s->file, (size_t)(slash - s->file) + 1);
	buf_add(&path, name, len);
	buf_addc(&path, '\0');
	buf_printf(&where, "%s:%u: ", s->file, s->line);
	buf_addc(&where, '\0');
	read_path(s->r, path.p, where.p);
	buf_free(&path);
	buf_free(&where);
}

/* At `@include`: the segment so far, then the other file, then on behind the name. */
static void include(struct scan *s)
{
	char *at = s->p + strlen("@include");
	at += strspn(at, " \t");
	size_t len = *at == '"' ? strcspn(at + 1, "\"\n") : 0;
	bool whole = len && at[1 + len] == '"';
	if (!whole || s->braces != 0) {
		conf_error(s->r->l,
			   whole ? "%s:%u: @include inside a group or list; move it outside, to a line of its own"
				 : "%s:%u: expected @include \"file\"",
			   s->file, s->line);
		s->p += strcspn(s->p, "\n");
		return;
	}
	flush(s, s->p);
	read_included(s, at + 1, len);
	s->p = s->from = at + len + 2;
	s->from_line = s->line;
	s->clean = s->r->l->nerrors;
}

static void scan_text(struct scan *s)
{
	while (*s->p) {
		char c = *s->p;
		if (c == '#' || (c == '/' && (s->p[1] == '/' || s->p[1] == '*'))) {
			skip_comment(s);
		} else if (c == '"') {
			s->line_start = false;
			skip_string(s);
		} else if (c == '@' && s->line_start && strncmp(s->p, "@include", 8) == 0) {
			s->line_start = false;
			include(s);
		} else if (is_word(c)) {
			s->line_start = false;
			skip_word(s);
		} else {
			s->line += c == '\n';
			s->line_start = c == '\n' || (s->line_start && (c == ' ' || c == '\t'));
			s->braces += c == '{' || c == '(' || c == '[';
			s->braces -= c == '}' || c == ')' || c == ']';
			s->p++;
		}
	}
	flush(s, s->p);
}

static const struct conf_draft *draft_of(const struct reading *r, const char *path)
{
	const struct conf_input *in = r->l->in;
	for (size_t i = 0; i < in->ndrafts; i++)
		if (strcmp(in->drafts[i].file, path) == 0)
			return &in->drafts[i];
	return NULL;
}

static int open_file(struct reading *r, const char *path, const char *where)
{
	struct stat st;
	for (unsigned i = 0; i < r->depth; i++)
		if (strcmp(r->open[i], path) == 0) {
			conf_error(r->l, "%s%s includes itself", where, path);
			return -1;
		}
	if (r->depth > CONF_DEPTH_MAX || ++r->files > CONF_FILES_MAX) {
		conf_error(r->l, "%s%s: too many includes; at most %d files, %d deep", where, path, CONF_FILES_MAX,
			   CONF_DEPTH_MAX);
		return -1;
	}
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1 || fstat(fd, &st) == -1) {
		conf_error(r->l, "%scannot read %s: %s", where, path, strerror(errno));
	} else if (S_ISDIR(st.st_mode)) {
		conf_error(r->l, "%scannot read %s: it is a directory; name a file", where, path);
		close(fd);
		fd = -1;
	}
	return fd;
}

static void read_path(struct reading *r, const char *path, const char *where)
{
	struct buf b = {0};
	int fd = open_file(r, path, where);
	if (fd == -1)
		return;
	const struct conf_draft *draft = draft_of(r, path);
	if (draft) {
		buf_add(&b, draft->text.p, draft->text.len);
		buf_addc(&b, '\0');
		b.len--;
	}
	if (!draft && !slurp(fd, &b)) {
		conf_error(r->l, "%scannot read %s: %s", where, path, strerror(errno));
	} else if (b.len > CONF_FILE_MAX) {
		conf_error(r->l, "%s%s is larger than 4 MiB: no configuration", where, path);
	} else if (memchr(b.p, '\0', b.len)) {
		conf_error(r->l, "%s%s contains a NUL byte: no text file", where, path);
	} else {
		tidy(&b);
		struct scan s = {.r = r,
				 .file = path,
				 .p = b.p,
				 .line = 1,
				 .from = b.p,
				 .from_line = 1,
				 .line_start = true,
				 .clean = r->l->nerrors};
		r->open[r->depth++] = path;
		scan_text(&s);
		r->depth--;
	}
	close(fd);
	buf_free(&b);
}

void conf_file_read(struct conf_loading *l, const char *path,
		    void (*segment)(struct conf_loading *l, const struct conf_segment *s))
{
	struct reading r = {.l = l, .segment = segment};
	read_path(&r, path, "");
}
