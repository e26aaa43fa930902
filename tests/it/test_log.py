"""The log of the real daemon: where lines go, what stands beside the message, which are wanted, what is lost and what is hidden. Broken code
that this finds: a worker that opens a log file by itself (the sandbox refuses), a rotated file that somebody still writes to, a full pipe
that stops the daemon, a request whose lines do not carry its id, a password in a line, a documented event that no code logs."""
import fcntl
import glob
import json
import os
import re
import select
import signal
import socket
import subprocess

import pytest

from orchestra import BUILD, SLOW, Orchestra, free_port, until

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TRACE = "0af7651916cd43dd8448eb211c80319c"
H = {"X-Request-Id": "request-77", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def purge(o):
    """A request that api logs a line about."""
    assert o.post("/v1/admin/cache:purge", {}, headers=H).status == 200


def json_lines(o):
    return [json.loads(line) for line in o.log().splitlines() if line.startswith("{")]


def metric(o, name):
    return int(next(line.split()[-1] for line in o.get("/metrics").body.decode().splitlines() if line.startswith(name + " ")))


# ---- what stands beside the message ----

def test_json_lines_carry_request_and_event(make):
    o = make(sets=["log.format=json"])
    purge(o)
    line = until(lambda: next((j for j in json_lines(o) if j.get("event") == "cache_purged"), None))
    assert line["request_id"] == "request-77" and line["logging.googleapis.com/trace"] == TRACE
    assert (line["severity"], line["level"], line["subsystem"]) == ("INFO", "info", "api") and line["process"].startswith("api.")
    o.wait_log("daemon_ready")                                     # who dies before is not said to be back
    os.kill(o.worker("pinger"), signal.SIGKILL)
    died = until(lambda: next((j for j in json_lines(o) if j.get("event") == "worker_died"), None))
    assert died["worker"] == "pinger" and died["severity"] == "WARNING" and "request_id" not in died
    o.wait_log("worker_back")
    assert metric(o, 'orchestra_log_lines_total{level="info"}') >= 1


def test_a_line_from_a_reader_thread_carries_the_request(make):
    """Whatever thread handles it: a search beside the store's file that is gone is read, and logged, in a reader thread."""
    o = make(sets=["log.format=json", "log.levels=api=debug,store=debug,cache=debug"])
    purge(o)                                                       # runs in a reader thread, too
    assert until(lambda: any(j.get("request_id") == "request-77" for j in json_lines(o)))
    o.add("x")                                                     # what comes behind it has an id of its own
    assert all(j.get("request_id") in (None, "request-77") for j in json_lines(o))


class Journal:
    """journald as far as we speak with it: a datagram socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.messages = []

    def take(self):
        while select.select([self.socket], [], [], 0)[0]:
            self.messages.append(dict(line.split("=", 1) for line in self.socket.recv(65536).decode().splitlines()))
        return self.messages

    def find(self, **fields):
        return until(lambda: next((m for m in self.take() if all(m.get(k) == v for k, v in fields.items())), None))


def test_journal_fields(make, tmp_path):
    journal = Journal(str(tmp_path / "j"))
    o = make(sets=[f"log.target=journal:{tmp_path}/j"])
    started = journal.find(ORCHESTRA_EVENT="daemon_ready")
    assert started["PRIORITY"] == "6" and started["SYSLOG_IDENTIFIER"] == "orchestrad" and started["ORCHESTRA_ROLE"] == "orchestrad"
    assert started["MESSAGE"].startswith("ready after") and started["CODE_FILE"].endswith("supervisor.c") and int(started["CODE_LINE"])
    purge(o)
    line = journal.find(ORCHESTRA_EVENT="cache_purged")
    assert line["ORCHESTRA_REQUEST_ID"] == "request-77" and line["ORCHESTRA_TRACE_ID"] == TRACE and line["ORCHESTRA_ROLE"].startswith("api.")
    os.unlink(tmp_path / "j")                                      # the journal is restarted: nobody waits, and the next line says it
    journal.socket.close()
    purge(o)
    again = Journal(str(tmp_path / "j"))
    assert until(lambda: purge(o) or [m for m in again.take() if m.get("ORCHESTRA_EVENT") == "log_lines_dropped"])
    assert "ready after" not in o.log()                            # and nothing beside the journal


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_the_journal_is_found(make, tmp_path):
    """Standard error is the journal, says systemd: then lines are messages with fields. In a mount namespace with a /run of its own."""
    journal = Journal(str(tmp_path / "j"))
    script = f'mount -t tmpfs none /run && mkdir -p /run/systemd/journal && ln -s {tmp_path}/j /run/systemd/journal/socket && exec "$@"'
    for right, format in ((True, "auto"), (False, "auto"), (True, "text")):
        o = make(prefix=["unshare", "--mount", "sh", "-c", script, "sh"], start=False, sets=[f"log.format={format}"])
        open(o.log_path, "w").close()
        st = os.stat(o.log_path)
        o.env["JOURNAL_STREAM"] = f"{st.st_dev}:{st.st_ino + (not right)}"
        o.start()
        fields = right and format == "auto"
        until(lambda: "ready after" in o.log() or any(m["MESSAGE"].startswith("ready after") for m in journal.take()))
        assert bool(journal.take()) == fields and ("starting, pid" in o.log()) == (not fields)
        journal.messages.clear()
        assert o.stop() == 0
        journal.take()
        journal.messages.clear()


# ---- files ----

def control(o, line):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(o.socket + ".ctl")
        s.sendall(line.encode() + b"\n")
        assert json.loads(s.makefile().readline())["ok"]


def test_a_file_is_opened_again(make, tmp_path):
    path, old = str(tmp_path / "o.log"), str(tmp_path / "o.log.1")
    o = make(sets=[f"log.target={path}", "api.workers=2"])
    until(lambda: "ready after" in open(path).read())
    assert "ready after" not in o.log()
    os.rename(path, old)
    for i, order in enumerate((lambda: o.signal(signal.SIGUSR1), lambda: control(o, "reopen-logs"))):
        if i:
            os.rename(path, old)
        order()
        until(lambda: os.path.exists(path) and "logs reopened" in open(path).read())
        for pid in o.workers().values():                           # all of them, threads and all
            until(lambda: os.readlink(f"/proc/{pid}/fd/17") == path)
        size = os.path.getsize(old)
        purge(o)
        until(lambda: "cache purged" in open(path).read())
        os.kill(o.worker("pinger"), signal.SIGKILL)             # a worker that is born later has the new one
        until(lambda: "worker_back" in open(path).read())
        assert os.readlink(f"/proc/{o.workers()['pinger']}/fd/17") == path and os.path.getsize(old) == size
    os.rename(path, old)
    os.mkdir(path)                                                 # it cannot be opened: the former file goes on
    o.signal(signal.SIGUSR1)
    until(lambda: "cannot open" in open(old).read())
    purge(o)
    assert o.stop() == 0 and "stopped" in open(old).read()


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--set", f"listen.tcp=127.0.0.1:{free_port()}", "--set", f"data.dir={tmp_path}/d",
                        "--set", f"listen.unix={tmp_path}/s", "--set", f"log.target={tmp_path}/none/log"], capture_output=True, text=True,
                       timeout=20 * SLOW)
    assert r.returncode == 78 and "log.target: cannot open" in r.stderr and "choose another" in r.stderr


# ---- which lines ----

def conf(levels):
    return f'log: {{ level = "info"; levels = "{levels}"; }};\n'


def test_levels_of_subsystems_are_live(make):
    o = make(conf=conf(""))
    path = os.path.join(o.dir, "orchestra.conf")

    def reload(levels):
        with open(path, "w") as f:
            f.write(conf(levels))
        return o.ctl("reload")

    def reborn():
        n, before = o.log().count("is back after"), len(o.log())
        os.kill(o.worker("pinger"), signal.SIGKILL)
        until(lambda: o.log().count("is back after") > n)
        return o.log()[before:]

    assert " debug " not in reborn()
    assert reload("worker=debug").returncode == 0
    said = reborn()
    assert " debug pinger[" in said and " debug orchestrad[" not in said
    assert reload("supervisor = debug, worker=error").returncode == 0
    said = reborn()
    assert " debug orchestrad[" in said and " debug pinger[" not in said
    bad = reload("stor=debug")
    assert bad.returncode != 0 and '"stor" is no subsystem; there are supervisor, ' in bad.stderr + bad.stdout
    assert reload("").returncode == 0 and " debug " not in reborn()


@pytest.mark.parametrize("key, said", [("log.target=somewhere", "is none of auto"), ("log.levels=http=loud", "is no level"),
                                       ("log.rate=-1", "log.rate"), ("log.target=journal:" + "/x" * 80, "shorter one")])
def test_bad_values_are_refused(tmp_path, key, said):
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--check", "--set", f"data.dir={tmp_path}/d", "--set", key], capture_output=True, text=True)
    assert r.returncode != 0 and said in r.stdout + r.stderr


# ---- a sink that takes nothing ----

def test_a_full_pipe_stops_nobody(make):
    """Who collects the lines has stopped reading: the daemon starts, serves and reloads all the same; then what was lost is said."""
    o = make(start=False, sets=["log.level=debug", "log.rate=0", "api.workers=1"])
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write_end, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write_end, b"#" * 512)
    os.set_blocking(write_end, True)                               # ours waits for who shares it; the daemon's must not
    o.close_connection()
    o.process = subprocess.Popen(o.command(), stdout=write_end, stderr=write_end, stdin=subprocess.DEVNULL, env={**os.environ, **o.env},
                                 start_new_session=True)
    open(o.log_path, "w").close()
    o.wait_ready()
    for _ in range(20):
        purge(o)
    assert o.add("x")["id"] and o.ctl("reload").returncode == 0
    assert metric(o, 'orchestra_log_lines_dropped_total{reason="sink"}') >= 20
    os.set_blocking(read_end, False)
    os.read(read_end, 65536)
    purge(o)
    said = until(lambda: os.read(read_end, 65536) if select.select([read_end], [], [], 0)[0] else None)
    assert b"log lines were lost: what takes them was full, or away event=log_lines_dropped" in said
    os.close(read_end)                                             # nobody will ever read: a broken pipe ends nobody either
    for _ in range(3):
        purge(o)
    assert o.stop() == 0
    os.close(write_end)


# ---- secrets ----

def test_passwords_reach_no_line(make):
    """The store and Redis are away and everything is logged; their passwords are not, nor is a bearer token that is asked with."""
    dsn, url = f"postgres://anna:geheim99@127.0.0.1:{free_port()}/db", f"redis://:redisgeheim@127.0.0.1:{free_port()}/0"
    o = make(start=False, sets=["log.level=debug", "log.rate=0", "store.kind=postgres", f"store.dsn={dsn}", f"redis.url={url}",
                                'pinger.targets=[{"name": "t", "url": "http://u:zielgeheim@127.0.0.1:9/x", "interval": "1 s"}]'])
    o.start(wait=False)
    until(lambda: "event=store_waited_for" in o.log(), timeout=30)
    until(lambda: "target t:" in o.log(), timeout=30)
    o.get("/v1/memories?limit=1", headers={"Authorization": "Bearer tokengeheim"})
    o.ctl("reload")
    said = o.log()
    o.process.kill()
    for secret in ("geheim99", "redisgeheim", "tokengeheim", "zielgeheim"):
        assert secret not in said, said


# ---- documents and code agree ----

def sources():
    return [f for room in ("common", "workers", "daemon") for f in glob.glob(os.path.join(TOP, room, "**", "*.c"), recursive=True)]


def test_documented_events_are_logged():
    table = open(os.path.join(TOP, "common", "log.def")).read()
    known = set(re.findall(r"^EVENT\((\w+)\)", table, re.M))
    code = "".join(open(f).read() for f in sources())
    used = set(re.findall(r"_event\(\s*(\w+),", code)) | set(re.findall(r"LOG_EV_(\w+)", code)) - {"none"}
    assert known <= used, known - used
    text = open(os.path.join(TOP, "docs", "operations.md")).read()
    section = text[text.index("### Lines worth an alert"):]
    section = section[:section.index("\n#", 5)]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == known


def test_every_file_that_logs_says_where_it_belongs():
    wanted = re.compile(r"\blog_(error|warn|info|debug)(_limited)?(_event|_fields)?\(")
    for f in sources():
        if os.sep + "daemon" + os.sep in f or os.path.basename(f).startswith("log"):
            continue
        text = open(f).read()
        assert not wanted.search(text) or "#define LOG_SUBSYSTEM LOG_IN_" in text, f


def test_subsystems_in_the_manual():
    names = re.findall(r'^SUBSYSTEM\(\w+, "(\w+)"', open(os.path.join(TOP, "common", "log.def")).read(), re.M)
    assert "The names: " + ", ".join(names) + "." in open(os.path.join(TOP, "docs", "configuration.md")).read()
