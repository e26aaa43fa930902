"""listen.tls: handshakes, records, big bodies and slow peers; certificates that change under load; tickets between workers."""
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from orchestra import BUILD, SLOW, Orchestra, free_port

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def openssl(*args, **kw):
    r = subprocess.run(["openssl", *args], capture_output=True, text=True, timeout=60 * SLOW, **kw)
    assert r.returncode == 0, r.stderr
    return r.stdout


class Pki:
    """An authority, and certificates of it for localhost in files of a directory."""

    def __init__(self, directory):
        self.dir = str(directory)
        self.ca = self.path("ca.pem")
        self.made = 1
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.path("ca.key"),
                "-out", self.ca, "-days", "30", "-subj", "/CN=Test CA")

    def path(self, name):
        return os.path.join(self.dir, name)

    def make(self, name, kind="ec", subject="/CN=localhost", end=None, passphrase=None):
        """(certificate, key, serial as ssl shows it)"""
        cert, key, csr = self.path(name + ".pem"), self.path(name + ".key"), self.path(name + ".csr")
        algorithm = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "ec" else ["rsa:2048"]
        openssl("req", "-newkey", *algorithm, *(["-passout", "pass:" + passphrase] if passphrase else ["-nodes"]), "-keyout", key,
                "-out", csr, "-subj", subject)
        os.chmod(key, 0o600)
        self.made += 1
        with open(self.path("ext"), "w") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1")
        if end:
            self.sign_until(csr, cert, end)
        else:
            openssl("x509", "-req", "-in", csr, "-CA", self.ca, "-CAkey", self.path("ca.key"), "-set_serial", str(self.made), "-days",
                    "30", "-extfile", self.path("ext"), "-out", cert)
        return cert, key, "%02X" % self.made

    def sign_until(self, csr, cert, end):
        """`openssl x509` knows no end in the past; `openssl ca` does."""
        conf = self.path("ca.cnf")
        with open(conf, "w") as f:
            f.write("[ca]\ndefault_ca=a\n[a]\ndatabase=%s\nnew_certs_dir=%s\nserial=%s\ndefault_md=sha256\npolicy=p\n"
                    "[p]\ncommonName=supplied\n" % (self.path("index"), self.dir, self.path("serial")))
        open(self.path("index"), "w").close()
        with open(self.path("serial"), "w") as f:
            f.write("%04X" % self.made)
        openssl("ca", "-batch", "-notext", "-config", conf, "-cert", self.ca, "-keyfile", self.path("ca.key"), "-in", csr, "-out",
                cert, "-startdate", "20200101000000Z", "-enddate", end, "-extfile", self.path("ext"))

    def context(self, least=V12, most=V13, alpn=None, cert=None):
        c = ssl.create_default_context(cafile=self.ca)
        c.minimum_version, c.maximum_version = least, most
        if alpn:
            c.set_alpn_protocols(alpn)
        if cert:
            c.load_cert_chain(*cert)
        c.options &= ~0x80  # OP_IGNORE_UNEXPECTED_EOF: an end without close_notify is an error here
        return c


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


class Secure(Orchestra):
    """A daemon whose certificate lies in its directory, as live.pem and live.key."""

    def __init__(self, pki, sets=(), kind="ec", **kw):
        self.pki, self.tls_port = pki, free_port()
        super().__init__(start=False, **kw)
        self.cert, self.key = os.path.join(self.dir, "live.pem"), os.path.join(self.dir, "live.key")
        self.sets += [f"listen.tls=127.0.0.1:{self.tls_port}", f"tls.certificate={self.cert}", f"tls.key={self.key}", *sets]
        self.serial = self.install(pki.make("first" + kind, kind))
        self.start()

    def install(self, made):
        for source, to in zip(made, (self.cert, self.key)):
            with open(source) as f, open(to, "w") as g:
                g.write(f.read())
            os.chmod(to, 0o600)
        return made[2]

    def tcp(self, timeout=10):
        return socket.create_connection(("127.0.0.1", self.tls_port), timeout=timeout * SLOW)

    def dial(self, context=None, session=None, timeout=10):
        return (context or self.pki.context()).wrap_socket(self.tcp(timeout), server_hostname="localhost", session=session)

    def secure_get(self, path="/livez", context=None):
        with self.dial(context) as s:
            return exchange(s, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())

    def metric(self, name):
        return next(int(line.split()[1]) for line in self.get("/metrics").body.decode().split("\n") if line.startswith(name + " "))

    def eventually(self, what, condition, seconds=10):
        end = time.monotonic() + seconds * SLOW
        while not condition():
            assert time.monotonic() < end, what + "\n" + self.log()
            time.sleep(0.02)


@pytest.fixture(scope="module")
def shared(pki):
    with Secure(pki, ["api.workers=2", "http.head_timeout=400 ms", "http.write_timeout=500 ms"]) as o:
        yield o


@pytest.fixture
def make(pki):
    made = []

    def factory(**kw):
        made.append(Secure(pki, **kw))
        return made[-1]
    yield factory
    for o in made:
        o.cleanup()


def read_reply(recv, buffered=b""):
    """One answer with Content-Length or chunks: (status, head, body, what came behind it)."""
    data = buffered

    def more():
        nonlocal data
        piece = recv(1 << 20)
        assert piece, f"closed after {len(data)} bytes: {data[:200]!r}"
        data += piece
    while b"\r\n\r\n" not in data:
        more()
    head, _, data = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        n = int(fields[b"content-length"])
        while len(data) < n:
            more()
        body, data = data[:n], data[n:]
    else:
        body = b""
        while True:
            while b"\r\n" not in data:
                more()
            size, _, data = data.partition(b"\r\n")
            while len(data) < int(size, 16) + 2:
                more()
            body, data = body + data[:int(size, 16)], data[int(size, 16) + 2:]
            if int(size, 16) == 0:
                break
    return int(head.split()[1]), head.decode().lower(), body, data


def exchange(s, request):
    s.sendall(request)
    return read_reply(s.recv)[:3]


class Wire:
    """A client of TLS whose bytes on the wire are in the test's hands."""

    def __init__(self, o, context=None):
        self.sock = o.tcp()
        self.inp, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or o.pki.context()).wrap_bio(self.inp, self.out, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def push(self):
        self.sock.sendall(self.out.read())

    def pull(self):
        data = self.sock.recv(65536)
        if data:
            self.inp.write(data)
        else:
            self.inp.write_eof()

    def until(self, verb):
        while True:
            try:
                return verb()
            except ssl.SSLWantReadError:
                self.push()
                self.pull()

    def handshake(self):
        self.until(self.tls.do_handshake)
        self.push()
        return self

    def send(self, data):
        self.tls.write(data)
        self.push()

    def recv(self, n=65536):
        return self.until(lambda: self.tls.read(n))


def rest(s):
    """All until the server closes."""
    out = b""
    while piece := s.recv(65536):
        out += piece
    return out


def test_metrics_say_when_the_certificate_expires(pki, make):
    """Of new connections: a reload changes it."""
    def expiry(o):
        with o.dial() as c:
            return int(ssl.cert_time_to_seconds(c.getpeercert()["notAfter"]))
    o = make(sets=["api.workers=1"])
    assert o.metric("orchestra_tls_certificate_expiry_seconds") == expiry(o) > time.time()
    o.install(pki.make("later", end=time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 40 * 86400))))
    assert o.post("/v1/admin/reload").status == 200
    o.eventually("the new certificate is not told of", lambda: o.metric("orchestra_tls_certificate_expiry_seconds") == expiry(o) > time.time() + 30 * 86400)


# ---- handshakes ----

@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_serves_both_versions_with_both_kinds_of_key(pki, make, shared, kind, version):
    o = shared if kind == "ec" else make(kind="rsa")
    with o.dial(pki.context(version, version)) as s:
        assert s.version() == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
        assert s.getpeercert()["serialNumber"] == o.serial
        if version == V12:
            assert s.cipher()[0].startswith("ECDHE-") and ("GCM" in s.cipher()[0] or "CHACHA" in s.cipher()[0]), s.cipher()
        assert exchange(s, GET)[0] == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_and_weak_ciphers_are_refused(pki, shared):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        old = pki.context(version, version)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match="(?i)version"):
            shared.dial(old)
    for ciphers in ("AES128-GCM-SHA256", "ECDHE+AES+SHA256:!AESGCM:@SECLEVEL=0"):  # no forward secrecy; CBC
        weak = pki.context(V12, V12)
        weak.set_ciphers(ciphers)
        with pytest.raises(ssl.SSLError, match="(?i)handshake failure"):
            shared.dial(weak)


def test_min_version_changes_live(pki, make):
    o = make(conf="", sets=["api.workers=2"])
    assert o.secure_get(context=pki.context(V12, V12))[0] == 200
    with o.dial(pki.context(V12, V12)) as before:
        with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
            f.write('tls: { min_version = "1.3"; };')
        assert o.ctl("reload").returncode == 0
        with pytest.raises(ssl.SSLError, match="(?i)version"):
            o.dial(pki.context(V12, V12))
        assert o.secure_get(context=pki.context(V13, V13))[0] == 200
        assert exchange(before, GET)[0] == 200, "a connection that exists keeps what it has"


def test_alpn(pki, shared):
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (None, None)):
        with shared.dial(pki.context(alpn=offered)) as s:
            assert s.selected_alpn_protocol() == chosen
            assert exchange(s, GET)[0] == 200
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        shared.dial(pki.context(alpn=["h2"]))


def test_renegotiation_is_refused_and_key_updates_work(pki, shared):
    """Through openssl's own client, which has letters for both."""
    for version, letter, sign in (("-tls1_2", "R", "no renegotiation"), ("-tls1_3", "K", "KEYUPDATE"), ("-tls1_3", "k", "KEYUPDATE")):
        p = subprocess.Popen(["openssl", "s_client", version, "-CAfile", pki.ca, "-connect", f"127.0.0.1:{shared.tls_port}"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        seen = b""

        def wait(text, p=p):
            nonlocal seen
            while text.encode() not in seen:
                piece = os.read(p.stdout.fileno(), 65536)
                assert piece, seen.decode()
                seen += piece
        try:
            wait("Verify return code: 0")
            p.stdin.write(letter.encode() + b"\n")
            wait(sign)
            if letter != "R":
                for _ in range(3):
                    p.stdin.write(GET)
                    wait("HTTP/1.1 200 OK")
                    wait('{"status":"ok"}')
                    seen = b""
        finally:
            p.kill()
            p.wait()
            p.stdout.close()
            p.stdin.close()


def test_handshakes_are_counted(pki, make):
    o = make()
    for _ in range(3):
        assert o.secure_get()[0] == 200
    with o.tcp():
        pass  # a look whether the port is open is no handshake
    with o.tcp() as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01")
    o.eventually("failure counted", lambda: o.metric("orchestra_tls_handshake_failures_total") == 1)
    assert o.metric("orchestra_tls_handshakes_total") == 3


# ---- what is no TLS ----

@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PATCH", "get"])
def test_plain_http_gets_an_answer_in_plain_text(shared, method):
    with shared.tcp() as s:
        s.sendall(f"{method} /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = rest(s)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"connection: close" in head.lower(), answer
    assert method == "HEAD" and not body or "speaks TLS; use https://" in json.loads(body)["detail"]


def test_tls_on_the_plain_port_gets_400(pki, shared):
    out = ssl.MemoryBIO()
    tls = pki.context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    assert shared.raw(out.read()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\x80\x2e\x01\x00\x02" * 9, b"\x16\x03\x01\xff\xff" + b"x" * 70000,
                                     b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" * 20, os.urandom(3000).replace(b"G", b"\x01"),
                                     b"\x17\x03\x03\x00\x10" + b"y" * 16, b"\x15\x03\x03\x00\x02\x02\x28", b" "],
                         ids=["zeros", "sslv2", "huge", "hello", "random", "data", "alert", "space"])
def test_garbage_ends_the_connection_and_nothing_else(shared, garbage):
    failed = shared.metric("orchestra_tls_handshake_failures_total")
    if garbage[:1].isalpha():
        garbage = b"\x01" + garbage
    with shared.tcp() as s:
        s.sendall(garbage)
        answer = rest(s)
        assert not answer or answer[0] == 21, "nothing but an alert, and no reset that could overtake it"
    shared.eventually("failure counted", lambda: shared.metric("orchestra_tls_handshake_failures_total") == failed + 1)
    assert shared.secure_get()[0] == 200


def test_a_damaged_record_cuts_the_connection(shared):
    with Wire(shared) as w:
        w.handshake()
        w.send(GET)
        assert read_reply(w.recv)[0] == 200
        w.tls.write(GET)
        record = bytearray(w.out.read())
        record[-1] ^= 1
        w.sock.sendall(record)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            while w.recv():
                pass
    assert shared.secure_get()[0] == 200


# ---- records and requests ----

def test_keep_alive_and_pipelining(shared):
    n = 300
    with shared.dial() as s:
        for _ in range(3):
            assert exchange(s, GET)[0] == 200
        s.sendall(b"".join(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: r%d\r\n\r\n" % i for i in range(n)))
        behind = b""
        for i in range(n):
            status, head, _, behind = read_reply(s.recv, behind)
            assert status == 200 and f"x-request-id: r{i}\r\n" in head + "\r\n"
        assert behind == b""


def test_requests_that_fill_the_input_buffer_to_the_byte(shared):
    """Nothing is left over that would tell the server to look again: what the socket and OpenSSL hold must be asked for."""
    request = GET[:-2] + b"X: " + b"x" * (64 - len(GET) - 5) + b"\r\n\r\n"
    assert len(request) == 64
    workers = [pid for name, pid in shared.workers().items() if "api" in name]
    with shared.dial() as s:
        for n in (512, 1024, 2048):
            try:
                for pid in workers:
                    os.kill(pid, signal.SIGSTOP)
                s.sendall(request * n)  # all of it is there at the first look
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            behind = b""
            for _ in range(n):
                status, _, _, behind = read_reply(s.recv, behind)
                assert status == 200


def test_requests_in_records_of_one_byte_and_records_in_pieces(shared):
    with Wire(shared) as w:
        w.handshake()
        for byte in GET:
            w.tls.write(bytes([byte]))
        w.push()  # many records in one segment
        assert read_reply(w.recv)[0] == 200
        w.tls.write(GET + GET)
        data = w.out.read()
        for i in range(len(data)):  # one record in many
            w.sock.sendall(data[i:i + 1])
        _, _, _, behind = read_reply(w.recv)
        assert read_reply(w.recv, behind)[0] == 200


def many(ns, n=150, size=60000):
    return json.dumps({"memories": [{"content": f"{i} " + "x" * size, "embedding": [1.0, float(i)], "namespace": ns}
                                    for i in range(n)]}).encode()


@pytest.fixture(scope="module")
def filled(shared):
    """9 MB of memories, sent over TLS in one buffered body."""
    body = many("big")
    assert len(body) > 8 << 20
    with shared.dial(timeout=60) as s:
        status, _, reply = exchange(s, b"POST /v1/memories?wait=store HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                                    % len(body) + body)
        assert status in (200, 201, 207), reply[:300]
        assert exchange(s, GET)[0] == 200, "the connection goes on"
    return "big"


def test_large_bodies_both_ways(shared, filled):
    plain = shared.get(f"/v1/memories?namespace={filled}&limit=1000").body
    assert len(plain) > 8 << 20
    with shared.dial(timeout=60) as s:
        for _ in range(2):
            status, _, body = exchange(s, f"GET /v1/memories?namespace={filled}&limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert status == 200 and body == plain


def test_streams_both_ways(shared, filled, ns):
    """Export is chunked, import is read in pieces."""
    plain = shared.get(f"/v1/memories:export?namespace={filled}").body
    with shared.dial(timeout=60) as s:
        status, _, lines = exchange(s, f"GET /v1/memories:export?namespace={filled} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert status == 200 and sorted(lines.split(b"\n")) == sorted(plain.split(b"\n"))
        body = b"".join(json.dumps({"content": f"{i} " + "y" * 50000}).encode() + b"\n" for i in range(180))
        status, _, reply = exchange(s, f"POST /v1/memories:import?namespace={ns} HTTP/1.1\r\nHost: localhost\r\n"
                                       f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert status == 200 and json.loads(reply)["imported"] == 180, reply


def test_curl(pki, shared, filled, tmp_path):
    curl = ["curl", "-sS", "--fail", "--cacert", pki.ca, "--max-time", str(60 * SLOW)]
    url = f"https://localhost:{shared.tls_port}"
    for version in ("--tlsv1.2", "--tlsv1.3"):
        r = subprocess.run([*curl, version, f"{url}/v1/memories?namespace={filled}&limit=1000", url + "/livez"], capture_output=True)
        assert r.returncode == 0 and r.stdout.endswith(b'{"status":"ok"}') and len(r.stdout) > 8 << 20, r.stderr
    (tmp_path / "body").write_bytes(many("curl"))
    r = subprocess.run([*curl, url + "/v1/memories", "-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path}/body"],
                       capture_output=True)
    assert r.returncode == 0, r.stderr


def test_host_and_origin_are_checked(shared):
    with shared.dial() as s:
        assert exchange(s, b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n")[0] == 421
        assert exchange(s, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n")[0] == 403
        assert exchange(s, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\n\r\n")[0] == 200


# ---- ends ----

def test_the_server_says_close_notify(shared):
    with Wire(shared) as w:
        w.handshake()
        w.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_reply(w.recv)[0] == 200
        assert w.recv() == b"", "an end without close_notify is an SSLEOFError here"


@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "bare"])
def test_a_client_that_has_sent_all_still_gets_its_answer(shared, notify, ns):
    with Wire(shared) as w:
        w.handshake()
        body = b'{"content":"the last word","namespace":"%s"}' % ns.encode()
        w.tls.write(b"POST /v1/memories?wait=store HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if notify:
            with pytest.raises(ssl.SSLError):
                w.tls.unwrap()  # sends close_notify; theirs is not here yet
        w.push()
        w.sock.shutdown(socket.SHUT_WR)
        raw = rest(w.sock)
        w.inp.write(raw)
        if not notify:
            assert b" 201 " in w.tls.read(65536)
        assert len(raw) > 100
    assert [m["content"] for m in shared.list(namespace=ns)["memories"]] == ["the last word"]


def test_half_a_handshake_is_closed_after_the_head_timeout(pki, shared):
    out = ssl.MemoryBIO()
    tls = pki.context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = out.read()
    for part in (b"", hello[:3], hello[:-1], hello):
        with shared.tcp() as s:
            s.sendall(part)
            try:
                rest(s)  # ends, or the socket's own timeout fails the test
            except ConnectionResetError:
                pass


def test_a_handshake_that_trickles_is_closed_too(shared):
    """The deadline is absolute: bytes that come now and then do not move it."""
    with shared.tcp() as s:
        s.sendall(b"\x16\x03\x01\x02\x00\x01")
        with pytest.raises((BrokenPipeError, ConnectionResetError, AssertionError)):
            for _ in range(int(200 * SLOW)):
                s.sendall(b"\x00")
                time.sleep(0.05)
                s.setblocking(False)
                try:
                    assert s.recv(1), "closed"
                except BlockingIOError:
                    pass
                s.setblocking(True)
            pytest.fail("still open")


def test_a_slow_head_gets_408(shared):
    with shared.dial() as s:
        s.sendall(GET[:20])
        assert read_reply(s.recv)[0] == 408
        assert s.recv(100) == b""


def test_a_reader_that_takes_nothing_is_dropped_and_a_slow_one_is_served(shared, filled):
    request = f"GET /v1/memories?namespace={filled}&limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    lazy, slow = socket.socket(), socket.socket()
    for s in lazy, slow:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        s.settimeout(20 * SLOW)
        s.connect(("127.0.0.1", shared.tls_port))
    lazy, slow = (shared.pki.context().wrap_socket(s, server_hostname="localhost") for s in (lazy, slow))
    with lazy, slow:
        lazy.sendall(request)
        slow.sendall(request)

        def sip(n):
            time.sleep(0.001)
            return slow.recv(min(n, 40000))
        assert len(read_reply(sip)[2]) > 8 << 20
        time.sleep(0.8 * SLOW)
        with pytest.raises((ConnectionResetError, ssl.SSLError, AssertionError)):
            read_reply(lazy.recv)
    assert shared.secure_get()[0] == 200


def test_requests_without_reading_stop_being_taken(shared):
    """Neither the answers in memory nor the records in OpenSSL grow without bound."""
    with shared.dial() as s:
        s.setblocking(False)
        sent, batch = 0, GET * 500
        with pytest.raises((ssl.SSLWantWriteError, ConnectionResetError, BrokenPipeError)):
            while sent < 1 << 28:
                sent += s.send(batch)
        assert sent < 1 << 28
    assert shared.secure_get()[0] == 200


# ---- reload ----

def serial(o):
    with o.dial() as s:
        return s.getpeercert()["serialNumber"]


def test_certificates_change_under_load_and_no_request_fails(pki, make):
    o = make(sets=["api.workers=2"])
    pairs = [pki.make(f"load{i}", "ec") for i in range(4)]
    failures, done, stop = [], [0, 0], threading.Event()

    def fresh(context):
        while not stop.is_set():
            try:
                assert o.secure_get(context=context)[0] == 200
                done[0] += 1
            except Exception as e:
                failures.append(e)

    def keep(context):
        try:
            with o.dial(context) as s:
                while not stop.is_set():
                    assert exchange(s, GET)[0] == 200
                    done[1] += 1
        except Exception as e:
            failures.append(e)
    threads = [threading.Thread(target=f, args=(pki.context(),)) for f in (fresh, fresh, keep, keep)]
    with o.dial() as old:
        for t in threads:
            t.start()
        try:
            for pair in pairs * 3:
                new = o.install(pair)
                r = o.ctl("reload")
                assert r.returncode == 0, r.stderr
                assert {serial(o) for _ in range(8)} == {new}
        finally:
            stop.set()
            for t in threads:
                t.join()
        assert exchange(old, GET)[0] == 200 and old.getpeercert()["serialNumber"] == o.serial
    assert not failures and min(done) > 20, (done, failures[:3])
    assert f"serial {new}," in o.log()


def test_an_upgrade_takes_socket_certificate_and_tickets_along(pki, make, monkeypatch):
    """While the files on the disk are of no use: the new workers have their pair from the supervisor."""
    for name in [n for n in os.environ if n.startswith("ORCHESTRA_")]:
        monkeypatch.delenv(name)  # for the daemon they are misspelt keys
    o = make(sets=["api.workers=2"])
    context = pki.context(V13, V13)
    _, session = resumed(o, context, None)
    old = set(o.workers().values())
    os.unlink(o.key)
    failures, done, stop = [], [0, 0], threading.Event()

    def fresh():
        while not stop.is_set():
            try:
                assert o.secure_get()[0] == 200
                done[0] += 1
            except Exception as e:
                failures.append(e)

    def keep():
        while not stop.is_set():
            try:
                with o.dial() as s:
                    head = ""
                    while not stop.is_set() and "connection: close" not in head:
                        status, head, _ = exchange(s, GET)
                        assert status == 200
                        done[1] += 1
            except Exception as e:
                failures.append(e)
    threads = [threading.Thread(target=f) for f in (fresh, fresh, keep, keep)]
    for t in threads:
        t.start()
    try:
        r = o.ctl("upgrade")
        assert r.returncode == 0, r.stdout + r.stderr
        o.eventually("the old workers have gone", lambda: not old & set(o.workers().values()), 30)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert not failures and min(done) > 20, (done, failures[:3])
    assert serial(o) == o.serial
    assert resumed(o, context, session)[0], "the secret of the tickets is the same"
    assert json.loads(o.ctl("--json", "status").stdout)["tls"] == f"127.0.0.1:{o.tls_port}"


def breakages(pki, o):
    """name → what makes the files bad; the message names each time key and file."""
    other = pki.make("other", "ec")
    locked = pki.make("locked", "ec", passphrase="secret")

    def write(path, text):
        with open(path, "w") as f:
            f.write(text)

    def read(path):
        with open(path) as f:
            return f.read()
    return {
        "other key": (lambda: write(o.key, read(other[1])), f"tls.key: {o.key}: does not belong to the first certificate"),
        "key of another kind": (lambda: write(o.key, openssl("genrsa", "2048")), f"tls.key: {o.key}: does not belong"),
        "encrypted key": (lambda: o.install(locked), f"tls.key: {o.key}: is encrypted"),
        "no key": (lambda: os.unlink(o.key), f"tls.key: {o.key}: No such file"),
        "empty key": (lambda: write(o.key, ""), f"tls.key: {o.key}: holds no private key"),
        "certificate for a key": (lambda: write(o.key, read(o.cert)), f"tls.key: {o.key}: holds no private key"),
        "no certificate": (lambda: os.unlink(o.cert), f"tls.certificate: {o.cert}: No such file"),
        "empty certificate": (lambda: write(o.cert, ""), f"tls.certificate: {o.cert}: holds no certificate in PEM"),
        "torn certificate": (lambda: write(o.cert, read(o.cert)[:300]), f"tls.certificate: {o.cert}: the first certificate cannot"),
        "torn chain": (lambda: write(o.cert, read(o.cert) + read(pki.ca)[:300]), f"tls.certificate: {o.cert}: a certificate behind"),
        "chain the wrong way round": (lambda: write(o.cert, read(pki.ca) + read(o.cert)), f"tls.key: {o.key}: does not belong"),
        "a directory": (lambda: (os.unlink(o.key), os.mkdir(o.key)), f"tls.key: {o.key}: is no file"),
        "a huge file": (lambda: write(o.key, "x" * (2 << 20)), f"tls.key: {o.key}: is larger than 1 MiB"),
    }


def reborn(o):
    """Kills api.0 and waits for its successor."""
    def state():
        said = json.loads(o.ctl("--json", "status").stdout)
        return next(w for w in said["workers"] if w["name"] == "api.0")
    before = state()
    os.kill(before["pid"], signal.SIGKILL)
    o.eventually("a successor", lambda: state()["restarts"] > before["restarts"] and state()["state"] == "ready")


def test_files_that_do_not_fit_change_nothing_and_the_reason_is_told(pki, make):
    o = make(sets=["api.workers=2"])
    check = [os.path.join(BUILD, "orchestrad"), "--check", *o.command()[2:]]
    with open(o.key) as f:
        secret = f.read().split("\n")[1:-2]
    for name, (spoil, message) in breakages(pki, o).items():
        spoil()
        r = o.ctl("reload")
        assert r.returncode == 1 and message in r.stderr, (name, r.stderr)
        assert "Nothing was changed" in r.stderr
        said = subprocess.run(check, capture_output=True, text=True)
        assert said.returncode == 1 and message in said.stdout, (name, said.stdout)
        assert {serial(o) for _ in range(4)} == {o.serial}, name
        # Born while the files are bad, a worker has what the others have.
        reborn(o)
        assert {serial(o) for _ in range(4)} == {o.serial}, name
        if os.path.isdir(o.key):
            os.rmdir(o.key)
        o.install((pki.path("firstec.pem"), pki.path("firstec.key"), None))
    new = o.install(pki.make("good"))
    assert o.ctl("reload").returncode == 0, "a good pair after the bad ones"
    reborn(o)
    assert {serial(o) for _ in range(4)} == {new}
    assert not [line for line in secret if line in o.log()], "the key is in the log"


def test_everybody_may_not_read_the_key(make):
    o = make()
    os.chmod(o.key, 0o644)
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--check", *o.command()[2:]], capture_output=True, text=True)
    assert r.returncode == 1 and f"tls.key: everybody can read {o.key}" in r.stdout
    assert o.ctl("reload").returncode == 0
    o.wait_log(f"tls.key: everybody can read {o.key}; chmod 0640 it")


def test_an_expired_certificate_is_served_with_a_warning(pki, make):
    o = make()
    o.install(pki.make("expired", end="20210101000000Z"))
    r = subprocess.run([os.path.join(BUILD, "orchestrad"), "--check", *o.command()[2:]], capture_output=True, text=True)
    assert r.returncode == 0 and "warning tls.certificate: " in r.stdout and "expired at 2021-01-01" in r.stdout, r
    assert o.ctl("reload").returncode == 0
    o.wait_log("the certificate expired at 2021-01-01 00:00:00Z; clients will refuse it")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        o.dial()


def test_what_cannot_start_says_why(pki, tmp_path):
    cert, key, _ = pki.make("start")

    def check(*sets):
        args = [os.path.join(BUILD, "orchestrad"), "--check", "--set", f"data.dir={tmp_path}", "--set", f"listen.unix={tmp_path}/s"]
        r = subprocess.run([*args, *(x for s in sets for x in ("--set", s))], capture_output=True, text=True)
        return r.returncode, r.stdout + ("" if r.returncode == 0 else r.stderr)
    pair = [f"tls.certificate={cert}", f"tls.key={key}"]
    assert check("listen.tls=127.0.0.1:7743", *pair) == (0, "OK\n")
    code, said = check("listen.tls=0.0.0.0:7743", *pair)
    assert code == 1 and "listen.tls" in said and "auth.tokens_file" in said
    code, said = check("listen.tls=127.0.0.1:7743")
    assert code == 1 and "set tls.certificate" in said and "set tls.key" in said
    code, said = check("listen.tls=127.0.0.1", *pair)
    assert code == 1 and "listen.tls" in said and "host:port" in said
    code, said = check("tls.min_version=1.1", *pair)
    assert code == 1 and "tls.min_version" in said
    code, said = check(f"tls.certificate={cert}")
    assert code == 1 and "is of no use without tls.key" in said


def test_the_address_is_shown(shared):
    assert f"127.0.0.1:{shared.tls_port} (TLS)" in shared.log()
    assert f"127.0.0.1:{shared.tls_port} (TLS)" in shared.ctl("status").stdout
    assert json.loads(shared.ctl("--json", "status").stdout)["tls"] == f"127.0.0.1:{shared.tls_port}"


# ---- systemd, probes ----

PASS = """
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen()
if s.fileno() != 3:
    os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="tls")
os.execv(sys.argv[3], sys.argv[3:])
"""


def passed(pki, tmp_path, address, *sets):
    """A daemon with a socket named tls from systemd, none of its own for TLS."""
    cert, key, serial = pki.make("passed")
    o = Orchestra(directory=str(tmp_path), sets=list(sets) or [f"tls.certificate={cert}", f"tls.key={key}"], start=False)
    o.pki, o.tls_port = pki, free_port()
    o.prefix = [sys.executable, "-c", PASS, address, str(o.tls_port)]
    return o, serial


def test_a_socket_that_systemd_names_tls(pki, tmp_path):
    o, number = passed(pki, tmp_path, "127.0.0.1")
    with o.start():
        with socket.create_connection(("127.0.0.1", o.tls_port), 10 * SLOW) as tcp, \
                pki.context().wrap_socket(tcp, server_hostname="localhost") as s:
            assert s.getpeercert()["serialNumber"] == number and exchange(s, GET)[0] == 200
        assert json.loads(o.ctl("--json", "status").stdout)["tls"] == f"127.0.0.1:{o.tls_port}"
        assert o.ctl("reload").returncode == 0
        assert o.get("/livez").status == 200


@pytest.mark.parametrize("address,sets,why", [("0.0.0.0", [], "auth.tokens_file"), ("127.0.0.1", ["log.level=info"], "tls.certificate: is not set")])
def test_a_passed_socket_obeys_the_same_rules(pki, tmp_path, address, sets, why):
    o, _ = passed(pki, tmp_path, address, *sets)
    with o:
        o.start(wait=False)
        assert o.process.wait(10 * SLOW) != 0
        assert why in o.log()


def test_the_probe_tries_the_address(make):
    o = make()
    probe = [os.path.join(BUILD, "orchestrad"), "--check", "--probe", *o.command()[2:]]
    said = subprocess.run(probe, capture_output=True, text=True).stdout
    assert f"ok listen.tls 127.0.0.1:{o.tls_port}: held by the daemon of this data.dir" in said, said
    assert o.stop() == 0
    said = subprocess.run(probe, capture_output=True, text=True).stdout
    assert f"ok listen.tls 127.0.0.1:{o.tls_port}: free" in said, said
    with socket.socket() as s:
        s.bind(("127.0.0.1", o.tls_port))
        s.listen()
        r = subprocess.run(probe, capture_output=True, text=True)
        assert r.returncode == 1 and "another program has the port; stop it, or choose another listen.tls" in r.stdout


def test_key_and_certificate_as_credentials(pki, make, tmp_path):
    cert, key, number = pki.make("credential")
    for name, path in (("tls.certificate", cert), ("tls.key", key)):
        (tmp_path / name).write_bytes(open(path, "rb").read())
    o = Orchestra(env={"CREDENTIALS_DIRECTORY": str(tmp_path)}, start=False)
    o.pki, o.tls_port = pki, free_port()
    o.sets = [f"listen.tls=127.0.0.1:{o.tls_port}"]
    with o.start(), socket.create_connection(("127.0.0.1", o.tls_port), 10 * SLOW) as tcp, \
            pki.context().wrap_socket(tcp, server_hostname="localhost") as s:
        assert s.getpeercert()["serialNumber"] == number and exchange(s, GET)[0] == 200


# ---- tickets ----

def resumed(o, context, session):
    with o.dial(context, session) as s:
        assert exchange(s, GET)[0] == 200  # a ticket of TLS 1.3 comes behind the handshake
        return s.session_reused, s.session


def test_a_ticket_from_one_worker_is_good_at_the_other(pki, make):
    o = make(sets=["api.workers=2"])
    first, second = (o.workers()[f"api.{i}"] for i in (0, 1))
    context = pki.context(V13, V13)
    try:
        os.kill(second, signal.SIGSTOP)
        reused, session = resumed(o, context, None)
        assert not reused
        os.kill(second, signal.SIGCONT)
        os.kill(first, signal.SIGSTOP)
        reused, session = resumed(o, context, session)
        assert reused
    finally:
        os.kill(first, signal.SIGCONT)
        os.kill(second, signal.SIGCONT)
    assert o.ctl("reload").returncode == 0
    reused, session = resumed(o, context, session)
    assert not reused, "a reload makes a new secret"
    assert resumed(o, context, session)[0]


def test_no_tickets_in_12(pki, shared):
    context = pki.context(V12, V12)
    with shared.dial(context) as s:
        assert not s.session.has_ticket
        session = s.session
    assert not resumed(shared, context, session)[0]


# ---- client certificates ----

def test_client_certificates(pki, make):
    o = make(sets=[f"tls.client_ca={pki.ca}"])
    cert, key, _ = pki.make("client", subject="/CN=agent")
    for version in (V12, V13):
        with pytest.raises((ssl.SSLError, ConnectionResetError), match="(?i)certificate|reset|handshake"):
            o.secure_get(context=pki.context(version, version))
        context = pki.context(version, version, cert=(cert, key))
        assert o.secure_get(context=context)[0] == 200
    _, session = resumed(o, context, None)
    assert resumed(o, context, session)[0]
    own = pki.path("own.pem"), pki.path("own.key")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", own[1], "-out", own[0], "-subj", "/CN=agent")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        o.secure_get(context=pki.context(cert=own))
    assert o.get("/livez").status == 200, "other sockets ask for none"


# ---- leaving ----

def test_drain_finishes_what_has_begun(make):
    o = make(sets=["api.workers=1"])
    with Wire(o) as begun, o.dial() as idle, o.dial() as waiting:
        assert exchange(idle, GET)[0] == 200
        with pytest.raises(ssl.SSLWantReadError):
            begun.tls.do_handshake()
        begun.push()
        begun.pull()  # the server's half is here; ours is not sent yet
        waiting.sendall(GET[:-2])
        o.eventually("half a request arrived", lambda: o.metric("orchestra_tls_handshakes_total") == 2)
        o.signal(signal.SIGTERM)
        assert idle.recv(100) == b""
        begun.handshake()
        begun.send(GET)
        status, head, _, _ = read_reply(begun.recv)
        assert status == 200 and "connection: close" in head
        assert begun.recv() == b""
        status, head, _ = exchange(waiting, GET[-2:])
        assert status == 200 and "connection: close" in head
        o.process.wait(10 * SLOW)
    assert o.process.returncode == 0


def test_idle_connections_do_not_keep_the_daemon(make):
    o = make()
    with o.dial(), o.tcp(), Wire(o) as w:
        w.handshake()
        assert o.stop(timeout=8) == 0
