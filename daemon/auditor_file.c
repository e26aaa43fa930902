/* The file of the audit log: where its chain ends, what a crash has left, its next entry, its next file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "audit.h"
#include "clock.h"
#include "auditor.h"
#include "fault.h"

/* The chain of the files before: this one has no entry yet. */
static bool chain_of_former(struct auditor_file *f, struct audit_line *l, struct buf *b)
{
	struct audit_files files;
	bool found = false;
	if (!audit_files_list(f->fd_dir, &files))
		return false;
	for (size_t i = files.n; i-- && !found;)
		found = strcmp(files.name[i], AUDIT_FILE) != 0 && audit_file_read(f->fd_dir, files.name[i], b) &&
			audit_last((struct span){b->p, b->len}, l) > 0;
	audit_files_free(&files);
	return found;
}

static void take_first(struct auditor_file *f, struct span text)
{
	struct audit_line l;
	const char *newline = text.len ? memchr(text.p, '\n', text.len) : NULL;
	f->first = f->seq + 1;
	if (newline && audit_line_read((struct span){text.p, (size_t)(newline - text.p)}, &l))
		f->first = l.seq;
}

/* Where the chain ends, and what lies behind. */
static void take_chain(struct auditor_file *f)
{
	struct buf b = {0}, former = {0};
	struct audit_line l;
	f->seq = f->size = f->torn_bytes = 0;
	f->repair = false;
	memcpy(f->hash, AUDIT_HASH_NONE, sizeof(f->hash));
	bool there = audit_file_read(f->fd_dir, AUDIT_FILE, &b);
	struct span text = {b.p, there ? b.len : 0};
	size_t end = audit_last(text, &l);
	if (end || chain_of_former(f, &l, &former)) {
		f->seq = l.seq;
		memcpy(f->hash, l.hash, AUDIT_HASH);
	}
	f->size = text.len;
	take_first(f, text);
	if (text.len && text.p[text.len - 1] != '\n' && end == text.len) {
		f->repair = true; /* whole, but for its newline */
	} else if (end < text.len) {
		f->repair = true;
		f->torn_bytes = text.len - end;
		audit_sha256((struct span){text.p + end, text.len - end}, f->torn_hash);
	}
	buf_free(&b);
	buf_free(&former);
}

static int open_file(struct auditor_file *f)
{
	if (f->fd_dir == -1)
		f->fd_dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->fd_dir == -1)
		return errno;
	bool there = faccessat(f->fd_dir, AUDIT_FILE, F_OK, 0) == 0;
	f->fd = openat(f->fd_dir, AUDIT_FILE, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd == -1)
		return errno;
	if (!there && fsync(f->fd_dir) == -1) {
		int e = errno;
		auditor_file_close(f);
		return e;
	}
	take_chain(f);
	return 0;
}

void auditor_file_close(struct auditor_file *f)
{
	if (f->fd != -1)
		close(f->fd);
	if (f->fd_dir != -1)
		close(f->fd_dir);
	f->fd = f->fd_dir = -1;
}

int auditor_file_sync(struct auditor_file *f)
{
	if (f->fd != -1 && fdatasync(f->fd) == 0)
		return 0;
	int e = f->fd == -1 ? EBADF : errno;
	auditor_file_close(f); /* what it holds is looked at anew */
	return e;
}

/* ---- the next file ---- */

static void prune(struct auditor_file *f, unsigned keep)
{
	struct audit_files files;
	if (!audit_files_list(f->fd_dir, &files))
		return;
	size_t former = 0;
	for (size_t i = 0; i < files.n; i++)
		former += strcmp(files.name[i], AUDIT_FILE) != 0;
	for (size_t i = 0; i < files.n && former > keep; i++, former--)
		(void)unlinkat(f->fd_dir, files.name[i], 0);
	audit_files_free(&files);
}

/* Its name is its first entry's number: one rename, whatever the number of files. */
static int rotate(struct auditor_file *f, const struct auditor_limits *limits)
{
	char name[40];
	audit_file_name(f->first, name);
	int e = auditor_file_sync(f);
	if (e)
		return e;
	if (renameat(f->fd_dir, AUDIT_FILE, f->fd_dir, name) == -1)
		return errno;
	FAULT_POINT(audit_renamed);
	close(f->fd);
	f->fd = openat(f->fd_dir, AUDIT_FILE, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd == -1 || fsync(f->fd_dir) == -1) {
		e = errno;
		auditor_file_close(f);
		return e;
	}
	FAULT_POINT(audit_rotated);
	f->size = 0;
	f->first = f->seq + 1;
	prune(f, limits->keep);
	return 0;
}

/* ---- an entry ---- */

static int write_all(struct auditor_file *f, const struct buf *b)
{
	FAULT_DO(audit_torn, (void)!write(f->fd, b->p, b->len / 2));
	ssize_t n = write(f->fd, b->p, b->len);
	if (n == (ssize_t)b->len)
		return 0;
	int e = n == -1 ? errno : ENOSPC;
	auditor_file_close(f); /* what is there of it is found torn at the next opening */
	return e;
}

static void mark_repair(const struct auditor_file *f, struct buf *fields)
{
	char time[CLOCK_TEXT];
	clock_format(clock_real_us(), time);
	buf_printf(fields,
		   "\"time\":\"%.*s\",\"who\":\"supervisor\",\"what\":\"repaired\",\"torn_bytes\":%llu,"
		   "\"torn_sha256\":\"%s\"",
		   CLOCK_TEXT, time, (unsigned long long)f->torn_bytes, f->torn_hash);
}

static int add_line(struct auditor_file *f, struct buf *b, struct span fields)
{
	char hash[65];
	audit_line_write(b, f->seq + 1, fields, f->hash, hash);
	int e = write_all(f, b);
	if (e)
		return e;
	f->seq++;
	f->size += b->len;
	memcpy(f->hash, hash, sizeof(hash));
	return 0;
}

static int repair(struct auditor_file *f)
{
	struct buf b = {0}, fields = {0};
	int e = 0;
	buf_addc(&b, '\n');
	if (f->torn_bytes) {
		mark_repair(f, &fields);
		FAULT_POINT(audit_repairing);
		e = add_line(f, &b, (struct span){fields.p, fields.len});
	} else {
		e = write_all(f, &b);
	}
	f->repair = e != 0;
	buf_free(&b);
	buf_free(&fields);
	return e;
}

int auditor_file_add(struct auditor_file *f, struct span fields, const struct auditor_limits *limits)
{
	struct buf b = {0};
	int e = f->fd == -1 ? open_file(f) : 0;
	if (!e && f->repair)
		e = repair(f);
	if (!e && f->seq + 1 > f->first && f->size + fields.len > limits->max_bytes)
		e = rotate(f, limits);
	if (!e)
		e = add_line(f, &b, fields);
	if (!e)
		FAULT_POINT(audit_written);
	buf_free(&b);
	return e;
}
