"""GET of a cached memory over TLS on connections that stay, beside nginx `return 200` of the same bytes with the same
certificate and cipher, and beside the same requests without TLS: what encryption costs."""
import subprocess

import rig as r

NGINX = """worker_processes 1; daemon off; master_process off; pid %(dir)s/nginx.pid; error_log %(dir)s/nginx.err;
events { worker_connections 4096; }
http {
	access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 600s;
	client_body_temp_path %(dir)s/t1; proxy_temp_path %(dir)s/t2; fastcgi_temp_path %(dir)s/t3;
	uwsgi_temp_path %(dir)s/t4; scgi_temp_path %(dir)s/t5;
	ssl_certificate %(cert)s; ssl_certificate_key %(key)s; ssl_protocols TLSv1.2 TLSv1.3;
	server { listen 127.0.0.1:%(port)d ssl; location / { return 200 '%(body)s'; } }
}
"""


def certificate(rig):
    cert, key = rig.path("tls.pem"), rig.path("tls.key")
    if not r.have("openssl"):
        raise r.Skip("openssl is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                    cert, "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    return cert, key


def nginx(rig, body, cert, key):
    program = r.have("nginx")
    if not program:
        raise r.Skip("nginx is not installed")
    port, conf = r.free_port(), rig.path("nginx-tls.conf")
    with open(conf, "w") as f:
        f.write(NGINX % {"dir": rig.dir, "port": port, "body": body, "cert": cert, "key": key})
    return r.Process([program, "-c", conf, "-p", rig.dir], port, core=r.SERVER_CORE), f"127.0.0.1:{port}"


def run(rig, report):
    cert, key = certificate(rig)
    port = r.free_port()
    with rig.daemon("tls", "api.workers=1", f"listen.tls=127.0.0.1:{port}", f"tls.certificate={cert}", f"tls.key={key}") as d:
        id_ = d.add("Ada likes her tea without sugar, prefers short answers and wants meetings after ten.",
                    user_id="ada", kind="preference", metadata={"source": "chat", "turn": 12})["id"]
        target = f"/v1/memories/{id_}"
        body = d.get(target).body.decode()
        api = next(pid for name, pid in d.workers().items() if "api" in name)
        subprocess.run(["taskset", "-a", "-cp", r.SERVER_CORE, str(api)], check=True, stdout=subprocess.DEVNULL)
        ours, plain = f"127.0.0.1:{port}", f"127.0.0.1:{d.port}"
        server, peer = nginx(rig, body, cert, key)
        per_cpu = lambda x: x["rps_per_cpu"]  # noqa: E731
        with server:
            for pipeline in (1, 16):
                opt = ("-c", 64, "-p", pipeline)
                a, n, p = rig.compare(lambda: rig.load(ours, target, "-T", *opt, pid=api),
                                      lambda: rig.load(peer, "/", "-T", *opt, pid=server.pid),
                                      lambda: rig.load(plain, target, *opt, pid=api))
                name = "cached, TLS 1.3" + (f", pipeline {pipeline}" if pipeline > 1 else "")
                report.add("tls", name, r.median(map(per_cpu, a)), "req/CPU-s", r.median(map(per_cpu, n)), "nginx",
                           r.ratio(a, n, per_cpu), 1.0)
                report.add("tls", f"{name}, beside plain", r.median(map(per_cpu, a)), "req/CPU-s", r.median(map(per_cpu, p)),
                           "without TLS", r.ratio(a, p, per_cpu))
            for pid, where, what, who in ((api, ours, target, "ours"), (server.pid, peer, "/", "nginx")):
                n = rig.syscalls(pid, where, what, "-c", 64, "-T", requests=60000)
                report.add("tls", f"system calls a request, {who}", n, "", goal=2.2 if who == "ours" else None, better="less",
                           note="the handshakes of 64 connections are counted")
