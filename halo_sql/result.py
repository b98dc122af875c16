"""Results: what a statement leaves behind to fetch from.

``DuckResult`` is a plain statement's result, still held by DuckDB's connection; ``BatchResult`` is the stream
of an LLM query. Both give the same Python values, Arrow data and descriptions for the same types.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import duckdb

from halo_sql.duck import BATCH_ROWS, type_tree
from halo_sql.duck import batches as reader_batches
from halo_sql.duck_errors import convert_error
from halo_sql.errors import Error, InterruptedQueryError, ProgrammingError
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import SqlType
from halo_sql.result_values import DIRECT, Converter, empty_schema

Row = tuple[Any, ...]
Description = list[tuple[Any, ...]]
Value = TypeVar("Value")


class Result(Protocol):
    """The result of one statement. Rows are handed out once, by whichever method asks first.

    Every method raises ProgrammingError once the result is closed, and the query's own errors as they arrive.
    """

    @property
    def columns(self) -> tuple[tuple[str, SqlType], ...] | None:
        """Names and types; None when the statement has no result set."""
        ...

    @property
    def description(self) -> Description | None:
        """PEP 249: a 7-tuple (name, type, None × 5) per column; None without a result set."""
        ...

    @property
    def rowcount(self) -> int:
        """Rows changed by an INSERT, UPDATE, DELETE, COPY …; -1 when that means nothing."""
        ...

    def fetchone(self) -> Row | None:
        """The next row, None at the end."""
        ...

    def fetchmany(self, size: int) -> list[Row]:
        """At most ``size`` rows."""
        ...

    def fetchall(self) -> list[Row]:
        """The remaining rows."""
        ...

    def reader(self, batch_rows: int = BATCH_ROWS) -> Any:
        """The remaining rows as a pyarrow.RecordBatchReader of batches of at most ``batch_rows``."""
        ...

    def table(self) -> Any:
        """The remaining rows as a pyarrow.Table."""
        ...

    def df(self) -> Any:
        """The remaining rows as a pandas DataFrame."""
        ...

    def numpy(self) -> Any:
        """The remaining rows as a dict of NumPy arrays by column name."""
        ...

    def pl(self) -> Any:
        """The remaining rows as a polars DataFrame."""
        ...

    def close(self) -> None:
        """Let go of the rows and of what produces them; idempotent."""
        ...


class DuckResult:
    """A result that DuckDB's connection holds: valid until the connection runs something else."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._reader: Any = None
        self._closed = False
        # Read now: a later statement on the connection would answer for itself.
        self._description: Description | None = None if connection is None else connection.description
        self._rowcount: int = -1 if connection is None else connection.rowcount

    @property
    def columns(self) -> tuple[tuple[str, SqlType], ...] | None:
        """Names and types; None when the statement has no result set."""
        if self._description is None:
            return None
        return tuple((item[0], type_tree(item[1])) for item in self._description)

    @property
    def description(self) -> Description | None:
        """DuckDB's own description."""
        return self._description

    @property
    def rowcount(self) -> int:
        """Rows changed, -1 when that means nothing."""
        return self._rowcount

    def fetchone(self) -> Row | None:
        """The next row, None at the end."""
        row: Row | None = self._call(self._open.fetchone)
        return row

    def fetchmany(self, size: int) -> list[Row]:
        """At most ``size`` rows."""
        return self._call(lambda: self._open.fetchmany(size))

    def fetchall(self) -> list[Row]:
        """The remaining rows."""
        return self._call(self._open.fetchall)

    def reader(self, batch_rows: int = BATCH_ROWS) -> Any:
        """A RecordBatchReader over DuckDB's stream, its errors ours."""
        import pyarrow

        self._reader = source = self._call(lambda: self._arrow(batch_rows))
        return pyarrow.RecordBatchReader.from_batches(source.schema, reader_batches(source))

    def table(self) -> Any:
        """The remaining rows as a pyarrow.Table."""
        return self._call(self._arrow)

    def df(self) -> Any:
        """The remaining rows as a pandas DataFrame."""
        return self._call(self._open.df)

    def numpy(self) -> Any:
        """The remaining rows as NumPy arrays by name."""
        return self._call(self._open.fetchnumpy)

    def pl(self) -> Any:
        """The remaining rows as a polars DataFrame."""
        return _polars(self.table())

    def close(self) -> None:
        """Give the connection back for other work."""
        if self._closed:
            return
        self._closed = True
        if self._reader is not None:
            self._reader.close()
        if self._description is not None:
            with contextlib.suppress(duckdb.Error):  # closed already: nothing is held any more
                self._connection.abort()

    @property
    def _open(self) -> Any:
        if self._closed:
            raise _closed()
        if self._description is None:
            raise ProgrammingError("No open result set", kind="Invalid Input Error")
        return self._connection

    def _arrow(self, batch_rows: int | None = None) -> Any:
        connection = self._open
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "makes an extra copy": con.sql would run the query lazily, twice
            return connection.to_arrow_table() if batch_rows is None else connection.to_arrow_reader(batch_rows)

    def _call(self, fetch: Callable[[], Value]) -> Value:
        try:
            return fetch()
        except duckdb.Error as problem:
            raise convert_error(problem) from None
        except RuntimeError as problem:  # DuckDB's own Ctrl-C handling
            raise InterruptedQueryError(str(problem)) from None


class BatchResult:
    """The rows of a stream of RecordBatches, in the order of ``columns``; the batches' own names are ignored.

    close     called once, when the stream has ended or is no longer wanted
    rowcount  rows changed, when the stream is the answer of a statement that changes rows
    """

    def __init__(
        self,
        columns: Sequence[Column],
        batches: Iterable[Any],
        close: Callable[[], None] = lambda: None,
        rowcount: int = -1,
    ) -> None:
        self._columns = tuple((column.name, column.type) for column in columns)
        self._batches = iter(batches)
        self._on_close: Callable[[], None] | None = close
        self._rowcount = rowcount
        self._closed = False
        self._failure: BaseException | None = None
        self._converter: Converter | None = None
        self._batch: Any = None  # the batch being handed out row by row
        self._rows: list[Row] = []  # its values
        self._next = 0  # its first row not handed out yet

    @property
    def columns(self) -> tuple[tuple[str, SqlType], ...]:
        """Names and types."""
        return self._columns

    @property
    def description(self) -> Description:
        """A 7-tuple per column, types as DuckDB gives them."""
        return [(name, _duck_type(kind), None, None, None, None, None) for name, kind in self._columns]

    @property
    def rowcount(self) -> int:
        """Rows changed, -1 when that means nothing."""
        return self._rowcount

    def fetchone(self) -> Row | None:
        """The next row, None at the end."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int) -> list[Row]:
        """At most ``size`` rows; reads no batch beyond them."""
        found: list[Row] = []
        while len(found) < size:
            if self._next >= len(self._rows):
                batch = self._pull()
                if batch is None:
                    break
                self._batch, self._rows, self._next = batch, self._values([batch]), 0
            end = min(len(self._rows), self._next + size - len(found))
            found += self._rows[self._next : end]
            self._next = end
        return found

    def fetchall(self) -> list[Row]:
        """The remaining rows."""
        held, self._batch, self._rows, self._next = self._rows[self._next :], None, [], 0
        return held + self._values(self._stream())

    def reader(self, batch_rows: int = BATCH_ROWS) -> Any:
        """The remaining rows as a RecordBatchReader under the display names; waits for the first batch."""
        import pyarrow

        stream = self._stream()
        first = next(stream, None)
        names = [name for name, _ in self._columns]
        fields = empty_schema(self._columns) if first is None else first.schema
        schema = pyarrow.schema([field.with_name(name) for name, field in zip(names, fields, strict=True)])

        def pieces() -> Iterator[Any]:
            batch = first
            while batch is not None:
                for start in range(0, batch.num_rows, batch_rows):
                    part = batch.slice(start, batch_rows)
                    yield pyarrow.RecordBatch.from_arrays(part.columns, schema=schema)
                batch = next(stream, None)

        return pyarrow.RecordBatchReader.from_batches(schema, pieces())

    def table(self) -> Any:
        """The remaining rows as a pyarrow.Table."""
        return self.reader(1 << 20).read_all()

    def df(self) -> Any:
        """The remaining rows as a pandas DataFrame, dtypes as DuckDB chooses them."""
        return self._through_duck(self._stream(), lambda result: result.df())

    def numpy(self) -> Any:
        """The remaining rows as NumPy arrays by name."""
        return self._through_duck(self._stream(), lambda result: result.fetchnumpy())

    def pl(self) -> Any:
        """The remaining rows as a polars DataFrame."""
        return _polars(self.table())

    def close(self) -> None:
        """Stop the stream."""
        self._closed = True
        self._batch, self._rows, self._next = None, [], 0
        self._finish()
        self._drop_converter()

    def _finish(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _through_duck(self, batches: Iterable[Any], read: Callable[[Any], Value]) -> Value:
        if self._converter is None:
            self._converter = Converter()
        try:
            return self._converter.run(self._columns, batches, read)
        except Error:
            if self._failure is not None:  # the stream's own error, not what DuckDB makes of it
                raise self._failure from None
            raise
        finally:
            if self._on_close is None:
                self._drop_converter()

    def _drop_converter(self) -> None:
        converter, self._converter = self._converter, None
        if converter is not None:
            converter.duck.close()

    def _pull(self) -> Any:
        if self._closed:
            raise _closed()
        if self._failure is not None:  # a failed stream must not look like one that ended
            raise self._failure
        if self._on_close is None:
            return None
        try:
            batch = next(self._batches, None)
        except BaseException as problem:
            self._failure = problem
            self._finish()
            raise
        if batch is None:
            self._finish()
        return batch

    def _stream(self) -> Iterator[Any]:
        """The rows not handed out yet, as batches."""
        if self._closed:
            raise _closed()
        if self._batch is not None:
            rest, self._batch, self._rows = self._batch.slice(self._next), None, []
            self._next = 0
            if rest.num_rows:
                yield rest
        while (batch := self._pull()) is not None:
            yield batch

    def _values(self, batches: Iterable[Any]) -> list[Row]:
        if all(kind.kind in DIRECT for _, kind in self._columns):
            rows: list[Row] = []
            for batch in batches:
                rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
            return rows
        found: list[Row] = self._through_duck(batches, lambda result: result.fetchall())
        return found


def detached(result: Result) -> Result:
    """A result over the remaining rows read into memory, independent of any connection."""
    columns = result.columns
    if columns is None:
        return result
    table = result.table()
    named = [Column(ColumnId(place), name, kind) for place, (name, kind) in enumerate(columns)]
    return BatchResult(named, table.to_batches(), rowcount=result.rowcount)


def _duck_type(kind: SqlType) -> Any:
    from duckdb.sqltypes import DuckDBPyType

    try:
        return DuckDBPyType(kind.text)
    except duckdb.Error:  # a type without a spelling, such as an aggregate state
        return kind.text


def _polars(table: Any) -> Any:
    import polars

    return polars.from_arrow(table)


def _closed() -> ProgrammingError:
    return ProgrammingError(
        "This result is closed: its connection has run another statement since, or was closed",
        kind="Invalid Input Error",
        remedy="Fetch the rows first, or run the other statement on con.cursor().",
    )
