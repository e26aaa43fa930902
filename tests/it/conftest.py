import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from orchestra import STORE, Orchestra  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "sqlite(why): about SQLite's files; left out with ORCHESTRA_TEST_STORE=postgres")


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
