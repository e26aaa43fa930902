"""Durable adds over HTTP beside a bare libevent + llhttp server with the same group commit, which writes
records as long as the daemon's own and keeps nothing else."""
import json
import re

import rig as r
from corpus import Corpus

LINES = 5000  # different requests, sent in turns: rows that are all alike would be one cluster of the index
LENGTH = 135  # bytes of a memory
JSON = ("-m", "POST", "-H", "Content-Type: application/json", "-s", 201)
HELD = ("sync.debounce_ms=60000", "sync.batch_max=100000")  # the store waits until a round is over


def metric(d, name):
    return float(re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)", d.get("/metrics").body.decode(), re.M)[1])


def settle(d):
    """Until the store has everything, so that no round pays for the one before."""
    d.post("/v1/memories?wait=store", {"content": "settle", "namespace": "settle"}, timeout=120)
    r.wait_for(lambda: metric(d, "orchestra_journal_lag_records") == 0, 120, "the flush")


def record_bytes(d, body):
    before = metric(d, "orchestra_journal_bytes_total"), metric(d, "orchestra_journal_records_total")
    for _ in range(20):
        assert d.post("/v1/memories", body, headers={"Content-Type": "application/json"}).status == 201
    return int((metric(d, "orchestra_journal_bytes_total") - before[0]) /
               (metric(d, "orchestra_journal_records_total") - before[1]))


def case(rig, report, live, held, name, bodies, per_request, clients, goal):
    path = rig.path("bodies.ndjson")
    with open(path, "w") as f:
        f.writelines(body + "\n" for body in bodies)
    size = record_bytes(live, bodies[0])
    options = (*JSON, "-L", path, "-c", clients)
    ports = r.free_port(), r.free_port()

    def ours(d):
        out = rig.load(f"127.0.0.1:{d.port}", "/v1/memories", *options, core=None)
        settle(d)
        return out

    def bare(port):
        return rig.load(f"127.0.0.1:{port}", "/v1/memories", *options, core=None)

    program = rig.program("bare_commit")
    with r.Process([program, "-r", str(size), str(ports[0]), rig.path("bare0.seg")], ports[0]), \
            r.Process([program, "-t", "-r", str(size), str(ports[1]), rig.path("bare1.seg")], ports[1]):
        r.time.sleep(0.5)  # their files are made
        a, h, b, t = rig.compare(lambda: ours(live), lambda: ours(held), lambda: bare(ports[0]), lambda: bare(ports[1]))
    # The better of the two references is the reference.
    which, best = max((("one thread", b), ("commit thread", t)), key=lambda x: r.median(v["rps"] for v in x[1]))
    key = lambda x: x["rps"] * per_request  # noqa: E731
    reference = r.median(map(key, best)), f"bare group commit, {which}, {size} B records"
    report.add("add", f"{name}, {clients} client(s)", r.median(map(key, a)), "memories/s", *reference, r.ratio(a, best, key), goal)
    report.add("add", f"{name}, {clients} client(s), flush held back", r.median(map(key, h)), "memories/s", *reference,
               r.ratio(h, best, key))
    p50 = lambda x: x["p50_us"]  # noqa: E731
    report.add("add", f"{name}, {clients} client(s), p50", r.median(map(p50, a)), "us", r.median(map(p50, best)), "bare group commit",
               r.ratio(a, best, p50), 1.5 if clients == 1 and per_request == 1 else None, better="less")


def run(rig, report):
    corpus = Corpus()
    texts = [corpus.sentence(60, 60)[:LENGTH] for _ in range(LINES)]  # as long as each other: so are the records
    memories = [{"content": text, "user_id": "ada"} for text in texts]
    single = [json.dumps(m) for m in memories]
    bulk = [json.dumps({"memories": memories[i:i + 100]}) for i in range(0, LINES, 100)]
    with rig.daemon("add-live") as live, rig.daemon("add-held", *HELD) as held:
        for d in live, held:
            settle(d)
        for clients, goal in ((64, 0.7), (1, None)):
            case(rig, report, live, held, "durable add", single, 1, clients, goal)
        case(rig, report, live, held, "bulk of 100", bulk, 100, 4, None)
    with rig.daemon("add-plain", "embedder.kind=none") as live, rig.daemon("add-plain-held", "embedder.kind=none", *HELD) as held:
        for d in live, held:
            settle(d)
        case(rig, report, live, held, "durable add, no embedder", single, 1, 64, None)
