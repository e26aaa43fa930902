"""L1, ring, journal and words on their own (bench_micro.c); what it costs to record a metric (bench_stats.c)."""
import rig as r

NAMES = {"l1_get_1kb_60000_random": ("L1 get, 1 KB, 60,000 keys at random", "gets/s", 1.5e6),
         "l1_get_1kb_500_hot": ("L1 get, 1 KB, 500 hot keys", "gets/s", 8e6),
         "l1_put_1kb": ("L1 put, 1 KB", "puts/s", None),
         "l1_fill_1kb_fresh_pages": ("L1 fill, 1 KB, fresh pages", "fills/s", None),
         "ring_64b": ("ring, 64 B", "messages/s", 10e6),
         "ring_6600b": ("ring, 6,600 B", "messages/s", None),
         "words_tsvector_60": ("stems and tsvector of 60 English-like words", "texts/s", 125e3),
         "embed_sentence": ("built-in embedder, three clauses", "texts/s", None),
         "vector_pack": ("its vectors packed", "vectors/s", None),
         "vector_unpack": ("and unpacked", "vectors/s", None),
         "vector_not_packed": ("a model's vector, found not to be one", "vectors/s", None),
         "journal_append_sync_group_1": ("journal, 6,528 B, groups of 1", "records/s", None),
         "journal_append_sync_group_64": ("journal, 6,528 B, groups of 64", "records/s", None),
         "journal_append_sync_group_500": ("journal, 6,528 B, groups of 500", "records/s", None)}

STATS = {"counter_ns": "count", "record_ns": "record in a histogram", "record_shared_ns": "record in a histogram, one of several threads",
         "clock_ns": "read the clock"}


def run(rig, report):
    rounds = [rig.tool("bench_micro", 0.3 if rig.quick else 1, rig.path(f"micro{i}")) for i in range(1 if rig.quick else 3)]
    for key, (name, unit, goal) in NAMES.items():
        report.add("parts", name, r.median(x[key] for x in rounds), unit, goal=goal)
    rounds = [rig.tool("bench_stats", 2 if rig.quick else 20) for i in range(1 if rig.quick else 3)]
    for key, name in STATS.items():
        report.add("parts", name + ", beyond an empty loop", round(r.median(x[key] - x["loop_ns"] for x in rounds), 1), "ns", better="less",
                   goal=20 if key.startswith("record") else None)
