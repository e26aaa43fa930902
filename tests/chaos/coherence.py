#!/usr/bin/python3
"""Two daemons, one PostgreSQL, one Redis: is a read ever old?

Each memory is changed by clients of one daemon and read, by id and by search, through both. L1 is small, so that reads go through
Redis, too. Meanwhile Redis is killed, stopped, emptied, filled up and cut off, and PostgreSQL is cut off from one daemon or the other.

What must hold for every reply that does not say that it is degraded, at any time: a write that was acknowledged more than --old
seconds before the read was asked for is in it, if the daemon that took the write reached the store then (no outage of its own from
half a second before the write until the read, and none that ended less than --settle seconds before the write). A degraded reply
must not be older than cache.ttl + cache.stale.

    tests/chaos/coherence.py [--seconds 600] [--seed N] [--keys 3000] [--old 1.0] [--no-faults] [--out report.json]

Prints a JSON report; exit code 1 when a read was older than that, a request failed that nothing excuses, or Redis alone made
a read fail.
"""
import argparse
import bisect
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from fleet import flushed, metric  # noqa: E402
from orchestra import SLOW, Orchestra, store_sets, until  # noqa: E402
from postgres import Postgres  # noqa: E402
from proxy import Proxy  # noqa: E402
from redis import Redis  # noqa: E402

TTL, STALE = 20, 20


class Key:
    def __init__(self, k, memory, owner):
        self.k, self.id, self.owner = k, memory, owner
        self.word = f"zeta{k}"
        self.acked, self.numbers = [time.monotonic()], [0]  # when, and which change

    def content(self, n):
        return f"{self.word} change {n} " + "filler " * 60

    def due(self, at):
        """The newest change that was acknowledged at that time, and when."""
        i = bisect.bisect_right(self.acked, at) - 1
        return (self.numbers[i], self.acked[i]) if i >= 0 else (-1, 0)


class Outages:
    """When a daemon did not reach the store."""

    def __init__(self, n):
        self.v = [[] for _ in range(n)]

    def begin(self, k):
        self.v[k].append([time.monotonic(), None])

    def end(self, k):
        self.v[k][-1][1] = time.monotonic()

    def touches(self, k, start, end, settle):
        return any(b < end and (e is None or e + settle > start) for b, e in list(self.v[k]))


class Run:
    def __init__(self, a):
        self.a, self.rnd = a, random.Random(a.seed)
        self.pg, self.redis = Postgres({"max_connections": 100}, fsync=False), Redis({"maxmemory-policy": "volatile-lru"}, maxmemory="64mb")
        self.database = self.pg.database()
        self.wires = [Proxy(self.pg) for _ in range(2)]
        self.redis_wires = [Proxy(("127.0.0.1", self.redis.port)) for _ in range(2)]
        self.daemons = []
        for k in range(2):
            store = store_sets(self.pg, self.database, host=self.wires[k].host, port=self.wires[k].port)
            url = f"redis://127.0.0.1:{self.redis_wires[k].port}"
            self.daemons.append(Orchestra(sets=[*store, f"redis.url={url}", "cache.l1_bytes=1MiB", f"cache.ttl={TTL}s", f"cache.stale={STALE}s",
                                                "store.answer_timeout=1s", "store.connect_timeout=1s", "breaker.open_max=1s", *a.set]))
        self.outages, self.stop, self.lock = Outages(2), threading.Event(), threading.Lock()
        self.violations, self.counts, self.faults, self.ages = [], {}, {}, []

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def violated(self, text):
        with self.lock:
            self.violations.append(text)
        print(text, file=sys.stderr, flush=True)

    # ---- clients ----
    def fill(self):
        self.keys = []
        for base in range(0, self.a.keys, 500):
            owner = base // 500 % 2
            batch = [Key(base + i, None, owner) for i in range(min(500, self.a.keys - base))]
            r = self.daemons[owner].post("/v1/memories", {"memories": [{"content": k.content(0)} for k in batch]})
            assert r.status == 201, r
            for key, m in zip(batch, r.json["memories"]):
                key.id = m["id"]
            self.keys += batch
        until(lambda: all(flushed(o) for o in self.daemons), 60)
        time.sleep(1)

    def pick(self, rnd):
        return self.keys[min(int(rnd.paretovariate(0.6)) - 1, len(self.keys) * 3) % len(self.keys)]

    def writer(self, k, seed):
        rnd = random.Random(seed)
        while not self.stop.is_set():
            key = self.pick(rnd)
            if key.owner != k:
                key = self.keys[(key.k + 500) % len(self.keys)]
            if key.owner != k:
                continue
            n = key.numbers[-1] + 1
            try:
                r = self.daemons[k].request("PATCH", f"/v1/memories/{key.id}", {"content": key.content(n)}, fresh=True)
            except OSError as e:
                self.violated(f"PATCH: {e!r}")
                continue
            if r.status == 200:
                key.acked.append(time.monotonic())
                key.numbers.append(n)
                self.count("writes")
            elif r.status == 503 and self.outages.touches(k, time.monotonic() - 15, time.monotonic(), 5):
                self.count("writes refused in an outage")
            else:
                self.violated(f"PATCH: {r}")
            time.sleep(self.a.pause)

    def reader(self, k, seed):
        rnd = random.Random(seed)
        o = self.daemons[k]
        while not self.stop.is_set():
            key, by_search, asked = self.pick(rnd), rnd.random() < 0.15, time.monotonic()
            try:
                r = (o.request("POST", "/v1/memories/search", {"query": key.word, "mode": "text", "limit": 1}, fresh=True) if by_search
                     else o.request("GET", f"/v1/memories/{key.id}", fresh=True))
            except OSError as e:
                self.violated(f"read: {e!r}")
                continue
            took = time.monotonic() - asked
            if r.status == 503 and self.outages.touches(k, asked - 1, time.monotonic(), 5):
                self.count("reads refused in an outage")
                continue
            if r.status != 200:
                self.violated(f"read after {took:.2f} s: {r}")
                continue
            body = r.json
            degraded = body.get("degraded", [])
            if by_search:
                if not body["results"]:
                    if not degraded:
                        self.violated(f"search of {key.word} finds nothing: {r}")
                    continue
                body = body["results"][0]
                if key.word not in body["content"].split():
                    self.count("search found another")
                    continue
            how = "search" if by_search else r.headers["Cache-Status"].split(", ")[0].split("; ttl")[0]
            self.judge(k, key, int(body["content"].split()[2]), asked, degraded, how)

    def judge(self, k, key, n, asked, degraded, how):
        self.count(("degraded " if degraded else "") + how)
        due, at = key.due(asked - (TTL + STALE + 2 if degraded else self.a.old))
        if n >= due:
            return
        w = key.owner
        if self.outages.touches(w, at - 0.5, asked, self.a.settle):
            self.count("not judged: its writer's daemon was cut off")
            return
        newest = key.due(asked)[0]
        self.violated(f"daemon {k} ({how}, degraded {degraded}) has change {n} of {key.word}; {due} was acknowledged {asked - at:.2f} s before "
                      f"(newest {newest}); outages {[(round(b - asked, 2), e and round(e - asked, 2)) for x in self.outages.v for b, e in x[-2:]]}")

    # ---- faults ----
    def fault(self):
        kind = self.rnd.choice(["redis killed", "redis stopped", "redis emptied", "redis full", "redis cut from one", "redis cut",
                                "store cut from one", "store cut from one", "store slow for one"])
        length, k = self.rnd.choice([0.3, 1, 3, 6]) * self.rnd.uniform(0.7, 1.3), self.rnd.randrange(2)
        self.faults[kind] = self.faults.get(kind, 0) + 1
        if kind == "redis killed":
            self.redis.kill9()
            time.sleep(length)
            self.redis.start()
        elif kind == "redis stopped":
            self.redis.pause()
            time.sleep(length)
            self.redis.resume()
        elif kind == "redis emptied":
            self.redis("FLUSHALL")
        elif kind == "redis full":
            self.redis.full()
            time.sleep(length)
            self.redis.full(False)
            self.redis("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        elif kind.startswith("redis cut"):
            cut = self.redis_wires if kind == "redis cut" else [self.redis_wires[k]]
            [self.rnd.choice([w.blackhole, w.refuse])() for w in cut]
            time.sleep(length)
            [w.heal() for w in cut]
        elif kind == "store cut from one":
            self.outages.begin(k)
            self.wires[k].blackhole()
            time.sleep(length)
            self.wires[k].heal()
            self.outages.end(k)
        else:
            self.outages.begin(k)
            self.wires[k].delay(100)
            time.sleep(length)
            self.wires[k].heal()
            self.outages.end(k)

    def run(self):
        self.fill()
        threads = [threading.Thread(target=self.writer, args=(k, self.a.seed * 100 + k), daemon=True) for k in range(2)]
        threads += [threading.Thread(target=self.reader, args=(k, self.a.seed * 100 + 10 + 2 * i + k), daemon=True) for k in range(2) for i in range(2)]
        [t.start() for t in threads]
        end = time.monotonic() + self.a.seconds
        while time.monotonic() < end and len(self.violations) < 20:
            time.sleep(self.rnd.uniform(1, 4))
            if not self.a.no_faults:
                self.fault()
            print(f"{self.a.seconds - (end - time.monotonic()):.0f} s: {self.counts} {self.faults} {len(self.violations)} violations",
                  file=sys.stderr, flush=True)
        self.stop.set()
        [t.join(30) for t in threads]
        for o in self.daemons:
            until(lambda: flushed(o) and not {"store", "feed"} & {*o.get("/readyz").json["degraded"]}, 60)
        time.sleep(self.a.old)
        for key in self.keys:
            for k, o in enumerate(self.daemons):
                self.judge(k, key, int(o.get(f"/v1/memories/{key.id}").json["content"].split()[2]), time.monotonic(), [], "at the end")

    def report(self):
        names = ["orchestra_cache_hits_total", "orchestra_cache_loads_total{from=\"l2\"}", "orchestra_cache_loads_total{from=\"store\"}",
                 "orchestra_cache_distrusted_total", "orchestra_cache_notices_total", "orchestra_cache_stale_total", "orchestra_cache_collapsed_total",
                 "orchestra_worker_restarts_total"]
        return {"seconds": self.a.seconds, "seed": self.a.seed, "counts": self.counts, "faults": self.faults,
                "metrics": {n: [int(metric(o, n)) for o in self.daemons] for n in names}, "violations": self.violations}

    def cleanup(self):
        for x in [*self.daemons, self.redis, self.pg]:
            x.cleanup()
        for w in self.wires + self.redis_wires:
            w.__exit__(None, None, None)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--keys", type=int, default=3000)
    p.add_argument("--old", type=float, default=1.0 * SLOW)
    p.add_argument("--settle", type=float, default=6.0 * SLOW)
    p.add_argument("--pause", type=float, default=0.005)
    p.add_argument("--no-faults", action="store_true")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out")
    run = Run(p.parse_args())
    try:
        run.run()
        text = json.dumps(run.report(), indent=1)
    except AssertionError:
        for o in run.daemons:
            print(o.get("/readyz"), o.get("/v1/admin/breakers"), o.log()[-5000:], sep="\n", file=sys.stderr)
        raise
    finally:
        run.cleanup()
    print(text)
    if run.a.out:
        with open(run.a.out, "w") as f:
            f.write(text + "\n")
    return 1 if run.violations else 0


if __name__ == "__main__":
    sys.exit(main())
