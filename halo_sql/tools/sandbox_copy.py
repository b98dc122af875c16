"""Copies of the tables that a sandbox may read: a DuckDB file that has no name any more."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halo_sql.duck import Duck, batches
from halo_sql.errors import EngineError, Error, InterruptedQueryError
from halo_sql.ir.expr import quote
from halo_sql.ir.types import SqlType
from halo_sql.tools.sql_values import holds

_PART = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_ROWS = 122_880  # of a batch: a row group
#: kinds that a text is not cast to; they go as JSON
_BY_JSON = ("union", "variant")
#: kinds that Arrow carries as they are; others go as texts
_CARRIED = frozenset(
    (
        "boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint", "float",
        "double", "decimal", "varchar", "blob", "date", "time", "timestamp", "timestamp_s", "timestamp_ms",
        "timestamp_ns", "timestamp with time zone", "struct", "list",
    )
)  # fmt: skip


class Copies:
    """Tables at one moment.

    descriptor  of the file, for reading: the file ends with its last descriptor, at the latest when this object goes
    tables      the names under which they stand there
    time_zone   of the connection they were read on
    """

    def __init__(self, descriptor: int, tables: tuple[str, ...], time_zone: str) -> None:
        self.descriptor = descriptor
        self.tables = tables
        self.time_zone = time_zone
        self.close = weakref.finalize(self, os.close, descriptor)  # idempotent


def name_parts(name: str) -> tuple[str, ...]:
    """The parts of a table's name as written: ``main."My table"`` -> main, My table. ValueError when it is none."""
    parts = []
    at = 0
    while at == 0 or name[at - 1 : at] == ".":
        found = _PART.match(name, at)
        if found is None:
            break
        parts.append(found[1].replace('""', '"') if found[1] else found[2].strip())
        at = found.end() + 1
    if at != len(name) + 1 or not all(parts):
        raise ValueError(f"{name!r} does not name a table")
    return tuple(parts)


def describe_tables(duck: Duck, names: Sequence[str]) -> str:
    """The tables as a model is told of them: ``orders(id BIGINT, status VARCHAR)``, one a line. Raises as
    ``copy_tables`` does, and runs nothing."""
    lines = []
    for name in names:
        parts, columns = _found(duck, name)
        listed = ", ".join(f"{shown(column)} {kind.text}" for column, kind in columns)
        lines.append(f"{shown(parts[-1])}({listed})")
    return "\n".join(lines)


def shown(name: str) -> str:
    """A name as it is written in SQL: quoted where it must be."""
    return name if _PLAIN.fullmatch(name) else quote(name)


def copy_tables(duck: Duck, names: Sequence[str]) -> Copies:
    """Copy tables or views of a connection as its open transaction sees them; on the connection's own thread.

    A view's query may fail; in an open transaction that ends it. Raises EngineError('unavailable') naming the table.
    """
    folder = Path(tempfile.mkdtemp(prefix="halo-sandbox-"))  # mode 0700
    try:
        path = folder / "copies.db"
        copies = Duck.connect(str(path), False, {})
        try:
            copies.execute("SET force_compression = 'uncompressed'")  # it is read once or twice
            kept = [_copy(duck, copies, name) for name in names]
        finally:
            copies.close()
        zone = str(duck.rows("SELECT current_setting('TimeZone')")[0][0])
        return Copies(os.open(path, os.O_RDONLY | os.O_CLOEXEC), tuple(kept), zone)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the descriptor keeps the file, nothing else does


def _found(duck: Duck, name: str) -> tuple[tuple[str, ...], list[tuple[str, SqlType]]]:
    try:
        parts = name_parts(name)
        return parts, duck.probe(f"SELECT * FROM {'.'.join(map(quote, parts))}")
    except InterruptedQueryError:
        raise
    except (Error, ValueError) as problem:
        raise _unavailable(name, problem) from None


def _copy(duck: Duck, copies: Duck, name: str) -> str:
    parts, columns = _found(duck, name)
    try:
        made = ", ".join(f"{quote(column)} {kind.text}" for column, kind in columns)
        copies.execute(f"CREATE TABLE main.{quote(parts[-1])} ({made})")
        selected = ", ".join(_selected(column, kind) for column, kind in columns)
        reader = duck.stream(f"SELECT {selected} FROM {'.'.join(map(quote, parts))}", batch_rows=_ROWS)
        try:
            if any(holds(kind, *_BY_JSON) for _, kind in columns):
                _insert_by_json(copies, parts[-1], columns, reader)
            else:
                _insert(copies, f"main.{quote(parts[-1])}", reader)
        finally:
            duck.release()
    except InterruptedQueryError:
        raise
    except Error as problem:
        raise _unavailable(name, problem) from None
    return parts[-1]


def _unavailable(name: str, problem: Exception) -> EngineError:
    told = (getattr(problem, "message", "") or str(problem)).splitlines()[0]
    return EngineError(
        f'table "{name}" cannot be given to the tool: {told}',
        code="unavailable",
        remedy="The option tables names tables or views that exist, each last part once.",
    )


def _insert(copies: Duck, table: str, reader: Any) -> None:
    """Fill a table; without a filter or projection, with which DuckDB scans Arrow wrongly in places."""
    import pyarrow

    source = pyarrow.RecordBatchReader.from_batches(reader.schema, batches(reader))
    copies.connection.register("halo_rows", source)
    try:
        copies.execute(f"INSERT INTO {table} FROM halo_rows").fetchall()
    finally:
        copies.connection.unregister("halo_rows")


def _insert_by_json(copies: Duck, table: str, columns: Sequence[tuple[str, SqlType]], reader: Any) -> None:
    made = ", ".join(f"{quote(column)} {kind.text if _carried(kind) else 'VARCHAR'}" for column, kind in columns)
    copies.execute(f"CREATE TEMP TABLE halo_texts ({made})")
    _insert(copies, "temp.halo_texts", reader)
    cast = ", ".join(
        f"CAST({f'CAST({quote(column)} AS JSON)' if holds(kind, *_BY_JSON) else quote(column)} AS {kind.text})"
        for column, kind in columns
    )
    copies.execute(f"INSERT INTO main.{quote(table)} SELECT {cast} FROM temp.halo_texts").fetchall()
    copies.execute("DROP TABLE temp.halo_texts")


def _selected(column: str, kind: SqlType) -> str:
    if _carried(kind):
        return quote(column)
    text = f"to_json({quote(column)})" if holds(kind, *_BY_JSON) else quote(column)
    return f"CAST({text} AS VARCHAR) AS {quote(column)}"


def _carried(kind: SqlType) -> bool:
    return kind.kind in _CARRIED and all(_carried(member) for _, member in kind.fields)
