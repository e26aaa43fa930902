"""sqlite-vec (npm) over a data set of sets.py: sqlite_vec.py SET_DIRECTORY EXTENSION DATABASE SECONDS

Always exact; prints what ann_measure() of ann.c prints. The 0.01 ms that Python takes for a query do not show beside it."""
import json
import os
import sqlite3
import statistics
import sys
import time

import numpy as np


def connect(database, extension):
    db = sqlite3.connect(database)
    db.enable_load_extension(True)
    db.load_extension(extension)
    db.execute("PRAGMA cache_size=-4000000")
    return db


def build(directory, meta, extension, database):
    base = np.memmap(os.path.join(directory, "base.f32"), "<f4", "r", shape=(meta["n"], meta["d"]))
    start, cpu = time.monotonic(), time.thread_time()
    db = connect(database + ".part", extension)
    db.execute("PRAGMA journal_mode=OFF")
    db.execute(f"CREATE VIRTUAL TABLE v USING vec0(x float[{meta['d']}])")
    db.executemany("INSERT INTO v(rowid, x) VALUES (?, ?)", ((i + 1, row.tobytes()) for i, row in enumerate(base)))
    db.commit()
    db.close()
    spent = time.thread_time() - cpu
    os.rename(database + ".part", database)
    line = {"engine": "sqlite-vec", "index": "exact", "rows": meta["n"], "build_s": round(time.monotonic() - start, 3),
            "build_cpu_s": round(spent, 3), "rows_per_cpu_s": round(meta["n"] / spent), "bytes_row": round(os.path.getsize(database) / meta["n"])}
    with open(database + ".json", "w") as f:
        json.dump(line, f)


def main():
    directory, extension, database, seconds = sys.argv[1:5]
    with open(os.path.join(directory, "meta.json")) as f:
        meta = json.load(f)
    if not os.path.exists(database):
        build(directory, meta, extension, database)
    with open(database + ".json") as f:
        print(f.read(), flush=True)
    queries = np.fromfile(os.path.join(directory, "queries.f32"), "<f4").reshape(-1, meta["d"])
    truth = np.fromfile(os.path.join(directory, "truth.u32"), "<u4").reshape(-1, meta["k"])
    db = connect(database, extension)

    def ask(i):
        return {r[0] - 1 for r in db.execute("SELECT rowid FROM v WHERE x MATCH ? AND k = ?", (queries[i].tobytes(), meta["k"]))}

    ask(0)
    took, hits, cpu, end = [], 0, time.thread_time(), time.monotonic() + float(seconds)
    for i in range(len(queries)):
        start = time.perf_counter()
        found = ask(i)
        took.append(time.perf_counter() - start)
        hits += len(found & set(truth[i].tolist()))
        if time.monotonic() > end and i >= 9:
            break
    per_cpu_s = len(took) / (time.thread_time() - cpu)
    took.sort()
    print(json.dumps({"engine": "sqlite-vec", "parameter": "exact", "recall": hits / len(took) / meta["k"],
                      "p50_us": statistics.median(took) * 1e6, "p99_us": took[len(took) * 99 // 100] * 1e6,
                      "per_s": len(took) / sum(took), "per_cpu_s": per_cpu_s, "searches": len(took)}))




if __name__ == "__main__":
    main()
