"""The examples of the documents are run, and must answer what the documents show.

Every ```console block of the files below is typed into one shell beside a fresh daemon. Ids, times, sizes and timings
differ from run to run and are compared by their form only (normal()).

After a deliberate change:  tests/it/test_docs.py --refresh   writes the new answers into the documents.
"""
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from orchestra import BUILD, SLOW, Orchestra  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FILES = ["README.md", "docs/api.md", "docs/security.md"]
END = "@@ end of the answer @@"
SHOWN = {"socket": "/run/orchestra/orchestra.sock", "data": "/var/lib/orchestra", "tcp": "127.0.0.1:7700"}


class Shell:
    """bash, with the daemon's address in place of the documented one."""

    def __init__(self, o, pause):
        self.o = o
        self.pause = pause
        build = os.path.abspath(BUILD)
        env = {k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRA_")}
        env.update(ORCHESTRA_SOCKET=o.socket, PATH=build + ":" + os.environ["PATH"])
        os.makedirs(os.path.join(o.dir, "cwd"), exist_ok=True)
        self.process = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, cwd=os.path.join(o.dir, "cwd"), env=env, bufsize=1)
        # a daemon that an example starts is the test's own one again
        self.say('orchestrad() { command orchestrad --set listen.tcp=127.0.0.1:%d --set listen.unix=%s --set data.dir=%s "$@"; }'
                 % (o.port, o.socket, o.data))

    def wait_ready(self):
        deadline = time.monotonic() + 3 * SLOW
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen("http://127.0.0.1:%d/readyz" % self.o.port, timeout=1).read()
                return
            except OSError:
                time.sleep(0.02)

    def say(self, command):
        self.process.stdin.write(command + "\necho\necho '%s'\n" % END)
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.rstrip("\n") == END:
                break
            lines.append(line.rstrip("\r\n"))
        while lines and not lines[-1].strip():
            lines.pop()
        return lines

    def run(self, command):
        if not command.startswith("orchestrad"):
            self.wait_ready()
            time.sleep(self.pause)
        out = self.say(command.replace(SHOWN["tcp"], "127.0.0.1:%d" % self.o.port))
        shown = [x.replace("127.0.0.1:%d" % self.o.port, SHOWN["tcp"]).replace(self.o.socket, SHOWN["socket"])
                 .replace(self.o.data, SHOWN["data"]) for x in out if not x.startswith("Date:")]
        return shown

    def close(self):
        self.say("orchestractl drain; wait")  # also one that an example has started
        self.process.stdin.close()
        self.process.wait()


def examples(text):
    """[(first line of the command, line behind the answer, command, answer)]"""
    lines, out, i = text.split("\n"), [], 0
    while i < len(lines):
        if not lines[i].startswith("```console"):
            i += 1
            continue
        i += 1
        while not lines[i].startswith("```"):
            assert lines[i].startswith("$ "), "line %d: a console block begins with a command: %s" % (i + 1, lines[i])
            first, command = i, lines[i][2:]
            i += 1
            while command.count("'") % 2 == 1:
                command += "\n" + lines[i]
                i += 1
            answer = i
            while not lines[i].startswith("$ ") and not lines[i].startswith("```"):
                i += 1
            out.append((first, answer, i, command, lines[answer:i]))
    return out


def normal(lines):
    text = "\n".join(lines)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+Z)?", "TIME", text)
    text = re.sub(r'(X-Request-Id: |"request_id":")[0-9a-f]{16}', r"\1REQUEST", text)
    text = re.sub(r'("(?:pid|cpu_seconds|uptime_seconds|rss_bytes|waiting|working|embed|pending|filter|text|vector|fuse|fill)"): ?[-+.e\d]+', r"\1:N", text)
    text = re.sub(r"(Content-Length:) \d+", r"\1 N", text)
    text = re.sub(r'("cursor": ?"|"revision": ?|^id: )[\d:]+', r"\1N", text, flags=re.M)
    text = re.sub(r"(\d+\.\d{3})\d+", r"\1", text)  # of a score, three digits
    text = re.sub(r"Cache-Status: orchestra; (hit|fwd=miss)", "Cache-Status: orchestra; TIER", text)
    return [x.rstrip() for x in text.strip().split("\n")]


def answers(path):
    """Yields each example of a document with what it answers now."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    with Orchestra() as o:
        # Neighbours lend when the store has them. The README is pasted as it stands.
        shell = Shell(o, 0 if path == "README.md" else 0.15 * SLOW)
        try:
            for first, answer, behind, command, shown in examples(text):
                yield first, answer, behind, command, shown, shell.run(command)
        finally:
            shell.close()


@pytest.mark.parametrize("path", FILES)
def test_examples(path):
    for tool in ("curl", "jq"):
        if not shutil.which(tool):
            pytest.skip("%s is not installed: the examples of %s are not run" % (tool, path))
    n = 0
    for first, _, _, command, shown, now in answers(path):
        assert normal(now) == normal(shown), "%s:%d: $ %s\nanswers now:\n%s" % (path, first + 1, command, "\n".join(now))
        n += 1
    assert n > 0


def refresh(path):
    full = os.path.join(ROOT, path)
    with open(full, encoding="utf-8") as f:
        lines = f.read().split("\n")
    for _, answer, behind, _, shown, now in reversed(list(answers(path))):
        if normal(shown) != normal(now):
            lines[answer:behind] = now
    with open(full, "w", encoding="utf-8") as f:
        f.write("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[1:] != ["--refresh"]:
        sys.exit(__doc__)
    for p in FILES:
        refresh(p)
