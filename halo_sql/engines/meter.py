"""What an engine did for one run, and how long it was busy with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from halo_sql.clock import clock_s
from halo_sql.engines.protocol import GenResult
from halo_sql.engines.speed import Work


class Did(NamedTuple):
    """Requests, prompt tokens computed, tokens generated, tokens read from the KV cache; seconds with requests in
    flight, and these times their number; how many are in flight now."""

    requests: float
    computed_tok: float
    output_tok: float
    read_tok: float
    busy_s: float
    flight_s: float
    in_flight: float


class Meter:
    """Counts one run's requests on one engine.

    sound   nothing happened that makes the seconds tell little: a start meanwhile, a retry, an error, an abort
    busy_s  seconds with at least one request in flight
    """

    __slots__ = ("_cached_tok", "_clock", "_computed_tok", "_flight", "_flight_s", "_in_flight", "_output_tok",
                 "_read_tok", "_requests", "_since", "busy_s", "sound")  # fmt: skip

    def __init__(self, sound: bool = True, clock: Callable[[], float] = clock_s) -> None:
        self.sound = sound
        self.busy_s = 0.0
        self._clock = clock
        self._since = 0.0
        self._in_flight = 0
        self._flight_s = 0.0  # requests in flight × seconds
        self._requests = 0
        self._computed_tok = self._cached_tok = self._output_tok = 0
        self._read_tok = 0.0

    def change(self, requests: int) -> None:
        """So many more are in flight (or, below zero, so many fewer)."""
        now = self._clock()
        if self._in_flight:
            self.busy_s += now - self._since
            self._flight_s += self._in_flight * (now - self._since)
        self._in_flight += requests
        self._since = now

    def add(self, result: GenResult) -> None:
        """A request that was answered."""
        self._requests += 1
        self._computed_tok += result.prompt_tok - result.prompt_tok_cached
        self._cached_tok += result.prompt_tok_cached
        self._output_tok += result.output_tok
        self._read_tok += result.output_tok * (result.prompt_tok + result.output_tok / 2)
        if result.error is not None or result.retries:
            self.sound = False

    def counts(self) -> dict[str, float]:
        """``requests``, ``prompt_tok``, ``prompt_tok_cached``, ``output_tok``, ``busy_s``."""
        return {
            "requests": self._requests,
            "prompt_tok": self._computed_tok + self._cached_tok,
            "prompt_tok_cached": self._cached_tok,
            "output_tok": self._output_tok,
            "busy_s": self.busy_s,
        }

    def so_far(self) -> Did:
        """What was done by now."""
        return Did(
            *(self._requests, self._computed_tok, self._output_tok, self._read_tok),
            *(self.busy_s, self._flight_s, self._in_flight),
        )

    def work(self, batch_requests: int) -> Work:
        """What was done, by an engine that computes at most ``batch_requests`` at once."""
        batch = max(1.0, min(float(batch_requests), self._flight_s / self.busy_s if self.busy_s else 1.0))
        return Work(self._requests, self._computed_tok, self._output_tok, self._output_tok / batch, self._read_tok)
