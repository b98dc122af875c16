"""Where a SQL text names relations and selects items, by its tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import QUERY_STARTS, Range, ctes_at, identifier, starts_query

_FROM_ENDS = frozenset(
    {"WHERE", "GROUP", "HAVING", "WINDOW", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "FETCH", "SELECT", "UNION"}
    | {"INTERSECT", "EXCEPT", "RETURNING", "SET", "VALUES", "WHEN"}
)
#: words that may stand directly behind a relation without being its alias
_NO_ALIAS = _FROM_ENDS | {
    "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "ASOF", "POSITIONAL", "SEMI", "ANTI", "ON", "USING",
    "TABLESAMPLE", "PIVOT", "UNPIVOT", "WITH", "AT", "TO", "BY", "INCLUDE", "EXCLUDE", "FROM",
}  # fmt: skip
_LIST_ENDS = _FROM_ENDS | {"FROM", "INTO"}
_QUERY_FOLLOWS = frozenset({"AS", "EXPLAIN", "ANALYZE", "ALL", "UNION", "EXCEPT", "INTERSECT"})
_BARE = frozenset({"TABLE", "SUMMARIZE", "PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER"})


@dataclass(frozen=True, slots=True)
class Relation:
    """A name that stands as a relation: its token range (qualifiers included, arguments not).

    called   whether ``(`` follows: a table function
    aliased  whether the statement gives it a name
    bare     behind TABLE or COPY, where only a name may stand
    """

    first: int
    end: int
    parts: tuple[str, ...]
    called: bool
    aliased: bool
    bare: bool = False


@dataclass(slots=True)
class _Level:
    end: int
    query: bool
    in_from: bool = False
    expecting: bool = False
    prefixed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Relations that are no CTE's, and the token ranges of the lists behind SELECT."""

    relations: tuple[Relation, ...]
    select_lists: tuple[Range, ...]


def layout(lexed: Lexed) -> Layout:
    """The relations and SELECT lists of a statement, a query or an expression with sub-queries."""
    relations: list[Relation] = []
    lists: list[Range] = []
    ctes: list[tuple[str, Range]] = []
    count = len(lexed.tokens)
    levels = [_Level(count, True)]
    first_word = _statement_word(lexed)
    index = 0
    while index < count:
        while index >= levels[-1].end and len(levels) > 1:
            levels.pop()
        level, word, text = levels[-1], lexed.word(index), lexed.text(index)
        if lexed.is_opening(index):
            query = (text == "(" and starts_query(lexed, index + 1)) or lexed.word(index + 1) in _BARE
            joined = text == "(" and not query and level.in_from and level.expecting
            level.expecting = False
            levels.append(_Level(lexed.partner[index], bool(query), joined, joined))
        elif level.expecting and _is_name(lexed, index) and (word not in ("LATERAL", "ONLY") or _ends(lexed, index)):
            if lexed.text(index + 1) == ":":
                level.prefixed = True
                index += 2
                continue
            found = _relation(lexed, index, level.prefixed)
            level.expecting = level.prefixed = False
            if not _is_cte(found, ctes):
                relations.append(found)
            index = found.end
            continue
        elif level.query and lexed.tokens[index].kind == "keyword" and not _is_label(lexed, index, first_word):
            _keyword(lexed, index, word, level, first_word)
            if word == "WITH":
                ctes += _scopes(lexed, index, level.end)
            elif word == "SELECT":
                lists.append(_select_list(lexed, index, level.end))
        elif (level.in_from and text == ",") or (level.in_from and word == "JOIN"):
            level.expecting = True
        else:
            level.expecting = level.expecting and word in ("LATERAL", "ONLY")
        index += 1
    if first_word == "COPY" and _is_name(lexed, 1) and lexed.text(1) != "(":
        copied = _relation(lexed, 1, False)
        if lexed.word(copied.end) == "TO":
            relations.append(Relation(copied.first, copied.end, copied.parts, False, True, bare=True))
    return Layout(tuple(sorted(relations, key=lambda found: found.first)), tuple(lists))


def _is_label(lexed: Lexed, index: int, first_word: str) -> bool:
    """Whether a keyword is only a name here; behind the AS of a CREATE … AS it begins the query."""
    created = first_word == "CREATE" and lexed.parent[index] < 0 and lexed.word(index) in QUERY_STARTS
    return lexed.column_label(index) and not created


def _keyword(lexed: Lexed, index: int, word: str, level: _Level, first_word: str) -> None:
    if word == "FROM":
        distinct = lexed.word(index - 1) == "DISTINCT" and lexed.word(index - 2) in ("IS", "NOT")
        deleted = first_word == "DELETE" and lexed.word(index - 1) == "DELETE"
        if not distinct:
            level.in_from, level.expecting = True, not deleted
    elif word == "JOIN" and level.in_from:
        level.expecting = True
    elif word == "USING" and first_word in ("MERGE", "DELETE") and lexed.parent[index] < 0:
        level.in_from = level.expecting = True
    elif word in _BARE and _begins(lexed, index):
        level.in_from, level.expecting = word == "TABLE", True
    elif word in _FROM_ENDS:
        level.in_from = level.expecting = False
    elif word != "LATERAL":
        level.expecting = False


def _begins(lexed: Lexed, index: int) -> bool:
    """Whether a statement or query begins here: TABLE t, SUMMARIZE t, PIVOT t ON …"""
    before = lexed.word(index - 1)
    return index == 0 or lexed.text(index - 1) == "(" or before in _QUERY_FOLLOWS


def _statement_word(lexed: Lexed) -> str:
    """The first word of the statement that counts: behind EXPLAIN and WITH … it is another."""
    for index in lexed.level(0, len(lexed.tokens)):
        if lexed.word(index) in ("MERGE", "DELETE", "COPY", "SELECT", "FROM", "INSERT", "UPDATE", "CREATE"):
            return lexed.word(index)
    return ""


def _is_name(lexed: Lexed, index: int) -> bool:
    return (
        index < len(lexed.tokens)
        and lexed.tokens[index].kind in ("identifier", "keyword")
        and (lexed.word(index) not in QUERY_STARTS)
    )


def _ends(lexed: Lexed, index: int) -> bool:
    """Whether a word that could introduce a relation is itself the last thing here."""
    return lexed.text(index + 1) in ("", ",", ")", ".")


def _relation(lexed: Lexed, first: int, prefixed: bool) -> Relation:
    end = first + 1
    while lexed.text(end) == "." and end + 1 < len(lexed.tokens):
        end += 2
    parts = tuple(identifier(lexed.text(index)) for index in range(first, end, 2))
    called = lexed.text(end) == "("
    behind = lexed.partner[end] + 1 if called else end
    follower = lexed.text(behind)
    aliased = prefixed or lexed.word(behind) == "AS"
    if not aliased and behind < len(lexed.tokens) and lexed.tokens[behind].kind in ("identifier", "keyword"):
        aliased = follower.startswith('"') or lexed.word(behind) not in _NO_ALIAS
    bare = lexed.word(first - 1) == "TABLE"
    return Relation(first, end, parts, called, aliased, bare)


def _is_cte(found: Relation, ctes: list[tuple[str, Range]]) -> bool:
    if found.called or len(found.parts) > 1:
        return False
    name = found.parts[0].lower()
    return any(name == known and scope[0] <= found.first < scope[1] for known, scope in ctes)


def _scopes(lexed: Lexed, index: int, end: int) -> Iterator[tuple[str, Range]]:
    """The CTEs of a WITH and where their names are seen."""
    if (
        lexed.word(index + 1) != "RECURSIVE"
        and lexed.word(index + 2) not in ("AS", "USING")
        and lexed.text(index + 2) != "("
    ):
        return
    _, found, recursive = ctes_at(lexed, index, end)
    for cte in found:
        yield cte.name.lower(), (cte.whole[0] if recursive else cte.whole[1], end)


def _select_list(lexed: Lexed, index: int, end: int) -> Range:
    first = index + 1
    if lexed.word(first) == "DISTINCT":
        first += 1
        if lexed.word(first) == "ON" and lexed.text(first + 1) == "(":
            first = lexed.partner[first + 1] + 1
    elif lexed.word(first) == "ALL":
        first += 1
    for at in lexed.level(first, end):
        word = lexed.word(at)
        distinct = word == "FROM" and lexed.word(at - 1) == "DISTINCT" and lexed.word(at - 2) in ("IS", "NOT")
        clause = word in _LIST_ENDS and lexed.tokens[at].kind == "keyword"
        if clause and not distinct and not lexed.column_label(at):
            return first, at
    return first, end
