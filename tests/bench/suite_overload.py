"""More load than can be served, from clients that do not wait for each other (oload: Poisson arrivals, latencies from the
intended time of sending). Goodput: answers of 2xx within 250 ms. Each is measured at what saturates, at twice and at five
times that, with as many clients as connections, and writes also with one client that has them all; and a namespace that asks for little, alone and beside one that asks for twice of what there is.

  searches   30 results of 10,000 memories each: the processor is what is short
  lists      from a PostgreSQL server whose answers take 20 ms: the store is what is short
  writes     single durable adds, each answered when it is on the disk: journal and processor are what is short; also with the whole
             daemon on a processor that the clients do not use: at 5 × these need most of one, which is no longer there to be served with

The settings are sharper than the default ones, which let a queue of 200 ms stand for a second."""
import contextlib
import json
import shutil
import subprocess

import loaded
import rig as r
from corpus import Corpus
from suite_add import HELD, LENGTH, settle

SHARP = ["api.workers=1", "cache.search_ttl=0 ms", "overload.target=40 ms", "overload.interval=100 ms", "overload.free=2"]
DEADLINE = 250
CONNECTIONS = 8000  # never what is short: five times what saturates, all waiting for as long as an answer may take
MODEST = 200  # of a modest namespace: with thousands, most would say nothing until they are closed for that (http.head_timeout), all at once


# Each yields the daemon and what a greedy and a modest namespace ask of it: arguments for oload, and the target.

@contextlib.contextmanager
def searches(rig):
    corpus = Corpus()

    def ask(ns):
        path = rig.path(f"searches-{ns}.ndjson")
        with open(path, "w") as f:
            f.writelines(json.dumps({"query": q, "limit": 30, "namespace": ns}) + "\n" for q in corpus.questions(200))
        return ["-L", path, "-m", "POST"], "/v1/memories/search"

    with rig.daemon("", *SHARP, data=shutil.copytree(loaded.directory(rig, 10000), rig.path("overload-searches"))) as d:
        for _ in range(20):
            made = d.post("/v1/memories", {"namespace": "modest", "memories": [{"content": corpus.sentence(60, 60)[:LENGTH]} for _ in range(500)]})
            assert made.status == 201, made
        yield d, ask("default"), ask("modest")


@contextlib.contextmanager
def lists(rig):
    rig.daemon  # noqa: B018  (puts tests/it on the path)
    try:
        from orchestra import store_sets
        from postgres import Postgres
        from proxy import Proxy
        server = Postgres()
    except Exception as e:
        raise r.Skip(f"PostgreSQL: {e}") from e
    with server, Proxy(server) as wire:
        server.sql("CREATE DATABASE overload")
        with rig.daemon("overload", *store_sets(server, "overload", host=wire.host, port=wire.port), *SHARP, "breaker.slow_call=0 ms",
                        "api.reader_threads=4") as d:
            for ns in ("greedy", "modest"):
                d.post("/v1/memories?wait=store", {"content": "one", "namespace": ns})
            wire.delay(10)
            yield d, *((["-m", "GET"], f"/v1/memories?namespace={ns}") for ns in ("greedy", "modest"))
            wire.delay(0)


@contextlib.contextmanager
def writes(rig, name="writes"):
    """The flush to the store comes between the rounds (HELD, settle), so that none pays for what the one before has left."""
    path, corpus = rig.path("adds.ndjson"), Corpus()
    with open(path, "w") as f:
        f.writelines(json.dumps({"content": corpus.sentence(60, 60)[:LENGTH]}) + "\n" for _ in range(5000))
    with rig.daemon(name, *SHARP, *HELD, "journal.quota=4GiB", "journal.pending_max=10000000") as d:
        yield d, *((["-L", path, "-m", "POST"], f"/v1/memories?namespace={ns}") for ns in ("greedy", "modest"))


@contextlib.contextmanager
def writes_apart(rig):
    with writes(rig, "writes-apart") as made:
        for pid in (made[0].process.pid, *made[0].workers().values()):
            subprocess.run(["taskset", "-a", "-cp", r.SERVER_CORE, str(pid)], check=True, stdout=subprocess.DEVNULL)
        yield made


def shoot(rig, d, ask, rate, seconds, seed=1, conns=CONNECTIONS, more=()):
    args, target = ask
    return rig.tool("oload", "-r", rate, "-t", seconds, "-w", 1, "-c", conns, "-d", DEADLINE, "-S", seed, *args, *more, f"127.0.0.1:{d.port}", target,
                    core=r.CLIENT_CORE, check=False)


def saturation(rig, d, ask, seconds, threads):
    """So many answers a second to clients that wait for each: one for every thread, and as many more as may wait."""
    args, target = ask
    post = ["-m", "POST", "-H", "Content-Type: application/json", "-s", 200 if "search" in target else 201, *args[:2]] if "POST" in args else []
    return rig.load(f"127.0.0.1:{d.port}", target, *post, "-c", threads + 2, seconds=seconds)["rps"]


def goodput(rig, report, name, d, ask, threads):
    seconds = 2 if rig.quick else 5
    full = saturation(rig, d, ask, seconds, threads)

    def one(times, *more):
        settle(d)
        return shoot(rig, d, ask, full * times, seconds, more=more)
    rounds = rig.compare(*(lambda x=x: one(x) for x in (0.8, 1, 2, 5)), rounds=1 if rig.quick else 3)
    peak = max(r.median(x["goodput"] for x in rounds[k]) for k in range(3))
    for times, results in zip((0.8, 1, 2, 5), rounds):
        good, p99 = r.median(x["goodput"] for x in results), r.median(x["p99_ms"] for x in results)
        note = (f"{r.median(x['refused'] for x in results) / seconds:.0f} refused a second within {r.median(x['refused_p99_ms'] for x in results):.0f} ms, "
                f"{sum(x['late'] + x['abandoned'] for x in results)} late; the client sent them {r.median(x['sent_p50_ms'] for x in results):.1f} ms late")
        report.add("overload", f"{name}: goodput at {times:g} × saturation", good, "answers/s", peak, "peak", good / peak,
                   goal=0.9 if times >= 2 else None, note=note)
        report.add("overload", f"{name}: p99 of what is admitted at {times:g} ×", p99, "ms", goal=DEADLINE if times >= 2 else None, better="less", note=note)
        report.add("overload", f"{name}: p99 of what is admitted at {times:g} ×, from when it was sent", r.median(x["fresh_p99_ms"] for x in results), "ms",
                   goal=DEADLINE if times >= 2 else None, better="less", note=note)
    if name.startswith("writes"):
        got = [one(5, "-p") for _ in range(1 if rig.quick else 3)]
        report.add("overload", f"{name}: goodput at 5 × saturation, one client with all the connections", r.median(x["goodput"] for x in got), "answers/s",
                   peak, "peak", r.median(x["goodput"] for x in got) / peak, goal=0.9,
                   note=f"{r.median(x['late'] for x in got) / seconds:.0f} a second late, {100 * r.median(x['short_of_connections'] for x in got):.0f} % of the time short of connections")
    return full


def pair(rig, report, name, d, greedy, modest, full):
    """The modest one asks for a twentieth of what there is."""
    import threading
    seconds = 4 if rig.quick else 10

    def one(beside):
        out = []
        flood = threading.Thread(target=lambda: out.append(shoot(rig, d, greedy, 2 * full, seconds + 2)))
        settle(d)
        if beside:
            flood.start()
        got = shoot(rig, d, modest, full / 20, seconds, seed=2, conns=MODEST)
        if beside:
            flood.join()
            assert out and out[0]["offered"], "there was no flood"
        return got
    alone, beside = rig.compare(lambda: one(False), lambda: one(True), rounds=1 if rig.quick else 3)
    spread = r.ratio(beside, alone, lambda x: x["p99_ms"])
    report.add("overload", f"{name}: p99 of a modest namespace beside a greedy one", r.median(x["p99_ms"] for x in beside), "ms",
               r.median(x["p99_ms"] for x in alone), "ms alone", spread, goal=2, better="less",
               note=f"{sum(x['refused'] for x in beside)} of {sum(x['offered'] for x in beside)} of the modest one's refused")


def probes(rig, report, name, d, ask, full):
    """Whoever asks how the daemon is while it is flooded: each time on a new connection, of nobody known."""
    import http.client
    import threading
    import time
    seconds, took, got = 3 if rig.quick else 6, [], []
    settle(d)
    flood = threading.Thread(target=lambda: got.append(shoot(rig, d, ask, 5 * full, seconds)))
    flood.start()
    time.sleep(1.5)
    end = time.monotonic() + seconds - 1
    while time.monotonic() < end:
        start = time.perf_counter()
        c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=30)
        c.request("GET", "/livez")
        assert c.getresponse().status == 200
        c.close()
        took.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.02)
    flood.join()
    assert got and got[0]["offered"], "there was no flood"
    took.sort()
    report.add("overload", f"{name}: p99 of /livez, each on a new connection, at 5 ×", took[int(0.99 * (len(took) - 1))], "ms", note=f"median {r.median(took):.1f} ms")


def run(rig, report):
    for name, make, threads in (("searches", searches, 2), ("lists, store 20 ms away", lists, 4), ("writes", writes, 62),
                                ("writes, clients on another processor", writes_apart, 62)):
        try:
            with make(rig) as (d, greedy, modest):
                full = goodput(rig, report, name, d, greedy, threads)
                if name.startswith("writes"):
                    probes(rig, report, name, d, greedy, full)
                pair(rig, report, name, d, greedy, modest, full)
        except r.Skip as e:
            report.skip(f"overload, {name}", str(e))
