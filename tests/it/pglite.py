"""pgvector, which Debian 12 has not: PostgreSQL in WebAssembly, from npm. It answers SQL; it is no server to measure or to break.

    with Pglite() as pg:
        pg.sql("CREATE EXTENSION vector")
        pg.sql("SELECT '[1,2]'::vector <-> $1", struct.pack(">hh2f", 2, 0, 3, 4))      # bytes are a binary parameter

What it does and does not, as tried with the versions below (PostgreSQL 18.6, pgvector 0.8.7):
- `CREATE EXTENSION vector` is needed; it lands in public. search_path is `public`. HNSW, IVFFlat, GIN and text search (english,
  german) work, and so do upserts, NOTIFY, and prepared statements in pipeline mode with binary parameters, 500 rows of 6.5 KB in 0.2 s.
- Binary format of `vector`, both ways: int16 dimensions, int16 0, then float4 each, all big endian. Its oid is not fixed: ask pg_type.
- All connections share one session. Prepared statements, SET, LISTEN and advisory locks outlive their connection and are everyone's
  (say DEALLOCATE ALL after connecting, or a name is taken: 42P05); pg_backend_pid() is 42 for all. While one connection is in a
  transaction the others wait. A transaction is rolled back when its connection goes.
- dbname, user, application_name and options of a connection string are ignored; CREATE DATABASE succeeds, and nothing leads there.
  empty() is what gives the next test an empty database.
- statement_timeout never strikes. TLS is not spoken. COPY FROM STDIN breaks the connection.
- A connection beyond `-m` is closed without a word (no 53300).
"""
import os
import subprocess
import sys
import tempfile

import packages_npm
from guard import Guard, Unavailable
from libpq import Session, conninfo
from orchestra import SLOW, free_port, until

PACKAGES = {"@electric-sql/pglite": "0.5.14", "@electric-sql/pglite-socket": "0.2.17", "@electric-sql/pglite-pgvector": "0.0.15"}


def installation():
    return packages_npm.installation("pglite-" + PACKAGES["@electric-sql/pglite-socket"], PACKAGES, "pgvector")


# Node.js 18, Debian 12's, lacks the one thing that the server wants of a later one.
SHIM = "globalThis.CustomEvent ??= class extends Event { constructor(t, o) { super(t, o); this.detail = o?.detail; } };"


class Door:
    """At host and port."""

    def dsn(self, **extra):
        return conninfo(**{"host": self.host, "port": self.port, "user": "postgres", "dbname": "postgres", "sslmode": "disable", **extra})

    def session(self, timeout=10, **fields):
        return Session(self.dsn(**fields), timeout * SLOW)

    def sql(self, text, *params, timeout=30):
        with self.session() as s:
            return s.execute(text, *params, timeout=timeout * SLOW)


class Pglite(Door):
    def __init__(self, connections=4):
        modules = os.path.join(installation(), "node_modules")
        self.host, self.dir = "127.0.0.1", tempfile.mkdtemp(prefix="orchestra-pglite-")
        self.data, self.log_path = os.path.join(self.dir, "data"), os.path.join(self.dir, "log")
        os.mkdir(self.data)
        with open(os.path.join(self.dir, "shim.cjs"), "w") as f:
            f.write(SHIM)
        self.guard, self.process = Guard(self.dir, self.data), None
        try:
            for _ in range(3):
                self.port = free_port()
                with open(self.log_path, "ab") as log:
                    self.process = subprocess.Popen(
                        ["node", "-r", os.path.join(self.dir, "shim.cjs"), os.path.join(modules, "@electric-sql/pglite-socket/dist/scripts/server.js"), "-p", str(self.port),
                         "-m", str(connections), "-e", "@electric-sql/pglite-pgvector:vector"],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data, start_new_session=True)
                until(lambda: self.process.poll() is not None or "listening on" in self.log(), 60)
                if self.process.poll() is None:
                    return
            raise RuntimeError("pglite-server did not start:\n" + self.log())
        except BaseException:
            self.cleanup()
            raise

    def empty(self, extension=True):
        """As a new database, with or without CREATE EXTENSION vector."""
        self.sql("DEALLOCATE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); RESET ALL; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for (name,) in self.sql("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema')"):
            self.sql(f'DROP SCHEMA "{name}" CASCADE')
        if extension:
            self.sql("CREATE EXTENSION vector")
        return self

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def cleanup(self):
        self.guard.clean()
        if self.process:
            self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()


def main(command):
    """pglite.py run -- COMMAND…: runs it with ORCHESTRA_TEST_PGVECTOR=DSN, or without, and says so, where there is no pgvector."""
    if command[:2] != ["run", "--"] or len(command) < 3:
        sys.exit(main.__doc__)
    command = command[2:]
    if os.environ.get("ORCHESTRA_TEST_PGVECTOR"):
        os.execvp(command[0], command)
    try:
        server = Pglite()
    except Unavailable as why:
        print(f"pglite.py: NO SERVER for these tests: {why}", file=sys.stderr, flush=True)
        os.execvp(command[0], command)
    with server:
        code = subprocess.call(command, env={**os.environ, "ORCHESTRA_TEST_PGVECTOR": server.dsn()})
    sys.exit(128 - code if code < 0 else code)


if __name__ == "__main__":
    COMMAND_LINE = True
    main(sys.argv[1:])
