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
#: kind -> JSON-schema pattern of the text form (constrained decoding enforces it; the cast checks the rest)
TEXT_PATTERNS: dict[str, str] = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "time": r"\d{2}:\d{2}:\d{2}",
    "timestamp": r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}",
    "timestamp_s": r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}",
    "timestamp_ms": r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}",
    "timestamp_ns": r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}",
    "timestamp with time zone": r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\+00",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
FREE_TEXT = frozenset({"varchar", "blob", "bit", "interval", "time with time zone", "json"})


def json_schema(sql_type: SqlType) -> dict[str, Any]:
    """The closed JSON schema of a type's values (one value; NULL is not among them).

    Raises ValueError with the offending type's text for types no model can be held to (UNION, unknown).
    """
    kind = sql_type.kind
    if kind == "boolean":
        return {"type": "boolean"}
    if kind in INTEGER_RANGES:
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
    if kind == "struct":
        return {
            "type": "object",
            "properties": {name: json_schema(member) for name, member in sql_type.fields},
            "required": [name for name, _ in sql_type.fields],
            "additionalProperties": False,
        }
    if kind == "list":
        return {"type": "array", "items": json_schema(sql_type.fields[0][1])}
    if kind == "array":
        items = json_schema(sql_type.fields[0][1])
        return {"type": "array", "items": items, "minItems": sql_type.size, "maxItems": sql_type.size}
    if kind == "map":
        return {"type": "object", "additionalProperties": json_schema(sql_type.fields[1][1])}
    raise ValueError(sql_type.text)


def json_schema_text(sql_type: SqlType) -> str:
    """``json_schema`` as canonical text (part of the response store's key)."""
    return json.dumps(json_schema(sql_type), ensure_ascii=False, separators=(",", ":"))
