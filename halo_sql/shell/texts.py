"""Result values as the text DuckDB would print, in chunks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from halo_sql.ir.expr import quote
from halo_sql.ir.types import INTEGER_RANGES, SqlType
from halo_sql.result import Result

CHUNK_ROWS = 2048
Text = str | None  # None: NULL
Texts = list[Text]

NUMBERS = frozenset({*INTEGER_RANGES, "float", "double", "decimal"})
_NESTED = frozenset({"list", "array", "struct", "map", "union", "json", "variant"})


def _decimal(value: Any) -> str:
    return format(value, "f")


def _boolean(value: Any) -> str:
    return "true" if value else "false"


#: Kinds whose Python values are printed without DuckDB's help (and without loading pyarrow).
_PRINTERS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(INTEGER_RANGES, str),
    **dict.fromkeys(("varchar", "enum", "uuid", "double"), str),
    "decimal": _decimal,
    "boolean": _boolean,
}


def chunks(result: Result, as_json: bool = False) -> Iterator[list[Texts]]:
    """The remaining rows, values as DuckDB's CAST to VARCHAR gives them; ``as_json``: nested values as JSON texts."""
    columns = result.columns or ()
    printers = [_PRINTERS.get(kind.kind) for _, kind in columns]
    if all(printer is not None for printer in printers):
        while rows := result.fetchmany(CHUNK_ROWS):
            yield [
                [
                    None if value is None else printer(value)
                    for value, printer in zip(row, printers, strict=True)
                    if printer is not None
                ]
                for row in rows
            ]
        return
    yield from _by_duckdb(result, columns, as_json)


def _by_duckdb(result: Result, columns: tuple[tuple[str, SqlType], ...], as_json: bool) -> Iterator[list[Texts]]:
    """Through an in-memory DuckDB that casts the Arrow batches."""
    from halo_sql.result_values import Converter

    names = [f"v{place}" for place in range(len(columns))]
    items = ", ".join(
        f"to_json({quote(name)})::VARCHAR" if as_json and kind.kind in _NESTED else f"{quote(name)}::VARCHAR"
        for name, (_, kind) in zip(names, columns, strict=True)
    )
    typed = [(name, kind) for name, (_, kind) in zip(names, columns, strict=True)]
    converter = Converter()
    try:
        for batch in result.reader(CHUNK_ROWS):
            rows = converter.select(typed, [batch], items)
            yield [list(row) for row in rows]
    finally:
        converter.duck.close()


def json_value(text: Text, kind: SqlType) -> str:
    """A value (its text as ``chunks(as_json=True)`` gave it) in JSON."""
    import json

    if text is None:
        return "null"
    if kind.kind in NUMBERS:
        return "null" if text.lower().lstrip("-") in ("nan", "inf", "infinity") else text
    if kind.kind == "boolean" or kind.kind in _NESTED:
        return text
    return json.dumps(text, ensure_ascii=False)
