"""PREPARE, EXECUTE and DEALLOCATE of statements with LLM calls: kept per connection, bound anew by every EXECUTE."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from halo_sql.duck import Duck
from halo_sql.errors import Error, NotSupportedError, ParserError, Span
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.ir.expr import quote

if TYPE_CHECKING:
    from halo_sql.grammar.expanded import Expanded
    from halo_sql.grammar.parameters import SqlText

_NAMED = re.compile(r"\b(?:prepare|execute|deallocate)\b", re.IGNORECASE)
_CONSTANTS = ("string_const", "numeric_const")

Expand = Callable[[str], "Expanded | None"]
Check = Callable[[str, "Expanded"], object]


@dataclass(frozen=True, slots=True)
class Statement:
    """A prepared statement: its name as written and its text."""

    name: str
    text: str


class Prepared:
    """The prepared statements with LLM calls of one connection, by lower-case name."""

    def __init__(self, duck: Duck) -> None:
        self._duck = duck
        self._known: dict[str, Statement] = {}

    def concerns(self, sql: str) -> bool:
        """Whether a text may speak of one of them."""
        return bool(self._known) and _NAMED.search(sql) is not None

    def prepare(self, sql: str, expand: Expand, check: Check) -> bool:
        """Keep the statement of a PREPARE after binding it; False when ``sql`` is no PREPARE.

        check  binds a text with NULL for each parameter; what only fails because of that is no error
        """
        lexed = lex(sql)
        if lexed.word(0) != "PREPARE":
            return False
        if lexed.text(2) == "(":
            raise NotSupportedError(
                "TypeList for prepared statement has not been implemented.",
                sql=sql,
                span=lexed.span(2, 3),
                remedy="Cast the parameters in the statement.",
            )
        if lexed.word(2) != "AS" or len(lexed.tokens) < 4:
            raise ParserError("PREPARE needs a name, AS and a statement", sql=sql, span=lexed.span(0, 1))
        from halo_sql.grammar.skeleton import identifier

        name = identifier(lexed.text(1))
        span = lexed.span(3, len(lexed.tokens))
        text = sql[span.start : span.end]
        self._check(sql, text, span.start, expand, check)
        self._duck.execute(f"DEALLOCATE {quote(name)}")
        self._known[name.lower()] = Statement(name, text)
        return True

    @staticmethod
    def _check(sql: str, text: str, start: int, expand: Expand, check: Check) -> None:
        from halo_sql.grammar.expanded import Mark, assembled
        from halo_sql.grammar.parameters import SqlText, parameter_names, splice_parameters

        written = expand(text)
        names = parameter_names(text if written is None else written.text)
        values = {name: SqlText("NULL") for name in names}
        spliced = splice_parameters(text if written is None else written.text, values)
        pieces = []
        for piece_text, origin in spliced.pieces():
            place = origin if written is None else written.origin(origin)
            pieces.append(Mark(piece_text, Span(place.start + start, place.end + start)))
        expanded = assembled(pieces)
        try:
            check(sql, expanded)
        except Error as problem:
            if not expanded.is_argument(problem.span, sql):
                raise

    def forget(self, sql: str) -> bool:
        """Follow a DEALLOCATE, or DuckDB's PREPARE of the same name; True when nothing is left to do for it."""
        if not self.concerns(sql):
            return False
        lexed = lex(sql)
        word = lexed.word(0)
        at = 2 if word == "DEALLOCATE" and lexed.word(1) == "PREPARE" and len(lexed.tokens) > 2 else 1
        if word not in ("DEALLOCATE", "PREPARE"):
            return False
        from halo_sql.grammar.skeleton import identifier

        known = self._known.pop(identifier(lexed.text(at)).lower(), None)
        return known is not None and word == "DEALLOCATE"

    def expand(self, sql: str, params: object, expand: Expand) -> Expanded | None:
        """An EXECUTE, or an EXPLAIN of one, as the statement it stands for; None when it is none of ours."""
        if not self.concerns(sql):
            return None
        from halo_sql.grammar.expanded import Mark, assembled
        from halo_sql.grammar.parameters import splice_parameters
        from halo_sql.grammar.skeleton import identifier
        from halo_sql.grammar.values import parameter

        lexed = lex(sql)
        at = next((index for index in lexed.level(0, len(lexed.tokens)) if lexed.word(index) == "EXECUTE"), -1)
        if at < 0 or (at > 0 and lexed.word(0) != "EXPLAIN") or at + 1 >= len(lexed.tokens):
            return None
        known = self._known.get(identifier(lexed.text(at + 1)).lower())
        if known is None:
            return None
        if "?" in sql or "$" in sql:  # all before them keeps its place
            lexed = lex(splice_parameters(sql, params, partial(parameter, self._duck)).text)
        where = lexed.span(at + 1, at + 2)
        head = lexed.sql[: lexed.tokens[at].start]
        try:
            arguments = self._arguments(lexed, at + 2)
            written = expand(known.text)
            text = known.text if written is None else written.text
            body = splice_parameters(text, arguments, name_of=self._duck.expression_name)
        except Error as problem:
            problem.sql, problem.span, problem.remedy = sql, where, ""
            raise
        label = f'in the prepared statement "{known.name}"'
        return assembled([Mark(head, Span(0, len(head))), Mark(body.text, where, label)])

    def _arguments(self, lexed: Lexed, opening: int) -> dict[str, SqlText] | list[SqlText]:
        """The arguments of an EXECUTE as SQL, each computed once."""
        if lexed.text(opening) != "(":
            return []
        from halo_sql.grammar.skeleton import identifier

        positional: list[SqlText] = []
        named: dict[str, SqlText] = {}
        for first, end in lexed.items(opening + 1, lexed.partner[opening]):
            if lexed.text(first + 1) in (":=", "=>"):
                named[identifier(lexed.text(first))] = self._argument(lexed, first + 2, end)
            elif first < end:
                positional.append(self._argument(lexed, first, end))
        if named and positional:
            raise NotSupportedError("Mixing named and positional parameters is not supported yet")
        return named or positional

    def _argument(self, lexed: Lexed, first: int, end: int) -> SqlText:
        from halo_sql.grammar.parameters import SqlText
        from halo_sql.grammar.values import constant

        token = lexed.tokens[first]
        if end - first == 1 and (token.kind in _CONSTANTS or lexed.word(first) in ("NULL", "TRUE", "FALSE")):
            return SqlText(token.text)
        text = lexed.slice(first, end)
        [(kind, value)] = self._duck.rows(f"SELECT typeof(x), CAST(x AS VARCHAR) FROM (SELECT ({text}\n) AS x)")
        return SqlText(constant(kind, value))
