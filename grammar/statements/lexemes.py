"""What tokens say: the text of a string literal, the name of an identifier, the value of a number."""

from __future__ import annotations

import re

from halo_sql.duck_tokens import Token
from halo_sql.errors import ParserError, Span

_DOLLAR = re.compile(r"\$[^$]*\$")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_NUMBER = re.compile(r"(?:\d+(?:_\d+)*)?(?:\.(?:\d+(?:_\d+)*)?)?(?:[eE][+-]?\d+)?")


def string_value(token: Token) -> str:
    """The text of ``'…'``, ``E'…'`` or ``$tag$…$tag$`` as DuckDB reads it.

    Raises ParserError when it has no end or is another kind of literal (``x'00'``).
    """
    text = token.text
    dollar = _DOLLAR.match(text)
    if dollar is not None:
        tag = dollar[0]
        if len(text) < 2 * len(tag) or not text.endswith(tag):
            raise _unterminated(token, tag)
        return text[len(tag) : -len(tag)]
    prefix, quoted = ("", text) if text.startswith("'") else (text[0].lower(), text[1:])
    if prefix not in ("", "e"):
        raise ParserError("this kind of literal is not a text", span=_span(token), remedy="Write it as '…' or $$…$$.")
    body = quoted[1:-1]
    plain = _ESCAPE.sub("", body) if prefix else body
    escaping = bool(prefix) and plain.endswith("\\")  # only in E'…' is a backslash more than itself
    if len(quoted) < 2 or not quoted.endswith("'") or plain.replace("''", "").count("'") or escaping:
        raise _unterminated(token, "'")
    body = body.replace("''", "'")
    return _ESCAPE.sub(_unescape, body) if prefix else body


def name_value(token: Token) -> str:
    """The name an identifier stands for: quotes removed, the case as written.

    Raises ParserError for an empty or unterminated quoted name."""
    text = token.text
    if not text.startswith('"'):
        return text
    if len(text) < 2 or not text.endswith('"') or text[1:-1].replace('""', "").count('"'):
        raise _unterminated(token, '"')
    if text == '""':
        raise ParserError("a name cannot be empty", span=_span(token))
    return text[1:-1].replace('""', '"')


def number_value(token: Token) -> int | float:
    """An integer, or a float when it has a point or an exponent. Raises ParserError for anything else."""
    text = token.text
    if not _NUMBER.fullmatch(text) or not any(character.isdigit() for character in text):
        raise ParserError(f'"{text}" is not a number', span=_span(token))
    digits = text.replace("_", "")
    if digits.isdigit():
        if len(digits) > 38:  # DuckDB's widest integer; Python refuses to read some thousand digits
            raise ParserError("this number has too many digits", span=_span(token))
        return int(digits)
    return float(digits)


def _span(token: Token) -> Span:
    return Span(token.start, token.end)


def _unterminated(token: Token, quote: str) -> ParserError:
    what = "name" if quote == '"' else "text"
    return ParserError(
        f"unterminated quoted {what}", span=Span(token.start, token.start + 1), remedy=f"It has no closing {quote}"
    )


def _unescape(found: re.Match[str]) -> str:
    hexadecimal, octal, character = found.groups()
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    if octal:
        return chr(int(octal, 8))
    return _CONTROLS.get(character, character)
