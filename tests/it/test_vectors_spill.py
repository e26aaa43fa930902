"""Vectors on the disk (vectors.spill_bytes): the same answers with a fraction of the memory, through kills, a restart and an upgrade.

Broken code that this would catch: workers that do not get the file, or another one; a sandbox that does not let them map it; answers
that differ from those of a daemon that has all in memory; a file that stays behind, or that others may open; what was erased found
again; a start on a disk that has no room which goes on regardless.
"""
import os
import shutil

import pytest

from orchestra import STORE, kill_all, until
from test_index_file import TOOK, add, metric, ready, start_again, text

SPILL = ["vectors.exact_bytes=0", "vectors.flat_rows=256", "vectors.max_bytes=1 MiB", "vectors.spill_bytes=16 MiB", "sync.debounce_ms=20"]
SPILLED, MEMORY = "orchestra_vectors_spilled_bytes", "orchestra_vectors_bytes"
COUNT = 2400


def answers(o, **fields):
    return [[(h["content"], h["score"]) for h in o.search(text(i * 37) + f" {i}", limit=10, mode="vector", **fields)] for i in range(12)]


def filled(o, n=COUNT):
    ids = []
    for at in range(0, n, 400):
        ids += add(o, 400, start=at)
    ready(o)
    return ids


def spill_of(o, worker):
    """Where the worker's descriptor of the file leads, and its mode."""
    path = f"/proc/{o.worker(worker)}/fd/20"
    return os.readlink(path), os.stat(path)


def test_the_same_answers_with_less_memory(make):
    o, all_in_memory = make(sets=SPILL), make(sets=["vectors.exact_bytes=0", "vectors.flat_rows=256"])
    ids = filled(o)
    filled(all_in_memory)
    assert metric(o, MEMORY) <= 1 << 20 < metric(all_in_memory, MEMORY)
    assert metric(o, SPILLED) > 1 << 18 and metric(all_in_memory, SPILLED) == 0
    right = answers(all_in_memory, exact=True)
    assert answers(o, exact=True) == right
    assert metric(o, "orchestra_vectors") == COUNT
    for worker in ("api.0", "sync"):
        name, st = spill_of(o, worker)
        assert name.startswith(os.path.realpath(o.data) + "/") and name.endswith(" (deleted)"), name
        assert st.st_mode & 0o777 == 0o600 and st.st_nlink == 0 and st.st_size == 16 << 20 <= st.st_blocks * 512
    # whoever dies: the others go on with the same file, the successors take it up
    for worker in ("sync", "api.0"):
        pid = o.worker(worker)
        os.kill(pid, 9)
        o.worker(worker, but=pid)
        o.wait_ready()
        assert answers(o, exact=True) == right
    assert o.ctl("upgrade").returncode == 0
    assert answers(o, exact=True) == right
    add(o, 10, start=9000)
    assert [h["content"] for h in o.search(text(9003), limit=1, mode="vector")] == [text(9003)]
    # erased is erased, and its neighbours are there
    assert o.delete(f"/v1/memories/{ids[7]}?erase=true").status == 200
    assert text(7) not in [h["content"] for h in o.search(text(7), limit=20, mode="vector", exact=True)]
    assert text(8) in [h["content"] for h in o.search(text(8), limit=20, mode="vector", exact=True)]
    assert "vector index: the shared segment is inconsistent" not in o.log()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_restart_fills_a_new_file(make, how):
    o = make(sets=SPILL)
    filled(o, 1200)
    right = answers(o, exact=True)
    if how == "stopped":
        assert o.stop() == 0
    else:
        kill_all(o)
    assert not [f for f in os.listdir(o.data) if os.path.isfile(os.path.join(o.data, f)) and os.path.getsize(os.path.join(o.data, f)) == 16 << 20]
    log = start_again(o)
    assert (TOOK in log) == (how == "stopped")
    assert metric(o, SPILLED) > 0 and metric(o, "orchestra_vectors") == 1200
    assert answers(o, exact=True) == right
    # what was saved with a file is no use to a daemon without: it says so, and asks the store
    assert o.stop() == 0
    o.sets = [s for s in SPILL if "spill" not in s and "max_bytes" not in s]
    log = start_again(o)
    assert TOOK not in log and "belongs nowhere" in log
    until(lambda: metric(o, "orchestra_vectors") == 1200, 30)
    assert answers(o, exact=True) == right and metric(o, SPILLED) == 0


@pytest.mark.skipif(shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free > 1 << 40, reason="the disk has room for what may be asked for")
def test_a_disk_without_room_is_an_error_at_the_start(make):
    o = make(sets=["vectors.spill_bytes=1 TiB"], start=False)
    o.start(wait=False)
    assert o.process.wait(60) != 0
    assert "cannot reserve vectors.spill_bytes, 1099511627776 bytes, in data.dir" in o.log() and "No space left on device" in o.log()
    o.sets = []
    o.start()
