"""The parts of a JSON text as they are spelled: numbers keep every digit. Pure functions."""

from __future__ import annotations

import json
import re
from typing import NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def is_json(text: str) -> bool:
    """Whether the text is one JSON value (NaN and Infinity are none)."""
    return value_of(text) is not None


def value_of(text: str) -> tuple[object] | None:
    """The value that the text spells, in a tuple of one; None when it spells none."""
    try:
        value, end = _DECODER.raw_decode(text, _skip(text, 0))
    except (ValueError, RecursionError):
        return None
    return (value,) if _skip(text, end) == len(text) else None


def members(text: str) -> dict[str, str] | None:
    """The members of a JSON object, each value as it is spelled; None when the text is no JSON object."""
    found: dict[str, str] = {}
    try:
        at = _opened(text, "{")
        while text[at] != "}":
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if not isinstance(name, str) or text[at] != ":":
                return None
            start = _skip(text, at + 1)
            _, end = _DECODER.raw_decode(text, start)
            found[name] = text[start:end]
            at = _next(text, end, "}")
    except (ValueError, IndexError, RecursionError):
        return None
    return found if _skip(text, at + 1) == len(text) else None


def elements(text: str) -> list[str] | None:
    """The elements of a JSON list, each as it is spelled; None when the text is no JSON list."""
    found: list[str] = []
    try:
        at = _opened(text, "[")
        while text[at] != "]":
            _, end = _DECODER.raw_decode(text, at)
            found.append(text[at:end])
            at = _next(text, end, "]")
    except (ValueError, IndexError, RecursionError):
        return None
    return found if _skip(text, at + 1) == len(text) else None


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _opened(text: str, bracket: str) -> int:
    at = _skip(text, 0)
    if text[at] != bracket:
        raise ValueError(bracket)
    return _skip(text, at + 1)


def _next(text: str, end: int, bracket: str) -> int:
    """Where the next part begins, or the closing bracket stands."""
    at = _skip(text, end)
    if text[at] == bracket:
        return at
    if text[at] != ",":
        raise ValueError(bracket)
    at = _skip(text, at + 1)
    if text[at] == bracket:
        raise ValueError(bracket)
    return at
