"""A PostgreSQL that dies, hangs, is cut off, is full, is busy or another one: nothing acknowledged is lost, what need not ask it
goes on meanwhile, and afterwards everything goes on by itself."""
import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from fleet import Fleet, Writers, flushed, metric
from orchestra import SLOW, Orchestra, until
from postgres import PgError, Postgres
from proxy import Proxy

QUICK = ["store.connect_timeout=500 ms", "store.answer_timeout=1 s", "sync.debounce_ms=20"]


# A change of what is neither pending nor in memory as a whole has to read it first.
ASKS_THE_STORE = [("PATCH", 503), ("DELETE", 503), ("GET", 503)]


def degraded(o):
    r = o.get("/readyz")
    return r.status == 200 and "store" in r.json["degraded"] and r.json


def well(o):
    r = o.get("/readyz")
    return r.status == 200 and r.json["degraded"] == []


# ---- outages ----

@contextlib.contextmanager
def killed(pg, proxy):
    pg.kill9()
    yield
    pg.start()


@contextlib.contextmanager
def paused(pg, proxy):
    pg.pause()
    yield
    pg.resume()


@contextlib.contextmanager
def cut(pg, proxy):
    pg.cut()
    yield
    pg.heal()


@contextlib.contextmanager
def blackholed(pg, proxy):
    proxy.blackhole()
    yield
    proxy.heal()


@contextlib.contextmanager
def answers_lost(pg, proxy):
    """What a client does not know about its COMMIT."""
    proxy.blackhole("answers")
    yield
    proxy.reset()
    proxy.heal()


@contextlib.contextmanager
def refused(pg, proxy):
    proxy.refuse()
    proxy.reset()
    yield
    proxy.heal()


@contextlib.contextmanager
def stopped(pg, proxy):
    pg.stop("fast")
    yield
    pg.start()


@contextlib.contextmanager
def read_only(pg, proxy):
    pg.set(default_transaction_read_only="on")
    pg.kill_backends()
    yield
    with pg.session() as s:
        s.execute("SET default_transaction_read_only = off")
        s.execute("ALTER SYSTEM RESET default_transaction_read_only")
        s.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def full(pg, proxy):
    """Too many connections: all but the administrator's are taken."""
    with contextlib.ExitStack() as stack:
        taken = []

        def take():
            with contextlib.suppress(PgError):
                while True:
                    taken.append(stack.enter_context(pg.session(pg.dsn(user="other"))))
        pg.sql("DO $$ BEGIN CREATE ROLE other LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
        # A backend that is told to end holds its slot for a while, and the daemon is quick to take it again:
        # once more until none of its own is left.
        def shut_out():
            take()
            return pg.sql("""SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
                             WHERE application_name LIKE 'orchestra %'""") == []
        until(shut_out, 20)
        # What is left is reserved for the superuser, which the daemon must not be here.
        yield
    del taken


OUTAGES = [killed, paused, cut, blackholed, answers_lost, refused, stopped, read_only]


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda f: f.__name__)
def test_an_outage(ns, outage):
    """In the middle of batches, three times in a row; while it lasts the daemon answers from what it has."""
    with Postgres({"max_connections": 60}, netns=outage is cut) as pg, contextlib.ExitStack() as stack:
        proxy = None if outage is cut else stack.enter_context(Proxy(pg))
        f = stack.enter_context(Fleet(1, pg, via=proxy, sets=QUICK))
        o = f[0]
        known = [o.add(f"known {k} lighthouse", namespace=ns + "k")["id"] for k in range(20)]
        until(lambda: flushed(o))
        [o.memory(i) for i in known]
        with Writers([o], ns, n=3, excused=ASKS_THE_STORE) as w:
            for _ in range(3):
                time.sleep(0.5 * SLOW)
                with outage(pg, proxy):
                    said = until(lambda: degraded(o), 20)
                    assert said["reason"], said
                    fresh = o.add("written meanwhile", namespace=ns + "k")           # pending
                    assert o.memory(fresh["id"]).json["content"] == "written meanwhile"
                    assert all(o.memory(i).status == 200 for i in known)             # L1
                    hits = o.search("lighthouse", namespace=ns + "k", mode="vector", limit=5)  # index
                    assert hits and {h["id"] for h in hits} <= {*known, fresh["id"]}
                    known.append(fresh["id"])
                    assert o.get("/livez").status == 200
                until(lambda: well(o), 30)
        assert not w.failures, (len(w.failures), w.failures[:5])
        until(lambda: flushed(o), 30)
        assert w.acknowledged() > 50
        rows = f.rows(ns)
        assert not w.compare(rows), w.compare(rows)[:5]
        f.equal(ns)
        assert set(f.rows(ns + "k")) == set(known)


def test_too_many_connections(ns):
    with Postgres({"max_connections": 30, "superuser_reserved_connections": 5}) as pg:
        pg.sql("CREATE ROLE daemon LOGIN")
        with Fleet(1, pg, sets=QUICK, dsn={"user": "daemon"}, start=False) as f:
            f.sql("GRANT ALL ON SCHEMA public TO daemon")
            o = f[0].start()
            with Writers([o], ns, excused=ASKS_THE_STORE) as w:
                with full(pg, None):
                    until(lambda: degraded(o), 20)
                    until(lambda: "connection slots" in o.log() or "too many" in o.log(), 20)
                    time.sleep(SLOW)
                until(lambda: well(o), 30)
            assert not w.failures, w.failures[:5]
            until(lambda: flushed(o), 30)
            assert not w.compare(f.rows(ns))


def test_a_full_disk_of_the_server(ns):
    with Postgres(data_mb=120) as pg, Fleet(1, pg, sets=QUICK) as f:
        o = f[0]
        with Writers([o], ns, n=1, pause=0.05, bulk=3, excused=ASKS_THE_STORE) as w:
            time.sleep(0.3)
            pg.sql("CREATE TABLE filler (x text); ALTER TABLE filler ALTER x SET STORAGE EXTERNAL")
            with contextlib.suppress(PgError):
                while True:
                    pg.sql("INSERT INTO filler SELECT repeat(md5(i::text), 200) FROM generate_series(1, 100) i")
            said = until(lambda: degraded(o), 30)
            assert "space" in said["reason"] or "extend" in said["reason"], said
            time.sleep(SLOW)
            pg.sql("DROP TABLE filler")
            until(lambda: well(o), 30)
        assert not w.failures, w.failures[:5]
        until(lambda: flushed(o), 30)
        assert not w.compare(f.rows(ns))


# ---- another server ----

def test_failover_to_a_promoted_standby(ns):
    """The first host dies for good; the second one of the dsn, read-only until it is promoted, goes on."""
    with Postgres({"max_wal_senders": 5, "wal_level": "replica"}) as one, one.standby() as two:
        one.set(synchronous_standby_names="*")
        two.caught_up()
        with Fleet(1, one, sets=QUICK, dsn={"host": "127.0.0.1,127.0.0.1", "port": f"{one.port},{two.port}"}) as f:
            o = f[0]
            with Writers([o], ns, excused=ASKS_THE_STORE) as w:
                time.sleep(SLOW)
                one.kill9()
                until(lambda: degraded(o), 20)
                time.sleep(0.5 * SLOW)
                assert two.sql("SELECT pg_is_in_recovery()") == [["t"]]
                two.promote()
                until(lambda: well(o), 30)
                time.sleep(0.5 * SLOW)
            assert not w.failures, w.failures[:5]
            until(lambda: flushed(o), 30)
            f.pg = two
            assert not w.compare(f.rows(ns))
            f.equal(ns)


def test_a_standby_alone_is_refused(ns):
    with Postgres() as one, one.standby() as two, Fleet(0, one) as f:
        two.caught_up()
        with Orchestra(sets=["store.kind=postgres", f"store.dsn={two.dsn(dbname=f.database)}"], start=False) as o:
            o.start(wait=False)
            o.wait_log("store cannot be opened", 20)
            assert "read-only" in o.log() or "recovery" in o.log() or "standby" in o.log(), o.log()
            two.promote()
            o.wait_ready(30)
            assert o.add("after the promotion")


# ---- names and certificates ----

def name_space(hosts):
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("needs root and a mount namespace")
    return prefix


def test_a_name_that_is_not_known_and_then_is(ns, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    with Postgres() as pg, Fleet(1, pg, sets=QUICK, dsn={"host": "store.orchestra.invalid"}, start=False, prefix=name_space(hosts)) as f:
        o = f[0]
        o.start(wait=False)
        o.wait_log("store.orchestra.invalid", 20)
        until(lambda: o.get("/livez").status == 200)
        assert "store.dsn" in o.log()
        hosts.write_text("127.0.0.1 localhost store.orchestra.invalid\n")
        o.wait_ready(30)
        with Writers([o], ns, excused=ASKS_THE_STORE) as w:
            hosts.write_text("127.0.0.1 localhost\n")
            pg.kill_backends()
            until(lambda: "store.orchestra.invalid" in (degraded(o) or {"reason": ""})["reason"], 20)
            hosts.write_text("127.0.0.1 localhost store.orchestra.invalid\n")
            until(lambda: well(o), 30)
        assert not w.failures, w.failures[:5]
        until(lambda: flushed(o), 30)
        assert not w.compare(f.rows(ns))


def test_certificates(ns):
    """verify-full: the right authority is served, a wrong one and a wrong name are refused by name."""
    with Postgres(tls=True, fsync=False) as pg, Postgres(tls=True, fsync=False, start=False) as other:
        with Fleet(1, pg, dsn={"host": "localhost", "sslmode": "verify-full", "sslrootcert": pg.ca}) as f:
            m = f[0].post("/v1/memories?wait=store", {"content": "over TLS", "namespace": ns})
            assert m.json["durability"] == "store"
            assert f.sql("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'orchestra%'") == [["t"]]
        for extra, word in (({"sslrootcert": other.ca, "host": "localhost"}, "certificate verify failed"),
                            ({"sslrootcert": pg.ca, "host": "localhost.localdomain", "hostaddr": "127.0.0.1"}, "does not match host name"),
                            ({"sslrootcert": "/nowhere/ca.pem", "host": "localhost"}, "/nowhere/ca.pem")):
            with Fleet(1, pg, dsn={"sslmode": "verify-full", **extra}, start=False) as f:
                o = f[0]
                o.start(wait=False)
                o.wait_log(word, 20)
                r = o.wait_ready()
                assert "store" in r.json["degraded"] and word in r.json["reason"], r


# ---- slow and quarrelling ----

def test_somebody_holds_a_lock_for_longer_than_an_answer_may_take(ns):
    """The statement is cancelled, the batch tried again; when the lock is gone everything is there once."""
    with Postgres(fsync=False) as pg, Fleet(1, pg, sets=QUICK) as f:
        o = f[0]
        o.add("first", namespace=ns + "k")
        until(lambda: flushed(o))
        with Writers([o], ns, excused=ASKS_THE_STORE) as w:
            with f.session() as s:
                s.execute("BEGIN")
                s.execute("LOCK TABLE memory_changes IN SHARE MODE")
                time.sleep(4 * SLOW)
                assert o.get("/readyz").status == 200
                s.execute("COMMIT")
            until(lambda: well(o), 30)
        assert not w.failures, w.failures[:5]
        until(lambda: flushed(o), 30)
        assert not w.compare(f.rows(ns))
        assert "timeout" in pg.log()


def test_two_batches_that_lock_each_other_out(ns):
    """The same memories in opposite orders, again and again: a deadlock is resolved by trying again, and nothing is lost."""
    with Postgres({"deadlock_timeout": "100ms"}, fsync=False) as pg, Fleet(2, pg, sets=["sync.debounce_ms=50"]) as f:
        a, b = f
        ids = [m["id"] for m in a.post("/v1/memories", {"namespace": ns, "memories": [{"content": f"{k}"} for k in range(100)]}).json["memories"]]
        f.followed()

        def work(o, order):
            for n in range(6):
                for i in order:
                    r = o.request("PATCH", f"/v1/memories/{i}", {"metadata": {"by": o.port, "n": n}})
                    assert r.status == 200, r
        threads = [threading.Thread(target=work, args=(a, ids)), threading.Thread(target=work, args=(b, ids[::-1]))]
        [t.start() for t in threads], [t.join() for t in threads]
        f.followed(30)
        assert len(f.equal(ns)) == 100
        newest = f.sql("SELECT max(version) FROM memories WHERE namespace = $1", ns)
        assert int(newest[0][0]) >= 7
        print("deadlocks:", pg.log().count("deadlock detected"))
        for o in f:
            assert well(o)


def test_a_connection_that_is_torn_with_every_batch(ns):
    """Reset again and again, at any byte: each batch is written once or not at all, and tried again."""
    with Postgres(fsync=False) as pg, Proxy(pg) as proxy, Fleet(1, pg, via=proxy, sets=QUICK) as f:
        o = f[0]
        with Writers([o], ns, n=3, excused=ASKS_THE_STORE) as w:
            for n in range(40):
                time.sleep(0.02 + n % 7 * 0.01)
                proxy.reset()
        assert not w.failures, w.failures[:5]
        until(lambda: flushed(o) and well(o), 40)
        assert not w.compare(f.rows(ns))
        versions = f.sql("SELECT count(*) FROM memory_history WHERE namespace = $1 AND lost", ns)
        assert versions == [["0"]]
        f.equal(ns)


def test_a_daemon_that_dies_with_its_store_away(ns):
    """SIGKILL of everything while the server is gone: the journal is all there is, and it is enough."""
    from orchestra import kill_all
    with Postgres() as pg, Fleet(1, pg, sets=QUICK) as f:
        o = f[0]
        with Writers([o], ns, excused=ASKS_THE_STORE) as w:
            time.sleep(0.3)
            pg.kill9()
            until(lambda: degraded(o), 20)
            time.sleep(0.3)
        kill_all(o)
        pg.start()
        o.start()
        until(lambda: flushed(o), 30)
        assert not w.failures, w.failures[:5]
        assert not w.compare(f.rows(ns))
        f.equal(ns)


def test_unused_port_is_said_by_its_number(ns):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        with Orchestra(sets=["store.kind=postgres", f"store.dsn=host=127.0.0.1 port={port} user=postgres dbname=x", *QUICK], start=False) as o:
            o.start(wait=False)
            o.wait_log(f"port {port}", 20)
            assert "refused" in o.log()
            assert until(lambda: o.get("/livez").status == 200)
            assert metric(o, "orchestra_breaker_state") is not None
