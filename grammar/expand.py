"""Views and macros with LLM calls, put in the place of their names: text in, text out, positions kept.

A view's name becomes its query in brackets, a macro's call its expression with the arguments in the place of its
parameters. Both reach into prompts: a hole is SQL like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from halo_sql.errors import BinderError, NotSupportedError, Span
from halo_sql.grammar.definitions import Definition, Definitions, Overload, Parameter
from halo_sql.grammar.expand_tokens import (
    defines_name,
    is_named,
    is_value,
    is_word,
    name_start,
    operand_start,
    plain_literal,
    uncommented,
)
from halo_sql.grammar.expanded import Expanded, Mark, assembled, pieces_with
from halo_sql.grammar.guards import bound_names
from halo_sql.grammar.holes import Edit, Place, edits_in_holes, is_prompt, literal_edit
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.operators_table import OPERATORS
from halo_sql.grammar.relations import Layout, Relation, layout
from halo_sql.grammar.skeleton import Range, identifier
from halo_sql.grammar.splice import Piece
from halo_sql.ir.expr import quote

_ARGUMENT = "__halo_arg_"
_TEXT_TYPES = frozenset({"VARCHAR", "TEXT", "STRING", "CHAR", "BPCHAR"})
MAX_DEPTH = 50  # definitions inside definitions
MAX_TEXT = 10_000_000  # characters a statement may grow to


def expand(sql: str, definitions: Definitions) -> Expanded | None:
    """The statement with all names of views and macros written out; None when it names none.

    BinderError (span in ``sql``) for arguments that do not fit, for recursion and for a macro where none can stand.
    """
    work = _Expander(definitions)
    lexed = lex(sql)
    edits = work.find(lexed, _same, _Inside())
    if not edits:
        return None
    found = assembled(pieces_with(lexed, edits, _same, ""))
    while work.arguments and _ARGUMENT in found.text:
        found = work.with_arguments(found)
        if len(found.text) > MAX_TEXT:
            raise NotSupportedError("the views and macros are too long when written out", remedy="Use tables.")
    return found


def expand_body(sql: str, span: Span, definition: Definition, overload: Overload, definitions: Definitions) -> Expanded:
    """A macro's body within the statement that creates it, as a query with NULL for each parameter."""
    work = _Expander(definitions)
    written = {parameter.name.lower(): _null(parameter) for parameter in overload.parameters}
    lexed = lex(sql[span.start : span.end])

    def place(found: Span) -> Span:
        return Span(found.start + span.start, found.end + span.start)

    pieces = pieces_with(lexed, work.find(lexed, place, _Inside((definition,), written)), place, "")
    if definition.kind != "table macro":
        pieces = [Mark("SELECT (", Span(span.start, span.start)), *pieces, Mark(")", Span(span.end, span.end))]
    found = assembled(pieces)
    while work.arguments and _ARGUMENT in found.text:
        found = work.with_arguments(found)
    return found


def _null(parameter: Parameter) -> str:
    return f"CAST(NULL AS {parameter.type})" if parameter.type else "NULL"


@dataclass(frozen=True, slots=True)
class _Inside:
    """Where a text stands.

    stack       the definitions around it, outermost first
    parameters  lower-case names of the innermost one's parameters -> what to write for them
    label       how errors name the place
    """

    stack: tuple[Definition, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def home(self) -> Definition | None:
        return self.stack[-1] if self.stack else None


class _Expander:
    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.arguments: list[list[Piece]] = []

    def find(self, lexed: Lexed, place: Place, inside: _Inside) -> list[Edit]:
        """What to change in a text; origins are places of the statement."""
        shape = layout(lexed)
        named: list[Edit] = [
            *self._relations(lexed, shape, place, inside),
            *self._calls(lexed, shape, place, inside),
            *edits_in_holes(
                lexed, place, lambda text, where: self.find(text, where, inside), self.definitions.functions
            ),
        ]
        edits = [*named, *self._parameters(lexed, place, inside), *self._qualifiers(lexed, shape, place, inside)]
        return [*edits, *self._names(lexed, shape, named, place, inside)] if named or inside.stack else edits

    def with_arguments(self, text: Expanded) -> Expanded:
        """The text with the arguments of its macros in the place of their parameters."""
        lexed = lex(text.text)

        def find(part: Lexed, _: Place) -> list[Edit]:
            found: list[Edit] = [
                (part.span(index, index + 1), self._written(int(token.text[len(_ARGUMENT) : -1]), part, index))
                for index, token in enumerate(part.tokens)
                if token.text.startswith(_ARGUMENT)
            ]
            return [*found, *edits_in_holes(part, _same, find, self.definitions.functions)]

        pieces: list[Piece] = []
        at = 0
        edits = [*find(lexed, _same)]
        for span, new in sorted(edits, key=lambda edit: edit[0].start):
            if span.start < at:
                continue
            pieces += text.part(at, span.start)
            whole = text.origin(span)
            label = text.label(span.start)
            pieces += [piece if isinstance(piece, Mark) else Mark(piece.text, whole, label) for piece in new]
            at = span.end
        return assembled([*pieces, *text.part(at, len(text.text))])

    def _written(self, number: int, lexed: Lexed, index: int) -> list[Piece]:
        """An argument in the place of its parameter; a literal that becomes a prompt may name macros in its holes."""
        pieces = self.arguments[number]
        text = "".join(piece.text for piece in pieces)
        if "{{" not in text or not is_prompt(lexed, index):
            return pieces
        where = pieces[0].origin
        inner = lex(text)
        if len(inner.tokens) != 1 or inner.tokens[0].kind != "string_const":
            return pieces

        def find(part: Lexed, _: Place) -> list[Edit]:
            return self.find(part, lambda _: where, _Inside())

        edits = literal_edit(inner, 0, lambda _: where, find)
        return pieces if not edits else [Mark(piece.text, where) for piece in edits[0][1]]

    # --- views and table macros ---

    def _relations(self, lexed: Lexed, shape: Layout, place: Place, inside: _Inside) -> Iterator[Edit]:
        for found in shape.relations:
            span = lexed.span(found.first, found.end)
            if found.called:
                macro = self.definitions.macro(found.parts, inside.home, table=True)
                if macro is not None:
                    closing = lexed.partner[found.end]
                    body = self._call(lexed, macro, found.end, place, inside, place(span))
                    shown = "" if found.aliased else f" AS {quote(macro.name)}"
                    yield lexed.span(found.first, closing + 1), [*body, Mark(shown, place(span), "")]
                continue
            view = self.definitions.view(found.parts, inside.home)
            if view is not None:
                yield self._view(lexed, found, view, place, inside)
            elif inside.home is not None and len(found.parts) == 1:
                full = self.definitions.qualified(found.parts[0], inside.home)
                if full:
                    yield span, [Mark(full, place(span), inside.label)]

    def _view(self, lexed: Lexed, found: Relation, view: Definition, place: Place, inside: _Inside) -> Edit:
        span = lexed.span(found.first, found.end)
        where = place(span)
        body = self._body(view, view.overloads[0], {}, where, inside)
        listed = f"({', '.join(map(quote, view.names))})" if view.names else ""
        if found.bare or (found.aliased and listed):
            body = [Mark("(SELECT * FROM ", where), *body, Mark(f" AS {quote(view.name)}{listed})", where)]
        elif not found.aliased:
            body = [*body, Mark(f" AS {quote(view.name)}{listed}", where)]
        if found.bare and lexed.word(found.first - 1) == "TABLE":
            span = Span(lexed.tokens[found.first - 1].start, span.end)
        return span, body

    def _qualifiers(self, lexed: Lexed, shape: Layout, place: Place, inside: _Inside) -> Iterator[Edit]:
        """``schema.view.column``: the query in the view's place is only called by the view's name."""
        views = {found.parts[-1].lower() for found in shape.relations if not found.called and not found.aliased}
        relations = {found.first for found in shape.relations}
        for index in range(len(lexed.tokens) - 4):
            if not is_word(lexed, index) or lexed.text(index - 1) == "." or index in relations:
                continue
            parts: list[str] = []
            at = index
            while is_word(lexed, at) and lexed.text(at + 1) == "." and len(parts) < 3:
                parts.append(identifier(lexed.text(at)).lower())
                at += 2
            for count in range(1, len(parts)):
                if parts[count] not in views:
                    continue
                view = self.definitions.view(parts[: count + 1], inside.home)
                full = [] if view is None else [view.database.lower(), view.schema.lower(), view.name.lower()]
                if full[2 - count :] == parts[: count + 1]:
                    span = lexed.span(index, index + 2 * count)
                    yield span, [Mark("", place(span), inside.label)]
                    break

    def _body(
        self, definition: Definition, overload: Overload, parameters: Mapping[str, str], where: Span, inside: _Inside
    ) -> list[Piece]:
        """A definition's own text in brackets; all of it stands for the place ``where``."""
        if any(known.same(definition) for known in inside.stack):
            raise BinderError(f"the {definition.label} reads itself", span=where, remedy="Define it without itself.")
        if len(inside.stack) >= MAX_DEPTH:
            raise BinderError(
                f"views and macros are nested deeper than {MAX_DEPTH}",
                span=where,
                remedy="Create a table from one.",
            )
        label = f"{inside.label}: in the {definition.label}" if inside.label else f"in the {definition.label}"
        within = _Inside((*inside.stack, definition), parameters, label)
        lexed = lex(overload.body)

        def at(_: Span) -> Span:
            return where

        pieces = pieces_with(lexed, self.find(lexed, at, within), at, label)
        return [Mark("(", where, label), *pieces, Mark(")", where, label)]

    # --- macros ---

    def _calls(self, lexed: Lexed, shape: Layout, place: Place, inside: _Inside) -> Iterator[Edit]:
        tables = {found.end - 1 for found in shape.relations if found.called}
        for index in range(len(lexed.tokens) - 1):
            if lexed.text(index + 1) != "(" or index in tables or not is_word(lexed, index):
                continue
            name = identifier(lexed.text(index))
            if name.upper() not in self.definitions.functions or defines_name(lexed, index):
                continue
            first = name_start(lexed, index)
            parts = [identifier(lexed.text(at)) for at in range(first, index + 1, 2)]
            method = lexed.text(first - 1) == "."  # of a bracket, a call or an element
            macro = None if method else self.definitions.macro(parts, inside.home, table=False)
            receiver: Range | None = None
            if macro is None and lexed.text(index - 1) == ".":
                macro = self.definitions.macro([name], inside.home, table=False)
                first = operand_start(lexed, index - 2)
                receiver = (first, index - 1)
            if macro is None:
                continue
            closing = lexed.partner[index + 1]
            span = lexed.span(index, index + 1)
            if lexed.word(closing + 1) in ("OVER", "FILTER") and lexed.text(closing + 2) == "(":
                raise BinderError(
                    f'{lexed.word(closing + 1)} does not apply to the macro "{macro.name}"',
                    span=place(lexed.span(closing + 1, closing + 2)),
                    remedy="Write it into the macro.",
                )
            body = self._call(lexed, macro, index + 1, place, inside, place(span), receiver)
            yield lexed.span(first, closing + 1), body

    def _call(
        self,
        lexed: Lexed,
        macro: Definition,
        opening: int,
        place: Place,
        inside: _Inside,
        where: Span,
        receiver: Range | None = None,
    ) -> list[Piece]:
        """A macro's text for the call whose bracket opens at a token."""
        positional: list[Range] = [] if receiver is None else [receiver]
        given: dict[str, Range] = {}
        whole = place(lexed.span(opening - 1, lexed.partner[opening] + 1))
        for first, end in lexed.items(opening + 1, lexed.partner[opening]):
            if lexed.text(first + 1) in (":=", "=>"):
                name = identifier(lexed.text(first)).lower()
                if name in given:
                    raise BinderError(f'Macro "{macro.name}"() has named argument repeated "{name}"', span=whole)
                given[name] = (first + 2, end)
            elif given:
                raise BinderError(
                    f'Macro "{macro.name}"() has positional argument following named argument', span=whole
                )
            elif first < end:
                positional.append((first, end))
        overload = next((found for found in macro.overloads if found.takes(len(positional), given)), None)
        if overload is None:
            candidates = "\n".join(f"\t{macro.name}({', '.join(map(str, one.parameters))})" for one in macro.overloads)
            raise BinderError(
                f"Macro {macro.name}() does not support the supplied arguments. You might need to add explicit type "
                f"casts.\nCandidate macros:\n{candidates}",
                span=whole,
            )
        parameters: dict[str, str] = {}
        for position, parameter in enumerate(overload.parameters):
            key = parameter.name.lower()
            part = positional[position] if position < len(positional) else given.get(key)
            pieces: list[Piece] = (
                [Mark(f"({parameter.default})", where)] if part is None else self._argument(lexed, part, place, inside)
            )
            if parameter.type and not (parameter.type.upper() in _TEXT_TYPES and pieces[0].text.startswith("'")):
                pieces = [Mark("CAST(", where), *pieces, Mark(f" AS {parameter.type})", where)]
            parameters[key] = f"{_ARGUMENT}{len(self.arguments)}_"
            self.arguments.append(pieces)
        return self._body(macro, overload, parameters, where, inside)

    def _argument(self, lexed: Lexed, part: Range, place: Place, inside: _Inside) -> list[Piece]:
        """An argument as it is put in the place of a parameter: one operand, and safe inside a hole."""
        span = lexed.span(*part)
        text = lexed.sql[span.start : span.end]
        inner = lex(text)

        def moved(found: Span) -> Span:
            return place(Span(found.start + span.start, found.end + span.start))

        edits = self.find(inner, moved, inside)
        edits += [
            (Span(token.start, token.end), [Mark(plain, moved(Span(token.start, token.end)), inside.label)])
            for token in inner.tokens
            if token.kind == "string_const" and (plain := plain_literal(token.text)) != token.text
        ]
        pieces: list[Piece] = []
        for piece in pieces_with(inner, edits, moved, inside.label):
            bare = uncommented(piece.text)
            pieces.append(piece if bare == piece.text else Mark(bare, piece.origin, inside.label))
        count = len(inner.tokens)
        chain = all((index % 2 == 1) == (inner.text(index) == ".") for index in range(count))
        bracketed = inner.text(0) == "(" and inner.partner[0] == count - 1
        if count == 1 or (chain and count % 2 == 1) or bracketed:
            return pieces
        return [Mark("(", moved(Span(0, 1)), inside.label), *pieces, Mark(")", moved(Span(0, 1)), inside.label)]

    def _parameters(self, lexed: Lexed, place: Place, inside: _Inside) -> Iterator[Edit]:
        if not inside.parameters:
            return
        for index in range(len(lexed.tokens)):
            if not is_word(lexed, index):
                continue
            name = identifier(lexed.text(index)).lower()
            written = inside.parameters.get(name)
            if written is None or not is_value(lexed, index) or name in bound_names(lexed, index):
                continue
            span = lexed.span(index, index + 1)
            yield span, [Mark(written, place(span), inside.label)]

    # --- names of columns ---

    def _names(
        self, lexed: Lexed, shape: Layout, edits: Sequence[Edit], place: Place, inside: _Inside
    ) -> Iterator[Edit]:
        """Unnamed SELECT items keep the name of the text they were written with."""
        for first, end in shape.select_lists:
            for item in lexed.items(first, end):
                span = lexed.span(*item)
                changed = any(span.start <= edit.start < span.end for edit, _ in edits)
                calls = inside.stack and any(lexed.word(index) in OPERATORS for index in range(*item))
                if (changed or calls) and not is_named(lexed, *item):
                    name = self.definitions.expression_name(lexed.slice(*item))
                    yield Span(span.end, span.end), [Mark(f" AS {quote(name)}", place(span), inside.label)]


def _same(span: Span) -> Span:
    return span
