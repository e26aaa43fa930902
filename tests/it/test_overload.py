"""More is asked for than can be served: what waits stays bounded, who asks for most is refused with 429 and a time to come back,
others are not, nor what needs no queue; nothing acknowledged is lost, and all is well again when it is over. No timing is
looked at: a store that answers nothing, and a sync that is stopped, stand for one that is too slow."""
import contextlib
import json
import os
import select
import signal
import socket
import struct
import threading

import pytest

import fleet
from orchestra import SLOW, Orchestra, store_sets, until
from postgres import Postgres
from proxy import Proxy

SHARP = ["api.workers=1", "overload.target=200 ms", "overload.interval=300 ms", "overload.free=8"]
PATIENT = ["store.answer_timeout=10 min", "store.connect_timeout=10 min", "breaker.failure_rate=0", "breaker.consecutive=0", "breaker.slow_call=0 ms", "sync.debounce_ms=20"]
THREADS = 2  # api.reader_threads


class Asked:
    """A request whose answer is looked at later."""

    def __init__(self, o, method, path, body=None):
        self.s = socket.create_connection(("127.0.0.1", o.port), timeout=60 * SLOW)
        self.got = b""
        self.ask(method, path, body)

    def ask(self, method, path, body=None):
        data = json.dumps(body).encode() if isinstance(body, dict) else (body or b"")
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n" + (f"Content-Length: {len(data)}\r\n" if body is not None else "")
        self.s.sendall(head.encode() + b"\r\n" + data)

    def poll(self):
        """(status, head, body) once all of it is there, else None."""
        while b"\r\n\r\n" not in self.got or len(self.got) < self.got.index(b"\r\n\r\n") + 4 + self._length():
            if not select.select([self.s], [], [], 0)[0]:
                return None
            more = self.s.recv(1 << 20)
            assert more, "the connection was closed: " + repr(self.got)
            self.got += more
        head, _, body = self.got.partition(b"\r\n\r\n")
        return int(head[9:12]), head.decode(), body

    def _length(self):
        head = self.got.partition(b"\r\n\r\n")[0].decode().lower()
        return int(head.split("content-length:")[1].split("\r\n")[0])

    def answer(self):
        return until(self.poll, 60)

    def close(self, reset=False):
        if reset:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()


def statuses(asked):
    return [a.poll()[0] if a.poll() else None for a in asked]


def refused(a, what="overloaded"):
    status, head, body = a.answer()
    problem = json.loads(body)
    assert status == 429 and problem["type"] == "urn:orchestra:problem:" + what, (head, body)
    assert 1 <= int(head.split("Retry-After: ")[1].split("\r\n")[0]) <= 30
    assert "overload.target" in problem["detail"] and "Retry-After" in problem["detail"]
    return problem


def metric(o, name):
    return fleet.metric(o, "orchestra_" + name)


def overload(o):
    return o.get("/v1/admin/status").json["overload"]


def lists(o, ns, n):
    return [Asked(o, "GET", f"/v1/memories?namespace={ns}") for _ in range(n)]


def well(o):
    return overload(o)["throttling"] == [] and "overload" not in o.get("/readyz").json["degraded"]


@pytest.fixture(scope="module")
def server():
    with Postgres() as pg:
        yield pg


@contextlib.contextmanager
def behind_proxy(server, name, *sets):
    """A daemon, and the wire to its store."""
    server.sql(f"CREATE DATABASE {name}")
    with Proxy(server) as proxy:
        sets = [*store_sets(server, name, host=proxy.host, port=proxy.port), *PATIENT, *SHARP, *sets]
        with Orchestra(sets=sets) as o:
            try:
                yield o, proxy
            finally:
                proxy.heal()


def test_a_store_that_does_not_answer(server):
    with behind_proxy(server, "hangs") as (o, proxy):
        ids = {ns: o.post("/v1/memories?wait=store", {"content": "here", "namespace": ns}).json["id"] for ns in ("greedy", "modest")}
        assert o.memory(ids["modest"]).status == 200
        proxy.blackhole("answers")
        greedy = lists(o, "greedy", 60)
        until(lambda: statuses(greedy).count(429) >= 60 - 8 - THREADS, 60)
        assert overload(o)["throttling"] == ["readers"] and overload(o)["waiting"] <= 8
        assert set(statuses(greedy)) == {429, None}
        assert "greedy" not in refused(next(a for a in greedy if a.poll()))["detail"]  # a name is nobody else's business
        # Those who ask for little are not refused; they wait for the store, as there is nothing else to do.
        modest = lists(o, "modest", 2)
        more = lists(o, "greedy", 10)
        until(lambda: statuses(more).count(429) >= 5, 60)
        refused(next(a for a in more if a.poll()))
        # What needs no queue is served: hits, probes, writes, administration.
        assert o.memory(ids["modest"]).status == 200 and o.get("/livez").status == 200
        assert o.post("/v1/memories", {"content": "new", "namespace": "greedy"}).status == 201
        r = o.get("/readyz")
        assert r.status == 200 and "overload" in r.json["degraded"]
        assert "refused" in o.ctl("status").stdout
        # Bulk is refused, and the connection stays.
        for method, path, body in (("GET", "/v1/memories:export?namespace=greedy", None), ("GET", "/v1/memories:count?namespace=greedy", None),
                                   ("GET", "/v1/memories?namespace=greedy&limit=1000", None),
                                   ("POST", "/v1/memories:import?namespace=greedy", b'{"content":"x"}\n' * 5)):
            a = Asked(o, method, path, body)
            refused(a)
            if method == "GET":
                a.got = b""
                a.ask("GET", "/livez")
                assert a.answer()[0] == 200
        assert statuses(modest) == [None, None], [json.loads(a.poll()[2])["detail"] for a in modest if a.poll()]
        assert metric(o, 'overload_refused_total{class="read",reason="stale"}') >= 1
        assert metric(o, 'overload_refused_total{class="read",reason="delay"}') >= 1
        assert metric(o, 'overload_refused_total{class="bulk",reason="delay"}') >= 4
        proxy.heal()
        for a in modest:
            status, _, body = a.answer()
            assert status == 200 and len(json.loads(body)["memories"]) == 1
        until(lambda: None not in statuses(greedy + more), 60)
        assert {200, 429} <= set(statuses(greedy + more)) <= {200, 429, 503}  # a connection may have been given up
        until(lambda: well(o), 60)
        assert [a.answer()[0] for a in lists(o, "greedy", 20)] == [200] * 20


def test_who_has_gone_is_not_served(server):
    with behind_proxy(server, "gone") as (o, proxy):
        o.post("/v1/memories?wait=store", {"content": "here", "namespace": "a"})
        proxy.blackhole("answers")
        stay = lists(o, "a", THREADS)
        until(lambda: metric(o, 'overload_waiting{queue="readers"}') == 0)
        go = lists(o, "a", 4)
        until(lambda: metric(o, 'overload_waiting{queue="readers"}') == 4)
        for a in go:
            a.close(reset=True)
        until(lambda: metric(o, "overload_abandoned_total") == 4)
        until(lambda: metric(o, 'overload_waiting{queue="readers"}') == 0)
        half = Asked(o, "GET", "/v1/memories?namespace=a")
        half.s.shutdown(socket.SHUT_WR)  # it may want the answer all the same
        proxy.heal()
        assert [a.answer()[0] for a in (*stay, half)] == [200] * (THREADS + 1)
        assert metric(o, "overload_abandoned_total") == 4 and overload(o)["refused"] == 0


def test_without_control_all_wait(server):
    with behind_proxy(server, "all_wait", "overload.control=false") as (o, proxy):
        o.post("/v1/memories?wait=store", {"content": "here", "namespace": "a"})
        proxy.blackhole("answers")
        asked = lists(o, "a", 60)
        until(lambda: metric(o, 'overload_waiting{queue="readers"}') == 60 - THREADS)
        until(lambda: metric(o, 'overload_delay_seconds{queue="readers"}') > 1, 20)
        assert overload(o) == {"throttling": [], "waiting": 60 - THREADS, "refused": 0}
        proxy.heal()
        assert [a.answer()[0] for a in asked] == [200] * 60


IN_RING = 190  # writes of this size that are handed to sync at once, at most (handed.h: HANDED_MOST)


def adds(o, ns, n):
    return [Asked(o, "POST", "/v1/memories", {"content": f"{ns} {i} " + "x" * 40000, "namespace": ns, "embedding": [1, i + 1]}) for i in range(n)]


def test_a_sync_that_does_not_answer(make):
    """Writes wait where a single one of somebody else's is not behind thousands; what was refused was not done, what was
    acknowledged was."""
    o = make(sets=[*SHARP, "daemon.stuck_timeout=0 ms"])
    o.add("here", namespace="modest", embedding=[1, 2])
    sync = o.worker("sync")
    os.kill(sync, signal.SIGSTOP)
    try:
        greedy = adds(o, "greedy", 400)
        until(lambda: statuses(greedy).count(429) >= 400 - IN_RING - 8, 60)
        assert "writes" in overload(o)["throttling"]
        modest = adds(o, "modest", 2)
        for a in adds(o, "greedy", 5):
            refused(a)
        refused(Asked(o, "POST", "/v1/memories", {"memories": [{"content": f"bulk {i}"} for i in range(9)], "namespace": "greedy"}))
        assert statuses(modest) == [None, None], [json.loads(a.poll()[2])["detail"] for a in modest if a.poll()]
        assert len(o.search("here", namespace="modest", mode="text")) == 1  # reads go on
    finally:
        os.kill(sync, signal.SIGCONT)
    assert [a.answer()[0] for a in modest] == [201, 201]
    until(lambda: None not in statuses(greedy), 60)
    assert set(statuses(greedy)) == {201, 429}
    stored = {m["content"].rstrip("x") for m in o.list_all(namespace="greedy", limit=200)}
    assert stored == {f"greedy {i} " for i, s in enumerate(statuses(greedy)) if s == 201}
    until(lambda: well(o), 60)
    assert [a.answer()[0] for a in adds(o, "greedy", 50)] == [201] * 50


def flood(o, stop, answers):
    """Adds of a greedy client on a few connections, as fast as it can: pipelined, the answers only counted."""
    body = json.dumps({"content": "flood", "namespace": "greedy", "embedding": [1, 2]})
    one = f"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    connections = [socket.create_connection(("127.0.0.1", o.port)) for _ in range(8)]
    left = {c: b"" for c in connections}
    for c in connections:
        c.setblocking(False)
    while not stop.is_set():
        readable, writable, _ = select.select(connections, connections, [], 0.1)
        for c in readable:
            answers[0] += c.recv(1 << 20).count(b"HTTP/1.1 429")
        for c in writable:
            data = left[c] or one * 200
            left[c] = data[c.send(data):]
    for c in connections:
        c.close()


def test_a_flood_of_refusals_is_slowed_down(make):
    """Who sends so much that it takes the loop's time to refuse it waits for his 429; nobody else does."""
    o = make(sets=[*SHARP, "daemon.stuck_timeout=0 ms"])
    o.add("here", namespace="modest", embedding=[1, 2])
    sync, stop, refusals = o.worker("sync"), threading.Event(), [0]
    os.kill(sync, signal.SIGSTOP)
    client = threading.Thread(target=flood, args=(o, stop, refusals))
    try:
        greedy = adds(o, "greedy", 400)
        until(lambda: statuses(greedy).count(429) >= 400 - IN_RING - 8, 60)
        assert metric(o, "overload_held_total") == 0
        client.start()
        until(lambda: metric(o, "overload_held_total") > 0, 60)
        assert len(o.search("here", namespace="modest", mode="text")) == 1
        before = refusals[0]
        until(lambda: refusals[0] > before + 1000, 60)  # held back is not withheld
    finally:
        stop.set()
        os.kill(sync, signal.SIGCONT)
        if client.ident:
            client.join()
    until(lambda: None not in statuses(greedy), 60)
    until(lambda: well(o), 60)
    assert [a.answer()[0] for a in adds(o, "greedy", 50)] == [201] * 50


def test_settings_are_reloaded(make):
    """From what never refuses to what does, and back, without a restart."""
    conf = 'overload = {{ control = {}; target = "200 ms"; interval = "300 ms"; free = 0; }};\n'
    o = make(sets=["api.workers=1", "daemon.stuck_timeout=0 ms"], conf=conf.format("false"))

    def change(on):
        with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
            f.write(conf.format(on))
        assert o.post("/v1/admin/reload").status == 200
    os.kill(o.worker("sync"), signal.SIGSTOP)
    waiting = []
    try:
        waiting = adds(o, "a", 300)
        until(lambda: metric(o, "transactions_sent_total") == 300)
        assert overload(o)["throttling"] == []
    finally:
        os.kill(o.worker("sync"), signal.SIGCONT)
    assert [a.answer()[0] for a in waiting] == [201] * 300
    change("true")
    os.kill(o.worker("sync"), signal.SIGSTOP)
    try:
        waiting = adds(o, "a", 300)
        until(lambda: statuses(waiting).count(429) >= 300 - IN_RING, 60)
    finally:
        os.kill(o.worker("sync"), signal.SIGCONT)
    assert {a.answer()[0] for a in waiting} == {201, 429}
    until(lambda: well(o), 60)


def test_nothing_is_refused_by_default(make):
    """As many as a test or a busy program has: they wait, however long."""
    o = make(sets=["api.workers=1", "api.reader_threads=1", "cache.search_ttl=0 ms"])
    o.post("/v1/memories", {"memories": [{"content": f"one {i} of many"} for i in range(500)]})
    asked = [Asked(o, "POST", "/v1/memories/search", {"query": f"many {i}", "limit": 50}) for i in range(120)]
    assert [a.answer()[0] for a in asked] == [200] * 120
    assert overload(o)["refused"] == 0 and os.path.exists(o.socket)
