"""The second tier: a Redis that several daemons share, and that nobody relies on. Broken code this would catch: a copy that is
believed although its memory was changed, deleted or dropped since, by whichever daemon and whether or not somebody heard of it; a Redis in
trouble that makes a request fail or wait; a value that lies."""
import time

import pytest

from fleet import Fleet, flushed, metric
from orchestra import SLOW, Orchestra, until
from postgres import Postgres
from proxy import Proxy
from redis import Redis, RedisCluster, RedisSentinel

L2 = "orchestra-l2; hit, orchestra; fwd=miss; stored"
SMALL = ["sync.debounce_ms=10", "cache.l1_bytes=1MiB", "redis.answer_timeout=%dms" % (300 * SLOW), "api.workers=1"]


@pytest.fixture(scope="module")
def pg():
    with Postgres({"max_connections": 100}, fsync=False) as pg:
        yield pg


@pytest.fixture
def redis():
    with Redis() as r:
        yield r


def path(m):
    return f"/v1/memories/{m['id']}"


def status(r):
    return r.headers["Cache-Status"]


def purge(o):
    assert o.post("/v1/admin/cache:purge", {"tier": "l1"}).status == 200


def in_redis(o, redis, m):
    """A copy made by o."""
    purge(o)
    assert o.get(path(m)).status == 200
    return until(lambda: copies(redis).get(key_of(m)))


def key_of(m):
    return f"orchestra:-:m:{m['id']}".encode()


def copies(redis):
    return {k: redis("GET", k) for k in redis("KEYS", "*")}


def test_one_daemons_copy_serves_the_other(pg, redis):
    with Fleet(2, pg, warmed=True, sets=[*SMALL, f"redis.url={redis.unix_url()}"]) as f:
        a, b = f
        m = a.add("Ada likes tea")
        f.followed()
        in_redis(a, redis, m)
        purge(b)
        r = b.get(path(m))
        assert status(r) == L2 and r.json["content"] == "Ada likes tea" and r.headers["ETag"] == '"1"'
        assert status(b.get(path(m))) == "orchestra; hit"
        assert metric(b, 'orchestra_cache_loads_total{from="l2"}') == 1
        assert redis("PTTL", key_of(m)) > 0
        # by search as well, all bodies in one question
        purge(b)
        assert b.search("tea", mode="text")[0]["content"] == "Ada likes tea"
        assert metric(b, 'orchestra_cache_loads_total{from="l2"}') == 2


@pytest.mark.parametrize("heard", [True, False], ids=["notices heard", "no notices"])
def test_an_old_copy_is_recognised(pg, redis, heard):
    """Whatever Redis holds: what was changed behind it is read from the store."""
    with Proxy(("127.0.0.1", redis.port)) as wire:
        with Fleet(2, pg, warmed=True, sets=SMALL, settings=lambda k: [f"redis.url={redis.url() if k or heard else f'redis://127.0.0.1:{wire.port}'}"]) as f:
            a, b = f
            m = a.add("Ada likes tea")
            f.followed()
            old = in_redis(b, redis, m)
            if not heard:
                wire.refuse()
                wire.reset()
            assert a.patch(path(m), {"content": "Ada likes coffee"}).status == 200
            f.followed()
            for o in f:
                redis("SET", key_of(m), old, "PX", 60000)
                purge(o)
                r = o.get(path(m))
                assert r.json["content"] == "Ada likes coffee" and "l2" not in status(r), (status(r), r)
            assert metric(b, "orchestra_cache_distrusted_total") >= 1
            assert a.delete(path(m)).status == 204
            f.followed()
            for o in f:
                redis("SET", key_of(m), old, "PX", 60000)
                purge(o)
                assert o.get(path(m)).status == 404


def test_copies_from_before_a_restart(pg, redis):
    """The feed says which of them are still right."""
    with Fleet(2, pg, warmed=True, sets=[*SMALL, f"redis.url={redis.unix_url()}", "warmer.save_every=0"]) as f:
        a, b = f
        same, changed = a.add("this one stays"), a.add("this one will change")
        f.followed()
        old = {m["id"]: in_redis(b, redis, m) for m in (same, changed)}
        b.kill()
        assert a.patch(path(changed), {"content": "it has changed"}).status == 200
        until(lambda: flushed(a))
        for m in (same, changed):
            redis("SET", key_of(m), old[m["id"]], "PX", 60000)
        b.start()
        f.followed()
        purge(b)
        assert until(lambda: status(b.get(path(same))) == L2 or purge(b), 10)
        r = b.get(path(changed))
        assert r.json["content"] == "it has changed"


def test_a_namespace_that_was_dropped(pg, redis):
    with Fleet(2, pg, warmed=True, sets=[*SMALL, f"redis.url={redis.unix_url()}"]) as f:
        a, b = f
        m = a.add("in a namespace", namespace="gone")
        f.followed()
        old = in_redis(b, redis, m)
        assert a.delete("/v1/namespaces/gone?confirm=gone").status in (200, 204)
        f.followed()
        assert a.add("again", namespace="gone")["id"] != m["id"]
        f.followed()
        for o in f:
            redis("SET", key_of(m), old, "PX", 60000)
            purge(o)
            assert o.get(path(m)).status == 404


LIES = {"truncated": lambda v: v[:-1], "empty": lambda v: b"", "longer": lambda v: v + b"x", "garbage": lambda v: b"\0" * len(v),
        "one bit": lambda v: v[:-3] + bytes([v[-3] ^ 1]) + v[-2:], "json": lambda v: b'{"content":"lie"}'}


def test_values_that_lie(pg, redis):
    with Fleet(1, pg, warmed=True, sets=[*SMALL, f"redis.url={redis.unix_url()}"]) as f:
        o = f[0]
        m, other = o.add("Ada likes tea"), o.add("Bob likes coffee")
        f.followed()
        right, another = in_redis(o, redis, m), in_redis(o, redis, other)
        for name, lie in {**LIES, "another memory's": lambda v: another}.items():
            redis("SET", key_of(m), lie(right), "PX", 60000)
            purge(o)
            r = o.get(path(m))
            assert r.status == 200 and r.json["content"] == "Ada likes tea" and "l2" not in status(r), (name, status(r))
        redis("DEL", key_of(m))
        redis("LPUSH", key_of(m), "a list")
        purge(o)
        assert o.get(path(m)).json["content"] == "Ada likes tea"


def test_redis_in_trouble_is_nobodys_trouble(pg):
    with Redis() as redis, Proxy(("127.0.0.1", redis.port)) as wire:
        with Fleet(1, pg, warmed=True, sets=[*SMALL, f"redis.url=redis://127.0.0.1:{wire.port}"]) as f:
            o = f[0]
            memories = [o.add(f"memory {k}") for k in range(50)]
            f.followed()

            def all_well(what):
                purge(o)
                for m in memories:
                    start = time.monotonic()
                    r = o.get(path(m))
                    assert r.status == 200 and r.json["content"] == m["content"], (what, r)
                    assert time.monotonic() - start < 5 * SLOW, what
                o.add(f"written while redis is {what}")
                assert o.search("memory", mode="text", limit=5)
                assert o.get("/readyz").status == 200
            all_well("well")
            for what, begin, end in (("stopped", redis.pause, redis.resume), ("dead", redis.kill9, redis.start), ("full", redis.full, lambda: redis.full(False)),
                                     ("cut", wire.blackhole, wire.heal), ("refused", wire.refuse, wire.heal), ("slow", lambda: wire.delay(400), wire.heal)):
                begin()
                try:
                    all_well(what)
                    if what in ("stopped", "dead", "cut"):
                        assert "redis" in o.get("/readyz").json["degraded"], what
                finally:
                    end()
                redis("FLUSHALL")
                all_well("back from " + what)

            def served():
                purge(o)
                o.get(path(memories[0]))
                purge(o)
                return status(o.get(path(memories[0]))) == L2
            until(served, 20, 0.2)
            until(lambda: o.get("/readyz").json["degraded"] == [], 30)


def test_an_account_of_its_own(pg):
    users = {"orchestra": "on >s3cret ~orchestra:* &orchestra:* +@all -@dangerous +info"}
    with Redis(password="other", users=users) as redis:
        with Fleet(2, pg, warmed=True, sets=SMALL, settings=lambda k: [f"redis.url={redis.url('orchestra', 's3cret' if not k else 'wrong')}"]) as f:
            a, b = f
            m = a.add("Ada likes tea")
            f.followed()
            in_redis(a, redis, m)
            purge(a)
            assert status(a.get(path(m))) == L2
            purge(b)
            assert b.get(path(m)).status == 200 and "l2" not in status(b.get(path(m)))
            until(lambda: "s3cret" not in a.log() and "WRONGPASS" in b.log() or "password" in b.log(), 10)


@pytest.mark.parametrize("make", [RedisCluster, RedisSentinel], ids=["cluster", "sentinel"])
def test_other_shapes_of_redis(pg, make):
    with make() as redis:
        with Fleet(2, pg, warmed=True, sets=[*SMALL, f"redis.url={redis.url() if callable(redis.url) else redis.url}"]) as f:
            a, b = f
            memories = [a.add(f"memory {k}") for k in range(20)]
            f.followed()

            def all_by_l2():
                purge(a)
                [a.get(path(m)) for m in memories]
                purge(b)
                return all(status(b.get(path(m))) == L2 for m in memories)
            until(all_by_l2, 20, 0.2)


def test_a_wrong_address_is_named():
    o = Orchestra(start=False)
    try:
        import os
        import subprocess
        r = subprocess.run([o.binary, "--check", "--set", "redis.url=rediss://cache:6380", "--set", f"data.dir={o.data}"],
                           capture_output=True, text=True, env=os.environ, timeout=30)
        assert r.returncode != 0 and "redis.url" in r.stderr + r.stdout and "stunnel" in r.stderr + r.stdout
    finally:
        o.cleanup()
