"""A text without the secrets written in it, for errors, logs and history."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halo_sql.catalog.secrets import is_secret_name
from halo_sql.duck_tokens import Token, tokenize

_ASSIGNS = frozenset({"=", "=>", ":=", ":"})
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_PARAMETER = re.compile(r"[?&]([\w.-]+)=([^&#'\s]+)")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


def redact(text: str, tokens: Sequence[Token] | None = None) -> str:
    """The same text, same length, with ``*`` for what follows a secret's name (``api_key = '…'``, ``API_KEY '…'``)
    up to the next comma or closing bracket. ``tokens`` are its tokens, if at hand. It may be a whole script."""
    code = [token for token in tokens or tokenize(text) if token.kind != "comment"]
    shown = list(text)
    if "://" in text:
        for token in code:
            if token.kind == "string_const":
                _hide_in_url(shown, token)
    first = 0  # of the statement
    for index, token in enumerate(code[:-1]):
        if token.text == ";":
            first = index + 1
        if token.kind not in ("identifier", "keyword", "string_const") or not is_secret_name(token.text.strip("\"'")):
            continue
        following = code[index + 1]
        if not (
            following.text in _ASSIGNS
            or following.kind == "string_const"
            or (_creates_secret(code[first:index]) and following.text not in (*"(),;", "IF", "if"))
        ):
            continue
        depth = 0
        for hidden in code[index + 1 :]:
            depth += (hidden.text in _OPENING) - (hidden.text in _CLOSING)
            if depth < 0 or (depth == 0 and hidden.text in (",", ";")):
                break
            if hidden.text not in _ASSIGNS:
                shown[hidden.start : hidden.end] = "*" * (hidden.end - hidden.start)
    return "".join(shown)


def _hide_in_url(shown: list[str], token: Token) -> None:
    """The password and the secret parameters of a URL."""
    spans = [found.span(1) for found in _PASSWORD.finditer(token.text)]
    spans += [found.span(2) for found in _PARAMETER.finditer(token.text) if is_secret_name(found[1])]
    for start, end in spans:
        shown[token.start + start : token.start + end] = "*" * (end - start)


def _creates_secret(before: Sequence[Token]) -> bool:
    """Whether these tokens of a statement are inside the brackets of CREATE … SECRET … (…): names and values stand
    side by side there."""
    words = [token.text.upper() for token in before[:6]]
    return words[:1] == ["CREATE"] and "SECRET" in words and any(token.text == "(" for token in before)
