"""Samples of rows: which values the fields of an object hole have together, and how long they are. Pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

#: Share of a sample's rows: with fewer different values than that, the sample has all there are.
OFTEN = 0.1


@dataclass(frozen=True, slots=True)
class Values:
    """A column in the rows of a sample.

    keys      per row; equal keys mean equal values, in every sample of a statement
    chars     per row, characters of the value as a prompt shows it
    distinct  different values in the whole source
    of_rows   rows of the whole source
    """

    keys: tuple[int, ...]
    chars: tuple[int, ...]
    distinct: float
    of_rows: float


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Rows by the values of some columns.

    codes  per row, the first row with the same values
    first  these first rows, one per distinct combination
    """

    codes: list[int]
    first: list[int]

    def refined(self, other: Grouping) -> Grouping:
        """The rows by the columns of both."""
        size = len(self.codes)
        return grouped([code * size + own for code, own in zip(self.codes, other.codes, strict=True)])


def grouped(keys: Sequence[int]) -> Grouping:
    """Rows by one column."""
    first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
    return Grouping([first[key] for key in keys], list(first.values()))


class ObjectSample:
    """What an object hole holds in some rows of its source.

    names       its fields as written
    values      per field; None: not known before the statement runs (an answer), taken as different in every row
    before      per row, a key of what the prompt holds in front of the object
    after_chars average characters of what follows it
    """

    __slots__ = ("_counts", "_groupings", "after_chars", "before", "names", "values")

    def __init__(self, fields: Mapping[str, Values | None], before: Sequence[int], after_chars: float = 0.0) -> None:
        self.names = tuple(fields)
        self.values = tuple(fields.values())
        self.before = tuple(before)
        self.after_chars = after_chars
        self._groupings: dict[int, Grouping] = {}
        self._counts: dict[tuple[str, ...], tuple[float, ...]] = {}

    @property
    def rows(self) -> int:
        """Rows of the sample."""
        return len(self.before)

    def start(self) -> Grouping:
        """The rows by what stands in front of the object."""
        return grouped(self.before)

    def by(self, place: int) -> Grouping | None:
        """The rows by one field; None: unknown."""
        values = self.values[place]
        if values is not None and place not in self._groupings:
            self._groupings[place] = grouped(values.keys)
        return self._groupings.get(place)

    def chars(self, name: str) -> float | None:
        """Average characters of a field's value; None: unknown."""
        values = self.values[self.names.index(name)]
        return None if values is None or not values.chars else sum(values.chars) / len(values.chars)

    def distinct(self, names: tuple[str, ...], rows: float) -> tuple[float, ...]:
        """Different beginnings of ``rows`` prompts that end with the first, the second, … of these fields.

        As many as in the sample if they come often there, else by its share of the source; in any case no fewer than a
        field's values, and no more than the product of the fields'.
        """
        found = []
        product, least = float(len(self.start().first)), 1.0
        for name, count in zip(names, self._counted(names), strict=True):
            values = self.values[self.names.index(name)]
            if values is None or not self.rows:
                product = rows
            else:
                product, least = product * values.distinct, max(least, values.distinct)
                count *= values.of_rows / self.rows if count > OFTEN * self.rows else 1.0
            found.append(max(1.0, min(rows, product, max(least, count))))
        return tuple(found)

    def _counted(self, names: tuple[str, ...]) -> tuple[float, ...]:
        """The beginnings in the sample."""
        known = self._counts.get(names)
        if known is None:
            grouping: Grouping | None = self.start()
            found = []
            for name in names:
                own = self.by(self.names.index(name))
                grouping = None if own is None or grouping is None else grouping.refined(own)
                found.append(float(self.rows if grouping is None else len(grouping.first)))
            known = self._counts[names] = tuple(found)
        return known


def joined(samples: Sequence[ObjectSample]) -> ObjectSample:
    """Samples of the same object hole in several places as one."""
    if len(samples) == 1:
        return samples[0]
    fields: dict[str, Values | None] = {}
    for place, name in enumerate(samples[0].names):
        parts = [sample.values[place] for sample in samples]
        known = [part for part in parts if part is not None]
        fields[name] = None
        if len(known) == len(parts):
            fields[name] = Values(
                tuple(chain(*(part.keys for part in known))),
                tuple(chain(*(part.chars for part in known))),
                max(part.distinct for part in known),
                sum(part.of_rows for part in known),
            )
    rows = sum(sample.rows for sample in samples)
    after_chars = sum(sample.after_chars * sample.rows for sample in samples) / max(1, rows)
    return ObjectSample(fields, tuple(chain(*(sample.before for sample in samples))), after_chars)
