"""Search when the index does not hold everything, and when the store does not answer."""
import math
import os
import random
import signal
import sqlite3
import time

import pytest

from fleet import metric
from orchestra import SLOW, until
from postgres import Postgres

FACTS = ["Ada likes her tea without sugar", "Bob parks his bicycle in the hallway", "Carol is allergic to peanuts"]
DIM, N = 384, 900  # of 1.5 KB: 1 MiB holds fewer than 700


def without_feed(degraded):
    """Whether the feed was still heard when the store went away is a matter of a second."""
    return [d for d in degraded if d != "feed"]


@pytest.fixture(scope="module")
def pg():
    with Postgres(fsync=False) as pg:
        yield pg


@pytest.fixture(params=["sqlite", "postgres"])
def store(request):
    """Settings of a daemon on an empty store."""
    if request.param == "sqlite":
        return []
    pg = request.getfixturevalue("pg")
    return ["store.kind=postgres", f"store.dsn={pg.dsn(dbname=pg.database())}"]


def cos(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def put(o, vec, first, n, **fields):
    for i in range(first, first + n, 150):
        items = [{"content": f"number {k}", "embedding": vec[k], "user_id": f"u{k % 10}", **fields} for k in range(i, min(i + 150, first + n))]
        r = o.post("/v1/memories", {"memories": items, "namespace": "big"})
        assert r.status == 201, r


def check(o, vec, there, rnd, tier="store"):
    for _ in range(3):
        q = [rnd.gauss(0, 1) for _ in range(DIM)]
        for who in (None, 3):
            body = {"namespace": "big", "embedding": q, "limit": 15, "explain": True}
            if who is not None:
                body["filter"] = {"user_id": f"u{who}"}
            r = o.post("/v1/memories/search", body).json
            want = sorted((k for k in there if who is None or k % 10 == who), key=lambda k: -cos(q, vec[k]))[:15]
            assert [m["content"] for m in r["results"]] == [f"number {k}" for k in want], (who, r["explain"])
            assert all(abs(m["score"] - cos(q, vec[k])) < 1e-5 for m, k in zip(r["results"], want))
            assert r["degraded"] == [] and r["explain"]["vector_tier"] == tier, r["explain"]


def flushed(o):
    body = {"namespace": "big", "query": "number", "mode": "text", "limit": 1, "explain": True}
    until(lambda: o.post("/v1/memories/search", body).json["explain"]["candidates"]["pending"] == 0, 20)


def test_vectors_that_the_index_cannot_hold_are_ranked_by_the_store(make, store):
    o = make(sets=["vectors.max_bytes=1 MiB", "sync.debounce_ms=1000", *store])
    rnd = random.Random(11)
    vec = [[rnd.gauss(0, 1) for _ in range(DIM)] for _ in range(N)]
    put(o, vec, 0, 100)
    check(o, vec, range(100), rnd, "index")
    flushed(o)
    put(o, vec, 100, N - 150)
    check(o, vec, range(N - 50), rnd)   # most are still pending
    flushed(o)
    check(o, vec, range(N - 50), rnd)   # and none
    put(o, vec, N - 50, 50)
    gone = o.list(namespace="big", user_id="u7", limit=5)["memories"]
    for m in gone:
        assert o.delete(f"/v1/memories/{m['id']}").status in (200, 204)
    left = set(range(N)) - {int(m["content"].split()[1]) for m in gone}
    check(o, vec, left, rnd)            # pending writes, and deletions that the store has not seen
    moved = o.list(namespace="big", user_id="u5", limit=3)["memories"]
    for m in moved:
        k = int(m["content"].split()[1])
        vec[k] = [rnd.gauss(0, 1) for _ in range(DIM)]
        assert o.patch(f"/v1/memories/{m['id']}", {"embedding": vec[k]}).status == 200
    check(o, vec, left, rnd)            # other vectors than the store's
    flushed(o)
    check(o, vec, left, rnd)
    o.stop()
    o.start()
    until(lambda: o.post("/v1/memories/search", {"namespace": "big", "embedding": vec[0]}).json["degraded"] == [], 20 * SLOW)
    check(o, vec, left, rnd)


def test_words_beyond_the_limit_come_from_the_store(make):
    """The word index says that it lacks some; the store ranks all of them, what is pending among them."""
    o = make(sets=["sync.debounce_ms=10", "words.max_bytes=1 MiB"])
    rnd = random.Random(5)
    tier = lambda q, **more: o.post("/v1/memories/search", {"query": q, "explain": True, "mode": "text", **more}).json
    o.add(FACTS[0])
    assert tier("tea")["explain"]["text_tier"] == "index"
    for i in range(12):
        o.add("needle%d " % i + " ".join("%x" % rnd.getrandbits(32) for _ in range(6000)))
    r = tier("needle11 needle3")
    assert r["explain"]["text_tier"] == "store" and sorted(m["content"].split()[0] for m in r["results"]) == ["needle11", "needle3"], r
    assert tier("how does Ada take her tea?")["results"][0]["content"] == FACTS[0]
    assert tier("tea", namespace="other")["results"] == []
    o.add("Dora walks to work", namespace="other")
    assert metric(o, "orchestra_words_bytes ") <= 1 << 20
    flushed(o)
    os.kill(o.worker("sync"), signal.SIGKILL)    # its successor knows it, too
    until(lambda: o.get("/readyz").status == 200, 10 * SLOW)
    r = tier("needle11 needle3")
    assert r["explain"]["text_tier"] == "store" and len(r["results"]) == 2
    # The store has no words for the moment: what the index has is better than nothing, and the answer says so.
    db = sqlite3.connect(o.data + "/store.db", isolation_level=None)
    db.execute("ALTER TABLE words RENAME TO lost")
    r = tier("how does Ada take her tea?")
    assert r["explain"]["text_tier"] == "index" and without_feed(r["degraded"]) == ["store", "text"], r
    assert r["results"][0]["content"] == FACTS[0]
    db.execute("ALTER TABLE lost RENAME TO words")
    db.close()


def test_phrases_and_prefixes(make):
    o = make(sets=["sync.debounce_ms=10"])
    texts = ["Ada adopted a guinea pig", "a pig from Guinea is no pet", "internationalisation of the tea trade"]
    for t in texts:
        o.add(t)
    found = lambda q: [m["content"] for m in o.search(q, mode="text")]
    assert sorted(found("guinea pig")) == sorted(texts[:2])
    assert found('"guinea pig"') == texts[:1]
    assert found('"pig from guinea" adopted') == texts[1:2]
    assert sorted(found('"pig guinea trade"')) == sorted(texts), "nothing has the phrase: its words count"
    assert found("international*") == texts[2:]
    o.stop()
    o.start()
    until(lambda: o.get("/readyz").status == 200, 10 * SLOW)
    assert found('"guinea pig"') == texts[:1] and found("internation* pet") != []


def test_words_do_not_need_the_store(make):
    o = make(sets=["sync.debounce_ms=10"])
    for f in FACTS:
        o.add(f)
    time.sleep(0.5 * SLOW)
    db = sqlite3.connect(o.data + "/store.db", isolation_level=None)
    db.execute("ALTER TABLE words RENAME TO lost")
    r = o.post("/v1/memories/search", {"query": "how does Ada take her tea?"})
    assert r.status == 200 and r.json["degraded"] == [] and r.json["results"][0]["content"] == FACTS[0], r
    assert o.post("/v1/memories/search", {"query": "tea", "mode": "vector"}).json["degraded"] == []
    r = o.post("/v1/memories/search", {"query": "tea", "mode": "text"})
    assert r.status == 200 and r.json["degraded"] == [] and r.json["results"][0]["content"] == FACTS[0], r
    # Nor rows: what L1 holds is served.
    db.execute("ALTER TABLE memories RENAME TO lost_too")
    o.add("Dora walks to work")
    r = o.post("/v1/memories/search", {"query": "Ada takes tea"})
    assert r.status == 200 and r.json["results"][0]["content"] == FACTS[0] and r.json["degraded"] == [], r
    r = o.post("/v1/memories/search", {"query": "who walks to work?", "mode": "vector"}).json
    assert r["results"][0]["content"] == "Dora walks to work", r    # pending
    # With a filter only what is pending is known to match.
    r = o.post("/v1/memories/search", {"query": "walks to work", "filter": {"importance": {"gte": 0}}}).json
    assert [m["content"] for m in r["results"]] == ["Dora walks to work"] and r["degraded"] == ["store", "text", "vector"], r
    r = o.post("/v1/memories/search", {"query": "walks to work", "user_id": "nobody"})
    assert r.status == 503
    db.execute("ALTER TABLE lost_too RENAME TO memories")
    db.execute("ALTER TABLE lost RENAME TO words")
    db.close()
    until(lambda: o.post("/v1/memories/search", {"query": "tea"}).json["degraded"] == [], 10 * SLOW)
    assert o.search("tea", user_id="nobody") == []


def test_words_are_found_and_ranked_alike_in_every_store(make, store):
    o = make(sets=["sync.debounce_ms=1000", *store])
    for f in FACTS:
        o.add(f)
    rounds = []
    for _ in range(2):
        hits = o.search("how does Ada take her teas?", mode="text")
        rounds.append([(h["content"], round(h["score"], 5)) for h in hits])
        assert hits[0]["content"] == FACTS[0] and len(hits) == 1
        time.sleep(1.5 * SLOW)
    assert rounds[0] == rounds[1]


def test_a_server_that_is_away_takes_nothing_along(make, pg):
    o = make(sets=["sync.debounce_ms=10", "store.kind=postgres", f"store.dsn={pg.dsn(dbname=pg.database())}",
                   "store.connect_timeout=300ms", "store.answer_timeout=500ms"])
    for f in FACTS:
        o.add(f)
    ask = {"query": "how does Ada take her tea?", "explain": True}
    until(lambda: o.post("/v1/memories/search", ask).json["explain"]["candidates"]["pending"] == 0, 10)
    for silent in (True, False):
        pg.pause() if silent else pg.kill9()
        try:
            for i in range(5):
                start = time.monotonic()
                r = o.post("/v1/memories/search", ask)
                assert r.status == 200 and without_feed(r.json["degraded"]) == ["store"], r
                assert r.json["results"][0]["content"] == FACTS[0] and r.json["results"][0]["tier"] == "l1"
                assert time.monotonic() - start < 10 * SLOW
            o.add("Dora walks to work")
            assert o.search("who walks to work?", mode="vector")[0]["content"] == "Dora walks to work"
            assert o.search("tea", mode="text")[0]["content"] == FACTS[0]
            assert o.search("walks", mode="text")[0]["content"] == "Dora walks to work"
        finally:
            pg.resume() if silent else pg.start()
        until(lambda: o.post("/v1/memories/search", ask).json["degraded"] == [], 30)
        assert o.search("walks", mode="text")[0]["content"] == "Dora walks to work"
