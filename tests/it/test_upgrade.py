"""The binary is replaced while it serves: same pid, same sockets, nobody refused, nothing lost; and what is no good changes nothing."""
import json
import os
import shutil
import signal
import stat
import subprocess
import time

import pytest

from load import Clients
from orchestra import BUILD, SLOW, Orchestra

DAEMON = os.path.join(BUILD, "orchestrad")


class Upgradable(Orchestra):
    """Runs from a copy of the binary that a test may replace."""

    def __init__(self, **kw):
        super().__init__(**{**kw, "start": False})
        self.binary = os.path.join(self.dir, "bin", "orchestrad")
        os.mkdir(os.path.dirname(self.binary))
        self.install(DAEMON)
        if kw.get("start", True):
            self.start()

    def install(self, program):
        """As a package manager does: a new file takes the place of the old one."""
        shutil.copy(program, self.binary + ".new")
        os.replace(self.binary + ".new", self.binary)

    def status(self):
        r = self.ctl("status", "--json")
        return json.loads(r.stdout) if r.returncode == 0 else {"workers": [], "upgrade": r.stderr}


@pytest.fixture
def make():
    made = []

    def factory(**kw):
        made.append(Upgradable(**kw))
        return made[-1]
    yield factory
    for o in made:
        o.cleanup()


def script(o, text):
    """A binary that is no good, in its place."""
    with open(o.binary + ".new", "w") as f:
        f.write(text)
    os.chmod(o.binary + ".new", 0o755)
    os.replace(o.binary + ".new", o.binary)


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def until(what, timeout=10):
    deadline = time.monotonic() + timeout * SLOW
    while not (got := what()):
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.02)
    return got


def settled(o, workers):
    """Only that many processes, all of them serving."""
    until(lambda: (w := o.status()["workers"]) and len(w) == workers and all(x["state"] == "ready" for x in w), 20)


def test_every_process_is_a_new_one_but_the_supervisor(make):
    o = make(sets=["api.workers=2"])
    before, pid = o.workers(), o.process.pid
    o.add("kept")
    o.install(DAEMON)
    r = o.ctl("upgrade")
    assert r.returncode == 0 and r.stdout.startswith("Upgraded from "), r
    settled(o, 5)
    assert o.process.poll() is None and o.status()["pid"] == pid
    assert not set(before.values()) & set(o.workers().values())
    assert os.readlink(f"/proc/{pid}/exe") == o.binary              # and not "(deleted)"
    assert [m["content"] for m in o.list_all()] == ["kept"]
    assert 'orchestra_worker_restarts_total{role="sync"} 0' in o.get("/metrics").body.decode()
    with open(f"/proc/{pid}/comm") as f:
        assert f.read().strip() == "orchestrad"


def test_twenty_under_load(make):
    """Not one refused connection, not one lost write; descriptors and memory stay as they are."""
    o = make(sets=["api.workers=2"])
    pid, fds, rss = o.process.pid, [], []
    with Clients(o, 6, unix=2) as clients:
        for n in range(20):
            o.install(DAEMON)
            if n % 2:
                r = o.ctl("upgrade")
                assert r.returncode == 0, r
            else:
                done = o.log().count("upgraded from ")
                o.signal(signal.SIGUSR2)
                until(lambda: o.log().count("upgraded from ") > done, 30)
            if n % 5 == 4:
                settled(o, 5)
                fds.append(descriptors(pid))
                rss.append(o.status()["rss_bytes"])
    clients.check()
    assert fds[-1] <= fds[0], fds
    assert rss[-1] < rss[0] + (2 << 20), rss
    settled(o, 5)
    names = {n: sorted(os.readlink(f"/proc/{p}/fd/{f}").split(":")[0] for f in os.listdir(f"/proc/{p}/fd"))
             for n, p in o.workers().items()}
    assert all(len(v) < 80 for v in names.values()), names           # nothing of the former images' in the new workers
    o.stop()
    o.start()
    clients.check_data()


def test_flags_environment_and_configuration_survive(make):
    o = make(conf="sync: { batch_max = 123; };\n", sets=["log.level=debug"], env={"ORCHESTRA_SYNC_DEBOUNCE_MS": "77"})
    n = len(o.workers())
    o.ctl("upgrade")
    settled(o, n)
    for key, value in {"log.level": "debug", "sync.batch_max": "123", "sync.debounce_ms": "77"}.items():
        assert o.ctl("config", "get", key).stdout.strip() == value
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write("sync: { batch_max = 321; };\n")
    assert o.ctl("reload").returncode == 0                             # reloads go on
    assert o.ctl("config", "get", "sync.batch_max").stdout.strip() == "321"


def test_keys_that_need_a_restart_keep_their_values(make):
    """Segments keep their sizes: the file changed, and an upgrade is no restart."""
    o = make(conf="cache: { l1_bytes = \"8 MiB\"; };\n")
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write("cache: { l1_bytes = \"16 MiB\"; };\n")
    assert o.ctl("upgrade").returncode == 0
    assert o.ctl("config", "get", "cache.l1_bytes").stdout.strip() == "8 MiB"
    assert o.add("serves")


@pytest.mark.parametrize("what,says", [
    ("missing", "No such file"), ("script", "not fit"), ("other", "not fit"), ("garbage", "not fit"),
    ("mode", "not fit"), ("crash", "not fit"), ("slow", "took too long")])
def test_a_binary_that_is_not_fit_changes_nothing(make, what, says):
    o = make(sets=["api.workers=2"])
    before = o.workers()
    if what == "missing":
        os.unlink(o.binary)
    elif what == "script":
        script(o, "#!/bin/sh\nexit 0\n")
    elif what == "other":
        o.install("/bin/true")
    elif what == "garbage":
        script(o, "\x7fELF and no more")
    elif what == "mode":
        os.chmod(o.binary, stat.S_IRUSR)
        if os.geteuid() != 0:
            pytest.skip("any mode is refused")
    elif what == "crash":
        with open(DAEMON, "rb") as f:
            program = bytearray(f.read())
        program[0x18:0x20] = b"\xff" * 8                               # its entry point
        with open(o.binary + ".new", "wb") as f:
            f.write(program)
        os.chmod(o.binary + ".new", 0o755)
        os.replace(o.binary + ".new", o.binary)
    elif what == "slow":                                               # talks for ever, and stays bounded
        subprocess.run(["gcc", "-x", "c", "-", "-o", o.binary + ".new"], text=True, check=True,
                       input="#include <stdio.h>\nint main(void) { for (;;) puts(\"fit to take over\"); }\n")
        os.replace(o.binary + ".new", o.binary)
    with Clients(o, 2) as clients:
        r = o.ctl("upgrade")
        assert r.returncode != 0 and says in r.stderr and "The former binary serves on." in r.stderr, r
    clients.check()
    assert o.workers() == before
    o.install(DAEMON)
    assert o.ctl("upgrade").returncode == 0, "a second upgrade after a failed one"
    settled(o, 5)


def test_a_bad_configuration_is_found_before(make):
    o = make(conf="sync: { batch_max = 5; };\n")
    before = o.workers()
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write("sync: { batch_max = \"five\"; };\n")
    r = o.ctl("upgrade")
    assert r.returncode != 0 and "orchestra.conf:1" in r.stderr and "sync.batch_max" in r.stderr, r
    assert o.workers() == before


def test_two_at_once_and_reloads_meanwhile(make):
    o = make()
    with Clients(o, 2) as clients:
        both = [subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, verb], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True) for verb in ("upgrade", "upgrade", "reload", "upgrade", "reload")]
        said = [(p.communicate()[0], p.returncode) for p in both]
    clients.check()
    assert any(code == 0 and "Upgraded" in text for text, code in said), said
    for text, code in said:
        assert code == 0 or "is under way" in text, said
    assert o.ctl("reload").returncode == 0 and o.ctl("upgrade").returncode == 0


def test_signals_in_the_gap_are_not_lost(make):
    """SIGHUP right behind SIGUSR2 is heeded when the new image can, and a SIGTERM ends it in order."""
    o = make(conf="sync: { batch_max = 100; };\n")
    for n in range(5):
        with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
            f.write(f"sync: {{ batch_max = {200 + n}; }};\n")
        o.signal(signal.SIGUSR2)
        time.sleep(0.004 * n)
        o.signal(signal.SIGHUP)
        until(lambda: o.ctl("config", "get", "sync.batch_max").stdout.strip() == str(200 + n), 20)
    for n in range(5):
        o.signal(signal.SIGUSR2)
        time.sleep(0.005 * n)
        o.signal(signal.SIGTERM)
        assert o.process.wait(20 * SLOW) == 0, o.log()
        o.start()


def test_workers_killed_while_it_goes_on(make):
    """Whoever dies meanwhile is started again, or the upgrade fails: nothing acknowledged is lost, the daemon serves."""
    o = make(sets=["api.workers=2"])
    clients = Clients(o, 4)
    with clients:
        for n in range(12):
            o.signal(signal.SIGUSR2)
            time.sleep(0.004 * n)
            for p in list(o.workers().values())[n % 3::3]:
                try:
                    os.kill(p, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            until(lambda: "upgrade" not in (s := o.status()) and all(w["state"] in ("ready", "draining") for w in s["workers"]), 30)
    clients.check_data()
    settled(o, 5)
    assert o.ctl("upgrade").returncode == 0


def test_by_http_and_through_a_worker_that_leaves(make):
    o = make(sets=["api.workers=1"])
    for _ in range(3):
        r = o.post("/v1/admin/upgrade", fresh=True)
        assert r.status == 200 and r.json["result"] == "upgraded", r
    o.install("/bin/true")
    r = o.post("/v1/admin/upgrade", fresh=True)
    assert r.status == 409 and r.json["result"] == "failed" and "not fit" in r.json["error"], r


def test_many_workers_leave_no_free_slot(make):
    """With 32 api workers there is none to spare: they are replaced in place, one at a time."""
    o = make(sets=["api.workers=32"])
    settled(o, 35)
    with Clients(o, 3) as clients:
        r = o.ctl("upgrade")
        assert r.returncode == 0, r
        until(lambda: "upgraded from" in o.log(), 60)
    clients.check()
    settled(o, 35)


def test_a_document_from_elsewhere_is_refused(make, tmp_path):
    """--check-handover on what is no hand-over, of another version, or of other layouts."""
    def check(text):
        path = tmp_path / "document"
        path.write_text(text)
        r = subprocess.run(["sh", "-c", f'exec "$0" --check-handover 3<"{path}"', DAEMON], capture_output=True, text=True)
        return r.returncode, r.stdout
    for text, says in (("", "cannot be read"), ("{}", "no hand-over document"), ("[1]", "no hand-over document"),
                       ('{"document":"orchestra-handover","version":9,"readable_by":9}', "hands over in version 9"),
                       ('{"document":"orchestra-handover","version":1,"readable_by":1}', "the layout of shared memory differs")):
        code, out = check(text)
        assert code == 1 and says in out, (text, code, out)
    r = subprocess.run([DAEMON, "--foreground"], env={**os.environ, "ORCHESTRA_HANDOVER": "0"}, stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=20)
    assert r.returncode != 0 and "hand-over" in r.stderr


TWIN = os.path.join(BUILD, "tests", "orchestrad-faults")  # it stands for other versions of the program: ORC_HANDOVER_VERSION


def test_documents_of_the_version_before_and_after(make):
    """From this program to the next one, which knows one version more, and back; documents without the fields of later versions."""
    o = make(sets=["api.workers=2"], env={"ORC_HANDOVER_VERSION": "2", "ORC_HANDOVER_LACKS": "last_words,last_exit,last_exit_us,upgrade_began_us,retiring"})
    before = o.add("kept")["id"]
    for program in (TWIN, TWIN, DAEMON):
        o.install(program)
        r = o.ctl("upgrade")
        assert r.returncode == 0, (program, r, o.log())
        settled(o, 5)
    assert o.memory(before).status == 200


def test_versions_too_far_apart_are_refused(make):
    for first, second in ((DAEMON, TWIN), (TWIN, DAEMON)):
        o = make(sets=["api.workers=2"], env={"ORC_HANDOVER_VERSION": "3"}, start=False)
        o.install(first)
        o.start()
        before = o.workers()
        o.install(second)
        r = o.ctl("upgrade")
        assert r.returncode != 0 and "hands over in version" in r.stderr and "The former binary serves on." in r.stderr, r
        assert o.workers() == before


@pytest.mark.parametrize("role", ["sync", "api", "warmer", "pinger"])
def test_back_to_the_former_binary_and_its_version(make, role):
    """A worker of the next version dies before it is ready: the former program gets a document that it reads, and serves on."""
    import fault_points
    faults = fault_points.Faults()
    o = make(sets=["api.workers=2"], env={"ORC_HANDOVER_VERSION": "2", "ORC_FAULT_FILE": faults.path})
    with Clients(o, 3) as clients:
        faults.arm("worker_unready", role)
        o.install(TWIN)
        r = o.ctl("upgrade")
        assert r.returncode != 0 and f"{role}" in r.stderr and "did not become ready" in r.stderr, r
        assert "The former binary serves on." in r.stderr
        settled(o, 5)
        o.install(DAEMON)
        assert o.ctl("upgrade").returncode == 0
    clients.check()
    faults.close()
