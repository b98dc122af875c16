"""What the binders of one statement share: ids, the calls, shadow texts and DuckDB's opinion of them.

The **shadow** of a text is the same text with every LLM call replaced by a typed expression that holds the
call's holes. DuckDB binds it like any query: that settles names, types, star expansion and every error of
the user's own SQL, in holes too, before anything runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from halo_sql.duck import Duck
from halo_sql.errors import Error, InterruptedQueryError, Span
from halo_sql.grammar.call_site import CallSite, HoleField
from halo_sql.grammar.operators_table import ROW_OPERATORS
from halo_sql.grammar.skeleton import Cte
from halo_sql.grammar.source import Source
from halo_sql.grammar.splice import Piece, Spliced, assemble, pieces_of
from halo_sql.grammar.stubs import Blocks, Stubs, may_read_stubs, stub, words_of
from halo_sql.ir.expr import Column, ColumnId, literal, quote
from halo_sql.ir.logical import LogicalPlan
from halo_sql.ir.prompt import LlmCall, Prompt, Segment
from halo_sql.ir.types import SqlType

SHOWN_LABEL = 60
SHADOW_MARK = "'__halo_call'"  # in the shadow of every call, hence in the names DuckDB gives to items that hold one
LONGEST_TRACED = 10_000  # characters of a hole whose errors point to a single place in it

Columns = list[tuple[str, SqlType]]  # names and types, in order


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A query as a plan, and its output columns in order with the names the outside sees."""

    plan: LogicalPlan
    columns: tuple[Column, ...]
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class BoundCte:
    """A CTE that holds LLM calls: computed once, read by number."""

    number: int
    name: str
    query: BoundQuery


@dataclass(frozen=True, slots=True)
class CteContext:
    """The CTEs visible at a place, outermost first; ``bound`` has those with LLM calls by lower-case name."""

    ctes: tuple[Cte, ...] = ()
    bound: Mapping[str, BoundCte] = field(default_factory=dict)
    recursive: bool = False


class Binding:
    """The shared state of binding one statement."""

    def __init__(
        self,
        duck: Duck,
        source: Source,
        calls: tuple[CallSite, ...],
        place: Callable[[Span], Span] = lambda span: span,
    ) -> None:
        self.duck = duck
        self.source = source
        self.lexed = source.lexed
        self.calls = calls
        self._first = [call.first for call in calls]
        self.place = place  # a span of the bound text -> the span of the user's text (before parameters)
        self.warnings: list[str] = []
        self.stubs = Stubs()
        self.blocks = Blocks()
        self.tried: set[int] = set()  # first tokens of CTEs that were asked for together
        self.learned: dict[tuple[int, int], Columns] = {}  # token range of a block -> its columns
        self._described: dict[str, Columns] = {}
        self.whole = False  # nothing is lifted: the statement is one query of DuckDB's
        self.bound = (
            False  # set when DuckDB has taken the whole statement: what it refuses later is no error of the user's
        )
        self._next = 0
        self._ctes = 0

    def new_id(self) -> ColumnId:
        """A fresh column id."""
        self._next += 1
        return ColumnId(self._next)

    def new_column(self, name: str, sql_type: SqlType) -> Column:
        """A fresh column."""
        return Column(self.new_id(), name, sql_type)

    def new_cte(self) -> int:
        """A fresh CTE number."""
        self._ctes += 1
        return self._ctes

    def calls_in(self, first: int, end: int) -> list[CallSite]:
        """The statement's calls within a token range."""
        left = bisect_left(self._first, first)
        right = bisect_left(self._first, end, left)
        return [call for call in self.calls[left:right] if call.end <= end]

    def calls_of(self, source: Source) -> Sequence[CallSite]:
        """The calls of a text: the statement, or a hole of one of its calls."""
        if source is self.source:
            return self.calls
        stack = list(self.calls)
        while stack:
            call = stack.pop()
            for hole in call.holes():
                for item in hole.fields:
                    if item.source is source:
                        return item.calls
                    stack += item.calls
        return ()

    def call(
        self, site: CallSite, segments: Sequence[Segment], guard: ColumnId | None = None, output: ColumnId | None = None
    ) -> LlmCall:
        """A call over columns: its user message, its guard (a BOOLEAN column), its own column (a new one when None)."""
        return LlmCall(
            output=self.new_id() if output is None else output,
            kind=site.kind,
            prompt=Prompt(tuple(segments), site.system),
            model=site.model.name,
            returns=site.returns,
            sampling=site.sampling,
            on_error=site.on_error,
            cache=site.cache,
            priority=site.priority,
            guard=guard,
            label=label_of(site),
            fan_in=site.fan_in,
            span=self.place(site.origin()),
            labels=site.labels,
            target=site.target,
            volatile=site.volatile,
            row_form=site.row_form,
            around=site.around,
            steps=site.steps,
            quality=site.quality,
            proxy=site.proxy,
            fuse=site.fuse,
            instructions=site.instructions,
        )

    def tainted(self, first: int, end: int, context: CteContext) -> bool:
        """Whether a token range holds an LLM call or reads a CTE that does."""
        left = bisect_left(self._first, first)
        held = left < len(self.calls) and self.calls[left].end <= end
        return held or bool(self.bound_tables(first, end, context))

    def bound_tables(self, first: int, end: int, context: CteContext) -> list[tuple[int, str, str]]:
        """Token index, CTE name and alias of each table name in a range that stands for a CTE with LLM calls."""
        if not context.bound:
            return []
        span = self.lexed.span(first, end)
        if self.source.syntax.parsed:
            return [
                (self.lexed.at(table.start), table.name.lower(), table.alias)
                for table in self.source.syntax.tables_within(span.start, span.end)
                if table.name.lower() in context.bound
            ]
        return [
            (index, self.lexed.word(index).lower(), "")
            for index in range(first, end)
            if self.lexed.word(index).lower() in context.bound
            and (self.lexed.word(index - 1) in ("FROM", "JOIN") or self.lexed.text(index - 1) == ",")
        ]

    def shadow(self, first: int, end: int) -> list[Piece]:
        """The pieces of a token range's shadow, with stubs for the sub-queries in it that are known."""
        span = self.lexed.span(first, end)
        replaced: list[tuple[Span, list[Piece]]] = []
        at = first
        for start, stop, text in self.blocks.within(first, end):
            replaced += [(call.span, shadow_of(call)) for call in self.calls_in(at, start)]
            inner = self.lexed.span(start, stop)
            replaced.append((inner, [Piece(text, inner)]))
            at = stop
        replaced += [(call.span, shadow_of(call)) for call in self.calls_in(at, end)]
        return pieces_of(self.lexed.sql, span.start, span.end, replaced)

    def describe(self, pieces: Sequence[Piece], context: CteContext | None = None) -> Columns:
        """Names and types of a shadow query's columns; DuckDB's errors point into the statement."""
        if context is None or not context.ctes:
            return self.describe_text(assemble(pieces))
        if any(piece.text.lstrip()[:4].upper() == "WITH" for piece in pieces[:1]):
            pieces = [plain("SELECT * FROM ("), *pieces, plain("\n)")]
        known = self.over_stubs("".join(piece.text for piece in pieces), context)
        return self.describe_text(assemble([*self._with(context), *pieces])) if known is None else known

    def describe_text(self, spliced: Spliced) -> Columns:
        """The same for an assembled text; equal texts are asked for once."""
        known = self._described.get(spliced.text)
        if known is not None:
            return known
        try:
            found = self.duck.probe(spliced.text) if self.bound else self.duck.describe(spliced.text)
        except Error as problem:
            if problem.span is not None and problem.sql == spliced.text:
                problem.span = spliced.origin(problem.span)
            if problem.span is None and "DISTINCT aggregate" in problem.message:  # DuckDB does not say where
                ordered = (call for call in self.calls if "DISTINCT" in call.shown.upper())
                problem.span = next((call.origin() for call in ordered), None)
                problem.remedy = problem.remedy or "Order by the input itself, or leave DISTINCT out."
            problem.sql = None
            raise
        self._described[spliced.text] = found
        return found

    def over_stubs(self, text: str, context: CteContext) -> Columns | None:
        """Names and types of a query over stubs of the CTEs it reads; None when only the full text can tell."""
        try:
            prefix = self._stubs_for(text, context)
            return None if prefix is None else self.probe(prefix + text)
        except InterruptedQueryError:
            raise
        except Error:
            return None

    def _stubs_for(self, text: str, context: CteContext) -> str | None:
        """The WITH clause of stubs for a text; None when stubs do not do for it."""
        if not may_read_stubs(text):
            return None
        if not context.ctes:
            return ""
        found = []
        words = words_of(text)
        for place, cte in enumerate(context.ctes):
            if cte.name.lower() not in words:
                continue
            if cte.whole[0] not in self.stubs.texts:
                before = CteContext(context.ctes[:place], context.bound, context.recursive)
                self.learn(cte, self._seen_from_outside(cte, before))
            found.append(self.stubs.texts[cte.whole[0]])
        return "WITH " + ", ".join(found) + " " if found else ""

    def _seen_from_outside(self, cte: Cte, before: CteContext) -> Columns:
        """Names and types of a CTE's columns, over the text or the stubs of those in front of it that it needs."""
        own = "".join(piece.text for piece in self.shadow(*cte.whole))
        parts = self.needed_by(own, before)
        if not may_read_stubs(" ".join([own, *parts])):
            parts = ["".join(piece.text for piece in self.shadow(*known.whole)) for known in before.ctes]
        clause = "WITH RECURSIVE " if before.recursive else "WITH "
        return self.probe(f"{clause}{', '.join([*parts, own])} SELECT * FROM {quote(cte.name)}")

    def needed_by(self, text: str, context: CteContext) -> list[str]:
        """The CTEs that a text needs, in order: stubs of those that are known, the shadows of others."""

        def text_of(place: int) -> str:
            return "".join(piece.text for piece in self.shadow(*context.ctes[place].whole))

        return self.stubs.closure(text, [(cte.name, cte.whole[0]) for cte in context.ctes], text_of)

    def learn(self, cte: Cte, columns: Columns) -> None:
        """The names and types of a CTE are known from now on, and those of its body if it is one block."""
        self.stubs.texts[cte.whole[0]] = stub(cte.name, columns)
        self.stubs.columns[cte.whole[0]] = columns
        if cte.column_list is None:
            self.learned[cte.body] = columns

    def probe(self, text: str) -> Columns:
        """The same for a text that DuckDB may well refuse: its error has no position, and the transaction lives on."""
        known = self._described.get(text)
        if known is None:
            known = self._described[text] = self.duck.probe(text)
        return known

    def _with(self, context: CteContext) -> list[Piece]:
        pieces = [plain("WITH RECURSIVE " if context.recursive else "WITH ")]
        for position, cte in enumerate(context.ctes):
            if position:
                pieces.append(plain(", "))
            pieces += self.shadow(*cte.whole)
        pieces.append(plain(" "))
        return pieces

    def cte_prefix(self, text: str, context: CteContext) -> str:
        """The WITH clause (own SQL only) that a fragment's text needs; '' when it reads no CTE."""
        plain_ctes = [cte for cte in context.ctes if cte.name.lower() not in context.bound]
        if not plain_ctes:
            return ""
        bodies = {cte.name.lower(): self.lexed.slice(*cte.whole) for cte in plain_ctes}
        needed: set[str] = set()
        reach = [text]
        while reach:
            for name in words_of(reach.pop()) & bodies.keys() - needed:
                needed.add(name)
                reach.append(bodies[name])
        if not needed:
            return ""
        kept = [self.lexed.slice(*cte.whole) for cte in plain_ctes if cte.name.lower() in needed]
        return ("WITH RECURSIVE " if context.recursive else "WITH ") + ", ".join(kept) + " "


def plain(text: str) -> Piece:
    """A piece that stands for nothing in the statement."""
    return Piece(text, Span(0, 0))


def shadow_of(call: CallSite) -> list[Piece]:
    """The typed expression that stands for a call: its holes are bound where the call stands."""
    where = call.origin()
    wanted = sample(call.returns)
    if call.on_error == "struct":
        wanted = f"{{'value': {wanted}, 'error': CAST(NULL AS VARCHAR)}}"
    fields = [item for hole in call.holes() for item in hole.fields]
    if call.inputs:
        return _shadow_of_group(call, fields, wanted)
    if not fields:
        return [Piece(f"(CASE WHEN {SHADOW_MARK} IS NULL THEN {wanted} ELSE {wanted} END)", where)]
    pieces = [Piece(f"(CASE WHEN {SHADOW_MARK} IS NULL", where), *_shadow_of_fields(fields, where)]
    pieces.append(Piece(f" THEN {wanted} ELSE {wanted} END)", where))
    return pieces


def _shadow_of_group(call: CallSite, fields: Sequence[HoleField], wanted: str) -> list[Piece]:
    """The same for LLM_REDUCE: its inputs are bound as an aggregate."""
    where = call.origin()
    pieces = [Piece(f"(CASE WHEN {SHADOW_MARK} IS NULL OR (", where)]
    lexed = call.source.lexed
    inner = [(nested.span, shadow_of(nested)) for nested in call.inner]
    for part in call.inputs:
        if isinstance(part, str):
            pieces.append(Piece(part, where))
            continue
        span = lexed.span(*part)
        for piece in pieces_of(lexed.sql, span.start, span.end, inner):
            nested_piece = any(piece in shadow for _, shadow in inner)
            pieces += [piece] if nested_piece else _traced(piece, call.source.origin)
    pieces += [Piece("\n) IS NULL", where), *_shadow_of_fields(fields, where)]
    pieces.append(Piece(f" THEN {wanted} ELSE {wanted} END)", where))
    return pieces


def _shadow_of_fields(fields: Sequence[HoleField], where: Span) -> list[Piece]:
    pieces: list[Piece] = []
    for item in fields:
        pieces.append(Piece(" OR (", where))
        inner = [(nested.span, shadow_of(nested)) for nested in item.calls]
        for piece in pieces_of(item.source.sql, 0, len(item.source.sql), inner):
            nested_piece = any(piece in shadow for _, shadow in inner)
            pieces += [piece] if nested_piece else _traced(piece, item.source.origin)
        size = len(item.source.sql)
        pieces.append(Piece("\n) IS NULL", item.source.origin(Span(max(0, size - 1), size))))
    return pieces


def sample(kind: SqlType) -> str:
    """A text for a value of a type; not NULL where it has fields: ``(NULL::STRUCT(a INTEGER)).a`` is of type "NULL"."""
    if kind.kind == "list":
        return f"[{sample(kind.fields[0][1])}]"
    if kind.kind == "struct" and all(name for name, _ in kind.fields):
        return "{" + ", ".join(f"{literal(name)}: {sample(inner)}" for name, inner in kind.fields) + "}"
    return f"CAST(NULL AS {kind.text})"


def _traced(piece: Piece, origin: Callable[[Span], Span]) -> list[Piece]:
    """A piece of a hole as pieces that map to the statement position by position, doubled quotes or not."""
    whole = origin(piece.origin)
    if whole.end - whole.start == len(piece.text) or len(piece.text) > LONGEST_TRACED:
        return [Piece(piece.text, whole)]
    pieces: list[Piece] = []
    for offset, character in enumerate(piece.text):
        at = origin(Span(piece.origin.start + offset, piece.origin.start + offset + 1))
        last = pieces[-1] if pieces else None
        in_step = last is not None and len(last.text) == last.origin.end - last.origin.start
        if last is not None and in_step and last.origin.end == at.start and at.end - at.start == 1:
            pieces[-1] = Piece(last.text + character, Span(last.origin.start, at.end))
        else:
            pieces.append(Piece(character, at))
    return pieces


def label_of(site: CallSite) -> str:
    """A call's text as EXPLAIN shows it."""
    text = " ".join(site.text.split())
    for written, operator in ROW_OPERATORS.items():
        text = operator + text[len(written) :] if text.upper().startswith(written) else text
    return text if len(text) <= SHOWN_LABEL else text[: SHOWN_LABEL - 1] + "…"
