"""What the machine does to the daemon: failing disks, full disks, no descriptors, no network, a stopped or killed
worker, a clock that steps. No write is answered 201 that is not there afterwards, reads go on, the reason is said."""
import errno
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from orchestra import BUILD, Orchestra, SLOW, descriptors, until, kill_all

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def worker(o, role):
    return next(p for n, p in o.workers().items() if role in n)


class Load:
    """Clients that add until told to stop, and know what they were told."""

    def __init__(self, o, clients=6):
        self.o, self.ids, self.statuses, self.refusals, self.broken, self.stop = o, [], {}, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(k,)) for k in range(clients)]
        for t in self.threads:
            t.start()

    def run(self, k):
        conn, n = None, 0
        while not self.stop.is_set():
            n += 1
            try:
                conn = conn or http.client.HTTPConnection("127.0.0.1", self.o.port, timeout=30 * SLOW)
                conn.request("POST", "/v1/memories", json.dumps({"content": f"client {k} number {n}"}))
                r = conn.getresponse()
                body = r.read()
                if os.strerror(errno.ENOSYS).encode() not in body:  # strace let go in the middle of a call
                    self.statuses[r.status] = self.statuses.get(r.status, 0) + 1
                if r.status == 201:
                    self.ids.append(json.loads(body)["id"])
                else:
                    self.refusals.append(json.loads(body)["detail"])
                    assert r.headers["Retry-After"]
                    time.sleep(0.01)
                if r.will_close:
                    conn = conn.close()
            except (OSError, http.client.HTTPException) as e:
                self.broken.append(repr(e))
                conn = conn.close() if conn else None

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(40 * SLOW)
        assert not any(t.is_alive() for t in self.threads), "a client is wedged"
        return self

    def all_there(self):
        assert self.ids
        for at in range(0, len(self.ids), 500):
            assert not self.o.post("/v1/memories:get", {"ids": self.ids[at:at + 500]}).json["missing"]


class Strace:
    """System calls of one worker that fail."""

    def __init__(self, pid, calls, error="EIO"):
        if not shutil.which("strace"):
            pytest.skip("strace is absent")
        self.p = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", "-p", str(pid)],
                                  stderr=subprocess.PIPE, text=True)
        assert "attached" in self.p.stderr.readline()
        threading.Thread(target=self.p.stderr.read, daemon=True).start()
        until(lambda: all(open(f"/proc/{pid}/task/{t}/status").read().split("TracerPid:")[1].split()[0] != "0" for t in os.listdir(f"/proc/{pid}/task")))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.terminate()
        self.p.wait()


class Mount:
    """A small file system of its own, gone afterwards."""

    def __init__(self, kind, size):
        self.dir, self.image = tempfile.mkdtemp(prefix="orchestra-mnt-"), None
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.dir]
        else:
            self.image = self.dir + ".img"
            subprocess.run(["truncate", "-s", size, self.image], check=True)
            # not the 1 KiB that small ones get: there SQLite's -shm may have holes (docs/operations.md)
            subprocess.run(["mkfs.ext4", "-q", "-b", "4096", self.image], check=True)
            command = ["mount", "-o", "loop", self.image, self.dir]
        if subprocess.run(command, capture_output=True).returncode:
            self.__exit__()
            pytest.skip(f"cannot mount a {kind} here")

    def remount(self, options):
        return subprocess.run(["mount", "-o", "remount," + options, self.dir], capture_output=True).returncode

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        subprocess.run(["umount", "-l", self.dir], capture_output=True)
        os.rmdir(self.dir)
        if self.image:
            os.unlink(self.image)


# ---- the disk ----

def test_failing_sync_under_load_with_every_kind_of_write(make):
    o = make()
    m = o.add("before")
    o.post("/v1/memories?wait=store", {"content": "stored", "namespace": "other"})
    load = Load(o)
    until(lambda: len(load.ids) > 50)
    with Strace(worker(o, "sync"), "fdatasync,fsync"):
        until(lambda: load.statuses.get(503, 0) > 20)
        acknowledged = len(load.ids)
        path = "/v1/memories/" + m["id"]
        writes = [o.post("/v1/memories", {"content": "never"}), o.post("/v1/memories", {"memories": [{"content": "never"}] * 3}),
                  o.post("/v1/memories?wait=store", {"content": "never"}), o.patch(path, {"content": "never"}), o.delete(path),
                  o.delete(path + "?erase=true"), o.post(path + "/supersede", {"content": "never"}), o.post("/v1/namespaces", {"name": "never"}),
                  o.delete("/v1/namespaces/other?confirm=true"), o.delete("/v1/memories?namespace=other&confirm=other"),
                  o.post("/v1/memories:import", '{"content":"never"}\n'),
                  o.post("/v1/memories", {"content": "never"}, headers={"Idempotency-Key": "never"})]
        for r in writes:
            assert r.status == 503 and r.json["type"].endswith("journal-failed") and "durable" in r.json["detail"] and r.headers["Retry-After"], r
        ready = o.get("/readyz")
        assert ready.status == 503 and ready.json["status"] == "journal-failed" and "Input/output error" in ready.json["reason"]
        o.wait_log("Input/output error")
        assert o.get("/livez").status == 200 and o.memory(m["id"]).json["content"] == "before"
        assert o.search("before")[0]["id"] == m["id"] and o.list(namespace="other")["memories"] and o.get(path + "/history").status == 200
        load.end()
        assert len(load.ids) == acknowledged                  # nothing was acknowledged from then on
        assert set(load.statuses) == {201, 503} and not load.broken
        load.all_there()
    kill_all(o)
    o.start()
    load.all_there()
    assert o.memory(m["id"]).json["version"] == 1 and not o.search("never", mode="text") and len(o.list(namespace="other")["memories"]) == 1
    assert o.add("again")


def test_a_store_that_cannot_be_written_holds_nobody_up(make):
    """SQLite fails, the journal does not: writes and reads go on, the reason is told, and it catches up by itself."""
    with tempfile.TemporaryDirectory() as d:
        o = make(sets=[f"store.dsn={d}/store.db"])
        o.post("/v1/memories?wait=store", {"content": "first"})
        with Strace(worker(o, "sync"), "pwrite64", "ENOSPC"):     # the journal uses pwritev
            ids = [o.add(f"meanwhile {i}")["id"] for i in range(30)]
            until(lambda: "store" in o.get("/readyz").json["degraded"])
            ready = o.get("/readyz")
            assert ready.status == 200 and "store" in ready.json["reason"]
            assert all(o.memory(i).status == 200 for i in ids) and len(o.list()["memories"]) == 31
            assert o.search("meanwhile 7", mode="text") and o.get("/v1/memories:count").json["count"] == 31
        until(lambda: "orchestra_journal_lag_records 0\n" in o.get("/metrics").body.decode(), 30)
        assert o.get("/readyz").json == {"status": "ready", "degraded": []}
        o.stop()
        o.start()
        assert all(o.memory(i).status == 200 for i in ids)


@root
def test_full_disk_under_everything(make):
    with Mount("ext4", "40M") as m:
        o = make(directory=m.dir, sets=["journal.segment_bytes=8 MiB"])
        o.log_path, ids = m.dir + ".log", []
        o.stop()
        o.start()
        try:
            while (r := o.post("/v1/memories", {"memories": [{"content": f"{len(ids)} " + "x" * 60000}] * 5})).status == 201:
                ids += [x["id"] for x in r.json["memories"]]
            assert r.status == 507 and r.json["type"].endswith("disk-full") and "data.dir" in r.json["detail"] and r.headers["Retry-After"]
            o.wait_log("full")
            assert all(o.memory(i).status == 200 for i in ids[::10]) and o.get("/v1/memories:count").json["count"] == len(ids)
            assert o.get("/livez").status == 200
            kill_all(o)
            o.start(wait=False)
            until(lambda: o.process.poll() is None and answers(o))
            assert all(o.memory(i).status == 200 for i in ids)
        finally:
            o.cleanup()
            os.unlink(o.log_path)


def answers(o):
    try:
        return o.get("/v1/memories:count").status == 200
    except (OSError, http.client.HTTPException):
        return False


@root
def test_full_disk_under_the_store_only(make):
    """The journal takes what the store cannot, up to its quota; with room again it all arrives."""
    with Mount("tmpfs", "3M") as m:
        o = make(sets=[f"store.dsn={m.dir}/store.db", "journal.quota=16 MiB"])
        n = 0
        while (r := o.post("/v1/memories", {"memories": [{"content": f"{n} " + "x" * 20000}] * 5})).status == 201:
            n += 5
        assert r.status == 503 and "journal.quota" in r.json["detail"] and r.headers["Retry-After"]
        ready = o.get("/readyz")
        assert ready.status == 503 and "store" in ready.json["degraded"] and "full" in ready.json["reason"]
        assert o.get("/v1/memories:count").json["count"] == n
        assert m.remount("size=200M") == 0
        until(lambda: o.post("/v1/memories", {"content": "again"}).status == 201)
        until(lambda: "orchestra_journal_lag_records 0\n" in o.get("/metrics").body.decode(), 30)
        assert o.get("/readyz").json == {"status": "ready", "degraded": []}
        o.stop()
        o.start()
        assert o.get("/v1/memories:count").json["count"] == n + 1


@root
def test_read_only_data(make):
    with Mount("ext4", "64M") as m:
        o = make(directory=m.dir)
        o.log_path = m.dir + ".log"
        o.add("x")
        o.stop()
        until(lambda: m.remount("ro") == 0)     # the kernel lets go of a dead worker's Landlock rules, and their files, a little later
        o.start(wait=False)
        assert o.process.wait(10 * SLOW) not in (0, None) and "Read-only file system" in o.log() and o.data in o.log()
        assert m.remount("rw") == 0
        o.start()
        assert len(o.list()["memories"]) == 1
        o.stop()
        os.unlink(o.log_path)


def test_data_that_is_deleted_under_the_daemon(make):
    """Its open files still take writes and sync well, and would be gone at the next start."""
    o = make()
    o.add("before")
    assert o.get("/v1/memories").status == 200
    shutil.rmtree(o.data)
    r = o.post("/v1/memories", {"content": "after"})
    assert r.status == 503 and r.json["type"].endswith("journal-failed"), r
    assert o.get("/readyz").json["status"] == "journal-failed" and o.get("/livez").status == 200
    kill_all(o)
    o.start()
    assert not o.list()["memories"] and o.add("a new beginning")


@pytest.mark.parametrize("what", ["", "/journal"])
def test_data_that_is_moved_away_under_the_daemon(make, what):
    o = make()
    m = o.add("before")
    os.rename(o.data + what, o.data + ".elsewhere")
    r = o.post("/v1/memories", {"content": "after"})
    assert r.status == 503 and r.json["type"].endswith("journal-failed"), r
    kill_all(o)
    os.rename(o.data + ".elsewhere", o.data + what)
    o.start()
    assert o.memory(m["id"]).status == 200 and o.add("a new beginning")


# ---- processes ----

def test_a_stopped_sync_holds_writes_up_and_nothing_else(make):
    o = make()
    m = o.add("there")
    load = Load(o)
    until(lambda: len(load.ids) > 20)
    pid = worker(o, "sync")
    os.kill(pid, signal.SIGSTOP)
    try:
        before = len(load.ids)
        for _ in range(10):
            assert o.memory(m["id"]).status == 200 and o.search("there", mode="text") and o.list(limit=3)["memories"]
            time.sleep(0.1)
        assert len(load.ids) <= before + 6
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: len(load.ids) > before + 20)
    assert worker(o, "sync") == pid
    load.end().all_there()
    assert set(load.statuses) <= {201, 503} and not load.broken


def test_sync_killed_while_clients_wait(make):
    o = make()
    load = Load(o, 12)
    for _ in range(6):
        have = len(load.ids)
        until(lambda: len(load.ids) > have + 30)
        os.kill(worker(o, "sync"), signal.SIGKILL)
    have = len(load.ids)
    until(lambda: len(load.ids) > have + 30)
    load.end().all_there()
    assert set(load.statuses) <= {201, 503} and not load.broken     # its clients never saw it die
    count = o.get("/v1/memories:count").json["count"]
    assert len(load.ids) <= count <= len(load.ids) + load.statuses.get(503, 0)   # a 503 may have been stored, a 201 only once


def test_out_of_descriptors(make):
    if not shutil.which("prlimit"):
        pytest.skip("prlimit is absent")
    o = make(sets=["api.workers=1"])
    m = o.add("there")
    assert o.search("there")
    api, sync = worker(o, "api"), worker(o, "sync")
    o.close_connection()
    until(lambda: "socket:" in "".join(descriptors(api).values()))
    for pid in (api, sync):
        subprocess.run(["prlimit", f"--nofile={len(os.listdir(f'/proc/{pid}/fd')) + 4}", f"--pid={pid}"], check=True)
    conns = [socket.create_connection(("127.0.0.1", o.port), timeout=0.2 * SLOW) for _ in range(15)]
    served = 0
    for s in conns:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for s in conns:
        try:
            served += s.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            pass
    assert 0 < served < 15
    o.wait_log("Too many open files")
    for s in conns:
        s.close()
    assert o.memory(m["id"]).status == 200 and o.add("goes on")       # those that waited in the queue were let in
    assert worker(o, "api") == api and worker(o, "sync") == sync


def test_fewer_descriptors_than_connections_are_allowed(make):
    if not shutil.which("prlimit"):
        pytest.skip("prlimit is absent")
    o = make(sets=["api.workers=1"], prefix=["prlimit", "--nofile=300:300"])
    o.wait_log("44 connections will be taken")
    conns = [socket.create_connection(("127.0.0.1", o.port), timeout=5 * SLOW) for _ in range(60)]
    for s in conns[:30]:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    assert conns[-1].recv(4096).startswith(b"HTTP/1.1 503")           # told, not left waiting
    for s in conns:
        s.close()


def test_a_taken_port_or_socket_is_named(make):
    o = make()
    for port, path, word in ((o.port, None, "listen.tcp"), (None, o.socket, "listen.unix")):
        other = Orchestra(start=False)
        other.port, other.socket = port or other.port, path or other.socket
        other.start(wait=False)
        assert other.process.wait(15 * SLOW) == 1 and word in other.log(), other.log()
        other.cleanup()
    assert o.add("unharmed") and o.ctl("status").returncode == 0


# ---- surroundings ----

@root
@pytest.mark.sqlite("a server is reached over a network")
def test_no_network_at_all(make):
    """In a name space whose lo is down, the Unix socket serves."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("no name spaces here")
    o = make(start=False, prefix=["unshare", "--net"])
    o.start(wait=False)
    until(lambda: o.ctl("search", "x").returncode == 0)
    assert o.ctl("add", "lonely but well").returncode == 0 and "lonely" in o.ctl("search", "lonely").stdout
    o.process.send_signal(signal.SIGTERM)
    assert o.process.wait(15 * SLOW) == 0


@root
@pytest.mark.parametrize("home, ok", [("", True), ("unset", False), ("/nonexistent", False)])
def test_an_unprivileged_user(make, tmp_path, home, ok):
    """Runs without a right beyond its own folder; where it has none, it says which key would help."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is absent")
    d = tempfile.mkdtemp(prefix="orchestra-home-")
    os.chmod(d, 0o777)
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "STATE_DIRECTORY", "RUNTIME_DIRECTORY")}
    if home != "unset":
        env["HOME"] = home or d
    probe = Orchestra(start=False)
    p = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", os.path.join(BUILD, "orchestrad"),
                          "--set", f"listen.tcp=127.0.0.1:{probe.port}"], env=env, cwd="/", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        if ok:
            until(lambda: p.poll() is None and answers(probe))
            assert probe.add("mine") and os.path.isdir(d + "/.local/state/orchestra") and os.stat(d + "/.local/state/orchestra").st_uid == 65534
            p.terminate()
            assert p.wait(15 * SLOW) == 0
        else:
            assert p.wait(10 * SLOW) == 1 and "data.dir" in p.stderr.read()
    finally:
        p.kill()
        p.wait()
        probe.cleanup()
        shutil.rmtree(d, ignore_errors=True)


def test_long_paths(make, tmp_path):
    long = make(start=False)
    base = str(tmp_path / ("d" * 180) / ("e" * 180))
    os.makedirs(base)
    long.data = base + "/" + "f" * (480 - len(base) - 1)
    long.start()
    assert long.add("deep down") and long.search("deep")
    for sets, word in (([f"listen.unix=/tmp/{'s' * 104}"], "listen.unix"), ([f"data.dir={tmp_path}/{'n' * 256}"], "data.dir"),
                       ([f"data.dir={long.data}x"], "SQLite")):
        o = make(start=False, sets=sets)
        o.start(wait=False)
        assert o.process.wait(10 * SLOW) != 0 and word in o.log()


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *t)
{
	static int (*real)(clockid_t, struct timespec *);
	long offset = 0;
	if (!real)
		real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int rc = real(id, t);
	FILE *f = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? fopen(OFFSET_FILE, "r") : NULL;
	if (f) {
		if (fscanf(f, "%ld", &offset) == 1)
			t->tv_sec += offset;
		fclose(f);
	}
	return rc;
}
"""


def test_a_clock_that_steps_back(make, tmp_path):
    """Ids keep ascending, versions count, nothing accepted is lost or hidden; what has expired by the clock is."""
    if SLOW > 1 or not shutil.which("cc"):
        pytest.skip("needs a compiler and a build without sanitizers")
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "shim.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", f'-DOFFSET_FILE="{offset}"', "-o", str(tmp_path / "shim.so"), str(tmp_path / "shim.c"), "-ldl"], check=True)

    def step(seconds):
        (tmp_path / "next").write_text(str(seconds))
        os.replace(tmp_path / "next", offset)
    o = make(env={"LD_PRELOAD": str(tmp_path / "shim.so")})
    a = o.add("before the step", ttl=1800)
    step(-3600)
    b = o.add("after the step")
    assert b["created_at"] < a["created_at"] and b["id"] > a["id"]
    c = o.patch("/v1/memories/" + a["id"], {"content": "changed after the step"})
    assert c.status == 200 and c.json["version"] == 2 and o.search("changed")[0]["id"] == a["id"]
    more = [o.add(f"more {i}")["id"] for i in range(20)]
    until(lambda: "orchestra_journal_lag_records 0\n" in o.get("/metrics").body.decode())   # the flusher does not wait an hour
    ids = [m["id"] for m in o.list_all()]
    assert ids == sorted(ids, reverse=True) == list(reversed([a["id"], b["id"], *more]))
    step(7200)
    assert o.memory(a["id"]).status == 404 and o.memory(b["id"]).status == 200 and o.add("from the future")
    step(0)
    o.add("back")
    o.stop()
    o.start()
    assert o.add("after a restart") and len(o.list_all()) == 25      # 22, one from the future, one from now, one from this life
