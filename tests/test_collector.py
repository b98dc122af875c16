"""The garbage collector while statements are planned."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from halo_sql.collector import collector_waits
from halo_sql.errors import Error
from halo_sql.session import Session


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_it_waits_and_is_on_again_whatever_happens() -> None:
    gc.enable()
    seen: list[bool] = []
    with pytest.raises(ZeroDivisionError), collector_waits():
        seen.append(gc.isenabled() or 1 // 0 == 0)
    assert not seen
    assert gc.isenabled()


def test_off_stays_off() -> None:
    gc.disable()
    with collector_waits():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_one_inside_another_does_not_end_it() -> None:
    gc.enable()
    with collector_waits():
        with collector_waits():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_two_threads_cannot_keep_it_off_by_turns() -> None:
    """Each begins before the other ends; it is on whenever the one that holds it ends."""
    gc.enable()
    begin, end, ended = threading.Event(), threading.Event(), threading.Event()

    def other() -> None:
        with collector_waits():
            begin.set()
            end.wait(60)
        ended.set()

    with ExitStack() as first:
        first.enter_context(collector_waits())
        thread = threading.Thread(target=other)
        thread.start()
        assert begin.wait(60)
        assert not gc.isenabled()
    assert gc.isenabled(), "the second goes on without"
    end.set()
    thread.join(60)
    assert ended.is_set()
    assert gc.isenabled()


def test_garbage_of_before_is_found_behind_it() -> None:
    gc.enable()
    with collector_waits():
        ring = _Ring()
        gone = weakref.ref(ring)
        del ring
        many = [[] for _ in range(5000)]  # more than the collector lets pass
        assert gone() is not None
    more = [[] for _ in range(5000)]
    assert gone() is None
    assert len(many) == len(more)


def test_planning_leaves_it_on() -> None:
    gc.enable()
    session = Session.open(":memory:", False, {"halo_store": "off", "halo_default_model": "echo"})
    try:
        session.compile("SELECT LLM_MAP('a {{ x }}') FROM (SELECT 1 AS x)")
        assert gc.isenabled()
        with pytest.raises(Error):
            session.compile("SELECT LLM_MAP('a {{ y }}') FROM (SELECT 1 AS x)")
        assert gc.isenabled()
    finally:
        session.close()
