"""A wire that can be cut, slowed and torn without any rights: a TCP proxy in a thread of the test."""
import collections
import errno
import selectors
import socket
import struct
import threading
import time

CHUNK, LIMIT, BACKLOG = 65536, 1 << 20, 128
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def tear(s):
    """Closes with RST instead of FIN."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


class Pipe:
    """Bytes on their way from one socket to the other."""

    def __init__(self, source, sink, answers):
        self.source, self.sink, self.answers = source, sink, answers
        self.queue, self.size, self.ended = collections.deque(), 0, False


class Proxy:
    """Listens at host:port of its own and forwards to target, an object with host and port, or (host, port).

    blackhole()            nothing moves either way, and connection attempts get no answer at all; data sent meanwhile arrives
                           after heal(). The proxy's kernel still acknowledges what fits its buffers: for what TCP itself
                           notices (tcp_user_timeout), use Postgres(netns=True).cut().
    blackhole("answers")   requests pass, answers do not: what a client does not know about its COMMIT
    delay(ms)              each way
    reset()                RST on every open connection, both sides; what was under way is lost. New ones are welcome.
    refuse()               connection attempts are refused
    heal()                 ends blackhole, delay and refuse
    counts: connections (accepted so far), open (now), forwarded ({"requests": bytes, "answers": bytes})
    """

    def __init__(self, target, host="127.0.0.1"):
        self.target = target if isinstance(target, tuple) else (target.host, target.port)
        self.host = host
        self.lock = threading.RLock()
        self.pairs, self.stopped, self.held, self.lag = {}, set(), [], 0
        self.connections, self.forwarded = 0, {"requests": 0, "answers": 0}
        self.selector = selectors.DefaultSelector()
        self.waker, self.woken = socket.socketpair()
        self.waker.setblocking(False)
        self.woken.setblocking(False)
        self.selector.register(self.woken, READ)
        self.listener, self.port = None, 0
        self._listen()
        self.running = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    # ---- what a test says ----
    def blackhole(self, what="all"):
        with self.lock:
            self.stopped = {"answers"} if what == "answers" else {"answers", "requests"}
            if what == "all" and self.listener and not self.held:
                self._ignore_syn()
        self._wake()

    def delay(self, ms):
        with self.lock:
            self.lag = ms / 1000
        self._wake()

    def reset(self):
        with self.lock:
            for pipes in list(self.pairs.values()):
                self._close(pipes, tear)
        self._wake()

    def refuse(self):
        with self.lock:
            self._welcome()
            if self.listener:
                self.listener.close()
            self.listener = None
        self._wake()

    def heal(self):
        with self.lock:
            self.stopped, self.lag = set(), 0
            self._welcome()
            if not self.listener:
                self._listen()
        self._wake()

    @property
    def open(self):
        with self.lock:
            return len(self.pairs)

    def cleanup(self):
        self.running = False
        self._wake()
        self.thread.join(10)
        self.refuse()
        self.reset()
        for s in (self.selector, self.waker, self.woken):
            s.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()

    # ---- listening ----
    def _listen(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((self.host, self.port))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)

    def _ignore_syn(self):
        """Linux drops a SYN when the queue of the listener is full: two connections of our own fill one of length zero."""
        self.listener.listen(0)
        for _ in range(2):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex((self.host, self.port))
            self.held.append(s)

    def _welcome(self):
        for s in self.held:
            tear(s)
        self.held = []
        if self.listener:
            self.listener.listen(BACKLOG)

    def _accept(self):
        while self.listener and not self.held:
            try:
                client, _ = self.listener.accept()
            except OSError as e:
                if e.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    raise
                return
            self.connections += 1
            server = socket.socket()
            for s in (client, server):
                s.setblocking(False)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.connect_ex(self.target) not in (0, errno.EINPROGRESS):
                tear(client)
                tear(server)
                continue
            self.pairs[client] = (Pipe(client, server, "requests"), Pipe(server, client, "answers"))

    # ---- forwarding ----
    def _wake(self):
        try:
            self.waker.send(b"x")
        except (BlockingIOError, OSError):
            pass

    def _interests(self):
        """({socket: events}, seconds until something is due)"""
        out, wait, now = {}, None, time.monotonic()
        if self.listener and not self.held:
            out[self.listener] = READ
        for pipes in self.pairs.values():
            for p in pipes:
                if p.answers in self.stopped:
                    continue
                if not p.ended and p.size < LIMIT:
                    out[p.source] = out.get(p.source, 0) | READ
                if p.queue:
                    due = p.queue[0][0] + self.lag - now
                    if due <= 0:
                        out[p.sink] = out.get(p.sink, 0) | WRITE
                    else:
                        wait = due if wait is None else min(wait, due)
        return out, wait

    def _register(self, interests):
        for key in list(self.selector.get_map().values()):
            s = key.fileobj
            if s is self.woken:
                continue
            if s not in interests or s.fileno() < 0:
                self.selector.unregister(s)
            elif key.events != interests[s]:
                self.selector.modify(s, interests[s])
        known = {k.fileobj for k in self.selector.get_map().values()}
        for s in interests.keys() - known:
            self.selector.register(s, interests[s])

    def _run(self):
        while self.running:
            with self.lock:
                interests, wait = self._interests()
                self._register(interests)
            ready = {key.fileobj: events for key, events in self.selector.select(wait)}
            with self.lock:
                if ready.pop(self.woken, 0):
                    self.woken.recv(CHUNK)
                if ready.pop(self.listener, 0):
                    self._accept()
                for pipes in list(self.pairs.values()):
                    try:
                        for p in pipes:
                            self._move(p, ready)
                    except BlockingIOError:
                        continue
                    except OSError:  # one side tore it: so does the other
                        self._close(pipes, tear)
                        continue
                    if all(p.ended and not p.queue for p in pipes):
                        self._close(pipes)

    def _move(self, p, ready):
        if p.answers in self.stopped:
            return
        if ready.get(p.source, 0) & READ and not p.ended:
            data = p.source.recv(CHUNK)
            p.queue.append((time.monotonic(), data))
            p.size += len(data)
            p.ended = not data
        if ready.get(p.sink, 0) & WRITE and p.queue:
            came, data = p.queue[0]
            p.queue.popleft()
            if not data:
                p.sink.shutdown(socket.SHUT_WR)
                return
            sent = p.sink.send(data)
            p.size -= sent
            self.forwarded[p.answers] += sent
            if sent < len(data):
                p.queue.appendleft((came, data[sent:]))

    def _close(self, pipes, how=socket.socket.close):
        self.pairs.pop(pipes[0].source, None)
        for p in pipes:
            try:
                self.selector.unregister(p.source)
            except (KeyError, ValueError):
                pass
            how(p.source)
