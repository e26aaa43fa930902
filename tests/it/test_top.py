"""orchestractl top and doctor against real daemons. Broken code this would catch: figures that are not those of /metrics, a terminal
that is left in disorder, a doctor who sees nothing, or who finds a healthy daemon ill."""
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading

import pytest

from orchestra import BUILD, SLOW, Orchestra, until

CTL = os.path.join(BUILD, "orchestractl")


@pytest.fixture
def o():
    with Orchestra(sets=["sync.debounce_ms=10"]) as o:
        yield o


def ctl(o, *args, code=0, **kw):
    r = subprocess.run([CTL, "--socket", o.socket, *args], capture_output=True, text=True, timeout=60 * SLOW, **kw)
    assert r.returncode == code, (r.returncode, r.stdout, r.stderr)
    return r.stdout


class Load(threading.Thread):
    """Reads, and adds what is refused, until it is told to end."""

    def __init__(self, o):
        super().__init__(daemon=True)
        self.port, self.end = o.port, False
        self.start()

    def run(self):
        import http.client
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * SLOW)
        while not self.end:
            for method, path, body in (("POST", "/v1/memories", '{"content":"tea"}'), ("GET", "/v1/memories", None), ("POST", "/v1/memories", "{")):
                c.request(method, path, body)
                c.getresponse().read()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.end = True
        self.join()


def test_one_frame_and_its_json(o):
    with Load(o):
        until(lambda: o.get("/v1/memories:count").json["count"] > 3)
        frame = json.loads(ctl(o, "top", "--once", "--json"))
        text = ctl(o, "top", "--once")
    assert frame["status"] == "ready" and frame["requests_per_s"] > 0 and frame["writes_per_s"] > 0 and frame["errors_per_s"] == 0
    routes = {(r["route"], r["method"]): r for r in frame["routes"]}
    assert routes["/v1/memories", "POST"]["requests_per_s"] > routes["/v1/memories", "GET"]["requests_per_s"] * 1.2  # of two, one is refused
    assert abs(sum(r["requests_per_s"] for (route, _), r in routes.items() if "/v1/memories" in route) - frame["requests_per_s"]) < 1e-4 * frame["requests_per_s"]
    for word in ("AI Orchestra", "ready", "REQUESTS", "WRITES", "CACHE", "BREAKERS", "store closed", "PROCESS", "api.0", "sync", "/v1/memories "):
        assert word in text, (word, text)
    assert "\033" not in text and "nan" not in text


def test_frames_one_after_the_other(o):
    lines = ctl(o, "--json", "top", "--delay", "0.2", "--frames", "3").splitlines()
    assert len(lines) == 3 and all(json.loads(line)["status"] == "ready" for line in lines)


@pytest.mark.parametrize("args", [["--delay", "0.1"], ["--delay", "x"], ["--frames", "0"], ["what"], ["--nothing"]])
def test_wrong_use(o, args):
    r = subprocess.run([CTL, "--socket", o.socket, "top", *args], capture_output=True, text=True)
    assert r.returncode == 2 and r.stderr.startswith("orchestractl: top: ") and not r.stdout


def test_on_a_terminal(o):
    """It takes the screen, follows its size, obeys keys, and gives the screen back; also when the daemon dies under it."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(CTL, [CTL, "--socket", o.socket, "top", "--delay", "0.2"])
    seen = bytearray()

    def output(timeout=0.05):
        while select.select([fd], [], [], timeout)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:
                return bytes(seen)
            if not data:
                break
            seen.extend(data)
        return bytes(seen)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 50, 0, 0))
    try:
        until(lambda: b"REQUESTS" in output() and b"\033[?1049h" in seen, 20)
        seen.clear()
        until(lambda: output().count(b"\033[H") >= 3, 20)
        frame = bytes(seen).split(b"\033[H")[2]
        rows = re.sub(rb"\033\[[0-9;?]*[A-Za-z]", b"", frame).decode(errors="replace").split("\r\n")
        assert len(rows) <= 12 and max(map(len, rows)) <= 50, rows
        os.write(fd, b"-")  # slower, and on
        os.write(fd, b"q")
        until(lambda: b"\033[?1049l" in output(), 20)
        status = until(lambda: (w := os.waitpid(pid, os.WNOHANG))[0] and w, 20)[1]
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(fd)


def test_the_daemon_goes_away_under_it(o):
    p = subprocess.Popen([CTL, "--socket", o.socket, "--json", "top", "--delay", "0.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert json.loads(p.stdout.readline())["status"] == "ready"
    o.kill()
    out, err = p.communicate(timeout=60 * SLOW)
    assert p.returncode == 3 and err.startswith("orchestractl: ")


# ---- doctor ----

def findings(o, *args, code=0):
    return [(f["level"], f["subject"], f["what"], f.get("remedy")) for f in json.loads(ctl(o, "--json", "doctor", *args, code=code))["findings"]]


def test_a_healthy_daemon(o):
    o.add("Ada likes tea")
    found = findings(o)
    assert {level for level, *_ in found if level != "note"} <= {"fine", "warning"}
    assert {"service", "workers", "writes", "breakers"} <= {s for level, s, *_ in found if level == "fine"}
    # the disk of a test machine may be nearly full, and its processors busy: that is said, and is no fault of the daemon
    assert {s for level, s, *_ in found if level == "warning"} <= {"disk", "workers"}


def test_a_worker_died_and_a_breaker_was_opened(o):
    os.kill(o.worker("warmer"), signal.SIGKILL)
    until(lambda: any(w["restarts"] and w["state"] == "ready" for w in o.get("/v1/admin/status").json["workers"]))
    assert o.post("/v1/admin/breakers/store/open").status == 200
    found = findings(o, code=0)
    assert any(level == "warning" and s == "workers" and "warmer" in what and "SIGKILL" in what for level, s, what, _ in found)
    assert any(level == "warning" and s == "breakers" and "reset store" in remedy for level, s, _, remedy in found)
    text = ctl(o, "doctor")
    assert "! workers" in text and "→ " in text and "warnings" in text


def test_no_daemon(o):
    o.kill()
    assert findings(o, code=3)[0][:2] == ("problem", "service") and "died" in findings(o, code=3)[0][2]
    os.unlink(o.socket)
    assert "no such socket" in findings(o, code=3)[0][2]


def test_no_api_worker_answers(o):
    pids = [p for n, p in o.workers().items() if n.startswith("api")]
    for p in pids:
        os.kill(p, signal.SIGSTOP)
    try:
        found = findings(o, code=3)
    finally:
        for p in pids:
            os.kill(p, signal.SIGCONT)
    assert "supervisor lives" in found[0][2]


def test_without_the_right(make, tmp_path):
    """Who may not administer it learns what /readyz says, and how to learn more."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ada sha256:{hashlib.sha256(b'ada').hexdigest()} read default\n")
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}"])
    found = findings(o)
    assert ("fine", "service") in [f[:2] for f in found] and any("token" in (remedy or "") for *_, remedy in found)
