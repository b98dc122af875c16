"""A session: one connection's statements, from text to result. The only place that wires the layers together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from halo_sql import batch
from halo_sql.batch import Outcome
from halo_sql.call_log import CallLog
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import CatalogError, Error, ProgrammingError
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.split import StatementText, split
from halo_sql.metrics import NodeMetrics, Profile
from halo_sql.prepared import Prepared
from halo_sql.queries import Queries
from halo_sql.result import DuckResult, Result
from halo_sql.runtime import Runtime
from halo_sql.stored import Stored

if TYPE_CHECKING:
    from halo_sql.engines.secret_store import SecretStore
    from halo_sql.engines.store import StoreStats
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.grammar.statements.nodes import Explain
    from halo_sql.ir.logical import BoundStatement
    from halo_sql.optimizer.optimize import Optimized

LISTING = re.compile(r"\bhalo_\w+\s*\(", re.IGNORECASE)


class Stage(IntEnum):
    """How far ``Session.compile`` goes."""

    BIND = 1
    OPTIMIZE = 2


class Session:
    """Statements of one connection. Not thread-safe but for ``interrupt`` and ``progress``.

    duck      the DuckDB connection
    settings  the ``halo_`` settings
    engine_infos  model name -> what its engine last said of itself; plans are made with it
    """

    def __init__(self, duck: Duck, settings: Settings, runtime: Runtime, stored: Stored | None = None) -> None:
        self.duck = duck
        self.settings = settings
        self._runtime = runtime.acquire()
        self.engine_infos = runtime.infos
        self._catalog: Any = None
        self._queries = Queries(duck, settings, runtime, lambda: self.catalog.snapshot())
        self._closed = False
        self.stored = Stored(duck, runtime.stored_version) if stored is None else stored.duplicate(duck)
        self.prepared = Prepared(duck)

    @classmethod
    def open(cls, database: str, read_only: bool, config: Mapping[str, object]) -> Session:
        """Open a database; ``halo_…`` keys of ``config`` are settings, the rest is DuckDB's."""
        own = {name: value for name, value in config.items() if name.lower().startswith("halo_")}
        settings = Settings(own)
        duck = Duck.connect(database, read_only, {name: value for name, value in config.items() if name not in own})
        runtime = Runtime()
        return cls(duck, settings, runtime, Stored(duck, runtime.stored_version, empty=database == ":memory:"))

    def duplicate(self) -> Session:
        """Another connection to the same database, with the same engines, store and settings (copied)."""
        return Session(self.duck.duplicate(), self.settings.copy(), self._runtime, self.stored)

    def close(self) -> None:
        """End what runs, close the connection; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queries.end()
        self.duck.close()
        self._runtime.release()

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user."""
        return self._queries.warnings

    @property
    def calls(self) -> CallLog:
        """The latest LLM calls."""
        return self._queries.calls

    # --- statements ---

    def execute(self, sql: str, params: object = None) -> Result:
        """Run a statement or a script; the result of its last statement.

        Returns when the first rows are ready, or when a statement without rows is done.
        """
        self._queries.end()
        pieces = split(sql)
        kinds = [classify(piece.text) for piece in pieces]
        if all(kind is Kind.PLAIN for kind in kinds) and not self._concerns(sql):
            self._prepare_listings(sql)
            return self._run_plain(sql, params)
        result: Result | None = None
        for unit in batch.units(pieces, kinds, sql, params):
            if result is not None:
                result.close()
            given = params if unit.end == len(pieces) else None
            if unit.is_batch:
                result = batch.last(batch.run_pieces(self.execute, pieces[unit.first : unit.end], sql))
                continue
            piece = pieces[unit.first]
            try:
                result = self._execute_one(piece, kinds[unit.first], given)
            except Error as problem:
                raise batch.relocate(problem, piece, sql) from None
        assert result is not None
        return result

    def execute_batch(self, statements: Sequence[str | tuple[str, object]]) -> list[Outcome]:
        """Run statements (texts, or pairs of text and parameters) as one batch: what became of each, in order."""
        given = [(item, None) if isinstance(item, str) else item for item in statements]
        for sql, _ in given:
            batch.check_member(sql)
        return batch.run([(sql, partial(self.execute, sql, params)) for sql, params in given])

    def run_batch(self, sql: str) -> list[Outcome]:
        """Run a text that is one BEGIN BATCH; …; END BATCH: what became of each statement, in order."""
        pieces = split(sql)
        [unit] = batch.units(pieces, [classify(piece.text) for piece in pieces], sql)
        return batch.run_pieces(self.execute, pieces[unit.first : unit.end], sql)

    def execute_many(self, sql: str, rows: Sequence[object]) -> Result:
        """Run a statement once for each set of parameters; the last one's result."""
        if not rows:
            raise ProgrammingError("executemany needs at least one set of parameters")
        if classify(sql) is Kind.PLAIN and not self._concerns(sql):
            self._queries.end()
            self._prepare_listings(sql)
            with self.duck.converted(sql):
                self.duck.connection.executemany(sql, [list(row) if isinstance(row, tuple) else row for row in rows])
            return DuckResult(self.duck.connection)
        result = self.execute(sql, rows[0])
        for row in rows[1:]:
            result.close()
            result = self.execute(sql, row)
        return result

    def _prepare_listings(self, sql: str) -> None:
        if LISTING.search(sql):
            from halo_sql import listings

            listings.prepare(self, sql)

    def _execute_one(self, piece: StatementText, kind: Kind, params: object) -> Result:
        sql = piece.text
        self._prepare_listings(sql)
        if kind in (Kind.PLAIN, Kind.LLM, Kind.EXPLAIN):
            expanded = self.prepared.expand(sql, params, self.stored.expand)
            params = params if expanded is None else None  # they are in its arguments
            expanded = expanded or self.stored.expand(sql)
            if kind is Kind.LLM or (kind is Kind.PLAIN and expanded is not None):
                return self._run_llm(sql, params, expanded)
            if kind is Kind.PLAIN:
                return self._run_plain(sql, params)
            if expanded is not None:
                return self._run_expanded(sql, params, expanded)
        from halo_sql import statements
        from halo_sql.grammar.statements.nodes import Explain
        from halo_sql.grammar.statements.parse import parse_statement

        if kind is Kind.HALO_SECRET and not statements.drops_own_secret(sql, self.secrets):
            return self._run_plain(sql, params)
        statement = parse_statement(sql)
        if isinstance(statement, Explain):
            return self._explain(statement, sql, params)
        return statements.run(statement, self, sql, params)

    def _concerns(self, sql: str) -> bool:
        """Whether a plain text may name a view, a macro or a prepared statement with LLM calls."""
        return self.stored.concerns(sql) or self.prepared.concerns(sql)

    def _run_plain(self, sql: str, params: object) -> Result:
        if self.prepared.forget(sql):
            from halo_sql.statements import text_result

            return text_result([("Success", "BOOLEAN")], [])
        try:
            self.duck.execute(sql, params)
        except Error as problem:
            if self.stored.missed(problem) and (expanded := self.stored.expand(sql)) is not None:
                return self._run_llm(sql, params, expanded)
            if not isinstance(problem, CatalogError):
                raise
            from halo_sql.statements import tool_by_name

            raise tool_by_name(problem, self.catalog) or problem from None
        result = DuckResult(self.duck.connection)
        self.stored.note(sql)
        return result

    def _run_llm(self, sql: str, params: object, expanded: Expanded | None) -> Result:
        """A statement with LLM calls, its own or those of views, macros and prepared statements it names."""
        if (creation := self.stored.creation(sql)) is not None:
            self.stored.create(sql, creation, params, self._check)
            return DuckResult(self.duck.connection)
        if self.prepared.prepare(sql, self.stored.expand, self._check):
            from halo_sql.statements import text_result

            return text_result([("Success", "BOOLEAN")], [])
        if expanded is not None and classify(expanded.text) is not Kind.LLM:
            return self._run_expanded(sql, params, expanded)
        from halo_sql import staging

        stages = staging.find(sql, params, expanded, self.duck)
        if stages is not None:
            return staging.run(sql, *stages, self.duck, self._check, self._run_text)
        return self._queries.run(sql, params, expanded)[0]

    def _run_text(self, sql: str, text: Expanded) -> Result:
        """A text made of a statement's pieces: with LLM calls, or DuckDB's alone."""
        if classify(text.text) is Kind.LLM:
            return self._run_llm(sql, None, text)
        self.duck.execute(text.text)
        return DuckResult(self.duck.connection)

    def _run_expanded(self, sql: str, params: object, expanded: Expanded) -> Result:
        """An EXPLAIN whose statement names views, macros or a prepared statement."""
        try:
            return self._execute_one(StatementText(expanded.text, 0), classify(expanded.text), params)
        except Error as problem:
            if problem.sql == expanded.text:
                expanded.explain(problem, sql)
            raise

    def _check(self, sql: str, expanded: Expanded | None) -> BoundStatement:
        return self._queries.bind(sql, None, expanded)[0]

    # --- LLM queries ---

    @property
    def catalog(self) -> Any:
        """The catalog as this connection sees it."""
        if self._catalog is None:
            from halo_sql.catalog.store import Catalog

            self._catalog = Catalog(self.duck, self._runtime.models)
        return self._catalog

    @property
    def secrets(self) -> SecretStore:
        """The secrets of TYPE llm."""
        return self._runtime.secrets

    def bind(self, sql: str, params: object = None) -> BoundStatement:
        """The logical plan of a statement with LLM calls, as written."""
        return self._queries.bind(sql, params)[0]

    def compile(self, sql: str, params: object = None, until: Stage = Stage.OPTIMIZE) -> BoundStatement | Optimized:
        """The plan of a statement with LLM calls after a stage; nothing is executed."""
        bound, snapshot = self._queries.bind(sql, params)
        return bound if until is Stage.BIND else self._queries.optimize(bound, snapshot)

    # --- EXPLAIN ---

    def _explain(self, statement: Explain, sql: str, params: object) -> Result:
        inner = statement.statement
        if classify(inner) is not Kind.LLM:
            self.duck.execute(("EXPLAIN ANALYZE " if statement.analyze else "EXPLAIN ") + inner, params)
            return DuckResult(self.duck.connection)
        from halo_sql.statements import text_result

        try:
            text = self._explain_text(inner, params, statement.analyze, statement.format, statement.sections)
        except Error as problem:
            raise problem.moved(inner, statement.start, sql) from None
        key = "analyzed_plan" if statement.analyze else "physical_plan"
        return text_result([("explain_key", "VARCHAR"), ("explain_value", "VARCHAR")], [(key, text)])

    def explain(self, sql: str, analyze: bool = False, format: str = "text", params: object = None) -> str:
        """The plan of a statement as text; with ``analyze`` it is run, and the plan shows what happened."""
        self._prepare_listings(sql)
        if classify(sql) is Kind.LLM:
            self._queries.end()
            return self._explain_text(sql, params, analyze, format, ())
        prefix = "EXPLAIN (ANALYZE, FORMAT " if analyze else "EXPLAIN (FORMAT "
        rows = self.duck.rows(f"{prefix}{format}) {sql}", params)
        return "\n".join(row[-1] for row in rows)

    def _explain_text(self, sql: str, params: object, analyze: bool, form: str, sections: Sequence[str]) -> str:
        from halo_sql import explain, explain_sections

        if not analyze:
            bound, snapshot = self._queries.bind(sql, params)
            optimized = self._queries.optimize(bound, snapshot)
            return explain_sections.render(bound, optimized, form, sections, sql)
        result, profile = self._queries.run(sql, params)
        try:
            for _ in result.reader():
                pass
        finally:
            result.close()
        return explain.render(profile.dag, profile, form, sql)

    # --- what else a connection offers ---

    def interrupt(self) -> None:
        """Cancel what runs, from any thread."""
        self._queries.interrupt()

    def progress(self) -> list[tuple[str, NodeMetrics]]:
        """Label and live counters of the LLM operators of the running query."""
        return self._queries.progress()

    def last_profile(self) -> Profile | None:
        """What the last LLM query did."""
        return self._queries.profiles[-1] if self._queries.profiles else None

    def profiles(self) -> list[Profile]:
        """What the latest LLM queries did, oldest first."""
        return list(self._queries.profiles)

    def store_stats(self) -> StoreStats | None:
        """The response store as it is; None when it is off."""
        store = self._queries.store()
        return None if store is None else store.stats()

    def register(self, name: str, obj: object) -> None:
        """Make an Arrow or dataframe object a table of this connection."""
        self._queries.end()
        with self.duck.converted():
            self.duck.connection.register(name, obj)

    def unregister(self, name: str) -> None:
        """Undo ``register``."""
        self._queries.end()
        with self.duck.converted():
            self.duck.connection.unregister(name)

    def create_function(self, *args: Any, **options: Any) -> None:
        """DuckDB's ``create_function``."""
        with self.duck.converted():
            self.duck.connection.create_function(*args, **options)

    def create_model(self, name: str, fn: Callable[..., Any], **options: object) -> None:
        """A MODEL answered by a Python callable, for this connection and its cursors.

        It takes messages and gives a text; with ``kind='embedding'`` it takes a list of texts and gives a vector for
        each. ``options`` are those of the python engine: ``concurrency``, ``timeout_s``, ``storable``, ``kind``,
        ``dimensions``, ``batch_size``.
        """
        self._runtime.add_function(name, fn, options)

    def begin(self) -> None:
        """BEGIN TRANSACTION."""
        self.execute("BEGIN TRANSACTION").close()

    def commit(self) -> None:
        """COMMIT."""
        self.execute("COMMIT").close()

    def rollback(self) -> None:
        """ROLLBACK."""
        self.execute("ROLLBACK").close()
