"""The sync worker fed by its ring beside the bare group-commit writer, and the flush into the store beside a bare
SQLite loop (bench_sync.c and bench_store.c say what exactly is compared)."""
import shutil

import rig as r


def run(rig, report):
    rounds = 3 if rig.quick else 7
    daemon = f"{rig.build}/orchestrad"
    for dim, what in ((1536, "6.8 KB"), (0, "0.7 KB")):
        for window in (1, 64, 512):
            records = 2000 if window == 1 else 8000 if rig.quick else 16000
            data = rig.path(f"sync-{dim}-{window}")
            out = rig.tool("bench_sync", "-n", records, "-w", window, "-r", rounds, "-D", dim, daemon, data)
            report.add("sync", f"{what} records, {window} under way (groups of {out['group']:.0f})", out["sync_per_s"], "records/s",
                       out["bare_per_s"], "bare group commit", out["ratio"], 0.8 if window > 1 and dim else None)
            if window != 512:
                shutil.rmtree(data)
                continue
            bare = rig.tool("bench_store", "-n", records, "-b", 4000, "-r", rounds, f"{data}/store.db", rig.path("bare.db"))
            report.add("sync", f"flush to the store, {what} records", out["flush_per_s"], "records/s", bare["rows_per_s"],
                       "bare SQLite loop", out["flush_per_s"] / bare["rows_per_s"], 0.85)
            shutil.rmtree(data)
    out = rig.tool("bench_sync", "-f", "-n", 8000 if rig.quick else 30000, "-w", 64, "-r", 3, daemon, rig.path("sync-flowing"))
    report.add("sync", "6.8 KB records, 64 under way, store flushed meanwhile", out["sync_per_s"], "records/s")
    shutil.rmtree(rig.path("sync-flowing"))
