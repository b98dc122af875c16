"""Colours for the editor: DuckDB's own tokens, our operators and statement words, dot commands."""

from __future__ import annotations

from collections.abc import Iterator

from pygments.lexer import Lexer
from pygments.token import Comment, Keyword, Name, Number, Operator, Text, _TokenType

from halo_sql.duck_tokens import tokenize

OPERATORS = (
    *("LLM_MAP", "LLM_FILTER", "LLM_CLASSIFY", "LLM_EXTRACT", "LLM_SCORE", "LLM_EMBED", "LLM_REDUCE", "LLM_RANK"),
    *("TOOL", "AGENT"),
)
#: Words of our statements; DuckDB does not know them as keywords.
WORDS = ("MODEL", "MODELS", "PROMPT", "PROMPTS", "TOOLS", "AGENTS", "SECRETS", "BATCH", "CALIBRATE")

_KINDS = {
    "keyword": Keyword,
    "string_const": Text.String,
    "numeric_const": Number,
    "operator": Operator,
    "comment": Comment,
    "identifier": Name,
}


class HaloLexer(Lexer):
    """Pygments lexer over DuckDB's tokenizer, so that strings and comments are what DuckDB says they are."""

    name = "HaloSQL"
    aliases = ("halo",)

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, _TokenType, str]]:
        """(offset, token type, text) for the whole text."""
        if text.startswith("."):
            yield 0, Name.Builtin, text
            return
        place = 0
        for token in tokenize(text):
            if token.start > place:
                yield place, Text, text[place : token.start]
            yield token.start, _kind(token.kind, token.text), text[token.start : token.end]
            place = token.end
        if place < len(text):
            yield place, Text, text[place:]


def _kind(kind: str, text: str) -> _TokenType:
    if kind == "identifier" and text.upper() in OPERATORS:
        return Name.Function
    if kind == "identifier" and text.upper() in WORDS:
        return Keyword
    return _KINDS.get(kind, Text)
