"""Texts with ``{{ argument }}`` holes, and the arguments that go into them.

Argument values stay in the spelling of the JSON text they came in: 1.10 is sent as 1.10.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from halo_sql.errors import CatalogError, EngineError, did_you_mean

_HOLE = re.compile(r"\{\{\s*(?:\"([^\"]+)\"|(\w+))\s*\}\}")
_BLANKS = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Hole:
    """A hole: the argument's name in lower case, the key of ``Arguments``."""

    name: str


Piece = str | Hole
Arguments = Mapping[str, str]  # lower-case name -> its JSON text


def parse_holes(text: str, names: Collection[str], what: str) -> tuple[Piece, ...]:
    """Static texts and holes; ``{{{{`` is a literal ``{{``. CatalogError for a hole that names no argument.

    names  of the arguments
    what   the text as errors name it
    """
    known = {name.lower() for name in names}
    pieces: list[Piece] = []
    static, at = "", 0
    while (opening := text.find("{{", at)) >= 0:
        static += text[at:opening]
        if text.startswith("{{{{", opening):
            static, at = static + "{{", opening + 4
            continue
        hole = _HOLE.match(text, opening)
        if hole is None:
            raise CatalogError(
                f"a hole of {what} holds no name of an argument",
                remedy="Write {{ name }}, and {{{{ for a literal {{.",
            )
        name = hole[1] or hole[2]
        if name.lower() not in known:
            raise CatalogError(
                f'a hole of {what} names the argument "{name}", which does not exist',
                remedy=did_you_mean(name, list(names)) or "There are no arguments.",
            )
        pieces += [static] if static else []
        pieces.append(Hole(name.lower()))
        static, at = "", hole.end()
    static += text[at:]
    return (*pieces, static) if static else tuple(pieces)


def split_pieces(pieces: Sequence[Piece], at: str) -> list[list[Piece]]:
    """Parts between separators of the static text."""
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        if isinstance(piece, Hole):
            parts[-1].append(piece)
            continue
        head, *tails = piece.split(at)
        if head:
            parts[-1].append(head)
        parts += [[tail] if tail else [] for tail in tails]
    return parts


def read_arguments(text: str) -> dict[str, str]:
    """The members of a JSON object: lower-case name -> JSON text as spelled, without blanks between its tokens.

    EngineError 'rejected' when the text is no JSON object (NaN and Infinity are no JSON).
    """
    found: dict[str, str] = {}
    try:
        at = _skip(text, 0)
        if text[at] != "{":
            raise ValueError
        at = _skip(text, at + 1)
        while text[at] != "}":
            if text[at] != '"':
                raise ValueError
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if text[at] != ":":
                raise ValueError
            start = _skip(text, at + 1)
            value, at = _DECODER.raw_decode(text, start)
            spelled = text[start:at]
            found[name.lower()] = _compact(spelled) if isinstance(value, dict | list) else spelled
            at = _skip(text, at)
            if text[at] == ",":
                at = _skip(text, at + 1)
                if text[at] != '"':
                    raise ValueError
            elif text[at] != "}":
                raise ValueError
        if _skip(text, at + 1) != len(text):
            raise ValueError
    except (ValueError, IndexError, RecursionError):
        raise EngineError("the arguments are no JSON object", code="rejected") from None
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_not_json)


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()


def _compact(text: str) -> str:
    return _BETWEEN.sub(lambda found: found[1] or "", text)


def text_of(value: str) -> str | None:
    """The text form of a JSON text: a string's content, null is None, anything else as spelled."""
    if value.startswith('"'):
        content: str = json.loads(value)
        return content
    return None if value == "null" else value


def text_argument(arguments: Arguments, hole: Hole, where: str) -> str:
    """The text form of an argument that must not be NULL; EngineError 'rejected' when it is."""
    text = text_of(arguments[hole.name])
    if text is None:
        raise EngineError(
            f'argument "{hole.name}" is NULL, which {where} cannot hold',
            code="rejected",
            remedy="Give a value, for example with COALESCE.",
        )
    check_unicode(text, hole.name)
    return text


def check_unicode(text: str, name: str) -> None:
    """EngineError 'rejected' for half of a surrogate pair: no encoding can hold it."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise EngineError(f'argument "{name}" is no valid Unicode text', code="rejected")


def is_dropped(pieces: Sequence[Piece], arguments: Arguments) -> bool:
    """Whether a hole that is the whole value is NULL: then what it is the value of is left out.

    The pieces are a value's alone, or ``name=`` and the value.
    """
    *before, last = pieces
    whole = not before or (len(before) == 1 and isinstance(before[0], str) and before[0].endswith("="))
    return whole and isinstance(last, Hole) and arguments[last.name] == "null"
