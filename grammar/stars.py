"""``{{ * }}`` and ``{{ t.* }}``: the columns they stand for, and the names of an object's fields."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.errors import BinderError, did_you_mean
from halo_sql.grammar.call_site import HoleSite
from halo_sql.grammar.names import Scope
from halo_sql.ir.expr import Column


def starred(scope: Scope, hole: HoleSite) -> tuple[Column, ...]:
    """The columns of a star hole. BinderError when there is no such table, no column, or none left."""
    star = hole.star
    assert star is not None
    if not scope.tables:
        raise BinderError(f"{{{{ {star.text} }}}} needs a FROM clause", span=hole.where, remedy="Name the values.")
    columns = scope.star(star.table or None)
    if columns is None:
        known = [table.alias for table in scope.tables if table.alias]
        raise BinderError(
            f'no table "{star.table}" is in scope of {{{{ {star.text} }}}}',
            span=hole.where,
            remedy=did_you_mean(star.table, known),
        )
    names = {column.name.lower() for column in columns}
    for name in star.without:
        if name not in names:
            raise BinderError(
                f'there is no column "{name}" to exclude from {{{{ {star.text} }}}}',
                span=hole.where,
                remedy=did_you_mean(name, [column.name for column in columns]),
            )
    found = tuple(column for column in columns if column.name.lower() not in star.without)
    if not found:
        raise BinderError(f"{{{{ {star.text} }}}} leaves no column", span=hole.where, remedy="Name the columns.")
    return found


def unique(names: Sequence[str]) -> list[str]:
    """Field names of one JSON object: a name that comes again gets a number, as DuckDB does (``id``, ``id_1``)."""
    taken = {name.lower() for name in names}
    seen: set[str] = set()
    found = []
    for name in names:
        chosen, number = name, 0
        while chosen.lower() in seen or (number and chosen.lower() in taken):
            number += 1
            chosen = f"{name}_{number}"
        seen.add(chosen.lower())
        found.append(chosen)
    return found
