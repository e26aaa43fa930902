#!/usr/bin/python3
"""Runs integration tests with every process of the daemon under valgrind, and reads what it says.

Valgrind would start itself where the daemon starts its workers (/proc/self/exe), so a small library that is
compiled here names the real program. Workers that tests kill leave no summary. Exit code 1 when a test fails or
valgrind reports an error or a definite leak in any process.

    tests/chaos/valgrind.py [PYTEST ARGUMENTS, default: tests/it/test_bad_input.py tests/it/test_memories.py]
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>
int execve(const char *path, char *const argv[], char *const env[])
{
	int (*real)(const char *, char *const[], char *const[]) =
		(int (*)(const char *, char *const[], char *const[]))dlsym(RTLD_NEXT, "execve");
	return real(strcmp(path, "/proc/self/exe") ? path : PROGRAM, argv, env);
}
"""


def main():
    if len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    here = os.path.dirname(os.path.abspath(__file__))
    it = os.path.join(here, "..", "it")
    os.environ.setdefault("ORCHESTRA_TEST_SLOW", "20")
    sys.path.insert(0, it)
    import orchestra
    import pytest
    for tool in ("valgrind", "cc"):
        if not shutil.which(tool):
            print(f"{tool} is absent", file=sys.stderr)
            return 2
    work = tempfile.mkdtemp(prefix="orchestra-valgrind-")
    program = os.path.abspath(os.path.join(orchestra.BUILD, "orchestrad"))
    with open(work + "/shim.c", "w") as f:
        f.write(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", f'-DPROGRAM="{program}"', "-o", work + "/shim.so", work + "/shim.c", "-ldl"], check=True)
    init = orchestra.Orchestra.__init__

    def under_valgrind(self, directory=None, sets=(), env=None, conf=None, prefix=(), start=True):
        init(self, directory, [*sets, "daemon.drain_timeout=5 min"], {**(env or {}), "LD_PRELOAD": work + "/shim.so"}, conf,
             [*prefix, "valgrind", "--quiet", "--trace-children=yes", "--leak-check=full", "--show-leak-kinds=definite",
              "--errors-for-leak-kinds=definite", "--num-callers=25", f"--log-file={work}/%p.log"], start)
    orchestra.Orchestra.__init__ = under_valgrind
    tests = sys.argv[1:] or [os.path.join(it, "test_bad_input.py"), os.path.join(it, "test_memories.py")]
    failed = pytest.main(["-q", "-p", "no:cacheprovider", *tests])
    logs = glob.glob(work + "/*.log")
    said = 0
    for path in logs:
        with open(path, errors="replace") as f:
            text = f.read()
        if re.search(r"== (Invalid|Conditional jump|Use of uninit|Syscall param|Mismatched|Process terminating)|definitely lost: [1-9]|are definitely lost", text):
            said += 1
            print(f"--- {path}\n{text[:6000]}")
    print(f"valgrind watched {len(logs)} processes; {said} had something to say")
    if not said:
        shutil.rmtree(work)
    return 1 if failed or said else 0


if __name__ == "__main__":
    sys.exit(main())
