"""Probes when the daemon is at its limits: all connections taken, all reader threads blocked by a store that stands still. Broken code that this
finds: a probe that is refused with everybody else, a reserve that lets anything else through or that never ends, a loop that waits for
the store, a readiness that hides which dependency is missing."""
import json
import select
import signal
import socket

import pytest

from orchestra import SLOW, STORE, until, store_sets

H = b"Host: localhost\r\n"
PROBES = ("/livez", "/readyz", "/startupz", "/readyz?verbose")


def checks(o):
    return {c["name"]: c for c in o.get("/readyz?verbose", fresh=True).json["checks"]}


def fill(o, n):
    """All connections that the only api worker takes, each of them used."""
    held = []
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", o.port), timeout=10 * SLOW)
        s.sendall(b"GET /livez HTTP/1.1\r\n" + H + b"\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
        held.append(s)
    return held


def test_probes_beyond_max_connections(make):
    o = make(sets=["http.max_connections=16", "api.workers=1"])
    o.close_connection()
    until(lambda: b"\norchestra_http_connections 1\n" in o.get("/metrics", fresh=True).body)
    held = fill(o, 16)
    for path in PROBES:
        for _ in range(3):
            r = o.get(path, fresh=True)
            assert r.status == 200 and r.headers["Connection"] == "close", path
    for request in (b"GET /v1/memories HTTP/1.1\r\n" + H + b"\r\n", b"GET /metrics HTTP/1.1\r\n" + H + b"\r\n", b"POST /livez HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n",
                    b"GET /livez HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\nhello", b"GET /livez HTTP/1.1\r\nHost: lo", b""):
        answer = o.raw(request)                                    # what is no probe, or none in time, is refused
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After: 1" in answer and b"overloaded" in answer and b"http.max_connections (16)" in answer, request
    two = o.raw(b"GET /livez HTTP/1.1\r\n" + H + b"\r\nGET /livez HTTP/1.1\r\n" + H + b"\r\n")
    assert two.count(b"HTTP/1.1 200") == 1                         # one each
    held.pop().close()
    until(lambda: o.get("/v1/memories?limit=1", fresh=True).status == 200)
    for s in held:
        s.close()


@pytest.mark.skipif(STORE != "sqlite", reason="brings its own server")
def test_probes_while_the_store_stands_still():
    """PostgreSQL is stopped, not ended: connections stay, answers do not come. Every reader thread waits for one, and more requests queue."""
    from orchestra import Orchestra
    from postgres import Postgres
    with Postgres({"max_connections": 60}, fsync=False) as pg:
        pg.sql("CREATE DATABASE probes")
        with Orchestra(sets=store_sets(pg, "probes") + ["api.workers=1", "api.reader_threads=2", "store.answer_timeout=60 s"]) as o:
            o.add("x")
            pg.pause()
            asked = []
            try:
                for _ in range(8):
                    s = socket.create_connection(("127.0.0.1", o.port), timeout=60 * SLOW)
                    s.sendall(b"GET /v1/memories?limit=5 HTTP/1.1\r\n" + H + b"\r\n")
                    asked.append(s)
                for path in PROBES * 3:
                    r = o.get(path, fresh=True, timeout=5)
                    assert r.status in (200, 503) and json.loads(r.body)["status"], path
                assert o.get("/metrics", fresh=True).status == 200
                assert len(select.select(asked, [], [], 0)[0]) < len(asked)    # it was so all the time: they wait still
            finally:
                pg.resume()
                for s in asked:
                    s.close()
            until(lambda: o.get("/readyz", fresh=True).status == 200, timeout=30)


def test_verbose_names_each_dependency(make):
    o = make(sets=["warmer.ready_fraction=50"])
    plain, full = o.get("/readyz").json, o.get("/readyz?verbose").json
    assert set(plain) == {"status", "degraded"} and plain["status"] == full["status"] == "ready"
    assert "checks" not in o.get("/readyz?verbose=0").json
    found = checks(o)
    assert {"draining", "sync", "journal", "store", "index", "warm"} <= set(found) and all(c["ok"] and c["state"] == "ok" for c in found.values())
    assert "bytes wait for the store" in found["journal"]["reason"]


def test_verbose_says_what_is_missing(make):
    o = make(sets=["daemon.drain_delay=20 s", "daemon.drain_timeout=40 s"])
    o.signal(signal.SIGTERM)
    c = until(lambda: not (c := checks(o)["draining"])["ok"] and c)  # each api worker hears of it by itself
    until(lambda: o.get("/readyz", fresh=True).status == 503)
    assert c["state"] == "draining" and "leave" in c["reason"]
    o.signal(signal.SIGTERM)                                       # a second one: at once
    o.process.wait(20 * SLOW)
    safe = make(sets=["errors.detail=safe"])
    assert not any("reason" in c for c in checks(safe).values())   # what is inside is for who may see it
