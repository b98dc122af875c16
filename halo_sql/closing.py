"""Connections that nobody closes: their engines, threads and DuckDB handles end all the same.

At the interpreter's exit every open session is closed while that is still possible (DuckDB complains loudly about
connections that outlive it). A connection that is garbage is closed by a thread of its own: the collector may run
on the event loop, which a close has to wait for.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol


class Closable(Protocol):
    """A session."""

    def close(self) -> None:
        """End everything; idempotent."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_closers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
CLOSE_S = 15.0  # how long the exit waits for each
exiting = threading.Event()  # the interpreter ends: thread pools refuse new work, so a run may fail as it is closed


def watch(owner: object, session: Closable) -> None:
    """Close ``session`` when ``owner`` (which it must not refer to) is garbage, at the latest at exit."""
    _open.add(session)
    weakref.finalize(owner, _close_aside, session.close).atexit = False


def _close_aside(close: Callable[[], None]) -> None:
    thread = threading.Thread(target=close, name="halo-close", daemon=True)
    with suppress(RuntimeError):  # too late for a new thread: the exit closes it
        thread.start()
        _closers.add(thread)


def _close_all() -> None:
    exiting.set()
    for thread in list(_closers):  # a thread inside DuckDB must not be there when the interpreter goes
        thread.join(CLOSE_S)
    for session in list(_open):
        with suppress(Exception):  # an exit must not fail because an engine did
            session.close()


atexit.register(_close_all)
