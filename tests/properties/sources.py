"""What random statements are made of: queries, FROM clauses, common table expressions."""

from __future__ import annotations

from dataclasses import dataclass

from .expressions import Col
from .pairs import Pair


@dataclass(frozen=True, slots=True)
class Query:
    """A query.

    sql      both readings
    columns  what the outside sees; an item without alias has the name ''
    ordered  whether the rows have one order
    """

    sql: Pair
    columns: tuple[Col, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A FROM clause.

    scope  columns in sight
    key    columns that are unique together; None: unknown
    """

    sql: Pair
    scope: tuple[Col, ...]
    key: tuple[str, ...] | None


def same_names(left: tuple[Col, ...], right: tuple[Col, ...]) -> set[str]:
    """Names that both sides of a join have, whatever they are spelled like."""
    others = {col.name.strip('"').lower() for col in right}
    return {col.name for col in left if col.name.strip('"').lower() in others}


@dataclass(frozen=True, slots=True)
class Cte:
    """A common table expression in sight."""

    name: str
    columns: tuple[Col, ...]
