#!/usr/bin/env python3
"""Evidence recall on LoCoMo: does search find the turns of a long conversation that answer a question?

Stores every turn of every conversation as a memory (one namespace per conversation, session_id = its session,
metadata.dia_id = its id, content "Speaker: text [image: caption]"), asks every question that has evidence and is
answerable (category 5 is not) in the modes text, vector and hybrid, and reports

  R@k    share of a question's evidence turns among the first k results, mean over questions (the figure of the literature)
  any@k  share of questions with at least one evidence turn among them (looser)
  all@k  share of questions with all of them (stricter)

Starts its own daemon (--daemon) in a temporary directory on a free port, or asks a running one (--url), which
keeps the memories then. Standard library only.

exit: 0 goals met, 1 not met, 2 could not measure, 77 skipped (no data)
"""
import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODES = ("text", "vector", "hybrid")
KS = (5, 10)
BULK = 500
GOALS = {5: 0.60, 10: 0.69}  # of hybrid, which must beat both other modes as well
PEERS = {5: 0.70, 10: 0.80}  # PEERS.md: the line to be ahead of in the end
FLOOR = {"plain BM25": (0.454, 0.537), "stems, stop words, neighbours": (0.605, 0.698)}
READY_S = 30


class Trouble(Exception):
    """The measurement could not be made."""


def turns_of(conversation):
    """[(dia_id, session number, content)] in the order of speaking."""
    sessions = sorted(int(m.group(1)) for m in (re.fullmatch(r"session_(\d+)", k) for k in conversation) if m)
    out = []
    for n in sessions:
        for t in conversation["session_%d" % n]:
            text = "%s: %s" % (t["speaker"], t["text"])
            if t.get("blip_caption"):
                text += " [image: %s]" % t["blip_caption"]
            out.append((t["dia_id"], n, text))
    return out


def questions_of(sample, known):
    """[(question, evidence ids, category)]. Evidence is written "D1:3", "D8:6; D9:17" and once "D:11:26";
    what names no turn is left out, and a question without any evidence left is not asked."""
    out = []
    for q in sample["qa"]:
        if q["category"] == 5:
            continue
        ids = {"D%s:%s" % m for e in q.get("evidence", []) for m in re.findall(r"D:?(\d+):(\d+)", e)}
        ids &= known
        if ids:
            out.append((q["question"], ids, q["category"]))
    return out


class Api:
    """One keep-alive connection."""

    def __init__(self, url):
        u = urllib.parse.urlsplit(url)
        self.http = http.client.HTTPConnection(u.hostname, u.port or 80, timeout=60)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        try:
            self.http.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            r = self.http.getresponse()
            text = r.read()
        except (OSError, http.client.HTTPException) as e:
            self.http.close()
            raise Trouble("%s %s: %s" % (method, path, e or type(e).__name__)) from e
        return r.status, text

    def post(self, path, body, expect):
        status, text = self.call("POST", path, body)
        if status != expect:
            raise Trouble("POST %s answered %d: %s" % (path, status, text[:500].decode("utf-8", "replace")))
        return json.loads(text)


class Daemon:
    """An orchestrad of our own: temporary directory, free port, gone afterwards."""

    def __init__(self, binary):
        self.dir = tempfile.mkdtemp(prefix="orc-locomo-")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = "http://127.0.0.1:%d" % port
        self.log = open(os.path.join(self.dir, "log"), "wb")
        try:
            self.process = subprocess.Popen(
                [os.path.abspath(binary), "--foreground",
                 "--set", "listen.tcp=127.0.0.1:%d" % port,
                 "--set", "listen.unix=" + os.path.join(self.dir, "orchestra.sock"),
                 "--set", "data.dir=" + os.path.join(self.dir, "data")],
                stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.dir)
        except OSError as e:
            self.remove()
            raise Trouble("cannot start %s: %s" % (binary, e)) from e

    def wait_ready(self):
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Trouble("the daemon ended with status %d" % self.process.returncode)
            try:
                if Api(self.url).call("GET", "/readyz")[0] == 200:
                    return
            except Trouble:
                pass
            time.sleep(0.02)
        raise Trouble("the daemon is not ready after %d s" % READY_S)

    def tail(self):
        with open(os.path.join(self.dir, "log"), "rb") as f:
            return f.read()[-3000:].decode("utf-8", "replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.remove()

    def remove(self):
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def store(api, namespace, turns):
    memories = [{"content": content, "namespace": namespace, "session_id": "session_%d" % n,
                 "metadata": {"dia_id": dia}} for dia, n, content in turns]
    for i in range(0, len(memories), BULK):
        part = memories[i:i + BULK]
        # ?wait=store: neighbours are looked up in the store, and the figure must not depend on the flusher's pace
        got = api.post("/v1/memories?wait=store", {"memories": part}, 201)
        if len(got.get("memories", [])) != len(part):
            raise Trouble("stored %d memories, was told of %d" % (len(part), len(got.get("memories", []))))


def ask(api, namespace, question, mode):
    got = api.post("/v1/memories/search",
                   {"query": question, "namespace": namespace, "mode": mode, "limit": max(KS)}, 200)
    if mode in got.get("degraded", []) or (mode == "hybrid" and got.get("degraded")):
        raise Trouble("mode %s is degraded: %s" % (mode, got["degraded"]))
    return [r["metadata"]["dia_id"] for r in got["results"]]


def measure(api, samples, prefix):
    """{mode: {"n", "r@5", …, "by_category", "p50_ms"}}"""
    sums = {m: {} for m in MODES}
    took = {m: [] for m in MODES}
    stored = 0
    for sample in samples:
        namespace = prefix + sample["sample_id"]
        turns = turns_of(sample["conversation"])
        store(api, namespace, turns)
        stored += len(turns)
    for sample in samples:
        namespace = prefix + sample["sample_id"]
        known = {t[0] for t in turns_of(sample["conversation"])}
        for question, evidence, category in questions_of(sample, known):
            for mode in MODES:
                start = time.perf_counter()
                found = ask(api, namespace, question, mode)
                took[mode].append(time.perf_counter() - start)
                if len(set(found)) != len(found) or len(found) > max(KS):
                    raise Trouble("mode %s: %d results, %d different" % (mode, len(found), len(set(found))))
                for group in ("all", "category %d" % category, sample["sample_id"]):
                    row = sums[mode].setdefault(group, [0] + [0.0] * (3 * len(KS)))
                    row[0] += 1
                    for i, k in enumerate(KS):
                        share = len(evidence & set(found[:k])) / len(evidence)
                        row[1 + 3 * i] += share
                        row[2 + 3 * i] += share > 0
                        row[3 + 3 * i] += share == 1
    out = {"memories": stored, "questions": sums["text"]["all"][0], "modes": {}}
    for mode in MODES:
        groups = {}
        for group, row in sums[mode].items():
            groups[group] = {"n": row[0]}
            for i, k in enumerate(KS):
                for j, name in enumerate(("R", "any", "all")):
                    groups[group]["%s@%d" % (name, k)] = round(row[1 + 3 * i + j] / row[0], 4)
        out["modes"][mode] = dict(groups.pop("all"), groups=groups,
                                  p50_ms=round(sorted(took[mode])[len(took[mode]) // 2] * 1e3, 2))
    return out


def judge(result):
    """[(what, met)]"""
    modes = result["modes"]
    out = [("hybrid R@%d %.3f >= %.2f" % (k, modes["hybrid"]["R@%d" % k], GOALS[k]),
            modes["hybrid"]["R@%d" % k] >= GOALS[k]) for k in KS]
    for other in ("text", "vector"):
        for k in KS:
            a, b = modes["hybrid"]["R@%d" % k], modes[other]["R@%d" % k]
            out.append(("hybrid R@%d %.3f > %s %.3f" % (k, a, other, b), a > b))
    return out


def report(result, verdicts):
    columns = ["%s@%d" % (name, k) for k in KS for name in ("R", "any", "all")]
    print("LoCoMo evidence recall: %d memories, %d questions" % (result["memories"], result["questions"]))
    print("%-30s" % "mode" + "".join("%9s" % c for c in columns) + "%9s" % "p50 ms")
    for mode, row in result["modes"].items():
        print("%-30s" % mode + "".join("%9.3f" % row[c] for c in columns) + "%9.2f" % row["p50_ms"])
        if mode == "hybrid":
            for group, r in sorted(row["groups"].items()):
                print("%-30s" % ("  %s (n=%d)" % (group, r["n"])) + "".join("%9.3f" % r[c] for c in columns))
    for name, (a, b) in FLOOR.items():
        print("%-30s%9.3f%18s%9.3f" % ("(floor) " + name, a, "", b))
    print("%-30s%9.3f%18s%9.3f" % ("(PEERS goal)", PEERS[5], "", PEERS[10]))
    for what, met in verdicts:
        print("%-4s %s" % ("ok" if met else "FAIL", what))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_mutually_exclusive_group()
    where.add_argument("--daemon", default=os.path.join(ROOT, "build", "orchestrad"), help="binary to start (default build/orchestrad)")
    where.add_argument("--url", help="a running daemon instead")
    p.add_argument("--data", default=os.path.join(os.environ.get("ORC_DATA", os.path.join(ROOT, "..", "shared", "data")),
                                                  "locomo", "locomo-dev5.json"), help="file of conversations")
    p.add_argument("--json", help="write the figures here as well")
    p.add_argument("--prefix", default="locomo-%d-" % int(time.time()), help="of the namespaces' names")
    a = p.parse_args()
    if not os.path.exists(a.data):
        print("SKIPPED: no LoCoMo data at %s" % os.path.normpath(a.data), file=sys.stderr)
        return 77
    with open(a.data, encoding="utf-8") as f:
        samples = json.load(f)
    daemon = None
    try:
        if not a.url:
            daemon = Daemon(a.daemon)
            daemon.wait_ready()
        result = measure(Api(a.url or daemon.url), samples, a.prefix)
    except Trouble as e:
        print("locomo: %s" % e, file=sys.stderr)
        if daemon:
            print("the daemon's log ends:\n%s" % daemon.tail(), file=sys.stderr)
        return 2
    finally:
        if daemon:
            daemon.stop()
    verdicts = judge(result)
    result["goals"] = [{"goal": what, "met": met} for what, met in verdicts]
    report(result, verdicts)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
    return 0 if all(met for _, met in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
