"""What can be wrong with the response store's file, and how long to wait for another process.

Three cases, three reactions: put a damaged file aside, go on without an unusable one, try a busy one again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
BUSY_S = 5.0  # how long SQLite itself waits for another process's lock
_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,  # our statements are fixed: a schema they do not fit is a damaged one
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,
    }
)
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class DamagedError(Exception):
    """The file is not a response store any more: it has to be put aside."""


class BusyError(Exception):
    """Another process holds a lock; the same call may succeed later."""


class UnusableError(Exception):
    """The file cannot be used, through no fault of its content: no room, no permission, somebody else's."""


@contextlib.contextmanager
def sqlite_errors() -> Iterator[None]:
    """SQLite's errors as DamagedError, UnusableError, or BusyError where another process holds a lock."""
    try:
        yield
    except sqlite3.Error as problem:
        code = getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _BUSY:
            raise BusyError(str(problem)) from None
        raise (DamagedError if code in _DAMAGE else UnusableError)(str(problem)) from None
    except OSError as problem:
        raise UnusableError(f"{problem.strerror}: {problem.filename}") from None
    except ValueError as problem:  # bytes that no longer are what they were
        raise DamagedError(str(problem)) from None


def patiently(work: Callable[[], T], wait_s: float = 2 * BUSY_S) -> T:
    """``work()``, repeated while another process holds a lock that SQLite itself does not wait for."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return work()
        except BusyError as problem:
            if time.monotonic() > deadline:
                raise UnusableError(f"{problem} by another process") from None
            time.sleep(0.01)
