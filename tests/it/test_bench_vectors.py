"""The rig of make bench-vectors on a data set of 2,000 rows: its programs run, and what they say is true."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from orchestra import BUILD

np = pytest.importorskip("numpy", reason="data sets are made with numpy (apt-get install python3-numpy)")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ANN = os.path.join(ROOT, "tests", "bench", "ann")
sys.path.insert(0, ANN)
import curve  # noqa: E402


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def directory(cache):
    env = {**os.environ, "ORCHESTRA_BENCH_CACHE": cache, "OPENBLAS_NUM_THREADS": "1"}
    r = subprocess.run([sys.executable, "-B", os.path.join(ANN, "sets.py"), "s2k"], env=env, capture_output=True, text=True, check=True)
    return r.stdout.strip()


def rows(directory, name, dtype="<f4"):
    with open(os.path.join(directory, "meta.json")) as f:
        meta = json.load(f)
    width = meta["k"] if name == "truth.u32" else meta["d"]
    return np.fromfile(os.path.join(directory, name), dtype).reshape(-1, width)


def said(*argv):
    r = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert r.returncode == 0, r.stderr
    return {line.get("parameter"): line for line in map(json.loads, r.stdout.splitlines())}


def test_a_set_is_what_it_says(directory):
    base, queries, truth = rows(directory, "base.f32"), rows(directory, "queries.f32"), rows(directory, "truth.u32", "<u4")
    assert base.shape == (2000, 64) and queries.shape == (1000, 64) and truth.shape == (1000, 10)
    assert np.allclose(np.linalg.norm(base, axis=1), 1, atol=1e-5) and np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    scores = queries.astype(float) @ base.T.astype(float)
    kept = np.take_along_axis(scores, truth.astype(int), 1)
    assert np.allclose(kept, -np.sort(-scores, axis=1)[:, :10], atol=1e-5)  # the ten best, the best first
    assert len(np.unique(np.concatenate([base, queries]), axis=0)) == 3000  # no question is among the rows


def test_ours_is_measured(directory):
    subprocess.run(["make", "-s", "-C", BUILD, "tests/bench/ann/ours"], check=True, stdout=subprocess.DEVNULL)
    program = os.path.join(BUILD, "tests", "bench", "ann", "ours")
    words = ("recluster", "beside=1000", "automatic", "recall=0.9", "probes=1", "exact", "allow=0.05")
    found = said(program, directory, 0.1, *words)
    assert set(words) <= set(found)
    assert found["exact"]["recall"] > 0.999 and found["allow=0.05"]["recall"] > 0.9
    assert all(found[w]["searches"] > 0 and 0 < found[w]["p50_us"] <= found[w]["p99_us"] for w in words)
    assert found[None]["rows"] == 2000 and found[None]["bytes_row"] > 0


def test_wrong_answers_lower_the_recall(directory, tmp_path):
    """Half of the truth is spoilt: an exact search finds the other half."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(directory, spoilt)
    truth = rows(directory, "truth.u32", "<u4")
    truth[:, 5:] = 2**32 - 1
    truth.tofile(spoilt / "truth.u32")
    subprocess.run(["make", "-s", "-C", BUILD, "tests/bench/ann/ours"], check=True, stdout=subprocess.DEVNULL)
    found = said(os.path.join(BUILD, "tests", "bench", "ann", "ours"), spoilt, 0.1, "exact")
    assert found["exact"]["recall"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name, header, words", [
    ("hnswlib", "/usr/include/hnswlib/hnswlib.h", ("64", "512")),
    ("faiss", "/usr/include/faiss/Index.h", ("Flat", "-"))])
def test_peers_are_measured(directory, cache, tmp_path, name, header, words):
    if not os.path.exists(header) or not shutil.which("g++"):
        pytest.skip(f"{name} is not installed")
    import engines
    program = getattr(engines, name)(str(tmp_path))
    index = os.path.join(cache, name)
    built = said(program, directory, index, 0.1, *words[:1])
    again = said(program, directory, index, 0.1, *words)
    assert again[None] == built[None] and built[None]["rows"] == 2000  # kept, not built again
    assert max(x["recall"] for k, x in again.items() if k) > 0.99


def test_speed_at_a_recall():
    points = [(0.9, 1000), (0.99, 100), (0.95, 90), (0.8, 500)]
    assert curve.front(points) == [(0.9, 1000), (0.99, 100)]
    assert curve.at(points, 0.945) == pytest.approx(1000 * 0.1 ** 0.5)
    assert curve.at(points, 0.99) == pytest.approx(100) and curve.at(points, 0.995) is None and curve.at(points, 0.5) == 1000


def test_a_curve_is_drawn_alike_each_time(tmp_path):
    if not shutil.which("gnuplot"):
        pytest.skip("gnuplot is not installed (apt-get install gnuplot-nox)")
    head = ("Engine", "Setting", "Recall@10", "p50", "p99", "searches/CPU-s", "searches/s")
    lines = [("ours", "a", "0.9500", "", "", "2,000", ""), ("hnswlib", "b", "0.9000", "", "", "900", ""), ("hnswlib", "c", "0.9900", "", "", "90", "")]
    bench = {"only": ["vectors"], "rows": [
        {"group": "vectors-x", "name": "sheet", "caption": "some rows", "head": ("Engine", "Bytes"), "lines": [("ours", "1")]},
        {"group": "curve-x", "name": "sheet", "caption": "some rows", "head": head, "lines": lines}]}
    with open(tmp_path / "bench.json", "w") as f:
        json.dump(bench, f)
    drawn = []
    for to in ("one", "two"):
        (tmp_path / to).mkdir()
        document = tmp_path / to / "page.md"
        document.write_text("before\n<!-- bench:vectors-x -->\nold\n<!-- /bench:vectors-x -->\nafter\n")
        subprocess.run([sys.executable, "-B", os.path.join(ROOT, "tests", "bench", "document.py"), tmp_path / "bench.json", document], check=True)
        text = document.read_text()
        assert "| ours | 1 |" in text and "(img/vectors-x.svg)" in text and "old" not in text and text.endswith("after\n")
        drawn.append((tmp_path / to / "img" / "vectors-x.svg").read_text())
    assert drawn[0] == drawn[1] and "hnswlib" in drawn[0] and str(tmp_path) not in drawn[0]
