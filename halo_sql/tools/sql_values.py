"""Values between JSON and SQL with every digit: arguments out of a JSON object, results as JSON text.

DuckDB's own ``->>`` and ``to_json`` take numbers through a DOUBLE in places: DECIMAL(18, 2) and the numbers inside a
JSON value lose digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import count

from halo_sql.ir.expr import literal, quote
from halo_sql.ir.types import SqlType

_NESTED = ("struct", "list", "array", "map", "union", "variant")
_NOT_FINITE = re.compile(r'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)')
_SPELLED = {"NaN": '"nan"', "-NaN": '"nan"', "Infinity": '"inf"', "-Infinity": '"-inf"'}
_SPACE = " \t\n\r"


def finite_json(text: str) -> str:
    """DuckDB's JSON with the floats that JSON lacks as the texts ``"nan"``, ``"inf"``, ``"-inf"``, which DuckDB casts
    back."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return _NOT_FINITE.sub(lambda found: _SPELLED.get(found[0], found[0]), text)


def holds(sql_type: SqlType, *kinds: str) -> bool:
    """Whether a type, or one inside it, is of these kinds."""
    return sql_type.kind in kinds or any(holds(member, *kinds) for _, member in sql_type.fields)


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as it is written. ValueError when the text is no object."""
    decoder = json.JSONDecoder()
    found: dict[str, str] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("the arguments are no JSON object")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        if found:
            at = _skip(text, _expect(text, at, ","))
        _expect(text, at, '"')
        name, at = decoder.raw_decode(text, at)
        start = _skip(text, _expect(text, _skip(text, at), ":"))
        _, at = decoder.raw_decode(text, start)
        found[name] = text[start:at]
        at = _skip(text, at)
    if _skip(text, at + 1) != len(text):
        raise ValueError("something follows the arguments")
    return found


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"{character} expected at {at}")
    return at + 1


def bound(arguments: str, parameters: Sequence[tuple[str, SqlType]]) -> list[str | None]:
    """What a call binds: a text for each argument, None for null; ``typed`` reads it. ValueError when the text is no
    object, or holds what is no Unicode."""
    given: Mapping[str, str] = members(arguments)
    return [_text(given.get(name, "null"), kind) for name, kind in parameters]


def _text(written: str, kind: SqlType) -> str | None:
    if written == "null":
        return None
    if kind.kind == "json" or kind.kind in _NESTED or not written.startswith('"'):
        return written
    value: str = json.loads(written)
    value.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
    return value


def typed(text: str, kind: SqlType) -> str:
    """The expression of the value that ``bound`` made a text (an expression of type VARCHAR)."""
    return f"CAST(CAST({text} AS JSON) AS {kind.text})" if kind.kind in _NESTED else f"CAST({text} AS {kind.text})"


def spelled(value: str, kind: SqlType) -> str:
    """The expression of a value's JSON text (VARCHAR; SQL NULL for NULL); ``value`` is an expression of that type."""
    return _spelled(value, kind, count())


def row(values: Sequence[tuple[str, str, SqlType]]) -> str:
    """The expression of a JSON object's text with these members: name, expression, type."""
    names = count()
    parts = [(name, f"coalesce({_spelled(value, kind, names)}, 'null')") for name, value, kind in values]
    return _object(parts)


def _object(parts: Sequence[tuple[str, str]]) -> str:
    texts = []
    for place, (name, part) in enumerate(parts):
        head = ("{" if place == 0 else ",") + json.dumps(name, ensure_ascii=False) + ":"
        texts.append(f"{literal(head)} || {part}")
    return "(" + " || ".join([*texts, "'}'"]) + ")"


def _spelled(value: str, kind: SqlType, names: count[int]) -> str:
    if kind.kind in ("decimal", "json"):
        return f"CAST({value} AS VARCHAR)"
    if not holds(kind, "decimal", "json") or kind.kind == "union":
        return f"CAST(to_json({value}) AS VARCHAR)"
    item = f"halo_item_{next(names)}"
    if kind.kind == "struct":
        parts = [
            (name, f"coalesce({_spelled(f'{value}.{quote(name)}', member, names)}, 'null')")
            for name, member in kind.fields
        ]
        text = _object(parts)
    elif kind.kind == "map":
        key = f"CAST(to_json(CAST({item}.key AS VARCHAR)) AS VARCHAR)"
        part = f"coalesce({_spelled(f'{item}.value', kind.fields[1][1], names)}, 'null')"
        entries = _joined(f"map_entries({value})", item, f"{key} || ':' || {part}")
        text = f"'{{' || {entries} || '}}'"
    else:
        part = f"coalesce({_spelled(item, kind.fields[0][1], names)}, 'null')"
        text = f"'[' || {_joined(value, item, part)} || ']'"
    return f"CASE WHEN {value} IS NOT NULL THEN {text} END"


def _joined(items: str, item: str, part: str) -> str:
    return f"coalesce(array_to_string(list_transform({items}, lambda {item}: {part}), ','), '')"
