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
        if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
            unavailable("a network namespace needs root and iproute2")
        n = (os.getpid() * 8 + next(_count)) % (1 << 15)
        third, fourth = n >> 6, n % 64 * 4
        self.name = f"orchestra-{os.getpid()}-{n}"
        self.network = f"198.18.{third}.{fourth}/30" if third < 256 else f"198.19.{third - 256}.{fourth}/30"
        base = self.network.rsplit(".", 1)[0]
        self.gateway, self.address = f"{base}.{fourth + 1}", f"{base}.{fourth + 2}"
        self.ends = [(f"oh{n}", []), (f"on{n}", ["-n", self.name])]
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
        # The wire is known for good: what cannot be asked who has an address would be told that there is no way.
        for (end, ns), (peer, peer_ns), address in ((*self.ends, self.address), (*self.ends[::-1], self.gateway)):
            mac = ip(*peer_ns, "-o", "link", "show", peer).split("link/ether ")[1].split()[0]
            ip(*ns, "neighbour", "replace", address, "lladdr", mac, "dev", end, "nud", "permanent")

    def enter(self):
        """The beginning of a command that is to run inside."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def cut(self):
        """A queue for no packets at both ends: nobody is told anything, as with a pulled cable beyond the next switch."""
        for end, ns in self.ends:
            subprocess.run(["tc", *ns, "qdisc", "replace", "dev", end, "root", "pfifo", "limit", "0"], check=True, capture_output=True)

    def heal(self):
        for end, ns in self.ends:
            subprocess.run(["tc", *ns, "qdisc", "delete", "dev", end, "root"], capture_output=True)

    def remove(self):
        for args in (["netns", "del", self.name], ["route", "del", "blackhole", self.network]):
            subprocess.run(["ip", *args], capture_output=True)
