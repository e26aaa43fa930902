"""Traces as a receiver of OTLP/HTTP gets them, from the real daemon. Broken code that this finds: a span that is no OTLP, a parent or a link that
leads nowhere, contents or ids of memories in a span, sampling that does not follow its caller, errors and slow requests that are not kept, a
receiver that is dead, slow, full or mad and is felt by clients, spans that vanish without being counted, settings that need a restart."""
import json
import os
import re
import signal
import threading
import time
import uuid

import pytest

from orchestra import SLOW, Orchestra, free_port, store_sets, until
from otlp import Receiver
from postgres import Postgres
from test_pinger import Double
from test_request_log import one


@pytest.fixture
def receiver():
    r = Receiver()
    yield r
    r.close()
    assert not r.wrong, r.wrong[0]


def traced(r, *sets, ratio=1000000):
    return [f"trace.endpoint={r.url}", f"trace.ratio={ratio}", "api.workers=1", *sets]


def conf(**trace):
    """A file's section: what a file says can be changed live, what the command line says cannot."""
    return "trace: { " + " ".join(f"{k} = {json.dumps(v)};" for k, v in trace.items()) + " };\n"


def tried(o, key, value):
    return o.ctl("set", key, value, "--watch", "0").returncode == 0


def parent(flags="01"):
    trace, span = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return trace, span, {"traceparent": f"00-{trace}-{span}-{flags}"}


def metric(o, name, labels=""):
    found = re.search(rf"^{re.escape(name + labels)} (\S+)$", o.get("/metrics").body.decode(), re.M)
    return float(found.group(1))


def dropped(o, reason):
    return metric(o, "orchestra_trace_spans_dropped_total", f'{{reason="{reason}"}}')


def whole(spans):
    """One root, and every other span is part of one that is there; within its time, but for what clocks differ by."""
    ids = {s.id: s for s in spans}
    assert len(ids) == len(spans)
    for s in spans:
        if s.kind != 2:
            assert s.parent in ids, s
            p = ids[s.parent]
            assert p.start - 1000000 <= s.start and s.end <= p.end + 1000000, (s, p)
    return {s.name for s in spans}


def test_what_a_trace_says(make, receiver):
    o = make(sets=traced(receiver, "listen.names=[\"memory.test\"]"))
    secret = "the content of a memory is nobody's business"
    trace, span, h = parent()
    added = o.post("/v1/memories?namespace=shop&wait=store", {"content": secret}, headers={**h, "tracestate": "vendor=abc,other=1", "X-Request-Id": "r-1", "Host": f"memory.test:{o.port}"})
    assert added.status == 201 and re.fullmatch(f"00-{trace}-[0-9a-f]{{16}}-01", added.headers["traceresponse"])
    root = until(lambda: receiver.root(trace))
    assert (root.id, root.parent, root.name, root.state) == (added.headers["traceresponse"][36:52], span, "POST /v1/memories", "vendor=abc,other=1")
    assert root.flags == 0x301 and not root.failed
    a = root.attributes
    assert (a["http.request.method"], a["http.route"], a["url.path"], a["http.response.status_code"], a["url.scheme"]) == ("POST", "/v1/memories", "/v1/memories", 201, "http")
    assert (a["server.address"], a["server.port"], a["orchestra.namespace"], a["orchestra.request_id"], a["orchestra.worker"]) == ("memory.test", o.port, "shop", "r-1", "api.0")
    steps = whole(receiver.of(trace))
    assert {"journal.commit", "store.wait"} <= steps
    flush = until(lambda: next((s for s in receiver.spans if s.name == "store.flush" and (trace, root.id) in s.links), None))
    assert flush.trace != trace and flush.attributes["db.system.name"] in ("sqlite", "postgresql") and flush.attributes["orchestra.worker"] == "sync"
    assert flush.attributes["orchestra.transactions"] >= 1 and flush.attributes["orchestra.bytes"] > 0

    id_ = added.json["id"]
    trace, span, h = parent()                                      # of L1: the path that makes no call
    got = o.get(f"/v1/memories/{id_}", headers={**h, "X-Request-Id": "r-hit"})
    assert got.status == 200 and got.headers["traceresponse"].startswith(f"00-{trace}-")
    root = until(lambda: receiver.root(trace))
    assert (root.parent, root.name, root.attributes["url.path"], root.attributes["orchestra.namespace"]) == (span, "GET /v1/memories/{id}", "/v1/memories/{id}", "shop")
    assert root.attributes["orchestra.cache_status"] == got.headers["Cache-Status"] and root.attributes["http.response.body.size"] == len(got.body)
    assert one(o, "r-hit")["trace_id"] == trace

    trace, _, h = parent()
    assert o.post("/v1/memories/search", {"query": "nobody's business", "namespace": "shop"}, headers=h).status == 200
    until(lambda: receiver.root(trace))
    assert {"queue.read", "embedding", "search.words", "search.vectors", "search.rank", "cache.l1"} <= whole(receiver.of(trace))
    trace, _, h = parent()
    assert o.get(f"/v1/memories/{id_}/history", headers=h).status == 200
    until(lambda: receiver.root(trace))
    reads = [s for s in receiver.of(trace) if s.name == "store.read"]
    assert reads and reads[0].kind == 3 and reads[0].attributes["db.system.name"]
    own = o.get("/v1/memories?namespace=shop", headers={"X-Request-Id": "r-own"}).headers["traceresponse"]     # begins here
    root = until(lambda: receiver.root(own[3:35]))
    assert root.parent is None and root.flags == 0x101 and one(o, "r-own")["trace_id"] == own[3:35]
    sent = b"".join(receiver.bodies).decode()
    assert secret not in sent and "nobody" not in sent and id_ not in sent and "namespace=shop" not in sent
    r = receiver.resources[0]
    assert r["service.name"] == "ai-orchestra" and r["service.version"] and {json.dumps(x) for x in receiver.resources} == {json.dumps(r)}
    assert until(lambda: metric(o, "orchestra_trace_spans_exported_total") >= len(receiver.spans))


def test_who_is_sampled(make, receiver):
    """Who calls decides; for what begins here its id does; errors and what is slow are kept in any case, and probes never."""
    o = make(sets=["api.workers=1"], conf=conf(endpoint=receiver.url, slow="0 ms", ratio=0))
    asked = [parent("00") for _ in range(3)] + [parent("01") for _ in range(3)]
    for _, _, h in asked:
        assert ("traceresponse" in o.get("/v1/memories", headers=h).headers) == h["traceparent"].endswith("01")
    for bad in ("00-" + "0" * 32 + "-" + "1" * 16 + "-01", "nonsense", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01"):
        assert "traceresponse" not in o.get("/v1/memories", headers={"traceparent": bad}).headers
    for trace, _, h in asked:
        if h["traceparent"].endswith("01"):
            until(lambda: receiver.root(trace))
    assert {s.trace for s in receiver.spans if s.kind == 2} == {t for t, _, h in asked if h["traceparent"].endswith("01")}

    # What is slow is kept, also when its caller has not sampled it.
    assert tried(o, "trace.slow", "200 ms")
    trace, span, h = parent("00")
    os.kill(o.workers()["sync"], signal.SIGSTOP)
    try:
        t = threading.Thread(target=lambda: o.request("POST", "/v1/memories", {"content": "x"}, headers=h, fresh=True), daemon=True)
        t.start()
        t.join(0.5 * SLOW)
    finally:
        os.kill(o.workers()["sync"], signal.SIGCONT)
    t.join()
    root = until(lambda: receiver.root(trace))
    assert root.parent == span and root.flags == 0x300 and not root.failed and root.end - root.start >= 200e6
    assert "journal.commit" in whole(receiver.of(trace))
    assert tried(o, "trace.slow", "0 ms")
    assert tried(o, "trace.ratio", "500000")
    n, before_ns = 200, time.time_ns()
    for _ in range(n):
        o.get("/v1/memories")
        o.get("/livez")
    until(lambda: sum(s.parent is None and s.kind == 2 for s in receiver.spans) > n / 4)
    trace, _, h = parent()
    o.get("/v1/memories", headers=h)
    until(lambda: receiver.root(trace))                            # what came before it has been sent as well
    roots = [s for s in receiver.spans if s.parent is None and s.kind == 2 and s.attributes["http.route"] != "/metrics"]
    assert len(roots) < n * 3 / 4 and {s.attributes["http.route"] for s in roots if s.start > before_ns} == {"/v1/memories"}
    assert all(int(s.trace[16:], 16) < 1 << 63 for s in roots) and len({s.trace for s in roots}) == len(roots)


def test_a_store_that_is_away(make, receiver):
    """503 because of the store: kept, failed, with the type of its problem; so is the batch that could not be stored."""
    o = make(sets=[*traced(receiver, "trace.slow=0 ms", ratio=0), "store.kind=postgres", f"store.dsn=host=127.0.0.1 port={free_port()} user=x dbname=x", "store.connect_timeout=200 ms"])
    assert o.get("/v1/memories?limit=1").status == 503 and o.get("/v1/memories:count").status == 503  # nobody knows that there is nothing
    for method, path, body in (("GET", "/v1/namespaces", None), ("GET", "/v1/namespaces/n", None), ("PATCH", "/v1/namespaces/n", {"quota_count": 1}), ("POST", "/v1/memories/search", {"query": "x"})):
        problem = o.request(method, path, body)
        assert problem.status == 503 and problem.json["type"].endswith(":store-unavailable"), (method, path, problem.body)
    root = until(lambda: next((s for s in receiver.spans if s.kind == 2), None), timeout=20)
    assert root.failed and root.attributes["http.response.status_code"] == 503 and root.attributes["error.type"] and root.flags == 0x100


def _status(o, path):
    try:
        return o.get(path, fresh=True).status
    except OSError:
        return 0


def test_pings(make, receiver):
    d = Double()
    d.answers = {"/bad": (500, "no")}
    o = make(conf=conf(endpoint=receiver.url, ratio=1000000), sets=["pinger.targets=" + json.dumps([
        {"name": "well", "url": d.url + "/well?token=verysecret", "interval": "200 ms"}, {"name": "bad", "url": d.url + "/bad", "interval": "200 ms"},
        {"name": "own", "url": d.url + "/own", "interval": "200 ms", "headers": {"Traceparent": "mine"}}])])
    well = until(lambda: next((s for s in receiver.spans if s.attributes.get("orchestra.target") == "well"), None))
    bad = until(lambda: next((s for s in receiver.spans if s.attributes.get("orchestra.target") == "bad"), None))
    assert (well.kind, well.name, well.attributes["http.response.status_code"], well.failed, well.parent) == (3, "GET", 200, False, None)
    assert (bad.attributes["http.response.status_code"], bad.failed, bad.attributes["error.type"]) == (500, True, "status")
    until(lambda: any(f"00-{well.trace}-{well.id}-01" == r.headers.get("traceparent") for r in d.seen))
    assert until(lambda: [r for r in d.seen if r.path == "/own"])[0].headers["traceparent"] == "mine"
    assert b"verysecret" not in b"".join(receiver.bodies)
    assert tried(o, "trace.ratio", "0")        # then callees are told that nobody listens
    until(lambda: (r := d.seen[-1].headers.get("traceparent", "")) and r.endswith("-00"))
    d.close()


def test_headers_and_settings_live(make, receiver):
    o = make(sets=["api.workers=2"], conf=conf(ratio=1000000))
    assert "traceresponse" not in o.get("/v1/memories").headers and metric(o, "orchestra_trace_queue_bytes") == 0
    assert "libcurl" not in open(f"/proc/{o.workers()['pinger']}/maps").read()
    assert tried(o, "trace.endpoint", receiver.url)
    assert "is a secret" in o.ctl("set", "trace.headers", "a=b", "--watch", "0").stderr
    o.conf = conf(ratio=1000000, headers="authorization=Bearer top%2Csecret,x-team=blue")
    o.command()                                                    # writes the file
    assert o.ctl("reload").returncode == 0
    o.get("/v1/memories")
    until(lambda: any(h.get("authorization") == "Bearer top,secret" and h["x-team"] == "blue" for _, h in receiver.requests))
    shown = o.get("/v1/admin/config").body + o.log().encode() + o.ctl("config").stdout.encode()
    shown += open(os.path.join(o.data, "audit.log"), "rb").read()
    assert b"top%2Csecret" not in shown and b"top,secret" not in shown
    assert tried(o, "trace.endpoint", "")
    until(lambda: "traceresponse" not in o.get("/v1/memories").headers)
    for key, bad in (("trace.endpoint", "localhost:4318"), ("trace.endpoint", "http://user:pw@host/"), ("trace.endpoint", "http:///v1"), ("trace.headers", "nothing"), ("trace.headers", "a b=c")):
        o.conf = conf(**{key.split(".")[1]: bad})
        o.command()
        r = o.ctl("reload")
        assert r.returncode != 0 and key in r.stderr and (key != "trace.headers" or bad not in r.stderr), (bad, r)


def test_receivers_that_do_not_work(make):
    """Dead, full, mad: clients notice nothing, spans wait or are counted, and it goes on when the receiver is back."""
    port = free_port()
    o = make(sets=["trace.endpoint=http://127.0.0.1:%d/v1/traces" % port, "trace.ratio=1000000", "api.workers=1"])
    for i in range(20):
        assert o.add(f"memory {i}")
    until(lambda: metric(o, "orchestra_trace_export_errors_total") >= 1)
    until(lambda: metric(o, "orchestra_trace_queue_bytes") > 1000)
    r = Receiver(port)                                             # it comes up later: nothing was lost
    until(lambda: sum(s.kind == 2 and s.name == "POST /v1/memories" for s in r.spans) == 20, timeout=40)
    assert not [k for k in ("full", "rate", "rejected", "unreachable", "broken") if dropped(o, k)]
    r.answer = (503, {"Retry-After": "2"}, b"not now")
    trace, _, h = parent()
    o.get("/v1/memories", headers=h)
    until(lambda: r.refused)
    r.answer = (200, {}, b"this is no JSON")
    root = until(lambda: r.root(trace), timeout=30)
    first = min(at for at, spans in r.refused if any(s.id == root.id for s in spans))
    assert r.requests[-1][0] - first >= 1.9                        # as it had asked for
    r.answer = (200, {}, json.dumps({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "too \u0007 old"}}).encode())
    o.get("/v1/memories")
    until(lambda: dropped(o, "rejected") >= 1)
    r.answer = (400, {}, b"{")
    before, errors = dropped(o, "rejected"), metric(o, "orchestra_trace_export_errors_total")
    o.get("/v1/memories")
    until(lambda: dropped(o, "rejected") > before and metric(o, "orchestra_trace_export_errors_total") > errors)
    r.answer, r.delay = (200, {}, b"{}"), 1
    began = time.monotonic()
    for _ in range(50):
        assert o.get("/v1/memories").status == 200
    assert time.monotonic() - began < 20 * SLOW                    # it takes a second for each of its own answers
    r.delay = 0
    trace, _, h = parent()
    o.get("/v1/memories", headers=h)
    until(lambda: r.root(trace), timeout=40)
    r.close()
    assert not r.wrong, r.wrong[0]


def test_rings_that_are_full_drop_and_count(make):
    o = make(sets=["trace.endpoint=http://127.0.0.1:%d/v1/traces" % free_port(), "trace.ratio=1000000", "api.workers=1"])
    m = o.add("x")
    n = 0
    while not dropped(o, "full"):
        for _ in range(500):
            assert o.get(f"/v1/memories/{m['id']}").status == 200
        n += 500
        assert n < 40000
    until(lambda: metric(o, "orchestra_trace_queue_bytes") > 1 << 19)


def test_workers_that_die(make, receiver):
    """A killed api worker's spans are sent, its successor's too; a killed pinger loses what it held at most."""
    o = make(sets=traced(receiver))
    for victim in ("api.0", "pinger", "sync"):
        old = o.workers()[victim]
        os.kill(old, signal.SIGKILL)
        until(lambda: o.workers().get(victim, old) != old)
        until(lambda: _status(o, "/readyz") == 200)
        o.close_connection()
        trace, _, h = parent()
        assert until(lambda: o.post("/v1/memories", {"content": f"after {victim}"}, headers=h).status == 201)
        until(lambda: receiver.root(trace), timeout=30)
    o.get("/readyz")
    o.close_connection()
    o.signal(signal.SIGUSR2)                                       # and over an upgrade of the binary
    until(lambda: "upgrade" in o.log().lower())
    trace, _, h = parent()
    until(lambda: _status(o, "/readyz") == 200)
    assert o.get("/v1/memories", headers=h).status == 200
    until(lambda: receiver.root(trace), timeout=30)


def test_postgres_is_told_which_trace_asks(receiver):
    """The statement of a sampled read ends in a comment that names the step it is for; others are prepared as they were."""
    with Postgres({"log_statement": "all"}, fsync=False) as pg, Orchestra(sets=[*store_sets(pg, "postgres"), *traced(receiver, ratio=0)]) as o:
        m = o.post("/v1/memories?wait=store", {"content": "asked of the store"}).json
        path = f"/v1/memories/{m['id']}/history"
        trace, _, h = parent("00")
        assert o.get(path, headers=h).status == 200 and trace not in open(pg.log_path).read()
        for _ in range(2):
            trace, _, h = parent("01")
            assert o.get(path, headers=h).status == 200
            until(lambda: receiver.root(trace))
            reads = {s.id for s in receiver.of(trace) if s.name == "store.read"}
            told = until(lambda: re.findall(rf"execute <unnamed>: SELECT .*/\*traceparent='00-{trace}-([0-9a-f]{{16}})-01'\*/$", open(pg.log_path).read(), re.M))
            assert reads & set(told) and set(told) <= {s.id for s in receiver.of(trace)}
        trace, _, h = parent("01")
        assert o.post("/v1/memories/search", {"query": "store", "filter": {"kind": "x"}}, headers=h).status == 200
        until(lambda: receiver.root(trace))
        assert {"search.filter"} <= whole(receiver.of(trace)) and trace in open(pg.log_path).read()
        before = len(re.findall("execute <unnamed>", open(pg.log_path).read()))
        assert o.get(path).status == 200
        assert len(re.findall("execute <unnamed>", open(pg.log_path).read())) == before and "execute s" in open(pg.log_path).read()
        names = [r[0] for r in pg.sql("SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name <> ''")]
        assert any(" api 0" in n or "api.0" in n for n in names) and any("sync" in n for n in names), names
        assert not [line for line in o.log().splitlines() if " error " in line]
