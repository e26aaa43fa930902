"""Configuration by hand, then by machine: set, unset, config list|diff|save|drift, apply, and their routes.

Found by this: a value that only some workers have; one that outlives its time, or is lost in a reload or an upgrade; a tried value
that wins over a flag; a file that loses a comment, its owner's mode or another setting; secrets in a comparison; a daemon that is
changed although one before it failed.
"""
import hashlib
import json
import os
import stat

import pytest

from orchestra import BUILD, Orchestra, free_port, until
from test_tls import Pki

FILE = """# The daemon of the test.
sync: {
	debounce_ms = 50;   # quick
	# wait_max comes later
};
@include "more.conf"
/* the end */
"""
MORE = "cache: { ttl = \"2 min\"; }; # ours\n"


@pytest.fixture
def o(tmp_path):
    """A daemon with a file that includes another."""
    with Orchestra(directory=str(tmp_path), conf=FILE, sets=["api.workers=2"], start=False) as o:
        (tmp_path / "more.conf").write_text(MORE)
        yield o.start()


def path(o, name="orchestra.conf"):
    return os.path.join(o.dir, name)


def text(o, name="orchestra.conf"):
    with open(path(o, name), newline="") as f:
        return f.read()


def value(o, key):
    """(value, source) in every api worker: each answers for itself."""
    return (k := next(k for k in o.get("/v1/admin/config", fresh=True).json["keys"] if k["key"] == key))["value"], k["source"]


def everywhere(o, key, want):
    for _ in range(8):
        assert value(o, key) == want
    return True


def set_(o, *args, code=0, watch="0"):
    r = o.ctl("set", *args, "--watch", watch)
    assert r.returncode == code, r
    return r


def change(o, **body):
    return o.patch("/v1/admin/config", body, fresh=True)


def test_a_value_is_tried_and_taken_back(o):
    r = set_(o, "sync.debounce_ms", "70", "cache.ttl", "3 min")
    assert "sync.debounce_ms: 50 → 70" in r.stdout and "2 values are tried" in r.stdout
    everywhere(o, "sync.debounce_ms", ("70", "tried"))
    tried = {t["key"]: t for t in o.get("/v1/admin/status").json["tried"]}
    assert set(tried) == {"sync.debounce_ms", "cache.ttl"}
    assert tried["cache.ttl"]["base"] == "2 min" and tried["cache.ttl"]["base_source"].endswith("more.conf:1")
    assert "tried: sync.debounce_ms = 70 instead of 50" in o.ctl("status").stdout
    assert o.ctl("unset", "cache.ttl").returncode == 0
    assert value(o, "cache.ttl")[0] == "2 min" and value(o, "sync.debounce_ms") == ("70", "tried")
    assert o.ctl("unset", "cache.ttl").returncode == 1  # is not tried any more
    assert o.ctl("unset", "--all").returncode == 0
    assert value(o, "sync.debounce_ms")[0] == "50" and o.get("/v1/admin/status").json["tried"] == []


def test_a_worker_that_is_born_later_has_it_too(o):
    set_(o, "vectors.recall", "91")
    pid = o.worker("sync")
    os.kill(o.worker("api.0"), 9)
    until(lambda: [w for w in o.get("/v1/admin/status", fresh=True).json["workers"] if w["name"] == "api.0" and w["restarts"] and w["state"] == "ready"])
    everywhere(o, "vectors.recall", ("91", "tried"))
    assert o.worker("sync") == pid


def test_what_is_refused(o):
    before = text(o)
    for args, code, why in [(("sync.debounce_ms", "fast"), 2, "expected a whole number"), (("sync.debounce", "1"), 2, "did you mean sync.debounce_ms?"),
                            (("sync.ack", "store"), 1, "cannot change in a running daemon"), (("api.workers", "3"), 1, "fixed by the flag --set"),
                            (("sync.debounce_ms", "1", "cache.ttl", "0 s"), 2, "cache.ttl"), (("tls.key", "key.pem"), 2, "relative path"),
                            (("sync.debounce_ms",), 2, "expected KEY VALUE"), (("sync.debounce_ms", "1", "--for", "soon"), 2, "is no time")]:
        r = o.ctl("set", *args, "--watch", "0")
        assert r.returncode == code and why in r.stderr, r
    for body, status, kind in [({"set": {"sync.debounce_ms": 1, "no.such": 1}}, 400, "unknown-key"), ({"set": {"sync.debounce_ms": -1}}, 400, "invalid-config"),
                               ({"set": {"sync.ack": "store"}}, 409, "needs-restart"), ({"set": {"api.workers": 3}}, 409, "key-fixed"),
                               ({"unset": ["cache.ttl"]}, 409, "not-tried"), ({"set": {}}, 400, "invalid-field"), ({"sets": {}}, 400, "invalid-field"),
                               ({"set": {"log.level": "debug"}, "for": "40 d"}, 400, "invalid-field"), ({"set": {"log.level": "debug"}, "for": 5}, 400, "invalid-field"),
                               ({"set": {"breaker.open_max": "100 ms"}}, 400, "invalid-config"), ({"set": {"listen.names": "x" * 17000}}, 400, "invalid-config"),
                               ({"set": {"listen.names": "x" * 70000}}, 413, "body-too-large"), ({"set": {"log.level": "debug"}, "action": "steal"}, 400, "invalid-field")]:
        r = change(o, **body)
        assert r.status == status and r.json["type"] == "urn:orchestra:problem:" + kind, (body, r)
    assert o.get("/v1/admin/status").json["tried"] == [] and value(o, "sync.debounce_ms")[0] == "50" and text(o) == before


def test_what_a_worker_refuses_nobody_has(o):
    """api cannot read its tokens any more: no worker gets the value."""
    tokens = os.path.join(o.dir, "tokens")
    o.stop()
    o.sets += [f"auth.tokens_file={tokens}"]
    with open(tokens, "w") as f:
        f.write(f"boss sha256:{hashlib.sha256(b'boss').hexdigest()} admin *\n")
    os.chmod(tokens, 0o600)
    o.start()
    with open(tokens, "w") as f:
        f.write("nonsense\n")
    r = o.ctl("set", "sync.debounce_ms", "71", "--watch", "0")
    assert r.returncode == 1 and "auth.tokens_file" in r.stderr, r
    assert o.ctl("config", "get", "sync.debounce_ms").stdout.strip() == "50"
    assert "tried" not in o.ctl("status").stdout


def test_its_time_is_over_without_anybody(o):
    set_(o, "vectors.recall", "91", "--for", "400ms")
    until(lambda: value(o, "vectors.recall") == ("98", "default"))
    # one with a time goes, one without stays
    set_(o, "vectors.recall", "92", "--for", "300ms")
    set_(o, "cache.ttl", "9 min")
    until(lambda: value(o, "vectors.recall")[0] == "98")
    assert value(o, "cache.ttl") == ("9 min", "tried")
    until(lambda: [e["who"] for e in o.get("/v1/admin/audit?what=revert").json["entries"]] == ["timer"] * 2)  # noted behind the deed


def test_values_that_need_each_other_go_together(o):
    """open_min alone would be beyond open_max: when the one that allows it goes, all that is tried does."""
    assert change(o, set={"breaker.open_max": "20 s", "breaker.open_min": "10 s"}).status == 200
    assert change(o, set={"breaker.open_max": "20 s"}, **{"for": "50 ms"}).status == 200
    until(lambda: o.get("/v1/admin/status").json["tried"] == [])
    assert value(o, "breaker.open_min")[0] == "500 ms" and value(o, "breaker.open_max")[0] == "3 s"


def test_it_survives_reloads_and_gives_way_to_the_file(o):
    set_(o, "sync.debounce_ms", "70")
    set_(o, "vectors.recall", "91", "--for", "1h")
    with open(path(o), "a") as f:
        f.write("warmer: { max_delay = \"4 ms\"; };\n")
    assert o.ctl("reload").returncode == 0
    assert value(o, "warmer.max_delay")[0] == "4 ms"
    everywhere(o, "sync.debounce_ms", ("70", "tried"))
    # A change does not read the file as a side effect.
    with open(path(o), "a") as f:
        f.write("changes: { max = 1000; };\n")
    set_(o, "cache.stale", "2 h")
    assert value(o, "changes.max")[0] == "5000000"
    # A broken file does not keep a value from being put back.
    with open(path(o), "a") as f:
        f.write("sync {")
    assert o.ctl("unset", "cache.stale").returncode == 0 and value(o, "cache.stale")[1] == "default"
    # What both make together is refused, with what to do.
    with open(path(o), "w") as f:
        f.write("breaker: { open_min = \"2 s\"; };\n")
    assert change(o, set={"breaker.open_max": "600 ms"}).status == 200
    r = o.ctl("reload")
    assert r.returncode == 1 and "orchestractl unset" in r.stderr, r
    assert o.ctl("unset", "breaker.open_max").returncode == 0 and o.ctl("reload").returncode == 0
    assert value(o, "breaker.open_min")[0] == "2 s"


def test_it_survives_an_upgrade_with_its_time(o):
    set_(o, "sync.debounce_ms", "70")
    set_(o, "vectors.recall", "91", "--for", "1h")
    assert o.ctl("upgrade").returncode == 0
    tried = {t["key"]: t for t in o.get("/v1/admin/status", fresh=True).json["tried"]}
    assert tried["sync.debounce_ms"]["base"] == "50" and 0 < tried["vectors.recall"]["left_ms"] < 3600000
    everywhere(o, "vectors.recall", ("91", "tried"))
    assert change(o, set={"vectors.recall": 91}, **{"for": "300 ms"}).status == 200
    until(lambda: value(o, "vectors.recall") == ("98", "default"))
    o.stop()
    o.start()  # a new start forgets
    assert value(o, "sync.debounce_ms")[0] == "50"


# ---- files ----

def test_save_keeps_everything_else(o):
    os.chmod(path(o), 0o640)
    set_(o, "sync.debounce_ms", "70", "cache.ttl", "3 min", "vectors.recall", "91")
    diff = o.ctl("config", "diff").stdout
    assert "tried by uid:" in diff and "fixed by the flag --set" in diff and "api.workers" in diff
    r = o.ctl("config", "save")
    assert r.returncode == 0 and "kept vectors.recall = 91" in r.stdout, r
    assert text(o) == FILE.replace("debounce_ms = 50;", "debounce_ms = 70;") + "\nvectors: {\n\trecall = 91;\n};\n"
    assert text(o, "more.conf") == MORE.replace("2 min", "3 min")
    assert stat.S_IMODE(os.stat(path(o)).st_mode) == 0o640
    assert sorted(os.listdir(o.dir)) == sorted(["orchestra.conf", "more.conf", "log", "data", "s.sock", "s.sock.ctl"])
    assert o.get("/v1/admin/status").json["tried"] == []
    assert value(o, "cache.ttl")[1].endswith("more.conf:1") and value(o, "vectors.recall")[0] == "91"
    entry = o.get("/v1/admin/audit?what=save").json["entries"][0]
    assert entry["settled"] == ["sync.debounce_ms", "cache.ttl", "vectors.recall"] and entry["file"] == path(o)
    assert "nothing to save" in o.ctl("config", "save").stdout


def test_save_refuses_what_it_cannot_do(o):
    with open(path(o), "w") as f:
        f.write("listen: { names = (\"a.example\", # ours\n \"b.example\"); };\n")
    assert o.ctl("reload").returncode == 0
    set_(o, "listen.names", "[\"c.example\"]", "vectors.recall", "91")
    before = text(o)
    r = o.ctl("config", "save")
    assert r.returncode == 1 and "line 1: the value of listen.names holds a comment" in r.stderr and text(o) == before, r
    assert o.ctl("config", "save", "vectors.recall").returncode == 0 and text(o).startswith(before)
    assert [t["key"] for t in o.get("/v1/admin/status").json["tried"]] == ["listen.names"]
    assert o.ctl("config", "save", "cache.ttl").returncode == 2
    # Somewhere else: the daemon does not read it, so the value stays tried.
    assert o.ctl("config", "save", "--file", path(o, "more.conf")).returncode == 0
    assert "c.example" in text(o, "more.conf") and o.get("/v1/admin/status").json["tried"]
    os.link(path(o), path(o, "second"))
    r = o.ctl("config", "save")
    assert r.returncode == 1 and "several names" in r.stderr, r


def test_save_follows_a_link(o):
    os.rename(path(o), path(o, "real.conf"))
    os.symlink("real.conf", path(o))
    set_(o, "sync.debounce_ms", "70")
    assert o.ctl("config", "save").returncode == 0
    assert os.path.islink(path(o)) and "debounce_ms = 70;" in text(o, "real.conf")
    assert o.get("/v1/admin/status").json["tried"] == []


def test_without_a_file(daemon):
    set_(daemon, "sync.debounce_ms", "70")
    r = daemon.ctl("config", "save")
    if daemon.get("/v1/admin/config").json["file"] is None:
        assert r.returncode == 1 and "without a configuration file" in r.stderr, r


def test_list_and_get(o):
    lines = o.ctl("config", "list", "--source").stdout.splitlines()
    assert f"sync.debounce_ms = 50  (file:{path(o)}:3)" in lines and any(x.startswith("api.workers = 2  (flag)") for x in lines)
    assert not any("store.db" in x for x in lines)  # store.dsn is a secret
    assert o.ctl("config", "get", "sync.debounce_ms", "--source").stdout == f"50  (file:{path(o)}:3)\n"
    keys = {k["key"]: k for k in json.loads(o.ctl("--json", "config", "list").stdout)["keys"]}
    assert keys["store.dsn"]["value"] is None and keys["store.dsn"]["set"] and keys["redis.url"]["set"] is False
    assert keys["vectors.recall"]["reloadable"] and keys["vectors.recall"]["range"] == "a whole number from 50 to 100 (percent)"
    assert keys["api.workers"]["fixed"] and keys["sync.ack"]["type"] == "enum"


# ---- several ----

def test_apply_makes_two_daemons_match(make, tmp_path):
    wanted = tmp_path / "wanted.conf"
    wanted.write_text("sync: { debounce_ms = 33; ack = \"journal\"; };\nvectors: { recall = 90; };\napi: { workers = 1; };\n")
    a, b = make(conf="", sets=["api.workers=1"]), make(conf="sync: { debounce_ms = 33; };\n", sets=["vectors.recall=95", "api.workers=1"])
    to = f"{a.socket},http://127.0.0.1:{b.port}"
    r = a.ctl("apply", str(wanted), "--dry-run", "--to", to)
    assert r.returncode == 1 and "sync.ack" in r.stdout and value(a, "sync.debounce_ms")[0] == "100", r
    r = a.ctl("--json", "apply", str(wanted), "--apply", "--to", to)
    report = {d["daemon"]: d for d in json.loads(r.stdout)["daemons"]}
    first, second = report[a.socket], report[f"http://127.0.0.1:{b.port}"]
    assert {d["key"]: d["change"] for d in first["differences"]} == {"sync.debounce_ms": "reload", "sync.ack": "restart", "vectors.recall": "reload"}
    assert {d["key"]: d["change"] for d in second["differences"]} == {"sync.ack": "restart", "vectors.recall": "fixed"}
    assert r.returncode == 1 and value(a, "vectors.recall") == ("90", "tried") and value(b, "vectors.recall")[0] == "95"
    # The same again has nothing left that can change; one that is away stops it, or does not.
    wanted.write_text("sync: { debounce_ms = 44; };\n")
    away = str(tmp_path / "away.sock")
    r = a.ctl("apply", str(wanted), "--apply", "--to", f"{away},{a.socket}")
    assert r.returncode == 3 and "stopped at" in r.stderr and value(a, "sync.debounce_ms")[0] == "33", r
    r = a.ctl("apply", str(wanted), "--apply", "--save", "--keep-going", "--to", f"{away},{a.socket}")
    assert r.returncode == 3 and "debounce_ms = 44;" in text(a) and value(a, "sync.debounce_ms")[0] == "44", r
    assert value(a, "sync.debounce_ms")[1].startswith("file:")
    assert a.ctl("apply", str(wanted), "--dry-run").returncode == 0
    assert a.ctl("apply", str(wanted)).returncode == 2
    assert a.ctl("apply", str(wanted), "--apply", "--to", "ftp://x").returncode == 2
    r = a.ctl("apply", str(wanted), "--apply", "--to", "http://192.0.2.1:1", env={"ORCHESTRA_TOKEN": "t"})
    assert r.returncode == 2 and "clear text" in r.stderr, r


def test_apply_over_https(make, tmp_path):
    """Real certificates, and a token that nobody gets whose certificate is not believed."""
    (tmp_path / "pki").mkdir()
    (tmp_path / "other").mkdir()
    pki, other, secret = Pki(tmp_path / "pki"), Pki(tmp_path / "other"), "a-token-of-an-admin"
    (tmp_path / "tokens").write_text(f"ops sha256:{hashlib.sha256(secret.encode()).hexdigest()} read,write,admin *\n")
    os.chmod(tmp_path / "tokens", 0o600)

    def daemon(made, host="127.0.0.1", name="localhost"):
        port = free_port()
        o = make(conf="", sets=["api.workers=1", f"listen.tls={host}:{port}", f"tls.certificate={made[0]}", f"tls.key={made[1]}",
                                f"auth.tokens_file={tmp_path}/tokens"])
        return o, f"https://{name}:{port}"
    a, b = daemon(pki.make("a")), daemon(pki.make("b", "rsa"), name="127.0.0.1")
    wanted = tmp_path / "wanted.conf"
    wanted.write_text("sync: { debounce_ms = 33; };\n")
    env = {"ORCHESTRA_TOKEN": secret}

    def apply(*to, how=("--apply", "--keep-going"), ca=pki.ca, env=env):
        return a[0].ctl("--json", "apply", str(wanted), *how, "--cacert", ca, "--to", ",".join(to), env=env)

    def now(o):
        return o.get("/v1/admin/config/sync.debounce_ms", headers={"Authorization": "Bearer " + secret}).json
    r = apply(a[1], b[1], how=("--dry-run",))
    assert r.returncode == 1 and [d["daemon"] for d in json.loads(r.stdout)["daemons"]] == [a[1], b[1]] and now(a[0])["value"] == "100", r
    r = apply(a[1], b[1])
    assert r.returncode == 0 and [now(o)["value"] for o, _ in (a, b)] == ["33", "33"], r
    assert apply(a[1], b[1], how=("--dry-run",)).returncode == 0
    r = apply(a[1], env={"ORCHESTRA_TOKEN": "wrong"})
    assert r.returncode == 1 and "a valid bearer token is needed" in r.stderr, r
    # Not signed by who is believed; in the name of another; over: none of them is told anything.
    wanted.write_text("sync: { debounce_ms = 44; };\n")
    named, expired = daemon(pki.make("c"), host="127.0.0.2", name="127.0.0.2"), daemon(pki.make("d", end="20210101000000Z"))
    for to, ca in ((a, other.ca), (named, pki.ca), (expired, pki.ca)):
        r = apply(to[1], ca=ca)
        assert r.returncode == 3 and "certificate" in r.stderr, r
        assert now(to[0])["value"] == ("33" if to is a else "100")
    r = apply(expired[1], b[1])  # the other one is not left behind by it
    assert r.returncode == 3 and now(b[0])["value"] == "44" and now(expired[0])["value"] == "100", r
    assert secret not in r.stdout + r.stderr


def test_drift_tells_what_explains_it(o, tmp_path):
    dev, prod = tmp_path / "dev.conf", tmp_path / "prod.conf"
    secret = "postgresql://u:hunter2@h/"
    dev.write_text(f"log: {{ level = \"debug\"; }};\nstore: {{ dsn = \"{secret}\"; }};\nsync: {{ debounce_ms = 50; }};\n")
    prod.write_text(f"\nlog: {{ level = \"warn\"; }};\nstore: {{ dsn = \"{secret}\"; }};\nsync: {{ debounce_ms = 50; }};\n")
    r = o.ctl("--json", "config", "drift", f"dev={dev}", f"prod={prod}")
    found = {d["key"]: d["values"] for d in json.loads(r.stdout)["differences"]}
    assert r.returncode == 1 and set(found) == {"log.level"}
    assert found["log.level"]["prod"] == {"value": "warn", "source": f"file:{prod}:2"}
    prod.write_text(prod.read_text().replace("hunter2", "hunter3"))
    set_(o, "log.level", "debug")
    r = o.ctl("config", "drift", f"dev={dev}", f"prod={prod}", f"live={o.socket}")
    assert r.returncode == 1 and "hunter" not in r.stdout + r.stderr and "(secret B)" in r.stdout, r
    assert "tried" in r.stdout and "sync.debounce_ms" not in r.stdout
    assert o.ctl("config", "drift", f"a={dev}", f"b={dev}").returncode == 0
    # A daemon compares by a hash under the asker's key, and tells nothing else.
    keys = {}
    for key in ("ab" * 16, "cd" * 16):
        keys[key] = next(k for k in o.get(f"/v1/admin/config?fingerprint_key={key}").json["keys"] if k["key"] == "store.dsn")
    assert len({k["fingerprint"] for k in keys.values()}) == 2 and all(k["value"] is None for k in keys.values())
    assert o.get("/v1/admin/config?fingerprint_key=short").status == 400


# ---- effect, and who may ----

def test_the_effect_is_shown(o):
    o.add("something")
    r = json.loads(o.ctl("--json", "set", "vectors.recall", "91", "--watch", "200ms").stdout)
    assert r["effect"]["before"]["seconds"] >= 0.2 and r["effect"]["after"]["errors_per_s"] == 0
    r = set_(o, "vectors.recall", "92", watch="200ms")
    assert "BEFORE" in r.stdout and "requests/s" in r.stdout


def test_it_is_for_admins_of_everything(make, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} {r} {ns}\n"
                              for n, r, ns in [("boss", "admin", "*"), ("part", "admin", "mine"), ("reader", "read,write", "*")]))
    os.chmod(tokens, 0o600)
    o = make(sets=[f"auth.tokens_file={tokens}"])
    for token, want in [("boss", 200), ("part", 403), ("reader", 403), ("nobody", 401)]:
        h = {"Authorization": f"Bearer {token}"}
        assert o.get("/v1/admin/config", headers=h).status == want
        assert o.get("/v1/admin/audit", headers=h).status == want
        assert o.patch("/v1/admin/config", {"set": {"vectors.recall": 91}}, headers=h).status == want
    assert o.ctl("config", "list").returncode == 1
    assert o.ctl("set", "vectors.recall", "92", "--watch", "0").returncode == 0  # PATH.ctl is for who owns the daemon
    assert o.ctl("config", "list", env={"ORCHESTRA_TOKEN": "boss"}).returncode == 0


def test_two_at_once_get_their_turns(o):
    import threading
    got = []
    threads = [threading.Thread(target=lambda n=n: got.append(change(o, set={"sync.debounce_ms": n}).status)) for n in range(20, 28)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == [200] * 8
    everywhere(o, "sync.debounce_ms", value(o, "sync.debounce_ms"))
    assert len(o.get("/v1/admin/audit?what=set").json["entries"]) == 8


def test_the_client_may_die(o):
    """The value is put back by the supervisor, not by who asked for it."""
    import subprocess
    p = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "set", "vectors.recall", "91", "--for", "1s", "--watch", "30s"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    p.kill()
    p.wait()
    assert change(o, set={"vectors.recall": 91}, **{"for": "300 ms"}).status == 200
    until(lambda: value(o, "vectors.recall") == ("98", "default"))
