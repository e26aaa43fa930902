#!/usr/bin/python3
"""Many idle connections: what they cost, whether requests are still answered quickly, what the limit says.

Opens --count keep-alive connections that have sent one request and fall silent, half of them on the Unix
socket, measures the memory of all processes (PSS) and the time of a GET and of a durable add before and
with them; then lets connections beyond http.max_connections come and counts the answers they get; then
floods with connections that close at once. Prints JSON; exit code 1 when something was wrong.

    tests/chaos/connections.py [--count 10000] [--limit 2000] [--flood 20000]
"""
import argparse
import json
import os
import resource
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


def idle(count, wrong):
    with Orchestra() as o:
        id_ = o.add("there")["id"]
        before, quick = pss_kib(o), times(o, id_)
        conns = []
        start = time.monotonic()
        for i in range(count):
            s = connect(o, unix=i % 2 == 1)
            s.sendall(GET % id_.encode())
            conns.append(s)
        bad = sum(not answer(s).startswith(b"HTTP/1.1 200") for s in conns)
        opened = time.monotonic() - start
        time.sleep(1)
        with_them, then = pss_kib(o), times(o, id_)
        bad_again = 0
        for s in conns[::10]:
            s.sendall(GET % id_.encode())
            bad_again += not answer(s).startswith(b"HTTP/1.1 200")
        for s in conns:
            s.close()
        time.sleep(1)
        after = pss_kib(o)
        if bad or bad_again:
            wrong.append(f"{bad} + {bad_again} of {count} idle connections were not served")
        return {"connections": count, "opened_s": round(opened, 2), "pss_before_kib": before, "pss_with_kib": with_them,
                "pss_after_kib": after, "bytes_per_connection": round((with_them - before) * 1024 / count),
                "before": quick, "with": then}


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
    p.add_argument("--limit", type=int, default=2000)
    p.add_argument("--flood", type=int, default=20000)
    args = p.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = args.count + 1000
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, max(hard, need)))
    except (ValueError, OSError):
        p.error(f"needs {need} file descriptors, the limit is {hard}: raise it (ulimit -Hn) or lower --count")
    wrong = []
    report = {"idle": idle(args.count, wrong), "limit": limit(args.limit, wrong), "flood": flood(args.flood, wrong), "wrong": wrong}
    print(json.dumps(report, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
