"""The real daemon under test: own directory, own port, signals, log, no leftovers."""
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from urllib.parse import quote, urlencode

BUILD = os.environ.get("ORCHESTRA_BUILD") or os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
SLOW = float(os.environ.get("ORCHESTRA_TEST_SLOW", "1"))  # sanitizer builds need longer waits
# "postgres": daemons whose settings name no store get a database each on a server that all tests of the process share.
STORE = os.environ.get("ORCHESTRA_TEST_STORE") or "sqlite"
_server = None


def free_port(*more):
    """Nobody listens there now, nor at the ports that many further. Below those that the kernel hands out to connections (32768 and
    on), which would take it before the server does; at random, as other tests choose at the same time."""
    while True:
        port = 12000 + secrets.randbelow(10000)
        try:
            for at in (0, *more):
                with socket.socket() as s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    s.bind(("127.0.0.1", port + at))
            return port
        except OSError:
            pass


def until(what, timeout=10, every=0.02):
    """What `what` says as soon as it says anything but no."""
    deadline = time.monotonic() + timeout * SLOW
    while not (got := what()):
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(every)
    return got


def shared_server():
    """The server of ORCHESTRA_TEST_STORE=postgres, started when it is first asked for, gone with this process."""
    global _server
    if _server is None:
        from postgres import Postgres
        _server = Postgres({"max_connections": 200}, fsync=False)
    return _server


def store_sets(server, database, **dsn):
    """Settings of a daemon that has this database for its store."""
    return ["store.kind=postgres", f"store.dsn={server.dsn(dbname=database, **dsn)}"]


def descriptors(pid):
    """{number: what it stands for} of the files a process has open; one that is closed while we look is not among them."""
    out = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            out[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    return out


def kill_all(o):
    """The supervisor and every worker, none of which gets to do anything about it."""
    pids = list(o.workers().values())
    o.kill()
    for p in pids:
        try:
            os.kill(p, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:300]!r}>"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Orchestra:
    def __init__(self, directory=None, sets=(), env=None, conf=None, prefix=(), start=True, binary="orchestrad"):
        self.own_dir = directory is None
        self.dir = directory or tempfile.mkdtemp(prefix="orchestra-it-")
        self.data = os.path.join(self.dir, "data")
        self.socket = os.path.join(self.dir, "s.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.port = free_port()
        self.sets, self.env, self.conf, self.prefix = list(sets), dict(env or {}), conf, list(prefix)
        self.binary = os.path.join(BUILD, binary)
        self.process = None
        self._conn = None
        self.database = None
        if STORE == "postgres" and not any(t.startswith("store.") for t in self.sets) and "store" not in (conf or ""):
            # By the directory: a second daemon on a directory has the first one's store.
            self.database = "d" + hashlib.sha256(os.path.realpath(self.data).encode()).hexdigest()[:24]
        if start:
            self.start()

    # ---- life ----
    def command(self):
        args = [*self.prefix, self.binary, "--foreground"]
        if self.conf is not None:
            path = os.path.join(self.dir, "orchestra.conf")
            with open(path, "w") as f:
                f.write(self.conf)
            args += ["-c", path]
        base = [f"listen.tcp=127.0.0.1:{self.port}", f"listen.unix={self.socket}", f"data.dir={self.data}"]
        if self.database:
            self._make_database()
            base += store_sets(_server, self.database)
        for s in base + self.sets:
            args += ["--set", s]
        return args

    def _make_database(self):
        if not shared_server().sql("SELECT 1 FROM pg_database WHERE datname = $1", self.database):
            _server.sql(f"CREATE DATABASE {self.database}")

    def start(self, wait=True):
        env = {**os.environ, **self.env}
        self.close_connection()
        with open(self.log_path, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=env, start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=10, status=200):
        deadline = time.monotonic() + timeout * SLOW
        last = None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"orchestrad exited with {self.process.returncode}:\n{self.log()}")
            try:
                last = self.get("/readyz")
                if last.status == status:
                    return last
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.005)
        raise AssertionError(f"not ready (last {last}):\n{self.log()}")

    def signal(self, sig):
        self.process.send_signal(sig)

    def kill(self):
        """SIGKILL to the supervisor; its workers must leave by themselves."""
        self.process.kill()
        self.process.wait()
        self.close_connection()

    def stop(self, timeout=15):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout * SLOW)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not drain in {timeout} s:\n{self.log()}")
        self.close_connection()
        return self.process.returncode if self.process else None

    def warmed(self):
        """The last job of warming, when it is over: from then on nobody fills the cache but who asks for something."""
        return until(lambda: (w := self.get("/v1/admin/warm").json)["state"] not in ("never", "running") and w)

    def worker(self, name, but=None):
        """Its pid as soon as there is one other than that."""
        return until(lambda: (pid := self.workers().get(name)) != but and pid, 30)

    def workers(self):
        """{name: pid} of living workers: of children that have become one, which their command lines tell."""
        out = {}
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open(f"/proc/{pid}/stat") as f:
                    stat = f.read()
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    title = f.read().split(b"\0")[0].decode(errors="replace")
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == self.process.pid and title.startswith("orchestra: "):
                out[title.removeprefix("orchestra: ")] = int(pid)
        return out

    def cleanup(self):
        try:
            if self.process and self.process.poll() is None:
                self.stop()
        finally:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.close_connection()
            said = self.log() if os.path.exists(self.log_path) else ""
            if self.own_dir:
                shutil.rmtree(self.dir, ignore_errors=True)
                if self.database and _server:
                    _server.sql(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
            # A worker that a sanitizer ended is started again, and a test may not notice.
            for sign in ("Sanitizer", "runtime error:", "Assertion", "assertion failed"):
                assert sign not in said, said

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()

    # ---- log ----
    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def wait_log(self, text, timeout=5):
        deadline = time.monotonic() + timeout * SLOW
        while time.monotonic() < deadline:
            if text in self.log():
                return
            time.sleep(0.02)
        raise AssertionError(f"{text!r} not in the log:\n{self.log()}")

    # ---- HTTP ----
    def close_connection(self):
        if self._conn:
            self._conn.close()
        self._conn = None

    def request(self, method, path, body=None, headers=None, timeout=30, fresh=False):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        elif isinstance(body, str):
            body = body.encode()
        for attempt in (0, 1):
            conn = self._conn if self._conn and not fresh else http.client.HTTPConnection(
                "127.0.0.1", self.port, timeout=timeout * SLOW)
            try:
                conn.request(method, path, body, {**({"Content-Type": "application/json"} if body else {}),
                                                  **(headers or {})})
                r = conn.getresponse()
                reply = Reply(r.status, r.headers, r.read())
                if fresh or r.will_close:
                    conn.close()
                    conn = None
                self._conn = conn if not fresh else self._conn
                return reply
            except (OSError, http.client.HTTPException):
                reused = conn is self._conn
                conn.close()
                if conn is self._conn:
                    self._conn = None
                if not reused or attempt:
                    raise

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post(self, path, body=None, **kw):
        return self.request("POST", path, body, **kw)

    def patch(self, path, body=None, **kw):
        return self.request("PATCH", path, body, **kw)

    def delete(self, path, **kw):
        return self.request("DELETE", path, **kw)

    def raw(self, data, timeout=5, half_close=False):
        """Sends bytes as they are, returns everything that comes back until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout * SLOW) as s:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            out = b""
            try:
                while chunk := s.recv(65536):
                    out += chunk
            except (socket.timeout, ConnectionResetError):
                pass
            return out

    # ---- the API in short ----
    def add(self, content, **fields):
        r = self.post("/v1/memories", {"content": content, **fields})
        assert r.status == 201, r
        return r.json

    def memory(self, id_):
        return self.get(f"/v1/memories/{id_}")

    def search(self, query=None, **fields):
        body = {**({"query": query} if query is not None else {}), **fields}
        r = self.post("/v1/memories/search", body)
        assert r.status == 200, r
        return r.json["results"]

    def list(self, **params):
        if isinstance(params.get("filter"), dict):
            params["filter"] = json.dumps(params["filter"])
        r = self.get("/v1/memories?" + urlencode(params, quote_via=quote))
        assert r.status == 200, r
        return r.json

    def list_all(self, **params):
        out, cursor = [], None
        while True:
            page = self.list(**params, **({"cursor": cursor} if cursor else {}))
            out += page["memories"]
            cursor = page["next_cursor"]
            if not cursor:
                return out

    def ctl(self, *args, stdin=None, timeout=60, env=None):
        return subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", self.socket, *args],
                              input=stdin, capture_output=True, text=True, timeout=timeout * SLOW,
                              env={**os.environ, **(env or {})})
