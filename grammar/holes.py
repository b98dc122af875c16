"""Changes to a SQL text that reach into its prompts: what stands in a hole is SQL too."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace

from halo_sql.errors import Error, Span
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.operators_table import OPERATORS
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.source import read_literal
from halo_sql.grammar.splice import Piece
from halo_sql.grammar.template import HoleText, parse_template
from halo_sql.ir.expr import quote

Edit = tuple[Span, Sequence[Piece]]
Place = Callable[[Span], Span]  # a span of a text -> the span of the statement it stands for
Find = Callable[[Lexed, Place], list[Edit]]


def edits_in_holes(lexed: Lexed, place: Place, find: Find, more: Container[str] = ()) -> list[Edit]:
    """The edits of all holes in a text's prompt literals, each as one edit of the literal.

    find  the edits of one hole's expression (its own literals included), origins in the statement
    more  upper-case names of functions beside the operators whose literals are prompts
    """
    edits: list[Edit] = []
    for index in prompt_literals(lexed, more):
        edits += literal_edit(lexed, index, place, find)
    return edits


def is_prompt(lexed: Lexed, index: int) -> bool:
    """Whether a token is a whole argument of an operator call."""
    opening = lexed.parent[index]
    if opening < 1 or lexed.word(opening - 1) not in OPERATORS:
        return False
    return lexed.text(index - 1) in ("(", ",", "=>", ":=") and lexed.text(index + 1) in (")", ",")


def literal_edit(lexed: Lexed, index: int, place: Place, find: Find) -> list[Edit]:
    """The edit of the prompt literal at a token; none when nothing in its holes changes."""
    token = lexed.tokens[index]
    pieces = _literal(token.text, lambda span: place(Span(span.start + token.start, span.end + token.start)), find)
    return [] if pieces is None else [(Span(token.start, token.end), pieces)]


def prompt_literals(lexed: Lexed, more: Container[str] = ()) -> Iterator[int]:
    """Token indices of the literals with holes that are a whole argument of an operator call."""
    if "{{" not in lexed.sql:
        return
    for index in range(len(lexed.tokens) - 1):
        name = identifier(lexed.text(index)).upper()
        if lexed.text(index + 1) != "(" or not (name in OPERATORS or name in more) or name == "TOOL":
            continue
        for first, end in lexed.split(index + 2, lexed.partner[index + 1]):
            if lexed.text(first + 1) in ("=>", ":="):
                first += 2
            token = lexed.tokens[first] if first < end else None
            if end - first == 1 and token is not None and token.kind == "string_const" and "{{" in token.text:
                yield first


def _literal(token: str, place: Place, find: Find) -> list[Piece] | None:
    """A literal with its holes changed; None when nothing changes (or it cannot be read: the binder says so)."""
    try:
        literal = read_literal(token)
        parts = parse_template(literal.value)
    except Error:
        return None
    offsets = literal.offsets

    def in_token(span: Span) -> Span:
        left = offsets[min(span.start, len(offsets) - 1)]
        return Span(left, max(left + 1, offsets[min(span.end, len(offsets) - 1)]))

    edits: list[Edit] = []
    for part in parts:
        if isinstance(part, HoleText):
            for text, offset in part.exprs:
                edits += _field(text, offset, len(part.exprs) > 1, lambda span: place(in_token(span)), find)
    if not edits:
        return None
    style = "'" if token[0] == "'" else "e" if token[0] in "eE" else token[: token.index("$", 1) + 1]
    new = "".join(piece.text for _, pieces in edits for piece in pieces)
    plain = style.startswith("$") and style in new
    pieces: list[Piece] = []
    at = 0
    for span, inserted in sorted(edits, key=lambda edit: edit[0].start):
        cut = Span(offsets[span.start], offsets[span.end])
        pieces.append(_kept(token, at, cut.start, plain, place))
        pieces += [replace(piece, text=_escaped(piece.text, "'" if plain else style)) for piece in inserted]
        at = cut.end
    pieces.append(_kept(token, at, len(token), plain, place))
    if plain:  # a dollar quote that the new text would end: a plain literal instead
        first, last = pieces[0], pieces[-1]
        pieces[0] = Piece("'" + first.text.removeprefix(style), first.origin)
        pieces[-1] = Piece(last.text.removesuffix(style) + "'", last.origin)
    return pieces


def _field(text: str, offset: int, named: bool, place: Place, find: Find) -> list[Edit]:
    def in_template(span: Span) -> Span:
        return place(Span(span.start + offset, span.end + offset))

    try:
        lexed = lex(text)
    except Error:
        return []
    edits = find(lexed, in_template)
    count = len(lexed.tokens)
    if edits and named and (count == 1 or lexed.text(count - 2) in (".", "$")):
        # an object's field keeps the name it was written with
        name = f" AS {quote(identifier(lexed.text(count - 1)))}"
        edits.append((Span(len(text), len(text)), [Piece(name, in_template(Span(len(text), len(text))))]))
    return [(Span(span.start + offset, span.end + offset), pieces) for span, pieces in edits]


def _kept(token: str, start: int, end: int, plain: bool, place: Place) -> Piece:
    text = token[start:end]
    return Piece(text.replace("'", "''") if plain else text, place(Span(start, max(start + 1, end))))


def _escaped(text: str, style: str) -> str:
    if style.startswith("$"):
        return text
    return text.replace("'", "''") if style == "'" else text.replace("\\", "\\\\").replace("'", "''")
