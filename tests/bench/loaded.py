"""A data directory with so many memories, made once a run: what search, start-up and footprint are measured on."""
import json
import os
import shutil

import rig as r
from corpus import Corpus
from suite_add import metric

BULK = 500
_made = {}


def texts(n):
    if n not in _made:
        _made[n] = Corpus().texts(n)
    return _made[n]


def directory(rig, n):
    """The directory; its daemon was stopped in order."""
    d = rig.path(f"loaded-{n}")
    if os.path.exists(os.path.join(d, "data", "complete")):
        return d
    shutil.rmtree(d, ignore_errors=True)
    all_texts = texts(n)
    with rig.daemon("", data=d) as o:
        for i in range(0, n, BULK):
            body = json.dumps({"memories": [{"content": t, "user_id": f"u{j % 50}", "session_id": f"s{j // 20}"}
                                            for j, t in enumerate(all_texts[i:i + BULK], i)]})
            for _ in range(600):
                reply = o.post("/v1/memories", body)
                if reply.status != 503:  # the store is behind: wait as Retry-After says
                    break
                r.time.sleep(1)
            assert reply.status == 201, reply
        r.wait_for(lambda: metric(o, "orchestra_journal_lag_records") == 0, 300, "the flush")
        o.stop(60)
    open(os.path.join(d, "data", "complete"), "w").close()
    return d
