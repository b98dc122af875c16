"""Guards: the conditions under which a call in a lazy position is reached at all.

CASE, COALESCE, IF and the short cut of AND / OR evaluate a branch for some rows only; a call there makes
requests for these rows only. A guard is a list of terms, each SQL text around token ranges of the source.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import starts_query

Range = tuple[int, int]
Term = tuple[str | Range, ...]  # SQL pieces and token ranges; BOOLEAN as a whole


def guard_terms(lexed: Lexed, call: int, first: int, end: int, is_barrier: Callable[[int], bool]) -> list[Term]:
    """The terms that must all hold for the call at token ``call``, outermost first.

    first, end  the expression the call stands in
    is_barrier  whether the bracket that opens at a token closes the row level off (an aggregate's arguments)
    """
    terms: list[list[Term]] = []
    inside = call
    while True:
        opening = lexed.parent[inside]
        bounded = opening >= first
        start, stop = (opening + 1, lexed.partner[opening]) if bounded else (first, end)
        if bounded and lexed.word(opening) == "CASE":
            marks = [opening, *_marks(lexed, opening), lexed.partner[opening]]
            part = next((left + 1, right) for left, right in pairwise(marks) if left < inside < right)
            terms.append(_short_cut(lexed, *part, inside))
            terms.append(_case(lexed, opening, inside))
        else:
            start, stop, position, pieces = _argument(lexed, start, stop, inside)
            terms.append(_short_cut(lexed, start, stop, inside))
            if bounded and lexed.text(opening) == "(":
                terms.append(_lazy_function(lexed, opening, position, pieces))
                if is_barrier(opening):
                    break
        if not bounded:
            break
        inside = opening
    return [term for group in reversed(terms) for term in group]


def _argument(lexed: Lexed, start: int, stop: int, inside: int) -> tuple[int, int, int, list[Range]]:
    pieces = lexed.split(start, stop)
    for position, (left, right) in enumerate(pieces):
        if left <= inside < right:
            return left, right, position, pieces
    return start, stop, 0, pieces


def _case(lexed: Lexed, opening: int, inside: int) -> list[Term]:
    """Terms of ``CASE [operand] WHEN a THEN b … ELSE c END`` for something inside one of its parts."""
    closing = lexed.partner[opening]
    marks = _marks(lexed, opening)
    operand: Range | None = (opening + 1, marks[0]) if marks and marks[0] > opening + 1 else None
    if operand is not None and operand[0] <= inside < operand[1]:
        return []
    terms: list[Term] = []
    condition: Range = (0, 0)
    for position, mark in enumerate(marks):
        stop = marks[position + 1] if position + 1 < len(marks) else closing
        holds = inside < stop
        word = lexed.word(mark)
        if word == "WHEN":
            condition = (mark + 1, stop)
            if holds:
                return terms
        elif word == "THEN":
            if holds:
                return [*terms, _test(operand, condition, "IS TRUE")]
            terms.append(_test(operand, condition, "IS NOT TRUE"))
    return terms


def _marks(lexed: Lexed, opening: int) -> list[int]:
    """The tokens WHEN, THEN and ELSE of a CASE."""
    return [
        index
        for index in lexed.level(opening + 1, lexed.partner[opening])
        if lexed.word(index) in ("WHEN", "THEN", "ELSE") and not lexed.column_label(index)
    ]


def _test(operand: Range | None, condition: Range, verdict: str) -> Term:
    if operand is None:
        return ("((", condition, f") {verdict})")
    return ("(((", operand, ") = (", condition, f")) {verdict})")


def _short_cut(lexed: Lexed, start: int, stop: int, inside: int) -> list[Term]:
    """Terms of the operands left of the one that holds ``inside``, in ``a OR b`` and ``a AND b``."""
    terms: list[Term] = []
    if lexed.word(start) in ("WHERE", "DISTINCT") and start < inside:  # FILTER (WHERE …), count(DISTINCT …)
        start += 1
    disjuncts = split_words(lexed, start, stop, "OR")
    mine = (start, stop)
    for left, right in disjuncts:
        if left <= inside < right:
            mine = (left, right)
            break
        terms.append(("((", (left, right), ") IS NOT TRUE)"))
    for left, right in split_words(lexed, *mine, "AND"):
        if left <= inside < right:
            break
        terms.append(("((", (left, right), ") IS NOT FALSE)"))
    return terms


def split_words(lexed: Lexed, start: int, stop: int, word: str) -> list[Range]:
    """The operands of a chain of AND or OR at the range's own level (BETWEEN … AND is no chain)."""
    pieces, left, between = [], start, 0
    for index in lexed.level(start, stop):
        current = lexed.words[index]
        if current not in ("BETWEEN", "AND", word) or lexed.column_label(index):
            continue
        if current == "BETWEEN":
            between += 1
        elif current == "AND" and between:
            between -= 1
        elif current == word:
            pieces.append((left, index))
            left = index + 1
    pieces.append((left, stop))
    return pieces


def conjuncts(lexed: Lexed, part: Range) -> list[Range]:
    """The operands of a chain of AND, brackets around it taken off."""
    first, end = part
    while lexed.text(first) == "(" and lexed.partner[first] == end - 1 and not starts_query(lexed, first + 1):
        first, end = first + 1, end - 1
    if len(split_words(lexed, first, end, "OR")) > 1:
        return [(first, end)]
    pieces = split_words(lexed, first, end, "AND")
    if len(pieces) == 1:
        return [(first, end)]
    return [conjunct for piece in pieces for conjunct in conjuncts(lexed, piece)]


def _lazy_function(lexed: Lexed, opening: int, position: int, pieces: list[Range]) -> list[Term]:
    name = lexed.word(opening - 1)
    if name in ("COALESCE", "IFNULL"):
        return [("((", piece, ") IS NULL)") for piece in pieces[:position]]
    if name == "IF" and position > 0:
        return [("((", pieces[0], f") IS {'' if position == 1 else 'NOT '}TRUE)")]
    return []


def bound_names(lexed: Lexed, index: int) -> set[str]:
    """Lower-case names of the lambda parameters and comprehension variables that are visible at a token."""
    names: set[str] = set()
    inside = index
    while lexed.binds_names and (opening := lexed.parent[inside]) >= 0:
        first, end = opening + 1, lexed.partner[opening]
        for at in lexed.level(first, end):
            if lexed.word(at) == "LAMBDA" and at < inside:
                names |= _names_until(lexed, at + 1, ":", end)
            elif lexed.text(at) == "->" and at < inside:
                pair = lexed.text(at - 1) == ")"
                names |= _names_until(lexed, lexed.partner[at - 1] + 1 if pair else at - 1, ")" if pair else "->", end)
            elif lexed.word(at) == "FOR" and lexed.text(opening) == "[":
                names |= _names_until(lexed, at + 1, "IN", end)
        inside = opening
    return names


def _names_until(lexed: Lexed, first: int, stop: str, end: int) -> set[str]:
    names = set()
    for index in range(first, end):
        if lexed.text(index).upper() == stop:
            break
        if lexed.tokens[index].kind in ("identifier", "keyword"):
            names.add(lexed.text(index).strip('"').lower())
    return names
