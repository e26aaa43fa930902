#!/usr/bin/python3
"""Two daemons on one PostgreSQL that is killed -9, stopped (SIGSTOP) and cut off at random, under load.

Clients of both daemons add, add in bulk, change and delete memories of their own, and change memories that all of them share.
Every outage ends by itself; the time from its end until both daemons have flushed all that was acknowledged before that moment is
the recovery. At the end everything is compared: what was acknowledged, what each daemon lists and exports, what the server has.

    tests/chaos/fleet.py [--seconds 600] [--seed N] [--clients 4] [--rate 200] [--out report.json]

Prints a JSON report; exit code 1 when anything acknowledged is missing, is there twice or differs between daemons and server, when
a recovery took 5 s or longer, or when memory or journal did not stay bounded. Without root nothing is cut off (network namespace).
"""
import argparse
import contextlib
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from fleet import Fleet, Writers, checksum, flushed, metric  # noqa: E402
from orchestra import SLOW, until  # noqa: E402
from postgres import Postgres  # noqa: E402

RECOVERY_S = 5
EXCUSED = [("PATCH", 503), ("DELETE", 503), ("GET", 503)]  # what has to be read from the store first, while it is away


class Shared(threading.Thread):
    """Changes memories that the clients of all daemons change: for each one winner, and the losers are kept."""

    def __init__(self, o, k, ids, seed, stop, pause):
        super().__init__(daemon=True)
        self.o, self.k, self.ids, self.rnd, self.stop, self.pause = o, k, ids, random.Random(seed * 77 + k), stop, pause
        self.done, self.failures = [], []

    def run(self):
        n = 0
        while not self.stop.is_set():
            n += 1
            i, content = self.rnd.choice(self.ids), f"shared by {self.k}, {n}"
            try:
                r = self.o.request("PATCH", f"/v1/memories/{i}", {"content": content}, fresh=True)
                if r.status == 200:
                    self.done.append((i, r.json["version"], content))
                elif r.status not in (503, 409):
                    self.failures.append(f"{self.k}: PATCH of shared {i}: {r}")
            except OSError as e:
                self.failures.append(f"{self.k}: PATCH of shared {i}: {e!r}")
            time.sleep(self.pause)


def pss(o):
    total = 0
    for pid in [o.process.pid, *o.workers().values()]:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total // 1024


def journal_bytes(o):
    where = os.path.join(o.data, "journal")
    return sum(os.stat(os.path.join(where, f)).st_size for f in os.listdir(where))


class Chaos:
    def __init__(self, a):
        self.a, self.rnd = a, random.Random(a.seed)
        self.pg = Postgres({"max_connections": 60}, netns=os.geteuid() == 0)
        self.fleet = Fleet(2, self.pg, sets=a.set)
        self.outages, self.recovery, self.samples, self.violations = {}, [], [], []
        self.stop = threading.Event()

    # ---- outages ----
    def outage(self):
        kind = self.rnd.choice(["kill -9", "SIGSTOP", "cut"] if self.pg.net else ["kill -9", "SIGSTOP"])
        length = self.rnd.choice([0.2, 1, 3, 8]) * self.rnd.uniform(0.5, 1.5)
        if kind == "kill -9":
            self.pg.kill9()
            time.sleep(length)
            self.pg.start()
        elif kind == "SIGSTOP":
            self.pg.pause()
            time.sleep(length)
            self.pg.resume()
        else:
            self.pg.cut()
            time.sleep(length)
            self.pg.heal()
        self.outages[kind] = self.outages.get(kind, 0) + 1
        self.recovered(kind, length)

    def recovered(self, kind, length):
        """The server answers from now on. Caught up is who has flushed once more than was acknowledged by now."""
        start = time.monotonic()
        due = [metric(o, "orchestra_journal_records_total") for o in self.fleet]
        left = set(range(len(self.fleet.daemons)))
        while left and time.monotonic() < start + 60:
            for k in list(left):
                o = self.fleet[k]
                if metric(o, "orchestra_journal_records_total") - metric(o, "orchestra_journal_lag_records") >= due[k]:
                    left.discard(k)
            time.sleep(0.02)
        took = time.monotonic() - start
        self.recovery.append((round(took, 3), kind, round(length, 1)))
        if took >= RECOVERY_S * SLOW:
            self.violations.append(f"after {kind} for {length:.1f} s the recovery took {took:.1f} s")

    # ---- measuring ----
    def watch(self):
        began = time.monotonic()
        while not self.stop.wait(1):
            with contextlib.suppress(Exception):
                self.samples.append({"s": round(time.monotonic() - began), "pss_mb": [pss(o) for o in self.fleet],
                                     "journal_mb": [journal_bytes(o) >> 20 for o in self.fleet],
                                     "lag": [int(metric(o, "orchestra_journal_lag_records")) for o in self.fleet]})

    # ---- the run ----
    def run(self):
        a, f = self.a, self.fleet
        ids = [m["id"] for m in f[0].post("/v1/memories", {"namespace": "shared", "memories": [{"content": f"base {k}"} for k in range(50)]}).json["memories"]]
        f.followed()
        watcher = threading.Thread(target=self.watch, daemon=True)
        watcher.start()
        stop = threading.Event()
        shared = [Shared(o, k, ids, a.seed, stop, 0.02) for k, o in enumerate(f)]
        [t.start() for t in shared]
        pause = max(0.001, 2 * a.clients / a.rate)
        end = time.monotonic() + a.seconds
        with Writers(f, "own", n=a.clients, pause=pause, excused=EXCUSED) as w:
            while time.monotonic() < end and not w.failures:
                time.sleep(self.rnd.uniform(1, 4))
                self.outage()
                print(f"{a.seconds - (end - time.monotonic()):.0f} s: {sum(self.outages.values())} outages, {w.acknowledged()} acknowledged, "
                      f"last recovery {self.recovery[-1]}", file=sys.stderr, flush=True)
        stop.set()
        [t.join(60) for t in shared]
        self.stop.set()
        watcher.join(10)
        self.compare(w, shared)
        return w, shared

    def compare(self, w, shared):
        f = self.fleet
        self.violations += w.failures + [x for t in shared for x in t.failures]
        for o in f:
            until(lambda: flushed(o), 60)
            try:  # what follows the store follows it again a little after the flush
                until(lambda: not o.get("/readyz").json["degraded"], 30)
            except AssertionError:
                self.violations.append(f"still {o.get('/readyz')}")
        f.followed(60)
        self.checksums = {}
        for ns in ("own", "shared"):
            rows = f.rows(ns)
            said = {"server": rows}
            for k, o in enumerate(f):
                said[f"daemon {k} list"], said[f"daemon {k} export"] = f.listed(o, ns), f.exported(o, ns)
            self.checksums[ns] = {name: checksum(v) for name, v in said.items()}
            if len(set(self.checksums[ns].values())) != 1:
                self.violations.append(f"{ns} differs: {self.checksums[ns]}")
            for k, o in enumerate(f):
                n = o.get(f"/v1/namespaces/{ns}").json["count"]
                if n != len(rows):
                    self.violations.append(f"daemon {k} counts {n} memories in {ns}, the server has {len(rows)}")
        self.violations += w.compare(f.rows("own"))[:20]
        self.conflicts(shared)
        vectors = [int(metric(o, "orchestra_vectors ")) for o in f]
        live = int(f.sql("SELECT count(*) FROM memories WHERE dim > 0 AND flags & 4 = 0")[0][0])
        if set(vectors) != {live}:
            self.violations.append(f"the daemons index {vectors} vectors, the server has {live}")

    def conflicts(self, shared):
        """Every acknowledged change of a shared memory is the memory's present or in its history."""
        f = self.fleet
        kept = {(i, int(v), c) for i, v, c in f.sql(
            "SELECT id, version, body::json->>'content' FROM memory_history WHERE namespace = 'shared' UNION ALL "
            "SELECT id, version, content FROM memories WHERE namespace = 'shared'")}
        gone = [x for t in shared for x in t.done if x not in kept]
        self.lost = int(f.sql("SELECT count(*) FROM memory_history WHERE lost")[0][0])
        if gone:
            self.violations.append(f"{len(gone)} acknowledged changes of shared memories are in no history: {gone[:3]}")

    def bounded(self):
        """Memory of the last quarter against the second one, index and caches aside, and the journal's quota."""
        s = self.samples
        if len(s) < 20:
            return {}
        quarter = len(s) // 4
        out = {}
        for k, o in enumerate(self.fleet):
            before, after = (max(x["pss_mb"][k] for x in part) for part in (s[quarter:2 * quarter], s[-quarter:]))
            grown = metric(o, "orchestra_vectors_bytes") / 2**20 + metric(o, "orchestra_cache_bytes") / 2**20
            out[f"daemon {k}"] = {"pss_mb_second_quarter": before, "pss_mb_last_quarter": after, "index_and_cache_mb": round(grown)}
            if after > before + grown + 64:
                self.violations.append(f"daemon {k} grew from {before} to {after} MiB")
            if max(x["journal_mb"][k] for x in s) > 2048:
                self.violations.append(f"the journal of daemon {k} passed its quota")
        return out

    def report(self, w, shared):
        times = sorted(t for t, _, _ in self.recovery)
        bounded = self.bounded()
        return {"seconds": self.a.seconds, "seed": self.a.seed, "outages": self.outages, "acknowledged_memories": w.acknowledged(),
                "live": len(w.live), "shared_changes": sum(len(t.done) for t in shared), "lost_conflicts_kept": self.lost,
                "unanswered": len(w.unknown), "slowest_answer_s": round(w.slowest, 2),
                "recovery_s": {"p50": times[len(times) // 2], "max": times[-1],
                               "worst": sorted(self.recovery, reverse=True)[:5]} if times else {},
                "most": {"pss_mb": max((max(x["pss_mb"]) for x in self.samples), default=None),
                         "journal_mb": max((max(x["journal_mb"]) for x in self.samples), default=None),
                         "lag_records": max((max(x["lag"]) for x in self.samples), default=None)},
                "bounded": bounded, "checksums": self.checksums, "violations": self.violations}

    def cleanup(self):
        try:
            self.pg.resume()
            if self.pg.net:
                self.pg.heal()
            self.fleet.cleanup()
        finally:
            self.pg.cleanup()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--clients", type=int, default=4, help="of each daemon")
    p.add_argument("--rate", type=float, default=200, help="requests a second, about, of all of them")
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out")
    a = p.parse_args()
    c = Chaos(a)
    try:
        report = c.report(*c.run())
        if c.violations:
            for o in c.fleet:
                print(o.log()[-4000:], file=sys.stderr)
    finally:
        c.cleanup()
    text = json.dumps(report, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    COMMAND_LINE = True
    sys.exit(main())
