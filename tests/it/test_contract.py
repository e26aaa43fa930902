"""docs/openapi.yaml against the real daemon: each route's answers are described, with the status, the media type, the
fields and nothing beyond them. Every success that the document promises must be among the answers seen."""
import json
import os

import pytest

from held import accepts, rejects
from orchestra import until

yaml = pytest.importorskip("yaml", reason="python3-yaml is not installed: openapi.yaml is not compared with the daemon")
jsonschema = pytest.importorskip("jsonschema", reason="python3-jsonschema is not installed: openapi.yaml is not compared with the daemon")

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
M, ONE, NS, SEARCH = "/v1/memories", "/v1/memories/{id}", "/v1/namespaces", "/v1/memories/search"
DEAD = "/v1/admin/dead-letters"
NAME = NS + "/{name}"


class Contract:
    def __init__(self, o):
        with open(os.path.join(ROOT, "docs/openapi.yaml"), encoding="utf-8") as f:
            self.spec = yaml.safe_load(f)
        self.o, self.seen = o, set()

    def resolve(self, node):
        while "$ref" in node:
            ref, node = node["$ref"], self.spec
            for key in ref[2:].split("/"):
                node = node[key]
        return node

    def fields(self, schema):
        schema = self.resolve(schema)
        out = set(schema.get("properties", {}))
        for part in schema.get("allOf", []) + schema.get("oneOf", []):
            out |= self.fields(part)
        return out

    def promised(self):
        return {(method.upper(), route, int(status)) for route, verbs in self.spec["paths"].items()
                for method, op in verbs.items() if method != "parameters"
                for status in op["responses"] if status.startswith("2")}

    def call(self, method, path, route, expect, body=None, **headers):
        r = self.o.request(method, path, body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        what = f"{method} {path}: {r}"
        assert r.status == expect, what
        described = self.spec["paths"][route][method.lower()]["responses"]
        assert str(r.status) in described, f"not in openapi.yaml: {what}"
        self.seen.add((method, route, r.status))
        content = self.resolve(described[str(r.status)]).get("content")
        if content is None:
            assert not r.body, what
            return r
        media = r.headers["Content-Type"].split(";")[0]
        assert media in content, f"{media} is not in openapi.yaml: {what}"
        if media in ("application/json", "application/problem+json"):
            schema = content[media]["schema"]
            jsonschema.Draft202012Validator({**schema, "components": self.spec["components"]}).validate(r.json)
            beyond = set(r.json) - self.fields(schema)
            assert not beyond, f"{beyond} is not in openapi.yaml: {what}"
        return r


@pytest.fixture
def contract(make):
    return Contract(make(sets=['pinger.targets=[{"name": "t", "url": "http://127.0.0.1:1/", "interval": "1 h", "cost_per_second": 1}]']))


def targets(c):
    path = "/v1/admin/targets"
    until(lambda: c.o.get(path).json["targets"])
    c.call("GET", path, path, 200)
    for verb, end, good in (("GET", "", 200), ("GET", "/history", 200), ("POST", ":ping", 202), ("POST", ":touch", 204)):
        c.call(verb, f"{path}/t{end}", f"{path}/{{name}}{end}", good)
        c.call(verb, f"{path}/none{end}", f"{path}/{{name}}{end}", 404)
    until(lambda: c.o.get(path + "/t").json["results"])
    for end in ("", "/history"):
        c.call("GET", f"{path}/t{end}", f"{path}/{{name}}{end}", 200)


def memories(c):
    i = c.call("POST", M, M, 201, {
        "content": "a", "user_id": "u", "agent_id": "g", "session_id": "s", "kind": "k", "external_id": "x",
        "metadata": {"k": 1}, "pinned": True, "ttl": 100, "importance": .3}).json["id"]
    c.call("POST", M, M, 200, {"content": "a", "on_duplicate": "keep"})
    c.call("POST", M, M, 201, {"memories": [{"content": "b", "external_id": "y"}]})
    c.call("POST", M, M, 200, {"memories": [{"content": "b"}], "on_duplicate": "keep"})
    c.call("POST", M, M, 400, {"content": ""})
    c.call("POST", M, M, 403, {"content": "z"}, Origin="http://elsewhere.example")
    c.call("POST", M, M, 409, {"content": "q", "embedding": [1]})
    c.call("POST", M, M, 415, {"content": "z"}, Content_Encoding="gzip")
    c.call("POST", M, M, 421, {"content": "z"}, Host="elsewhere.example")
    c.call("POST", M, M, 501, {"content": "a", "infer": True})
    c.call("GET", M + "?limit=1&include=embedding", M, 200)
    c.call("GET", M + "?limit=0", M, 400)
    c.call("GET", f"{M}/{i}?include=embedding", ONE, 200)
    c.call("GET", f"{M}/{i}?include=colour", ONE, 400)
    c.call("GET", f"{M}/{i}", ONE, 304, If_None_Match='"1"')
    c.call("GET", M + "/none", ONE, 404)
    c.call("PATCH", f"{M}/{i}", ONE, 200, {"importance": .1})
    c.call("PATCH", f"{M}/{i}", ONE, 412, {"importance": .1}, If_Match='"1"')
    c.call("PATCH", f"{M}/{i}", ONE, 400, {"colour": 1})
    s = c.call("POST", f"{M}/{i}/supersede", ONE + "/supersede", 201, {"content": "c"}).json["id"]
    c.call("POST", f"{M}/{i}/supersede", ONE + "/supersede", 409, {"content": "c"})
    c.call("GET", f"{M}/{i}", ONE, 200)
    c.call("DELETE", f"{M}/{s}", ONE, 204)
    c.call("GET", f"{M}/{s}/history", ONE + "/history", 200)
    c.call("POST", f"{M}/{s}/restore", ONE + "/restore", 200)
    c.call("DELETE", f"{M}/{s}?erase=true", ONE, 200)
    c.call("POST", f"{M}/{s}/restore", ONE + "/restore", 404)
    for mode in ("text", "vector", "hybrid"):
        c.call("POST", SEARCH, SEARCH, 200, {"query": "b", "mode": mode, "explain": True, "filter": {"version": 1}})
    c.call("POST", SEARCH, SEARCH, 400, {"quer": "b"})
    c.call("POST", M + ":get", M + ":get", 200, {"ids": [i, s]})
    c.call("POST", M + ":get", M + ":get", 400, {"ids": []})
    c.call("GET", M + ":count", M + ":count", 200)
    c.call("GET", M + ":export", M + ":export", 200)
    c.call("POST", M + ":import", M + ":import", 200, json.dumps({"content": "i"}) + "\n{}\n")
    c.call("DELETE", M, M, 400)
    c.call("DELETE", M + "?confirm=default", M, 200)
    c.call("DELETE", M + "?confirm=default&erase=true", M, 200)


def namespaces(c):
    c.call("POST", NS, NS, 201, {"name": "n", "quota_count": 1})
    c.call("POST", NS, NS, 409, {"name": "n"})
    c.call("POST", NS, NS, 400, {})
    c.call("GET", NS, NS, 200)
    c.call("GET", NS + "/n", NAME, 200)
    c.call("GET", NS + "/none", NAME, 404)
    c.call("PATCH", NS + "/n", NAME, 200, {"durability": "relaxed"})
    c.call("PATCH", NS + "/n", NAME, 400, {"durability": "no"})
    c.call("PATCH", NS + "/n", NAME, 200, {"language": "de"})
    c.call("POST", M + "?namespace=n", M, 201, {"content": "1"})
    c.call("POST", M + "?namespace=n", M, 507, {"content": "2"})
    c.call("PATCH", NS + "/n", NAME, 409, {"language": "french"})
    c.call("DELETE", NS + "/n", NAME, 400)
    c.call("DELETE", NS + "/n?confirm=n", NAME, 204)
    c.call("POST", NS, NS, 201, {"name": "n"})
    c.call("DELETE", NS + "/n?confirm=n&erase=true", NAME, 200)


def caches(c):
    cache = "/v1/admin/cache"
    id_ = c.call("POST", M, M, 201, {"content": "Ada keeps bees"}).json["id"]
    c.call("GET", cache, cache, 200)
    c.call("GET", cache + "/top?limit=3&class=memory", cache + "/top", 200)
    c.call("GET", cache + "/top?class=none", cache + "/top", 400)
    c.call("GET", f"{cache}/{id_}", cache + "/{id}", 200)
    c.call("GET", cache + "/none", cache + "/{id}", 404)
    c.call("POST", cache + ":purge", cache + ":purge", 200, {"id": id_})
    c.call("POST", cache + ":purge", cache + ":purge", 400, {"tier": "l3"})


def dead_letters(c):
    rejects(c.o)
    for _ in range(3):
        c.call("POST", M + "?wait=store", M, 409, {"content": "poison"})
    one = f"{DEAD}/{c.call('GET', DEAD, DEAD, 200).json['dead_letters'][0]['number']}"
    c.call("GET", DEAD + "?limit=0", DEAD, 400)
    c.call("GET", one, DEAD + "/{name}", 200)
    c.call("GET", DEAD + "/99", DEAD + "/{name}", 404)
    c.call("POST", one + "/retry", DEAD + "/{name}/retry", 409)
    accepts(c.o)
    c.call("POST", one + "/retry", DEAD + "/{name}/retry", 200)
    c.call("DELETE", f"{DEAD}/2", DEAD + "/{name}", 200)
    c.call("POST", DEAD + ":retry", DEAD + ":retry", 200)
    c.call("DELETE", DEAD, DEAD, 400)
    c.call("DELETE", DEAD + "?confirm=true", DEAD, 200)


def changes(c):
    path = "/v1/changes"
    c.call("POST", M + "?wait=store", M, 201, {"content": "told"})
    assert c.call("GET", path + "?after=0&wait=9", path, 200).json["changes"]
    c.call("GET", path + "?after=x", path, 400)
    c.call("GET", path + "?after=999999999", path, 410)


def test_openapi_is_what_the_daemon_does(contract):
    memories(contract)
    changes(contract)
    namespaces(contract)
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/v1/admin/status"):
        contract.call("GET", path, path, 200)
    contract.call("GET", "/v1/admin/config/log.level", "/v1/admin/config/{name}", 200)
    contract.call("GET", "/v1/admin/config/none", "/v1/admin/config/{name}", 404)
    config = "/v1/admin/config"
    contract.call("GET", config + "?fingerprint_key=" + "ab" * 16, config, 200)
    contract.call("GET", config + "?fingerprint_key=x", config, 400)
    contract.call("PATCH", config, config, 200, {"set": {"vectors.recall": 95}, "for": "1 h", "reason": "the contract"})
    contract.call("PATCH", config, config, 400, {"set": {"vectors.recall": 0}})
    contract.call("PATCH", config, config, 409, {"set": {"sync.ack": "store"}})
    contract.call("PATCH", config, config, 413, {"set": {"listen.names": "x" * 70000}})
    contract.call("GET", config, config, 200)
    contract.call("PATCH", config, config, 200, {"unset": True})
    contract.call("GET", "/v1/admin/audit?limit=1", "/v1/admin/audit", 200)
    contract.call("GET", "/v1/admin/audit?order=up", "/v1/admin/audit", 400)
    breakers = "/v1/admin/breakers"
    contract.call("GET", breakers, breakers, 200)
    for verb in ("open", "close", "reset"):
        contract.call("POST", f"{breakers}/store/{verb}", f"{breakers}/{{name}}/{verb}", 200)
        contract.call("POST", f"{breakers}/none/{verb}", f"{breakers}/{{name}}/{verb}", 404)
    targets(contract)
    caches(contract)
    warm = "/v1/admin/warm"
    contract.call("GET", warm, warm, 200)
    contract.call("DELETE", warm, warm, 200)
    contract.call("POST", warm, warm, 202, {"all": True})
    contract.call("POST", warm, warm, 400, {})
    contract.call("POST", warm, warm, 404, {"namespace": "nobody"})
    contract.call("POST", "/v1/admin/reload", "/v1/admin/reload", 200)
    contract.call("POST", "/v1/admin/upgrade", "/v1/admin/upgrade", 200)
    dead_letters(contract)
    contract.call("POST", "/v1/admin/drain", "/v1/admin/drain", 200)
    assert contract.promised() == {x for x in contract.seen if x[2] < 300}
