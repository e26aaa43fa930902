"""Clients that know exactly what they were told, for tests that kill processes under them.

Each client owns a namespace, so nobody else changes what it wrote: acknowledged states must be there, deleted memories must stay
away, erased words must be in no file, and a request without an answer may have happened or not (both are accepted, but
only one of them, and for good). World holds the clients, lets them go, stops them, and compares everything.
"""
import http.client
import json
import os
import random
import re
import sys
import threading
import time

from orchestra import SLOW

CLIENT_TIMEOUT = 15  # a request without an answer for this long counts as a wedged client
MOST = 10  # times World.keep memories a client has at most: a case that has to wait must not fill what the next ones need
PADDING = "the quick brown fox jumps over a lazy dog while nobody looks at what it does "


class Client(threading.Thread):
    def __init__(self, world, k, seed):
        super().__init__(daemon=True)
        self.world, self.k = world, k
        self.rnd = random.Random(seed * 1000 + k)
        self.ns = f"client{k}"
        self.conn = None
        self.state = {}        # id -> (version, content) acknowledged
        self.deleted = set()   # ids whose deletion was acknowledged
        self.maybe = {}        # id -> operation without an answer
        self.lost_adds = {}    # content -> add without an answer (nobody knows its id); of a bulk, all contents
        self.external = {}     # external id -> id, where one is known
        self.lost_upserts = {}  # external id -> content of an upsert without an answer
        self.keys = {}         # idempotency key -> (body, id or None): to be repeated
        self.words = {}        # id -> the words that only its contents ever held
        self.erased = set()    # such words, when the receipt came
        self.n = self.acked = self.unanswered = self.retry_after = 0
        self.wedged = []

    # ---- requests ----
    def call(self, method, path, body=None, **headers):
        try:
            if not self.conn:
                self.conn = http.client.HTTPConnection("127.0.0.1", self.world.o.port, timeout=CLIENT_TIMEOUT * SLOW)
            self.conn.request(method, path, json.dumps(body) if body is not None else None,
                              {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}})
            r = self.conn.getresponse()
            data = r.read()
            if r.will_close:
                self.hang_up()
            return r.status, data
        except (OSError, http.client.HTTPException) as e:
            if isinstance(e, TimeoutError):
                self.wedged.append(f"{method} {path}: no answer in {CLIENT_TIMEOUT * SLOW} s")
            self.hang_up()
            return None, None

    def hang_up(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def outcome(self, status):
        """False: no answer, or a 5xx, which says that nothing was stored or that the outcome is open: treated as open."""
        if status is None or status >= 500:
            self.unanswered += status is None
            self.retry_after += status is not None
            time.sleep(0.005)
            return False
        self.acked += 1
        return True

    def word(self):
        self.n += 1
        return f"zebra{self.k}x{self.n:06d}q"  # no word is the beginning of another: indexes keep beginnings

    def content(self, what):
        return f"client {self.k} {what} {self.word()} {PADDING * self.rnd.randint(0, self.world.padding)}".strip()

    def learn(self, i, version, content):
        self.state[i] = (version, content)
        self.words.setdefault(i, set()).update(re.findall(r"zebra\d+x\d+q", content))

    def wrong(self, what, status, data):
        self.world.violation(f"client {self.k}: {what} answered {status}: {(data or b'')[:200]}")

    # ---- the mix ----
    def settled(self):
        held = set(self.external.values())
        return [i for i in self.state if i not in self.maybe and i not in held]

    def step(self):
        ids = self.settled()
        if not ids:
            return self.add()
        mix = self.world.mix
        what = self.rnd.choices(list(mix), list(mix.values()))[0]
        if what in ("add", "bulk") and len(self.state) > MOST * self.world.keep:
            what = "delete"
        act = getattr(self, what)
        return act() if what in ("add", "bulk", "upsert", "keyed") else act(self.rnd.choice(ids))

    def add(self, **more):
        content = self.content("memory")
        wait = self.rnd.choice(("", "", "", "?wait=store"))
        status, data = self.call("POST", "/v1/memories" + wait, {"content": content, "namespace": self.ns, **more})
        if not self.outcome(status):
            self.lost_adds[content] = (content,)
        elif status == 201:
            m = json.loads(data)
            self.learn(m["id"], m["version"], content)
        else:
            self.wrong("add", status, data)

    def bulk(self, n=None):
        contents = tuple(self.content("memory") for _ in range(n or self.rnd.randint(2, 40)))
        status, data = self.call("POST", "/v1/memories", {"namespace": self.ns, "memories": [{"content": c} for c in contents]})
        if not self.outcome(status):
            self.lost_adds.update({c: contents for c in contents})
        elif status == 201:
            for c, m in zip(contents, json.loads(data)["memories"]):
                self.learn(m["id"], m["version"], c)
        else:
            self.wrong("bulk", status, data)

    def patch(self, i, guard=False):
        version, _ = self.state[i]
        content = self.content("patched")
        headers = {"If_Match": f'"{version}"'} if guard else {}
        status, data = self.call("PATCH", f"/v1/memories/{i}", {"content": content}, **headers)
        if not self.outcome(status):
            self.maybe[i] = ("patch", version + 1, content)
        elif status == 200:
            m = json.loads(data)
            if m["version"] != version + 1:
                self.world.violation(f"PATCH of {i} at version {version} answered version {m['version']}")
            self.learn(i, m["version"], content)
        else:  # 412 too: nobody else writes, so a change was made twice
            self.wrong(f"PATCH of {i} at version {version}", status, data)

    def guarded(self, i):
        self.patch(i, guard=True)

    def delete(self, i):
        status, data = self.call("DELETE", f"/v1/memories/{i}")
        if not self.outcome(status):
            self.maybe[i] = ("delete", None, None)
        elif status == 204:
            self.forget(i)
        else:
            self.wrong(f"DELETE of {i}", status, data)

    def erase(self, i):
        self.keys.clear()  # an erasure takes the answers kept for them
        status, data = self.call("DELETE", f"/v1/memories/{i}?erase=true")
        if not self.outcome(status):
            self.maybe[i] = ("erase", None, None)
        elif status == 200 and json.loads(data)["erased"] == 1:
            self.forget(i)
            self.erased |= self.words.pop(i)
        else:
            self.wrong(f"erasure of {i}", status, data)

    def forget(self, i):
        del self.state[i]
        self.deleted.add(i)

    def upsert(self):
        """A memory under an id of our own: added the first time, changed later."""
        free = [f"e{n}" for n in range(8) if f"e{n}" not in self.lost_upserts]
        if not free:
            return
        key = self.rnd.choice(free)
        content = self.content("upserted")
        status, data = self.call("POST", "/v1/memories", {"content": content, "namespace": self.ns, "external_id": key})
        known = self.external.get(key)
        if not self.outcome(status):
            self.lost_upserts[key] = content
        elif status == (200 if known else 201):
            m = json.loads(data)
            want = self.state[known][0] + 1 if known else 1
            if known and m["id"] != known or m["version"] != want:
                self.world.violation(f"upsert of {key}: {m['id']} version {m['version']}, but {known} version {want} comes next")
            self.external[key] = m["id"]
            self.learn(m["id"], m["version"], content)
        else:
            self.wrong(f"upsert of {key} (known as {known})", status, data)

    def keyed(self):
        """Adds with an Idempotency-Key, and repeats one of them: without an answer or with it, there is one memory."""
        if self.keys and self.rnd.random() < 0.5:
            key = self.rnd.choice(list(self.keys))
        else:
            key = f"key-{self.k}-{self.n}"
            self.keys[key] = ({"content": self.content("keyed"), "namespace": self.ns}, None)
        body, known = self.keys[key]
        status, data = self.call("POST", "/v1/memories", body, Idempotency_Key=key)
        if not self.outcome(status):
            if not known:
                self.lost_adds[body["content"]] = (body["content"],)
        elif status != 201:
            self.wrong(f"add with {key}", status, data)
        elif known:
            if json.loads(data)["id"] != known:
                self.world.violation(f"{key} made {known} and {json.loads(data)['id']}")
        else:
            m = json.loads(data)
            self.lost_adds.pop(body["content"], None)
            self.keys[key] = (body, m["id"])
            if m["id"] not in self.deleted and m["id"] not in self.state:  # else found by a comparison meanwhile
                self.learn(m["id"], m["version"], body["content"])
        if len(self.keys) > 20:
            self.keys.pop(next(iter(self.keys)))

    def read(self, i):
        status, data = self.call("GET", f"/v1/memories/{i}")
        if self.outcome(status):
            self.compare(i, status, data, "GET")

    def find(self, i):
        content = self.state[i][1]
        word = re.search(r"zebra\d+x\d+q", content)[0]
        status, data = self.call("POST", "/v1/memories/search", {"query": word, "namespace": self.ns, "limit": 3})
        if self.outcome(status) and (status != 200 or i not in [m["id"] for m in json.loads(data)["results"]]):
            self.wrong(f"search: {i} ({word}) is not among the results:", status, data)

    def compare(self, i, status, data, where):
        version, content = self.state[i]
        if status != 200:
            self.world.violation(f"{where}: acknowledged {i} version {version} answered {status}")
            return
        m = json.loads(data) if isinstance(data, bytes) else data
        if (m["version"], m["content"]) != (version, content):
            self.world.violation(f"{where}: {i} should be version {version}, is {m['version']} ({m['content']!r} for {content!r})")

    def run(self):
        while not self.world.stop.is_set():
            self.world.gate.wait()
            with self.world.turn:
                self.world.active += 1
            try:
                if self.world.gate.is_set():
                    self.step()
            finally:
                with self.world.turn:
                    self.world.active -= 1

    # ---- when all is quiet: everything is compared ----
    def settle(self, o):
        """Asks for what nobody knows; from here on it is known."""
        for i, (op, version, content) in list(self.maybe.items()):
            r = o.memory(i)
            if op == "erase" and r.status in (200, 404):
                self.erase_again(i, o, there=r.status == 200)
            elif r.status == 404 and op == "delete":
                self.forget(i)
            elif r.status == 200 and op == "patch" and r.json["version"] == version and r.json["content"] == content:
                self.learn(i, version, content)
            else:
                self.compare(i, r.status, r.body, "unanswered " + op)
        self.maybe.clear()
        listed = {m["id"]: m for m in o.list_all(namespace=self.ns, limit=1000)}
        self.settle_upserts(listed)
        self.settle_adds(listed)
        return listed

    def erase_again(self, i, o, there):
        """A receipt at last. Without one the words go all the same, but nobody says when."""
        self.keys.clear()
        r = o.delete(f"/v1/memories/{i}?erase=true")
        if r.status == 200:
            self.erased |= self.words[i]
        elif there or r.status != 404:
            self.world.violation(f"erasure of {i}, which answered nothing before, answers {r.status}: {r.body[:200]}")
        self.words.pop(i)
        self.forget(i)

    def settle_upserts(self, listed):
        holders = {}
        for i, m in listed.items():
            if "external_id" in m:
                holders.setdefault(m["external_id"], []).append(i)
        for key, ids in holders.items():
            if len(ids) > 1:
                self.world.violation(f"{len(ids)} memories have the external id {key}: {ids}")
        for key, content in self.lost_upserts.items():
            known, ids = self.external.get(key), holders.get(key, [])
            want = self.state[known][0] + 1 if known else 1
            if ids and (known in (None, ids[0])) and (listed[ids[0]]["version"], listed[ids[0]]["content"]) == (want, content):
                self.external[key] = ids[0]
                self.learn(ids[0], want, content)
        self.lost_upserts.clear()

    def settle_adds(self, listed):
        found = {m["content"] for m in listed.values()}
        for i, m in listed.items():
            if i in self.state or i in self.deleted or m["content"] not in self.lost_adds or m["version"] != 1:
                continue
            self.learn(i, 1, m["content"])
            if not set(self.lost_adds.pop(m["content"])) <= found:
                self.world.violation(f"a bulk is half there: {m['content']}")
        self.lost_adds.clear()

    def check(self, o, samples=20):
        listed = self.settle(o)
        for i in self.state:
            if i not in listed:
                self.world.violation(f"list: acknowledged {i} is missing")
            else:
                self.compare(i, 200, listed[i], "list")
        for i in listed:
            if i in self.deleted:
                self.world.violation(f"list: deleted {i} is back")
            elif i not in self.state:
                self.world.violation(f"list: {i} ({listed[i]['content'][:60]!r}) was never stored by us")
        self.check_counted(o, len(listed))
        self.check_samples(o, samples)
        self.shrink(o)

    def check_counted(self, o, n):
        r = o.get(f"/v1/namespaces/{self.ns}")
        if r.status == 200 and r.json["count"] != n:
            self.world.violation(f"{self.ns} counts {r.json['count']} memories and lists {n}")

    def check_samples(self, o, samples):
        for i in self.rnd.sample(list(self.state), min(samples, len(self.state))):
            r = o.memory(i)
            self.compare(i, r.status, r.body, "GET after")
            self.check_found(o, i, re.search(r"zebra\d+x\d+q", self.state[i][1])[0])
        for i in self.rnd.sample(sorted(self.deleted), min(samples, len(self.deleted))):
            if o.memory(i).status != 404:
                self.world.violation(f"GET after: deleted {i} is back")

    def check_found(self, o, i, word):
        """An answer that says `degraded` may lack it, for a while."""
        deadline = time.monotonic() + 10 * SLOW
        while True:
            r = o.post("/v1/memories/search", {"query": word, "namespace": self.ns, "limit": 3})
            found = r.json.get("results", [])
            if i in [m["id"] for m in found]:
                return
            if not r.json.get("degraded") or time.monotonic() > deadline:
                return self.world.violation(f"search after: {i} ({word}) not found: {r.status} {r.json.get('degraded')} {[h['content'][:60] for h in found]}")
            time.sleep(0.05)

    def shrink(self, o):
        """Keeps the world small, so that a thousand rounds stay quick."""
        keep = self.world.keep
        for i in self.settled()[:-keep] if len(self.state) > 2 * keep else []:
            if o.delete(f"/v1/memories/{i}").status != 204:
                self.world.violation(f"DELETE of {i} while quiet failed")
            self.forget(i)


MIX = {"add": 40, "patch": 12, "guarded": 8, "delete": 10, "read": 15, "bulk": 5, "find": 5, "upsert": 5, "keyed": 5}


class World:
    """Clients of one daemon. padding: the most pieces that lengthen a content; keep: memories that a client keeps at least."""

    def __init__(self, o, clients, seed, mix=None, padding=0, keep=300):
        self.o, self.mix, self.padding, self.keep = o, mix or MIX, padding, keep
        self.violations = []
        self.stop, self.gate, self.turn = threading.Event(), threading.Event(), threading.Lock()
        self.active = 0
        self.clients = [Client(self, k, seed) for k in range(clients)]
        self.idle = []  # clients that somebody calls by hand: compared as the others

    def violation(self, text):
        self.violations.append(text)
        print("VIOLATION", text, file=sys.stderr, flush=True)

    def start(self):
        for c in self.clients:
            c.start()
        self.gate.set()

    def go_on(self):
        self.gate.set()

    def quiet(self):
        self.gate.clear()
        deadline = time.monotonic() + (CLIENT_TIMEOUT + 5) * SLOW
        while self.active and time.monotonic() < deadline:
            time.sleep(0.002)
        if self.active:
            self.violation(f"{self.active} clients are wedged")

    def end(self):
        self.stop.set()
        self.quiet()
        self.gate.set()
        for c in self.clients + self.idle:
            for w in c.wedged:
                self.violation("wedged client: " + w)
            c.wedged.clear()

    def check(self, samples=20):
        for c in self.clients + self.idle:
            c.check(self.o, samples)
        self.check_erased()

    def check_erased(self):
        """Words whose erasure has a receipt are in no file below data.dir but the copies in quarantine, which are the operator's."""
        erased = set().union(*(c.erased for c in self.clients + self.idle))
        for folder, below, files in os.walk(self.o.data) if erased else ():
            below[:] = [b for b in below if b != "quarantine"]
            for name in files:
                try:
                    with open(os.path.join(folder, name), "rb") as f:
                        left = erased & {w.decode() for w in re.findall(rb"zebra\d+x\d+q", f.read())}
                except FileNotFoundError:
                    continue
                if left:
                    self.violation(f"{sorted(left)[:5]} were erased and are in {os.path.join(folder, name)}")

    def recovered(self, since):
        """Seconds until a write is acknowledged again."""
        deadline = since + 10 * SLOW
        while time.monotonic() < deadline:
            try:
                r = self.o.request("POST", "/v1/memories", {"content": "probe", "namespace": "probe", "ttl": 60}, fresh=True, timeout=10)
                if r.status == 201:
                    return time.monotonic() - since
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.002)
        self.violation(f"no recovery within {10 * SLOW} s")
        return 10 * SLOW

    def counts(self):
        return {name: sum(getattr(c, name) for c in self.clients) for name in ("acked", "unanswered", "retry_after")}
