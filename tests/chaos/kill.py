#!/usr/bin/python3
"""SIGKILLs random workers and the supervisor under a mixed load and checks every acknowledged write.

Each client owns its memories, so it knows exactly what it was told: acknowledged states must be there,
deleted memories must stay away, and a request without an answer may have happened or not (both are
accepted, but only one of them, and for good). Prints a JSON report; exit code 1 on any violation.

    tests/chaos/kill.py --kills 1000 [--clients 8] [--seed 1] [--out report.json]
"""
import argparse
import http.client
import json
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from orchestra import Orchestra  # noqa: E402

CLIENT_TIMEOUT = 15  # a request without an answer for this long counts as a wedged client


class Client(threading.Thread):
    def __init__(self, world, k):
        super().__init__(daemon=True)
        self.world, self.k = world, k
        self.rnd = random.Random(world.args.seed * 1000 + k)
        self.ns = f"chaos{k}"
        self.conn = None
        self.state = {}      # id -> (version, content) acknowledged
        self.deleted = set()  # ids whose deletion was acknowledged
        self.maybe = {}      # id -> operation without an answer
        self.lost_adds = {}  # content -> add without an answer (nobody knows its id)
        self.n = self.acked = self.unanswered = self.retry_after = 0
        self.wedged = []
        self.busy_since = None

    def call(self, method, path, body=None):
        self.busy_since = time.monotonic()
        try:
            if not self.conn:
                self.conn = http.client.HTTPConnection("127.0.0.1", self.world.o.port, timeout=CLIENT_TIMEOUT)
            self.conn.request(method, path, json.dumps(body) if body is not None else None,
                              {"Content-Type": "application/json"})
            r = self.conn.getresponse()
            data = r.read()
            if r.will_close:
                self.conn.close()
                self.conn = None
            return r.status, data
        except (OSError, http.client.HTTPException) as e:
            if isinstance(e, TimeoutError):
                self.wedged.append(f"{method} {path}: no answer in {CLIENT_TIMEOUT} s")
            if self.conn:
                self.conn.close()
            self.conn = None
            return None, None
        finally:
            self.busy_since = None

    def settled(self):
        return [i for i in self.state if i not in self.maybe]

    def step(self):
        r = self.rnd.random()
        ids = self.settled()
        if r < 0.45 or not ids:
            self.add()
        elif r < 0.65:
            self.patch(self.rnd.choice(ids))
        elif r < 0.75:
            self.delete(self.rnd.choice(ids))
        elif r < 0.9:
            self.read(self.rnd.choice(ids))
        elif r < 0.95:
            self.bulk()
        else:
            self.find(self.rnd.choice(ids))

    def outcome(self, status):
        if status is None or status >= 500:
            self.unanswered += status is None
            self.retry_after += status is not None
            time.sleep(0.005)
            return False
        self.acked += 1
        return True

    def add(self):
        self.n += 1
        content = f"client {self.k} memory {self.n} zebra{self.k}x{self.n}"
        status, data = self.call("POST", "/v1/memories", {"content": content, "namespace": self.ns})
        if status == 201:
            m = json.loads(data)
            self.state[m["id"]] = (m["version"], content)
            self.acked += 1
        elif status is None:
            self.lost_adds[content] = True
            self.unanswered += 1
        elif status >= 500:
            self.refused(content)
        else:
            self.world.violation(f"add answered {status}: {data[:200]}")

    def refused(self, content):
        """A 5xx with an answer says that nothing was stored, or that the outcome is open: treat as open."""
        self.lost_adds[content] = True
        self.retry_after += 1
        time.sleep(0.005)

    def bulk(self):
        contents = []
        for _ in range(self.rnd.randint(2, 40)):
            self.n += 1
            contents.append(f"client {self.k} memory {self.n} zebra{self.k}x{self.n}")
        status, data = self.call("POST", "/v1/memories", {"namespace": self.ns, "memories": [{"content": c} for c in contents]})
        if status == 201:
            for c, m in zip(contents, json.loads(data)["memories"]):
                self.state[m["id"]] = (m["version"], c)
            self.acked += 1
        else:
            for c in contents:
                self.lost_adds[c] = tuple(contents)
            self.outcome(status)

    def patch(self, i):
        self.n += 1
        version, _ = self.state[i]
        content = f"client {self.k} patched {self.n} zebra{self.k}x{self.n}"
        status, data = self.call("PATCH", f"/v1/memories/{i}", {"content": content})
        if status == 200:
            m = json.loads(data)
            if m["version"] != version + 1:
                self.world.violation(f"PATCH of {i} at version {version} answered version {m['version']}")
            self.state[i] = (m["version"], content)
            self.acked += 1
        elif not self.outcome(status):
            self.maybe[i] = ("patch", version + 1, content)
        else:
            self.world.violation(f"PATCH of {i} answered {status}: {data[:200]}")

    def delete(self, i):
        status, data = self.call("DELETE", f"/v1/memories/{i}")
        if status == 204:
            del self.state[i]
            self.deleted.add(i)
            self.acked += 1
        elif not self.outcome(status):
            self.maybe[i] = ("delete", None, None)
        else:
            self.world.violation(f"DELETE of {i} answered {status}: {data[:200]}")

    def read(self, i):
        status, data = self.call("GET", f"/v1/memories/{i}")
        if self.outcome(status):
            self.compare(i, status, data, "GET")

    def compare(self, i, status, data, where):
        version, content = self.state[i]
        if status != 200:
            self.world.violation(f"{where}: acknowledged {i} version {version} answered {status}")
            return
        m = json.loads(data) if isinstance(data, bytes) else data
        if (m["version"], m["content"]) != (version, content):
            self.world.violation(f"{where}: {i} should be version {version}, is {m['version']} ({m['content']!r} for {content!r})")

    def find(self, i):
        content = self.state[i][1]
        status, data = self.call("POST", "/v1/memories/search", {"query": content.split()[-1], "namespace": self.ns, "limit": 3})
        if self.outcome(status) and i not in [m["id"] for m in json.loads(data)["results"]]:
            self.world.violation(f"search: {i} ({content}) is not among the results: {data[:300]}")

    def run(self):
        while not self.world.stop.is_set():
            self.world.gate.wait()
            with self.world.turn:
                self.world.active += 1
            try:
                if self.world.gate.is_set():
                    self.step()
            finally:
                with self.world.turn:
                    self.world.active -= 1

    # ---- when all is quiet: everything is compared ----
    def settle(self, o):
        """Asks for what nobody knows; from here on it is known."""
        for i, (op, version, content) in list(self.maybe.items()):
            r = o.memory(i)
            if r.status == 404 and op == "delete":
                del self.state[i]
                self.deleted.add(i)
            elif r.status == 200 and op == "patch" and r.json["version"] == version and r.json["content"] == content:
                self.state[i] = (version, content)
            else:
                self.compare(i, r.status, r.body, "unanswered " + op)
        self.maybe.clear()
        listed = {m["id"]: m for m in o.list_all(namespace=self.ns, limit=1000)}
        found = {m["content"] for m in listed.values()}
        for i, m in listed.items():
            if i not in self.state and m["content"] in self.lost_adds and m["version"] == 1:
                self.state[i] = (1, m["content"])
                whole = self.lost_adds[m["content"]]
                if isinstance(whole, tuple) and not set(whole) <= found:
                    self.world.violation(f"a bulk is half there: {m['content']}")
        self.lost_adds.clear()
        return listed

    def check(self, o):
        listed = self.settle(o)
        for i in self.state:
            if i not in listed:
                self.world.violation(f"list: acknowledged {i} is missing")
            else:
                self.compare(i, 200, listed[i], "list")
        for i in listed:
            if i in self.deleted:
                self.world.violation(f"list: deleted {i} is back")
            elif i not in self.state:
                self.world.violation(f"list: {i} was never stored by us")
        for i in self.rnd.sample(list(self.state), min(20, len(self.state))):
            r = o.memory(i)
            self.compare(i, r.status, r.body, "GET after")
            hits = o.search(self.state[i][1].split()[-1], namespace=self.ns, limit=3)
            if i not in [m["id"] for m in hits]:
                self.world.violation(f"search after: {i} ({self.state[i][1]}) not found: {[h['content'] for h in hits]}")
        for i in self.rnd.sample(sorted(self.deleted), min(20, len(self.deleted))):
            if o.memory(i).status != 404:
                self.world.violation(f"GET after: deleted {i} is back")
        self.shrink(o)

    def shrink(self, o):
        """Keeps the world small, so that a thousand rounds stay quick."""
        for i in list(self.state)[:-300] if len(self.state) > 600 else []:
            if o.delete(f"/v1/memories/{i}").status != 204:
                self.world.violation(f"DELETE of {i} while quiet failed")
            del self.state[i]
            self.deleted.add(i)


class World:
    def __init__(self, args):
        self.args = args
        self.rnd = random.Random(args.seed)
        self.o = Orchestra(sets=args.set)
        self.violations = []
        self.stop, self.gate, self.turn = threading.Event(), threading.Event(), threading.Lock()
        self.active = 0
        self.kills, self.recovery = {}, []
        self.clients = [Client(self, k) for k in range(args.clients)]

    def violation(self, text):
        self.violations.append(text)
        print("VIOLATION", text, file=sys.stderr, flush=True)

    def quiet(self):
        self.gate.clear()
        deadline = time.monotonic() + CLIENT_TIMEOUT + 5
        while self.active and time.monotonic() < deadline:
            time.sleep(0.002)
        if self.active:
            self.violation(f"{self.active} clients are wedged")

    def recovered(self, since):
        """Seconds until a write is acknowledged again."""
        deadline = since + 10
        while time.monotonic() < deadline:
            try:
                r = self.o.request("POST", "/v1/memories", {"content": "probe", "namespace": "probe", "ttl": 60}, fresh=True, timeout=10)
                if r.status == 201:
                    return time.monotonic() - since
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.002)
        self.violation("no recovery within 10 s")
        return 10

    def kill_one(self):
        workers = self.o.workers()
        names = sorted(workers)
        if not names or self.rnd.random() < 0.1:
            name = "supervisor"
            start = time.monotonic()
            self.o.kill()
            self.o.start(wait=False)
        else:
            victim = self.rnd.choice(names)
            name = "".join(c for c in victim if not c.isdigit()).strip(".-: ") or victim
            start = time.monotonic()
            try:
                os.kill(workers[victim], signal.SIGKILL)
            except ProcessLookupError:
                return
        self.kills[name] = self.kills.get(name, 0) + 1
        self.recovery.append((name, self.recovered(start)))

    def run(self):
        for c in self.clients:
            c.start()
        self.gate.set()
        done = 0
        while done < self.args.kills and len(self.violations) < 20:
            time.sleep(self.rnd.uniform(0.01, 0.25))
            self.kill_one()
            done += 1
            if done % self.args.check_every == 0 or done == self.args.kills:
                self.quiet()
                self.o.wait_ready(timeout=10)
                for c in self.clients:
                    c.check(self.o)
                print(f"{done} kills, {sum(c.acked for c in self.clients)} acknowledged, {len(self.violations)} violations",
                      file=sys.stderr, flush=True)
                self.gate.set()
        self.stop.set()
        self.quiet()
        self.gate.set()

    def report(self):
        times = sorted(t for _, t in self.recovery)
        by = {}
        for name, t in self.recovery:
            by.setdefault(name, []).append(t)
        for c in self.clients:
            for w in c.wedged:
                self.violation("wedged client: " + w)
        return {"kills": sum(self.kills.values()), "by_role": self.kills,
                "acknowledged": sum(c.acked for c in self.clients),
                "unanswered": sum(c.unanswered for c in self.clients),
                "refused_5xx": sum(c.retry_after for c in self.clients),
                "violations": self.violations,
                "recovery_s": {"p50": times[len(times) // 2], "p99": times[int(len(times) * .99)], "max": times[-1],
                               "max_by_role": {k: max(v) for k, v in by.items()}} if times else {}}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--kills", type=int, default=1000)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--check-every", type=int, default=25)
    p.add_argument("--set", action="append", default=[])
    p.add_argument("--out")
    args = p.parse_args()
    w = World(args)
    try:
        w.run()
        report = w.report()
        report["seed"] = args.seed
    finally:
        if w.violations:
            print(w.o.log()[-6000:], file=sys.stderr)
        w.o.cleanup()
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        with open(args.out, "w") as f:
            f.write(text)
    sys.exit(1 if report["violations"] else 0)


if __name__ == "__main__":
    main()
