"""Vectors as texts: base64 of little-endian float32, which is what an embedding's answer is."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import sys
from array import array
from collections.abc import Iterable
from typing import Any, NoReturn

_BYTES = 4


def encode_vector(values: Iterable[float]) -> str:
    """The text of a vector. ValueError when it is empty or holds what is no finite float32."""
    numbers = array("f", values)
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError("a vector holds at least one number, and finite ones only")
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def decode_vector(text: str) -> array[float]:
    """The numbers of a vector's text; ValueError when it is none, or holds what is not finite."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a vector is base64 of float32 numbers") from None
    if not data or len(data) % _BYTES:
        raise ValueError(f"a vector of float32 numbers has not {len(data)} bytes")
    numbers = array("f")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a vector holds finite numbers only")
    return numbers


def dimensions_of(text: str) -> int:
    """How many numbers a vector's text holds, by its length alone."""
    return (len(text) * 3 // 4 - text.count("=", -2)) // _BYTES


def read_vector(text: str) -> str | None:
    """The vector that a JSON list of numbers spells; None for any other text."""
    bare = text.strip()
    if not bare.startswith("["):
        return None
    try:
        found: Any = json.loads(bare, parse_constant=_refuse)
        if not all(type(value) in (int, float) for value in found):
            return None
        return encode_vector(found)
    except (ValueError, OverflowError, RecursionError):
        return None


def hashed_vector(text: str, dimensions: int) -> str:
    """A unit vector that depends on nothing but the text."""
    digest = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(_BYTES * dimensions)
    words = [int.from_bytes(digest[at : at + _BYTES], "little") for at in range(0, len(digest), _BYTES)]
    values = [word / 0x7FFFFFFF - 1.0 for word in words]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return encode_vector(value / length for value in values)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
