"""The one adapter to DuckDB: tokens, types, schemas, streams, spools and errors.

One ``Duck`` owns one DuckDB connection. DuckDB allows one open result per connection, so a ``Duck`` keeps
track of the one it has and closes it before anything else runs.
"""

from __future__ import annotations

import inspect
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TypeVar

import duckdb

from halo_sql import errors
from halo_sql.duck_errors import convert_error, stream_error
from halo_sql.errors import Error, Span
from halo_sql.ir.expr import quote
from halo_sql.ir.types import SqlType

BATCH_ROWS = 2048  # DuckDB's own vector size
NAMES_KEPT = 1000
#: Statements after which there may be other functions, in lower case.
_WORDS = r"(?:attach|detach|import|copy|commit|end|rollback|abort|execute)\b"
_CHANGES = re.compile(rf"(?m)(?:^|;|\*/)\s*{_WORDS}|\b(?:macro|function|schema)\b")
T = TypeVar("T")
BUSY_S = 10.0  # how long a close waits for another thread's call to give up


class Duck:
    """A DuckDB connection with the operations the layers above need."""

    # the same for every connection of a DuckDB version, and slow to list
    _known_functions: ClassVar[tuple[frozenset[str], ...] | None] = None
    _private: ClassVar[dict[int, Any]] = {}  # process id -> its database for ``private``

    def __init__(
        self, connection: Any, may_collate: list[bool] | None = None, changes: list[int] | None = None
    ) -> None:
        self.connection = connection
        self._open: Any = None  # the Arrow reader that owns the connection, if any
        self._types: dict[str, SqlType] = {}
        self._names: dict[str, str] = {}  # text of an expression -> the name of its column
        self.may_collate = may_collate or [True]  # whether tables may have collations; one for all connections
        self.changes = changes or [0]  # statements that may have changed the functions; counted for all connections
        self._of_catalog: dict[str, tuple[int, Any]] = {}

    @classmethod
    def connect(cls, database: str, read_only: bool, config: Mapping[str, Any]) -> Duck:
        """Open a database file or ':memory:'; DuckDB's errors become ours."""
        may_collate = [database != ":memory:"]  # a new one has no tables
        try:
            return cls(duckdb.connect(database, read_only=read_only, config=dict(config)), may_collate)
        except duckdb.Error as problem:
            raise convert_error(problem) from None

    @classmethod
    def private(cls) -> Duck:
        """A connection of ours, to an empty in-memory database that the process keeps: opening another one would take
        longer than many a query. Settings and temporary objects are the connection's own; nothing else may be made."""
        process = os.getpid()  # a fork does not go on with its parent's
        if process not in cls._private:
            cls._private[process] = duckdb.connect(":memory:", config={"threads": 1})
        return cls(cls._private[process].cursor(), [False])

    def duplicate(self) -> Duck:
        """Another connection to the same database (no temporary objects, own transaction)."""
        return Duck(self.connection.cursor(), self.may_collate, self.changes)

    def close(self) -> None:
        """Close the connection; idempotent. What another thread runs on it is interrupted first."""
        patience = time.monotonic() + BUSY_S
        while True:
            try:
                self.release()
                self.connection.close()
                return
            except duckdb.ResourceInUseException as problem:
                if time.monotonic() > patience:
                    raise convert_error(problem) from None
                self.connection.interrupt()
                time.sleep(0.005)

    def release(self) -> None:
        """Close the open result, if any, so that the connection can run something else."""
        reader, self._open = self._open, None
        if reader is not None:
            reader.close()

    def abandon(self) -> None:
        """What is left of the last ``execute``'s result is not wanted: the connection can run something else."""
        self.connection.abort()

    def execute(self, sql: str, params: Any = None) -> Any:
        """Run a statement; returns DuckDB's connection, which holds the result."""
        self._note_collations(sql)
        self.release()
        try:
            return self.connection.execute(sql) if params is None else self.connection.execute(sql, params)
        except duckdb.Error as problem:
            raise convert_error(problem, sql) from None
        except RecursionError:
            raise
        except RuntimeError as problem:  # DuckDB's own Ctrl-C handling
            raise errors.InterruptedQueryError(str(problem)) from None
        finally:
            if _CHANGES.search(sql.lower()):
                self.changes[0] += 1

    def of_catalog(self, key: str, read: Callable[[], T]) -> T:
        """What ``read`` finds out of the functions there are, kept until a statement may have changed them."""
        known = self._of_catalog.get(key)
        if known is None or known[0] != self.changes[0]:
            known = self._of_catalog[key] = (self.changes[0], read())
        found: T = known[1]
        return found

    def execute_many(self, sql: str, rows: Sequence[object]) -> Any:
        """Run a statement once for each set of parameters; returns DuckDB's connection with the last result."""
        self._note_collations(sql)
        with self.converted(sql):
            return self.connection.executemany(sql, rows)

    def _note_collations(self, sql: str) -> None:
        """A statement with one of these words may bring tables whose columns have collations."""
        lowered = sql.lower()
        self.may_collate[0] |= any(word in lowered for word in ("collate", "attach", "import", "copy"))

    @contextmanager
    def converted(self, sql: str | None = None) -> Iterator[None]:
        """DuckDB's errors of a block as ours; the open result is closed first."""
        self.release()
        try:
            yield
        except duckdb.Error as problem:
            raise convert_error(problem, sql) from None

    def rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement and fetch everything."""
        result = self.execute(sql, params)
        with self.converted(sql):  # it may come to its end only now
            return list(result.fetchall())

    def describe(self, query: str, params: Any = None) -> list[tuple[str, SqlType]]:
        """Names and types of a query's result columns, without running it. Errors point into ``query``."""
        if params is None:
            try:
                return self.probe(query)
            except errors.InterruptedQueryError:
                raise
            except Error:
                pass
        prefix = "DESCRIBE "  # the same with the position of what is wrong
        try:
            return self._described(prefix + query, params)
        except Error as problem:
            if problem.span is not None:
                problem.span = Span(max(0, problem.span.start - len(prefix)), max(0, problem.span.end - len(prefix)))
                problem.sql = query
            raise

    def probe(self, query: str) -> list[tuple[str, SqlType]]:
        """``describe`` for a query that may well be refused: the error has no position, and an open transaction
        stays usable (DuckDB ends one at the first error of a statement that is run)."""
        self.release()
        ask = getattr(self.connection, "_bind", None)
        try:
            if ask is not None:  # what DuckDB's Python client asks for its own relations; it runs nothing
                names, types, parameters, returns, deferred = ask(query)[:5]
                if returns == "query_result" and not (parameters or deferred):
                    return [(name, self._tree(kind)) for name, kind in zip(names, types, strict=True)]
            elif self.is_select(query):
                relation = self.connection.sql(query)
                return [(name, self._tree(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]
        except duckdb.Error as problem:
            raise convert_error(problem, query) from None
        except RecursionError:
            raise
        except RuntimeError as problem:  # DuckDB's own Ctrl-C handling
            raise errors.InterruptedQueryError(str(problem)) from None
        except (TypeError, ValueError):  # a version that answers otherwise
            pass
        return self._described("DESCRIBE " + query)

    def _described(self, statement: str, params: Any = None) -> list[tuple[str, SqlType]]:
        rows = self.rows(statement, params)
        if any(len(row) < 2 for row in rows):
            raise errors.ParserError("one statement at a time", remedy="Remove the rest.")
        return [(row[0], self.sql_type(row[1])) for row in rows]

    def _tree(self, kind: Any) -> SqlType:
        text = str(kind)
        known = self._types.get(text)
        if known is None:
            known = self._types[text] = type_tree(kind)
        return known

    def sql_type(self, text: str, fresh: bool = False) -> SqlType:
        """The tree of a type written in DuckDB's syntax; raises duckdb-style errors for unknown types.

        ``fresh``: ask again, as the text may name a type of the user's that is another by now.
        """
        known = None if fresh else self._types.get(text)
        if known is None:
            self.release()
            try:
                known = type_tree(self.connection.sqltype(text))
            except duckdb.Error as problem:
                raise convert_error(problem) from None
            self._types[text] = known
        return known

    def stream(self, sql: str, params: Any = None, batch_rows: int = BATCH_ROWS) -> Any:
        """Run a query; a pyarrow.RecordBatchReader that owns the connection until ``release`` or its end.

        A SELECT is computed as it is read, within DuckDB's ``streaming_buffer_size``.
        """
        if self.is_select(sql):
            return self._stream_select(sql, params, batch_rows)
        result = self.execute(sql, params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "makes an extra copy": such results are small
            try:
                self._open = result.to_arrow_reader(batch_rows)
            except duckdb.Error as problem:
                raise convert_error(problem, sql) from None
        return self._open

    def _stream_select(self, sql: str, params: Any, batch_rows: int) -> Any:
        """By a relation that is read once: an Arrow reader over ``execute`` would keep the whole result in memory."""
        self.release()
        try:
            relation = self.connection.sql(sql, params=params)
            self._open = relation.to_arrow_reader(batch_rows)
        except (duckdb.BinderException, duckdb.CatalogException) as problem:
            if "\nLINE " not in str(problem):
                self.describe(sql, params)  # raises the same error with its position
            raise convert_error(problem, sql) from None
        except duckdb.Error as problem:
            raise convert_error(problem, sql) from None
        except RecursionError:
            raise
        except RuntimeError as problem:  # DuckDB's own Ctrl-C handling
            raise errors.InterruptedQueryError(str(problem)) from None
        return self._open

    @staticmethod
    def is_select(sql: str) -> bool:
        """Whether the text is one statement that DuckDB classifies as SELECT."""
        try:
            statements = duckdb.extract_statements(sql)
        except duckdb.Error:
            return False  # running it says what is wrong with it
        return len(statements) == 1 and statements[0].type == duckdb.StatementType.SELECT

    def spool(self, name: str, columns: Sequence[tuple[str, SqlType]], batches: Iterable[Any], schema: Any) -> None:
        """Create a temporary table of exactly these types and fill it with Arrow batches.

        The rows are inserted without filter or projection (DuckDB 2.0.0 scans Arrow objects wrongly with either).
        """
        import pyarrow

        listed = ", ".join(f"{quote(column)} {kind.text}" for column, kind in columns)
        self.execute(f"CREATE TEMP TABLE {quote(name)} ({listed})")
        reader = pyarrow.RecordBatchReader.from_batches(schema, iter(batches))
        view = name + "_arrow"
        self.connection.register(view, reader)
        try:
            self.rows(f"INSERT INTO {quote(name)} FROM {quote(view)}")
        finally:
            self.connection.unregister(view)

    def in_transaction(self) -> bool:
        """Whether the user has begun a transaction (otherwise every statement is one)."""
        return self.rows("SELECT txid_current()") == self.rows("SELECT txid_current()")

    def drop(self, name: str) -> None:
        """Drop a spool."""
        self.execute(f"DROP TABLE IF EXISTS temp.{quote(name)}")

    def add_function(
        self, name: str, fn: Callable[..., Any], parameters: Sequence[str], returns: str, volatile: bool = False
    ) -> None:
        """Register ``fn`` (Arrow arrays of a vector's arguments -> Arrow array) as a scalar function.

        It sees NULLs, is called on DuckDB's own threads, and lives until ``remove_function`` or the end of a
        transaction that is rolled back.
        """
        self.release()
        places = [inspect.Parameter(f"a{place}", inspect.Parameter.POSITIONAL_ONLY) for place in range(len(parameters))]

        def called(*arguments: Any) -> Any:
            return fn(*arguments)

        called.__signature__ = inspect.Signature(places)  # type: ignore[attr-defined]  # DuckDB counts parameters there
        try:
            self.connection.create_function(
                name, called, list(parameters), returns, type="arrow", null_handling="special", side_effects=volatile
            )
        except duckdb.Error as problem:
            raise convert_error(problem) from None

    def remove_function(self, name: str) -> None:
        """Forget a function of ``add_function``; one that is gone already is no error."""
        self.release()
        with suppress(duckdb.Error):
            self.connection.remove_function(name)

    def interrupt(self) -> None:
        """Stop what the connection runs (from any thread)."""
        self.connection.interrupt()

    def expression_names(self, texts: Sequence[str]) -> list[str]:
        """The column names DuckDB gives expressions, by their texts alone (nothing is bound)."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._names]
        if missing:
            if len(self._names) > NAMES_KEPT:
                self._names.clear()
            try:
                found = self._printed(missing)
            except duckdb.Error:  # nested deeper than DuckDB's JSON goes
                found = missing
            self._names.update(zip(missing, found, strict=True))
        return [self._names[text] for text in texts]

    def _printed(self, texts: Sequence[str]) -> list[str]:
        """Expressions as DuckDB prints them."""
        query = "SELECT json_deserialize_sql(json_serialize_sql(text)) FROM (SELECT unnest(?::VARCHAR[]) AS text)"
        cursor = self.connection.cursor()  # what fails there leaves an open transaction alone
        try:
            found = cursor.execute(query, [["SELECT " + text for text in texts]]).fetchall()
        finally:
            cursor.close()
        return [name.removeprefix("SELECT ") for (name,) in found]

    def expression_name(self, text: str) -> str:
        """The column name DuckDB gives an expression."""
        return self.expression_names([text])[0]

    def built_in_functions(self) -> frozenset[str]:
        """Lower-case names of DuckDB's own scalar functions and macros."""
        return self._functions()[0]

    def volatile_functions(self) -> frozenset[str]:
        """Lower-case names of the scalar functions that may give two results for equal arguments."""
        return self._functions()[1]

    def aggregate_functions(self) -> frozenset[str]:
        """Lower-case names of aggregate functions."""
        return self._functions()[2]

    def _functions(self) -> tuple[frozenset[str], ...]:
        if Duck._known_functions is None:
            found = self.rows(
                "SELECT DISTINCT system.main.lower(function_name), function_type, stability FROM duckdb_functions() "
                "WHERE internal AND function_type IN ('scalar', 'macro', 'aggregate')"
            )
            Duck._known_functions = (
                frozenset(name for name, kind, _ in found if kind != "aggregate"),
                frozenset(name for name, _, stability in found if stability == "VOLATILE"),
                frozenset(name for name, kind, _ in found if kind == "aggregate"),
            )
        return Duck._known_functions


def type_tree(found: Any) -> SqlType:
    """DuckDB's type object as a tree."""
    kind = str(found.id)
    text = str(found)
    if kind in ("struct", "union", "map"):
        return SqlType(text, kind, tuple((name, type_tree(child)) for name, child in found.children))
    if kind in ("list", "array"):
        parts = dict(found.children)
        return SqlType(text, kind, (("", type_tree(parts["child"])),), size=int(parts.get("size", 0)))
    if kind == "enum":
        return SqlType(text, kind, labels=tuple(dict(found.children)["values"]))
    if text == "JSON":
        return SqlType(text, "json")
    return SqlType(text, kind)


def batches(reader: Any, sql: str | None = None) -> Iterator[Any]:
    """The RecordBatches of a reader, DuckDB's errors converted (with their position in ``sql`` when it is given)."""
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return
        except duckdb.Error as problem:
            raise convert_error(problem, sql) from None
        except OSError as problem:  # errors inside a stream arrive as Arrow's: "INTERRUPT Error: Interrupted!"
            raise stream_error(str(problem), sql) from None


Reader = Callable[[], Iterator[Any]]
