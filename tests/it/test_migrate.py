"""orchestractl migrate: the schema of a PostgreSQL store, up and down with data, against real servers."""
import json
import os
import re
import subprocess

import pytest

from orchestra import BUILD, SLOW, Orchestra, until
from postgres import PgError, Postgres

NEWEST = 2
TABLES = {"memories", "memory_trash", "memory_history", "memory_namespaces", "memory_idempotency", "memory_nodes", "memory_changes"}


@pytest.fixture(scope="module")
def pg():
    with Postgres(fsync=False) as pg:
        yield pg


class Database:
    """An empty database, and the tool."""

    def __init__(self, pg, name=None):
        self.pg, self.name = pg, name or pg.database()

    def dsn(self, **extra):
        return self.pg.dsn(dbname=self.name, **extra)

    def sql(self, text, *params):
        return self.pg.sql(text, *params, db=self.name)

    def start(self, *args, **dsn):
        return subprocess.Popen(ctl(*args, "--store-dsn", self.dsn(**dsn)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def migrate(self, *args, code=0, **dsn):
        p = self.start(*args, **dsn)
        out, err = p.communicate(timeout=60 * SLOW)
        assert p.returncode == code, (args, p.returncode, out, err)
        return out if code == 0 else err

    def status(self, code=0, **dsn):
        p = self.start("status", "--json", **dsn)
        out, err = p.communicate(timeout=60 * SLOW)
        assert code is None or p.returncode == code, (out, err)
        return json.loads(out)

    def states(self):
        return [m["state"] for m in self.status()["migrations"]]

    def things(self):
        """Names of everything that is ours to make."""
        return {r[0] for r in self.sql(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S') UNION ALL "
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")}


def ctl(*args):
    return [os.path.join(BUILD, "orchestractl"), "migrate", *args]


@pytest.fixture
def db(pg):
    return Database(pg)


def put(db, n=1, namespace="n"):
    """Through memory_put and memory_publish, as a daemon's batch does."""
    db.sql(f"""
        INSERT INTO memory_nodes VALUES (7, 0, 0, 'here', now()) ON CONFLICT DO NOTHING;
        SELECT memory_put(jsonb_populate_record(NULL::memories, jsonb_build_object('id', gen_random_uuid(), 'namespace', '{namespace}' || i % 5,
            'version', 1, 'node', 7, 'content', 'c' || i, 'metadata', '{{}}'::jsonb, 'importance', 0.5, 'flags', 0, 'created_at', now(),
            'updated_at', now(), 'content_key', i, 'bytes', 10, 'dim', 0, 'body', '{{}}')), false) FROM generate_series(1, {n}) i;
        SELECT memory_publish(7, 1, NULL, ARRAY['{namespace}'], ARRAY[''], ARRAY[0], ARRAY[{n}]::bigint[], ARRAY[10]::bigint[],
            ARRAY[gen_random_uuid()], ARRAY[1]::bigint[], ARRAY[1]::smallint[], ARRAY[1]::smallint[])""")


def rows(db):
    return db.sql("SELECT id, namespace, content, version FROM memories ORDER BY id")


# ---- up, down, status ----

def test_an_empty_database(db):
    st = db.status()
    assert (st["version"], st["newest"], st["ok"]) == (0, NEWEST, True)
    assert [m["state"] for m in st["migrations"]] == ["pending"] * NEWEST
    assert db.things() == set()


def test_a_dry_run_prints_what_up_does_and_does_nothing(db, pg):
    sql = db.migrate("up", "--dry-run", "--partitions", "2")
    assert db.things() == set()
    other = Database(pg)
    other.sql(sql)
    assert other.states() == ["applied"] * NEWEST  # with the same checksums
    assert other.status()["partitions"] == 2
    put(other)
    sql = other.migrate("down", "--to", "0", "--dry-run")
    assert len(rows(other)) == 1
    other.sql(sql)
    assert other.things() == set()
    assert "nothing to do" in Database(pg, other.name).migrate("down", "--to", "0", "--yes")


@pytest.mark.parametrize("partitions", [0, 3])
def test_up_and_down_with_data(db, partitions):
    out = db.migrate("up", "--partitions", str(partitions))
    assert out.splitlines() == ["0001_memories applied", "0002_functions applied"]
    assert db.migrate("up") == "nothing to do\n"
    put(db, 50)
    before = rows(db)
    assert len(before) == 50
    assert TABLES < db.things()
    if partitions:
        assert int(db.sql("SELECT count(DISTINCT tableoid) FROM memories")[0][0]) > 1
        assert db.sql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'memories'::regclass") == [["3"]]

    assert db.migrate("down", "--to", "1", "--yes") == "0002_functions undone\n"
    assert db.states() == ["applied", "pending"]
    assert rows(db) == before
    with pytest.raises(PgError):
        put(db)
    assert db.migrate("up") == "0002_functions applied\n"
    assert rows(db) == before
    put(db)  # the functions are whole again
    assert len(rows(db)) == 51
    assert db.status()["partitions"] == partitions

    db.migrate("down", "--to", "0", "--yes")
    assert db.things() == set()
    db.migrate("up", "--to", "1")
    assert db.states() == ["applied", "pending"]
    assert rows(db) == []


def test_what_the_first_migration_chose_stays(db):
    db.migrate("up", "--to", "1", "--partitions", "4")
    assert "4 partitions" in db.migrate("up", "--partitions", "5", code=1)
    assert "vector bytea" in db.migrate("up", "--vector", "vector", code=1)
    db.migrate("up", "--partitions", "4", "--vector", "bytea")
    st = db.status()
    assert (st["partitions"], st["vector"], st["version"]) == (4, "bytea", NEWEST)


def test_a_migration_that_fails_leaves_nothing(db):
    db.migrate("up", "--to", "1")
    db.sql("CREATE FUNCTION memory_namespace_drop(name_p text, at_p timestamptz) RETURNS void LANGUAGE sql AS ''")
    assert "0002_functions, up: function \"memory_namespace_drop\" already exists" in db.migrate("up", code=1)
    assert db.states() == ["applied", "pending"]
    assert "memory_put" not in db.things()  # which stands before it in the file
    db.sql("DROP FUNCTION memory_namespace_drop; ALTER TABLE memory_schema ADD CONSTRAINT no CHECK (version < 2)")
    assert "0002_functions, up" in db.migrate("up", code=1)
    assert "memory_put" not in db.things()  # a migration and its row in memory_schema are one
    db.sql("ALTER TABLE memory_schema DROP CONSTRAINT no")
    db.migrate("up")


def test_vector_without_pgvector(db):
    assert "CREATE EXTENSION vector" in db.migrate("up", "--vector", "vector", code=1)
    assert db.things() == set()


# ---- several at once ----

def test_several_at_once(db):
    started = [db.start("up") for _ in range(6)]
    out = [p.communicate(timeout=60 * SLOW) for p in started]
    assert [p.returncode for p in started] == [0] * 6, out
    said = "".join(o for o, _ in out)
    assert said.count("0001_memories applied") == said.count("0002_functions applied") == 1, out
    assert db.states() == ["applied"] * NEWEST


def test_somebody_migrates_for_too_long(db):
    with db.pg.session(dbname=db.name, application_name="slowcoach") as s:
        s.execute("SELECT pg_advisory_lock(7700, 2)")
        assert "slowcoach (pid " in db.migrate("up", "--wait", "1", code=1)
        assert db.things() == set()
        p = db.start("up")
        until(lambda: db.sql("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        s.execute("SELECT pg_advisory_unlock(7700, 2)")
        out, err = p.communicate(timeout=60 * SLOW)
        assert (p.returncode, out.count("applied")) == (0, NEWEST), err


def test_a_table_that_somebody_holds(db):
    db.migrate("up")
    with db.pg.session(dbname=db.name) as s:
        s.execute("BEGIN; SELECT count(*) FROM memory_nodes")
        err = db.migrate("down", "--to", "0", "--yes", "--wait", "1", code=1)
        assert "0001_memories, down" in err and "lock timeout" in err
    assert db.states() == ["applied", "pending"]  # what was done before the failure stays
    db.migrate("up")


# ---- what is refused ----

def test_a_changed_migration(db):
    db.migrate("up")
    db.sql("UPDATE memory_schema SET checksum = '0123456789abcdef' WHERE version = 2")
    assert db.states() == ["applied", "changed"]
    db.migrate("up")  # nothing is pending
    assert "0002_functions was applied" in db.migrate("down", "--to", "0", "--yes", code=1)
    db.migrate("down", "--to", "0", "--yes", "--force")


def test_a_newer_schema(db):
    db.migrate("up")
    db.sql(f"INSERT INTO memory_schema (version, name, checksum, options) VALUES ({NEWEST + 1}, 'later', '', '{{}}')")
    st = db.status(code=1)
    assert [m["state"] for m in st["migrations"]][-1] == "unknown"
    for command in (["up"], ["down", "--to", "0", "--yes", "--force"]):
        assert "use the newer program" in db.migrate(*command, code=1)
    assert db.things() >= TABLES


def test_a_damaged_list(db):
    db.migrate("up")
    db.sql("DELETE FROM memory_schema WHERE version = 1")
    assert "damaged" in db.status(code=1)["problem"]
    assert "damaged" in db.migrate("up", code=1)


def test_down_wants_to_be_meant(db):
    db.migrate("up")
    assert "--yes" in db.migrate("down", "--to", "0", code=2)
    assert "--to" in db.migrate("down", "--yes", code=2)
    assert "no version 3" in db.migrate("down", "--to", "3", "--yes", code=1)
    assert db.states() == ["applied"] * NEWEST


def test_down_while_daemons_are_connected(db):
    db.migrate("up")
    for name, lock in (("orchestra sync 1", "SELECT 1"), ("other", "SELECT pg_advisory_lock_shared(7700, 3)")):
        with db.pg.session(dbname=db.name, application_name=name) as s:
            s.execute(lock)
            err = db.migrate("down", "--to", "0", "--yes", code=1)
            assert f"{name} (pid " in err and "orchestractl drain" in err
    with db.pg.session(dbname=db.name, application_name="orchestra sync 1"):
        db.migrate("down", "--to", "0", "--yes", "--force")
    assert db.things() == set()


def test_an_encoding_that_cannot_hold_memories(pg):
    name = "t" + os.urandom(6).hex()
    pg.sql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    db = Database(pg, name)
    err = db.migrate("up", code=1)
    assert "SQL_ASCII" in err and "ENCODING 'UTF8'" in err
    assert db.things() == set()


def grants(text):
    return re.findall(r"GRANT [A-Z, ]+ ON (?:[A-Z ]+ )?\S+ TO [^\s;]+", text)


def test_missing_rights_are_named_as_grants(db):
    role = "r" + os.urandom(4).hex()
    db.sql(f"CREATE ROLE {role} LOGIN")
    err = db.migrate("up", code=1, user=role)
    assert grants(err) == [f"GRANT CREATE ON SCHEMA public TO {role}"]
    db.migrate("up", "--to", "1")
    said = db.status(code=1, user=role)["problem"]
    while asked := grants(said):  # does what it is told, until nothing is asked for
        for g in asked:
            db.sql(g)
        before, said = said, db.status(code=None, user=role).get("problem", "")
        assert said != before
    assert db.status(user=role)["ok"]
    err = db.migrate("up", code=1, user=role)
    assert "0002_functions" in err and "GRANT CREATE ON SCHEMA public" in err
    db.sql(grants(err)[0].rstrip(";"))
    db.migrate("up", user=role)
    err = db.migrate("down", "--to", "0", "--yes", code=1, user=role)
    assert "must be owner" in err and f"role {role} needs to own" in err
    db.sql(f"DROP OWNED BY {role}")


def test_a_role_without_any_schema(db):
    role = "r" + os.urandom(4).hex()
    db.sql(f"CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM public")
    err = db.migrate("up", code=1, user=role)
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {role}" in err
    db.sql(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    db.migrate("up", user=role)


def test_the_tables_stay_in_the_schema_that_has_them(db):
    db.migrate("up", "--to", "1")
    db.sql("CREATE SCHEMA fresh")
    path = "-c search_path=fresh,public"
    assert db.status(options=path)["schema"] == "public"
    assert "search_path=public" in db.migrate("up", code=1, options=path)
    db.migrate("up", options="-c search_path=public,fresh")


def test_names_that_somebody_else_has(db):
    db.sql("CREATE TABLE memories (id uuid PRIMARY KEY)")
    err = db.migrate("up", code=1)
    assert "memories" in err
    schema, path = re.search(r"CREATE SCHEMA (\w+), and say options='(.+?)'", err).groups()
    db.sql(f"CREATE SCHEMA {schema}")
    db.migrate("up", options=path)
    assert db.status(options=path)["schema"] == schema
    assert db.sql("SELECT count(*) FROM public.memories") == [["0"]]


def test_no_server(pg):
    db = Database(pg, "nowhere")
    assert 'database "nowhere" does not exist' in db.migrate("status", code=3)
    p = subprocess.run(ctl("up", "--store-dsn", "host=127.0.0.1 port=1"), capture_output=True, text=True)
    assert p.returncode == 3 and "refused" in p.stderr


def test_options_that_do_not_concern(db):
    assert "--lists does not concern it" in db.migrate("up", "--lists", "3", code=2)
    assert "--to does not concern it" in db.migrate("status", "--to", "1", code=2)
    assert "--vector: auto, vector or bytea" in db.migrate("up", "--vector", "float", code=2)
    assert "--partitions" in db.migrate("up", "--partitions", "1", code=2)
    assert "bytea" not in db.migrate("index", "--kind", "hnsw", code=1)  # there is no schema yet
    db.migrate("up")
    assert "bytea" in db.migrate("index", "--kind", "hnsw", code=1)
    p = subprocess.run(ctl("status", "--store-dsn", "/some/file"), capture_output=True, text=True)
    assert p.returncode == 2 and "postgresql://" in p.stderr


def test_sqlite(tmp_path):
    def at(*args):
        return subprocess.run(ctl(*args, "--set", f"data.dir={tmp_path}"), capture_output=True, text=True)
    p = at("status")
    assert p.returncode == 0 and "not there yet" in p.stdout
    assert list(tmp_path.iterdir()) == []
    o = Orchestra(sets=[f"store.dsn={tmp_path}/store.db"])
    o.stop()
    o.cleanup()
    assert re.search(r"store\.db: schema \d+, can be written$", json.loads(at("status", "--json").stdout)["status"])
    assert at("up").returncode == 0
    p = at("down", "--to", "0", "--yes")
    assert p.returncode == 2 and "backup" in p.stderr
    p = at("index", "--kind", "hnsw")
    assert p.returncode == 2 and "postgres" in p.stderr


# ---- the daemon ----

def daemon(db, *sets, **kw):
    return Orchestra(sets=["store.kind=postgres", f"store.dsn={db.dsn()}", *sets], **kw)


def test_a_daemon_migrates_when_it_starts(db):
    o = daemon(db)
    try:
        assert db.states() == ["applied"] * NEWEST
        assert "migration 0002_functions applied" in o.log()
        assert o.post("/v1/memories?wait=store", {"content": "kept"}).json["durability"] == "store"
        err = db.migrate("down", "--to", "1", "--yes", code=1)
        assert "orchestra sync" in err
        o.stop()
        db.migrate("down", "--to", "1", "--yes")
        o.start()  # brings it up again
        assert db.states() == ["applied"] * NEWEST
        assert o.get("/v1/memories").json["memories"][0]["content"] == "kept"
    finally:
        o.cleanup()


def test_two_daemons_start_at_once(db):
    both = [daemon(db, start=False).start(wait=False) for _ in range(2)]
    try:
        for o in both:
            o.wait_ready()
        assert sum(o.log().count("0001_memories applied") for o in both) == 1
    finally:
        for o in both:
            o.cleanup()


def test_a_daemon_that_may_not_migrate(db):
    o = daemon(db, "store.migrate=manual", start=False).start(wait=False)
    try:
        until(lambda: "orchestractl migrate up" in o.log())
        assert db.things() == set()
        p = subprocess.run(ctl("up", "--set", "store.kind=postgres", "--set", f"store.dsn={db.dsn()}"), capture_output=True, text=True)
        assert p.returncode == 0, p
        o.wait_ready()
        assert o.post("/v1/memories?wait=store", {"content": "kept"}).json["durability"] == "store"
    finally:
        o.cleanup()
