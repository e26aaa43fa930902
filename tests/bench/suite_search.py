"""Search through the whole path (HTTP, embedding of the question, ranking, bodies of the results) beside FAISS
IndexFlat in-process for vectors, and beside SQLite's FTS5 in-process for words."""
import json
import os
import sqlite3
import subprocess
import time

import loaded
import rig as r
from corpus import Corpus
from suite_add import JSON

K = 10


def faiss(rig):
    """Path of bench_faiss, compiled on demand: libfaiss-dev is no dependency of the build."""
    out = os.path.join(rig.build, "tests", "bench", "bench_faiss")
    source = os.path.join(r.HERE, "bench_faiss.cpp")
    if not os.path.exists("/usr/include/faiss/IndexFlat.h") or not r.have("g++"):
        return None
    if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(source):
        subprocess.run(["g++", "-O2", "-o", out, source, "-lfaiss", "-lopenblas", "-fopenmp", "-pthread"], check=True)
    return out


def fts5(rig, texts, questions):
    """p50 and p99 in ms of the ten best by bm25 of any of the words: what one writes first."""
    db = sqlite3.connect(rig.path("fts5.db"))
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("DROP TABLE IF EXISTS t")
    db.execute("CREATE VIRTUAL TABLE t USING fts5(content, tokenize='porter unicode61 remove_diacritics 2')")
    db.executemany("INSERT INTO t VALUES(?)", ((t,) for t in texts))
    db.commit()
    took = []
    for q in questions:
        start = time.perf_counter()
        db.execute("SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?", (" OR ".join(f'"{w}"' for w in q.split()), K)).fetchall()
        took.append((time.perf_counter() - start) * 1e3)
    db.close()
    os.unlink(rig.path("fts5.db"))
    took.sort()
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def measure(rig, report, n, program):
    texts, questions = loaded.texts(n), Corpus().questions(400)
    data = loaded.directory(rig, n)
    options = (*JSON[:4], "-s", 200)
    rounds = 1 if rig.quick else 3
    lines = {}
    for mode in ("vector", "text", "hybrid"):
        lines[mode] = rig.path(f"{mode}.ndjson")
        with open(lines[mode], "w") as f:
            f.writelines(json.dumps({"query": q, "mode": mode, "limit": K}) + "\n" for q in questions)
    words = fts5(rig, texts, questions[:100])
    with rig.daemon("", data=data) as d:
        def ours(mode, clients):
            return rig.load(f"127.0.0.1:{d.port}", "/v1/memories/search", *options, "-L", lines[mode], "-c", clients,
                            core=None, seconds=2 if rig.quick else 4)

        def theirs(clients):
            return json.loads(subprocess.run([program, str(n), str(clients)], capture_output=True, text=True, check=True).stdout)

        for mode in ("vector", "text", "hybrid"):
            for clients in (1, 8):
                if mode == "vector" and program:
                    a, b = rig.compare(lambda: ours(mode, clients), lambda: theirs(clients), rounds=rounds)
                    for q in ("p50", "p99"):
                        mine, other = (lambda x: x[f"{q}_us"] / 1e3), (lambda x: x[f"{q}_ms"])
                        report.add("search", f"{n:,} memories, {mode}, {clients} client(s), {q}", r.median(map(mine, a)), "ms",
                                   r.median(map(other, b)), "ms FAISS IndexFlat", r.median(
                                       [mine(x) / other(y) for x, y in zip(a, b)]), better="less")
                    report.add("search", f"{n:,} memories, {mode}, {clients} client(s)", r.median(x["rps"] for x in a), "searches/s",
                               r.median(x["per_s"] for x in b), "FAISS IndexFlat",
                               r.median([x["rps"] / y["per_s"] for x, y in zip(a, b)]))
                    continue
                a, = rig.compare(lambda: ours(mode, clients), rounds=rounds)
                for q, reference in zip(("p50", "p99"), words):
                    mine = r.median(x[f"{q}_us"] for x in a) / 1e3
                    beside = (reference, "ms FTS5, any word", mine / reference) if mode == "text" and clients == 1 else ()
                    report.add("search", f"{n:,} memories, {mode}, {clients} client(s), {q}", mine, "ms", *beside, better="less")
                report.add("search", f"{n:,} memories, {mode}, {clients} client(s)", r.median(x["rps"] for x in a), "searches/s")


def run(rig, report):
    program = faiss(rig)
    if not program:
        report.skip("search", "FAISS is not installed (libfaiss-dev, libopenblas-dev, g++): vectors have no reference")
    for n in (10000,) if rig.quick else (10000, 100000):
        measure(rig, report, n, program)
