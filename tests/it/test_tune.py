"""orchestractl tune vectors, against a real daemon.

Broken code that this would catch: a memory that finds itself and counts, recall that is measured against anything but the true
nearest, targets that are not what is sent, figures of another row, a recommendation that finds too little, an exit status of 0 for
bad input, a terminal's colours in a file, a recommendation that is not what is set, or is set unasked.
"""
import json
import os
import random
import signal
import subprocess
import time
import xml.etree.ElementTree as ET

import pytest

from orchestra import BUILD, Orchestra, until

DIM, ROWS = 16, 3000
SMALL_STAGES = ["vectors.exact_bytes=0", "vectors.flat_rows=64"]
NOISE = random.Random(7)


def vector():
    """Noise: no list holds all that is near to it, so that targets differ."""
    return [round(NOISE.gauss(0, 1), 4) for _ in range(DIM)]


def fill(o, namespace, vectors):
    for i in range(0, len(vectors), 500):
        r = o.post("/v1/memories", {"memories": [{"content": f"memory {i + k}", "namespace": namespace, "embedding": x}
                                                 for k, x in enumerate(vectors[i:i + 500])]})
        assert r.status == 201, r


def asked(o, namespace, x, **fields):
    r = o.post("/v1/memories/search", {"namespace": namespace, "embedding": x, "explain": True, **fields})
    assert r.status == 200, r
    return r.json


def lists_of(o, namespace):
    """The number of lists, once it has stayed the same for a while: they are made in the background, and those of a namespace that
    grew in a burst a second or two behind it."""
    def now():
        return asked(o, namespace, [1.0] * DIM)["explain"].get("vector_lists", {}).get("lists", 0)

    def settled():
        n = now()
        time.sleep(3)
        return n > 1 and n == now() and n
    return until(settled, 60)


@pytest.fixture(scope="module")
def daemon_with_lists():
    with Orchestra(sets=SMALL_STAGES) as o:
        rows = [vector() for _ in range(ROWS)]
        fill(o, "noise", rows)
        lists_of(o, "noise")
        yield o, rows


def tune(o, *args, **kw):
    return o.ctl("tune", "vectors", *args, **kw)


def tuned(o, *args, code=0, **kw):
    r = tune(o, "--json", *args, **kw)
    assert r.returncode == code, r
    return json.loads(r.stdout)


def targets(out):
    return [p for p in out["points"] if p["target"] is not None]


def test_the_figures_fit_together(daemon_with_lists):
    o, rows = daemon_with_lists
    out = tuned(o, "--namespace", "noise", "--sample", "60", "--probes", "4,1")
    assert (out["namespace"], out["memories"], out["questions"], out["limit"]) == ("noise", ROWS, 60, 10)
    assert out["tier"] == "index" and out["lists"] == lists_of(o, "noise")
    assert (out["wanted"], out["configured"]) == (0.98, 98)
    points = targets(out)
    assert [p["target"] for p in points] == [0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1]
    assert [p["probes"] for p in out["points"][len(points):]] == [1, 4]
    for p in out["points"]:
        assert p["answers"] == 60 * out["rounds"] >= 1000
        assert 0 < p["vector_us"]["p50"] <= p["vector_us"]["p99"]
        assert p["vector_us"]["p50"] < p["request_us"]["p50"] <= p["request_us"]["p99"]
    for low, high in zip(points, points[1:]):
        assert high["recall"] >= low["recall"] - 0.02
    for low, high in zip(points[:-1], points[1:-1]):
        assert low["read"] <= high["read"] <= out["lists"] and low["codes"] <= high["codes"] <= ROWS
    every = points[-1]
    assert (every["recall"], every["read"], every["compared"]) == (1, 0, ROWS)
    assert points[4]["recall"] > 0.9 and points[0]["compared"] < ROWS
    one, four = out["points"][-2:]
    assert (one["read"], four["read"]) == (1, 4) and one["recall"] < four["recall"] < 1


def test_recall_is_what_comparing_all_vectors_says(daemon_with_lists, tmp_path):
    """Counted here from the vectors themselves."""
    o, rows = daemon_with_lists
    questions = [vector() for _ in range(40)]
    file = tmp_path / "questions"
    file.write_text("".join(json.dumps({"embedding": x, "limit": 3, "namespace": "other"}) + "\n\n" for x in questions))
    out = tuned(o, "--namespace", "noise", "--queries", str(file), "--probes", "2", "--limit", "7")
    norms = [sum(a * a for a in y) ** 0.5 for y in rows]
    found = 0
    for x in questions:
        order = sorted(range(ROWS), key=lambda i: -sum(a * b for a, b in zip(x, rows[i])) / norms[i])
        nearest = {f"memory {i}" for i in order[:7]}
        found += sum(r["content"] in nearest for r in asked(o, "noise", x, limit=7, probes=2)["results"])
    assert (out["questions"], out["limit"]) == (40, 7)
    assert abs(out["points"][-1]["recall"] - found / 280) < 0.005
    assert 0.05 < out["points"][-1]["recall"] < 0.95                            # else this says nothing


def test_a_memory_does_not_find_itself(daemon_with_lists):
    o, _ = daemon_with_lists
    out = tuned(o, "--namespace", "noise", "--sample", "100", "--limit", "1", "--probes", "1")
    assert out["points"][-1]["recall"] < 0.9                                    # it lies in the list that is read
    assert targets(out)[-1]["recall"] == 1


@pytest.mark.parametrize("wanted", ["0.5", "0.9", "0.99", "1"])
def test_the_smallest_target_that_finds_enough_is_recommended(daemon_with_lists, wanted):
    o, _ = daemon_with_lists
    out = tuned(o, "--namespace", "noise", "--sample", "50", "--recall", wanted)
    enough = [p for p in targets(out) if p["recall"] >= float(wanted)]
    assert out["wanted"] == float(wanted)
    assert out["recommended"] == {"key": "vectors.recall", "value": round(enough[0]["target"] * 100),
                                  "recall": enough[0]["recall"]}


def test_what_people_see(daemon_with_lists, tmp_path):
    o, _ = daemon_with_lists
    svg = tmp_path / "curve.svg"
    r = tune(o, "--namespace", "noise", "--sample", "50", "--svg", str(svg), "--probes", "8", "--recall", "0.6")
    assert r.returncode == 0 and r.stderr == "", r
    assert "\033" not in r.stdout and "\r" not in r.stdout and all(len(line) <= 130 for line in r.stdout.splitlines())
    assert f"Namespace noise: {ROWS} memories" in r.stdout and "\nRecommended: vectors.recall = 80: " in r.stdout
    rows = [line.split() for line in r.stdout.splitlines()]
    assert ["TARGET", "RECALL", "VECTORS", "P99", "REQUEST", "P99", "LISTS", "CODES", "COMPARED"] in rows
    assert ["1.00", "1.0000"] in [row[:2] for row in rows] and ["8", "lists"] in [row[:2] for row in rows]
    assert "* recommended" in r.stdout and "microseconds for the vectors, p50" in r.stdout
    root = ET.parse(svg).getroot()
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 8 and sum(c.get("class") == "best" for c in circles) == 1
    assert "Recall@10 of noise, 3000 memories, 50 questions" in [t.text for t in root.iter()]


def test_a_small_namespace_has_nothing_to_tune():
    with Orchestra() as plain:
        fill(plain, "few", [vector() for _ in range(20)])
        r = tune(plain, "--namespace", "few")
        assert r.returncode == 0 and "All vectors of namespace few are compared (20 memories)" in r.stdout, r
        assert "nothing to tune" in r.stdout
        out = tuned(plain, "--namespace", "few")
        assert (out["lists"], out["points"], out["recommended"], out["questions"]) == (0, [], None, 20)
        r = tune(plain, "--namespace", "few", "--apply")
        assert r.returncode == 0 and "nothing to tune" in r.stdout, r


def test_bad_input(daemon_with_lists, tmp_path):
    o, _ = daemon_with_lists

    def refused(code, text, *args, stdin=None):
        r = tune(o, *args, stdin=stdin)
        assert r.returncode == code and text in r.stderr and r.stdout == "", r
    refused(1, "no such namespace", "--namespace", "nobody")
    refused(1, "holds no question", "--queries", "/dev/null", "--namespace", "noise")
    refused(1, "cannot read", "--queries", str(tmp_path / "none"))
    refused(1, "cannot read", "--queries", str(tmp_path))
    refused(1, "line 3: ", "--queries", "-", stdin='{"query":"a"}\n\n{"query":\n')
    refused(1, "line 1: has neither", "--queries", "-", stdin='{"filter":{}}\n')
    refused(1, "16 dimensions, this one has 2", "--namespace", "noise", "--queries", "-", stdin='{"embedding":[1,2]}\n')
    refused(1, "cannot compare", "--namespace", "noise", "--queries", "-", stdin="a text, for vectors of a client's own\n")
    for args in (["--sample", "0"], ["--sample", "x"], ["--sample", "10001"], ["--limit", "1000"], ["--recall", "0.4"],
                 ["--recall", "nan"], ["--recall", "1.1"], ["--probes", "0"], ["--probes", "1,"], ["--probes", "1;2"],
                 ["--queries", "x", "--sample", "3"], ["--svg"], ["--nothing"], ["more"]):
        refused(2, "orchestractl: tune", *args)
    assert o.ctl("tune").returncode == 2 and o.ctl("tune", "words").returncode == 2
    assert o.ctl("tune", "--help").stdout.startswith("Usage: orchestractl tune vectors")
    r = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", "/nowhere/s", "tune", "vectors"],
                       capture_output=True, text=True)
    assert r.returncode == 3 and "no daemon answers" in r.stderr, r


def test_a_curve_that_cannot_be_written_is_told(daemon_with_lists, tmp_path):
    o, _ = daemon_with_lists
    r = tune(o, "--namespace", "noise", "--sample", "60", "--svg", str(tmp_path / "no" / "x"))
    assert r.returncode == 1 and "cannot write" in r.stderr and "Recommended" in r.stdout, r


def test_an_interrupt_ends_it(daemon_with_lists):
    o, _ = daemon_with_lists
    p = subprocess.Popen([os.path.join(BUILD, "orchestractl"), "--socket", o.socket, "tune", "vectors", "--namespace", "noise",
                          "--sample", "3000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.7)                                                             # of some ten seconds
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20)
    assert (p.returncode, out) == (-signal.SIGINT, "") and "interrupted" in err


def test_what_is_recommended_is_put_into_force(make):
    o = make(conf="", sets=SMALL_STAGES)
    fill(o, "noise", [vector() for _ in range(800)])
    lists_of(o, "noise")
    args = ("--namespace", "noise", "--sample", "60", "--recall", "0.5", "--apply")
    r = tune(o, *args, stdin="y\n")
    assert r.returncode == 1 and "there is no terminal to ask at; say --yes" in r.stderr, r
    assert o.ctl("config", "get", "vectors.recall").stdout.strip() == "98"
    r = tune(o, *args, "--yes")
    assert r.returncode == 0 and "vectors.recall is 80 now" in r.stderr, r
    assert o.ctl("config", "get", "vectors.recall", "--source").stdout == "80  (tried)\n"
    entry = o.get("/v1/admin/audit?what=tune").json["entries"][0]
    assert entry["changes"][0]["to"] == "80" and entry["reason"].startswith("tune vectors on namespace noise: recall ")
    assert o.ctl("config", "save").returncode == 0
    with open(os.path.join(o.dir, "orchestra.conf")) as f:
        assert f.read() == "vectors: {\n\trecall = 80;\n};\n"
    r = tune(o, *args)
    assert r.returncode == 0 and "vectors.recall is 80 already" in r.stderr, r
    assert ", as it is: " in r.stdout


def test_a_setting_that_goes_before_the_file_is_named(make):
    o = make(sets=SMALL_STAGES + ["vectors.recall=93"])
    fill(o, "noise", [vector() for _ in range(800)])
    lists_of(o, "noise")
    r = tune(o, "--namespace", "noise", "--sample", "60", "--recall", "0.5", "--apply", "--yes")
    assert r.returncode == 1 and "vectors.recall is fixed by the flag --set" in r.stderr, r
    assert "with 93 as it is" in r.stdout
    assert 0.93 in [p["target"] for p in targets(tuned(o, "--namespace", "noise", "--sample", "60"))]
