"""Column ids renamed everywhere in a plan node or physical operator, found by the annotations of its fields.

What holds a column holds it as ``ColumnId`` or ``Column``: nothing here knows the operators, and a new one needs no
code. Positions in the statement (``Span``) can be moved on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from halo_sql.errors import Span
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.ir.types import SqlType

_Rewrite = Callable[[Any, "Renaming"], Any]


class Renaming:
    """Gives every column its new id; ``rewritten`` applies it to an object.

    column  the new id of a column
    span    the new place of a position
    """

    def __init__(
        self, column: Callable[[ColumnId], ColumnId], span: Callable[[Span], Span] = lambda span: span
    ) -> None:
        self.column = column
        self.span = span

    def rewritten(self, value: Any) -> Any:
        """The object with new ids; itself when its class holds none."""
        known: Any = type(value)
        rewrite: _Rewrite | None = _of_class(known)
        return value if rewrite is None else rewrite(value, self)

    def output(self, column: Column) -> Column:
        """A column with its new id."""
        return Column(self.column(column.id), column.name, column.type)

    def object(self, value: Any, changed: dict[str, Any]) -> Any:
        """The object with new values of some fields; the place to do more with objects of certain classes."""
        known = type(value)
        return known(**{item.name: changed.get(item.name, getattr(value, item.name)) for item in fields(known)})


@cache
def _of_class(known: Any) -> _Rewrite | None:
    """How objects of a class are rewritten; None: they hold no columns and no positions."""
    if known is Column:
        return lambda value, renaming: renaming.output(value)
    if known is Span:
        return lambda value, renaming: renaming.span(value)
    if not is_dataclass(known) or known is SqlType:
        return None
    hints = get_type_hints(known)
    parts = [(item.name, change) for item in fields(known) if (change := _of_hint(hints[item.name])) is not None]
    if not parts:
        return None

    def rewrite(value: Any, renaming: Renaming) -> Any:
        return renaming.object(value, {name: change(getattr(value, name), renaming) for name, change in parts})

    return rewrite


@cache
def _of_hint(hint: Any) -> _Rewrite | None:
    if hint is ColumnId:
        return lambda value, renaming: renaming.column(value)
    if isinstance(hint, NewType):
        return _of_hint(hint.__supertype__)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _of_union(inner)
    if origin is tuple:
        return _of_tuple(inner)
    if origin is not None:
        assert not issubclass(origin, Mapping), f"{hint}: columns in mappings are not renamed"
        return None
    if isinstance(hint, type) and is_dataclass(hint):  # by the value's own class: fields may hold a class they are of
        return None if hint is SqlType else _by_class
    return None


def _of_union(members: tuple[Any, ...]) -> _Rewrite | None:
    if ColumnId in members:
        assert set(members) <= {ColumnId, NoneType}, members
        return lambda value, renaming: None if value is None else renaming.column(value)
    return _by_class if any(_of_hint(member) is not None for member in members) else None


def _of_tuple(inner: tuple[Any, ...]) -> _Rewrite | None:
    if len(inner) == 2 and inner[1] is ...:
        each = _of_hint(inner[0])
        return None if each is None else lambda value, renaming: tuple([each(item, renaming) for item in value])
    changes = [_of_hint(item) for item in inner]
    if not any(changes):
        return None
    return lambda value, renaming: tuple(
        item if change is None else change(item, renaming) for item, change in zip(value, changes, strict=True)
    )


def _by_class(value: Any, renaming: Renaming) -> Any:
    return renaming.rewritten(value)
