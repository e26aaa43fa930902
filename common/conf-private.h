/* Insiders of the configuration room: the option table and what the conf_*.c files share. */
#ifndef ORC_CONF_PRIVATE_H
#define ORC_CONF_PRIVATE_H
#include "conf.h"

#define CONF_TEXT_MAX (1u << 20)	/* bytes of one value: a long pinger list, no more */
#define CONF_FILE_MAX (4u << 20)	/* bytes of one file */
#define CONF_CREDENTIAL_MAX (64u << 10) /* bytes of one credential */
#define CONF_FILES_MAX 64		/* files of one configuration, includes counted */
#define CONF_DEPTH_MAX 8		/* includes in includes */
#define CONF_NEST_MAX 32		/* lists and groups inside a LIST key */
#define CONF_ERRORS_MAX 20		/* then the rest is only counted */
#define CONF_SYSTEM_FILE "/etc/orchestra/orchestra.conf"

#define CONF_SOURCE_CREDENTIAL "credential"

struct conf_option {
	const char *name;
	enum conf_type type;
	const char *dflt;
	int64_t min, max;
	const char *unit; /* what the number counts, what the text is, or the choices of an ENUM */
	unsigned flags;
	const char *text;
};
extern const struct conf_option conf_options[CONF_KEY_COUNT];

struct conf_value {
	char *text;  /* canonical: parsing it again gives the same value */
	int64_t num; /* INT, BOOL, SIZE, DURATION */
	char *source;
};
struct conf {
	struct conf_value v[CONF_KEY_COUNT];
};

/* A load under way. Errors are gathered, so that one attempt shows all of them. */
struct conf_loading {
	struct conf *c;
	const struct conf_input *in;
	struct buf errors;
	unsigned nerrors;
};

/* conf.c */
void conf_error(struct conf_loading *l, const char *fmt, ...) printf_like(2, 3);
/* Validates text and stores it; a refusal is a gathered error that begins with `where`. */
void conf_assign(struct conf_loading *l, enum conf_key k, struct span text, const char *where, const char *source);
/* Stores a value known to be right: a computed one. */
void conf_replace(struct conf *c, enum conf_key k, const char *text, int64_t num);

/* conf_is_secret() for a value that is not stored yet. */
bool conf_hides(const struct conf_option *o, const char *source);

/* conf_value.c */
/* Reads `text` as a value of the option. False: *why says what is wrong with it ("is negative"). */
bool must_check conf_value_parse(const struct conf_option *o, struct span text, struct buf *canonical, int64_t *num_r,
				 struct buf *why);
void conf_value_format(enum conf_type type, int64_t num, struct buf *out);
/* "a size from 1 KiB to 1 MiB", "one of text, json". */
void conf_value_expect(const struct conf_option *o, struct buf *out);
/* The value as messages show it: quoted, shortened, without control characters; hidden when it is secret. */
void conf_value_show(const struct conf_option *o, const char *source, struct span text, struct buf *out);

/* conf_near.c */
/* The key that was probably meant, or NULL. */
const char *conf_near_key(const char *key, size_t len);
/* The same among the choices of an ENUM: a span inside `choices`, or p NULL. */
struct span conf_near_choice(const char *choices, struct span given);

/* conf_file.c */
/* A stretch of one file between two includes: what libconfig gets to read at once. */
struct conf_segment {
	const char *file;
	unsigned line; /* of its first byte, from 1 */
	char *text;    /* NUL-terminated, no NUL inside */
};
/* Reads a file and what it includes and hands over the segments in reading order. */
void conf_file_read(struct conf_loading *l, const char *path,
		    void (*segment)(struct conf_loading *l, const struct conf_segment *s));

/* conf_parse.c */
void conf_parse_file(struct conf_loading *l, const char *path);

/* conf_env.c */
const char *conf_env_get(char *const *env, const char *name); /* NULL when unset or env is NULL */
void conf_env_name(enum conf_key k, struct buf *out);	      /* NUL-terminated ORCHESTRA_SECTION_KEY */
void conf_env_concurrency(struct conf_loading *l);	      /* WEB_CONCURRENCY, WORKERS_PER_CORE */
void conf_env_read(struct conf_loading *l);		      /* ORCHESTRA_* */
void conf_env_sets(struct conf_loading *l);		      /* --set */
unsigned conf_env_cores(void);

/* conf_credentials.c */
void conf_credentials_read(struct conf_loading *l); /* $CREDENTIALS_DIRECTORY */

/* conf_check.c */
void conf_check_complete(struct conf_loading *l); /* defaults that depend on others or on the machine */
void conf_check_whole(struct conf_loading *l);	  /* what no single value shows */
#endif
