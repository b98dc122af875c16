"""What a function can do to its caller, for the tests of tools that fail; light enough to be imported by a child."""

from __future__ import annotations

import gc
import math
import sys
from typing import Any

#: what a function does -> what its error says; None: it succeeds
DEEDS: dict[str, str | None] = {
    "ok": None,
    "null": None,
    "raises": "ValueError: no such order",
    "raises nothing said": "KeyError",
    "exits": "SystemExit",
    "interrupts": "KeyboardInterrupt",
    "stops": "StopIteration",
    "recurses": "RecursionError",
    "bad str": "RudeError",
    "wrong type": "wrong value",
    "an object": "wrong value",
    "nan": "wrong value",
    "too large a number": "wrong value",
    "too much": "wrong value",
    "hangs": "timeout_s = 1",
}


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def recurse() -> Any:
    return recurse()


def deed(what: str) -> Any:
    """Do it."""
    if what == "ok":
        return 7
    if what == "null":
        return None
    if what == "raises":
        raise ValueError("no such\norder")
    if what == "raises nothing said":
        raise KeyError
    if what == "exits":
        sys.exit(3)
    if what == "interrupts":
        raise KeyboardInterrupt
    if what == "stops":
        raise StopIteration
    if what == "recurses":
        gc.disable()  # a finalizer that runs at the bottom could only fail, and pytest reports that
        try:
            return recurse()
        finally:
            gc.enable()
    if what == "bad str":
        raise RudeError
    if what == "too much":
        return int("9" * 3000)
    return {"wrong type": "seven", "an object": object(), "nan": math.nan, "too large a number": 2**70}[what]
