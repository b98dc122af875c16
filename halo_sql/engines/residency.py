"""Which models stand on a device: those that fit stay together, others take turns.

A model that needs room puts out idle ones: first those that no running plan will ask, then the one that is asked again
last (Belady, 1966), the least recently used among equals. A pinned one stays. One with requests in flight is waited
for: it finishes them, and after ``PATIENCE_S`` (or a few times what changing places takes) it gets no new ones.

The workers of an emulated model that stands on several devices come and go one by one: each device makes room itself
(``emulated_device``), so that one model may work on one device and another beside it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from halo_sql.clock import clock_s
from halo_sql.engines.protocol import EngineInfo
from halo_sql.errors import EngineError

PATIENCE_S = 2.0
PATIENCE_STARTS = 4.0  # how many starts long a model may keep its place while another waits
_GB = 1e9


class Occupant(Protocol):
    """A model as the device sees it.

    info       its sizes; None: unknown until it has started
    devices    what it stands on, by number or name; empty: the first one (or the machine's memory)
    workers    that it has; each brings its devices' memory
    pinned     it is never put out
    by_itself  its workers come to their devices one by one, and make room there themselves
    there      it has its place, or is about to fill it
    leaving    it gets no new requests until it has left and come back
    busy       it works on requests, or is about to
    used       a count that grows: the last time it was asked
    load_s     seconds its start takes; 0: unknown
    """

    name: str
    info: EngineInfo | None
    devices: Sequence[int | str]
    workers: int
    pinned: bool
    by_itself: bool
    there: bool
    leaving: bool
    used: int
    load_s: float

    @property
    def busy(self) -> bool:
        """Whether it may not be put out now."""
        ...

    async def put_out(self) -> None:
        """Leave the device: asleep, or closed."""
        ...

    def stay(self) -> None:
        """It need not leave: what waits for it goes on."""
        ...


class Residency:
    """The places of all models of a pool. All methods on its loop.

    on_next  called with the name of the model that a running plan asks next, when the one before it begins to work
    swaps    how often a model was put out
    """

    def __init__(self, on_next: Callable[[str], object] | None = None) -> None:
        self.on_next = on_next
        self._all: list[Occupant] = []
        self._orders: dict[int, list[str]] = {}
        self._numbers = itertools.count()
        self._turn = asyncio.Lock()  # one makes room at a time, in order of arrival
        self._changed = asyncio.Event()
        self.swaps = 0

    def expect(self, names: Sequence[str]) -> Callable[[], None]:
        """A plan will ask these models, in this order; the result ends that."""
        number = next(self._numbers)
        self._orders[number] = [name.lower() for name in names]
        return lambda: self._ended(number)

    def _ended(self, number: int) -> None:
        self._orders.pop(number, None)
        self._changed.set()

    def works(self, occupant: Occupant) -> None:
        """It begins to work on requests."""
        if self.on_next is None:
            return
        for order in self._orders.values():
            if occupant.name in order:
                later = order[order.index(occupant.name) + 1 :]
                wanted = next((name for name in later if name != occupant.name), None)
                if wanted is not None:
                    self.on_next(wanted)

    def changed(self) -> None:
        """A model became idle, or left."""
        self._changed.set()

    # --- room

    def fits(self, occupant: Occupant) -> bool:
        """Whether it could come in without anybody leaving."""
        return not self._missing(occupant)

    def take(self, occupant: Occupant) -> bool:
        """Take a place that is free; whether there was one."""
        if not occupant.there and self._missing(occupant):
            return False
        self._enter(occupant)
        return True

    async def take_unneeded(self, occupant: Occupant) -> bool:
        """Take a place that is free, or that of idle models which no running plan asks; whether there was one."""
        idle = [other for other in self._others(occupant) if not other.busy and self._next_use(other) == float("inf")]
        if not occupant.there and self._missing(occupant) > sum(_bytes(other) / len(_places(other)) for other in idle):
            return False
        while idle and not occupant.there and self._missing(occupant):
            victim = self._victim(idle)
            idle.remove(victim)
            if victim.there and not victim.busy:
                await self._put_out(victim)
        return self.take(occupant)

    def _enter(self, occupant: Occupant) -> None:
        if occupant not in self._all:
            self._all.append(occupant)
        occupant.there = True
        occupant.leaving = False

    async def admit(self, occupant: Occupant) -> None:
        """Wait for a place and take it. EngineError('unavailable') when there can be none."""
        if occupant.there:
            return
        async with self._turn:
            try:
                await self._make_room(occupant)
                self._enter(occupant)
            finally:
                for other in self._all:
                    if other.leaving and other.there:
                        other.leaving = False
                        other.stay()
        for order in self._orders.values():
            if occupant.name in order:
                del order[: order.index(occupant.name)]

    async def settle(self, occupant: Occupant) -> None:
        """It has started and its sizes are known now: put out idle ones that it leaves no room for."""
        while self._missing(occupant):
            idle = [other for other in self._others(occupant) if not other.busy]
            if not idle:
                return
            await self._put_out(self._victim(idle))

    async def clear(self, occupant: Occupant) -> bool:
        """Put out whatever is idle on its devices; whether anything was."""
        idle = [other for other in self._all if self._may_go(other, occupant) and not other.busy]
        for other in idle:
            await self._put_out(other)
        return bool(idle)

    def gone(self, occupant: Occupant) -> None:
        """It was closed for good."""
        if occupant in self._all:
            self._all.remove(occupant)
        occupant.there = False
        self._changed.set()

    async def _make_room(self, occupant: Occupant) -> None:
        self.check_alone(occupant)
        since_s = clock_s()
        while self._missing(occupant):
            others = self._others(occupant)
            if not others:
                raise self._held_by_pinned(occupant)
            idle = [other for other in others if not other.busy]
            if idle:
                await self._put_out(self._victim(idle))
                continue
            victim = next((other for other in others if other.leaving), None) or self._victim(others)
            patience_s = max(PATIENCE_S, PATIENCE_STARTS * (victim.load_s + occupant.load_s))
            left_s = since_s + patience_s - clock_s()
            if left_s <= 0:
                victim.leaving = True
            self._changed.clear()
            try:
                async with asyncio.timeout(None if victim.leaving else left_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _others(self, occupant: Occupant) -> list[Occupant]:
        """Those whose place it could take."""
        return [other for other in self._all if self._may_go(other, occupant) and _bytes(other)]

    def _may_go(self, other: Occupant, occupant: Occupant) -> bool:
        if other is occupant or not other.there or other.pinned:
            return False
        return occupant.info is None or bool(_places(other) & _places(occupant))  # unknown: it may be any device

    def _victim(self, others: Sequence[Occupant]) -> Occupant:
        return max(others, key=lambda other: (self._next_use(other), -other.used))

    def _next_use(self, occupant: Occupant) -> float:
        found = [order.index(occupant.name) for order in self._orders.values() if occupant.name in order]
        return min(found, default=float("inf"))

    async def _put_out(self, victim: Occupant) -> None:
        victim.there = False
        self.swaps += 1
        await victim.put_out()

    def _missing(self, occupant: Occupant) -> float:
        """Bytes by which its fullest device is too small for it beside those that are there; 0: none, or unknown."""
        info = occupant.info
        if info is None or not info.memory_bytes or not _bytes(occupant):
            return 0.0
        places = _places(occupant)
        most = 0.0
        for place in places:
            taken = _bytes(occupant) / len(places)
            for other in self._all:
                if other is not occupant and other.there and place in _places(other):
                    taken += _bytes(other) / len(_places(other))
            most = max(most, taken - _memory(occupant))
        return most

    # --- errors

    def check_alone(self, occupant: Occupant) -> None:
        """EngineError('unavailable') when its device is too small for it alone."""
        info = occupant.info
        if info is None or not info.memory_bytes or occupant.by_itself:
            return
        room = _memory(occupant) * len(_places(occupant))
        if _bytes(occupant) <= room:
            return
        left = room - info.weight_bytes
        remedy = "Its weights alone do not fit: take a smaller or quantized model, or spread it over more devices."
        if left > 0:
            remedy = (
                f"A KV cache of {left / (1 << 30):.1f} GiB would fit: ALTER MODEL {occupant.name} "
                f"SET (kv_cache_gib = {int(left / (1 << 30) * 10) / 10 or 0.01}); or take a smaller or quantized model."
            )
        raise EngineError(
            f'model "{occupant.name}" needs {_told(occupant)}; {info.device} has {room / _GB:.1f} GB',
            code="unavailable",
            remedy=remedy,
        )

    def _held_by_pinned(self, occupant: Occupant) -> EngineError:
        pinned = [other for other in self._all if other.there and other.pinned and _places(other) & _places(occupant)]
        names = ", ".join(f'"{other.name}"' for other in pinned)
        taken = sum(_bytes(other) for other in pinned)
        room = _memory(occupant) * len(_places(occupant))
        assert occupant.info is not None
        return EngineError(
            f'model "{occupant.name}" needs {_told(occupant)}; {names} (pinned) leave '
            f"{max(0.0, room - taken) / _GB:.1f} GB of the {room / _GB:.1f} GB of {occupant.info.device}",
            code="unavailable",
            remedy=f"ALTER MODEL {pinned[-1].name if pinned else occupant.name} RESET (pinned), or lower kv_cache_gib.",
        )


def _bytes(occupant: Occupant) -> float:
    """Weights and KV cache; 0: unknown, or no matter."""
    info = occupant.info
    if info is None or not info.memory_bytes or occupant.by_itself:
        return 0.0
    return float(info.weight_bytes + info.kv_capacity_tok * info.kv_tok_bytes)


def _memory(occupant: Occupant) -> float:
    """Of one of its devices."""
    info = occupant.info
    assert info is not None
    return info.memory_bytes / (1 if info.device == "cpu" else occupant.workers)


def _places(occupant: Occupant) -> frozenset[str]:
    device = occupant.info.device if occupant.info is not None else ""
    if device == "cpu":  # cores share the memory
        return frozenset((device,))
    return frozenset(place if isinstance(place, str) else f"{device}:{place}" for place in (occupant.devices or (0,)))


def _told(occupant: Occupant) -> str:
    info = occupant.info
    assert info is not None
    kv = info.kv_capacity_tok * info.kv_tok_bytes
    return f"{_bytes(occupant) / _GB:.1f} GB (weights {info.weight_bytes / _GB:.1f}, KV cache {kv / _GB:.1f})"
