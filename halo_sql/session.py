"""A session: one connection's statements, from text to result. The only place that wires the layers together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from halo_sql import batch, consolidation, routing
from halo_sql.batch import Outcome
from halo_sql.call_log import CallLog
from halo_sql.config import Settings, store_path
from halo_sql.duck import Duck
from halo_sql.errors import Error, ProgrammingError
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.split import StatementText, split
from halo_sql.metrics import NodeMetrics, Profile
from halo_sql.prepared import Prepared
from halo_sql.queries import Queries
from halo_sql.result import DuckResult, Result
from halo_sql.runtime import Runtime
from halo_sql.stored import Stored
from halo_sql.tool_names import ToolNames

if TYPE_CHECKING:
    from halo_sql.catalog.objects import ToolDef
    from halo_sql.engines.emulated_device import Device
    from halo_sql.engines.knowledge import Knowledge
    from halo_sql.engines.secret_store import SecretStore
    from halo_sql.engines.speed import Speed
    from halo_sql.engines.store import StoreStats
    from halo_sql.grammar.expanded import Expanded
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

    def __init__(
        self, duck: Duck, settings: Settings, runtime: Runtime, stored: Stored | None = None, empty: bool = False
    ) -> None:
        self.duck = duck
        self.settings = settings
        self._runtime = runtime.acquire()
        self.engine_infos = runtime.infos
        self._catalog: Any = None
        self.queries = Queries(duck, settings, runtime, lambda: self.catalog.snapshot())
        self._closed = False
        self.stored = Stored(duck, runtime.stored_version) if stored is None else stored.duplicate(duck)
        self.tool_names = ToolNames(duck, lambda: self.catalog.snapshot(), runtime.tools_version, empty)
        self.prepared = Prepared(duck)

    @classmethod
    def open(cls, database: str, read_only: bool, config: Mapping[str, object]) -> Session:
        """Open a database; ``halo_…`` keys of ``config`` are settings, the rest is DuckDB's."""
        own = {name: value for name, value in config.items() if name.lower().startswith("halo_")}
        settings = Settings(own)
        duck = Duck.connect(database, read_only, {name: value for name, value in config.items() if name not in own})
        runtime, empty = Runtime(settings.flag("halo_virtual_time")), database == ":memory:"
        return cls(duck, settings, runtime, Stored(duck, runtime.stored_version, empty=empty), empty)

    def duplicate(self) -> Session:
        """Another connection to the same database, with the same engines, store and settings (copied)."""
        return Session(self.duck.duplicate(), self.settings.copy(), self._runtime, self.stored)

    def close(self) -> None:
        """End what runs, close the connection; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.queries.end()
        self.duck.close()
        self._runtime.release()

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user."""
        return self.queries.warnings

    @property
    def calls(self) -> CallLog:
        """The latest LLM calls."""
        return self.queries.calls

    # --- statements ---

    def execute(self, sql: str, params: object = None) -> Result:
        """Run a statement or a script; the result of its last statement.

        Returns when the first rows are ready, or when a statement without rows is done.
        """
        with self.queries.interruptible():
            return self._execute(sql, params)

    def _execute(self, sql: str, params: object) -> Result:
        self.queries.end()
        pieces = split(sql)
        kinds = [classify(piece.text) for piece in pieces]
        if all(kind is Kind.PLAIN for kind in kinds) and not self.concerns(sql):
            self._prepare_listings(sql)
            return routing.run_plain(self, sql, params)
        result: Result | None = None
        for unit in batch.units(pieces, kinds, sql, params):
            if result is not None:
                result.close()
            given = params if unit.end == len(pieces) else None
            if unit.is_batch:
                result = batch.last(consolidation.run_pieces(self, pieces[unit.first : unit.end], sql))
                continue
            piece = pieces[unit.first]
            try:
                result = self.execute_one(piece, kinds[unit.first], given)
            except Error as problem:
                raise batch.relocate(problem, piece, sql) from None
        assert result is not None
        return result

    def execute_batch(self, statements: Sequence[str | tuple[str, object]]) -> list[Outcome]:
        """Run statements (texts, or pairs of text and parameters) as one batch: what became of each, in order.

        One that cannot be bound stops the batch before anything runs.
        """
        return consolidation.run(self, consolidation.members(statements))

    def explain_batch(
        self, statements: Sequence[str | tuple[str, object]], analyze: bool = False, format: str = "text"
    ) -> str:
        """The plan of a batch as text; with ``analyze`` it is run, and the plan shows what happened."""
        from halo_sql import explain_batch

        return explain_batch.text(self, consolidation.members(statements), analyze, format)

    def run_batch(self, sql: str) -> list[Outcome]:
        """Run a text that is one BEGIN BATCH; …; END BATCH, or what stands between: what became of each statement."""
        return consolidation.run_pieces(self, batch.statements(sql), sql)

    def execute_many(self, sql: str, rows: Sequence[object]) -> Result:
        """Run a statement once for each set of parameters; the last one's result."""
        if not rows:
            raise ProgrammingError("executemany needs at least one set of parameters")
        if classify(sql) is Kind.PLAIN and not self.concerns(sql):
            self.queries.end()
            self._prepare_listings(sql)
            self.duck.execute_many(sql, [list(row) if isinstance(row, tuple) else row for row in rows])
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

    def execute_one(self, piece: StatementText, kind: Kind, params: object) -> Result:
        """Run one statement of a script; errors point into its own text."""
        sql = piece.text
        self._prepare_listings(sql)
        named = self.tool_names.expand(sql)
        if named is not None:
            return routing.run_named(self, sql, params, named)
        if kind in (Kind.PLAIN, Kind.LLM, Kind.EXPLAIN):
            expanded = self.prepared.expand(sql, params, self.stored.expand)
            params = params if expanded is None else None  # they are in its arguments
            expanded = expanded or self.stored.expand(sql)
            if kind is Kind.LLM or (kind is Kind.PLAIN and expanded is not None):
                return routing.run(self, sql, params, expanded)
            if kind is Kind.PLAIN:
                return routing.run_plain(self, sql, params)
            if expanded is not None:
                return routing.run_written(self, sql, params, expanded)
        from halo_sql import analyzing, explaining, statements
        from halo_sql.grammar.statements.nodes import Analyze, Explain
        from halo_sql.grammar.statements.parse import parse_statement

        if kind is Kind.HALO_SECRET and not statements.drops_own_secret(sql, self.secrets):
            return routing.run_plain(self, sql, params)
        statement = parse_statement(sql)
        if isinstance(statement, Explain):
            return explaining.statement(self, statement, sql, params)
        if isinstance(statement, Analyze):
            return analyzing.statement(self, statement, sql, params)
        return statements.run(statement, self, sql, params)

    def concerns(self, sql: str) -> bool:
        """Whether a plain text may name a view, a macro or a prepared statement with LLM calls, or call a tool by its
        own name."""
        return self.stored.concerns(sql) or self.prepared.concerns(sql) or self.tool_names.expand(sql) is not None

    def check(self, sql: str, expanded: Expanded | None) -> BoundStatement:
        """Bind a text; nothing is executed. Errors point into ``sql``."""
        return self.queries.bind(sql, None, expanded)[0]

    # --- LLM queries ---

    @property
    def catalog(self) -> Any:
        """The catalog as this connection sees it."""
        if self._catalog is None:
            from halo_sql.catalog.store import Catalog

            self._catalog = Catalog(self.duck, self._runtime.models, self._runtime.tools)
        return self._catalog

    @property
    def secrets(self) -> SecretStore:
        """The secrets of TYPE llm."""
        return self._runtime.secrets

    def bind(self, sql: str, params: object = None) -> BoundStatement:
        """The logical plan of a statement with LLM calls, as written."""
        return self.queries.bind(sql, params)[0]

    def compile(self, sql: str, params: object = None, until: Stage = Stage.OPTIMIZE) -> BoundStatement | Optimized:
        """The plan of a statement with LLM calls after a stage; nothing is executed."""
        bound, snapshot = self.queries.bind(sql, params)
        return bound if until is Stage.BIND else self.queries.optimize(bound, snapshot)

    def explain(self, sql: str, analyze: bool = False, format: str = "text", params: object = None) -> str:
        """The plan of a statement as text; with ``analyze`` it is run, and the plan shows what happened."""
        from halo_sql import explaining

        if batch.is_batch(sql):
            return self.explain_batch([piece.text for piece in batch.statements(sql)], analyze, format)
        self._prepare_listings(sql)
        self.queries.end()
        return explaining.any_text(self, sql, analyze, format, params)

    # --- what else a connection offers ---

    def interrupt(self) -> None:
        """Cancel what runs, from any thread."""
        self.queries.interrupt()

    def progress(self) -> list[tuple[str, NodeMetrics]]:
        """Label and live counters of the LLM operators of the running query."""
        return self.queries.progress()

    def last_profile(self) -> Profile | None:
        """What the last LLM query did."""
        return self.queries.profiles[-1] if self.queries.profiles else None

    def profiles(self) -> list[Profile]:
        """What the latest LLM queries did, oldest first."""
        return list(self.queries.profiles)

    def calibrate(self, name: str) -> Speed:
        """CALIBRATE MODEL: measure a model's engine; CatalogError when there is no such model."""
        model = self.catalog.snapshot().models.get(name.lower())
        if model is None:
            raise self.catalog.missing("model", name)
        return self.queries.calibrate(model)

    def speeds(self) -> list[Speed]:
        """The calibrations that are kept."""
        return self._runtime.speeds.all()

    def devices(self) -> list[Device]:
        """The emulated devices of this connection, and what their models did when."""
        from halo_sql.engines.emulated_device import devices_of

        return devices_of(self._runtime.loop)

    def store_stats(self) -> StoreStats | None:
        """The response store as it is; None when it is off."""
        store = self.queries.store()
        return None if store is None else store.stats()

    @property
    def knowledge(self) -> Knowledge | None:
        """What was learnt from finished calls; None when it is not to be used."""
        return self.queries.knowledge()

    def forget(self) -> None:
        """Delete what was learnt from finished calls, also while ``halo_learn`` is off."""
        self._runtime.knowledge(store_path(self.settings)).forget()

    def register(self, name: str, obj: object) -> None:
        """Make an Arrow or dataframe object a table of this connection."""
        self.queries.end()
        with self.duck.converted():
            self.duck.connection.register(name, obj)

    def unregister(self, name: str) -> None:
        """Undo ``register``."""
        self.queries.end()
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
        ``dimensions``, ``batch_size``; or ``engine='emulated'``, ``profile`` and those of an emulated model.
        """
        self._runtime.add_function(name, fn, options)

    def create_tool(self, name: str, target: Any, **options: object) -> None:
        """A TOOL that is a Python function with type hints, or a tool of an MCP client; see ``registering``."""
        from halo_sql.registering import registered_tool

        self._runtime.add_tool(registered_tool(name, target, options, self._runtime), target)

    def served_tools(self, server: str, options: Mapping[str, object]) -> Sequence[ToolDef]:
        """The tools of an MCP server as definitions; EngineError when it cannot be asked."""
        from halo_sql.targets import surroundings_of
        from halo_sql.tools.mcp_import import list_tools

        return self._runtime.wait(self._runtime.begin(list_tools(server, surroundings_of(self._runtime), options)))

    def begin(self) -> None:
        """BEGIN TRANSACTION."""
        self.execute("BEGIN TRANSACTION").close()

    def commit(self) -> None:
        """COMMIT."""
        self.execute("COMMIT").close()

    def rollback(self) -> None:
        """ROLLBACK."""
        self.execute("ROLLBACK").close()
