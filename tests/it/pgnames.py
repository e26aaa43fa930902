"""Between daemons and a server whose connections are one session (pglite.py): each connection's prepared statements get names of their
own, and nobody's statements come between another's parse, bind and execute, or into another's transaction.

    with Names(pg) as wire:
        Orchestra(sets=store_sets(wire, "postgres"))
        wire.sql("SELECT 1")
"""
import itertools
import socket
import struct
import threading

from pglite import Door


class Wire:
    """One client's."""

    def __init__(self, client, server, prefix, turn):
        self.client, self.server, self.prefix, self.turn = client, server, prefix, turn
        self.lock = threading.Lock()
        self.mine, self.asked, self.open = False, 0, False                      # its turn; answers to come; statements behind the last sync
        for s in (client, server):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._guarded, args=(self._requests,), daemon=True).start()
        threading.Thread(target=self._guarded, args=(self._answers,), daemon=True).start()

    def _guarded(self, what):
        try:
            what()
        except (OSError, ValueError, struct.error):
            pass
        for s in (self.client, self.server):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._release(ended=True)

    def _note(self, kind):
        self.mine = True
        self.asked += kind in b"QS"
        self.open = kind not in b"QS" if kind in b"QSPBDEC" else self.open

    def _begin(self, kind):
        with self.lock:
            mine = self.mine
            if mine:
                self._note(kind)
        if not mine:                                                            # and nobody but this thread makes it so
            self.turn.acquire()
            with self.lock:
                self._note(kind)

    def _release(self, ended=False):
        with self.lock:
            if self.mine and (ended or not self.asked and not self.open):
                self.mine = False
                self.turn.release()

    def _requests(self):
        with self.client.makefile("rb") as f:
            head = f.read(4)                                                    # the startup message has no type
            self._begin(b"Q")
            self.server.sendall(head + f.read(struct.unpack(">I", head)[0] - 4))
            while len(head := f.read(5)) == 5:
                kind, body = head[:1], f.read(struct.unpack(">I", head[1:])[0] - 4)
                if kind == b"X":
                    return
                self._begin(kind)
                body = self._renamed(kind, body)
                self.server.sendall(kind + struct.pack(">I", len(body) + 4) + body)

    def _renamed(self, kind, body):
        if kind == b"P" and body[:1] != b"\0":
            return self.prefix + body
        if kind in b"DC" and body[:1] == b"S" and body[1:2] != b"\0":
            return b"S" + self.prefix + body[1:]
        if kind == b"B":
            portal, rest = body.split(b"\0", 1)
            return portal + b"\0" + (self.prefix if rest[:1] != b"\0" else b"") + rest
        return body

    def _answers(self):
        with self.server.makefile("rb") as f:
            while len(head := f.read(5)) == 5:
                body = f.read(struct.unpack(">I", head[1:])[0] - 4)
                self.client.sendall(head + body)
                if head[:1] == b"Z":
                    with self.lock:
                        self.asked -= 1
                    if body == b"I":
                        self._release()


class Names(Door):
    def __init__(self, server):
        self.server, self.host = server, "127.0.0.1"
        self.listener = socket.create_server((self.host, 0))
        self.port, self.numbers, self.wires, self.turn = self.listener.getsockname()[1], itertools.count(1), [], threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection((self.server.host, self.server.port))
            except OSError:
                return
            self.wires.append(Wire(client, server, b"c%d_" % next(self.numbers), self.turn))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.close()
        for w in self.wires:
            for s in (w.client, w.server):
                s.close()
