#!/usr/bin/python3
"""Reloads, upgrades and deaths under load: is any request refused, does anything grow, what do others notice?

Part 1: wrk reads at about half of what it can saturate, and clients write and read back, while the daemon is told to
reload (every fifth time with a bad file) and to upgrade. Counted: requests that failed or were not answered 2xx, descriptors
and memory of the supervisor, descriptors of workers, acknowledged writes that are not there afterwards.

Part 2: the 99th percentile of reads while a worker of each role is killed again and again, beside a run without. Reads on
connections of the killed worker break, and are counted; the others are the untouched ones.

    tests/chaos/lifecycle.py [--reloads 100] [--upgrades 20] [--seconds 6] [--out FILE]

Prints JSON; exit code 1 when a request failed in part 1, something acknowledged is missing, or descriptors grew.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from load import Clients  # noqa: E402
from orchestra import BUILD, Orchestra  # noqa: E402


class Daemon(Orchestra):
    def __init__(self, **kw):
        super().__init__(**kw, start=False)
        self.binary = os.path.join(self.dir, "orchestrad")
        self.install()
        self.start()
        self.paths = [f"/v1/memories/{self.add(f'memory number {i} about tea')['id']}" for i in range(200)]

    def install(self):
        shutil.copy(os.path.join(BUILD, "orchestrad"), self.binary + ".new")
        os.replace(self.binary + ".new", self.binary)

    def configure(self, text):
        with open(os.path.join(self.dir, "orchestra.conf"), "w") as f:
            f.write(text)

    def status(self):
        return json.loads(self.ctl("status", "--json").stdout)

    def settled(self, workers):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            r = self.ctl("status", "--json")
            if r.returncode == 0:
                s = json.loads(r.stdout)
                if len(s["workers"]) == workers and all(w["state"] == "ready" for w in s["workers"]):
                    return s
            time.sleep(0.05)
        raise AssertionError("not settled:\n" + self.log())


class Wrk:
    def __init__(self, o, connections, seconds):
        self.process = subprocess.Popen(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "20s",
                                         f"http://127.0.0.1:{o.port}{o.paths[0]}"], stdout=subprocess.PIPE, text=True)

    def result(self):
        out = self.process.communicate()[0]

        def ms(text):
            n, unit = re.match(r"([\d.]+)(us|ms|s)", text).groups()
            return float(n) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        return {"requests": int(re.search(r"(\d+) requests in", out)[1]), "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
                "p50_ms": ms(re.search(r"(?m)^\s+50%\s+(\S+)", out)[1]), "p99_ms": ms(re.search(r"(?m)^\s+99%\s+(\S+)", out)[1]),
                "socket_errors": sum(map(int, errors.groups())) if errors else 0, "not_2xx": int(bad[1]) if bad else 0}


def half_load(o):
    full = Wrk(o, 64, 2).result()["per_s"]
    rates = {c: Wrk(o, c, 1).result()["per_s"] for c in (1, 2, 3, 4, 6)}
    c = min(rates, key=lambda k: abs(rates[k] - full / 2))
    return full, c, rates[c]


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(o):
    s = o.status()
    return {"fds": descriptors(s["pid"]), "rss": s["rss_bytes"],
            "worker_fds": max(descriptors(w["pid"]) for w in s["workers"] if w["state"] == "ready")}


def churn(a):
    o = Daemon(conf='sync: { batch_max = 500; };\n', sets=["api.workers=2"])
    full, connections, rate = half_load(o)
    first = sample(o)
    seconds = max(10, int(a.reloads * 0.15 + a.upgrades * 1.2))
    wrk = Wrk(o, connections, seconds)
    began, samples, every = time.monotonic(), [], max(1, a.reloads // max(1, a.upgrades))
    took = []
    with Clients(o, 2, unix=1, pause=0.005) as clients:
        for n in range(a.reloads):
            bad = n % 5 == 4
            o.configure('sync: { batch_max = "many"; };\n' if bad else f"sync: {{ batch_max = {100 + n}; }};\n")
            r = o.ctl("reload")
            assert (r.returncode != 0) == bad, r
            if bad:
                o.configure(f"sync: {{ batch_max = {100 + n}; }};\n")
            if n % every == every - 1 and len(took) < a.upgrades:
                o.install()
                r = o.ctl("upgrade")
                assert r.returncode == 0, r
                took.append(float(re.search(r"in ([\d.]+) s", r.stdout)[1]))
            if n % 20 == 19:
                samples.append(sample(o))
        remaining = seconds - (time.monotonic() - began)
        if remaining > 0:
            time.sleep(remaining)
    reads = wrk.result()
    o.settled(5)
    last = sample(o)
    clients.check_data()
    o.stop()
    o.start()
    clients.check_data()
    o.cleanup()
    return {"saturation_per_s": round(full), "connections": connections, "half_load_per_s": round(rate), "reads": reads,
            "writes": {"requests": clients.requests, "failed": clients.failures[:10], "acknowledged": len(clients.acknowledged),
                       "slowest_ms": round(clients.slowest * 1000, 1)},
            "reloads": a.reloads, "upgrades": len(took), "upgrade_s": {"median": sorted(took)[len(took) // 2] if took else None,
                                                                         "max": max(took, default=None)},
            "first": first, "samples": samples, "last": last}


def deaths(a):
    o = Daemon(sets=["api.workers=2"])
    out = {}
    for role in (None, "warmer", "pinger", "sync", "api", None):
        wrk = Wrk(o, 4, a.seconds)
        until, killed = time.monotonic() + a.seconds - 0.5, 0
        while time.monotonic() < until:
            time.sleep(0.5)
            pid = next((p for n, p in o.workers().items() if role and role in n), None)
            if pid:
                os.kill(pid, signal.SIGKILL)
                killed += 1
        name = (role or "nobody") + ("" if role or "nobody" not in out else " again")
        out[name] = {**wrk.result(), "killed": killed}
        o.settled(5)
    o.cleanup()
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--reloads", type=int, default=100)
    p.add_argument("--upgrades", type=int, default=20)
    p.add_argument("--seconds", type=int, default=6)
    p.add_argument("--out")
    a = p.parse_args()
    r = {"churn": churn(a), "deaths": deaths(a)}
    c = r["churn"]
    failed = len(c["writes"]["failed"]) + c["reads"]["socket_errors"] + c["reads"]["not_2xx"]
    # Clients of PATH.ctl come and go; api's reader threads open the store's files when they first need them.
    r["ok"] = not failed and c["last"]["fds"] <= c["first"]["fds"] + 4 and c["last"]["worker_fds"] <= c["first"]["worker_fds"] + 8
    text = json.dumps(r, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 0 if r["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
