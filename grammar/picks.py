"""Blocks whose columns are known without a question to DuckDB: they pick columns of one relation that is known, and
add calls whose holes are such columns.

Nothing in such a block can be wrong: each name it reads is that of exactly one column, spelled as there, every item is
``*``, such a name, or a call with an alias, and every condition in WHERE is a call or compares such a column with a
constant of its kind. Whatever else stands in a block is DuckDB's to judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halo_sql.grammar.binding import Binding, Columns
from halo_sql.grammar.call_site import CallSite
from halo_sql.grammar.expressions import VALUE_FUNCTIONS
from halo_sql.grammar.guards import conjuncts
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import Range, identifier, parse_query, parse_select
from halo_sql.ir.types import BIGINT, BOOLEAN, DOUBLE, VARCHAR, SqlType

_KINDS = frozenset({"map", "filter", "classify", "rank"})
_RETURNS = frozenset({VARCHAR, BOOLEAN, BIGINT, DOUBLE})
_COMPARISONS = frozenset({"=", "<>", "!=", "<", "<=", ">", ">="})
_NUMBERS = frozenset({"INTEGER", "BIGINT", "DOUBLE"})
LONGEST_NUMBER = 9  # digits: an INTEGER


@dataclass(frozen=True, slots=True)
class Picks:
    """A block of this kind.

    relation  what FROM reads: a sub-query's token range (brackets aside) or a name
    items     '' for ``*``; (name it reads, its own name); (call, its own name)
    tests     in WHERE: calls; (name of a column, the types it may have)
    """

    relation: Range | str
    items: tuple[str | tuple[str | CallSite, str], ...]
    tests: tuple[CallSite | tuple[str, frozenset[str]], ...] = ()

    def over(self, columns: Columns) -> Columns | None:
        """The block's columns, given those of the relation (none: not known); None when only DuckDB can tell."""
        kinds = dict(columns)
        if not kinds or not _distinct(kinds, len(columns)) or any(_untyped(kind.text) for kind in kinds.values()):
            return None
        for test in self.tests:
            if not (_reads(test) <= kinds.keys() if isinstance(test, CallSite) else _fits(test, kinds)):
                return None
        found: Columns = []
        for item in self.items:
            if isinstance(item, str):
                found += columns
                continue
            read, name = item
            if isinstance(read, str):
                if read not in kinds:
                    return None
                found.append((name, kinds[read]))
            elif _reads(read) <= kinds.keys():
                found.append((name, read.returns))
            else:
                return None
        return found if _distinct(dict(found), len(found)) else None


def picks_of(binding: Binding, part: Range) -> Picks | None:
    """The block in a token range, if it is of this kind."""
    lexed = binding.lexed
    if lexed.word(part[0]) != "SELECT":
        return None
    query = parse_query(lexed, *part)
    select = parse_select(lexed, *part)
    if len(query.arms) > 1 or select.distinct or select.clauses.keys() - {"WHERE"} != {"SELECT", "FROM"}:
        return None
    relation = _relation(lexed, *select.clauses["FROM"])
    if relation is None:
        return None
    items = []
    for first, end in lexed.items(*select.clauses["SELECT"]):
        item = _item(binding, first, end)
        if item is None:
            return None
        items.append(item)
    tests = []
    for first, end in conjuncts(lexed, select.clauses["WHERE"]) if "WHERE" in select.clauses else ():
        test = _test(binding, first, end)
        if test is None:
            return None
        tests.append(test)
    return Picks(relation, tuple(items), tuple(tests))


def _test(binding: Binding, first: int, end: int) -> CallSite | tuple[str, frozenset[str]] | None:
    """A condition that cannot be wrong."""
    lexed = binding.lexed
    calls = binding.calls_in(first, end)
    if calls:
        whole = len(calls) == 1 and (calls[0].first, calls[0].end) == (first, end)
        return calls[0] if whole and calls[0].kind == "filter" and _is_simple(calls[0]) else None
    name = _column(lexed, first)
    if end - first != 3 or not name or lexed.text(first + 1) not in _COMPARISONS:
        return None
    constant = lexed.tokens[end - 1]
    if constant.kind == "numeric_const" and constant.text.isdecimal() and len(constant.text) <= LONGEST_NUMBER:
        return name, _NUMBERS
    plain = constant.kind == "string_const" and constant.text.startswith("'")
    return (name, frozenset({"VARCHAR"})) if plain else None


def _relation(lexed: Lexed, first: int, end: int) -> Range | str | None:
    behind = lexed.partner[first] + 1 if lexed.text(first) == "(" else first + 1
    if lexed.word(behind) == "AS":
        behind += 1
    if behind < end and (behind + 1 != end or lexed.tokens[behind].kind != "identifier"):
        return None
    if lexed.text(first) == "(":
        return first + 1, lexed.partner[first]
    return identifier(lexed.text(first)) if lexed.tokens[first].kind == "identifier" else None


def _item(binding: Binding, first: int, end: int) -> str | tuple[str | CallSite, str] | None:
    lexed = binding.lexed
    if end - first == 1 and lexed.text(first) == "*":
        return ""
    alias = ""
    if end - first > 2 and lexed.word(end - 2) == "AS":
        if lexed.tokens[end - 1].kind != "identifier":
            return None
        alias, end = identifier(lexed.text(end - 1)), end - 2
    if end - first == 1:
        name = _column(lexed, first)
        return (name, alias or name) if name else None
    calls = binding.calls_in(first, end)
    if not alias or len(calls) != 1 or (calls[0].first, calls[0].end) != (first, end) or not _is_simple(calls[0]):
        return None
    return calls[0], alias


def _column(lexed: Lexed, index: int) -> str:
    """The name at a token, where it can be nothing but a column's; else ''."""
    if lexed.tokens[index].kind != "identifier":
        return ""
    name = identifier(lexed.text(index))
    return "" if name.lower() in VALUE_FUNCTIONS else name


def _is_simple(call: CallSite) -> bool:
    """Whether a call is one value of a plain type, computed of single columns."""
    if call.kind not in _KINDS or call.returns not in _RETURNS or call.on_error == "struct" or call.inputs:
        return False
    if any(hole.star for hole in call.holes()):
        return False
    sources = [field.source.lexed for hole in call.holes() for field in hole.fields]
    return all(len(lexed.tokens) == 1 and _column(lexed, 0) for lexed in sources)


def _reads(call: CallSite) -> set[str]:
    return {identifier(field.source.lexed.text(0)) for hole in call.holes() for field in hole.fields}


def _fits(test: tuple[str, frozenset[str]], kinds: Mapping[str, SqlType]) -> bool:
    name, types = test
    return name in kinds and kinds[name].text in types


def _distinct(kinds: Mapping[str, SqlType], count: int) -> bool:
    return len({name.lower() for name in kinds}) == count


def _untyped(text: str) -> bool:
    """Whether a column's type may be another one for those who read it: that of NULL, that of a literal."""
    return "NULL" in text or "LITERAL" in text
