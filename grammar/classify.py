"""Which kind of statement a text is, so that only those of ours leave DuckDB's path.

Most statements are DuckDB's, so the first look is a search for a few words in the raw text; tokens are made only
when one of them occurs. MODEL, PROMPT, TOOL, AGENT stay ordinary names everywhere but in our statements.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from halo_sql.duck_tokens import Token, tokenize
from halo_sql.grammar.operators_table import EVERYDAY_WORDS, OPERATORS


class Kind(Enum):
    """What a statement is, hence who runs it."""

    HALO_DDL = "ddl"  # CREATE, DROP, ALTER, DESCRIBE, SHOW, CALIBRATE of our objects; ANALYZE of a query
    HALO_SETTING = "setting"  # SET, RESET, PRAGMA of a halo_ setting
    HALO_SECRET = "secret"  # DROP SECRET: ours when it is a secret of TYPE llm, DuckDB's otherwise
    BATCH = "batch"  # BEGIN BATCH, END BATCH
    EXPLAIN = "explain"  # EXPLAIN of a statement of ours, or with options of ours
    LLM = "llm"  # holds a call of one of OPERATORS
    PLAIN = "plain"  # goes to DuckDB verbatim


#: EXPLAIN options DuckDB does not have.
OWN_EXPLAIN_OPTIONS = frozenset({"LOGICAL", "PHYSICAL", "MEMO", "RULES", "COSTS", "DUMP"})

_TRIGGERS = ("llm_", "halo_", "explain", "model", "prompt", "tool", "agent", "secret", "batch", "analyze", "statistics")
_CALL_WORDS = ("llm_", "tool", "agent")
_HEAD = re.compile(
    r"\s*(?:create|drop|alter|comment|describe|desc|show|set|reset|pragma|explain|begin|end|analyze|calibrate)\b"
    r"|\s*(?:--|/\*|[^\x00-\x7f])"
)
_HEAD_CHARS, _HEAD_TOKENS = 2_000, 8
_CALL = re.compile(rf"(?<![\w$])(?:{'|'.join(OPERATORS).lower()})(?![\w$])[\s\u200b\u2060\ufeff]*(?:\(|--|/\*)")
_OBJECTS = frozenset({"MODEL", "PROMPT", "TOOL", "AGENT"})
_DESCRIBED = _OBJECTS | {"SECRET"}
_LISTED = frozenset({"MODELS", "PROMPTS", "TOOLS", "AGENTS", "SECRETS"})
_QUERY_STARTS = frozenset(
    {"SELECT", "FROM", "WITH", "VALUES", "TABLE", "PIVOT", "UNPIVOT", "DESCRIBE", "SHOW", "SUMMARIZE"}
    | {"INSERT", "UPDATE", "DELETE", "MERGE", "COPY"}
)
_ANALYZED = frozenset({"SELECT", "FROM", "WITH"})
# A word directly behind one of these is the name of something, also with "(" after it.
NAME_FOLLOWS = frozenset(
    {".", "TABLE", "VIEW", "MACRO", "FUNCTION", "INTO", "REFERENCES", "INDEX", "SECRET", "TYPE", "EXISTS"}
    | {"COPY", "PREPARE", "EXECUTE", "VACUUM", "ANALYZE", "WITH", "RECURSIVE"}
)


def classify(text: str) -> Kind:
    """The kind of one statement (as ``split`` gives it). Never raises; what it cannot place is PLAIN."""
    lowered = text.lower()
    if not any(word in lowered for word in _TRIGGERS):
        return Kind.PLAIN
    if _HEAD.match(lowered):
        head = code_tokens(text[:_HEAD_CHARS])
        if len(text) > _HEAD_CHARS and len(head) < _HEAD_TOKENS:
            head = code_tokens(text)
        if _word(head, 0) == "EXPLAIN":
            return _explain_kind(code_tokens(text))
        kind = _head_kind(head)
        if kind is not None:
            return kind
        if "secret" in lowered and "llm" in lowered and _creates_llm_secret(code_tokens(text)):
            return Kind.HALO_DDL
    if any(word in lowered for word in _CALL_WORDS) and _CALL.search(lowered) and operator_calls(tokenize(text)):
        return Kind.LLM
    return Kind.PLAIN


def code_tokens(text: str) -> list[Token]:
    """The tokens of a statement without comments and without ``;`` at the end."""
    code = [token for token in tokenize(text) if token.kind != "comment"]
    while code and code[-1].text == ";":
        code.pop()
    return code


def operator_calls(tokens: Sequence[Token]) -> list[Token]:
    """The name tokens of the calls of our operators in one statement, in order.

    A call is an unquoted, unqualified operator name before ``(`` that does not stand where a name is defined or
    listed: ``CREATE TABLE tool (…)``, ``INSERT INTO agent (…)``, ``WITH tool(a) AS (…)``, ``FROM t AS agent(a)``.
    """
    code = [token for token in tokens if token.kind != "comment"]
    return [code[i] for i in range(len(code) - 1) if code[i + 1].text == "(" and _is_call(code, i)]


def explain_rest(code: Sequence[Token], start: int = 0) -> tuple[int, bool]:
    """For an EXPLAIN at ``code[start]``: the index of the explained statement's first token, and whether an
    option only HaloSQL has is given. The index is ``len(code)`` when nothing is left."""
    at = start + 1
    if _word(code, at) in ("ANALYZE", "ANALYSE"):
        at += 1
    opening = _word(code, at) == "(" and _word(code, at + 1) not in _QUERY_STARTS | {"("}
    if not opening or not _is_word(code, at + 1):
        return at, False
    closing = _closing(code, at)
    own = any(
        _word(code, i) in OWN_EXPLAIN_OPTIONS and _word(code, i - 1) in ("(", ",") for i in range(at + 1, closing)
    )
    return min(closing + 1, len(code)), own


def _word(code: Sequence[Token], index: int) -> str:
    return code[index].text.upper() if 0 <= index < len(code) else ""


def _is_word(code: Sequence[Token], index: int) -> bool:
    return index < len(code) and code[index].kind in ("identifier", "keyword")


def _closing(code: Sequence[Token], opening: int) -> int:
    """The index of the ``)`` for the ``(`` at ``opening``; ``len(code)`` when there is none."""
    depth = 0
    for index in range(opening, len(code)):
        text = code[index].text
        depth += (text == "(") - (text == ")")
        if depth == 0:
            return index
    return len(code)


def _head_kind(code: Sequence[Token]) -> Kind | None:
    """What the first tokens say; None for what is not ours by them."""
    first, second, third = _word(code, 0), _word(code, 1), _word(code, 2)
    named = _is_word(code, 2) or (len(code) > 2 and code[2].kind == "string_const")
    if first == "CREATE":
        return Kind.HALO_DDL if _word(code, _created(code)) in _OBJECTS else None
    if first in ("DROP", "ALTER"):
        if first == "DROP" and _word(code, _created(code)) == "SECRET":
            return Kind.HALO_SECRET
        if first == "DROP" and second == "STATISTICS" and len(code) == 2:
            return Kind.HALO_DDL
        return Kind.HALO_DDL if second in _OBJECTS else None
    if first == "COMMENT":
        return Kind.HALO_DDL if second == "ON" and third in _OBJECTS else None
    if first == "ANALYZE":  # of a query: DuckDB analyses tables
        ours = second in _ANALYZED or (second == "(" and third not in _QUERY_STARTS)
        return Kind.HALO_DDL if ours else None
    if first in ("BEGIN", "END"):
        return Kind.BATCH if second == "BATCH" and len(code) == 2 else None
    if first == "CALIBRATE":
        return Kind.HALO_DDL if second == "MODEL" else None
    if first in ("DESCRIBE", "DESC"):  # DESCRIBE model is a table; DESCRIBE model m cannot be DuckDB's
        return Kind.HALO_DDL if second in _DESCRIBED and named else None
    if first == "SHOW":
        ours = (second in _LISTED and third != ".") or (second in _DESCRIBED and named)
        return Kind.HALO_DDL if ours else None
    if first in ("SET", "RESET", "PRAGMA"):
        name = third if second in ("SESSION", "GLOBAL", "LOCAL") else second
        return Kind.HALO_SETTING if name.strip('"').startswith("HALO_") else None
    return None


def _created(code: Sequence[Token]) -> int:
    """The index of the word that says what a CREATE creates."""
    at = 1
    if _word(code, at) == "OR" and _word(code, at + 1) == "REPLACE":
        at += 2
    while _word(code, at) in ("TEMP", "TEMPORARY", "PERSISTENT", "UNIQUE"):
        at += 1
    return at


def _creates_llm_secret(code: Sequence[Token]) -> bool:
    if _word(code, 0) != "CREATE" or _word(code, _created(code)) != "SECRET":
        return False
    return any(_word(code, i) == "TYPE" and _word(code, i + 1).strip("'\"") == "LLM" for i in range(len(code)))


def _explain_kind(code: Sequence[Token]) -> Kind:
    at, own = 0, False
    while _word(code, at) == "EXPLAIN":
        at, more = explain_rest(code, at)
        own = own or more
    rest = code[at:]
    ours = (
        own
        or _head_kind(rest) not in (None, Kind.HALO_SECRET)
        or _creates_llm_secret(rest)
        or bool(operator_calls(rest))
    )
    return Kind.EXPLAIN if ours else Kind.PLAIN


def _is_call(code: Sequence[Token], index: int) -> bool:
    name, before = _word(code, index), _word(code, index - 1)
    if name not in OPERATORS or before in NAME_FOLLOWS:
        return False
    created = _word(code, _created(code)) if _word(code, 0) == "CREATE" else ""
    if before == "ON" and created == "INDEX":
        return False
    if before == "AS" and created not in ("MACRO", "FUNCTION"):  # a table alias with column names
        return False
    if before == "," and is_cte_body(code, _closing(code, index + 1) + 1):
        return False
    return name not in EVERYDAY_WORDS or _names_an_object(code, index)


def is_cte_body(code: Sequence[Token], index: int) -> bool:
    """Whether ``AS (``, ``AS [NOT] MATERIALIZED (`` or ``USING KEY (`` stands here, as behind a CTE's name."""
    word, following = _word(code, index), _word(code, index + 1)
    return (word == "AS" and following in ("(", "NOT", "MATERIALIZED")) or (word == "USING" and following == "KEY")


def _names_an_object(code: Sequence[Token], index: int) -> bool:
    """TOOL and AGENT take an object's name first; behind a name or ``)`` they are a table alias."""
    argument = _is_word(code, index + 2) or (index + 2 < len(code) and code[index + 2].kind == "string_const")
    if not argument or _word(code, index + 3) not in (",", ")"):
        return False
    if index == 0 or code[index - 1].kind in ("identifier", "string_const"):
        return False
    return code[index - 1].text != ")" or _closes_distinct_on(code, index - 1)


def _closes_distinct_on(code: Sequence[Token], closing: int) -> bool:
    depth = 0
    for index in range(closing, -1, -1):
        text = code[index].text
        depth += (text == ")") - (text == "(")
        if depth == 0:
            return _word(code, index - 1) == "ON" and _word(code, index - 2) == "DISTINCT"
    return False
