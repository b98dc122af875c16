"""The Arrow types of the batches between operators: those DuckDB exports, by SQL type."""

from __future__ import annotations

import re
from typing import Any

from halo_sql.ir.types import SqlType

_CARRIED_AS_TEXT = frozenset({"bit", "bignum", "time with time zone", "uhugeint"})
_PARAMETERS = re.compile(r"\((\d+),\s*(\d+)\)")


def carried_as_text(sql_type: SqlType) -> bool:
    """Whether batches hold the values as DuckDB's text: types (or parts) that its Arrow export does not keep.

    BIT and TIME WITH TIME ZONE come back changed, UHUGEINT overflows decimal128, BIGNUM has no Arrow type. A spool
    casts the text back. Arrays of ENUM (or of what has one inside) are exported and not read again.
    """
    if sql_type.kind == "array" and _has_enum(sql_type):
        return True
    return sql_type.kind in _CARRIED_AS_TEXT or any(carried_as_text(member) for _, member in sql_type.fields)


def _has_enum(sql_type: SqlType) -> bool:
    return sql_type.kind == "enum" or any(_has_enum(member) for _, member in sql_type.fields)


def precision_and_scale(sql_type: SqlType) -> tuple[int, int]:
    """Of a DECIMAL type."""
    found = _PARAMETERS.search(sql_type.text)
    return (int(found[1]), int(found[2])) if found else (18, 3)


def arrow_type(sql_type: SqlType, time_zone: str = "UTC") -> Any:
    """The pyarrow DataType of a column; ENUM values are plain strings. ValueError for types that have none."""
    import pyarrow as pa

    kind = sql_type.kind
    if carried_as_text(sql_type):
        return pa.string()
    if kind == "decimal":
        return pa.decimal128(*precision_and_scale(sql_type))
    if kind == "timestamp with time zone":
        return pa.timestamp("us", time_zone)
    if kind == "struct":
        return pa.struct([pa.field(name, arrow_type(member, time_zone)) for name, member in sql_type.fields])
    if kind == "list":
        return pa.list_(pa.field("l", arrow_type(sql_type.fields[0][1], time_zone)))
    if kind == "array":
        return pa.list_(pa.field("", arrow_type(sql_type.fields[0][1], time_zone)), sql_type.size)
    if kind == "map":
        key, value = (arrow_type(member, time_zone) for _, member in sql_type.fields)
        return pa.map_(key, value)
    simple = {
        "varchar": pa.string(), "json": pa.string(), "uuid": pa.string(), "enum": pa.string(),
        "boolean": pa.bool_(), "blob": pa.binary(),
        "tinyint": pa.int8(), "smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64(),
        "utinyint": pa.uint8(), "usmallint": pa.uint16(), "uinteger": pa.uint32(), "ubigint": pa.uint64(),
        "hugeint": pa.decimal128(38, 0), "float": pa.float32(), "double": pa.float64(),
        "date": pa.date32(), "time": pa.time64("us"), "time_ns": pa.time64("ns"),
        "timestamp": pa.timestamp("us"), "timestamp_s": pa.timestamp("s"),
        "timestamp_ms": pa.timestamp("ms"), "timestamp_ns": pa.timestamp("ns"),
        "interval": pa.month_day_nano_interval(),
    }  # fmt: skip
    if kind not in simple:
        raise ValueError(sql_type.text)
    return simple[kind]
