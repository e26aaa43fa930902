"""L2 beside hiredis' blocking GET of the same 7 KB on the same server, over TCP and a Unix socket (bench_redis.c)."""
import os

import rig as r

BYTES = 7168


def run(rig, report):
    server = r.have("redis-server")
    if not server:
        raise r.Skip("redis-server is not installed")
    rig.program("bench_redis")
    port, sock = r.free_port(), rig.path("redis.sock")
    os.makedirs(rig.path("redis"), exist_ok=True)
    argv = [server, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", sock, "--save", "", "--dir", rig.path("redis")]
    with r.Process(argv, listens_on=sock, core=r.SERVER_CORE):
        for name, url, where in (("TCP", f"redis://127.0.0.1:{port}", port), ("Unix socket", f"unix://{sock}", sock)):
            rounds = [rig.tool("bench_redis", url, where, 0.3 if rig.quick else 1, BYTES, core=r.CLIENT_CORE) for _ in range(rig.rounds)]
            sync = r.median(x["sync"] for x in rounds)
            for key, what, goal in (("one", "one value", 0.9), ("many", "a hundred values at once", 5)):
                report.add("redis", f"{what}, {name}", r.median(x[key] for x in rounds), "values/s", reference=sync,
                           reference_name="GETs by hiredis, one after the other", ratio=spread(rounds, key),
                           goal=goal)


def spread(rounds, key):
    v = sorted(x[key] / x["sync"] for x in rounds)
    return {"median": r.median(v), "least": v[0], "most": v[-1]}
