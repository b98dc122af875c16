"""DuckDB's tokenizer: what a token is, for queries and for our own statements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import add
from typing import NamedTuple

import duckdb


class Token(NamedTuple):
    """A token of a SQL text: character offsets, kind as DuckDB names it, text as written."""

    start: int
    end: int
    kind: str  # 'identifier' | 'keyword' | 'string_const' | 'numeric_const' | 'operator' | 'comment'
    text: str


# DuckDB's parser reads these as spaces outside quotes, its tokenizer does not; lone surrogates have no UTF-8.
_PLAIN = dict.fromkeys((0xA0, *range(0x2000, 0x200C), 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF), " ")
_PLAIN |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def tokenize(sql: str) -> list[Token]:
    """The tokens of a text with character offsets; white space is not a token, comments are. Never raises."""
    global _long
    if len(sql) < LONG_TEXT:
        return _tokens(sql)
    known, tokens = _long
    if known != sql:
        tokens = _tokens(sql)
        _long = (sql, tokens)
    return list(tokens)


LONG_TEXT = 10_000  # characters from which a statement's tokens are kept for those who ask next
_long: tuple[str, list[Token]] = ("", [])


def _tokens(sql: str) -> list[Token]:
    plain = sql if sql.isascii() else sql.translate(_PLAIN)
    raw = duckdb.tokenize(plain)
    if plain.isascii():
        starts = [offset for offset, _ in raw]
    else:  # DuckDB counts bytes
        position, byte = 0, 0
        at: dict[int, int] = {}
        for position, character in enumerate(plain):
            at[byte] = position
            byte += len(character.encode())
        at[byte] = len(plain)
        starts = [at[offset] for offset, _ in raw]
    ends = [*starts[1:], len(plain)] if starts else []
    kinds = {id(kind): kind for _, kind in raw}  # members of an enum, whose own hashes are slow
    names = {key: kind.name for key, kind in kinds.items()}
    texts = [plain[start:end].rstrip() for start, end in zip(starts, ends, strict=True)]
    stops = list(map(add, starts, map(len, texts)))
    named = [names[id(kind)] for _, kind in raw]
    if plain is not sql:
        texts = [sql[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return list(map(_token, zip(starts, stops, named, texts, strict=True)))


#: Token(…), without a call in Python.
_token: Callable[[tuple[int, int, str, str]], Token] = partial(tuple.__new__, Token)
