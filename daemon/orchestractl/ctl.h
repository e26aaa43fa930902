/* orchestractl: talks to a running daemon over its Unix socket. One file per family of commands. */
#ifndef ORC_CTL_H
#define ORC_CTL_H

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>

#include "util.h"

/* What scripts rely on. */
enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2, CTL_UNREACHABLE = 3 };

struct ctl {
	const char *socket;    /* Unix socket of the API */
	const char *url;       /* http:// or https:// instead, or NULL: then `socket` only names it */
	const char *cacert;    /* for https: authorities in PEM; NULL: those of the system */
	char *authorization;   /* "Authorization: Bearer …", or NULL */
	const char *namespace; /* NULL: the default one */
	bool json;	       /* print the daemon's JSON as it is */
	bool terminal;	       /* standard output is one */
	bool colour;
	bool keep_open;	 /* requests share a connection: many of them are timed */
	bool quiet;	 /* somebody else is asked next: do not complain … */
	long timeout_ms; /* … and do not wait longer than this; 0 = as long as it takes */
	int width;	 /* columns of the terminal; 0 = do not cut lines */
};

struct command {
	const char *name, *arguments, *text;
	int (*run)(struct ctl *c, int argc, char **argv); /* argv[0] is the command's name */
};

/* ---- client.c ---- */
struct answer {
	long status;	 /* 0: nothing came */
	struct buf body; /* NUL-terminated behind len */
};
/* One request; body NULL for none. CTL_OK when the daemon answered anything at all;
 * CTL_UNREACHABLE: said why on standard error. */
int must_check client_request(struct ctl *c, const char *method, const char *path, const char *body, struct answer *a);
void client_free(struct answer *a);
/* Asks the daemon, and shows what it answers: as it is with --json, else by `show`. What is not 200 is an error, which is said. */
int client_show(struct ctl *c, const char *method, const char *path, const char *body,
		void (*show)(struct ctl *c, const json_t *o));
/* Streams the reply to `out`. on_bytes (may be NULL) sees each piece. */
typedef void client_piece_fn(void *arg, const char *p, size_t n);
int must_check client_download(struct ctl *c, const char *path, FILE *out, client_piece_fn *on_piece, void *arg,
			       struct answer *a);
/* Streams `in` as the body of a POST. */
int must_check client_upload(struct ctl *c, const char *path, FILE *in, client_piece_fn *on_piece, void *arg,
			     struct answer *a);
/* Percent-encoded for a path or query; the caller frees. */
char *client_escape(const char *text);
/* "/v1/x" + "?a=b&c=d" from the pairs whose value is not NULL; the caller frees. */
char *client_path(const char *path, const char *const (*pairs)[2], size_t n);
/* A connection to PATH.ctl; -1: said why, unless quiet. */
int must_check client_control_open(const struct ctl *c);
/* A line to PATH.ctl; the answer's line goes to *a (status 200, or 500 when it says ok: false). With
 * `until_gone`, returns only when the daemon has closed the socket. */
int must_check client_control(struct ctl *c, const char *line, bool until_gone, struct answer *a);

/* The API first: it knows who is allowed to; then the supervisor's own socket, which lets in who owns the daemon and works when
 * no api worker lives. Waits for either no longer than patience_ms. */
#define CLIENT_PATIENCE_MS 7000
int must_check client_ask(struct ctl *c, long patience_ms, const char *method, const char *path, const char *body,
			  const char *line, struct answer *a);
/* What follows goes to the daemon at a socket's path or an address (http://…, https://…), which must live as long.
 * CTL_USAGE: said why not. */
int must_check client_aim(struct ctl *c, const char *name);

/* ---- output.c ---- */
/* Prints the problem of an answer that is no success (RFC 9457) on standard error; CTL_FAILED. */
int output_problem(const struct answer *a);
/* Parses the body; NULL: said so on standard error. */
json_t *output_parse(const struct answer *a);
void output_raw(const struct answer *a);
enum colour { C_PLAIN, C_BOLD, C_DIM, C_RED, C_GREEN, C_YELLOW };
const char *output_colour(const struct ctl *c, enum colour k);
/* `text` in one line (controls and newlines become blanks), cut to `columns` (0: not) with an ellipsis. */
void output_line(const char *text, int columns);
void output_bytes(double bytes, char out[16]);				  /* "1.2 MiB" */
void output_duration(double seconds, char out[16]);			  /* "3h 12m" */
const char *output_str(const json_t *o, const char *key);		  /* "" when missing */
const char *output_count(const json_t *o, const char *key, char out[24]); /* "-" when missing */

/* A bar on standard error in the line that the cursor is in, when `on`. */
void output_bar(const char *what, uint64_t done, uint64_t total, bool on);

/* Progress on standard error, when that is a terminal; quiet otherwise. */
struct progress {
	bool on;
	const char *verb;
	int64_t started_us, shown_us;
	uint64_t bytes, records, total_bytes; /* total 0: unknown */
};
void progress_start(struct progress *p, const char *verb, uint64_t total_bytes);
void progress_piece(void *progress, const char *p, size_t n); /* a client_piece_fn */
void progress_end(struct progress *p);

/* ---- the commands ---- */
int memory_add(struct ctl *c, int argc, char **argv);
int memory_search(struct ctl *c, int argc, char **argv);
int memory_get(struct ctl *c, int argc, char **argv);
int memory_list(struct ctl *c, int argc, char **argv);
int memory_delete(struct ctl *c, int argc, char **argv);
int transfer_export(struct ctl *c, int argc, char **argv);
int transfer_import(struct ctl *c, int argc, char **argv);
int admin_status(struct ctl *c, int argc, char **argv);
int admin_reload(struct ctl *c, int argc, char **argv);
int admin_upgrade(struct ctl *c, int argc, char **argv);
int admin_drain(struct ctl *c, int argc, char **argv);
int config_command(struct ctl *c, int argc, char **argv);
int drift_run(struct ctl *c, int n, char **profiles);
int set_command(struct ctl *c, int argc, char **argv);
int unset_command(struct ctl *c, int argc, char **argv);
int apply_command(struct ctl *c, int argc, char **argv);
int audit_command(struct ctl *c, int argc, char **argv);
int admin_check(struct ctl *c, int argc, char **argv);
int migrate_command(struct ctl *c, int argc, char **argv);
int admin_namespaces(struct ctl *c, int argc, char **argv);
int changes_command(struct ctl *c, int argc, char **argv);
int cache_command(struct ctl *c, int argc, char **argv);
int breaker_command(struct ctl *c, int argc, char **argv);
int ping_command(struct ctl *c, int argc, char **argv);
int warm_run(struct ctl *c, int argc, char **argv);
int tune_command(struct ctl *c, int argc, char **argv);
int top_command(struct ctl *c, int argc, char **argv);
int doctor_command(struct ctl *c, int argc, char **argv);
int log_command(struct ctl *c, int argc, char **argv);
int dlq_run(struct ctl *c, int argc, char **argv);

/* Says what is wrong with the arguments; CTL_USAGE. */
int ctl_usage(const char *fmt, ...) printf_like(1, 2);
/* The next option of a command, as getopt_long(3), whose `letters` begin with ':'; '?': said what is wrong with it. */
int ctl_options(int argc, char **argv, const char *letters, const struct option *options);
/* The socket that a daemon with the same configuration and environment would make; the caller frees. Forgets the directory of
 * credentials. NULL: said why. */
char *ctl_socket(void);
/* With EPIPE, ends quietly as any program does whose reader has left (`| head`); returns with anything else. */
void ctl_broken_pipe(int error);

#endif
