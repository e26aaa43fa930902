"""The HTTP core against raw bytes: every row of the probe table gives the RFC answer."""
import re
import socket
import threading
import time

import pytest

from orchestra import SLOW


def statuses(data):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3})", data)]


H = b"Host: localhost\r\n"


PROBES = [
    (b"GET /livez HTTP/1.1\r\n\r\n", 400),                                            # no Host
    (b"GET /livez HTTP/1.1\r\n" + H + H + b"\r\n", 400),                              # two
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: +3\r\n\r\n{} ", 400),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}  ", 400),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length : 3\r\n\r\n{} ", 400),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    (b"GET /livez HTTP/1.1\n" + b"Host: localhost\n\n", 400),                         # bare LF
    (b"GET /livez HTTP/1.1\r\n" + H + b"X: a\0b\r\n\r\n", 400),
    (b"GET /livez HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),                    # obs-fold
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"GET /livez HTTP/1.1\r\n" + H + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n", 431),
    (b"GET /" + b"y" * (1 << 20) + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: 68000000\r\n\r\n", 413),
    (b"BREW /coffee HTTP/1.1\r\n" + H + b"\r\n", 501),
    (b"POST /v1/memories HTTP/1.1\r\n" + H + b"Expect: 200-maybe\r\nContent-Length: 2\r\n\r\n{}", 417),
    (b"GET /livez HTTP/3.0\r\n" + H + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"garbage\r\n\r\n", 400),
]


def talk(o, pieces, unix):
    """Sends the pieces one by one and returns all that comes back until the end."""
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as s:
        s.settimeout(5 * SLOW)
        s.connect(o.socket if unix else ("127.0.0.1", o.port))
        if not unix:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        out = b""
        try:
            for i, piece in enumerate(pieces):
                if i:
                    time.sleep(0.001)
                s.sendall(piece)
            while chunk := s.recv(65536):
                out += chunk
        except (socket.timeout, ConnectionResetError, BrokenPipeError):
            pass
        return out


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("request_bytes, status", PROBES)
def test_probe_table(shared, request_bytes, status, unix):
    """Alone, behind a good request in the same segment, and with a good one behind it that must not be answered."""
    out = talk(shared, [request_bytes], unix)
    assert statuses(out)[:1] == [status], out[:300]
    good = b"GET /livez HTTP/1.1\r\n" + H + b"\r\n"
    assert statuses(talk(shared, [good + request_bytes], unix)) == [200, status]
    assert statuses(talk(shared, [request_bytes + good * 3], unix)) == [status]


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("request_bytes, status", [p for p in PROBES if len(p[0]) < 300])
def test_probe_table_cut_at_every_byte(shared, request_bytes, status, unix):
    for cut in range(1, len(request_bytes)):
        out = talk(shared, [request_bytes[:cut], request_bytes[cut:]], unix)
        assert statuses(out)[:1] == [status], (cut, out[:300])


def test_pipelining_keeps_order_and_answers_all(shared, ns):
    ids = [shared.add(f"p{i}", namespace=ns)["id"] for i in range(16)]
    out = shared.raw(b"".join(b"GET /v1/memories/%s HTTP/1.1\r\n%s\r\n" % (i.encode(), H) for i in ids), timeout=1)
    assert statuses(out) == [200] * 16
    assert [m.decode() for m in re.findall(rb'"content":"(p\d+)"', out)] == [f"p{i}" for i in range(16)]


def test_pipelined_writes_then_reads_see_them(shared, ns):
    add = b'{"content":"x","external_id":"e%d","namespace":"' + ns.encode() + b'"}'
    reqs = b""
    for i in range(5):
        b = add % i
        reqs += b"POST /v1/memories HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (H, len(b), b)
    reqs += b"GET /v1/memories:count?namespace=%s HTTP/1.1\r\n%s\r\n" % (ns.encode(), H)
    out = shared.raw(reqs, timeout=2)
    assert statuses(out) == [201] * 5 + [200] and out.endswith(b'{"count":5}')


def test_chunked_expect_and_byte_by_byte(shared, ns):
    body = b'{"content":"chunky","namespace":"%s"}' % ns.encode()
    head = b"POST /v1/memories HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7)) + b"0\r\nTrailer: x\r\n\r\n"
    assert statuses(shared.raw(head + chunks)) == [201]
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as s:
        s.sendall(b"POST /v1/memories HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert s.recv(100).startswith(b"HTTP/1.1 100")
        for b in body:
            s.sendall(bytes([b]))
        assert s.recv(4096).startswith(b"HTTP/1.1 201")


def test_head_http10_and_keepalive(shared, ns):
    i = shared.add("x", namespace=ns)["id"].encode()
    out = shared.raw(b"HEAD /v1/memories/%s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (i, H))
    assert statuses(out) == [200] and out.endswith(b"\r\n\r\n") and b"Content-Length: " in out
    out = shared.raw(b"GET /livez HTTP/1.0\r\n\r\n")
    assert statuses(out) == [200] and out.endswith(b'{"status":"ok"}')


def test_slow_writers_get_408_at_an_absolute_deadline(make):
    o = make(sets=["http.head_timeout=700 ms", "http.body_timeout=700 ms"])
    for start in (b"GET /livez HTTP/1.1\r\nX: ", b"POST /v1/memories HTTP/1.1\r\n" + H + b"Content-Length: 1000\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", o.port), timeout=10) as s:
            s.sendall(start)
            t, out = time.monotonic(), b""
            s.settimeout(0.1)
            while not out and time.monotonic() - t < 8 * SLOW:
                try:
                    s.sendall(b"a")
                    out = s.recv(4096)
                except socket.timeout:
                    pass
            assert statuses(out) == [408]


def test_slow_readers_are_dropped(make):
    o = make(sets=["http.write_timeout=500 ms"])
    o.post("/v1/memories", {"memories": [{"content": "z" * 60000} for _ in range(100)]})
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(("127.0.0.1", o.port))
    s.sendall(b"GET /v1/memories HTTP/1.1\r\n" + H + b"\r\n" * 1)
    time.sleep(3 * SLOW)
    s.settimeout(5)
    got = 0
    try:
        while chunk := s.recv(1 << 20):
            got += len(chunk)
    except ConnectionResetError:
        pass
    assert got < 6_000_000
    s.close()


def test_half_requests_leave_nothing(shared):
    for cut in (1, 10, 30, 60):
        shared.raw((b"POST /v1/memories HTTP/1.1\r\n" + H + b'Content-Length: 15\r\n\r\n{"content":"x"}')[:cut], timeout=0.2)
    assert shared.get("/livez").status == 200


def test_thousands_of_idle_connections(shared):
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(10000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, n + 200), hard))
    conns = []
    try:
        for i in range(n):
            conns.append(socket.create_connection(("127.0.0.1", shared.port), timeout=10))
        assert shared.request("GET", "/livez", fresh=True).status == 200
        for s in conns[::500]:
            s.sendall(b"GET /livez HTTP/1.1\r\n" + H + b"\r\n")
            assert s.recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for s in conns:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_client_gone_while_its_write_is_under_way(shared, ns):
    body = b'{"content":"ghost","namespace":"%s"}' % ns.encode()
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", shared.port)) as s:
            s.sendall(b"POST /v1/memories HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (H, len(body), body))
    time.sleep(0.3 * SLOW)
    assert shared.get(f"/v1/memories:count?namespace={ns}").json["count"] <= 50
    assert shared.get("/livez").status == 200


def test_large_bulk_goes_through_the_ring_in_pieces(shared, ns):
    items = [{"content": f"{i} " + "w" * 60000} for i in range(400)]      # 24 MB: three times the ring
    r = shared.post("/v1/memories", {"namespace": ns, "memories": items}, timeout=60)
    assert r.status == 201
    ids = [m["id"] for m in r.json["memories"]]
    assert shared.memory(ids[0]).json["content"].startswith("0 ww") and shared.memory(ids[399]).json["content"].startswith("399 ")
    assert len(shared.list_all(namespace=ns, limit=100)) == 400
    threads = [threading.Thread(target=lambda: shared.request("GET", "/livez", fresh=True)) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
