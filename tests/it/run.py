#!/usr/bin/python3
"""Runs integration tests: two files side by side, as most of their time they wait. What failed is run once more, alone and one
at a time: a test that passes then was too slow for its neighbour, or has found a race. It is named in the last lines either way, and
more than MOST of them are a failure like any other.

    run.py [pytest's arguments]
"""
import os
import subprocess
import sys
import tempfile

MOST = 3
# A test that takes longer is ended with a trace of where it was. The slowest takes a quarter of a minute, one with sanitizers; and
# one that hangs, and hangs again alone, leaves the rest of the job (.ci/run) the time it needs.
HANGS_S = 240
HERE = os.path.dirname(os.path.abspath(__file__))


def pytest(arguments, failed):
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={HANGS_S}", f"--rootdir={os.getcwd()}", *arguments]
    code = subprocess.run(command, env={**os.environ, "ORCHESTRA_TEST_FAILED": failed}).returncode
    with open(failed) as f:
        return code, sorted(set(f.read().splitlines()))


def main():
    arguments = sys.argv[1:] if any(not a.startswith("-") for a in sys.argv[1:]) else [*sys.argv[1:], HERE]
    with tempfile.TemporaryDirectory() as tmp:
        code, failed = pytest(["-rs", "-n", "2", "--dist", "loadfile", *arguments], os.path.join(tmp, "first"))
        if code != 1 or not failed or len(failed) > MOST:
            return code
        print(f"\nonce more, alone: {' '.join(failed)}", flush=True)
        code, again = pytest(failed, os.path.join(tmp, "second"))
        for test in failed:
            print(f"UNSTEADY, {'fails alone, too' if test in again or code and not again else 'passes alone'}: {test}")
        return code


if __name__ == "__main__":
    sys.exit(main())
