"""Every role is killed at every fault point of common/fault.def under load; nothing that was acknowledged may be lost.

Each case: arm the point, let the clients of clients.py go on until the process that passes it has killed itself and the daemon is ready again,
then compare everything that was acknowledged. One daemon for all cases, so each also starts from what the others left.

    pytest -s tests/it/test_fault_points.py     prints the table point × role at the end
"""
import os
import re

import pytest

from fault_points import BEHIND, FRESH, TWIN, UPGRADE, FaultWorld, points, scenario_of
from orchestra import BUILD

TABLE = points() if os.path.exists(TWIN) else []
CASES = [(point, role) for point, roles in TABLE for role in roles]
# One death behind another: the successor is hit while it repairs what the first one left.
PAIRS = [(first, second, "sync") for first, second in [
    ("commit_durable", "sync_replayed"), ("commit_durable", "replay_delivered"), ("pending_chained", "pending_recovering"),
    ("pending_published", "replay_delivered"), ("journal_written", "flush_committed"), ("commit_durable", "flush_committed"),
    ("apply_indexed", "flush_committed"), ("apply_applied", "flush_committed"), ("apply_answered", "flush_committed"),
    ("apply_slice", "flushed_moved"), ("vectors_two_rows", "vectors_recovering"), ("vectors_assigning", "vectors_recounted"),
    ("vectors_moved", "vectors_recovering"), ("journal_short", "replay_settled"), ("rotate_headed", "replay_over"),
    ("flush_committed", "sync_opened")]] + [
    ("commit_durable", "writes_resending", "api"), ("apply_applied", "writes_resending", "api")]


# New workers beside old ones, and old ones that leave: an upgrade (to the same binary) ends or is taken back, whoever dies in it.
UPGRADED = [(point, role) for point in ("worker_born", "worker_attached", "worker_unready", "worker_ready", "worker_draining")
            for role in ("sync", "api", "warmer", "pinger")]


@pytest.fixture(scope="module")
def world():
    if not TABLE:
        pytest.skip("test_the_twin_is_built says why")
    w = FaultWorld()
    try:
        yield w
        w.end()
        assert w.violations == []
        # Whoever died in another way than by our hand met a defect.
        assert re.findall(r"\(pid \d+\) (?:died[^:]*|has left): (?!killed by SIGKILL|exit 0)(.*)", w.o.log()) == []
    finally:
        print("\n%-36s %-10s died  ready again after  lost" % ("point", "role"))
        for point, role, ms in w.results:
            print("%-36s %-10s yes   %6d ms          0" % (point, role, ms))
        print(f"{len(w.results)} deaths, {w.counts()}")
        w.stop.set()
        w.gate.set()
        w.o.cleanup()
        w.faults.close()


def test_the_twin_is_built():
    assert TABLE, f"{TWIN} is missing: make -C {BUILD} tests/orchestrad-faults"


@pytest.mark.parametrize("point,role", CASES, ids=[f"{p}-{r}" for p, r in CASES])
def test_death_at(world, point, role):
    ms = world.die(point, role, scenario_of(point, role), behind=BEHIND.get((point, role)))
    world.compare_all()
    world.results.append((point, role, ms))


@pytest.mark.parametrize("point,role", UPGRADED, ids=[f"{p}-{r}" for p, r in UPGRADED])
def test_death_in_an_upgrade_at(world, point, role):
    ms = world.die(point, role, UPGRADE)
    world.compare_all()
    world.results.append((point + " (upgrade)", role, ms))


def test_the_shipped_daemon_has_none():
    """Neither a name nor the switch; the twin has them, so the search can find them."""
    with open(TWIN, "rb") as twin, open(os.path.join(BUILD, "orchestrad"), "rb") as shipped:
        twin, shipped = twin.read(), shipped.read()
    for text in [b"ORC_FAULT_FILE", b"--list-faults", *(p.encode() + b"\t" for p, _ in TABLE)]:
        assert text in twin and text not in shipped, text


@pytest.mark.parametrize("first,second,role", PAIRS, ids=["-".join(p) for p in PAIRS])
def test_death_behind_a_death(world, first, second, role):
    ms = world.die(second, role, FRESH, first=(first, "sync"))
    world.compare_all()
    world.results.append((f"{first} {second}", role, ms))


def test_all_of_it_outlives_the_daemon(world):
    """Killed as a whole, then left in order: the same memories, and the same accounts of them."""
    def accounts():
        return {n["name"]: (n["count"], n["bytes"]) for n in world.o.get("/v1/namespaces").json["namespaces"] if n["name"].startswith("client")}
    world.quiet()
    world.check()
    before = accounts()
    world.kill_everything()
    world.o.start()
    world.wait_serving()
    assert accounts() == before
    world.check()
    assert world.o.stop() == 0
    world.o.start()
    assert accounts() == before
    world.compare_all()
