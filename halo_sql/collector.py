"""Python's garbage collector waits while a statement is planned.

Planning makes tens of thousands of objects that live until it ends. The collector would look through them again and
again: an eighth of the time that a statement of a hundred calls takes. What is garbage is found right behind it.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_one = threading.Lock()


@contextmanager
def collector_waits() -> Iterator[None]:
    """No collection within, in any thread, unless one is asked for. Where several threads plan, the collector waits for
    one of them and is on when that is done: they cannot keep it off by turns. Where it is off already it stays so."""
    if not gc.isenabled() or not _one.acquire(blocking=False):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        _one.release()
