"""The Python face: PEP 249 with DuckDB's names.

A ``Connection`` runs statements and holds the last result itself, as DuckDB's does; ``cursor()`` gives an
independent one with its own transaction on the same database. The two differ in one point: after a statement
that only changes something, DuckDB shows a row with a count, PEP 249 wants no result set. ``Connection.execute``
and the value returned by ``Cursor.execute`` follow DuckDB, the cursor's own fetch methods follow PEP 249.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from halo_sql import errors
from halo_sql.dbapi_link import Link
from halo_sql.dbapi_types import (
    BINARY,
    DATETIME,
    NUMBER,
    ROWID,
    STRING,
    Binary,
    Date,
    DateFromTicks,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
)
from halo_sql.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)
from halo_sql.result import Description, Result, Row
from halo_sql.result_counts import only_counts
from halo_sql.session import Session

apilevel = "2.0"
threadsafety = 1
paramstyle = "qmark"


def connect(
    database: str | os.PathLike[str] = ":memory:", read_only: bool = False, config: Mapping[str, object] | None = None
) -> Connection:
    """Open a database file, or one in memory; ``halo_…`` keys of ``config`` are our settings, all others DuckDB's."""
    return Connection(Session.open(str(database), read_only, dict(config or {})))


class Cursor:
    """Runs statements and hands out rows; see ``Connection.cursor``."""

    arraysize = 1
    lastrowid = None

    def __init__(self, link: Link, connection: Connection | None, shows_counts: bool) -> None:
        self._link = link
        self._connection = connection
        self._shows_counts = shows_counts
        self._result: Result | None = None

    # --- running ---

    def execute(self, sql: str, parameters: object = None) -> Cursor:
        """Run a statement or a script (the last statement's result); parameters are ``?``, ``$1`` or ``$name``."""
        return self._follow(sql, lambda session: session.execute(sql, parameters))

    def executemany(self, sql: str, seq_of_parameters: Iterable[object]) -> Cursor:
        """Run a statement once per set of parameters; none at all is fine."""
        rows = list(seq_of_parameters)
        if not rows:
            self._link.open()
            self._link.free()
            self._result = None
            return self
        return self._follow(sql, lambda session: session.execute_many(sql, rows))

    def _follow(self, sql: str, call: Callable[[Session], Result]) -> Cursor:
        self._result = self._problem = None
        result = self._link.run(call)
        if not self._shows_counts and only_counts(result, sql):
            self._rows_changed = result.rowcount
            view = Cursor(self._link, self._connection, shows_counts=True)
            view._result = result
            return view
        self._result = result
        self._rows_changed = result.rowcount
        return self

    # --- the result ---

    _rows_changed = -1

    @property
    def description(self) -> Description | None:
        """A 7-tuple (name, type, None × 5) per column; None when there is no result set."""
        self._check()
        return None if self._result is None else self._result.description

    @property
    def rowcount(self) -> int:
        """Rows changed by the last statement; -1 when that means nothing, as for queries."""
        self._check()
        return self._rows_changed

    _problem: Error | None = None

    def _check(self) -> None:
        """Raise the error of the statement, when it was one of a batch and failed."""
        if self._problem is not None:
            raise self._problem

    def _rows(self) -> Result:
        self._link.open()
        self._check()
        if self._result is None or self._result.description is None:
            raise ProgrammingError("No open result set", kind="Invalid Input Error", remedy="Execute a query first.")
        return self._result

    def fetchone(self) -> Row | None:
        """The next row; None at the end."""
        return self._rows().fetchone()

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next rows, ``arraysize`` of them unless told."""
        return self._rows().fetchmany(self.arraysize if size is None else size)

    def fetchall(self) -> list[Row]:
        """The remaining rows."""
        return self._rows().fetchall()

    def __iter__(self) -> Iterator[Row]:
        while (row := self.fetchone()) is not None:
            yield row

    def df(self) -> Any:
        """The remaining rows as a pandas DataFrame."""
        return self._rows().df()

    fetchdf = fetch_df = df

    def fetchnumpy(self) -> Any:
        """The remaining rows as a dict of NumPy arrays."""
        return self._rows().numpy()

    def pl(self) -> Any:
        """The remaining rows as a polars DataFrame."""
        return self._rows().pl()

    def to_arrow_table(self) -> Any:
        """The remaining rows as a pyarrow.Table."""
        return self._rows().table()

    fetch_arrow_table = to_arrow_table

    def to_arrow_reader(self, batch_size: int = 1_000_000) -> Any:
        """The remaining rows as a pyarrow.RecordBatchReader of batches of at most ``batch_size`` rows."""
        return self._rows().reader(batch_size)

    fetch_record_batch = fetch_arrow_reader = arrow = to_arrow_reader

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule protocol: the remaining rows, for any Arrow consumer."""
        return self.to_arrow_reader().__arrow_c_stream__(requested_schema)

    # --- the rest of PEP 249 ---

    @property
    def connection(self) -> Connection:
        """The connection this cursor came from."""
        assert self._connection is not None
        return self._connection

    def setinputsizes(self, sizes: object) -> None:
        """Does nothing: parameters are sized by themselves."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing: columns of any size are fetched whole."""

    def cursor(self) -> Cursor:
        """Another cursor on the same database."""
        return self.connection.cursor()

    duplicate = cursor

    def interrupt(self) -> None:
        """Cancel what runs, requests in flight included; from any thread."""
        if not self._link.closed:
            self._link.session.interrupt()

    def close(self) -> None:
        """Close; further use raises InterfaceError."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        if not self._link.closed:
            self.close()

    # --- transactions ---

    def begin(self) -> Self:
        """Start a transaction."""
        self._link.free()
        self._link.open().begin()
        return self

    def commit(self) -> Self:
        """Commit; nothing happens outside a transaction (statements commit by themselves there)."""
        return self._end(self._link.open().commit)

    def rollback(self) -> Self:
        """Undo the transaction; nothing happens outside one."""
        return self._end(self._link.open().rollback)

    def _end(self, call: Callable[[], None]) -> Self:
        self._link.free()
        try:
            call()
        except Error as problem:
            if "no transaction is active" not in problem.message:
                raise
        return self


class Connection(Cursor):
    """A connection: also holds the result of what it ran last, as DuckDB's connection does."""

    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    DataError = DataError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InternalError = InternalError
    ProgrammingError = ProgrammingError
    NotSupportedError = NotSupportedError

    def __init__(self, session: Session) -> None:
        super().__init__(Link(session), None, shows_counts=True)
        self._cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()

    @property
    def connection(self) -> Connection:
        """Itself."""
        return self

    @property
    def session(self) -> Session:
        """What runs the statements; for tools such as the shell."""
        return self._link.open()

    def cursor(self) -> Cursor:
        """An independent cursor: same database, own transaction, no temporary tables of this one."""
        made = Cursor(Link(self._link.open().duplicate()), self, shows_counts=False)
        self._cursors.add(made)
        return made

    duplicate = cursor

    def sql(self, query: str, params: object = None) -> Cursor:
        """Run a query; its result is readable until this connection runs something else."""
        made = Cursor(self._link, self, shows_counts=True)
        return made.execute(query, params)

    query = sql

    def execute_batch(self, statements: Sequence[str | tuple[str, object]]) -> list[Cursor]:
        """Run statements, each a SQL text or a pair (text, parameters), as one batch; a cursor for each, in order.

        One that cannot be bound stops the batch before anything runs: its error is raised. Results are in memory: they
        stay readable whatever the connection does next. An error at run time stays with its statement: the others run,
        and that statement's cursor raises it when it is asked for anything.
        """
        self._link.free()
        made: list[Cursor] = []
        for outcome in self._link.open().execute_batch(statements):
            cursor = Cursor(self._link, self, shows_counts=True)
            cursor._problem = outcome.error
            if outcome.result is not None:
                cursor._result, cursor._rows_changed = outcome.result, outcome.result.rowcount
            made.append(cursor)
        return made

    def stream(self, sql: str, parameters: object = None, batch_rows: int = 2048) -> Iterator[Any]:
        """Run a query now; its pyarrow.RecordBatches as they become ready. Closing the iterator cancels the rest."""
        result = self._link.run(lambda session: session.execute(sql, parameters))

        def batches() -> Iterator[Any]:
            try:
                if result.description is not None:
                    yield from result.reader(batch_rows)
            finally:
                result.close()

        return batches()

    async def astream(self, sql: str, parameters: object = None, batch_rows: int = 2048) -> AsyncIterator[Any]:
        """``stream`` for asyncio: the waiting is done in a thread; cancelling the task cancels the query."""
        import asyncio

        try:
            batches = await asyncio.to_thread(self.stream, sql, parameters, batch_rows)
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                yield batch
        except (asyncio.CancelledError, GeneratorExit):
            self.interrupt()
            raise

    def explain(self, sql: str, analyze: bool = False, format: str = "text") -> str:
        """The plan, and with ``analyze`` (which runs the statement) what it did.

        format  'text' | 'json' | 'html' | 'mermaid' | 'graphviz'
        """
        self._link.free()
        return self._link.open().explain(sql, analyze=analyze, format=format)

    def explain_batch(
        self, statements: Sequence[str | tuple[str, object]], analyze: bool = False, format: str = "text"
    ) -> str:
        """The plans of a batch (``execute_batch``), a node that several statements read written once; with ``analyze``
        it is run. JSON is a list: statements that are one plan are one object."""
        self._link.free()
        return self._link.open().explain_batch(statements, analyze, format)

    def last_profile(self) -> dict[str, Any] | None:
        """What the last statement with LLM calls did, as in EXPLAIN ANALYZE (FORMAT json); None before the first."""
        from halo_sql.explain import to_json

        profile = self._link.open().last_profile()
        return None if profile is None else to_json(profile.dag, profile)

    def register(self, view_name: str, python_object: object) -> Self:
        """Make an Arrow object or a DataFrame readable as a table."""
        self._link.free()
        self._link.open().register(view_name, python_object)
        return self

    def unregister(self, view_name: str) -> Self:
        """Undo ``register``."""
        self._link.free()
        self._link.open().unregister(view_name)
        return self

    def create_function(self, *args: Any, **options: Any) -> Self:
        """DuckDB's ``create_function``: a Python function as a scalar SQL function."""
        self._link.free()
        self._link.open().create_function(*args, **options)
        return self

    def create_model(self, name: str, fn: Callable[..., Any], **options: object) -> Self:
        """A Python callable (messages in, text out; or texts in, vectors out with ``kind='embedding'``) as a model.

        ``options``: ``concurrency``, ``timeout_s``, ``storable``, ``kind``, ``dimensions``, ``batch_size``; or
        ``engine='emulated'``, ``profile='dense-14b'`` and the options of an emulated model.
        """
        self._link.free()
        self._link.open().create_model(name, fn, **options)
        return self

    def create_tool(self, name: str, target: Any, **options: object) -> Self:
        """A Python function with type hints (sync or async), or a tool of an MCP client, as a TOOL.

        Its arguments and its type come from the hints. ``options`` are those of CREATE TOOL … WITH, and ``volatility``,
        ``comment``, ``remote`` (the MCP server's name of the tool).
        """
        self._link.free()
        self._link.open().create_tool(name, target, **options)
        return self

    def close(self) -> None:
        """Close the connection and its cursors; a second time raises InterfaceError (PEP 249)."""
        self._link.open()
        for cursor in list(self._cursors):
            cursor.close()
        super().close()


__all__ = [
    "apilevel", "threadsafety", "paramstyle", "connect", "Connection", "Cursor", "errors",
    "STRING", "BINARY", "NUMBER", "DATETIME", "ROWID",
    "Binary", "Date", "Time", "Timestamp", "DateFromTicks", "TimeFromTicks", "TimestampFromTicks",
    "Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError", "IntegrityError",
    "InternalError", "ProgrammingError", "NotSupportedError",
]  # fmt: skip
