"""What the store does not accept: it lies among the dead letters with its reason, everything else is stored, and nobody waits for it.

The store is made to reject by a trigger that another process puts into its file. Broken code this would catch: a poisoned write
that blocks all behind it, takes others with it or is dropped in silence; a letter that a crash doubles or loses; one that is still
shown, searched or counted as if it were stored; a retry that overwrites what is newer; erased content in a letter."""
import glob
import hashlib
import json
import os
import signal
import sqlite3
import threading
import time

import pytest

from held import accepts, query, rejects
from orchestra import SLOW, Orchestra, kill_all, until

L = "/v1/admin/dead-letters"
POISON = "poison"


def sql(o, text):
    db = sqlite3.connect(os.path.join(o.data, "store.db"), timeout=20 * SLOW)
    try:
        with db:
            return db.execute(text).fetchall()
    finally:
        db.close()


def metric(o, name):
    return next(float(line.split()[-1]) for line in o.get("/metrics").body.decode().splitlines() if line.startswith(name + " "))


def flushed(o, timeout=30):
    until(lambda: metric(o, "orchestra_journal_lag_records") == 0, timeout)


def letters(o):
    out, cursor = [], None
    while True:
        page = o.get(L + "?limit=100" + (f"&cursor={cursor}" if cursor else "")).json
        out += page["dead_letters"]
        cursor = page["next_cursor"]
        if not cursor:
            return out


def files(o):
    return sorted(os.path.basename(p) for p in glob.glob(os.path.join(o.data, "dead", "*")))


def counted(o, namespace="default"):
    """Counters of the namespace, which must be the store's own."""
    row = next(n for n in o.get("/v1/namespaces").json["namespaces"] if n["name"] == namespace)
    where = f"WHERE name = '{namespace}'"
    stored = query(o, "SELECT count, bytes FROM namespaces " + where, "SELECT count, bytes FROM memory_namespaces " + where) or [["0", "0"]]
    assert stored == [[str(row["count"]), str(row["bytes"])]]
    return row["count"]


def bulk(o, contents, **fields):
    r = o.post("/v1/memories", {"memories": [{"content": c, **fields} for c in contents]})
    assert r.status == 201, r
    return [m["id"] for m in r.json["memories"]]


def test_one_among_thousands(make):
    o = make()
    rejects(o)
    ids, bad = {}, None
    for k in range(6):
        contents = [f"memory {k} of {i}" for i in range(400)]
        if k == 3:
            contents[217] = "a poison pill"
        new = bulk(o, contents)
        ids.update(zip(new, contents))
        bad = new[217] if k == 3 else bad
    assert o.memory(bad).status == 200 or letters(o)  # shown until the store has said no
    flushed(o)
    letter, = letters(o)
    assert letter["operation"] == "put" and letter["reason"].startswith("no poison here") and letter["tries"] == 1
    assert letter["id"] == bad and letter["namespace"] == "default" and letter["index"] == 217
    assert letter["preview"] == "a poison pill" and letter["preview_complete"]
    whole = o.get(f"{L}/{letter['number']}").json
    assert whole["memory"]["content"] == "a poison pill" and whole["memory"]["id"] == bad
    assert query(o, "SELECT count(*) FROM memories") == [["2399"]] and counted(o) == 2399
    assert o.memory(bad).status == 404
    got = o.post("/v1/memories:get", {"ids": list(ids)[1200:1600]}).json
    assert got["missing"] == [bad] and all(m["content"] == ids[m["id"]] for m in got["memories"])
    assert bad not in [m["id"] for m in o.search("a poison pill", limit=20)]
    assert metric(o, "orchestra_dead_letters") == 1 and metric(o, "orchestra_dead_letters_written_total") == 1
    assert o.get("/readyz").json == {"status": "ready", "degraded": []}
    assert o.get("/v1/admin/status").json["dead_letters"] == 1
    assert o.log().count("does not accept operation") == 1
    o.stop()
    o.start()
    assert letters(o) == [letter] and o.memory(bad).status == 404 and counted(o) == 2399


@pytest.mark.sqlite("triggers in its words")
def test_who_waits_for_the_store_is_told(make):
    o = make()
    rejects(o)
    r = o.post("/v1/memories?wait=store", {"content": "poison"})
    assert r.status == 409 and r.json["type"].endswith(":store-rejected"), r
    r = o.post("/v1/memories?wait=store", {"memories": [{"content": "good"}, {"content": "poison, too"}, {"content": "better"}]})
    assert r.status == 409 and "does not accept 1 operation " in r.json["detail"], r
    assert o.post("/v1/memories?wait=store", {"content": "fine"}).json["durability"] == "store"
    assert sorted(m["content"] for m in o.list_all()) == ["better", "fine", "good"]
    # An answer for an Idempotency-Key is an operation like another.
    sql(o, "CREATE TRIGGER no_answers BEFORE INSERT ON idempotency BEGIN SELECT raise(ABORT, 'no answers'); END")
    r = o.post("/v1/memories?wait=store", {"content": "once"}, headers={"Idempotency-Key": "k"})
    assert r.status == 409, r
    assert [x["operation"] for x in letters(o)] == ["put", "put", "idempotency-answer"]
    assert "once" in [m["content"] for m in o.list_all()]


def test_an_import_goes_on(make):
    o = make()
    rejects(o)
    lines = "".join(json.dumps({"content": f"line {i}" + (" poison" if i in (20, 700, 701) else "")}) + "\n" for i in range(1200))
    r = o.post("/v1/memories:import?wait=store", lines)
    assert r.status == 200 and (r.json["imported"], r.json["failed"]) == (1197, 3), r
    assert len(r.json["errors"]) == 2 and len(letters(o)) == 3 and counted(o) == 1197


def test_many(make):
    """A third of all is rejected, while somebody else writes."""
    o = make()
    rejects(o)
    others, stop = [], threading.Event()

    def write():
        conn = Orchestra.request
        while not stop.is_set():
            r = conn(o, "POST", "/v1/memories", {"content": f"other {len(others)}", "namespace": "others"}, fresh=True)
            assert r.status == 201
            others.append(r.json["id"])

    t = threading.Thread(target=write)
    t.start()
    try:
        for k in range(3):
            bulk(o, [f"{'poison' if i % 3 == 0 else 'good'} {k} {i}" for i in range(99)])
    finally:
        stop.set()
        t.join()
    flushed(o, 60)
    found = letters(o)
    assert len(found) == 99 == metric(o, "orchestra_dead_letters") and len({x["id"] for x in found}) == 99
    assert [x["number"] for x in found] == list(range(1, 100)) and counted(o) == 198 and counted(o, "others") == len(others)
    accepts(o)
    assert o.post(L + ":retry").json == {"stored": 99, "remaining": 0}
    assert letters(o) == [] and files(o) == [] and counted(o) == 297
    assert len(o.list_all(limit=1000)) == 297


@pytest.mark.sqlite("triggers in its words")
def test_a_memory_becomes_what_the_store_has(make):
    """Not only what is new is rejected: a change, a deletion, a namespace's settings."""
    o = make()
    kept = o.add("the first version")
    flushed(o)
    rejects(o, "UPDATE")
    assert o.patch(f"/v1/memories/{kept['id']}", {"content": "poison in the second version"}).status == 200
    flushed(o)
    assert o.memory(kept["id"]).json["content"] == "the first version" and o.memory(kept["id"]).headers["ETag"] == '"1"'
    assert [m["content"] for m in o.search("the first version")] == ["the first version"] and counted(o) == 1
    # What comes behind is stored: version 3 on top of version 1 would be wrong, version 2 is free again.
    assert o.patch(f"/v1/memories/{kept['id']}", {"content": "the good second version"}).status == 200
    flushed(o)
    assert o.memory(kept["id"]).json["version"] == 2 and counted(o) == 1
    letter, = letters(o)
    r = o.post(f"{L}/{letter['number']}/retry")
    assert r.status == 409 and r.json["type"].endswith(":letter-outdated"), r  # version 2 is another one by now
    assert o.memory(kept["id"]).json["content"] == "the good second version"
    # A chain: the first is rejected, what was built on it before anybody knew is stored, and counts once.
    rejects(o, "INSERT", "venom", "venom")
    stale = o.post("/v1/memories", {"memories": [{"content": f"venom {i}"} for i in range(20)]}).json["memories"]
    for m in stale:
        o.patch(f"/v1/memories/{m['id']}", {"content": f"cured {m['id']}"})
    flushed(o)
    counted(o)
    sql(o, "CREATE TRIGGER keep BEFORE UPDATE ON memories WHEN new.deleted_us > 0 BEGIN SELECT raise(ABORT, 'no deletions'); END")
    assert o.delete(f"/v1/memories/{kept['id']}").status in (200, 204)
    flushed(o)
    assert o.memory(kept["id"]).status == 200, "what the store keeps is there"
    assert "the good second version" in [m["content"] for m in o.search("the good second version")]
    counted(o)
    sql(o, "CREATE TRIGGER frozen BEFORE UPDATE ON namespaces WHEN new.quota_count <> old.quota_count "
           "BEGIN SELECT raise(ABORT, 'no settings'); END")
    assert o.patch("/v1/namespaces/default", {"quota_count": 7}).status == 200
    until(lambda: o.get("/v1/namespaces/default").json["quota_count"] == 0)
    assert letters(o)[-1]["operation"] == "namespace"
    for name in ("keep", "frozen"):
        accepts(o, name)
    n = o.get("/v1/namespaces/default").json["count"]
    for letter in letters(o)[-2:]:
        assert o.post(f"{L}/{letter['number']}/retry").json == {"stored": 1, "remaining": 0}, o.get(f"{L}/{letter['number']}").json
    assert o.memory(kept["id"]).status == 404 and o.get("/v1/namespaces/default").json["quota_count"] == 7
    assert counted(o) == n - 1


def test_retry_while_the_cause_is_there_and_after(make):
    o = make()
    rejects(o)
    id_ = o.add("poison", external_id="e1")["id"]
    other = o.add("poison as well", external_id="e2")["id"]
    flushed(o)
    one, two = letters(o)
    r = o.post(f"{L}/{one['number']}/retry")
    assert r.status == 409 and r.json["type"].endswith(":store-rejected"), r
    again = letters(o)[0]
    assert again["number"] == one["number"] and again["tries"] == 2 and len(letters(o)) == 2
    assert o.memory(id_).status == 404 and counted(o) == 0
    accepts(o)
    o.add("taken meanwhile", external_id="e2")
    assert o.post(f"{L}/{one['number']}/retry").json == {"stored": 1, "remaining": 0}
    r = o.post(f"{L}/{two['number']}/retry")
    assert r.status == 409 and r.json["type"].endswith(":letter-outdated"), r
    assert o.memory(id_).json["content"] == "poison" and o.memory(other).status == 404 and counted(o) == 2
    assert [m["id"] for m in o.search("poison")][0] == id_
    assert o.post(f"{L}/{one['number']}/retry").status == 404
    assert o.delete(L).status == 400 and o.delete(f"{L}/{two['number']}").json == {"discarded": 1, "remaining": 0}
    assert letters(o) == [] and files(o) == []


def test_orchestractl(make):
    o = make()
    assert o.ctl("dlq", "list").stdout == "There are no dead letters.\n"
    rejects(o)
    for i in range(3):
        o.add(f"poison {i}")
    flushed(o)
    listed = o.ctl("dlq", "list").stdout
    assert listed.count("no poison here") == 3 and "poison 2" in listed
    assert "poison 1" in o.ctl("dlq", "show", "2").stdout and "3 dead letters" in o.ctl("status").stdout
    assert json.loads(o.ctl("--json", "dlq", "show", "2").stdout)["number"] == 2
    assert o.ctl("dlq", "retry", "2").returncode == 1
    assert o.ctl("dlq", "discard", "2").stdout == "Discarded 2\n" and o.ctl("dlq", "discard", "2").returncode == 1
    accepts(o)
    assert o.ctl("dlq", "retry", "1").stdout == "Stored 1\n" and o.ctl("dlq", "retry", "--all").stdout == "1 stored, 0 remain\n"
    assert o.ctl("dlq", "frobnicate").returncode == 2 and o.ctl("dlq", "retry").returncode == 2


@pytest.mark.sqlite("one batch on a server: its letters lie ahead of the cursor, and are not discarded before it has passed them")
def test_the_list_is_full(make):
    """Nothing is lost, nothing is passed over; and it goes on as soon as there is room."""
    o = make(sets=["sync.dead_letters_max=2"])
    rejects(o)
    for i in range(3):
        o.add(f"poison {i}")
    good = o.add("good")["id"]
    ready = until(lambda: [r for r in [o.get("/readyz")] if r.json["degraded"] == ["dead-letters"]])[0]
    assert ready.status == 200 and "sync.dead_letters_max" in ready.json["reason"]
    assert o.memory(good).status == 200 and query(o, "SELECT count(*) FROM memories") == [["0"]]
    assert o.add("goes on")["id"]
    assert o.ctl("dlq", "discard", "1").returncode == 0
    flushed(o)
    assert o.get("/readyz").json == {"status": "ready", "degraded": []}
    assert [x["preview"] for x in letters(o)] == ["poison 1", "poison 2"] and counted(o) == 2


@pytest.mark.sqlite("triggers in its words")
def test_erased_is_erased(make):
    o = make()
    id_ = o.add("innocent")["id"]
    flushed(o)
    rejects(o, "UPDATE", "xyzzy")
    o.patch(f"/v1/memories/{id_}", {"content": "the secret xyzzy"})
    o.post("/v1/namespaces", {"name": "other"})
    rejects(o, "INSERT", "plugh", "plugh")
    o.add("the secret plugh", namespace="other")
    flushed(o)
    assert len(letters(o)) == 2
    assert o.delete(f"/v1/memories/{id_}?erase=true").status == 200
    assert [x["namespace"] for x in letters(o)] == ["other"]
    assert o.delete("/v1/namespaces/other?confirm=other&erase=true").status == 200
    assert letters(o) == [] and files(o) == []
    for path in glob.glob(os.path.join(o.data, "**"), recursive=True):
        if os.path.isfile(path):
            data = open(path, "rb").read()
            assert b"xyzzy" not in data.replace(b"'%xyzzy%'", b"").replace(b"no xyzzy here", b"") and \
                b"secret plugh" not in data, path


@pytest.mark.sqlite("triggers in its words")
def test_an_erasure_that_is_rejected_has_no_receipt(make):
    o = make()
    id_ = o.add("stays")["id"]
    flushed(o)
    sql(o, "CREATE TRIGGER keep BEFORE DELETE ON memories BEGIN SELECT raise(ABORT, 'no deletions'); END")
    r = o.delete(f"/v1/memories/{id_}?erase=true")
    assert r.status == 409 and o.memory(id_).status == 200
    r = o.delete("/v1/namespaces/default?confirm=default")
    assert r.status == 409 and o.memory(id_).status == 200 and counted(o) == 1
    letter = letters(o)[-1]
    assert letter["operation"] == "namespace-delete" and o.post(f"{L}/{letter['number']}/retry").status == 409
    accepts(o, "keep")
    assert o.delete(f"/v1/memories/{id_}?erase=true").status == 200


def test_limited_credentials(make, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(f'token-{n}'.encode()).hexdigest()} {rights} {ns}\n" for n, rights, ns in
                              (("all", "admin", "*"), ("some", "admin", "mine"), ("none", "read,write", "*"))))
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}"], start=False)
    o.start(wait=False)
    o.wait_ready()
    say = {n: {"Authorization": f"Bearer token-{n}"} for n in ("all", "some", "none")}
    rejects(o)
    for ns in ("mine", "yours"):
        assert o.post("/v1/memories", {"content": "poison", "namespace": ns}, headers=say["none"]).status == 201
    until(lambda: o.get(L, headers=say["all"]).json["total"] == 2)
    assert [x["namespace"] for x in o.get(L, headers=say["some"]).json["dead_letters"]] == ["mine"]
    yours = next(x["number"] for x in o.get(L, headers=say["all"]).json["dead_letters"] if x["namespace"] == "yours")
    assert o.get(f"{L}/{yours}", headers=say["some"]).status == 404
    assert o.delete(f"{L}/{yours}", headers=say["some"]).status == 404
    assert o.post(L + ":retry", headers=say["some"]).status == 403
    assert o.get(L, headers=say["none"]).status == 403 and o.get(L).status == 401


@pytest.mark.parametrize("who", ["sync", "everybody"])
def test_killed_in_the_middle(make, who):
    """Whatever is killed whenever: each poisoned write has one letter, everything else is stored once."""
    o = make(sets=["sync.debounce_ms=5"])
    rejects(o)
    good, bad = [], []
    for k in range(8):
        new = bulk(o, [f"{'poison' if i % 10 == 5 else 'good'} {k} {i}" for i in range(40)])
        good += [x for i, x in enumerate(new) if i % 10 != 5]
        bad += [x for i, x in enumerate(new) if i % 10 == 5]
        time.sleep(0.01 * k)
        if who == "sync":
            os.kill(o.worker("sync"), signal.SIGKILL)
            o.wait_ready()
        else:
            kill_all(o)
            o.start()
    flushed(o, 60)
    found = letters(o)
    assert sorted(x["id"] for x in found) == sorted(bad)
    assert counted(o) == len(good) == int(query(o, "SELECT count(*) FROM memories")[0][0])
    missing = o.post("/v1/memories:get", {"ids": good + bad}).json["missing"]
    assert sorted(missing) == sorted(bad)
    accepts(o)
    assert o.post(L + ":retry").json == {"stored": len(bad), "remaining": 0}
    assert counted(o) == len(good) + len(bad)


def test_a_retry_that_is_killed(make):
    """The letter goes when the store has the memory, not before; then it is not stored twice."""
    o = make(binary="orchestrad")
    rejects(o)
    ids = bulk(o, [f"poison {i}" for i in range(30)])
    flushed(o)
    accepts(o)
    t = threading.Thread(target=lambda: o.post(L + ":retry", fresh=True, timeout=30))
    t.start()
    for _ in range(4):
        time.sleep(0.03)
        sync = o.worker("sync")
        os.kill(sync, signal.SIGKILL)
        o.worker("sync", but=sync)
        o.wait_ready()
    t.join()
    o.post(L + ":retry")
    until(lambda: not letters(o))
    assert not o.post("/v1/memories:get", {"ids": ids}).json["missing"] and counted(o) == 30
