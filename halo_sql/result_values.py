"""Arrow batches to what DuckDB's own fetch methods give for the same types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from halo_sql.duck import Duck
from halo_sql.ir.expr import quote
from halo_sql.ir.types import SqlType

Value = TypeVar("Value")
Columns = Sequence[tuple[str, SqlType]]

#: Kinds whose Arrow values are DuckDB's Python values already.
DIRECT = frozenset(
    (
        *("boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint"),
        *("float", "double", "varchar", "decimal", "blob", "enum", "json"),
    )
)


class Converter:
    """A private DuckDB that turns Arrow batches into what DuckDB would have given for these types."""

    def __init__(self) -> None:
        self.duck = Duck.private()

    def run(self, columns: Columns, batches: Iterable[Any], read: Callable[[Any], Value]) -> Value:
        """``read`` applied to DuckDB's result over the batches, under the display names."""
        items = ", ".join(f"{_position(place)} AS {quote(name)}" for place, (name, _) in enumerate(columns))
        return self._read(columns, batches, items, read)

    def select(self, columns: Columns, batches: Iterable[Any], items: str) -> list[tuple[Any, ...]]:
        """The rows of ``SELECT items`` over the batches, whose columns are named v0, v1, …"""
        rows: list[tuple[Any, ...]] = self._read(columns, batches, items, lambda result: result.fetchall())
        return rows

    def _read(self, columns: Columns, batches: Iterable[Any], items: str, read: Callable[[Any], Value]) -> Value:
        self._load(columns, iter(batches))
        try:
            return read(self.duck.execute(f"SELECT {items} FROM halo_rows"))
        finally:
            self.duck.drop("halo_rows")

    def _load(self, columns: Columns, batches: Iterator[Any]) -> None:
        import pyarrow

        names = [_position(place) for place in range(len(columns))]
        typed = [(name, kind) for name, (_, kind) in zip(names, columns, strict=True)]
        first = next(batches, None)
        if first is None:
            body = ", ".join(f"{name} {kind.text}" for name, kind in typed)
            self.duck.execute(f"CREATE TEMP TABLE halo_rows ({body})")
            return
        zone = next((found for kind in first.schema.types if (found := time_zone_of(kind))), None)
        if zone is not None:
            self.duck.execute("SET TimeZone = ?", [zone])
        fields = [field.with_name(name) for name, field in zip(names, first.schema, strict=True)]  # with their metadata
        schema = pyarrow.schema(fields)

        def renamed() -> Iterator[Any]:
            batch = first
            while batch is not None:
                yield pyarrow.RecordBatch.from_arrays(batch.columns, schema=schema)
                batch = next(batches, None)

        self.duck.spool("halo_rows", typed, renamed(), schema)


def empty_schema(columns: Columns) -> Any:
    """The Arrow schema of these types (names are positions)."""
    body = ", ".join(f"{_position(place)} {kind.text}" for place, (_, kind) in enumerate(columns))
    duck = Duck.private()
    try:
        duck.execute(f"CREATE TEMP TABLE halo_rows ({body})")
        return duck.stream("FROM halo_rows").schema
    finally:
        duck.close()


def _position(place: int) -> str:
    return f"v{place}"


def time_zone_of(kind: Any) -> str | None:
    """The zone of the first TIMESTAMP WITH TIME ZONE inside an Arrow type."""
    zone = getattr(kind, "tz", None)
    if zone is not None:
        return str(zone)
    fields = [kind.field(place) for place in range(kind.num_fields)]
    return next((found for field in fields if (found := time_zone_of(field.type))), None)
