#!/usr/bin/python3
"""SIGKILLs random workers and the supervisor under a mixed load and checks every acknowledged write.

What the clients know and compare is in tests/it/clients.py. Prints a JSON report; exit code 1 on any violation.

    tests/chaos/kill.py --kills 1000 [--clients 8] [--seed 1] [--out report.json]
"""
import argparse
import json
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
from clients import World  # noqa: E402
from orchestra import Orchestra  # noqa: E402


class Chaos(World):
    def __init__(self, args):
        super().__init__(Orchestra(sets=args.set), args.clients, args.seed, padding=40)  # so that segments of the journal come to their end
        self.args = args
        self.rnd = random.Random(args.seed)
        self.kills, self.recovery = {}, []

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
        self.start()
        done = 0
        while done < self.args.kills and len(self.violations) < 20:
            time.sleep(self.rnd.uniform(0.01, 0.25))
            self.kill_one()
            done += 1
            if done % self.args.check_every == 0 or done == self.args.kills:
                self.quiet()
                self.o.wait_ready(timeout=10)
                self.check()
                print(f"{done} kills, {self.counts()['acked']} acknowledged, {len(self.violations)} violations",
                      file=sys.stderr, flush=True)
                self.go_on()
        self.end()

    def report(self):
        times = sorted(t for _, t in self.recovery)
        by = {}
        for name, t in self.recovery:
            by.setdefault(name, []).append(t)
        counts = self.counts()
        return {"kills": sum(self.kills.values()), "by_role": self.kills,
                "acknowledged": counts["acked"], "unanswered": counts["unanswered"], "refused_5xx": counts["retry_after"],
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
    w = Chaos(args)
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
