"""orchestrad --check --probe: what cannot be reached is said before the start, a line each."""
import http.server
import json
import os
import socket
import sqlite3
import subprocess
import threading

import pytest

from orchestra import BUILD, SLOW, free_port


class Place:
    def __init__(self, tmp_path):
        self.dir, self.data, self.socket, self.port = tmp_path, tmp_path / "data", str(tmp_path / "s.sock"), free_port()

    def probe(self, *sets, prefix=()):
        args = [*prefix, os.path.join(BUILD, "orchestrad"), "--check", "--probe"]
        for s in (f"listen.tcp=127.0.0.1:{self.port}", f"listen.unix={self.socket}", f"data.dir={self.data}", *sets):
            args += ["--set", s]
        r = subprocess.run(args, capture_output=True, text=True, timeout=60 * SLOW)
        lines = r.stdout.splitlines()
        assert lines and all(x.split(" ", 1)[0] in ("ok", "warning", "FAILED") for x in lines), r
        assert (r.returncode != 0) == any(x.startswith("FAILED ") for x in lines), r
        return lines

    def good(self, *sets, **kw):
        lines = self.probe(*sets, **kw)
        assert not [x for x in lines if x.startswith("FAILED")], lines
        return "\n".join(lines)

    def bad(self, *sets, **kw):
        """Exactly one line fails."""
        lines = [x for x in self.probe(*sets, **kw) if x.startswith("FAILED ")]
        assert len(lines) == 1, lines
        return lines[0]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def used(place, make):
    """Where a daemon has been."""
    o = make(sets=[f"data.dir={place.data}"])
    o.add("x")
    o.stop()
    return place


def files(place):
    return sorted((os.path.relpath(os.path.join(r, f), place.dir), os.stat(os.path.join(r, f)).st_size)
                  for r, _, fs in os.walk(place.dir) for f in fs)


def test_a_fresh_place(place):
    said = place.good()
    assert f"listen.tcp 127.0.0.1:{place.port}: free" in said and "listen.unix" in said
    assert "store.db: not there yet" in said and f"would be made in {place.dir}" in said and "MiB free" in said
    assert files(place) == [] and not place.data.exists()


def test_nothing_is_changed(used):
    before = files(used)
    said = used.good()
    assert "schema 4, can be written" in said and "write and fdatasync of 4096 bytes took" in said
    assert files(used) == before


def test_a_log_that_a_crash_left_stays(place, make):
    o = make(sets=[f"data.dir={place.data}"])
    o.add("x")
    while not os.path.exists(place.data / "store.db-wal") or os.path.getsize(place.data / "store.db-wal") == 0:
        pass
    o.kill()
    o.start()   # waits for the workers to be gone
    o.kill()
    wal = os.path.getsize(place.data / "store.db-wal")
    while "a daemon runs" in place.good(f"listen.unix={place.dir}/other"):
        pass
    assert wal > 0 and os.path.getsize(place.data / "store.db-wal") >= wal


def test_a_daemon_that_runs_is_named(place, make):
    o = make(start=False)
    o.port, o.socket, o.data = place.port, place.socket, str(place.data)
    o.start()
    said = place.good()
    assert f"a daemon runs on data.dir {place.data}, pid {o.process.pid}" in said
    assert f"listen.tcp 127.0.0.1:{place.port}: held by the daemon of this data.dir, pid {o.process.pid}" in said
    assert f"listen.unix {place.socket}: held by the daemon of this data.dir, pid {o.process.pid}" in said
    assert o.add("undisturbed") and "died" not in o.log()


def test_somebody_else_listens(place, make):
    with socket.socket() as s, socket.socket(socket.AF_UNIX) as u:
        s.bind(("127.0.0.1", place.port))
        s.listen()
        assert f"127.0.0.1:{place.port}: another program has the port" in place.bad()
        place.port = free_port()
        u.bind(place.socket)
        u.listen()
        assert "another program listens there" in place.bad()
        # A daemon of this data.dir on other addresses does not explain them.
        o = make(sets=[f"data.dir={place.data}"])
        lines = [x for x in place.probe() if x.startswith("FAILED")]
        assert len(lines) == 1 and "another program listens there" in lines[0]
        o.stop()
    assert "left by a daemon that is gone" in place.good()
    os.unlink(place.socket)
    open(place.socket, "w").close()
    assert "is in the way and is no socket" in place.bad()


def test_an_address_that_the_machine_lacks(place):
    assert "cannot listen: Cannot assign requested address" in place.bad("listen.tcp=127.0.0.1:0", "listen.tcp=[::ffff:192.0.2.1]:7700",
                                                                          f"auth.tokens_file={tokens(place)}")


def tokens(place):
    path = place.dir / "tokens"
    path.write_text("a sha256:" + "0" * 64 + " admin *\n")
    path.chmod(0o600)
    return path


def test_tokens_are_read(place):
    path = tokens(place)
    place.good(f"auth.tokens_file={path}")
    path.write_text("garbage\n")
    assert f"{path}:1:" in place.bad(f"auth.tokens_file={path}")


def test_stores_that_are_none(used):
    db = used.data / "store.db"
    locked = sqlite3.connect(db, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    assert "database is locked" in used.bad()
    locked.execute("ROLLBACK")
    locked.execute("UPDATE meta SET value=99 WHERE key='schema'")
    locked.close()
    assert "schema 99, this program knows 4" in used.bad()
    db.write_bytes(b"no database at all, whatever it is called" * 100)
    assert "file is not a database" in used.bad()
    db.unlink()
    other = sqlite3.connect(db)
    other.execute("CREATE TABLE somebody(x)")
    other.commit()
    other.close()
    assert "store.db" in used.bad()
    db.unlink()
    db.mkdir()
    assert "is no file" in used.bad()


def test_room(used):
    assert "less than journal.quota" in used.good("journal.quota=1 TiB")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.skipif(subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="needs unshare(1), which a plain chroot does not allow")
def test_disks(used):
    def on(mount):
        return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', str(used.data)]
    small = on(f'mount -t tmpfs -o size=8m none "{used.data}"')
    assert "8 MiB free; a start needs" in used.bad(prefix=small) or "7 MiB free" in used.bad(prefix=small)
    read_only = on('mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"')
    lines = [x for x in used.probe(prefix=read_only) if x.startswith("FAILED")]
    assert lines and "data.dir" in lines[0] and "Read-only file system" in lines[0]


def test_targets(place):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/hang":
                hang.wait(30)
            self.send_response(500 if self.path == "/ill" else 200)
            self.end_headers()

        def log_message(self, *args):
            pass
    hang = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    targets = [{"name": n, "url": u, "interval": "1 min", "timeout": "500 ms"} for n, u in
               (("well", url + "/"), ("ill", url + "/ill"), ("slow", url + "/hang"), ("away", f"http://127.0.0.1:{free_port()}/"))]
    said = place.good(f"pinger.targets={json.dumps(targets)}").splitlines()
    hang.set()
    server.shutdown()
    server.server_close()
    assert "ok target well: answered 200" in said and "warning target ill: answered 500" in said
    assert any(x.startswith("warning target slow: ") for x in said) and any(x.startswith("warning target away: ") for x in said)


def test_a_wrong_configuration_is_not_probed(place):
    assert "log.level" in place.bad("log.level=loud") and len(place.probe("log.level=loud")) == 1
