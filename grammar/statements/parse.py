"""Parse HaloSQL's own statements.

DuckDB's tokenizer cuts the text (so literals, comments and names are what they are in SQL), Lark's LALR parser
takes the tokens one by one: a word is a keyword only where the grammar wants it, a name everywhere else. Parsers
are built on first use, once per process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from halo_sql.duck_tokens import Token
from halo_sql.errors import Error, ParserError, Span, did_you_mean
from halo_sql.grammar.classify import code_tokens, explain_rest
from halo_sql.grammar.statements import build, build_create
from halo_sql.grammar.statements.nodes import ENGINES, Statement
from halo_sql.grammar.statements.redact import redact


@dataclass(frozen=True, slots=True)
class Form:
    """A family of statements: its grammar file, the words it begins with, the function that builds its node.

    starts  (first keyword, kind of object or ''); '' fits every object
    typed   it holds types and default expressions, and ``build`` takes the statement's text, too
    """

    grammar: str
    starts: tuple[tuple[str, str], ...]
    build: Callable[..., Statement]
    typed: bool = False


FORMS: tuple[Form, ...] = (
    Form("create_model", (("CREATE", "MODEL"),), build_create.create_model),
    Form("create_prompt", (("CREATE", "PROMPT"),), build_create.create_prompt),
    Form("create_tool", (("CREATE", "TOOL"),), build_create.create_tool, typed=True),
    Form("create_agent", (("CREATE", "AGENT"),), build_create.create_agent, typed=True),
    Form("create_secret", (("CREATE", "SECRET"),), build_create.create_secret),
    Form("drop_statistics", (("DROP", "STATISTICS"),), build.drop_statistics),
    Form("drop_secret", (("DROP", "SECRET"),), build.drop_secret),
    Form("drop", (("DROP", ""),), build.drop),
    Form("alter", (("ALTER", ""),), build.alter),
    Form("comment_on", (("COMMENT", ""),), build.comment_on),
    Form("show", (("SHOW", ""),), build.show),
    Form("describe", (("DESCRIBE", ""), ("DESC", "")), build.describe),
    Form("calibrate", (("CALIBRATE", ""),), build.calibrate),
    Form("set", (("SET", ""), ("RESET", ""), ("PRAGMA", "")), build.set),
    Form("explain", (("EXPLAIN", ""),), build.explain),
    Form("analyze", (("ANALYZE", ""),), build.analyze),
    Form("batch", (("BEGIN", ""), ("END", "")), build.batch),
)

#: Terminals that are not keywords -> what an error calls them.
_NAMES = {
    "NAME": "a name",
    "KEY": "an option's name",
    "SETTING": "a setting's name",
    "OPTION": "an option",
    "ENGINE": "an engine (" + ", ".join(ENGINES) + ")",
    "WORD": "a value",
    "TYPE_WORD": "a type",
}
_TEXTS = {
    "SOURCE": "the source in single quotes (a hub id, a directory, a URL or 'bundled:name')",
    "TEMPLATE": "the template in single quotes or $$",
    "BODY": "the query in single quotes or $$",
    "URL": "the URL in single quotes",
    "FUNCTION": "'module:function' in single quotes",
    "SERVER": "the server in single quotes",
    "STRING": "a value",
}
_OTHERS = {
    "NUMBER": "a value",
    "EXPR": "an expression",
    "REST": "the statement to explain",
    "QUERY": "the query to analyze",
    "$END": "the end of the statement",
}
_MARKS = {
    "(": "LPAR", ")": "RPAR", "[": "LSQB", "]": "RSQB", "{": "LBRACE", "}": "RBRACE",
    "*": "STAR", ",": "COMMA", "=": "EQUAL", ":": "COLON", "-": "MINUS", ".": "DOT",
}  # fmt: skip
_MARK_TEXTS = {terminal: f'"{mark}"' for mark, terminal in _MARKS.items()}
# Words of our grammars that DuckDB reserves: never names without quotes.
_RESERVED = frozenset({"AS", "CREATE", "FROM", "NOT", "TO", "USING", "WITH", "OR", "DESC", "DESCRIBE", "SHOW"})
_CREATED = ("MODEL", "PROMPT", "TOOL", "AGENT", "SECRET", "STATISTICS")
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_SHOWN_CHARS = 40


def parse_statement(text: str) -> Statement:
    """The syntax node of a statement that ``classify`` calls HALO_DDL, HALO_SETTING or EXPLAIN.

    Raises ParserError (with the offending token's span in ``text``, and what was expected), NotSupportedError for
    statements HaloSQL does not have, CatalogError for a secret in clear. Errors show secrets as ``***``.
    """
    code = code_tokens(text)
    try:
        form = _form(code)
        if form.grammar in ("explain", "analyze"):
            code = _with_rest(text, code)
        if form.typed:
            code = _with_defaults(text, code)
            return form.build(_tree(form, code, text), text)
        return form.build(_tree(form, code, text))
    except Error as problem:
        problem.sql = redact(text)
        raise


def _form(code: Sequence[Token]) -> Form:
    first = code[0].text.upper() if code else ""
    words = [token.text.upper() for token in code[1:6]]
    created = next((word for word in words if word in _CREATED), "")
    for form in FORMS:
        if (first, created) in form.starts or (first, "") in form.starts:
            return form
    span = Span(code[0].start, code[0].end) if code else Span(0, 0)
    raise ParserError("this is no statement of HaloSQL's", span=span)


def _with_rest(text: str, code: Sequence[Token]) -> list[Token]:
    """The tokens of an EXPLAIN or ANALYZE with the statement behind it as one token of kind 'rest'."""
    at, _ = explain_rest(code)
    if at >= len(code):
        return list(code)
    start, end = code[at].start, code[-1].end
    return [*code[:at], Token(start, end, "rest", text[start:end])]


def _with_defaults(text: str, code: Sequence[Token]) -> list[Token]:
    """The tokens with each DEFAULT's expression as one token of kind 'expr', and WITH TIME ZONE as one word."""
    found: list[Token] = []
    depth = at = 0
    while at < len(code):
        token, word = code[at], code[at].text.upper()
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if [item.text.upper() for item in code[at : at + 3]] == ["WITH", "TIME", "ZONE"]:
            found.append(Token(token.start, code[at + 2].end, "identifier", "WITH TIME ZONE"))
            at += 3
            continue
        found.append(token)
        at += 1
        if word != "DEFAULT" or depth != 1 or code[at - 2].text in ("(", ","):
            continue
        first, inner = at, 0
        while at < len(code) and not (inner == 0 and code[at].text in (",", ")")):
            inner += (code[at].text in _OPENING) - (code[at].text in _CLOSING)
            at += 1
        if at > first:
            start, end = code[first].start, code[at - 1].end
            found.append(Token(start, end, "expr", text[start:end]))
    return found


@cache
def _parser(grammar: str) -> Any:
    """Lark's parser for a grammar file; without a lexer, tokens come from DuckDB."""
    from lark import Lark
    from lark.lexer import Lexer

    class NoLexer(Lexer):  # type: ignore[misc]  # mypy does not read lark
        def __init__(self, conf: Any) -> None:
            pass

        def lex(self, data: Any) -> Any:
            return iter(())

    return Lark.open(
        grammar + ".lark",
        rel_to=__file__,
        parser="lalr",
        lexer=NoLexer,
        propagate_positions=True,
        maybe_placeholders=False,
    )


def _tree(form: Form, code: Sequence[Token], text: str) -> Any:
    from lark import Token as Leaf
    from lark.exceptions import UnexpectedToken

    parsing = _parser(form.grammar).parse_interactive()
    for token in code:
        terminal = _terminal(token, parsing.choices())
        if terminal is None:
            raise _unexpected(token, parsing.accepts(), text)
        leaf = Leaf(terminal, token.text, start_pos=token.start, end_pos=token.end)
        leaf.line = leaf.end_line = leaf.column = leaf.end_column = 1  # the spans say where; Lark wants some
        try:
            parsing.feed_token(leaf)
        except UnexpectedToken:  # a choice of the state that does not survive its reductions
            raise _unexpected(token, parsing.accepts(), text) from None
    accepted = parsing.accepts()
    if "$END" not in accepted:
        end = code[-1].end if code else 0
        raise _unexpected(Token(end, end, "end", ""), accepted, text)
    return parsing.feed_eof()


def _terminal(token: Token, choices: Any) -> str | None:
    """The terminal a token is in this state of the parser; None when it fits none."""
    if token.kind == "rest":
        return next((name for name in ("REST", "QUERY") if name in choices), None)
    if token.kind == "expr":
        return "EXPR" if "EXPR" in choices else None
    if token.kind == "string_const":
        return next((name for name in _TEXTS if name in choices), None)
    if token.kind == "numeric_const":
        return "NUMBER" if "NUMBER" in choices else None
    if token.kind not in ("identifier", "keyword"):
        mark = _MARKS.get(token.text)
        return mark if mark in choices else None
    word = token.text.upper()
    if word in choices and word not in _NAMES | _TEXTS | _OTHERS:
        return word
    return None if word in _RESERVED else next((name for name in _NAMES if name in choices), None)


def _unexpected(token: Token, accepted: set[str], text: str) -> ParserError:
    keywords = sorted(name for name in accepted if name not in _NAMES | _TEXTS | _OTHERS and name not in _MARK_TEXTS)
    others = {**_NAMES, **_TEXTS, **_MARK_TEXTS, **_OTHERS}  # in the order in which they are told
    told = [*keywords, *dict.fromkeys(words for name, words in others.items() if name in accepted)]
    expected = " or ".join(filter(None, [", ".join(told[:-1]), told[-1]])) if told else "nothing"
    remedy = f"Expected {expected}."
    if token.kind == "end":
        message = "syntax error at the end of the statement"
    else:
        shown = redact(text)[token.start : token.end]
        cut = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
        quoted = cut.startswith(("'", '"'))
        message = "syntax error at or near " + (cut if quoted else f'"{cut}"')
        if token.text == "." and "NUMBER" in accepted:
            message = '"." is not a number'
        near = did_you_mean(token.text, keywords) if token.kind in ("identifier", "keyword") else ""
        if near.startswith("Did"):
            remedy += " " + near
        elif token.text == "." and not accepted & {"DOT", "NUMBER"}:
            remedy += " A name has no qualifier: objects lie in the current database (USE changes it)."
        elif token.text.startswith('"') and accepted & set(_TEXTS):
            remedy += " Texts take single quotes; double quotes make a name."
        elif token.kind == "string_const" and accepted & set(_NAMES):
            remedy += " Names take double quotes or none."
    return ParserError(message, span=Span(token.start, token.end), remedy=remedy)
