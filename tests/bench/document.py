#!/usr/bin/env python3
"""Puts the figures of a bench.json into the tables of docs/benchmarks.md, between its `<!-- bench:GROUP -->` marks.

usage: document.py BENCH_JSON DOCUMENT
A group that the file does not hold keeps its table: a run with --only refreshes its part alone. Curves are drawn by gnuplot
into img/ beside the document.
"""
import json
import os
import re
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "ann"))
import plot  # noqa: E402

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


def sheet(row, picture):
    lines = [row["head"], ["---"] * len(row["head"]), *row["lines"]]
    image = f"![{row['caption']}: recall and speed]({picture})\n\n" if picture else ""
    return f"{row['caption']}.\n\n{image}" + "".join("| " + " | ".join(line) + " |\n" for line in lines)


def pictures(bench, document):
    """Draws the curves; {group: path of its picture, from the document}."""
    out, curves = {}, [row for row in bench["rows"] if row["group"].startswith("curve-")]
    if curves and not shutil.which("gnuplot"):
        print("gnuplot is not installed (apt-get install gnuplot-nox): no curves", file=sys.stderr)
        return out
    for row in curves:
        name = row["group"].replace("curve-", "vectors-")
        out[name] = f"img/{name}.svg"
        path = os.path.join(os.path.dirname(os.path.abspath(document)), out[name])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        plot.plot(row, path)
    return out


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
    parts = {f"{suite}-machine": machine(bench) for suite in bench["only"] if f"<!-- bench:{suite}-machine -->" in text} \
        if bench.get("only") else {"machine": machine(bench)}
    drawn = pictures(bench, sys.argv[2])
    for row in bench["rows"]:
        if row["name"] == "sheet" and not row["group"].startswith("curve-"):
            parts[row["group"]] = sheet(row, drawn.get(row["group"]))
        elif row["name"] != "sheet":
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
