"""Somebody else holds the store: what was accepted cannot be committed to it, whatever kind of store it is."""
import contextlib
import os
import sqlite3

from orchestra import SLOW, shared_server


class StoreHeld:
    """From __enter__ to release(). Readers of the store are not disturbed, and see what was there before."""

    def __init__(self, o):
        self.session = None
        if o.database:
            self.session = shared_server().session(dbname=o.database, application_name="rig")
        else:
            self.db = sqlite3.connect(os.path.join(o.data, "store.db"), isolation_level=None, check_same_thread=False)

    def __enter__(self):
        if self.session:
            # Every batch ends with a row of the feed. The node's own row stays free: a successor of sync locks it.
            self.session.execute("BEGIN")
            self.session.execute("LOCK TABLE memory_changes IN SHARE MODE")
        else:
            self.db.execute("PRAGMA busy_timeout=10000")
            self.db.execute("BEGIN IMMEDIATE")
        return self

    def release(self):
        if self.session:
            self.session.close()
            self.session = None
        elif self.db:
            self.db.execute("ROLLBACK")
            self.db.close()
        self.db = None

    def __exit__(self, *exc):
        self.release()


def query(o, sqlite, postgres=None):
    """Rows of the store as text, read beside the daemon."""
    if o.database:
        return shared_server().sql(postgres or sqlite, db=o.database)
    db = sqlite3.connect(f"file:{o.data}/store.db?mode=ro", uri=True)
    try:
        return [["" if v is None else str(v) for v in row] for row in db.execute(sqlite)]
    finally:
        db.close()


def rejects(o, when="INSERT", word="poison", name="poison"):
    """The store does not accept a memory with this word, until accepts()."""
    said = f"no {word} here"
    if o.database:
        shared_server().sql(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{said}'; END $$;"
            f"CREATE TRIGGER {name} BEFORE {when} ON memories FOR EACH ROW WHEN (new.body LIKE '%{word}%') EXECUTE FUNCTION {name}()", db=o.database)
        return
    with _sqlite(o) as db:
        db.execute(f"CREATE TRIGGER {name} BEFORE {when} ON memories WHEN new.body LIKE '%{word}%' BEGIN SELECT raise(ABORT, '{said}'); END")


def accepts(o, name="poison"):
    if o.database:
        shared_server().sql(f"DROP FUNCTION {name} CASCADE", db=o.database)
        return
    with _sqlite(o) as db:
        db.execute(f"DROP TRIGGER {name}")


@contextlib.contextmanager
def _sqlite(o):
    db = sqlite3.connect(os.path.join(o.data, "store.db"), timeout=20 * SLOW)
    try:
        with db:
            yield db
    finally:
        db.close()
