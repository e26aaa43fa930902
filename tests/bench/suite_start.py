"""From the start of the daemon to its first search that is whole: with saved indexes, and by the refill from the store.

make bench-start: 1,000,000 memories with vectors of 512 components (ORCHESTRA_BENCH_START="200000x1536" asks for others); some
minutes to fill, and 5 GB on the disk of the build while it runs.
"""
import base64
import http.client
import json
import os
import random
import re
import shutil
import sys
import time
from array import array

import rig as r
from suite_add import metric

BATCH = 500
WORDS = "amber basil cedar delta ember fjord grove heron iris jade kelp lotus maple nutmeg olive pearl quartz raven sage thyme".split()


def vectors(dim, rnd):
    """Of topics: the halves of one among 512 beginnings and of one among 4,096 ends."""
    heads, tails = ([array("f", (rnd.gauss(0, 1) for _ in range(dim // 2))).tobytes() for _ in range(n)] for n in (512, 4096))
    while True:
        yield rnd.choice(heads) + rnd.choice(tails)


def fill(d, n, dim, rnd):
    source, start = vectors(dim, rnd), time.monotonic()
    for i in range(0, n, BATCH):
        body = json.dumps({"memories": [{"content": " ".join(rnd.choices(WORDS, k=8)) + f" {j}",
                                         "embedding": base64.b64encode(next(source)).decode()} for j in range(i, min(i + BATCH, n))]})
        while (reply := d.post("/v1/memories", body, timeout=120)).status == 503:  # the store is behind
            time.sleep(0.5)
        assert reply.status == 201, reply
        if sys.stderr.isatty() and i % 50000 == 0:
            print(f"{i:,} of {n:,} after {time.monotonic() - start:.0f} s", file=sys.stderr)
    r.wait_for(lambda: metric(d, "orchestra_journal_lag_records") == 0, 1200, "the flush")


def question(dim, rnd):
    return json.dumps({"query": "heron among lotus", "embedding": base64.b64encode(next(vectors(dim, rnd))).decode(), "explain": True})


def ask(port, body):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        conn.request("POST", "/v1/memories/search", body, {"Content-Type": "application/json"})
        reply = conn.getresponse()
        return json.loads(reply.read()) if reply.status == 200 else None
    except OSError:
        return None
    finally:
        conn.close()


def first_search(d, body, seconds):
    """Milliseconds until a search is answered by all that is there; and until one is answered at all."""
    start, some = time.perf_counter(), None
    d.start(wait=False)
    while time.perf_counter() - start < seconds:
        assert d.process.poll() is None, d.log()[-2000:]
        found = ask(d.port, body)
        if found and some is None:
            some = (time.perf_counter() - start) * 1e3
        if found and found["degraded"] == []:
            return (time.perf_counter() - start) * 1e3, some
        time.sleep(0.001 if time.perf_counter() - start < 5 else 0.2)
    raise AssertionError("no whole answer:\n" + d.log()[-2000:])


def listed(d, body):
    return "lists" in json.dumps(ask(d.port, body) or {})


def settle(d, seconds=3600):
    """The indexer has nothing to do: its thread uses no processor for a while."""
    def used():
        pid = d.workers()["orc:sync"] if "orc:sync" in d.workers() else next(p for n, p in d.workers().items() if "sync" in n)
        return sum(int(open(f"/proc/{pid}/task/{t}/schedstat").read().split()[0]) for t in os.listdir(f"/proc/{pid}/task")
                   if open(f"/proc/{pid}/task/{t}/comm").read().strip() in ("indexer", "refill"))
    before, start = -1, time.monotonic()
    while (now := used()) != before and time.monotonic() - start < seconds:
        before = now
        time.sleep(3)
    return time.monotonic() - start


def run(rig, report):
    n, dim = (int(x) for x in os.environ.get("ORCHESTRA_BENCH_START", "20000x512" if rig.quick else "1000000x512").split("x"))
    rnd, directory = random.Random(1), rig.path("start")
    os.makedirs(directory, exist_ok=True)
    d = rig.daemon("", "log.level=info", "vectors.max_bytes=8589934592", "words.max_bytes=2147483648", "daemon.drain_timeout=120 s",
                   "index.save_every=0 ms", "warmer.save=off", "daemon.ready_timeout=600 s", data=directory)
    what = f"{n:,} × {dim}"
    try:
        d.wait_ready(60)
        fill(d, n, dim, rnd)
        settle(d)
        body = question(dim, rnd)
        start = time.perf_counter()
        d.stop(120)
        report.add("start", f"{what}: leaving, indexes saved", (time.perf_counter() - start) * 1e3, "ms")
        size = sum(os.path.getsize(os.path.join(d.data, "index", f)) for f in os.listdir(os.path.join(d.data, "index")))
        report.add("start", f"{what}: saved indexes", size / 1e6, "MB")
        times, loads = [], []
        for _ in range(3 if rig.quick else 5):
            at = len(d.log())
            times.append(first_search(d, body, 600)[0])
            took = re.search(r"took up the saved indexes.* in (\d+) ms", d.log()[at:])
            assert took, d.log()[at:]
            loads.append(int(took[1]))
            d.kill()
            r.wait_for(lambda: not d.workers(), 30, "the end of all workers")
        report.add("start", f"{what}: start to the first whole search, saved indexes", r.median(times), "ms", goal=1000, better="less")
        report.add("start", f"{what}: of that, taking them up", r.median(loads), "ms")
        shutil.rmtree(os.path.join(d.data, "index"))
        whole, some = first_search(d, body, 3600)
        report.add("start", f"{what}: start to the first whole search, refill", whole, "ms", r.median(times), "saved indexes",
                   whole / r.median(times))
        report.add("start", f"{what}: start to the first search of the refill, degraded", some, "ms")
        report.add("start", f"{what}: and until it is clustered again", whole + settle(d) * 1e3, "ms")
        d.stop(120)
    finally:
        d.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
