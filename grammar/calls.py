"""LLM calls in a text: where they stand, their prompt, their options. Everything about them that needs no columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from halo_sql.catalog.objects import Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error, Span, did_you_mean
from halo_sql.grammar.arguments import read_arguments
from halo_sql.grammar.call_site import CallSite, HoleField, HoleSite
from halo_sql.grammar.group_inputs import GroupInputs, read_group_inputs
from halo_sql.grammar.object_calls import is_object_call
from halo_sql.grammar.object_sites import object_site
from halo_sql.grammar.operators_table import OPERATORS, ROW_OPERATORS
from halo_sql.grammar.resolve import Resolver
from halo_sql.grammar.signatures import SIGNATURES
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.source import Source, expression_source, read_literal
from halo_sql.grammar.template import HoleText, parse_template

#: operators this version executes -> kind of LlmCall
CALL_KINDS = {operator: signature.kind for operator, signature in SIGNATURES.items()}
#: operators that call an object of the catalog
OBJECT_OPERATORS = frozenset(OPERATORS.keys() - CALL_KINDS.keys())


def _texts(pieces: Sequence[str | HoleSite]) -> list[HoleSite]:
    """The holes that are one text each."""
    return [piece for piece in pieces if isinstance(piece, HoleSite) and not piece.is_object]


@dataclass(frozen=True, slots=True)
class CallReader:
    """Finds and reads the calls of a source.

    names  bare names given as prompts, by their place in the statement (filled by ``find``)
    """

    duck: Duck
    snapshot: Snapshot
    settings: Settings
    names: dict[Span, str] = field(default_factory=dict)

    def find(self, source: Source, part: Range | None = None) -> tuple[CallSite, ...]:
        """The calls of a text (of a token range) that are not inside another call's brackets, in order of position."""
        lexed, found = source.lexed, list[CallSite]()
        index, end = part or (0, len(lexed.tokens))
        while index < end:
            word = lexed.words[index]
            if not word:
                index += 1
                continue
            of_object = word in OBJECT_OPERATORS or word in ROW_OPERATORS
            if (word in CALL_KINDS or of_object) and lexed.text(index + 1) == "(":
                is_call = lexed.text(index - 1) != "."
                if is_call and of_object:  # may be a macro of the user's
                    is_call = is_object_call(self.duck, source, index)
                if not is_call:
                    index += 1
                    continue
                closing = lexed.partner[index + 1]
                try:
                    if of_object:
                        found.append(object_site(self, source, index, closing))
                    else:
                        found.append(self._read(source, index, closing))
                except Error as problem:
                    if problem.span is None:
                        problem.span = source.origin(lexed.span(index, closing + 1))
                    raise
                index = found[-1].end
            else:
                index += 1
        return tuple(found)

    def _read(self, source: Source, first: int, closing: int) -> CallSite:
        lexed, operator = source.lexed, source.lexed.word(first)
        if operator == "LLM_REDUCE":
            return self._read_reduce(source, first, closing)
        follower = lexed.word(closing + 1)
        if follower in ("OVER", "FILTER") and lexed.text(closing + 2) == "(":
            raise BinderError(
                f"{operator} is a scalar function: {follower} does not apply to it",
                span=source.origin(lexed.span(closing + 1, closing + 2)),
                remedy="Use it inside an aggregate or window function instead.",
            )
        return self._resolve(source, first, closing, None)

    def _read_reduce(self, source: Source, first: int, closing: int) -> CallSite:
        group = read_group_inputs(source, first, closing)
        site = self._resolve(source, first, closing, group)
        if any(hole.star for hole in site.holes()):
            raise BinderError(
                "{{ * }} cannot stand in the prompt of LLM_REDUCE: a group has many rows",
                remedy="Give the columns as inputs: LLM_REDUCE('Summarise', a, b).",
            )
        inner = [self.find(source, part) for part in group.text if not isinstance(part, str)]
        return replace(
            site,
            end=group.end,
            pieces=(*site.pieces, "\n\n") if site.pieces else (),
            inputs=group.text,
            inner=tuple(call for calls in inner for call in calls),
            shown=group.shown,
        )

    def _resolve(self, source: Source, first: int, closing: int, group: GroupInputs | None) -> CallSite:
        signature = SIGNATURES[source.lexed.word(first)]
        given = None if group is None else group.arguments
        arguments = read_arguments(self.duck, source, signature, first, closing, given)
        pieces, system = self.prompt(source, *arguments.prompt)
        resolved = Resolver(self.duck, self.snapshot, self.settings).resolve(signature.kind, arguments, system)
        if resolved.quality and not resolved.proxy and len(_texts(pieces)) < 2:
            raise BinderError(
                "quality needs a proxy: a cheaper model that may decide in part",
                span=arguments.span("quality"),
                remedy="Give proxy => '…'. Only conditions over two sides of a join, with a hole for each, do without.",
            )
        return CallSite(
            source,
            first,
            closing + 1,
            signature.kind,
            pieces,
            resolved.model,
            resolved.system,
            resolved.returns,
            resolved.sampling,
            resolved.on_error,
            resolved.cache,
            resolved.priority,
            resolved.labels,
            resolved.fan_in,
            resolved.method,
            separator=arguments.get("separator", "\n"),
            quality=resolved.quality,
            proxy=resolved.proxy,
            fuse=resolved.fuse,
            instructions=resolved.instructions,
        )

    def prompt(self, source: Source, start: int, end: int) -> tuple[tuple[str | HoleSite, ...], str | None]:
        """The pieces of the prompt and the system message of a PROMPT object, if it is one."""
        lexed = source.lexed
        token = lexed.tokens[start]
        if end == start + 1 and token.kind == "string_const" and token.text[0] in "'$eE":
            literal = read_literal(token.text)

            def in_literal(span: Span) -> Span:
                top = len(literal.offsets) - 1
                left, right = literal.offsets[min(span.start, top)], literal.offsets[min(span.end, top)]
                return source.origin(Span(token.start + left, token.start + max(right, left + 1)))

            return self._pieces(literal.value, in_literal), None
        if end == start + 1 and token.kind in ("identifier", "keyword"):
            self.names[source.origin(lexed.span(start, end))] = identifier(token.text)
            known = self.snapshot.prompts.get(identifier(token.text).lower())
            if known is not None:
                whole = source.origin(lexed.span(start, end))  # a hole's error points to the PROMPT's name
                return self._pieces(known.text, lambda _: whole), known.system
        span = lexed.span(start, end)
        text = lexed.sql[span.start : span.end]
        hole = self._field(text, lambda part: source.origin(Span(part.start + span.start, part.end + span.start)))
        return (HoleSite((hole,)),), None

    def explain(self, problem: Error) -> None:
        """Say in an error that points to a bare prompt name what the name stands for, or could have stood for."""
        name = self.names.get(problem.span) if problem.span is not None else None
        if name is None:
            return
        if name.lower() in self.snapshot.prompts:
            problem.message = f'in the prompt "{name}": {problem.message}'
        elif not problem.remedy:
            known = list(self.snapshot.prompts)
            problem.remedy = f"There is no prompt of this name either. {did_you_mean(name, known)}".rstrip()

    def _pieces(self, template: str, origin: Any) -> tuple[str | HoleSite, ...]:
        try:
            parsed = parse_template(template)
        except Error as problem:
            if problem.span is not None:
                problem.span = origin(problem.span)
            raise
        return tuple(piece if isinstance(piece, str) else self._hole(piece, origin) for piece in parsed)

    def _hole(self, hole: HoleText, origin: Any) -> HoleSite:
        if hole.star:
            return HoleSite((), is_object=True, star=hole.star, where=origin(hole.span))
        fields = []
        for text, offset in hole.exprs:

            def moved(part: Span, offset: int = offset) -> Span:
                span: Span = origin(Span(part.start + offset, part.end + offset))
                return span

            fields.append(self._field(text, moved))
        return HoleSite(tuple(fields), is_object=len(fields) > 1)

    def _field(self, text: str, origin: Any) -> HoleField:
        source = expression_source(text, origin)
        lexed, name = source.lexed, text.strip()
        count = len(lexed.tokens)
        if count > 2 and lexed.word(count - 2) == "AS" and lexed.parent[count - 2] == -1:
            name = identifier(lexed.text(count - 1))
            source = expression_source(lexed.slice(0, count - 2), origin)
        elif count == 1 or (count > 1 and lexed.text(count - 2) == "."):
            name = identifier(lexed.text(count - 1))
        return HoleField(source, name, self.find(source))
