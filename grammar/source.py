"""A piece of SQL under analysis: a statement, or the expression of a prompt's hole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halo_sql.errors import BinderError, Span
from halo_sql.grammar.blanking import for_sqlglot
from halo_sql.grammar.lex import Lexed, lex
from halo_sql.grammar.skeleton import identifier
from halo_sql.grammar.syntax import Name, Syntax, analyse


@dataclass(frozen=True, slots=True)
class Source:
    """A text with its tokens, its syntax facts, and the way back to the statement.

    origin  span of this text -> span of the statement (for carets)
    """

    lexed: Lexed
    syntax: Syntax
    origin: Callable[[Span], Span]

    @property
    def sql(self) -> str:
        """The text."""
        return self.lexed.sql


def expression_source(text: str, origin: Callable[[Span], Span]) -> Source:
    """One scalar expression."""
    lexed = lex(text)
    tokens = lexed.tokens
    if all(token.kind == "identifier" if index % 2 == 0 else token.text == "." for index, token in enumerate(tokens)):
        parts = tuple(Name(identifier(token.text), token.start, token.end) for token in tokens[::2])
        return Source(lexed, Syntax(True, (parts,) if parts else ()), origin)  # the common case needs no parser
    readable = for_sqlglot(lexed, 0, len(text)) if "reduce" in text.lower() else text
    return Source(lexed, analyse("SELECT " + readable, -len("SELECT ")), origin)


@dataclass(frozen=True, slots=True)
class Literal:
    """A string literal's value and, for each character of it, its offset in the token."""

    value: str
    offsets: Sequence[int]


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read_literal(token: str) -> Literal:
    """The value of a string literal token: '…', E'…', $$…$$, $tag$…$tag$."""
    if token.startswith("$"):
        tag = token[: token.index("$", 1) + 1]
        value = token[len(tag) : len(token) - len(tag)]
        return Literal(value, range(len(tag), len(tag) + len(value) + 1))
    escapes = token[0] in "eE"
    if token[0] not in "'eE" or not token.endswith("'") or len(token) < 2 + escapes:
        raise BinderError(f"not a text literal: {token[:40]}", remedy="Close the quote.")
    at, end = 1 + escapes, len(token) - 1
    if not escapes and token.find("'", at) == end:
        return Literal(token[at:end], range(at, end + 1))
    characters, offsets = [], []
    while at < end:
        offsets.append(at)
        if token[at] == "'" and at + 1 < end:
            at += 1
        elif escapes and token[at] == "\\" and at + 1 < end:
            at += 1
            characters.append(_ESCAPES.get(token[at], token[at]))
            at += 1
            continue
        characters.append(token[at])
        at += 1
    offsets.append(end)
    return Literal("".join(characters), offsets)
