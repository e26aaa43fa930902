"""Clients that use the daemon while something is done to it, and count every request that did not go well."""
import http.client
import json
import threading
import time

from orchestra import SLOW, UnixConnection


class Clients:
    """Each keeps its connection until the server says close, adds, reads back, patches and searches. `failures` holds
    what any of them met besides the right answer; `acknowledged` maps id → (content, importance), `unanswered` the state
    that a change without an answer may have brought about."""

    def __init__(self, o, n=4, unix=1, pause=0.001):
        self.o, self.pause, self.failures, self.acknowledged, self.unanswered = o, pause, [], {}, {}
        self.requests, self.slowest, self.stopped = 0, 0.0, threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(k, k < unix), daemon=True) for k in range(n)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stopped.set()
        for t in self.threads:
            t.join(60 * SLOW)
        assert not any(t.is_alive() for t in self.threads), "a client is wedged"

    def _connect(self, unix):
        if unix:
            return UnixConnection(self.o.socket, 30 * SLOW)
        return http.client.HTTPConnection("127.0.0.1", self.o.port, timeout=30 * SLOW)

    def _run(self, k, unix):
        conn, n = None, 0

        def ask(method, path, body=None):
            nonlocal conn
            conn = conn or self._connect(unix)
            began = time.monotonic()
            conn.request(method, path, json.dumps(body) if body else None)
            r = conn.getresponse()
            text = r.read()
            self.requests += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if r.will_close:
                conn.close()
                conn = None
            return r.status, text

        while not self.stopped.is_set():
            n += 1
            content = f"client {k} says {n} things about tea and harbours"
            step = "add"
            try:
                status, text = ask("POST", "/v1/memories", {"content": content})
                if status != 201:
                    raise AssertionError(f"{status} {text[:200]}")
                id_ = json.loads(text)["id"]
                self.acknowledged[id_] = (content, 0.5)
                step = "get"
                status, text = ask("GET", f"/v1/memories/{id_}")
                assert status == 200 and json.loads(text)["content"] == content, f"{status} {text[:200]}"
                step = "patch"
                if n % 3 == 0:
                    self.unanswered[id_] = (content, 0.75)
                    status, text = ask("PATCH", f"/v1/memories/{id_}", {"importance": 0.75})
                    assert status == 200, f"{status} {text[:200]}"
                    self.acknowledged[id_] = self.unanswered.pop(id_)
                step = "search"
                if n % 7 == 0:
                    status, text = ask("POST", "/v1/memories/search", {"query": "tea", "limit": 3})
                    assert status == 200 and json.loads(text)["results"], f"{status} {text[:200]}"
            except (OSError, http.client.HTTPException, AssertionError) as e:
                self.failures.append(f"client {k}{' unix' if unix else ''} {step} {n}: {e!r}")
                if conn:
                    conn.close()
                conn = None
            time.sleep(self.pause)

    def check(self):
        """No request failed, and everything acknowledged is there as it was acknowledged."""
        assert not self.failures, f"{len(self.failures)} of {self.requests} requests failed: {self.failures[:5]}"
        self.check_data()

    def check_data(self):
        ids = list(self.acknowledged)
        for at in range(0, len(ids), 500):
            r = self.o.post("/v1/memories:get", {"ids": ids[at:at + 500]})
            assert r.status == 200, r
            there = {m["id"]: (m["content"], m["importance"]) for m in r.json["memories"]}
            for i in ids[at:at + 500]:
                right = [self.acknowledged[i], self.unanswered.get(i, self.acknowledged[i])]
                assert there.get(i) in right, (i, there.get(i), right)
