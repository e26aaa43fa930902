"""The programs of make bench-vectors: each is compiled when it is first needed, and not measured where what it needs is missing.

An engine is a name, a command and the words that make it search; without words it builds its index and keeps it."""
import os
import shutil
import subprocess

import npm
import sets

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ["-O3", "-march=native", "-I", HERE, "-pthread"]


class Missing(Exception):
    """The engine cannot be measured here; the text says why."""


def run(*argv):
    r = subprocess.run(argv, capture_output=True, text=True)
    if r.returncode:
        raise Missing(f"{argv[0]} fails: {r.stderr.strip()[-400:]}")


def program(build, name, *flags, package=None, header=None, compiler="g++"):
    """Path of the compiled program, made again when its source is newer."""
    out, source = os.path.join(build, "tests", "bench", "ann", name), os.path.join(HERE, name + ".cpp")
    if header and not os.path.exists(header):
        raise Missing(f"{package} is not installed")
    if not shutil.which(compiler):
        raise Missing(f"{compiler} is not installed")
    common = os.path.join(HERE, "ann.c")
    newest = max(os.path.getmtime(p) for p in (source, common, os.path.join(HERE, "ann.h")))
    if not os.path.exists(out) or os.path.getmtime(out) < newest:
        os.makedirs(os.path.dirname(out), exist_ok=True)
        run("gcc", "-O2", "-D_GNU_SOURCE", "-c", "-o", out + ".ann.o", common)
        run(compiler, *FLAGS, "-o", out, source, out + ".ann.o", *flags)
    return out


def hnswlib(build):
    return program(build, "hnswlib", package="libhnswlib-dev", header="/usr/include/hnswlib/hnswlib.h")


def faiss(build):
    return program(build, "faiss", "-lfaiss", "-lopenblas", "-fopenmp", package="libfaiss-dev", header="/usr/include/faiss/Index.h")


def usearch(build):
    """Its package brings sources: the kernels (NumKong) are compiled once as its own build does, each for the instruction sets
    that the compiler knows, the best chosen at run time."""
    root = os.path.join(npm.modules(sets.CACHE), "usearch")
    kernels, library = os.path.join(root, "numkong"), os.path.join(root, "numkong", "orchestra-bench.a")
    defines = ["-include", os.path.join(kernels, "nk_probes.h"), "-DNK_NATIVE_F16=0", "-DNK_NATIVE_BF16=0", "-DNK_DYNAMIC_DISPATCH=1",
               "-I", os.path.join(kernels, "include")]
    if not os.path.exists(library):
        run("node", os.path.join(kernels, "probes", "probe.js"))
        sources = sorted(f for f in os.listdir(os.path.join(kernels, "c")) if f.endswith(".c") and f != "parallel.c")
        objects = []
        for source in sources:
            objects.append(os.path.join(kernels, source[:-2] + ".o"))
            if not os.path.exists(objects[-1]):
                run("gcc", "-std=c11", "-O3", "-w", *defines, "-I", os.path.join(kernels, "c"), "-c", "-o", objects[-1] + ".part",
                    os.path.join(kernels, "c", source))
                os.rename(objects[-1] + ".part", objects[-1])
        run("ar", "rcs", library + ".part", *objects)
        os.rename(library + ".part", library)
    return program(build, "usearch", "-std=c++17", *defines, "-DUSEARCH_USE_NUMKONG=1", "-DUSEARCH_USE_OPENMP=0",
                   "-I", os.path.join(root, "include"), library)


def kept(name, engine):
    """Where the index of an engine over a set is kept."""
    path = os.path.join(sets.CACHE, "indexes", f"{name}-{engine}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def lists(n):
    """Lists of an inverted file: 2 √n, rounded up to a power of two."""
    return 1 << max(4, int(2 * n ** 0.5 - 1).bit_length())


def probes(n):
    return [p for p in (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 512) if p <= lists(n) // 2]


EF = ("8", "16", "32", "64", "128", "256", "512")


# glibc asks for huge pages for whatever it maps: the libraries' memory as ours has it.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


class Engine:
    def __init__(self, name, argv, words, env=()):
        self.name, self.argv, self.words, self.env = name, argv, list(words), dict(env)


def peers(build, meta, seconds, wanted, directory):
    """(engines, why others are missing). `wanted`: names as on the left."""
    name, n, d, s = meta["name"], meta["n"], meta["d"], str(seconds)

    def ivf(label, factory, settings):
        return Engine(label, [faiss(build), directory, kept(name, "faiss-" + factory.replace(",", "-")), s, factory], settings)

    def refined():
        return [f"nprobe={p},k_factor_rf={r}" for r in (10, 30) for p in probes(n)]

    made = {
        "hnswlib": lambda: Engine("hnswlib", [hnswlib(build), directory, kept(name, "hnswlib-m16-efc200"), s], EF),
        "hnswlib-huge": lambda: Engine("hnswlib, huge pages", [hnswlib(build), directory, kept(name, "hnswlib-m16-efc200"), s], EF, HUGE_PAGES),
        "usearch": lambda: Engine("usearch", [usearch(build), directory, kept(name, "usearch-f32-m16-efc200"), s], EF),
        "faiss-flat": lambda: ivf("FAISS Flat", "Flat", ["-"]),
        "faiss-ivf": lambda: ivf("FAISS IVFFlat", f"IVF{lists(n)},Flat", [f"nprobe={p}" for p in probes(n)]),
        "faiss-pq": lambda: ivf("FAISS IVFPQ", f"IVF{lists(n)},PQ{d // 4}x4fs,RFlat", refined()),
        "faiss-hnsw": lambda: ivf("FAISS HNSW", "HNSW16", [f"efSearch={e}" for e in EF]),
        "sqlite-vec": lambda: Engine("sqlite-vec", ["/usr/bin/python3", os.path.join(HERE, "sqlite_vec.py"), directory, os.path.join(
            npm.modules(sets.CACHE), "sqlite-vec-linux-x64", "vec0.so"), kept(name, "sqlite-vec.db"), s], []),
    }
    engines, missing = [], {}
    for key in wanted:
        try:
            engines.append(made[key]())
        except (Missing, npm.Unavailable) as e:
            missing[key] = str(e)
    return engines, missing
