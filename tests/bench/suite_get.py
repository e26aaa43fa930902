"""GET of a cached memory, the complete path, beside nginx `return 200` of the same bytes and beside what libevent
and llhttp cost with nothing around them."""
import os
import subprocess

import rig as r

NGINX = """worker_processes 1; daemon off; master_process off; pid %(dir)s/nginx.pid; error_log %(dir)s/nginx.err;
events { worker_connections 4096; }
http {
	access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 600s;
	client_body_temp_path %(dir)s/t1; proxy_temp_path %(dir)s/t2; fastcgi_temp_path %(dir)s/t3;
	uwsgi_temp_path %(dir)s/t4; scgi_temp_path %(dir)s/t5;
	server { listen 127.0.0.1:%(port)d; listen unix:%(sock)s; location / { return 200 '%(body)s'; } }
}
"""


def nginx(rig, body):
    program = r.have("nginx")
    if not program:
        raise r.Skip("nginx is not installed")
    port, sock, conf = r.free_port(), rig.path("nginx.sock"), rig.path("nginx.conf")
    with open(conf, "w") as f:
        f.write(NGINX % {"dir": rig.dir, "port": port, "sock": sock, "body": body})
    return r.Process([program, "-c", conf, "-p", rig.dir], port, core=r.SERVER_CORE), f"127.0.0.1:{port}", sock


def bare(rig, size, where):
    return r.Process([rig.program("bare_http"), str(where), str(size)], where, core=r.SERVER_CORE)


def run(rig, report):
    with rig.daemon("get", "api.workers=1") as d:
        id_ = d.add("Ada likes her tea without sugar, prefers short answers and wants meetings after ten.",
                    user_id="ada", kind="preference", metadata={"source": "chat", "turn": 12})["id"]
        target = f"/v1/memories/{id_}"
        body = d.get(target).body.decode()
        assert d.get(target).headers["Cache-Status"].endswith("hit"), "not from L1"
        assert "'" not in body and "$" not in body
        api = next(pid for name, pid in d.workers().items() if "api" in name)
        subprocess.run(["taskset", "-a", "-cp", r.SERVER_CORE, str(api)], check=True, stdout=subprocess.DEVNULL)
        server, tcp, sock = nginx(rig, body)
        port, path = r.free_port(), rig.path("bare.sock")
        with server, bare(rig, len(body), port) as b_tcp, bare(rig, len(body), path) as b_unix:
            ours = {"TCP": f"127.0.0.1:{d.port}", "Unix socket": d.socket}
            peer = {"TCP": tcp, "Unix socket": sock}
            floor = {"TCP": (f"127.0.0.1:{port}", b_tcp), "Unix socket": (path, b_unix)}
            cases = [("TCP", 64, 1, 1.0), ("Unix socket", 64, 1, 1.3), ("TCP", 64, 16, 8.0)]
            for way, conns, pipeline, goal in cases:
                opt = ("-c", conns, "-p", pipeline)
                a, n, f = rig.compare(lambda: rig.load(ours[way], target, *opt, pid=api),
                                      lambda: rig.load(peer[way], "/", *opt, pid=server.pid),
                                      lambda: rig.load(floor[way][0], "/", *opt, pid=floor[way][1].pid))
                name = f"cached, {way}" + (f", pipeline {pipeline}" if pipeline > 1 else "")
                per_cpu = lambda x: x["rps_per_cpu"]  # noqa: E731
                report.add("get", name, r.median(map(per_cpu, a)), "req/CPU-s", r.median(map(per_cpu, n)), "nginx",
                           r.ratio(a, n, per_cpu), goal, note="aim 1.1" if goal == 1.0 else None)
                report.add("get", f"{name}, floor", r.median(map(per_cpu, a)), "req/CPU-s", r.median(map(per_cpu, f)),
                           "bare libevent + llhttp", r.ratio(a, f, per_cpu))
                report.add("get", f"{name}, throughput", r.median(x["rps"] for x in a), "req/s",
                           r.median(x["rps"] for x in n), "nginx", r.ratio(a, n, lambda x: x["rps"]))
                report.add("get", f"{name}, p99", r.median(x["p99_us"] for x in a), "us", r.median(x["p99_us"] for x in n),
                           "nginx", r.ratio(a, n, lambda x: x["p99_us"]), better="less")
            for way, pid, where, who in (("TCP", api, ours["TCP"], "ours"), ("TCP", server.pid, peer["TCP"], "nginx")):
                n = rig.syscalls(pid, where, target if who == "ours" else "/", "-c", 64, requests=60000)
                report.add("get", f"system calls a request, {who}", n, "", goal=2.1 if who == "ours" else None, better="less")
        os.unlink(rig.path("nginx.conf"))
