"""What all benchmarks share: processes on chosen cores, CPU and memory of processes, rounds that alternate."""
import ctypes
import json
import mmap
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TICK = os.sysconf("SC_CLK_TCK")
SERVER_CORE, CLIENT_CORE = "0", "1"


class Skip(Exception):
    """This measurement cannot be made here; the text says why."""


def have(program):
    return shutil.which(program) or next((p for p in (f"/usr/sbin/{program}", f"/sbin/{program}") if os.path.exists(p)), None)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, seconds=15, what="it"):
    end = time.monotonic() + seconds
    while not (got := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {seconds} s")
        time.sleep(0.002)
    return got


def answers(where):
    try:
        if isinstance(where, int):
            socket.create_connection(("127.0.0.1", where), timeout=1).close()
        else:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(where)
        return True
    except OSError:
        return False


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as f:
        v = f.read().rsplit(")", 1)[1].split()
    return (int(v[11]) + int(v[12])) / TICK


def memory_mb(pid):
    """(PSS, anonymous part of it) of a process in MB."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        v = dict(line.split(":", 1) for line in f.readlines()[1:])
    return tuple(int(v[k].split()[0]) * 1024 / 1e6 for k in ("Pss", "Pss_Anon"))


def warm_memory(gib):
    """Makes the kernel own this much memory once. On a virtual machine the first touch of a page costs
    several µs (the host has to find it), later ones a tenth of that; whoever comes first would pay."""
    size = int(gib * (1 << 30))
    start = time.monotonic()
    m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    at = ctypes.addressof(ctypes.c_char.from_buffer(m))
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), 23) == 0  # MADV_POPULATE_WRITE
    return (time.monotonic() - start) * 1e6 / (size / 4096) if done else None


class Process:
    """A server of ours or a reference: started, waited for, pinned, stopped."""

    def __init__(self, argv, listens_on=None, core=None, cwd=None):
        prefix = ["taskset", "-c", core] if core is not None else []
        self.p = subprocess.Popen([*prefix, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=cwd)
        if listens_on is not None:
            wait_for(lambda: answers(listens_on) or self.p.poll() is not None, 30, f"{argv[0]} listening")
        if self.p.poll() is not None:
            raise RuntimeError(f"{' '.join(argv)} ended with {self.p.returncode}")

    pid = property(lambda self: self.p.pid)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(5)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()


class Rig:
    def __init__(self, build, quick, sets=()):
        self.build, self.quick, self.sets = os.path.abspath(build), quick, sets
        os.environ["ORCHESTRA_BUILD"] = self.build
        sys.path.insert(0, os.path.join(ROOT, "tests", "it"))
        self.dir = os.path.join(self.build, "bench-run")  # on the disk of the build, never a tmpfs by accident
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.seconds = 0.8 if quick else 2.0
        self.rounds = 3 if quick else 7

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def program(self, name):
        path = os.path.join(self.build, "tests", "bench", name)
        if not os.path.exists(path):
            raise Skip(f"tests/bench/{name} is not built")
        return path

    def daemon(self, name, *sets, data=None):
        from orchestra import Orchestra
        directory = data or self.path(name)
        os.makedirs(directory, exist_ok=True)
        return Orchestra(directory=directory, sets=["log.level=warn", *sets])

    def tool(self, name, *args, core=None, check=True):
        """Runs one of our programs that prints a JSON object."""
        prefix = ["taskset", "-c", core] if core is not None else []
        r = subprocess.run([*prefix, self.program(name), *map(str, args)], capture_output=True, text=True)
        if check and r.returncode:
            raise RuntimeError(f"{name} {' '.join(map(str, args))}: {r.stderr.strip() or r.stdout.strip()}")
        return json.loads(r.stdout)

    def load(self, where, target="/", *options, pid=None, core=CLIENT_CORE, seconds=None):
        args = ["-t", self.seconds if seconds is None else seconds, "-w", 0.2, *options]
        got = self.tool("hload", *args, *(["-P", pid] if pid else []), where, target, core=core)
        if pid and "rps_per_cpu" not in got:
            raise RuntimeError(f"{where}: the server got no processor in a round of {args[1]} s; measure on an idle machine")
        return got

    def syscalls(self, pid, where, target, *options, requests):
        """System calls a request: all of that process while the client makes so many requests."""
        load = [self.program("hload"), "-n", str(requests), "-w", "0", *map(str, options), where, target]
        if have("perf"):
            r = subprocess.run(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid), "--",
                                "taskset", "-c", CLIENT_CORE, *load], capture_output=True, text=True)
            if found := re.search(r"^(\d+),+raw_syscalls", r.stderr, re.M):
                return int(found[1]) / json.loads(r.stdout)["requests"]
        if not have("strace"):
            raise Skip("neither perf nor strace is installed")
        out = self.path("strace.out")
        s = subprocess.Popen(["strace", "-c", "-f", "-o", out, "-p", str(pid)], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        done = json.loads(subprocess.run(load, capture_output=True, text=True).stdout)["requests"]
        s.send_signal(signal.SIGINT)
        s.wait()
        with open(out) as f:
            total = next(line for line in f if line.rstrip().endswith("total"))
        return int(re.findall(r"\d+", total.split("total")[0])[-1]) / done

    def compare(self, *measures, rounds=None):
        """Each measure is called once a round, in turns (A B C, A B C, …), so that whatever else the machine does
        meets all of them alike. Returns the lists of results, one for each measure."""
        out = [[] for _ in measures]
        for _ in range(rounds or self.rounds):
            for results, measure in zip(out, measures):
                results.append(measure())
        return out


def median(values):
    return statistics.median(values)


def ratio(ours, theirs, key=lambda r: r):
    """Median of the rounds' ratios, with their spread."""
    r = sorted(key(a) / key(b) for a, b in zip(ours, theirs))
    return {"median": median(r), "least": r[0], "most": r[-1]}


class Report:
    """Rows for the table and for bench.json."""

    def __init__(self):
        self.rows = []

    def add(self, group, name, ours, unit, reference=None, reference_name=None, ratio=None, goal=None, better="more",
            note=None):
        """`goal` is a limit for the ratio when there is one, else for our figure; `better`: more or less."""
        row = {"group": group, "name": name, "ours": ours, "unit": unit, "reference": reference,
               "reference_name": reference_name, "goal": goal, "better": better, "note": note}
        if isinstance(ratio, dict):
            row["ratio"], row["ratio_spread"] = ratio["median"], [ratio["least"], ratio["most"]]
        else:
            row["ratio"] = ratio
        judged = row["ratio"] if row["ratio"] is not None else ours
        row["met"] = None if goal is None else judged >= goal if better == "more" else judged <= goal
        self.rows.append(row)
        print(self.line(row), flush=True)

    def sheet(self, group, caption, head, lines):
        """A table of its own for the document: cells are text."""
        self.rows.append({"group": group, "name": "sheet", "caption": caption, "head": head, "lines": lines, "met": None})
        print(f"\n{caption}\n{self.line(self.rows[-1])}\n", flush=True)

    def skip(self, group, why):
        self.rows.append({"group": group, "name": "skipped", "note": why, "met": None})
        print(f"{group:9} skipped: {why}", flush=True)

    @staticmethod
    def number(v):
        if v is None:
            return "-"
        return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"

    def line(self, r):
        if r["name"] == "skipped":
            return f"{r['group']:9} skipped: {r['note']}"
        if r["name"] == "sheet":
            widths = [max(map(len, column)) for column in zip(r["head"], *r["lines"])]
            return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths)).rstrip() for line in (r["head"], *r["lines"]))
        reference = f"{self.number(r['reference'])} {r['reference_name']}" if r["reference"] is not None else ""
        times = ""
        if r["ratio"] is not None:
            low, high = r.get("ratio_spread", (None, None))
            times = f"{r['ratio']:.2f} ×" + (f" ({low:.2f}–{high:.2f})" if low is not None else "")
        verdict = "" if r["met"] is None else ("met " if r["met"] else "MISSED ") + \
            ("≥ " if r["better"] == "more" else "≤ ") + f"{r['goal']:g}" + (" ×" if r["ratio"] is not None else "")
        return f"{r['group']:9} {r['name']:46} {self.number(r['ours']):>9} {r['unit']:13} {times:21} {verdict:16} {reference}"

    def table(self):
        return "\n".join(self.line(r) for r in self.rows if r["name"] != "sheet")
