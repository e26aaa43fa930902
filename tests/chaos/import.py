#!/usr/bin/env python3
"""A large NDJSON file is imported into PostgreSQL; daemon and import are killed half way (-9), and both go on: the
same command again. At the end the server must have every memory once, with the content that its line has, and no
process may have grown with the file.

usage: import.py [--records N] [--kill-at FRACTION] [--sets KEY=VALUE]...
exit: 0 all there; 1 something is missing or doubled
"""
import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "it"))
sys.dont_write_bytecode = True
from orchestra import BUILD, Orchestra, kill_all  # noqa: E402
from postgres import Postgres  # noqa: E402

WORDS = "alpha coffee meeting garden deploy kernel window river music paris budget signal yellow planet anchor".split()


def content(i):
    return " ".join(WORDS[(i * 7 + k * k * 3 + i // (k + 3)) % len(WORDS)] + str((i >> k) % 97) for k in range(14)) + f" #{i}"


def write_file(path, n):
    with open(path, "w") as f:
        for i in range(n):
            f.write(f'{{"id":"0192{i >> 16 & 0xffff:04x}-{i & 0xffff:04x}-7000-8000-{i:012x}","content":"{content(i)}",'
                    f'"metadata":{{"line":{i}}},"user_id":"u{i % 1000}"}}\n')


def anonymous_mb(pid):
    """Memory of its own: shared segments have their own bounds."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            return int(dict(line.split(":", 1) for line in f.readlines()[1:])["Pss_Anon"].split()[0]) / 1024
    except (OSError, KeyError):
        return 0


class Sampler(threading.Thread):
    def __init__(self, pids):
        super().__init__(daemon=True)
        self.pids, self.peaks, self.over = pids, {}, False

    def run(self):
        while not self.over:
            for name, pid in self.pids().items():
                private = anonymous_mb(pid)
                first, peak = self.peaks.get(name, (private, 0))
                self.peaks[name] = (first, max(peak, private))
            time.sleep(1)


def start_import(o, path):
    return subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "import", path], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def rows(pg, db):
    try:
        return int(pg.sql("SELECT count(*) FROM memories", db=db, timeout=300)[0][0])
    except Exception:
        return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--records", type=int, default=1000000)
    p.add_argument("--kill-at", type=float, default=0.5)
    p.add_argument("--sets", action="append", default=[])
    a = p.parse_args()
    directory = tempfile.mkdtemp(prefix="orchestra-import-", dir="/var/tmp")
    path = os.path.join(directory, "memories.ndjson")
    write_file(path, a.records)
    print(f"{a.records:,} memories, {os.path.getsize(path) / 1e6:.0f} MB", flush=True)
    with Postgres(settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}) as pg:
        db = pg.database()
        o = Orchestra(directory=os.path.join(directory, "d") if os.makedirs(os.path.join(directory, "d")) is None else None,
                      sets=["store.kind=postgres", "store.dsn=" + pg.dsn(dbname=db), *a.sets])
        state = {}
        sampler = Sampler(lambda: {**{k: v for k, v in o.workers().items()}, **({"orchestractl": state["ctl"].pid} if "ctl" in state else {})})
        sampler.start()
        start = time.monotonic()
        state["ctl"] = start_import(o, path)
        while rows(pg, db) < a.records * a.kill_at and state["ctl"].poll() is None:
            time.sleep(0.5)
        at_kill, took = rows(pg, db), time.monotonic() - start
        state["ctl"].kill()
        kill_all(o)
        print(f"killed with {at_kill:,} in the server after {took:.0f} s ({at_kill / took:,.0f} a second)", flush=True)
        o.start(wait=False)
        o.wait_ready(600)  # the vector index is filled again
        again = time.monotonic()
        state["ctl"] = start_import(o, path)
        out, err = state["ctl"].communicate()
        print(f"second import: {time.monotonic() - again:.0f} s: {out.strip()} {err.strip()[:300]}", flush=True)
        until = time.monotonic() + 300
        while rows(pg, db) < a.records and time.monotonic() < until:
            time.sleep(1)
        total = time.monotonic() - start
        sampler.over = True
        found = rows(pg, db)
        distinct = int(pg.sql("SELECT count(DISTINCT id) FROM memories", db=db, timeout=600)[0][0])
        lines = pg.sql("SELECT md5(string_agg(md5(content), '' ORDER BY id)) FROM memories", db=db, timeout=600)[0][0]
        print(f"whole: {total:.0f} s, {a.records / total:,.0f} a second; rows {found:,}, distinct {distinct:,}")
        for name, (first, peak) in sorted(sampler.peaks.items()):
            print(f"  {name:12} private memory at first {first:.0f} MB, at most {peak:.0f} MB")
        want = hashlib.md5("".join(hashlib.md5(content(i).encode()).hexdigest() for i in range(a.records)).encode()).hexdigest()
        good = found == distinct == a.records and lines == want
        o.cleanup()
        if good:
            subprocess.run(["rm", "-rf", directory])
    print("all there, once, with their contents" if good else f"NOT EQUAL; left in {directory}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
