"""The tiers as a client sees them. Broken code this would catch: an answer that is kept although it is not right any more (after a
write, a deletion, an expiry, by another daemon); a load per request instead of one; a negative entry that outlives a write; a stale
copy that is served for ever, or a store that is away turning into 404."""
import datetime
import selectors
import socket
import time
import uuid

import pytest

from fleet import Fleet, flushed, metric
from orchestra import SLOW, STORE, Orchestra, until
from postgres import Postgres
from proxy import Proxy

HIT, STORED = "orchestra; hit", "orchestra; fwd=miss; stored"


@pytest.fixture
def o():
    with Orchestra(sets=["sync.debounce_ms=10"]) as o:
        o.warmed()
        yield o


@pytest.fixture(scope="module")
def pg():
    pg = Postgres({"max_connections": 100}, fsync=False)
    yield pg
    pg.cleanup()


def status(r):
    return r.headers["Cache-Status"]


def settled(o):
    until(lambda: metric(o, "orchestra_pending_entries") == 0)


def search(o, query, **more):
    r = o.post("/v1/memories/search", {"query": query, **more})
    assert r.status == 200, r
    return r


def test_what_is_not_there_is_remembered_until_it_is(o):
    nobody = f"/v1/memories/{uuid.uuid4()}"
    r = o.get(nobody)
    assert r.status == 404 and status(r) == "orchestra; fwd=miss; detail=negative; stored"
    r = o.get(nobody)
    assert r.status == 404 and status(r) == HIT + "; detail=negative"
    m = o.add("Ada likes tea")
    path = f"/v1/memories/{m['id']}"
    assert o.delete(path).status == 204
    for _ in range(2):
        assert o.get(path).status == 404
    assert "negative" in status(o.get(path))
    assert o.post(path + "/restore", {}).status == 200
    assert o.get(path).status == 200
    assert metric(o, "orchestra_cache_negative_hits_total") >= 2


def test_no_negative_entries_when_they_are_off():
    with Orchestra(sets=["cache.negative_ttl=0"]) as o:
        for _ in range(2):
            assert "hit" not in status(o.get(f"/v1/memories/{uuid.UUID(int=7)}"))


def test_what_is_pending_keeps_an_answer_from_being_kept():
    with Orchestra(sets=["sync.debounce_ms=60000"]) as o:
        o.add("Ada likes tea")
        for _ in range(2):
            assert "Cache-Status" not in search(o, "tea").headers


def test_an_answer_is_kept_until_its_namespace_is_written_to(o):
    o.add("Ada likes tea")
    settled(o)
    first = search(o, "tea")
    assert status(first) == STORED
    again = search(o, "tea")
    assert status(again) == HIT and again.body == first.body
    o.add("Bob drinks coffee", namespace="other")
    settled(o)
    assert status(search(o, "tea")) == HIT
    m = o.add("Cleo pours tea")
    settled(o)
    r = search(o, "tea")
    assert status(r) == STORED and len(r.json["results"]) == 2
    assert o.patch(f"/v1/memories/{m['id']}", {"content": "Cleo pours milk"}).status == 200
    settled(o)
    assert [x["content"] for x in search(o, "tea", mode="text").json["results"]] == ["Ada likes tea"]
    assert status(search(o, "tea", mode="text")) == HIT
    assert o.delete(f"/v1/memories/{first.json['results'][0]['id']}").status == 204
    assert search(o, "tea", mode="text").json["results"] == []


def test_another_question_is_another_answer(o):
    for t in ("Ada likes tea", "Bob likes tea, too"):
        o.add(t)
    assert len(search(o, "tea").json["results"]) == 2
    assert len(search(o, "tea", limit=1).json["results"]) == 1
    assert search(o, "tea", namespace="empty").json["results"] == []
    r = o.post("/v1/memories/search?namespace=empty", {"query": "tea"})
    assert r.json["results"] == []
    assert len(search(o, "tea").json["results"]) == 2


@pytest.mark.parametrize("more", [{"explain": True}, {"recency_half_life": 3600}])
def test_what_depends_on_the_moment_is_not_kept(o, more):
    o.add("Ada likes tea")
    for _ in range(2):
        assert "Cache-Status" not in search(o, "tea", **more).headers


def test_an_answer_ends_with_the_first_of_its_memories(o):
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1.5 * SLOW)
    o.add("Ada likes tea today", expires_at=end.isoformat().replace("+00:00", "Z"))
    o.add("Bob likes tea always")
    assert len(search(o, "tea").json["results"]) == 2
    until(lambda: [m["content"] for m in search(o, "tea").json["results"]] == ["Bob likes tea always"], 10)
    assert datetime.datetime.now(datetime.timezone.utc) >= end


def test_answers_are_for_who_asked(tmp_path):
    import hashlib
    lines = []
    for name, spaces in (("ada", "a"), ("bob", "b"), ("eve", "a,b")):
        lines.append(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()} read,write {spaces}")
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join(lines) + "\n")
    tokens.chmod(0o600)
    with Orchestra(sets=[f"auth.tokens_file={tokens}"]) as o:
        def ask(who, ns):
            return o.request("POST", "/v1/memories/search", {"query": "tea", "namespace": ns}, {"Authorization": f"Bearer {who}"})
        r = o.request("POST", "/v1/memories", {"content": "Ada likes tea", "namespace": "a"}, {"Authorization": "Bearer ada"})
        assert r.status == 201, r
        until(lambda: "hit" in ask("ada", "a").headers.get("Cache-Status", ""))
        for _ in range(2):
            assert len(ask("ada", "a").json["results"]) == 1
            assert ask("bob", "a").status == 403
        assert status(ask("ada", "a")) == HIT
        # The same name with other rights: what was kept for it is not its any more.
        tokens.write_text("\n".join(lines).replace("read,write a\n", "read,write b\n") + "\n")
        assert o.ctl("reload").returncode == 0
        until(lambda: ask("ada", "a").status == 403)


def test_vectors_of_texts_are_made_once(o):
    o.add("Ada likes tea")
    for k in range(3):
        search(o, "tea", limit=k + 1)
    assert metric(o, 'orchestra_cache_misses_total{tier="l1",class="vector"}') == 1
    assert metric(o, 'orchestra_cache_hits_total{tier="l1",class="vector"}') == 2


def herd(o, path, n):
    """n requests on n connections at once; the statuses."""
    ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    socks, sel, got = [], selectors.DefaultSelector(), {}
    for _ in range(n):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("127.0.0.1", o.port))
        socks.append(s)
    for s in socks:
        sel.register(s, selectors.EVENT_WRITE)
    deadline = time.monotonic() + 60 * SLOW
    while len(got) < n and time.monotonic() < deadline:
        for key, what in sel.select(1):
            s = key.fileobj
            if what & selectors.EVENT_WRITE:
                s.send(ask)
                sel.modify(s, selectors.EVENT_READ)
                continue
            data = s.recv(65536)
            got[s] = int(data.split(b" ", 2)[1]) if data else None
            sel.unregister(s)
    for s in socks:
        s.close()
    sel.close()
    return list(got.values())


def test_a_herd_makes_one_load(pg):
    n = int(10000 / SLOW)  # all within the ten seconds after which a leader is left behind
    with Proxy(pg) as wire:
        with Fleet(1, pg, sets=["sync.debounce_ms=10", "api.workers=2"]) as first:
            target = first[0].add("the one that all want")
            for k in range(30):
                assert first[0].post("/v1/memories", {"memories": [{"content": f"{k} {i} " + "x" * 500} for i in range(100)]}).status == 201
            until(lambda: flushed(first[0]))
            store = [s for s in first.store if not s.startswith("store.dsn")]
            dsn = pg.dsn(dbname=first.database, host=wire.host, port=wire.port)
            with Orchestra(sets=[*store, f"store.dsn={dsn}", "api.workers=2", "cache.l1_bytes=1MiB", "store.connect_timeout=30s",
                                 "store.answer_timeout=30s"]) as o:
                until(lambda: metric(o, "orchestra_cache_bytes") > 200000)
                o.warmed()
                name = 'orchestra_cache_loads_total{from="store"}'
                before = metric(o, name)
                wire.delay(400)  # each way; a first question takes several
                got = herd(o, f"/v1/memories/{target['id']}", n)
                wire.heal()
                assert got == [200] * n
                assert metric(o, name) - before == 1
                assert metric(o, 'orchestra_cache_collapsed_total{class="memory"}') > n / 2
                nobody = herd(o, f"/v1/memories/{uuid.UUID(int=1)}", 200)
                assert nobody == [404] * 200 and metric(o, name) - before == 2


def test_stale_is_served_while_it_is_read_again_and_while_the_store_is_away(pg):
    with Proxy(pg) as wire:
        with Fleet(1, pg, via=wire, sets=["sync.debounce_ms=10", f"cache.ttl={int(SLOW)}s", f"cache.stale={int(6 * SLOW)}s", "store.answer_timeout=500ms",
                                          "store.connect_timeout=500ms", "breaker.open_max=500ms"]) as f:
            o = f[0]
            path = f"/v1/memories/{o.add('Ada likes tea')['id']}"
            until(lambda: flushed(o))
            time.sleep(1.3 * SLOW)  # untouched: else it is read ahead, and never becomes stale
            r = o.get(path)
            assert r.status == 200 and "detail=stale" in status(r) and "degraded" not in r.json
            until(lambda: status(o.get(path)) == HIT, 5)
            read = metric(o, "orchestra_cache_refreshes_total")
            assert read >= 1
            seen = [status(o.get(path)) for _ in range(int(150 * SLOW)) if not time.sleep(0.02)]
            assert set(seen) == {HIT} and metric(o, "orchestra_cache_refreshes_total") > read  # in time, while it is asked for
            wire.blackhole()
            r = until(lambda: (r := o.get(path)).status == 200 and "degraded" in r.json and r, 10)
            assert "feed" in r.json["degraded"] and r.json["content"] == "Ada likes tea"
            assert "feed" in o.post("/v1/memories/search", {"query": "tea", "mode": "vector"}).json["degraded"]
            until(lambda: o.get(path).status == 503, 20)  # its bound is over: no 404, and nothing older
            wire.heal()
            r = until(lambda: (r := o.get(path)).status == 200 and r, 20)
            until(lambda: "degraded" not in o.get(path).json, 10)


def test_another_daemons_write_ends_an_answer(pg):
    with Fleet(2, pg, warmed=True, sets=["sync.debounce_ms=10"]) as f:
        a, b = f
        m = a.add("Ada likes tea")
        until(lambda: [x["id"] for x in search(b, "tea").json["results"]] == [m["id"]])
        until(lambda: status(search(b, "tea")) == HIT)
        a.patch(f"/v1/memories/{m['id']}", {"content": "Ada likes coffee"})
        until(lambda: search(b, "tea").json["results"][:1] == [] or search(b, "tea").json["results"][0]["content"] == "Ada likes coffee", 5)
        assert a.delete(f"/v1/memories/{m['id']}").status == 204
        until(lambda: search(b, "tea").json["results"] == [], 5)
        until(lambda: b.get(f"/v1/memories/{m['id']}").status == 404, 5)
        assert a.post(f"/v1/memories/{m['id']}/restore", {}).status == 200
        until(lambda: b.get(f"/v1/memories/{m['id']}").status == 200, 5)  # the negative entry went with the change
