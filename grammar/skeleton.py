"""The skeleton of a query: WITH, set operations, and the clauses of each SELECT, as token ranges.

Clause keywords are reserved words in DuckDB, so at bracket level zero they can mean nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from halo_sql.grammar.lex import Lexed

QUERY_STARTS = frozenset({"SELECT", "FROM", "WITH", "VALUES", "TABLE"})
SET_OPERATIONS = frozenset({"UNION", "INTERSECT", "EXCEPT"})
#: words that begin a clause of a SELECT (GROUP and ORDER stand for GROUP BY and ORDER BY)
CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "FETCH")
TAIL_CLAUSES = frozenset({"ORDER", "LIMIT", "OFFSET", "FETCH"})

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cte:
    """``name [(columns)] AS [NOT] [MATERIALIZED] (body)``; ``whole`` covers all of it, ``body`` what is inside."""

    name: str
    whole: Range
    body: Range
    column_list: Range | None


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT block: the ranges behind its clause keywords.

    clauses      keyword -> range of what follows it (``SELECT`` without DISTINCT, ``GROUP`` without BY, …)
    distinct     whether DISTINCT stands behind SELECT (DISTINCT ON included)
    distinct_on  range of the expressions of DISTINCT ON (…)
    """

    range: Range
    clauses: dict[str, Range] = field(default_factory=dict)
    distinct: bool = False
    distinct_on: Range | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One operand of a set operation: a SELECT block, VALUES, a parenthesised query, or something else."""

    range: Range
    kind: str  # 'select' | 'values' | 'nested' | 'other'


@dataclass(frozen=True, slots=True)
class Query:
    """``[WITH …] arm [UNION … arm …] [ORDER BY … LIMIT …]``."""

    range: Range
    ctes: tuple[Cte, ...]
    recursive: bool
    arms: tuple[Arm, ...]
    tail: Range  # ORDER BY / LIMIT of a set operation; empty for a single arm


def starts_query(lexed: Lexed, index: int) -> bool:
    """Whether the token inside an opening bracket begins a query."""
    known, passed = lexed.query_starts, []
    while index not in known:
        passed.append(index)
        if lexed.text(index) != "(":
            known[index] = lexed.word(index) in QUERY_STARTS and not lexed.column_label(index)
            break
        behind = lexed.partner[index] + 1
        if lexed.text(behind) not in ("", ")") and lexed.word(behind) not in SET_OPERATIONS | TAIL_CLAUSES:
            known[index] = False  # ((SELECT 1) + 2), ((SELECT 1), 2)
            break
        index += 1
    found = known[index]
    known.update(dict.fromkeys(passed, found))
    return found


def parse_query(lexed: Lexed, first: int, end: int) -> Query:
    """The skeleton of the query in a token range."""
    start, recursive = first, False
    ctes: list[Cte] = []
    if lexed.word(first) == "WITH":
        start, ctes, recursive = ctes_at(lexed, first, end)
    words = lexed.words
    separators = [
        index for index in lexed.level(start, end) if words[index] in SET_OPERATIONS and not lexed.column_label(index)
    ]
    if not separators:
        return Query((first, end), tuple(ctes), recursive, (_arm(lexed, start, end),), (end, end))
    arms, arm_start = [], start
    for separator in separators:
        arms.append(_arm(lexed, arm_start, separator))
        arm_start = separator + 1
        while lexed.word(arm_start) in ("ALL", "DISTINCT", "BY", "NAME"):
            arm_start += 1
    tail = end
    for index in lexed.level(arm_start, end):
        if lexed.word(index) in TAIL_CLAUSES and not lexed.column_label(index):
            tail = index
            break
    arms.append(_arm(lexed, arm_start, tail))
    return Query((first, end), tuple(ctes), recursive, tuple(arms), (tail, end))


def ctes_at(lexed: Lexed, first: int, end: int) -> tuple[int, list[Cte], bool]:
    """The CTEs of the WITH at a token: index behind them, the CTEs, and whether it is RECURSIVE."""
    index = first + 1
    recursive = lexed.word(index) == "RECURSIVE"
    index += recursive
    ctes: list[Cte] = []
    while index < end:
        start, name, column_list = index, identifier(lexed.text(index)), None
        index += 1
        if lexed.text(index) == "(":
            column_list = (index, lexed.partner[index] + 1)
            index = column_list[1]
        while index < end and lexed.word(index) != "AS":  # USING KEY (…)
            index = lexed.partner[index] + 1 if lexed.is_opening(index) else index + 1
        while index < end and lexed.text(index) != "(":
            index += 1
        if index >= end:
            break
        closing = lexed.partner[index]
        ctes.append(Cte(name, (start, closing + 1), (index + 1, closing), column_list))
        index = closing + 1
        if lexed.text(index) != ",":
            break
        index += 1
    return index, ctes, recursive


def _arm(lexed: Lexed, first: int, end: int) -> Arm:
    word = lexed.word(first)
    if word in ("SELECT", "FROM"):
        return Arm((first, end), "select")
    if word == "VALUES":
        return Arm((first, end), "values")
    if lexed.text(first) == "(" and lexed.partner[first] == end - 1:
        return Arm((first, end), "nested")
    return Arm((first, end), "other")


def parse_select(lexed: Lexed, first: int, end: int) -> Select:
    """The clauses of the SELECT block in a token range."""
    marks: list[tuple[str, int, int]] = []  # keyword, its token, first token behind it
    words = lexed.words
    for index in lexed.level(first, end):
        word = words[index]
        if not word:
            continue
        if word == "USING" and lexed.word(index + 1) == "SAMPLE":
            marks.append(("SAMPLE", index, index + 2))
        elif word in CLAUSES and _is_clause(lexed, index, word, first):
            behind = index + 2 if word in ("GROUP", "ORDER") else index + 1
            marks.append((word, index, behind))
    clauses: dict[str, Range] = {}
    for position, (word, _, behind) in enumerate(marks):
        stop = marks[position + 1][1] if position + 1 < len(marks) else end
        clauses.setdefault(word, (behind, stop))
    distinct, distinct_on = False, None
    if "SELECT" in clauses:
        start, stop = clauses["SELECT"]
        if lexed.word(start) == "DISTINCT":
            distinct, start = True, start + 1
            if lexed.word(start) == "ON" and lexed.text(start + 1) == "(":
                distinct_on = (start + 2, lexed.partner[start + 1])
                start = distinct_on[1] + 1
        elif lexed.word(start) == "ALL":
            start += 1
        clauses["SELECT"] = (start, stop)
    return Select((first, end), clauses, distinct, distinct_on)


def _is_clause(lexed: Lexed, index: int, word: str, first: int) -> bool:
    if (index > first and lexed.column_label(index)) or lexed.tokens[index].kind != "keyword":
        return False
    if word == "FROM":  # IS [NOT] DISTINCT FROM
        return not (lexed.word(index - 1) == "DISTINCT" and lexed.word(index - 2) in ("IS", "NOT"))
    if word in ("GROUP", "ORDER"):
        return lexed.word(index + 1) == "BY"
    if word == "OFFSET" or word == "WINDOW":
        return index > 0
    return True


def identifier(text: str) -> str:
    """The name an identifier token stands for."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
