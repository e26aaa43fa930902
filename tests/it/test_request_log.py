"""orchestractl log: the request log in shared memory, read from outside. Broken code that this finds: a field that says something else than the
answer did, a secret or a query in a record, a reader that can write, a follower that a restarted worker or daemon leaves behind, a worker
that is killed in the middle of a record, and a log that only some kinds of answers reach."""
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from orchestra import BUILD, SLOW, Orchestra, descriptors, until

SLOT, PAGE, RINGS = 512, 4096, 32


def records(o, *args, n=1000):
    r = o.ctl("--json", "log", "--no-follow", "-n", str(n), *args)
    assert r.returncode == 0 and not r.stderr, r
    return [json.loads(line) for line in r.stdout.splitlines()]


def one(o, id_, *args):
    """The record of a request, by its id: it is there before its answer was sent."""
    (r,) = records(o, "--id", id_, *args)
    return r


def tokens_file(path):
    import hashlib
    with open(path, "w") as f:
        for name, rights, ns in (("anna", "read,write,admin", "*"), ("bob", "read", "shop")):
            f.write(f"{name} sha256:{hashlib.sha256(('token-' + name).encode()).hexdigest()} {rights} {ns}\n")
    os.chmod(path, 0o600)


def test_what_a_record_says(make, tmp_path):
    tokens_file(tmp_path / "tokens")
    o = make(sets=[f"auth.tokens_file={tmp_path}/tokens", "api.workers=2"])

    def ask(method, path, body=None, id_=None, token="anna", **headers):
        h = {"X-Request-Id": id_, "Authorization": f"Bearer token-{token}", **headers}
        return o.request(method, path, body, headers=h)

    trace = "0af7651916cd43dd8448eb211c80319c"
    m = ask("POST", "/v1/memories?namespace=shop", {"content": "x" * 100}, "r-add", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    assert m.status == 201
    r = one(o, "r-add")
    assert (r["status"], r["method"], r["route"], r["path"], r["namespace"], r["token"]) == (201, "POST", "/v1/memories", "/v1/memories", "shop", "anna")
    assert r["trace_id"] == trace and r["bytes_in"] > 100 and r["bytes_out"] == len(m.body) and r["duration_ms"] > 0
    assert r["worker"] in ("api.0", "api.1") and r["pid"] == o.workers()[r["worker"]] and r["client"].startswith("127.0.0.1:") and not r["gone"]
    assert abs(time.time() - time.mktime(time.strptime(r["time"][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 60 * SLOW

    for id_ in ("r-get", "r-hit"):                                 # the path without a call, and the one with
        got = ask("GET", f"/v1/memories/{m.json['id']}", id_=id_, token="bob")
        r = one(o, id_)
        assert (r["status"], r["route"], r["namespace"], r["token"], r["bytes_out"]) == (200, "/v1/memories/{id}", "shop", "bob", len(got.body))
        assert r["cache"] == got.headers["Cache-Status"] and "trace_id" not in r
    assert ask("GET", f"/v1/memories/{m.json['id']}?include=embedding", id_="r-vec").status == 200 and one(o, "r-vec")["namespace"] == "shop"
    assert ask("PATCH", f"/v1/memories/{m.json['id']}", {"kind": "k"}, id_="r-patch").status == 200 and one(o, "r-patch")["namespace"] == "shop"

    for method, path, token, id_, status, error in (("GET", "/v1/nothing?token=verysecret", "anna", "e1", 404, "no-route"), ("GET", "/v1/memories", "eve", "e2", 401, "unauthorized"),
                                                    ("POST", "/v1/memories", "bob", "e3", 403, "right-missing"), ("GET", "/v1/memories?namespace=other", "bob", "e4", 403, "namespace-forbidden")):
        assert ask(method, path, {} if method == "POST" else None, id_, token).status == status
        r = one(o, id_)
        assert r["status"] == status and r["error"] == error and "?" not in r["path"] and r.get("token", "-") == {"e1": "-", "e2": "-"}.get(id_, token)
    everything = o.ctl("--json", "log", "--no-follow", "-n", "1000").stdout + o.ctl("log", "--no-follow", "-n", "1000").stdout
    assert "verysecret" not in everything and "token-anna" not in everything


def test_every_kind_of_answer(make):
    """Streams at their end, what the engine refuses, clients that are gone, the Unix socket."""
    o = make(sets=["api.workers=1"])
    for i in range(30):
        o.add(f"memory {i}")
    out = o.get("/v1/memories:export", headers={"X-Request-Id": "s-export"})
    r = until(lambda: records(o, "--id", "s-export"))[0]
    assert r["status"] == 200 and r["route"] == "/v1/memories:export" and r["bytes_out"] == len(out.body)
    lines = b'{"content": "imported"}\n' * 10
    assert o.post("/v1/memories:import", lines, headers={"X-Request-Id": "s-import", "Content-Type": "application/x-ndjson"}).status == 200
    r = one(o, "s-import")
    assert r["status"] == 200 and r["bytes_in"] > len(lines)
    o.raw(b"nonsense\r\n\r\n")
    r = until(lambda: records(o, "--status", "400"))[-1]
    assert r["error"] == "malformed-request" and r["method"] == "-" and r["request_id"]
    assert o.ctl("status").returncode == 0
    assert until(lambda: records(o, "--route", "/v1/admin/status"))[-1]["client"] == "unix"
    with socket.create_connection(("127.0.0.1", o.port)) as s:     # waits for a change that does not come, and goes
        s.sendall(b"GET /v1/changes?wait=30 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: s-gone\r\nAccept: text/event-stream\r\n\r\n")
        s.recv(100)
    r = until(lambda: records(o, "--id", "s-gone"))[0]
    assert r["gone"] and r["status"] == 200 and r["bytes_out"] > 0


def test_filters_and_looks(make):
    o = make(sets=["api.workers=1"])
    o.add("x", namespace="shop")
    for i in range(5):
        o.get("/livez", headers={"X-Request-Id": f"f-{i}"})
    o.get("/v1/nothing", headers={"X-Request-Id": "f-none"})

    def ids(*args):
        return [r.get("request_id") for r in records(o, *args) if r.get("request_id", "").startswith("f-")]

    assert ids() == ["f-0", "f-1", "f-2", "f-3", "f-4", "f-none"] and ids("--status", "404") == ids("--status", "4xx,500") == ["f-none"]
    assert ids("--route", "/livez", "--status", "2xx") == ids("--route", "/livez") and len(ids("--route", "/livez")) == 5
    assert ids("--grep", "nothing") == ["f-none"] and ids("--slower", "1000s") == []
    took = {r["request_id"]: round(r["duration_ms"] * 1000) for r in records(o) if r.get("request_id", "").startswith("f-")}
    for us in set(took.values()) - {0}:                            # a fast machine answers in less than a microsecond
        assert ids("--slower", f"{us}us") == [i for i, t in took.items() if t >= us]
    assert {r["namespace"] for r in records(o, "--namespace", "shop")} == {"shop"} and ids("--token", "nobody") == []
    assert len(records(o, n=3)) == 3 and records(o, n=0) == []
    text = o.ctl("log", "--no-follow", "-n", "1").stdout
    assert " 404 GET " in text and " ms /v1/nothing" in text and "error=no-route" in text and "id=f-none" in text and "\033" not in text
    for bad in (["--status", "6xy"], ["--slower", "soon"], ["-n", "x"], ["more"], ["--status", ""]):
        r = o.ctl("log", *bad)
        assert r.returncode == 2 and "orchestractl: log: " in r.stderr, bad


class Follower:
    def __init__(self, o, *args):
        self.lines = []
        self.process = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "--json", "log", "-n", "0", *args],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = []
        for stream, into in ((self.process.stdout, self.lines), (self.process.stderr, self.said)):
            threading.Thread(target=lambda s=stream, i=into: [i.append(x) for x in s], daemon=True).start()

    def ids(self):
        return [json.loads(x).get("request_id") for x in self.lines]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()


def follows(o, f):
    """It has begun: what is asked from now on, it prints."""
    n = [0]

    def seen():
        n[0] += 1
        o.get("/livez", headers={"X-Request-Id": f"begin-{n[0]}"})
        return any(str(i).startswith("begin-") for i in f.ids())
    until(seen)
    return n[0]


def pipelined(o, path, prefix, n):
    """n at once on one connection; all are answered."""
    with socket.create_connection(("127.0.0.1", o.port)) as s:
        s.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {prefix}-{i}\r\n\r\n".encode() for i in range(n)))
        got = b""
        while got.count(b"HTTP/1.1 200") < n or not got.endswith(b"}"):
            got += s.recv(1 << 16)


def test_pipelined_hits(make):
    """Nobody follows: of what comes at once the first is noted, and how many were not is said. Somebody does: all are."""
    o = make(sets=["api.workers=1"])
    path = f"/v1/memories/{o.add('x')['id']}"
    o.get(path), o.get(path)

    def noted(prefix):
        return [r for r in records(o) if str(r.get("request_id")).startswith(prefix)]
    until(lambda: (pipelined(o, path, "p", 16), [r["request_id"] for r in noted("p-")])[1][-1:] == ["p-0"])  # one read brought them
    o.get("/livez", headers={"X-Request-Id": "behind"})
    assert one(o, "behind")["hits_not_noted"] == 15 and "hits-not-noted=15" in o.ctl("log", "--no-follow", "-n", "1", "--id", "behind").stdout
    o.get("/livez", headers={"X-Request-Id": "last"})
    assert "hits_not_noted" not in one(o, "last")
    with Follower(o) as f, Follower(o) as g:
        follows(o, f)
        follows(o, g)
        pipelined(o, path, "q", 100)
        for who in (f, g):
            until(lambda who=who: len([i for i in who.ids() if i.startswith("q-")]) == 100)
        g.process.kill()
        g.process.wait()
        assert o.ctl("status").returncode == 0  # the supervisor has heard of it
        pipelined(o, path, "r", 100)
        until(lambda: len([i for i in f.ids() if i.startswith("r-")]) == 100)
        assert o.ctl("upgrade", timeout=120).returncode == 0  # a supervisor that knows of nobody is told again
        until(lambda: (pipelined(o, path, "u", 16), len([i for i in f.ids() if i.startswith("u-")]) >= 16)[1])
    until(lambda: (pipelined(o, path, "s", 16), len(noted("s-")) < 16)[1])  # and nobody is left


def test_following_through_restarts(make):
    o = make(sets=["api.workers=2"])
    with Follower(o) as f:
        follows(o, f)
        for i in range(50):
            o.get("/livez", headers={"X-Request-Id": f"a-{i}"})
        until(lambda: "a-49" in f.ids())
        assert [i for i in f.ids() if i.startswith("a-")] == [f"a-{i}" for i in range(50)]
        for name in ("api.0", "api.1"):                            # a worker is replaced: its ring goes on
            before = o.log().count("is back after")
            os.kill(o.workers()[name], signal.SIGKILL)
            until(lambda: o.log().count("is back after") > before)
        o.close_connection()
        for i in range(20):
            o.get("/livez", headers={"X-Request-Id": f"b-{i}"}, fresh=True)
        until(lambda: "b-19" in f.ids())
        assert sorted(i for i in f.ids() if i.startswith("b-")) == sorted(f"b-{i}" for i in range(20))
        assert o.ctl("upgrade").returncode == 0                    # the binary is: so does the segment
        o.close_connection()
        o.wait_ready()
        o.get("/livez", headers={"X-Request-Id": "c-0"}, fresh=True)
        until(lambda: "c-0" in f.ids())
        assert not any("gone" in x for x in f.said)
        assert o.stop() == 0
        until(lambda: any("the daemon has gone; waiting" in x for x in f.said))
        o.start()                                                  # another daemon: its own segment, from the beginning
        o.get("/livez", headers={"X-Request-Id": "d-0"})
        until(lambda: "d-0" in f.ids())
        assert f.process.poll() is None


def test_overruns_are_counted(make):
    """A ring of 127 records and a reader that was stopped: it says how many it has not seen, and goes on with what is there."""
    o = make(sets=["api.workers=1", "log.requests=64 KiB"])
    with Follower(o, "--route", "/livez") as f:
        before = follows(o, f)                                     # of these, the last ones may be lost as well
        f.process.send_signal(signal.SIGSTOP)
        for i in range(300):
            o.get("/livez", headers={"X-Request-Id": f"a-{i}"})
        f.process.send_signal(signal.SIGCONT)
        until(lambda: "a-299" in f.ids())
        mine = [i for i in f.ids() if i.startswith("a-")]
        assert mine == [f"a-{i}" for i in range(300 - len(mine), 300)] and 0 < len(mine) <= 127
        lost = until(lambda: [x for x in f.said if "were overwritten before they were read" in x])
        assert 0 <= sum(int(x.split()[1]) for x in lost) - (300 - len(mine)) < before


def handed(o):
    """What PATH.ctl hands over: an open file."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(o.socket + ".ctl")
        s.sendall(b"log\n")
        line, fds, _, _ = socket.recv_fds(s, 4096, 4)
    assert json.loads(line) == {"ok": True} and len(fds) == 1
    return fds[0]


def test_readers_cannot_write(make):
    o = make(sets=["api.workers=1"])
    fd = handed(o)
    import mmap
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(OSError):
        os.write(fd, b"x")
    with pytest.raises(OSError):
        mmap.mmap(fd, 0, prot=mmap.PROT_WRITE | mmap.PROT_READ)
    with pytest.raises(OSError):
        os.ftruncate(fd, 0)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as m:
        assert m[:8] == b"rocareq1" and len(m) == PAGE + RINGS * (256 << 10)
    os.close(fd)
    # A relayed command has no peer that could take a descriptor, and an api worker none that should.
    n = len(descriptors(o.process.pid))
    for _ in range(50):
        os.close(handed(o))
    until(lambda: len(descriptors(o.process.pid)) <= n)


def test_switched_off(make):
    o = make(sets=["log.requests=0", "api.workers=1"])
    o.get("/livez")
    r = o.ctl("log")
    assert r.returncode == 1 and "log.requests is 0" in r.stderr
    assert not any("orchestra-requests" in t for t in descriptors(o.process.pid).values())
    o.stop()
    r = o.ctl("log")
    assert r.returncode == 3 and "is orchestrad running" in r.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_others_are_refused(make):
    """The mode of PATH.ctl keeps others out; where somebody has opened it to them, the kernel's word on who asks does."""
    o = make(sets=["api.workers=1"])
    os.chmod(o.socket + ".ctl", 0o666)
    os.chmod(o.dir, 0o755)
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c",
                        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.sendall(b'log\\n')\n"
                        "line, fds, _, _ = socket.recv_fds(s, 4096, 4)\nprint(line.decode(), len(fds))", o.socket + ".ctl"],
                       capture_output=True, text=True, timeout=20 * SLOW)
    assert '"ok":false' in r.stdout and "for root and the daemon's user" in r.stdout and r.stdout.strip().endswith(" 0"), r


def test_queueing_is_told(make):
    """waited_ms: what a request spent in the queue of the reader threads, of which there is one."""
    o = make(sets=["api.workers=1", "api.reader_threads=1"])
    for _ in range(4):
        o.post("/v1/memories", {"memories": [{"content": "c" * 60000}] * 50})
    asked = [threading.Thread(target=lambda i=i: Orchestra.get(o, "/v1/memories?limit=200", headers={"X-Request-Id": f"q-{i}"}, fresh=True))
             for i in range(6)]
    for t in asked:
        t.start()
    for t in asked:
        t.join()
    mine = [r for r in records(o, "--route", "/v1/memories") if r.get("request_id", "").startswith("q-")]
    assert len(mine) == 6 and any(r["waited_ms"] > 0 for r in mine) and all(r["waited_ms"] <= r["duration_ms"] for r in mine)
