"""LLM calls in a text: where they stand, their prompt, their options. Everything about them that needs no columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from halo_sql.catalog.objects import ModelDef, Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error, NotSupportedError, Span, did_you_mean
from halo_sql.grammar.options import OPTIONS
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.source import Source, expression_source, read_literal
from halo_sql.grammar.template import HoleText, parse_template
from halo_sql.grammar.tool_calls import check_object_call
from halo_sql.ir.expr import quote
from halo_sql.ir.prompt import Sampling
from halo_sql.ir.types import BOOLEAN, VARCHAR, SqlType, json_schema

#: operators this version executes -> kind of LlmCall
CALL_KINDS = {"LLM_MAP": "map", "LLM_FILTER": "filter"}
OTHER_OPERATORS = frozenset(
    {"LLM_CLASSIFY", "LLM_EXTRACT", "LLM_SCORE", "LLM_EMBED", "LLM_REDUCE", "LLM_RANK", "TOOL", "AGENT"}
)
FILTER_TOKENS = 8  # enough for "yes" or "no" and an end token in any vocabulary


@dataclass(frozen=True, slots=True)
class HoleField:
    """One expression of a hole: its text as a source of its own, the JSON name in an object hole, nested calls."""

    source: Source
    name: str
    calls: tuple[CallSite, ...]


@dataclass(frozen=True, slots=True)
class HoleSite:
    """A hole: one field inserted as text, or an object of fields (``star``: of all columns in scope)."""

    fields: tuple[HoleField, ...]
    is_object: bool = False
    star: bool = False


@dataclass(frozen=True, slots=True)
class CallSite:
    """A call as written, its options resolved against the catalog and the settings.

    first, end  token range in its source, from the name to behind the closing bracket
    pieces      the user message: static texts and holes
    """

    source: Source
    first: int
    end: int
    kind: str
    pieces: tuple[str | HoleSite, ...]
    model: ModelDef
    system: str | None
    returns: SqlType
    sampling: Sampling
    on_error: str
    cache: bool
    priority: int

    @property
    def span(self) -> Span:
        """The call in its source's text."""
        return self.source.lexed.span(self.first, self.end)

    @property
    def text(self) -> str:
        """The call as written."""
        return self.source.lexed.slice(self.first, self.end)

    def origin(self) -> Span:
        """The call in the statement."""
        return self.source.origin(self.span)

    def holes(self) -> Iterator[HoleSite]:
        """Its holes, in order."""
        return (piece for piece in self.pieces if isinstance(piece, HoleSite))

    def nested(self) -> Iterator[CallSite]:
        """The calls inside its holes."""
        return (call for hole in self.holes() for field in hole.fields for call in field.calls)


@dataclass(frozen=True, slots=True)
class CallReader:
    """Finds and reads the calls of a source.

    names  bare names given as prompts, by their place in the statement (filled by ``find``)
    """

    duck: Duck
    snapshot: Snapshot
    settings: Settings
    names: dict[Span, str] = field(default_factory=dict)

    def find(self, source: Source) -> tuple[CallSite, ...]:
        """The calls of a text that are not inside another call's brackets, in order of position."""
        lexed, found, index = source.lexed, [], 0
        while index < len(lexed.tokens):
            word = lexed.word(index)
            if (word in CALL_KINDS or word in OTHER_OPERATORS) and lexed.text(index + 1) == "(":
                if lexed.text(index - 1) == ".":
                    index += 1
                    continue
                if word in OTHER_OPERATORS:
                    if word in ("TOOL", "AGENT"):  # may be a macro of the user's
                        check_object_call(self.duck, self.snapshot, source, index)
                        index += 1
                        continue
                    raise NotSupportedError(
                        f"{word} is not available in this version",
                        span=source.origin(lexed.span(index, index + 1)),
                        remedy="LLM_MAP (with returns => …) and LLM_FILTER are.",
                    )
                closing = lexed.partner[index + 1]
                try:
                    found.append(self._read(source, index, closing))
                except Error as problem:
                    if problem.span is None:
                        problem.span = source.origin(lexed.span(index, closing + 1))
                    raise
                index = closing + 1
            else:
                index += 1
        return tuple(found)

    def _read(self, source: Source, first: int, closing: int) -> CallSite:
        lexed, operator = source.lexed, source.lexed.word(first)
        follower = lexed.word(closing + 1)
        if follower in ("OVER", "FILTER") and lexed.text(closing + 2) == "(":
            raise BinderError(
                f"{operator} is a scalar function: {follower} does not apply to it",
                span=source.origin(lexed.span(closing + 1, closing + 2)),
                remedy="Use it inside an aggregate or window function instead.",
            )
        prompt: tuple[int, int] | None = None
        options: dict[str, tuple[Any, Span]] = {}
        pieces = [] if closing == first + 2 else lexed.split(first + 2, closing)
        for start, end in pieces:
            if start == end:
                raise BinderError(
                    f"{operator}: an argument is missing",
                    span=source.origin(lexed.span(start, start + 1)),
                    remedy="Remove the comma.",
                )
            if lexed.text(start + 1) in ("=>", ":="):
                name = identifier(lexed.text(start)).lower()
                where = source.origin(lexed.span(start, start + 1))
                if name == "prompt":
                    if prompt is not None:
                        raise self._second_prompt(operator, where)
                    prompt = (start + 2, end)
                    continue
                if name in options:
                    raise BinderError(f'option "{name}" is given twice', span=where, remedy="Remove one of them.")
                options[name] = self._option(source, operator, name, where, start + 2, end)
            elif prompt is None:
                prompt = (start, end)
            else:
                raise self._second_prompt(operator, source.origin(lexed.span(start, end)))
        if prompt is None:
            raise BinderError(
                f"{operator} needs a prompt", remedy=f"For example {operator}('Summarise: {{{{ body }}}}')."
            )
        return self._resolve(source, first, closing + 1, operator, prompt, options)

    @staticmethod
    def _second_prompt(operator: str, where: Span) -> BinderError:
        return BinderError(
            f"{operator} takes one prompt",
            span=where,
            remedy="Put further inputs into holes of the prompt, options as name => value.",
        )

    def _option(self, source: Source, operator: str, name: str, where: Span, start: int, end: int) -> tuple[Any, Span]:
        option = OPTIONS.get(name)
        if option is None:
            raise BinderError(
                f'{operator} has no option "{name}"', span=where, remedy=did_you_mean(name, list(OPTIONS))
            )
        lexed = source.lexed
        span = source.origin(lexed.span(start, end))
        if start == end:
            raise BinderError(f'option "{name}" has no value', span=where, remedy=f"It takes {option.takes}.")
        try:
            return option.check(self._constant(source, name, start, end)), span
        except (ValueError, TypeError, OverflowError):
            raise BinderError(
                f'option "{name}" cannot be {lexed.slice(start, end)[:60]}',
                span=span,
                remedy=f"It takes {option.takes}.",
            ) from None
        except Error:
            raise BinderError(
                f'option "{name}" must be a constant, not {lexed.slice(start, end)[:60]}',
                span=span,
                remedy=f"It takes {option.takes}.",
            ) from None

    def _constant(self, source: Source, name: str, start: int, end: int) -> Any:
        lexed = source.lexed
        token = lexed.tokens[start]
        if end == start + 1:
            if token.kind == "string_const" and token.text[0] in "'$eE":
                return read_literal(token.text).value
            if name == "model" and lexed.word(start) not in ("", "NULL"):
                return token.text
            if name == "model" and token.text.startswith('"'):
                return identifier(token.text)
            if lexed.word(start) in ("TRUE", "FALSE"):
                return lexed.word(start) == "TRUE"
        from decimal import Decimal

        value = self.duck.rows("SELECT " + lexed.slice(start, end))[0][0]
        return float(value) if isinstance(value, Decimal) else value

    def _resolve(
        self,
        source: Source,
        first: int,
        end: int,
        operator: str,
        prompt: tuple[int, int],
        options: dict[str, tuple[Any, Span]],
    ) -> CallSite:
        values = {name: value for name, (value, _) in options.items()}
        kind = CALL_KINDS[operator]
        pieces, system = self._prompt(source, *prompt)
        returns = VARCHAR
        if kind == "filter":
            returns = BOOLEAN
            if "returns" in options:
                raise BinderError(
                    "LLM_FILTER always returns BOOLEAN",
                    span=options["returns"][1],
                    remedy="Use LLM_MAP for another type.",
                )
        elif "returns" in options:
            returns = self._type(*options["returns"])
        examples = "".join(f"\n\nInput: {given}\nOutput: {wanted}" for given, wanted in values.get("examples", ()))
        text = values.get("system", system)
        if examples:
            text = (text or "Answer as in the examples.") + examples
        return CallSite(
            source,
            first,
            end,
            kind,
            pieces,
            self._model(*options["model"]) if "model" in options else self._default_model(),
            text,
            returns,
            Sampling(
                values.get("temperature", 0.0),
                values.get("top_p", 1.0),
                values.get("max_tokens", FILTER_TOKENS if kind == "filter" else 256),
                values.get("seed"),
                values.get("stop", ()),
            ),
            self._on_error(kind, values.get("on_error"), options.get("on_error")),
            values.get("cache", True),
            values.get("priority", 0),
        )

    def _on_error(self, kind: str, value: str | None, given: tuple[Any, Span] | None) -> str:
        chosen = value or self.settings.text("halo_on_error")
        if kind == "filter" and chosen == "struct":
            if given is None:
                return "null"
            raise BinderError(
                "on_error => 'struct' does not fit LLM_FILTER, which returns BOOLEAN",
                span=given[1],
                remedy="Use 'fail' or 'null', or LLM_MAP with returns => 'BOOLEAN'.",
            )
        return chosen

    def _type(self, text: str, span: Span) -> SqlType:
        try:
            sql_type = self.duck.sql_type(text)
            json_schema(sql_type)
        except ValueError as problem:
            raise BinderError(
                f"returns: a model cannot be held to the type {problem}", span=span, remedy="Use another type."
            ) from None
        except Error as problem:
            raise BinderError(
                f"returns: {text!r} is not a type: {problem.message}",
                span=span,
                remedy="Write a DuckDB type, like 'INTEGER', 'DOUBLE[]' or 'STRUCT(a VARCHAR, b DATE)'.",
            ) from None
        return sql_type

    def _model(self, name: str, span: Span) -> ModelDef:
        found = self.snapshot.models.get(name.lower())
        if found is None:
            raise BinderError(
                f'model "{name}" does not exist',
                span=span,
                remedy=did_you_mean(name, list(self.snapshot.models)) + f" Or CREATE MODEL {quote(name)} FROM '…'.",
            )
        return found

    def _default_model(self) -> ModelDef:
        name = self.settings.text("halo_default_model")
        found = self.snapshot.models.get(name.lower())
        if found is None:
            raise BinderError(
                f'the default model "{name}" does not exist',
                remedy="SET halo_default_model = '…', or name one with model => …. "
                + did_you_mean(name, list(self.snapshot.models)),
            )
        return found

    def _prompt(self, source: Source, start: int, end: int) -> tuple[tuple[str | HoleSite, ...], str | None]:
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
            return HoleSite((), is_object=True, star=True)
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
