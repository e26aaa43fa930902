/* Erased is erased: nothing of a deleted row stays in the files.
 *
 * Deleted rows are overwritten at once (secure_delete, open.c). Three places keep a copy nevertheless:
 * - the words index marks deletions and forgets them when its segments merge: optimize merges all;
 * - the WAL holds old pages: it is truncated;
 * - SQLite moves rows from page to page to keep its trees balanced, and what it moved stays in the unused
 *   middle of the page it came from. Those middles are overwritten here, in the file itself and through
 *   SQLite's own file object. That is safe: the WAL is empty, no other process writes, and no reader
 *   ever looks there. Format: https://www.sqlite.org/fileformat2.html#b_tree_pages */
#include <stdlib.h>

#include "fault.h"
#include "sqlite-private.h"

#define FILE_HEADER 100u /* of the database, in front of page 1 */
enum page_type { INTERIOR_INDEX = 2, INTERIOR_TABLE = 5, LEAF_INDEX = 10, LEAF_TABLE = 13 };

struct wipe {
	sqlite3_file *file;
	unsigned char *page, *zeros;
	uint32_t size, pages;  /* bytes of a page; pages of the database */
	uint32_t *todo, ntodo; /* pages to visit: of a tree each is pushed once */
	uint32_t visited;
};

static uint32_t be16(const unsigned char *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const unsigned char *p) { return be16(p) << 16 | be16(p + 2); }

static bool push(struct wipe *w, uint32_t page)
{
	if (!page || page > w->pages || w->ntodo + w->visited >= w->pages)
		return false;
	w->todo[w->ntodo++] = page;
	return true;
}

static bool push_children(struct wipe *w, const unsigned char *h, uint32_t pointers, uint32_t cells)
{
	for (uint32_t i = 0; i < cells; i++) {
		uint32_t at = be16(w->page + pointers + 2 * (size_t)i);
		if (at + 4 > w->size || !push(w, be32(w->page + at)))
			return false;
	}
	return push(w, be32(h + 8));
}

/* Zeros over [from,to) of the page, unless there are zeros already. */
static int clear(struct wipe *w, uint32_t number, uint32_t from, uint32_t to)
{
	if (from >= to || memcmp(w->page + from, w->zeros, to - from) == 0)
		return SQLITE_OK;
	sqlite3_int64 at = (sqlite3_int64)(number - 1) * w->size + from;
	FAULT_POINT(wipe_page);
	return w->file->pMethods->xWrite(w->file, w->zeros, (int)(to - from), at);
}

static int visit(struct wipe *w, uint32_t number)
{
	int rc = w->file->pMethods->xRead(w->file, w->page, (int)w->size, (sqlite3_int64)(number - 1) * w->size);
	if (rc != SQLITE_OK)
		return rc;
	const unsigned char *h = w->page + (number == 1 ? FILE_HEADER : 0);
	bool interior = h[0] == INTERIOR_INDEX || h[0] == INTERIOR_TABLE;
	if (!interior && h[0] != LEAF_INDEX && h[0] != LEAF_TABLE)
		return SQLITE_CORRUPT;
	uint32_t cells = be16(h + 3), content = be16(h + 5), pointers = (uint32_t)(h - w->page) + (interior ? 12 : 8);
	if (!content)
		content = 65536;
	if (pointers + 2 * cells > content || content > w->size)
		return SQLITE_CORRUPT;
	if (interior && !push_children(w, h, pointers, cells))
		return SQLITE_CORRUPT;
	return clear(w, number, pointers + 2 * cells, content);
}

/* The roots of all trees: that of the schema, and those it names. */
static int push_roots(struct wipe *w, sqlite3 *db)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db, "SELECT rootpage FROM sqlite_schema WHERE rootpage > 0", -1, &st, NULL);
	if (rc == SQLITE_OK && !push(w, 1))
		rc = SQLITE_CORRUPT;
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW)
		rc = push(w, (uint32_t)sqlite3_column_int64(st, 0)) ? SQLITE_OK : SQLITE_CORRUPT;
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int pragma(sqlite3 *db, const char *name, uint32_t *value_r)
{
	sqlite3_stmt *st;
	int rc = sqlite3_prepare_v2(db, name, -1, &st, NULL);
	if (rc != SQLITE_OK)
		return rc;
	rc = sqlite3_step(st);
	*value_r = (uint32_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int wipe_trees(struct wipe *w, sqlite3 *db)
{
	int rc = push_roots(w, db);
	while (rc == SQLITE_OK && w->ntodo) {
		w->visited++;
		rc = visit(w, w->todo[--w->ntodo]);
	}
	return rc == SQLITE_OK ? w->file->pMethods->xSync(w->file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY) : rc;
}

static int wipe_gaps(sqlite3 *db)
{
	struct wipe w = {0};
	int rc = pragma(db, "PRAGMA page_size", &w.size);
	if (rc == SQLITE_OK)
		rc = pragma(db, "PRAGMA page_count", &w.pages);
	if (rc == SQLITE_OK)
		rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &w.file);
	if (rc != SQLITE_OK)
		return rc;
	w.page = util_alloc(w.size);
	w.zeros = util_zalloc(w.size);
	w.todo = util_alloc(w.pages * sizeof(*w.todo));
	rc = wipe_trees(&w, db);
	free(w.page);
	free(w.zeros);
	free(w.todo);
	/* Our own copies of those pages still have what was overwritten, and would bring it back. */
	sqlite3_db_release_memory(db);
	return rc;
}

/* A reader in the middle of its snapshot can keep the WAL (STORE_BUSY; the pragma would not say so). */
enum store_rc sq_scrub(struct store *s)
{
	int rc = sqlite3_exec(
		s->db, "INSERT INTO words(words) VALUES('optimize'); INSERT INTO stems(stems) VALUES('optimize')", NULL,
		NULL, NULL);
	FAULT_POINT(scrub_optimized);
	if (rc == SQLITE_OK)
		rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	FAULT_POINT(scrub_truncated);
	if (rc == SQLITE_OK)
		rc = wipe_gaps(s->db);
	FAULT_POINT(scrub_wiped);
	return rc == SQLITE_OK ? sq_run(s, sq_get(s, SQ_SCRUB_DONE)) : sq_fail(s);
}
