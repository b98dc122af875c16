"""Fragment texts: the user's words with relations of the plan in the places of sub-queries and CTE names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from halo_sql.errors import Span
from halo_sql.grammar.binding import BoundQuery
from halo_sql.ir.expr import Column, ColumnId, quote
from halo_sql.ir.logical import InputRef, LogicalPlan
from halo_sql.ir.physical import batch_name

Part = str | InputRef


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


def merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one, empty ones dropped."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        elif part != "":
            result.append(part)
    return tuple(result)


def visible(columns: Sequence[Column]) -> tuple[tuple[str, ColumnId], ...]:
    """Display names of columns, made unique as DuckDB does for sub-queries (``a``, ``a_1``, …)."""
    seen: dict[str, int] = {}
    taken = {column.name.lower() for column in columns}
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
    """Columns under their own ids' names."""
    return tuple((batch_name(column.id), column.id) for column in columns)


def alias(name: str) -> str:
    """The text that names a relation."""
    return f" AS {quote(name)}"
