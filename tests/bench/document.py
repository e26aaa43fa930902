#!/usr/bin/env python3
"""Puts the figures of a bench.json into the tables of docs/benchmarks.md, between its `<!-- bench:GROUP -->` marks.

usage: document.py BENCH_JSON DOCUMENT
A group that the file does not hold keeps its table: a run with --only refreshes its part alone.
"""
import json
import re
import sys

HEAD = "| What | Measured | Reference | Ratio (least–most) | Goal |\n|---|---|---|---|---|\n"


def number(v, unit=""):
    text = f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.3g}"
    return f"{text} {unit.replace('us', 'µs') if unit == 'us' else unit}".strip()


def line(row):
    if row["name"] == "skipped":
        return f"| skipped | | | | {row['note']} |"
    reference = f"{number(row['reference'])} {row['reference_name']}" if row["reference"] is not None else ""
    times = ""
    if row["ratio"] is not None:
        times = f"{row['ratio']:.2f} ×"
        if "ratio_spread" in row:
            times += " ({:.2f}–{:.2f})".format(*row["ratio_spread"])
    goal = ""
    if row["goal"] is not None:
        goal = f"{'≥' if row['better'] == 'more' else '≤'} {row['goal']:,g}" + (" ×" if row["ratio"] is not None else "")
        goal += ", met" if row["met"] else ", **missed**"
    return f"| {row['name']} | {number(row['ours'], row['unit'])} | {reference} | {times} | {goal} |"


def machine(bench):
    m = bench["machine"]
    return (f"{m['cpu'].strip()}, {m['cores']} cores, kernel {m['kernel'].split('-')[0]}, load before the run {m['load_before']:.2f}; "
            f"{bench['started'][:10]}, commit {bench.get('commit') or 'unknown'}{', quick' if bench['quick'] else ''}.\n")


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1]) as f:
        bench = json.load(f)
    with open(sys.argv[2]) as f:
        text = f.read()
    parts = {"machine": machine(bench)}
    for row in bench["rows"]:
        parts[row["group"]] = parts.get(row["group"], HEAD) + line(row) + "\n"
    for group, content in parts.items():
        text, n = re.subn(rf"(<!-- bench:{group} -->\n).*?(<!-- /bench:{group} -->)", lambda m: m[1] + content + m[2], text, flags=re.S)
        if n != 1:
            print(f"{sys.argv[2]} has no place for {group}", file=sys.stderr)
            return 1
    with open(sys.argv[2], "w") as f:
        f.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
