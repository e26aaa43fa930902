"""The Redis rig does what it says; and what a daemon says about redis.url: checked, probed, not shown, and no sandbox in its way."""
import os
import re
import subprocess

import pytest

from orchestra import BUILD, until
from redis import Redis, RedisCluster, RedisError, RedisSentinel


@pytest.fixture
def redis():
    with Redis() as r:
        yield r


def check(tmp_path, *sets, probe=False):
    args = [os.path.join(BUILD, "orchestrad"), "--check", *(["--probe"] if probe else [])]
    for s in (f"data.dir={tmp_path}/data", f"listen.unix={tmp_path}/s", "listen.tcp=", *sets):
        args += ["--set", s]
    return subprocess.run(args, capture_output=True, text=True, timeout=60)


def test_rig_alone(redis):
    assert redis("SET", "k", b"\x00v", db=3) == "OK" and redis("GET", "k", db=3) == b"\x00v" and redis.keys() == []
    redis.full()
    with pytest.raises(RedisError, match="OOM"):
        redis("SET", "k", "v")
    redis.full(False)
    redis("SET", "k", "v")
    redis.kill9()
    assert not redis.answers()
    redis.start()
    assert redis("GET", "k") is None
    pid = redis.process.pid
    redis.cleanup()
    assert not os.path.exists(redis.dir) and not os.path.exists(f"/proc/{pid}")


def test_rig_passwords():
    with Redis(password="a b@c", users={"ann": "on >pw ~* +@all"}) as r:
        assert r.url() == f"redis://:a%20b%40c@127.0.0.1:{r.port}" and r.url("ann", "pw", 2).endswith(f"ann:pw@127.0.0.1:{r.port}/2")
        assert r("PING") == "PONG" and b"ann" in r("ACL", "USERS")


def test_rig_cluster():
    with RedisCluster() as c:
        owner = c.owner("k")
        owner("SET", "k", "v")
        source, target = c.reshard("k", finish=False)
        assert source is owner
        with pytest.raises(RedisError, match="ASK"):
            source("GET", "k")
        with pytest.raises(RedisError, match="MOVED"):
            target("GET", "k")
    assert not os.path.exists(owner.dir)


def test_rig_sentinel():
    with RedisSentinel(password="pw") as s:
        assert s.current() is s.master
        s.master.kill9()
        until(lambda: s.current() is s.replica, 60)
        until(lambda: s.replica("ROLE")[0] == b"master", 60)


@pytest.mark.parametrize("url, because", [("rediss://:s3cret@h", "stunnel"), ("redis://:s3cret@h:x", "1 to 65535"), ("x://:s3cret@h", "expected redis://")])
def test_a_url_that_is_wrong_is_not_shown(tmp_path, url, because):
    r = check(tmp_path, f"redis.url={url}")
    assert r.returncode == 1 and because in r.stdout and "redis.url" in r.stdout and "s3cret" not in r.stdout + r.stderr


@pytest.mark.parametrize("prefix", ["", "a{b}", "a*", "ä", "x" * 65])
def test_a_prefix_that_is_wrong(tmp_path, prefix):
    r = check(tmp_path, f"redis.prefix={prefix}")
    assert r.returncode == 1 and "redis.prefix" in r.stdout


def test_probe(tmp_path, redis):
    def line(*sets):
        r = check(tmp_path, *sets, probe=True)
        assert r.returncode == 0, r.stdout  # it is never needed
        found = [x for x in r.stdout.splitlines() if "redis.url" in x]
        assert len(found) <= 1
        return found[0] if found else None
    assert line() is None
    for url in (redis.url(), redis.unix_url(db=3)):
        assert re.fullmatch(r"ok redis.url: Redis 7\.\S+ answers; its maxmemory-policy is noeviction", line(f"redis.url={url}"))
    assert "warning" in (said := line(f"redis.url={redis.url('ann', 's3cret')}")) and "WRONGPASS" in said and "s3cret" not in said
    redis.pause()
    assert line(f"redis.url={redis.url()}").startswith("warning redis.url: ")
    redis.kill9()
    assert "Connection refused" in line(f"redis.url={redis.url()}")


def test_a_daemon_has_its_breaker_and_hides_the_url(make, redis):
    o = make(sets=["redis.url=redis://:s3cret@127.0.0.1:%d" % redis.port])
    names = {b["name"] for b in o.get("/v1/admin/breakers").json["breakers"]}
    assert {"store", "redis"} <= names
    assert "s3cret" not in o.log()
