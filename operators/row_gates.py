"""The filters of a row graph: which rows they took out, which may go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from halo_sql.ir.row_graph import OPEN, RowGraph


class RowGates:
    """Rows by their number; those that have left are forgotten.

    Behind a filter are worked on at most as many rows ahead of the first that is not through as its nodes say. Of the
    rows in between each counts that may still pass: no row goes on that node by node would not.

    gone  row -> the filter's step that took it out
    """

    def __init__(self, graph: RowGraph) -> None:
        ahead = graph.lookaheads()
        self.gone: dict[int, int] = {}
        self._levels = [step.level for step in graph.steps]
        self._ahead = {gate: max(1, rows) for gate, rows in ahead.items() if gate != OPEN and rows < ahead[OPEN]}
        self._held: dict[int, list[int]] = {place: [] for place, step in enumerate(graph.steps) if step.filters}

    def decided(self, gate: int, rows: Sequence[int], passed: Sequence[bool]) -> int:
        """A filter has tested some rows; how many it lets through."""
        held = self._held[gate]
        before = len(held)
        for row, passes in zip(rows, passed, strict=True):
            if passes:
                held.append(row)
            else:
                self.gone[row] = gate
        return len(held) - before

    def admitted(self, left: int) -> Iterator[tuple[int, list[int]]]:
        """(filter's step, rows that go on behind it now, at least one); ``left`` rows have left the graph."""
        for gate, held in self._held.items():
            if not held:
                continue
            self._held[gate], rest = [], sorted(held)
            if gate in self._ahead:
                until = self._until(gate, left, rest[-1])
                self._held[gate] = [row for row in rest if row >= until]
                rest = [row for row in rest if row < until]
            if rest:
                yield gate, rest

    def _until(self, gate: int, left: int, last: int) -> int:
        """The row behind the last, up to ``last``, that may be worked on behind a filter."""
        room = self._ahead[gate]
        for row in range(left, last + 1):
            if self.gone.get(row, gate + 1) > gate:
                if not room:
                    return row
                room -= 1
        return last + 1

    def by_level(self, rows: Iterable[int]) -> Mapping[int, int]:
        """Place of a node in the stack -> how many of the rows it took out."""
        return Counter(self._levels[self.gone[row]] for row in rows if row in self.gone)

    def forget(self, rows: Iterable[int]) -> None:
        """These rows have left."""
        for row in rows:
            self.gone.pop(row, None)
