"""A restart with a full cache: how soon it hits as often as before, and what those wait who are served meanwhile.

A store with a fifth more memories than L1 holds is read by Zipf's law (exponent 1.0), and the share of hits noted, as
Cache-Status says. Then the daemon is stopped and started (and, the second time, killed), and the same load goes on from the
first connection that is taken. Latency: single requests for one memory, every millisecond, beside the load."""
import bisect
import http.client
import itertools
import os
import random
import socket
import subprocess
import threading
import time

import rig as r
from suite_add import metric

PIPELINE = 64
WINDOW = 256  # requests whose hits are counted together
GOOD = 0.9
BODY = "abcdefgh " * 42  # about 560 bytes as JSON, 640 in L1


def identity(i):
    return "%08x-0000-7000-8000-%012x" % (0x01a00000 + i // 65536, i * 2654435761 * 65537 % (1 << 48))


class Zipf:
    def __init__(self, n, seed):
        self.edges = list(itertools.accumulate(1 / k for k in range(1, n + 1)))
        self.rnd = random.Random(seed)
        self.order = list(range(n))
        random.Random(7).shuffle(self.order)  # what is hot has nothing to do with what is new

    def __call__(self):
        return self.order[bisect.bisect_left(self.edges, self.rnd.random() * self.edges[-1])]


class Reader:
    """Pipelined GETs over a connection."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.rest = b""

    def hits(self, ids):
        self.s.sendall(b"".join(b"GET /v1/memories/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % identity(i).encode() for i in ids))
        answers = hits = 0
        data = self.rest
        while answers < len(ids):
            data += self.s.recv(1 << 18)
            *whole, data = data.split(b"HTTP/1.1 ")
            # The last piece is whole when the last answer's body is: its end is known by what a memory ends with.
            if answers + len([w for w in whole if w]) + (data.endswith(b"}") or data.endswith(b"}\n")) >= len(ids) and b"\r\n\r\n" in data:
                whole.append(data)
                data = b""
            for w in whole:
                if w:
                    answers += 1
                    hits += b"orchestra; hit" in w[:600]
        self.rest = data
        return hits


class Latency(threading.Thread):
    """One request every millisecond or so."""

    def __init__(self, port, i):
        super().__init__(daemon=True)
        self.port, self.target, self.times, self.over = port, f"/v1/memories/{identity(i)}", [], False
        self.start()

    def run(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.over:
            begin = time.perf_counter()
            conn.request("GET", self.target)
            conn.getresponse().read()
            self.times.append(time.perf_counter() - begin)
            time.sleep(0.001)

    def p99_ms(self):
        self.over = True
        self.join()
        return sorted(self.times)[len(self.times) * 99 // 100] * 1e3 if len(self.times) > 50 else None


def fill(rig, d, n):
    p = subprocess.Popen([os.path.join(rig.build, "orchestractl"), "--socket", d.socket, "import", "-"], stdin=subprocess.PIPE,
                         stdout=subprocess.DEVNULL, text=True)
    for i in range(n):
        p.stdin.write('{"id":"%s","content":"item%d %s"}\n' % (identity(i), i % 1000, BODY))
    p.stdin.close()
    assert p.wait() == 0
    r.wait_for(lambda: metric(d, "orchestra_journal_lag_records") == 0, 600, "the flush")


def load(d, zipf, requests):
    """Share of hits in the last quarter."""
    reader, shares = Reader(d.port), []
    for _ in range(max(4, requests // WINDOW)):
        shares.append(sum(reader.hits([zipf() for _ in range(PIPELINE)]) for _ in range(WINDOW // PIPELINE)) / WINDOW)
    last = shares[-len(shares) // 4:]
    return sum(last) / len(last)


def connect(port, seconds=60):
    end = time.monotonic() + seconds
    while True:
        try:
            return Reader(port)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.001)


def after_start(d, zipf, former):
    """Seconds from the process's start: to the first answer; to `GOOD` of the former share; to the end of warming."""
    begin = time.perf_counter()
    d.start(wait=False)
    reader = connect(d.port)
    first = good = over = None
    latency = None
    points = []
    while over is None or good is None:
        try:
            hits = sum(reader.hits([zipf() for _ in range(PIPELINE)]) for _ in range(WINDOW // PIPELINE))
        except (OSError, AssertionError):
            reader = connect(d.port)
            continue
        at = time.perf_counter() - begin
        if first is None:
            first = at
            latency = Latency(d.port, zipf.order[0])
            continue
        points.append((at, hits / WINDOW))
        if good is None and hits / WINDOW >= GOOD * former:
            good = at
        if over is None and d.get("/v1/admin/warm").json.get("state", "never") not in ("running", "never"):
            over = at
        assert at < 240
    return first, good, over, latency.p99_ms(), points


def quiet_p99(d, zipf, seconds):
    reader, latency = Reader(d.port), Latency(d.port, zipf.order[0])
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reader.hits([zipf() for _ in range(PIPELINE)])
    return latency.p99_ms()


def run(rig, report):
    l1 = 128 << 20 if rig.quick else 1 << 30
    n = int(l1 / 720 * 1.2)
    zipf = Zipf(n, 1)
    d = rig.daemon("warm", "embedder.kind=none", f"cache.l1_bytes={l1}", "journal.quota=4294967296", "journal.pending_max=1000000",
                   "warmer.save_every=3 s", "api.workers=1")
    with d:
        fill(rig, d, n)
        former = load(d, zipf, n // 2)
        quiet = quiet_p99(d, zipf, 3)
        what = f"L1 of {l1 >> 20} MiB, {n:,} memories, Zipf 1.0"
        report.add("warm", f"{what}: hits before", former * 100, "%")
        begin = time.perf_counter()
        d.stop(30)
        report.add("warm", "stop, with the file of hot memories", time.perf_counter() - begin, "s",
                   note=f"{os.path.getsize(os.path.join(d.data, 'hot', 'bodies')) / 1e6:.0f} MB" if os.path.exists(os.path.join(d.data, "hot", "bodies")) else None)
        for how in ("stop", "kill -9"):
            if how != "stop":
                time.sleep(4)  # a note of what is hot is written
                from orchestra import kill_all
                kill_all(d)
            first, good, over, p99, points = after_start(d, zipf, former)
            report.add("warm", f"start after {how}: first answer", first * 1e3, "ms")
            report.add("warm", f"start after {how}: 90 % of the former hits", good, "s", goal=2 if how == "stop" else None, better="less",
                       note=" ".join(f"{t:.1f}s:{h * 100:.0f}%" for t, h in points[:: max(1, len(points) // 8)]))
            report.add("warm", f"start after {how}: the warmer is done", over, "s")
            if p99:
                report.add("warm", f"start after {how}: p99 of reads while warming", p99, "ms", quiet, "before", p99 / quiet, goal=2 if how == "stop" else None, better="less")
