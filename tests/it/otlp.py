"""A receiver of OTLP/HTTP in JSON that believes nothing: every request is checked against the shape that opentelemetry-proto gives it
(ExportTraceServiceRequest; ids in hex, 64-bit numbers as strings), and what it holds is kept as plain spans."""
import collections
import http.server
import json
import re
import threading
import time

Span = collections.namedtuple("Span", "trace id parent name kind start end attributes links failed flags state")
NAMES = {"http.request.method": str, "http.route": str, "url.path": str, "url.scheme": str, "http.response.status_code": int, "http.response.body.size": int,
         "server.address": str, "server.port": int, "error.type": str, "db.system.name": str, "db.operation.batch.size": int,
         "orchestra.namespace": str, "orchestra.request_id": str, "orchestra.cache_status": str, "orchestra.target": str, "orchestra.worker": str,
         "orchestra.hits": int, "orchestra.asked": int, "orchestra.found": int, "orchestra.transactions": int, "orchestra.bytes": int, "orchestra.spans_left_out": int}


def attributes(rows):
    out = {}
    for a in rows:
        assert set(a) == {"key", "value"} and len(a["value"]) == 1 and a["key"] not in out, a
        (kind, value), = a["value"].items()
        if kind == "intValue":
            assert isinstance(value, str) and re.fullmatch(r"-?\d+", value), a
            value = int(value)
        else:
            assert kind == "stringValue" and isinstance(value, str), a
        out[a["key"]] = value
    return out


def span(s):
    assert set(s) <= {"traceId", "spanId", "parentSpanId", "traceState", "name", "kind", "flags", "startTimeUnixNano", "endTimeUnixNano",
                      "attributes", "links", "status", "droppedLinksCount"}, s
    for key, digits in (("traceId", 32), ("spanId", 16), ("parentSpanId", 16)):
        if key in s or key != "parentSpanId":
            assert re.fullmatch(f"[0-9a-f]{{{digits}}}", s[key]) and int(s[key], 16), s
    assert s["name"] and s["kind"] in (1, 2, 3) and s["status"] in ({}, {"code": 2}), s
    start, end = int(s["startTimeUnixNano"]), int(s["endTimeUnixNano"])
    assert isinstance(s["startTimeUnixNano"], str) and start <= end and abs(start / 1e9 - time.time()) < 3600, s
    assert isinstance(s["flags"], int) and s["flags"] & ~0x301 == 0 and s["flags"] & 0x100
    links = s.get("links", [])
    for l in links:
        assert re.fullmatch("[0-9a-f]{32}", l["traceId"]) and re.fullmatch("[0-9a-f]{16}", l["spanId"]) and set(l) == {"traceId", "spanId", "flags"}, l
    a = attributes(s["attributes"])
    for key, value in a.items():
        assert isinstance(value, NAMES[key]), (key, value)
    return Span(s["traceId"], s["spanId"], s.get("parentSpanId"), s["name"], s["kind"], start, end, a,
                [(l["traceId"], l["spanId"]) for l in links], s["status"] == {"code": 2}, s["flags"], s.get("traceState"))


class Receiver:
    """`answer` is (status, headers, body), or a function that returns it, for every request; what comes while it is not 2xx is not kept."""

    def __init__(self, port=0):
        self.answer, self.delay = (200, {}, b"{}"), 0
        self.spans, self.resources, self.requests, self.refused, self.wrong, self.bodies = [], [], [], [], [], []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(receiver.delay)
                answer = receiver.answer() if callable(receiver.answer) else receiver.answer
                receiver.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body, answer[0])
                try:
                    self.send_response(answer[0])
                    for k, v in answer[1].items():
                        self.send_header(k, v)
                    self.send_header("Content-Length", str(len(answer[2])))
                    self.end_headers()
                    self.wfile.write(answer[2])
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            allow_reuse_address = True
        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def take(self, path, headers, body, status):
        try:
            assert path == "/v1/traces" and headers["content-type"] == "application/json" and "expect" not in headers, (path, headers)
            doc = json.loads(body)
            assert set(doc) == {"resourceSpans"} and len(doc["resourceSpans"]) == 1
            r = doc["resourceSpans"][0]
            assert set(r) == {"resource", "scopeSpans"} and len(r["scopeSpans"]) == 1 and set(r["scopeSpans"][0]) == {"scope", "spans"}
            scope = r["scopeSpans"][0]
            assert scope["scope"]["name"] == "orchestra" and scope["spans"] and len(scope["spans"]) <= 512
            found = [span(s) for s in scope["spans"]]
            resource = attributes(r["resource"]["attributes"])
            assert resource["service.name"] and resource["service.instance.id"], resource
        except Exception as e:                                     # noqa: BLE001: whatever it is, the test says it
            self.wrong.append(f"{e!r}: {body[:2000]!r}")
            return
        if 200 <= status < 300:
            self.requests.append((time.monotonic(), headers))
            self.bodies.append(body)
            self.resources.append(resource)
            self.spans += found
        else:
            self.refused.append((time.monotonic(), found))

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def of(self, trace):
        return [s for s in self.spans if s.trace == trace]

    def root(self, trace):
        """The span of the server in that trace, when it has come."""
        return next((s for s in self.of(trace) if s.kind == 2), None)
