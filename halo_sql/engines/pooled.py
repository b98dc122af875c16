"""One engine of the pool: its start, what waits for it, and its going and coming when models take turns."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from halo_sql.clock import clock_s
from halo_sql.engines.meter import Did
from halo_sql.engines.protocol import Deliver, Engine, EngineInfo, GenRequest, GenResult, Limit
from halo_sql.engines.residency import Residency
from halo_sql.engines.static_tok import StaticCounter
from halo_sql.engines.tasks import Shared, cancelled
from halo_sql.engines.window import limit_of
from halo_sql.errors import EngineError, Error
from halo_sql.virtual_time import is_virtual

# name, version, engine, source, options, id of the registered callable, what its secret holds
Key = tuple[str, int, str, str, str, int, str]
LEAST_S = 1e-9  # of a start: one that took no time is one, too
_ticks = itertools.count(1)


class Entry:
    """One engine of the pool (``residency.Occupant``).

    make    a fresh engine, for when this one was closed to make room
    load_s  seconds its start took; 0: it has not started
    """

    def __init__(
        self,
        key: Key,
        make: Callable[[], Engine],
        residency: Residency,
        devices: Sequence[int | str] = (),
        workers: int = 1,
        pinned: bool = False,
        by_itself: bool = False,
    ) -> None:
        self.key = key
        self.name = key[0]
        self.engine = make()
        self.counter = StaticCounter(self.engine)
        self.devices = devices
        self.workers = workers
        self.pinned = pinned
        self.by_itself = by_itself
        self.info: EngineInfo | None = None
        self.start: Shared[EngineInfo] = Shared(self._started)
        self.load_s = 0.0
        self.there = self.leaving = False
        self.in_flight = 0
        self.used = 0
        self.reported = False  # a failed start was raised to somebody
        self.handle: weakref.ref[Any] | None = None  # None: nobody ever asked for it
        self._make = make
        self._residency = residency
        self._asleep = False
        self._held: list[tuple[Sequence[GenRequest], Deliver]] = []  # for it to be there
        self._coming = False
        self._at_start = False

    # --- coming and going

    async def describe(self) -> EngineInfo | None:
        """As Engine.describe; sizes are kept."""
        found = self.info or await self.engine.describe()
        if self.info is None:
            self.info = found
        return found

    async def ready(self) -> EngineInfo:
        """As Engine.start; a model for which there is no room at the moment comes in when it is asked."""
        info = await self.describe()
        if info is not None and not self._residency.take(self):
            self._residency.check_alone(self)
            return info
        return await asyncio.shield(self.start.once())

    async def _started(self) -> EngineInfo:
        if is_virtual() and self.key[2] in ("vllm", "openai"):
            raise EngineError(
                f'model "{self.name}" works in real time, and this connection has a virtual clock',
                code="unavailable",
                remedy="Use an emulated model, or connect without halo_virtual_time.",
            )
        await self.describe()
        await self._residency.admit(self)
        began = clock_s()
        self._at_start = True
        try:
            if self._asleep:
                await self.engine.wake()  # type: ignore[attr-defined]
                self._asleep = False
                assert self.info is not None
                return self.info
            try:
                info = await self.engine.start()
            except EngineError as problem:
                if "memory" not in problem.message.lower() or not await self._residency.clear(self):
                    raise
                info = await self.engine.start()
        except BaseException:
            self.there = False
            raise
        finally:
            self._at_start = False
            self._residency.changed()
        self.load_s = max(clock_s() - began, LEAST_S)
        self.info = info
        await self._residency.settle(self)
        return info

    async def put_out(self) -> None:
        """Leave the device, asleep where the engine can, else closed; comes back when it is asked."""
        self.start = Shared(self._started)
        if getattr(self.engine, "can_sleep", False):
            await self.engine.sleep()  # type: ignore[attr-defined]
            self._asleep = True
        else:
            old, self.engine = self.engine, self._make()
            self.counter = StaticCounter(self.engine)
            with contextlib.suppress(Exception):  # one that dies while it is closed is closed
                await old.close()
        if self._held:
            self._come()

    def stay(self) -> None:
        """It need not leave: what is held is sent."""
        self._arrived(self.start.once()) if self._came() else self._come()

    @property
    def busy(self) -> bool:
        """Whether it starts, works on requests, or is about to."""
        return self.in_flight > 0 or self._at_start or (bool(self._held) and not self.leaving)

    def idle(self) -> bool:
        """Whether nobody holds it."""
        return self.handle is None or self.handle() is None

    def spent(self, again: bool) -> bool:
        """Whether only a fresh engine can help: it ended itself (refused credentials), or its start failed.

        The error of a start in the background goes to the first who asks; only then, or when it is to be begun
        ``again``, the next engine is made.
        """
        if getattr(self.engine, "failed", None) is not None:
            return True
        return self.start.failed() and (again or self.reported)

    # --- requests

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """As Engine.submit."""
        info = self.info
        if info is not None and not info.memory_bytes:  # no matter where it is
            self.start.once()
            self.engine.submit(requests, deliver)
        elif self.there and not self.leaving and self._came():
            self._send(requests, deliver)
        else:
            self._held.append((requests, deliver))
            self._come()

    def _came(self) -> bool:
        task = self.start.once()
        return task.done() and not self.start.failed()

    def _come(self) -> None:
        """Come in, unless it must leave first; what is held is sent then."""
        if self._coming or (self.leaving and self.there):
            return
        self._coming = True
        self.start.once().add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[EngineInfo]) -> None:
        self._coming = False
        held, self._held = self._held, []
        if task.cancelled():
            for requests, deliver in held:
                deliver([cancelled(request.id) for request in requests])
        elif (problem := task.exception()) is not None:
            self.reported = True
            code = problem.code if isinstance(problem, EngineError) else "engine"
            message = problem.message if isinstance(problem, Error) else repr(problem)
            remedy = problem.remedy if isinstance(problem, Error) else ""
            error = EngineError(message, code=code, fatal=True, remedy=remedy)
            for requests, deliver in held:
                deliver([GenResult(request.id, finish="error", error=error) for request in requests])
        else:
            for requests, deliver in held:
                self.submit(requests, deliver)

    def _send(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        begins = not self.in_flight
        self.in_flight += len(requests)
        self.used = next(_ticks)

        def delivered(results: Sequence[GenResult]) -> None:
            self.in_flight -= len(results)
            deliver(results)
            if not self.in_flight:
                self._residency.changed()

        self.engine.submit(requests, delivered)
        if begins:
            self._residency.works(self)

    def abort(self, ids: Sequence[int]) -> None:
        """As Engine.abort."""
        wanted = set(ids)
        for place, (requests, deliver) in enumerate(self._held):
            gone = [request for request in requests if request.id in wanted]
            if gone:
                self._held[place] = ([request for request in requests if request.id not in wanted], deliver)
                asyncio.get_running_loop().call_soon(deliver, [cancelled(request.id) for request in gone])
        self.engine.abort(ids)

    async def close(self) -> None:
        """End it; what is in flight or waits is cancelled."""
        self.start.cancel()
        with contextlib.suppress(Exception):  # an engine that dies while it is closed is closed
            await self.engine.close()
        held, self._held = self._held, []
        for requests, deliver in held:
            deliver([cancelled(request.id) for request in requests])
        self._residency.gone(self)


class PooledEngine:
    """A pool's engine as its users hold it: an Engine whose start is shared and whose ``close`` leaves it warm.

    As long as somebody holds it, the pool does not close the engine behind it, except to make room for another model;
    it is then started again by the next request.
    """

    __slots__ = ("__weakref__", "_entry")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def engine(self) -> Engine:
        """The engine behind it now."""
        return self._entry.engine

    async def start(self) -> EngineInfo:
        """Make ready; everybody waits for the same start, also for its error."""
        try:
            return await self._entry.ready()
        except Exception:
            self._entry.reported = True
            raise

    @property
    def load_s(self) -> float:
        """Seconds its start took; 0 as long as it has not started."""
        return self._entry.load_s

    async def describe(self) -> EngineInfo | None:
        """As Engine.describe."""
        return await self._entry.describe()

    def submit(self, requests: Sequence[GenRequest], deliver: Deliver) -> None:
        """As Engine.submit; begins the start of an engine that was only described so far."""
        self._entry.submit(requests, deliver)

    def abort(self, ids: Sequence[int]) -> None:
        """As Engine.abort."""
        self._entry.abort(ids)

    def count_tok(self, request: GenRequest) -> int:
        """As Engine.count_tok."""
        return self.engine.count_tok(request)

    def worker_counts(self) -> dict[int, dict[str, float]]:
        """What each worker did so far (``WorkerGroup.worker_stats``); {}: the model has but one."""
        stats = getattr(self.engine, "worker_stats", None)
        return {} if stats is None else dict(enumerate(stats()))

    def workers_did(self) -> dict[int, Did]:
        """What each worker did so far; {}: the model has but one."""
        return {worker.number: worker.meter.so_far() for worker in getattr(self.engine, "workers", ())}

    def limits(self) -> dict[str, Limit]:
        """Requests that it sends at once, where it finds that out: of itself ('') or each worker ('/0', '/1', …)."""
        workers = getattr(self.engine, "workers", None)
        engines = {f"/{worker.number}": worker.engine for worker in workers} if workers else {"": self.engine}
        return {name: limit for name, engine in engines.items() if (limit := limit_of(engine)) is not None}

    def lost(self) -> frozenset[int]:
        """The workers that are given up."""
        workers = getattr(self.engine, "workers", ())
        return frozenset(worker.number for worker in workers if worker.state == "lost")

    async def close(self) -> None:
        """Does nothing: the pool closes its engines."""
