/* Configuration: one option table (conf.def) with type, range, unit, default, text and reloadability
 * makes the parser, its messages, --dump-config, etc/orchestra.conf and docs/configuration.md agree.
 *
 * Precedence (SPEC 0): --set flags, ORCHESTRA_* environment, WEB_CONCURRENCY / WORKERS_PER_CORE, credentials, values that
 * are tried on the running daemon (conf_tried.c), the file, defaults. */
#ifndef ORC_CONF_H
#define ORC_CONF_H
#include <stdio.h>
#include "util.h"

enum conf_key {
#define CONF(id, key, type, dflt, min, max, unit, flags, text) CONF_##id,
#include "conf.def"
#undef CONF
	CONF_KEY_COUNT
};
enum conf_type {
	CONF_T_STRING,
	CONF_T_INT,
	CONF_T_BOOL,
	CONF_T_SIZE /* bytes */,
	CONF_T_DURATION /* µs */,
	CONF_T_ENUM,
	CONF_T_LIST /* JSON text */
};
enum conf_flags {
	CONF_F_RELOAD = 1,
	CONF_F_SECRET = 2,
	CONF_F_PATH = 4, /* names a file: a credential of that name is the file, not the name */
};

struct conf; /* a whole, validated configuration */
struct conf_input {
	const char *file;	 /* NULL: the system file if present, else defaults */
	const char *const *sets; /* "section.key=value" */
	size_t nsets;
	char *const *env; /* environ, or NULL for none */
	bool parts;	  /* values one by one, as a file alone has them: no defaults that depend on others or on the
			   * machine, and no check of what they mean together */
	const struct conf_draft *drafts; /* texts that files are to have: read instead of what they hold */
	size_t ndrafts;
};
struct conf_draft {
	const char *file; /* as messages and sources name it */
	struct span text; /* no NUL in it */
};
/* NULL: *error_r (malloc'ed) names file:line or flag, key, what is wrong, the limit and the remedy. */
struct conf *must_check conf_load(const struct conf_input *in, char **error_r);
void conf_free(struct conf **c);
const char *conf_file_of(const struct conf_input *in); /* the file that conf_load() reads, or NULL */

const char *conf_str(const struct conf *c, enum conf_key k); /* STRING, ENUM, LIST; "" when unset */
int64_t conf_int(const struct conf *c, enum conf_key k);     /* INT, BOOL, SIZE in bytes, DURATION in µs */
/* Where the value came from: "default", "file:/etc/…:12", "tried", "credential", "env ORCHESTRA_X", "flag". */
const char *conf_source(const struct conf *c, enum conf_key k);
/* Not to be shown: a key that is always secret, or a value that came as a credential. */
/* Is the store a file of the daemon's own? Else store.dsn leads to a server. */
bool conf_store_is_file(const struct conf *c);
bool conf_is_secret(const struct conf *c, enum conf_key k);
/* Current value as text in the unit people write ("256 MiB"). */
char *conf_text(const struct conf *c, enum conf_key k);
int conf_find(const char *key, size_t len); /* enum conf_key or -1 */
const char *conf_key_name(enum conf_key k);

/* The effective configuration for a worker: one memfd written and read back. -1 / NULL on failure. */
int must_check conf_dump_effective(const struct conf *c);
struct conf *must_check conf_load_effective(int fd);
/* The same from another version of the program: keys that only one of both
 * knows are left out, or have their defaults and no source, and conf_carry() does not take those over. */
struct conf *must_check conf_load_foreign(int fd);
/* The log of this process, which is called `who` in it, on a descriptor of conf_log_target(); what of it a reload
 * changes; and the secrets of a configuration that may be used one day, which no line shows from now on. */
void conf_log_open(const struct conf *c, const char *who, int fd);
void conf_log_level(const struct conf *c);
void conf_log_secrets(const struct conf *c);
/* Opens what log.target names, for writes that do not wait. -1: *error_r (malloc'ed) says why. `again`: after SIGUSR1, and
 * only a file is opened; -1 without an error for anything else. */
int must_check conf_log_target(const struct conf *c, bool again, char **error_r);
void conf_dump(const struct conf *c, FILE *out); /* --dump-config: libconfig text with sources as comments */
void conf_write_manual(FILE *out);		 /* docs/configuration.md */
void conf_write_sample(FILE *out);		 /* etc/orchestra.conf */
/* What differs: calls fn(key, reloadable) for each changed key. */
void conf_diff(const struct conf *a, const struct conf *b, void (*fn)(void *arg, enum conf_key k, bool reloadable),
	       void *arg);
/* ---- values that are tried (conf_tried.c) ---- */
#define CONF_SOURCE_TRIED "tried"
struct conf *must_check conf_copy(const struct conf *c);
void conf_take(struct conf *to, const struct conf *from, enum conf_key k); /* value and source */
bool conf_is_reloadable(enum conf_key k);
const char *conf_default(enum conf_key k); /* of the table; "" may mean one that depends on the machine */
const char *conf_help(enum conf_key k);
enum conf_type conf_type(enum conf_key k);
void conf_range(enum conf_key k, struct buf *out);		/* "a size from 1 KiB to 1 MiB" */
bool must_check conf_duration(struct span text, int64_t *us_r); /* "10 min", as in values */
const char *conf_near(const char *key, size_t len);		/* the key that was probably meant, or NULL */
/* A flag, the environment or a credential says what it is: nothing that is tried or saved could win. */
bool conf_is_fixed(const struct conf *base, enum conf_key k);
/* False: *error_r (malloc'ed) says what is wrong with the value, as for a file. */
bool must_check conf_try(struct conf *c, enum conf_key k, struct span text, char **error_r);
/* The same with any source: what another image of this program had. */
bool must_check conf_put(struct conf *c, enum conf_key k, struct span text, const char *source, char **error_r);
/* What no single value shows, once they are all tried. */
bool must_check conf_try_whole(struct conf *c, char **error_r);
/* The value as conf_text() would give it, NUL-terminated behind len. False: it is none. */
bool must_check conf_canonical(enum conf_key k, struct span text, struct buf *out);

/* ---- the person's file (conf_edit.c) ---- */
/* The text of one file with `key` = `value` (as conf_text() gives it): the last setting of that name is changed, or one is
 * added to its section, or a section at the end. All other bytes stay. False: *error_r (malloc'ed) says why it cannot be
 * done cleanly, with the line. */
bool must_check conf_edit(struct span text, enum conf_key k, const char *value, struct buf *out, char **error_r);

/* Makes `next` usable in a running daemon: keys without CONF_F_RELOAD keep value and source of `running`
 * (a worker born after a reload must agree with the others about segments and paths). */
void conf_carry(struct conf *next, const struct conf *running);
#endif
