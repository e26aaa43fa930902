"""The audit log of a running daemon: who and what, the chain, crashes in the middle of an entry, files that follow each other, a
disk that takes nothing.

Found by this: an action that leaves no entry, or the wrong name; content or a secret in an entry; a chain that a death breaks, or
that hides one; an answer that waits for a disk for ever, or that is silent about an entry that is lost.
"""
import hashlib
import json
import os
import resource
import signal
import subprocess

import pytest

from fault_points import TWIN, Faults
from orchestra import BUILD, Orchestra, until

SECRET = "the content that is nobody's business"


def entries(o, **params):
    query = "&".join(f"{k}={v}" for k, v in {"order": "asc", "limit": 1000, **params}.items())
    r = o.get("/v1/admin/audit?" + query, fresh=True)
    assert r.status == 200, r
    return r.json["entries"]


def lines(data):
    """All of them, from the files themselves, oldest first."""
    names = sorted(f for f in os.listdir(data) if f.startswith("audit-")) + ["audit.log"]
    return b"".join(open(os.path.join(data, n), "rb").read() for n in names if os.path.exists(os.path.join(data, n)))


def verify(data, *args):
    r = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", "/nowhere", "--json", "audit", "verify", "--dir", data, *args],
                       capture_output=True, text=True, timeout=120)
    return r.returncode, json.loads(r.stdout)


def test_who_did_what(make, tmp_path):
    tokens = tmp_path / "tokens"

    def write_tokens(*names):
        tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} admin *\n" for n in names))
        os.chmod(tokens, 0o600)
    write_tokens("boss")
    o = make(conf="", sets=[f"auth.tokens_file={tokens}"])
    boss = {"Authorization": "Bearer boss"}
    assert o.ctl("reload", env={"ORCHESTRA_TOKEN": "boss"}).returncode == 0  # API, over the Unix socket
    write_tokens("boss", "second")
    assert o.ctl("reload").returncode == 0  # PATH.ctl
    o.signal(signal.SIGHUP)
    until(lambda: len([e for e in entries_of(o, boss) if e["what"] == "reload"]) == 3)
    assert o.patch("/v1/admin/config", {"set": {"vectors.recall": 91}, "reason": "a trial"}, headers=boss, fresh=True).json["audit"] == "recorded"
    id_ = o.post("/v1/memories", {"content": SECRET}, headers=boss).json["id"]
    r = o.delete(f"/v1/memories/{id_}?erase=true", headers=boss)
    assert r.status == 200 and r.headers["Orchestra-Audit"] == "recorded"
    for path in ("/v1/admin/breakers/store/open", "/v1/admin/breakers/store/reset", "/v1/admin/cache:purge"):
        got = o.post(path, {"tier": "l1"} if "purge" in path else None, headers=boss)
        assert got.status == 200 and got.headers["Orchestra-Audit"] == "recorded", (path, got)
    assert o.delete("/v1/admin/dead-letters?confirm=true", headers=boss).status == 200
    assert o.get("/v1/memories", headers=boss).headers.get("Orchestra-Audit") is None
    seen = entries_of(o, boss)
    reloads = [e for e in seen if e["what"] == "reload"]
    uid, pid = f"uid:{os.getuid()}", r",pid:\d+$"
    assert reloads[0]["who"].startswith("token:boss," + uid) and reloads[1]["who"].startswith(uid + ",pid:") and reloads[2]["who"] == "signal:SIGHUP", pid
    assert [e["what"] for e in seen if e["what"] != "reload"] == [
        "tokens", "set", "erase", "breaker-open", "breaker-reset", "purge", "dead-letters-discard"]
    by = {e["what"]: e for e in seen}
    assert by["tokens"]["from_sha256"] != by["tokens"]["to_sha256"] == hashlib.sha256(tokens.read_bytes()).hexdigest()
    assert by["set"]["who"] == "token:boss" and by["set"]["reason"] == "a trial"
    assert by["set"]["changes"] == [{"key": "vectors.recall", "result": "applied", "from": "98", "to": "91"}]
    assert by["erase"]["receipt"] == r.json["receipt"] and by["erase"]["erased"] == 1
    assert by["breaker-open"]["name"] == "store"
    assert SECRET.encode() not in lines(o.data) and id_.encode() not in lines(o.data)
    # It is asked for by each of these, and only who may sees it.
    for query, n in [("who=token:boss", 7), ("who=token:bos", 0), ("what=reload", 3), ("key=vectors.recall", 1), (f"who={uid}", 3), ("since=2100-01-01T00:00:00Z", 0)]:
        assert len(o.get("/v1/admin/audit?" + query, headers=boss).json["entries"]) == n, query
    assert o.get("/v1/admin/audit?since=yesterday", headers=boss).status == 400
    out = o.ctl("audit", "--what", "set", env={"ORCHESTRA_TOKEN": "boss"}).stdout
    assert "token:boss" in out and "vectors.recall 98 → 91" in out and out.count("\n") == 1
    pages, cursor = [], None
    while True:
        page = o.get("/v1/admin/audit?limit=2" + (f"&cursor={cursor}" if cursor else ""), headers=boss).json
        pages += [e["seq"] for e in page["entries"]]
        cursor = page["next_cursor"]
        if not page["more"]:
            break
    assert pages == sorted((e["seq"] for e in seen), reverse=True)
    o.stop()
    code, v = verify(o.data)
    assert code == 0 and v["entries"] == len(seen) + 1  # the drain
    last = json.loads(lines(o.data).splitlines()[-1])
    assert (last["what"], last["who"]) == ("drain", "signal:SIGTERM")
    assert verify(o.data, "--expect", seen[0]["hash"])[0] == 0 and verify(o.data, "--expect", "0" * 64)[0] == 1
    assert oct(os.stat(os.path.join(o.data, "audit.log")).st_mode & 0o777) == "0o600"


def entries_of(o, headers):
    return o.get("/v1/admin/audit?order=asc&limit=1000", headers=headers, fresh=True).json["entries"]


def test_tampering_is_found(daemon):
    for n in range(6):
        assert daemon.patch("/v1/admin/config", {"set": {"sync.debounce_ms": 10 + n}}).status == 200
    daemon.stop()
    good = lines(daemon.data)
    path = os.path.join(daemon.data, "audit.log")
    for at in range(0, len(good), 37):
        with open(path, "wb") as f:
            f.write(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
        code, v = verify(daemon.data)
        line = good[:at].count(b"\n") + 1
        assert code == 1 and v["line"] in (line, line + 1) and v["file"] == "audit.log", (at, v)
    with open(path, "wb") as f:
        f.write(good)
    assert verify(daemon.data)[0] == 0


def test_an_upgrade_goes_on_with_the_chain(daemon):
    assert daemon.patch("/v1/admin/config", {"set": {"sync.debounce_ms": 10}}, fresh=True).status == 200
    r = daemon.ctl("--json", "upgrade")
    assert r.returncode == 0 and json.loads(r.stdout)["audit"] == "recorded", r
    daemon.signal(signal.SIGUSR2)
    until(lambda: len(entries(daemon, what="upgrade")) == 2, 30)
    who = [e["who"] for e in entries(daemon, what="upgrade")]
    assert who[0].startswith(f"uid:{os.getuid()},pid:") and who[1] == "signal:SIGUSR2"
    assert daemon.ctl("drain").returncode == 0
    daemon.process.wait(20)
    assert verify(daemon.data)[0] == 0 and b'"what":"drain"' in lines(daemon.data)


def test_files_follow_each_other(make):
    o = make(sets=["audit.max_bytes=4 KiB", "audit.keep=3"])
    for n in range(60):
        assert o.patch("/v1/admin/config", {"set": {"sync.debounce_ms": n}}).json["audit"] == "recorded"
    files = sorted(f for f in os.listdir(o.data) if f.startswith("audit"))
    assert len(files) == 4 and files[-1] == "audit.log", files
    code, v = verify(o.data)
    assert code == 0 and v["last"] == 60 and v["first"] > 1
    assert [e["seq"] for e in entries(o)] == list(range(v["first"], 61))
    assert [e["seq"] for e in o.get("/v1/admin/audit?limit=1000").json["entries"]] == list(range(60, v["first"] - 1, -1))
    assert o.ctl("audit", "verify").returncode == 0
    assert [e["changes"][0]["to"] for e in entries(o, cursor=57)] == ["57", "58", "59"]


def test_it_is_followed(daemon):
    p = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", daemon.socket, "audit", "--follow"], stdout=subprocess.PIPE, text=True)
    try:
        for n in (11, 12):
            assert daemon.patch("/v1/admin/config", {"set": {"sync.debounce_ms": n}}).status == 200
            assert f"→ {n}" in p.stdout.readline()
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


def test_a_full_disk_hinders_nobody(make):
    """As far as its supervisor may write."""
    o = make(sets=["audit.max_bytes=1 GiB"])
    for n in range(80):  # more than what the supervisor writes for its workers into memory, which has the same limit
        assert o.patch("/v1/admin/config", {"set": {"sync.debounce_ms": n}}).json["audit"] == "recorded"
    size = os.path.getsize(os.path.join(o.data, "audit.log"))
    soft, hard = resource.prlimit(o.process.pid, resource.RLIMIT_FSIZE)
    # Half of an entry fits.
    resource.prlimit(o.process.pid, resource.RLIMIT_FSIZE, (size + 100, hard))
    for n in (11, 12):
        r = o.patch("/v1/admin/config", {"set": {"sync.debounce_ms": n}})
        assert r.status == 200 and r.json["audit"].startswith("not recorded: "), r
    assert o.get("/v1/admin/config/sync.debounce_ms").json["value"] == "12"
    r = o.ctl("set", "sync.debounce_ms", "13", "--watch", "0")
    assert r.returncode == 0 and "the audit log lacks it" in r.stderr, r
    until(lambda: "orchestra_audit_lost_total 3\n" in o.get("/metrics").body.decode())
    resource.prlimit(o.process.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert o.patch("/v1/admin/config", {"set": {"sync.debounce_ms": 14}}).json["audit"] == "recorded"
    code, v = verify(o.data)
    assert code == 0 and v["repaired"] == 1 and v["entries"] == 82, v


@pytest.mark.skipif(not os.path.exists(TWIN), reason="make check builds tests/orchestrad-faults")
@pytest.mark.parametrize("point", ["audit_torn", "audit_written", "audit_renamed", "audit_rotated", "audit_repairing", "tried_reverting"])
def test_a_death_there_leaves_a_chain(tmp_path, point):
    """Killed at each step around an entry, three times over; what was answered with "recorded" is there for ever."""
    faults = Faults()
    sure = set()
    try:
        with Orchestra(directory=str(tmp_path), binary="tests/orchestrad-faults", sets=["audit.max_bytes=4 KiB", "audit.keep=1000"],
                       env={"ORC_FAULT_FILE": faults.path}) as o:
            n = 0

            def change(**more):
                nonlocal n
                n += 1
                try:
                    r = o.patch("/v1/admin/config", {"set": {"sync.debounce_ms": n}, **more}, fresh=True)
                    if r.status == 200 and r.json["audit"] == "recorded":
                        sure.add(str(n))
                except OSError:
                    pass
                except Exception as e:  # http.client's own: it broke in the middle of an answer
                    assert type(e).__module__ == "http.client", e
            for _ in range(3):
                for p in (["audit_torn"] if point == "audit_repairing" else []) + [point]:
                    faults.arm(p)

                    def died():
                        change(**({"for": "20 ms"} if p == "tried_reverting" else {}))
                        return o.process.poll() is not None or faults.pid(p)
                    until(died, 30)
                    o.process.wait(20)
                    o.start()
                faults.disarm_all()
                change()
            o.stop()
            code, v = verify(o.data)
            assert code == 0, v
            assert v["repaired"] == {"audit_torn": 3, "audit_repairing": 3}.get(point, 0)
            noted = [json.loads(x) for x in lines(o.data).splitlines() if x.startswith(b"{") and x.endswith(b"}")]
            assert sure <= {c["to"] for e in noted if e["what"] == "set" for c in e["changes"]}
            assert [e["what"] for e in noted].count("repaired") == v["repaired"]
    finally:
        faults.close()
