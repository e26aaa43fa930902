"""What a test server leaves behind is removed even when the test that started it dies: a shell waits at a pipe for that."""
import os
import subprocess
import sys

# where what takes long to make is kept between runs
CACHE = os.environ.get("ORCHESTRA_TEST_CACHE", "/var/tmp")

# $1 directory; $2 the servers' working directory, by which they are known; $3 netns or "", $4 its wire, $5 its network
SCRIPT = r"""
trap '' HUP INT TERM PIPE
read -r _
n=0
while [ $n -lt 500 ]; do
	alive=
	for p in /proc/[0-9]*; do
		[ "$p/cwd" -ef "$2" ] || continue
		alive=1
		kill -KILL "${p#/proc/}" 2>/dev/null
	done
	[ -n "$alive" ] || break
	n=$((n + 1)); sleep 0.01
done
shm=$(sed -n 7p "$2/postmaster.pid" 2>/dev/null)
[ -z "${shm##* }" ] || ipcrm -m "${shm##* }" 2>/dev/null
if mountpoint -q "$2" 2>/dev/null; then umount -l "$2"; fi
if [ -n "$3" ]; then # the wire by itself: connections that still send would keep the namespace, and it the wire
	ip link del "$4" 2>/dev/null
	ip netns del "$3" 2>/dev/null
fi
rm -rf "$1"
echo done 2>/dev/null
[ -z "$3" ] || { read -r _; ip route del blackhole "$5" 2>/dev/null; }
exit 0
"""


class Unavailable(Exception):
    """This machine cannot give what a test asked for."""


def unavailable(why):
    """Skips the test, with the reason, or raises Unavailable where there is no pytest."""
    if "pytest" in sys.modules and not hasattr(sys.modules["__main__"], "COMMAND_LINE"):
        import pytest
        pytest.skip(why, allow_module_level=True)
    raise Unavailable(why)


class Guard:
    """Ends every process whose working directory is `work`, undoes mounts and namespaces and removes `directory`: at clean(),
    or as soon as this process is gone."""

    def __init__(self, directory, work, netns="", wire="", network=""):
        self.process = subprocess.Popen(["/bin/sh", "-c", SCRIPT, "guard", directory, work, netns, wire, network],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, cwd="/")
        # A route into nowhere stays until this process ends: a client that lives longer than its server must not ask the world.
        self.last = not netns

    def clean(self):
        if self.process.stdin.closed:
            return
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n", "the guard of a test server has died"
        if self.last:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
