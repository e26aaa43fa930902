"""Processes: what the supervisor does when workers die, hang, never come up, or are asked for in other numbers.
Each pitfall here bit a famous daemon (DESIGN names them)."""
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from load import Clients
from orchestra import BUILD, SLOW, descriptors, until

TOKEN = f"root sha256:{hashlib.sha256(b't-root').hexdigest()} admin *\n"
STUCK = 2  # s, with the three to SIGKILL and a tick to notice


def worker(o, role):
    return next((p for n, p in o.workers().items() if role in n), None)


def status(o):
    return json.loads(o.ctl("status", "--json").stdout)


def row(o, name):
    return next(w for w in status(o)["workers"] if w["name"] == name)


def conf_file(o, text):
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write(text)


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return ") Z " in f.read()
    except OSError:
        return True


# ---- stuck ----

@pytest.mark.parametrize("role", ["sync", "api", "warmer", "pinger"])
def test_a_worker_that_hangs_is_killed_and_started_again(make, role):
    o = make(sets=[f"daemon.stuck_timeout={STUCK} s", "api.workers=1"])
    o.add("before")
    pid = worker(o, role)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: worker(o, role) not in (pid, None), 20)
    assert gone(pid)
    o.wait_ready()
    assert "is stuck: no heartbeat for 2 s (daemon.stuck_timeout); aborting it" in o.log()
    o.add("after")
    assert len(o.list_all()) == 2


def test_no_worker_is_blamed_for_a_stopped_machine(make):
    """A snapshot or a suspended virtual machine stops everybody at once: when time goes on, nobody is late."""
    o = make(sets=[f"daemon.stuck_timeout={STUCK} s"])
    until(lambda: status(o)["state"] == "running")
    before = o.workers()
    everybody = [o.process.pid, *before.values()]
    for p in everybody:
        os.kill(p, signal.SIGSTOP)
    time.sleep((STUCK + 5) * SLOW)
    for p in everybody:
        os.kill(p, signal.SIGCONT)
    time.sleep(2.5)
    assert o.workers() == before, o.log()
    assert o.add("and time goes on")


def test_debuggers_may_switch_it_off(make):
    o = make(sets=["daemon.stuck_timeout=0 s"])
    pid = worker(o, "api")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(pid, signal.SIGCONT)
    assert pid in o.workers().values()


# ---- death ----

def test_last_words_reach_the_log_and_status(make):
    o = make(sets=["api.workers=1"])
    os.kill(worker(o, "api"), signal.SIGABRT)
    o.wait_log("last words of api.0 ")
    line = next(x for x in o.log().splitlines() if "last words of api.0" in x)
    assert re.search(rf"SIGABRT sent by pid {os.getpid()}, thread orc:api\.0, backtrace:( \S+\+0x[0-9a-f]+){{3,}}", line), line
    o.wait_ready()
    w = row(o, "api.0")
    assert w["restarts"] == 1 and w["last_exit"] == "killed by SIGABRT" and "backtrace" in w["last_words"]


def test_no_content_in_core_files(make):
    """What a core file would hold: no heap, no shared memory, no files."""
    o = make()
    for pid in [o.process.pid, *o.workers().values()]:
        with open(f"/proc/{pid}/coredump_filter") as f:
            assert int(f.read(), 16) & ~0x10 == 0
        with open(f"/proc/{pid}/limits") as f:
            assert re.search(r"Max core file size +0 ", f.read())


def test_own_faults_are_backed_off_and_forgotten(make):
    o = make(sets=["api.workers=2", "log.level=debug"])
    name = "api.0"
    for _ in range(3):
        pid = until(lambda: row(o, name).get("pid") if row(o, name)["state"] == "ready" else None, 20)
        os.kill(pid, signal.SIGABRT)
        until(lambda: row(o, name).get("pid") != pid)
        assert o.add("the other one serves")
    assert "starting it again in" in o.log() and "api.0: stopped → backing-off" in o.log()
    assert row(o, name)["restarts"] == 3
    # A SIGKILL from outside is nobody's fault.
    pid = until(lambda: row(o, name).get("pid") if row(o, name)["state"] == "ready" else None, 20)
    at = len(o.log())
    os.kill(pid, signal.SIGKILL)
    until(lambda: row(o, name).get("pid") not in (pid, None))
    assert "starting it again event=worker_died\n" in o.log()[at:]


def test_a_worker_that_never_gets_ready(make, tmp_path):
    """It is killed, waited for ever longer, and served without."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    o = make(sets=["api.workers=2", "daemon.ready_timeout=1 s", f"auth.tokens_file={tokens}"])
    pid = worker(o, "api.0")
    tokens.unlink()
    os.mkfifo(tokens, 0o600)                        # whoever opens it waits for a writer
    os.kill(pid, signal.SIGKILL)
    o.wait_log("not ready within daemon.ready_timeout; killing it", 10)
    o.wait_log("before it was ready: killed by SIGKILL; starting it again in", 10)
    assert o.get("/readyz").status == 200           # by the other one
    tokens.unlink()
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    until(lambda: sum("api" in n for n in o.workers()) == 2, 30)
    o.wait_log("api.0 is back", 30)


def test_useless_to_try_again(make, tmp_path):
    """Its configuration cannot be used: not respawned until a reload."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    o = make(sets=["api.workers=2", f"auth.tokens_file={tokens}"])
    o.wait_log("ready after")               # /readyz says so when one api worker serves; until all do, none "is back"
    pid = worker(o, "api.0")
    tokens.write_text("this is no line of tokens\n")
    os.kill(pid, signal.SIGKILL)
    o.wait_log("api.0 is not started again until a reload")
    assert "exit 78 (useless to try again)" in o.log()
    tokens.write_text(TOKEN)
    o.signal(signal.SIGHUP)
    o.wait_log("api.0 is back")


def test_the_supervisor_dies(make):
    """kill -9 of the supervisor: its workers leave by themselves, and a new daemon finds port, socket and data free."""
    o = make()
    o.add("kept")
    pids = list(o.workers().values())
    o.kill()
    until(lambda: all(gone(p) for p in pids), 5)
    o.start()
    assert [m["content"] for m in o.list_all()] == ["kept"]


def test_nothing_leaks_into_workers(make):
    """Descriptors at birth: a worker has what its contract names, whatever its parent had open, now and after restarts."""
    extra = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(extra, True)
    o = make(start=False)
    env = {**os.environ}
    with open(o.log_path, "ab") as log:
        o.log_start = 0
        o.process = subprocess.Popen(o.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, start_new_session=True,
                                     close_fds=False)
    os.close(extra)
    o.wait_ready()

    def files(pid):
        return sorted(re.sub(r"\d+", "N", f) for f in descriptors(pid).values())
    before = {n: files(p) for n, p in o.workers().items()}
    assert not any("hostname" in f for fs in before.values() for f in fs)
    for _ in range(3):
        for p in o.workers().values():
            os.kill(p, signal.SIGKILL)
        time.sleep(0.5 * SLOW)
        until(lambda: len(o.workers()) == len(before), 20)
        o.wait_ready()
    for name, fs in before.items():
        now = files(o.workers()[name])
        assert len(now) <= len(fs) + 1, (name, fs, now)  # a store file more or less


@pytest.mark.parametrize("size", [200, 40000])
def test_sync_dies_with_more_waiting_than_its_ring_holds(make, size):
    """What lies in the ring is taken by the successor while the same is queued to be sent again: each is stored once."""
    # so many writes that wait for a sync that stands still would be refused with 429, some of them
    o = make(sets=["api.workers=1", "sync.ring_bytes=65536", "daemon.stuck_timeout=0 s", "overload.control=false"])
    n = 200

    def post(life, k):
        body = json.dumps({"content": f"{life} {k} " + "x" * size}).encode()
        return (b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(body) + body)
    for life in range(3):
        sync = worker(o, "sync")
        os.kill(sync, signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", o.port), timeout=30 * SLOW) for _ in range(n)]
        for k, s in enumerate(clients):
            s.sendall(post(life, k) + post(life, n + k))     # the second one comes when the first one is answered
        time.sleep(0.5)
        os.kill(sync, signal.SIGKILL)
        for s in clients:
            got = b""
            while got.count(b"HTTP/1.1 201") < 2:
                more = s.recv(1 << 20)
                assert more and b"HTTP/1.1 429" not in more, (got + more)[-700:]
                got += more
            s.close()
    assert row(o, "api.0")["restarts"] == 0
    contents = [m["content"] for m in o.list_all(limit=100)]
    assert len(contents) == len(set(contents)) == 6 * n
    assert o.get("/v1/namespaces/default").json["count"] == 6 * n


# ---- numbers ----

def test_the_number_of_api_workers_changes_live(make):
    o = make(conf="api: { workers = 1; };\n")
    with Clients(o, 4) as clients:
        for n in (4, 2, 6, 1, 3):
            conf_file(o, f"api: {{ workers = {n}; }};\n")
            r = o.ctl("reload")
            assert r.returncode == 0 and "applied" in r.stdout and "api.workers" in r.stdout, r
            until(lambda: sum(w["role"] == "api" and w["state"] == "ready" for w in status(o)["workers"]) == n, 20)
            until(lambda: sum("api" in x for x in o.workers()) == n, 20)
            time.sleep(0.2)
    clients.check()
    metrics = o.get("/metrics").body.decode()
    assert 'orchestra_worker_restarts_total{role="api"} 0' in metrics
    answered = sum(int(x.rsplit(" ", 1)[1]) for x in metrics.splitlines()
                   if x.startswith("orchestra_http_requests_total") and 'status="2xx"' in x)
    assert answered >= clients.requests                # what workers that have left counted is still counted


def test_a_start_ends_without_a_worker_that_is_not_wanted_any_more(make):
    o = make(conf="api: { workers = 2; };\n", start=False, sets=["daemon.drain_timeout=1 s"])
    for _ in range(20):
        o.start(wait=False)
        pid = until(lambda: o.workers().get("api.1"), every=0)
        os.kill(pid, signal.SIGSTOP)                   # before it is ready, if this machine is quick enough
        o.wait_ready()
        if row(o, "api.1")["state"] == "starting":
            break
        os.kill(pid, signal.SIGCONT)
        o.stop()
    conf_file(o, "api: { workers = 1; };\n")
    assert o.ctl("reload").returncode == 0
    until(lambda: status(o)["state"] == "running" and len(status(o)["workers"]) == 4, 10)


def test_slots_that_are_free_again_are_used(make):
    """More workers are wanted than there are slots, because others are still leaving: they come when those have gone."""
    o = make(conf="api: { workers = 32; };\n")
    idle = [socket.create_connection(("127.0.0.1", o.port)) for _ in range(200)]
    for s in idle:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert s.recv(1000)
    for n in (1, 32):
        conf_file(o, f"api: {{ workers = {n}; }};\n")
        assert o.ctl("reload").returncode == 0
    for s in idle:
        s.close()
    until(lambda: [w["state"] for w in status(o)["workers"]] == ["ready"] * 35, 20)


def test_hot_and_idle_clients_let_a_worker_go(make):
    """A keep-alive client that never pauses is told to close at a request boundary; one that is silent is closed in the end."""
    o = make(conf="api: { workers = 4; };\n")
    idle = [http.client.HTTPConnection("127.0.0.1", o.port, timeout=20 * SLOW) for _ in range(16)]
    for c in idle:
        c.request("GET", "/livez")
        c.getresponse().read()
    with Clients(o, 6, pause=0) as clients:
        conf_file(o, "api: { workers = 1; };\n")
        assert o.ctl("reload").returncode == 0
        for c in idle[:8]:                             # in the time that idle connections have left
            c.request("GET", "/livez")
            assert c.getresponse().read()
        until(lambda: sum("api" in x for x in o.workers()) == 1, 20)
    clients.check()


# ---- reload ----

def test_a_reload_while_a_worker_starts(make):
    o = make(conf='log: { level = "info"; };\n', sets=["api.workers=2"])
    for n in range(10):
        os.kill(worker(o, "api"), signal.SIGKILL)
        conf_file(o, f'log: {{ level = "{("debug", "info")[n % 2]}"; }};\n')
        r = o.ctl("reload")
        assert r.returncode == 0 and "log.level" in r.stdout, r
        until(lambda: all(w["state"] == "ready" for w in status(o)["workers"]), 20)
    assert o.ctl("config", "get", "log.level").stdout.strip() == "info"
    at = len(o.log())
    o.ctl("reload")
    assert "debug" not in o.log()[at:].replace("log.level", "")  # every worker has the level of the last one


def test_reloads_at_once(make):
    """Several askers, signals among them: each gets an answer, and the last file is in force."""
    o = make(conf="sync: { batch_max = 100; };\n")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(o.ctl("reload"))) for _ in range(8)]
    conf_file(o, "sync: { batch_max = 777; };\n")
    for t in threads:
        t.start()
        o.signal(signal.SIGHUP)
    for t in threads:
        t.join()
    assert all(a.returncode == 0 for a in answers), answers
    assert o.ctl("config", "get", "sync.batch_max").stdout.strip() == "777"


def test_a_bad_reload_changes_nothing_and_the_next_one_works(make):
    o = make(conf="sync: { batch_max = 100; };\n")
    for n in range(5):
        conf_file(o, f"sync: {{ batch_max = {200 + n}; }};\nhttp: {{ head_bytes = \"2 cows\"; }};\n")
        r = o.ctl("reload")
        assert r.returncode != 0 and "orchestra.conf:2" in r.stderr and "http.head_bytes" in r.stderr, r
        assert o.ctl("config", "get", "sync.batch_max").stdout.strip() == str(100 if n == 0 else 299 + n)
        conf_file(o, f"sync: {{ batch_max = {300 + n}; }};\n")
        o.signal(signal.SIGHUP)
        until(lambda: o.ctl("config", "get", "sync.batch_max").stdout.strip() == str(300 + n))


def test_a_worker_that_dies_in_the_vote(make):
    """Killed between PREPARE and its answer (it is stopped, so it cannot answer): the others go on, and so does its successor."""
    o = make(conf="sync: { batch_max = 100; };\n", sets=["api.workers=2"])
    pid = worker(o, "pinger")
    os.kill(pid, signal.SIGSTOP)
    conf_file(o, "sync: { batch_max = 101; };\n")
    answer = []
    t = threading.Thread(target=lambda: answer.append(o.ctl("reload")))
    t.start()
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    t.join()
    assert answer[0].returncode == 0, answer
    until(lambda: all(w["state"] == "ready" for w in status(o)["workers"]), 20)


# ---- leaving ----

def test_a_reload_under_way_ends_when_the_daemon_leaves(make):
    """Its vote is over when the daemon is leaving already: nobody is started then who would outlive it."""
    o = make(conf="api: { workers = 1; };\n")
    until(lambda: row(o, "pinger")["state"] == "ready")  # before, it has no vote
    pid = worker(o, "pinger")
    os.kill(pid, signal.SIGSTOP)
    conf_file(o, "api: { workers = 8; };\n")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20 * SLOW)
        s.connect(o.socket + ".ctl")
        s.sendall(b"reload\n")
        time.sleep(0.3)
        o.signal(signal.SIGTERM)
        assert json.loads(s.makefile().readline())["error"] == "the daemon is leaving"
    os.kill(pid, signal.SIGCONT)
    assert o.process.wait(20 * SLOW) == 0
    assert "the supervisor is gone" not in o.log() and "api.1" not in o.log()


def test_readiness_fails_before_the_listeners_go(make):
    o = make(sets=["daemon.drain_delay=2 s", "daemon.drain_timeout=20 s"])
    o.signal(signal.SIGTERM)
    until(lambda: o.get("/readyz", fresh=True).status == 503, 2)
    assert o.get("/readyz", fresh=True).json["status"] == "draining"
    assert o.post("/v1/memories", {"content": "still taken"}, fresh=True).status == 201
    assert o.process.wait(20 * SLOW) == 0
    o.start()
    assert [m["content"] for m in o.list_all()] == ["still taken"]


def test_the_deadline_ends_a_drain(make):
    """A request that never ends cannot hold the daemon: its worker is cut off, sync still flushes, and the status says so."""
    o = make(sets=["daemon.drain_timeout=1 s"])
    o.add("flushed")
    s = socket.create_connection(("127.0.0.1", o.port))
    s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    time.sleep(0.2)
    o.signal(signal.SIGTERM)
    assert o.process.wait(10 * SLOW) == 1
    s.close()
    assert "has not left in time for sync to flush" in o.log()
    o.start()
    assert [m["content"] for m in o.list_all()] == ["flushed"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(make, second):
    o = make(sets=["daemon.drain_timeout=60 s"])
    o.add("safe in the journal")
    s = socket.create_connection(("127.0.0.1", o.port))
    s.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    time.sleep(0.2)
    o.signal(signal.SIGTERM)
    o.wait_log("leaving: SIGTERM")
    assert o.process.poll() is None
    o.signal(second)
    o.process.wait(10 * SLOW)
    s.close()
    o.start()
    assert [m["content"] for m in o.list_all()] == ["safe in the journal"]


def test_sigquit_under_load_loses_nothing(make):
    o = make()
    clients = Clients(o, 4)
    with clients:
        until(lambda: len(clients.acknowledged) > 100, 20)
        o.signal(signal.SIGQUIT)
        o.process.wait(10 * SLOW)
    o.start()
    clients.check_data()


@pytest.mark.parametrize("after_ms", [0, 1, 3, 6, 10, 20])
def test_sigterm_while_it_starts(make, after_ms):
    o = make(start=False)
    o.start(wait=False)
    time.sleep(after_ms / 1000)
    o.signal(signal.SIGTERM)
    code = o.process.wait(20 * SLOW)
    assert code in (0, -signal.SIGTERM), o.log()       # before it has handlers nothing is there to be saved
    o.start()
    assert o.add("starts again")


def test_standard_descriptors_may_be_closed(make):
    o = make(start=False)
    o.process = subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *o.command()], start_new_session=True)
    o.wait_ready()
    assert o.add("no standard error")
    assert o.stop() == 0


def test_version_is_told():
    assert re.match(r"orchestrad \d+\.\d+", subprocess.run([os.path.join(BUILD, "orchestrad"), "--version"], capture_output=True,
                                                          text=True).stdout)
