"""What traces cost an api worker: instructions a request without them, with them where nothing is sampled, and where a tenth and all are. By
callgrind, which counts the same on a busy machine; the difference of two runs that differ in their requests alone, so that start and end do not
count."""
import glob
import http.client
import json
import os
import re
import subprocess
import sys
import time

import rig as r

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "chaos"))
MODES = (("off", None), ("on, none sampled", 0), ("on, 10 % sampled", 100000), ("on, all sampled", 1000000))
FEW = 300  # and so many more that what the daemon does by itself meanwhile is nothing beside them


def shim(rig):
    from valgrind import SHIM
    with open(rig.path("shim.c"), "w") as f:
        f.write(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", f'-DPROGRAM="{rig.build}/orchestrad"', "-o", rig.path("shim.so"), rig.path("shim.c"), "-ldl"], check=True)
    return rig.path("shim.so")


def instructions(rig, lib, name, ratio, ask, n):
    """Of the api worker's whole life, with n requests in it."""
    import orchestra
    from otlp import Receiver
    out, receiver = rig.path(name), Receiver()
    os.makedirs(out)
    sets = ["api.workers=1", "daemon.sandbox=off", "daemon.drain_timeout=5 min", "daemon.ready_timeout=5 min", "daemon.stuck_timeout=0 s", "log.level=warn"]
    sets += [] if ratio is None else [f"trace.endpoint={receiver.url}", f"trace.ratio={ratio}", "trace.slow=0 s"]
    orchestra.SLOW = 20
    with orchestra.Orchestra(directory=out, sets=sets, env={"LD_PRELOAD": lib}, start=False,
                             prefix=["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={out}/%p.callgrind", f"--log-file={out}/%p.log"]) as d:
        d.start(wait=False)
        while "LISTEN" not in subprocess.run(["ss", "-Hltn", f"sport = :{d.port}"], capture_output=True, text=True).stdout:
            time.sleep(0.2)
        time.sleep(5)                                              # who asks whether it is ready costs what is not to be measured
        d.wait_ready()
        first = ask(d, None, 0)
        c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=600)
        for i in range(n):
            ask(c, first, i)
        c.close()
        d.stop(300)
    receiver.close()
    assert not receiver.wrong, receiver.wrong
    for path in glob.glob(f"{out}/*.log"):
        text = open(path).read()
        if "--role=api" in text and (found := re.search(r"Collected\s*:\s*(\d+)", text)):
            return int(found[1])
    raise r.Skip("callgrind has counted nothing")


def say(c, method, path, body=None):
    c.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"} if body else {})
    a = c.getresponse()
    a.read()
    assert a.status in (200, 201), a.status


def hit(c, first, i):
    if first is None:
        return c.add("Ada likes her tea without sugar.")["id"]
    say(c, "GET", f"/v1/memories/{first}")


def search(c, first, i):
    if first is None:
        for k in range(50):
            c.add(f"turn {k}: Ada asks for train {k * 7} to Leeds")
        return True
    say(c, "POST", "/v1/memories/search", {"query": f"train {i} to Leeds"})


def add(c, first, i):
    if first is not None:
        say(c, "POST", "/v1/memories", {"content": f"memory number {i}"})
    return True


def run(rig, report):
    if not r.have("valgrind"):
        raise r.Skip("valgrind is not installed")
    lib = shim(rig)
    for what, ask, many in (("hit of L1", hit, 10000), ("add", add, 2500), ("search", search, 1500)):
        base = None
        for label, ratio in MODES:
            name = f"{what} {label}".replace(" ", "-").replace("%", "p").replace(",", "")
            few = instructions(rig, lib, name + "-few", ratio, ask, FEW)
            each = (instructions(rig, lib, name + "-many", ratio, ask, many) - few) / (many - FEW)
            base = base or each
            report.add("traces", f"{what}, {label}", each, "instructions", None if each is base else base, "off",
                       None if each is base else {"median": each / base, "least": each / base, "most": each / base}, better="less")
