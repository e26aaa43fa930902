"""The daemon as an operator meets it: flags, reload, drain, restart policy, orchestractl."""
import http.server
import json
import os
import re
import signal
import socketserver
import subprocess
import threading
import time

import pytest

from orchestra import BUILD, SLOW, until


def run(*args, **kw):
    return subprocess.run([os.path.join(BUILD, "orchestrad"), *args], capture_output=True, text=True, timeout=20 * SLOW, **kw)


def test_flags(tmp_path):
    assert re.match(r"orchestrad \d+\.\d+", run("--version").stdout)
    out = run("--dump-config", "--set", "sync.batch_max=7")
    assert out.returncode == 0 and "batch_max" in out.stdout and "7" in out.stdout
    bad = run("--check", "--set", "sync.batch_max=soon")
    assert bad.returncode != 0 and "sync.batch_max" in bad.stderr + bad.stdout
    conf = tmp_path / "c.conf"
    conf.write_text("sync: {\n  batch_max = 10;\n  colour = \"red\";\n};\n")
    r = run("--check", "-c", str(conf))
    assert r.returncode != 0 and "c.conf:3" in r.stderr + r.stdout and "colour" in r.stderr + r.stdout
    assert run("--check", "--set", f"data.dir={tmp_path}/d").returncode == 0
    pub = run("--check", "--set", "listen.tcp=0.0.0.0:7700")
    assert pub.returncode != 0 and "auth.tokens_file" in pub.stderr + pub.stdout


def woken(o):
    """How often threads of the daemon have gone to sleep, of themselves."""
    n = 0
    for pid in (o.process.pid, *o.workers().values()):
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/status") as f:
                n += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", f.read(), re.M)[1])
    return n


def test_idle(make):
    """Nobody asks, and there is nothing in it: everyone sleeps but for a look a second. (The warmer once saved the nothing that was hot
    again and again, and the api workers watched how late they were meanwhile: 1,000 wake-ups a second.)"""
    o = make()

    def few():
        before = woken(o)
        time.sleep(2)
        return woken(o) - before < 120
    until(few, 30)


@pytest.mark.parametrize("name, level, detail, form", [("dev", "debug", "full", "auto"), ("staging", "info", "full", "json"),
                                                       ("prod", "info", "safe", "json")])
def test_profiles(make, name, level, detail, form):
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "etc", "profiles", name + ".conf")) as f:
        o = make(conf=f.read())
    for key, value in {"log.level": level, "errors.detail": detail, "log.format": form}.items():
        assert o.ctl("config", "get", key).stdout.strip() == value
    o.ctl("reload")                                                # refused if a key were wrong
    assert o.add("works")


def test_drain_answers_what_is_in_flight(make):
    o = make()
    ids = [o.add(f"{i}")["id"] for i in range(20)]
    assert o.stop() == 0
    assert not o.workers() and not os.path.exists(o.socket)
    o.start()
    assert all(o.memory(i).status == 200 for i in ids)


def test_reload_good_bad_good(make):
    o = make(conf='log: { level = "info"; };\nhttp: { head_timeout = "5 s"; };\n')
    path = os.path.join(o.dir, "orchestra.conf")

    def reload(text):
        with open(path, "w") as f:
            f.write(text)
        return o.ctl("reload")
    assert reload('log: { level = "debug"; };\n').returncode == 0
    bad = reload('log: { level = "loud"; };\n')
    assert bad.returncode != 0 and "log.level" in bad.stdout + bad.stderr
    assert o.get("/livez").status == 200
    assert reload('log: { level = "info"; };\n').returncode == 0
    o.signal(signal.SIGHUP)
    time.sleep(0.3 * SLOW)
    assert o.get("/livez").status == 200


def test_workers_come_back_with_new_pids(make):
    o = make()
    before = o.workers()
    for name, pid in before.items():
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5 * SLOW
        while time.monotonic() < deadline:
            now = o.workers()
            if now.get(name, pid) != pid:
                break
            time.sleep(0.02)
        assert o.workers()[name] != pid
    o.wait_ready()
    assert o.add("alive")


def test_tokens_bound_the_namespace(make, tmp_path):
    import hashlib
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(t.encode()).hexdigest()} {r} {ns}\n" for n, t, r, ns in
                              [("root", "t-root", "admin", "*"), ("team", "t-team", "read,write", "team"), ("eye", "t-eye", "read", "team")]))
    tokens.chmod(0o600)
    o = make(sets=[f"auth.tokens_file={tokens}"])

    def call(token, method, path, body=None):
        return o.request(method, path, body, headers={"Authorization": f"Bearer {token}"} if token else {})
    assert call(None, "GET", "/v1/memories").status == 401 and call("wrong", "GET", "/v1/memories").status == 401
    assert call(None, "GET", "/livez").status == 200
    m = call("t-team", "POST", "/v1/memories", {"content": "ours", "namespace": "team"})
    assert m.status == 201
    assert call("t-team", "POST", "/v1/memories", {"content": "x"}).status == 403
    assert call("t-eye", "POST", "/v1/memories", {"content": "x", "namespace": "team"}).status == 403
    other = call("t-root", "POST", "/v1/memories", {"content": "theirs", "namespace": "other"}).json["id"]
    assert call("t-team", "GET", f"/v1/memories/{other}").status == 404
    assert call("t-team", "DELETE", f"/v1/memories/{other}").status == 404
    assert call("t-eye", "GET", f"/v1/memories/{m.json['id']}").status == 200
    assert call("t-team", "POST", "/v1/memories/search", {"query": "x", "namespace": "other"}).status == 403
    assert [n["name"] for n in call("t-team", "GET", "/v1/namespaces").json["namespaces"]] == ["team"]
    assert call("t-team", "GET", "/v1/admin/status").status == 403


def test_pinger_keeps_targets_warm(make):
    import http.server
    import threading
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *a):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = json.dumps([{"name": "t", "url": f"http://127.0.0.1:{server.server_port}/warm", "interval": "200 ms"}])
    o = make(sets=[f"pinger.targets={target}"])
    time.sleep(1.5 * SLOW)
    metrics = o.get("/metrics").body.decode()
    server.shutdown()
    server.server_close()
    assert len(hits) >= 3 and set(hits) == {"/warm"}
    assert int(re.search(r'orchestra_pings_total\{target="t"\} (\d+)', metrics).group(1)) >= 3
    assert 'orchestra_ping_up{target="t"} 1' in metrics and 'orchestra_ping_failures_total{target="t"} 0' in metrics
    time.sleep(1 * SLOW)  # nobody listens any more
    metrics = o.get("/metrics").body.decode()
    assert 'orchestra_ping_up{target="t"} 0' in metrics and 'orchestra_ping_failures_total{target="t"} 0' not in metrics


def test_a_data_dir_that_cannot_be_used_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "dir" / "lock").mkdir(parents=True)  # nothing that can be opened for writing, by root either
    for name, named in (("file", "Not a directory"), ("dir", "Is a directory")):
        r = run("--set", f"data.dir={tmp_path / name}", "--set", f"listen.unix={tmp_path}/s", "--set", "listen.tcp=")
        assert r.returncode == 1 and named in r.stderr and str(tmp_path / name) in r.stderr, r.stderr
        assert "choose another data.dir" in r.stderr


def test_orchestractl(make, tmp_path):
    o = make()
    r = o.ctl("--json", "add", "Ada likes tea", "--user", "u1", "--metadata", '{"k": 1}')
    assert r.returncode == 0, r.stderr
    m = json.loads(r.stdout)
    assert "Ada likes tea" in o.ctl("search", "tea").stdout
    assert "Ada likes tea" in o.ctl("get", m["id"]).stdout
    assert "Ada likes tea" in o.ctl("list", "--user", "u1").stdout
    assert o.ctl("add", "-", stdin="from a pipe").returncode == 0
    out = tmp_path / "out.ndjson"
    assert o.ctl("export", str(out)).returncode == 0 and len(out.read_text().splitlines()) == 2
    lines = "".join(json.dumps({"content": f"imported {i}"}) + "\n" for i in range(1200))
    (tmp_path / "in.ndjson").write_text(lines)
    r = o.ctl("import", str(tmp_path / "in.ndjson"))
    assert r.returncode == 0 and "1,200" in r.stdout.replace("1200", "1,200"), r.stdout + r.stderr
    assert o.get("/v1/memories:count").json["count"] == 1202
    s = o.ctl("status")
    assert s.returncode == 0 and "sync" in s.stdout and "api" in s.stdout
    assert o.ctl("delete", m["id"]).returncode == 0 and o.ctl("get", m["id"]).returncode != 0
    assert o.ctl("check").returncode == 0
    assert o.ctl("frobnicate").returncode == 2
    o.stop()
    assert o.ctl("status").returncode == 3


def test_orchestractl_arguments(make):
    """What people type at first: options on either side of the command, help in each form, mistakes that are named."""
    o = make()
    o.ctl("add", "Ada likes tea", "--namespace", "a", "--user", "u1")
    o.ctl("--namespace=a", "add", "Ben likes tea", "--user", "u2")
    assert o.ctl("add", "--", "--json").returncode == 0  # behind "--" it is text
    found = json.loads(o.ctl("search", "--json", "--namespace", "a", "--user", "u2", "tea").stdout)["results"]
    assert [m["content"] for m in found] == ["Ben likes tea"]
    assert "in namespace default" in o.ctl("search", "tea").stderr
    r = o.ctl("namespaces")
    assert r.returncode == 0 and [x.split()[::3] + x.split()[4:] for x in sorted(r.stdout.splitlines()[1:], key=lambda x: x[-1])] == \
        [["2", "english", "a"], ["1", "english", "default"]], r.stdout
    assert len(json.loads(o.ctl("namespaces", "--json").stdout)["namespaces"]) == 2
    for args in (["help"], ["help", "search"], ["search", "--help"], ["config", "get", "--help"], ["namespaces", "--help"]):
        r = o.ctl(*args)
        assert r.returncode == 0 and r.stdout.startswith("Usage: orchestractl ") and r.stderr == "", args
    for args, named in ((["search", "--limt", "3", "x"], "search: there is no option --limt"),
                        (["search", "--limit"], "search: --limit needs a value"),
                        (["search", "-x", "y"], "search: there is no option -x"),
                        (["search", "--limit", "3.5", "x"], '--limit must be a whole number, not "3.5"'),
                        (["--limit", "3", "list"], "--limit"), (["list", "--namespace"], "--namespace needs a value"),
                        (["help", "serch"], 'no command "serch"')):
        r = o.ctl(*args)
        assert r.returncode == 2 and named in r.stderr and r.stdout == "", (args, r.stderr)


def test_orchestractl_into_a_pipe_that_closes(make):
    o = make()
    lines = "".join(json.dumps({"content": f"{i} " + "x" * 1000}) + "\n" for i in range(1000))
    assert o.ctl("import", "-", stdin=lines).returncode == 0
    for command in ("export", "list --all"):
        p = subprocess.run(["bash", "-c", f"{BUILD}/orchestractl --socket {o.socket} {command} | head -1; exit ${{PIPESTATUS[0]}}"],
                           capture_output=True, text=True)
        assert p.returncode == 128 + signal.SIGPIPE and len(p.stdout.splitlines()) == 1 and p.stderr == "", p


def test_orchestractl_waits_for_a_daemon_that_starts(tmp_path):
    """503 "starting" is asked again: `systemctl restart …; orchestractl add …` needs no sleep."""
    asked = []

    class Starting(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, body = (503, b'{"type":"urn:orchestra:problem:starting","title":"t","status":503,"detail":"d"}') \
                if len(asked) < 3 else (201, b'{"id":"one","version":1}')
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

        def address_string(self):
            return "unix"

    path = str(tmp_path / "s")
    with socketserver.UnixStreamServer(path, Starting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        r = subprocess.run([os.path.join(BUILD, "orchestractl"), "--socket", path, "add", "x"], capture_output=True, text=True,
                           timeout=30)
        server.shutdown()
    assert r.returncode == 0 and r.stdout == "Stored one version 1\n" and len(asked) == 3, r


def test_orchestractl_import_says_why_lines_were_skipped(make, tmp_path):
    o, f = make(), str(tmp_path / "x.ndjson")
    ids = [o.add(f"m{i}")["id"] for i in range(3)]
    assert o.ctl("export", f).returncode == 0
    r = o.ctl("import", f)                                   # all of it is there: nothing to complain about
    assert r.returncode == 0 and "0 imported, 3 skipped" in r.stdout and "3 skipped: the namespace has" in r.stderr
    r = o.ctl("--namespace", "copy", "import", f)            # nothing came in, and it is not there
    assert r.returncode == 1 and "3 skipped: another namespace" in r.stderr and "del(.id)" in r.stderr
    assert o.ctl("--json", "--namespace", "copy", "import", f).returncode == 1
    o.delete(f"/v1/memories/{ids[0]}")
    r = o.ctl("import", f)
    assert r.returncode == 1 and "1 skipped: the memory with that id was deleted" in r.stderr and "2 skipped" in r.stderr


def test_completion_in_bash():
    def complete(*words):
        script = f"""source <({os.path.join(BUILD, "orchestractl")} completion) || exit 9
            COMP_WORDS=(orchestractl {" ".join(words)}); COMP_CWORD={len(words)}; _orchestractl; echo "${{COMPREPLY[@]}}" """
        r = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
        assert r.returncode == 0 and not r.stderr, r
        return r.stdout.split()
    assert complete("s") == ["status", "search", "set"] and complete("--j") == ["--json"]
    assert complete("--namespace", "work", "imp") == ["import"]
    assert complete("import", "s") == [] and complete("--socket", "s") == []     # bash goes on with file names


def test_status_when_no_api_answers(make):
    o = make(sets=["api.workers=1"])
    api = [p for n, p in o.workers().items() if "api" in n][0]
    os.kill(api, signal.SIGSTOP)
    try:
        r = o.ctl("status")
        assert r.returncode == 0 and "api" in r.stdout
    finally:
        os.kill(api, signal.SIGCONT)


@pytest.mark.parametrize("flag", ["WEB_CONCURRENCY", "ORCHESTRA_API_WORKERS"])
def test_worker_count_from_the_environment(make, flag):
    o = make(env={flag: "3"})
    assert len([n for n in o.workers() if "api" in n]) == 3


def test_files_are_private(daemon):
    daemon.add("private")
    modes = {}
    for root, dirs, files in os.walk(daemon.data):
        for name in [*dirs, *files]:
            modes[os.path.join(root, name)] = os.stat(os.path.join(root, name)).st_mode & 0o077
    assert modes and not any(modes.values()), modes


def test_reload_reads_tokens_again(make, tmp_path):
    import hashlib
    tokens = tmp_path / "tokens"

    def write(*names):
        tokens.write_text("".join(f"{n} sha256:{hashlib.sha256(n.encode()).hexdigest()} admin *\n" for n in names))
        tokens.chmod(0o600)

    def status(token):
        return o.request("GET", "/v1/memories", headers={"Authorization": f"Bearer {token}"}).status
    write("old", "both")
    o = make(sets=[f"auth.tokens_file={tokens}"])
    assert (status("old"), status("both"), status("new")) == (200, 200, 401)
    write("both", "new")
    assert o.ctl("reload").returncode == 0  # by the supervisor's own socket: no token given
    assert (status("old"), status("both"), status("new")) == (401, 200, 200)
    tokens.write_text("garbage\n")
    r = o.ctl("reload")
    assert r.returncode == 1 and "auth.tokens_file" in r.stderr and ":1:" in r.stderr
    assert "the old configuration stays" in r.stderr
    assert (status("old"), status("both"), status("new")) == (401, 200, 200)
    secret = tmp_path / "secret"
    secret.write_text("new\n")
    r = o.ctl("add", "without a token")
    assert r.returncode == 1 and "--token-file" in r.stderr and "ORCHESTRA_TOKEN" in r.stderr
    assert o.ctl("--token-file", str(secret), "add", "with a token").returncode == 0
    assert "with a token" in o.ctl("search", "token", env={"ORCHESTRA_TOKEN": "both"}).stdout
    assert o.ctl("--token-file", str(tmp_path / "none"), "list").returncode == 2


def test_socket_of_a_group_is_reachable(make, tmp_path):
    """Files are private, the runtime directory is not: listen.unix_mode decides who may connect."""
    run = tmp_path / "run"
    o = make(sets=[f"listen.unix={run}/s.sock"])
    assert o.get("/livez").status == 200
    assert os.stat(run).st_mode & 0o777 == 0o755 and os.stat(run / "s.sock").st_mode & 0o777 == 0o660
