"""The server's place is taken by a copy that lacks what was committed last: a standby that was promoted, a backup. What the
journals still hold is written again, and the feed is followed from where it is now."""
import pytest

from orchestra import Orchestra, until
from postgres import Postgres


@pytest.fixture
def server():
    with Postgres() as pg:
        yield pg, pg.database()


def daemon(server):
    pg, db = server
    return Orchestra(sets=["store.kind=postgres", "store.dsn=" + pg.dsn(dbname=db), "api.workers=1", "sync.debounce_ms=10"])


def contents(server):
    return [row[0] for row in server[0].sql("SELECT content FROM memories ORDER BY content", db=server[1])]


def forget(server, content):
    pg, db = server
    pg.sql("DELETE FROM memories WHERE content = $1", content, db=db)
    pg.sql("UPDATE memory_nodes SET cursor = cursor - 1", db=db)
    pg.sql("DELETE FROM memory_changes WHERE revision = (SELECT max(revision) FROM memory_changes)", db=db)
    pg.sql("SELECT setval('memory_revision', max(revision)) FROM memory_changes", db=db)


def test_what_it_lacks_is_written_again(server):
    with daemon(server) as o:
        for n in ("a", "b", "c"):
            o.add(n)
            until(lambda: n in contents(server))
        forget(server, "c")
        o.add("d")
        until(lambda: contents(server) == ["a", "b", "c", "d"])
        assert o.get("/readyz").json == {"status": "ready", "degraded": []}


def test_the_feed_is_followed_from_where_it_is(server):
    with daemon(server) as a, daemon(server) as b:
        first = a.add("a")
        until(lambda: b.memory(first["id"]).status == 200)
        a.add("b")
        until(lambda: "b" in contents(server))
        b.patch(f"/v1/memories/{first['id']}", {"content": "a2"})
        until(lambda: "a2" in contents(server) and a.memory(first["id"]).json["content"] == "a2")
        pg, db = server
        for _ in range(2):  # revisions that both daemons have read
            pg.sql("DELETE FROM memory_changes WHERE revision = (SELECT max(revision) FROM memory_changes)", db=db)
        pg.sql("SELECT setval('memory_revision', max(revision)) FROM memory_changes", db=db)
        a.wait_log("everything is read again")
        b.patch(f"/v1/memories/{first['id']}", {"content": "a3"})
        until(lambda: a.memory(first["id"]).json["content"] == "a3")
