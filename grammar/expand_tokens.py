"""What a word is where it stands, for putting other text in its place."""

from __future__ import annotations

from halo_sql.duck_tokens import tokenize
from halo_sql.errors import Error
from halo_sql.grammar.classify import NAME_FOLLOWS, is_cte_body
from halo_sql.grammar.lex import Lexed
from halo_sql.grammar.source import read_literal
from halo_sql.ir.expr import literal


def is_word(lexed: Lexed, index: int) -> bool:
    """Whether a token is a name or a keyword."""
    return lexed.tokens[index].kind in ("identifier", "keyword")


def defines_name(lexed: Lexed, index: int) -> bool:
    """Whether a name before ``(`` is defined or listed: ``CREATE TABLE m (…)``, ``WITH m(a) AS``, ``t AS m(a)``."""
    before = lexed.word(index - 1)
    if before == "AS" or (before and before in NAME_FOLLOWS):
        return True
    if lexed.text(index - 1) == "," and is_cte_body(lexed.tokens, lexed.partner[index + 1] + 1):
        return True
    return index > 0 and lexed.tokens[index - 1].kind == "identifier"


def is_value(lexed: Lexed, index: int) -> bool:
    """Whether a word stands as a value: no label, qualifier's part, function, option, field name or type."""
    before, after = lexed.text(index - 1), lexed.text(index + 1)
    if before in (".", "::") or lexed.word(index - 1) == "AS" or after in ("(", ":=", "=>"):
        return False
    return not (after == ":" and before in ("{", ",", "("))


def name_start(lexed: Lexed, index: int) -> int:
    """The first token of the dotted name that ends at a token."""
    while lexed.text(index - 1) == "." and index >= 2 and is_word(lexed, index - 2):
        index -= 2
    return index


def operand_start(lexed: Lexed, end: int) -> int:
    """The first token of the operand that ends at a token: ``a.b``, ``f(x)``, ``(x + 1)``, ``x[1]``, ``'text'``."""
    index = end
    while lexed.text(index) in (")", "]"):
        index = lexed.partner[index]
        before = lexed.text(index - 1)
        if lexed.text(index) == "[" and (before in (")", "]") or is_word(lexed, index - 1)):
            index -= 1
        elif index and is_word(lexed, index - 1) and lexed.tokens[index - 1].kind == "identifier":
            index -= 1
            break
        else:
            break
    return name_start(lexed, index) if is_word(lexed, index) else index


def plain_literal(token: str) -> str:
    """A literal in plain quotes, as it can stand inside a hole."""
    if token.startswith("'"):
        return token
    try:
        return literal(read_literal(token).value)
    except Error:
        return token  # a bit or blob literal


def uncommented(text: str) -> str:
    """A text without its comments."""
    if "--" not in text and "/*" not in text:
        return text
    kept, at = [], 0
    for token in tokenize(text):
        if token.kind == "comment":
            kept.append(text[at : token.start] + " ")
            at = token.end
    return "".join(kept) + text[at:]


_OPERATOR_WORDS = frozenset(
    {"AND", "OR", "NOT", "IN", "IS", "LIKE", "ILIKE", "BETWEEN", "COLLATE", "GLOB", "SIMILAR", "TO"}
)


def is_named(lexed: Lexed, first: int, end: int) -> bool:
    """Whether a SELECT item has a name of its own, or is a star."""
    last = end - 1
    if lexed.text(first + 1) == ":" or lexed.word(last - 1) == "AS" or lexed.text(last) == "*":
        return True
    if last == first or lexed.tokens[last].kind != "identifier":
        return False
    before = lexed.tokens[last - 1]
    if before.text in (")", "]", "}") or before.kind in ("identifier", "numeric_const", "string_const"):
        return True
    return before.kind == "keyword" and before.text.upper() not in _OPERATOR_WORDS
