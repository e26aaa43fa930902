"""Daemons that share a PostgreSQL: what one writes the others have, and of two that write the same memory one wins everywhere."""
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from datetime import datetime

import pytest

from fleet import Fleet, flushed, metric
from orchestra import BUILD, SLOW, Orchestra, kill_all, until
from proxy import Proxy

HELD = ["sync.debounce_ms=60000", "sync.batch_max=100000"]  # what is written stays pending until somebody waits for the store


@pytest.fixture(scope="module")
def pair():
    with Fleet(2) as f:
        yield f


@pytest.fixture(scope="module")
def server():
    from postgres import Postgres
    with Postgres({"max_connections": 100}, fsync=False) as pg:
        yield pg


def warm(f, ids):
    """Every daemon has them in its caches."""
    for o in f:
        for i in ids:
            o.memory(i)


def vector(angle):
    return [math.cos(angle), math.sin(angle), 0.0, 0.0]


def stored(o, method, path, body=None, **kw):
    """A write that the server has when this returns."""
    r = o.request(method, path + ("&" if "?" in path else "?") + "wait=store", body, **kw)
    assert r.status in (200, 201, 204), r
    return r


# ---- following ----

def test_an_add_reaches_get_list_search_and_count(pair, ns):
    a, b = pair
    m = a.add("the lighthouse keeper collects teapots", namespace=ns, metadata={"k": 1}, user_id="ada", external_id="e1")
    until(lambda: b.memory(m["id"]).status == 200)
    got = b.memory(m["id"]).json
    assert {k: got[k] for k in m if k in got and k != "durability"} == {k: v for k, v in m.items() if k in got and k != "durability"}
    until(lambda: [x["id"] for x in b.list(namespace=ns)["memories"]] == [m["id"]])
    for mode in ("text", "vector", "hybrid"):
        until(lambda: [x["id"] for x in b.search("lighthouse teapots", namespace=ns, mode=mode)] == [m["id"]])
    assert b.list(namespace=ns, user_id="ada")["memories"] and not b.list(namespace=ns, user_id="bob")["memories"]
    until(lambda: b.get(f"/v1/namespaces/{ns}").json["count"] == 1)
    assert b.get(f"/v1/memories:count?namespace={ns}").json["count"] == 1


def test_an_external_id_names_one_memory_on_both(pair, ns):
    a, b = pair
    m = a.add("first", namespace=ns, external_id="x")
    pair.followed()
    r = b.post("/v1/memories", {"content": "second", "namespace": ns, "external_id": "x"})
    assert r.status == 200 and r.json["id"] == m["id"] and r.json["version"] == 2
    pair.followed()
    assert set(pair.equal(ns).values()) == {(2, "second")}


def test_an_idempotency_key_holds_on_both(pair, ns):
    a, b = pair
    body = {"content": "once", "namespace": ns}
    first = a.post("/v1/memories?wait=store", body, headers={"Idempotency-Key": "k" + ns})
    assert first.status == 201
    again = b.post("/v1/memories?wait=store", body, headers={"Idempotency-Key": "k" + ns})
    assert again.status == 201 and again.json["id"] == first.json["id"]
    pair.followed()
    assert len(pair.equal(ns)) == 1


def test_updates_deletes_and_restores_follow(pair, ns):
    a, b = pair
    m = a.add("one", namespace=ns)
    pair.followed()
    warm(pair, [m["id"]])
    path = f"/v1/memories/{m['id']}"
    assert a.patch(path, {"content": "two", "metadata": {"n": 2}}).status == 200
    until(lambda: b.memory(m["id"]).json["content"] == "two")
    assert b.patch(path, {"content": "three"}).json["version"] == 3
    until(lambda: a.memory(m["id"]).json["content"] == "three")
    assert [h["version"] for h in a.get(path + "/history").json["history"]] == \
        [h["version"] for h in b.get(path + "/history").json["history"]]
    assert b.delete(path).status == 204
    until(lambda: a.memory(m["id"]).status == 404)
    for o in pair:
        assert o.list(namespace=ns)["memories"] == [] and o.search("three", namespace=ns) == []
    pair.followed()
    assert a.post(path + "/restore").status == 200
    until(lambda: b.memory(m["id"]).status == 200)
    until(lambda: [x["id"] for x in b.search("three", namespace=ns, mode="vector")] == [m["id"]])
    pair.followed()
    pair.equal(ns)


def test_superseding_follows(pair, ns):
    a, b = pair
    old = a.add("Ada lives in Paris", namespace=ns)
    pair.followed()
    r = a.post(f"/v1/memories/{old['id']}/supersede", {"content": "Ada lives in Rome"})
    assert r.status == 201
    until(lambda: [x["content"] for x in b.search("where does Ada live", namespace=ns)] == ["Ada lives in Rome"])
    pair.followed()
    for o in pair:
        for mode in ("text", "vector", "hybrid"):
            assert [x["content"] for x in o.search("Ada lives", namespace=ns, mode=mode)] == ["Ada lives in Rome"]


def test_erasing_follows_and_leaves_nothing_on_the_server(pair, ns):
    a, b = pair
    m = a.add("the password is correct-horse-battery", namespace=ns)
    a.patch(f"/v1/memories/{m['id']}", {"content": "the password was correct-horse-battery"})
    pair.followed()
    warm(pair, [m["id"]])
    r = b.delete(f"/v1/memories/{m['id']}?erase=true")
    assert r.status == 200 and r.json["erased"] == 1
    until(lambda: a.memory(m["id"]).status == 404)
    pair.followed()
    for o in pair:
        assert o.memory(m["id"]).status == 404 and o.search("password", namespace=ns) == []
        assert o.get(f"/v1/memories/{m['id']}/history").status == 404
    for table in ("memories", "memory_trash", "memory_history", "memory_idempotency"):
        assert pair.sql(f"SELECT * FROM {table} t WHERE t::text LIKE '%correct-horse%'") == [], table


def test_erased_elsewhere_is_not_kept_as_history(server):
    """B changed it twice before it heard of the erasure: the version between must not lie in the history for ever."""
    with Fleet(2, server, settings=lambda k: HELD if k else ()) as f:
        a, b = f
        m = stored(a, "POST", "/v1/memories", {"content": "secret-one"}).json
        path = f"/v1/memories/{m['id']}"
        until(lambda: b.get(path).status == 200)  # it may have to hear of the namespace first
        assert b.patch(path, {"content": "secret-two"}).json["version"] == 2
        assert b.patch(path, {"content": "secret-three"}).json["version"] == 3
        for n in range(4):  # the erasure's version is higher than B's
            a.patch(path, {"importance": n / 10})
        assert a.delete(path + "?erase=true").status == 200
        stored(b, "POST", "/v1/memories", {"content": "pushes"})
        f.followed()
        for o in f:
            assert o.memory(m["id"]).status == 404
        for table in ("memories", "memory_trash", "memory_history"):
            assert f.sql(f"SELECT * FROM {table} t WHERE t::text LIKE '%secret-%'") == [], table


def test_namespaces_follow(pair, ns):
    a, b = pair
    assert a.post("/v1/namespaces", {"name": ns, "quota_count": 3}).status == 201
    until(lambda: b.get(f"/v1/namespaces/{ns}").status == 200)
    assert b.get(f"/v1/namespaces/{ns}").json["quota_count"] == 3
    b.add("1", namespace=ns)
    a.add("2", namespace=ns)
    pair.followed()
    assert a.get(f"/v1/namespaces/{ns}").json["count"] == b.get(f"/v1/namespaces/{ns}").json["count"] == 2
    assert b.patch(f"/v1/namespaces/{ns}", {"quota_count": 2}).status == 200
    until(lambda: a.get(f"/v1/namespaces/{ns}").json["quota_count"] == 2)
    assert a.post("/v1/memories", {"content": "3", "namespace": ns}).status == 507
    assert a.delete(f"/v1/namespaces/{ns}?confirm={ns}").status == 204
    until(lambda: b.get(f"/v1/namespaces/{ns}").status == 404)
    pair.followed()
    assert pair.equal(ns) == {} and b.search("1", namespace=ns) == []
    m = b.add("new life", namespace=ns)
    pair.followed()
    assert pair.equal(ns) == {m["id"]: (1, "new life")}
    assert a.get(f"/v1/namespaces/{ns}").json["quota_count"] == 0
    assert [x["content"] for x in a.search("life", namespace=ns, mode="vector")] == ["new life"]


def test_vectors_of_the_old_embedding_are_gone_once_followed(pair, ns):
    """Once B answers with the new version, its vector search never scores the old vector."""
    a, b = pair
    m = a.add("turning", namespace=ns, embedding=vector(0), embedding_model="test-4")
    still = a.add("still", namespace=ns, embedding=vector(3), embedding_model="test-4")
    until(lambda: len(b.search(embedding=vector(0), namespace=ns, mode="vector", limit=5)) == 2)
    for n in range(1, 25):
        angle = 0.1 * n
        r = a.patch(f"/v1/memories/{m['id']}", {"embedding": vector(angle), "embedding_model": "test-4"})
        assert r.status == 200, r
        until(lambda: b.memory(m["id"]).json["version"] == n + 1)
        hits = {h["id"]: h["score"] for h in b.search(embedding=vector(0), namespace=ns, mode="vector", limit=5)}
        assert abs(hits[m["id"]] - math.cos(angle)) < 1e-3, (n, hits)
    assert set(hits) == {m["id"], still["id"]}


def test_bulks_and_imports_of_three_daemons(server, ns):
    with Fleet(3, server) as f:
        def work(o, k):
            for n in range(5):
                r = o.post("/v1/memories", {"namespace": ns, "memories": [{"content": f"{k} {n} {i}"} for i in range(100)]}, fresh=True)
                assert r.status == 201
            lines = "".join('{"content": "import %d %d"}\n' % (k, i) for i in range(200))
            r = o.request("POST", f"/v1/memories:import?namespace={ns}", lines, {"Content-Type": "application/x-ndjson"}, fresh=True)
            assert r.status == 200 and r.json["imported"] == 200, r
        threads = [threading.Thread(target=work, args=(o, k)) for k, o in enumerate(f)]
        [t.start() for t in threads], [t.join() for t in threads]
        f.followed(30)
        assert len(f.equal(ns)) == 3 * 700
        for o in f:
            assert o.get("/metrics").body.decode().count("orchestra_vectors 2100\n") == 1


# ---- conflicts ----

def conflict(f, id_):
    """What both daemons and the server say of a memory: (version, content), once they agree."""
    def agree():
        said = {(r.json["version"], r.json["content"]) for r in (o.memory(id_) for o in f)}
        row = f.sql("SELECT version, content FROM memories WHERE id = $1", id_)
        return len(said) == 1 and [[str(v) for v in next(iter(said))]] == row and next(iter(said))
    return until(agree)


def losers(f, id_):
    return [r[0] for r in f.sql("SELECT body::json->>'content' FROM memory_history WHERE id = $1 AND lost", id_)]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_changes_of_one_version_the_later_wins_everywhere(server, ns, first):
    """Whichever of them reaches the server first. The other one is in the history, and says so."""
    with Fleet(2, server, sets=HELD) as f:
        a, b = f
        m = stored(a, "POST", "/v1/memories", {"content": "base", "namespace": ns, "embedding": vector(0), "embedding_model": "t"}).json
        f.followed()
        warm(f, [m["id"]])
        path = f"/v1/memories/{m['id']}"
        assert a.patch(path, {"content": "of A", "embedding": vector(1), "embedding_model": "t"}).json["version"] == 2
        time.sleep(0.01)
        assert b.patch(path, {"content": "of B", "embedding": vector(2), "embedding_model": "t"}).json["version"] == 2
        assert a.memory(m["id"]).json["content"] == "of A"  # nobody knows yet
        for o in (a, b) if first == 0 else (b, a):
            stored(o, "POST", "/v1/memories", {"content": "pushes", "namespace": ns + "push"})
            f[0].get("/livez")
        assert conflict(f, m["id"]) == (2, "of B")
        assert losers(f, m["id"]) == ["of A"]
        f.followed()
        for k, o in enumerate(f):
            said = [(v["version"], v["memory"]["content"], v.get("lost", False)) for v in o.get(path + "/history").json["history"]]
            assert said == [(2, "of B", False), (2, "of A", True), (1, "base", False)], said
            hits = o.search(embedding=vector(2), namespace=ns, mode="vector", limit=1)
            assert abs(hits[0]["score"] - 1) < 1e-3, (k, hits)
            assert [h["content"] for h in o.search("of B", namespace=ns, mode="text")][:1] == ["of B"]


def test_a_delete_and_a_change_of_one_version(server, ns):
    with Fleet(2, server, sets=HELD) as f:
        a, b = f
        ids = [stored(a, "POST", "/v1/memories", {"content": f"base {k}", "namespace": ns}).json["id"] for k in range(2)]
        f.followed()
        warm(f, ids)
        assert a.delete(f"/v1/memories/{ids[0]}").status == 204
        time.sleep(0.01)
        assert b.patch(f"/v1/memories/{ids[0]}", {"content": "changed later"}).status == 200
        assert b.patch(f"/v1/memories/{ids[1]}", {"content": "changed before"}).status == 200
        time.sleep(0.01)
        assert a.delete(f"/v1/memories/{ids[1]}").status == 204
        for o in f:
            stored(o, "POST", "/v1/memories", {"content": "pushes", "namespace": ns + "push"})
        f.followed()
        until(lambda: all(o.memory(ids[1]).status == 404 for o in f))
        assert conflict(f, ids[0]) == (2, "changed later")
        assert set(f.equal(ns)) == {ids[0]}


def test_many_changes_of_few_memories_on_both(pair, ns):
    """Converge to one winner each; every loser is kept; deadlocks and conflicts cost nothing that was acknowledged."""
    a, b = pair
    ids = [a.add(f"base {k}", namespace=ns)["id"] for k in range(20)]
    pair.followed()
    done = {o: [] for o in pair}

    def work(o, order):
        for n in range(15):
            for i in order:
                r = o.request("PATCH", f"/v1/memories/{i}", {"content": f"{o.port} {n}"}, fresh=True)
                assert r.status == 200, r
                done[o].append((i, r.json["version"], f"{o.port} {n}"))
    threads = [threading.Thread(target=work, args=(a, ids)), threading.Thread(target=work, args=(b, ids[::-1]))]
    [t.start() for t in threads], [t.join() for t in threads]
    pair.followed(30)
    for i in ids:
        conflict(pair, i)
    rows = pair.equal(ns)
    kept = {(i, int(v), c) for i, v, c in pair.sql(
        "SELECT id, version, body::json->>'content' FROM memory_history WHERE namespace = $1", ns)}
    kept |= {(i, *row) for i, row in rows.items()}
    missing = [w for o in pair for w in done[o] if w not in kept]
    assert not missing, (len(missing), missing[:5])
    assert pair.sql("SELECT count(*) FROM memory_history WHERE namespace = $1 AND lost", ns)[0][0] != "0"


# ---- clocks ----

SKEWED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t c, struct timespec *t)
{
	static int (*real)(clockid_t, struct timespec *);
	if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int rc = real(c, t);
	if (!rc && (c == CLOCK_REALTIME || c == CLOCK_REALTIME_COARSE)) t->tv_sec += SKEW;
	return rc;
}
time_t time(time_t *out)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return out ? *out = t.tv_sec : t.tv_sec;
}
int gettimeofday(struct timeval *restrict v, void *restrict z)
{
	struct timespec t;
	(void)z;
	clock_gettime(CLOCK_REALTIME, &t);
	v->tv_sec = t.tv_sec;
	v->tv_usec = t.tv_nsec / 1000;
	return 0;
}
"""


def skewed(tmp_path, seconds):
    """Environment of a daemon whose clock is wrong. (faketime is configured by variables, which workers do not get.)"""
    lib = tmp_path / "skewed.so"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-DSKEW={seconds}", "-x", "c", "-", "-o", str(lib)], input=SKEWED, text=True, check=True)
    return {"LD_PRELOAD": str(lib)}


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_is_an_hour_wrong(server, ns, tmp_path, seconds):
    if b"libasan" in subprocess.run(["ldd", os.path.join(BUILD, "orchestrad")], capture_output=True).stdout:
        pytest.skip("a sanitizer wants to be loaded before everybody else")
    env = skewed(tmp_path, seconds)
    with Fleet(1, server) as f:
        f.daemons.append(Orchestra(sets=f.store, env=env))
        good, wrong = f
        m = wrong.add("of the wrong clock", namespace=ns)
        shift = datetime.fromisoformat(m["created_at"].replace("Z", "+00:00")).timestamp() - time.time()
        assert abs(shift - seconds) < 100, "the clock is right"
        f.followed()
        # Later versions win, whoever makes them and whatever its clock says.
        for n in range(6):
            o = f[n % 2]
            assert o.patch(f"/v1/memories/{m['id']}", {"content": f"step {n}"}).json["version"] == n + 2
            assert conflict(f, m["id"]) == (n + 2, f"step {n}")
        assert f.sql("SELECT count(*) FROM memory_history WHERE lost") == [["0"]]
        # What expires is collected by the server's clock.
        short, long = good.add("short", namespace=ns, ttl=2), good.add("long", namespace=ns, ttl=1800)
        f.followed()
        until(lambda: f.sql("SELECT 1 FROM memory_trash WHERE id = $1 AND how = 1", short["id"]), 20)
        assert f.sql("SELECT 1 FROM memories WHERE id = $1", long["id"]) == [["1"]]
        assert good.memory(long["id"]).status == 200
        ids = [o.add(f"later {k}", namespace=ns)["id"] for k, o in enumerate(f)]
        f.followed()
        for o in f:
            assert all(o.memory(i).status == 200 for i in ids)


# ---- being away ----

def stop_all(o):
    pids = [*o.workers().values(), o.process.pid]
    for p in reversed(pids):
        os.kill(p, signal.SIGSTOP)
    return pids


def test_a_daemon_that_was_stopped_for_a_while_catches_up(server, ns):
    with Fleet(2, server) as f:
        a, b = f
        ids = [a.add(f"before {k}", namespace=ns)["id"] for k in range(20)]
        f.followed()
        warm(f, ids)
        pids = stop_all(b)
        try:
            a.patch(f"/v1/memories/{ids[0]}", {"content": "changed"})
            a.delete(f"/v1/memories/{ids[1]}")
            r = a.post("/v1/memories", {"namespace": ns, "memories": [{"content": f"m {k}"} for k in range(500)]})
            until(lambda: flushed(a))
        finally:
            for p in pids:
                os.kill(p, signal.SIGCONT)
        f.followed()
        assert b.memory(ids[0]).json["content"] == "changed" and b.memory(ids[1]).status == 404
        assert len(f.equal(ns)) == 519
        assert b.search("m 499", namespace=ns, limit=1)[0]["id"] == r.json["memories"][499]["id"]


def test_a_daemon_that_was_away_starts_with_what_there_is(server, ns):
    with Fleet(2, server) as f:
        a, b = f
        ids = [b.add(f"of b {k}", namespace=ns)["id"] for k in range(20)]
        f.followed()
        kill_all(b)
        a.patch(f"/v1/memories/{ids[0]}", {"content": "changed"})
        a.delete(f"/v1/memories/{ids[1]}")
        a.add("more", namespace=ns)
        until(lambda: flushed(a))
        b.start()
        f.followed()
        assert len(f.equal(ns)) == 20
        assert b.memory(ids[0]).json["version"] == 2
        assert b.search("changed", namespace=ns, mode="vector", limit=1)[0]["id"] == ids[0]


def test_what_was_acknowledged_before_a_crash_and_changed_elsewhere_meanwhile(server, ns):
    """B dies with a change that the server has not seen; A changes the same memory twice: the higher version wins, B's is kept."""
    with Fleet(2, server, settings=lambda k: HELD if k else ()) as f:
        a, b = f
        m = stored(a, "POST", "/v1/memories", {"content": "base", "namespace": ns}).json
        f.followed()
        assert b.patch(f"/v1/memories/{m['id']}", {"content": "of B"}).json["version"] == 2
        kill_all(b)
        for n in (2, 3):
            assert stored(a, "PATCH", f"/v1/memories/{m['id']}", {"content": f"of A {n}"}).json["version"] == n
        b.start()
        f.followed()
        assert conflict(f, m["id"]) == (3, "of A 3")
        assert losers(f, m["id"]) == ["of B"]


def test_a_sync_that_dies_follows_on(pair, ns):
    a, b = pair
    m = a.add("before", namespace=ns)
    pair.followed()
    warm(pair, [m["id"]])
    os.kill(next(p for n, p in b.workers().items() if "sync" in n), signal.SIGKILL)
    a.patch(f"/v1/memories/{m['id']}", {"content": "meanwhile"})
    until(lambda: b.memory(m["id"]).json["content"] == "meanwhile")
    b.add("by the successor", namespace=ns)
    pair.followed()
    assert len(pair.equal(ns)) == 2


def test_a_feed_whose_session_is_ended_goes_on(pair, ns):
    a, b = pair
    for n in range(3):
        feeds = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'orchestra feed %'"
        until(lambda: pair.sql("SELECT count(*) " + feeds) == [["2"]])
        assert pair.sql("SELECT count(pg_terminate_backend(pid)) " + feeds) == [["2"]]
        m = a.add(f"after {n}", namespace=ns)
        until(lambda: b.memory(m["id"]).status == 200)
        m = b.add(f"and back {n}", namespace=ns)
        until(lambda: a.memory(m["id"]).status == 200)
    pair.followed()
    pair.equal(ns)


def test_a_late_commit_is_not_skipped(pair, ns):
    """A batch that publishes waits for whoever published before it and has not committed: revisions appear in their order."""
    a, b = pair
    with pair.session() as s:
        s.execute("BEGIN")
        s.execute("SELECT pg_advisory_xact_lock(7700, 1)")  # as a daemon does that is between publish and commit
        late = [o.add(f"late {k}", namespace=ns)["id"] for k, o in enumerate(pair)]
        time.sleep(0.5)
        assert pair.sql("SELECT count(*) FROM memories WHERE namespace = $1", ns) == [["0"]]
        s.execute("COMMIT")
    until(lambda: all(o.memory(i).status == 200 and i in pair.listed(o, ns) for o in pair for i in late))
    pair.followed()
    pair.equal(ns)


def test_a_feed_that_is_no_longer_kept_so_far_back(server, ns):
    """A daemon that was away for longer than the feed is kept reads everything again."""
    with Fleet(2, server) as f:
        a, b = f
        ids = [a.add(f"m {k}", namespace=ns, embedding=vector(k), embedding_model="t")["id"] for k in range(10)]
        f.followed()
        warm(f, ids)
        pids = stop_all(b)
        try:
            a.patch(f"/v1/memories/{ids[0]}", {"content": "changed", "embedding": vector(40), "embedding_model": "t"})
            a.delete(f"/v1/memories/{ids[1]}")
            a.add("more", namespace=ns, embedding=vector(50), embedding_model="t")
            until(lambda: flushed(a))
            f.sql("UPDATE memory_feed SET pruned = (SELECT max(revision) FROM memory_changes)")
            f.sql("DELETE FROM memory_changes")
        finally:
            for p in pids:
                os.kill(p, signal.SIGCONT)
        b.wait_log("no longer kept")
        until(lambda: b.memory(ids[0]).json["content"] == "changed")
        until(lambda: b.memory(ids[1]).status == 404)
        until(lambda: metric(b, "orchestra_vectors ") == 10)
        f.equal(ns)
        hits = {h["id"]: h["score"] for h in b.search(embedding=vector(40), namespace=ns, mode="vector", limit=20)}
        assert abs(hits[ids[0]] - 1) < 1e-3 and ids[1] not in hits
        m = a.add("goes on", namespace=ns)
        until(lambda: b.memory(m["id"]).status == 200)


# ---- a copy of a data directory ----

def test_a_copy_of_a_data_directory_is_refused(server, ns):
    """Two daemons with one number would each take what the other has flushed for its own."""
    with Fleet(1, server) as f:
        a = f[0]
        a.add("of the original", namespace=ns)
        f.followed()
        a.stop()
        copy = Orchestra(sets=f.store, start=False)
        shutil.copytree(a.data, copy.data)
        a.start()
        with copy:
            copy.start(wait=False)
            copy.wait_log("is data.dir a copy of its?", 20)
            r = until(lambda: "store" in (r := copy.get("/readyz")).json["degraded"] and r)
            assert "remove node and journal" in r.json["reason"]
            ids = [a.add(f"goes on {n}", namespace=ns)["id"] for n in range(20)]
            until(lambda: flushed(a))
            assert set(ids) < set(f.rows(ns)) and a.get("/readyz").json["degraded"] == []
            assert "terminating connection" not in a.log()
            copy.stop()
            os.unlink(copy.data + "/node")
            shutil.rmtree(copy.data + "/journal")
            copy.start()
            copy.add("of the former copy", namespace=ns)
            f.daemons.append(copy)
            f.followed()
            assert len(f.equal(ns)) == 22


def test_a_copy_that_comes_first(server, ns):
    """The original comes back while its copy writes: it says so, and goes on when the copy is gone."""
    with Fleet(1, server) as f:
        a = f[0]
        a.add("before", namespace=ns)
        f.followed()
        kill_all(a)
        with Orchestra(sets=f.store, start=False) as copy:
            shutil.copytree(a.data, copy.data)
            copy.start()
            a.start(wait=False)
            a.wait_log("is data.dir a copy of its?", 20)
            copy.add("of the copy", namespace=ns)
        a.wait_ready(30)
        until(lambda: len(f.listed(a, ns)) == 2)


def test_a_store_that_erases_what_is_newer_elsewhere(server, ns):
    """B changes a memory that A erases at the same time; whoever comes first, the content is gone from everywhere."""
    for first in (0, 1):
        with Fleet(2, server, sets=HELD) as f:
            a, b = f
            m = stored(a, "POST", "/v1/memories", {"content": "secret base", "namespace": ns}).json
            f.followed()
            path = f"/v1/memories/{m['id']}"
            if first == 0:  # the change is there before the erasure of what was before it
                stop = stop_all(a)
                stored(b, "PATCH", path, {"content": "secret newer"})
                assert b.delete(path + "?wait=store").status == 204
                for p in stop:
                    os.kill(p, signal.SIGCONT)
                assert a.delete(path + "?erase=true").status in (200, 404)
                assert a.delete(path + "?erase=true").status in (200, 404)
            else:
                b.patch(path, {"content": "secret newer"})
                assert a.delete(path + "?erase=true").status == 200
            for o in f:
                stored(o, "POST", "/v1/memories", {"content": "pushes"})
            f.followed()
            assert all(o.memory(m["id"]).status == 404 for o in f)
            for table in ("memories", "memory_trash", "memory_history"):
                assert f.sql(f"SELECT * FROM {table} t WHERE t::text LIKE '%secret%'") == [], (first, table)


def test_counters_after_conflicts(server, ns):
    """Both add, delete and change the same memories without knowing of each other: count and bytes are the server's in the end."""
    with Fleet(2, server, sets=HELD) as f:
        a, b = f
        r = stored(a, "POST", "/v1/memories", {"namespace": ns, "memories": [{"content": f"m {k}"} for k in range(40)]})
        ids = [m["id"] for m in r.json["memories"]]
        f.followed()
        for k, i in enumerate(ids):
            x, y = (a, b) if k % 2 else (b, a)
            assert x.delete(f"/v1/memories/{i}").status == 204
            if k % 4 < 2:
                assert y.delete(f"/v1/memories/{i}").status == 204
            elif k % 8 < 6:
                assert y.patch(f"/v1/memories/{i}", {"content": "longer than it was before"}).status == 200
        for o in f:
            stored(o, "POST", "/v1/memories", {"content": "pushes", "namespace": ns + "push"})
        f.followed()
        rows = f.equal(ns)
        want = f.sql("SELECT count(*), coalesce(sum(bytes), 0) FROM memories WHERE namespace = $1", ns)[0]
        assert f.sql("SELECT count, bytes FROM memory_namespaces WHERE name = $1", ns)[0] == want and int(want[0]) == len(rows)
        for o in f:
            n = o.get(f"/v1/namespaces/{ns}").json
            assert [str(n["count"]), str(n["bytes"])] == want
            assert metric(o, "orchestra_vectors ") == len(rows) + 2


def test_a_start_without_the_server_brings_nothing_back(server):
    """Its journal still holds what the server has, too: what another daemon has deleted or changed since is not found again."""
    with Proxy(server) as wire, Fleet(1, server, sets=["sync.debounce_ms=10"]) as f:
        a = f[0]
        dsn = server.dsn(dbname=f.database, host=wire.host, port=wire.port)
        with Orchestra(sets=["store.kind=postgres", f"store.dsn={dsn}", "sync.debounce_ms=10", "store.connect_timeout=500ms", "store.answer_timeout=500ms",
                             "breaker.open_max=500ms"]) as b:
            gone, changed, same = (b.add(f"{what} giraffe")["id"] for what in ("deleted", "changed", "same"))
            until(lambda: flushed(b) and a.memory(same).status == 200)
            kill_all(b)
            assert a.delete(f"/v1/memories/{gone}").status == 204
            assert a.patch(f"/v1/memories/{changed}", {"content": "a zebra by now"}).status == 200
            until(lambda: flushed(a))
            wire.refuse()
            b.start()
            wire.heal()
            until(lambda: b.get("/readyz").json["degraded"] == [] and {m["id"] for m in b.search("giraffe")} == {same}, 30)
            assert b.memory(gone).status == 404 and b.memory(changed).json["content"] == "a zebra by now"
            assert b.memory(same).json["content"] == "same giraffe"
