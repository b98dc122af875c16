"""The time that conversations take: one timer for all of a channel.

A conversation's time runs from its first call of the model on. Whether that call was sent at once or waits in a queue
behind thousands of others is not always known here: while it may be waiting, its time runs only as long as the model
answers nobody, and is started when it is answered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from halo_sql.agents.conversation import Conversation

Expired = Callable[[list[Conversation]], None]


class Clock:
    """Tells ``expired`` which conversations have taken more than ``max_seconds``."""

    def __init__(self, max_seconds: float, expired: Expired) -> None:
        self._max_seconds = max_seconds
        self._expired = expired
        self._waiting: OrderedDict[Conversation, float] = OrderedDict()  # -> when asked; both in order of time
        self._running: OrderedDict[Conversation, float] = OrderedDict()  # -> when it expires
        self._answered_s = 0.0  # when the model last answered anybody
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, conversations: Iterable[Conversation]) -> None:
        """Their first calls are handed over now."""
        now_s = asyncio.get_running_loop().time()
        for conversation in conversations:
            self._waiting[conversation] = now_s
        self._arm()

    def sent(self, conversations: Iterable[Conversation]) -> None:
        """Their first calls did not have to wait: the time runs from when they were handed over."""
        for conversation in conversations:
            asked_s = self._waiting.pop(conversation, None)
            if asked_s is not None:
                self._running[conversation] = asked_s + self._max_seconds

    def answered(self, conversations: Iterable[Conversation]) -> None:
        """The model answered these."""
        self._answered_s = now_s = asyncio.get_running_loop().time()
        for conversation in conversations:
            if self._waiting.pop(conversation, None) is not None:
                self._running[conversation] = now_s + self._max_seconds

    def end(self, conversation: Conversation) -> None:
        """Its time matters no more."""
        if self._running.pop(conversation, None) is None:
            self._waiting.pop(conversation, None)

    def close(self) -> None:
        """Nothing expires any more."""
        self._waiting.clear()
        self._running.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_s(self) -> float | None:
        """When the next may expire. New ones never expire before those that are there."""
        times = []
        if self._running:
            times.append(next(iter(self._running.values())))
        if self._waiting:
            times.append(max(next(iter(self._waiting.values())), self._answered_s) + self._max_seconds)
        return min(times, default=None)

    def _arm(self) -> None:
        next_s = self._next_s()
        if self._timer is None and next_s is not None:
            self._timer = asyncio.get_running_loop().call_at(next_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time() + 0.001  # the loop's timers may ring a little early
        late = []
        while self._running and next(iter(self._running.values())) <= now_s:
            late.append(self._running.popitem(last=False)[0])
        while self._waiting:
            asked_s = next(iter(self._waiting.values()))
            if max(asked_s, self._answered_s) + self._max_seconds > now_s:
                break
            late.append(self._waiting.popitem(last=False)[0])
        self._arm()
        if late:
            self._expired(late)
