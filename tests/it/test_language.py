"""The language of a namespace: how it is given, that words are found as it says in the index and in the stores, and that neither a
restart nor a crash nor another daemon loses it. Broken code that this would catch: a question analysed in another language than the
memories, a refill or a replay that forgets it, a default that is applied to what exists, words of an erased life."""
import json
import os
import random
import signal

import pytest

from fleet import Fleet, flushed
from orchestra import SLOW, until

NS = "/v1/namespaces"
# What is stored, and questions with the places of what they find.
LANGUAGES = {
    "german": (["Die Häuser in den größten Städten", "Ein Haus am Fluss", "Übung macht den Meister", "wer ist da"],
               {"Haus": {0, 1}, "HÄUSERN": {0, 1}, "große Stadt": {0}, "u\u0308bungen": {2}, "flüsse des Meisters": {1, 2}, "hau*": {0, 1}}),
    "french": (["Les chevaux de l'école ont mangé", "Un cheval mange ; l’homme regarde", "Les élèves françaises", "au zoo"],
               {"cheval": {0, 1}, "école": {0}, "l'homme": {1}, "eleve": {2}, "e\u0301cole": {0}, '"les élèves françaises"': {2}}),
    "russian": (["Новые книги о войне", "С книгами и ёлками", "Елка и йод", "там"],
                {"книга": {0, 1}, "ЁЛКА": {1, 2}, "вои\u0306на": {0}, "о книге и ёлке": {0, 1, 2}}),
    "finnish": (["Taloissa asuu äiti", "Talot ja äidin auto", "Suomen öljyt", "se on"],
                {"talo": {0, 1}, "äidin": {1}, "ÖLJY": {2}, "autoilla": {1}}),
    "none": (["The houses of snake_case", "a house", "foo('bar') = 42", "Größe"],
             {"houses": {0}, "house": {1}, "snake": {0}, "bar": {2}, "the": {0}, "grösse": {3}, "groesse": set(), "größe": {3}}),
}


def create(o, name, language=None):
    r = o.post(NS, {"name": name, **({"language": language} if language else {})})
    assert r.status == 201, r
    return r.json


def language(o, name):
    return o.get(f"{NS}/{name}").json["language"]


def found(o, ns, query, tier=None):
    r = o.post("/v1/memories/search", {"query": query, "namespace": ns, "mode": "text", "limit": 50, "explain": True})
    assert r.status == 200, r
    assert tier is None or r.json["explain"]["text_tier"] == tier, r.json["explain"]
    return {m["content"] for m in r.json["results"]}


def check(o, ns, tier=None, phrases=True):
    """Every question of its language finds what it should, in `tier`. phrases: and what only the index can look for."""
    texts, questions = LANGUAGES[language(o, ns)]
    for q, places in questions.items():
        if phrases or not ("*" in q or '"' in q):
            assert found(o, ns, q, tier) == {texts[i] for i in places}, (ns, q)


def right(o, ns):
    """The same as a question, for what may take a moment: with PostgreSQL the feed tells a daemon of its own drops, too."""
    texts, questions = LANGUAGES[language(o, ns)]
    return all(found(o, ns, q) == {texts[i] for i in places} for q, places in questions.items())


def fill(o, ns, name=None):
    for text in LANGUAGES[name or ns][0]:
        o.add(text, namespace=ns)


def refilled(o, ns):
    """The index has everything again."""
    tier = lambda: o.post("/v1/memories/search", {"query": "x", "namespace": ns, "mode": "text", "explain": True}).json["explain"]["text_tier"]
    until(lambda: o.get("/readyz").status == 200 and tier() == "index", 20)


def test_how_it_is_given(make):
    o = make(sets=["sync.debounce_ms=10"])
    assert create(o, "a")["language"] == "english" and create(o, "b", "german")["language"] == "german"
    assert create(o, "c", "FR")["language"] == "french" and create(o, "d", "none")["language"] == "none"
    o.add("made by its first memory", namespace="e")
    assert {n["name"]: n["language"] for n in o.get(NS).json["namespaces"]} == \
        {"a": "english", "b": "german", "c": "french", "d": "none", "e": "english"}
    assert {n["name"]: n["language"] for n in json.loads(o.ctl("--json", "namespaces").stdout)["namespaces"]}["b"] == "german"
    assert "german" in o.ctl("namespaces").stdout
    assert o.patch(f"{NS}/b", {"quota_count": 9}).json["language"] == "german"  # what is not named stays
    assert o.patch(f"{NS}/b", {"language": "sv"}).json == {**o.get(f"{NS}/b").json, "language": "swedish", "quota_count": 9}
    r = o.post(NS, {"name": "f", "language": "klingon"})
    assert r.status == 400 and "language" in r.json["detail"] and "german" in r.json["detail"] and o.get(f"{NS}/f").status == 404


def test_it_is_fixed_with_the_first_memory(make):
    o = make(sets=["sync.debounce_ms=10"])
    create(o, "n", "german")
    m = o.add("Die Häuser", namespace="n")
    change = lambda: o.patch(f"{NS}/n", {"language": "french"})

    def refused():
        r = change()
        return r.status == 409 and r.json["type"].endswith("language-fixed") and "export" in r.json["detail"]
    assert refused() and o.patch(f"{NS}/n", {"language": "de", "quota_count": 5}).status == 200
    assert o.delete(f"/v1/memories/{m['id']}").status == 204
    assert refused(), "it can be restored"
    assert o.post(f"/v1/memories/{m['id']}/restore").status == 200 and found(o, "n", "haus") == {"Die Häuser"}
    assert o.delete(f"/v1/memories/{m['id']}?erase=true").status == 200
    assert change().json["language"] == "french"
    o.add("Les chevaux", namespace="n")
    assert found(o, "n", "cheval") == {"Les chevaux"} and found(o, "n", "haus") == set()


def test_words_are_found_as_it_says_whatever_happens(make):
    o = make(sets=["sync.debounce_ms=10"])
    for name in LANGUAGES:
        create(o, name, name)
        fill(o, name)
        check(o, name, "index")
    os.kill(o.worker("sync"), signal.SIGKILL)
    until(lambda: o.get("/readyz").status == 200 and o.post("/v1/memories", {"content": "x"}).status == 201)
    o.add("zebra", namespace="german")
    for name in LANGUAGES:
        check(o, name)
    o.kill()
    o.start()
    refilled(o, "german")
    for name in LANGUAGES:
        assert language(o, name) == name
        check(o, name, "index")
    assert found(o, "german", "Zebra") == {"zebra"}
    o.stop()
    o.start()
    refilled(o, "german")
    for name in LANGUAGES:
        check(o, name, "index")


def test_pending_when_everything_is_killed(make):
    """What only the journal has: the language of a namespace, and its memories."""
    o = make(sets=["sync.debounce_ms=60000", "sync.batch_max=100000"])
    for name in LANGUAGES:
        create(o, name, name)
        fill(o, name)
    o.kill()
    o.start()
    refilled(o, "german")
    for name in LANGUAGES:
        assert language(o, name) == name
        check(o, name)


def test_the_store_finds_the_same(make):
    """A namespace that the index lacks: questions go to the store, where what is stored and what is pending counts."""
    o = make(sets=["sync.debounce_ms=10", "words.max_bytes=1 MiB"])
    rnd = random.Random(5)
    for name in LANGUAGES:
        create(o, name, name)
        fill(o, name)
    for i in range(14):
        for name in LANGUAGES:
            o.add("filler%d " % i + " ".join("%x" % rnd.getrandbits(32) for _ in range(2500)), namespace=name)
    flushed_now = lambda: until(lambda: flushed(o), 20)
    flushed_now()
    for name in LANGUAGES:
        check(o, name, "store", phrases=False)
    victim = LANGUAGES["german"][0][1]
    m = next(m for m in o.list_all(namespace="german", limit=100) if m["content"] == victim)
    assert o.patch(f"/v1/memories/{m['id']}", {"content": "Zwei Boote"}, headers={"If-Match": '"1"'}).status == 200
    assert found(o, "german", "Boot", "store") == {"Zwei Boote"} and victim not in found(o, "german", "Haus", "store")
    flushed_now()
    assert found(o, "german", "Boot", "store") == {"Zwei Boote"} and victim not in found(o, "german", "Haus", "store")
    assert o.delete(f"/v1/memories/{m['id']}?erase=true").status == 200
    assert found(o, "german", "Boot", "store") == set()


def test_a_default_for_what_is_made_implicitly(make):
    conf = lambda name: 'words: { language = "%s"; };\nsync: { debounce_ms = 10; };\n' % name
    o = make(conf=conf("french"))
    o.add("Les chevaux", namespace="one")
    assert o.post("/v1/memories", {"namespace": "bulk", "memories": [{"content": "Les chevaux"}, {"content": "une école"}]}).status == 201
    assert o.request("POST", "/v1/memories:import?namespace=imported", b'{"content": "Les chevaux"}\n').json["imported"] == 1
    create(o, "made")
    create(o, "named", "english")
    for ns in ("one", "bulk", "imported"):
        assert language(o, ns) == "french" and found(o, ns, "cheval") == {"Les chevaux"}, ns
    assert language(o, "made") == "french" and language(o, "named") == "english"
    o.add("Un cheval", namespace="one")
    assert o.get(f"{NS}/one").json["count"] == 2
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write(conf("de"))
    r = o.ctl("reload")
    assert r.returncode != 0 and "german" in r.stdout + r.stderr, "only whole names in the configuration"
    with open(os.path.join(o.dir, "orchestra.conf"), "w") as f:
        f.write(conf("german"))
    assert o.ctl("reload").returncode == 0
    o.add("Die Häuser", namespace="reloaded")
    assert language(o, "reloaded") == "german" and found(o, "reloaded", "Haus") == {"Die Häuser"}
    o.stop()
    o.conf = None
    o.start()
    refilled(o, "one")
    o.add("The houses", namespace="later")
    assert language(o, "one") == "french" and language(o, "later") == "english"
    assert found(o, "one", "cheval") == {"Les chevaux", "Un cheval"} and found(o, "later", "house") == {"The houses"}


@pytest.mark.parametrize("erase", ["", "&erase=true"])
def test_erased_and_made_again_in_another_language(make, erase):
    o = make(sets=["sync.debounce_ms=10"])
    create(o, "n", "german")
    fill(o, "n", "german")
    assert o.delete(f"{NS}/n?confirm=n{erase}").status in (200, 204)
    create(o, "n", "french")
    fill(o, "n", "french")
    until(lambda: right(o, "n"))
    assert found(o, "n", "Haus") == set()
    assert o.delete(f"{NS}/n?confirm=n{erase}").status in (200, 204)
    o.add("the houses", namespace="n")
    until(lambda: found(o, "n", "house") == {"the houses"})
    assert language(o, "n") == "english"
    o.kill()
    o.start()
    refilled(o, "n")
    assert language(o, "n") == "english" and found(o, "n", "house") == {"the houses"} and found(o, "n", "cheval") == set()


def test_a_fleet_knows_it():
    with Fleet(2, sets=["sync.debounce_ms=10"]) as f:
        a, b = f
        for name in LANGUAGES:
            create(a, name, name)
        f.followed()
        for name in LANGUAGES:
            assert language(b, name) == name
            texts = LANGUAGES[name][0]
            for i, text in enumerate(texts):
                (a, b)[i % 2].add(text, namespace=name)
        f.followed()
        for o in f:
            for name in LANGUAGES:
                check(o, name, "index")
        # Dropped by one and made again in another language: the other has nothing of the former life.
        assert a.delete(f"{NS}/german?confirm=german").status == 204
        create(a, "german", "french")
        fill(a, "german", "french")
        f.followed()
        until(lambda: language(b, "german") == "french")
        for o in f:
            check(o, "german", "index")
            assert found(o, "german", "Haus") == set() and "for the store" not in o.log()


def test_of_two_daemons_that_make_it_at_once_the_first_one_wins():
    """Each has memories for it that the other does not know of. The store does not accept the second language, says so among the dead
    letters, and both daemons find everything."""
    held = ["sync.debounce_ms=60000", "sync.batch_max=100000"]
    with Fleet(2, sets=held) as f:
        a, b = f
        create(a, "n", "german")
        a.add("houses of cards", namespace="n")
        assert b.post("/v1/memories?wait=store", {"content": "The houses", "namespace": "n"}).status == 201
        assert a.post("/v1/memories?wait=store", {"content": "a zebra", "namespace": "n"}).status == 201
        until(lambda: all(language(o, "n") == "english" for o in f), 20)
        f.followed()
        for o in f:
            until(lambda: found(o, "n", "house") == {"houses of cards", "The houses"}, 20)
        assert len(a.get("/v1/admin/dead-letters").json["dead_letters"]) == 1
