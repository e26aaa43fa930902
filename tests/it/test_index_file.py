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
    return f"{WORDS[n % 20]} {WORDS[n * 7 % 20]} {WORDS[n * 3 // 5 % 20]} number {n}"


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
            for q in WORDS[:6] + ["heron iris", "number 17", "\"pearl quartz\""]]


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
