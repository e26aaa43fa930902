"""libpq by ctypes: just enough to hold sessions, transactions and notifications open in a test, with timeouts everywhere."""
import ctypes
import re
import select
import time

TUPLES_OK, PIPELINE_SYNC, PIPELINE_ABORTED, VERBOSE = 2, 10, 11, 2
OK_STATUS, COPYING = (0, 1, TUPLES_OK, PIPELINE_SYNC), (3, 4, 8)
READING, WRITING, CONNECTED, FAILED = 1, 2, 3, 0
NOTICE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)
_silence = NOTICE(lambda _, said: None)  # notices would go to stderr
_lib = None


class Notify(ctypes.Structure):
    _fields_ = [("relname", ctypes.c_char_p), ("be_pid", ctypes.c_int), ("extra", ctypes.c_char_p)]


def lib():
    """libpq, loaded at first use: a machine without it can still collect the tests."""
    global _lib
    if _lib is None:
        so = ctypes.CDLL("libpq.so.5")
        p, s, i = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        for name, result, *args in (
                ("PQconnectStart", p, s), ("PQconnectPoll", i, p), ("PQsetErrorVerbosity", i, p, i), ("PQfinish", None, p),
                ("PQsocket", i, p), ("PQstatus", i, p), ("PQtransactionStatus", i, p), ("PQbackendPID", i, p),
                ("PQserverVersion", i, p), ("PQerrorMessage", s, p), ("PQsendQuery", i, p, s),
                ("PQsendQueryParams", i, p, s, i, p, p, p, p, i), ("PQsendPrepare", i, p, s, s, i, p),
                ("PQsendQueryPrepared", i, p, s, i, p, p, p, i), ("PQenterPipelineMode", i, p), ("PQexitPipelineMode", i, p),
                ("PQpipelineSync", i, p), ("PQflush", i, p), ("PQsetnonblocking", i, p, i), ("PQconsumeInput", i, p),
                ("PQisBusy", i, p), ("PQgetResult", p, p), ("PQresultStatus", i, p), ("PQresultErrorField", s, p, i),
                ("PQresultErrorMessage", s, p), ("PQntuples", i, p), ("PQnfields", i, p), ("PQgetisnull", i, p, i, i),
                ("PQgetvalue", p, p, i, i), ("PQgetlength", i, p, i, i), ("PQfformat", i, p, i), ("PQclear", None, p),
                ("PQnotifies", ctypes.POINTER(Notify), p), ("PQfreemem", None, p), ("PQping", i, s),
                ("PQsetNoticeProcessor", p, p, NOTICE, p)):
            f = getattr(so, name)
            f.restype, f.argtypes = result, args
        _lib = so
    return _lib


class PgError(Exception):
    """What the server or libpq said; sqlstate is None when it was not the server."""

    def __init__(self, message, sqlstate=None):
        super().__init__(f"{sqlstate}: {message}" if sqlstate else message)
        self.sqlstate = sqlstate


def conninfo(**fields):
    """keyword=value, quoted as libpq wants it."""
    return " ".join("%s='%s'" % (k, str(v).replace("\\", r"\\").replace("'", r"\'")) for k, v in fields.items() if v is not None)


class Session:
    """One connection. execute() gives rows as lists of str or None; bytes parameters travel in binary, all others as text.

    A timeout raises TimeoutError and leaves the statement running: wait() goes on waiting for it, which is how a test shows
    that something hangs and completes later. Not for two threads at once.
    """

    def __init__(self, dsn, timeout=10):
        self.conn = lib().PQconnectStart(dsn.encode())
        # so that the refusal of a connection carries its SQLSTATE, which libpq keeps for itself otherwise
        lib().PQsetErrorVerbosity(self.conn, VERBOSE)
        lib().PQsetNoticeProcessor(self.conn, _silence, None)
        try:
            self._connect(timeout)
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout):
        deadline = time.monotonic() + timeout
        want = WRITING
        while want not in (CONNECTED, FAILED):
            if not self._poll(select.POLLOUT if want == WRITING else select.POLLIN, deadline):
                raise TimeoutError("no connection")
            want = lib().PQconnectPoll(self.conn)
        if want == FAILED:
            raise self._connection_error()

    def _connection_error(self):
        said = lib().PQerrorMessage(self.conn).decode(errors="replace").strip()
        code = re.search(r"(?:FATAL|ERROR|PANIC): +([0-9A-Z]{5}): ", said)
        return PgError(said, code and code[1])

    def _poll(self, events, deadline):
        fd = lib().PQsocket(self.conn)
        if fd < 0:
            return True  # libpq says what is wrong at the next call
        p = select.poll()
        p.register(fd, events)
        return bool(p.poll(max(0, (deadline - time.monotonic()) * 1000)))

    # ---- statements ----
    def send(self, sql, *params, binary=False):
        """Sends a statement; wait() fetches what it says. Without parameters it may be several statements."""
        if params or binary:
            sent = lib().PQsendQueryParams(self.conn, sql.encode(), len(params), None, *_arrays(params), int(binary))
        else:
            sent = lib().PQsendQuery(self.conn, sql.encode())
        if not sent:
            raise self._connection_error()

    def wait(self, timeout=30):
        """Rows of the last result of what was sent."""
        deadline = time.monotonic() + timeout
        rows, error = [], None
        while result := self._result(deadline):
            try:
                error = error or _error(result)
                rows = _rows(result)
                if lib().PQresultStatus(result) in COPYING:
                    self.close()
                    raise PgError("COPY is not for this client; the connection is closed")
            finally:
                lib().PQclear(result)
        if error:
            raise error
        return rows

    def execute(self, sql, *params, binary=False, timeout=30):
        self.send(sql, *params, binary=binary)
        return self.wait(timeout)

    def value(self, sql, *params, **kw):
        """The only column of the only row."""
        return self.execute(sql, *params, **kw)[0][0]

    def _result(self, deadline):
        while lib().PQisBusy(self.conn):
            if not self._poll(select.POLLIN, deadline):
                raise TimeoutError("no answer")
            if not lib().PQconsumeInput(self.conn):
                raise self._connection_error()
        return lib().PQgetResult(self.conn)

    def pipeline(self, sql, rows, types=(), timeout=30):
        """Prepares sql and runs it for every row of parameters in one pipeline; the results, [[…], …] or a PgError, in order."""
        pq = lib()
        assert pq.PQsetnonblocking(self.conn, 1) == 0 and pq.PQenterPipelineMode(self.conn) == 1
        oids = (ctypes.c_uint * max(1, len(types)))(*types)
        if not pq.PQsendPrepare(self.conn, b"", sql.encode(), len(types), oids):
            raise self._connection_error()
        for row in rows:
            if not pq.PQsendQueryPrepared(self.conn, b"", len(row), *_arrays(row), 0):
                raise self._connection_error()
        assert pq.PQpipelineSync(self.conn) == 1
        deadline, out = time.monotonic() + timeout, []
        while True:
            if pq.PQflush(self.conn) == 1:
                self._poll(select.POLLIN | select.POLLOUT, deadline)
                pq.PQconsumeInput(self.conn)
                continue
            result = self._result(deadline)
            if not result:  # the end of one statement's results
                continue
            status = pq.PQresultStatus(result)
            out.append(_error(result) or _rows(result))
            pq.PQclear(result)
            if status == PIPELINE_SYNC:
                break
        assert pq.PQexitPipelineMode(self.conn) == 1
        pq.PQsetnonblocking(self.conn, 0)
        if isinstance(out[0], PgError):
            raise out[0]
        return out[1:-1]

    # ---- state ----
    def notifications(self, timeout=0):
        """[(channel, payload)] that have arrived; waits up to timeout for the first."""
        deadline, out = time.monotonic() + timeout, []
        while True:
            if not lib().PQconsumeInput(self.conn):
                raise self._connection_error()
            while n := lib().PQnotifies(self.conn):
                out.append((n.contents.relname.decode(), n.contents.extra.decode()))
                lib().PQfreemem(n)
            if out or not self._poll(select.POLLIN, deadline):
                return out

    @property
    def pid(self):
        return lib().PQbackendPID(self.conn)

    @property
    def in_transaction(self):
        return lib().PQtransactionStatus(self.conn) in (2, 3)

    @property
    def alive(self):
        """As far as libpq has noticed."""
        return bool(self.conn) and lib().PQstatus(self.conn) == 0

    def close(self):
        if self.conn:
            lib().PQfinish(self.conn)
        self.conn = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def _arrays(params):
    """values, lengths and formats as PQsendQueryParams wants them"""
    data = [None if p is None else p if isinstance(p, bytes) else str(p).encode() for p in params]
    n = max(1, len(data))
    return ((ctypes.c_char_p * n)(*data), (ctypes.c_int * n)(*(len(d or b"") for d in data)),
            (ctypes.c_int * n)(*(isinstance(p, bytes) for p in params)))


def _error(result):
    status = lib().PQresultStatus(result)
    if status in OK_STATUS + COPYING:
        return None
    if status == PIPELINE_ABORTED:
        return PgError("pipeline aborted by an earlier statement")
    code = lib().PQresultErrorField(result, ord("C"))
    return PgError(lib().PQresultErrorMessage(result).decode(errors="replace").strip(), code and code.decode())


def _rows(result):
    pq, out = lib(), []
    for r in range(pq.PQntuples(result)):
        row = []
        for c in range(pq.PQnfields(result)):
            raw = None if pq.PQgetisnull(result, r, c) else ctypes.string_at(pq.PQgetvalue(result, r, c), pq.PQgetlength(result, r, c))
            row.append(raw if raw is None or pq.PQfformat(result, c) else raw.decode())
        out.append(row)
    return out
