"""What the workers of a real daemon have given up, seen from outside and tried from inside, and that the daemon works
in full with it. tests/unit/test_sandbox*.c try every single thing; here it is the real processes, with what they
were really handed."""
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from orchestra import SLOW, descriptors, until

ROLES = ["sync", "warmer", "pinger", "api.0"]
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def five(o):
    """The workers by name; all of them are there once they are ready."""
    return until(lambda: (w := {n.removeprefix("orc:"): p for n, p in o.workers().items()}) and set(ROLES) <= set(w) and w)


def test_every_worker_has_given_up_its_privileges(make):
    o = make(sets=["api.workers=1"])
    for name, pid in five(o).items():
        s = until(lambda: (now := status(pid))["Seccomp"] == "2" and now)  # ready does not wait for the warmer
        assert s["NoNewPrivs"] == "1", (name, s)
        for caps in ("CapInh", "CapPrm", "CapEff", "CapAmb") + (("CapBnd",) if os.geteuid() == 0 else ()):
            assert int(s[caps], 16) == 0, (name, caps, s[caps])
    assert status(o.process.pid)["Seccomp"] == "0"     # it starts programs and opens sockets
    assert o.log().count("sandbox: ") == 1


def test_off(make):
    o = make(sets=["api.workers=1", "daemon.sandbox=off"])
    for name, pid in five(o).items():
        s = status(pid)
        assert s["NoNewPrivs"] == "0" and s["Seccomp"] == "0", (name, s)
        assert s["CapEff"] == status(o.process.pid)["CapEff"]
    assert "sandbox" not in o.log() and o.add("works") and o.search("works")


def test_the_setting_needs_a_restart(make):
    o = make(start=False, conf='daemon = { sandbox = "auto"; };\n')
    o.start()
    o.conf = o.conf.replace("auto", "off")
    o.command()
    r = o.ctl("--json", "reload")
    assert json.loads(r.stdout)["needs_restart"] == 1, r
    sync = five(o)["sync"]
    os.kill(sync, signal.SIGKILL)
    until(lambda: five(o)["sync"] != sync)
    until(lambda: status(five(o)["sync"])["Seccomp"] == "2")


def test_what_a_worker_is_handed(make):
    """Memories in shared memory are for those who read memories; a bell is for those who ring it."""
    o = make(sets=["api.workers=2"])
    workers = five(o)
    segments, bells = [*range(6, 10), 16], {"sync": 21, "warmer": 22, "pinger": 23, "api.0": 24, "api.1": 25}
    for name, pid in workers.items():
        fds = descriptors(pid)
        held = [n for n, target in fds.items() if target.startswith("/memfd:")]
        assert 5 in held
        assert [n for n in segments if n in held] == ([] if name == "pinger" else list(segments)), (name, fds)
        assert (18 in held) == name.startswith("api."), (name, fds)    # the request log
        assert (19 in held) == (name != "warmer"), (name, fds)         # spans of traces
        assert fds[20] == "/dev/null", (name, fds)                     # vectors on the disk: off
        rings = {bells[other] for other in bells if name == "sync" or other == name or (other == "sync" and name != "pinger")}
        assert {n for n in bells.values() if fds[n] == "anon_inode:[eventfd]"} == rings, (name, fds)
        mapped = subprocess.run(["grep", "-o", "memfd:[a-z-]*", f"/proc/{pid}/maps"], capture_output=True, text=True).stdout
        contents = {"memfd:orchestra-" + x for x in ("rings", "pending", "cache", "vectors")}
        assert contents & set(mapped.split()) == (set() if name == "pinger" else contents - ({"memfd:orchestra-vectors"} if name == "warmer" else set())), name


# Runs inside each worker, at its first turn of the event loop: after the sandbox, with what it really holds.
PROBE = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const char *who, const char *what, int failed)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "\nprobe %s %s %s\n", who, what, failed ? strerrorname_np(errno) : "ok");
	(void)!write(2, line, (size_t)n);
}

static void probe(const char *who)
{
	char *argv[] = {"true", NULL}, path[64], own[512]; /* own: they do this beside each other */
	int fd;
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)getppid());
	snprintf(own, sizeof(own), DATA "/probe-%s", who);
	say(who, "exec", execve("/bin/true", argv, NULL));
	pid_t pid = fork();
	if (pid == 0)
		_exit(0);
	say(who, "fork", pid == -1);
	say(who, "inet", (fd = socket(AF_INET, SOCK_STREAM, 0)) == -1);
	say(who, "unix", (fd = socket(AF_UNIX, SOCK_STREAM, 0)) == -1);
	say(who, "read-store", (fd = open(DATA "/store.db", O_RDONLY)) == -1);
	say(who, "list-journal", opendir(DATA "/journal") == NULL);
	say(who, "write-store", (fd = open(DATA "/store.db", O_RDWR)) == -1);
	say(who, "make-in-data", (fd = open(own, O_RDWR | O_CREAT, 0600)) == -1);
	say(who, "unlink-in-data", unlink(own));
	say(who, "make-elsewhere", (fd = open(OUTSIDE "/probe", O_RDWR | O_CREAT, 0600)) == -1);
	say(who, "read-elsewhere", (fd = open(OUTSIDE "/readable", O_RDONLY)) == -1);
	say(who, "look-at-supervisor", (fd = open(path, O_RDONLY)) == -1);
	say(who, "end", 0);
}

int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	static int (*real)(int, struct epoll_event *, int, int);
	char name[16] = "";
	if (!real) {
		real = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
		prctl(PR_GET_NAME, name);
		if (strncmp(name, "orc:", 4) == 0)
			probe(name + 4);
	}
	return real(epfd, events, max, timeout);
}
"""
EVERYBODY = {"exec": "EPERM", "fork": "EPERM", "inet": "EACCES", "unix": "ok", "make-elsewhere": "EACCES", "read-elsewhere": "ok",
             "look-at-supervisor": "EACCES", "end": "ok"}
READER = {**EVERYBODY, "read-store": "ok", "list-journal": "ok", "write-store": "EACCES", "make-in-data": "EACCES", "unlink-in-data": "EPERM"}
EXPECTED = {
    "sync": {**READER, "write-store": "ok", "make-in-data": "ok", "unlink-in-data": "ok"},
    "api.0": READER,
    "warmer": {**READER, "unlink-in-data": "ENOENT"},  # it may beneath data.dir/hot
    "pinger": {**READER, "inet": "ok", "read-store": "EACCES", "list-journal": "EACCES"},
}


def preload(tmp_path, source, **defines):
    if SLOW > 1 or not shutil.which("cc"):
        pytest.skip("needs a compiler and a build without sanitizers")
    (tmp_path / "shim.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", *[f'-D{k}="{v}"' for k, v in defines.items()], "-o", str(tmp_path / "shim.so"),
                    str(tmp_path / "shim.c"), "-ldl"], check=True)
    return {"LD_PRELOAD": str(tmp_path / "shim.so")}


def need_landlock(o):
    o.wait_log("sandbox: ")
    if "no Landlock" in o.log():
        pytest.skip("this kernel has no Landlock")


def test_from_inside(make, tmp_path):
    o = make(start=False, sets=["api.workers=1"])
    (tmp_path / "readable").write_text("x")
    o.start()                                   # makes the store
    o.add("something to read")
    need_landlock(o)
    o.stop()
    o.env = preload(tmp_path, PROBE, DATA=o.data, OUTSIDE=tmp_path)
    o.start()
    said = until(lambda: (lines := [x.split()[1:] for x in o.log().splitlines() if x.startswith("probe ")])
                 and sum(x[1] == "end" for x in lines) >= 4 and lines)
    for name, expected in EXPECTED.items():
        assert {what: how for who, what, how in said if who == name} == expected, name
    assert o.add("works on") and len(o.search("something works")) == 2


# An older kernel: glibc's syscall() is how the sandbox asks for Landlock.
OLD_KERNEL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
long syscall(long nr, ...)
{
	static long (*real)(long, ...);
	long a[6];
	va_list ap;
	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (!real)
		real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	if (nr == SYS_landlock_create_ruleset) {
		errno = ENOSYS;
		return -1;
	}
	return real(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""


def test_a_kernel_without_landlock(make, tmp_path):
    """The daemon serves, the filter of system calls is there, and it is said once."""
    o = make(env=preload(tmp_path, OLD_KERNEL), sets=["api.workers=2"])
    until(lambda: all(status(pid)["Seccomp"] == "2" for pid in five(o).values()))
    assert o.add("works") and o.search("works")
    assert o.log().count("sandbox: ") == 1 and "no Landlock (Function not implemented)" in o.log()


# ---- the daemon works in full ----

def test_store_elsewhere_and_data_behind_a_link(make, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "store").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "link")
    o = make(start=False, sets=[f"store.dsn={tmp_path}/store/m.db"])
    o.data = str(tmp_path / "link" / "data")
    o.start()
    ids = [o.add(f"memory {i}")["id"] for i in range(20)]
    assert o.post("/v1/memories?wait=store", {"content": "flushed"}).json["durability"] == "store"
    sync = five(o)["sync"]
    os.kill(sync, signal.SIGKILL)
    until(lambda: five(o)["sync"] != sync and o.post("/v1/memories?wait=store", {"content": "by the next"}).status == 201)
    o.stop()
    assert os.listdir(tmp_path / "store") == ["m.db"] and "journal" in os.listdir(tmp_path / "real" / "data")
    o.start()
    assert all(o.memory(i).status == 200 for i in ids) and len(o.list_all()) == 22
    assert o.delete(f"/v1/memories/{ids[0]}?erase=true").json["receipt"]


def test_a_reload_reads_files_of_any_folder(make, tmp_path):
    """Also of one that was not there when the workers were born."""
    def write(token):
        hashed = subprocess.run(["sha256sum"], input=token, capture_output=True).stdout.split()[0].decode()
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "tokens").write_text(f"ops sha256:{hashed} admin *\n")
        (tmp_path / "secrets" / "tokens").chmod(0o640)

    def status_with(token):
        return o.get("/v1/namespaces", headers={"Authorization": "Bearer " + token}).status
    write(b"first")
    o = make(sets=[f"auth.tokens_file={tmp_path}/secrets/tokens"])
    assert status_with("first") == 200 and status_with("second") == 401
    (tmp_path / "secrets").rename(tmp_path / "old")
    write(b"second")
    assert o.ctl("reload").returncode == 0, o.log()
    assert status_with("first") == 401 and status_with("second") == 200


def test_pinger_resolves_and_connects(make):
    """Its first target comes with a reload: libcurl, the resolver's thread and their files are used after birth."""
    o = make(start=False, conf="")
    o.start()
    seen = threading.Event()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        s.settimeout(10 * SLOW)

        def serve():
            conn, _ = s.accept()
            if conn.recv(4096).startswith(b"GET /warm "):
                seen.set()
            conn.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            conn.close()
        t = threading.Thread(target=serve)
        t.start()
        url = f"http://localhost:{s.getsockname()[1]}/warm"
        o.conf = f'pinger = {{ targets = ( {{ name = "here"; url = "{url}"; interval = "100 ms"; }} ); }};\n'
        o.command()
        assert o.ctl("reload").returncode == 0, o.log()
        t.join(10 * SLOW)
    assert seen.is_set(), o.log()


@root
def test_root_is_told_that_the_data_are_another_users(make):
    """Without capabilities root cannot write there; the log says so and what to do."""
    o = make()
    o.add("x")
    o.stop()
    subprocess.run(["chown", "-R", "65534:65534", o.data], check=True)
    o.start(wait=False)
    o.wait_log("does not belong to the user of the daemon (uid 0)")
    o.wait_log("store cannot be opened")
    subprocess.run(["chown", "-R", "0:0", o.data], check=True)
    until(lambda: len(o.list()["memories"]) == 1 if o.get("/readyz").status == 200 else 0, 30)
