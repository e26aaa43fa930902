/* What the files of the SQLite store share. */
#ifndef ORC_SQLITE_PRIVATE_H
#define ORC_SQLITE_PRIVATE_H
#include <sqlite3.h>

#include "store/store.h"
#include "words/words.h"

/* Prepared once per connection, on first use. */
enum sq {
	SQ_BEGIN,
	SQ_COMMIT,
	SQ_ROLLBACK,
	SQ_CURSOR_GET,
	SQ_SCRUB_GET,
	SQ_SCRUB_SET,
	SQ_SCRUB_DONE,
	SQ_CURSOR_SET,
	SQ_ROW_BY_ID,
	SQ_INSERT,
	SQ_UPDATE,
	SQ_REMOVE,
	SQ_HISTORY_KEEP,
	SQ_HISTORY_DROP,
	SQ_VECTOR_PUT,
	SQ_VECTOR_DROP,
	SQ_WORDS_ADD,
	SQ_WORDS_DROP,
	SQ_STEMS_ADD,
	SQ_STEMS_DROP,
	SQ_SOFT_DELETE,
	SQ_IDEM_PUT,
	SQ_IDEM_GET,
	SQ_IDEM_COLLECT,
	SQ_NS_GET,
	SQ_NS_PUT,
	SQ_NS_COUNT,
	SQ_NS_SPACE,
	SQ_NS_ALL,
	SQ_GET,
	SQ_GET_VECTOR,
	SQ_BY_EXTERNAL,
	SQ_BY_CONTENT,
	SQ_HISTORY,
	SQ_COLLECT,
	SQ_NEIGHBOUR_HOME,
	SQ_NEIGHBOURS_UP,
	SQ_NEIGHBOURS_DOWN,
	SQ_INDEXED,
	SQ_INDEXED_COUNT,
	SQ_RECENT,
	SQ_DF,
	SQ_EXTRA_CLEAR,
	SQ_EXTRA_ADD,
	SQ_EXTRA_TERMS,
	SQ_TOTALS,
	SQ_STEMS_DF,
	SQ_STEMS_TOTALS,
	SQ_NS_NAME,
	SQ_CHANGES_PUT,
	SQ_CHANGES_TOTAL,
	SQ_CHANGES_READ,
	SQ_CHANGES_OLDEST,
	SQ_CHANGES_DROP,
	SQ_PRUNED_GET,
	SQ_PRUNED_SET,
	SQ_COUNT
};
struct sq_file {
	uint64_t dev, ino;
};		  /* all zeros: not known */
struct sq_noted { /* what the batch under way has changed, for the feed */
	struct buf data;
	size_t n;
	uint64_t ns;   /* of the last one */
	int64_t total; /* changes that the feed ever held; -1 = not known */
};
struct fts;
struct store {
	sqlite3 *db;
	sqlite3_stmt *st[SQ_COUNT];
	bool writer;
	const struct fts *extra_ready; /* text.c: which the tables of what is not stored are made for */
	struct sq_file file, wal;      /* writer: what its names led to when they were opened */
	struct sq_noted changes;       /* writer */
	struct words *words;	       /* made on first use: sq_words() */
	struct buf stems;	       /* scratch */
	float *unpacked;	       /* scratch, made on first use: sq_vector() */
	struct sq_spoken {
		uint64_t ns; /* 0: none is known */
		enum language language;
	} spoken; /* writer: of the namespace that was asked about last */
	char error[512];
};

/* The statement, reset and ready to bind; NULL: s->error says why. */
sqlite3_stmt *must_check sq_get(struct store *s, enum sq which);
/* Steps a statement that returns no rows. */
enum store_rc must_check sq_run(struct store *s, sqlite3_stmt *st);
enum store_rc sq_fail(struct store *s);
void sq_bind_text(sqlite3_stmt *st, int i, struct span text); /* empty = NULL */
void sq_bind_uuid(sqlite3_stmt *st, int i, const struct uuid *u);
struct span sq_text(sqlite3_stmt *st, int i);
struct uuid sq_uuid(sqlite3_stmt *st, int i); /* all zeros: what lies there is none (a damaged file) */

/* Columns that every query for whole memories selects, in this order. */
#define SQ_MEMORY                                                                                                      \
	"m.id,m.ns,m.version,m.created_us,m.updated_us,m.expires_us,m.deleted_us,m.flags,m.importance,"                \
	"m.kind,m.user_id,m.agent_id,m.session_id,m.external_id,m.content_key,m.embedder,m.dim,m.body,s.name"
#define SQ_MEMORY_COLUMNS 19
void sq_memory(sqlite3_stmt *st, struct memory *m_r);
/* The vector in a column of vectors.x: dim floats, which lie there or are unpacked, until the next row or call. NULL: none, or damaged. */
const float *sq_vector(struct store *s, sqlite3_stmt *st, int column, uint32_t dim);
/* The content of a canonical body, unescaped, appended to b. */
void sq_content(struct span body, struct buf *b);

/* open.c */
struct store *must_check sq_open(const struct store_conf *c, bool writer, char **error_r);
bool sq_probe(const struct store_conf *c, char **what_r);
void sq_close(struct store *s);
const char *sq_error(struct store *s);
/* Do the names of the database still lead to the files that are open? False: s->error says it. */
bool must_check sq_in_place(struct store *s);
/* write.c */
enum store_rc sq_begin(struct store *s);
enum store_rc sq_apply(struct store *s, uint64_t seq, struct txn_reader *t);
enum store_rc sq_commit(struct store *s, uint64_t seq);
void sq_rollback(struct store *s);
/* changes.c: the feed */
/* The batch under way has changed a memory, or (id NULL) a namespace. */
void sq_changes_note(struct store *s, enum store_change_kind kind, uint64_t ns, const struct uuid *id,
		     uint64_t version);
void sq_changes_begin(struct store *s);
enum store_rc sq_changes_write(struct store *s, uint64_t seq); /* the row of the batch, if it has changed anything */
enum store_rc sq_revision(struct store *s, uint64_t *revision_r);
enum store_rc sq_changes(struct store *s, uint64_t after, size_t max, store_change_fn *fn, void *arg, uint64_t *last_r);
enum store_rc sq_prune(struct store *s, int64_t keep_us, uint64_t keep_changes);
/* stems.c: what the table stems holds of a text */
struct words *sq_words(struct store *s, enum language l);
/* In s->stems: the stems that count, each as often as it occurs. Valid until it is called again. */
struct span sq_stems(struct store *s, enum language l, struct span content);
/* scrub.c */
enum store_rc sq_scrub(struct store *s);
/* text.c */
enum store_rc sq_text_search(struct store *s, const struct store_text *q, struct store_text_hit *out, size_t *n_r);
/* nearest.c */
enum store_rc sq_nearest(struct store *s, const struct store_nearest *q, struct store_text_hit *out, size_t *n_r);
/* read.c */
void sq_where(const struct store_list *q, struct buf *sql, struct filter_args *args);
void sq_bind_args(sqlite3_stmt *st, int from, const struct filter_args *a);
extern const struct store_ops sqlite_store;
#endif
