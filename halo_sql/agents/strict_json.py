"""JSON as a model may write it: one value, no member twice, finite numbers, real characters, bounded size and depth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 100


def read_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError with a short reason that does not quote the text."""
    if len(text) > MAX_BYTES or (len(text) > MAX_BYTES // 4 and _size(text) > MAX_BYTES):
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"it is no JSON: {problem.msg} at character {problem.pos + 1}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if not text.isascii() or "\\u" in text:
        try:
            write_json(value).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair") from None
    return value


def write_json(value: Any) -> str:
    """A value as compact JSON text."""
    return _ENCODER.encode(value)


def one_line(text: str, limit: int = 300) -> str:
    """A text without line breaks, cut to ``limit`` characters."""
    line = " ".join(text[: 4 * limit].split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[:limit] + "…"


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > 4000:  # Python's own limit is a little higher and depends on its settings
        raise ValueError("a number is too large")
    return int(text)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        if any(isinstance(node, dict | list) for node in level):
            deepest += 1
        level = inner
    return deepest
