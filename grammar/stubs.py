"""Stubs: what a known CTE looks like from outside, for the questions a binder asks DuckDB about a block.

A block's shadow would need the shadow of every CTE in front of it, for each block again. A CTE's names and types
do not change, so DuckDB is asked for them once; from then on ``q AS (SELECT CAST(NULL AS T) AS a, …)`` stands for
it. What DuckDB refuses over stubs is asked again in full: errors are those of the user's own text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from halo_sql.duck_tokens import tokenize
from halo_sql.ir.expr import quote
from halo_sql.ir.types import SqlType

Names = Sequence[tuple[str, SqlType]]

_QUOTED = re.compile(r'"((?:[^"]|"")+)"')
_WORD = re.compile(r"\w+")
#: what looks at the rows of a relation, or at its definition, while it is bound
_LOOKS_INSIDE = re.compile(
    r"\b(?:PIVOT\w*|UNPIVOT|SUMMARIZE|DESCRIBE|SHOW|RECURRING)\b|\bQUERY(?:_TABLE)?\s*\(", re.IGNORECASE
)

#: constants of these types: they are bound in a third of the time that a cast takes
_VALUES = {"VARCHAR": "''", "BOOLEAN": "true", "INTEGER": "1", "BIGINT": "2147483648", "DOUBLE": "1e0"}


def words_of(text: str) -> frozenset[str]:
    """Lower-case words of a text, in quotes or not: every name it may read is among them."""
    words = _WORD.findall(text)
    if '"' in text:
        quoted = (token.text[1:-1] for token in tokenize(text) if token.text.startswith('"'))
        words += (name.replace('""', '"') for name in (*quoted, *_QUOTED.findall(text)))
    return frozenset(word.lower() for word in words)


def may_read_stubs(text: str) -> bool:
    """Whether names and types are all that the text can see of a relation before it runs."""
    return _LOOKS_INSIDE.search(text) is None


def have_stub(columns: Names) -> bool:
    """Whether a stub can have columns of these types: values of them can be written. Not the state of an aggregate."""
    return not any("AGGREGATE_STATE" in kind.text for _, kind in columns)


def stub(name: str, columns: Names) -> str:
    """A CTE of this name with columns of these names and types."""
    return f"{quote(name)} AS ({stub_query(columns)})"


def stub_query(columns: Names) -> str:
    """A query with columns of these names and types."""
    return "SELECT " + ", ".join(
        f"{_VALUES.get(kind.text) or f'CAST(NULL AS {kind.text})'} AS {quote(column)}" for column, kind in columns
    )


class Blocks:
    """Sub-queries of one statement whose names and types are known, by their tokens (brackets aside)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._known: dict[int, tuple[int, str]] = {}  # first token -> (token behind the last, the stub)

    def add(self, first: int, end: int, columns: Names) -> None:
        """From now on a stub may stand for this one."""
        insort(self._starts, first)
        self._known[first] = end, stub_query(columns)

    def clear(self) -> None:
        """Forget them all."""
        self._starts.clear()
        self._known.clear()

    def within(self, first: int, end: int) -> list[tuple[int, int, str]]:
        """First token, token behind the last and stub of those inside a range, the outermost only."""
        found = []
        place = bisect_left(self._starts, first + 1)
        while place < len(self._starts) and self._starts[place] < end:
            start = self._starts[place]
            stop, text = self._known[start]
            if stop < end:
                found.append((start, stop, text))
            place = bisect_left(self._starts, stop)
        return found


@dataclass(slots=True)
class Stubs:
    """The CTEs of one statement whose names and types are known: token at which each begins -> its stub, and these."""

    texts: dict[int, str] = field(default_factory=dict)
    columns: dict[int, Names] = field(default_factory=dict)

    def closure(self, text: str, ctes: Sequence[tuple[str, int]], text_of: Callable[[int], str]) -> list[str]:
        """What a text needs of ``ctes`` (name, first token), in order: the stub of a known one, else the text that
        ``text_of`` gives for its place, and what that needs."""
        by_name = {name.lower(): place for place, (name, _) in enumerate(ctes)}
        found: dict[int, str] = {}
        reach = [text]
        while reach:
            for name in words_of(reach.pop()) & by_name.keys():
                place = by_name[name]
                if place in found:
                    continue
                known = self.texts.get(ctes[place][1])
                found[place] = text_of(place) if known is None else known
                if known is None:
                    reach.append(found[place])
        return [found[place] for place in sorted(found)]
