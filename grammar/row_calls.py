"""TOOL and AGENT in FROM, and tools called by their own names, written as calls that the binder knows.

``FROM t, LATERAL TOOL(orders, id => t.id) o`` is ``FROM t, LATERAL (SELECT unnest(<the call>, max_depth := 2)) o``: the
value of a tool that returns a table is the list of its rows, that of an agent here one row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from halo_sql.catalog.objects import Snapshot
from halo_sql.duck import Duck
from halo_sql.errors import Span
from halo_sql.grammar.expand_tokens import defines_name, is_named
from halo_sql.grammar.expanded import Expanded, assembled, pieces_with
from halo_sql.grammar.holes import Edit, Place, edits_in_holes
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.object_calls import is_object_call
from halo_sql.grammar.operators_table import ROW_OPERATORS
from halo_sql.grammar.relations import layout
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.source import Source, read_literal
from halo_sql.grammar.splice import Piece, Spliced, assemble, pieces_of
from halo_sql.grammar.syntax import Syntax
from halo_sql.ir.expr import quote

_OPERATORS = {operator: written for written, operator in ROW_OPERATORS.items()}
_IN_FROM = re.compile(r"\b(?:tool|agent)\s*\(", re.IGNORECASE)


def with_row_calls(sql: str, duck: Duck, snapshot: Snapshot) -> Spliced:
    """The statement with the calls that stand as relations written as sub-queries."""
    if not _IN_FROM.search(sql):
        return assemble([Piece(sql, Span(0, len(sql)))])

    def find(lexed: Lexed, place: Place) -> list[Edit]:
        source = Source(lexed, Syntax(False), lambda span: span)
        edits = edits_in_holes(lexed, place, find)
        for relation in layout(lexed).relations:
            operator = relation.parts[-1].upper()
            if len(relation.parts) > 1 or not relation.called or operator not in _OPERATORS:
                continue
            if not is_object_call(duck, source, relation.first):
                continue
            opening = relation.first + 1
            word, closing = lexed.span(relation.first, opening), lexed.span(0, lexed.partner[opening] + 1).end
            name = "" if relation.aliased else f" AS {quote(_name(lexed, opening + 1, operator, snapshot))}"
            edits.append((word, [Piece(f"(SELECT unnest({_opened(operator)}", place(word))]))
            behind = Span(closing, closing)
            tail = f"{_closed(operator)}, max_depth := 2)){name}"
            edits.append((behind, [Piece(tail, place(Span(closing - 1, closing)))]))
        return edits

    return assemble(pieces_of(sql, 0, len(sql), find(lex(sql), lambda span: span)))


def _opened(operator: str) -> str:
    return "[" * (operator == "AGENT") + _OPERATORS[operator]


def _closed(operator: str) -> str:
    return "]" * (operator == "AGENT")


def _name(lexed: Lexed, index: int, operator: str, snapshot: Snapshot) -> str:
    """The object's name, which names the relation as a function's does."""
    token = lexed.tokens[index]
    written = read_literal(token.text).value if token.kind == "string_const" else identifier(token.text)
    known = snapshot.of(operator.lower()).get(written.lower())
    return written if known is None else known.name


def with_tool_names(sql: str, names: Iterable[str], name_of: Callable[[str], str]) -> Expanded | None:
    """The statement with ``name(…)`` written ``TOOL(name, …)`` for these tools (lower-case names); None: it has none.

    Not where a name is defined or qualified. ``name_of`` gives the column name of an expression: SELECT items keep it.
    """
    known = frozenset(names)

    def find(lexed: Lexed, place: Place) -> list[Edit]:
        edits = edits_in_holes(lexed, place, find)
        for index in range(len(lexed.tokens) - 1):
            token = lexed.tokens[index]
            if lexed.text(index + 1) != "(" or token.kind not in ("identifier", "keyword"):
                continue
            if identifier(token.text).lower() not in known or lexed.text(index - 1) == ".":
                continue
            if defines_name(lexed, index) and not _is_macro_body(lexed, index):
                continue
            where = lexed.span(index, index + 2)
            empty = lexed.partner[index + 1] == index + 2
            edits.append((where, [Piece(f"TOOL({token.text}{'' if empty else ', '}", place(where))]))
        for part in layout(lexed).select_lists if edits else ():
            for item in lexed.items(*part):
                span = lexed.span(*item)
                if any(span.start <= edit.start < span.end for edit, _ in edits) and not is_named(lexed, *item):
                    name = f" AS {quote(name_of(lexed.slice(*item)))}"
                    edits.append((Span(span.end, span.end), [Piece(name, place(span))]))
        return edits

    lexed = lex(sql)
    edits = find(lexed, lambda span: span)
    return assembled(pieces_with(lexed, edits, lambda span: span, "")) if edits else None


def _is_macro_body(lexed: Lexed, index: int) -> bool:
    """Whether the body of a CREATE MACRO begins at a token: the AS before it introduces no alias."""
    if lexed.word(0) != "CREATE" or lexed.word(index - 1) != "AS" or lexed.parent[index] >= 0:
        return False
    return any(lexed.word(at) in ("MACRO", "FUNCTION") for at in range(1, 5))
