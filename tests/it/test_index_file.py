"""Saved indexes: a start takes vectors, lists and words from data.dir/index, and what it finds is what the store has.

Broken code that this would catch: a start that reads the store although there is a file, or makes lists again; memories that were
written, changed, deleted or dropped between the save and a kill and are shown as they were, or not; a file of another state of the
store, a damaged one or one that is not finished that is believed; what was erased still on the disk.
"""
import glob
import os
import shutil

import pytest

from fleet import Fleet
from orchestra import STORE, kill_all, until

LISTED = ["vectors.exact_bytes=0", "vectors.flat_rows=64"]  # lists come at sizes that a test makes
SAVES = ["index.save_every=100 ms", "sync.debounce_ms=20"]
TOOK, REFILLED = "took up the saved indexes", "vector index holds"
WORDS = "amber basil cedar delta ember fjord grove heron iris jade kelp lotus maple nutmeg olive pearl quartz raven sage thyme".split()


def text(n):
    return f"{WORDS[n % 20]} {WORDS[n * 7 % 20]} {WORDS[n * 3 // 5 % 20]} item{n}"


def add(o, n, start=0, **fields):
    r = o.post("/v1/memories?wait=store", {"memories": [{"content": text(i), **fields} for i in range(start, start + n)]})
    assert r.status == 201, r
    return [m["id"] for m in (r.json.get("memories") or r.json["results"])]


def files(o, pattern="*"):
    return sorted(glob.glob(os.path.join(o.data, "index", pattern)))


def saved(o, count=1):
    until(lambda: o.log().count("saved the indexes:") >= count, 30)


def metric(o, line):
    return next((float(x.rsplit(" ", 1)[1]) for x in o.get("/metrics").body.decode().splitlines() if x.startswith(line + " ")), None)


def ready(o):
    """Searches come from the indexes, and these are done with what they do in the background."""
    until(lambda: o.post("/v1/memories/search", {"query": "amber"}).json["degraded"] == [], 30)


def answers(o, **fields):
    """What searches say, scores included, by words and by vectors."""
    return [[(h["id"], h["score"], h["content"]) for h in o.search(q, limit=20, **fields)]
            for q in WORDS[:6] + ["heron iris", "item17", "\"pearl quartz\""]]


def start_again(o):
    """Starts, and returns what the log says of it."""
    at = len(o.log())
    o.start()
    ready(o)
    return o.log()[at:]


def keep(o):
    shutil.rmtree(os.path.join(o.dir, "kept"), ignore_errors=True)
    shutil.copytree(os.path.join(o.data, "index"), os.path.join(o.dir, "kept"))


def put_back(o):
    shutil.rmtree(os.path.join(o.data, "index"), ignore_errors=True)
    shutil.copytree(os.path.join(o.dir, "kept"), os.path.join(o.data, "index"))


def test_a_restart_finds_everything_without_asking_the_store(make):
    o = make(sets=LISTED)
    ids = add(o, 400)
    for i in ids[::9]:
        assert o.delete(f"/v1/memories/{i}").status in (200, 204)
    ready(o)
    before = answers(o)
    assert o.stop() == 0
    image, key = files(o)
    assert image.endswith(".image") and key.endswith(".key")
    assert all(os.stat(f).st_mode & 0o777 == 0o600 for f in (image, key)) and os.stat(os.path.dirname(image)).st_mode & 0o777 == 0o700
    log = start_again(o)
    assert TOOK in log and REFILLED not in log
    assert answers(o) == before
    assert metric(o, 'orchestra_index_loads_total{from="file"}') == 1 and metric(o, 'orchestra_index_loads_total{from="store"}') == 0
    # nothing changed: nothing is saved again, and the file serves a kill as well
    assert o.stop() == 0 and files(o) == [image, key]
    o.start()
    kill_all(o)
    assert TOOK in start_again(o) and answers(o) == before


def contents(o, query, **fields):
    return [h["content"] for h in o.search(query, limit=20, **fields)]


def added(o, i):
    add(o, 30, start=5000)
    return lambda: contents(o, "item5017", mode="text") == [text(5017)]


def changed(o, i):
    assert o.patch(f"/v1/memories/{i}", {"content": "xylophone among others"}).status == 200
    return lambda: contents(o, "xylophone", mode="text") == ["xylophone among others"] and contents(o, "item7", mode="text") == [] and \
        contents(o, "xylophone among others", mode="vector")[0] == "xylophone among others"


def deleted(o, i):
    assert o.delete(f"/v1/memories/{i}").status in (200, 204)
    return lambda: contents(o, "item7", mode="text") == [] and text(7) not in contents(o, text(7), mode="vector")


def erased(o, i):
    assert o.delete(f"/v1/memories/{i}?erase=true").status == 200
    return lambda: contents(o, "item7", mode="text") == [] and text(7) not in contents(o, text(7), mode="vector")


def dropped(o, i):
    """And made again, with one of the former texts."""
    assert o.delete("/v1/namespaces/gone?confirm=gone").status in (200, 204)
    until(lambda: o.post("/v1/memories?wait=store", {"content": text(2), "namespace": "gone"}).status == 201)
    return lambda: contents(o, text(2), mode="text", namespace="gone") == [text(2)] and \
        contents(o, text(2), mode="vector", namespace="gone") == [text(2)]


def nothing(o, i):
    return lambda: True


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("what", [added, changed, deleted, erased, dropped, nothing], ids=lambda f: f.__name__)
def test_an_old_file_shows_what_the_store_has_now(make, what, how):
    """The file of an earlier life lies there again, as after a restore of the folder."""
    o = make(sets=LISTED + ["index.save_every=0 ms", "warmer.save=off"])
    ids = add(o, 200)
    add(o, 5, namespace="gone")
    o.stop()
    keep(o)
    assert TOOK in start_again(o)
    right = what(o, ids[7])
    assert right()
    if how == "killed":
        kill_all(o)
    else:
        assert o.stop() == 0
    put_back(o)
    assert TOOK in start_again(o)
    assert right()
    assert contents(o, "item11", mode="text") == [text(11)] and contents(o, text(11), mode="vector")[0] == text(11)


def test_what_is_saved_under_load_holds_all_that_was_acknowledged(make):
    """Saved again and again beside writes of every kind, then killed: what was answered is found, what was deleted is not."""
    o = make(sets=LISTED + SAVES)
    ids, gone = {}, set()
    for n in range(12):
        for i, id_ in zip(range(n * 40, n * 40 + 40), add(o, 40, start=n * 40)):
            ids[i] = id_
        for i in range(n * 40, n * 40 + 40, 4):
            assert o.delete(f"/v1/memories/{ids[i]}").status in (200, 204)
            gone.add(i)
        for i in range(n * 40 + 1, n * 40 + 40, 4):
            assert o.patch(f"/v1/memories/{ids[i]}", {"content": text(i) + " again"}).status == 200
    saved(o, 2)
    kill_all(o)
    assert TOOK in start_again(o)
    for i in range(0, 480, 7):
        want = [] if i in gone else [text(i) + " again"] if i % 4 == 1 else [text(i)]
        assert contents(o, f"item{i}", mode="text") == want, i


def test_erased_is_erased(make):
    """Before the receipt the file is gone and the key that it was encrypted with is overwritten; what is saved later goes without."""
    o = make(sets=LISTED + SAVES)
    ids = add(o, 100)
    saved(o)
    old = until(lambda: len(f := files(o)) == 2 and f, 30)
    kept = []
    for f in old:                                             # whoever holds them open sees what becomes of them
        kept.append(os.path.join(o.dir, os.path.basename(f)))
        os.link(f, kept[-1])
    assert o.delete(f"/v1/memories/{ids[7]}?erase=true").status == 200
    assert not set(old) & set(files(o))
    with open(kept[1], "rb") as f:
        assert kept[1].endswith(".key") and set(f.read()) == {0}
    count = o.log().count("saved the indexes:")
    add(o, 5, start=900)
    saved(o, count + 1)
    kill_all(o)
    assert TOOK in start_again(o)
    assert contents(o, "item7", mode="text") == [] and contents(o, "item8", mode="text") == [text(8)]
    kill_all(o)
    shutil.rmtree(os.path.join(o.data, "index"))
    os.mkdir(os.path.join(o.data, "index"), 0o700)
    for f in kept:                                            # neither does the old file serve anybody
        shutil.copy(f, os.path.join(o.data, "index"))
    log = start_again(o)
    assert "has no key" in log and TOOK not in log
    assert contents(o, "item7", mode="text") == [] and contents(o, "item8", mode="text") == [text(8)]


def damage_anywhere(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) * 2 // 3)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))


def truncate(path):
    os.truncate(path, os.path.getsize(path) - 1)


def scramble_head(path):
    with open(path, "r+b") as f:
        f.write(os.urandom(64))


def no_key(path):
    os.unlink(path.replace(".image", ".key"))


def unfinished(path):
    os.rename(path, path + ".new")


@pytest.mark.parametrize("damage", [damage_anywhere, truncate, scramble_head, no_key, unfinished], ids=lambda f: f.__name__)
def test_a_damaged_file_is_not_used(make, damage):
    o = make(sets=LISTED + ["index.save_every=0 ms"])
    add(o, 300)
    ready(o)
    before = answers(o, mode="text")
    o.stop()
    damage(files(o, "*.image")[0])
    log = start_again(o)
    assert TOOK not in log and REFILLED in log and ("is not used" in log or damage is unfinished)
    assert answers(o, mode="text") == before
    assert o.stop() == 0                                      # it was filled anew: worth a file
    assert len(files(o, "*.image")) == len(files(o)) - 1 == 1
    assert TOOK in start_again(o) and answers(o, mode="text") == before


@pytest.mark.sqlite("sets the file of the database back")
def test_another_state_of_the_store_is_noticed(make):
    """A backup is put back: the indexes of the file are newer than the store."""
    o = make(sets=["index.save_every=0 ms"])
    ids = add(o, 20)
    o.stop()
    for f in os.listdir(o.data):
        if f.startswith("store.db"):
            shutil.copy(os.path.join(o.data, f), os.path.join(o.dir, f))
    o.start()
    assert o.patch(f"/v1/memories/{ids[3]}?wait=store", {"content": "of the lost time"}).status == 200
    add(o, 30, start=100)
    o.stop()
    for f in [f for f in os.listdir(o.data) if f.startswith("store.db")]:
        os.unlink(os.path.join(o.data, f))
    for f in os.listdir(o.dir):
        if f.startswith("store.db"):
            shutil.copy(os.path.join(o.dir, f), os.path.join(o.data, f))
    shutil.rmtree(os.path.join(o.data, "journal"))
    log = start_again(o)
    assert "it is not of this state of the store" in log and TOOK not in log
    assert contents(o, "item3", mode="text") == [text(3)] and contents(o, "lost time", mode="text") == [] and contents(o, "item105", mode="text") == []


def test_what_cannot_be_written_is_said_once_and_harms_nobody(make):
    """A file in the place of the folder: as on a full disk, nothing can be made in it."""
    o = make(start=False, sets=SAVES)
    os.makedirs(o.data, mode=0o700)
    with open(os.path.join(o.data, "index"), "w"):
        pass
    o.start()
    add(o, 10)
    o.wait_log("the indexes cannot be saved")
    until(lambda: metric(o, 'orchestra_index_saves_total{outcome="given_up"}') >= 3)
    assert o.log().count("the indexes cannot be saved") == 1 and contents(o, "item3", mode="text") == [text(3)]
    assert o.stop() == 0
    assert REFILLED in start_again(o) and contents(o, "item3", mode="text") == [text(3)]


def test_nothing_is_saved_nor_used_when_nothing_is_to_be(make):
    o = make(sets=["index.save_every=0 ms"])
    add(o, 10)
    o.stop()
    before = files(o)
    o.sets[-1] = "index.save=off"
    assert TOOK not in start_again(o)
    add(o, 10, start=50)
    o.stop()
    assert files(o) == before
    o.sets[-1] = "index.save=on"
    assert TOOK in start_again(o) and contents(o, "item55", mode="text") == [text(55)]


@pytest.mark.skipif(STORE != "sqlite", reason="brings its own server")
def test_others_of_a_fleet_write_while_a_daemon_is_away(make):
    """Theirs and ours, in the store and in our journal only."""
    with Fleet(2, sets=["sync.debounce_ms=20", "index.save_every=0 ms", *LISTED]) as fleet:
        a, b = fleet
        ids = add(a, 200)
        fleet.followed()
        ready(a)
        a.stop()
        keep(a)
        assert TOOK in start_again(a)
        fleet.followed()
        assert a.patch(f"/v1/memories/{ids[5]}?wait=store", {"content": "ours is another text"}).status == 200
        fleet.followed()
        kill_all(a)
        put_back(a)
        assert b.patch(f"/v1/memories/{ids[7]}?wait=store", {"content": "theirs is another text"}).status == 200
        assert b.delete(f"/v1/memories/{ids[8]}").status in (200, 204)
        add(b, 10, start=700)
        assert TOOK in start_again(a)
        fleet.followed()
        assert contents(a, "item5", mode="text") == contents(a, "item7", mode="text") == contents(a, "item8", mode="text") == []
        assert sorted(contents(a, "another", mode="text")) == ["ours is another text", "theirs is another text"]
        assert contents(a, "item703", mode="text") == [text(703)] and contents(a, "item9", mode="text") == [text(9)]
        kill_all(a)
        # While the server is away nobody can tell what others have deleted: the file is not used, and it is said.
        fleet.pg.stop()
        at = len(a.log())
        a.start(wait=False)
        until(lambda: "the store cannot be opened" in a.log()[at:], 30)
        fleet.pg.start()
        fleet.followed(60)
        ready(a)
        assert TOOK not in a.log()[at:] and REFILLED in a.log()[at:]
        assert contents(a, "item703", mode="text") == [text(703)] and contents(a, "item9", mode="text") == [text(9)]
