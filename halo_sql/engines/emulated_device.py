"""Emulated devices: memory in which models reside, and a processor that makes the steps of one of them at a time.

A device has a name; models of one event loop that name the same one share it. Resident models with work take turns,
a step each. A model with work that is not resident is loaded (or woken) as soon as its memory is free; to make room,
models without work leave, the one that ended last first to stay. One that may sleep keeps its weights in host memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

from halo_sql.engines.emulated_batch import Sequence, Turn
from halo_sql.errors import EngineError

ABSENT, LOADING, RESIDENT, LEAVING, ASLEEP = "absent", "loading", "resident", "leaving", "asleep"
Interval = tuple[float, float]


@dataclass(slots=True)
class Times:
    """What a model did on its device, in seconds of the loop's clock: begin and end of each interval.

    busy     its steps, without a gap between two that follow each other
    loads    loads and wakes; ``leaves``: when it went to make room
    """

    busy: list[Interval] = field(default_factory=list)
    loads: list[Interval] = field(default_factory=list)
    leaves: list[Interval] = field(default_factory=list)

    def worked(self, begin_s: float, end_s: float) -> None:
        """A turn."""
        if self.busy and self.busy[-1][1] >= begin_s:
            self.busy[-1] = self.busy[-1][0], end_s
        else:
            self.busy.append((begin_s, end_s))


class Tenant(Protocol):
    """A model on a device."""

    name: str
    bytes: int  # of weights and KV cache
    times: Times

    def has_work(self) -> bool:
        """Whether requests wait or run."""
        ...

    def plan(self, alone: bool) -> Turn | None:
        """See ``Batch.plan``."""
        ...

    def seconds(self, turn: Turn, steps: int) -> float:
        """Of the first so many steps of a turn."""
        ...

    def finish(self, turn: Turn) -> list[Sequence]:
        """See ``Batch.finish``."""
        ...

    def answered(self, sequences: list[Sequence]) -> None:
        """Deliver."""
        ...

    def load_s(self, state: str) -> float:
        """Seconds to become resident from this state."""
        ...

    def leave_s(self) -> float:
        """Seconds until its memory is free."""
        ...

    def left(self) -> str:
        """Forget what was on the device; the state it is in now."""
        ...


@dataclass(slots=True, eq=False)
class _Place:
    tenant: Tenant
    state: str = ABSENT
    wanted: list[asyncio.Future[None]] = field(default_factory=list)
    asked: bool = False  # it is to be resident though it has no work
    used: int = 0  # number of its last load or turn
    turned: int = 0  # number of its last turn


def _used(place: _Place) -> int:
    return place.used


class Device:
    """One device on one loop.

    switches  how often a model left to make room for another
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.memory_bytes = 0  # of the last profile that tells
        self.switches = 0
        self._loop = loop
        self._places: dict[Tenant, _Place] = {}
        self._order: list[_Place] = []
        self._uses = 0
        self._turn: tuple[_Place, Turn, float] | None = None  # with its begin
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None

    def join(self, tenant: Tenant, memory_bytes: int) -> None:
        """A model comes to live here. EngineError('unavailable') when it can never be resident."""
        memory = memory_bytes or self.memory_bytes
        if memory and tenant.bytes > memory:
            raise EngineError(
                f'model "{tenant.name}" takes {tenant.bytes / 1e9:.3g} GB with its KV cache, and the emulated device '
                f'"{self.name}" has {memory / 1e9:.3g} GB',
                code="unavailable",
                remedy="Give it a smaller kv_cache_gib, or another profile.",
            )
        self.memory_bytes = memory
        place = self._places[tenant] = _Place(tenant)
        self._order.append(place)

    def depart(self, tenant: Tenant) -> None:
        """A model is closed: its memory is free."""
        place = self._places.pop(tenant, None)
        if place is None:
            return
        self._order.remove(place)
        if self._turn is not None and self._turn[0] is place:
            self._end_timer()
            self._turn = None
        for waiter in place.wanted:
            waiter.cancel()
        self.kick(None)

    def tenants(self) -> list[Tenant]:
        """The models that live here, in the order in which they came."""
        return list(self._places)

    def state(self, tenant: Tenant) -> str:
        """Where its weights are."""
        return self._places[tenant].state

    async def reside(self, tenant: Tenant) -> None:
        """Return when the model is resident."""
        place = self._places[tenant]
        if place.state == RESIDENT:
            return
        waiter = self._loop.create_future()
        place.wanted.append(waiter)
        place.asked = True
        self._settle()
        await waiter

    async def vacate(self, tenant: Tenant) -> None:
        """Return when the model has left; EngineError when it has work."""
        place = self._places[tenant]
        if place.state == LOADING:
            await self.reside(tenant)
        if place.state == LEAVING:
            await asyncio.sleep(self._left_s(place))
        if place.state != RESIDENT:
            return
        if place.tenant.has_work() or (self._turn is not None and self._turn[0] is place):
            raise EngineError(f'model "{tenant.name}" has requests in flight', code="rejected")
        self.switches += 1
        self._leave(place)
        await asyncio.sleep(self._left_s(place))

    def kick(self, tenant: Tenant | None) -> None:
        """There may be something to do: new requests of this model, or one that is gone."""
        turn = self._turn
        if turn is None:
            if self._soon is None:
                self._soon = self._loop.call_soon(self._next)
        elif turn[1].steps > 1:
            self._cut()

    # --- turns

    def _next(self) -> None:
        self._soon = None
        if self._turn is not None:
            return
        self._settle()
        while True:
            ready = [place for place in self._order if place.state == RESIDENT and place.tenant.has_work()]
            if not ready:
                return
            place = min(ready, key=lambda one: one.turned)
            turn = place.tenant.plan(len(ready) == 1)
            if turn is not None:
                break
            if len(ready) == 1:
                return
        self._uses += 1
        place.used = place.turned = self._uses
        began_s = self._loop.time()
        self._turn = place, turn, began_s
        self._timer = self._loop.call_at(began_s + place.tenant.seconds(turn, turn.steps), self._ended)

    def _cut(self) -> None:
        """End a turn of many steps behind the one that is under way."""
        assert self._turn is not None
        place, turn, began_s = self._turn
        gone_s = self._loop.time() - began_s
        low, high = 1, turn.steps
        while low < high:
            middle = (low + high) // 2
            if place.tenant.seconds(turn, middle) >= gone_s:
                high = middle
            else:
                low = middle + 1
        if low == turn.steps:
            return
        turn.steps = low
        self._end_timer()
        self._timer = self._loop.call_at(began_s + place.tenant.seconds(turn, low), self._ended)

    def _ended(self) -> None:
        assert self._turn is not None
        place, turn, began_s = self._turn
        self._turn = self._timer = None
        sequences = place.tenant.finish(turn)
        place.tenant.times.worked(began_s, self._loop.time())
        self.kick(None)  # before the answers, which may bring new requests
        if sequences:
            place.tenant.answered(sequences)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- memory

    def _settle(self) -> None:
        """Bring in the models that have work and are not there, the one whose last turn is longest ago first."""
        for place in sorted(self._order, key=_used):
            if place.state in (ABSENT, ASLEEP) and (place.asked or place.tenant.has_work()):
                free = self._free()
                if free >= place.tenant.bytes:
                    self._load(place)
                    continue
                for other in sorted(self._order, key=_used):
                    if free >= place.tenant.bytes:
                        break
                    if other is not place and other.state == RESIDENT and self._is_idle(other):
                        free += other.tenant.bytes
                        self.switches += 1
                        self._leave(other)
                return  # what leaves calls again

    def _free(self) -> float:
        if not self.memory_bytes:
            return float("inf")
        taken = sum(one.tenant.bytes for one in self._order if one.state in (LOADING, RESIDENT, LEAVING))
        return self.memory_bytes - taken

    def _is_idle(self, place: _Place) -> bool:
        return not place.tenant.has_work() and (self._turn is None or self._turn[0] is not place)

    def _load(self, place: _Place) -> None:
        begin_s = self._loop.time()
        end_s = begin_s + place.tenant.load_s(place.state)
        place.state = LOADING
        place.tenant.times.loads.append((begin_s, end_s))
        self._at(end_s, self._loaded, place)

    def _loaded(self, place: _Place) -> None:
        if self._places.get(place.tenant) is not place:
            return
        place.state = RESIDENT
        place.asked = False
        self._uses += 1
        place.used = self._uses
        waiters, place.wanted = place.wanted, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.kick(None)

    def _leave(self, place: _Place) -> None:
        begin_s = self._loop.time()
        end_s = begin_s + place.tenant.leave_s()
        place.state = LEAVING
        place.tenant.times.leaves.append((begin_s, end_s))
        self._at(end_s, self._gone, place)

    def _gone(self, place: _Place) -> None:
        if self._places.get(place.tenant) is place:
            place.state = place.tenant.left()
            self._settle()

    def _left_s(self, place: _Place) -> float:
        return max(0.0, place.tenant.times.leaves[-1][1] - self._loop.time())

    def _at(self, when_s: float, call: Callable[[_Place], None], place: _Place) -> None:
        if when_s <= self._loop.time():
            self._loop.call_soon(call, place)
        else:
            self._loop.call_at(when_s, call, place)


_devices: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Device]] = WeakKeyDictionary()


def device_of(name: str) -> Device:
    """The device of this name on the running loop."""
    loop = asyncio.get_running_loop()
    known = _devices.setdefault(loop, {})
    device = known.get(name.lower())
    if device is None:
        device = known[name.lower()] = Device(name, loop)
    return device


def devices_of(loop: asyncio.AbstractEventLoop) -> list[Device]:
    """The devices of a loop, by name."""
    return [device for _, device in sorted(_devices.get(loop, {}).items())]
