#!/usr/bin/python3
"""A private PostgreSQL: its own cluster, directory, port and processes; made to be killed, stopped, cut off and filled up.

    with Postgres() as pg:                      # < 1 s; nothing of it is left afterwards, whatever happens to this process
        pg.sql("CREATE TABLE t (a int)")
        Orchestra(sets=[f"store.dsn={pg.dsn()}"])
        pg.kill9(); pg.start()

As a program, for what is not Python:
    postgres.py run [-s NAME=VALUE]… -- COMMAND…   runs COMMAND with ORCHESTRA_TEST_PG=DSN of a server that ends with it
    postgres.py start [-s NAME=VALUE]… DIRECTORY   starts a server that stays, prints its DSN
    postgres.py stop DIRECTORY                     ends it and removes the directory
`run` without PostgreSQL on the machine runs COMMAND without the variable, and says so. It starts none when the variable is set.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from cluster import as_server, binaries, initdb, run, server_user, template
from guard import SCRIPT, Guard, Unavailable, unavailable
from libpq import PgError, Session, conninfo, lib
from netns import Namespace
from orchestra import SLOW, free_port, until

__all__ = ["Postgres", "PgError", "Session", "Unavailable", "conninfo"]

SETTINGS = {
    "shared_buffers": "32MB", "max_connections": 50, "huge_pages": "off", "jit": "off", "min_wal_size": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the directory, so that kill9() leaves nothing in /dev/shm
    "timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C", "log_line_prefix": "%m [%p] %e %a ",
}
PING_OK = 0


class Postgres:
    """settings: of postgresql.conf. tls: certificate for localhost of a throw-away authority (see tls_dsn). netns: in a network
    namespace, for cut(). data_mb: tables live on a file system of that size (60 is near the smallest), WAL does not; with
    wal_too=True it does, and the server panics when it is full. auth: a method of pg_hba.conf for TCP ("scram-sha-256" with
    password=). fresh: initdb of its own; otherwise all servers have the system identifier of the template they were copied from.
    fsync=False is for tests that are about neither crashes nor speed.
    """

    def __init__(self, settings=None, fsync=True, tls=False, netns=False, data_mb=None, wal_too=False, auth="trust", password=None,
                 fresh=False, start=True, directory=None, guarded=True, copy_of=None):
        self.bin, self.user = binaries(), server_user()
        self.password, self.process, self.net, self.primary = password, None, None, copy_of
        self.settled = False
        self.dir = directory or tempfile.mkdtemp(prefix="orchestra-pg-")
        self.data, self.log_path = os.path.join(self.dir, "data"), os.path.join(self.dir, "log")
        os.makedirs(self.dir, exist_ok=True)
        os.chmod(self.dir, 0o755)  # its socket is for every user
        os.chown(self.dir, self.user.pw_uid, self.user.pw_gid)
        if netns:
            self.net = self._or_remove(Namespace)
        self.guard = Guard(self.dir, self.data, *([self.net.name, self.net.wire, self.net.network] if netns else [])) if guarded else None
        try:
            self.host = self.net.address if netns else "127.0.0.1"
            self.port = 5432 if netns else free_port()
            self._make_data(fresh, data_mb, wal_too)
            self._configure({**SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}, tls, auth)
            if start:
                self.start()
            if password:
                self.sql("ALTER ROLE postgres PASSWORD '%s'" % password.replace("'", "''"))
        except BaseException:
            self.cleanup()
            raise

    def _or_remove(self, make):
        try:
            return make()
        except BaseException:
            shutil.rmtree(self.dir, ignore_errors=True)
            raise

    # ---- making ----
    def _make_data(self, fresh, data_mb, wal_too):
        os.mkdir(self.data, 0o700)
        if data_mb:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={data_mb}m,mode=0700", "tmpfs", self.data], capture_output=True).returncode:
                unavailable("a size-limited file system needs root and the right to mount")
        os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        if self.primary:
            run([*as_server(self.user), os.path.join(self.bin, "pg_basebackup"), "-D", self.data, "-c", "fast", "-X", "stream", "-R",
                 "-d", self.primary.socket_dsn(dbname=None)], cwd="/")
        elif fresh:
            initdb(self.data)
        else:
            run(["cp", "-a", "--reflink=auto", template() + "/.", self.data])
        if data_mb:
            self._outside("pg_dynshmem")  # it is memory, which a full disk does not make scarce
        if data_mb and not wal_too:
            self._outside("pg_wal")

    def _outside(self, name):
        inside, outside = os.path.join(self.data, name), os.path.join(self.dir, name)
        run([*as_server(self.user), "sh", "-c", 'cp -a "$1" "$2" && rm -r "$1" && ln -s "$2" "$1"', "sh", inside, outside], cwd="/")

    def _write(self, name, text, mode=0o600):
        path = os.path.join(self.data, name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _configure(self, settings, tls, auth):
        settings = {**settings, "listen_addresses": self.host, "unix_socket_directories": self.dir}
        self.ca = None
        if tls:
            self._certify()
            settings.update(ssl="on", ssl_cert_file=os.path.join(self.dir, "server.pem"), ssl_key_file=os.path.join(self.dir, "server.key"))
        self._write("postgresql.conf", "".join("%s = '%s'\n" % (k, str(v).replace("'", "''")) for k, v in settings.items()))
        net = self.net.network if self.net else "127.0.0.1/32"
        kind = "hostssl" if tls == "only" else "host"
        self._write("pg_hba.conf", f"local all all trust\nlocal replication all trust\n{kind} all all {net} {auth}\n")

    def _certify(self):
        def path(name):
            return os.path.join(self.dir, name)
        self.ca = path("ca.pem")
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        run(["openssl", "req", "-x509", *ec, "-keyout", path("ca.key"), "-out", self.ca, "-days", "30", "-subj", "/CN=Test CA"])
        run(["openssl", "req", *ec, "-keyout", path("server.key"), "-out", path("csr"), "-subj", "/CN=localhost"])
        with open(path("ext"), "w") as f:
            f.write(f"subjectAltName=DNS:localhost,IP:{self.host}")
        run(["openssl", "x509", "-req", "-in", path("csr"), "-CA", self.ca, "-CAkey", path("ca.key"), "-set_serial", "2", "-days", "30",
             "-extfile", path("ext"), "-out", path("server.pem")])
        os.chmod(path("server.key"), 0o600)
        os.chown(path("server.key"), self.user.pw_uid, self.user.pw_gid)

    # ---- addresses ----
    def dsn(self, **extra):
        """keyword=value string for libpq, over TCP; fields may be added, replaced, or dropped with None."""
        return conninfo(**{"host": self.host, "port": self.port, "user": "postgres", "password": self.password, "dbname": "postgres", **extra})

    def socket_dsn(self, **extra):
        """The same over the Unix socket, which no cut and no password concern."""
        return self.dsn(**{"host": self.dir, "password": None, **extra})

    def tls_dsn(self, **extra):
        return self.dsn(**{"host": "localhost", "sslmode": "verify-full", "sslrootcert": self.ca, **extra})

    # ---- life ----
    def start(self, wait=True):
        assert not self.running(), "it runs"
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PG_OOM_ADJUST_FILE": ""}
        enter = self.net.enter() if self.net else []
        for attempt in range(5):
            with open(self.log_path, "ab") as log:
                begin = log.tell()
                self.process = subprocess.Popen([*enter, *as_server(self.user), os.path.join(self.bin, "postgres"), "-D", self.data, "-p", str(self.port)],
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/", start_new_session=True)
            if not wait or self.wait_ready():
                return self
            if "Address already in use" not in self.log()[begin:] or attempt == 4 or self.settled:
                raise RuntimeError("PostgreSQL did not start:\n" + self.log()[begin:])
            self.port = free_port()

    def wait_ready(self, timeout=30):
        """False when it has ended instead."""
        dsn = self.socket_dsn(connect_timeout=5).encode()

        def answers():
            return self.process.poll() is not None or lib().PQping(dsn) == PING_OK
        until(answers, timeout, every=0.01)
        if self.process.poll() is None:
            self.settled = True  # from here on others know the port
            return True
        return False

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, mode="fast", timeout=30):
        """smart waits for sessions to leave, fast ends them, immediate leaves a recovery to the next start."""
        if self.running():
            self.resume()
            self.process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
            self.process.wait(timeout * SLOW)
        return self

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def processes(self):
        """Pids of the postmaster (first) and all that it started."""
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.path.samefile(f"/proc/{pid}/cwd", self.data):
                    out.append(int(pid))
            except OSError:
                pass
        first = self.process.pid if self.process else 0
        return sorted(out, key=lambda p: (p != first, p))

    def _signal_all(self, sig):
        """Every process, those included that were born meanwhile."""
        seen = set()
        while new := [p for p in self.processes() if p not in seen]:
            for p in new:
                try:
                    os.kill(p, sig)
                except ProcessLookupError:
                    pass
                seen.add(p)

    def kill9(self):
        """As a crash of its machine's kernel would not have it: every process at once, no checkpoint, no goodbye but the kernel's FIN."""
        os.kill(self.process.pid, signal.SIGSTOP)  # it must not restart what dies
        self._signal_all(signal.SIGKILL)
        self.process.wait()
        until(lambda: not self.processes(), every=0.002)
        return self

    def pause(self):
        """SIGSTOP to all of it: connections stay and nothing answers, while the kernel goes on accepting."""
        self._signal_all(signal.SIGSTOP)

    def resume(self):
        self._signal_all(signal.SIGCONT)

    def cut(self):
        """Packets from and to the server vanish (netns=True); the Unix socket is not concerned."""
        assert self.net, "only a Postgres(netns=True) can be cut off; Proxy.blackhole() needs no rights"
        self.net.cut()

    def heal(self):
        self.net.heal()

    def disk(self, mb):
        """Another size for the file system of data_mb: what an administrator does about a full disk."""
        run(["mount", "-o", f"remount,size={mb}m", self.data])

    def cleanup(self):
        if self.guard:
            self.guard.clean()
        else:
            self.stop("immediate")
        if self.process:
            self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()

    # ---- use ----
    def session(self, dsn=None, timeout=10, **fields):
        """A connection that stays open, over the Unix socket unless a DSN is given: transactions, locks, LISTEN."""
        return Session(dsn or self.socket_dsn(connect_timeout=10, **fields), timeout)

    def sql(self, text, *params, db="postgres", timeout=30):
        """Rows of one statement (or of the last of several without parameters), on a connection of its own."""
        with self.session(dbname=db, application_name="rig") as s:
            return s.execute(text, *params, timeout=timeout * SLOW)

    def database(self, template=None):
        """Makes a database, empty or a copy of one that nobody is connected to, and returns its name."""
        name = "t" + os.urandom(6).hex()
        self.sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return name

    def set(self, **settings):
        """Changes settings, None for the default; restarts when PostgreSQL cannot do without."""
        loaded = self.sql("SELECT pg_conf_load_time()")
        for name, value in settings.items():
            quoted = "DEFAULT" if value is None else "'%s'" % str(value).replace("'", "''")
            self.sql(f"ALTER SYSTEM SET {name} TO {quoted}")
        self.sql("SELECT pg_reload_conf()")
        until(lambda: self.sql("SELECT pg_conf_load_time()") != loaded)
        if self.sql("SELECT 1 FROM pg_settings WHERE pending_restart LIMIT 1"):
            self.restart()

    def kill_backends(self, application_name=None):
        """pg_terminate_backend of all client sessions, or of those with this application_name; how many there were."""
        return int(self.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND "
                            "pid <> pg_backend_pid() AND application_name = coalesce($1, application_name)", application_name)[0][0])

    def standby(self, **kw):
        """A hot standby that streams from this server: read-only until promote()."""
        return Postgres(copy_of=self, **kw)

    def promote(self):
        self.sql("SELECT pg_promote(true, 60)")

    def caught_up(self, timeout=30):
        """Waits until this standby has replayed all that its primary has written by now."""
        lsn = self.primary.sql("SELECT pg_current_wal_lsn()")[0][0]
        until(lambda: self.sql("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", lsn) == [["t"]], timeout)

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()


# ---- command line ----
def settings_of(args):
    """({name: value}, the rest)"""
    settings = {}
    while args[:1] == ["-s"]:
        name, eq, value = (args[1:2] or [""])[0].partition("=")
        if not eq or not re.fullmatch(r"[\w.]+", name):
            sys.exit("postgres.py: -s takes NAME=VALUE")
        settings[name] = value
        args = args[2:]
    return settings, args


def command_run(settings, command):
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        sys.exit(__doc__)
    if os.environ.get("ORCHESTRA_TEST_PG"):
        os.execvp(command[0], command)
    try:
        pg = Postgres(settings)
    except Unavailable as why:
        print(f"postgres.py: NO SERVER for these tests: {why}", file=sys.stderr, flush=True)
        os.execvp(command[0], command)
    with pg:
        child = subprocess.Popen(command, env={**os.environ, "ORCHESTRA_TEST_PG": pg.dsn()})
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda s, _: child.send_signal(s))
        code = child.wait()
    sys.exit(128 - code if code < 0 else code)


def main(args):
    name, (settings, rest) = (args[:1] or [""])[0], settings_of(args[1:])
    try:
        if name == "run":
            command_run(settings, rest)
        elif name == "start" and len(rest) == 1:
            print(Postgres(settings, directory=os.path.abspath(rest[0]), guarded=False).dsn())
        elif name == "stop" and len(rest) == 1:
            directory = os.path.abspath(rest[0])
            if not os.path.exists(os.path.join(directory, "data", "PG_VERSION")):
                sys.exit(f"postgres.py: {directory} is not the directory of a server")
            subprocess.run(["/bin/sh", "-c", SCRIPT, "guard", directory, os.path.join(directory, "data")],
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/")
        else:
            sys.exit(__doc__)
    except (Unavailable, RuntimeError, PgError) as why:
        sys.exit(f"postgres.py: {why}")


if __name__ == "__main__":
    COMMAND_LINE = True
    main(sys.argv[1:])
