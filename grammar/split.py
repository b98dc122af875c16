"""Cut a SQL text into its statements.

DuckDB's own tokenizer decides what a ``;`` is, so comments, strings and dollar quotes are what DuckDB says they
are. Nothing is an error here: an unterminated string makes the rest of the text one statement, and whoever
parses that statement complains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from halo_sql.duck_tokens import tokenize


@dataclass(frozen=True, slots=True)
class StatementText:
    """One statement: its text without the ``;``, and where it begins in the whole text (characters)."""

    text: str
    start: int


# A text that surely holds one statement: no ';' but at the end, and nothing whose extent needs a tokenizer
# (comments, dollar quotes, backslashes). Possessive, so it is linear on any text.
_ONE = re.compile(r"""(?:[^'"$`/\-;\\]++|'[^'\\]*+'|"[^"]*+"|-(?!-)|/(?!\*))*+;?\s*+""")
_WORD = re.compile(r"\w")


def split(sql: str) -> list[StatementText]:
    """The statements of ``sql`` in order, comments inside and before them kept, empty ones left out.

    For each result ``sql[s.start : s.start + len(s.text)] == s.text``; between two of them are only white
    space, comments and semicolons. Never raises.
    """
    if _ONE.fullmatch(sql) and _WORD.search(sql):
        text = sql.rstrip().removesuffix(";").rstrip()
        lean = text.lstrip()
        return [StatementText(lean, len(text) - len(lean))]
    found: list[StatementText] = []
    start = end = 0
    begun = code = False  # whether the piece has any token yet, and one that is not a comment
    for token in tokenize(sql):
        ends = token.kind == "operator" and token.text.endswith(";")
        stop = token.end - 1 if ends else token.end
        if stop > token.start:
            start = start if begun else token.start
            end, begun, code = stop, True, code or token.kind != "comment"
        if ends:
            if code:
                found.append(StatementText(sql[start:end], start))
            begun = code = False
    if code:
        found.append(StatementText(sql[start:end], start))
    return found
