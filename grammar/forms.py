"""Statements around a query: PIVOT, SUMMARIZE, DESCRIBE, SET VARIABLE, INSERT … RETURNING and their like.

DuckDB runs them as they stand once the queries with LLM calls inside them are tables. A *stage* is such a query: its
rows are computed first, and its place in the statement becomes the name of their table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from halo_sql.errors import NotSupportedError, Span
from halo_sql.grammar.classify import operator_calls
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.skeleton import QUERY_STARTS, Cte, Range, ctes_at, starts_query
from halo_sql.ir.expr import quote

_WORDS = re.compile(
    r"\b(?:pivot\w*|unpivot|summarize|describe|desc|show|returning|default|variable|insert)\b", re.IGNORECASE
)
_SOURCES = frozenset({"PIVOT", "UNPIVOT", "PIVOT_WIDER", "PIVOT_LONGER", "SUMMARIZE"})
_DESCRIBES = frozenset({"DESCRIBE", "DESC", "SHOW"})


@dataclass(frozen=True, slots=True)
class Stage:
    """A query to run before the statement.

    parts      its text: pieces of the statement, and other texts (names of earlier stages' tables among them)
    table      name of its table
    described  only its columns' names and types are wanted: it is never run
    """

    parts: tuple[Span | str, ...]
    table: str
    described: bool = False


@dataclass(frozen=True, slots=True)
class Staged:
    """A statement as stages and what is left of it, in the same form as their texts."""

    stages: tuple[Stage, ...]
    parts: tuple[Span | str, ...]


def may_stage(sql: str) -> bool:
    """Whether a statement may need stages: a look for a few words."""
    return _WORDS.search(sql) is not None


def staged(lexed: Lexed, name: str) -> Staged | None:
    """The stages of a statement; None when it needs none. Their tables are called ``name`` with a number.

    NotSupportedError for an LLM call of such a form that stands outside its query.
    """
    found = _Finder(lexed, name)
    found.search()
    if not found.cuts:
        return None
    return Staged(tuple(found.stages), found.text(0, len(lexed.sql)))


class _Finder:
    def __init__(self, lexed: Lexed, name: str) -> None:
        self.lexed = lexed
        self.name = name
        starts = {token.start for token in operator_calls(lexed.tokens)}
        self.calls = [index for index, token in enumerate(lexed.tokens) if token.start in starts]
        self.stages: list[Stage] = []
        self.cuts: list[tuple[Span, tuple[Span | str, ...]]] = []

    def search(self) -> None:
        lexed = self.lexed
        count = len(lexed.tokens)
        first = lexed.word(0)
        if first == "SET" and lexed.word(1) == "VARIABLE" and lexed.text(3) == "=":
            self._expression(4, count)
            return
        insert = next((at for at in lexed.level(0, count) if lexed.word(at) == "INSERT"), -1)
        if insert >= 0 and (first == "INSERT" or first == "WITH"):
            self._insert(insert, first == "WITH")
            return
        self._groups(0, count)

    # --- PIVOT, UNPIVOT, SUMMARIZE, DESCRIBE: the statement itself, or in brackets ---

    def _groups(self, first: int, end: int) -> None:
        """The outermost forms in a range that hold calls or read a CTE that does."""
        lexed = self.lexed
        starts = [first]
        if lexed.word(first) == "CREATE":
            starts = [at + 1 for at in lexed.level(first, end) if lexed.word(at) == "AS"][:1]
        for start in starts:
            self._group(start, end)
        index = first
        while index < end:
            opens = lexed.is_opening(index) and lexed.text(index) == "("
            if opens and self._group(index + 1, lexed.partner[index]):
                index = lexed.partner[index]
            index += 1

    def _group(self, first: int, end: int) -> bool:
        lexed = self.lexed
        ctes: Sequence[Cte] = ()
        start = first
        if lexed.word(first) == "WITH":
            start, ctes, _ = ctes_at(lexed, first, end)
        word = lexed.word(start)
        named: set[str] = set()
        for cte in ctes:
            if self._has(*cte.body) or self._reads(named, *cte.body):
                named.add(cte.name.lower())
        if ctes and (word in _SOURCES | _DESCRIBES or self._form_reads(named, start, end)):
            self._ctes(ctes)
        if word not in _SOURCES | _DESCRIBES or not self._has(start, end):
            return False
        source = start + 1
        stop = end
        if lexed.text(source) == "(" and starts_query(lexed, source + 1):
            source, stop = source + 1, lexed.partner[source]
        elif word not in _DESCRIBES and word != "SUMMARIZE":
            source = stop = end
        if not (lexed.word(source) in QUERY_STARTS or lexed.text(source) == "(") or not self._has(source, stop):
            source = stop = end
        self._refuse_rest(word, start, end, (source, stop))
        stage = self._stage(self._query(ctes, source, stop), described=word in _DESCRIBES)
        bracket = "" if lexed.text(source - 1) == "(" else "("
        closing = "" if lexed.text(source - 1) == "(" else ")"
        self._cut(lexed.span(source, stop), f"{bracket}{stage}{closing}")
        return True

    def _refuse_rest(self, word: str, start: int, end: int, kept: Range) -> None:
        for call in self.calls:
            if start <= call < end and not kept[0] <= call < kept[1]:
                raise NotSupportedError(
                    f"an LLM call in the {word} clauses is not available in this version",
                    span=self.lexed.span(call, call + 1),
                    remedy=f"Compute it in the source: {word} (SELECT *, … AS x FROM t) …",
                )

    def _form_reads(self, names: set[str], first: int, end: int) -> bool:
        """Whether a PIVOT or SUMMARIZE somewhere in a range reads one of these CTEs."""
        lexed = self.lexed
        return bool(names) and any(
            lexed.word(index) in _SOURCES | _DESCRIBES
            and lexed.text(index - 1) == "("
            and self._reads(names, index, lexed.partner.get(index - 1, index))
            for index in range(first, end)
        )

    def _reads(self, names: set[str], first: int, end: int) -> bool:
        return any(self.lexed.text(at).strip('"').lower() in names for at in range(first, end))

    def _ctes(self, ctes: Sequence[Cte]) -> None:
        """Stage the CTEs with calls; later ones read the earlier ones' tables."""
        for position, cte in enumerate(ctes):
            if self._has(*cte.body):
                stage = self._stage(self._query(ctes[:position], *cte.body))
                self._cut(self.lexed.span(*cte.body), stage)

    # --- INSERT ---

    def _insert(self, at: int, with_ctes: bool) -> None:
        lexed = self.lexed
        count = len(lexed.tokens)
        start = next(
            (
                index
                for index in lexed.level(at + 3, count)
                if lexed.word(index) in QUERY_STARTS or (lexed.text(index) == "(" and starts_query(lexed, index + 1))
            ),
            count,
        )
        returning = next((index for index in lexed.level(start, count) if lexed.word(index) == "RETURNING"), count)
        conflict = next(
            (
                index
                for index in lexed.level(start, returning)
                if lexed.word(index) == "ON" and lexed.word(index + 1) == "CONFLICT"
            ),
            returning,
        )
        if lexed.word(start) == "VALUES" and any(lexed.word(index) == "DEFAULT" for index in range(start, conflict)):
            self._values(start + 1, conflict)
            return
        if not with_ctes and returning == count:
            return
        ctes = ctes_at(lexed, 0, at)[1] if with_ctes else ()
        stage = self._stage(self._query(ctes, start, conflict))
        if with_ctes:
            self._cut(Span(0, lexed.tokens[at].start), "")
        self._cut(lexed.span(start, conflict), f"({stage})")

    def _values(self, first: int, end: int) -> None:
        """VALUES with DEFAULT: each item with calls becomes a column of one row."""
        lexed = self.lexed
        items: list[Range] = []
        for row in lexed.level(first, end):
            if lexed.text(row) == "(":
                items += [item for item in lexed.items(row + 1, lexed.partner[row]) if self._has(*item)]
        if not items:
            return
        parts: list[Span | str] = ["SELECT "]
        for number, item in enumerate(items):
            parts += [lexed.span(*item), f" AS c{number}" + (", " if number < len(items) - 1 else "")]
        stage = self._stage(tuple(parts))
        for number, item in enumerate(items):
            self._cut(lexed.span(*item), f"(SELECT c{number} {stage})")

    def _expression(self, first: int, end: int) -> None:
        stage = self._stage(("SELECT (", self.lexed.span(first, end), ") AS value"))
        self._cut(self.lexed.span(first, end), f"({stage})")

    # --- texts ---

    def _has(self, first: int, end: int) -> bool:
        return any(first <= call < end for call in self.calls)

    def _query(self, ctes: Sequence[Cte], first: int, end: int) -> tuple[Span | str, ...]:
        span = self.lexed.span(first, end)
        body = self.text(span.start, span.end)
        if not ctes:
            return body
        whole = self.lexed.span(ctes[0].whole[0], ctes[-1].whole[1])
        recursive = "RECURSIVE " if self.lexed.word(ctes[0].whole[0] - 1) == "RECURSIVE" else ""
        named = self.lexed.word(first) != "WITH"
        head = (f"WITH {recursive}", *self.text(whole.start, whole.end), " ")
        return (*head, *body) if named else (*head, "SELECT * FROM (", *body, ")")

    def _stage(self, parts: tuple[Span | str, ...], described: bool = False) -> str:
        table = f"{self.name}{len(self.stages)}"
        self.stages.append(Stage(parts, table, described))
        return f"FROM temp.main.{quote(table)}"

    def _cut(self, span: Span, text: str) -> None:
        self.cuts.append((span, (text,) if text else ()))

    def text(self, start: int, end: int) -> tuple[Span | str, ...]:
        """A part of the statement with the cuts made so far."""
        parts: list[Span | str] = []
        at = start
        for span, new in sorted(self.cuts, key=lambda cut: cut[0].start):
            if span.start < at or span.end > end:
                continue
            if span.start > at:
                parts.append(Span(at, span.start))
            parts += new
            at = span.end
        if at < end:
            parts.append(Span(at, end))
        return tuple(parts)
