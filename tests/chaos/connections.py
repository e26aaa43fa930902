#!/usr/bin/python3
"""Many connections that do too little: what they cost, whether requests beside them are answered, how they end.

Half of all connections come over the Unix socket. Each scene measures the memory of all processes (PSS) and the
time of a GET before and beside its connections, and counts the descriptors of the api workers afterwards:
idle   --count keep-alive connections that have sent one request and fall silent, until their timeout closes them
half   --count connections that drip the head of a request a byte at a time, until they are told 408
slow   --slow connections that ask for a page of 8 MiB and read nothing of it, until they are dropped
limit  connections beyond http.max_connections, and the answers they get
flood  --flood connections that close at once
Prints JSON; exit code 1 when something was wrong.

    tests/chaos/connections.py [--count 10000] [--slow 400] [--limit 2000] [--flood 20000] [--scenes idle,half,slow,limit,flood]
"""
import argparse
import json
import os
import resource
import select
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from orchestra import Orchestra  # noqa: E402

GET = b"GET /v1/memories/%s HTTP/1.1\r\nHost: localhost\r\n\r\n"


def pss_kib(o):
    total = 0
    for pid in [o.process.pid, *o.workers().values()]:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            total += next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total


def connect(o, unix=False):
    if unix:
        s = socket.socket(socket.AF_UNIX)
        s.connect(o.socket)
        return s
    return socket.create_connection(("127.0.0.1", o.port))


def answer(s):
    data = b""
    while b"\r\n\r\n" not in data:
        got = s.recv(65536)
        if not got:
            return data
        data += got
    return data


def times(o, id_, n=300):
    out = {}
    for name, call in (("get", lambda: o.memory(id_)), ("add", lambda: o.post("/v1/memories", {"content": "x"}))):
        t = []
        for _ in range(n):
            a = time.perf_counter()
            assert call().status in (200, 201)
            t.append(time.perf_counter() - a)
        t.sort()
        out[name] = {"p50_us": round(t[n // 2] * 1e6), "p99_us": round(t[n * 99 // 100] * 1e6)}
    return out


def cpu_ns(o):
    """Processor time of all processes so far."""
    total = 0
    for pid in [o.process.pid, *o.workers().values()]:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
    return total


def sockets(o):
    """Open sockets of the api workers."""
    n = 0
    for name, pid in o.workers().items():
        for fd in os.listdir(f"/proc/{pid}/fd") if "api" in name else ():
            try:
                n += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
            except OSError:
                pass
    return n


def ends(conns, seconds, every=None):
    """Reads until the server has closed all; what each was sent. `every` is called about once a second."""
    poll, said = select.poll(), {s.fileno(): [s, b""] for s in conns}
    for fd in said:
        poll.register(fd, select.POLLIN)
    open_, deadline, called = len(said), time.monotonic() + seconds, time.monotonic()
    while open_ and time.monotonic() < deadline:
        for fd, _ in poll.poll(200):
            try:
                data = said[fd][0].recv(1 << 20)
            except OSError:
                data = b""
            said[fd][1] = (said[fd][1] + data)[:4096]
            if not data:
                poll.unregister(fd)
                open_ -= 1
        if every and time.monotonic() - called > 1:
            every()
            called = time.monotonic()
    return [x for _, x in said.values()], open_


def drained(o, before):
    """Sockets that are left beyond those of the start, given a moment."""
    deadline = time.monotonic() + 10
    while (left := sockets(o) - before) > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def idle(count, wrong):
    with Orchestra(sets=["http.idle_timeout=20 s"]) as o:
        id_ = o.add("there")["id"]
        before, quick = pss_kib(o), times(o, id_)
        o.close_connection()
        time.sleep(0.2)
        had = sockets(o)
        conns = []
        start = time.monotonic()
        for i in range(count):
            s = connect(o, unix=i % 2 == 1)
            s.sendall(GET % id_.encode())
            conns.append(s)
        bad = sum(not answer(s).startswith(b"HTTP/1.1 200") for s in conns)
        opened = time.monotonic() - start
        time.sleep(1)
        ns = cpu_ns(o)
        time.sleep(5)
        cpu = (cpu_ns(o) - ns) / 5e9
        with_them, then = pss_kib(o), times(o, id_)
        o.close_connection()
        bad_again = 0
        for s in conns[::10]:
            s.sendall(GET % id_.encode())
            bad_again += not answer(s).startswith(b"HTTP/1.1 200")
        said, open_ = ends(conns, 60)
        spoken = sum(bool(x) for x in said)
        for s in conns:
            s.close()
        left = drained(o, had)
        after = pss_kib(o)
        if bad or bad_again or open_ or spoken or left > 0:
            wrong.append(f"idle: {bad} + {bad_again} of {count} were not served, {open_} not closed, {spoken} got more than the end, {left} sockets left")
        return {"connections": count, "opened_s": round(opened, 2), "pss_before_kib": before, "pss_with_kib": with_them,
                "pss_after_kib": after, "bytes_per_connection": round((with_them - before) * 1024 / count),
                "cpu_percent_while_idle": round(cpu * 100, 3), "closed_by_timeout": count - open_, "sockets_left": left,
                "before": quick, "with": then}


def half(count, wrong):
    """Slow writers: the deadline for a head counts from its first byte, whatever drips in."""
    with Orchestra(sets=["http.head_timeout=8 s"]) as o:
        id_ = o.add("there")["id"]
        before, quick = pss_kib(o), times(o, id_)
        o.close_connection()
        time.sleep(0.2)
        had = sockets(o)
        conns = [connect(o, unix=i % 2 == 1) for i in range(count)]
        beside = {}

        def drip():
            for s in conns:
                try:
                    s.send(b"x")
                except OSError:
                    pass
            if not beside and time.monotonic() - start > 2:
                beside.update(pss_kib=pss_kib(o), times=times(o, id_, 200))
                o.close_connection()
        start = time.monotonic()
        for s in conns:
            s.setblocking(False)
            s.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        said, open_ = ends(conns, 60, drip)
        took = time.monotonic() - start
        told = sum(x.startswith(b"HTTP/1.1 408") for x in said)
        for s in conns:
            s.close()
        left = drained(o, had)
        if told != count or open_ or left > 0:
            wrong.append(f"half: {told} of {count} were told 408, {open_} not closed, {left} sockets left")
        return {"connections": count, "told_408": told, "all_closed_s": round(took, 1), "sockets_left": left, "pss_before_kib": before,
                "pss_with_kib": beside["pss_kib"], "pss_after_kib": pss_kib(o), "before": quick, "with": beside["times"]}


def slow(n, wrong):
    """Readers that do not read: what waits for all of them together stays within http.buffered_bytes."""
    with Orchestra(sets=["http.write_timeout=8 s", "http.buffered_bytes=64 MiB"]) as o:
        id_ = o.add("there")["id"]
        for _ in range(2):
            o.post("/v1/memories?wait=store", {"namespace": "big", "memories": [{"content": "z" * 60000}] * 100})
        before, quick, top = pss_kib(o), times(o, id_), 0
        workers = o.workers()
        o.close_connection()
        time.sleep(0.2)
        had = sockets(o)
        conns = []
        for i in range(n):
            s = socket.socket(socket.AF_UNIX if i % 2 else socket.AF_INET)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.connect(o.socket if i % 2 else ("127.0.0.1", o.port))
            s.sendall(b"GET /v1/memories?namespace=big&limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            conns.append(s)
            if i % 10 == 0:
                top = max(top, pss_kib(o))
        fine, beside, deadline = 0, None, time.monotonic() + 60
        while (left := sockets(o) - had) > 1 and time.monotonic() < deadline:
            top = max(top, pss_kib(o))
            beside = beside or times(o, id_, 200)
            r = o.get("/v1/memories?namespace=big&limit=1000")
            fine += r.status == 200 and len(r.body) > 4 << 20
            time.sleep(0.2)
        for s in conns:
            s.close()
        o.close_connection()
        left = drained(o, had)
        allowed = before + len([w for w in workers if "api" in w]) * 3 * (64 << 10)   # the budget, what is being built, malloc's share
        if left > 0 or not fine or top > allowed or o.workers() != workers:
            wrong.append(f"slow: {left} sockets left, {fine} pages served beside them, {top} KiB at most, {allowed} allowed, workers {o.workers()}")
        return {"connections": n, "reply_mib": 8, "sockets_left": left, "pages_served_beside": fine, "pss_before_kib": before, "pss_most_kib": top,
                "pss_after_kib": pss_kib(o), "before": quick, "with": beside}


def limit(n, wrong):
    """One worker with a limit of n: the next ones get a 503 with Retry-After, or a closed connection when very many linger."""
    with Orchestra(sets=["api.workers=1", f"http.max_connections={n}"]) as o:
        conns = [connect(o) for _ in range(n)]
        for s in conns:
            s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        served = sum(answer(s).startswith(b"HTTP/1.1 200") for s in conns)
        beyond = {"503": 0, "closed": 0, "other": 0}
        for _ in range(40):
            s = connect(o)
            s.settimeout(5)
            data = b""
            try:
                while got := s.recv(65536):
                    data += got
            except OSError:
                pass
            ok = data.startswith(b"HTTP/1.1 503") and b"Retry-After" in data and b"http.max_connections" in data
            beyond["503" if ok else "closed" if not data else "other"] += 1
            s.close()
        for s in conns:
            s.close()
        time.sleep(0.5)
        again = o.get("/livez", fresh=True).status
        if served < n - 1 or beyond["503"] != 40 or again != 200:
            wrong.append(f"limit: served {served} of {n}, beyond {beyond}, afterwards {again}")
        return {"limit": n, "served": served, "beyond": beyond, "afterwards": again}


def flood(n, wrong):
    with Orchestra() as o:
        id_ = o.add("there")["id"]
        before, pids = pss_kib(o), set(o.workers().values())
        start = time.monotonic()
        for i in range(n):
            try:
                s = connect(o, unix=i % 2 == 1)
            except OSError:  # a full backlog
                time.sleep(0.001)
                continue
            if i % 3 == 1:
                s.sendall(GET % id_.encode())
            elif i % 3 == 2:
                s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            s.close()
        took = time.monotonic() - start
        ok = o.memory(id_).status
        time.sleep(1)
        fds = {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in o.workers().items()}
        if ok != 200 or set(o.workers().values()) != pids or max(fds.values()) > 100:
            wrong.append(f"flood: GET {ok}, workers {o.workers()}, descriptors {fds}")
        return {"connections": n, "per_second": round(n / took), "pss_before_kib": before, "pss_after_kib": pss_kib(o),
                "descriptors_after": fds}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=10000)
    p.add_argument("--slow", type=int, default=400)
    p.add_argument("--limit", type=int, default=2000)
    p.add_argument("--flood", type=int, default=20000)
    p.add_argument("--scenes", default="idle,half,slow,limit,flood")
    args = p.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = args.count + 1000
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(hard, need)))
    except (ValueError, OSError):
        p.error(f"needs {need} file descriptors, the limit is {hard}: raise it (ulimit -Hn) or lower --count")
    wrong = []
    scenes = {"idle": (idle, args.count), "half": (half, args.count), "slow": (slow, args.slow), "limit": (limit, args.limit),
              "flood": (flood, args.flood)}
    report = {name: scenes[name][0](scenes[name][1], wrong) for name in args.scenes.split(",")}
    report["wrong"] = wrong
    print(json.dumps(report, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
