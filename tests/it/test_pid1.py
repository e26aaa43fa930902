"""The daemon as PID 1 of a container: signals that the kernel would drop, orphans that nobody else reaps, where the log goes."""
import os
import signal
import subprocess
import sys
import time

import pytest

from orchestra import BUILD, SLOW, free_port

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0 or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
                                reason="needs root and unshare(1)")


def children(pid):
    """{pid: state} of the living and the zombies."""
    out = {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{p}/stat") as f:
                rest = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(rest[1]) == pid:
            out[int(p)] = rest[0]
    return out


def until(condition, timeout=10):
    deadline = time.monotonic() + timeout * SLOW
    while not (got := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return got


def daemon_pid(o):
    assert until(lambda: len(children(o.process.pid)) == 1)
    return next(iter(children(o.process.pid)))


@pytest.fixture
def make(make):
    """As conftest's; unshare(1) does not pass SIGTERM on, so what still runs is told here."""
    made = []

    def factory(**kw):
        made.append(make(**kw))
        return made[-1]
    yield factory
    for o in made:
        if o.process and o.process.poll() is None and o.prefix[:1] == NAMESPACE[:1]:
            os.kill(daemon_pid(o), signal.SIGTERM)
            o.process.wait(20 * SLOW)


def test_signals_reach_pid_1(make):
    o = make(prefix=NAMESPACE)
    pid = daemon_pid(o)
    with open(f"/proc/{pid}/status") as f:
        assert [x.split()[-1] for x in f if x.startswith("NSpid:")] == ["1"]
    assert o.add("kept")
    os.kill(pid, signal.SIGUSR1)
    o.wait_log("reopening logs")
    os.kill(pid, signal.SIGHUP)
    o.wait_log("keys applied")
    os.kill(pid, signal.SIGTERM)
    assert o.process.wait(20 * SLOW) == 0                            # unshare passes it on
    assert "leaving: SIGTERM" in o.log() and "stopped" in o.log()
    o.start()
    assert len(o.list()["memories"]) == 1
    os.kill(daemon_pid(o), signal.SIGINT)
    assert o.process.wait(20 * SLOW) == 0
    o.start()
    os.kill(daemon_pid(o), signal.SIGQUIT)
    assert o.process.wait(20 * SLOW) == 1 and "SIGQUIT: at once" in o.log()
    o.start()
    assert len(o.list()["memories"]) == 1


def test_drains_within_the_deadline(make):
    import socket
    o = make(prefix=NAMESPACE, sets=["daemon.drain_timeout=1 s"])
    with socket.create_connection(("127.0.0.1", o.port)) as s:      # a client who will not finish
        s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        os.kill(daemon_pid(o), signal.SIGTERM)
        assert o.process.wait(20 * SLOW) == 1                        # somebody had to be killed, which the status says
    assert "has not left in time for sync to flush" in o.log()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_told_to_leave_before_ready(make, sig):
    o = make(prefix=NAMESPACE, start=False)
    for _ in range(5):
        o.start(wait=False)
        assert until(lambda: "starting, pid 1" in o.log()[o.log_start:])
        os.kill(daemon_pid(o), sig)
        assert o.process.wait(20 * SLOW) == 0, o.log()[o.log_start:]


BLOCKED = """
import os, signal, sys
sigs = [getattr(signal, x) for x in sys.argv[1].split(",")]
signal.pthread_sigmask(signal.SIG_BLOCK, sigs)
for s in sigs:
    os.kill(os.getpid(), s)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_signal_that_came_first_is_not_lost(make):
    """Sent before there is a handler: kept by the mask, delivered when there is one."""
    o = make(prefix=[*NAMESPACE, sys.executable, "-c", BLOCKED, "SIGTERM"], start=False)
    o.start(wait=False)
    assert o.process.wait(20 * SLOW) == 0 and "leaving: SIGTERM" in o.log()
    for prefix in ([], NAMESPACE):                                   # HUP has a default that would end it elsewhere
        o.prefix = [*prefix, sys.executable, "-c", BLOCKED, "SIGHUP,SIGUSR1"]
        o.start()
        o.wait_log("SIGHUP: reloading")
        assert o.get("/livez").status == 200
        os.kill(daemon_pid(o) if prefix else o.process.pid, signal.SIGTERM)
        assert o.process.wait(20 * SLOW) == 0


@pytest.mark.parametrize("prefix", [NAMESPACE, []])
def test_signals_while_the_configuration_is_read(make, tmp_path, prefix):
    """From a pipe that nobody has written into yet: long before there are handlers."""
    def begin():
        path = tmp_path / "conf"
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        o.start(wait=False)
        out = open(path, "w")                                        # waits for the reader
        return out, daemon_pid(o) if prefix else o.process.pid
    o = make(prefix=prefix, sets=["sync.batch_max=7"], start=False)
    base = o.command
    o.command = lambda: [*base(), "-c", str(tmp_path / "conf")]
    out, pid = begin()
    os.kill(pid, signal.SIGUSR1)
    out.close()
    o.wait_log("reopening logs")
    o.wait_ready()
    os.kill(pid, signal.SIGTERM)
    assert o.process.wait(20 * SLOW) == 0
    out, pid = begin()
    os.kill(pid, signal.SIGTERM)
    if prefix:                                                       # it waits for its turn
        out.close()
        assert o.process.wait(20 * SLOW) == 0 and "leaving: SIGTERM" in o.log()[o.log_start:]
    else:                                                            # there is nothing to drain yet
        assert o.process.wait(20 * SLOW) == -signal.SIGTERM
        out.close()


ORPHANS = """
import os, sys, time
for i in range(3):                       # grandchildren, some of which outlive the start
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3 * i)
            os._exit(7)
        os._exit(0)
    os.wait()
if os.fork() == 0:                       # one that is dead before the daemon is this process
    os._exit(7)
time.sleep(0.2)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_orphans_are_reaped(make):
    o = make(prefix=[*NAMESPACE, sys.executable, "-c", ORPHANS])
    pid = daemon_pid(o)
    workers = set(children(pid))
    time.sleep(1 * SLOW)
    assert "Z" not in children(pid).values()
    # One that appears while it serves: the grandchild of somebody who came in from outside.
    subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", "(sleep 0.3 &) ; exit 0"], check=True)
    assert until(lambda: set(children(pid)) - workers)               # it is ours now
    assert until(lambda: set(children(pid)) <= workers) and "Z" not in children(pid).values()
    assert "died" not in o.log()                                     # and was not taken for a worker
    assert o.add("serves")
    os.kill(pid, signal.SIGTERM)
    assert o.process.wait(20 * SLOW) == 0


def test_a_zombie_from_before_the_daemon(make):
    """Its SIGCHLD came to whoever was this process then, and no other will come."""
    script = "import os, sys, time; os.fork() or os._exit(7); time.sleep(0.2); os.execv(sys.argv[1], sys.argv[1:])"
    o = make(prefix=[*NAMESPACE, sys.executable, "-c", script])
    assert "Z" not in children(daemon_pid(o)).values()


def test_pid_1_stays_pid_1_through_an_upgrade(make):
    o = make(prefix=NAMESPACE)
    pid = daemon_pid(o)
    os.kill(pid, signal.SIGUSR2)
    o.wait_log("upgraded from", timeout=20)
    assert daemon_pid(o) == pid and o.add("after the upgrade")
    subprocess.run(["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", "(sleep 0.2 &) ; exit 0"], check=True)
    assert until(lambda: "Z" not in children(pid).values())
    os.kill(pid, signal.SIGTERM)
    assert o.process.wait(20 * SLOW) == 0


def test_a_worker_that_dies_is_started_again_inside(make):
    o = make(prefix=NAMESPACE)
    pid = daemon_pid(o)
    before = set(children(pid))
    os.kill(max(before), signal.SIGKILL)
    o.wait_log("is back after")
    assert len(children(pid)) == len(before)


@pytest.mark.parametrize("prefix, target, stream", [(NAMESPACE, "auto", "out"), ([], "auto", "err"), (NAMESPACE, "stderr", "err"),
                                                    ([], "stdout", "out")])
def test_where_the_log_goes(tmp_path, prefix, target, stream):
    said = {"out": tmp_path / "out", "err": tmp_path / "err"}
    with open(said["out"], "w") as out, open(said["err"], "w") as err:
        p = subprocess.Popen([*prefix, os.path.join(BUILD, "orchestrad"), "--set", f"listen.tcp=127.0.0.1:{free_port()}",
                              "--set", f"data.dir={tmp_path}/d", "--set", f"listen.unix={tmp_path}/s", "--set", "log.level=debug",
                              "--set", f"log.target={target}"], stdout=out, stderr=err,
                             env={k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRA_")})
    try:
        assert until(lambda: "ready after" in said[stream].read_text())
    finally:
        os.kill(next(iter(children(p.pid))) if prefix else p.pid, signal.SIGTERM)
        assert p.wait(20 * SLOW) == 0
    assert "stopped" in said[stream].read_text() and " sync[" in said[stream].read_text()    # workers, too
    assert said["err" if stream == "out" else "out"].read_text() == ""
