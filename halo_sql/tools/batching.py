"""How many calls go into the next query of a tool that joins them.

One query for all of them reads its tables once, and gives nobody a value before it has the last one's. So the first
queries are small; what they take is read as a part of each query and a part of each call. From then on a query takes
``BATCH_S``, or as long as it must for its own part to be a fifth of it, so that whoever waits for the first value
waits a moment, and reading the tables again costs little.
"""

from __future__ import annotations

FIRST = 8
AT_ONCE = 2048
BATCH_S = 0.25
OWN_SHARE = 4.0  # times its own part that the calls of a query take together, at least
QUICK_S, QUICKER = 0.02, 16  # a query below this is no reason to be careful
LEAST_S = 1e-9


class BatchSize:
    """Learns from the queries of one tool.

    tells  whether it hears what they take; else it begins with all there are
    most   calls of the next query, at most
    """

    def __init__(self, tells: bool = True) -> None:
        self.most = FIRST if tells else AT_ONCE
        self._seen: tuple[int, float] | None = None  # calls and seconds of the first one that was not quick
        self._query_s: float | None = None
        self._call_s = 0.0
        self._told = False

    def took(self, calls: int, seconds: float) -> None:
        """A query of some calls took some seconds."""
        self._told = True
        if seconds < QUICK_S:
            self.most = min(AT_ONCE, max(self.most, QUICKER * calls))
            return
        if self._query_s is None:
            seen = self._seen
            if seen is None or seen[0] == calls:
                self._seen = calls, seconds
                self.most = max(1, min(AT_ONCE, 2 * calls))
                return
            slope = (seconds - seen[1]) / (calls - seen[0])
            self._call_s = min(max(slope, LEAST_S), seconds / calls)
            self._query_s = max(0.0, seconds - self._call_s * calls)
        else:
            self._call_s = 0.5 * (self._call_s + max(LEAST_S, seconds - self._query_s) / calls)
        own_s, each_s = self._query_s, self._call_s
        wanted = max(BATCH_S - own_s, OWN_SHARE * own_s) / each_s
        self.most = max(1, int(min(AT_ONCE, wanted)))

    def timed_out(self, calls: int) -> None:
        """All calls of a query ran out of time: perhaps it is one of them that takes so long."""
        self.most = max(1, calls // 64)

    def ended(self) -> None:
        """A batch has ended; where nothing was told of its queries the next one may be twice as large."""
        if not self._told:
            self.most = min(AT_ONCE, 2 * self.most)
        self._told = False
