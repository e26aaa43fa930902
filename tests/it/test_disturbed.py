"""Faults that end: while they last the reason is said and nothing is acknowledged that is not kept; afterwards it goes on by itself."""
import os
import shutil
import sqlite3

import pytest

from held import StoreHeld
from orchestra import SLOW
from test_faults import Load, Strace, kill_all, until, worker

SMALL = ["journal.segment_bytes=1 MiB", "sync.debounce_ms=50"]


def flushed(o):
    return "orchestra_journal_lag_records 0\n" in o.get("/metrics").body.decode()


def add_many(o, n, size=0):
    out = []
    for at in range(0, n, 50):
        r = o.post("/v1/memories", {"memories": [{"content": f"{at + i} " + "x" * size} for i in range(50)]})
        assert r.status == 201, r
        out += [m["id"] for m in r.json["memories"]]
    return out


def all_there(o, ids):
    for at in range(0, len(ids), 500):
        r = o.post("/v1/memories:get", {"ids": ids[at:at + 500]})
        assert r.status == 200 and not r.json["missing"], r


# ---- system calls that fail for a while ----

@pytest.mark.parametrize("calls, error, status, word, ready", [
    ("pwritev", "ENOSPC", 507, "disk", "disk-full"),
    ("pwritev", "EIO", 503, "Input/output error", "journal-error"),
    ("pwritev", "EDQUOT", 507, "disk", "disk-full"),
    ("openat", "EMFILE", 503, "Too many open files", "journal-error"),
    ("openat", "ENFILE", 503, "Too many open files", "journal-error"),
    ("openat", "ENOSPC", 507, "disk", "disk-full"),
    ("renameat", "EIO", 503, "Input/output error", "journal-error"),
    ("fallocate,ftruncate", "ENOSPC", 507, "disk", "disk-full"),
    ("fallocate", "EIO", 503, "Input/output error", "journal-error"),
])
def test_a_journal_that_cannot_be_written_for_a_while(make, calls, error, status, word, ready):
    """Nothing was synced yet, so nothing is in doubt: refused with the reason, and accepted again when it ends."""
    o = make(sets=SMALL)
    load = Load(o)
    until(lambda: len(load.ids) > 20)
    big = {"memories": [{"content": "y" * 60000}] * 5}                # so that segments change
    with Strace(worker(o, "sync"), calls, error):
        r = until(lambda: (r := o.post("/v1/memories", big)).status != 201 and r, 30)
        assert r.status == status and word in r.json["detail"] and "nothing was stored" in r.json["detail"] and r.headers["Retry-After"], r
        # asked again and again: a small one of the load may still fit, and then all is well for the moment
        until(lambda: o.post("/v1/memories", big).status != 201 and o.get("/readyz").json["status"] == ready)
        o.wait_log(word)
        assert o.get("/livez").status == 200 and o.memory(load.ids[0]).status == 200
    until(lambda: o.post("/v1/memories", big).status == 201)
    until(lambda: o.get("/readyz").json == {"status": "ready", "degraded": []})
    have = len(load.ids)
    until(lambda: len(load.ids) > have + 20)
    load.end().all_there()
    assert set(load.statuses) <= {201, status} and not load.broken
    kill_all(o)
    o.start()
    load.all_there()


@pytest.mark.parametrize("calls, error", [("pread64", "EIO"), ("openat", "EMFILE"), ("getdents64", "EIO")])
def test_a_journal_that_cannot_be_read_is_not_passed_over(make, calls, error):
    """What the flusher cannot read now it must not skip: those records were acknowledged."""
    o = make(sets=[*SMALL, "sync.debounce_ms=1500"])
    ids = add_many(o, 50)
    with Strace(worker(o, "sync"), calls, error):
        if calls != "openat":
            ids += add_many(o, 100)
        until(lambda: "store" in o.get("/readyz").json["degraded"])
        assert "cannot be read" in o.get("/readyz").json["reason"]
        all_there(o, ids)
    until(lambda: flushed(o), 30)
    assert o.get("/readyz").json == {"status": "ready", "degraded": []} and "those behind are used" not in o.log()
    ids += add_many(o, 50, 60000) + add_many(o, 50, 60000)            # the segments of before are used again
    until(lambda: flushed(o), 30)
    kill_all(o)
    o.start()
    all_there(o, ids)


def test_a_reader_that_cannot_read_the_journal_says_so(make):
    """Pending memories are not in the store yet: without them a list would be wrong, and a GET would say that there is none."""
    o = make(sets=["sync.debounce_ms=60000", "api.workers=1", "cache.l1_bytes=1 MiB"])
    ids = add_many(o, 50)
    with Strace(worker(o, "api"), "pread64", "EIO"):
        lists = [o.get("/v1/memories"), o.get("/v1/memories:count"), o.post("/v1/memories/search", {"query": "7"})]
        assert all(r.status == 503 and "journal" in r.json["detail"] for r in lists), lists
        assert {o.memory(i).status for i in ids} <= {200, 503}
    assert len(o.list(limit=100)["memories"]) == 50 and {o.memory(i).status for i in ids} == {200}


@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED"])
def test_accept_that_fails(make, error):
    o = make(sets=["api.workers=1"])
    assert o.get("/livez").status == 200
    with Strace(worker(o, "api"), "accept4", error + ":when=1..40"):
        assert o.get("/livez").status == 200                          # the open connection does not notice
        assert o.get("/livez", fresh=True).status == 200              # a new one waits in the queue
        if error != "ECONNABORTED":
            o.wait_log("accept: " + os.strerror(getattr(__import__("errno"), error)))
    assert o.get("/livez", fresh=True).status == 200


def test_calls_that_are_interrupted(make):
    """Every third one says EINTR, as on FUSE or with a signal: nobody notices."""
    o = make(sets=SMALL)
    load = Load(o)
    until(lambda: len(load.ids) > 20)
    with Strace(worker(o, "sync"), "pwritev,fsync,fdatasync,pread64", "EINTR:when=1..100+3"):
        have = len(load.ids)
        until(lambda: len(load.ids) > have + 500, 60)
        assert o.get("/readyz").json["status"] == "ready"
    load.end().all_there()
    assert set(load.statuses) == {201} and not load.broken, load.refusals[:3]
    with Strace(worker(o, "api"), "recvfrom,sendto,sendmsg,accept4,pread64,openat", "EINTR:when=1+2"):
        for i in load.ids[:50]:
            assert o.request("GET", "/v1/memories/" + i, fresh=True).status == 200
        assert len(o.list(limit=100)["memories"]) == 100


@pytest.mark.parametrize("call", ["memfd_create", "socket", "bind", "socketpair"])
def test_a_start_without_resources(make, call):
    """Ends with the reason; only what may pass (a worker that cannot be made) is said and tried again."""
    if not shutil.which("strace"):
        pytest.skip("strace is absent")
    o = make(start=False, prefix=["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EMFILE:when=1..6"],
             env={"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})  # it cannot look under ptrace
    o.start(wait=False)
    if call == "socketpair":
        o.wait_ready()
        assert "cannot start sync: Too many open files" in o.log() and o.add("works")
        os.kill(int(o.log().split("starting, pid ")[1].split()[0]), 15)      # strace does not hand the signal on
        assert o.process.wait(15 * SLOW) == 0
    else:
        assert o.process.wait(20 * SLOW) > 0 and " error " in o.log() and "Too many open files" in o.log(), o.log()


# ---- the store's files ----

def take_away(o, what):
    db = o.data + "/store.db"
    if what == "deleted":
        for s in ("", "-wal", "-shm"):
            os.unlink(db + s)
    elif what == "wal":
        os.unlink(db + "-wal")
    else:
        shutil.copy(db, db + ".copy")
        os.replace(db + ".copy", db)


@pytest.mark.sqlite
@pytest.mark.parametrize("what", ["deleted", "wal", "replaced"])
def test_a_store_that_is_taken_away_under_the_daemon(make, what):
    """SQLite would go on writing into files without a name, and the journal would let go of what went there."""
    o = make(sets=SMALL)
    before = add_many(o, 50)
    until(lambda: flushed(o))
    take_away(o, what)
    after = add_many(o, 200, 20000)                                   # 4 MB: four segments
    until(lambda: "store" in o.get("/readyz").json["degraded"])
    ready = o.get("/readyz")
    assert ready.status == 200 and "store.db" in ready.json["reason"] and "deleted or replaced" in ready.json["reason"]
    o.wait_log("deleted or replaced")
    r = o.post("/v1/memories:get", {"ids": before + after})            # a reader that opens it now finds nothing, and says so
    assert r.status == 503 and "store.db" in r.json["detail"] or not r.json["missing"], r
    kill_all(o)
    o.start()
    all_there(o, after)
    until(lambda: flushed(o), 30)
    assert o.get("/readyz").json == {"status": "ready", "degraded": []}


@pytest.mark.sqlite
def test_a_store_that_is_put_back(make):
    o = make(sets=SMALL)
    ids = add_many(o, 50)
    until(lambda: flushed(o))
    for s in ("", "-wal", "-shm"):
        os.rename(o.data + "/store.db" + s, o.data + "/away" + s)
    ids += add_many(o, 50)
    until(lambda: "store" in o.get("/readyz").json["degraded"])
    for s in ("-shm", "-wal", ""):
        os.rename(o.data + "/away" + s, o.data + "/store.db" + s)
    until(lambda: flushed(o), 30)
    assert o.get("/readyz").json == {"status": "ready", "degraded": []}
    all_there(o, ids)
    o.stop()
    o.start()
    all_there(o, ids)


@pytest.mark.sqlite
def test_a_store_that_sync_finds_replaced_is_not_used(make):
    """A new sync with another store: api workers read the old files, so what it flushed would vanish for them."""
    o = make(sets=SMALL)
    ids = add_many(o, 50)
    until(lambda: flushed(o))
    for s in ("", "-wal", "-shm"):
        os.rename(o.data + "/store.db" + s, o.data + "/away" + s)
    os.kill(worker(o, "sync"), 9)
    o.wait_log("it was replaced")
    r = until(lambda: (r := o.post("/v1/memories", {"content": "x"})).status != 201 and r)
    assert r.status == 503 and r.headers["Retry-After"] and "it was replaced" in r.json["detail"], r
    assert o.get("/readyz").status == 503
    assert o.memory(ids[0]).status == 200 and o.get("/livez").status == 200
    for s in ("-shm", "-wal", ""):
        os.rename(o.data + "/away" + s, o.data + "/store.db" + s)
    until(lambda: o.post("/v1/memories", {"content": "after"}).status == 201, 30)
    all_there(o, ids)


@pytest.mark.sqlite
def test_a_store_that_another_program_locks(make):
    """Longer than the busy timeout of 5 s: degraded, told why, and caught up afterwards."""
    o = make(sets=SMALL)
    ids = add_many(o, 50)
    until(lambda: flushed(o))
    other = sqlite3.connect(o.data + "/store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ids += add_many(o, 100)
    until(lambda: "store" in o.get("/readyz").json["degraded"], 20)
    assert "locked" in o.get("/readyz").json["reason"] and o.get("/readyz").status == 200
    ids += add_many(o, 50)
    all_there(o, ids)
    assert len(o.list_all()) == 200
    other.execute("ROLLBACK")
    other.close()
    until(lambda: flushed(o), 30)
    assert o.get("/readyz").json == {"status": "ready", "degraded": []}


@pytest.mark.parametrize("ack", ["journal", "store"])
def test_waiting_for_a_store_that_takes_nothing_ends(make, ack):
    """The journal is said to have it where that is enough; else it is a refusal that promises no more than is true."""
    o = make(sets=[*SMALL, "sync.wait_max=300 ms", "sync.ack=" + ack])
    m = o.post("/v1/memories?wait=store", {"content": "to be erased"}).json
    assert m["durability"] == "store"
    with StoreHeld(o):
        r = o.post("/v1/memories?wait=store", {"content": "late"})
        if ack == "journal":
            assert r.status == 201 and r.json["durability"] == "journal" and o.memory(r.json["id"]).status == 200
        else:
            assert r.status == 503 and r.json["type"].endswith(":store-waiting") and r.headers["Retry-After"]
        r = o.delete(f"/v1/memories/{m['id']}?erase=true")             # no receipt for what is still in the store
        assert r.status == 503 and r.json["type"].endswith(":store-waiting") and "receipt" not in r.json
    until(lambda: flushed(o), 30)
    assert o.memory(m["id"]).status == 404 and [x["content"] for x in o.list_all()] == ["late"]
    assert o.post("/v1/memories?wait=store", {"content": "more"}).json["durability"] == "store"


@pytest.mark.sqlite
def test_a_store_that_cannot_be_opened_at_first(make):
    o = make(start=False)
    os.makedirs(o.data + "/store.db", mode=0o700)
    os.chmod(o.data, 0o700)
    o.start(wait=False)
    o.wait_log("store cannot be opened")
    o.wait_log("ready after")
    assert o.get("/readyz").json["status"] == "store-failed"
    r = o.post("/v1/memories", {"content": "x"})
    assert r.status == 503 and "store.db" in r.json["detail"]
    os.rmdir(o.data + "/store.db")
    until(lambda: o.post("/v1/memories", {"content": "x"}).status == 201, 30)
    until(lambda: o.get("/readyz").json == {"status": "ready", "degraded": []})


def test_a_sealed_segment_that_is_deleted(make):
    """While the store is behind: the loss is said, with numbers, and the daemon lives on."""
    o = make(sets=["journal.segment_bytes=1 MiB", "sync.debounce_ms=60000", "sync.batch_max=100000"])
    ids = add_many(o, 200, 20000)
    segs = sorted(f for f in os.listdir(o.data + "/journal") if f.endswith(".seg"))
    os.unlink(o.data + "/journal/" + segs[1])
    o.post("/v1/memories?wait=store", {"content": "pushes"})
    o.wait_log("cannot be read any more", 20)
    assert o.add("goes on") and o.get("/livez").status == 200
    r = o.post("/v1/memories:get", {"ids": ids[:100]}).json
    assert 0 < len(r["missing"]) < 100
