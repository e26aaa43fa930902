"""orchestractl tune vectors of the store's own index: a daemon whose store is PostgreSQL with pgvector.

Broken code that this would catch: efforts that do not reach the server, exact answers that an index gave, recall of another k, the
daemon's index measured for the store's, an index built with --dry-run's or no options, a recommendation that finds too little or that
searches do not follow, bad input that is taken.
"""
import json
import os
import random
import signal
import subprocess
import xml.etree.ElementTree as ET

import pytest

from orchestra import BUILD, SLOW, Orchestra, store_sets, until
from pglite import Pglite
from pgnames import Names

DIM, ROWS = 96, 3000  # more than 1 MiB holds
KEY = "store.hnsw_ef_search"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def lite():
    with Pglite(connections=60) as pg, Names(pg) as wire:
        wire.sql("CREATE EXTENSION vector")
        yield wire


@pytest.fixture(scope="module")
def rows():
    noise = random.Random(5)
    return [[round(noise.gauss(0, 1), 3) for _ in range(DIM)] for _ in range(ROWS)]


@pytest.fixture(scope="module")
def daemon(lite, rows):
    """Its namespace "noise" is one that the store searches, "few" one that its own index holds."""
    with Orchestra(conf="", sets=[*store_sets(lite, "postgres"), "vectors.max_bytes=1 MiB"]) as o:
        r = o.post("/v1/memories", {"namespace": "few", "memories": [{"content": c, "embedding": [1.0] * 3} for c in "ab"]})
        assert r.status == 201, r
        r = o.post("/v1/memories", {"namespace": "texts", "memories": [{"content": c} for c in ("red apples", "green pears")]})
        assert r.status == 201, r
        for i in range(0, ROWS, 500):
            # In the store before the next: of a thousand that wait the flusher makes a COPY, at which PGlite hangs.
            r = o.post("/v1/memories?wait=store", {"namespace": "noise", "memories": [
                {"content": f"memory {k}", "embedding": rows[k], "user_id": f"u{k % 3}"} for k in range(i, i + 500)]})
            assert r.status == 201, r
        until(lambda: lite.sql("SELECT count(*) FROM memories") == [[str(ROWS + 4)]], 60)
        until(lambda: explain(o, rows[0])["candidates"]["pending"] == 0, 60)
        yield o


def explain(o, x, **fields):
    r = o.post("/v1/memories/search", {"namespace": "noise", "embedding": x, "explain": True, **fields})
    assert r.status == 200, r
    return r.json["explain"]


def build(pg, *args):
    p = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", "/nowhere", "migrate", "index", "--store-dsn", pg.dsn(), *args],
                       capture_output=True, text=True, timeout=120 * SLOW)
    assert p.returncode == 0, p
    pg.sql("ANALYZE memories")
    return p.stdout


@pytest.fixture(scope="module")
def hnsw(daemon, lite):
    assert "WITH (m = 4, ef_construction = 8)" in build(lite, "--kind", "hnsw", "--m", "4", "--ef-construction", "8")
    return daemon


def tune(o, pg, *args, namespace="noise", **kw):
    return o.ctl("--namespace", namespace, "tune", "vectors", "--store-dsn", pg.dsn(), *args, timeout=120 * SLOW, **kw)


def tuned(o, pg, *args, code=0):
    r = tune(o, pg, "--json", *args)
    assert r.returncode == code, r
    return json.loads(r.stdout)


def nearest(rows, x, k, among=lambda i: True):
    def score(i):
        return sum(a * b for a, b in zip(x, rows[i])) / sum(b * b for b in rows[i]) ** 0.5
    return sorted((i for i in range(len(rows)) if among(i)), key=lambda i: -score(i))[:k]


# ---- before there is an index ----

def test_without_an_index_it_says_how_to_build_one(daemon, lite):
    build(lite, "--kind", "none")
    r = tune(daemon, lite)
    assert (r.returncode, r.stdout) == (1, ""), r
    assert "no index for vectors of 96 dimensions" in r.stderr and "migrate index --kind hnsw --dimensions 96" in r.stderr


# ---- HNSW ----

def test_the_figures_fit_together(hnsw, lite):
    out = tuned(hnsw, lite, "--sample", "20", "--rounds", "2", "--ef-search", "30", "--recall", "0.5")
    assert (out["namespace"], out["memories"], out["questions"], out["limit"], out["rounds"]) == ("noise", ROWS, 20, 10, 2)
    assert (out["tier"], out["key"], out["configured"], out["wanted"]) == ("store", KEY, 200, 0.5) and out["iterative_scan"]
    index = out["index"]
    assert (index["name"], index["kind"], index["m"], index["ef_construction"]) == ("memories_vector_96_hnsw_m4_e8", "hnsw", 4, 8)
    assert index["rows"] == ROWS and index["bytes"] > ROWS * DIM * 4
    values = [p["value"] for p in out["points"]]
    assert values == [10, 20, 30, 40, 80, 120, 200, 400, 700, 1000]
    for p in out["points"]:
        assert p["answers"] == 40 and 0 < p["store_us"]["p50"] <= p["store_us"]["p99"] and p["rows"] >= 200
        assert p["recall"] == 1 or p["index"] or p["whole"]                     # who compares all misses none
    first = out["points"][0]
    assert first["index"] and 0 < first["recall"] < 1                           # else this says nothing
    good = [p for p in out["points"] if p["recall"] >= 0.5]
    assert out["recommended"]["value"] in [p["value"] for p in good]


def test_recall_is_what_the_vectors_say(hnsw, lite, rows, tmp_path):
    """Counted here from the vectors themselves, and from what SQL with the same effort answers."""
    noise = random.Random(9)
    questions = [[round(noise.gauss(0, 1), 3) for _ in range(DIM)] for _ in range(15)]
    file = tmp_path / "questions"
    file.write_text("".join(json.dumps({"embedding": x, "filter": {"not": {"user_id": "u1"}}}) + "\n" for x in questions))
    out = tuned(hnsw, lite, "--queries", str(file), "--limit", "5", "--rounds", "1", "--recall", "0.5")
    assert (out["questions"], out["limit"]) == (15, 5)
    point = out["points"][0]
    assert point["value"] == 10 and point["index"]
    found = 0
    for x in questions:
        got = lite.sql("SET hnsw.iterative_scan = relaxed_order; SET hnsw.ef_search = 10; SELECT content FROM (SELECT content, embedding::vector(96) <=> '%s' AS d FROM memories "
                       "WHERE namespace = 'noise' AND user_id <> 'u1' AND dim = 96 ORDER BY embedding::vector(96) <=> '%s' LIMIT 200) x "
                       "ORDER BY d + 0 LIMIT 5" % (x, x))                     # d alone: the planner believes the index
        found += len({f"memory {i}" for i in nearest(rows, x, 5, lambda i: i % 3 != 1)} & {c for (c,) in got})
    assert abs(point["recall"] - found / 75) < 0.03, (point, found)


def test_exact_is_exact_whatever_index_there_is(hnsw, lite, rows):
    noise = random.Random(13)
    missed = 0
    for _ in range(8):
        x = [round(noise.gauss(0, 1), 3) for _ in range(DIM)]
        want = [f"memory {i}" for i in nearest(rows, x, 10)]
        for fields in ({"exact": True}, {"recall": 1}, {}):
            r = hnsw.post("/v1/memories/search", {"namespace": "noise", "embedding": x, "limit": 10, "explain": True, **fields}).json
            assert r["explain"]["vector_tier"] == "store"
            got = [m["content"] for m in r["results"]]
            assert not fields or got == want
            missed += len(set(want) - set(got))
    assert missed                                                               # the index is used, and is a poor one


def test_what_people_see(hnsw, lite, tmp_path):
    svg = tmp_path / "curve.svg"
    r = tune(hnsw, lite, "--sample", "20", "--rounds", "1", "--recall", "0.5", "--svg", str(svg))
    assert r.returncode == 0 and r.stderr == "", r
    assert "\033" not in r.stdout and "\r" not in r.stdout
    assert "Measured: the store's index memories_vector_96_hnsw_m4_e8 (pgvector " in r.stdout and "HNSW, m = 4, ef_construction = 8" in r.stdout
    assert "The daemon's own index" not in r.stdout
    lines = [line.split() for line in r.stdout.splitlines()]
    assert ["EF_SEARCH", "RECALL", "STORE", "P99", "ROWS", "WHOLE", "PLAN"] in lines and "10" in [line[0] for line in lines if line]
    assert "* recommended" in r.stdout and f"\nRecommended: {KEY} = " in r.stdout
    root = ET.parse(svg).getroot()
    circles = root.findall(SVG + "circle")
    assert len(circles) == 9 and sum(c.get("class") == "best" for c in circles) == 1
    assert f"Recall@10 of noise, {ROWS} memories, 20 questions, pgvector HNSW" in [t.text for t in root.iter()]


def test_what_is_recommended_is_what_searches_do(hnsw, lite, rows):
    args = ("--sample", "20", "--rounds", "1", "--recall", "0.5", "--apply")

    def unlike_what_is_set(*more, **kw):
        """Which is the cheapest is a matter of the moment: it may be what is set."""
        for before in ("200", "333", "555", "777"):
            assert hnsw.patch("/v1/admin/config", {"set": {KEY: before}}).status == 200
            r = tune(hnsw, lite, *args, *more, **kw)
            if "already: nothing to apply" not in r.stderr:
                return r, before
        raise AssertionError(r)
    r, before = unlike_what_is_set(stdin="y\n")
    assert r.returncode == 1 and "there is no terminal to ask at; say --yes" in r.stderr, r
    assert hnsw.ctl("config", "get", KEY).stdout.strip() == before
    r, before = unlike_what_is_set("--yes")
    value = next(line for line in r.stdout.splitlines() if line.startswith("Recommended:")).split(" = ")[1].split(":")[0]
    assert r.returncode == 0 and f"{KEY} is {value} now" in r.stderr and value != before, r
    assert hnsw.ctl("config", "get", KEY, "--source").stdout == f"{value}  (tried)\n"
    entry = hnsw.get("/v1/admin/audit?what=tune").json["entries"][0]
    assert (entry["changes"][0]["key"], entry["changes"][0]["from"], entry["changes"][0]["to"]) == (KEY, before, value)
    assert entry["reason"].startswith("tune vectors on namespace noise, the store's memories_vector_96_hnsw_m4_e8: recall ")
    lite.sql("RESET hnsw.ef_search")                                            # all connections are one session

    def follows():
        assert explain(hnsw, rows[1])["vector_tier"] == "store"
        return lite.sql("SHOW hnsw.ef_search") == [[value]]
    assert hnsw.patch("/v1/admin/config", {"set": {KEY: "444"}}).status == 200
    until(lambda: explain(hnsw, rows[1]) and lite.sql("SHOW hnsw.ef_search") == [["444"]], 20)
    assert hnsw.patch("/v1/admin/config", {"set": {KEY: value}}).status == 200
    until(follows, 20)
    assert hnsw.ctl("unset", KEY).returncode == 0


def test_bad_input(hnsw, lite, tmp_path):
    def refused(code, text, *args, **kw):
        r = tune(hnsw, lite, *args, **kw)
        assert (r.returncode, r.stdout) == (code, "") and text in r.stderr, r
    refused(2, "--probes is of lists, and memories_vector_96_hnsw_m4_e8 is HNSW", "--probes", "3")
    refused(1, "no such namespace", namespace="nobody")
    refused(1, "give it an \"embedding\"", "--queries", "-", stdin="a text\n")
    for args in (["--ef-search", "0"], ["--ef-search", "1001"], ["--ef-search", "1,"], ["--timeout", "1ms"], ["--timeout", "soon"], ["--rounds", "21"],
                 ["--store-dsn", "nothing"]):
        refused(2, "orchestractl: tune", *args)
    for args in (["--kind", "ivfflat", "--m", "4"], ["--kind", "hnsw", "--m", "1"], ["--kind", "hnsw", "--ef-construction", "3"]):
        r = hnsw.ctl("migrate", "index", "--store-dsn", lite.dsn(), *args)
        assert r.returncode == 2 and "migrate" in r.stderr and r.stdout == "", r
    r = hnsw.ctl("--namespace", "noise", "tune", "vectors", "--store-dsn", "host=127.0.0.1 port=1")
    assert r.returncode == 3 and "orchestractl: " in r.stderr and r.stdout == "", r
    r = hnsw.ctl("--namespace", "noise", "tune", "vectors", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert r.returncode == 1 and "name it with -c FILE, or the database with --store-dsn DSN" in r.stderr, r
    file = tmp_path / "orchestra.conf"
    file.write_text('store: { kind = "postgres"; dsn = "%s"; };\n' % lite.dsn().replace('"', '\\"'))
    r = hnsw.ctl("--namespace", "noise", "--json", "tune", "vectors", "-c", str(file), "--sample", "5", "--rounds", "1", "--recall", "0.5")
    assert r.returncode == 0 and json.loads(r.stdout)["tier"] == "store", r     # without being told: the store compares them


def test_a_memory_of_one_s_own_index_is_measured_there(hnsw, lite):
    r = hnsw.ctl("--namespace", "few", "tune", "vectors")
    assert r.returncode == 0 and "nothing to tune" in r.stdout, r
    r = hnsw.ctl("--namespace", "few", "tune", "vectors", "--ef-search", "10")
    assert r.returncode == 2 and "--ef-search is of the store's index" in r.stderr, r
    r = tune(hnsw, lite, namespace="few")
    assert r.returncode == 1 and "the server does not search index memories_vector_3_hnsw_m4_e8 for namespace few" in r.stderr, r


def test_a_text_is_what_the_built_in_embedder_makes_of_it(hnsw, lite):
    r = tune(hnsw, lite, "--queries", "-", namespace="texts", stdin="apples\n")
    assert r.returncode == 1 and "the server does not search index memories_vector_1536_hnsw_m4_e8 for namespace texts" in r.stderr, r


# ---- IVFFlat ----

def test_lists_and_probes(hnsw, lite):
    build(lite, "--kind", "ivfflat", "--lists", "30")
    try:
        out = tuned(hnsw, lite, "--sample", "20", "--rounds", "1", "--probes", "3,300", "--recall", "0.5")
        assert (out["key"], out["configured"], out["index"]["lists"]) == ("store.ivfflat_probes", 20, 30)
        assert [p["value"] for p in out["points"]] == [1, 2, 3, 5, 10, 20, 30]
        assert out["points"][0]["recall"] < 1 == out["points"][-1]["recall"]
        assert out["rebuild"] == "orchestractl migrate index --kind ivfflat --dimensions 96 --lists 3"
        r = tune(hnsw, lite, "--ef-search", "3")
        assert r.returncode == 2 and "is IVFFlat: --probes" in r.stderr, r
        r = tune(hnsw, lite, "--sample", "10", "--rounds", "1", "--recall", "0.5")
        assert "The index has 30 lists; for 3000 vectors 3 are advised" in r.stdout, r
        lite.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'memories_vector_96_ivfflat_30'::regclass")
        r = tune(hnsw, lite)
        assert r.returncode == 1 and "memories_vector_96_ivfflat_30 of the store is not finished" in r.stderr, r
    finally:
        build(lite, "--kind", "none")


# ---- other stores ----

def test_sqlite_has_nothing_to_tune(lite):
    with Orchestra(sets=["store.kind=sqlite"]) as o:
        assert o.post("/v1/memories", {"namespace": "noise", "content": "a", "embedding": [1.0] * 3}).status == 201
        r = o.ctl("--namespace", "noise", "tune", "vectors", "--store")
        assert r.returncode == 1 and "the store is SQLite, which compares all vectors of namespace noise" in r.stderr, r


def test_a_database_without_pgvector(daemon):
    from postgres import Postgres
    with Postgres(fsync=False) as server:
        p = subprocess.run([os.path.join(BUILD, "orchestractl"), "migrate", "up", "--store-dsn", server.dsn()], capture_output=True, text=True)
        assert p.returncode == 0, p
        r = tune(daemon, server)
        assert r.returncode == 1 and "the store has no pgvector: its column of vectors is bytea" in r.stderr, r


# ---- last, as it keeps the daemon waiting ----

def test_an_interrupt_ends_it_while_the_server_is_slow(daemon, lite, tmp_path):
    with lite.session() as s:
        s.execute("BEGIN")                                                      # everybody else waits for its end
        file = tmp_path / "questions"
        file.write_text(json.dumps({"embedding": [1.0] * 3}))
        p = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", daemon.socket, "--namespace", "few", "tune", "vectors",
                              "--store-dsn", lite.dsn(), "--queries", str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: any(":%04X " % lite.port in line and line.split()[9] in inodes(p.pid) for line in open("/proc/net/tcp").readlines()[1:]), 20)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=20 * SLOW)
    assert (p.returncode, out) == (-signal.SIGINT, "") and "interrupted; nothing was changed" in err


def inodes(pid):
    out = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out.add(os.readlink(f"/proc/{pid}/fd/{fd}").removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            pass
    return out
