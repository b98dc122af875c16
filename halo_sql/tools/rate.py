"""How often calls may begin."""

from __future__ import annotations

from collections import deque


class Pace:
    """At most ``per_s`` beginnings in every second, whichever second one looks at; 0: no limit.

    A bucket that fills up would let two seconds' worth through in its first second. So what counts is when the
    beginning ``n`` places back was, with n the whole number below ``per_s`` (1 for slower paces).
    """

    def __init__(self, per_s: float) -> None:
        self._most = max(1, int(per_s))
        self._window_s = self._most / per_s if per_s else 0.0
        self._begun: deque[float] = deque(maxlen=self._most)

    def free_at(self) -> float:
        """The time from which one more may begin, on the clock given to ``take``."""
        if not self._window_s or len(self._begun) < self._most:
            return 0.0
        return self._begun[0] + self._window_s

    def take(self, now: float) -> None:
        """One begins now."""
        if self._window_s:
            self._begun.append(now)
