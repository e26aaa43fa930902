"""The caches as an operator meets them: routes, orchestractl, metrics, the log. Broken code this would catch: figures that are invented or
not counted, entries of other namespaces shown or purged, a purge that says so and does not, a copy in Redis that is called right
although it is not, a /metrics that waits for Redis, an operator whose Redis is set up badly and who is not told."""
import hashlib
import re
import time
import uuid

import pytest

from fleet import Fleet, flushed, metric
from orchestra import SLOW, Orchestra, until
from postgres import Postgres
from redis import Redis

PATH = "/v1/admin/cache"
L1 = {"capacity_bytes", "used_bytes", "entries", "emptied_shards", "classes"}
CLASS = {"entries", "bytes", "hits", "misses", "evictions"}
MEMORY = CLASS | {"negative_hits", "stale_hits", "collapsed", "refreshes"}


SETS = ["redis.answer_timeout=2s", "sync.debounce_ms=10"]


def redis_sets(redis):
    return [f"redis.url={redis.unix_url()}", *SETS]


@pytest.fixture(scope="module")
def pg():
    pg = Postgres({"max_connections": 100}, fsync=False)
    yield pg
    pg.cleanup()


@pytest.fixture
def o():
    with Orchestra(sets=["sync.debounce_ms=10"]) as o:
        o.warmed()
        yield o


@pytest.fixture
def tier(pg):
    """A daemon with a PostgreSQL and a Redis of its own."""
    with Redis({"maxmemory-policy": "allkeys-lfu"}, maxmemory=64 << 20) as redis, Fleet(1, pg, sets=redis_sets(redis)) as f:
        f[0].redis = redis
        f[0].warmed()
        yield f[0]


def inspect(o, id_, **kw):
    r = o.get(f"{PATH}/{id_}", **kw)
    assert r.status == 200, r
    return r.json


def purge(o, **body):
    r = o.post(PATH + ":purge", body)
    assert r.status == 200, r
    return r.json


def stats(o):
    r = o.get(PATH)
    assert r.status == 200, r
    return r.json


def top(o, query=""):
    r = o.get(PATH + "/top" + query)
    assert r.status == 200, r
    return r.json["entries"]


def settled(o):
    until(lambda: metric(o, "orchestra_pending_entries") == 0)


# ---- figures ----

def test_figures(o):
    s = stats(o)
    assert set(s) == {"l1", "loads", "l2", "feed", "notices"} and set(s["l1"]) == L1
    assert s["l1"]["entries"] == 0 and s["l1"]["capacity_bytes"] > 2**25 and s["l2"]["configured"] in (False, True)
    assert set(s["l1"]["classes"]) == {"memory", "search", "vector"}
    assert set(s["l1"]["classes"]["memory"]) == MEMORY  # nothing was asked: no ratio; nothing evicted: no mean age
    assert set(s["l1"]["classes"]["vector"]) == CLASS
    m = o.add("Ada likes tea")
    settled(o)
    for _ in range(3):
        assert o.get(f"/v1/memories/{m['id']}").status == 200
    purge(o, id=m["id"])
    assert o.get(f"/v1/memories/{m['id']}").status == 200
    for _ in range(2):
        o.get(f"/v1/memories/{uuid.UUID(int=7)}")
    for _ in range(2):
        o.post("/v1/memories/search", {"query": "tea"})
    s = stats(o)
    memory, search = s["l1"]["classes"]["memory"], s["l1"]["classes"]["search"]
    assert (memory["entries"], memory["hits"], memory["misses"], memory["negative_hits"]) == (2, 4, 2, 1)  # the search read it, too
    assert memory["hit_ratio"] == round(5 / 7, 4)
    assert (search["entries"], search["hits"], search["misses"], search["hit_ratio"]) == (1, 1, 1, 0.5)
    assert s["loads"]["store"] == 2
    assert s["l1"]["entries"] == 4 and s["l1"]["used_bytes"] == sum(c["bytes"] for c in s["l1"]["classes"].values())


def test_metrics_say_the_same(o):
    for k in range(3):
        o.add(f"note {k}")
    settled(o)
    o.post("/v1/memories/search", {"query": "note"})
    s = stats(o)["l1"]
    for cls, row in s["classes"].items():
        label = '{tier="l1",class="%s"}' % cls
        assert metric(o, "orchestra_cache_entries" + label) == row["entries"] > 0
        assert metric(o, "orchestra_cache_bytes" + label) == row["bytes"] > 0
    assert metric(o, "orchestra_cache_entries") == s["entries"] == 5
    assert metric(o, "orchestra_cache_capacity_bytes") == s["capacity_bytes"]
    assert metric(o, "orchestra_cache_emptied_shards_total") == 0
    assert "orchestra_redis" not in o.get("/metrics").body.decode()  # there is none


def test_evictions_are_counted():
    with Orchestra(sets=["sync.debounce_ms=10", "cache.l1_bytes=1MiB"]) as o:
        for k in range(30):
            assert o.post("/v1/memories", {"memories": [{"content": f"{k} {i} " + "x" * 500} for i in range(100)]}).status == 201
        memory = stats(o)["l1"]["classes"]["memory"]
        assert memory["evictions"] > 1000 and memory["mean_age_at_eviction_s"] >= 0
        assert memory["entries"] + memory["evictions"] == 3000
        assert metric(o, 'orchestra_cache_evictions_total{tier="l1",class="memory"}') == memory["evictions"]
        time.sleep(0.1)
        before = metric(o, "orchestra_cache_evicted_age_seconds_total")
        o.post("/v1/memories", {"memories": [{"content": f"{i} " + "x" * 500} for i in range(500)]})
        assert metric(o, "orchestra_cache_evicted_age_seconds_total") > before


# ---- the hottest ----

def test_top(o):
    ids = [o.add(f"note {k}", namespace="a" if k % 2 else "b")["id"] for k in range(30)]
    settled(o)
    hot = ids[17]
    for _ in range(8):
        o.get(f"/v1/memories/{hot}")
    o.post("/v1/memories/search", {"query": "note", "namespace": "a"})
    rows = top(o)
    assert len(rows) == 20 and o.get(PATH + "/top").json["of"] == 32
    assert [r["heat"] for r in rows] == sorted((r["heat"] for r in rows), reverse=True)
    first = rows[0]
    assert (first["key"], first["class"], first["namespace"], first["version"]) == (hot, "memory", "a", 1)
    assert first["hits"] > 0 and first["negative"] is False and first["state"] == "fresh" and first["bytes"] > 100
    assert len(top(o, "?limit=1")) == 1 and len(top(o, "?limit=1000")) == 32
    assert [r["class"] for r in top(o, "?class=search")] == ["search"]
    assert {r["key"] for r in top(o, "?class=memory&limit=1000")} == set(ids)
    vector = top(o, "?class=vector")[0]
    assert "namespace" not in vector and "gone_in_s" not in vector  # it is of none, and stays
    assert "gone_in_s" in top(o, "?class=search")[0]
    for bad in ("limit=0", "limit=1001", "limit=x", "limit=", "limit=1%00", "limit=-1", "class=none", "class=", "class=memory%00"):
        r = o.get(PATH + "/top?" + bad)
        assert r.status == 400 and r.json["detail"].startswith(bad.split("=")[0] + ": "), (bad, r)


# ---- one memory ----

def test_inspect(o):
    m = o.add("Ada likes tea")
    settled(o)
    i = inspect(o, m["id"])
    assert i["id"] == m["id"] and i["served_from"] == "l1"
    l1 = i["l1"]
    assert (l1["present"], l1["class"], l1["version"], l1["state"], l1["negative"], l1["namespace"]) == (True, "memory", 1, "fresh", False, "default")
    assert l1["bytes"] == len(o.get(f"/v1/memories/{m['id']}").body) and l1["age_s"] < 60 * SLOW
    assert i["pending"] == {"present": False} and i["l2"]["asked"] is False and "redis.url" in i["l2"]["why"]
    assert i["store"] == {"asked": True, "present": True, "version": 1, "deleted": False, "expired": False, "namespace": "default"}
    hits = metric(o, "orchestra_cache_hits_total")
    purge(o, id=m["id"])
    i = inspect(o, m["id"])
    assert i["l1"]["state"] == "absent" and i["l1"]["epoch"] > l1["epoch"] and i["served_from"] == "store"
    assert metric(o, "orchestra_cache_hits_total") == hits  # to look is not to read
    nobody = uuid.UUID(int=7)
    o.get(f"/v1/memories/{nobody}")
    i = inspect(o, nobody)
    assert i["l1"]["negative"] is True and i["store"] == {"asked": True, "present": False}
    o.delete(f"/v1/memories/{m['id']}")
    settled(o)
    assert inspect(o, m["id"])["store"]["deleted"] is True
    assert o.get(PATH + "/none").status == 404


def test_what_is_pending_is_shown():
    with Orchestra(sets=["sync.debounce_ms=60000"]) as o:
        m = o.add("Ada likes tea")
        purge(o, id=m["id"])
        i = inspect(o, m["id"])
        assert (i["pending"]["present"], i["pending"]["version"], i["pending"]["deleted"], i["served_from"]) == (True, 1, False, "journal")
        assert i["store"]["present"] is False
        o.delete(f"/v1/memories/{m['id']}")
        i = inspect(o, m["id"])
        assert (i["pending"]["version"], i["pending"]["deleted"]) == (2, True)


def test_any_key_of_l1_can_be_looked_at(o):
    o.add("Ada likes tea")
    settled(o)
    o.post("/v1/memories/search", {"query": "tea"})
    key = top(o, "?class=search")[0]["key"]
    assert inspect(o, key)["l1"]["class"] == "search"
    assert purge(o, id=key) == {"l1": 1}
    assert top(o, "?class=search") == []


# ---- purges ----

def test_purge(o):
    ids = [o.add(f"note {k}", namespace="a" if k < 4 else "b")["id"] for k in range(10)]
    settled(o)

    def search():
        return o.post("/v1/memories/search", {"query": "note", "namespace": "a"})
    search()
    assert len(top(o)) == 12
    assert purge(o, id=ids[0]) == {"l1": 1} and purge(o, id=ids[0]) == {"l1": 0}
    assert purge(o, id=ids[1], **{"class": "search"}) == {"l1": 0} and inspect(o, ids[1])["l1"]["present"]
    assert purge(o, namespace="a", **{"class": "memory"}) == {"l1": 3}
    assert search().headers["Cache-Status"] == "orchestra; hit"
    assert purge(o, namespace="a")["l1"] >= 1  # the answer, and what it brought back
    assert "hit" not in search().headers["Cache-Status"]
    assert purge(o, **{"class": "vector"}) == {"l1": 1}
    assert {r["namespace"] for r in top(o, "?class=memory")} >= {"b"}
    assert purge(o, tier="all")["l1"] >= 6 and top(o) == []
    assert purge(o) == {"l1": 0}
    for i in ids:
        assert o.get(f"/v1/memories/{i}").status == 200  # nothing is lost
    log = o.log()
    assert f"cache purged by local: tier l1, class any, namespace any, id {ids[0]}: 1 entries of l1, 0 of l2" in log
    assert "cache purged by local: tier l1, class memory, namespace a, id any: 3 entries of l1" in log


@pytest.mark.parametrize("body, field", [
    ({"tier": "l3"}, "tier"), ({"tier": 1}, "tier"), ({"tier": "l2"}, "tier"), ({"class": "none"}, "class"), ({"class": None}, "class"),
    ({"namespace": ""}, "namespace"), ({"namespace": "a\0"}, "namespace"), ({"id": "x"}, "id"), ({"id": str(uuid.UUID(int=1)), "namespace": "a"}, "namespace"),
    ({"namespace": "a", "class": "vector"}, "namespace"), ({"tier": "all", "namespace": "a"}, "tier"), ({"all": True}, "all"), ([], "body"), ("", "body")])
def test_what_is_no_purge(shared, body, field):
    shared.add("Ada likes tea", namespace="a")
    n = stats(shared)["l1"]["entries"]
    r = shared.post(PATH + ":purge", body)
    assert r.status == 400 and r.json["detail"].startswith(field + ": "), r
    assert stats(shared)["l1"]["entries"] == n > 0


# ---- who may ----

def test_credentials(make, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} {rights} {spaces}\n" for n, rights, spaces in (
        ("root", "admin", "*"), ("ada", "admin", "a"), ("reader", "read,write", "*"))))
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}", "sync.debounce_ms=10"])

    def ask(who, method, path, body=None):
        return o.request(method, path, body, {"Authorization": "Bearer " + who})
    ids = {ns: ask("root", "POST", "/v1/memories", {"content": "tea", "namespace": ns}).json["id"] for ns in "ab"}
    nobody = uuid.UUID(int=7)
    ask("root", "GET", f"/v1/memories/{nobody}")
    for ns in "ab":
        until(lambda: "stored" in ask("root", "POST", "/v1/memories/search", {"query": "tea", "namespace": ns}).headers.get("Cache-Status", ""))
    for path in (PATH, PATH + "/top", f"{PATH}/{ids['a']}"):
        assert ask("reader", "GET", path).status == 403
    assert ask("reader", "POST", PATH + ":purge", {}).status == 403
    assert len(ask("root", "GET", PATH + "/top").json["entries"]) == 6
    mine = ask("ada", "GET", PATH + "/top").json
    assert {r["namespace"] for r in mine["entries"]} == {"a"} and mine["of"] == 2
    assert ask("ada", "GET", f"{PATH}/{ids['a']}").json["l1"]["present"] is True
    for other in (ids["b"], nobody):
        r = ask("ada", "GET", f"{PATH}/{other}")
        assert r.status == 404 and '"b"' not in r.json["detail"]
    for body in ({}, {"class": "memory"}, {"namespace": "b"}, {"tier": "all", "id": ids["a"]}):
        assert ask("ada", "POST", PATH + ":purge", body).status == 403, body
    for other in (ids["b"], str(nobody)):
        assert ask("ada", "POST", PATH + ":purge", {"id": other}).json == {"l1": 0}
    assert len(ask("root", "GET", PATH + "/top").json["entries"]) == 6
    assert ask("ada", "POST", PATH + ":purge", {"id": ids["a"]}).json == {"l1": 1}
    assert ask("ada", "POST", PATH + ":purge", {"namespace": "a"}).json == {"l1": 1}
    assert "cache purged by ada: tier l1, class any, namespace a," in o.log()
    assert len(ask("root", "GET", PATH + "/top").json["entries"]) == 4


# ---- orchestractl ----

def test_orchestractl(o):
    m = o.add("Ada likes tea", namespace="the café")
    settled(o)
    o.get(f"/v1/memories/{m['id']}")
    r = o.ctl("cache", "stats")
    assert r.returncode == 0 and re.search(r"^memory +1 +\d+ B +100\.0% +1 +0 ", r.stdout, re.M), r
    assert re.search(r"^vector +0 +0 B +- ", r.stdout, re.M) and "l2  no Redis" in r.stdout and "feed" not in r.stdout
    r = o.ctl("cache", "top", "--limit", "1", "--class", "memory")
    head, row, last = r.stdout.splitlines()
    assert head.split()[:3] == ["KEY", "CLASS", "HEAT"] and row.split()[:2] == [m["id"], "memory"] and row.endswith("the café")
    assert last == "1 of 1 entries"
    assert head.index("NAMESPACE") == row.index("the café")
    r = o.ctl("cache", "inspect", m["id"])
    assert r.returncode == 0 and "namespace  the café\n" in r.stdout and "a read is answered by l1\n" in r.stdout, r
    assert re.search(r"^l1 +version 1 \(memory\), fresh,", r.stdout, re.M) and re.search(r"^store +version 1$", r.stdout, re.M)
    r = o.ctl("cache", "purge", m["id"])
    assert (r.returncode, r.stdout) == (0, "l1: 1 purged\n")
    assert "a read is answered by store\n" in o.ctl("cache", "inspect", m["id"]).stdout
    assert o.ctl("cache", "top").stdout == "There are no entries.\n"
    o.get(f"/v1/memories/{m['id']}")
    assert o.ctl("cache", "purge", "--namespace", "the café", "--json").stdout == '{"l1":1}\n'
    o.get(f"/v1/memories/{m['id']}")
    assert o.ctl("cache", "purge", "--class", "search").stdout == "l1: 0 purged\n"
    assert o.ctl("cache", "purge", "--all", "--tier", "all").stdout == "l1: 1 purged\n"
    assert '"classes":{"memory":' in o.ctl("--json", "cache", "stats").stdout
    assert o.ctl("cache", "--help").stdout.startswith("Usage: orchestractl cache stats\n")
    assert o.ctl("help", "cache").stdout == o.ctl("cache", "purge", "--help").stdout
    assert " cache " in o.ctl("completion").stdout


def test_orchestractl_is_used_wrongly(o):
    m = o.add("Ada likes tea")
    for args in ((), ("empty",), ("purge",), ("purge", "--all", m["id"]), ("purge", "--all", "--class", "memory"), ("inspect",), ("inspect", "a", "b"),
                 ("top", m["id"]), ("stats", "--all"), ("top", "--tier", "l1"), ("stats", "--limit", "1"), ("purge", "--limit", "1", m["id"]), ("top", "--limit")):
        r = o.ctl("cache", *args)
        assert r.returncode == 2 and r.stderr and not r.stdout, (args, r)
    for args, word in ((("top", "--limit", "0"), "limit: "), (("top", "--class", "x"), "class: "), (("inspect", "x"), "UUID"), (("purge", "x"), "id: "),
                       (("purge", "--tier", "l9", m["id"]), "tier: "), (("purge", "--tier", "l2", "--all"), "redis.url")):
        r = o.ctl("cache", *args)
        assert r.returncode == 1 and word in r.stderr, (args, r)
    assert inspect(o, m["id"])["l1"]["present"]
    o.stop()
    assert o.ctl("cache", "stats").returncode == 3


# ---- with Redis ----

def test_redis_in_figures(tier):
    s = until(lambda: (s := stats(tier)["l2"])["reachable"] and s)
    assert (s["configured"], s["breaker"], s["hits"]) == (True, "closed", 0) and "error" not in s
    server = s["server"]
    assert (server["masters"], server["mode"], server["maxmemory_policy"]) == (1, "standalone", "allkeys-lfu")
    assert server["maxmemory_bytes"] == 64 << 20 and server["used_memory_bytes"] > 0 and server["version"][0].isdigit()
    feed = until(lambda: (f := stats(tier)["feed"])["heard"] and f)  # a busy machine may be silent for a moment
    assert feed["fleet"] is True and feed["heard"] is True and feed["silent_s"] >= 0
    until(lambda: metric(tier, "orchestra_redis_up") == 1)
    assert metric(tier, "orchestra_redis_maxmemory_bytes") == 64 << 20 and metric(tier, "orchestra_redis_used_memory_bytes") > 0
    assert metric(tier, "orchestra_redis_evicted_keys_total") == 0
    r = tier.ctl("cache", "stats")
    assert "reachable, breaker closed, Redis " in r.stdout and "64.0 MiB (allkeys-lfu)" in r.stdout and "feed  heard" in r.stdout
    assert "maxmemory" not in tier.log()


def keep_in_redis(o, *ids):
    """Read from the store, they are kept in Redis, and in L1 again."""
    for i in ids:
        until(lambda: purge(o, id=i) and o.get(f"/v1/memories/{i}").status == 200 and inspect(o, i)["l2"]["present"])


def test_a_copy_in_redis_is_judged(tier):
    m = tier.add("Ada likes tea")
    until(lambda: flushed(tier))
    keep_in_redis(tier, m["id"])
    purge(tier, id=m["id"])
    i = inspect(tier, m["id"])
    assert i["served_from"] == "l2"
    assert (i["l2"]["asked"], i["l2"]["version"], i["l2"]["believed"], i["l2"]["namespace"]) == (True, 1, True, "default") and "why" not in i["l2"]
    assert "believed\n" in tier.ctl("cache", "inspect", m["id"]).stdout
    tier.patch(f"/v1/memories/{m['id']}", {"content": "Ada likes milk"})
    until(lambda: flushed(tier))
    purge(tier, id=m["id"])
    i = until(lambda: not (i := inspect(tier, m["id"]))["l2"]["believed"] and i)
    assert i["l2"]["version"] == 1 and i["store"]["version"] == 2 and i["served_from"] == "store"
    last = int(re.fullmatch(r"older than the last change, at revision (\d+)", i["l2"]["why"]).group(1))
    assert last > i["l2"]["revision"]
    r = tier.ctl("cache", "inspect", m["id"])
    assert re.search(r"^l2 +version 1, of revision \d+, \d+ bytes, not believed: older than the last change, at revision \d+$", r.stdout, re.M), r
    r = tier.get(f"/v1/memories/{m['id']}")
    assert r.json["content"] == "Ada likes milk" and "l2" not in r.headers["Cache-Status"]


def test_redis_is_purged(tier):
    ids = [tier.add(f"note {k}")["id"] for k in range(5)]
    until(lambda: flushed(tier))
    keep_in_redis(tier, *ids)
    tier.redis("SET", "theirs", "1")
    assert len(tier.redis.keys()) == 6
    assert purge(tier, tier="l2", id=ids[0]) == {"l2": 1} and purge(tier, tier="l2", id=ids[0]) == {"l2": 0}
    assert inspect(tier, ids[0])["l1"]["present"] and len(tier.redis.keys()) == 5
    assert purge(tier, tier="all", id=ids[1]) == {"l1": 1, "l2": 1}
    assert purge(tier, tier="l2", **{"class": "search"}) == {"l2": 0}
    assert tier.ctl("cache", "purge", "--tier", "l2", "--class", "memory").stdout == "l2: 3 purged\n"
    assert tier.redis.keys() == ["theirs"]
    keep_in_redis(tier, *ids)
    got = purge(tier, tier="all")
    assert got["l1"] >= 5 and got["l2"] == 5 and tier.redis("GET", "theirs") == b"1"
    r = tier.post(PATH + ":purge", {"tier": "l2", "namespace": "default"})
    assert r.status == 400 and "by id or by class" in r.json["detail"]
    assert "cache purged by local: tier l2, class memory, namespace any, id any: 0 entries of l1, 3 of l2" in tier.log()


def test_redis_is_away(tier):
    m = tier.add("Ada likes tea")
    until(lambda: metric(tier, "orchestra_redis_up") == 1)
    tier.redis.pause()  # silent, which is worse than gone
    began = time.monotonic()
    up = [metric(tier, "orchestra_redis_up") for _ in range(20)]
    assert time.monotonic() - began < 2 and set(up) <= {0, 1}  # it waits 2 s for an answer, /metrics for nothing
    tier.redis.kill9()
    for body, gone in (({"tier": "l2"}, 0), ({"tier": "all", "id": m["id"]}, 1)):
        r = tier.post(PATH + ":purge", body)
        assert r.status == 503 and r.json["type"].endswith(":l2-unreachable") and f"purged so far: {gone} of l1" in r.json["detail"], r
    s = stats(tier)["l2"]
    assert s["reachable"] is False and "server" not in s
    i = inspect(tier, m["id"])
    assert i["l2"]["asked"] is False and "Redis does not answer" in i["l2"]["why"] and i["served_from"] == "store"
    assert "not reachable" in tier.ctl("cache", "stats").stdout
    until(lambda: metric(tier, "orchestra_redis_up") == 0, 30)
    assert metric(tier, "orchestra_redis_maxmemory_bytes") == 64 << 20  # what it said last
    tier.redis.start()
    until(lambda: metric(tier, "orchestra_redis_up") == 1, 30)


def test_the_store_is_away(pg):
    """One wants to look just then."""
    with Redis() as redis, Fleet(1, pg, sets=[*redis_sets(redis), "store.answer_timeout=500ms", "store.connect_timeout=500ms"]) as f:
        o = f[0]
        m = o.add("Ada likes tea")
        until(lambda: flushed(o))
        pg.sql(f"ALTER DATABASE {f.database} ALLOW_CONNECTIONS false")
        pg.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", f.database)
        i = until(lambda: not (i := inspect(o, m["id"]))["store"]["asked"] and i)
        assert i["store"]["why"] and "present" not in i["store"] and i["served_from"] == "l1"
        until(lambda: stats(o)["feed"]["heard"] is False)
        pg.sql(f"ALTER DATABASE {f.database} ALLOW_CONNECTIONS true")
        until(lambda: inspect(o, m["id"])["store"].get("version") == 1, 30)


@pytest.mark.parametrize("settings, said", [({}, "maxmemory 0"), ({"maxmemory": "64mb"}, "maxmemory-policy noeviction"),
                                            ({"maxmemory": "64mb", "maxmemory-policy": "allkeys-random"}, "maxmemory-policy allkeys-random")])
def test_settings_that_defeat_it_are_said_once(pg, settings, said):
    with Redis(settings) as redis, Fleet(1, pg, sets=redis_sets(redis)) as f:
        until(lambda: metric(f[0], "orchestra_redis_up") == 1)
        until(lambda: "maxmemory" in f[0].log())
        if not settings:  # once, however often it comes back
            redis.kill9()
            until(lambda: metric(f[0], "orchestra_redis_up") == 0, 30)
            redis.start()
            until(lambda: metric(f[0], "orchestra_redis_up") == 1, 30)
        lines = [x for x in f[0].log().splitlines() if "maxmemory" in x]
        assert len(lines) == 1 and said in lines[0] and "allkeys-lfu" in lines[0] and " warn " in lines[0]
