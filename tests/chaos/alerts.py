#!/usr/bin/python3
"""Does whoever is on call hear of it, and of nothing else? A real Prometheus with the rules of packaging/prometheus scrapes a daemon
with PostgreSQL under load, while things are broken and mended one after the other. The durations of the rules are divided by
--factor: what takes five minutes takes ten seconds with 30.

    tests/chaos/alerts.py [--factor 30] [--quiet 60] [--out FILE]

First nothing is broken for --quiet seconds. Prints JSON: for each fault when its alerts fired and were over; exit code 1 when one did not,
when anything fired while all was well, or when a scrape failed while the daemon was up.
"""
import argparse
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
                r = client.post("/v1/memories", {"content": f"{text}{self.done}"}, timeout=5)
                ids = (ids + [r.json["id"]])[-100:] if r.status == 201 else ids
                for i in ids[-10:]:
                    client.get(f"/v1/memories/{i}", timeout=5)
                client.post("/v1/memories/search", {"query": "tea"}, timeout=5)
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


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--factor", type=float, default=30)
    a.add_argument("--quiet", type=float, default=60)
    a.add_argument("--out")
    a = a.parse_args()
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
    text = json.dumps(out, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
