#!/usr/bin/python3
"""Private Redis servers: alone, as a cluster, behind sentinels; made to be killed, stopped, filled up and locked.

    with Redis() as redis:                      # nothing of it is left afterwards, whatever happens to this process
        Orchestra(sets=[f"redis.url={redis.url()}"])
        redis("SET", "k", "v"); redis.kill9(); redis.start()

As a program, for what is not Python:
    redis.py run -- COMMAND…                    runs COMMAND with ORCHESTRA_TEST_REDIS=URL of a server that ends with it
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse

from guard import Guard, Unavailable, unavailable
from orchestra import SLOW, free_port, until

__all__ = ["Redis", "RedisCluster", "RedisError", "RedisSentinel", "Unavailable"]


class RedisError(Exception):
    """What Redis said."""


class Session:
    """A connection that stays open."""

    def __init__(self, port, timeout=10):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout * SLOW)
        self.file = self.sock.makefile("rb")

    def __call__(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self.read()

    def read(self):
        """Strings are bytes, states text; an error is raised."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        return rest.decode()

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Redis:
    """settings: of redis.conf. password: of everybody (requirepass). users: {name: rules of ACL SETUSER}. maxmemory: bytes; with
    it nothing is evicted unless settings say so."""

    program = "redis-server"

    def __init__(self, settings=None, password=None, users=None, maxmemory=None, start=True):
        if not shutil.which(self.program):
            unavailable(f"{self.program} is not installed")
        self.password, self.users, self.process = password, users or {}, None
        self.dir = tempfile.mkdtemp(prefix="orchestra-redis-")
        self.data, self.log_path = os.path.join(self.dir, "data"), os.path.join(self.dir, "log")
        self.socket = os.path.join(self.dir, "redis.sock")
        os.mkdir(self.data)
        os.chmod(self.dir, 0o755)  # its socket is for every user
        self.guard = Guard(self.dir, self.data)
        self.port = free_port(10000)
        self.settings = {"save": "", "unixsocket": self.socket, "unixsocketperm": "777", **(settings or {})}
        if maxmemory is not None:
            self.settings.update({"maxmemory": maxmemory, **({} if "maxmemory-policy" in self.settings else {"maxmemory-policy": "noeviction"})})
        if password:
            self.settings.update(requirepass=password, masterauth=password)
        try:
            if start:
                self.start()
        except BaseException:
            self.cleanup()
            raise

    def conf(self):
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.data}", *(f"user {name} {rules}" for name, rules in self.users.items())]
        return lines + ['%s "%s"' % item for item in self.settings.items()]

    # ---- addresses ----
    def url(self, user=None, password=None, db=None):
        return f"redis://{self._who(user, password)}127.0.0.1:{self.port}" + (f"/{db}" if db is not None else "")

    def unix_url(self, user=None, password=None, db=None):
        return f"unix://{self._who(user, password)}{self.socket}" + (f"?db={db}" if db is not None else "")

    def _who(self, user, password):
        password = password if password is not None else self.password
        return f"{urllib.parse.quote(user or '', safe='')}:{urllib.parse.quote(password, safe='')}@" if password else ""

    # ---- life ----
    def start(self):
        assert not self.running(), "it runs"
        path = os.path.join(self.dir, "redis.conf")
        if not os.path.exists(path) or self.program == "redis-server":  # a sentinel writes what it has learnt into its own
            with open(path, "w") as f:
                f.write("\n".join(self.conf()) + "\n")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([self.program, path], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data, start_new_session=True)
        until(lambda: self.answers() or not self.running(), 30, every=0.01)
        if not self.running():
            raise RuntimeError("Redis did not start:\n" + self.log())
        return self

    def answers(self):
        try:
            with Session(self.port, 1) as s:
                s("PING")
        except RedisError as e:
            return "NOAUTH" in str(e)
        except OSError:
            return False
        return True

    def running(self):
        return self.process is not None and self.process.poll() is None

    def _end(self, sig):
        if self.running():
            self.resume()
            self.process.send_signal(sig)
            self.process.wait(30 * SLOW)
        return self

    def stop(self):
        return self._end(signal.SIGTERM)

    def kill9(self):
        return self._end(signal.SIGKILL)

    def pause(self):
        """SIGSTOP: connections stay and nothing answers, while the kernel goes on accepting."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def cleanup(self):
        self.guard.clean()
        if self.process:
            self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()

    # ---- use ----
    def session(self, db=0, timeout=10):
        s = Session(self.port, timeout)
        if self.password:
            s("AUTH", self.password)
        if db:
            s("SELECT", db)
        return s

    def __call__(self, *words, db=0):
        """One command, on a connection of its own."""
        with self.session(db) as s:
            return s(*words)

    def keys(self, pattern="*", db=0):
        return sorted(k.decode() for k in self("KEYS", pattern, db=db))

    def info(self, field):
        for line in self("INFO").decode().splitlines():
            if line.startswith(field + ":"):
                return line.split(":", 1)[1]
        raise KeyError(field)

    def full(self, is_full=True):
        """No byte more, nothing evicted; or back to what it was."""
        self("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1 if is_full else self.settings.get("maxmemory", 0))

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()


class RedisCluster:
    """Three masters on loopback."""

    def __init__(self, settings=None):
        self.nodes = []
        try:
            for _ in range(3):
                self.nodes.append(Redis({"cluster-enabled": "yes", "cluster-node-timeout": "2000", "cluster-require-full-coverage": "no", **(settings or {})}))
            subprocess.run(["redis-cli", "--cluster", "create", *(f"127.0.0.1:{n.port}" for n in self.nodes), "--cluster-yes"],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            until(lambda: all(b"cluster_state:ok" in n("CLUSTER", "INFO") for n in self.nodes), 60)
        except BaseException:
            self.cleanup()
            raise

    def url(self):
        return "redis-cluster://" + ",".join(f"127.0.0.1:{n.port}" for n in self.nodes)

    def owner(self, key):
        """The node that has the slot of the key."""
        slot = self.nodes[0]("CLUSTER", "KEYSLOT", key)
        port = next(r[2][1] for r in self.nodes[0]("CLUSTER", "SLOTS") if r[0] <= slot <= r[1])
        return next(n for n in self.nodes if n.port == port)

    def reshard(self, key, finish=True):
        """The slot of the key moves to another node, with its keys; unless it is finished, the former owner answers ASK."""
        slot, source = self.nodes[0]("CLUSTER", "KEYSLOT", key), self.owner(key)
        target = next(n for n in self.nodes if n is not source)
        names = {n: n("CLUSTER", "MYID").decode() for n in (source, target)}
        target("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        for k in source("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            source("MIGRATE", "127.0.0.1", target.port, k, 0, 5000)
        if finish:
            for n in (target, source, *(n for n in self.nodes if n not in (source, target))):
                n("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        return source, target

    def cleanup(self):
        for n in self.nodes:
            n.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()


class Sentinel(Redis):
    program = "redis-sentinel"

    def __init__(self, master, name, quorum):
        self.watched = (master, name, quorum)
        super().__init__()

    def conf(self):
        master, name, quorum = self.watched
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.data}", f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}",
                 f"sentinel down-after-milliseconds {name} 500", f"sentinel failover-timeout {name} 3000"]
        return lines + ([f"sentinel auth-pass {name} {master.password}"] if master.password else [])


class RedisSentinel:
    """One master, one replica, three sentinels that agree after half a second of silence."""

    def __init__(self, name="mymaster", password=None):
        self.name, self.all = name, []
        try:
            self.master = self._add(Redis(password=password))
            self.replica = self._add(Redis({"replicaof": f"127.0.0.1 {self.master.port}"}, password=password))
            self.sentinels = [self._add(Sentinel(self.master, name, 2)) for _ in range(3)]
            until(lambda: all(self._informed(s) for s in self.sentinels), 60)
        except BaseException:
            self.cleanup()
            raise

    def _add(self, server):
        self.all.append(server)
        return server

    def _informed(self, s):
        flat = [x.decode() for x in s("SENTINEL", "MASTER", self.name)]
        known = dict(zip(flat[::2], flat[1::2]))
        return known["num-slaves"] == "1" and known["num-other-sentinels"] == "2"

    def current(self):
        """The server that the first sentinel alive calls the master."""
        s = next(s for s in self.sentinels if s.running())
        port = int(s("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])
        return next(n for n in (self.master, self.replica) if n.port == port)

    def url(self, db=0):
        who = f":{urllib.parse.quote(self.master.password, safe='')}@" if self.master.password else ""
        return f"redis-sentinel://{who}" + ",".join(f"127.0.0.1:{s.port}" for s in self.sentinels) + f"/{self.name}/{db}"

    def cleanup(self):
        for n in self.all:
            n.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()


def main(args):
    if args[:2] != ["run", "--"] or not args[2:]:
        sys.exit(__doc__)
    if os.environ.get("ORCHESTRA_TEST_REDIS"):
        os.execvp(args[2], args[2:])
    try:
        redis = Redis()
    except Unavailable as why:
        print(f"redis.py: NO SERVER for these tests: {why}", file=sys.stderr, flush=True)
        os.execvp(args[2], args[2:])
    with redis:
        child = subprocess.Popen(args[2:], env={**os.environ, "ORCHESTRA_TEST_REDIS": redis.url()})
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda s, _: child.send_signal(s))
        code = child.wait()
    sys.exit(128 - code if code < 0 else code)


if __name__ == "__main__":
    COMMAND_LINE = True
    main(sys.argv[1:])
