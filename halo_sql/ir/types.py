"""SQL types as frozen trees, and the JSON schema that constrains a model's answer to one.

The canonical text is DuckDB's spelling; ``halo_sql.duck`` builds the tree from DuckDB's own type parser.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SqlType:
    """A DuckDB type.

    text    canonical spelling, e.g. ``STRUCT(a VARCHAR, b DOUBLE[])``
    kind    lower-case id without parameters: ``varchar integer decimal struct list array map enum …``
    fields  struct: its members; list and array: one member named ''; map: members 'key' and 'value'
    labels  enum: its values in order
    size    array: its length, else 0
    """

    text: str
    kind: str
    fields: tuple[tuple[str, SqlType], ...] = ()
    labels: tuple[str, ...] = ()
    size: int = 0

    def __str__(self) -> str:
        return self.text


VARCHAR = SqlType("VARCHAR", "varchar")
BOOLEAN = SqlType("BOOLEAN", "boolean")
DOUBLE = SqlType("DOUBLE", "double")
BIGINT = SqlType("BIGINT", "bigint")
FLOAT = SqlType("FLOAT", "float")
VARCHAR_LIST = SqlType("VARCHAR[]", "list", (("", VARCHAR),))

INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "tinyint": (-(2**7), 2**7 - 1),
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
    "hugeint": (-(2**127), 2**127 - 1),
    "utinyint": (0, 2**8 - 1),
    "usmallint": (0, 2**16 - 1),
    "uinteger": (0, 2**32 - 1),
    "ubigint": (0, 2**64 - 1),
    "uhugeint": (0, 2**128 - 1),
}
_DAY = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d"
#: kind -> JSON-schema pattern of the text form (constrained decoding enforces it; the cast checks the rest)
TEXT_PATTERNS: dict[str, str] = {
    "date": _DAY,
    "time": _CLOCK,
    "time_ns": _CLOCK,
    "time with time zone": _CLOCK + r"[+-](0\d|1[0-4])",
    "timestamp": f"{_DAY} {_CLOCK}",
    "timestamp_s": f"{_DAY} {_CLOCK}",
    "timestamp_ms": f"{_DAY} {_CLOCK}",
    "timestamp_ns": f"{_DAY} {_CLOCK}",
    "timestamp with time zone": rf"{_DAY} {_CLOCK}\+00",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "bit": r"[01]+",
}
FREE_TEXT = frozenset({"varchar", "blob", "interval"})
MAX_SCHEMA_BYTES = 64 << 10
MAX_TYPE_DEPTH = 32  # levels of nesting; what engines compile in bounded time
_SCHEMA_INTEGER = 2**63 - 1  # decoders refuse larger bounds
_WHOLE_NUMBER = r"-?\d+"


def json_schema(sql_type: SqlType, optional: bool = False) -> dict[str, Any]:
    """The closed JSON schema of a type's values (one value; NULL is not among them).

    optional  members of structs may be null: what a text does not say

    Raises ValueError with a reason (and, on a second line, a remedy) for types no model can be held to.
    """
    kind = sql_type.kind
    if kind == "boolean":
        return {"type": "boolean"}
    if kind in INTEGER_RANGES:
        return _integer_schema(*INTEGER_RANGES[kind])
    if kind == "bignum":
        return {"type": "integer"}
    if kind in ("float", "double", "decimal"):
        return {"type": "number"}
    if kind in TEXT_PATTERNS:
        return {"type": "string", "pattern": f"^{TEXT_PATTERNS[kind]}$"}
    if kind == "enum":
        return {"type": "string", "enum": list(sql_type.labels)}
    if kind == "json":
        return {}
    if kind in FREE_TEXT:
        return {"type": "string"}
    if kind == "struct" and all(name for name, _ in sql_type.fields):
        members = {name: json_schema(member, optional) for name, member in sql_type.fields}
        return {
            "type": "object",
            "properties": {name: _or_null(member) if optional else member for name, member in members.items()},
            "required": list(members),
            "additionalProperties": False,
        }
    if kind in ("list", "array"):
        items = json_schema(sql_type.fields[0][1], optional)
        size = {"minItems": sql_type.size, "maxItems": sql_type.size} if kind == "array" else {}
        return {"type": "array", "items": items, **size}
    if kind == "map":
        (_, key), (_, value) = sql_type.fields
        return {"type": "object", **_key_schema(key), "additionalProperties": json_schema(value, optional)}
    raise ValueError(f"a model cannot be held to the type {sql_type.text}\n{_INSTEAD.get(kind, '')}".rstrip())


_INSTEAD = {
    "union": "Use a STRUCT with a field for each member.",
    "struct": "Give every field of the STRUCT a name.",
    "variant": "Use JSON.",
}


def _integer_schema(low: int, high: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    if low >= -_SCHEMA_INTEGER - 1:
        schema["minimum"] = low
    if high <= _SCHEMA_INTEGER:
        schema["maximum"] = high
    return schema


def _key_schema(key: SqlType) -> dict[str, Any]:
    """JSON's keys are texts: the forms of other types as patterns."""
    kind = key.kind
    if kind == "enum":
        return {"propertyNames": {"type": "string", "enum": list(key.labels)}}
    pattern = _WHOLE_NUMBER if kind in INTEGER_RANGES else TEXT_PATTERNS.get(kind)
    return {} if pattern is None else {"propertyNames": {"type": "string", "pattern": f"^{pattern}$"}}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema:
        return schema  # any JSON value: null is one
    widened = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        widened["enum"] = [*schema["enum"], None]
    return widened


def json_schema_text(sql_type: SqlType, optional: bool = False) -> str:
    """``json_schema`` as canonical text (part of the response store's key)."""
    return json.dumps(json_schema(sql_type, optional), ensure_ascii=False, separators=(",", ":"))


def check_schema(sql_type: SqlType) -> None:
    """ValueError (reason, remedy on a second line) for a type no model can be held to, or one that is too large."""
    if (depth := _depth(sql_type)) > MAX_TYPE_DEPTH:
        raise ValueError(
            f"the type is nested {depth} levels deep, more than {MAX_TYPE_DEPTH}\nUse JSON for a part of it."
        )
    size = len(json_schema_text(sql_type, optional=True).encode())
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(
            f"the type's JSON schema has {size} bytes, more than {MAX_SCHEMA_BYTES}\nUse fewer fields or labels."
        )


def _depth(sql_type: SqlType) -> int:
    deepest, level = 0, [sql_type]
    while level:
        level = [member for node in level for _, member in node.fields]
        deepest += 1
    return deepest - 1
