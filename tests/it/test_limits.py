"""Limits: the last value inside is taken, the first one outside is refused by a problem that names limit and remedy."""
import json
import random
import re
import socket
import threading
import time
from urllib.parse import quote

import pytest

from orchestra import SLOW, descriptors
from test_bad_input import refused

H = b"Host: localhost\r\n"


@pytest.fixture(scope="module", autouse=True)
def nothing_dies(shared):
    before = set(shared.workers().values())
    yield
    assert set(shared.workers().values()) == before, shared.log()


def problems(data):
    """[(status, problem or None)] of a stream of replies."""
    out = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status = int(head[9:12])
        n = re.search(rb"Content-Length: (\d+)", head)
        n = int(n.group(1)) if n else 0
        body, data = rest[:n], rest[n:]
        out.append((status, json.loads(body) if b"problem+json" in head else None))
    return out


def nested(depth):
    v = 1
    for _ in range(depth):
        v = {"a": v}
    return v


# ---- fields ----

def test_sizes_of_fields(shared, ns):
    def add(**f):
        return shared.post("/v1/memories", {"content": "x", "namespace": ns, **f})
    assert add(content="x" * 65536).status == 201 and add(content="é" * 32768).status == 201
    refused(add(content="x" * 65537), 400, "invalid-field", "content", "65536", "65537")
    refused(add(content=""), 400, "invalid-field", "content", "1 to 65536")
    for f in ("kind", "user_id", "agent_id", "session_id", "external_id"):
        assert add(**{f: "u" * 256}).status in (200, 201)
        refused(add(**{f: "u" * 257}), 400, "invalid-field", f, "256", "257")
        refused(add(**{f: ""}), 400, "invalid-field", f)
    full = {"k": "v" * (16384 - len('{"k":""}'))}
    m = add(metadata=full)
    assert m.status == 201 and m.json["metadata"] == full
    refused(add(metadata={"k": full["k"] + "v"}), 400, "invalid-field", "metadata", "16384")
    refused(shared.patch("/v1/memories/" + m.json["id"], {"metadata": {"more": 1}}), 400, "invalid-field", "metadata", "16384")
    assert shared.post("/v1/memories", {"content": "x", "namespace": "n" * 128}).status == 201
    refused(shared.post("/v1/memories", {"content": "x", "namespace": "n" * 129}), 400, "invalid-field", "namespace", "128")
    refused(add(importance=1.0000001), 400, "invalid-field", "0 to 1")
    refused(add(ttl=0), 400, "invalid-field", "ttl")
    refused(add(ttl=3153600001), 400, "invalid-field", "3153600000")
    refused(add(ttl=-1e300), 400, "invalid-field", "ttl")
    refused(add(expires_at="2001-01-01T00:00:00Z"), 400, "invalid-field", "future")
    assert add(embedding=[1.0] * 4096, namespace=ns + "v").status == 201
    refused(add(embedding=[1.0] * 4097, namespace=ns + "v"), 400, "invalid-field", "4096")
    refused(add(embedding=[1, 2], embedding_model="m" * 64), 400, "invalid-field", "embedding_model", "63")


def test_depth_of_metadata_cannot_spoil_a_namespace(shared, ns):
    """SQLite gives up at 2,000 levels, and with it every filtered list of the namespace would."""
    m = shared.add("deep", namespace=ns, metadata=nested(64))
    refused(shared.post("/v1/memories", {"content": "x", "namespace": ns, "metadata": nested(65)}), 400, "invalid-field", "64 levels")
    refused(shared.patch("/v1/memories/" + m["id"], {"metadata": {"a": nested(64)}}), 400, "invalid-field", "64 levels")
    body = '{"content":"x","namespace":"%s","metadata":%s1%s}' % (ns, '{"a":[' * 1000, "]}" * 1000)
    refused(shared.post("/v1/memories", body), 400, "invalid-field", "64 levels")
    r = shared.post("/v1/memories:import?namespace=" + ns, body.replace(f'"namespace":"{ns}",', "") + "\n")
    assert r.json["failed"] == 1 and "64 levels" in r.json["errors"][0]["detail"]
    shared.post("/v1/memories?wait=store", {"content": "flat", "namespace": ns, "metadata": {"b": 1}})
    assert [x["content"] for x in shared.list(namespace=ns, filter={"metadata.b": 1})["memories"]] == ["flat"]
    assert [x["content"] for x in shared.search("flat deep", namespace=ns, filter={"metadata.b": 1})] == ["flat"]


def test_bulks(shared, ns):
    many = [{"content": f"m{i}"} for i in range(501)]
    refused(shared.post("/v1/memories", {"namespace": ns, "memories": many}), 400, "invalid-field", "1 to 500", ":import")
    assert shared.post("/v1/memories", {"namespace": ns, "memories": many[:500]}).status == 201
    assert shared.get(f"/v1/memories:count?namespace={ns}").json == {"count": 500}
    big = [{"content": "c" * 65000, "metadata": {"m": "v" * 16000}} for _ in range(500)]     # 40 MB
    r = shared.post("/v1/memories?wait=journal", {"namespace": ns + "b", "memories": big})
    assert r.status == 201 and len(r.json["memories"]) == 500, r
    page = shared.list(namespace=ns + "b", limit=1000)                                       # ends early, at 8 MiB
    assert page["next_cursor"] and 50 < len(page["memories"]) < 500
    assert len(shared.list_all(namespace=ns + "b", limit=1000)) == 500


def test_sizes_of_searches_and_filters(shared, ns):
    shared.add("needle in a haystack", namespace=ns, user_id="u")

    def search(**f):
        return shared.post("/v1/memories/search", {"namespace": ns, **f})
    assert search(query="needle " * 1170).status == 200
    refused(search(query="x" * 8193), 400, "invalid-field", "8192")
    refused(search(query=""), 400, "invalid-field", "query")
    refused(search(), 400, "invalid-field", "embedding")
    refused(search(embedding=[1, 2], mode="text"), 400, "invalid-field", "query")
    refused(search(query="x", limit=1001), 400, "invalid-field", "1000")
    refused(search(query="x", limit=0), 400, "invalid-field", "limit")
    refused(search(query="x", diversity=1.1), 400, "invalid-field", "diversity")
    refused(search(query="x", user_id="u" * 257), 400, "invalid-field", "256")
    for odd in ('"', "*", "AND", "NEAR(", "a OR", "{x}", "content:x", "^", "-", "''", "\\", "%", "needle*", "(" * 4000, '"' * 4001, "\U0001f9e0" * 2000,
                "a" * 8192, "a b " * 2000, "\u0301" * 4000, "\n\t\r", "needle\u2028needle"):
        for mode in ("text", "hybrid", "vector"):
            assert search(query=odd, mode=mode).status == 200, (odd[:20], mode)
    user = {"user_id": "u"}
    assert search(query="x", filter={"and": [user] * 64}).status == 200
    refused(search(query="x", filter={"or": [user] * 65}), 400, "invalid-filter", "64 conditions")
    deep = user
    for _ in range(9):
        deep = {"not": deep}
    refused(search(query="x", filter=deep), 400, "invalid-filter", "deep")
    assert search(query="x", filter={"user_id": {"in": ["u"] * 1000}}).status == 200
    refused(search(query="x", filter={"user_id": {"in": ["u"] * 1001}}), 400, "invalid-filter", "1000")
    refused(search(query="x", filter={"user_id": {"in": []}}), 400, "invalid-filter", "1 to 1000")
    assert search(query="x", filter={"metadata." + "k" * 256: 1}).status == 200
    refused(search(query="x", filter={"metadata." + "k" * 257: 1}), 400, "invalid-filter", "256")
    all_ = {"and": [{"user_id": {"nin": ["u%d" % i for i in range(150)]}}] * 64}
    assert search(query="needle", filter=all_).status == 200
    long = quote(json.dumps({"user_id": {"in": ["u%025d" % i for i in range(900)]}}))
    assert shared.get(f"/v1/memories?namespace={ns}&filter={long[:20]}").status == 400
    assert shared.get(f"/v1/memories?namespace={ns}&filter={long}").status in (200, 414)


# ---- HTTP ----

def test_sizes_of_the_head(make):
    o = make(sets=["http.head_bytes=4096", "api.workers=1"])
    fill = 4096 - len(b"GET /livez HTTP/1.1\r\n" + H + b"X: \r\nConnection: close\r\n\r\n")
    for extra, status in ((0, 200), (1, 431)):
        (got, p), = problems(o.raw(b"GET /livez HTTP/1.1\r\n" + H + b"X: " + b"y" * (fill + extra) + b"\r\nConnection: close\r\n\r\n"))
        assert got == status and (status == 200 or p["type"].endswith("head-too-large") and "http.head_bytes (4096" in p["detail"])
    (got, p), = problems(o.raw(b"GET /" + b"y" * 4096 + b" HTTP/1.1\r\n" + H + b"\r\n"))
    assert got == 414 and p["type"].endswith("target-too-long") and "http.head_bytes (4096" in p["detail"] and p["request_id"]
    for n, status in ((98, 200), (99, 431)):  # Host, Connection and 98 are 100
        (got, p), = problems(o.raw(b"GET /livez HTTP/1.1\r\n" + H + b"Connection: close\r\n" + b"a:b\r\n" * n + b"\r\n"))
        assert got == status and (status == 200 or "100 of them" in p["detail"])
    m = o.get("/metrics").body.decode()
    assert 'orchestra_http_requests_total{route="none",method="any",status="4xx"} 3\n' in m


def test_sizes_of_bodies(make):
    o = make(sets=["http.body_bytes=65536", "http.buffered_bytes=1 MiB", "api.workers=1"])
    head = b"POST /v1/memories HTTP/1.1\r\n" + H
    for extra in (b"Content-Length: 65537\r\n\r\n", b"Content-Length: 999999999999\r\n\r\n", b"Content-Length: 65537\r\nExpect: 100-continue\r\n\r\n",
                  b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b" " * 32768 + b"\r\n8000\r\n" + b" " * 32768 + b"\r\n1\r\n \r\n0\r\n\r\n"):
        (got, p), = problems(o.raw(head + extra))
        assert got == 413 and p["type"].endswith("body-too-large") and "http.body_bytes (65536" in p["detail"] and ":import" in p["detail"]
    body = json.dumps({"content": "x"}).encode().ljust(65536)
    assert o.post("/v1/memories", body).status == 201
    # Seventeen bodies that never end are more than the budget; what was read is given back.
    conns = []
    for _ in range(20):
        s = socket.create_connection(("127.0.0.1", o.port), timeout=5 * SLOW)
        s.sendall(head + b"Content-Length: 65536\r\n\r\n" + b" " * 65000)
        conns.append(s)
    time.sleep(0.3 * SLOW)
    r = [o.request("POST", "/v1/memories", body, fresh=True) for _ in range(3)]
    assert all(x.status == 503 and x.headers["Retry-After"] and "http.buffered_bytes" in x.json["detail"] for x in r), r
    assert o.get("/livez").status == 200
    for s in conns:
        s.close()
    deadline = time.monotonic() + 5 * SLOW
    while o.request("POST", "/v1/memories", body, fresh=True).status != 201:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_connections_beyond_the_limit(make):
    o = make(sets=["http.max_connections=16", "api.workers=1"])
    o.close_connection()
    time.sleep(0.1 * SLOW)
    held = []
    for _ in range(16):
        s = socket.create_connection(("127.0.0.1", o.port), timeout=5 * SLOW)
        s.sendall(b"GET /livez HTTP/1.1\r\n" + H + b"\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
        held.append(s)
    for path in (None, o.socket):
        for _ in range(5):
            s = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
            s.settimeout(5 * SLOW)
            s.connect(path or ("127.0.0.1", o.port))
            data = b""
            while got := s.recv(4096):
                data += got
            (status, p), = problems(data)
            assert status == 503 and b"Retry-After" in data and p["type"].endswith("overloaded") and "http.max_connections (16)" in p["detail"]
            s.close()
    held[0].sendall(b"GET /livez HTTP/1.1\r\n" + H + b"\r\n")
    assert held[0].recv(4096).startswith(b"HTTP/1.1 200")
    for s in held:
        s.close()
    o.wait_ready()


def test_stalled_bodies_idle_connections_and_slow_readers(make):
    o = make(sets=["http.body_timeout=600 ms", "http.head_timeout=600 ms", "http.idle_timeout=600 ms", "http.write_timeout=600 ms", "api.workers=1"])
    o.post("/v1/memories", {"memories": [{"content": "c" * 60000}] * 100})
    starts = {b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: 100\r\n\r\n{": 408, b"POST /v1/memories HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{": 408,
              b"POST /v1/memories:import HTTP/1.1\r\n" + H + b"Content-Length: 100\r\n\r\n{": 408, b"GET / HTTP/1.1\r\nHo": 408, b"G": 408, b"": None,
              b"GET /livez HTTP/1.1\r\n" + H + b"\r\n": 200, b"GET /livez HTTP/1.1\r\n" + H + b"\r\nGET": (200, 408)}
    results = {}

    def run(data):
        results[data] = o.raw(data, timeout=20)
    threads = [threading.Thread(target=run, args=(d,)) for d in starts]
    reader = socket.create_connection(("127.0.0.1", o.port), timeout=20 * SLOW)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.sendall((b"GET /v1/memories:export HTTP/1.1\r\n" + H + b"\r\n") * 3)     # 18 MB that it does not take
    for t in threads:
        t.start()
    for t in threads:
        t.join(30 * SLOW)
    for data, want in starts.items():
        got = problems(results[data])
        assert [s for s, _ in got] == list(want if isinstance(want, tuple) else [want] if want else []), (data, got)
        for status, p in got:
            assert status != 408 or p["type"].endswith("request-timeout") and "_timeout" in p["detail"]
    deadline = time.monotonic() + 10 * SLOW
    while "orchestra_http_connections 1\n" not in o.get("/metrics").body.decode():           # the slow reader was dropped
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reader.close()


def test_many_slow_readers_share_one_budget(make):
    """Forty times 8 MiB that nobody reads: those that have taken nothing for the longest go long before their timeout."""
    o = make(sets=["http.buffered_bytes=16 MiB", "api.workers=1", "http.write_timeout=10 min"])
    for _ in range(2):
        o.post("/v1/memories?wait=store", {"memories": [{"content": "c" * 60000}] * 100})
    conns = []
    for i in range(40):
        s = socket.socket(socket.AF_UNIX if i % 2 else socket.AF_INET)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(o.socket if i % 2 else ("127.0.0.1", o.port))
        s.sendall(b"GET /v1/memories?limit=1000 HTTP/1.1\r\n" + H + b"\r\n")
        conns.append(s)
    deadline = time.monotonic() + 30 * SLOW
    while int(re.search(r"orchestra_http_connections (\d+)\n", o.get("/metrics").body.decode()).group(1)) > 8:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    o.wait_log("http.buffered_bytes is 16777216")
    assert len(o.get("/v1/memories?limit=1000").body) > 8_000_000      # who reads gets all
    for s in conns:
        s.close()


def test_clients_that_vanish(shared, ns):
    """Mid-request, mid-reply, mid-export, with and without a reset: nothing stays behind."""
    shared.post("/v1/memories", {"namespace": ns, "memories": [{"content": "c" * 30000}] * 100})
    body = b'{"content":"vanished","namespace":"%s"}' % ns.encode()
    add = b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(body) + body
    asks = [add, add[:-5], b"GET /v1/memories?namespace=%s HTTP/1.1\r\n" % ns.encode() + H + b"\r\n",
            b"GET /v1/memories:export?namespace=%s HTTP/1.1\r\n" % ns.encode() + H + b"\r\n", add * 50,
            b"POST /v1/memories/search HTTP/1.1\r\n" + H + b"Content-Length: %d\r\n\r\n" % len(body) + body.replace(b"content", b'query": "c", "mode": "text", "filter": {}, "query'),
            b"POST /v1/memories:import?namespace=%s HTTP/1.1\r\n" % ns.encode() + H + b"Content-Length: 9000\r\n\r\n" + b'{"content":"half"}\n' * 40]
    whole = [a for i, a in enumerate(asks) if i not in (1, 6)]

    def open_sockets():
        """Open sockets of the api workers."""
        return sum(target.startswith("socket:") for name, p in shared.workers().items() if "api" in name
                   for target in descriptors(p).values())
    shared.close_connection()
    before, rnd = open_sockets(), random.Random(1)
    for i in range(200):
        s = socket.create_connection(("127.0.0.1", shared.port))
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = rnd.choice(asks)
        s.sendall(ask)
        if i % 3 == 0 and ask in whole:
            s.recv(100)
        s.close()
    deadline = time.monotonic() + 10 * SLOW
    lazy = 2 * sum("api" in n for n in shared.workers()) if shared.database else 0  # connections to a server, made when needed
    while open_sockets() > before + lazy:
        assert time.monotonic() < deadline, (before, open_sockets())
        time.sleep(0.05)
    assert shared.search("vanished", namespace=ns)


def test_pipelined_mixes(shared, ns):
    """Good, bad and large requests in one stream, cut at random: every answer, in order, as if asked alone."""
    m = shared.add("pipe", namespace=ns)["id"].encode()

    def post(path, body):
        return b"POST %s HTTP/1.1\r\n" % path + H + b"Content-Length: %d\r\n\r\n" % len(body) + body
    kinds = [(b"GET /v1/memories/%s HTTP/1.1\r\n" % m + H + b"\r\n", 200), (b"HEAD /v1/memories/%s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % m, 200),
             (b"GET /nothing HTTP/1.1\r\n" + H + b"\r\n", 404), (b"DELETE /livez HTTP/1.1\r\n" + H + b"\r\n", 405),
             (post(b"/v1/memories", b'{"content":"p","namespace":"%s"}' % ns.encode()), 201), (post(b"/v1/memories", b"{"), 400),
             (post(b"/v1/memories", json.dumps({"namespace": ns, "content": "L" * 60000}).encode()), 201),
             (post(b"/v1/memories/search", b'{"query":"pipe","namespace":"%s"}' % ns.encode()), 200),
             (b"POST /v1/memories:import?namespace=%s HTTP/1.1\r\n" % ns.encode() + H + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"content":"ch"}\r\n0\r\n\r\n', 200),
             (b"\r\n\r\nGET /livez HTTP/1.1\r\n" + H + b"\r\n", 200), (b"GET /v1/memories?limit=x HTTP/1.1\r\n" + H + b"\r\n", 400)]
    rnd = random.Random(7)
    for _ in range(20):
        chosen = [kinds[0]] + [rnd.choice(kinds) for _ in range(60)] + [(b"garbage\r\n\r\n", 400)]
        data = b"".join(d for d, _ in chosen)
        with socket.create_connection(("127.0.0.1", shared.port), timeout=20 * SLOW) as s:
            def send():
                at = 0
                while at < len(data):
                    n = rnd.choice((1, 7, 100, 1500, 50000))
                    try:
                        s.sendall(data[at:at + n])
                    except OSError:
                        return
                    at += n
            t = threading.Thread(target=send)
            t.start()
            out = b""
            try:
                while got := s.recv(1 << 16):
                    out += got
            except ConnectionResetError:
                pass
            t.join()
        assert [int(x) for x in re.findall(rb"HTTP/1\.1 (\d{3}) ", out)] == [w for _, w in chosen]
