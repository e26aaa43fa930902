"""Whether what the daemon sends as OTLP/JSON is what the OpenTelemetry project's own definitions know: real traces of a real daemon, put through the
npm package @opentelemetry/otlp-transformer (otlp.mjs). A job of CI; needs npm and the registry.

    otlp_check.py"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from orchestra import Orchestra, until  # noqa: E402
from otlp import Receiver  # noqa: E402

PACKAGE = "@opentelemetry/otlp-transformer@0.203.0"


def traces():
    """What a receiver gets of some of everything: writes, reads, searches, errors, pings, batches with links."""
    r = Receiver()
    with Orchestra(sets=[f"trace.endpoint={r.url}", "trace.ratio=1000000", "api.workers=1",
                         "pinger.targets=" + json.dumps([{"name": "dead é", "url": "http://127.0.0.1:1/", "interval": "200 ms"}])]) as o:
        h = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=a\"b"}
        for i in range(10):
            m = o.post("/v1/memories?namespace=caf%C3%A9&wait=store", {"content": f"memory {i}"}, headers=h).json
            o.get(f"/v1/memories/{m['id']}")
            o.post("/v1/memories/search", {"query": "memory", "namespace": "café"})
        o.get("/v1/memories/nothing")
        until(lambda: any(s.links for s in r.spans) and any(s.failed for s in r.spans) and sum(s.kind == 2 for s in r.spans) >= 31)
    r.close()
    assert not r.wrong, r.wrong[0]
    return r


def main():
    r = traces()
    folder = tempfile.mkdtemp()
    try:
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        def judge(bodies, **how):
            return subprocess.run(["node", os.path.join(os.path.dirname(os.path.abspath(__file__)), "otlp.mjs")], input=b"\n".join(bodies),
                                  stdout=subprocess.PIPE, env={**os.environ, "OTLP_MODULES": folder}, **how)
        for was, wrong in ((b'"startTimeUnixNano"', b'"startTimeUnixNanos"'), (b'"intValue":"', b'"integerValue":"'), (b'"kind":2', b'"kind":"two"')):
            assert judge([r.bodies[0].replace(was, wrong)], stderr=subprocess.DEVNULL).returncode, f"{wrong} was let through"
        said = judge(r.bodies, check=True).stdout
    finally:
        shutil.rmtree(folder)
    assert int(said) == len(r.spans) > 50, (said, len(r.spans))
    print(f"{PACKAGE}: {len(r.bodies)} requests with {len(r.spans)} spans are what they should be")


if __name__ == "__main__":
    main()
