"""What systemd and the daemon say to each other: readiness, reload, watchdog, passed sockets, credentials, the units."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from orchestra import BUILD, SLOW, Orchestra, free_port

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


# ---- sd_notify ----

class Manager:
    """systemd's end of $NOTIFY_SOCKET: each datagram as a dictionary, in order of arrival."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.05)
        self.said, self.stopped = [], False
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while not self.stopped:
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                continue
            lines = data.decode().splitlines()                       # what is no UTF-8 systemd drops
            assert all(re.match(r"[A-Z_]+=", x) for x in lines), lines
            self.said.append(dict(x.split("=", 1) for x in lines))

    def wait(self, n, timeout=10):
        deadline = time.monotonic() + timeout * SLOW
        while len(self.said) < n and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.said) >= n, self.said
        return self.said[n - 1]

    def quiet(self, n, seconds=0.4):
        """Nothing is said beyond the first n."""
        time.sleep(seconds * SLOW)
        assert len(self.said) == n, self.said[n:]

    def close(self):
        self.stopped = True
        self.thread.join()
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    m = Manager(str(tmp_path))
    yield m
    m.close()


def test_ready_once_when_serving(make, manager):
    o = make(env={"NOTIFY_SOCKET": manager.path}, start=False)
    o.start(wait=False)
    first = manager.wait(1)
    assert first["READY"] == "1" and str(o.port) in first["STATUS"] and o.socket in first["STATUS"]
    assert o.get("/livez").status == 200                            # at once: no connection is refused
    o.wait_ready()
    for name, pid in o.workers().items():
        if "sync" not in name:
            os.kill(pid, signal.SIGKILL)
    o.wait_log("is back")
    manager.quiet(1)                                                # successors are none of systemd's business
    o.stop()
    assert [x.get("READY") for x in manager.said] == ["1", None] and manager.said[1]["STOPPING"] == "1"


def test_never_ready_when_it_cannot_serve(make, manager):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        o = make(env={"NOTIFY_SOCKET": manager.path}, start=False)
        o.port = s.getsockname()[1]
        o.start(wait=False)
        assert o.process.wait(20 * SLOW) == 1
    manager.quiet(0, 0.1)


def test_reload_is_framed_also_when_it_fails(make, manager):
    o = make(env={"NOTIFY_SOCKET": manager.path}, conf='log: { level = "info"; };\n')
    path = os.path.join(o.dir, "orchestra.conf")
    manager.wait(1)

    def reload(text, n):
        with open(path, "w") as f:
            f.write(text)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        o.signal(signal.SIGHUP)
        begin, end = manager.wait(n - 1), manager.wait(n)
        assert begin["RELOADING"] == "1" and "READY" not in begin
        assert before <= int(begin["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert end["READY"] == "1" and "RELOADING" not in end
        return end["STATUS"]
    assert reload('log: { level = "debug"; };\n', 3).startswith("Serving on")
    # Two errors are two lines; as lines of the datagram they would be assignments, or end it.
    status = reload('log: { level = "MAINPID=1"; };\n\nsync: {\n batch_max = "é' + "é" * 900 + '"; };\n', 5)
    assert status.startswith("Reload failed: ") and "orchestra.conf:1: log.level" in status
    assert "orchestra.conf:4: sync.batch_max" in status
    assert reload('log: { level = "info"; };\n', 7).startswith("Serving on")
    manager.quiet(7)
    o.stop()
    assert len(manager.said) == 8


def test_stopping_is_said_first_and_last(make, manager):
    o = make(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "60000"}, sets=["daemon.drain_timeout=2 s"])
    manager.wait(3)
    with socket.create_connection(("127.0.0.1", o.port)) as s:     # keeps the drain busy until it is cut off
        s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        o.signal(signal.SIGTERM)
        deadline = time.monotonic() + 10 * SLOW
        while not any("STOPPING" in x for x in manager.said) and time.monotonic() < deadline:
            time.sleep(0.002)
        assert manager.said[-1]["STOPPING"] == "1"
        assert o.process.poll() is None                             # it has only begun
        n = len(manager.said)
        o.signal(signal.SIGHUP)                                     # a reload now is refused, and not announced
        o.process.wait(20 * SLOW)
    manager.quiet(n, 0.1)


def test_an_upgrade_changes_nothing_for_systemd(make, manager, tmp_path):
    """The same pid, the passed sockets, and the watchdog go on; it was ready before, so READY is not said again."""
    port, path = free_port(), str(tmp_path / "passed.sock")
    o = make(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "150000"}, start=False,
             prefix=passing(["tcp", port, "tcp"], ["unix", path, "unix"]))
    o.port = port
    o.start()
    o.signal(signal.SIGUSR2)
    o.wait_log("upgraded from", timeout=20)
    o.add("after the upgrade")
    n = len(manager.said)
    manager.wait(n + 3)
    o.signal(signal.SIGHUP)
    o.wait_log("keys applied")
    o.stop()
    said = [x for x in manager.said if x != {"WATCHDOG": "1"}]
    assert [next(iter(x)) for x in said] == ["READY", "STATUS", "RELOADING", "READY", "STOPPING"], said
    assert {"WATCHDOG": "1"} in manager.said[n:] and os.path.exists(path)


def test_an_upgrade_cures_a_start(make, manager, tmp_path):
    """A worker cannot get up, so READY=1 has not been said. An upgrade that fails does not say it, one that helps does."""
    tokens, binary = tmp_path / "tokens", tmp_path / "orchestrad"
    os.mkfifo(tokens, 0o600)                                        # whoever opens it waits
    o = make(env={"NOTIFY_SOCKET": manager.path}, start=False,
             sets=["api.workers=1", "daemon.drain_timeout=1 s", f"auth.tokens_file={tokens}"])
    shutil.copy(os.path.join(BUILD, "orchestrad"), binary)
    o.command = lambda plain=o.command: [str(binary), *plain()[1:]]
    o.start(wait=False)

    def upgrade():
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30 * SLOW)
            s.connect(o.socket + ".ctl")
            s.sendall(b"upgrade\n")
            return json.loads(s.makefile().readline())
    o.wait_log("vector index holds 0 vectors")                      # sync serves
    os.unlink(binary)
    assert not upgrade()["ok"]
    manager.quiet(0)
    shutil.copy(os.path.join(BUILD, "orchestrad"), binary)
    os.unlink(tokens)
    tokens.write_text("root sha256:" + 64 * "0" + " admin *\n")
    tokens.chmod(0o600)
    assert upgrade()["ok"]
    assert manager.wait(1)["READY"] == "1"
    o.wait_ready()


def test_workers_know_nothing_of_systemd(make, manager):
    o = make(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "10000000", "CREDENTIALS_DIRECTORY": o_dir(manager)})
    assert len(o.workers()) >= 4
    for worker, pid in o.workers().items():
        with open(f"/proc/{pid}/environ", "rb") as f:
            environ = f.read()
        for name in (b"NOTIFY_SOCKET", b"WATCHDOG", b"LISTEN_"):
            assert name not in environ
        assert (b"CREDENTIALS" in environ) == (worker == "pinger")  # which presents some of them to its targets


def o_dir(manager):
    d = os.path.join(os.path.dirname(manager.path), "credentials")
    os.makedirs(d, exist_ok=True)
    return d


# ---- watchdog ----

def test_watchdog_is_fed_from_the_loop(make, manager):
    o = make(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "90000"})
    manager.wait(4)
    assert "READY" in manager.said[0] and all(x == {"WATCHDOG": "1"} for x in manager.said[1:])
    o.signal(signal.SIGSTOP)                                        # the loop hangs: whatever was sent, is sent
    time.sleep(0.2)
    n = len(manager.said)
    manager.quiet(n)
    o.signal(signal.SIGCONT)
    manager.wait(n + 3)
    assert o.get("/livez").status == 200


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "50000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}])
def test_watchdog_of_somebody_else_is_not_fed(make, manager, env):
    make(env={"NOTIFY_SOCKET": manager.path, **env})
    manager.wait(1)
    manager.quiet(1)


def test_watchdog_pid_of_ours(make, manager):
    hand_over = "import os, sys; os.environ['WATCHDOG_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
    make(env={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "50000"}, prefix=[sys.executable, "-c", hand_over])
    manager.wait(3)
    assert manager.said[2] == {"WATCHDOG": "1"}


# ---- socket activation ----

# Opens what its first argument describes, [[kind, where, name], …], from descriptor 3 on, and becomes the daemon.
PASS = """
import json, os, socket, sys
keep, names = [], []
for kind, where, name in json.loads(sys.argv[1]):
    if kind in ("tcp", "udp", "connected"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", where))
        kind == "tcp" and s.listen()
    elif kind in ("unix", "dgram", "seqpacket"):
        s = socket.socket(socket.AF_UNIX, {"unix": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM,
                                           "seqpacket": socket.SOCK_SEQPACKET}[kind])
        s.bind(where)
        kind != "dgram" and s.listen()
    else:
        s = open(os.devnull)
    keep.append(s)
    names.append(name)
for i, s in enumerate(keep):
    os.dup2(s.fileno(), 40 + i)
for i in range(len(keep)):
    os.dup2(40 + i, 3 + i)
    os.close(40 + i)
    os.set_inheritable(3 + i, True)
os.environ["LISTEN_FDS"] = str(len(keep))
os.environ["LISTEN_PID"] = os.environ.get("TEST_LISTEN_PID") or str(os.getpid())
if any(x is not None for x in names):
    os.environ["LISTEN_FDNAMES"] = ":".join(names)
os.execv(sys.argv[2], sys.argv[2:])
"""


def passing(*what):
    return [sys.executable, "-c", PASS, json.dumps(what)]


@pytest.mark.parametrize("names", [("orchestra.socket", "orchestra.socket"), ("tcp", "unix"), (None, None), ("", "")])
def test_passed_sockets_win_and_stay(make, tmp_path, names):
    port, path = free_port(), str(tmp_path / "passed.sock")
    o = make(prefix=passing(["unix", path, names[1]], ["tcp", port, names[0]]), start=False)
    unused, o.port = o.port, port
    o.sets = [f"listen.tcp=127.0.0.1:{unused}"]
    inode = None
    o.start()
    status = json.loads(o.ctl("--json", "status").stdout)
    assert status["tcp"] == f"127.0.0.1:{port}" and status["unix"] == path
    assert "is not used: systemd passes the TCP socket" in o.log()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", unused)) != 0
    assert not os.path.exists(o.socket) and os.path.exists(o.socket + ".ctl")
    client = [os.path.join(BUILD, "orchestractl"), "--socket", path, "add", "through the passed socket"]
    assert subprocess.run(client, capture_output=True).returncode == 0
    inode = os.stat(path).st_ino
    assert o.stop() == 0
    assert os.stat(path).st_ino == inode                             # it is systemd's, who listens on


@pytest.mark.parametrize("what, said", [
    ([["udp", 0, "tcp"]], 'descriptor 3 (name "tcp") is no stream socket'),
    ([["dgram", "{dir}/d", "unix"]], "no stream socket"),
    ([["seqpacket", "{dir}/d", "x"]], "no stream socket"),
    ([["connected", 0, "tcp"]], "is a connection (use Accept=no); expected a TCP listening stream socket"),
    ([["file", 0, "x"]], "is no socket; expected a listening stream socket"),
    ([["unix", "{dir}/d", "tcp"]], "is a listening Unix socket; expected a TCP listening stream socket"),
    ([["tcp", 0, "unix"]], "is a listening TCP socket; expected a Unix listening stream socket"),
    ([["tcp", 0, "a"], ["tcp", 0, "b"]], 'descriptor 4 (name "b") is the second TCP socket'),
])
def test_wrong_sockets_are_refused_with_their_name(make, tmp_path, what, said):
    what = [[k, w.replace("{dir}", str(tmp_path)) if isinstance(w, str) else w, n] for k, w, n in what]
    o = make(prefix=passing(*what), start=False)
    o.start(wait=False)
    assert o.process.wait(20 * SLOW) == 1
    assert said in o.log(), o.log()


def test_sockets_of_another_pid_are_left_alone(make):
    o = make(prefix=passing(["tcp", 0, "tcp"]), env={"TEST_LISTEN_PID": "1"})
    assert json.loads(o.ctl("--json", "status").stdout)["tcp"] == f"127.0.0.1:{o.port}"


def test_a_public_passed_socket_needs_tokens(make):
    """0.0.0.0 by systemd is as public as by us."""
    script = PASS.replace('s.bind(("127.0.0.1", where))', 's.bind(("0.0.0.0", where))')
    o = make(prefix=[sys.executable, "-c", script, json.dumps([["tcp", 0, "tcp"]])], start=False)
    o.start(wait=False)
    assert o.process.wait(20 * SLOW) == 1 and "auth.tokens_file" in o.log()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="package systemd")
@pytest.mark.parametrize("named", [True, False])
def test_systemd_socket_activate(make, tmp_path, named):
    path = str(tmp_path / "s.sock")
    o = make(start=False)
    o.prefix = ["systemd-socket-activate", "-l", f"127.0.0.1:{o.port}", "-l", path, *(["--fdname=tcp:unix"] if named else [])]
    o.start()                                                        # the first connection starts it, and is answered
    assert o.add("activated")
    r = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", path, "search", "activated"], capture_output=True, text=True)
    assert "activated" in r.stdout
    assert o.stop() == 0 and os.path.exists(path)


# ---- credentials ----

def test_credentials_and_their_rotation(make, tmp_path):
    import hashlib
    secrets = tmp_path / "credentials"
    secrets.mkdir()

    def put(name, text):
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o400)

    def tokens(token):
        if (secrets / "auth.tokens_file").exists():
            (secrets / "auth.tokens_file").unlink()
        put("auth.tokens_file", f"ops sha256:{hashlib.sha256(token.encode()).hexdigest()} admin *\n")

    def status(token):
        return o.request("GET", "/v1/memories", headers={"Authorization": f"Bearer {token}"}).status
    tokens("one")
    put("store.dsn", f"{tmp_path}/elsewhere.db\n")
    put("unrelated", "hush")
    o = make(env={"CREDENTIALS_DIRECTORY": str(secrets)}, conf="sync: { batch_max = 7; };")
    assert (tmp_path / "elsewhere.db").exists()
    assert (status("one"), status("two")) == (200, 401)
    got = json.loads(o.ctl("--json", "config", "get", "store.dsn").stdout)
    assert got["source"] == "credential" and got["value"] == "(secret)"
    got = json.loads(o.ctl("--json", "config", "get", "auth.tokens_file").stdout)
    assert got["source"] == "credential" and got["value"] == str(secrets / "auth.tokens_file")
    tokens("two")
    put("sync.batch_max", "9")
    assert o.ctl("reload").returncode == 0
    assert (status("one"), status("two")) == (401, 200)
    assert json.loads(o.ctl("--json", "config", "get", "sync.batch_max").stdout)["source"] == "credential"
    (secrets / "sync.batch_max").unlink()
    put("sync.batch_max", "hush")
    r = o.ctl("reload")
    assert r.returncode == 1 and "credential sync.batch_max" in r.stderr and "hush" not in r.stderr + o.log()
    assert (status("one"), status("two")) == (401, 200)
    (secrets / "sync.batch_max").unlink()
    r = o.ctl("reload")
    assert r.returncode == 0 and "9" not in r.stdout.split("Reloaded")[0]  # a credential's value is not shown when it goes, either


# ---- the units ----

def units(tmp_path):
    for kind in ("service", "socket"):
        with open(os.path.join(TOP, "packaging", "systemd", f"orchestra.{kind}.in")) as f:
            text = f.read()
        (tmp_path / f"orchestra.{kind}").write_text(text.replace("@sbindir@", BUILD).replace("@bindir@", BUILD))
    return str(tmp_path / "orchestra.service"), str(tmp_path / "orchestra.socket")


def setting(text, name):
    return re.findall(rf"^{name}=(.*)$", text, re.M)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="package systemd")
def test_units_verify_and_are_hardened(tmp_path):
    service, sock = units(tmp_path)
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", service, sock], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout + r.stderr == "", r
    r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", service],
                       capture_output=True, text=True)
    assert r.returncode == 0, r.stdout


def test_units_agree_with_the_daemon(make, tmp_path):
    with open(units(tmp_path)[0]) as f:
        text = f.read()
    conf = subprocess.run([os.path.join(BUILD, "orchestrad"), "--dump-config", "-c", "/dev/null"], capture_output=True, text=True).stdout
    drain = int(re.search(r'drain_timeout = "(\d+) s"', conf).group(1))
    assert drain < 10 and drain < int(setting(text, "TimeoutStopSec")[0])
    bad = tmp_path / "bad.conf"
    bad.write_text('log: { level = "loud"; };')
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "-c", str(bad)], capture_output=True)
    assert str(r.returncode) in setting(text, "RestartPreventExitStatus")
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--set", "user=no-such-user", "--set", f"data.dir={tmp_path}/d"], capture_output=True)
    assert str(r.returncode) in setting(text, "RestartPreventExitStatus")


def test_the_units_reload_command_fails_when_the_reload_does(make, tmp_path):
    """As systemd runs it: no --socket, but the unit's environment; the file that is wrong is the one that names the socket."""
    conf = tmp_path / "orchestra.conf"
    conf.write_text('log: { level = "info"; };')
    env = {"RUNTIME_DIRECTORY": str(tmp_path / "run"), "STATE_DIRECTORY": str(tmp_path / "state"), "ORCHESTRA_CONFIG": str(conf)}
    port = free_port()
    p = subprocess.Popen([os.path.join(BUILD, "orchestrad"), "--set", f"listen.tcp=127.0.0.1:{port}"], env={**os.environ, **env},
                         stderr=subprocess.PIPE, text=True)
    try:
        for line in p.stderr:
            if "ready after" in line:
                break
        with open(units(tmp_path)[0]) as f:
            command = setting(f.read(), "ExecReload")[0].split()

        def reload():
            # systemd 252 gives ExecReload= the variable, and keeps the directory from it.
            return subprocess.run(command, env={**os.environ, **env, "CREDENTIALS_DIRECTORY": str(tmp_path / "none")},
                                  capture_output=True, text=True)
        assert reload().returncode == 0
        conf.write_text('\nlog: { level = "loud"; };')
        r = reload()
        assert r.returncode != 0 and "orchestra.conf:2: log.level" in r.stderr and "the old configuration stays" in r.stderr
        conf.write_text('log: { level = "debug"; };')
        assert reload().returncode == 0
    finally:
        p.terminate()
        p.stderr.close()
        assert p.wait(20 * SLOW) == 0
