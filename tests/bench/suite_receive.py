"""Receiving a memory with an embedding of 1,536 floats: CPU time of the api worker for everything it does (parse,
validate, build the transaction, hand it to sync, answer) beside evhttp + jansson that parse, check and answer.
Nobody waits for the disk here (journal.durability = relaxed): a worker that sleeps between two answers would be
charged for falling asleep. Durable adds are in "add", sync's own time is in "sync"."""
import json
import random
import subprocess

import rig as r
from suite_add import HELD, JSON, settle


def run(rig, report):
    random.seed(1)
    numbers = ",".join(f"{random.uniform(-0.1, 0.1):.9f}" for _ in range(1536))
    body = '{"content":"Ada likes her tea without sugar.","user_id":"ada","embedding":[%s]}' % numbers
    json.loads(body)
    path, port = rig.path("float.json"), r.free_port()
    with open(path, "w") as f:
        f.write(body)
    options = (*JSON, "-B", path, "-c", 64)
    with rig.daemon("receive", "api.workers=1", "journal.durability=relaxed", *HELD) as d, \
            r.Process([rig.program("evhttp_jansson"), str(port)], port, core=r.SERVER_CORE) as reference:
        api = next(pid for name, pid in d.workers().items() if "api" in name)
        subprocess.run(["taskset", "-a", "-cp", r.SERVER_CORE, str(api)], check=True, stdout=subprocess.DEVNULL)

        def ours():
            out = rig.load(f"127.0.0.1:{d.port}", "/v1/memories", *options, pid=api)
            settle(d)
            return out

        a, b = rig.compare(ours, lambda: rig.load(f"127.0.0.1:{port}", "/v1/memories", *options, pid=reference.pid))
    key = lambda x: x["rps_per_cpu"]  # noqa: E731
    report.add("receive", f"1,536 floats, {len(body)} B", r.median(map(key, a)), "req/CPU-s", r.median(map(key, b)),
               "evhttp + jansson", r.ratio(a, b, key), 15)
    report.add("receive", "CPU of the api worker a request", r.median(x["cpu_us"] for x in a), "us",
               r.median(x["cpu_us"] for x in b), "evhttp + jansson")
