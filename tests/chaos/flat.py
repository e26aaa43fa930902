#!/usr/bin/python3
"""Millions of mixed requests, good and bad: does the memory of any process grow?

Clients send pipelined batches over the same 2,000 memories (GET, 304, 404, upserts, patches, searches, lists,
refused bodies, wrong methods, and now and then a malformed request, a vanished client or an import with bad
lines), so that nothing the daemon keeps has a reason to grow. RSS, PSS and private memory of every process are
sampled every --every requests. Growth is judged between the sample at a third of the run and the last one:
private memory of each process by --allow, and all shared memory by --allow-shared. The shared segments are made
small so that they are full by then: the cache, rings and pending table take their pages when they come round to
them, up to their configured size. Prints JSON; exit code 1 when memory grew, a worker died, or an answer was missing.

    tests/chaos/flat.py [--requests 10000000] [--every 500000] [--clients 6] [--allow 1024] [--allow-shared 16384] [--out FILE]
"""
import argparse
import json
import multiprocessing
import os
import random
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from orchestra import Orchestra  # noqa: E402

MEMORIES = 2000
BATCH = 128
H = b"Host: localhost\r\n"


def request(method, path, body=None, head=b""):
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\n%s%s%s\r\n%s" % (method, path, H, head, length, body or b"")


def upsert(i, rnd):
    words = " ".join(rnd.choice(("tea", "train", "mountain", "river", "cello", "violet", "harbour")) for _ in range(12))
    return json.dumps({"namespace": "flat", "content": f"memory {i} {words}", "external_id": f"e{i}", "user_id": f"u{i % 50}",
                       "metadata": {"n": i % 7}}).encode()


def one(rnd, ids):
    """A request and whether its connection ends with it."""
    x, i = rnd.random(), rnd.choice(ids)
    if x < 0.66:
        return request(b"GET", b"/v1/memories/" + i)
    if x < 0.74:
        return request(b"GET", b"/v1/memories/00000000-0000-7000-8000-%012d" % rnd.randrange(10**12))
    if x < 0.78:
        return request(b"GET", b"/v1/memories/" + i, head=b'If-None-Match: "%d"\r\n' % rnd.randrange(9))
    if x < 0.85:
        return request(b"POST", b"/v1/memories", rnd.choice((b"{", b"[]", b'{"content":5}', b'{"content":"x","embedding":[1,"a"]}',
                                                             b'{"content":"\xff"}', b'{"memories":[{}]}', b'{"content":"x","colour":1}')))
    if x < 0.89:
        return request(rnd.choice((b"PUT", b"DELETE", b"OPTIONS")), rnd.choice((b"/livez", b"/nothing", b"/v1/memories:count")))
    if x < 0.905:
        return request(b"GET", b"/v1/memories?namespace=flat&limit=5&user_id=u%d&filter=%%7B%%22metadata.n%%22:3%%7D" % rnd.randrange(60))
    if x < 0.915:
        return request(b"POST", b"/v1/memories/search", b'{"namespace":"flat","query":"%s","limit":3}' % rnd.choice((b"tea harbour", b"violet", b"cello train")))
    if x < 0.94:
        return request(b"GET", b"/v1/memories?" + rnd.choice((b"limit=x", b"cursor=z", b"namespace=%zz", b"filter=%7B")))
    if x < 0.95:
        return request(b"POST", b"/v1/memories", upsert(rnd.randrange(MEMORIES), rnd))
    if x < 0.955:
        return request(b"PATCH", b"/v1/memories/" + i, b'{"importance":0.%d}' % rnd.randrange(10), head=b'If-Match: "%d"\r\n' % rnd.randrange(50))
    if x < 0.96:
        return request(b"POST", b"/v1/memories:import?namespace=flat", b'{\n{"content":"","external_id":"z"}\n[]\n')
    return request(b"GET", rnd.choice((b"/livez", b"/readyz", b"/v1/namespaces/flat")))


class Connection:
    def __init__(self, o, rnd):
        if rnd.random() < 0.5:
            self.s = socket.create_connection(("127.0.0.1", o.port))
        else:
            self.s = socket.socket(socket.AF_UNIX)
            self.s.connect(o.socket)
        self.s.settimeout(60)
        self.tail = b""

    def answers(self, want):
        """Reads until `want` heads have come, or the end; returns how many came."""
        got = 0
        while got < want:
            data = self.s.recv(1 << 18)
            if not data:
                break
            data = self.tail + data
            got += data.count(b"X-Request-Id:")  # once in every head, and nowhere else
            self.tail = data[-12:]
        return got


def client(o, ids, seed, count, missing, stop):
    rnd = random.Random(seed)
    conn = Connection(o, rnd)
    batches = [[one(rnd, ids) for _ in range(BATCH)] for _ in range(60)]
    while not stop.value:
        for batch in rnd.sample(batches, len(batches)):
            ends = rnd.random()
            conn.s.sendall(b"".join(batch) + (b"GET / HTTP/1.1\r\n\r\n" if ends < 0.05 else b""))
            if ends > 0.97:  # vanishes without reading
                conn.s.close()
                conn = Connection(o, rnd)
            else:
                want = BATCH + (ends < 0.05)
                got = conn.answers(want)
                missing.value += want - got
                if ends < 0.05 or got < want:
                    conn.s.close()
                    conn = Connection(o, rnd)
            count.value += BATCH
            if stop.value:
                return
        batches[rnd.randrange(len(batches))] = [one(rnd, ids) for _ in range(BATCH)]


def sample(o, total):
    out = {"requests": total, "shared": 0}
    for name, pid in [("orchestrad", o.process.pid), *sorted(o.workers().items())]:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            rows = {line.split()[0]: int(line.split()[1]) for line in f if line.startswith(("Rss:", "Pss:", "Pss_Anon:", "Pss_Shmem:"))}
        out[name] = {"pid": pid, "rss": rows["Rss:"], "pss": rows["Pss:"], "private": rows["Pss_Anon:"]}
        out["shared"] += rows["Pss_Shmem:"]
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--requests", type=int, default=10_000_000)
    p.add_argument("--every", type=int, default=500_000)
    p.add_argument("--clients", type=int, default=6)
    p.add_argument("--allow", type=int, default=1024, help="KiB a process's private memory may grow")
    p.add_argument("--allow-shared", type=int, default=16384, help="KiB shared memory may grow: two chunks of the vector index")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out")
    args = p.parse_args()
    samples, wrong = [], []
    with Orchestra(sets=["cache.l1_bytes=4 MiB", "journal.pending_max=4096", "sync.ring_bytes=1 MiB"]) as o:
        rnd = random.Random(args.seed)
        for at in range(0, MEMORIES, 500):
            items = [json.loads(upsert(i, rnd)) for i in range(at, at + 500)]
            assert o.post("/v1/memories", {"memories": items}).status == 201
        ids = [m["id"].encode() for m in o.list_all(namespace="flat")]
        o.close_connection()
        counts = [multiprocessing.Value("q", 0) for _ in range(args.clients)]
        missing, stop = multiprocessing.Value("q", 0), multiprocessing.Value("b", 0)
        procs = [multiprocessing.Process(target=client, args=(o, ids, args.seed + k + 1, counts[k], missing, stop)) for k in range(args.clients)]
        start, done = time.monotonic(), 0
        for x in procs:
            x.start()
        while done < args.requests:
            time.sleep(0.2)
            done = sum(c.value for c in counts)
            if not all(x.is_alive() for x in procs):
                wrong.append("a client gave up")
                break
            if done >= len(samples) * args.every:
                samples.append(sample(o, done))
                print(json.dumps({k: v if isinstance(v, int) else v["private"] for k, v in samples[-1].items()}), file=sys.stderr, flush=True)
        stop.value = 1
        for x in procs:
            x.join(70)
        took = time.monotonic() - start
        samples.append(sample(o, done))
        first = next(s for s in samples if s["requests"] >= args.requests / 3) if not wrong else samples[0]
        growth = {"shared": samples[-1]["shared"] - first["shared"]}
        if growth["shared"] > args.allow_shared:
            wrong.append(f"shared memory grew by {growth['shared']} KiB")
        for name, v in samples[-1].items():
            if isinstance(v, dict):
                if first.get(name, {}).get("pid") != v["pid"]:
                    wrong.append(f"{name} was restarted")
                    continue
                growth[name] = {k: v[k] - first[name][k] for k in ("rss", "pss", "private")}
                if growth[name]["private"] > args.allow:
                    wrong.append(f"{name} grew: {growth[name]}")
        if missing.value:
            wrong.append(f"{missing.value} answers are missing")
        wrong += [line for line in o.log().splitlines() if " error " in line or "died" in line][:10]
    report = {"requests": done, "per_second": round(done / took), "growth_kib_after_a_third": growth, "wrong": wrong, "samples": samples}
    text = json.dumps(report, indent=1)
    if args.out:
        with open(args.out, "w") as f:
            f.write(text + "\n")
    print(text if not args.out else json.dumps({k: report[k] for k in list(report)[:-1]}, indent=1))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
