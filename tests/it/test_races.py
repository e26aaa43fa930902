"""Interleavings that a client can meet: sync stopped or killed at the wrong moment, the store held by somebody else,
requests that cross. Each test holds the moment open with a signal or a lock instead of hoping for it."""
import http.client
import json
import os
import signal
import socket
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest

from held import StoreHeld, query
from orchestra import Orchestra, SLOW, until

HELD = ["sync.debounce_ms=60000", "sync.batch_max=100000"]  # what is written stays pending


def sync_of(o):
    return next(p for n, p in o.workers().items() if "sync" in n)


def metric(o, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in o.get("/metrics", fresh=True).body.decode().splitlines()
               if line.startswith(name))


class Later(threading.Thread):
    """A request whose answer is looked at later."""

    def __init__(self, o, *args, **kw):
        super().__init__()
        self.o, self.args, self.kw, self.reply = o, args, kw, None
        self.start()

    def run(self):
        try:
            self.reply = self.o.request(*self.args, fresh=True, timeout=60, **self.kw)
        except (OSError, http.client.HTTPException) as e:
            self.reply = e

    def wait(self, timeout=30):
        self.join(timeout * SLOW)
        assert not self.is_alive(), f"no answer to {self.args[:2]}"
        return self.reply


def post_bytes(o, path, body):
    body = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{o.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode() + body


def restart_sync(o):
    """Kills sync, waits until its successor has answered somebody."""
    old = sync_of(o)
    os.kill(old, signal.SIGKILL)
    until(lambda: any("sync" in n and p != old for n, p in o.workers().items()))
    assert o.post("/v1/memories", {"content": "after the restart", "namespace": "other"}, fresh=True).status == 201


# ---- answers ----

def test_more_refusals_than_a_batch_holds_are_all_answered():
    with Orchestra(sets=["api.workers=1", "overload.control=false"]) as o:  # which hands all of them to sync
        assert o.post("/v1/namespaces", {"name": "small", "quota_count": 1}).status == 201
        sync = sync_of(o)
        os.kill(sync, signal.SIGSTOP)
        socks = []
        try:
            for k in range(1100):
                s = socket.create_connection(("127.0.0.1", o.port), timeout=20 * SLOW)
                s.sendall(post_bytes(o, "/v1/memories", {"content": f"memory {k}", "namespace": "small"}))
                socks.append(s)
            until(lambda: metric(o, "orchestra_transactions_sent") >= 1100, 30)
        finally:
            os.kill(sync, signal.SIGCONT)
        codes = []
        for s in socks:
            codes.append(s.recv(65536).split(b" ")[1])
            s.close()
        assert codes.count(b"201") == 1 and codes.count(b"507") == 1099


def test_stored_is_not_said_before_the_store_has_it():
    with Orchestra() as o:
        o.add("first")
        until(lambda: metric(o, "orchestra_store_flushed_records") >= 1)
        with StoreHeld(o) as held:
            before = metric(o, "orchestra_journal_records")
            late = Later(o, "POST", "/v1/memories?wait=store", {"content": "wanted in the store"})
            until(lambda: metric(o, "orchestra_journal_records") > before)
            restart_sync(o)
            o.wait_log("sent again")
            restart_sync(o)  # whoever came later was answered: the repeated one was looked at before
            late.join(0.5)
            assert late.is_alive(), late.reply
            held.release()
            r = late.wait()
            assert r.status == 201 and r.json["durability"] == "store"
        assert o.get("/v1/namespaces/default").json["count"] == 2


def test_a_stored_write_is_not_written_again_when_its_answer_was_lost():
    """The store has it, sync dies before it says so: its successor must know the transaction as done."""
    with Orchestra() as o:
        m = o.add("first")
        until(lambda: metric(o, "orchestra_store_flushed_records") >= 1)
        with StoreHeld(o) as held:
            before = metric(o, "orchestra_journal_records")
            late = Later(o, "PATCH", f"/v1/memories/{m['id']}?wait=store", {"content": "second"},
                         headers={"If-Match": '"1"'})
            until(lambda: metric(o, "orchestra_journal_records") > before)
            time.sleep(0.2)  # the api has the journal's answer and waits for the store's
            api = [p for n, p in o.workers().items() if "api" in n]
            for p in api:
                os.kill(p, signal.SIGSTOP)
            try:
                first = sync_of(o)
                held.release()
                until(lambda: query(o, "SELECT max(version) FROM memories") == [["2"]])
                os.kill(first, signal.SIGKILL)
                second = until(lambda: next((p for n, p in o.workers().items() if "sync" in n and p != first), 0))
                time.sleep(0.5)
                os.kill(second, signal.SIGKILL)
            finally:
                for p in api:
                    os.kill(p, signal.SIGCONT)
            r = late.wait()
            assert r.status == 200 and r.json["version"] == 2, r
        assert o.memory(m["id"]).json["version"] == 2


@pytest.mark.sqlite("another file in the store's place")
def test_writes_are_refused_not_kept_waiting_when_the_successor_of_sync_cannot_work():
    with Orchestra() as o:
        o.add("first")
        until(lambda: metric(o, "orchestra_store_flushed_records") >= 1)
        store = os.path.join(o.data, "store.db")
        old = sync_of(o)
        os.kill(old, signal.SIGSTOP)
        early = Later(o, "POST", "/v1/memories", {"content": "under way"})
        until(lambda: metric(o, "orchestra_transactions_sent") >= 2)
        for end in ("", "-wal", "-shm"):
            os.rename(store + end, store + end + ".away")
        with open(store, "wb") as f:
            f.write(b"this is no database, and it is long enough to be looked at" * 100)
        os.kill(old, signal.SIGKILL)
        assert early.wait().status == 503
        assert Later(o, "POST", "/v1/memories", {"content": "later"}).wait().status == 503


# ---- erase ----

def journal_holds(o, text):
    where = os.path.join(o.data, "journal")
    return any(text in open(os.path.join(where, f), "rb").read() for f in os.listdir(where))


def test_erase_leaves_nothing_when_sync_dies_in_it():
    with Orchestra() as o:
        m = o.add("the password is correct-horse-battery")
        assert journal_holds(o, b"correct-horse-battery")
        until(lambda: metric(o, "orchestra_store_flushed_records") >= 1)
        with StoreHeld(o) as held:
            before = metric(o, "orchestra_journal_records")
            late = Later(o, "DELETE", f"/v1/memories/{m['id']}?erase=true")
            until(lambda: metric(o, "orchestra_journal_records") > before)
            restart_sync(o)
            held.release()
            r = late.wait()
        assert r.status == 200 and r.json["erased"] == 1
        assert not journal_holds(o, b"correct-horse-battery")


# ---- one external id, one memory; one content, kept once ----

def in_ms(ms):
    return (datetime.now(timezone.utc) + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def expire(o, **fields):
    """A memory that expires at once and is not collected yet."""
    m = o.add("short-lived", expires_at=in_ms(300 * SLOW), **fields)
    assert o.post("/v1/memories?wait=store", {"content": "flushed"}).status == 201
    until(lambda: o.memory(m["id"]).status == 404)
    return m


def test_an_expired_holder_of_an_external_id_does_not_hide_the_next_one():
    with Orchestra() as o:
        expire(o, external_id="X")
        again = {"content": "its successor", "external_id": "X"}
        first = o.post("/v1/memories?wait=store", again)
        second = o.post("/v1/memories?wait=store", again)
        assert first.json["created"] and not second.json["created"]
        assert second.json["id"] == first.json["id"] and second.json["version"] == 2


def same_content_kept(o, wait):
    old = o.post(f"/v1/memories?wait={wait}", {"content": "twice"}).json
    new = o.post(f"/v1/memories?wait={wait}", {"content": "twice"}).json
    assert old["id"] != new["id"]
    assert o.delete(f"/v1/memories/{new['id']}").status == 204
    r = o.post("/v1/memories", {"content": "twice", "on_duplicate": "keep"})
    assert not r.json["created"] and r.json["id"] == old["id"], r


def test_keep_finds_the_older_of_two_when_the_newer_is_deleted(make):
    same_content_kept(make(sets=HELD), "journal")


def test_keep_finds_the_older_of_two_in_the_store_when_the_newer_is_deleted(make):
    o = make(sets=HELD)
    same_content_kept(o, "store")


def import_lines(o, *lines):
    r = o.post("/v1/memories:import", "".join(json.dumps(x) + "\n" for x in lines),
               headers={"Content-Type": "application/x-ndjson"})
    assert r.status == 200, r
    return r.json


def test_import_does_not_give_one_external_id_to_two_memories():
    a, b, c = (f"0190f2a0-0000-7000-8000-00000000000{k}" for k in "abc")
    with Orchestra() as o:
        r = import_lines(o, {"id": a, "external_id": "X", "content": "one"}, {"id": b, "external_id": "X", "content": "two"})
        assert (r["imported"], r["skipped"]) == (1, 1)
        r = import_lines(o, {"id": c, "external_id": "X", "content": "three"})
        assert (r["imported"], r["skipped"]) == (0, 1)
        assert [m["id"] for m in o.list_all()] == [a]


def test_import_of_a_memory_whose_id_expired_is_not_lost():
    with Orchestra() as o:
        m = expire(o)
        assert import_lines(o, {"id": m["id"], "content": "it lives again"})["imported"] == 1
        assert o.post("/v1/memories?wait=store", {"content": "flushed too"}).status == 201
        until(lambda: metric(o, "orchestra_store_flushed_records") >= 4)
        assert o.memory(m["id"]).status == 200
        assert o.get("/v1/memories:count").json["count"] == 3
        assert "it lives again" in [x["content"] for x in o.list_all()]
        assert o.get("/v1/namespaces/default").json["count"] == 3


# ---- one answer for one Idempotency-Key ----

def test_two_identical_requests_at_the_same_instant_write_once():
    with Orchestra(sets=["api.workers=2"]) as o:
        o.add("first")
        sync = sync_of(o)
        os.kill(sync, signal.SIGSTOP)
        try:
            sent = metric(o, "orchestra_transactions_sent")
            both = [Later(o, "POST", "/v1/memories", {"content": "only once"}, headers={"Idempotency-Key": "k"})
                    for _ in range(8)]
            until(lambda: metric(o, "orchestra_transactions_sent") >= sent + 8)
            os.kill(sync, signal.SIGKILL)
        finally:
            pass
        replies = [t.wait() for t in both]
        assert {r.status for r in replies} == {201} and len({r.json["id"] for r in replies}) == 1
        assert o.get("/v1/memories:count").json["count"] == 2


def test_keep_does_not_find_what_the_same_bulk_has_changed():
    with Orchestra() as o:
        m = o.add("old text", external_id="X")
        r = o.post("/v1/memories", {"on_duplicate": "keep", "memories": [
            {"content": "new text", "external_id": "X"}, {"content": "old text"}]})
        first, second = r.json["memories"]
        assert first["id"] == m["id"] and second["id"] != m["id"] and second["created"]
        assert sorted(x["content"] for x in o.list_all()) == ["new text", "old text"]
