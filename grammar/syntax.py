"""What sqlglot's stock DuckDB parser knows about a query, by position: column references, aliases, tables.

Only positions are taken from the syntax tree; the text itself is never printed back. When sqlglot cannot
parse a query, nothing is known and the binder falls back to evaluating the user's text over rebuilt tables.
"""

from __future__ import annotations

import logging
import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from halo_sql.deep import FRAMES
from halo_sql.quick import quick_init

#: words DuckDB takes and sqlglot does not; blanked before parsing (positions stay)
_UNKNOWN_TO_SQLGLOT = re.compile(r"\bEXPORT_STATE\b|\bUSING\s+KEY\s*\([^()]*(\([^()]*\)[^()]*)*\)", re.IGNORECASE)
#: names that sqlglot takes for the start of a type, ``MAP<…>``; DuckDB has no such types, so they are compared
_COMPARED = re.compile(
    r"\b(ARRAY|LIST|LOWCARDINALITY|MAP|NESTED|NULLABLE|OBJECT|RANGE|STRUCT|UNION)(?=\s*<)", re.IGNORECASE
)

LONGEST_PARSED = 250_000  # characters; sqlglot takes seconds for more


@quick_init
@dataclass(frozen=True, slots=True)
class Name:
    """One identifier: the name it stands for and its character span."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TableName:
    """An unqualified table name in a FROM clause, and whether an alias follows it."""

    name: str
    start: int
    end: int
    alias: str


@dataclass(frozen=True, slots=True)
class Syntax:
    """Facts about one text.

    parsed   whether sqlglot understood it
    columns  column references in order of position, each as its dotted parts
    aliases  start positions of the aliases of SELECT items
    tables   unqualified table names in order of position
    opaque   positions inside constructs whose names cannot be resolved one by one (list comprehensions, stars)
    selects  first and last leaf position of every SELECT, with its node
    """

    parsed: bool
    columns: tuple[tuple[Name, ...], ...] = ()
    aliases: frozenset[int] = frozenset()
    tables: tuple[TableName, ...] = ()
    opaque: tuple[int, ...] = ()
    selects: tuple[tuple[int, int, Any], ...] = ()
    _starts: list[int] = field(init=False, compare=False, repr=False)  # of the columns
    _table_starts: list[int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [parts[0].start for parts in self.columns])
        object.__setattr__(self, "_table_starts", [table.start for table in self.tables])

    def columns_in(self, start: int, end: int) -> list[tuple[Name, ...]] | None:
        """References within a span; None when the span holds something opaque or nothing was parsed."""
        if not self.parsed:
            return None
        first = bisect_left(self.opaque, start)
        if first < len(self.opaque) and self.opaque[first] < end:
            return None
        return list(self.columns_within(start, end))

    def columns_within(self, start: int, end: int) -> tuple[tuple[Name, ...], ...]:
        """The references within a span that are known one by one."""
        first = bisect_left(self._starts, start)
        return self.columns[first : bisect_left(self._starts, end, first)]

    def tables_within(self, start: int, end: int) -> tuple[TableName, ...]:
        """The table names within a span."""
        first = bisect_left(self._table_starts, start)
        return self.tables[first : bisect_left(self._table_starts, end, first)]

    def select_in(self, start: int, end: int) -> Any:
        """The outermost SELECT node whose leaves all lie in a span; None when there is none."""
        inside = [(last - first, node) for first, last, node in self.selects if start <= first and last <= end]
        return max(inside, key=lambda pair: pair[0])[1] if inside else None


def analyse(sql: str, offset: int = 0, within_deep: bool = False) -> Syntax:
    """Facts about the query ``sql``; positions are shifted by ``offset``.

    Nothing is known of a query nested too deep for the stack. ``within_deep``: RecursionError for it instead while the
    stack is an ordinary one, so that ``deep`` begins again with a long one.
    """
    if len(sql) > LONGEST_PARSED:
        return Syntax(False)
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)  # falling back to Command is no news: the binder handles it
    try:
        text = _UNKNOWN_TO_SQLGLOT.sub(lambda found: " " * len(found[0]), sql)
        text = _COMPARED.sub(lambda found: "_" * len(found[0]), text)
        tree = sqlglot.parse_one(text, dialect="duckdb")
    except RecursionError:
        if within_deep and sys.getrecursionlimit() < FRAMES:
            raise
        return Syntax(False)
    except (SqlglotError, ValueError, AttributeError, TypeError):
        return Syntax(False)
    finally:
        logger.setLevel(level)
    if isinstance(tree, exp.Command):
        return Syntax(False)

    columns: list[tuple[Name, ...]] = []
    aliases: set[int] = set()
    tables: list[TableName] = []
    opaque: set[int] = set()
    selects: list[tuple[int, int, Any]] = []
    nodes = list(tree.walk())
    extents = _extents(nodes, offset)
    for node in nodes:
        if isinstance(node, exp.Column):
            names = [_name(part, offset, sql) for part in node.parts]
            known = tuple(part for part in names if part is not None)
            if isinstance(node.this, exp.Star) or len(known) < len(names):
                opaque.update(part.start for part in known)
            else:
                columns.append(known)
        elif isinstance(node, exp.Alias):
            named = _name(node.args.get("alias"), offset, sql)
            if named:
                aliases.add(named.start)
        elif isinstance(node, exp.Table) and not node.args.get("db"):
            named = _name(node.this, offset, sql)
            if named:
                tables.append(TableName(named.name, named.start, named.end, node.alias))
        elif isinstance(node, exp.Comprehension | exp.Columns) or (isinstance(node, exp.Star) and _modified(node)):
            opaque.update(_leaves(node, offset))
        elif isinstance(node, exp.Dot) and isinstance(node.this, exp.Identifier):
            opaque.update(_leaves(node, offset))  # x.function(): the first part is no Column node
        elif isinstance(node, exp.Select):
            extent = extents.get(id(node))
            if extent is not None:
                selects.append((*extent, node))
    columns.sort(key=lambda parts: parts[0].start)
    tables.sort(key=lambda table: table.start)
    return Syntax(True, tuple(columns), frozenset(aliases), tuple(tables), tuple(sorted(opaque)), tuple(selects))


def _name(node: Any, offset: int, sql: str) -> Name | None:
    start = node.meta.get("start") if node is not None and hasattr(node, "meta") else None
    if start is None:
        return None
    end = node.meta["end"] + 1
    name = node.name if node.name.strip("_") else sql[start:end].strip('"')  # perhaps a word of _COMPARED
    return Name(name, start + offset, end + offset)


def _modified(star: Any) -> bool:
    return any(star.args.get(key) for key in ("except_", "except", "replace", "rename"))


def _extents(nodes: Sequence[Any], offset: int) -> dict[int, tuple[int, int]]:
    """Identity of a node -> first and last position of the leaves in it, of a SELECT without its WITH. ``nodes`` has
    parents before their children."""
    whole: dict[int, tuple[int, int]] = {}
    own: dict[int, tuple[int, int]] = {}
    for node in reversed(nodes):
        start, extent = node.meta.get("start"), whole.get(id(node))
        if start:
            extent = _union(extent, (start + offset, start + offset))
        above = id(node.parent)
        if extent is not None and node.parent is not None:
            whole[above] = _union(whole.get(above), extent)
            if node.arg_key != "with_":
                own[above] = _union(own.get(above), extent)
    return own


def _union(one: tuple[int, int] | None, other: tuple[int, int]) -> tuple[int, int]:
    if one is None:
        return other
    return (one[0] if one[0] < other[0] else other[0]), (one[1] if one[1] > other[1] else other[1])


def _leaves(node: Any, offset: int) -> list[int]:
    # 0 is a node sqlglot made up: a query's first token is a keyword
    return [leaf.meta["start"] + offset for leaf in node.walk() if leaf.meta.get("start")]
