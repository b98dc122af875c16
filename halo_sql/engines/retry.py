"""When to send a request (again): backoff, Retry-After, a gate that all requests share, a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import time
from email.utils import parsedate_to_datetime

from halo_sql.engines.hosted_window import HostedWindow

BACKOFF_CAP_S = 60.0
BREAKER_FAILURES = 20
PROBE_S = 5.0


def backoff_s(base_s: float, attempt: int) -> float:
    """Full jitter: uniform in 0 … min(60 s, base · 2^(attempt-1)); attempt counts from 1.

    (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.)
    """
    return random.uniform(0.0, min(BACKOFF_CAP_S, base_s * 2.0 ** min(attempt - 1, 30)))


def retry_after_s(header: str | None) -> float | None:
    """A Retry-After header (seconds or an HTTP date) as seconds from now; None when missing or unreadable."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None  # also refuses nan


class Gate:
    """Where requests wait to be sent: for room in the window, and for as long as the server asks to send nothing.

    Those that were refused most often go first.
    """

    def __init__(self, window: HostedWindow, give_up_s: float) -> None:
        self._window = window
        self._give_up_s = give_up_s
        self._inside = 0
        self._until = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._arrivals = 0
        # (-attempts so far, arrival, deadline or None, allowed to send or hopeless)
        self._waiting: list[tuple[int, int, float | None, asyncio.Future[bool]]] = []

    async def enter(self, attempts: int, deadline: float | None) -> bool:
        """Wait until a request may be sent (``leave`` gives the place back); False when that comes too late.

        Too late is after ``deadline`` (loop time), or without one a pause of more than ``give_up_s``.
        """
        loop = asyncio.get_running_loop()
        if self._until > loop.time() and self._hopeless(deadline):
            return False
        place = loop.create_future()
        heapq.heappush(self._waiting, (-attempts, self._arrivals, deadline, place))
        self._arrivals += 1
        self._wake()
        try:
            return bool(await place)
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.result():
                self.leave()
            raise

    def leave(self) -> None:
        """The request is answered, one way or another."""
        self._inside -= 1
        self._wake()

    def pause(self, seconds: float) -> None:
        """The server asks to send nothing for this long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now + seconds <= self._until:
            return
        self._until = now + seconds
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._until, self._wake)
        for _, _, deadline, place in self._waiting:
            if self._hopeless(deadline) and not place.done():
                place.set_result(False)

    def close(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _hopeless(self, deadline: float | None) -> bool:
        if deadline is not None:
            return self._until > deadline
        return self._until - asyncio.get_running_loop().time() > self._give_up_s

    def _wake(self) -> None:
        if asyncio.get_running_loop().time() < self._until:
            return
        while self._waiting and self._inside < self._window.limit:
            place = heapq.heappop(self._waiting)[3]
            if not place.done():
                self._inside += 1
                place.set_result(True)


class OutageError(Exception):
    """The server has been down for longer than a request may take."""


class Breaker:
    """Stops sending after ``failures`` consecutive outages (refused, reset, timed out, 502, 503, 504).

    While it is open requests wait, except one probe every ``probe_s``; a success closes it. When it has been open
    for ``give_up_s`` waiting ends with OutageError, so that a dead server is not waited for once per row.
    """

    def __init__(self, give_up_s: float, failures: int = BREAKER_FAILURES, probe_s: float = PROBE_S) -> None:
        self._limit = failures
        self._probe_s = probe_s
        self._give_up_s = give_up_s
        self._failed = 0
        self._opened_at: float | None = None
        self._next_probe = 0.0
        self._closed = asyncio.Event()
        self._closed.set()

    async def enter(self) -> bool:
        """Wait until a request may be sent; True when it is the probe (which does not use up its attempts)."""
        loop = asyncio.get_running_loop()
        while self._opened_at is not None:
            now = loop.time()
            if now >= self._next_probe:
                self._next_probe = now + self._probe_s
                return True
            if now - self._opened_at > self._give_up_s:
                raise OutageError
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_probe):
                    await self._closed.wait()
        return False

    def success(self) -> None:
        """The server answered."""
        self._failed = 0
        self._opened_at = None
        self._closed.set()

    def failure(self) -> None:
        """The server could not be reached or is overloaded."""
        self._failed += 1
        if self._failed >= self._limit and self._opened_at is None:
            now = asyncio.get_running_loop().time()
            self._opened_at, self._next_probe = now, now + self._probe_s
            self._closed.clear()
