"""The engine pool: one warm engine per model definition, for as long as the session lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import weakref
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from halo_sql.engines import registry
from halo_sql.engines.pooled import Entry, Key, PooledEngine
from halo_sql.engines.protocol import Engine
from halo_sql.engines.residency import Residency
from halo_sql.engines.secret_store import SecretStore
from halo_sql.engines.shares import read_devices
from halo_sql.engines.static_tok import StaticCounter
from halo_sql.errors import Error, InterfaceError


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
        self.residency = Residency(self._next)
        self._entries: dict[str, Entry] = {}  # lower-case model name -> the current engine
        self._retired: set[Entry] = set()  # replaced, still in use
        self._starting: set[asyncio.Task[object]] = set()
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
        return entry is not None and entry.key == self._key(model) and _started(entry)

    def at_hand(self, model: registry.Definition) -> Engine | None:
        """The model's engine, if it has started in this definition and stands on its device (from any thread)."""
        return self._entries[model.name.lower()].engine if self.resident(model) else None

    def started(self) -> set[str]:
        """Lower-case names of the models whose engines have started (from any thread)."""
        return {name for name, entry in list(self._entries.items()) if _started(entry)}

    def counter(self, model: registry.Definition) -> StaticCounter | None:
        """What counts tokens by the tokenizer of the model's engine (from any thread); None: it has no engine yet."""
        entry = self._entries.get(model.name.lower())
        return entry.counter if entry is not None and entry.key == self._key(model) else None

    def expect(self, models: Sequence[str]) -> Callable[[], None]:
        """A plan will ask these models, in this order: room is made accordingly. The result ends that."""
        return self.residency.expect(models)

    async def preload(self, model: registry.Definition) -> bool:
        """Begin to start the model's engine, if its device has room for it beside those that are at work or that a
        running plan will ask; whether it did.

        Not when its sizes are unknown and others are there."""
        return await self._preload(self._entry(model))

    async def _preload(self, entry: Entry) -> bool:
        info = await entry.describe()
        alone = not any(other.there for other in self._entries.values() if other is not entry)
        if entry.there or self._closed or not (info or alone) or not await self.residency.take_unneeded(entry):
            return False
        entry.start.begin()
        return True

    def _next(self, name: str) -> None:
        """A running plan asks this model next."""
        entry = self._entries.get(name)
        if entry is not None and not entry.there and entry.info is not None:
            self._in_background(self._preload(entry))

    def _in_background(self, work: Coroutine[Any, Any, object]) -> None:
        task = self.loop.create_task(work)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def close(self) -> None:
        """Close all engines and wait until they are; idempotent."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        for entry in [*self._entries.values(), *self._retired]:
            self._close_soon(entry)
        self._entries.clear()
        self._retired.clear()
        while self._closing:
            await asyncio.wait(self._closing)

    def _entry(self, model: registry.Definition, again: bool = False) -> Entry:
        if self._closed:
            raise InterfaceError("the connection is closed", remedy="Open a new one.")
        name, key = model.name.lower(), self._key(model)
        entry = self._entries.get(name)
        if entry is not None and entry.key == key and not entry.spent(again):
            return entry
        fresh = _new(key, model, partial(self._create, model, self.functions), self.residency)
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
            entry = self._entry(model, again=True)
            self._in_background(self._start_if_room(entry))

    async def _start_if_room(self, entry: Entry) -> None:
        """A start that nobody waits for puts nobody out."""
        with contextlib.suppress(Error):  # the start meets it again
            await entry.describe()
        if not self._closed and self.residency.take(entry):
            entry.start.begin()

    def _retire(self, entry: Entry) -> None:
        self._retired.add(entry)
        if entry.idle():
            self._close_retired(entry)

    def _released(self, entry: Entry) -> None:
        """The last user let go of an engine (called by the garbage collector, on any thread)."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: so are the engines
            self.loop.call_soon_threadsafe(self._close_retired, entry)

    def _close_retired(self, entry: Entry) -> None:
        if entry in self._retired and entry.idle():
            self._retired.discard(entry)
            self._close_soon(entry)

    def _close_soon(self, entry: Entry) -> None:
        task = self.loop.create_task(entry.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _started(entry: Entry) -> bool:
    return entry.there and entry.load_s > 0.0


def _new(key: Key, model: registry.Definition, make: Callable[[], Engine], residency: Residency) -> Entry:
    """An entry of a model that stands where its options say; without devices, on the first that it needs."""
    options = {name.lower(): value for name, value in model.options.items()}
    workers, devices = registry.worker_count(model), options.get("devices")
    each = options.get("tensor_parallel_size", 1)
    needed = range(workers * (each if isinstance(each, int) else 1))
    places: Sequence[int | str] = read_devices(devices) if isinstance(devices, str) else list(needed)
    if model.engine == "emulated":
        places = list(dict.fromkeys(registry.worker_places(model)))
    pinned = str(options.get("pinned")).lower() == "true"
    by_itself = model.engine == "emulated" and len(places) > 1 and not pinned
    return Entry(key, make, residency, places, workers, pinned, by_itself)
