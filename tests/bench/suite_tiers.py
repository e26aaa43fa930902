"""What a read costs, by the tier that has it: GETs one after the other on one connection over a Unix socket, of memories that
L1 has, that are known not to be there, that are pending, that Redis has, and that only the store has; beside the hit."""
import socket
import time
import uuid

import rig as r


class Client:
    """As little of a client as there can be: its own time is part of every figure."""

    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(path)

    def get(self, memory):
        """µs, and the head of the reply."""
        ask = b"GET /v1/memories/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % memory.encode()
        start = time.perf_counter_ns()
        self.s.sendall(ask)
        got = self.s.recv(65536)
        took = (time.perf_counter_ns() - start) / 1000
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(next(line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")))
        while len(body) < length:
            body += self.s.recv(65536)
        return took, head


def measure(o, ids, expect, purge=True):
    if purge:
        assert o.post("/v1/admin/cache:purge", {"tier": "l1"}).status == 200
    c = Client(o.socket)
    times = []
    for i in ids:
        took, head = c.get(i)
        assert expect in head, (expect, head)
        times.append(took)
    c.s.close()
    times.sort()
    return {"p50": r.median(times), "p99": times[int(len(times) * 0.99)]}


def add(o, n, tag):
    made = []
    for k in range(0, n, 500):
        reply = o.post("/v1/memories", {"memories": [{"content": f"{tag} {k + i} " + "text " * 100} for i in range(min(500, n - k))]})
        assert reply.status == 201, reply
        made += [m["id"] for m in reply.json["memories"]]
    return made


def stored(o):
    from fleet import flushed
    r.wait_for(lambda: flushed(o), 60, "the store to have it all")


def run(rig, report):
    if not r.have("redis-server"):
        raise r.Skip("redis-server is not installed")
    from postgres import Postgres
    from redis import Redis
    n = 1000 if rig.quick else 4000
    got = {}
    with rig.daemon("tiers-sqlite", "api.workers=1") as o:
        ids = add(o, n, "sqlite")
        stored(o)
        got["store, SQLite"] = measure(o, ids, b"fwd=miss")
        got["L1"] = measure(o, ids, b"hit", purge=False)
        nobody = [str(uuid.uuid4()) for _ in range(n)]
        measure(o, nobody, b"fwd=miss", purge=False)
        got["L1, it is known that there is none"] = measure(o, nobody, b"negative", purge=False)
    with rig.daemon("tiers-pending", "api.workers=1", "sync.debounce_ms=60000", "sync.batch_max=100000") as o:
        got["journal, not stored yet"] = measure(o, add(o, n, "pending"), b"detail=journal")
    with Postgres(fsync=False) as pg, Redis() as redis:
        store = ["api.workers=1", "store.kind=postgres", "store.dsn=" + pg.dsn(dbname=pg.database())]
        with rig.daemon("tiers-fleet", *store, f"redis.url={redis.unix_url()}") as o:
            ids = add(o, n, "fleet")
            stored(o)
            time.sleep(1)  # the feed has told of it
            measure(o, ids, b"fwd=miss")
            time.sleep(1)
            got["L2, Redis over a Unix socket"] = measure(o, ids, b"orchestra-l2; hit")
        with rig.daemon("tiers-store", *store) as o:
            got["store, PostgreSQL over TCP"] = measure(o, ids, b"fwd=miss")
    hit = got["L1"]["p50"]
    for where, x in got.items():
        report.add("tiers", f"GET, found in {where}: p50", x["p50"], "us", reference=hit, reference_name="us, L1", better="less",
                   ratio={"median": x["p50"] / hit, "least": x["p50"] / hit, "most": x["p50"] / hit})
        report.add("tiers", f"GET, found in {where}: p99", x["p99"], "us", better="less")
