"""Predicates that raise no error on any row: comparisons of values of one kind, joined by AND, OR and NOT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from halo_sql.ir.expr import Column, SqlExpr
from halo_sql.ir.types import INTEGER_RANGES
from halo_sql.optimizer.nodes import cannot_fail

_LOGIC = r"\0|\s|\(|\)|,|<>|!=|<=|>=|==?|<|>|\b(?:AND|OR|NOT|IN|IS|NULL|DISTINCT|FROM|BETWEEN)\b"
_SAME = re.compile(rf"(?:{_LOGIC})*+", re.IGNORECASE)
_STRINGS = re.compile(rf"(?:{_LOGIC}|'(?:[^']|'')*+'|\b(?:I?LIKE)\b)*+", re.IGNORECASE)
_NUMBERS = re.compile(rf"(?:{_LOGIC}|\b\d+(?:\.\d+)?\b)*+", re.IGNORECASE)
_TRUTH = re.compile(rf"(?:{_LOGIC}|\b(?:TRUE|FALSE)\b)*+", re.IGNORECASE)
_FORMS = (
    (frozenset({"varchar"}), _STRINGS),
    (frozenset({"boolean"}), _TRUTH),
    (frozenset({*INTEGER_RANGES, "float", "double"}), _NUMBERS),
)


def never_fails(predicate: SqlExpr, columns: Iterable[Column]) -> bool:
    """Whether testing the predicate on more rows than the statement says can raise no error.

    ``columns`` are those it may read. Besides what ``cannot_fail`` accepts: comparisons of values of one type, of texts
    with string literals, of numbers, of booleans. A text compared with a number is cast, which may fail.
    """
    if cannot_fail(predicate):
        return True
    if predicate.volatile or predicate.scope or not predicate.row_wise:
        return False
    read = predicate.columns()
    types = {column.type for column in columns if column.id in read}
    kinds = {each.kind for each in types}
    text = "".join(part if isinstance(part, str) else "\0" for part in predicate.parts)
    if len(types) == 1 and _SAME.fullmatch(text):
        return True
    return any(kinds <= own and form.fullmatch(text) is not None for own, form in _FORMS)


def all_never_fail(predicates: Sequence[SqlExpr], columns: Iterable[Column]) -> bool:
    """The same for several predicates."""
    known = tuple(columns)
    return all(never_fails(predicate, known) for predicate in predicates)
