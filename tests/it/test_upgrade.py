"""The binary is replaced while it serves: same pid, same sockets, nobody refused, nothing lost; and what is no good changes nothing."""
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest

from load import Clients
from orchestra import BUILD, Orchestra, SLOW, descriptors, until

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

    def start(self, wait=True):
        super().start(wait)
        if wait:                                                     # every worker, with its name: one that serves is enough for /readyz
            until(lambda: self.status().get("state") == "running")
        return self

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


def compiled(o, text):
    subprocess.run(["gcc", "-x", "c", "-", "-o", o.binary + ".new"], text=True, check=True, input=text)
    os.replace(o.binary + ".new", o.binary)


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
                fds.append(len(descriptors(pid)))
                rss.append(o.status()["rss_bytes"])
    clients.check()
    assert fds[-1] <= fds[0], fds
    assert rss[-1] < rss[0] + (2 << 20), rss
    settled(o, 5)
    names = {n: sorted(f.split(":")[0] for f in descriptors(p).values()) for n, p in o.workers().items()}
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
        compiled(o, "int main(void) { __builtin_trap(); }")
    elif what == "slow":                                               # talks for ever, and stays bounded
        compiled(o, "#include <stdio.h>\nint main(void) { for (;;) puts(\"fit to take over\"); }\n")
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


def test_whoever_asks_just_then_is_answered(make):
    """A client of PATH.ctl that has connected and not asked yet is handed over, too."""
    o = make(sets=["api.workers=1"])
    early = socket.socket(socket.AF_UNIX)
    early.settimeout(20 * SLOW)
    early.connect(o.socket + ".ctl")
    half = socket.socket(socket.AF_UNIX)
    half.settimeout(20 * SLOW)
    half.connect(o.socket + ".ctl")
    early.sendall(b"status\n")
    assert json.loads(early.makefile().readline())["ok"]
    assert control(o, "reload")["ok"]  # opens the audit log
    fds = len(descriptors(o.process.pid))
    for _ in range(3):
        assert control(o, "upgrade")["ok"]
        for s in early, half:
            s.sendall(b"status\n")
            assert json.loads(s.makefile().readline())["ok"]
    settled(o, 4)
    assert len(descriptors(o.process.pid)) <= fds + 1
    early.close()
    half.close()


RAISE = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
int memfd_create(const char *name, unsigned flags)
{
	static int documents;
	if (strcmp(name, "orchestra-handover") == 0 && ++documents == 2)
		raise(SIGNAL);
	return ((int (*)(const char *, unsigned))dlsym(RTLD_NEXT, "memfd_create"))(name, flags);
}
'''


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_just_before_the_exec_is_not_lost(make, tmp_path, sig):
    """In the same turn of the loop: what libevent's handler has noted and not dispatched would go with the old image."""
    library = tmp_path / "raise.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], text=True, check=True,
                   input=RAISE.replace("SIGNAL", str(int(sig))))
    o = make(env={"LD_PRELOAD": str(library), "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")})
    o.signal(signal.SIGUSR2)
    if sig == signal.SIGTERM:
        assert o.process.wait(20 * SLOW) == 0, o.log()
        assert "leaving: SIGTERM" in o.log()
    else:
        o.wait_log("reload: 0 keys applied")


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
# ---- ends in the middle ----

def control(o, verb, timeout=30):
    """Through PATH.ctl: what is asked through a worker is answered by a worker."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout * SLOW)
        s.connect(o.socket + ".ctl")
        s.sendall(verb.encode() + b"\n")
        return json.loads(s.makefile().readline())


def states(o):
    return {w["name"]: w["state"] for w in control(o, "status")["workers"]}


def pids(o):
    return {w["name"]: w["pid"] for w in control(o, "status")["workers"] if "pid" in w}


def phase(o, name):
    until(lambda: name in control(o, "status").get("upgrade", ""), 20)


def ready(o, workers):
    until(lambda: list(states(o).values()) == ["ready"] * workers, 30)


def conf_file(o, text):
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write(text)


class HalfRequest:
    """A write whose body ends when the test says so."""

    def __init__(self, o, content):
        """Its head has been read when this returns: it lay behind a request that was answered."""
        self.body = json.dumps({"content": content}).encode()
        self.socket = socket.create_connection(("127.0.0.1", o.port), timeout=30 * SLOW)
        self.socket.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
                            b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n"
                            b"Content-Type: application/json\r\n"
                            b"Content-Length: %d\r\n\r\n%s" % (len(self.body), self.body[:5]))
        assert b" 200 " in self.socket.recv(4096)

    def end(self):
        self.socket.sendall(self.body[5:])
        answer = self.socket.recv(4096)
        self.socket.close()
        return int(answer.split()[1]) if answer else None


def tokens_file(o_dir):
    """A worker reads it at birth; --check-handover does not: the way to a new api worker that does not get up."""
    path = os.path.join(o_dir, "tokens")
    with open(path, "w") as f:
        f.write(f"root sha256:{hashlib.sha256(b't').hexdigest()} admin *\n")
    os.chmod(path, 0o600)
    return path


@pytest.fixture
def make_with_tokens(make, tmp_path):
    def factory(sets=(), **kw):
        path = tokens_file(tmp_path)
        o = make(sets=[*sets, f"auth.tokens_file={path}"], **kw)
        o.tokens, o.auth = path, {"Authorization": "Bearer t"}
        return o
    return factory


def spoil(o, text="no line of tokens\n"):
    with open(o.tokens, "w") as f:
        f.write(text)


def pipe_tokens(o):
    """Whoever reads the tokens waits until spoil() or tokens_file()."""
    os.unlink(o.tokens)
    os.mkfifo(o.tokens, 0o600)


def give_tokens(o, good):
    """To whoever waits for them; whoever comes later gets good ones."""
    with open(o.tokens, "w") as f:
        os.unlink(o.tokens)
        tokens_file(os.path.dirname(o.tokens))
        with open(o.tokens) as g:
            f.write(g.read() if good else "no line of tokens\n")


@pytest.mark.parametrize("back", [False, True])
def test_sigterm_while_sync_is_between_two_lives(make_with_tokens, back):
    """It leaves for its successor, or for the former binary's: requests under way are answered nevertheless."""
    o = make_with_tokens(sets=["api.workers=2"])
    late = HalfRequest(o, "late")
    if back:                                           # the new api worker waits for its tokens; then it is given bad ones
        pipe_tokens(o)
        o.signal(signal.SIGUSR2)
        phase(o, "replacing api")
        sync = pids(o)["sync"]
        os.kill(sync, signal.SIGSTOP)
        spoil(o)
        phase(o, "going back")
    else:
        sync = pids(o)["sync"]
        os.kill(sync, signal.SIGSTOP)
        o.signal(signal.SIGUSR2)
        phase(o, "replacing sync")
    o.signal(signal.SIGTERM)
    o.wait_log("leaving: SIGTERM")
    os.kill(sync, signal.SIGCONT)
    until(lambda: pids(o).get("sync") not in (None, sync))
    assert late.end() == 201
    assert o.process.wait(20 * SLOW) == 0, o.log()


# ---- slots and numbers ----

def test_a_worker_that_died_meanwhile_leaves_no_surplus(make):
    """A former one dies when its successors serve: it has a successor in its own slot, too."""
    o = make(sets=["api.workers=2"])
    before = pids(o)
    os.kill(before["warmer"], signal.SIGSTOP)          # the last phase waits
    o.signal(signal.SIGUSR2)
    phase(o, "replacing warmer")
    os.kill(before["api.0"], signal.SIGKILL)
    until(lambda: pids(o).get("api.0") not in (None, before["api.0"]))
    os.kill(before["warmer"], signal.SIGCONT)
    ready(o, 5)
    assert "upgrade" not in control(o, "status")


def held_up(p):
    try:
        os.kill(p, signal.SIGSTOP)
        return True
    except ProcessLookupError:  # it had no request, and has left
        return False


def test_slots_that_become_free_while_it_waits_for_them(make):
    """16 workers leave slowly, 16 serve, and 32 are wanted: the last 16 of them come when there is room."""
    o = make(conf="api: { workers = 32; };\n", sets=["daemon.drain_timeout=60 s"])
    ready(o, 35)
    busy = [socket.create_connection(("127.0.0.1", o.port)) for _ in range(300)]
    for s in busy:
        s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    conf_file(o, "api: { workers = 16; };\n")
    assert control(o, "reload")["ok"]
    leaving = [w["pid"] for w in control(o, "status")["workers"] if w["state"] == "draining"]
    staying = {p for n, p in pids(o).items() if n.startswith("api.")} - set(leaving)
    held = [p for p in leaving if held_up(p)]
    assert held
    for s in busy:
        s.close()
    conf_file(o, "api: { workers = 32; };\n")
    o.signal(signal.SIGUSR2)
    phase(o, "replacing api")
    until(lambda: list(states(o).values()).count("ready") >= 19 and not staying & set(pids(o).values()), 20)
    for p in held:
        os.kill(p, signal.SIGCONT)
    o.wait_log("upgraded from", 30)
    ready(o, 35)


def test_one_that_leaves_to_be_replaced_when_it_goes_back(make_with_tokens):
    """No slot is free, so workers are replaced in place; another one's failure comes in between. All of them serve in the end."""
    o = make_with_tokens(sets=["api.workers=32"])
    ready(o, 35)
    before = pids(o)
    spoil(o)
    os.kill(before["api.31"], signal.SIGSTOP)          # the first one that is told to leave
    o.signal(signal.SIGUSR2)
    until(lambda: states(o).get("api.31") == "draining")
    os.kill(before["api.3"], signal.SIGKILL)
    o.wait_log("serves on", 20)
    tokens_file(os.path.dirname(o.tokens))
    os.kill(before["api.31"], signal.SIGCONT)
    until(lambda: states(o).get("api.31") == "ready")
    assert control(o, "reload")["ok"]                  # api.3 may have met the spoilt tokens again
    ready(o, 35)


def test_one_that_backs_off_when_it_goes_back(make_with_tokens):
    """It is not started again by the binary that gives up: nobody would tell it to leave, and the upgrade would never end."""
    o = make_with_tokens(sets=["api.workers=1"])
    faults = 0
    while "starting it again in 0.3" not in o.log() and "starting it again in 0.4" not in o.log() and faults < 8:
        p = until(lambda: pids(o).get("pinger") if states(o)["pinger"] == "ready" else None)
        os.kill(p, signal.SIGABRT)
        until(lambda: pids(o).get("pinger") != p)
        faults += 1
    ready(o, 4)
    pipe_tokens(o)
    pinger = pids(o)["pinger"]
    o.signal(signal.SIGUSR2)
    phase(o, "replacing api")
    os.kill(pids(o)["sync"], signal.SIGSTOP)           # takes its time to leave
    os.kill(pinger, signal.SIGABRT)
    until(lambda: states(o)["pinger"] == "backing-off")
    spoil(o)
    o.wait_log("the former binary (", 20)
    ready(o, 4)
    assert "upgrade" not in control(o, "status")


# ---- what is handed over ----

def test_a_failed_upgrade_leaves_the_configuration_alone(make_with_tokens):
    """The new binary read the changed file; the workers that noticed nothing did not."""
    o = make_with_tokens(conf="sync: { batch_max = 100; };\n", sets=["api.workers=2"])
    spoil(o)
    conf_file(o, "sync: { batch_max = 200; };\nhttp: { body_bytes = \"2 KiB\"; };\n")
    assert not control(o, "upgrade")["ok"]
    tokens_file(os.path.dirname(o.tokens))
    assert control(o, "config get sync.batch_max")["value"] == "100"
    big = {"content": "x" * 4000}
    assert o.post("/v1/memories", big, headers=o.auth).status == 201
    r = control(o, "reload")
    assert r["ok"] and r["applied"] == 2, r
    assert control(o, "config get sync.batch_max")["value"] == "200"
    assert o.post("/v1/memories", big, headers=o.auth, fresh=True).status == 413


@pytest.mark.sqlite
def test_a_sync_that_finds_no_store_is_not_ready(make):
    """It lives and says why it refuses; that is no upgrade."""
    o = make()
    store = os.path.join(o.data, "store.db")
    o.add("before")
    os.rename(store, store + ".away")
    os.mkdir(store)
    before = pids(o)
    r = control(o, "upgrade")
    assert not r["ok"] and "sync of the new binary did not become ready" in r["error"], r
    assert {n: p for n, p in before.items() if n != "sync"} == {n: p for n, p in pids(o).items() if n != "sync"}
    os.rmdir(store)
    os.rename(store + ".away", store)
    until(lambda: states(o)["sync"] == "ready", 20)
    o.add("after")
    assert len(o.list_all()) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_reload_asked_for_meanwhile_comes_after(make_with_tokens, fails):
    o = make_with_tokens(conf="sync: { batch_max = 100; };\n")
    pipe_tokens(o)
    o.signal(signal.SIGUSR2)
    phase(o, "replacing api")
    conf_file(o, "sync: { batch_max = 200; };\n")
    o.signal(signal.SIGHUP)
    o.wait_log("SIGHUP: reloading")
    give_tokens(o, not fails)
    o.wait_log("upgrade failed" if fails else "upgraded from", 20)
    until(lambda: control(o, "config get sync.batch_max")["value"] == "200")
    o.wait_log("reload: 1 keys applied")


def test_a_reload_asked_for_during_the_check_is_not_forgotten(make):
    """Its result is the same when the new binary reads the file anyway; but systemd waits for RELOADING=1."""
    o = make()
    for _ in range(5):
        at = len(o.log())
        o.signal(signal.SIGUSR2)
        until(lambda: "upgrade: checking" in o.log()[at:])
        o.signal(signal.SIGHUP)
        until(lambda: "upgraded from" in o.log()[at:], 20)
        until(lambda: "reload: 0 keys applied" in o.log()[at:])


def start_as(o, argv0, **kw):
    with open(o.log_path, "ab") as log:
        o.process = subprocess.Popen([argv0, *o.command()[1:]], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                     start_new_session=True, **kw)
    o.wait_ready(status=200)


def test_a_binary_found_by_path_is_found_again(make_with_tokens):
    """Its file was replaced: the binary that comes back has no name in /proc."""
    o = make_with_tokens(start=False)
    start_as(o, "orchestrad", executable=o.binary)
    spoil(o)
    o.install(DAEMON)
    assert "did not become ready" in control(o, "upgrade")["error"]
    tokens_file(os.path.dirname(o.tokens))
    r = control(o, "upgrade")
    assert r["ok"], r


def test_a_path_that_is_no_text(make):
    o = make(start=False)
    directory = os.fsencode(o.dir) + b"/b\xffn"
    os.mkdir(directory)
    o.binary = directory + b"/orchestrad"
    shutil.copy(DAEMON, o.binary)
    start_as(o, o.binary)
    assert control(o, "upgrade")["ok"]
    os.unlink(o.binary)
    r = control(o, "upgrade")
    assert not r["ok"] and "/b?n/orchestrad: No such file" in r["error"], r
    assert o.get("/livez").status == 200
