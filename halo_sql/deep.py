"""Deep statements: what recurses once per nesting level runs on a long stack when the ordinary one is too short."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from halo_sql.errors import NotSupportedError

STACK_BYTES = 512 * 1024 * 1024  # address space; memory only as far as it is used
FRAMES = 60_000  # fifty for each of a thousand levels

Result = TypeVar("Result")
_one = threading.Lock()  # the limits below are the interpreter's


def deep(work: Callable[[], Result], at_once: bool = False) -> Result:
    """``work()``; once more with a long stack when it recursed too deep. So it must be safe to begin it again.
    ``at_once``: the long stack will be needed, and is taken from the start.

    Raises NotSupportedError when even that does not do, and whatever ``work`` raises.
    """
    if not at_once:
        with suppress(RecursionError):
            return work()
    outcome: list[Result] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except RecursionError:
            problems.append(
                NotSupportedError(
                    "the statement is nested too deep",
                    remedy="Use common table expressions, one below the other.",
                )
            )
        except BaseException as problem:
            problems.append(problem)

    with _one:
        frames, stack = sys.getrecursionlimit(), threading.stack_size(STACK_BYTES)
        try:
            sys.setrecursionlimit(max(frames, FRAMES))
            thread = threading.Thread(target=run, name="halo-deep")
            thread.start()
            threading.stack_size(stack)
            thread.join()
        finally:
            threading.stack_size(stack)
            sys.setrecursionlimit(frames)
    if problems:
        raise problems[0]
    return outcome[0]
