#!/usr/bin/env python3
"""make bench: every figure beside its reference, measured in the same run in alternating rounds.

Prints a line as soon as a figure is there, the whole table at the end, and writes bench.json into the build
directory. Ratios are medians of the rounds' ratios (least–most in parentheses): on a machine that others use too,
only they mean something. `CPU-s` is user and system time of the serving process.

usage: run.py --build DIR [--quick] [--only NAME]...     NAME: get, tls, add, sync, pg, redis, receive, search, cache, tiers, life, warm, parts;
       and only on request: observe, overload, vectors, words, start, traces
exit: 0 all goals met, 1 some missed, 2 could not measure
"""
import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import rig as r  # noqa: E402

SUITES = ("get", "tls", "add", "sync", "pg", "redis", "receive", "search", "cache", "tiers", "life", "warm", "parts")
ON_REQUEST = ("observe", "overload", "vectors", "words", "start", "traces")  # they fetch, build or fill for long the first time


def commit():
    """Short name of the commit, with a plus sign when the tree differs from it."""
    git = ["git", "-C", r.ROOT]
    got = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return got + ("+" if changed else "")


def machine():
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(), "load_before": os.getloadavg()[0]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--quick", action="store_true", help="shorter and fewer rounds")
    p.add_argument("--only", action="append", choices=SUITES + ON_REQUEST, help="may be given several times")
    p.add_argument("--set", action="append", help="vectors: a data set of ann/sets.py; may be given several times")
    args = p.parse_args()
    if os.cpu_count() < 2:
        print("two cores are needed: one for the server, one for the client", file=sys.stderr)
        return 2
    rig, report = r.Rig(args.build, args.quick, args.set), r.Report()
    info = {"machine": machine(), "quick": args.quick, "only": args.only, "commit": commit(), "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    info["memory_first_touch_us_per_page"] = r.warm_memory(1 if args.quick else 3)
    failed = False
    for name in args.only or SUITES:
        try:
            importlib.import_module(f"suite_{name}").run(rig, report)
        except r.Skip as e:
            report.skip(name, str(e))
        except Exception:  # one suite's trouble does not cost the others
            traceback.print_exc()
            report.skip(name, "failed, see above")
            failed = True
    info["machine"]["load_after"] = os.getloadavg()[0]
    path = os.path.join(rig.build, "bench.json")
    with open(path, "w") as f:
        json.dump({**info, "rows": report.rows}, f, indent=1, ensure_ascii=False)
        f.write("\n")
    shutil.rmtree(rig.dir, ignore_errors=True)
    missed = [row for row in report.rows if row["met"] is False]
    print(f"\n{report.table()}\n\n{len(missed)} goal(s) missed; {path}")
    return 2 if failed else 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
