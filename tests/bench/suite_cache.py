"""Reading values of 1 KB from L1 beside Redis and memcached over their Unix sockets (bench_cache.c), and L1's hit ratios over
traces beside those of other policies (bench_hits.c)."""
import getpass
import json
import os
import re

import rig as r

KEYS, HOT, PIPELINE = 60000, 500, 100
NAMES = {"clock": "clock", "s3fifo": "S3-FIFO", "tinylfu": "ours, simulated"}


def reads(rig, keys, readers, writes=0):
    return lambda: rig.tool("bench_cache", rig.seconds, keys, readers, writes, "l1")


def asks(rig, server, process, pipelined, readers=1):
    return lambda: rig.tool("bench_cache", rig.seconds, KEYS, readers, 0, server, rig.path(server + ".sock"), process.pid, pipelined,
                            core=r.CLIENT_CORE)


def compare_reads(rig, report, redis, memcached):
    measures = {"l1": reads(rig, KEYS, 1), "two": reads(rig, KEYS, 2), "written": reads(rig, KEYS, 1, 5), "two_written": reads(rig, KEYS, 2, 5),
                "hot": reads(rig, HOT, 1), "two_hot": reads(rig, HOT, 2)}
    for server, process in (("redis", redis), ("memcached", memcached)):
        measures |= {server: asks(rig, server, process, 1), server + "_two": asks(rig, server, process, 1, 2),
                     server + "_pipe": asks(rig, server, process, PIPELINE)}
    got = dict(zip(measures, rig.compare(*measures.values(), rounds=3 if rig.quick else 5)))

    def row(what, name, reference, reference_name, goal=None, cpu=False):
        def rate(result):
            return result["per_cpu_s" if cpu else "per_s"]
        report.add("cache", what, r.median(map(rate, got[name])), "gets/CPU-s" if cpu else "gets/s", r.median(map(rate, got[reference])),
                   reference_name, r.ratio(got[name], got[reference], rate), goal)
    at_random = f"L1, {KEYS:,} keys at random"
    row(at_random, "l1", "redis", "Redis GET", 50)
    row(at_random, "l1", "redis_pipe", f"Redis GET, {PIPELINE} at once")
    row(at_random, "l1", "memcached", "memcached get")
    row(at_random, "l1", "memcached_pipe", f"memcached get, {PIPELINE} at once")
    row(at_random + ", per CPU-s", "l1", "redis", "Redis GET, client and server", 50, cpu=True)
    row(at_random + ", per CPU-s", "l1", "redis_pipe", f"Redis GET, {PIPELINE} at once", cpu=True)
    row(at_random + ", per CPU-s", "l1", "memcached", "memcached get, client and server", cpu=True)
    row(at_random + ", per CPU-s", "l1", "memcached_pipe", f"memcached get, {PIPELINE} at once", cpu=True)
    row("L1, two processes", "two", "l1", "one process", 1.8)
    row("L1, two processes, per CPU-s of each", "two", "l1", "one process", 1.8, cpu=True)
    row("L1, two processes", "two", "redis_two", "Redis GET, two clients")
    row(f"L1, {HOT} hot keys", "hot", "redis", "Redis GET", 50)
    row(f"L1, {HOT} hot keys, two processes", "two_hot", "hot", "one process", 1.8)
    row(f"L1, {HOT} hot keys, two processes, per CPU-s of each", "two_hot", "hot", "one process", 1.8, cpu=True)
    row("L1, 5 % of it writes", "written", "l1", "none")
    row("L1, two processes, 5 % of it writes", "two_written", "written", "one process")
    row("L1, two processes, 5 % of it writes, per CPU-s of each", "two_written", "written", "one process", cpu=True)
    for name, what in (("written", "one process"), ("two_written", "two processes")):
        for key, part in (("p50_ns", "p50"), ("p999_ns", "p99.9")):
            report.add("cache", f"a get among 5 % writes, {what}, {part}", r.median(x[key] for x in got[name]), "ns")


def questions(rig):
    """What LoCoMo asks about its conversations, as bench_hits reads it; None without the data."""
    path = os.path.join(os.environ.get("ORC_DATA", os.path.join(r.ROOT, "..", "shared", "data")), "locomo", "locomo-dev5.json")
    if not os.path.exists(path):
        return None
    with open(path) as f:
        conversations = json.load(f)
    with open(rig.path("questions.txt"), "w") as f:
        for c in conversations:
            talk = c["conversation"]
            sessions = sorted((k for k in talk if re.fullmatch(r"session_\d+", k)), key=lambda k: int(k.split("_")[1]))
            number = {turn["dia_id"]: n for n, turn in enumerate(t for k in sessions for t in talk[k])}
            f.write(f"c {len(number)}\n")
            for q in c["qa"]:
                if turns := [str(number[e.strip()]) for e in q.get("evidence", []) if e.strip() in number]:
                    f.write(f"q {' '.join(turns)}\n")
    return f.name


def compare_hits(rig, report):
    path = questions(rig)
    if not path:
        report.skip("hits", "without LoCoMo: ../shared/data is not there")
    rows = rig.tool("bench_hits", 300000 if rig.quick else 1000000, *([path] if path else []))
    for x in rows:
        others = ", ".join(f"{name} {100 * x[k]:.1f}" for k, name in NAMES.items())
        report.add("hits", f"{x['trace']}, {100 * x['share']:.0f} %", 100 * x["l1"], "%", 100 * x["lru"],
                   f"LRU; {others}; Belady {100 * x['belady']:.1f}", x["l1"] / x["lru"] if x["lru"] > 0.001 else None)

    def mean(policy):
        return sum(x[policy] / x["belady"] for x in rows) / len(rows)
    for policy, name, goal in (("lru", "LRU", 1), ("s3fifo", "S3-FIFO", 1), ("tinylfu", "simulated", 0.97)):
        report.add("hits", "mean share of Belady's hits", 100 * mean("l1"), "%", 100 * mean(policy), name, mean("l1") / mean(policy), goal)


def run(rig, report):
    for server in ("redis-server", "memcached"):
        if not r.have(server):
            raise r.Skip(f"{server} is not installed")
    sockets = rig.path("redis.sock"), rig.path("memcached.sock")
    with r.Process([r.have("redis-server"), "--port", "0", "--unixsocket", sockets[0], "--save", "", "--appendonly", "no", "--dir", rig.dir],
                   listens_on=sockets[0], core=r.SERVER_CORE) as redis, \
            r.Process([r.have("memcached"), "-u", getpass.getuser(), "-s", sockets[1], "-m", "512", "-t", "1"],
                      listens_on=sockets[1], core=r.SERVER_CORE) as memcached:
        compare_reads(rig, report, redis, memcached)
    compare_hits(rig, report)
