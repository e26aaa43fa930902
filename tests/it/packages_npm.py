"""Packages from npm that tests use: fetched once per machine and user, in the versions that are named."""
import os
import shutil
import subprocess
import tempfile

from guard import CACHE, unavailable


def installation(name, packages, what):
    """Directory with node_modules. Makers at the same time do no harm; where npm is missing the test is skipped, or fails where it must not be."""
    path = os.path.join(CACHE, f"orchestra-{name}-{os.geteuid()}")
    if not os.path.isdir(path):
        if not shutil.which("npm"):
            unavailable(f"{what} comes from npm, which is not installed (apt-get install npm)")
        made = tempfile.mkdtemp(prefix=os.path.basename(path) + ".", dir=CACHE)
        try:
            # their peers are others of their kind, which nobody asked for
            r = subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--legacy-peer-deps", "--fetch-retries=1",
                                "--fetch-timeout=30000", "--prefix", made, *(f"{p}@{v}" for p, v in packages.items())],
                               cwd=made, capture_output=True, text=True, timeout=180, stdin=subprocess.DEVNULL)
            if r.returncode:
                unavailable(f"npm does not give {what}: {(r.stderr or r.stdout).strip()[-300:]}")
            os.rename(made, path)
        except subprocess.TimeoutExpired:
            unavailable(f"npm does not give {what}: no answer from the registry")
        except OSError:  # somebody else was first
            assert os.path.isdir(path)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    if os.lstat(path).st_uid != os.geteuid():
        raise RuntimeError(f"{path} belongs to somebody else; remove it")
    return path
