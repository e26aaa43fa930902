"""Start-up, what an idle daemon costs, and what memories cost in memory and on disk."""
import http.client
import os
import time

import loaded
import rig as r
from suite_add import metric


def processes(d):
    return [d.process.pid, *d.workers().values()]


def pss(d):
    return sum(r.memory_mb(pid)[0] for pid in processes(d))


def run_s(pids):
    """Time on a CPU of all threads, in seconds, to the nanosecond (utime and stime count in ticks of 10 ms)."""
    total = 0
    for pid in pids:
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/schedstat") as f:
                total += int(f.read().split()[0])
    return total / 1e9


def ready_ms(d):
    start = time.perf_counter()
    d.start(wait=False)
    while True:
        assert d.process.poll() is None, d.log()
        conn = http.client.HTTPConnection("127.0.0.1", d.port, timeout=5)
        try:
            conn.request("GET", "/readyz")
            if conn.getresponse().status == 200:
                return (time.perf_counter() - start) * 1e3
        except OSError:
            pass
        finally:
            conn.close()
        time.sleep(0.0005)


def starts(rig, report, n):
    """As somebody meets it: the first start of all, and starts on what is there."""
    times = []
    directory = loaded.directory(rig, n) if n else None
    for i in range(5 if rig.quick else 20):
        d = rig.daemon(f"start-{i}", data=directory)
        d.stop()
        times.append(ready_ms(d))
        d.stop()
        d.cleanup()
    times.sort()
    what = f"ready, {n:,} memories" if n else "ready, empty"
    report.add("life", f"{what}, median of {len(times)} starts", r.median(times), "ms", goal=100, better="less")
    report.add("life", f"{what}, slowest", times[-1], "ms")


def idle(rig, report):
    with rig.daemon("idle") as d:
        time.sleep(2)
        report.add("life", f"idle memory, sum of PSS of {len(processes(d))} processes", pss(d), "MB", goal=40, better="less")
        seconds, before, pids = (5 if rig.quick else 20), None, processes(d)
        before, start = run_s(pids), time.monotonic()
        time.sleep(seconds)
        used = (run_s(pids) - before) / (time.monotonic() - start) * 100
        report.add("life", f"idle CPU over {seconds} s", used, "% of a core", goal=0.1, better="less")


def footprint(rig, report, n):
    data = loaded.directory(rig, n)
    with rig.daemon("empty-for-footprint") as d:
        time.sleep(1)
        empty = pss(d)
    with rig.daemon("", data=data) as d:
        time.sleep(1)
        full = pss(d)
        live = metric(d, "orchestra_vectors")
    report.add("life", f"PSS a 100,000 memories (at {n:,}, {live:,.0f} vectors of 1,536 floats)", (full - empty) / n * 1e5, "MB")
    store = sum(os.path.getsize(os.path.join(data, "data", f)) for f in os.listdir(os.path.join(data, "data"))
                if f.startswith("store.db"))
    text = sum(len(t) for t in loaded.texts(n)) / n
    report.add("life", f"store on disk a memory (text {text:.0f} B, vector 6,144 B)", store / n, "B")


def run(rig, report):
    n = 10000 if rig.quick else 100000
    idle(rig, report)
    starts(rig, report, 0)
    starts(rig, report, n)
    footprint(rig, report, n)
