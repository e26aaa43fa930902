"""A network namespace with one wire to this one, along which packets can be made to vanish."""
import itertools
import os
import shutil
import subprocess

from guard import unavailable

_count = itertools.count()


def ip(*args):
    r = subprocess.run(["ip", *args], capture_output=True, text=True)
    if r.returncode:
        raise OSError(f"ip {' '.join(args)}: {r.stderr.strip()}")
    return r.stdout


class Namespace:
    """address: what a server inside listens at, network: its /30. The other end of the wire, gateway, is in this namespace.

    Addresses are of 198.18.0.0/15, which no network has outside of benchmarks (RFC 2544); a route into nowhere under the
    wire's own keeps clients from asking the world when the wire is gone. Whoever makes one removes it (guard.py does).
    """

    def __init__(self):
        if os.geteuid() or not shutil.which("ip"):
            unavailable("a network namespace needs root and iproute2")
        n = (os.getpid() * 8 + next(_count)) % (1 << 15)
        third, fourth = n >> 6, n % 64 * 4
        self.name = f"orchestra-{os.getpid()}-{n}"
        self.network = f"198.18.{third}.{fourth}/30" if third < 256 else f"198.19.{third - 256}.{fourth}/30"
        base = self.network.rsplit(".", 1)[0]
        self.gateway, self.address = f"{base}.{fourth + 1}", f"{base}.{fourth + 2}"
        self.wire = f"oh{n}"
        self.ends = [(self.wire, []), (f"on{n}", ["-n", self.name])]
        try:
            self._make()
        except OSError as e:
            self.remove()
            unavailable(f"no network namespace: {e}")

    def _make(self):
        ip("netns", "add", self.name)
        ip("route", "add", "blackhole", self.network, "metric", "4000000")
        (outer, _), (inner, within) = self.ends
        ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.name)
        ip("address", "add", f"{self.gateway}/30", "dev", outer)
        ip(*within, "address", "add", f"{self.address}/30", "dev", inner)
        ip(*within, "link", "set", "lo", "up")
        for end, ns in self.ends:
            ip(*ns, "link", "set", end, "up")
        self.heal()

    def enter(self):
        """The beginning of a command that is to run inside."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def _aim(self, mac_of):
        for (end, ns), peer, address in ((*self.ends, self.address), (*self.ends[::-1], self.gateway)):
            ip(*ns, "neighbour", "replace", address, "lladdr", mac_of(peer), "dev", end, "nud", "permanent")

    def cut(self):
        """Both ends send to an address that nobody on the wire has. TCP takes its packets for sent, as with a pulled cable beyond
        the next switch; a link that is down or a queue that is full would tell it, and it would give up after seconds."""
        self._aim(lambda peer: "02:00:00:00:00:01")

    def heal(self):
        self._aim(lambda peer: ip(*peer[1], "-o", "link", "show", peer[0]).split("link/ether ")[1].split()[0])

    def remove(self):
        for args in (["link", "del", self.wire], ["netns", "del", self.name], ["route", "del", "blackhole", self.network]):
            subprocess.run(["ip", *args], capture_output=True)
