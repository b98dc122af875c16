"""LLM calls in ON of inner joins: conditions on the joined rows, which WHERE may just as well hold.

``a JOIN b ON a.k = b.k AND LLM_FILTER(…)`` is ``a JOIN b ON a.k = b.k WHERE LLM_FILTER(…)``: what SQL can decide
pairs the rows, and only the pairs are asked. That holds as long as every join of the clause is an inner one; an
outer join keeps the rows that its condition refuses.
"""

from __future__ import annotations

from collections.abc import Callable

from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range

#: words of which one kind of join or another begins
JOIN_WORDS = frozenset({"INNER", "CROSS", "LEFT", "RIGHT", "FULL", "OUTER", "SEMI", "ANTI", "ASOF", "NATURAL"})
_INNER = frozenset({"INNER", "CROSS"})


def inner_join_conditions(lexed: Lexed, clause: Range, holds_call: Callable[[Range], bool]) -> list[Range]:
    """The conjuncts of ON conditions in a FROM clause that hold a call and may move to WHERE; none when a join of
    the clause is not an inner one."""
    found: list[Range] = []
    on: int | None = None
    for index in [*lexed.level(*clause), clause[1]]:
        word = lexed.word(index) if index < clause[1] else ""
        ends = index == clause[1] or lexed.text(index) == "," or word == "JOIN" or word in JOIN_WORDS
        if on is not None and ends and not is_function(lexed, index):
            found += [part for part in conjuncts(lexed, (on, index)) if holds_call(part)]
            on = None
        if word in JOIN_WORDS - _INNER and not is_function(lexed, index) and _joins(lexed, index, clause[1]):
            return []
        if "JOIN" in (word, lexed.word(index + 1)) and (word == "POSITIONAL" or lexed.word(index + 1) == "BY"):
            return []
        if word == "ON" and not lexed.column_label(index):
            on = index + 1
    return found


def is_function(lexed: Lexed, index: int) -> bool:
    """``left(…)`` and ``right(…)`` are functions, and behind a dot everything is a name."""
    return lexed.text(index + 1) == "(" or lexed.column_label(index)


def _joins(lexed: Lexed, index: int, end: int) -> bool:
    """Whether JOIN follows, behind further words of its kind."""
    while index < end and lexed.word(index) in JOIN_WORDS:
        index += 1
    return lexed.word(index) == "JOIN"
