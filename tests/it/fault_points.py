"""Fault points of the twin (tests/orchestrad-faults): arming them, and getting every role to pass every one of them.

common/fault.h says how a point is armed. A scenario says what has to happen so that a role comes by: most points are
on the way of the clients' own requests and need none.
"""
import mmap
import os
import re
import signal
import struct
import subprocess
import tempfile
import time

from clients import MIX, Client, World
from orchestra import BUILD, SLOW, Orchestra

TWIN = os.path.join(BUILD, "tests", "orchestrad-faults")
SLOT = struct.Struct("<III20s")  # struct fault_slot: armed, pid, skip, role
OFF, ARMED, TAKEN = range(3)
SETS = ["api.workers=2", "sync.debounce_ms=20", "sync.batch_max=50", "sync.ring_bytes=65536", "sync.ack=journal",
        "journal.segment_bytes=1048576", "cache.l1_bytes=1048576", "memories.trash_ttl=1 s", "log.level=debug"]


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
        o = Orchestra(binary="tests/orchestrad-faults", sets=SETS, env={"ORCHESTRA_FAULTS": self.faults.path}, conf="", start=False)
        super().__init__(o, 3, seed=1, mix={**MIX, "erase": 2}, padding=12, keep=40)
        self.driver = Client(self, 9, seed=1)
        self.idle.append(self.driver)
        self.dropped = self.targets = self.namespaces = 0
        self.results = []
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
        pids = list(self.o.workers().values())
        self.o.kill()
        for p in pids:
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def serving(self):
        """All workers are ready, and so is the daemon."""
        try:
            status = self.o.get("/v1/admin/status", fresh=True)
            return status.status == 200 and all(x["state"] == "ready" for x in status.json["workers"]) and \
                self.o.get("/readyz", fresh=True).status == 200
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
    def die(self, point, role, scenario, first=None):
        """Arms, plays the scenario until somebody died there, waits until all is well. Returns milliseconds. first:
        (point, role) of a death that must come before, armed again whenever it did not lead to the other one."""
        scenario.prepare(self)
        self.faults.arm(point, role)
        deadline = time.monotonic() + 30 * SLOW
        turn = 0
        while not self.faults.pid(point):
            assert time.monotonic() < deadline, f"{role} does not come by {point}:\n" + self.o.log()[-3000:]
            if first and turn % 200 == 0:
                self.faults.arm(*first)
            scenario.act(self, turn, role)
            turn += 1
            time.sleep(0.001)
        since = time.monotonic()
        if first:
            self.faults.disarm(first[0])
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
        if self.driver.call("POST", "/v1/memories", body)[0] != 201:
            return
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

    def short_lived(self):
        self.driver.call("POST", "/v1/memories", {"content": "short-lived", "namespace": "short", "ttl": 1})

    def damage_head(self):
        """The newest segment's head is unreadable; its records are whole, so nothing may be lost."""
        where = os.path.join(self.o.data, "journal")
        newest = max(f for f in os.listdir(where) if f.endswith(".seg"))
        with open(os.path.join(where, newest), "r+b") as f:
            f.seek(40)
            f.write(b"\xff" * 8)


class Scenario:
    """prepare: before arming. act: again and again until somebody died. over: then."""

    def __init__(self, act=None, prepare=None, over=None):
        self.prepare = prepare or (lambda w: None)
        self.over = over or (lambda w: None)
        self.act = act or (lambda w, turn, role: None)


def every(n, what):
    return lambda w, turn, role: what(w, role) if turn % n == 0 else None


def once(what):
    return lambda w, turn, role: what(w) if turn == 0 else None


def start_without_spares(w):
    w.quiet()
    time.sleep(0.1)  # the flusher comes to its end, and one segment is left
    w.kill_everything()
    where = os.path.join(w.o.data, "journal")
    for f in os.listdir(where):
        if f.endswith(".spare"):
            os.unlink(os.path.join(where, f))
    w.o.start(wait=False)
    w.go_on()


def erased(w):
    w.check_erased()
    w.go_on()


def fresh(w):
    """A supervisor that holds no death against anybody: early ones make it wait, each longer."""
    w.kill_everything()
    w.o.start(wait=False)
    w.wait_serving()


def start_damaged(w):
    w.quiet()  # what it holds is in the store or in the damaged file: known to the end
    w.kill_everything()
    w.damage_head()
    w.go_on()


def leave(w):
    w.o.process.wait(20 * SLOW)


def reload_targets(w, _):
    w.use_targets()
    w.o.signal(signal.SIGHUP)


LOAD = Scenario()
FRESH = Scenario(prepare=fresh)
SUCCESSOR = Scenario(every(500, lambda w, role: w.kill_role(role)))
SYNC_DIES = Scenario(every(500, lambda w, role: w.kill_role("sync")))
START = Scenario(once(lambda w: w.o.start(wait=False)), FaultWorld.kill_everything)
NO_SPARES = Scenario(every(500, lambda w, role: start_without_spares(w)))
DAMAGED = Scenario(once(lambda w: w.o.start(wait=False)), start_damaged)
RELOAD = Scenario(every(200, reload_targets))
DRAIN = Scenario(once(lambda w: w.o.signal(signal.SIGTERM)), over=leave)
FORK = Scenario(every(500, lambda w, role: w.kill_role("warmer")))
DROPS = Scenario(every(1, lambda w, role: w.drop_namespace()))
GIANT = Scenario(every(20, lambda w, role: w.driver.bulk(200)))
ERASURE = Scenario(every(1, lambda w, role: w.erase_alone()), FaultWorld.quiet, erased)
EXPIRY = Scenario(every(20, lambda w, role: w.short_lived()))

SCENARIOS = {
    "plant_named": DROPS, "plant_published": DROPS, "apply_space": DROPS, "vectors_ns_row": DROPS, "store_dropping": DROPS,
    "cache_purging": DROPS, "vectors_dropping": DROPS,
    "segment_hurried": GIANT, "recycle_removing": GIANT, "segment_reserved": NO_SPARES, "segment_filled": NO_SPARES,
    "collect_found": EXPIRY, "wipe_headless": ERASURE, "wipe_page": ERASURE,
    "replay_delivered": START, "replay_settled": START, "replay_over": START, "sync_segments": START, "sync_replayed": START,
    "sync_opened": START, "refill_batch": START, "refill_over": START,
    "worker_born": START, "worker_attached": START, "worker_unready": START, "worker_ready": START,
    "pending_recovering": SUCCESSOR, "vectors_recounted": SUCCESSOR, "vectors_recovering": SUCCESSOR, "warm_over": SUCCESSOR,
    "writes_resending": SYNC_DIES, "child_forked": FORK,
    "quarantine_copied": DAMAGED, "quarantine_named": DAMAGED,
    "conf_prepared": RELOAD, "conf_committing": RELOAD, "conf_committed": RELOAD, "reload_voted": RELOAD, "reload_half": RELOAD,
    "pinger_ending": RELOAD, "target_renaming": RELOAD, "target_named": RELOAD,
    "worker_draining": DRAIN, "drain_committed": DRAIN, "drain_flushed": DRAIN, "drain_telling": DRAIN,
}
# The warmer fills L1 at the daemon's start only, and speaks to sync when it is born.
WARMER = {"cache_": START, "ring_": SUCCESSOR}
# Points that are passed only after a death at another one, which is therefore armed first.
BEHIND = {("cache_repair", "sync"): ("cache_headed", "api"), ("cache_repair", "api"): ("cache_headed", "sync"),
          ("replay_cutting", "sync"): ("journal_half", "sync"), ("replay_cut", "sync"): ("journal_half", "sync")}


def scenario_of(point, role):
    for start, scenario in WARMER.items() if role == "warmer" else ():
        if point.startswith(start):
            return scenario
    return SCENARIOS.get(point, ERASURE if point.startswith("scrub_") else LOAD)
