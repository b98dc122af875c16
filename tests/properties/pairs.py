"""A statement in two readings: with LLM calls, and as the plain SQL that the echo model makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Pair:
    """A piece of SQL.

    halo   with LLM calls
    plain  with ``CAST(e AS VARCHAR)`` and the like in their places
    kind   'text' | 'int' | 'bool' | 'date' | 'decimal' | 'double' | 'struct' | 'list'; '' for what is no expression
    """

    halo: str
    plain: str
    kind: str = ""

    @property
    def calls(self) -> bool:
        """Whether it holds a call."""
        return self.halo != self.plain


def pair(*parts: str | Pair, kind: str = "") -> Pair:
    """Pieces joined; a text stands in both readings."""
    halo = "".join(part if isinstance(part, str) else part.halo for part in parts)
    plain = "".join(part if isinstance(part, str) else part.plain for part in parts)
    return Pair(halo, plain, kind)


def join(separator: str, parts: Iterable[str | Pair]) -> Pair:
    """Pieces with a text between them."""
    joined: list[str | Pair] = []
    for part in parts:
        joined += [separator, part] if joined else [part]
    return pair(*joined)


def bracketed(piece: Pair) -> Pair:
    """A piece in round brackets."""
    return pair("(", piece, ")", kind=piece.kind)


def hole(expression: Pair) -> str:
    """``{{ e }}`` as it stands inside a string literal."""
    return "{{ " + expression.halo.replace("'", "''") + " }}"


def call(name: str, prompt: str, options: str, plain: str, kind: str) -> Pair:
    """A call of a prompt (the inside of a string literal), and what it means."""
    return Pair(f"{name}('{prompt}'{options})", plain, kind)


def of_kind(piece: Pair, kind: str) -> Pair:
    """The same, known to be of a kind."""
    return replace(piece, kind=kind)
