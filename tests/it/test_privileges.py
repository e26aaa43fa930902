"""Started as root with `user` set: what is left of root afterwards, and what the new user cannot read."""
import os
import shutil
import subprocess

import pytest

from orchestra import BUILD, SLOW, until

UID, GID, EXTRA = 54321, 54322, 54323
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
                                reason="needs root and unshare(1)")
# A user of its own without touching the machine's: the files are replaced in a mount namespace.
ENTER = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$@"'


@pytest.fixture
def prefix(tmp_path_factory):
    d = tmp_path_factory.mktemp("etc")
    for name, line in (("passwd", f"orctest:x:{UID}:{GID}::/nonexistent:/usr/sbin/nologin\n"),
                       ("group", f"orctest:x:{GID}:\norcextra:x:{EXTRA}:orctest\n")):
        with open(f"/etc/{name}") as f:
            (d / name).write_text(f.read() + line)
    return ["unshare", "-m", "sh", "-c", ENTER, str(d)]


@pytest.fixture
def o(make, prefix):
    o = make(prefix=prefix, sets=["user=orctest"], start=False)
    os.chmod(o.dir, 0o755)
    o.socket = os.path.join(o.dir, "run", "s.sock")
    return o


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(x.rstrip("\n").split(":\t", 1) for x in f if ":\t" in x)


def write_tokens(path, *names, mode=0o600, owner=(0, 0)):
    import hashlib
    with open(path, "w") as f:
        f.write("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} admin *\n" for n in names))
    os.chmod(path, mode)
    os.chown(path, *owner)


def test_nothing_of_root_is_left(o):
    o.start()
    assert f"became user orctest, uid {UID}" in o.log()
    o.add("kept")
    pids = [o.process.pid, *o.workers().values()]
    assert len(pids) >= 5
    for pid in pids:
        s = status_of(pid)
        assert s["Uid"].split() == [str(UID)] * 4 and s["Gid"].split() == [str(GID)] * 4, s["Name"]
        assert sorted(map(int, s["Groups"].split())) == [GID, EXTRA]
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(s[name], 16) == 0, (s["Name"], name)
        assert s["NoNewPrivs"] == "1"                                # no setuid program brings anything back
    for root, dirs, files in os.walk(o.data):
        for path in [root, *(os.path.join(root, x) for x in dirs + files)]:
            st = os.lstat(path)
            assert (st.st_uid, st.st_gid) == (UID, GID), path
    for path in (o.socket, o.socket + ".ctl", os.path.dirname(o.socket)):
        assert os.stat(path).st_uid == UID, path
    assert o.ctl("reload").returncode == 0
    assert o.stop() == 0 and os.listdir(os.path.dirname(o.socket)) == []
    o.start()
    assert len(o.list()["memories"]) == 1


def test_capabilities_that_would_stay_are_noticed(o):
    """setpriv's securebits as a container runtime may set them: the change of uid then takes no capability."""
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    o.prefix = [*o.prefix, "setpriv", "--securebits", "+no_setuid_fixup"]
    o.start(wait=False)
    assert o.process.wait(20 * SLOW) == 1 and "or keeps capabilities" in o.log()


def test_a_port_below_1024_is_bound_before(o):
    import socket
    with socket.socket() as s:
        for port in range(1023, 600, -1):
            if s.connect_ex(("127.0.0.1", port)) != 0:
                break
    o.port = port
    o.start()
    assert o.add("privileged port")


def test_tokens_that_only_root_may_read(o, tmp_path_factory):
    tokens = os.path.join(o.dir, "tokens")
    write_tokens(tokens, "one")
    o.sets += [f"auth.tokens_file={tokens}"]
    said = f"uid {UID} cannot read"
    o.start(wait=False)
    assert o.process.wait(20 * SLOW) == 78                           # trying again is useless
    assert f"{tokens}: {said} it: Permission denied" in o.log()
    r = subprocess.run([*o.command(), "--check"], capture_output=True, text=True)
    assert r.returncode == 1 and f"{said} {tokens}: Permission denied" in r.stdout, r
    write_tokens(tokens, "one", mode=0o640, owner=(0, EXTRA))        # by a supplementary group

    def status(token):
        return o.request("GET", "/v1/memories", headers={"Authorization": f"Bearer {token}"}).status
    r = subprocess.run([*o.command(), "--check"], capture_output=True, text=True)
    assert r.returncode == 0, r
    o.start()
    assert (status("one"), status("two")) == (200, 401)
    write_tokens(tokens, "two")
    r = o.ctl("reload")
    assert r.returncode == 1 and said in r.stderr and tokens in r.stderr and "the old configuration stays" in r.stderr, (r, o.log())
    assert (status("one"), status("two")) == (200, 401)
    write_tokens(tokens, "two", mode=0o640, owner=(0, GID))
    assert o.ctl("reload").returncode == 0
    assert (status("one"), status("two")) == (401, 200)


def test_check_looks_as_that_user(o):
    """What root may write proves nothing: a store that an earlier daemon of root has left."""
    os.makedirs(os.path.join(o.data, "journal"))
    with open(os.path.join(o.data, "store.db"), "w"):
        pass
    os.chmod(os.path.join(o.data, "store.db"), 0o600)
    r = subprocess.run([*o.command(), "--check"], capture_output=True, text=True)
    assert r.returncode == 1 and f"data.dir: uid {UID} cannot write" in r.stdout and f"store.dsn: uid {UID} cannot write" in r.stdout
    shutil.rmtree(o.data)
    r = subprocess.run([*o.command(), "--check", "--probe"], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout
    o.start()
    r = subprocess.run([*o.command(), "--check", "--probe"], capture_output=True, text=True)
    assert r.returncode == 0 and "schema 4" in r.stdout, r.stdout
    for root, _, files in os.walk(o.data):
        assert all(os.lstat(os.path.join(root, x)).st_uid == UID for x in files)


def test_an_unknown_user(tmp_path):
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--set", "user=nobody-of-that-name", "--set", f"data.dir={tmp_path}/d",
                        "--set", f"listen.unix={tmp_path}/s"], capture_output=True, text=True, timeout=20 * SLOW)
    assert r.returncode == 78 and 'no user "nobody-of-that-name"' in r.stderr and not (tmp_path / "d").exists()


def test_an_upgrade_goes_on_as_that_user(o):
    """The next image is not root either, binds nothing anew, and owns what the first one gave it."""
    o.start()
    kept = o.add("kept")["id"]
    for _ in range(2):
        r = o.ctl("upgrade")
        assert r.returncode == 0, (r, o.log())
    assert o.memory(kept).status == 200 and o.add("more")
    # former workers may still be leaving
    until(lambda: (w := o.get("/v1/admin/status").json["workers"]) and all(x["state"] == "ready" for x in w) and len(o.workers()) == len(w))
    for pid in [o.process.pid, *o.workers().values()]:
        s = status_of(pid)
        assert s["Uid"].split() == [str(UID)] * 4 and int(s["CapEff"], 16) == 0, s["Name"]
    assert o.stop() == 0 and not os.path.exists(o.socket)
