"""What it costs to be seen: the daemon as it comes, scraped every second, beside the same source that counts nothing, takes no times
(-DORC_BLIND, in build/blind) and keeps no request log (log.requests = 0). Processor time of the api worker for each
request, in turns of random order. Beside these the daemon as it comes without its request log, and with somebody who follows it."""
import contextlib
import json
import os
import random
import subprocess
import threading

import loaded
import rig as r
from corpus import Corpus

QUIET = ["log.requests=0", "log.level=error"]


@contextlib.contextmanager
def scraped(d):
    """As a Prometheus in a hurry does it."""
    over = threading.Event()

    def scrape():
        while not over.wait(1):
            d.get("/metrics", fresh=True)
    t = threading.Thread(target=scrape, daemon=True)
    t.start()
    try:
        yield
    finally:
        over.set()
        t.join()


@contextlib.contextmanager
def follower(rig, d):
    with subprocess.Popen([os.path.join(rig.build, "orchestractl"), "--socket", d.socket, "log", "-n", "0"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as p:
        try:
            yield
        finally:
            p.terminate()


def pinned(d):
    api = next(pid for name, pid in d.workers().items() if "api" in name)
    subprocess.run(["taskset", "-a", "-cp", r.SERVER_CORE, str(api)], check=True, stdout=subprocess.DEVNULL)
    return api


def shuffled(rounds, *measures):
    out = [[] for _ in measures]
    for _ in range(rounds):
        for i in random.sample(range(len(measures)), len(measures)):
            out[i].append(measures[i]())
    return out


def compare(rig, report, name, seen, others, ask):
    """Of the cost of a request: what is seen beside the others."""
    rounds = 5 if rig.quick else 15
    results = shuffled(rounds, lambda: ask(*seen), *(lambda o=o: ask(*o[1:]) for o in others))
    key = lambda x: x["rps_per_cpu"]  # noqa: E731
    for (what, *_), them in zip(others, results[1:]):
        goal = 0.97 if what == "blind" else None
        report.add("observe", f"{name}, beside {what}", r.median(map(key, results[0])), "req/CPU-s", r.median(map(key, them)), what,
                   r.ratio(results[0], them, key), goal)


def run(rig, report):
    import orchestra
    blind = os.path.join(rig.build, "blind")
    if not os.path.exists(os.path.join(blind, "orchestrad")):
        raise r.Skip("build/blind/orchestrad is not there: make bench-observe builds it")
    path = rig.path("searches.ndjson")
    with open(path, "w") as f:
        f.writelines(json.dumps({"query": q, "limit": 10}) + "\n" for q in Corpus().questions(200))
    with contextlib.ExitStack() as stack:
        daemons = {}
        for name, build, sets in (("seen", rig.build, ()), ("blind", blind, QUIET), ("no request log", rig.build, QUIET[:1]), ("followed", rig.build, ())):
            orchestra.BUILD = build
            source, directory = loaded.directory(rig, 10000), rig.path("observe-" + name.replace(" ", "-"))
            subprocess.run(["cp", "-a", source, directory], check=True)
            d = stack.enter_context(orchestra.Orchestra(directory=directory, sets=["api.workers=1", "cache.search_ttl=0 ms", *sets]))
            id_ = d.add("Ada likes her tea without sugar, prefers short answers and wants meetings after ten.")["id"]
            for _ in range(3):
                d.get(f"/v1/memories/{id_}")
            daemons[name] = (d, pinned(d), f"/v1/memories/{id_}")
        orchestra.BUILD = rig.build
        stack.enter_context(scraped(daemons["seen"][0]))
        stack.enter_context(follower(rig, daemons["followed"][0]))
        others = [(n, *daemons[n]) for n in ("blind", "no request log", "followed")]

        def load(*args, **kw):
            while "rps_per_cpu" not in (got := rig.load(*args, **kw)):
                pass  # it had no tick of a processor
            return got

        def get(unix, *options):
            return lambda d, api, target: load(d.socket if unix else f"127.0.0.1:{d.port}", target, *options, pid=api)

        def search(d, api, _):
            return load(f"127.0.0.1:{d.port}", "/v1/memories/search", "-m", "POST", "-H", "Content-Type: application/json", "-L", path, "-c", 8, pid=api)
        compare(rig, report, "cached GET, TCP", daemons["seen"], others, get(False, "-c", 64))
        compare(rig, report, "cached GET, Unix socket, pipeline 16", daemons["seen"], others, get(True, "-c", 64, "-p", 16))
        compare(rig, report, "search of 10,000", daemons["seen"], others, search)
