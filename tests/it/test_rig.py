"""The servers that other tests break: that they break as told, come back, and leave nothing behind."""
import glob
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from orchestra import SLOW, free_port, until
from pglite import Pglite
from postgres import PgError, Postgres
from proxy import Proxy

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = [sys.executable, "-B", os.path.join(HERE, "postgres.py")]


@pytest.fixture
def pg():
    with Postgres(fsync=False) as server:
        yield server


def refused(sqlstate):
    """pytest.raises of this SQLSTATE"""
    return pytest.raises(PgError, match=f"^{sqlstate}: ")


def hangs(session):
    with pytest.raises(TimeoutError):
        session.wait(0.3)


def test_a_crash_keeps_what_was_committed_and_nothing_else():
    with Postgres() as pg:
        pg.sql("CREATE TABLE t (a int)")
        pg.sql("INSERT INTO t SELECT generate_series(1, 1000)")
        with pg.session() as open_one:
            open_one.execute("BEGIN")
            open_one.execute("INSERT INTO t VALUES (0)")
            pg.kill9()
            assert pg.processes() == [] and not pg.running()
            with pytest.raises(PgError):
                open_one.execute("COMMIT")
        with pytest.raises(PgError, match="No such file|refused"):
            pg.sql("SELECT 1")
        assert pg.start().sql("SELECT count(*), min(a) FROM t") == [["1000", "1"]]
        assert "not properly shut down" in pg.log()
        pg.restart()
        assert pg.sql("SELECT count(*) FROM t") == [["1000"]]


def test_a_paused_server_answers_when_it_is_resumed(pg):
    with pg.session(pg.dsn()) as s:
        pg.pause()
        s.send("SELECT 7")
        hangs(s)
        pg.resume()
        assert s.wait() == [["7"]]
        pg.pause()
    pg.stop()  # wakes it, or this never ends


def test_what_is_ended_by_name_gets_57P01(pg):
    with pg.session(application_name="one") as one, pg.session(application_name="two") as two:
        assert pg.kill_backends("one") == 1
        with refused("57P01"):
            one.execute("SELECT 1")
        assert two.value("SELECT 2") == "2"
        assert pg.kill_backends() == 1


def test_a_full_house_says_53300(pg):
    pg.set(max_connections=5, superuser_reserved_connections=0, max_wal_senders=0)
    assert pg.sql("SHOW max_connections") == [["5"]]
    sessions = [pg.session() for _ in range(5)]
    with refused("53300"):
        pg.session(pg.dsn())
    for s in sessions:
        s.close()
    pg.set(work_mem="7MB")
    assert pg.sql("SHOW work_mem") == [["7MB"]]
    pg.set(work_mem=None)
    assert pg.sql("SHOW work_mem") == [["4MB"]]


def test_a_full_disk_says_53100_until_it_is_larger():
    with Postgres(data_mb=64) as pg:
        pg.sql("CREATE TABLE t (a text)")
        with refused("53100"):
            for _ in range(100):
                pg.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        assert pg.running() and int(pg.sql("SELECT count(*) FROM t")[0][0]) > 1000
        pg.disk(96)
        pg.sql("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        data = pg.data
        assert os.path.ismount(data)
    assert not os.path.exists(data)


def test_tls_is_verified_by_name_and_authority():
    with Postgres(tls="only", fsync=False) as pg:
        with pg.session(pg.tls_dsn()) as s:
            assert s.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"
        with refused("28000"):
            pg.session(pg.dsn(sslmode="disable"))
        with pytest.raises(PgError, match="certificate verify failed"):
            pg.session(pg.tls_dsn(sslrootcert=Authority(pg.dir).path))
        with pytest.raises(PgError, match="does not match host name"):
            pg.session(pg.tls_dsn(host="elsewhere", hostaddr="127.0.0.1"))


class Authority:
    """One that has signed nothing."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "other.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null",
                        "-out", self.path, "-subj", "/CN=Other"], check=True, capture_output=True)


def test_a_password_is_asked_for():
    with Postgres(auth="scram-sha-256", password="it's \\ this", fsync=False) as pg:
        with pg.session(pg.dsn()) as s:
            assert s.value("SELECT 1") == "1"
        with refused("28P01"):
            pg.session(pg.dsn(password="that"))


def test_a_standby_follows_reads_only_and_is_promoted(pg):
    pg.sql("CREATE TABLE t AS SELECT 1 AS a")
    with pg.standby(fsync=False) as standby:
        pg.sql("INSERT INTO t VALUES (2)")
        standby.caught_up()
        assert standby.sql("SELECT sum(a) FROM t") == [["3"]]
        with refused("25006"):
            standby.sql("INSERT INTO t VALUES (3)")
        both = dict(host="127.0.0.1,127.0.0.1", port=f"{standby.port},{pg.port}", target_session_attrs="read-write")
        with pg.session(pg.dsn(**both)) as s:
            assert s.value("SHOW port") == str(pg.port)
        pg.kill9()
        standby.promote()
        standby.sql("INSERT INTO t VALUES (3)")
        with pg.session(pg.dsn(**both)) as s:
            assert s.value("SELECT sum(a) FROM t") == "6"


def test_packets_vanish_at_a_cut():
    with Postgres(netns=True, fsync=False) as pg:
        with pg.session(pg.dsn(tcp_user_timeout=1000 * int(SLOW))) as impatient, pg.session(pg.dsn()) as patient:
            pg.cut()
            impatient.send("SELECT 1")
            patient.send("SELECT 2")
            hangs(patient)
            with pytest.raises(TimeoutError):
                pg.session(pg.dsn(), timeout=1.5)  # neither refused nor "no route": two SYN are lost
            with pytest.raises(PgError, match="timed out"):
                impatient.wait()
            assert pg.sql("SELECT 3") == [["3"]]  # over the Unix socket
            pg.heal()
            assert patient.wait() == [["2"]]
            with pg.session(pg.dsn()) as s:
                assert s.value("SELECT 4") == "4"
        name = pg.net.name
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


# ---- the proxy ----
@pytest.fixture
def proxy(pg):
    with Proxy(pg) as p:
        p.dsn = pg.dsn(port=p.port)
        yield p


def test_a_black_hole_gives_back_what_fell_into_it(pg, proxy):
    with pg.session(proxy.dsn) as s:
        proxy.blackhole()
        s.send("SELECT 1")
        hangs(s)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", proxy.port), 1.5)
        proxy.heal()
        assert s.wait() == [["1"]]
        with pg.session(proxy.dsn) as other:
            assert other.value("SELECT 2") == "2"
        assert proxy.open == 2 or until(lambda: proxy.open == 1)


def test_a_commit_whose_answer_is_lost(pg, proxy):
    pg.sql("CREATE TABLE t (a int)")
    with pg.session(proxy.dsn) as s:
        proxy.blackhole("answers")
        s.send("INSERT INTO t VALUES (1)")
        hangs(s)
        until(lambda: pg.sql("SELECT a FROM t") == [["1"]])
        proxy.reset()
        with pytest.raises(PgError):
            s.wait()
    assert pg.sql("SELECT a FROM t") == [["1"]]


def test_a_proxy_that_resets_refuses_and_is_late(pg, proxy):
    with pg.session(proxy.dsn) as s:
        proxy.delay(60000)
        s.send("SELECT 1")
        hangs(s)
        proxy.heal()
        assert s.wait() == [["1"]]
        proxy.reset()
        with pytest.raises(PgError):
            s.execute("SELECT 1")
    proxy.refuse()
    with pytest.raises(PgError, match="refused"):
        pg.session(proxy.dsn)
    proxy.heal()
    with pg.session(proxy.dsn) as s:
        assert len(s.value("SELECT repeat('x', 10000000)")) == 10000000
        assert proxy.forwarded["answers"] > 10000000
        pg.kill9()
        with pytest.raises(PgError):
            s.execute("SELECT 1")
    with pytest.raises(PgError):
        pg.session(proxy.dsn)
    pg.start()
    with pg.session(proxy.dsn) as s:
        assert s.value("SELECT 1") == "1"


# ---- what is left behind ----
ORPHAN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from postgres import Postgres
pg = Postgres(fsync=False, **eval(sys.argv[2]))
print(pg.process.pid, pg.dir, pg.net and pg.net.network, flush=True)
pg.pause()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("options", ["{}", "{'netns': True}", "{'data_mb': 64}"])
def test_nothing_is_left_of_a_test_that_died(options):
    r = subprocess.run([sys.executable, "-B", "-c", ORPHAN, HERE, options], capture_output=True, text=True, timeout=60 * SLOW)
    if "Unavailable" in r.stderr:
        pytest.skip(r.stderr.strip().split("\n")[-1])
    assert r.returncode == -signal.SIGKILL, r.stderr
    pid, directory, network = r.stdout.split()
    until(lambda: not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z")
    until(lambda: not os.path.exists(directory))
    with open("/proc/mounts") as f:
        assert directory not in f.read()
    if network != "None":
        until(lambda: network.rsplit(".", 1)[0] not in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout)


def test_makers_of_the_template_do_not_meet():
    cache = f"/var/tmp/orchestra-rig-{os.getpid()}"
    os.mkdir(cache)
    os.chmod(cache, 0o1777)
    try:
        makers = [subprocess.Popen([*PROGRAM, "run", "--", "true"], env={**os.environ, "ORCHESTRA_TEST_CACHE": cache, "ORCHESTRA_TEST_PG": ""})
                  for _ in range(3)]
        assert [m.wait(60 * SLOW) for m in makers] == [0, 0, 0]
        assert len(os.listdir(cache)) == 1
    finally:
        subprocess.run(["rm", "-rf", cache])


def test_a_command_gets_a_server_and_keeps_its_exit_code():
    env = {**os.environ, "ORCHESTRA_TEST_PG": ""}

    def run(script, **extra):
        return subprocess.run([*PROGRAM, "run", "-s", "work_mem=9MB", "--", "sh", "-c", script], env={**env, **extra}, capture_output=True,
                              text=True, timeout=60 * SLOW)
    r = run('psql -XAtc "SHOW work_mem" "$ORCHESTRA_TEST_PG"; exit 7')
    assert (r.returncode, r.stdout) == (7, "9MB\n"), r.stderr
    assert run("kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert run('echo "$ORCHESTRA_TEST_PG"', ORCHESTRA_TEST_PG="one that is there").stdout == "one that is there\n"


def test_a_server_that_stays_until_it_is_stopped():
    directory = f"/var/tmp/orchestra-rig-{os.getpid()}-{free_port()}"
    start = subprocess.run([*PROGRAM, "start", directory], capture_output=True, text=True, timeout=60 * SLOW)
    assert start.returncode == 0, start.stderr
    try:
        assert subprocess.check_output(["psql", "-XAtc", "SELECT 1", start.stdout.strip()], text=True) == "1\n"
    finally:
        assert subprocess.run([*PROGRAM, "stop", directory], timeout=60 * SLOW).returncode == 0
    assert not glob.glob(directory)
    assert subprocess.run(["psql", "-c", "SELECT 1", start.stdout.strip()], capture_output=True).returncode == 2


def test_one_thread_waits_while_others_work(pg):
    """Each with a session of its own; libpq lets go of Python's lock while it waits."""
    with pg.session() as holder, pg.session() as waiter:
        holder.execute("SELECT pg_advisory_lock(1)")
        got = []
        t = threading.Thread(target=lambda: got.append(waiter.execute("SELECT pg_advisory_lock(1)")))
        t.start()
        until(lambda: pg.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
        assert not got
        holder.execute("SELECT pg_advisory_unlock(1)")
        t.join(30 * SLOW)
        assert got == [[[""]]]


def test_notifications_arrive(pg):
    with pg.session() as s:
        s.execute("LISTEN news")
        assert s.notifications() == []
        pg.sql("SELECT pg_notify('news', 'that')")
        assert s.notifications(30) == [("news", "that")]


# ---- pgvector ----
@pytest.fixture(scope="module")
def pglite():
    with Pglite() as server:
        yield server


def vector(*numbers):
    return struct.pack(f">hh{len(numbers)}f", len(numbers), 0, *numbers)


def test_vectors_travel_in_binary_and_are_compared(pglite):
    pglite.empty()
    with pglite.session() as s:
        assert s.execute("SELECT '[1,2,3.5]'::vector", binary=True) == [[vector(1, 2, 3.5)]]
        s.execute("CREATE TABLE t (id int PRIMARY KEY, v vector(2))")
        s.execute("CREATE INDEX ON t USING hnsw (v vector_cosine_ops)")
        rows = [[i, vector(i, 1)] for i in range(100)]
        assert s.pipeline("INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v", rows) == [[]] * 100
        assert s.execute("SELECT id, v <-> $1 FROM t ORDER BY v <-> $1 LIMIT 2", vector(7, 1)) in ([["7", "0"], [n, "1"]] for n in "68")
        assert s.pipeline("SELECT $1::vector(2)", [[vector(1, 2)], [vector(1)]])[1].sqlstate == "22000"


def test_the_next_test_finds_an_empty_database(pglite):
    pglite.sql("CREATE SCHEMA s; CREATE TABLE s.t (a int); PREPARE p AS SELECT 1; SET work_mem = '9MB'")
    pglite.empty()
    assert pglite.sql("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname IN ('s', 'public')") == [["0"]]
    assert pglite.sql("SHOW work_mem") != [["9MB"]]
    assert pglite.sql("SELECT count(*) FROM pg_prepared_statements") == [["0"]]
