import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from orchestra import STORE, Orchestra  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "sqlite(why): about SQLite's files; left out with ORCHESTRA_TEST_STORE=postgres")


    failed = os.environ.get("ORCHESTRA_TEST_FAILED")
    if failed and not hasattr(config, "workerinput"):  # xdist: told by the one that hears of all
        config.pluginmanager.register(Failures(failed))


class Failures:
    """Writes the names of the tests that failed, for run.py."""

    def __init__(self, path):
        self.file = open(path, "w")

    def pytest_runtest_logreport(self, report):
        if report.failed:
            print(report.nodeid, file=self.file, flush=True)


def pytest_collection_modifyitems(items):
    for item in items:
        mark = STORE != "sqlite" and item.get_closest_marker("sqlite")
        if mark:
            item.add_marker(pytest.mark.skip(reason=mark.args[0] if mark.args else "about SQLite's files"))


@pytest.fixture
def daemon():
    """A daemon of its own for tests that break it."""
    with Orchestra() as o:
        yield o


@pytest.fixture
def make():
    """Makes daemons with settings: make(sets=[…]); all are stopped afterwards."""
    made = []

    def factory(**kw):
        made.append(Orchestra(**kw))
        return made[-1]
    yield factory
    for o in made:
        o.cleanup()


@pytest.fixture(scope="module")
def shared():
    """One daemon for a whole file, for tests that only use it (each in a namespace of its own)."""
    with Orchestra() as o:
        yield o


_ns = 0


@pytest.fixture
def ns():
    global _ns
    _ns += 1
    return f"t{os.getpid()}-{_ns}"
