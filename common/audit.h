/* The audit log: who changed what, a line of JSON each, chained by hashes.
 *
 *	{"seq":7,"time":"…","who":"uid:0,pid:812","what":"set",…,"prev":"<64 hex>","hash":"<64 hex>"}
 *
 * `hash` is the SHA-256 of everything before `,"hash":"`, and `prev` the hash of the line before, across files: whoever
 * changes, removes or inserts a line anywhere but at the end breaks the chain, unless he writes all that follows anew.
 * Against that, and against cutting off the end, helps a hash that was noted elsewhere: each is logged, too.
 *
 * data.dir/audit.log grows to audit.max_bytes and is then renamed after its first entry (audit-000000000001.log), and so
 * nothing is ever written twice. A write that a crash has torn stays as it is; the next entry says so (what: "repaired",
 * torn_bytes, torn_sha256). Who writes is the supervisor alone (daemon/auditor.c); this here reads and forms lines. */
#ifndef ORC_AUDIT_H
#define ORC_AUDIT_H
#include "util.h"

#define AUDIT_FILE "audit.log"
#define AUDIT_LINE_MAX 16384 /* bytes of a line, newline included */
#define AUDIT_HASH 64	     /* hexadecimal digits */
#define AUDIT_HASH_NONE "0000000000000000000000000000000000000000000000000000000000000000"
#define AUDIT_FILES_MAX 1024

struct audit_line {
	struct span text; /* without its newline */
	uint64_t seq;
	const char *prev, *hash; /* AUDIT_HASH digits each, in text */
};
/* True: a whole line whose hash is right. Says nothing about its place in the chain. */
bool audit_line_read(struct span text, struct audit_line *line_r);
/* Appends a line and its newline; `fields` are the members between seq and prev: "\"who\":…". hash_r gets its hash and NUL. */
void audit_line_write(struct buf *b, uint64_t seq, struct span fields, const char *prev, char hash_r[AUDIT_HASH + 1]);
void audit_sha256(struct span s, char hex_r[AUDIT_HASH + 1]);

/* Its files, oldest first; names are malloc'ed. False: errno. */
struct audit_files {
	char *name[AUDIT_FILES_MAX];
	size_t n;
};
bool must_check audit_files_list(int dir, struct audit_files *f_r);
void audit_files_free(struct audit_files *f);
/* Name of a file whose first entry is seq. */
void audit_file_name(uint64_t seq, char out[40]);
/* The whole of a file; bytes that are appended meanwhile are not in it. False: errno. */
bool must_check audit_file_read(int dir, const char *name, struct buf *b);
/* Where the last good line of text ends, its newline included if it has one; *line_r. 0: there is none. */
size_t audit_last(struct span text, struct audit_line *line_r);

struct audit_verdict {
	bool ok;
	uint64_t entries, first, last, repaired;
	char head[AUDIT_HASH + 1]; /* hash of the last entry */
	/* when it is not ok */
	char file[40];
	unsigned long line; /* from 1, of that file */
	uint64_t offset;    /* of its first byte */
	char why[160];
	bool torn; /* it is the very end: a crash, or an entry that is being written */
	/* a hash that was noted: looked for */
	const char *expect; /* set by the caller before, or NULL */
	bool found;
};
/* The chain of all files, oldest first. False: they cannot be read (errno). */
bool must_check audit_verify(int dir, struct audit_verdict *v);
#endif
