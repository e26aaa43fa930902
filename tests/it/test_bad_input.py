"""What clients get wrong: every refusal is a problem that names the field, and nothing breaks or is stored."""
import base64
import json
import struct
from urllib.parse import quote

import pytest

NOBODY = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module", autouse=True)
def nothing_dies(shared):
    before = set(shared.workers().values())
    yield
    assert set(shared.workers().values()) == before, shared.log()


def refused(reply, status, type_, *words):
    """A whole problem document, with these words in its detail."""
    assert reply.status == status, reply
    p = reply.json
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert p["type"] == "urn:orchestra:problem:" + type_ and p["status"] == status and p["title"], p
    assert p["request_id"] == reply.headers["X-Request-Id"]
    assert all(w in p["detail"] for w in words), p
    return p


# ---- wrong types, for every field of every route ----

STRINGS = ["content", "kind", "user_id", "agent_id", "session_id", "external_id", "namespace", "embedding_model"]
WRONG = {
    "string": [5, -1.5, True, [], {}, ["x"]],
    "number": ["5", True, [], {}],
    "bool": ["true", 1, [], {}],
    "object": ["{}", 5, True, [], [{}]],
    "time": [5, "yesterday", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-21", "1969-01-01T00:00:00Z", True, [], {}],
    "vector": [5, True, {}, [[1]], [{}], ["1"], [None], [True], [1, "x"], "", "!", [], {"a": 1}],
}
MEMORY = {**{f: "string" for f in STRINGS}, "metadata": "object", "importance": "number", "ttl": "number",
          "ttl_seconds": "number", "pinned": "bool", "expires_at": "time", "created_at": "time", "embedding": "vector"}
SEARCH = {"query": "string", "user_id": "string", "namespace": "string", "limit": "number", "min_score": "number",
          "recency_half_life": "number", "importance_weight": "number", "diversity": "number", "explain": "bool",
          "embedding": "vector", "filter": "object"}


@pytest.mark.parametrize("field", MEMORY)
def test_wrong_types_in_a_memory(shared, ns, field):
    before = shared.get("/v1/memories:count?namespace=" + ns).json["count"]
    for value in WRONG[MEMORY[field]]:
        body = {"namespace": ns, "content": "x", field: value}
        if field == "embedding_model":
            body["embedding"] = [1, 2]
        p = refused(shared.post("/v1/memories", body), 400, "invalid-field")
        assert p["detail"].startswith(field + ":"), (value, p)
        item = {k: v for k, v in body.items() if k != "namespace" or field == "namespace"}
        p = refused(shared.post("/v1/memories", {"memories": [{"content": "fine"}, item]}), 400, p["type"].rsplit(":", 1)[1])
        assert field in p["detail"]
    assert shared.get("/v1/memories:count?namespace=" + ns).json["count"] == before == 0


@pytest.mark.parametrize("field", [f for f in MEMORY if f not in ("namespace", "created_at", "embedding_model")])
def test_wrong_types_in_a_patch(shared, ns, field):
    m = shared.add("x", namespace=ns)
    for value in WRONG[MEMORY[field]]:
        p = refused(shared.patch("/v1/memories/" + m["id"], {field: value}), 400, "invalid-field", field)
        p = refused(shared.post(f"/v1/memories/{m['id']}/supersede", {"content": "y", field: value}), 400, "invalid-field", field)
    assert shared.memory(m["id"]).json["version"] == 1
    for fixed in ("namespace", "created_at"):
        refused(shared.patch("/v1/memories/" + m["id"], {fixed: "x"}), 400, "invalid-field", fixed, "cannot be changed")


@pytest.mark.parametrize("field", SEARCH)
def test_wrong_types_in_a_search(shared, ns, field):
    shared.add("x", namespace=ns)
    for value in WRONG[SEARCH[field]]:
        if field == "filter" and value == []:
            continue
        r = shared.post("/v1/memories/search", {"query": "x", "namespace": ns, field: value})
        names = {"namespace": "invalid-namespace", "filter": "invalid-filter"}
        refused(r, 400, names.get(field, "invalid-field"), field)


@pytest.mark.parametrize("body, type_, word", [
    ({"memories": {}}, "invalid-field", "memories"), ({"memories": "x"}, "invalid-field", "memories"),
    ({"memories": []}, "invalid-field", "1 to 500"), ({"memories": [5]}, "invalid-field", "memories[0]"),
    ({"memories": [{"content": "x"}, None]}, "invalid-field", "memories[1]"),
    ({"memories": [{"content": "x"}], "namespace": 5}, "invalid-field", "namespace"),
    ({"memories": [{"content": "x"}], "user_id": "u"}, "unknown-field", "user_id"),
    ({"memories": [{"content": "x", "namespace": "a"}, {"content": "x", "namespace": "b"}]}, "invalid-field", "memories[1].namespace"),
    ({"memories": [{"content": "x", "on_duplicate": "keep"}]}, "unknown-field", "on_duplicate"),
    ({"content": "x", "on_duplicate": "merge"}, "invalid-field", "on_duplicate"),
    ({"content": "x", "on_duplicate": 5}, "invalid-field", "on_duplicate"),
    ({"content": "x", "id": NOBODY}, "unknown-field", "external_id"),
    ({"content": "x", "version": 3}, "unknown-field", "version"),
    ({"text": "x"}, "unknown-field", '"content"'), ({"content": None}, "invalid-field", "content"),
    ({}, "invalid-field", "content"), ([], "invalid-json", "object"), ([{"content": "x"}], "invalid-json", "object"),
    ({"content": "x", "": 1}, "unknown-field", "no such field"),
    ({"content": "x", "\u00e9" * 40: 1}, "unknown-field", "no such field"),
    ({"content": "x", "k" * 63 + "\u00e9" * 40: 1}, "unknown-field", "no such field"),  # cut within a character
])
def test_misshapen_adds(shared, body, type_, word):
    refused(shared.post("/v1/memories", body), 400, type_, word)


@pytest.mark.parametrize("method, path, body, type_, word", [
    ("POST", "/v1/memories:get", {"ids": "x"}, "invalid-field", "ids"),
    ("POST", "/v1/memories:get", {"ids": []}, "invalid-field", "1 to 500"),
    ("POST", "/v1/memories:get", {"ids": [NOBODY] * 501}, "invalid-field", "1 to 500"),
    ("POST", "/v1/memories:get", {"ids": [NOBODY, "x"]}, "invalid-field", "ids[1]"),
    ("POST", "/v1/memories:get", {"ids": [NOBODY], "x": 1}, "invalid-field", "ids"),
    ("POST", "/v1/memories:get", b"", "invalid-json", "empty"),
    ("POST", "/v1/memories:get", b'{"ids":["%s"]}\0' % NOBODY.encode(), "invalid-json", "NUL"),
    ("POST", "/v1/namespaces", b"", "invalid-json", "empty"),
    ("POST", "/v1/namespaces", {}, "invalid-field", "name"),
    ("POST", "/v1/namespaces", {"name": 5}, "invalid-field", "name"),
    ("POST", "/v1/namespaces", {"name": "a\0b"}, "invalid-field", "U+0000"),
    ("POST", "/v1/namespaces", {"name": "n" * 129}, "invalid-namespace", "128"),
    ("POST", "/v1/namespaces", {"name": "a\nb"}, "invalid-namespace", "control"),
    ("POST", "/v1/namespaces", {"name": "q", "quota_bytes": -1}, "invalid-field", "quota_bytes"),
    ("POST", "/v1/namespaces", {"name": "q", "quota_count": 1.5}, "invalid-field", "quota_count"),
    ("POST", "/v1/namespaces", {"name": "q", "durability": "maybe"}, "invalid-field", "durability"),
    ("POST", "/v1/namespaces", {"name": "q", "colour": 1}, "unknown-field", "colour"),
    ("POST", "/v1/namespaces", {"name": "q", "language": "klingon"}, "invalid-field", "indonesian"),
    ("POST", "/v1/namespaces", {"name": "q", "language": 7}, "invalid-field", "language"),
    ("POST", "/v1/namespaces", {"name": "q", "language": "de\0"}, "invalid-field", "language"),
    ("PATCH", "/v1/namespaces/q", {"name": "r"}, "unknown-field", "name"),
    ("PATCH", "/v1/namespaces/q", [], "invalid-json", "object"),
    ("DELETE", "/v1/namespaces/q", None, "confirm-required", "confirm"),
    ("DELETE", "/v1/memories", None, "confirm-required", "confirm"),
    ("DELETE", "/v1/memories?confirm=yes", None, "confirm-required", "confirm"),
    ("DELETE", f"/v1/memories/{NOBODY}?erase=perhaps", None, "invalid-parameter", "erase"),
    ("POST", "/v1/memories?wait=never", {"content": "x"}, "invalid-parameter", "wait"),
    ("PATCH", f"/v1/memories/{NOBODY}?wait=%zz", {}, "invalid-parameter", "wait"),
    ("GET", f"/v1/memories/{NOBODY}?include=everything", None, "invalid-parameter", "include"),
    ("GET", "/v1/memories?include=%zz", None, "invalid-parameter", "include"),
    ("GET", "/v1/memories?limit=0", None, "invalid-parameter", "1 to 1000"),
    ("GET", "/v1/memories?limit=1001", None, "invalid-parameter", "1 to 1000"),
    ("GET", "/v1/memories?limit=99999999999999999999", None, "invalid-parameter", "1 to 1000"),
    ("GET", "/v1/memories?limit=%2B5", None, "invalid-parameter", "limit"),
    ("GET", "/v1/memories?limit=", None, "invalid-parameter", "limit"),
    ("GET", "/v1/memories?limit=5x", None, "invalid-parameter", "limit"),
    ("GET", "/v1/memories?order=sideways", None, "invalid-parameter", "order"),
    ("GET", "/v1/memories?deleted=1", None, "invalid-parameter", "deleted"),
    ("GET", "/v1/memories?user_id=%ff", None, "invalid-parameter", "user_id"),
    ("GET", "/v1/memories?user_id=a%00b", None, "invalid-parameter", "user_id"),
    ("GET", "/v1/memories?user_id=" + "u" * 257, None, "invalid-parameter", "256"),
    ("GET", "/v1/memories?namespace=", None, "invalid-namespace", "1 to 128"),
    ("GET", "/v1/memories?namespace=" + "n" * 129, None, "invalid-namespace", "1 to 128"),
    ("GET", "/v1/memories?namespace=%ff", None, "invalid-namespace", "UTF-8"),
    ("GET", "/v1/memories?namespace=a%0ab", None, "invalid-namespace", "control"),
    ("GET", "/v1/memories?filter={", None, "invalid-parameter", "filter"),
    ("GET", "/v1/memories?filter=%ff", None, "invalid-parameter", "filter"),
    ("GET", "/v1/memories?filter=" + quote('{"colour":1}'), None, "invalid-filter", "no such field"),
    ("GET", "/v1/memories:count?filter=" + quote('{"metadata.":1}'), None, "invalid-filter", "metadata."),
    ("GET", "/v1/memories:export?filter=" + quote('{"user_id":{"like":"x"}}'), None, "invalid-filter", "user_id"),
    ("GET", "/v1/namespaces/%zz", None, "invalid-path", "percent"),
])
def test_every_other_route(shared, method, path, body, type_, word):
    refused(shared.request(method, path, body), 400, type_, word)


def test_a_malformed_namespace_never_means_the_default_one(shared):
    shared.add("must stay", external_id="must-stay")
    for path in ("/v1/memories?namespace=%zz&confirm=true", "/v1/memories?namespace=%&confirm=true&erase=true"):
        refused(shared.delete(path), 400, "invalid-parameter", "namespace")
    refused(shared.post("/v1/memories:import?namespace=%zz", '{"content":"x"}\n'), 400, "invalid-parameter", "namespace")
    assert shared.list(external_id="must-stay")["memories"]


def test_unknown_paths_and_methods(shared):
    for path in ("/", "/v1", "/v1/memories/", "/v2/memories", "/v1/memories:frobnicate", "//v1/memories", "/v1/memories/%2e%2e/x",
                 "/livez/", "/%00", "/v1/namespaces/a/b"):
        assert shared.get(path).status in (400, 404), path
    refused(shared.get("/v1/nothing"), 404, "no-route")
    for _ in range(3):  # paths as long as each other, of one method: one that streams, one that does not, none; two more
        assert shared.post("/v1/memories:import", '{"content":"x","namespace":"paths"}\n').status == 200
        refused(shared.post("/v1/memories/search", {"limit": 0}), 400, "invalid-field")
        refused(shared.post("/v1/memories:imporz", b""), 404, "no-route")
        assert "entries" in shared.get("/v1/admin/audit").json
        assert "entries" not in shared.get("/v1/admin/cache").json
        refused(shared.get("/v1/admin/cachf"), 404, "no-route")
    refused(shared.get("/v1/memories/not-a-uuid"), 404, "not-found", "UUID")
    refused(shared.get("/v1/memories/" + "x" * 9000), 404, "not-found")
    r = shared.request("PUT", "/v1/memories", b"{}")
    refused(r, 405, "method-not-allowed", "POST")
    assert r.headers["Allow"] == "POST, GET, HEAD, DELETE"
    assert shared.request("POST", "/livez", b"").headers["Allow"] == "GET, HEAD"
    for method in ("GET", "DELETE", "PATCH"):  # a search without its body, in the first place
        r = shared.request(method, "/v1/memories/search")
        refused(r, 405, "method-not-allowed", "POST")
        assert r.headers["Allow"] == "POST"
    for method, rest in (("DELETE", ""), ("PATCH", ""), ("GET", "/history"), ("POST", "/restore"), ("POST", "/supersede")):
        refused(shared.request(method, "/v1/memories/not-a-uuid" + rest, b"{}"), 404, "not-found", "UUID")
    assert shared.request("PUT", "/v1/memories/not-a-uuid").headers["Allow"] == "GET, HEAD, PATCH, DELETE"
    assert shared.request("OPTIONS", "/v1/memories/" + NOBODY).headers["Allow"] == "GET, HEAD, PATCH, DELETE"


def test_a_compressed_body_is_named_as_such(shared):
    refused(shared.post("/v1/memories", b"\x1f\x8b\x08\0x", headers={"Content-Encoding": "gzip"}), 415, "encoding-unsupported", "Content-Encoding")
    assert shared.post("/v1/memories", {"content": "x"}, headers={"Content-Encoding": "identity"}).status == 201


def test_names_with_odd_bytes_are_repeated_safely(shared):
    for name in ("%ff%fe", "a%0areload", "%20", "x" * 20000, "%e2%82"):
        refused(shared.get("/v1/admin/config/" + name), 404, "not-found", "no configuration key")
        refused(shared.delete("/v1/namespaces/" + name), 400, "confirm-required")
    assert shared.get("/livez").status == 200


# ---- JSON ----

@pytest.mark.parametrize("text", [
    b"", b" ", b"null", b"true", b"5", b'"x"', b"{", b"}", b'{"a"}', b'{"a":}', b'{"a":1,}', b"{'a':1}", b"{a:1}", b'{"a":01}',
    b'{"a":+1}', b'{"a":.5}', b'{"a":1.}', b'{"a":1e}', b'{"a":0x1}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-}', b'{"a":1e999}',
    b'{"a":123456789012345678901234567890}', b'{"a":"\t"}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\ud800"}',
    b'{"a":"\\udc00\\ud800"}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xf5\x80\x80\x80"}', b'{"a":"\xe2\x82"}',
    b'\xef\xbb\xbf{"a":1}', b'{"a":1} x', b'{"a":1}{"a":1}', b'{"a":1}\0', b"\0", b"\xff\xfe{\0}\0", b'{"a":1/*c*/}', b'{"a":1,"a":2}',
    b"[" * 100000, b'{"a":' * 100000, b'{"a":[' * 3000 + b"]}" * 3000, b'{"content":"' + b"\\" * 9999, b'"' * 5000,
])
def test_what_is_no_json(shared, text):
    for path in ("/v1/memories", "/v1/memories/search", "/v1/namespaces", "/v1/memories:get"):
        r = shared.post(path, text)
        assert r.status == 400 and r.json["type"].rsplit(":", 1)[1] in ("invalid-json", "unknown-field", "invalid-field"), (path, r)
    line = text.replace(b"\n", b" ")
    r = shared.post("/v1/memories:import?namespace=nojson", line + b"\n")
    assert r.status == 200 and r.json["imported"] == 0 and (r.json["failed"] == 1 or not line), r


# The rules of RFC 8259 one by one, in the manner of JSONTestSuite: what must be taken and what must be refused, as a value of
# `metadata` (y, n) and, for what must be refused, as the whole body too. What RFC 8259 leaves open is decided in test_what_is_open.
TAKEN = [b"[]", b"[ ]", b"[[]]", b"{}", b'[""]', b"[null]", b"[false,true]", b"[1 ]", b" [1]", b"[1,null,2]", b"[1\n,\r2\t]", b"[-0]", b"[-0.0]", b"[0]",
         b"[1e3]", b"[1E3]", b"[0e1]", b"[0e+1]", b"[1E-2]", b"[1E+2]", b"[123e45]", b"[123e-10]", b"[1.5]", b"[-1]", b"[-123]", b"[123.456789]",
         b"[0.000000000000000000000000000000000000000000000000001]", b"[9007199254740993]", b"[-9223372036854775808]", b"[9223372036854775807]",
         b'["\\u0060\\u012a\\u12AB"]', b'["\\uD801\\udc37"]', b'["\\ud83d\\ude39\\ud83d\\udc8d"]', b'["\\"\\\\\\/\\b\\f\\n\\r\\t"]', b'["\\\\u0000"]',
         b'["\\uFFFF"]', b'["\xef\xbf\xbf"]', b'["\xf4\x8f\xbf\xbf"]', b'["\xf0\x9b\xbf\xbf"]', b'["\x7f"]', b'["\xe2\x80\xa8\xe2\x80\xa9"]', b'["a/*b*/c/*d//e"]',
         b'["\xe3\x82\xaf\xe3\x83\xaa\xe3\x82\xb9"]', b'["new\\u000Aline"]', b'["\\u0061\\u30af"]', b'{"":0}', b'{"a":[]}', b'{"a":"b","c":"d"}',
         b'{"min":-1.0e+28,"max":1.0e+28}', b'{"title":"\\u041f\\u043e\\u043b"}', b'{"a":\n"b"\n}', b"true", b'"x"', b"42", b"null"]
REFUSED = [b"[1 true]", b'["": 1]', b'[""],', b"[,1]", b"[1,,2]", b'["x",,]', b'["x"]]', b'["",]', b'["x"', b"[x", b"[3[4]]", b"[1:2]", b"[,]", b"[-]", b"[   , \"\"]",
           b'["a",\n4\n,1,', b"[1,]", b"[1,,]", b'["\x0ba"\\f]', b"[*]", b"[1,\n1\n,1", b"[{}", b"[fals]", b"[nul]", b"[tru]", b"[++1234]", b"[+1]", b"[+Inf]", b"[-01]",
           b"[-1.0.]", b"[-2.]", b"[-NaN]", b"[.-1]", b"[.2e-3]", b"[0.1.2]", b"[0.3e+]", b"[0.3e]", b"[0.e1]", b"[0E+]", b"[0E]", b"[1.0e+]", b"[1.0e-]", b"[1.0e]", b"[1 000.0]",
           b"[1eE2]", b"[2.e+3]", b"[2.e-3]", b"[2.e3]", b"[9.e+]", b"[Inf]", b"[NaN]", b"[\xef\xbc\x91]", b"[1+2]", b"[0x1]", b"[0x42]", b"[Infinity]", b"[0e+-1]", b"[-123.123foo]",
           b"[-Infinity]", b"[-foo]", b"[- 1]", b"[-012]", b"[-.123]", b"[-1x]", b"[1ea]", b"[1e\xe5]", b"[1.]", b"[.123]", b"[1.2a-3]", b"[1.8011670033376514H-308]", b"[012]",
           b'["x", truth]', b"{[", b'{"x", null}', b'{"x"::"b"}', b'{"a":"a" 123}', b'{key: 1}', b'{"a" b}', b'{:"b"}', b'{"a" "b"}', b'{"a":', b'{"a"', b"{1:1}", b"{9999E9999:1}",
           b"{null:null,null:null}", b'{"id":0,,,,,}', b"{'a':0}", b'{"id":0,}', b'{"a":"b"}/**/', b'{"a":"b"}//', b'{"a":"b",,"c":"d"}', b"{a:\"b\"}", b'{"a":"a', b'{"a":"b"}#',
           b'["\\uD800\\"]', b'["\\uD800\\u"]', b'["\\uD800\\u1"]', b'["\\uD800\\u1x"]', b"[\xc3\xa9]", b'["\\\x00"]', b'["\\x00"]', b'["\\\\\\"]', b'["\\\t"]', b'["\\\xf0\x9f\x8c\x80"]',
           b'["\\"]', b'["\\u00A"]', b'["\\uD834\\uDd"]', b'["\\uD800\\uD800\\x"]', b'["\\u\xe5"]', b'["\\a"]', b'["\\uqqqq"]', b'["\\\xe5"]', b"[\\u0020\"asd\"]", b"[\\n]", b'"', b"['x']",
           b"[abc]", b'["\\', b'["a\x00a"]', b'["new\nline"]', b'["\t"]', b'"\\UA66D"', b'""x', b"<.>", b"[<null>]", b"[1]x", b"[1]]", b'["asd]', b"a\xc3\xa5", b"[True]", b"1]", b'{"x": true,',
           b"[][]", b"]", b"\xef\xbb{}", b"\xe5", b"[", b"", b"[\x00]", b"2@", b"{}}", b'{"":', b'{"a":/*c*/"b"}', b'{"a": true} "x"', b"['", b"[,", b"[{", b'["a', b'["a"', b"{", b"{]", b"{,", b"{[",
           b'{"a', b"{'a'", b'["\\{["\\{["\\{["\\{', b"*", b'{"a":"b"}#{}', b"[\\u000A\"\"]", b"[1", b"[ false, nul", b"[ true, fals", b'{"asd":"asd"', b"\xc3\xa5", b"[\xe2\x81\xa0]",
           b"\xef\xbb\xbf", b"[\x0c]", b'["\xe9"]', b'["\x81"]', b'["\xf4\xbf\xbf\xbf"]', b'["\xc0\xaf"]', b'["\xfc\x83\xbf\xbf\xbf\xbf"]', b'["\xe0\xff"]', b'["\xed\xa0\x80"]']


@pytest.mark.parametrize("text", TAKEN)
def test_json_that_must_be_taken(shared, ns, text):
    r = shared.post("/v1/memories", b'{"content":"x","namespace":"%s","metadata":{"v":%s}}' % (ns.encode(), text))
    assert r.status == 201 and r.json["metadata"] == {"v": json.loads(text)}, r
    assert shared.memory(r.json["id"]).json["metadata"] == {"v": json.loads(text)}


@pytest.mark.parametrize("text", REFUSED)
def test_json_that_must_be_refused(shared, ns, text):
    refused(shared.post("/v1/memories", b'{"content":"x","namespace":"%s","metadata":{"v":%s}}' % (ns.encode(), text)), 400, "invalid-json")
    refused(shared.post("/v1/memories", text), 400, "invalid-json")
    assert not shared.list(namespace=ns)["memories"]


@pytest.mark.parametrize("text", [b"[1e400]", b"[-1e400]", b"[123123e100000]", b"[100000000000000000000]", b"[-9223372036854775809]", b'["\\ud800"]', b'["\\udada"]',
                                  b'["\\uDd1e\\uD834"]', b'["\\uD800abc"]', b"\xff\xfe[\x00]\x00", b"[" * 500 + b"]" * 500, b'{"a":1,"a":2}'])
def test_what_json_leaves_open_is_refused(shared, ns, text):
    """Numbers beyond double and int64, lone surrogates, UTF-16, great depth, a name given twice: none of it would come back as it was sent."""
    r = shared.post("/v1/memories", b'{"content":"x","namespace":"%s","metadata":{"v":%s}}' % (ns.encode(), text))
    assert r.status == 400 and r.json["type"].rsplit(":", 1)[1] in ("invalid-json", "invalid-field"), r
    assert not shared.list(namespace=ns)["memories"]


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"a\x80"])
def test_invalid_utf8_everywhere(shared, ns, bad):
    """In every string of a body, in a name, in the path, the query and the headers."""
    n, pct = ns.encode(), b"".join(b"%%%02x" % c for c in bad).decode()
    for f in STRINGS:
        refused(shared.post("/v1/memories", b'{"content":"x","%s":"%s"}' % (f.encode(), bad)), 400, "invalid-json")
        refused(shared.post("/v1/memories", b'{"memories":[{"content":"x","%s":"%s"}]}' % (f.encode(), bad)), 400, "invalid-json")
    for text in (b'{"content":"x","%s":1}', b'{"content":"x","metadata":{"%s":1}}', b'{"content":"x","metadata":{"a":["%s"]}}'):
        refused(shared.post("/v1/memories", text % bad), 400, "invalid-json")
    refused(shared.post("/v1/memories/search", b'{"namespace":"%s","query":"%s"}' % (n, bad)), 400, "invalid-json")
    refused(shared.post("/v1/namespaces", b'{"name":"%s"}' % bad), 400, "invalid-json")
    for p in ("user_id", "agent_id", "session_id", "external_id", "kind", "namespace", "filter", "cursor"):
        assert shared.get(f"/v1/memories?{p}={pct}").status == 400, p
    for path in ("/v1/memories/" + pct, "/v1/namespaces/" + pct, "/" + pct):
        assert shared.get(path).status in (400, 404), path
    head = b"GET /v1/memories?namespace=%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % n
    for name in (b"X-Request-Id", b"If-None-Match", b"Authorization", b"Accept", b"X-Other"):
        out = shared.raw(head + name + b": " + bad + b"\r\n\r\n")
        assert out[9:12] in (b"200", b"400", b"401"), (name, out[:200])
        out.partition(b"\r\n\r\n")[2].decode()                          # nothing of it comes back as it was
    assert shared.raw(b"GET /v1/memories?user_id=" + bad + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[9:12] == b"400"


def test_nul_and_surrogates_in_text(shared, ns):
    for body in (b'{"content":"a\\u0000b"}', b'{"content":"x","user_id":"\\u0000"}', b'{"content":"x","metadata":{"a":["\\u0000"]}}'):
        refused(shared.post("/v1/memories", body), 400, "invalid-field", "U+0000")
    refused(shared.post("/v1/memories", b'{"content":"x","metadata":{"\\u0000":1}}'), 400, "invalid-json", "NUL")
    refused(shared.post("/v1/memories/search", b'{"query":"a\\u0000"}'), 400, "invalid-field", "U+0000")
    text = "\U0001f9e0 \uffff \u2028 \u200d e\u0301 \x7f \x01 \\ \" / \ud7ff\ue000"
    m = shared.post("/v1/memories", json.dumps({"content": text, "namespace": ns, "metadata": {text.replace('"', ""): text}})).json
    assert shared.memory(m["id"]).json["content"] == text == m["content"]
    assert shared.memory(m["id"]).json["metadata"] == {text.replace('"', ""): text}


def test_a_metadata_key_that_json_escapes_is_found(shared, ns):
    """Before and after the store has it: SQLite compares keys as they stand in the text."""
    keys = ["a\\b", "t\tx", "\x01", "\x1f", "\x7f", "é", "日本", "a'b", "[0]", "$", "#-1", "a b", "%", "a/b", "\\u0041", 'a"b']
    for wait in ("journal", "store"):
        for k in keys:
            r = shared.post(f"/v1/memories?wait={wait}", {"content": wait, "namespace": ns, "metadata": {k: {k: 1}}})
            assert r.status == 201
        paths = [k.replace("\\", "\\\\") for k in keys]
        n = [len(shared.list(namespace=ns, filter={f"metadata.{p}.{p}": 1})["memories"]) for p in paths]
        assert n == [1 if wait == "journal" else 2] * len(keys)


# ---- vectors ----

def b64(*x):
    return base64.b64encode(struct.pack(f"<{len(x)}f", *x)).decode()


@pytest.mark.parametrize("text, word", [
    ("[0,0,0]", "zero"), ("[-0.0]", "zero"), ("[1e-300]", "zero"), ("[1e-45,0]", "zero"), ("[1e39]", "too large"), ("[1e400]", "embedding"),
    ("[-1e39,1]", "too large"), ("[NaN]", "embedding"), ("[Infinity]", "embedding"), ("[1,]", "embedding"), ("[1 2]", "embedding"),
    ("[+1]", "embedding"), ("[01]", "embedding"), ("[.5]", "embedding"), ("[1e]", "embedding"), ("[" + "1," * 4096 + "1]", "4096"),
    ("[]", "1 to 4096"), ('"%s"' % b64(float("nan"), 1), "finite"), ('"%s"' % b64(float("inf")), "finite"), ('"%s"' % b64(0, 0), "zero"),
    ('"%s"' % base64.b64encode(b"abc").decode(), "base64"), ('"%s"' % b64(1, 2)[:-1], "base64"), ('"%s="' % b64(1, 2), "base64"),
    ('"%s"' % b64(1, 2).replace("A", "*", 1), "base64"), ('" %s"' % b64(1), "base64"), ('"AACAP"', "base64"), ('"===="', "base64"),
    ('"%s"' % b64(*([1.0] * 4097)), "base64"), ('"AACA\\u00e9PwAA"', "base64"),
])
def test_vectors_that_are_none(shared, ns, text, word):
    body = '{"content":"x","namespace":"%s","embedding":%s}' % (ns, text)
    r = shared.post("/v1/memories", body)
    assert r.status == 400 and ("embedding" in r.json["detail"] or r.json["type"].endswith("invalid-json")), r
    if not r.json["type"].endswith("invalid-json"):
        assert word in r.json["detail"], r
    assert shared.post("/v1/memories/search", body.replace('"content"', '"query"')).status == 400
    assert shared.post("/v1/memories", '{"memories":[{"content":"y","namespace":"%s"},%s]}' % (ns, body)).status == 400
    r = shared.post("/v1/memories:import?namespace=" + ns, body + "\n")
    assert r.json["imported"] == 0 and r.json["failed"] == 1
    assert not shared.list(namespace=ns)["memories"]


def test_vectors_at_the_edges_of_floats(shared, ns):
    vectors = [[3.4028235e38, -3.4028235e38], [1e-14, 0], [1.1754944e-38, 1], [1e-45, 1], [123456789.123456789, -1.0]]
    ids = [shared.add("v", namespace=ns, embedding=v)["id"] for v in vectors]
    for i, v in zip(ids, vectors):
        got = shared.get(f"/v1/memories/{i}?include=embedding").json["embedding"]
        assert [struct.pack("<f", x) for x in got] == [struct.pack("<f", x + 0.0) for x in v]
    for q in ([1, 1], [3e38, 3e38], [1e-13, 1e-13]):
        r = shared.search(embedding=q, namespace=ns)
        assert len(r) == 5 and all(-1.001 <= x["score"] <= 1.001 for x in r)
    refused(shared.post("/v1/memories/search", {"namespace": ns, "embedding": [1, 2, 3]}), 400, "invalid-field", "2 dimensions")
    refused(shared.post("/v1/memories", {"content": "x", "namespace": ns, "embedding": [1, 2, 3]}), 409, "embedder-mismatch", "another namespace")
    refused(shared.post("/v1/memories", {"content": "x", "namespace": ns, "embedding": [1, 2], "embedding_model": "m"}), 409, "embedder-mismatch")
    refused(shared.post("/v1/memories", {"content": "x", "embedding_model": "m"}), 400, "invalid-field", "both or neither")


# ---- forged conditions, keys, cursors ----

def test_forged_if_match(shared, ns):
    m = shared.add("x", namespace=ns)
    path = "/v1/memories/" + m["id"]
    for h in ("1", '"1', "1\"", '"1""2"', "x" * 5000, "", ",", "W/1", "**"):
        for r in (shared.patch(path, {"importance": 1}, headers={"If-Match": h}), shared.delete(path, headers={"If-Match": h})):
            refused(r, 400, "invalid-header", "If-Match")
    for h in ('"2"', '"01"', '"1 "', 'W/"1"', '"18446744073709551617"', '""', '"a", "b"'):
        r = shared.delete(path, headers={"If-Match": h})
        refused(r, 412, "version-conflict", "version 1")
        assert r.headers["ETag"] == '"1"'
    assert shared.patch(path, {"importance": 1}, headers={"If-Match": '"0", W/"1" ,"1"'}).status == 200
    assert shared.get(path, headers={"If-None-Match": 'W/"2"'}).status == 304
    assert shared.get(path, headers={"If-None-Match": "nonsense"}).status == 200
    assert shared.delete(path, headers={"If-Match": "*"}).status == 204


def test_forged_idempotency_keys(shared, ns):
    body = {"content": "x", "namespace": ns}
    for key in ("", "   ", "k" * 256, "k" * 20000):
        refused(shared.post("/v1/memories", body, headers={"Idempotency-Key": key}), 400, "invalid-header", "1 to 255")
    one = shared.post("/v1/memories", body, headers={"Idempotency-Key": "k" * 255})
    assert one.status == 201
    refused(shared.post("/v1/memories", {**body, "content": "y"}, headers={"Idempotency-Key": "k" * 255}), 409, "idempotency-conflict", "new key")
    two = shared.post("/v1/memories", body, headers={"Idempotency-Key": "k" * 255})
    assert two.body == one.body and two.headers["Idempotent-Replayed"] == "true"
    other = shared.post("/v1/memories", {**body, "namespace": ns + "b"}, headers={"Idempotency-Key": "k" * 255})
    assert other.status == 201 and other.json["id"] != one.json["id"]
    odd = shared.post("/v1/memories", body, headers={"Idempotency-Key": b"\xff\xfe;\"'"})
    assert odd.status == 201
    assert len(shared.list(namespace=ns)["memories"]) == 2


def test_forged_cursors(shared, ns):
    ids = [shared.add(str(i), namespace=ns)["id"] for i in range(5)]
    for cursor in ("x", "d", "d" + NOBODY[:-1], "z" + NOBODY, "d" + NOBODY + "0", "d" + "g" * 36, "%00", "d" * 5000, ""):
        r = shared.get(f"/v1/memories?namespace={ns}&cursor={cursor}")
        assert r.status == 400 and "cursor" in r.json["detail"], r
    assert len(shared.list(namespace=ns, cursor="a" + NOBODY)["memories"]) == 5   # a place, not a capability
    assert not shared.list(namespace=ns, cursor="d" + NOBODY)["memories"]
    assert [m["id"] for m in shared.list(namespace=ns + "x", cursor="a" + ids[0])["memories"]] == []


# ---- import ----

def test_every_kind_of_bad_line_is_listed_and_the_good_ones_stay(shared, ns):
    bad = [b"{", b"[]", b"5", b"null", b"{}", b'{"content":5}', b'{"content":""}', b'{"content":"\xff"}', b'{"content":"x","id":"q"}',
           b'{"content":"x","id":5}', b'{"content":"x","version":0}', b'{"content":"x","version":"1"}', b'{"content":"x","version":1e400}',
           b'{"content":"x","superseded_by":1}', b'{"content":"x","updated_at":1}', b'{"content":"x","valid_to":"never"}', b"\0",
           b'{"content":"x"} {"content":"y"}', b'{"content":"x","embedding":"!!"}', b'{"content":"x","colour":1}', b"\xff\xfe", b"}{",
           b'{"content":"' + b"x" * 65537 + b'"}', b'{"content":"' + b"x" * (1 << 20) + b'"}']
    text = b""
    for i, line in enumerate(bad):
        text += line + (b"\r\n" if i % 2 else b"\n") + b'{"content":"good %d"}\n\n' % i
    r = shared.post("/v1/memories:import?namespace=" + ns, text)
    assert r.status == 200 and r.json["imported"] == len(bad) and r.json["failed"] == len(bad), r
    assert [e["line"] for e in r.json["errors"]] == [3 * i + 1 for i in range(len(bad))]
    assert all(e["detail"] for e in r.json["errors"])
    again = shared.post("/v1/memories:import?namespace=" + ns, text)
    assert again.json["imported"] == 0                         # the same batch is known
    assert len(shared.list_all(namespace=ns)) == len(bad)


def test_imports_that_end_early(shared, ns):
    path = b"POST /v1/memories:import?namespace=%s HTTP/1.1\r\nHost: localhost\r\n" % ns.encode()
    for empty in (b"Content-Length: 0\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
        out = shared.raw(path + b"Connection: close\r\n" + empty)
        assert out.startswith(b"HTTP/1.1 200") and b'"imported":0' in out, out
    line = b'{"content":"half closed"}\n'
    out = shared.raw(path + b"Content-Length: %d\r\n\r\n" % len(line) + line, half_close=True)
    assert out.startswith(b"HTTP/1.1 200") and b'"imported":1' in out, out   # it has said all and waits
    out = shared.raw(path + b"Content-Length: 999\r\n\r\n" + line, half_close=True)
    assert not out.startswith(b"HTTP/1.1 200")                                # cut short: never a summary
    for _ in range(3):
        shared.raw(path + b"Content-Length: 9999999\r\n\r\n" + line * 1000, timeout=0.05)
    refused(shared.post("/v1/memories:import?namespace=" + ns, b"x" * (6 << 20)), 400, "line-too-long", "line 1")
    r = shared.post("/v1/memories:import?namespace=" + ns, b"\n" * 100000)
    assert r.json["imported"] == r.json["failed"] == 0
    r = shared.post("/v1/memories:import?namespace=" + ns, b"{\n" * 5000)
    assert r.json["failed"] == 5000 and len(r.json["errors"]) == 100
