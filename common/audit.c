#include "audit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 31)
#define HASH_AT ",\"hash\":\""
#define PREV_AT ",\"prev\":\""
#define LINE_END "\"}"
/* From the last comma of a line, or the last but one, to its end. */
#define HASH_TAIL (sizeof(HASH_AT) - 1 + AUDIT_HASH + sizeof(LINE_END) - 1)
#define PREV_TAIL (sizeof(PREV_AT) - 1 + AUDIT_HASH + 1 + HASH_TAIL)

void audit_sha256(struct span s, char hex_r[AUDIT_HASH + 1])
{
	unsigned char raw[SHA256_DIGEST_LENGTH];
	SHA256((const unsigned char *)s.p, s.len, raw);
	util_hex(raw, sizeof(raw), hex_r);
	hex_r[AUDIT_HASH] = '\0';
}

/* ---- lines ---- */

static bool at(const char *p, const char *literal, size_t len) { return memcmp(p, literal, len) == 0; }

bool audit_line_read(struct span text, struct audit_line *line_r)
{
	static const char head[] = "{\"seq\":";
	char hash[AUDIT_HASH + 1];
	size_t n = sizeof(head) - 1;
	if (text.len < n + 2 + PREV_TAIL || text.len > AUDIT_LINE_MAX || !at(text.p, head, n))
		return false;
	const char *end = text.p + text.len, *p = text.p + n;
	if (!at(end - HASH_TAIL, HASH_AT, sizeof(HASH_AT) - 1) || !at(end - PREV_TAIL, PREV_AT, sizeof(PREV_AT) - 1) ||
	    !at(end - 2, LINE_END, 2))
		return false;
	uint64_t seq = 0;
	for (; *p >= '0' && *p <= '9' && seq < UINT64_MAX / 10; p++)
		seq = seq * 10 + (uint64_t)(*p - '0');
	*line_r = (struct audit_line){.text = text,
				      .seq = seq,
				      .prev = end - PREV_TAIL + sizeof(PREV_AT) - 1,
				      .hash = end - HASH_TAIL + sizeof(HASH_AT) - 1};
	audit_sha256((struct span){text.p, text.len - HASH_TAIL}, hash);
	return *p == ',' && seq && at(line_r->hash, hash, AUDIT_HASH);
}

void audit_line_write(struct buf *b, uint64_t seq, struct span fields, const char *prev, char hash_r[AUDIT_HASH + 1])
{
	size_t from = b->len;
	buf_printf(b, "{\"seq\":%llu,", (unsigned long long)seq);
	buf_add(b, fields.p, fields.len);
	buf_printf(b, PREV_AT "%.*s\"", AUDIT_HASH, prev);
	audit_sha256((struct span){b->p + from, b->len - from}, hash_r);
	buf_printf(b, HASH_AT "%s" LINE_END "\n", hash_r);
}

size_t audit_last(struct span text, struct audit_line *line_r)
{
	size_t end = text.len;
	while (end) {
		size_t to = end - (text.p[end - 1] == '\n');
		const char *newline = to ? memrchr(text.p, '\n', to) : NULL;
		size_t from = newline ? (size_t)(newline - text.p) + 1 : 0;
		if (audit_line_read((struct span){text.p + from, to - from}, line_r))
			return end;
		end = from;
	}
	return 0;
}

/* ---- files ---- */

void audit_file_name(uint64_t seq, char out[40]) { snprintf(out, 40, "audit-%012llu.log", (unsigned long long)seq); }

static bool is_former(const char *name)
{
	size_t len = strlen(name), digits = len > 6 ? strspn(name + 6, "0123456789") : 0;
	return strncmp(name, "audit-", 6) == 0 && digits >= 12 && len < 40 && strcmp(name + 6 + digits, ".log") == 0;
}

/* By number: longer names are later. */
static int by_number(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	size_t n = strlen(x), m = strlen(y);
	return n != m ? (n > m) - (n < m) : strcmp(x, y);
}

bool audit_files_list(int dir, struct audit_files *f_r)
{
	f_r->n = 0;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	if (!d) {
		if (fd != -1)
			close(fd);
		return false;
	}
	for (const struct dirent *e; (e = readdir(d));)
		if (is_former(e->d_name) && f_r->n < AUDIT_FILES_MAX - 1)
			f_r->name[f_r->n++] = util_strndup(e->d_name, strlen(e->d_name));
	qsort(f_r->name, f_r->n, sizeof(*f_r->name), by_number);
	if (faccessat(dir, AUDIT_FILE, F_OK, 0) == 0)
		f_r->name[f_r->n++] = util_strndup(AUDIT_FILE, strlen(AUDIT_FILE));
	closedir(d);
	return true;
}

void audit_files_free(struct audit_files *f)
{
	while (f->n)
		free(f->name[--f->n]);
}

bool audit_file_read(int dir, const char *name, struct buf *b)
{
	struct stat st;
	ssize_t n = 1;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	b->len = 0;
	if (fd == -1)
		return false;
	bool ok = fstat(fd, &st) == 0;
	if (ok && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_MAX)) {
		errno = EFBIG;
		ok = false;
	}
	buf_reserve(b, ok ? (size_t)st.st_size + 1 : 1);
	while (ok && n > 0 && b->len < (size_t)st.st_size) {
		n = read(fd, b->p + b->len, (size_t)st.st_size - b->len);
		b->len += n > 0 ? (size_t)n : 0;
		ok = n >= 0 || errno == EINTR;
	}
	int e = errno;
	close(fd);
	errno = e;
	return ok;
}

/* ---- the chain ---- */

/* What does not belong to the chain since its last good line: torn, if the next entry says so. */
struct run {
	uint64_t offset, bytes;
	unsigned long line;
	size_t file;
	bool any, whole; /* whole: a line among them that only looks as if it were one */
	struct buf text;
};

static bool looks_whole(struct span s)
{
	return s.len > HASH_TAIL && at(s.p + s.len - HASH_TAIL, HASH_AT, sizeof(HASH_AT) - 1) &&
	       at(s.p + s.len - 2, LINE_END, 2);
}

/* Does this entry account for exactly those bytes? */
static bool accounts_for(const struct audit_line *l, const struct run *r)
{
	char hash[AUDIT_HASH + 1];
	json_t *o = json_loadb(l->text.p, l->text.len, 0, NULL);
	const char *what = json_string_value(json_object_get(o, "what")),
		   *sum = json_string_value(json_object_get(o, "torn_sha256"));
	size_t len = r->text.len ? r->text.len - 1 : 0; /* without the newline that came with the entry */
	audit_sha256((struct span){r->text.p, len}, hash);
	bool ok = what && sum && strcmp(what, "repaired") == 0 && !r->whole &&
		  json_integer_value(json_object_get(o, "torn_bytes")) == (json_int_t)len && strcmp(sum, hash) == 0;
	json_decref(o);
	return ok;
}

struct walk {
	struct audit_verdict *v;
	const struct audit_files *files;
	struct run run;
	size_t file;
};

static bool broken(struct walk *w, size_t file, unsigned long line, uint64_t offset, const char *why)
{
	struct audit_verdict *v = w->v;
	v->ok = false;
	snprintf(v->file, sizeof(v->file), "%s", w->files->name[file]);
	snprintf(v->why, sizeof(v->why), "%s", why);
	v->line = line;
	v->offset = offset;
	return false;
}

static bool run_broken(struct walk *w, const char *why)
{
	return broken(w, w->run.file, w->run.line, w->run.offset, why);
}

static void add_to_run(struct walk *w, struct span text, bool newline, unsigned long line, uint64_t offset)
{
	struct run *r = &w->run;
	if (!r->any) {
		r->file = w->file;
		r->line = line;
		r->offset = offset;
	}
	r->any = true;
	r->whole |= looks_whole(text);
	buf_add(&r->text, text.p, text.len + newline);
}

static bool take_good(struct walk *w, const struct audit_line *l, unsigned long line, uint64_t offset)
{
	struct audit_verdict *v = w->v;
	if (w->run.any && !accounts_for(l, &w->run))
		return run_broken(w, "is not as it was written: its hash is wrong");
	v->repaired += w->run.any;
	w->run.any = w->run.whole = false;
	w->run.text.len = 0;
	if (v->entries && l->seq != v->last + 1)
		return broken(w, w->file, line, offset, "does not follow the entry before it: entries are missing");
	if (v->entries && memcmp(l->prev, v->head, AUDIT_HASH) != 0)
		return broken(w, w->file, line, offset,
			      "does not belong to the entry before it: prev is another's hash");
	v->first = v->entries++ ? v->first : l->seq;
	v->last = l->seq;
	memcpy(v->head, l->hash, AUDIT_HASH);
	v->found |= v->expect && memcmp(v->expect, l->hash, AUDIT_HASH) == 0;
	return true;
}

static bool walk_file(struct walk *w, struct span text)
{
	unsigned long line = 0;
	for (size_t from = 0; from < text.len;) {
		const char *newline = memchr(text.p + from, '\n', text.len - from);
		struct span s = {text.p + from, newline ? (size_t)(newline - text.p) - from : text.len - from};
		struct audit_line l;
		line++;
		if (!audit_line_read(s, &l) || !newline)
			add_to_run(w, s, newline != NULL, line, from);
		else if (!take_good(w, &l, line, from))
			return false;
		from += s.len + (newline != NULL);
	}
	return true;
}

bool audit_verify(int dir, struct audit_verdict *v)
{
	struct audit_files files;
	struct walk w = {.v = v, .files = &files};
	struct buf b = {0};
	if (!audit_files_list(dir, &files))
		return false;
	v->ok = true;
	memcpy(v->head, AUDIT_HASH_NONE, AUDIT_HASH);
	bool read = true;
	for (; w.file < files.n && v->ok && read; w.file++) {
		read = audit_file_read(dir, files.name[w.file], &b);
		if (read)
			(void)walk_file(&w, (struct span){b.p, b.len});
	}
	if (read && v->ok && w.run.any) {
		v->torn = w.run.file == files.n - 1 && w.run.text.p[w.run.text.len - 1] != '\n';
		(void)run_broken(
			&w,
			v->torn ? "is cut off: a write that a crash has torn (the next entry will say so), or somebody"
				: "is not as it was written: its hash is wrong");
	}
	int e = errno;
	buf_free(&b);
	buf_free(&w.run.text);
	audit_files_free(&files);
	errno = e;
	return read;
}
