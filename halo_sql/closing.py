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
exiting = threading.Event()  # the interpreter ends: thread pools refuse new work, so a run may fail as it is closed


def watch(owner: object, session: Closable) -> None:
    """Close ``session`` when ``owner`` (which it must not refer to) is garbage, at the latest at exit."""
    _open.add(session)
    weakref.finalize(owner, _close_aside, session.close).atexit = False


def _close_aside(close: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # too late for a new thread: the exit closes it
        threading.Thread(target=close, name="halo-close", daemon=True).start()


def _close_all() -> None:
    exiting.set()
    for session in list(_open):
        with suppress(Exception):  # an exit must not fail because an engine did
            session.close()


atexit.register(_close_all)
