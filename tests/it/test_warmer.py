"""The warmer: a start that finds the cache as it was left, and never shows what is not so any more; warming on demand.

Broken code that this would catch: copies served that the store has changed, deleted, erased or let expire since they were
saved; those of another state of the store; bodies on disk while the daemon runs; a damaged or unwritable file that keeps
anybody from starting; a job that cannot be cancelled, or leaves the next one waiting; readiness that waits for ever.
"""
import json
import os
import shutil
import signal
import time

import pytest

from fault_points import TWIN, Faults
from fleet import Fleet
from orchestra import STORE, kill_all, until


def hot(o, name=""):
    return os.path.join(o.data, "hot", name)


def add(o, n, **fields):
    r = o.post("/v1/memories?wait=store", {"memories": [{"content": f"memory {i}", **fields} for i in range(n)]})
    assert r.status == 201, r
    return [m["id"] for m in (r.json.get("memories") or r.json["results"])]


def tier(o, id_):
    return o.memory(id_).headers["Cache-Status"]


def hits(o, ids):
    return sum(tier(o, i) == "orchestra; hit" for i in ids)


def keep_hot(o):
    """The files as they are on disk while nobody runs."""
    shutil.copytree(hot(o), os.path.join(o.dir, "kept"), dirs_exist_ok=True)


def put_back(o):
    shutil.rmtree(hot(o), ignore_errors=True)
    shutil.copytree(os.path.join(o.dir, "kept"), hot(o))


# Nothing comes from the store on its own: what is in L1 has come from the file.
ALONE = ["api.workers=1"]


def test_a_restart_finds_the_cache_as_it_was(make):
    o = make(sets=ALONE)
    ids = add(o, 300)
    o.stop()
    assert {"bodies", "key"} <= set(os.listdir(hot(o))) <= {"bodies", "ids", "key"}
    assert all(os.stat(hot(o, f)).st_mode & 0o777 == 0o600 for f in os.listdir(hot(o))) and os.stat(hot(o)).st_mode & 0o777 == 0o700
    o.start()
    w = o.warmed()
    assert (w["state"], w["kind"], w["loaded"]) == ("done", "start", 300)
    # Nobody finds bodies beside a daemon that runs.
    assert not os.path.exists(hot(o, "bodies")) and not os.path.exists(hot(o, "key"))
    assert hits(o, ids) == 300


def test_what_was_hot_comes_from_the_file_and_not_from_the_store(make):
    """The store has it, and is not asked: its newest memories would be others."""
    o = make(sets=ALONE + ["cache.l1_bytes=1048576"])
    old = add(o, 20, metadata={"pad": "x" * 1000})
    for _ in range(4):
        add(o, 300, metadata={"pad": "y" * 3000})        # more than fits
        for i in old * 2:
            o.memory(i)
    assert hits(o, old) == 20
    o.stop()
    o.start()
    w = o.warmed()
    assert hits(o, old) >= 18, w


def changed(o, i):
    assert o.patch(f"/v1/memories/{i}", {"content": "another text"}).status == 200


def deleted(o, i):
    assert o.delete(f"/v1/memories/{i}").status in (200, 204)


def erased(o, i):
    assert o.delete(f"/v1/memories/{i}?erase=true").status == 200


def dropped(o, i):
    assert o.delete("/v1/namespaces/gone?confirm=gone").status in (200, 204)


@pytest.mark.parametrize("what", [changed, deleted, erased, dropped], ids=lambda f: f.__name__)
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_old_file_shows_nothing_that_is_not_so_any_more(make, what, how):
    """The file of an earlier life, bodies and all, lies there again: as after a restore of the folder."""
    o = make(sets=ALONE + ["warmer.save_every=0"])
    ids, own = add(o, 50), add(o, 5, namespace="gone")
    o.stop()
    keep_hot(o)
    o.start()
    o.warmed()
    what(o, own[0] if what is dropped else ids[7])
    if how == "killed":
        kill_all(o)
    else:
        o.stop()
    put_back(o)
    o.start()
    w = o.warmed()
    assert hits(o, ids[:7] + ids[8:]) == 49, (w, o.log())     # the others are believed
    if what is changed:
        assert o.memory(ids[7]).json["content"] == "another text"
    elif what is dropped:
        assert all(o.memory(i).status == 404 for i in own)
    else:
        assert o.memory(ids[7]).status == 404


def test_what_expires_meanwhile_is_not_shown(make):
    o = make(sets=ALONE)
    ids = add(o, 10)
    short = o.add("short-lived", ttl=2)
    until(lambda: o.get(f"/v1/memories:count").status == 200)
    o.post("/v1/memories?wait=store", {"content": "behind it"})
    expires = time.time() + 2.1
    o.stop()
    time.sleep(max(0, expires - time.time()))
    o.start()
    assert o.warmed()["loaded"] == 11  # what is gone already would be shown for a millisecond
    assert o.memory(short["id"]).status == 404 and hits(o, ids) == 10


@pytest.mark.sqlite("sets the file of the database back")
def test_another_state_of_the_store_is_noticed(make):
    """A backup is put back: the bodies of the file are newer than the store."""
    o = make(sets=ALONE)
    ids = add(o, 20)
    o.stop()
    for f in os.listdir(o.data):
        if f.startswith("store.db"):
            shutil.copy(os.path.join(o.data, f), os.path.join(o.dir, f))
    o.start()
    o.warmed()
    assert o.patch(f"/v1/memories/{ids[3]}?wait=store", {"content": "of the lost time"}).status == 200
    o.stop()
    for f in [f for f in os.listdir(o.data) if f.startswith("store.db")]:
        os.unlink(os.path.join(o.data, f))
    for f in os.listdir(o.dir):
        if f.startswith("store.db"):
            shutil.copy(os.path.join(o.dir, f), os.path.join(o.data, f))
    shutil.rmtree(os.path.join(o.data, "journal"))
    o.start()
    o.warmed()
    assert "are not of this state of the store" in o.log()
    assert o.memory(ids[3]).json["content"] == "memory 3"
    assert hits(o, ids[:3]) == 3                              # read from the store by their ids


def test_after_a_kill_the_ids_are_known(make):
    o = make(sets=ALONE + ["warmer.save_every=100 ms"])
    ids = add(o, 100)
    until(lambda: o.get("/v1/admin/warm").json["saved"] == 100)
    kill_all(o)
    assert "ids" in os.listdir(hot(o)) and "bodies" not in os.listdir(hot(o))
    o.start()
    assert o.warmed()["loaded"] == 100 and hits(o, ids) == 100


def test_a_damaged_file_is_used_as_far_as_it_is_right(make):
    o = make(sets=ALONE)
    ids = add(o, 300, metadata={"pad": "x" * 9000})           # some blocks
    o.stop()
    for n, f in enumerate(["bodies", "ids"]):
        if os.path.exists(hot(o, f)):
            with open(hot(o, f), "r+b") as file:
                file.seek(os.path.getsize(hot(o, f)) // 2)
                file.write(os.urandom(5000))
    o.start()
    o.warmed()
    assert "blocks of the file of hot memories are damaged" in o.log()
    assert all(o.memory(i).status == 200 for i in ids)
    o.stop()
    for f in os.listdir(hot(o)):
        with open(hot(o, f), "r+b") as file:
            file.write(os.urandom(4096))
    o.start()
    o.warmed()
    assert "cannot be read" in o.log() and hits(o, ids) == 300   # the newest, from the store


def test_what_cannot_be_written_is_said_once_and_harms_nobody(make):
    """A file in the place of the folder: as on a full disk, nothing can be made in it."""
    o = make(start=False, sets=ALONE + ["warmer.save_every=50 ms"])
    os.makedirs(o.data, mode=0o700)
    with open(os.path.join(o.data, "hot"), "w"):
        pass
    o.start()
    ids = add(o, 10)
    o.wait_log("cannot be saved")
    time.sleep(0.3)
    assert o.log().count("cannot be saved") == 1
    assert o.stop() == 0
    o.start()
    o.warmed()
    assert hits(o, ids) == 10


def test_nothing_is_saved_when_nothing_is_to_be(make):
    o = make(sets=ALONE + ["warmer.save=off", "warmer.save_every=50 ms"])
    add(o, 10)
    time.sleep(0.2)
    o.stop()
    assert os.listdir(hot(o)) == []


# ---- erasing ----

def test_erasing_takes_an_old_file_away(make):
    """Bodies that lie there for whatever reason are gone before the receipt."""
    o = make(sets=ALONE)
    ids = add(o, 20)
    o.stop()
    keep_hot(o)
    o.start()
    o.warmed()
    put_back(o)
    secret = os.path.join(o.dir, "disk")
    os.link(hot(o, "key"), secret)                            # what the disk's blocks would still hold
    r = o.delete(f"/v1/memories/{ids[0]}?erase=true")
    assert r.status == 200 and "receipt" in r.json, r
    assert not os.path.exists(hot(o, "bodies")) and not os.path.exists(hot(o, "key"))
    assert not any(open(secret, "rb").read())


def test_bodies_are_not_in_the_clear(make):
    o = make(sets=ALONE)
    add(o, 5, metadata={"mark": "peculiar-word"})
    o.stop()
    assert b"peculiar-word" not in open(hot(o, "bodies"), "rb").read()


# ---- on demand ----

def test_warming_on_demand(make):
    o = make(sets=ALONE + ["warmer.save=off"])
    ids, others = add(o, 60), add(o, 40, namespace="other")
    o.stop()
    o.start()
    assert o.warmed()["loaded"] == 100
    r = o.post("/v1/admin/warm", {"namespace": "other"})
    assert r.status == 202 and r.json["kind"] == "namespace" and r.json["namespace"] == "other", r
    w = o.warmed()
    assert w["job"] == r.json["job"] and w["loaded"] == 40 and w["total"] == 40
    assert o.post("/v1/admin/warm", {"all": True, "limit": 30}).status == 202
    w = o.warmed()
    assert (w["kind"], w["loaded"]) == ("all", 30)
    assert o.delete("/v1/admin/warm").status == 200 and o.warmed()["job"] == w["job"]
    for bad in ({}, {"all": False}, {"all": True, "namespace": "other"}, {"namespace": ""}, {"all": True, "limit": 0}, {"every": 1}, []):
        assert o.post("/v1/admin/warm", bad).status == 400, bad
    assert o.post("/v1/admin/warm", {"namespace": "nobody"}).status == 404
    assert ids and others


def test_one_job_at_a_time_and_it_can_be_cancelled(make):
    o = make(sets=ALONE + ["warmer.save=off", "warmer.ready_fraction=100", "warmer.ready_max=0"])
    add(o, 500)
    o.warmed()
    pid = o.worker("warmer")
    os.kill(pid, signal.SIGSTOP)
    # The first order lies in the warmer's socket until it goes on; so do the others.
    asked = [o.ctl("warm", "--status")]
    os.kill(pid, signal.SIGCONT)
    assert asked[0].returncode == 0
    first = o.post("/v1/admin/warm", {"all": True}).json["job"]
    second = o.post("/v1/admin/warm", {"all": True})
    assert second.status in (202, 409)
    if second.status == 409:
        assert second.json["type"].endswith(":warming") and str(first) in second.json["detail"]
    assert o.delete("/v1/admin/warm").status == 200
    assert o.warmed()["state"] in ("cancelled", "done")
    assert o.post("/v1/admin/warm", {"all": True}).status == 202
    assert o.warmed()["state"] == "done"


def test_orchestractl_warm(make, tmp_path):
    o = make(sets=ALONE + ["warmer.save=off"])
    add(o, 30)
    add(o, 20, namespace="other")
    o.warmed()
    r = o.ctl("warm", "--all", "--wait")
    assert r.returncode == 0 and ": done, 50 of 50 memories" in r.stdout, r
    r = o.ctl("--namespace", "other", "warm", "--limit", "5", "--wait", "--json")
    assert r.returncode == 0 and json.loads(r.stdout)["loaded"] == 5, r
    assert o.ctl("warm", "--status").stdout.startswith("Job ")
    assert o.ctl("warm", "--namespace", "nobody").returncode == 1
    assert o.ctl("warm").returncode == 2 and o.ctl("warm", "--all", "--cancel").returncode == 2
    queries = tmp_path / "queries"
    queries.write_text('memory 1\n\n{"query": "memory 2", "limit": 3}\nmemory 1\n')
    r = o.ctl("warm", "--queries", str(queries))
    assert r.returncode == 0 and r.stdout.startswith("3 queries asked"), r
    hit = o.post("/v1/memories/search", {"query": "memory 2", "limit": 3})
    assert "hit" in hit.headers["Cache-Status"], hit.headers
    queries.write_text('{"query": 7}\n{"quer\nmemory 3\n')
    r = o.ctl("warm", "--queries", str(queries), "--json")
    assert r.returncode == 1 and json.loads(r.stdout)["failed"] == 2 and "line 2:" in r.stderr, r


def test_by_schedule(make):
    o = make(sets=ALONE + ["warmer.every=200 ms"])
    add(o, 10)
    until(lambda: (w := o.get("/v1/admin/warm").json)["kind"] == "schedule" and w["job"] >= 3)


@pytest.mark.parametrize("value,ok", [('["00:00","23:59"]', True), ('["24:00"]', False), ('["7:30"]', False), ('[730]', False)])
def test_times_of_the_day_are_checked(daemon, value, ok):
    r = daemon.ctl("check", "--set", f"warmer.at={value}")
    assert (r.returncode == 0) == ok and (ok or "warmer.at" in r.stderr)


# ---- readiness ----

def start_that_hangs(o):
    """Its warmer waits for whoever writes into the file of ids: until the return value is called."""
    shutil.rmtree(hot(o), ignore_errors=True)
    os.mkdir(hot(o), 0o700)
    os.mkfifo(hot(o, "ids"), 0o600)
    o.start(wait=False)
    return lambda: os.close(os.open(hot(o, "ids"), os.O_WRONLY))


def test_readiness_waits_for_a_part(make):
    o = make(sets=ALONE + ["warmer.ready_fraction=100", "warmer.ready_max=1 h"])
    add(o, 50)
    o.stop()
    go_on = start_that_hangs(o)
    r = o.wait_ready(status=503)
    until(lambda: (r := o.get("/readyz")).json["status"] == "warming" and "took up the saved indexes" in o.log())
    time.sleep(0.2)
    r = o.get("/readyz")
    assert (r.status, r.json["status"], r.json["cache"]["loaded"]) == (503, "warming", 0)
    assert o.list()["memories"]                               # served all the same
    go_on()
    o.wait_ready()
    assert o.warmed()["loaded"] == 50


def test_readiness_does_not_wait_for_ever(make):
    o = make(sets=ALONE + ["warmer.ready_fraction=100", "warmer.ready_max=500 ms"])
    o.stop()
    go_on = start_that_hangs(o)
    o.wait_ready()
    assert o.get("/v1/admin/warm").json["state"] == "running"
    go_on()
    o.warmed()


def test_readiness_does_not_wait_by_default_and_leaving_not_for_a_thread_that_hangs(make):
    o = make(sets=ALONE)
    o.stop()
    start_that_hangs(o)
    o.wait_ready()
    assert o.get("/v1/admin/warm").json["state"] == "running"
    assert o.stop() == 0


# ---- whoever is killed, and upgrades ----

POINTS = ["hot_shredded", "hot_taken", "warm_taken", "warm_begun", "warm_slice", "warm_over", "hot_block_written", "warm_walked",
          "hot_file_whole", "hot_file_named"]


@pytest.mark.parametrize("point", POINTS)
def test_the_warmer_may_die_anywhere(make, point):
    if not os.path.exists(TWIN):
        pytest.skip("the twin is not built")
    faults = Faults()
    o = make(binary="tests/orchestrad-faults", sets=ALONE, env={"ORC_FAULT_FILE": faults.path}, start=False)
    try:
        o.start()
        ids = add(o, 40)
        o.warmed()
        o.stop()
        faults.arm(point, "warmer")
        o.start()
        if point.startswith("hot_file") or point in ("hot_block_written", "warm_walked"):
            o.post("/v1/admin/warm", {"all": True})           # a save follows
        until(lambda: faults.pid(point))
        until(lambda: o.get("/v1/admin/warm").json["state"] in ("done", "failed") and "warmer" in o.workers())
        assert all(o.memory(i).json["content"] == f"memory {n}" for n, i in enumerate(ids))
        changed(o, ids[3])
        assert o.stop() == 0
        o.start()
        o.warmed()
        assert o.memory(ids[3]).json["content"] == "another text"
        assert hits(o, ids) == 40
    finally:
        faults.disarm_all()
        o.cleanup()
        faults.close()


def test_an_upgrade_while_it_warms(make):
    o = make(sets=ALONE)
    ids = add(o, 200)
    o.warmed()
    o.post("/v1/admin/warm", {"all": True})
    o.signal(signal.SIGUSR2)
    o.wait_log("upgraded from")
    until(lambda: o.get("/v1/admin/warm").json["state"] != "running")
    assert o.post("/v1/admin/warm", {"all": True}).status == 202
    assert o.warmed()["state"] == "done" and hits(o, ids) == 200


# ---- a fleet ----

@pytest.mark.skipif(STORE != "sqlite", reason="has a server of its own")
def test_what_others_write_meanwhile_is_not_missed():
    """Two daemons on one PostgreSQL: one leaves, the other changes what the first one's file holds."""
    with Fleet(2, sets=ALONE) as f:
        a, b = f.daemons
        ids = add(a, 40)
        a.stop()
        assert os.path.exists(hot(a, "bodies"))
        until(lambda: b.memory(ids[39]).status == 200)
        assert b.patch(f"/v1/memories/{ids[0]}?wait=store", {"content": "another text"}).status == 200
        assert b.delete(f"/v1/memories/{ids[1]}?wait=store").status in (200, 204)
        a.start()
        w = a.warmed()
        assert a.memory(ids[0]).json["content"] == "another text" and a.memory(ids[1]).status == 404
        assert hits(a, ids[2:]) == 38, w
