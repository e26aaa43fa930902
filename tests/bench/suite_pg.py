"""The flush to PostgreSQL beside a bare libpq program that upserts the same rows on the same server in one pipeline
per transaction, and beside single inserts (bare_pg.c); and how long an acknowledged write takes until the server
and a second daemon show it, while the first one is kept half busy."""
import base64
import json
import os
import random
import threading
import time

import rig as r

DIM, WORDS = 1536, "alpha coffee meeting garden deploy kernel window river music paris budget signal yellow planet anchor".split()
BATCH = 500


def memory(rng):
    text = " ".join(f"{rng.choice(WORDS)}{rng.randrange(500)}" for _ in range(18))
    return {"content": text, "metadata": {"topic": f"t{rng.randrange(100)}"},
            "embedding": base64.b64encode(b"".join((rng.getrandbits(23) | 0x3f000000).to_bytes(4, "little")
                                                   for _ in range(DIM))).decode()}


def daemon(rig, pg, name, db, *sets, data=None):
    conf = 'sync: { debounce_ms = 100; batch_max = %d; };\n' % BATCH
    from orchestra import Orchestra
    directory = rig.path(name)
    os.makedirs(directory, exist_ok=True)
    return Orchestra(directory=directory, conf=conf, sets=["log.level=warn", "api.workers=1", "store.kind=postgres", "store.dsn=" + pg.dsn(dbname=db),
                     "journal.quota=2 GiB", *sets])


def lag(o):
    text = o.get("/metrics").body.decode()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("orchestra_journal_lag_records "))


def flusher_cpu_s(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as f:
            if f.read().strip() == "flusher":
                return r.cpu_s(f"{pid}/task/{task}")
    return 0.0


def configure(o, debounce_ms, batch):
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write(f"sync: {{ debounce_ms = {debounce_ms}; batch_max = {batch}; }};\n")
    assert o.ctl("reload").returncode == 0


def drain(rig, pg, n, round_):
    """A backlog of n memories, one transaction each ten, is flushed at once."""
    db = pg.database()
    with daemon(rig, pg, f"pg-{round_}", db) as o:
        configure(o, 60000, 100000)
        rng = random.Random(round_)
        for _ in range(n // 100):
            assert o.post("/v1/memories", {"memories": [memory(rng) for _ in range(100)]}).status == 201
        pg.sql("CHECKPOINT")
        sync = o.workers()["sync"]
        before = flusher_cpu_s(sync)
        backend = pg.sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'orchestra sync%'")
        server = r.cpu_s(int(backend[0][0]))
        start = time.monotonic()
        configure(o, 0, BATCH)
        while lag(o):
            time.sleep(0.01)
        took = time.monotonic() - start
        out = {"per_s": n / took, "us": (flusher_cpu_s(sync) - before) / n * 1e6,
               "backend_us": (r.cpu_s(int(backend[0][0])) - server) / n * 1e6}
    return db, out


def bare(rig, pg, mode, source, n):
    target = pg.database(template=source)
    out = rig.tool("bare_pg", mode, pg.dsn(dbname=source), pg.dsn(dbname=target), n, BATCH)
    pg.sql(f'DROP DATABASE "{target}"')
    return out


def throughput(rig, report, pg):
    n = 10000 if rig.quick else 30000
    ours, piped, single = [], [], []
    for i in range(3 if rig.quick else 5):
        source, out = drain(rig, pg, n, i)
        ours.append(out)
        piped.append(bare(rig, pg, "pipeline", source, n))
        single.append(bare(rig, pg, "single", source, n // 10))
        pg.sql(f'DROP DATABASE "{source}"')
    rate, median = (lambda v: v["per_s"] if "per_s" in v else v["rows_per_s"]), r.median
    report.add("pg", "flush to PostgreSQL, 6.5 KB, one connection", median([o["per_s"] for o in ours]), "records/s",
               median([p["rows_per_s"] for p in piped]), "bare libpq pipeline", r.ratio(ours, piped, rate), 0.85)
    report.add("pg", "the same, absolute", median([o["per_s"] for o in ours]), "records/s", goal=10000)
    report.add("pg", "the same beside single inserts", median([o["per_s"] for o in ours]), "records/s",
               median([s["rows_per_s"] for s in single]), "single inserts", r.ratio(ours, single, rate))
    report.add("pg", "CPU of the flusher, a record", median([o["us"] for o in ours]), "us", median([p["client_us"] for p in piped]),
               "bare libpq pipeline", goal=10, better="less")
    report.add("pg", "CPU of the server's process, a record", median([o["backend_us"] for o in ours]), "us",
               median([p["backend_us"] for p in piped]), "for the bare pipeline")


def writer(o, rate, stop):
    """`rate` memories a second, in bulks of ten."""
    rng, due = random.Random(7), time.monotonic()
    bodies = [json.dumps({"memories": [memory(rng) for _ in range(10)]}) for _ in range(40)]
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", o.port)
    sent = 0
    while not stop.is_set():
        c.request("POST", "/v1/memories", bodies[sent % 40], {"Content-Type": "application/json"})
        c.getresponse().read()
        sent += 1
        due += 10 / rate
        time.sleep(max(0, due - time.monotonic()))


def visibility(rig, report, pg):
    db = pg.database()
    with daemon(rig, pg, "pg-a", db) as a, daemon(rig, pg, "pg-b", db) as b:
        stop = threading.Event()
        t = threading.Thread(target=writer, args=(a, 1e9, stop))  # as fast as it goes: how much is that?
        before, start = time.monotonic(), int(pg.sql("SELECT count(*) FROM memories", db=db)[0][0])
        t.start()
        time.sleep(5)
        stop.set()
        t.join()
        while lag(a):
            time.sleep(0.01)
        full = (int(pg.sql("SELECT count(*) FROM memories", db=db)[0][0]) - start) / (time.monotonic() - before)
        stop = threading.Event()
        t = threading.Thread(target=writer, args=(a, full / 2, stop))
        t.start()
        server = pg.session(pg.dsn(dbname=db))
        in_server, in_b = [], []
        for i in range(100 if rig.quick else 400):
            m = a.add(f"marker {i}")
            acknowledged, seen = time.monotonic(), [None, None]
            while None in seen:
                if seen[0] is None and server.execute("SELECT 1 FROM memories WHERE id=$1::uuid", m["id"]):
                    seen[0] = time.monotonic() - acknowledged
                if seen[1] is None and b.memory(m["id"]).status == 200:
                    seen[1] = time.monotonic() - acknowledged
                time.sleep(0.001)
            in_server.append(seen[0] * 1000)
            in_b.append(seen[1] * 1000)
        stop.set()
        t.join()
    for name, v in (("visible in PostgreSQL", in_server), ("visible on a second daemon", in_b)):
        v.sort()
        report.add("pg", f"acknowledged to {name}, p99 ({full / 2:.0f} writes/s beside)", v[int(len(v) * .99)], "ms", goal=250, better="less",
                   note=f"p50 {v[len(v) // 2]:.0f} ms")


def run(rig, report):
    try:
        from postgres import Postgres
    except ImportError as e:
        raise r.Skip(f"tests/it/postgres.py: {e}")
    rig.program("bare_pg")
    with Postgres(settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}) as pg:
        throughput(rig, report, pg)
        visibility(rig, report, pg)
