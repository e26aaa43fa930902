"""Fault points of the twin (tests/orchestrad-faults): arming them, and getting every role to pass every one of them.

common/fault.h says how a point is armed. A scenario says what has to happen so that a role comes by: most points are
on the way of the clients' own requests and need none.
"""
import glob
import http.client
import json
import mmap
import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile
import time

from clients import MIX, PADDING, Client, World
from orchestra import BUILD, SLOW, Orchestra, kill_all

TWIN = os.path.join(BUILD, "tests", "orchestrad-faults")
SLOT = struct.Struct("<III20s")  # struct fault_slot: armed, pid, skip, role
OFF, ARMED, TAKEN = range(3)
SETS = ["api.workers=2", "sync.debounce_ms=20", "sync.batch_max=50", "sync.ring_bytes=65536", "sync.ack=journal",
        "journal.segment_bytes=1048576", "cache.l1_bytes=1048576", "memories.trash_ttl=1 s", "log.level=debug",
        "vectors.exact_bytes=0", "vectors.flat_rows=64", "vectors.max_bytes=4 MiB", "vectors.spill_bytes=32 MiB", "audit.max_bytes=4 KiB", "index.save_every=100 ms"]  # lists come at sizes that a test makes,
# and a part of the vectors is on the disk


def points():
    """[(point, roles)] as the twin itself lists them."""
    out = subprocess.run([TWIN, "--list-faults"], capture_output=True, text=True, check=True).stdout
    return [(name, roles.split()) for name, roles, _ in (line.split("\t") for line in out.splitlines())]


class Faults:
    """The file through which points are armed."""

    def __init__(self):
        self.at = {name: i * SLOT.size for i, (name, _) in enumerate(points())}
        fd, self.path = tempfile.mkstemp(prefix="orchestra-faults-")
        os.ftruncate(fd, len(self.at) * SLOT.size)
        self.map = mmap.mmap(fd, len(self.at) * SLOT.size)
        os.close(fd)

    def arm(self, point, role="", skip=0):
        SLOT.pack_into(self.map, self.at[point], OFF, 0, skip, role.encode())
        self.map[self.at[point]:self.at[point] + 1] = bytes([ARMED])

    def disarm(self, point):
        self.map[self.at[point]:self.at[point] + 1] = bytes([OFF])

    def disarm_all(self):
        for point in self.at:
            self.disarm(point)

    def pid(self, point):
        """Of the process that died there; 0: nobody did yet."""
        armed, pid, _, _ = SLOT.unpack_from(self.map, self.at[point])
        return pid if armed == TAKEN else 0

    def close(self):
        self.map.close()
        os.unlink(self.path)


class FaultWorld(World):
    """Clients of a twin, and a driver that the scenarios use."""

    def __init__(self):
        self.faults = Faults()
        o = Orchestra(binary="tests/orchestrad-faults", sets=SETS, env={"ORC_FAULT_FILE": self.faults.path}, conf="", start=False)
        super().__init__(o, 3, seed=1, mix={**MIX, "erase": 2}, padding=80, keep=40)
        self.driver = Client(self, 9, seed=1)
        self.idle.append(self.driver)
        self.dropped = self.targets = self.namespaces = 0
        self.results = []
        self.rnd = random.Random(1)
        self.use_targets()
        o.start()
        self.start()

    # ---- the daemon ----
    def use_targets(self):
        """Two targets, one of them new: for the next start or reload."""
        self.targets += 1
        url = f"http://127.0.0.1:{self.o.port}/livez"
        both = ", ".join(f'{{name = "t{n}"; url = "{url}"; interval = "100 ms";}}' for n in (self.targets, self.targets + 1))
        self.o.conf = f"pinger: {{ targets = ({both}); }};\n"
        with open(os.path.join(self.o.dir, "orchestra.conf"), "w") as f:
            f.write(self.o.conf)

    def pids(self, role):
        return [p for n, p in self.o.workers().items() if n.removeprefix("orc:").split(".")[0] == role]

    def kill_role(self, role):
        for pid in self.pids(role)[:1]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def kill_everything(self):
        kill_all(self.o)

    def serving(self):
        """All workers are ready, and so is the daemon."""
        try:
            status = self.o.get("/v1/admin/status", fresh=True)
            return status.status == 200 and "upgrade" not in status.json and \
                all(x["state"] == "ready" for x in status.json["workers"]) and self.o.get("/readyz", fresh=True).status == 200
        except (OSError, ValueError):
            return False

    def wait_serving(self):
        deadline = time.monotonic() + 20 * SLOW
        while not self.serving():
            if self.o.process.poll() is not None:
                raise AssertionError("the daemon has left:\n" + self.o.log()[-6000:])
            assert time.monotonic() < deadline, "not ready again:\n" + self.o.log()[-6000:]
            time.sleep(0.002)

    # ---- a case ----
    def die(self, point, role, scenario, first=None, behind=None):
        """Arms, plays the scenario until somebody died there, waits until all is well. Returns milliseconds. Another
        (point, role) may have to come before, and again whenever it did not lead to this one: `first` leaves a successor who
        passes the point, `behind` somebody who passes it at once and never otherwise."""
        self.faults.disarm_all()  # a case that failed may have left something
        self.go_on()
        scenario.prepare(self)
        if not first:
            self.faults.arm(point, role)
        first = first or behind
        if first:
            self.faults.arm(*first)
        deadline = time.monotonic() + 30 * SLOW
        next_turn, next_act = None, 0
        while not self.faults.pid(point):
            now = time.monotonic()
            assert now < deadline, f"{role} does not come by {point}:\n" + self.o.log()[-3000:]
            if first and not next_turn and self.faults.pid(first[0]):
                if not behind:
                    self.faults.arm(point, role)
                next_turn = now + 0.5 * SLOW
            elif next_turn and now > next_turn:
                if not behind:
                    self.faults.disarm(point)
                self.faults.arm(*first)
                next_turn = None
            if now >= next_act:
                scenario.act(self, role)
                next_act = now + scenario.every * SLOW
            time.sleep(0.0005)
        since = time.monotonic()
        scenario.over(self)
        if self.o.process.poll() is not None or self.faults.pid(point) == self.o.process.pid:
            self.o.process.wait()
            self.o.start(wait=False)
        self.recovered(since)
        self.wait_serving()
        ms = round((time.monotonic() - since) * 1000)
        self.work(60)
        return ms

    def work(self, requests):
        """The load goes on until so many more requests were answered."""
        enough = self.counts()["acked"] + requests
        deadline = time.monotonic() + 10 * SLOW
        while self.counts()["acked"] < enough:
            assert time.monotonic() < deadline, "the clients are stuck:\n" + self.o.log()[-3000:]
            time.sleep(0.002)

    def compare_all(self, samples=4):
        self.quiet()
        self.check(samples)
        self.check_dropped()
        self.check_targets()
        found, self.violations = self.violations, []
        assert found == []
        self.go_on()

    def check_targets(self):
        """Those of the newest configuration are shown, and no others."""
        want = {f"t{self.targets}", f"t{self.targets + 1}"}
        deadline = time.monotonic() + 5 * SLOW
        while (shown := set(re.findall(r'orchestra_ping_up\{target="([^"]+)"', self.o.get("/metrics").body.decode()))) != want:
            if time.monotonic() > deadline:
                return self.violation(f"targets {sorted(shown)} are shown, {sorted(want)} are configured")
            time.sleep(0.01)

    # ---- what scenarios do ----
    def drop_namespace(self):
        """Makes a namespace with vectors in it and drops it again."""
        self.namespaces += 1
        name = f"drop{self.namespaces}"
        body = {"namespace": name, "memories": [{"content": f"dropped {i}"} for i in range(3)]}
        if self.driver.call("POST", "/v1/memories", body)[0] == 201:
            self.drop(name)

    def drop(self, name):
        for _ in range(50):
            status, data = self.driver.call("DELETE", f"/v1/namespaces/{name}?confirm={name}")
            if status is not None and status < 500:
                break
            time.sleep(0.01)
        else:
            return
        if status not in (200, 204, 404):
            self.violation(f"the drop of {name} answered {status}: {data[:200]}")
        self.dropped = self.namespaces

    def list_namespace(self):
        """A namespace that is large enough for lists gets them; then its vectors change, move and go. Then itself."""
        self.namespaces += 1
        name = f"drop{self.namespaces}"
        body = {"namespace": name, "memories": [{"content": f"{n} of many that are listed, {self.rnd.random()}"} for n in range(192)]}
        status, data = self.driver.call("POST", "/v1/memories", body)
        ids = [m["id"] for m in json.loads(data)["memories"]] if status == 201 else []
        time.sleep(0.2)  # the indexer looks
        self.driver.call("POST", "/v1/memories", {**body, "memories": body["memories"][:160]})  # so fast that their lists come later
        for n in range(70):  # one list loses and gets all of these
            if ids and self.driver.call("PATCH", f"/v1/memories/{ids[0]}", {"content": f"alike {PADDING} {n}"})[0] is None:
                break
        for i in ids[1:150]:
            if self.driver.call("DELETE", f"/v1/memories/{i}")[0] is None:
                break
        for i in ids[150:170]:
            if self.driver.call("PATCH", f"/v1/memories/{i}", {"content": f"other {self.rnd.random()}"})[0] is None:
                break
        if ids:
            self.drop(name)

    def check_dropped(self):
        for n in range(max(1, self.dropped - 3), self.dropped + 1):
            r = self.o.get(f"/v1/memories?namespace=drop{n}")
            if n == self.dropped and r.status == 200 and r.json["memories"]:
                self.violation(f"drop{n} was dropped, and lists {len(r.json['memories'])} memories")

    def erase_alone(self):
        """Nobody else writes, so nothing but the erasure itself overwrites what it must."""
        self.driver.add()
        ids = self.driver.settled()
        if ids:
            self.driver.erase(ids[-1])

    def miss(self):
        """Large bodies push others out of L1, which are then asked for."""
        for _ in range(4):
            self.driver.add(metadata={"pad": "x" * 15000})
        for c in self.clients + self.idle:
            for i in self.rnd.sample(list(c.state), min(8, len(c.state))):
                self.driver.call("GET", f"/v1/memories/{i}")

    def short_lived(self):
        self.driver.call("POST", "/v1/memories", {"content": "short-lived", "namespace": "short", "ttl": 1})

    def poison(self):
        """From here on the store rejects what holds the word."""
        with sqlite3.connect(os.path.join(self.o.data, "store.db"), timeout=20 * SLOW) as db:
            db.execute("CREATE TRIGGER IF NOT EXISTS poison BEFORE INSERT ON memories WHEN new.body LIKE '%venomous%' "
                       "BEGIN SELECT raise(ABORT, 'no venom'); END")
        db.close()

    def swallow(self):
        """One that is rejected, among others that are not."""
        body = {"namespace": "poison", "memories": [{"content": "harmless"}, {"content": "venomous"}, {"content": "harmless, too"}]}
        self.driver.call("POST", "/v1/memories", body)

    def discard(self):
        self.swallow()
        self.driver.call("DELETE", "/v1/admin/dead-letters?confirm=true")

    def damage_head(self):
        """The newest segment's head is unreadable; its records are whole, so nothing may be lost."""
        where = os.path.join(self.o.data, "journal")
        newest = max(f for f in os.listdir(where) if f.endswith(".seg"))
        with open(os.path.join(where, newest), "r+b") as f:
            f.seek(40)
            f.write(b"\xff" * 8)


class Scenario:
    """prepare: before arming. act(world, role): every so many seconds until somebody died. over: then."""

    def __init__(self, act=None, every=1.0, prepare=None, over=None):
        self.every = every
        self.prepare = prepare or (lambda w: None)
        self.act = act or (lambda w, role: None)
        self.over = over or (lambda w: None)


def start_again(w, _):
    if w.o.process.poll() is None:
        w.kill_everything()
    w.o.start(wait=False)


def start_cold(w, role):
    """Without saved indexes: they are made from the store."""
    if w.o.process.poll() is None:
        w.kill_everything()
    shutil.rmtree(os.path.join(w.o.data, "index"), ignore_errors=True)
    w.o.start(wait=False)


def saved(w):
    """Nobody runs, and there is a file to be taken up."""
    w.wait_serving()
    w.quiet()
    w.driver.add()  # after an erasure, which takes the file away
    deadline = time.monotonic() + 60 * SLOW
    while time.monotonic() < deadline and not glob.glob(os.path.join(w.o.data, "index", "*.image")):
        time.sleep(0.01)
    w.kill_everything()
    w.go_on()


def start_without_spares(w, _):
    w.quiet()
    time.sleep(0.1)  # the flusher comes to its end, and one segment is left
    w.kill_everything()
    where = os.path.join(w.o.data, "journal")
    for f in os.listdir(where):
        if f.endswith(".spare"):
            os.unlink(os.path.join(where, f))
    w.o.start(wait=False)
    w.go_on()


def start_damaged(w, _):
    w.quiet()  # what it holds is in the store or in the damaged file: known to the end
    w.kill_everything()
    w.damage_head()
    w.o.start(wait=False)
    w.go_on()


def fresh(w):
    """A supervisor that holds no death against anybody: early ones make it wait, each longer."""
    w.kill_everything()
    w.o.start(wait=False)
    w.wait_serving()


def reload_targets(w, _):
    w.use_targets()
    w.o.signal(signal.SIGHUP)


def reload_or_start(w, _):
    """Whoever died in the middle of an entry has a successor, who finds half of it."""
    if w.o.process.poll() is not None:
        w.o.start(wait=False)
    else:
        reload_targets(w, _)


def try_for_a_moment(w, _):
    try:
        w.o.patch("/v1/admin/config", {"set": {"sync.wait_max": "9 s"}, "for": "20 ms"}, fresh=True)
    except (OSError, http.client.HTTPException):
        pass  # its time was over before the answer


def leave(w, _):
    if w.o.process.poll() is None:
        w.o.signal(signal.SIGTERM)
    else:
        w.o.start()


def left(w):
    w.o.process.wait(20 * SLOW)


def before_upgrade(w):
    """Old api workers would wait for idle connections."""
    w.wait_serving()
    w.o.close_connection()
    w.driver.hang_up()


def erased(w):
    w.check_erased()
    w.go_on()


LOAD = Scenario()
FRESH = Scenario(prepare=fresh)
SUCCESSOR = Scenario(FaultWorld.kill_role)
SYNC_DIES = Scenario(lambda w, role: w.kill_role("sync"))
FORK = Scenario(lambda w, role: w.kill_role("warmer"))
START = Scenario(start_again, 4.0, prepare=FaultWorld.kill_everything)
COLD = Scenario(start_cold, 4.0, prepare=FaultWorld.kill_everything)
SAVED = Scenario(start_again, 4.0, prepare=saved)
NO_SPARES = Scenario(start_without_spares, 2.0)
DAMAGED = Scenario(start_damaged, 4.0)
RELOAD = Scenario(reload_targets, 0.2)
TRIED = Scenario(try_for_a_moment, 0.2)
UPGRADE = Scenario(lambda w, role: w.o.signal(signal.SIGUSR2), 5.0, prepare=before_upgrade)
DRAIN = Scenario(leave, 5.0, over=left)
RESTART = Scenario(leave, 3.0)
DROPS = Scenario(lambda w, role: w.drop_namespace(), 0)
LISTS = Scenario(lambda w, role: w.list_namespace(), 0)
GIANT = Scenario(lambda w, role: w.driver.bulk(200), 0.02)
EXPIRY = Scenario(lambda w, role: w.short_lived(), 0.02)
MISSES = Scenario(lambda w, role: w.miss(), 0)
MISSES_ALONE = Scenario(MISSES.act, 0, FaultWorld.quiet, FaultWorld.go_on)
POISON = Scenario(lambda w, role: w.swallow(), 0.02, prepare=FaultWorld.poison)
DISCARD = Scenario(lambda w, role: w.discard(), 0.02, prepare=FaultWorld.poison)
ERASURE = Scenario(lambda w, role: w.erase_alone(), 0, FaultWorld.quiet, erased)

SCENARIOS = {
    "plant_named": DROPS, "plant_published": DROPS, "apply_space": DROPS, "vectors_ns_row": DROPS, "words_ns_row": DROPS, "store_dropping": DROPS,
    "cache_purging": DROPS, "vectors_dropping": DROPS, "words_dropping": DROPS,
    "segment_hurried": GIANT, "recycle_removing": GIANT, "segment_reserved": NO_SPARES, "segment_filled": NO_SPARES,
    "collect_found": EXPIRY, "wipe_headless": ERASURE, "wipe_page": ERASURE,
    "dead_torn": POISON, "dead_unnamed": POISON, "dead_written": POISON, "mend_begun": POISON, "mend_half": POISON,
    "dead_wiped": DISCARD, "dead_ordered": DISCARD,
    "replay_delivered": SUCCESSOR, "replay_settled": START, "replay_over": START, "sync_segments": START, "sync_replayed": START,
    "sync_opened": START, "refill_batch": COLD, "refill_over": COLD,
    **dict.fromkeys(["index_loading", "vectors_loading", "image_piece_read", "vectors_loaded", "words_loading", "words_loaded", "index_loaded"], SAVED),
    "worker_born": START, "worker_attached": START, "worker_unready": START, "worker_ready": START,
    "pending_recovering": SUCCESSOR, "vectors_recounted": SUCCESSOR, "vectors_recovering": SUCCESSOR,
    "words_recovering": SUCCESSOR, "lists_recovering": SUCCESSOR, "warm_over": START,
    "warm_begun": START, "warm_taken": START, "warm_slice": START, "hot_taken": START, "hot_block_written": START,
    "warm_walked": START, "hot_file_whole": START, "hot_file_named": START, "hot_shredded": RESTART,
    "writes_resending": SYNC_DIES, "child_forked": FORK,
    "quarantine_copied": DAMAGED, "quarantine_named": DAMAGED,
    "conf_prepared": RELOAD, "conf_committing": RELOAD, "conf_committed": RELOAD, "reload_voted": RELOAD, "reload_half": RELOAD,
    "tried_reverting": TRIED, "audit_torn": RELOAD, "audit_written": RELOAD, "audit_renamed": RELOAD, "audit_rotated": RELOAD,
    "audit_repairing": Scenario(reload_or_start, 0.2), "pinger_ending": RELOAD, "target_renaming": RELOAD, "target_named": RELOAD,
    "handover_settled": UPGRADE, "handover_left": UPGRADE, "upgrade_becoming": UPGRADE, "upgrade_adopting": UPGRADE,
    "worker_draining": DRAIN, "drain_committed": DRAIN, "drain_flushed": DRAIN, "drain_telling": DRAIN,
}
# What depends on the role: the warmer fills L1 at the daemon's start only, and speaks to sync when it is born; api fills what it missed.
BY_ROLE = {("warmer", "cache"): START, ("warmer", "ring"): SUCCESSOR, ("api", "cache"): MISSES}
# Points that are passed only after a death at another one, which is therefore armed first.
BEHIND = {("cache_repair", "sync"): ("cache_headed", "api"), ("cache_repair", "api"): ("cache_headed", "api"),
          ("cache_emptying", "sync"): ("cache_headed", "api"), ("cache_emptying", "api"): ("cache_headed", "api"),
          ("audit_repairing", "supervisor"): ("audit_torn", "supervisor"),
          ("replay_cutting", "sync"): ("journal_half", "sync"), ("replay_cut", "sync"): ("journal_half", "sync")}


def scenario_of(point, role):
    family = point.split("_")[0]
    if point in ("cache_emptying", "cache_repair"):  # were there writes, sync would always come before api
        return MISSES if role == "sync" else MISSES_ALONE
    if family == "lists" and point != "lists_recovering":
        return LISTS
    return BY_ROLE.get((role, family)) or SCENARIOS.get(point) or (ERASURE if family == "scrub" else LOAD)
