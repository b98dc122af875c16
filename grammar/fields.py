"""What the system message of LLM_EXTRACT says: the fields of a STRUCT and their types, in words."""

from __future__ import annotations

from collections.abc import Iterator

from halo_sql.ir.types import INTEGER_RANGES, SqlType

_WORDS = {
    "varchar": "text",
    "json": "any JSON value",
    "boolean": "true or false",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "date": "date, YYYY-MM-DD",
    "time": "time of day, hh:mm:ss",
    "timestamp": "date and time, YYYY-MM-DD hh:mm:ss",
    "timestamp_s": "date and time, YYYY-MM-DD hh:mm:ss",
    "timestamp_ms": "date and time, YYYY-MM-DD hh:mm:ss",
    "timestamp_ns": "date and time, YYYY-MM-DD hh:mm:ss",
    "timestamp with time zone": "date and time in UTC, YYYY-MM-DD hh:mm:ss+00",
    "interval": "duration, like 3 days 2 hours",
    "uuid": "UUID",
}


def extract_instructions(sql_type: SqlType) -> str:
    """The fields of the type, one a line, nested ones indented, and the form of the answer."""
    return "\n".join(
        [
            "Extract these fields from the text that the user gives.",
            "Answer with one JSON object and nothing else. A field that the text does not tell is null.",
            "Fields:",
            *_lines(sql_type, "- "),
        ]
    )


def _lines(struct: SqlType, before: str) -> Iterator[str]:
    for name, member in struct.fields:
        yield f"{before}{name}: {_words(member)}"
        inner = member
        while inner.kind in ("list", "array", "map"):
            inner = inner.fields[-1][1]
        if inner.kind == "struct":
            yield from _lines(inner, "  " + before)


def _words(sql_type: SqlType) -> str:
    kind = sql_type.kind
    if kind == "enum":
        return "one of " + ", ".join(sql_type.labels)
    if kind in INTEGER_RANGES:
        return "integer"
    if kind == "list":
        return f"list of: {_words(sql_type.fields[0][1])}"
    if kind == "array":
        return f"list of exactly {sql_type.size}: {_words(sql_type.fields[0][1])}"
    if kind == "map":
        key, value = (member for _, member in sql_type.fields)
        return f"object, its keys: {_words(key)}, its values: {_words(value)}"
    if kind == "struct":
        return "object with the fields below"
    return _WORDS.get(kind, sql_type.text)
