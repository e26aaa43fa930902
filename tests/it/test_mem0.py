"""pgvector's part of orchestractl migrate: the type of vectors, their indexes, and the memories of a mem0 table."""
import json
import os
import subprocess

import pytest

from orchestra import BUILD, SLOW, Orchestra
from pglite import Pglite
from postgres import Postgres


@pytest.fixture(scope="module")
def vector_server():
    pg = Pglite()
    yield pg
    pg.cleanup()


@pytest.fixture
def lite(vector_server):
    return vector_server.empty(extension=False)


def migrate(pg, *args, code=0, socket="/nowhere"):
    p = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", socket, "migrate", *args, "--store-dsn", pg.dsn()],
                       capture_output=True, text=True, timeout=120 * SLOW)
    assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
    return p.stdout if code == 0 else p.stderr


def column(pg):
    return pg.sql("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'memories'::regclass AND attname = 'embedding'")


# ---- the type ----

@pytest.mark.parametrize("choice,installed,type", [("auto", False, "vector"), ("auto", True, "vector"), ("vector", False, "vector"),
                                                   ("bytea", True, "bytea")])
def test_the_type_of_vectors(lite, choice, installed, type):
    if installed:
        lite.sql("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        type = "ext.vector" if type == "vector" else type
    migrate(lite, "up", "--vector", choice)
    assert column(lite) == [[type]]
    assert json.loads(migrate(lite, "status", "--json"))["vector"] == type.removeprefix("ext.")
    migrate(lite, "down", "--to", "0", "--yes")
    migrate(lite, "up", "--vector", "bytea" if "vector" in type else "vector")  # nothing is remembered
    assert ("bytea" in column(lite)[0][0]) == ("vector" in type)


# ---- indexes ----

def fill(pg, n, dim=3):
    pg.sql(f"""INSERT INTO memories SELECT gen_random_uuid(), 'n' || i % 7, 1, 1, 'x', '{{}}', null, null, null, null, null, 0.5, 0, now(), now(),
               null, 1, 1, 'm', {dim}, (SELECT array_agg(random() + 0 * i * k) FROM generate_series(1, {dim}) k)::vector, null, '{{}}' FROM generate_series(1, {n}) i""")


def indexes(pg):
    return dict(pg.sql("SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname LIKE 'memories\\_vector%'"))


def plan(pg, dim=3):
    x = "[" + ",".join(["1"] * dim) + "]"
    return str(pg.sql(f"EXPLAIN SELECT id FROM memories WHERE dim = {dim} ORDER BY embedding::vector({dim}) <=> '{x}' LIMIT 5"))


@pytest.mark.parametrize("partitions", [0, 2])
def test_vector_indexes(lite, partitions):
    migrate(lite, "up", "--partitions", str(partitions))
    fill(lite, 3000)
    fill(lite, 100, dim=4)
    names = {"memories_vector_3_ivfflat_%d" % (1 if partitions else 3), "memories_vector_4_ivfflat_1"}
    sql = migrate(lite, "index", "--kind", "ivfflat", "--dry-run")
    assert indexes(lite) == {} and all(n in sql for n in names)
    assert migrate(lite, "index", "--kind", "ivfflat") == sql
    assert {n for n in indexes(lite) if "_p" not in n} == names and set(indexes(lite).values()) == {"t"}
    assert "memories_vector_3_ivfflat" in plan(lite) and "memories_vector_4_ivfflat" in plan(lite, 4)
    assert "nothing to do" in migrate(lite, "index", "--kind", "ivfflat")

    migrate(lite, "index", "--kind", "hnsw", "--dimensions", "3")
    assert "memories_vector_3_hnsw" in plan(lite)
    assert {n for n in indexes(lite) if "_p" not in n} == {"memories_vector_3_hnsw", "memories_vector_4_ivfflat_1"}
    migrate(lite, "index", "--kind", "none")
    assert indexes(lite) == {}
    migrate(lite, "down", "--to", "0", "--yes")


def test_lists(lite):
    migrate(lite, "up")
    fill(lite, 5000)
    for more, lists in ((["--lists", "7"], 7), (["--lists-max", "2"], 2), ([], 5), (["--lists", "auto"], 5)):
        assert f"lists = {lists})" in migrate(lite, "index", "--kind", "ivfflat", "--dry-run", *more)
    migrate(lite, "index", "--kind", "ivfflat", "--lists", "7")
    migrate(lite, "index", "--kind", "ivfflat", "--lists", "3")  # takes the other's place
    assert indexes(lite) == {"memories_vector_3_ivfflat_3": "t"}


def test_an_index_that_was_left_half_built(lite):
    migrate(lite, "up")
    fill(lite, 10)
    migrate(lite, "index", "--kind", "hnsw")
    lite.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'memories_vector_3_hnsw'::regclass")
    migrate(lite, "index", "--kind", "hnsw")
    assert indexes(lite) == {"memories_vector_3_hnsw": "t"}


def test_what_pgvector_does_not_index(lite):
    migrate(lite, "up")
    fill(lite, 2, dim=2001)
    p = subprocess.run([os.path.join(BUILD, "orchestractl"), "migrate", "index", "--kind", "hnsw", "--store-dsn", lite.dsn()],
                       capture_output=True, text=True)
    assert p.returncode == 0 and "2001 dimensions" in p.stderr and indexes(lite) == {}
    assert "1 to 2000" in migrate(lite, "index", "--kind", "hnsw", "--dimensions", "2001", code=2)


# ---- mem0 ----

@pytest.fixture(params=["vector", "real[]"])
def mem0(request):
    """A server with 250 memories of mem0's, which has pgvector or has not."""
    if request.param == "vector":
        pg = request.getfixturevalue("vector_server").empty()
    else:
        pg = Postgres(fsync=False)
        request.addfinalizer(pg.cleanup)
    pg.sql(f"CREATE TABLE memories (id uuid PRIMARY KEY, vector {request.param}{'(3)' if request.param == 'vector' else ''}, payload jsonb)")
    pg.sql(f"""INSERT INTO memories SELECT md5(i::text)::uuid, ARRAY[i, 1, 0.1]::{request.param}, jsonb_build_object('data', 'fact ' || i, 'hash',
               md5('fact' || i), 'user_id', 'u' || i % 3, 'agent_id', null, 'run_id', 'run', 'created_at', '2024-07-29T12:34:56.123456-07:00',
               'topic', jsonb_build_object('a', null), 'text_lemmatized', 'fact') FROM generate_series(1, 250) i""")
    return pg


@pytest.fixture
def o():
    o = Orchestra()
    yield o
    o.cleanup()


def mount(pg, o, *more, code=0):
    return json.loads(migrate(pg, "mount-mem0", "--table", "memories", "--namespace", "old", "--json", *more, socket=o.socket, code=code))


def got(**counts):
    return {"imported": 0, "changed": 0, "unchanged": 0, "skipped": 0, "failed": 0, **counts}


def test_memories_of_mem0(mem0, o):
    before = mem0.sql("SELECT * FROM memories ORDER BY id")
    sql = migrate(mem0, "mount-mem0", "--table", "public.memories", "--namespace", "old", "--dry-run")
    assert "250 memories" in sql
    assert o.get("/v1/memories:count?namespace=old").json["count"] == 0
    assert mount(mem0, o) == got(imported=250)
    assert mount(mem0, o) == got(unchanged=250)
    assert mem0.sql("SELECT * FROM memories ORDER BY id") == before

    id = mem0.sql("SELECT md5('17')::uuid")[0][0]
    m = o.get(f"/v1/memories/{id}?include=embedding").json
    assert m["embedding"] == pytest.approx([17, 1, 0.1])
    del m["embedding"]
    assert m == {"id": id, "namespace": "old", "content": "fact 17", "user_id": "u2", "session_id": "run", "importance": 0.5,
                 "embedding_model": "client:3", "version": 1, "created_at": "2024-07-29T19:34:56.123456Z",
                 "updated_at": "2024-07-29T19:34:56.123456Z",
                 "metadata": {"hash": mem0.sql("SELECT md5('fact17')")[0][0], "topic": {"a": None}}}


def test_mem0_goes_on(mem0, o):
    """What it adds and changes afterwards is taken over; what was deleted or changed later here stays so."""
    ids = [r[0] for r in mem0.sql("SELECT md5(i::text)::uuid FROM generate_series(1, 4) i")]
    mount(mem0, o)
    assert o.request("DELETE", f"/v1/memories/{ids[0]}").status == 204
    assert o.request("PATCH", f"/v1/memories/{ids[1]}", {"content": "ours"}).status == 200
    mem0.sql(f"UPDATE memories SET payload = payload || '{{\"data\": \"theirs\", \"updated_at\": \"2024-08-01T00:00:00\"}}' WHERE id IN ('{ids[1]}', '{ids[2]}')")
    mem0.sql("INSERT INTO memories SELECT md5('new')::uuid, NULL, '{\"data\": \"new\", \"created_at\": \"2024-08-01T00:00:00\"}'")
    assert mount(mem0, o) == got(imported=1, changed=1, unchanged=248, skipped=1)
    assert [o.get(f"/v1/memories/{i}").json["content"] for i in ids[1:]] == ["ours", "theirs", "fact 4"]
    assert o.get(f"/v1/memories/{ids[0]}").status == 404
    new = o.get("/v1/memories/" + mem0.sql("SELECT md5('new')::uuid")[0][0]).json
    assert (new["content"], new["created_at"]) == ("new", "2024-08-01T00:00:00.000000Z")  # a time without a zone is UTC
    assert mount(mem0, o) == got(unchanged=250, skipped=1)  # a change is made once


def test_rows_that_are_no_memories(mem0, o):
    mem0.sql("UPDATE memories SET payload = payload - 'data' WHERE id = md5('9')::uuid")
    p = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "migrate", "mount-mem0", "--table", "memories",
                        "--namespace", "old", "--store-dsn", mem0.dsn()], capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 1 and "content" in p.stderr and "249 taken over" in p.stdout, p


def test_tables_that_are_not_mem0s(mem0, o):
    for table, said in (("nix", "no table nix"), ("pg_class", "no table of mem0's"), ("it's", "no table it's")):
        assert said in migrate(mem0, "mount-mem0", "--table", table, "--namespace", "old", socket=o.socket, code=1)
    assert "--namespace" in migrate(mem0, "mount-mem0", "--table", "memories", socket=o.socket, code=2)
    migrate(mem0, "mount-mem0", "--table", "memories", "--namespace", "old", socket="/nowhere/s.sock", code=3)


def test_a_mount_that_was_interrupted_goes_on(mem0, o):
    """The daemon dies in the middle; what it has is known the next time."""
    lines = "".join(json.dumps({"id": r[0], "content": "fact", "embedding": [1, 2, 3], "updated_at": "2030-01-01T00:00:00Z",
                                "created_at": "2024-01-01T00:00:00Z"}) + "\n"
                    for r in mem0.sql("SELECT id FROM memories ORDER BY id LIMIT 130"))
    assert o.request("POST", "/v1/memories:import?namespace=old", lines.encode()).json["imported"] == 130
    o.kill()
    migrate(mem0, "mount-mem0", "--table", "memories", "--namespace", "old", socket=o.socket, code=3)
    o.start()
    assert mount(mem0, o) == got(imported=120, unchanged=130)
