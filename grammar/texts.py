"""Fragment texts: the user's words with relations of the plan in the places of sub-queries and CTE names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from halo_sql.duck_tokens import Token, tokenize
from halo_sql.errors import Span
from halo_sql.grammar.binding import BoundQuery
from halo_sql.ir.expr import Column, ColumnId, quote
from halo_sql.ir.logical import DemandPart, InputRef, LogicalPlan
from halo_sql.ir.physical import batch_name

Part = str | InputRef
Piece = TypeVar("Piece", bound=DemandPart)


@dataclass(slots=True)
class FragmentText:
    """Replacements for spans of a statement, and the plans they refer to."""

    inputs: list[LogicalPlan] = field(default_factory=list)
    cuts: list[tuple[Span, tuple[Part, ...]]] = field(default_factory=list)

    def relation(self, plan: LogicalPlan, names: Sequence[tuple[str, ColumnId]]) -> InputRef:
        """A reference to a plan; the same object is one input however often it is referred to."""
        for index, known in enumerate(self.inputs):
            if known is plan:
                return InputRef(index, tuple(names))
        self.inputs.append(plan)
        return InputRef(len(self.inputs) - 1, tuple(names))

    def query(self, query: BoundQuery) -> InputRef:
        """A reference to a bound query under its output names."""
        return self.relation(query.plan, visible(query.columns))

    def cut(self, span: Span, *parts: Part) -> None:
        """Replace a span."""
        self.cuts.append((span, parts))

    def parts(self, sql: str, start: int, end: int) -> tuple[Part, ...]:
        """The text between two positions with the replacements made, neighbouring texts merged."""
        pieces: list[Part] = []
        at = start
        for span, new in sorted(self.cuts, key=lambda cut: (cut[0].start, cut[0].end)):
            if span.start < at or span.end > end:
                continue
            pieces.append(sql[at : span.start])
            pieces += new
            at = span.end
        pieces.append(sql[at:end])
        return merged(pieces)


def merged(parts: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbouring texts as one, empty ones dropped."""
    result: list[Any] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        elif part != "":
            result.append(part)
    return tuple(result)


def visible(columns: Sequence[Column]) -> tuple[tuple[str, ColumnId], ...]:
    """Display names of columns, made unique as DuckDB does for sub-queries (``a``, ``a_1``, …)."""
    taken = {column.name.lower() for column in columns}
    if len(taken) == len(columns):
        return tuple([(column.name, column.id) for column in columns])
    seen: dict[str, int] = {}
    names = []
    for column in columns:
        name = column.name
        if name.lower() in seen:
            while name.lower() in seen or (name != column.name and name.lower() in taken):
                seen[column.name.lower()] += 1
                name = f"{column.name}_{seen[column.name.lower()]}"
        seen.setdefault(name.lower(), 0)
        names.append((name, column.id))
    return tuple(names)


def by_id(columns: Sequence[Column]) -> tuple[tuple[str, ColumnId], ...]:
    """Columns under names no user's column has."""
    return tuple((hidden(column.id), column.id) for column in columns)


def hidden(column: ColumnId) -> str:
    """The name of a column of ours beside the user's own."""
    return f"__halo_{batch_name(column)}"


def alias(name: str) -> str:
    """The text that names a relation."""
    return f" AS {quote(name)}"


LONGEST_NARROWED = 100_000  # characters
_WHOLE_ROW = frozenset({"NATURAL", "COLUMNS", "PIVOT", "UNPIVOT", "SUMMARIZE", "DESCRIBE", "NAME"})


def narrowed(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with each input showing only the columns whose names occur in the text.

    All columns stay where the text may read one without naming it: ``*``, a table's alias as a value, NATURAL,
    or names it differently: ``t(a, b)``.
    """
    if sum(len(part) for part in parts if isinstance(part, str)) > LONGEST_NARROWED:
        return tuple(parts)
    tokens = [
        token
        for part in parts
        for token in (tokenize(part) if isinstance(part, str) else [None])
        if not _comment(token)
    ]
    words = [None if token is None else token.text for token in tokens]
    aliases: set[str] = set()
    defined: set[int] = set()
    for index, word in enumerate(words):
        if word is None:
            follower = index + 2 if index + 1 < len(words) and str(words[index + 1]).upper() == "AS" else index + 1
            if follower < len(words) and words[follower] is not None:
                aliases.add(unquoted(str(words[follower])))
                defined.add(follower)
                if follower + 1 < len(words) and words[follower + 1] == "(":
                    return tuple(parts)  # t(a, b) renames by position
    named: set[str] = set()
    for index, word in enumerate(words):
        if word is None or index in defined:
            continue
        before = words[index - 1] if index else "SELECT"
        if word.upper() in _WHOLE_ROW or word == "#" or (word == "*" and _is_star(words, index)):
            return tuple(parts)
        after = words[index + 1] if index + 1 < len(words) else ""
        if unquoted(word) in aliases and after != "." and before != ".":
            return tuple(parts)
        named.add(unquoted(word))
    return tuple(
        part if isinstance(part, str) or not tables else _named(part, named)
        for part, tables in zip(parts, _tables(parts), strict=True)
    )


def _tables(parts: Sequence[Part]) -> list[bool]:
    """For each part whether it stands behind FROM or JOIN (elsewhere a relation's columns count by position)."""
    found = []
    for index, part in enumerate(parts):
        before = parts[index - 1] if index else ""
        words = before.split() if isinstance(before, str) else []
        found.append(isinstance(part, InputRef) and bool(words) and words[-1].upper() in ("FROM", "JOIN"))
    return found


def _named(ref: InputRef, named: set[str]) -> InputRef:
    return InputRef(ref.index, tuple(pair for pair in ref.names if pair[0].lower() in named))


def _comment(token: Token | None) -> bool:
    return token is not None and token.kind == "comment"


def _is_star(words: Sequence[str | None], index: int) -> bool:
    """Whether ``*`` stands for columns: behind SELECT, a comma or a dot (not ``count(*)``, not a product)."""
    before = words[index - 1] if index else None
    return before is None or before in (",", ".") or before.upper() in ("SELECT", "DISTINCT", "ALL", ")")


def unquoted(word: str) -> str:
    """An identifier token as the lower-case name it stands for."""
    return (word[1:-1].replace('""', '"') if word.startswith('"') else word).lower()
