"""A SQL text as a bracket-matched token sequence: spans of clauses, items and calls without a grammar.

The tokens are DuckDB's own, so every boundary found here is one DuckDB sees too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from halo_sql.duck_tokens import LONG_TEXT, Token, tokenize
from halo_sql.errors import ParserError, Span

OPENING = {"(": ")", "[": "]", "{": "}"}
_NAMED = frozenset({"keyword", "identifier"})
_CLOSING = frozenset(OPENING.values())
MAX_DEPTH = 900  # deeper nesting is refused before any recursion


@dataclass(frozen=True, slots=True)
class Lexed:
    """A text, its tokens without comments, and for each bracket (CASE … END included) its partner."""

    sql: str
    tokens: tuple[Token, ...]
    partner: dict[int, int]
    parent: tuple[int, ...]  # index of the innermost opening token around each token; -1 at the top
    words: tuple[str, ...]  # what ``word`` gives for each token
    depth: int = 0  # brackets around the innermost token
    binds_names: bool = False  # whether there may be a lambda or a list comprehension
    query_starts: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)  # skeleton.starts_query's

    def word(self, index: int) -> str:
        """Upper-case text of an unquoted word; '' for everything else and outside the text."""
        return self.words[index] if 0 <= index < len(self.words) else ""

    def text(self, index: int) -> str:
        """The token's text; '' outside the text."""
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def span(self, first: int, end: int) -> Span:
        """Character span of the tokens ``first`` to ``end`` (exclusive)."""
        if end <= first:
            at = self.tokens[first].start if first < len(self.tokens) else len(self.sql)
            return Span(at, at)
        return Span(self.tokens[first].start, self.tokens[end - 1].end)

    def slice(self, first: int, end: int) -> str:
        """The text of the tokens ``first`` to ``end`` (exclusive), comments between them included."""
        span = self.span(first, end)
        return self.sql[span.start : span.end]

    def level(self, first: int, end: int) -> Iterator[int]:
        """Indices of the tokens of a range that are outside any bracket opened within it; of a bracket pair
        only the opening token."""
        index, partner = first, self.partner
        while index < end:
            yield index
            closing = partner.get(index, -1)
            index = closing + 1 if closing > index else index + 1

    def is_opening(self, index: int) -> bool:
        """Whether a bracket (or CASE) opens here."""
        return self.partner.get(index, -1) > index

    def split(self, first: int, end: int, separator: str = ",") -> list[tuple[int, int]]:
        """The pieces of a range between separators at its own level."""
        pieces, start, tokens = [], first, self.tokens
        for index in self.level(first, end):
            if tokens[index].text == separator:
                pieces.append((start, index))
                start = index + 1
        pieces.append((start, end))
        return pieces

    def items(self, first: int, end: int) -> list[tuple[int, int]]:
        """The pieces of a list between commas; DuckDB allows one more comma behind the last."""
        pieces = self.split(first, end)
        return pieces[:-1] if pieces[-1][0] == pieces[-1][1] else pieces

    def at(self, position: int) -> int:
        """Index of the token that starts at or next after a character position."""
        low, high = 0, len(self.tokens)
        while low < high:
            middle = (low + high) // 2
            if self.tokens[middle].start < position:
                low = middle + 1
            else:
                high = middle
        return low

    def column_label(self, index: int) -> bool:
        """Whether a word here is only a name: behind AS or a dot."""
        return self.word(index - 1) == "AS" or self.text(index - 1) == "."


def lex(sql: str) -> Lexed:
    """Tokens and brackets of a text. ParserError for an unmatched bracket or nesting over 900 levels.

    The same object for a long text that was asked for just before: a statement is read by several, one after another.
    """
    global _latest
    if len(sql) < LONG_TEXT:
        return _lexed(sql)
    known = _latest
    if known is None or known.sql != sql:
        known = _latest = _lexed(sql)
    return known


_latest: Lexed | None = None


def _lexed(sql: str) -> Lexed:
    tokens = tuple([token for token in tokenize(sql) if token.kind != "comment"])
    words = tuple([token.text.upper() if token.kind in _NAMED and token.text[:1] != '"' else "" for token in tokens])
    partner: dict[int, int] = {}
    parents: list[int] = []
    stack: list[int] = []
    depth = 0
    for index, token in enumerate(tokens):
        text, word = token.text, words[index]
        if text in _CLOSING:
            while stack and tokens[stack[-1]].text not in OPENING:
                stack.pop()  # a CASE that never ended: DuckDB says it better
            if not stack or OPENING[tokens[stack[-1]].text] != text:
                raise ParserError(
                    f'unmatched "{text}"', sql=sql, span=Span(token.start, token.end), remedy="Check the brackets."
                )
            opening = stack.pop()
            partner[opening], partner[index] = index, opening
        elif word == "END" and _is_plain(tokens, index) and stack and tokens[stack[-1]].text not in OPENING:
            opening = stack.pop()
            partner[opening], partner[index] = index, opening
        parents.append(stack[-1] if stack else -1)
        if text in OPENING or (word == "CASE" and _is_plain(tokens, index)):
            stack.append(index)
            depth = max(depth, len(stack))
            if depth > MAX_DEPTH:
                raise ParserError(
                    f"nested deeper than {MAX_DEPTH} levels",
                    sql=sql,
                    span=Span(token.start, token.end),
                    remedy="Split the expression, for example with common table expressions.",
                )
    for opening in stack:
        if tokens[opening].text in OPENING:
            token = tokens[opening]
            raise ParserError(
                f'"{token.text}" is never closed',
                sql=sql,
                span=Span(token.start, token.end),
                remedy="Check the brackets.",
            )
    binds_names = "LAMBDA" in words or "FOR" in words or ("->" in sql and any(token.text == "->" for token in tokens))
    return Lexed(sql, tokens, partner, tuple(parents), words, depth, binds_names)


def _is_plain(tokens: tuple[Token, ...], index: int) -> bool:
    """Whether a word is a keyword here, not a name behind AS or a dot."""
    if tokens[index].kind != "keyword":
        return False
    previous = tokens[index - 1] if index else None
    return previous is None or not (previous.text == "." or previous.text.upper() == "AS")
