/* The schema of a PostgreSQL store: which migrations there are, which of them a database has, and the way from one
 * version to another. The SQL stands in migrations/NNNN_name.{up,down}.sql and is embedded by embed-migrations.sh. In it
 * @VECTOR@, @KEY@ and @PARTITION@ are filled in from options that the first migration chooses and memory_schema remembers.
 *
 * memory_schema(version, name, checksum, applied_at, options): one row per migration that is applied. */
#ifndef ORC_SCHEMA_H
#define ORC_SCHEMA_H
#include "plain.h"

#define PG_SERVER_MIN 150000 /* server_version_num */
#define PG_PARTITIONS_MAX 1024
/* Advisory locks of a database. 1 belongs to memory_publish(). */
#define PG_LOCK_CLASS 7700
#define PG_LOCK_MIGRATE 2 /* session, exclusive: who migrates */
#define PG_LOCK_PRESENT 3 /* session, shared: every daemon's writer while it is connected; `down` looks for them */
#define PG_LOCK_INDEX 4	  /* session, exclusive, never waited for: who builds vector indexes */
/* To be run after connecting (struct pg_link_conf.setup) by a daemon's writer. */
#define PG_PRESENT_SQL "SELECT pg_advisory_lock_shared(7700, 3)"

struct pg_migration {
	unsigned version; /* from 1, without gaps */
	const char *name, *up, *down;
};
extern const struct pg_migration pg_migrations[];
extern const unsigned pg_migrations_n;
uint64_t pg_migration_checksum(const struct pg_migration *m); /* of what `up` says but for lines of comment */

enum pg_migration_state {
	PG_ROW_PENDING,
	PG_ROW_APPLIED,
	PG_ROW_CHANGED, /* applied, from another text than this program has */
	PG_ROW_UNKNOWN, /* applied by a newer program */
};
struct pg_applied {
	unsigned version;
	enum pg_migration_state state;
	char name[64], applied_at[32]; /* RFC 3339, UTC; "" when pending */
};
#define PG_APPLIED_MAX 256
/* What a database says about itself. Names are quoted as SQL wants them. */
struct pg_schema_status {
	int server; /* server_version_num */
	char encoding[32], database[132], role[132];
	char first[132];	     /* schema in which things would be made; "" when there is none */
	char schema[132];	     /* where memory_schema lies; "" when there is none */
	char vector_in[160];	     /* schema of pgvector; "" when it is not installed */
	bool vector_available;	     /* it could be, by who may */
	bool may_create, may_extend; /* CREATE on `first`; on the database */
	bool may_look;		     /* into memory_schema */
	bool standby;
	char denied[256];  /* tables and sequences of ours that the role may not write */
	char foreign[256]; /* with nothing of ours there: tables in `first` that have our names */
	unsigned version;  /* 0: nothing is there */
	bool vector;	   /* as chosen; meaningful with version > 0 */
	unsigned partitions;
	size_t n;
	struct pg_applied rows[PG_APPLIED_MAX]; /* applied and pending, by version */
};

/* The same questions over any connection: `ask` returns rows of text. */
typedef enum store_rc pg_ask_fn(void *arg, const char *sql, PGresult **res_r);
enum store_rc must_check pg_schema_look(pg_ask_fn *ask, void *arg, struct pg_schema_status *st_r);
enum store_rc must_check pg_schema_status(struct pg_plain *p, struct pg_schema_status *st_r);
/* Can this program work with what is there, once what is pending is done? False: *error_r (malloc'ed) says why not, and the
 * remedy. */
bool must_check pg_schema_judge(const struct pg_schema_status *st, char **error_r);
/* The first GRANT that the role lacks for daily work; false: *error_r (malloc'ed). */
bool must_check pg_schema_may_write(const struct pg_schema_status *st, char **error_r);

enum pg_vector_choice { PG_VECTOR_AUTO, PG_VECTOR_TYPE, PG_VECTOR_BYTEA };
enum pg_say { PG_SAY_SQL, PG_SAY_DONE, PG_SAY_WARNING };
struct pg_migrate {
	unsigned to; /* version to end with; UINT_MAX: the newest */
	bool down;   /* `to` may be lower than what is there, and then must be; without, never */
	bool dry_run;
	bool force;	/* down although daemons are connected; changed checksums are accepted */
	int partitions; /* -1: as remembered, else none. 0: none */
	enum pg_vector_choice vector;
	int64_t wait_us;  /* for somebody else's migration, and for locks on tables */
	int64_t limit_us; /* for one migration; 0: as long as it takes */
	void (*say)(void *arg, enum pg_say kind, const char *text); /* NULL: nobody listens */
	void *arg;
};
/* Each migration in its own transaction, all under an advisory lock: what was done before a failure stays. *error_r (malloc'ed)
 * names the migration, the cause and the remedy; the connection is to be closed then, which undoes and unlocks. */
enum store_rc must_check pg_migrate_run(struct pg_plain *p, const struct pg_migrate *what, char **error_r);
/* SQL of a migration with its placeholders filled in; `vector_type` as SQL names it. Ends with NUL behind len. */
void pg_migrate_fill(struct buf *out, const char *sql, const char *vector_type, unsigned partitions);
#endif
