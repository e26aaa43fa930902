"""The vector index beside hnswlib, usearch, FAISS and sqlite-vec at equal recall: same rows, same queries, one thread, one query
at a time. Data, programs of the peers and their indexes are in ann/; what takes long is made once and kept in the cache."""
import json
import os
import subprocess
import sys

import rig as r

sys.path.insert(0, os.path.join(r.HERE, "ann"))
import curve  # noqa: E402
import engines  # noqa: E402

DEFAULT = ("use", "wink", "s200k", "h200k")
RECALLS = (0.95, 0.99)
EVERY_ROUND = ("hnswlib", "usearch", "faiss-pq")
ONCE = ("hnswlib-huge", "faiss-ivf", "faiss-flat", "sqlite-vec")
SMALL = ("faiss-hnsw",)  # takes Debian's FAISS hours for the large sets, and is hnswlib's algorithm
GOALS = {"s200k": 4, "h200k": 4, "use": 1.5, "wink": 1.5}
SWEEP = ("automatic", *(f"recall={x}" for x in (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)), "exact", "scan")
ALONE = ("recluster", "beside=1000", "automatic", *(f"allow={x}" for x in (0.5, 0.05, 0.005, 0.0001)))
# ms on h200k on 2026-11-21 (recall, p50), one run; what Debian does not have is carried over by its ratio to hnswlib then.
DATED_HNSWLIB = ((0.936, 1 / 1.14), (0.974, 1 / 1.96), (0.991, 1 / 4.6))
DATED = {"pgvector 0.8 ivfflat": (0.967, 41.4, 80), "FAISS upstream, PQ fast-scan + refine": (0.963, 0.745, 1.5)}


def lines(argv, *words, env=None):
    """JSON lines of a program: {parameter: line}, and what it says about the build under None."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **(env or {})}
    p = subprocess.run([*argv, *words], capture_output=True, text=True, env=env)
    if p.returncode:
        raise RuntimeError(f"{argv[0]}: {p.stderr.strip() or p.returncode}")
    out = {}
    for line in map(json.loads, p.stdout.splitlines()):
        out.setdefault(line.get("parameter"), {}).update(line)
    return out


def points(found):
    return [(x["recall"], x["per_cpu_s"]) for name, x in found.items() if name]


def compared(report, name, ours, theirs, peer):
    for recall in RECALLS:
        pairs = [(curve.at(points(a), recall), curve.at(points(b), recall)) for a, b in zip(ours, theirs)]
        title = f"{name}, recall {recall}"
        if any(a is None for a, _ in pairs):
            report.add("vectors", f"{title}: not reached", max(p[0] for a in ours for p in points(a)), "recall")
        elif any(b is None for _, b in pairs):
            best = max(p[0] for b in theirs for p in points(b))
            report.add("vectors", title, r.median(a for a, _ in pairs), "searches/CPU-s", best, f"recall is the best of {peer}")
        else:
            goal = GOALS.get(name) if peer in ("hnswlib", "usearch") else None
            report.add("vectors", title, r.median(a for a, _ in pairs), "searches/CPU-s", r.median(b for _, b in pairs), peer,
                       spread([a / b for a, b in pairs]), goal)


def spread(values):
    return {"median": r.median(values), "least": min(values), "most": max(values)}


def carried_over(report, name, ours, hnswlib):
    """What was measured beside hnswlib on another day, by its ratio to it."""
    for peer, (recall, ms, goal) in DATED.items():
        slower = ms * curve.at(DATED_HNSWLIB, recall)
        ratios = [curve.at(points(a), recall) / curve.at(points(b), recall) * slower for a, b in zip(ours, hnswlib)
                  if curve.at(points(a), recall) and curve.at(points(b), recall)]
        if ratios:
            report.add("vectors", f"{name}, recall {recall}", r.median(curve.at(points(a), recall) or 0 for a in ours), "searches/CPU-s",
                       r.median(curve.at(points(b), recall) for b in hnswlib) / slower, f"{peer}, carried over", spread(ratios), goal)


def building(report, name, ours, peers, d):
    """`peers`: engine, what it says about its build."""
    mine = [x[None] for x in ours]
    fast = r.median(x["rows_per_cpu_s"] for x in mine)
    for peer, line in peers:
        report.add("vectors", f"{name}, built", fast, "rows/CPU-s", line["rows_per_cpu_s"], peer, fast / line["rows_per_cpu_s"],
                   20 if peer == "hnswlib" and d == 1536 else None)
    report.add("vectors", f"{name}, inserts", r.median(x["inserts_per_cpu_s"] for x in mine), "rows/CPU-s", goal=10000 if d == 1536 else None)
    report.add("vectors", f"{name}, memory a vector", mine[0]["bytes_row"], "B", goal=1800 if d == 1536 else None, better="less",
               reference=peers[0][1]["bytes_row"] if peers else None, reference_name=f"B, {peers[0][0]}" if peers else None)


def alone(report, name, meta, found, bandwidth):
    """Beside inserts, while the lists are made anew, with filters: ours only."""
    # While lists are made anew, the former ones are too few and too long: what they cost without it is the reference.
    for word, title, before in (("beside=1000", "beside 1,000 inserts/s", "automatic"), ("recluster", "while lists are made anew", "before recluster")):
        if word not in found:
            continue
        x, idle = found[word], found[before]
        report.add("vectors", f"{name}, {title}: p50", x["p50_us"] / 1e3, "ms", idle["p50_us"] / 1e3, "ms at rest",
                   x["p50_us"] / idle["p50_us"], better="less")
        report.add("vectors", f"{name}, {title}: p99", x["p99_us"] / 1e3, "ms", idle["p99_us"] / 1e3, "ms at rest",
                   x["p99_us"] / idle["p99_us"], 2 if word == "recluster" else None, better="less")
        if "p99_cpu_us" in x:
            report.add("vectors", f"{name}, {title}: p99 of processor time", x["p99_cpu_us"] / 1e3, "ms", idle["p99_cpu_us"] / 1e3, "ms at rest",
                       x["p99_cpu_us"] / idle["p99_cpu_us"], better="less")
        report.add("vectors", f"{name}, {title}: recall", x["recall"], "")
    for word, x in found.items():
        if word and word.startswith("allow="):
            report.add("vectors", f"{name}, filter for {float(word[6:]):.2%} of the rows: recall", x["recall"], "", goal=0.98)
            report.add("vectors", f"{name}, filter for {float(word[6:]):.2%} of the rows: p50", x["p50_us"] / 1e3, "ms")
    if "scan" in found:
        code = (meta["d"] + 63) // 64 * 8 + 16
        gbs = meta["n"] * code * found["scan"]["per_cpu_s"] / 1e9
        report.add("vectors", f"{name}, all codes ({code} B a row): of what a core reads", gbs, "GB/s", bandwidth, "GB/s, plain read",
                   gbs / bandwidth)


def reaching(found, recall):
    """Setting, p50 and p99 of the fastest search that finds so much; dashes: none does."""
    good = [(x["per_cpu_s"], word, x) for word, x in found.items() if word and x["recall"] >= recall]
    if not good:
        return "–", "", ""
    _, word, x = max(good, key=lambda g: g[0])
    return word, f"{x['p50_us'] / 1e3:.3f} ms", f"{x['p99_us'] / 1e3:.3f} ms"


def sheets(report, meta, everything):
    caption = f"{meta['n']:,} × {meta['d']}, {meta['what']}"
    head = ("Engine", *(f"{title}{recall}" for recall in RECALLS for title in ("Setting for ", "p50 at ", "p99 at ")), "Built, rows/CPU-s", "Bytes a row")
    rows = []
    for engine, found in everything:
        built = found.get(None, {})
        rows.append((engine, *reaching(found, RECALLS[0]), *reaching(found, RECALLS[1]), f"{built['rows_per_cpu_s']:,.0f}", f"{built['bytes_row']:,.0f}"))
    report.sheet(f"vectors-{meta['name']}", caption, head, rows)
    head = ("Engine", "Setting", "Recall@10", "p50", "p99", "searches/CPU-s", "searches/s")
    rows = [(engine, word, f"{x['recall']:.4f}", f"{x['p50_us'] / 1e3:.3f} ms", f"{x['p99_us'] / 1e3:.3f} ms", f"{x['per_cpu_s']:,.0f}", f"{x['per_s']:,.0f}")
            for engine, found in everything for word, x in found.items() if word]
    report.sheet(f"curve-{meta['name']}", caption, head, rows)


def merged(rounds):
    """The median of each figure over the rounds."""
    out = {word: dict(x) for word, x in rounds[0].items()}
    for word, x in out.items():
        for key, value in x.items():
            if isinstance(value, (int, float)):
                x[key] = r.median(f[word][key] for f in rounds)
    return out


def wanted(name):
    """The peers that take turns with ours, and those that are measured once."""
    if name == "h1m":  # hours to build
        return (), ()
    return EVERY_ROUND, (*ONCE, *SMALL) if name in ("use", "s2k") else ONCE


def measure(rig, report, name, bandwidth):
    try:
        import npm
        import sets
        directory = sets.get(name)
    except ImportError:
        raise r.Skip("python3-numpy is not installed")
    except npm.Unavailable as e:
        return report.skip("vectors", f"{name}: {e}")
    with open(os.path.join(directory, "meta.json")) as f:
        meta = json.load(f)
    seconds = 0.1 if rig.quick else 1.0
    every_round, only_once = wanted(name)
    constant, missing = engines.peers(rig.build, meta, seconds, every_round, directory)
    once, others = engines.peers(rig.build, meta, seconds * 2, only_once, directory)
    for peer, why in {**missing, **others}.items():
        report.skip("vectors", f"{peer}: {why}")
    for engine in (*constant, *once):  # builds what is not kept
        lines(engine.argv)
    mine = [rig.program("ann/ours"), directory, str(seconds)]
    ours, *theirs = rig.compare(lambda: lines(mine, *SWEEP), *(lambda e=e: lines(e.argv, *e.words) for e in constant),
                                rounds=1 if rig.quick else 3)
    singles = [(e.name, lines(e.argv, *e.words, env=e.env)) for e in once]
    for engine, found in zip(constant, theirs):
        compared(report, name, ours, found, engine.name)
    if name == "h200k" and "hnswlib" in [e.name for e in constant]:
        carried_over(report, name, ours, theirs[0])
    own = lines(mine, *ALONE)
    known = [(e.name, f[0]) for e, f in zip(constant, theirs)] + singles
    building(report, name, ours, [(peer, f[None]) for peer, f in known if peer != "hnswlib, huge pages"], meta["d"])
    alone(report, name, meta, {**own, "scan": merged(ours)["scan"]}, bandwidth)
    sheets(report, meta, [("ours", merged(ours)), *((e.name, merged(f)) for e, f in zip(constant, theirs)), *singles])


def run(rig, report):
    bandwidth = rig.tool("ann/bandwidth")["read_huge_pages_gb_s"]
    report.add("vectors", "a plain read of memory, one core, pages of 2 MiB", bandwidth, "GB/s")
    for name in rig.sets or (("s2k",) if rig.quick else DEFAULT):
        measure(rig, report, name, bandwidth)
