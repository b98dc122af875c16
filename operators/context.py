"""What all operators of one run share: connections, channels to models, counters, and what must be cleaned up."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any, Protocol, TypeVar

from halo_sql.duck import Duck
from halo_sql.engines.protocol import Channels
from halo_sql.errors import EngineError, Error
from halo_sql.ir.expr import Column, literal
from halo_sql.ir.physical import PhysicalDag, PhysicalNode
from halo_sql.metrics import NodeMetrics
from halo_sql.operators.duck_thread import DuckThread
from halo_sql.operators.text_cast import TextCast

T = TypeVar("T")

#: Settings that DuckDB keeps per connection and that change what an expression gives: side connections copy them.
LOCAL_SETTINGS = (
    *("TimeZone", "Calendar", "integer_division", "ieee_floating_point_ops"),
    *("default_collation", "disable_timestamptz_casts", "json_geometry_format", "lambda_syntax"),
)
SPOOL_LIMIT_BYTES = 64 << 20


@cache
def _known_settings() -> tuple[str, ...]:
    """Those of LOCAL_SETTINGS that this version of DuckDB has."""
    duck, known = Duck.connect(":memory:", False, {"threads": 1}), []
    for name in LOCAL_SETTINGS:
        with contextlib.suppress(Error):
            duck.rows(f"SELECT current_setting({literal(name)})")
            known.append(name)
    duck.close()
    return tuple(known)


class Batches(Protocol):
    """A stream of RecordBatches that can be closed before its end."""

    def __aiter__(self) -> AsyncIterator[Any]: ...

    async def __anext__(self) -> Any: ...

    async def aclose(self) -> None:
        """Stop: release everything, inputs included; idempotent."""
        ...


@dataclass(slots=True)
class RunContext:
    """One run of one DAG. Made by the session, used on one asyncio loop, ended by ``close``.

    duck               the user's connection (its transaction, temporary objects, settings)
    channels           the way to the models; the session closes it
    metrics            physical node id -> counters; nodes without an entry get one
    spool_limit_bytes  what a spool keeps in memory before it goes to a file
    max_recursion      times the calls of a recursive query may be asked
    folder             where spool files are put
    dag                set by ``build``
    spooled            set by ``build``: fragments that must not keep the connection while others wait for it
    failures           failures that wait, by the numbers in the columns of deferrals
    querying           lower-case names of the tools and agents whose calls run queries on the connection
    """

    duck: Duck
    channels: Channels
    metrics: dict[int, NodeMetrics] = field(default_factory=dict)
    spool_limit_bytes: int = SPOOL_LIMIT_BYTES
    max_recursion: int = 1000
    folder: str = field(default_factory=tempfile.gettempdir)
    dag: PhysicalDag | None = None
    spooled: frozenset[int] = frozenset()
    failures: list[EngineError] = field(default_factory=list)
    querying: frozenset[str] = frozenset()
    text_cast: TextCast = field(default_factory=TextCast)
    main: DuckThread = field(init=False)
    cleanups: list[Callable[[], None]] = field(default_factory=list)
    _side: DuckThread | None = None
    _settings: dict[str, str] | None = None
    _run: str = field(default_factory=lambda: secrets.token_hex(4))
    _names: count[int] = field(default_factory=count)
    _lent: int = 0

    def __post_init__(self) -> None:
        self.main = DuckThread(self.duck, "halo-duckdb")

    def node_metrics(self, node_id: int) -> NodeMetrics:
        """The counters of a node."""
        return self.metrics.setdefault(node_id, NodeMetrics())

    def temp_name(self) -> str:
        """A fresh name for a temporary table."""
        return f"__halo_{self._run}_{next(self._names)}"

    def input_columns(self, node: PhysicalNode) -> list[tuple[Column, ...]]:
        """The columns of each input of a node."""
        assert self.dag is not None
        return [self.dag.node(number).columns for number in node.inputs]

    async def prepare(self) -> None:
        """Read what side connections need from the user's connection, before a stream occupies it."""
        if self._settings is None:
            known = _known_settings()
            items = ", ".join(f"CAST(current_setting({literal(name)}) AS VARCHAR)" for name in known)
            async with self.main.gate:
                rows = await self.main.call(lambda: self.duck.rows(f"SELECT {items}"))
            self._settings = dict(zip(known, rows[0], strict=True))
            self.text_cast.time_zone = self._settings["TimeZone"]

    async def on_connection(self, work: Callable[[Duck], T]) -> T:
        """Run a tool's query on the user's connection, between whatever else uses it."""
        if self._lent:
            return await self.main.call(lambda: work(self.duck))
        async with self.main.gate:
            return await self.main.call(lambda: work(self.duck))

    @contextlib.contextmanager
    def lending(self) -> Iterator[None]:
        """The caller holds the connection's gate and has no result open: tools may use it meanwhile."""
        self._lent += 1
        try:
            yield
        finally:
            self._lent -= 1

    async def side(self) -> DuckThread:
        """A second connection for row-wise work while the user's streams; with its local settings."""
        if self._side is None:
            assert self._settings is not None, "prepare() comes first"
            self._side = DuckThread(self.duck.duplicate(), "halo-side")
            for name, value in self._settings.items():
                self._side.duck.execute(f"SET {name} = {literal(value)}")
        return self._side

    def close(self) -> None:
        """Release threads, side connection and spool files. Call when every operator is closed; idempotent."""
        cleanups, self.cleanups = self.cleanups, []
        for cleanup in reversed(cleanups):
            cleanup()
        self.text_cast.close()
        self.main.close()
        if self._side is not None:
            side, self._side = self._side, None
            side.close()
            with contextlib.suppress(Error):
                side.duck.close()
