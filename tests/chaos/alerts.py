#!/usr/bin/python3
"""Does whoever is on call hear of it, and of nothing else? A real Prometheus with the rules of packaging/prometheus scrapes a daemon
with PostgreSQL under load, while things are broken and mended one after the other. The durations of the rules are divided by
--factor: what takes five minutes takes ten seconds with 30.

    tests/chaos/alerts.py [--factor 30] [--quiet 60] [--out FILE]
    tests/chaos/alerts.py --real [--quiet 60] [--out FILE]

--real: durations as they are; only those of ten minutes or more (`for: 10m`, ranges of 15 minutes and longer) are divided by five. Three daemons
have their troubles at the same time, so that ten minutes and a few are enough.

First nothing is broken for --quiet seconds. Prints JSON: for each fault when its alerts fired and were over; exit code 1 when one did not,
when anything fired while all was well, or when a scrape failed while the daemon was up.
"""
import argparse
import http.server
import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from orchestra import Orchestra, store_sets  # noqa: E402
from postgres import Postgres  # noqa: E402
from prometheus import Prometheus  # noqa: E402
from proxy import Proxy  # noqa: E402

DEADLINE = 180


class Load(threading.Thread):
    """Writes, reads and searches, some tens in a second. What is refused meanwhile is not its business."""

    def __init__(self, o):
        super().__init__(daemon=True)
        self.o, self.stop, self.heavy, self.done = o, threading.Event(), False, 0

    def run(self):
        ids = []
        client = Orchestra(directory=self.o.dir, start=False)
        client.port = self.o.port
        while not self.stop.is_set():
            try:
                text = "Ada likes tea, and says so " * (2000 if self.heavy else 1)
                r = client.post("/v1/memories", {"content": f"{text}note{self.done}"}, timeout=5)
                ids = (ids + [r.json["id"]])[-100:] if r.status == 201 else ids
                for i in ids[-10:]:
                    client.get(f"/v1/memories/{i}", timeout=5)
                # of one word that one memory has: what all have takes longer the more there are
                client.post("/v1/memories/search", {"query": f"note{self.done - 1}", "mode": "text"}, timeout=5)
                client.get("/v1/memories?limit=5", timeout=5)
                self.done += 1
            except (OSError, ValueError, KeyError):
                client.close_connection()
            time.sleep(0.005 if self.heavy else 0.05)
        client.close_connection()


def wait(what, seconds=DEADLINE):
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.2)
    return round(time.monotonic() - began, 1)


def kill_workers(o):
    for _ in range(5):
        before = {n: p for n, p in o.workers().items() if n.startswith("api")}
        name, pid = sorted(before.items())[0]
        os.kill(pid, signal.SIGKILL)
        wait(lambda name=name, pid=pid: o.workers().get(name, pid) != pid, 20)
        time.sleep(1.5)  # else two deaths fall between two scrapes, which see one


# ---- durations as they are ----

STORE_AWAY = {"OrchestraFeedLost", "OrchestraBreakerOpen", "OrchestraNotReady", "OrchestraJournalLag", "OrchestraErrorRate", "OrchestraHighLatency",
              "OrchestraJournalHalfFull", "OrchestraJournalFull"}
REAL_DEADLINE = 900


class Trouble(threading.Thread):
    """What happens to one daemon: steps of (name, alerts that must fire, break it, mend it). `may`: what else may fire meanwhile."""

    def __init__(self, o, p, may, *steps):
        super().__init__(daemon=True)
        self.o, self.p, self.may, self.steps = o, p, may, steps
        self.instance = f"127.0.0.1:{o.port}"
        self.load, self.out, self.bad = Load(o), {}, []

    def firing(self):
        return self.p.firing_of(self.instance) or set()

    def run(self):
        for name, alerts, break_it, mend in self.steps:
            began, fired, also = time.monotonic(), {}, set()
            break_it()
            while set(alerts) - set(fired) and time.monotonic() - began < REAL_DEADLINE:
                now = self.firing()
                fired.update({x: round(time.monotonic() - began) for x in now & set(alerts) if x not in fired})
                also |= now - set(alerts)
                time.sleep(1)
            mend()
            mended = time.monotonic()
            left = {}  # when which was over
            while time.monotonic() - mended < REAL_DEADLINE:
                now = self.firing()
                also |= now - set(alerts)
                left.update({x: round(time.monotonic() - mended) for x in (set(fired) | also) - now if x not in left})
                if not now:
                    break
                time.sleep(1)
            self.out[name] = {"fired_after_s": fired, "also_fired": sorted(also), "over_after_s": left}
            print(json.dumps({name: self.out[name]}), flush=True)
            self.bad += [f"{name}: {x} did not fire" for x in set(alerts) - set(fired)] + [f"{name}: {x} was not over" for x in self.firing()]
            self.bad += [f"{name}: {x} fired for no reason" for x in also - self.may]


class SlowTarget:
    """What the pinger keeps warm."""

    def __init__(self):
        self.wait, target = 0, self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                time.sleep(target.wait)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def real(a):
    target = SlowTarget()
    small = ["api.workers=2", "journal.quota=64MiB"]
    ping = "pinger.targets=" + json.dumps([{"name": "app", "url": target.url, "interval": "5 s", "timeout": "1 s", "cold_after": "60 s"}])
    with Postgres({"max_connections": 100}, fsync=False) as dies, Postgres({"max_connections": 100}, fsync=False) as stays, \
            Proxy(stays) as cut, Proxy(stays) as slow:
        names = [stays.database(), stays.database()]
        with Orchestra(sets=[*store_sets(dies, dies.database()), *small]) as one, \
                Orchestra(sets=[*store_sets(stays, names[0], host=cut.host, port=cut.port), *small]) as two, \
                Orchestra(sets=[*store_sets(stays, names[1], host=slow.host, port=slow.port), *small, ping]) as three, \
                Prometheus([f"127.0.0.1:{o.port}" for o in (one, two, three)], factor=5, interval="5s", only_from=600) as p:
            began = time.monotonic()

            def away():
                cut.refuse()
                cut.reset()
                troubles[1].load.heavy = True

            def back():
                troubles[1].load.heavy = False
                cut.heal()

            def slower():
                slow.delay(200)
                target.wait = 3

            def quick():
                slow.delay(0)
                target.wait = 0
            troubles = [
                Trouble(one, p, STORE_AWAY, ("PostgreSQL is dead", ["OrchestraFeedLost", "OrchestraBreakerOpen", "OrchestraNotReady", "OrchestraJournalLag"],
                                             lambda: dies.stop("immediate"), dies.start)),
                Trouble(two, p, STORE_AWAY, ("workers die", ["OrchestraWorkerRestarts"], lambda: kill_workers(two), lambda: None),
                        ("the journal fills", ["OrchestraJournalHalfFull", "OrchestraJournalFull"], away, back)),
                Trouble(three, p, {"OrchestraFeedLost", "OrchestraBreakerOpen", "OrchestraErrorRate", "OrchestraNotReady"},
                        ("store and target are slow", ["OrchestraHighLatency", "OrchestraTargetFailing"], slower, quick))]
            for t in troubles:
                t.load.start()
            wait(lambda: p.value('sum(up{job="orchestra"})') == 3)
            noise, quiet = set(), time.monotonic()
            while time.monotonic() - quiet < a.quiet:
                noise |= p.firing() or set()
                time.sleep(1)
            for t in troubles:
                t.start()
            for t in troubles:
                t.join()
            wait(lambda: time.monotonic() - began >= 600, 600)
            scrapes = p.value('sum(count_over_time(up{job="orchestra"}[1h]))')
            missed = scrapes - p.value('sum(sum_over_time(up{job="orchestra"}[1h]))')
            for t in troubles:
                t.load.stop.set()
            for t in troubles:
                t.load.join(30)
            out = {"real": True, "seconds": round(time.monotonic() - began), "rounds_of_load": [t.load.done for t in troubles], "scrapes": scrapes, "scrapes_missed": missed,
                   "scrape_s": {q: p.value('max(quantile_over_time(%s, scrape_duration_seconds{job="orchestra"}[1h]))' % q) for q in ("0.5", "0.99")},
                   "samples": p.value('max(max_over_time(scrape_samples_scraped{job="orchestra"}[1h]))'),
                   "faults": {k: v for t in troubles for k, v in t.out.items()},
                   "bad": [f"fired while all was well: {x}" for x in noise] + [x for t in troubles for x in t.bad]}
            out["bad"] += [f"{missed:.0f} scrapes failed"] if missed else []
    return out


def tell(a, out):
    text = json.dumps(out, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 1 if out["bad"] else 0


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--real", action="store_true")
    a.add_argument("--factor", type=float, default=30)
    a.add_argument("--quiet", type=float, default=60)
    a.add_argument("--out")
    a = a.parse_args()
    if a.real:
        return tell(a, real(a))
    out, bad = {"factor": a.factor, "faults": {}}, []
    with Postgres({"max_connections": 100}, fsync=False) as pg, \
            Orchestra(sets=[*store_sets(pg, pg.database()), "api.workers=2", "journal.quota=64MiB"]) as o, \
            Prometheus([f"127.0.0.1:{o.port}"], factor=a.factor) as p:
        load = Load(o)
        load.start()
        began = time.monotonic()

        def fault(name, alerts, break_it, mend):
            break_it()
            fired = {x: wait(lambda x=x: x in (p.firing() or ())) for x in alerts}
            also = sorted((p.firing() or set()) - set(alerts))
            mend()
            over = wait(lambda: p.firing() == set())
            out["faults"][name] = {"fired_after_s": fired, "also_fired": also, "all_over_after_s": over}
            print(json.dumps({name: out["faults"][name]}), flush=True)
            bad.extend(f"{name}: {x} did not fire" for x, t in fired.items() if t is None)
            bad.extend([f"{name}: still firing: {p.firing()}"] if over is None else [])

        wait(lambda: p.value('up{job="orchestra"}') == 1)
        began_quiet = time.monotonic()
        noise = set()
        while time.monotonic() - began_quiet < a.quiet:
            noise |= p.firing() or set()
            time.sleep(0.5)
        bad.extend(f"fired while all was well: {x}" for x in noise)
        fault("workers die", ["OrchestraWorkerRestarts"], lambda: kill_workers(o), lambda: None)
        fault("PostgreSQL is dead", ["OrchestraFeedLost", "OrchestraBreakerOpen", "OrchestraNotReady", "OrchestraJournalLag"],
              lambda: pg.stop("immediate"), pg.start)

        def fill():
            pg.stop("immediate")
            load.heavy = True

        def empty():
            load.heavy = False
            pg.start()
        fault("the journal fills", ["OrchestraJournalHalfFull", "OrchestraJournalFull"], fill, empty)
        fault("the breaker is opened by hand", ["OrchestraBreakerOpen"], lambda: o.post("/v1/admin/breakers/store/open"),
              lambda: o.post("/v1/admin/breakers/store/reset"))
        scrapes = p.value('count_over_time(up{job="orchestra"}[1h])')
        missed = scrapes - p.value('sum_over_time(up{job="orchestra"}[1h])')
        fault("the daemon is dead", ["OrchestraDown"], o.stop, o.start)
        load.stop.set()
        load.join(30)
        out.update(seconds=round(time.monotonic() - began), rounds_of_load=load.done, scrapes=scrapes, scrapes_missed=missed,
                   scrape_s={q: p.value('quantile_over_time(%s, scrape_duration_seconds{job="orchestra"}[1h])' % q) for q in ("0.5", "0.99")},
                   samples=p.value('max_over_time(scrape_samples_scraped{job="orchestra"}[1h])'))
        bad.extend([f"{missed:.0f} scrapes failed"] if missed else [])
    out["bad"] = bad
    return tell(a, out)


if __name__ == "__main__":
    sys.exit(main())
