"""A statement's text without the secrets written in it, for errors, logs and history."""

from __future__ import annotations

from collections.abc import Sequence

from halo_sql.catalog.secrets import is_secret_name
from halo_sql.duck import Token, tokenize

_ASSIGNS = frozenset({"=", "=>", ":=", ":"})
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")


def redact(text: str, tokens: Sequence[Token] | None = None) -> str:
    """The same text, same length, with ``*`` for what follows a secret's name (``api_key = '…'``, ``API_KEY '…'``)
    up to the next comma or closing bracket. ``tokens`` are its tokens, if at hand."""
    code = [token for token in tokens or tokenize(text) if token.kind != "comment"]
    shown = list(text)
    for index, token in enumerate(code[:-1]):
        following = code[index + 1]
        named = token.kind in ("identifier", "keyword", "string_const") and is_secret_name(token.text.strip("\"'"))
        if not named or not (following.text in _ASSIGNS or following.kind == "string_const"):
            continue
        depth = 0
        for hidden in code[index + 1 :]:
            depth += (hidden.text in _OPENING) - (hidden.text in _CLOSING)
            if depth < 0 or (depth == 0 and hidden.text in (",", ";")):
                break
            if hidden.text not in _ASSIGNS:
                shown[hidden.start : hidden.end] = "*" * (hidden.end - hidden.start)
    return "".join(shown)
