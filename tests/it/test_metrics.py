"""/metrics as Prometheus reads it, the alert rules, and what dashboards ask for. Broken code this would catch: a metric that is printed and not in
the table, or twice, or in a row that Prometheus refuses; a counter that shrinks when a worker dies or a reload comes; a histogram whose
buckets do not add up; an alert nobody tests; a rule or a panel that asks for a metric which does not exist."""
import glob
import json
import os
import re
import signal
import subprocess
import tempfile
import time

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_classic

import packages_npm
from orchestra import BUILD, Orchestra, until
from prometheus import RULES, Prometheus

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PROMETHEUS = os.path.dirname(RULES)
OPEN = "application/openmetrics-text; version=1.0.0"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# Of what is not there in a daemon by itself: Redis, a fleet, a TLS socket; and what an old kernel does not tell.
ABSENT = re.compile(r"orchestra_(redis|feed|tls_certificate)_|orchestra_worker_open_fds$")


def table():
    """{name: (type, labels)} of the table, as orchestrad itself says it."""
    text = subprocess.run([os.path.join(BUILD, "orchestrad"), "--dump-metrics"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| `(orchestra_\w+)` \| (\w+) \| (.*?) \| ", text, re.M)
    names = {n: (t, set(re.findall(r"`([a-z_]+)", labels))) for n, t, labels in rows}
    assert len(rows) == len(names) > 90  # once each
    assert len({n.removesuffix("_total") for n in names}) == len(names)  # as families of OpenMetrics, too
    return names


def scrape(o, accept=None):
    r = o.get("/metrics", headers={"Accept": accept} if accept else {}, fresh=True)
    assert r.status == 200
    return r.body.decode()


def samples(text):
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in parse_classic(text) for s in f.samples}


def busy(o, n=20):
    """Something of everything."""
    ids = [o.add(f"Ada likes tea number {i}") for i in range(n)]
    for i in ids:
        assert o.get(f"/v1/memories/{i['id']}").status == 200
    assert o.post("/v1/memories/search", {"query": "who likes tea?"}).status == 200
    assert o.get("/v1/nothing").status == 404
    return ids


@pytest.fixture(scope="module")
def used():
    with Orchestra(sets=["api.workers=1"]) as o:  # one: what it has answered it has counted before it answers again
        busy(o)
        yield o


def promtool(*args, **kw):
    return subprocess.run(["promtool", *args], capture_output=True, text=True, **kw)


# ---- the text ----

def test_promtool_has_no_complaint(used):
    r = promtool("check", "metrics", input=scrape(used))
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")


def test_every_row_of_the_table_is_there_once(used):
    text, rows = scrape(used), table()
    for kind in ("HELP", "TYPE"):
        heads = re.findall(rf"^# {kind} (\w+)", text, re.M)
        assert len(heads) == len(set(heads)), kind
        assert set(heads) <= set(rows)
        assert {n for n in rows if n not in heads and not ABSENT.match(n)} == set()
    assert {n: t for n, t in re.findall(r"^# TYPE (\w+) (\w+)", text, re.M)}.items() <= {n: t for n, (t, _) in rows.items()}.items()
    for f in parse_classic(text):
        for s in f.samples:
            name = next(n for n in (s.name, s.name.rsplit("_", 1)[0]) if n in rows)
            assert set(s.labels) - {"le"} <= rows[name][1], s


def test_histograms_add_up(used):
    text, seen = scrape(used), 0
    for f in parse_classic(text):
        if f.type != "histogram":
            continue
        by = {}
        for s in f.samples:
            row = by.setdefault(tuple(sorted((k, v) for k, v in s.labels.items() if k != "le")), {"le": []})
            if s.name.endswith("_bucket"):
                row["le"].append((float(s.labels["le"].replace("+Inf", "inf")), s.value))
            else:
                row[s.name.removeprefix(f.name)] = s.value
        for labels, row in by.items():
            edges, counts = zip(*row["le"])
            assert list(edges) == sorted(edges) and edges[-1] == float("inf") and list(counts) == sorted(counts), labels
            assert counts[-1] == row["_count"] and (row["_sum"] > 0) == (row["_count"] > 0)
            if f.name.endswith("_seconds"):  # no bucket ends before the least, nor does any begin behind the greatest of what is in it
                low = sum((counts[i] - (counts[i - 1] if i else 0)) * (edges[i - 1] if i else 0) for i in range(len(edges)))
                assert low <= row["_sum"] * (1 + 1e-9)
            seen += row["_count"] > 0
    assert seen >= 10


def test_requests_are_timed_by_route(used):
    m = samples(scrape(used))
    for route, method in (("/v1/memories/{id}", "GET"), ("/v1/memories", "POST"), ("/v1/memories/search", "POST"), ("none", "any")):
        key = (("method", method), ("route", route))
        n = m[("orchestra_http_request_duration_seconds_count", key)]
        answered = sum(v for (name, labels), v in m.items() if name == "orchestra_http_requests_total" and set(key) <= set(labels))
        assert 0 < n == answered, route
        q = [m[("orchestra_http_request_latency_seconds", tuple(sorted(dict(key, quantile=q).items())))] for q in ("0.5", "0.95", "0.99")]
        assert 0 < q[0] <= q[1] <= q[2]
    for name in ("write_ack", "journal_commit", "store_flush"):
        assert until(lambda name=name: samples(scrape(used))[(f"orchestra_{name}_duration_seconds_count", ())])
    assert m[("orchestra_journal_group_transactions_sum", ())] == m[("orchestra_journal_records_total", ())]


def test_a_pipeline_is_timed_request_by_request(used):
    def timed():
        return samples(scrape(used)).get(("orchestra_http_request_duration_seconds_count", (("method", "GET"), ("route", "/v1/memories/{id}"))))
    before = timed()
    one = b"GET /v1/memories/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    id_ = used.list(limit=1)["memories"][0]["id"].encode()
    burst = one % (id_, b"") * 7 + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + one % (id_, b"") * 4
    assert used.raw(burst + one % (id_, b"Connection: close\r\n")).count(b"HTTP/1.1 200") == 13
    assert timed() == before + 12


def test_workers(used):
    m = samples(scrape(used))
    for w in used.workers():
        key = (("role", w.split(".")[0]), ("worker", w))
        assert m[("orchestra_worker_ready", key)] == 1 and m[("orchestra_worker_cpu_seconds_total", key)] > 0
        assert 1e6 < m[("orchestra_worker_resident_bytes", key)] < 1e9
        assert 0 < m[("orchestra_worker_private_bytes", key)] <= m[("orchestra_worker_resident_bytes", key)]
        assert time.time() - 3600 < m[("orchestra_worker_start_time_seconds", key)] < time.time() + 1
    assert 0 < m[("orchestra_disk_free_bytes", ())] < m[("orchestra_disk_size_bytes", ())]
    assert time.time() - 3600 < m[("orchestra_start_time_seconds", ())] < time.time() + 1


# ---- OpenMetrics ----

def test_open_metrics(used):
    r = used.get("/metrics", headers={"Accept": OPEN})
    assert r.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    text = r.body.decode()
    assert text.endswith("\n# EOF\n")
    families = {f.name: f for f in parse_open(text)}  # strict: it raises
    rows = table()
    for n, f in families.items():
        assert rows[n + "_total" if f.type == "counter" else n][0] == f.type
    classic = used.get("/metrics")
    assert classic.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8" and "# EOF" not in classic.body.decode()
    assert {n.removesuffix("_total") if t == "counter" else n for n, t in re.findall(r"^# TYPE (\w+) (\w+)", classic.body.decode(), re.M)} == set(families)


def exemplars(o):
    return [s for f in parse_open(scrape(o, OPEN)) for s in f.samples if s.exemplar]


def test_exemplars_are_of_valid_trace_contexts(make):
    o = make(sets=["api.workers=1"])
    bad = ["", "00", f"00-{TRACE}", f"00-{TRACE.upper()}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01",
           f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{TRACE}-00f067aa0ba902b7-01-x", f"00-{TRACE}-00f067aa0ba902b7-0g", f"00_{TRACE}-00f067aa0ba902b7-01"]
    for h in bad:
        assert o.post("/v1/memories", {"content": "tea"}, headers={"traceparent": h}).status in (200, 201)
    assert exemplars(o) == []
    assert o.post("/v1/memories", {"content": "coffee"}, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}).status == 201
    (s,) = exemplars(o)
    assert s.labels["route"] == "/v1/memories" and s.exemplar.labels == {"trace_id": TRACE}
    assert 0 < s.exemplar.value <= float(s.labels["le"]) and abs(float(s.exemplar.timestamp) - time.time()) < 3600
    other = "1" * 32  # a version to come may have more fields
    assert o.get("/v1/memories:count", headers={"traceparent": f"01-{other}-00f067aa0ba902b7-00-more"}).status == 200
    assert sorted(x.exemplar.labels["trace_id"] for x in exemplars(o)) == [other, TRACE]
    assert " # {" not in scrape(o)  # the classic format has none


# ---- what may not shrink ----

def growing(text):
    """Counters, and what of histograms only grows."""
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in parse_classic(text) if f.type in ("counter", "histogram") for s in f.samples}


def shrunk(before, after):
    return {k: (v, after.get(k)) for k, v in before.items() if not after.get(k, -1) >= v}


def test_counters_survive_the_death_of_workers_and_a_reload(make):
    o = make(sets=["api.workers=2"])
    busy(o)
    until(lambda: "orchestra_journal_lag_records 0\n" in scrape(o))
    before = growing(scrape(o))
    for victim in ("api.1", "sync", "api.0"):
        workers = o.workers()
        if victim not in workers:
            continue
        os.kill(workers[victim], signal.SIGKILL)
        until(lambda: o.workers().get(victim, workers[victim]) != workers[victim], 20)
        o.close_connection()  # it may have been to that one
        o.wait_ready(20)
        busy(o, 5)
        now = growing(scrape(o))
        assert shrunk(before, now) == {}
        before = now
    assert sum(v for (n, _), v in before.items() if n == "orchestra_worker_restarts_total") >= 2
    assert o.post("/v1/admin/reload").status == 200
    busy(o, 5)
    assert shrunk(before, growing(scrape(o))) == {}


# ---- rules and dashboards ----

def named(text):
    """Metrics that some text names, without the suffixes of histograms; not what rules record."""
    return {re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"(?<![:\w])(orchestra_[a-z0-9_]+)(?![\w:])", text)}


def parses(exprs):
    """As Prometheus reads them."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
        yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": f"x:{i}", "expr": e} for i, e in enumerate(exprs)]}]}, f)
        f.flush()
        r = promtool("check", "rules", f.name)
        assert r.returncode == 0, r.stdout + r.stderr


def expressions(v):
    """Every text in a JSON value."""
    if isinstance(v, dict):
        return [t for x in v.values() for t in expressions(x)]
    if isinstance(v, list):
        return [t for x in v for t in expressions(x)]
    return [v] if isinstance(v, str) else []


def test_rules_are_sound_and_tested():
    rules, tests = os.path.join(PROMETHEUS, "orchestra.rules.yml"), os.path.join(PROMETHEUS, "orchestra.rules.test.yml")
    for r in (promtool("check", "rules", rules), promtool("test", "rules", tests)):
        assert r.returncode == 0, r.stdout + r.stderr
    groups = yaml.safe_load(open(rules))["groups"]
    alerts = [r for g in groups for r in g["rules"] if "alert" in r]
    cases = [t for case in yaml.safe_load(open(tests))["tests"] for t in case["alert_rule_test"]]
    for a in alerts:
        assert a["labels"]["severity"] in ("warning", "critical") and a["annotations"]["summary"] and a["annotations"]["action"]
        assert {bool(t["exp_alerts"]) for t in cases if t["alertname"] == a["alert"]} == {True, False}, a["alert"]  # one that fires, one that does not
    # What must be watched; a cache that answers by similarity is to bring an alert of its own.
    assert {"HighLatency", "ErrorRate", "WorkerBusy", "MemoryHigh", "RedisMemory", "JournalLag", "JournalHalfFull", "JournalFull", "BreakerOpen", "WorkerRestarts",
            "TargetCold", "TargetCertificateExpires", "TargetTokenExpires", "TargetTokenExpired", "CertificateExpires", "CertificateExpired",
            "CacheHitsCollapsed"} <= {a["alert"].removeprefix("Orchestra") for a in alerts}
    assert named(" ".join(r["expr"] for g in groups for r in g["rules"])) <= set(table())
    recorded = {r["record"] for g in groups for r in g["rules"] if "record" in r}
    assert set(re.findall(r"orchestra:[\w:]+", " ".join(r["expr"] for r in alerts))) <= recorded


def test_the_dashboard_asks_for_what_there_is():
    d = json.load(open(os.path.join(TOP, "packaging", "grafana", "orchestra.json")))
    assert d["schemaVersion"] >= 36 and d["title"] and d["uid"] and "id" not in d
    assert {v["name"] for v in d["templating"]["list"]} >= {"datasource", "instance"}
    panels = [p for p in d["panels"] if p["type"] != "row"]
    assert [p["title"] for p in d["panels"] if p["type"] == "row"] == \
        ["Traffic", "Latency", "Writes, journal and store", "Cache", "Index and search", "Workers", "Dependencies", "Keep-warm pings"]
    assert len({p["id"] for p in d["panels"]}) == len(d["panels"])
    rows = table()
    for p in panels:
        assert p["datasource"] == {"type": "prometheus", "uid": "${datasource}"} and p["targets"] and p["fieldConfig"]["defaults"]["unit"]
        for t in p["targets"]:
            assert named(t["expr"]) and named(t["expr"]) <= set(rows), t["expr"]
            assert "$instance" in t["expr"] and t["expr"].count("(") == t["expr"].count(")") and t["expr"].count("{") == t["expr"].count("}")
    cells = [(x, y) for p in d["panels"] for g in [p["gridPos"]] for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24  # none over another
    parses([t["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*") for p in panels for t in p["targets"]])


GRAFANA = {"@grafana/schema": "10.4.19", "typescript": "5.4.5"}
TYPES = """
import type { Dashboard } from '@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen';
import type { Options as timeseries, FieldConfig } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Options as stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { PrometheusDataQuery } from '@grafana/schema/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen';
type Some<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;  // of an enum its words; Grafana fills in what is absent
"""


def grafana_complains(d, directory):
    """What TypeScript says of the dashboard by Grafana's own types."""
    modules = os.path.join(packages_npm.installation("grafana-" + GRAFANA["@grafana/schema"], GRAFANA, "Grafana's schema"), "node_modules")
    text = TYPES + f"export const dashboard: Some<Dashboard> = {json.dumps(d)};\n"
    for p in (p for p in d["panels"] if p["type"] != "row"):
        text += f"export const options{p['id']}: Some<{p['type']}> = {json.dumps(p['options'])};\n"
        text += f"export const custom{p['id']}: Some<FieldConfig> = {json.dumps(p['fieldConfig']['defaults'].get('custom', {}))};\n"
        text += "".join(f"export const query{p['id']}{t['refId']}: Some<PrometheusDataQuery> = {json.dumps(t)};\n" for t in p["targets"])
    if not os.path.islink(directory / "node_modules"):
        os.symlink(modules, directory / "node_modules")
    (directory / "dashboard.ts").write_text(text)
    r = subprocess.run(["node", os.path.join(modules, "typescript", "bin", "tsc"), "--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "node",
                        "--target", "es2020", "dashboard.ts"], cwd=directory, capture_output=True, text=True)
    assert r.returncode in (0, 1, 2) and bool(r.returncode) == bool(r.stdout) and not r.stderr, r
    return r.stdout


def test_the_dashboard_has_grafanas_types(tmp_path):
    d = json.load(open(os.path.join(TOP, "packaging", "grafana", "orchestra.json")))
    for a in d["annotations"]["list"]:
        for field in ("expr", "titleFormat"):  # the types leave an annotation's query to the data source
            a.pop(field, None)
    assert grafana_complains(d, tmp_path) == ""
    for breaks in (lambda p: p["options"]["legend"].update(displayMode="tiles"), lambda p: p["fieldConfig"]["defaults"]["custom"].update(lineWidth="1"),
                   lambda p: p["targets"][0].update(expression="up"), lambda p: p.update(titel="x")):
        bad = json.loads(json.dumps(d))
        breaks(next(p for p in bad["panels"] if p["type"] == "timeseries"))
        assert "error TS" in grafana_complains(bad, tmp_path)


def test_cloud_monitoring_asks_for_what_there_is():
    files = sorted(glob.glob(os.path.join(TOP, "packaging", "monitoring", "*.json")))
    rows, names, queries = table(), set(), []
    assert len(files) >= 2
    for path in files:
        v = json.load(open(path))
        assert isinstance(v, list) or v["displayName"]
        queries += re.findall(r'"(?:prometheusQuery|query)": ("(?:[^"\\]|\\.)*")', json.dumps(v))
        for t in expressions(v):
            names |= named(t)
            for n, kind in re.findall(r"prometheus\.googleapis\.com/(\w+)/(\w+)", t):
                assert {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "summary": "summary"}[kind] == rows[n][0], n
    assert len(names) > 15 and names <= set(rows)
    assert len(queries) > 20
    parses([json.loads(q) for q in queries])
    policies = json.load(open(os.path.join(TOP, "packaging", "monitoring", "policies.json")))
    groups = yaml.safe_load(open(os.path.join(PROMETHEUS, "orchestra.rules.yml")))["groups"]
    assert [p["displayName"] for p in policies] == [r["alert"] for g in groups for r in g["rules"] if "alert" in r]


# ---- the real one ----

def test_a_real_prometheus(make):
    o = make()
    busy(o)
    with Prometheus([f"127.0.0.1:{o.port}"]) as p:
        until(lambda: p.value('up{job="orchestra"}') == 1, 30)
        until(lambda: p.value('orchestra_http_request_duration_seconds_count{route="/v1/memories",method="POST"}') == 20, 20)
        until(lambda: p.alert("OrchestraBreakerOpen") is None, 20)
        assert o.post("/v1/admin/breakers/store/open").status == 200
        until(lambda: p.alert("OrchestraBreakerOpen") == "firing", 30)
        assert o.post("/v1/admin/breakers/store/reset").status == 200
        until(lambda: p.alert("OrchestraBreakerOpen") is None, 30)
        assert o.post("/v1/memories", {"content": "x"}, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}).status == 201
        until(lambda: TRACE in json.dumps(p.get("query_exemplars?query=orchestra_http_request_duration_seconds_bucket&start=%d&end=%d"
                                                % (time.time() - 600, time.time() + 600)) or ""), 20)
        dead = o.worker("api.0") if "api.0" in o.workers() else next(pid for n, pid in o.workers().items() if n.startswith("api"))
        os.kill(dead, signal.SIGKILL)
        until(lambda: (p.value('sum(orchestra_worker_restarts_total{role="api"})') or 0) >= 1, 30)
