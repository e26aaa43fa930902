"""The circuit breakers as an operator meets them: routes, orchestractl, metrics, reload. What they do by themselves is in
tests/unit/test_breaker.c."""
import hashlib
import os
import re
import signal
import struct

from orchestra import until

PATH = "/v1/admin/breakers"
FIELDS = {"name", "state", "forced", "probing", "calls", "failures", "slow", "failure_rate", "slow_rate", "consecutive_failures",
          "opened", "rejected", "misconfigured"}


def store(o, **kw):
    rows = o.get(PATH, **kw).json["breakers"]
    assert [r["name"] for r in rows] == ["store"]
    return rows[0]


def metric(o, name, labels=""):
    text = o.get("/metrics").body.decode()
    return int(re.search(r'^orchestra_breaker_%s\{dependency="store"%s\} (\d+)$' % (name, labels), text, re.M).group(1))


def test_the_store_has_one(shared):
    row = store(shared)
    assert set(row) == FIELDS
    assert (row["state"], row["forced"], row["opened"], row["rejected"], row["failure_rate"]) == ("closed", False, 0, 0, 0)
    for name in ("state", "failures_total", "rejected_total", *([] if shared.database else ["calls_total"])):
        assert metric(shared, name) == 0
    for to in ("closed", "half-open", "open"):
        assert metric(shared, "transitions_total", ',to="%s"' % to) == 0


def test_by_hand_is_seen_by_all(make):
    o = make(sets=["api.workers=3"])
    r = o.post(PATH + "/store/open")
    assert r.status == 200 and r.json["state"] == "open" and r.json["forced"] is True and "next_probe_ms" not in r.json
    # Fresh connections go to whichever worker takes them; those that saw it happen are not the only ones to know.
    for _ in range(30):
        row = store(o, fresh=True)
        assert (row["state"], row["forced"], row["reason"], row["opened"]) == ("open", True, "forced open by hand", 1)
    assert metric(o, "state") == 2 and metric(o, "transitions_total", ',to="open"') == 1
    # It is nobody's own: it outlives every worker.
    before = o.workers()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: set(before) <= set(now := o.workers()) and not set(before.values()) & set(now.values()))
    o.wait_ready()
    assert store(o)["forced"] is True
    assert o.post(PATH + "/store/close").json["state"] == "closed"
    row = store(o, fresh=True)
    assert (row["state"], row["forced"], row["opened"]) == ("closed", True, 1)
    assert metric(o, "state") == 0 and metric(o, "transitions_total", ',to="closed"') == 1
    row = o.post(PATH + "/store/reset").json
    assert (row["state"], row["forced"]) == ("closed", False)
    log = o.log()
    assert log.count("breaker store: closed -> open: forced open by hand") == 1
    assert log.count("breaker store: open -> closed: forced closed by hand") == 1


def test_what_is_refused(shared):
    r = shared.post(PATH + "/none/open")
    assert r.status == 404 and '"none"' in r.json["detail"] and r.json["type"].endswith(":not-found")
    assert shared.post(PATH + "/store").status == 404
    assert shared.post(PATH + "/store/throttle").status == 404
    assert shared.post(PATH + "/%22%00/open").status == 400
    assert shared.post(PATH + "/" + 300 * "a" + "/open").status == 404
    assert shared.get(PATH + "/store/open").status == 405
    assert store(shared)["forced"] is False


def test_orchestractl(make):
    o = make()
    lines = o.ctl("breaker", "list").stdout.splitlines()
    assert len(lines) == 2 and lines[0].split()[:3] == ["NAME", "STATE", "FORCED"] and lines[1].split()[:3] == ["store", "closed", "no"]
    r = o.ctl("breaker", "open", "store")
    assert r.returncode == 0 and r.stdout.splitlines()[1].split()[:3] == ["store", "open", "yes"] and "forced open by hand" in r.stdout
    assert store(o)["state"] == "open"
    assert o.ctl("breaker", "close", "store").returncode == 0 and store(o)["state"] == "closed"
    assert '"forced":true' in o.ctl("--json", "breaker", "list").stdout
    assert '"forced":false' in o.ctl("breaker", "reset", "store", "--json").stdout
    r = o.ctl("breaker", "open", "none")
    assert r.returncode == 1 and "none" in r.stderr
    for wrong in ((), ("list", "store"), ("open",), ("flip", "store")):
        assert o.ctl("breaker", *wrong).returncode == 2
    assert "breaker" in o.ctl("completion").stdout


def test_needs_admin(make, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} {n} *\n" for n in ("admin", "write", "read")))
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}"])

    def status(method, path, token):
        return o.request(method, path, headers={"Authorization": "Bearer " + token}).status
    for token in ("read", "write"):
        assert status("GET", PATH, token) == 403
        for verb in ("open", "close", "reset"):
            assert status("POST", f"{PATH}/store/{verb}", token) == 403
    assert status("GET", PATH, "admin") == 200 and status("POST", PATH + "/store/reset", "admin") == 200


def test_while_nothing_is_served(make, tmp_path):
    """One wants to look when the store is away, also at the start."""
    (tmp_path / "folder").mkdir()
    o = make(sets=[f"store.dsn={tmp_path}/folder"], start=False)
    o.start(wait=False)
    o.wait_ready(status=503)
    until(lambda: o.get("/v1/memories:count").status == 503)
    assert store(o)["state"] == "closed"
    assert o.post(PATH + "/store/open").json["forced"] is True


def parameters(failure_rate, min_calls, consecutive, slow_call, open_min, open_max):
    """struct breaker_conf of the store."""
    return struct.pack("<10q", failure_rate, 80, min_calls, consecutive, slow_call, open_min, open_max, 1, 10_000_000, 0)


def plant(o):
    """What all processes have mapped."""
    return open("/proc/%d/fd/5" % o.worker("sync"), "r+b")


def in_force(o, *numbers):
    with plant(o) as f:
        return parameters(*numbers) in f.read()


def test_a_dead_prober_gives_way(make):
    """Its successor says so, long before the lease ends."""
    o = make(sets=["api.workers=2"])
    pid, generation = o.worker("api.1"), 77
    with plant(o) as f:
        row = f.read().index(parameters(50, 20, 5, 2_000_000, 500_000, 3_000_000)) - 48
        f.seek(row + 24)
        f.write(struct.pack("<Q", generation << 32 | pid))  # who probes
        f.seek(row)
        f.write(struct.pack("<Q", 1 << 52 | generation << 40 | (1 << 40) - 1))  # half-open, for years
    r = store(o)
    assert (r["state"], r["probing"]) == ("half-open", True)
    os.kill(o.worker("api.0"), signal.SIGKILL)
    o.wait_log("api.0 is back")
    assert store(o)["probing"] is True
    os.kill(pid, signal.SIGKILL)
    seen = []
    until(lambda: (seen.append(store(o)), seen[-1]["probing"] is False)[1])
    assert seen[-1]["state"] in ("half-open", "closed"), seen[-1]  # closed: somebody has probed already, and well
    assert seen[-1].get("next_probe_ms", 0) == 0


def test_parameters_reload(make):
    o = make(conf="breaker: { min_calls = 30; };\n")
    assert in_force(o, 50, 30, 5, 2_000_000, 500_000, 3_000_000)
    o.conf = 'breaker: { failure_rate = 7; min_calls = 31; consecutive = 3; slow_call = "1 s"; open_min = "100 ms"; open_max = "200 ms"; };\n'
    o.command()  # writes the file
    assert o.ctl("reload").returncode == 0
    until(lambda: in_force(o, 7, 31, 3, 1_000_000, 100_000, 200_000))
    o.conf = 'breaker: { open_min = "4 s"; };\n'
    o.command()
    r = o.ctl("reload")
    assert r.returncode == 1 and "breaker.open_max" in r.stderr
    assert in_force(o, 7, 31, 3, 1_000_000, 100_000, 200_000)
