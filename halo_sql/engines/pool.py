"""The engine pool: one warm engine per model definition, for as long as the session lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import weakref
from collections.abc import Callable, Sequence
from functools import partial

from halo_sql.engines import registry
from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.tasks import Shared
from halo_sql.errors import EngineError, Error, InterfaceError
from halo_sql.virtual_time import clock_s, is_virtual

# name, version, engine, source, options, id of the registered callable, what its secret holds
Key = tuple[str, int, str, str, str, int, str]


LEAST_S = 1e-9  # of a start: one that took no time is one, too


class PooledEngine:
    """A pool's engine as its users hold it: an Engine whose start is shared and whose ``close`` leaves it warm.

    As long as somebody holds it, the pool does not close the engine behind it.
    """

    __slots__ = ("__weakref__", "_entry", "engine")

    def __init__(self, entry: _Entry) -> None:
        self._entry = entry
        self.engine = entry.engine

    async def start(self) -> EngineInfo:
        """Make ready; everybody waits for the same start, also for its error."""
        try:
            return await asyncio.shield(self._entry.start.once())
        except Exception:
            self._entry.reported = True
            raise

    @property
    def load_s(self) -> float:
        """Seconds its start took; 0 as long as it has not started."""
        return self._entry.load_s

    async def describe(self) -> EngineInfo | None:
        """As Engine.describe."""
        return await self.engine.describe()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """As Engine.submit; begins the start of an engine that was only described so far."""
        self._entry.start.once()
        self.engine.submit(requests, deliver)

    def abort(self, ids: Sequence[int]) -> None:
        """As Engine.abort."""
        self.engine.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        """As Engine.count_tok."""
        return self.engine.count_tok(request)

    async def close(self) -> None:
        """Does nothing: the pool closes its engines."""


class _Entry:
    """One engine of the pool."""

    __slots__ = ("engine", "handle", "key", "load_s", "reported", "start")

    def __init__(self, key: Key, engine: Engine) -> None:
        self.key = key
        self.engine = engine
        self.start: Shared[EngineInfo] = Shared(self._started)
        self.load_s = 0.0
        self.reported = False  # a failed start was raised to somebody
        self.handle: weakref.ref[PooledEngine] | None = None  # None: nobody ever asked for it

    async def _started(self) -> EngineInfo:
        began = clock_s()
        if is_virtual() and self.key[2] in ("vllm", "openai"):
            raise EngineError(
                f'model "{self.key[0]}" works in real time, and this connection has a virtual clock',
                code="unavailable",
                remedy="Use an emulated model, or connect without halo_virtual_time.",
            )
        info = await self.engine.start()
        self.load_s = max(clock_s() - began, LEAST_S)
        return info

    def idle(self) -> bool:
        return self.handle is None or self.handle() is None

    def spent(self, again: bool) -> bool:
        """Whether only a fresh engine can help: it ended itself (refused credentials), or its start failed.

        The error of a start in the background goes to the first who asks; only then, or when it is to be begun
        ``again``, the next engine is made.
        """
        if getattr(self.engine, "failed", None) is not None:
            return True
        return self.start.failed() and (again or self.reported)


class EnginePool:
    """Engines by model definition, all on one asyncio loop (``loop``). Only ``start`` may be called off that loop.

    A model that is asked for with a new version or definition replaces its older engines: each is closed when the
    last PooledEngine of it is gone. An engine whose start failed is replaced once somebody has seen the error.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        functions: registry.Functions | None = None,
        create: Callable[[registry.Definition, registry.Functions], Engine] | None = None,
        secrets: SecretStore | None = None,
    ) -> None:
        self.loop = loop
        self.functions: registry.Functions = {} if functions is None else functions  # live: may grow
        self._create = create or partial(registry.create, secrets=secrets)
        self._secrets = secrets
        self._entries: dict[str, _Entry] = {}  # lower-case model name -> the current engine
        self._retired: set[_Entry] = set()  # replaced, still in use
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def get(self, model: registry.Definition) -> PooledEngine:
        """The model's engine, made if there is none yet; not necessarily started.

        Raises CatalogError for a definition that makes no engine, InterfaceError when the pool is closed.
        """
        entry = self._entry(model)
        handle = None if entry.handle is None else entry.handle()
        if handle is None:
            handle = PooledEngine(entry)
            entry.handle = weakref.ref(handle, lambda _: self._released(entry))
        return handle

    def start(self, model: registry.Definition) -> None:
        """Begin to start the model's engine in the background (from any thread); errors show up at ``get``."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._start, model)

    def resident(self, model: registry.Definition) -> bool:
        """Whether the model's engine has started, in this definition (from any thread)."""
        entry = self._entries.get(model.name.lower())
        return entry is not None and entry.key == self._key(model) and entry.load_s > 0.0

    def started(self) -> set[str]:
        """Lower-case names of the models whose engines have started (from any thread)."""
        return {name for name, entry in list(self._entries.items()) if entry.load_s > 0.0}

    async def close(self) -> None:
        """Close all engines and wait until they are; idempotent."""
        self._closed = True
        for entry in [*self._entries.values(), *self._retired]:
            self._close_soon(entry)
        self._entries.clear()
        self._retired.clear()
        while self._closing:
            await asyncio.wait(self._closing)

    def _entry(self, model: registry.Definition, again: bool = False) -> _Entry:
        if self._closed:
            raise InterfaceError("the connection is closed", remedy="Open a new one.")
        name, key = model.name.lower(), self._key(model)
        entry = self._entries.get(name)
        if entry is not None and entry.key == key and not entry.spent(again):
            return entry
        fresh = _Entry(key, self._create(model, self.functions))
        self._entries[name] = fresh
        if entry is not None:
            self._retire(entry)
        return fresh

    def _key(self, model: registry.Definition) -> Key:
        name = model.name.lower()
        options = json.dumps(dict(model.options), sort_keys=True, default=repr)
        function = self.functions.get(name) if model.engine in ("python", "emulated") else None
        secret = model.options.get("secret") if self._secrets is not None else None
        stamp = "" if secret is None or self._secrets is None else self._secrets.stamp(str(secret))
        return name, model.version, model.engine, model.source, options, 0 if function is None else id(function), stamp

    def _start(self, model: registry.Definition) -> None:
        with contextlib.suppress(Error):  # the same error is raised to whoever gets the engine
            self._entry(model, again=True).start.begin()

    def _retire(self, entry: _Entry) -> None:
        self._retired.add(entry)
        if entry.idle():
            self._close_retired(entry)

    def _released(self, entry: _Entry) -> None:
        """The last user let go of an engine (called by the garbage collector, on any thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: so are the engines
            self.loop.call_soon_threadsafe(self._close_retired, entry)

    def _close_retired(self, entry: _Entry) -> None:
        if entry in self._retired and entry.idle():
            self._retired.discard(entry)
            self._close_soon(entry)

    def _close_soon(self, entry: _Entry) -> None:
        task = self.loop.create_task(_close(entry))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(entry: _Entry) -> None:
    entry.start.cancel()
    with contextlib.suppress(Exception):  # an engine that dies while it is closed is closed
        await entry.engine.close()
