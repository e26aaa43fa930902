"""Search: modes, filters, scores, what is pending and what is stored rank alike."""
import base64
import json
import math
import random
import struct
import time

import pytest

from orchestra import SLOW

FACTS = ["Ada likes her tea without sugar", "Bob parks his bicycle in the hallway", "The meeting moved to Thursday afternoon",
         "Carol is allergic to peanuts", "The build server has two cores", "Ada's dog is called Turing"]


def test_modes_find_the_right_one_before_and_after_the_flush(make):
    o = make(sets=["sync.debounce_ms=1500"])
    for f in FACTS:
        o.add(f)
    rounds = []
    for _ in range(2):
        got = {}
        for mode in ("text", "vector", "hybrid"):
            hits = o.search("how does Ada take her tea?", mode=mode)
            assert hits[0]["content"] == FACTS[0], mode
            got[mode] = [(h["content"], round(h["score"], 5)) for h in hits]
        rounds.append(got)
        time.sleep(2.2 * SLOW)
    assert rounds[0] == rounds[1]            # pending memories rank as they will in the store


def test_vector_search_is_exact(shared, ns):
    rnd = random.Random(7)
    vec = [[rnd.gauss(0, 1) for _ in range(24)] for _ in range(300)]
    r = shared.post("/v1/memories", {"namespace": ns, "memories": [{"content": str(i), "embedding": v} for i, v in enumerate(vec)]})
    assert r.status == 201

    def cos(a, b):
        return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    for _ in range(5):
        q = [rnd.gauss(0, 1) for _ in range(24)]
        want = sorted(range(300), key=lambda i: -cos(q, vec[i]))[:10]
        hits = shared.search(embedding=q, namespace=ns, limit=10)
        assert [int(h["content"]) for h in hits] == want
        assert abs(hits[0]["score"] - cos(q, vec[want[0]])) < 1e-5
    f32 = base64.b64encode(struct.pack("<24f", *vec[3])).decode()
    assert shared.search(embedding=f32, namespace=ns, limit=1)[0]["content"] == "3"


def test_without_an_embedder_words_answer_and_say_so(make):
    def degraded(r):  # a server that shares its processors may be late with its feed, which is not what this asks
        return [d for d in r["degraded"] if d != "feed"]
    o = make(sets=["embedder.kind=none"])
    o.add("Ada likes tea")
    for mode in ("hybrid", "vector"):
        r = o.post("/v1/memories/search", {"query": "tea", "mode": mode}).json
        assert degraded(r) == ["vector"] and [m["content"] for m in r["results"]] == ["Ada likes tea"], (mode, r)
    assert degraded(o.post("/v1/memories/search", {"query": "tea", "mode": "text"}).json) == []
    o.add("north", namespace="own", embedding=[0, 1])
    assert degraded(o.post("/v1/memories/search", {"namespace": "own", "embedding": [0, 1]}).json) == []


def test_spaces_never_mix(shared, ns):
    m = shared.add("a", namespace=ns, embedding=[1, 2, 3])
    assert m["embedding_model"] == "client:3"
    r = shared.post("/v1/memories", {"content": "b", "namespace": ns, "embedding": [1, 2]})
    assert r.status == 409 and "client:3" in r.json["detail"]
    text = shared.add("words only here", namespace=ns)
    assert "embedding_model" not in text
    r = shared.post("/v1/memories/search", {"query": "words only", "namespace": ns}).json
    assert r["degraded"] == ["vector"] and r["results"][0]["id"] == text["id"]
    r = shared.post("/v1/memories/search", {"embedding": [1, 2], "namespace": ns})
    assert r.status == 400 and "3 dimensions" in r.json["detail"]


def test_filter_is_honoured_inside_the_search(shared, ns):
    items = [{"content": f"apple number {i}", "user_id": "many"} for i in range(450)] + \
            [{"content": "apple of the one", "user_id": "few", "metadata": {"n": 1}}]
    shared.post("/v1/memories", {"namespace": ns, "memories": items})
    for _ in range(2):
        for mode in ("text", "vector", "hybrid"):
            hits = shared.search("apple number 7", namespace=ns, mode=mode, filter={"user_id": "few"}, limit=5)
            assert [h["content"] for h in hits] == ["apple of the one"], mode
            assert len(shared.search("apple", namespace=ns, mode=mode, filter={"metadata.n": {"exists": True}})) == 1
        assert shared.search("apple", namespace=ns, user_id="nobody") == []
        time.sleep(0.5 * SLOW)


def test_neighbours_lend(shared, ns):
    turns = ["Melanie: we went camping", "Caroline: where did you go?", "Melanie: to the lake near Portland", "Caroline: lovely"]
    shared.post("/v1/memories", {"namespace": ns, "memories": [{"content": t, "session_id": "s1"} for t in turns] +
                                 [{"content": f"noise {i} about other matters"} for i in range(30)]})
    time.sleep(0.4 * SLOW)
    hits = shared.search("camping trip", namespace=ns, mode="hybrid", limit=3)
    assert hits[0]["content"] == turns[0]
    assert turns[1] in [h["content"] for h in hits]      # shares no word with the query
    assert turns[1] not in [h["content"] for h in shared.search("camping trip", namespace=ns, mode="text")]


def test_explain_limits_and_thresholds(shared, ns):
    for f in FACTS:
        shared.add(f, namespace=ns)
    r = shared.post("/v1/memories/search", {"query": "tea", "namespace": ns, "explain": True, "limit": 2}).json
    assert len(r["results"]) == 2 and r["explain"]["timings_us"]["vector"] >= 0 and r["results"][0]["tier"] in ("l1", "store")
    scores = [h["score"] for h in r["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 < s <= 1 for s in scores)
    assert len(shared.search("tea", namespace=ns, min_score=scores[0])) == 1
    for bad in ({}, {"query": ""}, {"query": 3}, {"query": "x", "mode": "best"}, {"query": "x", "limit": 0}, {"query": "x", "limit": 2000},
                {"query": "x", "filter": {"colour": 1}}, {"query": "x", "diversity": 2}, {"query": "x", "nope": 1}, {"query": "x\0"},
                {"embedding": []}, {"embedding": [0, 0]}, {"query": "x", "filter": {"metadata.a": {"like": 1}}}):
        r = shared.post("/v1/memories/search", {**bad, "namespace": ns})
        assert r.status == 400 and r.json["detail"], bad


def test_recency_importance_diversity(shared, ns):
    old = shared.add("the password is swordfish", namespace=ns, created_at="2020-01-01T00:00:00Z")
    new = shared.add("the password is swordfish!", namespace=ns)
    assert shared.search("password", namespace=ns, recency_half_life=3600)[0]["id"] == new["id"]
    shared.patch(f"/v1/memories/{old['id']}", {"importance": 1})
    shared.patch(f"/v1/memories/{new['id']}", {"importance": 0})
    assert shared.search("password", namespace=ns, importance_weight=1)[0]["id"] == old["id"]
    shared.add("the password policy asks for twelve characters", namespace=ns)
    plain = [h["content"] for h in shared.search("password swordfish", namespace=ns, limit=2)]
    diverse = [h["content"] for h in shared.search("password swordfish", namespace=ns, limit=2, diversity=0.9)]
    assert all("swordfish" in c for c in plain) and not all("swordfish" in c for c in diverse)


@pytest.mark.parametrize("query", ["'\"*()^:", "AND OR NOT NEAR", "content:x", "привет мир", "東京", "\U0001F600", pytest.param("a" * 8000, id="long"), "the of and"])
def test_odd_queries_are_queries(shared, ns, query):
    shared.add("привет мир 東京 \U0001F600 the of and", namespace=ns)
    r = shared.post("/v1/memories/search", {"query": query, "namespace": ns})
    assert r.status == 200


def test_namespaces_are_apart(shared, ns):
    shared.add("secret of a", namespace=ns + "a")
    shared.add("secret of b", namespace=ns + "b")
    for mode in ("text", "vector", "hybrid"):
        assert [h["content"] for h in shared.search("secret", namespace=ns + "a", mode=mode)] == ["secret of a"]
    assert shared.search("secret", namespace=ns + "none") == []


def test_export_import_round_trip(shared, ns):
    shared.post("/v1/memories", {"namespace": ns, "memories": [{"content": f"c{i} é\n\"", "user_id": "u", "metadata": {"i": i},
                                                                "importance": 0.25} for i in range(700 if False else 450)]})
    v = shared.add("with vector", namespace=ns + "v", embedding=[0.1, -2.5e-3, 7])
    time.sleep(0.3 * SLOW)
    out = shared.get(f"/v1/memories:export?namespace={ns}")
    assert out.status == 200 and out.headers["Content-Type"] == "application/x-ndjson"
    lines = out.body.splitlines()
    assert len(lines) == 450
    target = ns + "copy"
    r = shared.post(f"/v1/memories:import?namespace={target}", b"\n".join(line.replace(ns.encode(), target.encode(), 1) for line in lines))
    assert r.status == 200 and r.json["imported"] == 0 and r.json["skipped"] == 450     # the ids exist already
    assert r.json["skipped_because"] == {"id_in_other_namespace": 450}
    fresh = [json.dumps({k: x for k, x in json.loads(line).items() if k not in ("id", "namespace", "version", "embedding_model")}) for line in lines]
    body = ("\n".join(fresh) + "\nnot json\n{\"content\":5}\n").encode()
    r = shared.post(f"/v1/memories:import?namespace={target}", body)
    assert r.json["imported"] == 450 and r.json["failed"] == 2 and [e["line"] for e in r.json["errors"]] == [451, 452]
    again = shared.post(f"/v1/memories:import?namespace={target}", body)
    assert again.json["imported"] == 0 and again.json["skipped"] == 450                # resumable: the same file again
    assert again.json["skipped_because"] == {"imported_before": 450}
    assert shared.get(f"/v1/memories:count?namespace={target}").json["count"] == 450
    ev = json.loads(shared.get(f"/v1/memories:export?namespace={ns}v").body)
    assert struct.unpack("<3f", base64.b64decode(ev["embedding"])) == struct.unpack("<3f", struct.pack("<3f", 0.1, -2.5e-3, 7))
    assert ev["id"] == v["id"]


def test_import_says_why_lines_were_skipped(shared, ns):
    here, gone = shared.add("here", namespace=ns), shared.add("gone", namespace=ns)
    there = shared.add("there", namespace=ns + "other")
    shared.add("mine", namespace=ns, external_id="e")
    shared.delete(f"/v1/memories/{gone['id']}")
    lines = [{"id": here["id"], "content": "x"}, {"id": gone["id"], "content": "x"}, {"id": there["id"], "content": "x"},
             {"external_id": "e", "content": "x"}, {"content": "x", "expires_at": "2020-01-01T00:00:00Z"}, {"content": "new"}]
    r = shared.post(f"/v1/memories:import?namespace={ns}", "\n".join(map(json.dumps, lines))).json
    assert (r["imported"], r["skipped"], r["failed"]) == (1, 5, 0)
    assert r["skipped_because"] == {"id_exists": 1, "id_deleted": 1, "id_in_other_namespace": 1, "external_id_exists": 1, "expired": 1}
