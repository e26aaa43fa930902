"""The word index (bench_words.c) beside SQLite's FTS5 and PostgreSQL's tsvector: the same short documents (turns of LoCoMo's
conversations, each with a few words of another, until there are enough), the same questions, any word, the ten best."""
import json
import os
import random
import re
import subprocess
import time

import rig as r
from corpus import Corpus

NAMES = {"orchestra": "ours", "fts5": "SQLite FTS5", "tsvector": "PostgreSQL tsvector, GIN, ts_rank"}
DATA = os.environ.get("ORC_DATA") or os.path.join(r.ROOT, "..", "shared", "data")
RANKED = """SELECT id FROM t, CAST(replace(plainto_tsquery('english', $1)::text, '&', '|') AS tsquery) q
            WHERE words @@ q ORDER BY ts_rank(words, q) DESC, id LIMIT 10"""


def locomo(path):
    """(turns with the names of their speakers and captions, questions)"""
    with open(path, encoding="utf-8") as f:
        samples = json.load(f)
    turns = [f"{t['speaker']}: {t['text']}" + (f" [image: {t['blip_caption']}]" if t.get("blip_caption") else "")
             for s in samples for key, session in s["conversation"].items() if re.fullmatch(r"session_\d+", key) for t in session]
    return turns, [str(q["question"]) for s in samples for q in s["qa"]]


def varied(turns, n):
    """Turns until there are n: copies lose a tenth of their words and gain a few of another turn."""
    rng, out = random.Random(20261122), list(turns[:n])
    while len(out) < n:
        text = [w for w in turns[len(out) % len(turns)].split() if rng.random() > 0.1]
        other = rng.choice(turns).split()
        at = rng.randrange(len(other))
        out.append(" ".join(text + other[at:at + rng.randint(2, 6)]))
    return out


def texts(n):
    path = os.path.join(DATA, "locomo", "locomo-dev5.json")
    if os.path.exists(path):
        turns, questions = locomo(path)
        return varied(turns, n), questions
    made = Corpus()
    return made.texts(n), made.questions(1000)


def as_locomo(rig, documents, questions):
    """A file of the form that bench_words reads, with these documents and no others."""
    path = rig.path("words.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump([{"conversation": {"session_1": [{"speaker": a.partition(": ")[0], "text": a.partition(": ")[2]} if ": " in a
                                                   else {"speaker": "", "text": a} for a in documents]},
                    "qa": [{"question": q} for q in questions]}], f)
    return path


def program(rig, documents, questions):
    """Figures of bench_words: {"orchestra": …, "fts5": …}."""
    path = as_locomo(rig, documents, questions)
    p = subprocess.run([rig.program("bench_words"), "--json", "--documents", str(len(documents)), "--questions", str(len(questions)), path],
                       capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(f"bench_words: {p.stderr.strip() or p.returncode}")
    return json.loads(p.stdout)


def tsvector(rig, documents, questions):
    """The same figures of a real server with a GIN index."""
    from postgres import Postgres, Unavailable
    try:
        server = Postgres(settings={"shared_buffers": "512MB", "work_mem": "64MB", "max_parallel_workers_per_gather": 0})
    except Unavailable as e:
        raise r.Skip(str(e))
    with server, server.session() as s:
        s.execute("CREATE TABLE t (id int PRIMARY KEY, content text, words tsvector)")
        s.execute("CREATE INDEX words ON t USING gin (words)")
        start = time.perf_counter()
        for i in range(0, len(documents), 1000):
            rows = json.dumps([{"i": i + k, "c": c} for k, c in enumerate(documents[i:i + 1000])])
            s.execute("INSERT INTO t SELECT i, c, to_tsvector('english', c) FROM jsonb_to_recordset($1::text::jsonb) AS x(i int, c text)", rows)
        per_s = len(documents) / (time.perf_counter() - start)
        s.execute("VACUUM ANALYZE t")
        size = int(s.value("SELECT pg_relation_size('words') + (SELECT sum(pg_column_size(words)) FROM t)"))
        took = []
        for q in questions:
            start = time.perf_counter()
            s.execute(RANKED, q)
            took.append((time.perf_counter() - start) * 1e3)
    took.sort()
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[len(took) * 99 // 100], "documents_per_s": per_s,
            "bytes_per_document": size / len(documents)}


def line(engine, x):
    return (engine, f"{x['p50_ms']:.3f} ms", f"{x['p99_ms']:.3f} ms", f"{x['documents_per_s']:,.0f}", f"{x['bytes_per_document']:,.0f} B")


def beside(report, title, rounds, found):
    """Rows of ours: what was asked of it, and how many times as fast as the others it is. Adds what `rounds` hold to `found`."""
    for engine in ("orchestra", "fts5"):
        found[engine] = {key: r.median(x[engine][key] for x in rounds) for key in rounds[0][engine]}
    ours = found["orchestra"]
    for key, goal in (("p50_ms", 2), ("p99_ms", 8)):
        report.add("words", f"{title}: {key[:3]}", ours[key], "ms", goal=goal, better="less")
        for engine in sorted(set(found) - {"orchestra"}):
            faster = r.ratio([x.get(engine, found[engine]) for x in rounds], [x["orchestra"] for x in rounds], key=lambda x: x[key])
            report.add("words", f"{title}: {key[:3]}, times as fast", ours[key], "ms", found[engine][key], f"ms {NAMES[engine]}", faster)
    report.add("words", "indexed", ours["documents_per_s"], "documents/s", goal=20000)


def run(rig, report):
    n = 5000 if rig.quick else 100000
    documents, questions = texts(n)
    questions = questions[:100 if rig.quick else 1000]
    found = {}
    try:
        found["tsvector"] = tsvector(rig, documents, questions[:200])
    except r.Skip as e:
        report.skip("words", f"tsvector: {e}")
    try:
        rounds = rig.compare(lambda: program(rig, documents, questions), rounds=1 if rig.quick else 3)[0]
        beside(report, f"{n:,} documents, any word", rounds, found)
    except r.Skip as e:
        report.skip("words", str(e))
    report.sheet("words-engines", f"{n:,} documents of {sum(map(len, documents)) / n:.0f} bytes on average, {len(questions):,} questions",
                 ("Engine", "p50", "p99", "documents/s", "bytes a document"),
                 [line(NAMES[e], x) for e, x in sorted(found.items())])
