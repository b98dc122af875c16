"""The order of the fields of an object hole: as many prompt tokens as possible shared between rows.

Fields in the order f₁ … fₙ make a trie whose level i has a node per distinct combination of f₁ … fᵢ, so the tokens
computed are the sum over i of the tokens of fᵢ in these nodes. Which nodes a level has depends on the *set* of fields
so far only: the best order is found exactly, over sets. A field that those before it determine adds no node, and comes
next; one that alone tells all rows apart ends all sharing, and comes last. Beyond ``EXACT`` other fields the one whose
values save most (the greatest group value) goes first until no more than that are left.

After Liu et al., "Optimizing LLM Queries in Relational Data Analytics Workloads", MLSys 2025 (GGR), with one order for
all rows: an order per row would make the prompt of a row, and so its answer and its place in the response store,
depend on the other rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.optimizer.cardinality import CHARS_PER_TOK, DEFAULT_CHARS
from halo_sql.optimizer.samples import Grouping, ObjectSample

#: Calls that send their prompt, as text, to a model that generates.
KINDS = frozenset({"map", "filter", "classify", "extract", "score", "reduce", "rank"})
#: The order nearest to the written one is taken that computes no more than this many times the fewest tokens.
SLACK = 1.05
#: Fields whose orders are all looked at, and fields that are compared with one another beyond that.
EXACT = 6
POOL = 24
#: Tokens that a row shares in vain on average, because caches keep whole blocks (half a block of 16).
LOST_TOK = 8.0
#: Rows below which a sample says nothing.
LEAST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """An order of fields.

    names        in their new order
    written_tok  prompt tokens computed for the sample's rows in the order as written
    tok          and in this one
    """

    names: tuple[str, ...]
    written_tok: float
    tok: float


def choose(sample: ObjectSample) -> Choice:
    """The order for an object hole; the one as written when no other saves a good part of the prompt tokens."""
    if sample.rows < LEAST_ROWS or len(sample.names) < 2:
        return Choice(sample.names, 0.0, 0.0)
    return _Orders(sample).choice()


class _Orders:
    """The trie of a sample under any order. Sets of fields are bit masks; fields are numbered as written."""

    def __init__(self, sample: ObjectSample) -> None:
        self._sample = sample
        self._groupings: dict[int, Grouping] = {0: sample.start()}
        self._best: dict[int, float] = {}
        self._tok: list[list[float]] = []  # per field and row
        known: list[int] = []
        for place, values in enumerate(sample.values):
            around = len(sample.names[place]) + 6
            self._tok.append([] if values is None else [(around + chars) / CHARS_PER_TOK for chars in values.chars])
            if values is not None:
                known.append(place)
        self._unknown = [place for place, values in enumerate(sample.values) if values is None]
        every = self._groups(sum(1 << place for place in known))
        self._requests = len(every.first)  # prompts, as far as the known fields tell them apart
        self._last_tok = {place: self._of(place, every) for place in known}  # each field's if it comes last
        self._keys = [place for place in known if len(self._groups(1 << place).first) == self._requests]
        free = [place for place in known if place not in self._keys]
        free.sort(key=lambda place: self._tok_of(place, 0) - self._last_tok[place])
        self._rest = sorted(free[POOL:])
        self._free = sorted(free[:POOL])

    # --- the trie

    def _groups(self, fields: int) -> Grouping:
        """The rows by these fields and what stands before them."""
        missing: list[int] = []
        at = fields
        while at not in self._groupings:
            bits = [1 << place for place in range(at.bit_length()) if at >> place & 1]
            bit = next((bit for bit in bits if at & ~bit in self._groupings), bits[-1])
            missing.append(bit)
            at &= ~bit
        for bit in reversed(missing):
            own = self._sample.by(bit.bit_length() - 1)
            assert own is not None
            self._groupings[at | bit] = self._groupings[at].refined(own)
            at |= bit
        return self._groupings[fields]

    def _of(self, place: int, grouping: Grouping) -> float:
        tok = self._tok[place]
        return sum([tok[row] for row in grouping.first])

    def _tok_of(self, place: int, before: int) -> float:
        """Tokens computed for a field that follows these."""
        return self._of(place, self._groups(before | 1 << place))

    def _ends(self, fields: int) -> bool:
        """Whether these fields tell all prompts apart."""
        return len(self._groups(fields).first) == self._requests

    def _cost(self, order: Sequence[int]) -> float:
        """Tokens computed for all known fields in this order; nothing is shared behind an unknown one."""
        total, before, ended = 0.0, 0, False
        for place in order:
            ended = ended or place in self._unknown or self._ends(before)
            if place not in self._unknown:
                total += self._last_tok[place] if ended else self._tok_of(place, before)
                before |= 1 << place
        return total

    # --- the search

    def _next(self, before: int) -> tuple[int, list[int]]:
        """The fields that come after these at once because they are determined, and those to choose from then."""
        nodes = len(self._groups(before).first)
        left = [place for place in self._free if not before >> place & 1]
        determined = [place for place in left if len(self._groups(before | 1 << place).first) == nodes]
        return sum(1 << place for place in determined), [place for place in left if place not in determined]

    def _fewest(self, before: int) -> float:
        """Tokens computed for the free fields that are not among these, in the best order found."""
        found = self._best.get(before)
        if found is not None:
            return found
        if self._ends(before):
            found = sum(self._last_tok[place] for place in self._free if not before >> place & 1)
        else:
            determined, left = self._next(before)
            at = before | determined
            found = sum(self._tok_of(place, before) for place in self._places(determined))
            found += min(
                (self._tok_of(place, at) + self._fewest(at | 1 << place) for place in self._tried(left, at)),
                default=0.0,
            )
        self._best[before] = found
        return found

    def _tried(self, left: list[int], before: int) -> list[int]:
        """The fields that may come next: all, or of too many the one with the greatest group value."""
        if len(left) <= EXACT:
            return left
        return [max(left, key=lambda place: (self._last_tok[place] - self._tok_of(place, before), -place))]

    def _places(self, fields: int) -> list[int]:
        return [place for place in self._free if fields >> place & 1]

    def choice(self) -> Choice:
        """The order nearest to the written one within ``SLACK`` of the best."""
        names, sample = self._sample.names, self._sample
        each_tok = LOST_TOK + (sample.after_chars + DEFAULT_CHARS * len(self._unknown)) / CHARS_PER_TOK
        same_tok = each_tok * (sample.rows if self._unknown else self._requests)
        last_tok = sum(self._last_tok[place] for place in (*self._rest, *self._keys))
        written_tok = same_tok + self._cost(range(len(names)))
        bound = SLACK * (same_tok + last_tok + self._fewest(0))
        if written_tok <= bound:
            return Choice(names, written_tok, written_tok)
        order = [*self._near(bound - same_tok - last_tok), *self._rest, *self._keys, *self._unknown]
        return Choice(tuple(names[place] for place in order), written_tok, same_tok + self._cost(order))

    def _near(self, bound: float) -> list[int]:
        """The free fields: what is determined, then the first as written with which the bound can still be kept."""
        order: list[int] = []
        spent, before = 0.0, 0
        while not self._ends(before):
            determined, left = self._next(before)
            order += self._places(determined)
            spent += sum(self._tok_of(place, before) for place in self._places(determined))
            before |= determined
            if not left:
                break
            tried = self._tried(left, before)
            costs = {place: spent + self._tok_of(place, before) for place in tried}
            whole = {place: cost + self._fewest(before | 1 << place) for place, cost in costs.items()}
            place = next((place for place in tried if whole[place] <= bound), min(tried, key=whole.__getitem__))
            order.append(place)
            spent, before = costs[place], before | 1 << place
        return order + [place for place in self._free if place not in order]
