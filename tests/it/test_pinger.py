"""The pinger with real servers on sockets: what it asks, with which credential, what it makes of the answers, and what may be seen of it.
Broken code these would catch: headers or bodies that do not go out, an answer taken for well that is not, a token in a log, one that has
ended, one metadata request per ping, a ping that real traffic had made needless, learning lost by a reload or a kill, a stampede."""
import base64
import collections
import concurrent.futures
import datetime
import http.server
import json
import os
import re
import signal
import socketserver
import ssl
import threading
import time

import pytest
from orchestra import SLOW, until
from test_tls import Pki

Request = collections.namedtuple("Request", "method path headers body at")


class Double:
    """A server under test's control: `answers[path]` is (status, body) or a function of the request that returns it."""

    def __init__(self, unix=None, tls=None):
        self.seen, self.answers, self.delay = [], {}, 0
        self.now = self.most = 0
        self.lock = threading.Lock()
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                with double.lock:
                    double.now += 1
                    double.most = max(double.most, double.now)
                body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
                r = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.time())
                double.seen.append(r)
                if double.delay:
                    time.sleep(double.delay)
                said = double.answers.get(self.path.split("?")[0], (200, "fine"))
                status, text = said(r) if callable(said) else said
                with double.lock:
                    double.now -= 1
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(text.encode())
                except OSError:
                    pass
            do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = answer

            def log_message(self, *args):
                pass

            def address_string(self):
                return "-"

        class Unix(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
        self.server = Unix(unix, Handler) if unix else http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.request_queue_size = 300
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        if not unix:
            self.port = self.server.server_port
            self.url = f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def double():
    made = []

    def factory(**kw):
        made.append(Double(**kw))
        return made[-1]
    yield factory
    for d in made:
        d.close()


def conf_of(targets):
    return "pinger: { targets = \"" + json.dumps(targets).replace("\\", "\\\\").replace("\"", "\\\"") + "\"; };\n"


def retarget(o, targets):
    """A reload with these."""
    o.conf = conf_of(targets)
    o.command()
    return o.ctl("reload")


def target(o, name):
    """Its row, once the pinger shows it: it may be starting still."""
    return until(lambda: (r := o.get(f"/v1/admin/targets/{name}")).status == 200 and r).json


def history(o, name):
    return o.get(f"/v1/admin/targets/{name}/history").json["history"]


def pinger(o):
    return {n.removeprefix("orc:"): pid for n, pid in o.workers().items()}.get("pinger")


def outcome(o, name):
    return until(lambda: (target(o, name).get("last") or {}).get("outcome"))


def metric(o, name, labels):
    found = re.search(r"^%s\{%s\} (\S+)$" % (name, re.escape(labels)), o.get("/metrics").body.decode(), re.M)
    return float(found.group(1)) if found else None


def test_what_is_asked(make, double, tmp_path):
    tcp, local = double(), double(unix=str(tmp_path / "s"))
    o = make(sets=["pinger.targets=" + json.dumps([
        {"name": "post", "url": tcp.url + "/post?x=1", "interval": "1 h", "method": "POST", "body": "{\"a\": 1}",
         "headers": {"Content-Type": "application/json", "X-Empty": "", "Host": "elsewhere.example"}},
        {"name": "bare", "url": tcp.url + "/bare", "interval": "1 h", "method": "POST"},
        {"name": "put", "url": tcp.url + "/put", "interval": "1 h", "method": "PUT", "body": "text"},
        {"name": "head", "url": tcp.url + "/head", "interval": "1 h", "method": "HEAD"},
        {"name": "options", "url": tcp.url + "/options", "interval": "1 h", "method": "OPTIONS"},
        {"name": "unix", "url": "http://app/health", "unix_socket": str(tmp_path / "s"), "interval": "1 h"}])])
    until(lambda: len(tcp.seen) == 5 and local.seen)
    seen = {r.path: r for r in tcp.seen}
    post = seen["/post?x=1"]
    assert (post.method, post.body) == ("POST", "{\"a\": 1}")
    assert (post.headers["content-type"], post.headers["x-empty"], post.headers["host"]) == ("application/json", "", "elsewhere.example")
    assert (seen["/bare"].method, seen["/bare"].body, seen["/bare"].headers["content-length"]) == ("POST", "", "0")
    assert (seen["/put"].method, seen["/put"].body) == ("PUT", "text")
    assert seen["/head"].method == "HEAD" and seen["/options"].method == "OPTIONS"
    assert local.seen[0].path == "/health" and local.seen[0].headers["host"] == "app"
    for name in ("post", "bare", "put", "head", "options", "unix"):
        assert outcome(o, name) == "well", o.log()


def test_what_is_well(make, double):
    d = double()
    d.answers = {"/teapot": (418, "short and stout"), "/empty": (200, ""), "/long": (200, "x" * 60000 + "needle")}
    cases = {"range": ("/teapot", {"expect": ["2xx", "410-420"]}, "well"), "default": ("/teapot", {}, "status"),
             "body": ("/teapot", {"expect": 418, "expect_body": "stout"}, "well"), "other": ("/empty", {"expect_body": "fine"}, "body"),
             "long": ("/long", {"expect_body": "needle"}, "well"), "slow": ("/slow", {"timeout": "100 ms"}, "failed"),
             "nobody": (None, {"connect_timeout": "200 ms"}, "failed")}
    hang = threading.Event()
    d.answers["/slow"] = lambda r: (hang.wait(30 * SLOW), (200, ""))[1]
    o = make(sets=["pinger.targets=" + json.dumps([
        {"name": name, "url": d.url + path if path else "http://127.0.0.1:1/", "interval": "1 h", "timeout": "60 s", **more}
        for name, (path, more, _) in cases.items()])])
    for name, (_, _, wanted) in cases.items():
        assert outcome(o, name) == wanted, name
        row = target(o, name)
        assert row["state"] == ("failing" if wanted != "well" else "warm") and ("error" in row) == (wanted != "well"), row
        assert metric(o, "orchestra_ping_up", f'target="{name}"') == (wanted == "well")
    hang.set()
    assert "without expect_body" in target(o, "other")["error"] and target(o, "default")["error"] == "answered 418"
    # It is mended.
    d.answers["/empty"] = (200, "fine")
    assert o.ctl("ping", "now", "other").returncode == 0
    row = target(o, "other")
    assert row["state"] == "warm" and "error" not in row and [p["outcome"] for p in history(o, "other")] == ["body", "well"]


class Metadata(Double):
    """The metadata server of a cloud: JWTs that end so many seconds from now."""

    def __init__(self):
        super().__init__()
        self.lasts, self.status, self.given = 3600, 200, []
        self.answers["/computeMetadata/v1/instance/service-accounts/default/identity"] = self.token

    def token(self, r):
        if r.headers.get("metadata-flavor") != "Google" or self.status != 200:
            return self.status if self.status != 200 else 403, "secret-in-an-error"
        claims = {"aud": r.path.split("audience=")[1], "exp": int(time.time()) + self.lasts, "n": len(self.given)}
        parts = [base64.urlsafe_b64encode(json.dumps(x).encode()).decode().rstrip("=") for x in ({"alg": "none"}, claims)]
        self.given.append(".".join([*parts, "c2lnbmF0dXJl"]))
        return 200, self.given[-1] + "\n"


@pytest.fixture
def metadata():
    m = Metadata()
    yield m
    m.close()


def test_identity_tokens(make, double, metadata):
    d = double()
    proxy = {"http_proxy": "http://127.0.0.1:1", "no_proxy": "localhost"}  # which has nothing to do with the metadata server
    url = d.url.replace("127.0.0.1", "localhost")
    o = make(env={"GCE_METADATA_HOST": f"127.0.0.1:{metadata.port}", **proxy}, sets=["log.level=debug", "pinger.targets=" + json.dumps([
        *({"name": f"t{i}", "url": f"{url}/{i}", "interval": "100 ms", "identity_token": "https://app.example/?x=1&y"} for i in range(6)),
        {"name": "other", "url": url + "/other", "interval": "100 ms", "identity_token": "https://other.example"}])])
    until(lambda: all(target(o, n)["results"] >= 3 for n in ("t0", "t5", "other")))
    # One of each audience, whoever wants it, and as often as it is used.
    assert len(metadata.given) == 2, metadata.seen
    assert {r.path.split("audience=")[1] for r in metadata.seen} == {"https%3A%2F%2Fapp.example%2F%3Fx%3D1%26y", "https%3A%2F%2Fother.example"}
    assert all(r.headers["metadata-flavor"] == "Google" for r in metadata.seen)
    mine = {r.headers["authorization"] for r in d.seen if r.path != "/other"}
    assert len(mine) == 1 and mine.pop().removeprefix("Bearer ") in metadata.given
    for said in (o.log(), o.get("/v1/admin/targets").body.decode(), o.get("/metrics").body.decode()):
        assert not any(t in said for t in metadata.given)


def test_identity_tokens_are_fetched_before_they_end(make, double, metadata):
    d = double()
    metadata.lasts = 30 + int(6 * SLOW)  # 30 s before the end it is not used any more
    o = make(env={"GCE_METADATA_HOST": f"127.0.0.1:{metadata.port}"}, sets=["pinger.targets=" + json.dumps([
        {"name": "t", "url": d.url, "interval": "100 ms", "identity_token": "https://a.example"}])])
    until(lambda: len(metadata.given) >= 3, 60)
    ends = [json.loads(base64.urlsafe_b64decode(r.headers["authorization"].split(".")[1] + "=="))["exp"] for r in d.seen]
    assert all(end > r.at for end, r in zip(ends, d.seen))
    assert ends == sorted(ends) and len(set(ends)) >= 2  # and never back to an older one


def test_a_metadata_server_that_does_not_serve(make, double, metadata):
    d = double()
    metadata.status = 404
    o = make(env={"GCE_METADATA_HOST": f"127.0.0.1:{metadata.port}"}, sets=["pinger.targets=" + json.dumps([
        {"name": "t", "url": d.url, "interval": "100 ms", "identity_token": "https://a.example"}])])
    assert outcome(o, "t") == "no-token"
    assert "service account" in target(o, "t")["error"] and not d.seen and "secret-in-an-error" not in o.log()
    metadata.status, metadata.lasts = 200, -5
    until(lambda: "one that has ended" in target(o, "t")["error"])
    metadata.lasts = 3600
    until(lambda: target(o, "t")["state"] == "warm")
    assert d.seen


def test_bearer_files(make, double, tmp_path):
    d = double()
    token = tmp_path / "token"
    token.write_text("first-s3cret\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "app").write_text("given-s3cret")
    o = make(env={"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, sets=["log.level=debug", "pinger.targets=" + json.dumps([
        {"name": "file", "url": d.url + "/file", "interval": "100 ms", "bearer_file": str(token)},
        {"name": "given", "url": d.url + "/given", "interval": "100 ms", "bearer_file": "credential:app"}])])

    def shown(path, secret):
        return any(r.path == path and r.headers.get("authorization") == "Bearer " + secret for r in d.seen)
    until(lambda: shown("/file", "first-s3cret") and shown("/given", "given-s3cret"))
    token.write_text("second-s3cret\n")
    until(lambda: shown("/file", "second-s3cret"))
    token.rename(tmp_path / "away")
    until(lambda: target(o, "file")["last"]["outcome"] == "no-token")
    assert "cannot be read: No such file" in target(o, "file")["error"]
    n = len([r for r in d.seen if r.path == "/file"])
    until(lambda: target(o, "file")["failures"] >= 3)
    assert len([r for r in d.seen if r.path == "/file"]) == n  # nothing goes out without its token
    token.write_text("third-s3cret")
    until(lambda: shown("/file", "third-s3cret"))
    assert "s3cret" not in o.log() and "s3cret" not in o.get("/v1/admin/targets").body.decode()


def test_cold_starts(make, double):
    d = double()
    slow = threading.Event()
    d.answers["/"] = lambda r: (time.sleep(3 * SLOW if slow.is_set() else 0), slow.clear(), (200, ""))[2]
    o = make(sets=["pinger.targets=" + json.dumps([
        {"name": "t", "url": d.url + "/", "interval": "100 ms", "cold_after": f"{2 * SLOW} s", "timeout": "60 s",
         "cost_per_million_requests": 1e6}])])
    until(lambda: target(o, "t")["warm"]["count"] >= 3)
    before = target(o, "t")["cold_starts"]  # none, unless the machine stood still
    slow.set()
    until(lambda: target(o, "t")["cold_starts"] > before, 30)
    row = target(o, "t")
    assert row["cold"]["count"] == row["cold_starts"] and row["cold"]["p50_ms"] >= 2000 * SLOW > row["warm"]["p50_ms"]
    assert "cold" in [p["heat"] for p in history(o, "t")]
    assert metric(o, "orchestra_ping_cold_starts_total", 'target="t"') > before
    assert metric(o, "orchestra_ping_latency_seconds_count", 'target="t",heat="cold"') > before
    assert metric(o, "orchestra_ping_latency_seconds", 'target="t",heat="cold",quantile="0.99"') >= 2 * SLOW
    # Each costs one; 864,000 a day.
    row = target(o, "t")
    assert row["cost"]["so_far"] == row["results"] and row["cost"]["per_day"] == pytest.approx(864000)
    assert metric(o, "orchestra_ping_cost_total", 'target="t"') >= row["results"]


def test_learning_survives_reloads_and_kills(make, double):
    d = double()
    t = {"name": "t", "url": d.url + "/", "interval": "auto", "min_interval": "100 ms", "max_interval": "500 ms", "cold_after": "60 s"}
    o = make(start=False, conf=conf_of([t]))
    o.start()

    def longest():
        return target(o, "t")["interval_seconds"] == 0.5
    until(longest, 30)
    results = target(o, "t")["results"]
    assert metric(o, "orchestra_ping_interval_seconds", 'target="t"') == 0.5 and target(o, "t")["adapts"]
    assert retarget(o, [{**t, "timeout": "9 s"}]).returncode == 0, o.log()  # another target, of the same request
    row = target(o, "t")
    assert row["interval_seconds"] == 0.5 and row["results"] >= results
    old = pinger(o)
    os.kill(old, signal.SIGKILL)
    until(lambda: pinger(o) not in (old, None) and target(o, "t")["results"] > row["results"])
    assert target(o, "t")["interval_seconds"] == 0.5
    # What was learnt of another request does not hold: it begins with the shortest again.
    hang = threading.Event()
    d.answers["/new"] = lambda r: (hang.wait(30 * SLOW), (200, ""))[1]
    assert retarget(o, [{**t, "url": d.url + "/new", "min_interval": "200 ms"}]).returncode == 0
    until(lambda: target(o, "t")["interval_seconds"] == 0.2)
    hang.set()
    until(longest, 30)
    assert retarget(o, []).returncode == 0
    until(lambda: o.get("/v1/admin/targets").json["targets"] == [])


def test_reloads_keep_the_rhythm(make, double):
    d = double()
    t = {"name": "t", "url": d.url + "/t", "interval": "1 h"}
    o = make(start=False, conf=conf_of([t]))
    o.start()
    until(lambda: target(o, "t")["results"] == 1)
    due = target(o, "t")["next_at"]
    for n in range(3):
        assert retarget(o, [{**t, "name": f"new{n}", "url": d.url + "/new"}, t]).returncode == 0
        until(lambda: target(o, f"new{n}")["results"] == 1)
    assert target(o, "t")["next_at"] == due and len([r for r in d.seen if r.path == "/t"]) == 1
    assert {x["name"] for x in o.get("/v1/admin/targets").json["targets"]} == {"t", "new2"}


def test_real_traffic_spares_pings(make, double):
    d = double()
    o = make(sets=["pinger.targets=" + json.dumps([
        {"name": "t", "url": d.url, "interval": "1 s"}, {"name": "a:b/c d", "url": d.url, "interval": "1 h"}])])
    assert outcome(o, "t") == "well"
    assert "traffic_seconds_ago" not in target(o, "t")

    def spared():
        assert o.post("/v1/admin/targets/t:touch").status == 204
        return target(o, "t")["skipped"] >= 2
    until(spared, 30)
    assert target(o, "t")["traffic_seconds_ago"] >= 0 and metric(o, "orchestra_ping_skipped_total", 'target="t"') >= 2
    pings = target(o, "t")["pings"]
    until(lambda: target(o, "t")["pings"] > pings)  # nobody uses it any more
    # Names as they come.
    assert o.post("/v1/admin/targets/a%3Ab%2Fc%20d:touch").status == 204
    assert "traffic_seconds_ago" in target(o, "a%3Ab%2Fc%20d")
    for method, path, status in (("POST", "no:touch", 404), ("POST", ":touch", 405), ("POST", "t:dance", 405), ("GET", "t:touch", 404),
                                 ("POST", "t", 405), ("GET", "no/history", 404), ("POST", "no:ping", 404)):
        assert o.request(method, "/v1/admin/targets/" + path).status == status, path


def test_at_once_and_the_command_line(make, double):
    d = double()
    o = make(sets=["pinger.targets=" + json.dumps([
        {"name": "well", "url": d.url + "/well", "interval": "24 h", "cold_after": "60 s"},
        {"name": "ill", "url": d.url + "/ill", "interval": "auto", "min_interval": "1 h"}])])
    d.answers["/ill"] = (500, "")
    until(lambda: target(o, "well")["results"] and target(o, "ill")["results"])
    for n in (2, 3):
        r = o.ctl("ping", "now", "well")
        assert r.returncode == 0 and re.search(r"Z  well +200 ", r.stdout), r
        assert target(o, "well")["results"] == n
    r = o.ctl("ping", "now", "ill")
    assert r.returncode == 1 and "answered 500" in r.stdout
    r = o.ctl("--json", "ping", "now", "well")
    assert r.returncode == 0 and json.loads(r.stdout)["last"]["status"] == 200
    # A herd of them is one after the other, and none is lost.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {r.returncode for r in pool.map(lambda _: o.ctl("ping", "now", "well"), range(8))} == {0}
    r = o.ctl("ping", "list")
    assert r.returncode == 0 and re.search(r"^well +warm +1d 00h +in (1d|2\dh) .*[▁▂▃▄▅▆▇█]{4,}$", r.stdout, re.M), r.stdout
    assert re.search(r"^ill +failing +1h 00m \* .*xx  answered 500$", r.stdout, re.M), r.stdout
    r = o.ctl("ping", "history", "ill")
    assert r.returncode == 0 and r.stdout.count("status") == 2 and r.stdout.rstrip().endswith("xx")
    assert [t["name"] for t in json.loads(o.ctl("ping", "list", "--json").stdout)["targets"]] == ["well", "ill"]
    assert len(json.loads(o.ctl("ping", "history", "ill", "--json").stdout)["history"]) == 2
    assert o.ctl("ping", "now", "nobody").returncode == 1 and o.ctl("ping").returncode == 2 and o.ctl("ping", "now").returncode == 2
    assert "Usage" in o.ctl("ping", "--help").stdout


def test_schedules(make, double):
    d = double()
    day = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)).strftime("%a").lower()
    zone = "Europe/Berlin" if os.path.exists("/usr/share/zoneinfo/Europe/Berlin") else "UTC"
    never = {"days": day, "from": "10:00", "to": "11:00"}
    good = [{"name": "later", "url": d.url + "/later", "interval": "100 ms", "schedule": [never]},
            {"name": "always", "url": d.url + "/always", "interval": "100 ms", "zone": zone,
             "schedule": [never, {"from": "00:00", "to": "24:00"}]}]
    o = make(start=False, conf=conf_of(good))
    o.start()
    until(lambda: len([r for r in d.seen if r.path == "/always"]) > 5)
    until(lambda: metric(o, "orchestra_ping_paused", 'target="later"') == 1)
    assert metric(o, "orchestra_ping_paused", 'target="always"') == 0 and target(o, "later")["pings"] == 0
    opens = datetime.datetime.fromisoformat(target(o, "later")["next_at"].replace("Z", "+00:00"))
    assert (opens.strftime("%a").lower(), opens.hour, opens.minute) == (day, 10, 0)
    assert o.ctl("ping", "now", "later").returncode == 0  # somebody wants it all the same
    assert len([r for r in d.seen if r.path == "/later"]) == 1
    # What cannot be is refused, and what was stays.
    for wrong, said in (({"zone": "Mars/Base"}, "Mars/Base"), ({"schedule": [{**never, "to": "25:00"}]}, "from and to must be times"),
                        ({"interval": "auto", "jitter": 90}, "jitter must be a number from 0 to 50"),
                        ({"headers": {"Authorization": "x"}}, "bearer_file")):
        r = retarget(o, [{"name": "other", "url": d.url, "interval": "1 s", "schedule": [never], **wrong}])
        assert r.returncode != 0 and said in r.stdout + r.stderr and "other" in r.stdout + r.stderr, r
    assert {t["name"] for t in o.get("/v1/admin/targets").json["targets"]} == {"later", "always"}


def test_certificates(make, double, tmp_path):
    pki = Pki(tmp_path)
    soon = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=5)).strftime("%Y%m%d%H%M%SZ")
    near, far = double(tls=pki.make("near", end=soon)[:2]), double(tls=pki.make("far")[:2])
    each = {"interval": "100 ms", "cold_after": "60 s", "ca_file": pki.ca}
    o = make(sets=["pinger.targets=" + json.dumps([
        {**each, "name": "near", "url": near.url}, {**each, "name": "far", "url": far.url},
        {**each, "name": "early", "url": far.url, "tls_warning": "60 d"},
        {"name": "strange", "url": far.url, "interval": "100 ms"}])])
    until(lambda: all(target(o, n)["results"] >= 3 for n in ("near", "far", "strange", "early")))
    rows = {n: target(o, n) for n in ("near", "far", "strange", "early")}
    assert [rows[n]["state"] for n in ("near", "far", "strange")] == ["warm", "warm", "failing"], rows
    assert [rows[n].get("tls_expires_soon") for n in ("near", "far", "early")] == [True, False, True]
    assert "certificate" in rows["strange"]["error"]
    o.wait_log("target near: its certificate ends in 4 days")
    assert "target far: its" not in o.log()
    left = metric(o, "orchestra_ping_tls_expiry_timestamp_seconds", 'target="near"') - time.time()
    assert 4 < left / 86400 < 5.01
    assert "certificate ends 20" in o.ctl("ping", "list").stdout


def jwt(ends):
    return ".".join(base64.urlsafe_b64encode(json.dumps(x).encode()).decode().rstrip("=") for x in ({"alg": "none"}, {"exp": ends})) + ".c2ln"


def test_when_a_token_ends_can_be_seen(make, double, tmp_path):
    """Of the one that lies in the file now; nothing is claimed of one that does not say."""
    d = double()
    for name, text in (("says", jwt(1900000000)), ("silent", "opaque"), ("changes", jwt(1900000000))):
        (tmp_path / name).write_text(text + "\n")
    o = make(sets=["pinger.targets=" + json.dumps([{"name": n, "url": d.url, "interval": "100 ms", "bearer_file": str(tmp_path / n)}
                                                   for n in ("says", "silent", "changes")])])

    def ends(name):
        return re.findall(r'^orchestra_ping_token_expiry_timestamp_seconds{target="%s"} (\S+)$' % name, o.get("/metrics").body.decode(), re.M)
    until(lambda: all(target(o, n)["results"] >= 2 for n in ("says", "silent", "changes")))
    assert [float(v) for n in ("says", "changes") for v in ends(n)] == [1900000000] * 2 and ends("silent") == []
    (tmp_path / "changes").write_text(jwt(2000000000))
    until(lambda: [float(v) for v in ends("changes")] == [2000000000])
    (tmp_path / "changes").write_text("opaque")
    until(lambda: ends("changes") == [])


def test_many_targets_are_no_stampede(make, double):
    d = double()
    d.delay = 0.01
    each = {"interval": "3 s", "timeout": "60 s"}
    o = make(sets=["pinger.targets=" + json.dumps([{**each, "name": f"t{i}", "url": f"{d.url}/{i}"} for i in range(200)])])
    until(lambda: len({r.path for r in d.seen}) == 200 and len(d.seen) >= 400, 60)
    assert d.most <= 8
    assert all(t["failures"] == 0 for t in o.get("/v1/admin/targets").json["targets"])


def test_rights(make, double, tmp_path):
    import hashlib
    d = double()
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} {right} *\n" for n, right in (("w", "write"), ("a", "admin"))))
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}", "pinger.targets=" + json.dumps([{"name": "t", "url": d.url, "interval": "1 s"}])])
    until(lambda: o.get("/v1/admin/targets/t", headers={"Authorization": "Bearer a"}).status == 200)
    for method, path in (("GET", ""), ("GET", "/t"), ("GET", "/t/history"), ("POST", "/t:ping"), ("POST", "/t:touch")):
        for who, good in (("w", False), ("a", True)):
            status = o.request(method, "/v1/admin/targets" + path, headers={"Authorization": "Bearer " + who}).status
            assert (status < 300) == good and (good or status == 403), (method, path, who, status)
