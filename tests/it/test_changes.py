"""GET /v1/changes: the feed of changes, in pages, by long polls and as a stream, on SQLite and on PostgreSQL with two daemons."""
import hashlib
import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from urllib.parse import quote

import pytest

from fault_points import TWIN, Faults
from orchestra import BUILD, SLOW, kill_all, until
from postgres import Postgres, Unavailable

PATH = "/v1/changes"
KINDS = {"put", "delete", "erase"}


@pytest.fixture(scope="module")
def server():
    try:
        with Postgres(fsync=False) as pg:
            yield pg
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request, make):
    """daemon(**kw): a daemon on the store under test; those on PostgreSQL share a database of the test's own."""
    if request.param == "sqlite":
        yield lambda sets=(), **kw: make(sets=list(sets), **kw)
        return
    pg = request.getfixturevalue("server")
    dsn = pg.dsn(dbname=pg.database())
    yield lambda sets=(), **kw: make(sets=["store.kind=postgres", f"store.dsn={dsn}", "api.workers=2", *sets], **kw)


def page(o, expect=200, headers=None, **params):
    names = params.pop("namespace", [])
    query = [f"{k}={quote(str(v))}" for k, v in params.items()] + [f"namespace={quote(n)}" for n in names]
    r = o.get(PATH + "?" + "&".join(query), headers=headers)
    assert r.status == expect, r
    return r.json


def now(o):
    """Where the feed ends, once a daemon that has just come up knows it."""
    return until(lambda: (r := o.get(PATH)).status == 200 and r.json["cursor"])


def follow(o, cursor, n, limit=500, **params):
    """The n changes behind a cursor and where they end."""
    out, deadline = [], time.monotonic() + 20 * SLOW
    while len(out) < n:
        got = page(o, after=cursor, limit=limit, wait=1, **params)
        assert len(got["changes"]) <= limit
        out, cursor = out + got["changes"], got["cursor"]
        assert time.monotonic() < deadline, f"{len(out)} of {n} have come"
    return out, cursor


def what(changes):
    return [(c["type"], c.get("id"), c.get("version")) for c in changes]


class Stream:
    """A stream of events on a connection of its own."""

    def __init__(self, o, query="", rcvbuf=None, **headers):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(20 * SLOW)
        self.sock.connect(("127.0.0.1", o.port))
        lines = [f"GET {PATH}{query} HTTP/1.0", "Host: localhost", "Accept: text/event-stream"]
        lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.file = self.sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = http.client.parse_headers(self.file)
        self.id = self.retry = None
        self.ended = False
        self.kept = 0

    def event(self):
        """(type, data) of the next event, as a browser's EventSource would see it; None at the end."""
        kind, data, deadline = "message", None, time.monotonic() + 40 * SLOW
        for line in self.file:
            assert time.monotonic() < deadline, "keep-alives only"
            line = line.decode().rstrip("\n")
            if not line:
                if data is not None:
                    return kind, json.loads(data)
                kind = "message"
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "id":
                self.id = value
            elif field == "event":
                kind = value
            elif field == "data":
                data = value
            elif field == "retry":
                self.retry = int(value)
            else:
                self.kept += value == "keep-alive"
        self.ended = True
        return None

    def take(self, n):
        out = [self.event() for _ in range(n)]
        for kind, data in filter(None, out):
            assert kind == data["type"]
        return [data for _, data in out]

    def close(self):
        self.file.close()
        self.sock.close()


# ---- pages ----

def test_every_kind(stores):
    o = stores()
    start = now(o)
    a = o.add("one", namespace="a")
    b = o.add("two", namespace="ü \"b\"")
    until(lambda: len(page(o, after=start)["changes"]) == 2)
    o.patch("/v1/memories/" + a["id"], {"content": "uno"})
    until(lambda: len(page(o, after=start)["changes"]) == 3)
    assert o.delete("/v1/memories/" + a["id"]).status == 204
    assert o.delete("/v1/memories/" + b["id"] + "?erase=true").status == 200
    until(lambda: len(page(o, after=start)["changes"]) == 5)
    assert o.post("/v1/memories/" + a["id"] + "/restore").status == 200
    assert o.post("/v1/namespaces", {"name": "n"}).status == 201
    assert o.delete("/v1/namespaces/n?confirm=n").status in (200, 204)
    got, _ = follow(o, start, 8)
    assert what(got) == [("put", a["id"], 1), ("put", b["id"], 1), ("put", a["id"], 2), ("delete", a["id"], 3), ("erase", b["id"], 2),
                         ("put", a["id"], 4), ("namespace", None, None), ("namespace_drop", None, None)]
    assert [c["namespace"] for c in got] == ["a", "ü \"b\"", "a", "a", "ü \"b\"", "a", "n", "n"]
    assert len({c.get("node") for c in got}) == 1 and len(got[0].get("node", "0" * 16)) == 16
    assert all(set(c) - {"node"} == {"revision", "type", "namespace", "at"} | ({"id", "version"} if c["type"] in KINDS else set()) for c in got)
    revisions = [c["revision"] for c in got]
    assert revisions == sorted(revisions)
    assert [c["at"] for c in got] == sorted(c["at"] for c in got)
    # What is announced can be read here, in that version or a later one.
    assert o.memory(a["id"]).json["version"] == 4


def test_pages_are_exact_whatever_their_size(stores):
    """Cursors point into a batch: 40 memories of one transaction, read by 1, 7 and 500."""
    o = stores()
    start = now(o)
    made = o.post("/v1/memories", {"memories": [{"content": f"m{i}"} for i in range(40)]}).json["memories"]
    o.add("behind it")
    want, end = follow(o, start, 41)
    assert [c["id"] for c in want[:40]] == [m["id"] for m in made]
    assert len({c["revision"] for c in want[:40]}) == 1
    for limit in (1, 7, 40, 41, 500):
        got, cursor, inside = [], start, 0
        while True:
            p = page(o, after=cursor, limit=limit)
            assert len(p["changes"]) == min(limit, 41 - len(got))
            got, cursor = got + p["changes"], p["cursor"]
            inside += ":" in cursor
            if not p["more"]:
                break
        assert got == want and cursor == end
        assert inside or limit > 40
    assert page(o, after=end) == {"changes": [], "cursor": end, "more": False}


def test_bad_questions(shared):
    o = shared
    for query in ("after=x", "after=-1", "after=1:0", "after=0:1", "after=", "after=9223372036854775808", "limit=0", "limit=1001",
                  "limit=x", "wait=61", "wait=-1", "wait=1.5", "namespace=", "namespace=%ff", "namespace=" + "x" * 129,
                  "&".join(["namespace=a"] * 65), "after=%zz"):
        r = o.get(f"{PATH}?{query}")
        assert r.status == 400, (query, r)
    r = o.get(PATH, headers={"Last-Event-ID": "1;2"})
    assert r.status == 400 and r.json["detail"].startswith("Last-Event-ID:")
    r = o.request("HEAD", PATH, headers={"Accept": "text/event-stream"})
    assert r.status == 200 and not r.body  # not a stream that never ends
    # A place that nobody can have given: of another store, or of one that was replaced.
    r = o.get(PATH + "?after=99999999")
    assert r.status == 410 and r.json["type"].endswith(":changes-expired") and r.json["cursor"] == now(o)


def test_a_long_poll_ends_with_the_first_change(stores):
    o = stores()
    start = now(o)
    assert page(o, after=start, wait=1) == {"changes": [], "cursor": start, "more": False}
    got = []
    waiting = threading.Thread(target=lambda: got.append(page_on(o, f"after={start}&wait=30&namespace=wanted")))
    waiting.start()
    o.add("not asked for", namespace="other")
    until(lambda: page(o, after=start)["changes"])
    assert waiting.is_alive()
    m = o.add("at last", namespace="wanted")
    waiting.join(20 * SLOW)
    assert what(got[0]["changes"]) == [("put", m["id"], 1)]


def page_on(o, query):
    """On a connection of its own: for threads."""
    c = http.client.HTTPConnection("127.0.0.1", o.port, timeout=60 * SLOW)
    c.request("GET", f"{PATH}?{query}")
    r = c.getresponse()
    body = r.read()
    c.close()
    assert r.status == 200, body
    return json.loads(body)


def test_namespaces_that_were_asked_for(stores):
    o = stores()
    start = now(o)
    made = [o.add(f"m{i}", namespace="abc"[i % 3])["id"] for i in range(30)]
    follow(o, start, 30)
    for names in (["a"], ["c", "a"], ["nowhere"], ["a", "b", "c"]):
        want = [id_ for i, id_ in enumerate(made) if "abc"[i % 3] in names]
        for limit in (3, 500):
            got, cursor = [], start
            while (p := page(o, after=cursor, limit=limit, namespace=names))["changes"]:
                got, cursor = got + p["changes"], p["cursor"]
            assert [c["id"] for c in got] == want
            assert not p["more"] and p["cursor"] == page(o, after=start)["cursor"]


# ---- who may see what ----

def token_file(tmp_path, **tokens):
    path = str(tmp_path / "tokens")
    with open(path, "w") as f:
        for name, (rights, names) in tokens.items():
            f.write(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()} {rights} {names}\n")
    os.chmod(path, 0o600)
    return path


def bearer(name):
    return {"Authorization": f"Bearer {name}"}


def test_tokens_see_their_namespaces_only(make, tmp_path):
    path = token_file(tmp_path, all=("read,write,admin", "*"), mine=("read,write", "mine,shared"), blind=("write", "*"))
    o = make(sets=[f"auth.tokens_file={path}"])
    start = page(o, headers=bearer("all"))["cursor"]
    mine = Stream(o, f"?after={start}", **bearer("mine"))
    ids = {n: o.post("/v1/memories", {"content": n, "namespace": n}, headers=bearer("all")).json["id"] for n in ("mine", "theirs", "shared")}
    everything = until(lambda: len(p := page(o, after=start, headers=bearer("all"))["changes"]) == 3 and p)
    assert [c["namespace"] for c in everything] == ["mine", "theirs", "shared"]
    got = page(o, after=start, headers=bearer("mine"))
    assert [c["id"] for c in got["changes"]] == [ids["mine"], ids["shared"]] and not got["more"]
    assert [c["id"] for c in mine.take(2)] == [ids["mine"], ids["shared"]]
    assert page(o, 403, namespace=["mine", "theirs"], headers=bearer("mine"))["type"].endswith("namespace-forbidden")
    assert page(o, 403, headers=bearer("blind"))["type"].endswith("right-missing")
    assert page(o, 401)["type"].endswith("unauthorized")
    assert Stream(o).status == 401
    # A reload that narrows a token narrows its streams; one that takes it away ends them.
    token_file(tmp_path, all=("read,write,admin", "*"), mine=("read", "mine"))
    assert o.post("/v1/admin/reload", headers=bearer("all")).status == 200
    time.sleep(0.5 * SLOW)  # a worker looks at its streams four times a second
    for n in ("shared", "mine"):
        assert o.post("/v1/memories", {"content": n + " again", "namespace": n}, headers=bearer("all")).status == 201
    assert mine.take(1)[0]["namespace"] == "mine"
    token_file(tmp_path, all=("read,write,admin", "*"))
    assert o.post("/v1/admin/reload", headers=bearer("all")).status == 200
    assert mine.event() is None


# ---- streams ----

def test_a_stream_and_its_resumption(stores):
    o = stores()
    start = now(o)
    first = [o.add(f"m{i}")["id"] for i in range(5)]
    s = Stream(o, f"?after={start}")
    assert s.status == 200 and s.headers["Content-Type"] == "text/event-stream" and s.headers["Cache-Control"] == "no-store"
    assert [c["id"] for c in s.take(5)] == first
    bulk = [m["id"] for m in o.post("/v1/memories", {"memories": [{"content": f"b{i}"} for i in range(20)]}).json["memories"]]
    assert [c["id"] for c in s.take(7)] == bulk[:7]
    inside = s.id
    assert ":" in inside
    s.close()
    # As a browser resumes: the same query, and the last id that it has seen.
    again = Stream(o, f"?after={start}", Last_Event_ID=inside)
    assert [c["id"] for c in again.take(13)] == bulk[7:]
    last = o.add("the last one")
    assert what(again.take(1)) == [("put", last["id"], 1)]
    assert again.id == now(o) and again.retry > 0
    # Without a cursor it begins now, and says where that is.
    fresh = Stream(o)
    newest = o.add("news")
    assert what(fresh.take(1)) == [("put", newest["id"], 1)]
    for x in (again, fresh):
        x.close()


def test_many_streams_see_the_same(stores):
    """More streams than threads, which began at different places."""
    o = stores(sets=["api.reader_threads=1"])
    cursors, ids = [now(o)], []
    for i in range(6):
        ids.append(o.add(f"m{i}")["id"])
        cursors.append(follow(o, cursors[-1], 1)[1])
    streams = [(i % 7, Stream(o, f"?after={cursors[i % 7]}")) for i in range(60)]
    ids += [o.add(f"n{i}")["id"] for i in range(10)]
    for i, s in streams:
        assert [c["id"] for c in s.take(16 - i)] == ids[i:]
        s.close()


def test_silence_is_filled_and_moves_the_cursor(make):
    """Keep-alives come within 15 s; a stream that sees nothing of what happens still learns how far the feed is."""
    o = make()
    start = now(o)
    s = Stream(o, f"?after={start}&namespace=quiet")
    o.add("not for that stream", namespace="loud")
    end = follow(o, start, 1)[1]
    seen = threading.Thread(target=s.event, daemon=True)
    seen.start()
    until(lambda: s.kept == 1, timeout=25, every=0.1)
    until(lambda: s.id == end)
    o.stop()
    seen.join(5 * SLOW)
    assert s.ended


def test_a_slow_reader_is_bounded_and_goes_on(make):
    """One that takes nothing holds up nobody and little memory: far from http.buffered_bytes, where the engine would say
    so. It is cut off by http.write_timeout, and resumes."""
    o = make(sets=["api.workers=1", "http.write_timeout=2 s", "sync.debounce_ms=10", "http.buffered_bytes=2 MiB"])
    start = now(o)
    slow = Stream(o, f"?after={start}", rcvbuf=4096)
    ids = []
    for i in range(60):
        body = {"memories": [{"content": f"m{i}-{k}", "namespace": "n" * 120} for k in range(500)]}
        ids += [m["id"] for m in o.post("/v1/memories", body).json["memories"]]
    quick = Stream(o, f"?after={start}")
    assert [c["id"] for c in quick.take(len(ids))] == ids
    until(lambda: cut_off(slow), timeout=20)
    assert "replies wait for clients" not in o.log()
    got = []
    try:
        while e := slow.event():
            got.append(e[1]["id"])
    except (OSError, ValueError):
        pass
    assert 0 < len(got) < len(ids) and got == ids[:len(got)]
    # It may have been cut in the middle of an event, whose id it has not used then.
    again = Stream(o, f"?after={start}&limit=1000")
    again.take(len(got))
    resumed = Stream(o, "", Last_Event_ID=again.id)
    assert [c["id"] for c in resumed.take(len(ids) - len(got))] == ids[len(got):]
    for x in (slow, quick, again, resumed):
        x.close()


def cut_off(s):
    """The peer has ended the connection, whatever lies unread in it."""
    p = select.poll()
    p.register(s.sock, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    return bool(p.poll(0))


def test_drain_ends_streams_and_polls(stores):
    o = stores()
    start = now(o)
    streams = [Stream(o, f"?after={start}") for _ in range(5)]
    waiting, got = [], []
    for _ in range(3):
        waiting.append(threading.Thread(target=lambda: got.append(page_on(o, f"after={start}&wait=60"))))
        waiting[-1].start()
    time.sleep(0.3 * SLOW)
    began = time.monotonic()
    assert o.stop() == 0
    assert time.monotonic() - began < 8 * SLOW  # daemon.drain_timeout is when they would be killed
    for s in streams:
        assert s.event() is None and s.retry and s.id == start
        s.close()
    for w in waiting:
        w.join()
    assert [p["changes"] for p in got] == [[]] * 3
    assert "killed" not in o.log()


# ---- crashes ----

def test_resumes_behind_a_killed_worker_and_daemon(stores):
    """A follower that reconnects by its last cursor sees each acknowledged write once, in order of each memory's versions."""
    o = stores(sets=["sync.debounce_ms=20"])
    start = now(o)
    wanted, stop = [], threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            try:
                c = http.client.HTTPConnection("127.0.0.1", o.port, timeout=10 * SLOW)
                c.request("POST", "/v1/memories", json.dumps({"content": f"w{n}"}), {"Content-Type": "application/json"})
                r = c.getresponse()
                body = r.read()
                c.close()
                if r.status == 201:
                    wanted.append(json.loads(body)["id"])
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
    writer = threading.Thread(target=write)
    writer.start()
    seen, cursor = [], start

    def read_for(seconds):
        nonlocal cursor
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            try:
                p = page_on(o, f"after={cursor}&limit=50&wait=1")
            except (OSError, http.client.HTTPException, AssertionError):
                time.sleep(0.02)
                continue
            seen.extend(p["changes"])
            cursor = p["cursor"]
    try:
        for round_ in range(4):
            read_for(0.5)
            if round_ == 2:
                kill_all(o)
                o.start()
            else:
                name = "sync" if round_ == 1 else sorted(w for w in o.workers() if w.startswith("api"))[0]
                os.kill(o.workers()[name], signal.SIGKILL)
    finally:
        stop.set()
        writer.join()
    o.wait_ready()
    until(lambda: read_for(0.2) or set(wanted) <= {c["id"] for c in seen}, timeout=20)
    ids = [c["id"] for c in seen]
    assert len(ids) == len(set(ids)), "a change came twice"
    assert len(wanted) > 50 and [i for i in ids if i in set(wanted)] == wanted  # one writer: in its order
    assert [c["revision"] for c in seen] == sorted(c["revision"] for c in seen)


def test_what_is_too_old_has_gone(stores):
    o = stores(sets=["changes.keep=1 s"])
    start = now(o)
    s = Stream(o, f"?after={start}&namespace=quiet")
    o.add("old")
    end = follow(o, start, 1)[1]
    r = until(lambda: (r := o.get(f"{PATH}?after={start}")).status == 410 and r, timeout=30, every=0.2)
    assert r.json["type"].endswith(":changes-expired") and "list" in r.json["detail"]
    assert r.json["cursor"] == end
    assert page(o, after=end)["changes"] == []  # whoever has seen all of it is not affected
    old = Stream(o, f"?after={start}")
    assert old.status == 410
    m = o.add("new", namespace="quiet")
    assert what(follow(o, r.json["cursor"], 1)[0]) == [("put", m["id"], 1)]
    assert what(s.take(1)) == [("put", m["id"], 1)]
    s.close()


def test_a_flush_that_sync_did_not_live_to_tell(make):
    """The store has it, the sync that flushed it is dead: its successor says how far the feed goes, without another write."""
    if not os.path.exists(TWIN):
        pytest.skip(f"{TWIN} is missing")
    faults = Faults()
    try:
        o = make(binary=os.path.relpath(TWIN, BUILD), env={"ORC_FAULT_FILE": faults.path}, sets=["sync.debounce_ms=20"])
        start = now(o)
        faults.arm("flushed_told", "sync")
        m = o.add("flushed, not told")
        until(lambda: faults.pid("flushed_told"))
        assert what(follow(o, start, 1)[0]) == [("put", m["id"], 1)]
    finally:
        faults.close()


# ---- PostgreSQL: several daemons ----

@pytest.fixture
def fleet(server, make):
    """(connection string, daemon()) of a database of the test's own."""
    dsn = server.dsn(dbname=server.database())
    return dsn, lambda sets=(), **kw: make(sets=["store.kind=postgres", f"store.dsn={dsn}", "api.workers=1", "sync.debounce_ms=10", *sets], **kw)


def test_both_daemons_tell_the_same(fleet):
    _, daemon = fleet
    a, b = daemon(), daemon()
    start = now(a)
    streams = [Stream(o, f"?after={start}") for o in (a, b)]
    wanted, lock = set(), threading.Lock()

    def write(o, name):
        for i in range(60):
            c = http.client.HTTPConnection("127.0.0.1", o.port, timeout=20 * SLOW)
            c.request("POST", "/v1/memories", json.dumps({"content": f"{name}{i}", "namespace": name}), {"Content-Type": "application/json"})
            r = c.getresponse()
            body = json.loads(r.read())
            c.close()
            assert r.status == 201, body
            with lock:
                wanted.add((name, body["id"]))
    threads = [threading.Thread(target=write, args=(o, n)) for o, n in ((a, "of-a"), (b, "of-b"), (a, "of-a-too"))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    told = [s.take(180) for s in streams]
    assert told[0] == told[1], "two daemons tell it differently"
    assert {(c["namespace"], c["id"]) for c in told[0]} == wanted and len(wanted) == 180
    assert len({c["node"] for c in told[0]}) == 2
    assert len({(c["namespace"] == "of-b", c["node"]) for c in told[0]}) == 2
    assert [c["revision"] for c in told[0]] == sorted(c["revision"] for c in told[0])
    # A cursor is the fleet's: read at one daemon up to the middle, it goes on at the other.
    first = page(a, after=start, limit=77)
    rest = page(b, after=first["cursor"], limit=1000)
    assert first["changes"] + rest["changes"] == told[0]
    # What a stream announces its daemon shows, whoever wrote it.
    m = a.add("seen at once", namespace="of-a")
    assert streams[1].take(1)[0]["id"] == m["id"]
    assert b.memory(m["id"]).status == 200
    for s in streams:
        s.close()


def publish(session, node, name, id_):
    """What a daemon's batch ends with; its transaction stays open."""
    session.execute("INSERT INTO memory_nodes (node,cursor,name,seen_at) VALUES ($1,0,'by hand',now()) ON CONFLICT DO NOTHING", str(node))
    return int(session.value(
        "SELECT memory_publish($1::bigint, 1, NULL, ARRAY[$2::text], ARRAY[''::text], ARRAY[0], ARRAY[1::bigint], ARRAY[10::bigint], "
        "ARRAY[$3::uuid], ARRAY[1::bigint], ARRAY[1::smallint], ARRAY[1::smallint])", str(node), name, id_))


HAND = "01a00000-0000-7000-8000-00000000000%d"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_late_commit_is_not_passed_over(server, fleet, end):
    """Another daemon has taken its revision and does not commit: what is written meanwhile waits behind it, and both are
    told in the order of their revisions. If it rolls back instead, the hole holds up nobody."""
    dsn, daemon = fleet
    o = daemon()
    start = now(o)
    before = o.add("before")
    _, cursor = follow(o, start, 1)
    s = Stream(o, f"?after={cursor}")
    with server.session(dsn) as late:
        late.execute("BEGIN")
        taken = publish(late, 4711, "by-hand", HAND % 1)
        mine = o.add("meanwhile")
        # The daemon's batch waits for the other's lock.
        until(lambda: server.sql("SELECT 1 FROM pg_locks WHERE locktype='advisory' AND classid=7700 AND objid=1 AND NOT granted"))
        assert page(o, after=cursor, wait=1)["changes"] == []
        late.execute(end)
    n = 2 if end == "COMMIT" else 1
    got, last = follow(o, cursor, n)
    want = [("put", HAND % 1, 1), ("put", mine["id"], 1)][-n:]
    assert what(got) == want and what(s.take(n)) == want
    assert got[-1]["revision"] == taken + 1  # a rollback leaves a hole …
    if end == "COMMIT":
        assert got[0]["revision"] == taken and got[0]["node"] == "%016x" % 4711
    again = o.add("after")  # … that nothing stumbles over
    assert what(follow(o, last, 1)[0]) == [("put", again["id"], 1)]
    assert what(page(o, after=start)["changes"])[0] == ("put", before["id"], 1)
    s.close()


def test_while_the_store_is_away(make):
    """Pages say so, streams stay; both go on by themselves when it is back, with all that was written meanwhile."""
    try:
        pg = Postgres()
    except Unavailable as why:
        pytest.skip(str(why))
    with pg:
        o = make(sets=["store.kind=postgres", f"store.dsn={pg.dsn()}", "api.workers=1", "sync.debounce_ms=10"])
        start = now(o)
        first = o.add("before")
        end = follow(o, start, 1)[1]
        s = Stream(o, f"?after={end}")
        pg.kill9()
        gone = o.add("in the journal")
        r = until(lambda: (r := o.get(f"{PATH}?after={start}")).status == 503 and r)
        assert r.json["type"].endswith("store-unavailable") and r.headers["Retry-After"]
        until(lambda: o.get(f"{PATH}?after={end}").status == 503)  # nobody knows that there is nothing
        behind = Stream(o, f"?after={start}")
        assert behind.status == 200  # begun, and waiting
        pg.start()
        assert what(s.take(1)) == [("put", gone["id"], 1)]
        assert what(behind.take(2)) == [("put", first["id"], 1), ("put", gone["id"], 1)]
        for x in (s, behind):
            x.close()


def test_started_while_the_store_is_away(make):
    """Nobody knows where the feed ends: not that it is empty."""
    try:
        pg = Postgres()
    except Unavailable as why:
        pytest.skip(str(why))
    with pg:
        sets = ["store.kind=postgres", f"store.dsn={pg.dsn()}", "api.workers=1"]
        a = make(sets=sets)
        a.add("before", namespace="x")
        until(lambda: page(a, after=0)["changes"])
        end = now(a)
        pg.kill9()
        b = make(sets=sets, start=False)
        b.start(wait=False)
        until(lambda: live(b))
        until(lambda: b.get(PATH).status == 503)
        pg.start()
        assert now(b) == end
        assert len(page(b, after=0)["changes"]) == 1


def test_a_server_that_has_lost_changes(server, fleet):
    """A standby that lacked the last commits has taken its place: who stands behind its end is told, and does not wait there
    for ever, to miss what comes under the same revisions."""
    dsn, daemon = fleet
    o = daemon()
    start = now(o)
    o.add("kept")
    kept = follow(o, start, 1)[1]
    o.add("lost")
    end = follow(o, kept, 1)[1]
    s, early = Stream(o, f"?after={end}"), Stream(o, f"?after={kept}")
    assert len(early.take(1)) == 1
    got = []
    waiting = threading.Thread(target=lambda: got.append(o.get(f"{PATH}?after={end}&wait=20", fresh=True)))
    waiting.start()
    time.sleep(0.2 * SLOW)
    with server.session(dsn) as one:
        one.execute("BEGIN")
        one.execute("DELETE FROM memory_changes WHERE revision > $1", kept)
        one.execute("SELECT setval('memory_revision', $1::bigint)", kept)
        one.execute("COMMIT")
    for x in (s, early):
        kind, problem = x.event()
        assert kind == "changes-expired" and problem["status"] == 410 and problem["cursor"] == kept
        assert x.event() is None
        x.close()
    waiting.join()
    assert got[0].status == 410 and got[0].json["cursor"] == kept
    assert page(o, 410, after=end)["cursor"] == kept
    m = o.add("under the same revision")
    assert what(follow(o, kept, 1)[0]) == [("put", m["id"], 1)]


def live(o):
    try:
        return o.get("/livez").status == 200
    except OSError:
        return False


# ---- orchestractl ----

def test_command(stores):
    o = stores()
    start = now(o)
    a, b = o.add("one", namespace="x"), o.add("two", namespace="y")
    follow(o, start, 2)
    r = o.ctl("changes", "--after", start)
    lines = r.stdout.splitlines()
    assert r.returncode == 0 and len(lines) == 2, r
    assert lines[0].split()[1:] == ["put", "x", a["id"], "1"] and lines[1].split()[1:] == ["put", "y", b["id"], "1"]
    assert f"cursor {now(o)}" in r.stderr
    r = o.ctl("changes", "--after", start, "--namespace", "y", "--json")
    pages = [json.loads(x) for x in r.stdout.splitlines()]
    assert [c["id"] for p in pages for c in p["changes"]] == [b["id"]] and pages[-1]["cursor"] == now(o)
    r = o.ctl("changes")
    assert r.returncode == 0 and r.stdout == "" and f"cursor {now(o)}" in r.stderr
    r = o.ctl("changes", "--after", "x")
    assert r.returncode == 1 and "cursor" in r.stderr
    r = o.ctl("changes", "--after", "99999999")
    assert r.returncode == 1 and f"cursor {now(o)}" in r.stderr
    assert o.ctl("changes", "--what").returncode == 2


def test_command_follows(daemon):
    import subprocess
    from orchestra import BUILD
    o = daemon
    o.add("before")
    p = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "changes", "--follow", "--after", "0"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert " put " in p.stdout.readline()
        os.kill(o.worker("api.0"), signal.SIGKILL)
        o.wait_ready()
        m = o.add("after")
        assert m["id"] in p.stdout.readline()
    finally:
        p.terminate()
        p.wait()
