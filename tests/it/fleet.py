"""Several daemons on one database, and what they and the server must agree on."""
import collections
import hashlib
import http.client
import json
import random
import threading
import time

from orchestra import SLOW, Orchestra, store_sets, until
from postgres import Postgres


def metric(o, name):
    """Sum of the rows of a metric whose name and labels begin so."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in o.get("/metrics", fresh=True).body.decode().splitlines()
               if line.startswith(name))


def flushed(o):
    return metric(o, "orchestra_journal_lag_records") == 0


class Fleet:
    """daemons: n of them on a database of `pg` (or of a server made for it), reached at `via` (a Proxy) if given.
    settings(k): further --set of daemon k. warmed: each has filled its cache with what there is."""

    def __init__(self, n=2, pg=None, via=None, sets=(), settings=lambda k: (), dsn=None, start=True, warmed=False, **kw):
        self.own = pg is None
        self.pg = pg or Postgres({"max_connections": 100}, fsync=False)
        self.database = self.pg.database()
        fields = {"host": via.host, "port": via.port} if via else {}
        self.store = store_sets(self.pg, self.database, **{**fields, **(dsn or {})})
        self.daemons = []
        try:
            for k in range(n):
                self.daemons.append(Orchestra(sets=[*self.store, *sets, *settings(k)], start=start, **kw))
            for o in self.daemons if warmed else ():
                o.warmed()
        except BaseException:
            self.cleanup()
            raise

    def cleanup(self):
        try:
            for o in self.daemons:
                o.cleanup()
        finally:
            if self.own:
                self.pg.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()

    def __iter__(self):
        return iter(self.daemons)

    def __getitem__(self, k):
        return self.daemons[k]

    def sql(self, text, *params):
        return self.pg.sql(text, *params, db=self.database)

    def session(self, **kw):
        return self.pg.session(dbname=self.database, application_name="rig", **kw)

    # ---- waiting ----
    def followed(self, timeout=10):
        """Everything that was acknowledged is in the store, and every daemon has read the feed to its end."""
        for o in self:
            until(lambda: flushed(o), timeout)
        last = int(self.sql("SELECT coalesce(max(revision), 0) FROM memory_changes")[0][0])
        for o in self:
            until(lambda: metric(o, "orchestra_feed_revision") >= last, timeout)
        time.sleep(0.15 * SLOW)  # what waited for a pending write is looked at once more

    # ---- comparing ----
    def rows(self, ns):
        """{id: (version, content)} as the server has it."""
        return {i: (int(v), c) for i, v, c in self.sql("SELECT id, version, content FROM memories WHERE namespace = $1", ns)}

    def listed(self, o, ns):
        return {m["id"]: (m["version"], m["content"]) for m in o.list_all(namespace=ns, limit=1000)}

    def exported(self, o, ns):
        r = o.get(f"/v1/memories:export?namespace={ns}", timeout=120)
        assert r.status == 200, r
        return {m["id"]: (m["version"], m["content"]) for m in map(json.loads, r.body.decode().splitlines())}

    def equal(self, ns):
        """What every daemon lists, exports and gets, and counts, is what the server has. Returns it."""
        want = self.rows(ns)
        for k, o in enumerate(self):
            assert self.listed(o, ns) == want, f"daemon {k} lists something else"
            assert self.exported(o, ns) == want, f"daemon {k} exports something else"
            for at in range(0, len(want), 500):
                r = o.post("/v1/memories:get", {"ids": list(want)[at:at + 500]})
                assert r.status == 200 and not r.json["missing"], r
                assert {m["id"]: (m["version"], m["content"]) for m in r.json["memories"]} == \
                    {i: want[i] for i in list(want)[at:at + 500]}, f"daemon {k} gets something else"
            r = o.get(f"/v1/namespaces/{ns}")
            assert (r.json["count"] if r.status == 200 else 0) == len(want), (k, r, len(want))
        return want


def checksum(rows):
    """Of {id: (version, content)}: one line for a report."""
    h = hashlib.sha256()
    for i in sorted(rows):
        h.update(f"{i} {rows[i][0]} {rows[i][1]}\n".encode())
    return h.hexdigest()[:16]


class Writers:
    """Threads that add, change, delete and read back memories of their own, one daemon each, and remember what was acknowledged.

    failures: answers that were wrong. Writes are refused nowhere while a journal has room, so every other status is one,
    except what `excused` names: {(method, status)}.
    """

    def __init__(self, daemons, ns, n=2, pause=0.002, excused=(), bulk=20):
        self.ns, self.pause, self.excused, self.bulk = ns, pause, set(excused), bulk
        self.failures, self.stopped = [], threading.Event()
        self.live, self.gone, self.unknown = {}, set(), {}  # id → content; ids; content or id → what may have become of it
        self.slowest = 0.0
        self.threads = [threading.Thread(target=self._run, args=(o, f"{d}.{k}"), daemon=True)
                        for d, o in enumerate(daemons) for k in range(n)]

    def __enter__(self):
        [t.start() for t in self.threads]
        return self

    def __exit__(self, *exc):
        self.stopped.set()
        [t.join(60 * SLOW) for t in self.threads]
        assert not any(t.is_alive() for t in self.threads), "a client is wedged"

    def _run(self, o, name):
        rnd, mine, n, conn = random.Random(name), [], 0, None

        def ask(method, path, body=None):
            nonlocal conn
            began = time.monotonic()
            try:
                conn = conn or http.client.HTTPConnection("127.0.0.1", o.port, timeout=30 * SLOW)
                conn.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
                r = conn.getresponse()
                status, text, close = r.status, r.read(), r.will_close
            except (OSError, http.client.HTTPException) as e:
                status, text, close = 0, repr(e).encode(), True
            self.slowest = max(self.slowest, time.monotonic() - began)
            if close:
                conn.close()
                conn = None
            good = status in (200, 201, 204)
            if (method, status) in self.excused:
                time.sleep(0.02)
            elif not good:
                self.failures.append(f"{time.strftime('%X')} {name} {method} {path}: {status} {text[:200]}")
            return json.loads(text) if good and text else good

        while not self.stopped.is_set():
            n += 1
            what = rnd.random()
            if what < 0.1:
                contents = [f"{name} {n} {k} of many" for k in range(self.bulk)]
                self.unknown.update({c: None for c in contents})
                r = ask("POST", "/v1/memories", {"namespace": self.ns, "memories": [{"content": c} for c in contents]})
                for c, m in zip(contents, r["memories"] if r else []):
                    self.live[m["id"]] = c
                    mine.append(m["id"])
                    del self.unknown[c]
            elif what < 0.5 or len(mine) < 10:
                c = f"{name} {n} single"
                self.unknown[c] = None
                if r := ask("POST", "/v1/memories", {"namespace": self.ns, "content": c}):
                    self.live[r["id"]] = c
                    mine.append(r["id"])
                    del self.unknown[c]
            elif what < 0.75:
                i, c = rnd.choice(mine), f"{name} {n} changed"
                self.unknown[i] = c
                if ask("PATCH", f"/v1/memories/{i}", {"content": c}):
                    self.live[i] = c
                    del self.unknown[i]
                else:
                    mine.remove(i)
            elif what < 0.85:
                i = mine.pop(rnd.randrange(len(mine)))
                self.unknown[i] = None
                if ask("DELETE", f"/v1/memories/{i}"):
                    del self.live[i], self.unknown[i]
                    self.gone.add(i)
            else:
                i = mine[-1]
                r = ask("GET", f"/v1/memories/{i}")
                if r and r["content"] != self.live[i]:
                    self.failures.append(f"{name} GET {i}: {r['content']!r}, but {self.live[i]!r} was acknowledged")
            time.sleep(self.pause)

    def acknowledged(self):
        return len(self.live) + len(self.gone)

    def compare(self, rows):
        """rows: {id: (version, content)}. [] or what is wrong with them."""
        wrong = []
        for i, c in self.live.items():
            there = rows.get(i, (0, None))[1]
            if there != c and (i not in self.unknown or there != self.unknown[i]):
                wrong.append(f"{i}: {there!r}, but {c!r} was acknowledged")
        wrong += [f"{i} is back" for i in self.gone & rows.keys()]
        wrong += [f"{i} ({c!r}) was never acknowledged" for i, (_, c) in rows.items() if i not in self.live and c not in self.unknown]
        times = collections.Counter(c for _, c in rows.values())
        wrong += [f"{c!r} is there {n} times" for c, n in times.items() if n > 1]
        return wrong
