"""What was acknowledged stays: SIGKILL, failing fdatasync, damaged and torn journals, full disk."""
import glob
import os
import re
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from orchestra import SLOW, Orchestra, kill_all


def test_acknowledged_survives_sigkill_of_everything(make):
    o = make(sets=["sync.debounce_ms=60000", "sync.batch_max=100000"])   # nothing reaches the store
    ids = [o.add(f"n{i}")["id"] for i in range(50)]
    o.delete(f"/v1/memories/{ids[0]}")
    o.patch(f"/v1/memories/{ids[1]}", {"content": "changed"})
    kill_all(o)
    o.start()
    assert o.memory(ids[0]).status == 404
    assert o.memory(ids[1]).json["content"] == "changed"
    assert all(o.memory(i).status == 200 for i in ids[2:])
    assert o.search("changed")[0]["id"] == ids[1]
    o.stop()
    o.start()
    assert o.memory(ids[1]).json["version"] == 2 and o.memory(ids[0]).status == 404


@pytest.mark.parametrize("role", ["sync", "api", "warmer", "pinger"])
def test_killing_one_worker_loses_nothing(make, role):
    o = make()
    ids, stop = [], threading.Event()

    def writer():
        while not stop.is_set():
            try:
                r = o.request("POST", "/v1/memories", {"content": f"w{len(ids)}"}, fresh=True, timeout=10)
                if r.status == 201:
                    ids.append(r.json["id"])
            except OSError:
                pass
    t = threading.Thread(target=writer)
    t.start()
    for _ in range(5):
        time.sleep(0.1)
        victims = [p for n, p in o.workers().items() if role in n]
        if victims:
            os.kill(victims[0], signal.SIGKILL)
    time.sleep(0.5 * SLOW)
    stop.set()
    t.join(15)
    assert not t.is_alive() and len(ids) > 10
    o.wait_ready()
    assert all(o.memory(i).status == 200 for i in ids)
    assert {m["id"] for m in o.list_all()} >= set(ids)


def test_failing_fdatasync_acknowledges_nothing_and_says_why(make):
    if not shutil.which("strace"):
        pytest.skip("strace is absent")
    o = make(start=False)
    o.start()
    o.add("before")
    sync = [p for n, p in o.workers().items() if "sync" in n][0]
    tracer = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e",
                               "inject=fdatasync,fsync:error=EIO", "-p", str(sync)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0 * SLOW)
        r = [o.post("/v1/memories", {"content": f"never {i}"}) for i in range(3)]
        assert all(x.status == 503 for x in r) and "durable" in r[0].json["detail"]
        assert o.get("/readyz").status == 503 and o.get("/readyz").json["status"] == "journal-failed"
        o.wait_log("Input/output error")
        assert o.search("before")[0]["content"] == "before"       # reads go on
    finally:
        tracer.terminate()
        tracer.wait()
    assert o.post("/v1/memories", {"content": "still refused"}).status == 503   # never retried as if nothing happened
    kill_all(o)
    o.start()
    assert o.add("works again") and len(o.list()["memories"]) >= 2


def segments(o):
    return sorted(glob.glob(os.path.join(o.data, "journal", "*.seg")))


def records(path):
    """[(offset, seq, payload length)] of one segment."""
    with open(path, "rb") as f:
        d = f.read()
    _, _, _, _, _, epoch, _, start = struct.unpack("<QIIQQQQQ", d[:56])
    out, at = [], start or 4096
    while True:
        magic, _, seq, e, n, _ = struct.unpack("<IIQQII", d[at:at + 32])
        if magic != 0x52434552 or e != epoch:
            return out
        out.append((at, seq, n))
        at += 32 + (n + 7) // 8 * 8


def test_torn_tail_is_cut(make):
    o = make(sets=["sync.debounce_ms=60000", "sync.batch_max=100000"])
    ids = [o.add(f"n{i}")["id"] for i in range(10)]
    kill_all(o)
    path = [s for s in segments(o) if records(s)][-1]
    at, _, n = records(path)[-1]
    with open(path, "r+b") as f:
        f.seek(at + 32 + n // 2)
        f.write(b"\xff" * 16)
    o.start()
    assert o.memory(ids[9]).status == 404                    # as if power had failed before its fdatasync
    assert all(o.memory(i).status == 200 for i in ids[:9])
    assert o.add("goes on")


def test_damage_in_the_middle_is_reported_and_quarantined(make):
    o = make(sets=["sync.debounce_ms=60000", "sync.batch_max=100000"])
    ids = [o.add(f"n{i}")["id"] for i in range(10)]
    kill_all(o)
    path = [s for s in segments(o) if records(s)][-1]
    at, seq, n = records(path)[4]
    with open(path, "r+b") as f:
        f.seek(at + 40)
        f.write(b"\xff" * 8)
    o.start()
    assert o.memory(ids[4]).status == 404
    assert all(o.memory(i).status == 200 for i in ids[:4] + ids[5:])
    assert os.listdir(os.path.join(o.data, "quarantine"))
    assert o.post("/v1/memories?wait=store", {"content": "behind"}).status == 201      # the flusher has passed it, too
    said = [line for line in o.log().splitlines() if f"records {seq} to {seq}" in line]
    assert len(said) == 1 and "are lost" in said[0], said
    assert re.search(r"replayed 9 journal records, \d+ to \d+, in", o.log()), o.log()


@pytest.mark.sqlite("a server is reached over a network")
def test_read_only_home_and_no_network(make, tmp_path):
    """Needs nothing but its data directory: no network, no writable /usr."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    if subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode:
        pytest.skip("no name spaces here (a chroot whose / is no mount point?)")
    script = "mount -o bind,ro /usr /usr; ip link set lo up 2>/dev/null; exec \"$@\""
    o = make(start=False, prefix=["unshare", "--mount", "--net", "sh", "-c", script, "sh"])
    o.start(wait=False)
    deadline = time.monotonic() + 10 * SLOW
    while time.monotonic() < deadline and not os.path.exists(o.socket):
        time.sleep(0.05)
    time.sleep(0.5 * SLOW)
    r = o.ctl("add", "found without a network")
    assert r.returncode == 0, r.stderr + o.log()
    r = o.ctl("search", "network")
    assert "found without a network" in r.stdout
    o.process.send_signal(signal.SIGTERM)
    assert o.process.wait(15 * SLOW) == 0


def test_store_catches_up_and_pending_empties(make):
    o = make()
    o.post("/v1/memories", {"memories": [{"content": f"{i}"} for i in range(500)]})
    deadline = time.monotonic() + 10 * SLOW
    while time.monotonic() < deadline:
        m = o.get("/metrics").body.decode()
        if "orchestra_pending_entries 0\n" in m and "orchestra_journal_lag_records 0\n" in m:
            return
        time.sleep(0.05)
    raise AssertionError(m)


def test_two_daemons_one_directory(make):
    o = make()
    other = Orchestra(directory=o.dir, start=False)
    other.data = o.data
    other.start(wait=False)
    assert other.process.wait(10 * SLOW) != 0
    assert str(o.process.pid) in other.log()
    assert o.get("/livez").status == 200


def test_pending_max_lowered_below_what_waits(make):
    """The daemon refuses to start and names the key; raised again, nothing is lost."""
    o = make(sets=["sync.debounce_ms=60000", "sync.batch_max=100000"])
    ids = []
    for part in range(3):
        r = o.post("/v1/memories", {"memories": [{"content": f"m{part}.{i}"} for i in range(500)]})
        ids += [m["id"] for m in r.json["memories"]]
    o.kill()
    while o.workers():
        time.sleep(0.01)
    o.sets += ["journal.pending_max=1024"]
    o.start(wait=False)
    assert o.process.wait(30) != 0 and "journal.pending_max (1024) is less than what waits" in o.log()
    o.sets.pop()
    o.start()
    assert all(o.memory(i).status == 200 for i in ids)


@pytest.mark.sqlite
def test_clean_stop_leaves_a_whole_database(make):
    """After a drain store.db alone holds everything: no write-ahead log beside it."""
    o = make()
    ids = {o.add(f"m{i}")["id"] for i in range(20)}
    assert o.stop() == 0
    assert not os.path.exists(os.path.join(o.data, "store.db-wal"))
    shutil.rmtree(os.path.join(o.data, "journal"))
    o.start()
    assert {m["id"] for m in o.list()["memories"]} == ids


def test_no_room_shows_in_readyz(make):
    """journal.pending_max is reached: 503 with Retry-After, /readyz says so, and it is over when there is room."""
    o = make(sets=["sync.debounce_ms=3000", "sync.batch_max=100000", "journal.pending_max=1024"])
    status = []
    for part in range(4):
        status.append(o.post("/v1/memories", {"memories": [{"content": f"m{part}.{i}"} for i in range(400)]}).status)
    assert status[0] == 201 and status[-1] == 503
    r = o.get("/readyz")
    assert r.status == 503 and r.json["status"] == "journal-quota"
    deadline = time.monotonic() + 10 * SLOW
    while o.post("/v1/memories", {"content": "again"}).status != 201:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert o.get("/readyz").status == 200
    assert o.get("/v1/memories:count").json["count"] == 400 * status.count(201) + 1
