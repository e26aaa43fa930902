"""The store is behind: how far is said, large requests give way first, then all are refused with a time to come back, reads go on,
and nothing that was acknowledged is lost. The store is kept from writing by another process's write lock on its file."""
import json
import os
import signal
import sqlite3
import threading
import time

import pytest

from orchestra import SLOW, until

pytestmark = pytest.mark.sqlite("the lock of its file")

BIG = "x" * 60000


class Locked:
    """Nobody else writes to the store's file."""

    def __init__(self, o):
        self.db = sqlite3.connect(os.path.join(o.data, "store.db"), timeout=20 * SLOW, isolation_level=None, check_same_thread=False)
        self.db.execute("BEGIN IMMEDIATE")

    def release(self):
        if self.db:
            self.db.execute("ROLLBACK")
            self.db.close()
        self.db = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()


def metrics(o):
    lines = o.get("/metrics").body.decode().splitlines()
    return {k.removeprefix("orchestra_"): float(v) for k, v in (line.split() for line in lines if line[0] != "#" and "{" not in line)}


def lag(o):
    m = metrics(o)
    return m["journal_lag_records"], m["journal_lag_bytes"], m["journal_lag_seconds"]


def refused(r, *types):
    assert r.status == 503 and r.json["type"].rsplit(":")[-1] in types, r
    assert 1 <= int(r.headers["Retry-After"]) <= 60
    return r


def bulk(o, n=20, content=BIG):
    return o.post("/v1/memories", {"memories": [{"content": f"{i} {content}", "embedding": [1, i + 1]} for i in range(n)]})


def single(o, k, content=BIG):
    return o.post("/v1/memories", {"content": f"{k} {content}", "embedding": [1, 2]})


def test_lag_is_shown(make):
    o = make(sets=["journal.segment_bytes=1048576"])
    o.add("before")
    until(lambda: lag(o) == (0, 0, 0))
    assert "the store has everything" in o.ctl("status").stdout
    with Locked(o):
        ids = [o.add(f"waits {i}")["id"] for i in range(3)]
        first = until(lambda: lag(o)[2] > 0.3 and lag(o))
        assert first[0] == 3 and 1500 < first[1] < 6000  # their vectors are packed
        until(lambda: lag(o)[2] >= first[2] + 0.5)
        status = o.get("/v1/admin/status").json["lag"]
        assert status["records"] == 3 and status["bytes"] == first[1] and status["seconds"] > first[2]
        assert "the store lacks 3 records" in o.ctl("status").stdout
        until(lambda: "store" in o.get("/readyz").json["degraded"], 20)
        assert o.get("/readyz").status == 200 and "locked" in o.get("/readyz").json["reason"]
        assert all(o.memory(i).status == 200 for i in ids) and len(o.search("waits")) == 3
    until(lambda: lag(o) == (0, 0, 0), 20)
    until(lambda: o.get("/readyz").json == {"status": "ready", "degraded": []})


def test_the_age_outlives_sync(make):
    o = make()
    with Locked(o):
        o.add("waits")
        before = until(lambda: lag(o)[2] > 1 and lag(o))
        os.kill(o.worker("sync"), signal.SIGKILL)
        until(lambda: "sync" in o.workers(), 20)
        assert lag(o)[2] >= before[2]
    until(lambda: lag(o) == (0, 0, 0), 20)


def test_large_ones_give_way_and_then_all(make):
    """journal.quota: bulk requests are refused from half of it on, single ones when it is full."""
    o = make(sets=["journal.quota=16777216", "journal.segment_bytes=1048576", "api.workers=1"])
    kept = []
    with Locked(o):
        while (r := bulk(o)).status == 201:
            kept += [m["id"] for m in r.json["memories"]]
            assert len(kept) < 1000
        refused(r, "journal-half-full")
        assert "journal.quota" in r.json["detail"] and lag(o)[1] > 6 << 20
        assert o.get("/readyz").status == 200  # single writes are accepted
        k = 0
        while (r := single(o, k)).status == 201:
            kept.append(r.json["id"])
            k += 1
            assert k < 1000
        refused(r, "journal-full")
        assert k > 20 and "journal.quota" in r.json["detail"]
        assert o.get("/readyz").json["status"] == "journal-quota" and o.get("/readyz").status == 503
        assert o.memory(kept[0]).status == 200 and o.memory(kept[-1]).status == 200
    until(lambda: single(o, "again").status == 201, 30)
    until(lambda: bulk(o).status == 201, 30)
    for at in range(0, len(kept), 100):
        assert not o.post("/v1/memories:get", {"ids": kept[at:at + 100]}).json["missing"]
    until(lambda: o.get("/readyz").status == 200)


def test_the_table_of_what_waits(make):
    """journal.pending_max: entries, not bytes."""
    o = make(sets=["journal.pending_max=1024"])
    with Locked(o):
        while (r := bulk(o, 20, "small")).status == 201:
            pass
        refused(r, "journal-half-full")
        assert "journal.pending_max" in r.json["detail"] and 500 <= metrics(o)["pending_entries"] <= 540
        assert single(o, 0, "small").status == 201
        k = 0
        while (r := single(o, k, "small")).status == 201:
            k += 1
        refused(r, "journal-full")
        assert "journal.pending_max" in r.json["detail"] and 1020 <= metrics(o)["pending_entries"] <= 1024
    until(lambda: bulk(o, 20, "small").status == 201, 30)


def test_too_old(make):
    """sync.max_age, which a reload changes."""
    o = make(sets=["sync.max_age=4 s"])
    with Locked(o):
        assert bulk(o, 20, "old").status == 201
        r = until(lambda: (r := bulk(o, 20, "old")).status != 201 and r, 20)
        refused(r, "journal-half-full", "journal-age")
        r = until(lambda: (r := single(o, "s", "old")).status != 201 and r, 20)
        refused(r, "journal-age")
        assert "sync.max_age" in r.json["detail"] and lag(o)[2] > 4
        assert o.get("/readyz").json["status"] == "journal-age" and o.get("/readyz").status == 503
        assert len(o.search("old", limit=5)) == 5
    until(lambda: bulk(o, 20, "old").status == 201, 30)
    until(lambda: o.get("/readyz").status == 200)


def test_an_import_waits(make):
    """It is as fast as the store, and ends only when nothing moves for sync.wait_max."""
    o = make(sets=["journal.quota=67108864", "journal.segment_bytes=8388608", "sync.wait_max=30 s"])
    lines = [json.dumps({"content": f"{i} " + "y" * 20000, "embedding": [1, i + 1]}) for i in range(1400)]
    got = []
    lock = Locked(o)
    t = threading.Thread(target=lambda: got.append(o.post("/v1/memories:import", "\n".join(lines), fresh=True, timeout=120)))
    t.start()
    try:
        until(lambda: lag(o)[1] > 32 << 20, 20)
        before = until(lambda: (a := lag(o)[0], time.sleep(0.6), lag(o)[0])[0] == lag(o)[0] and a, 20)
        assert not got and lag(o)[0] == before and lag(o)[1] < 48 << 20
        assert single(o, "meanwhile").status == 201
    finally:
        lock.release()
        t.join()
    assert got[0].status == 200 and got[0].json["imported"] == 1400, got[0]
    assert len(o.list_all(limit=1000)) == 1401


def test_an_import_gives_up(make):
    o = make(sets=["journal.pending_max=1024", "sync.wait_max=1 s"])
    lines = [json.dumps({"content": f"{i}", "embedding": [1, i + 1]}) for i in range(2000)]
    with Locked(o):
        r = o.post("/v1/memories:import", "\n".join(lines), timeout=60)
        refused(r, "journal-half-full", "journal-full")
    until(lambda: lag(o)[0] == 0, 30)
    r = o.post("/v1/memories:import", "\n".join(lines))
    assert r.status == 200 and r.json["imported"] + r.json["skipped"] == 2000, r
    assert len(o.list_all(limit=1000)) == 2000


@pytest.mark.parametrize("how", ["reload", "alone"])
def test_it_goes_on_by_itself(make, how):
    """A store that comes back is used again at once after a reload, and soon without."""
    o = make()
    with Locked(o):
        id_ = o.add("waits")["id"]
        until(lambda: "store" in o.get("/readyz").json["degraded"], 20)
    if how == "reload":
        assert o.post("/v1/admin/reload").status == 200
    until(lambda: lag(o) == (0, 0, 0) and o.get("/readyz").json["degraded"] == [], 10)
    assert o.memory(id_).status == 200
