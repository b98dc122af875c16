"""From Lark's trees to the nodes of ``nodes.py``: one function per grammar, named like its file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halo_sql.duck_tokens import Token
from halo_sql.errors import NotSupportedError, ParserError, Span, did_you_mean
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.statements import trees
from halo_sql.grammar.statements.build_create import refuse_clear_secrets
from halo_sql.grammar.statements.lexemes import name_value, string_value
from halo_sql.grammar.statements.nodes import (
    Alter,
    Analyze,
    BatchMark,
    Calibrate,
    Describe,
    Drop,
    DropSecret,
    DropStatistics,
    Explain,
    ResetSetting,
    SetSetting,
    Show,
    Statement,
)

FORMATS = ("text", "json", "html", "mermaid", "graphviz")
SECTIONS = ("logical", "physical", "memo", "rules", "costs", "dump")


def drop(tree: Any) -> Statement:
    """The node of a DROP."""
    name = trees.token(tree, "NAME")
    flags = trees.has(tree, "if_exists"), trees.has(tree, "cascade")
    return Drop(trees.object_kind(tree), name_value(name), trees.span_of(name), *flags)


def drop_secret(tree: Any) -> Statement:
    """The node of a DROP SECRET."""
    name = trees.token(tree, "NAME")
    scope = next((word for word in ("temporary", "persistent") if trees.has(tree, word)), "")
    return DropSecret(name_value(name), trees.span_of(name), scope, trees.has(tree, "if_exists"))


def alter(tree: Any) -> Statement:
    """The node of an ALTER; CatalogError for a secret in clear."""
    name = trees.token(tree, "NAME")
    action = tree.children[-1]
    node = Alter(
        trees.object_kind(tree), name_value(name), trees.span_of(name), str(action.data), trees.has(tree, "if_exists")
    )
    if node.action == "rename":
        new = trees.token(action, "NAME")
        return replace(node, text=name_value(new), text_span=trees.span_of(new))
    if node.action == "set_options":
        options = trees.option_list(action.children)
        refuse_clear_secrets(options)
        return replace(node, options=options)
    if node.action == "reset_options":
        keys = [trees.duck(child) for child in action.children]
        return replace(node, keys=tuple((name_value(key).lower(), trees.span_of(key)) for key in keys))
    return _with_text(node, action)


def comment_on(tree: Any) -> Statement:
    """The node of a COMMENT ON, which is an ALTER … SET COMMENT."""
    name = trees.token(tree, "NAME")
    return _with_text(Alter(trees.object_kind(tree), name_value(name), trees.span_of(name), "set_comment"), tree)


def _with_text(node: Alter, tree: Any) -> Alter:
    given = trees.find_token(tree, "STRING") or trees.find_token(tree, "TEMPLATE")
    if given is None:
        return node
    return replace(node, text=string_value(given), text_span=trees.span_of(given))


def calibrate(tree: Any) -> Statement:
    """The node of a CALIBRATE MODEL."""
    name = trees.token(tree, "NAME")
    return Calibrate(name_value(name), trees.span_of(name))


def show(tree: Any) -> Statement:
    """The node of a SHOW."""
    return Show(str(trees.find(tree, "list_kind").children[0]).lower().removesuffix("s"))


def describe(tree: Any) -> Statement:
    """The node of a DESCRIBE."""
    name, kind = trees.token(tree, "NAME"), trees.find(tree, "described")
    return Describe(str(kind.children[0]).lower(), name_value(name), trees.span_of(name))


def batch(tree: Any) -> Statement:
    """The node of BEGIN BATCH or END BATCH."""
    return BatchMark(begins=tree.data == "begin")


def set(tree: Any) -> Statement:
    """The node of a SET, RESET or PRAGMA."""
    reset = trees.find(tree, "reset")
    place = tree if reset is None else reset
    setting, scope_tree = trees.token(place, "SETTING"), trees.find(place, "scope")
    name = name_value(setting).lower()
    scope = "" if scope_tree is None else str(scope_tree.children[0]).lower()
    if reset is not None or trees.has(tree, "default"):
        return ResetSetting(name, trees.span_of(setting), scope)
    given = tree.children[-1]
    value = trees.value(given)
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    if isinstance(value, dict):
        raise ParserError("a setting cannot be a map", span=trees.extent(given))
    return SetSetting(name, trees.span_of(setting), value, trees.extent(given), scope)


def explain(tree: Any) -> Statement:
    """The node of an EXPLAIN; ParserError for unknown options, NotSupportedError for statements without a plan."""
    rest = trees.token(tree, "REST")
    if classify(rest.text) in (Kind.HALO_DDL, Kind.HALO_SETTING, Kind.EXPLAIN, Kind.BATCH):
        word = rest.text.split(maxsplit=1)[0]
        raise NotSupportedError(
            f"{word.upper()} has no plan to explain",
            span=Span(rest.start, rest.start + len(word)),
            remedy="EXPLAIN takes a query, or a statement that runs one.",
        )
    analyze, form, sections = trees.has(tree, "analyze"), "text", []
    for found in (child for child in tree.children if trees.is_tree(child, "explain_option")):
        option = trees.duck(found.children[0])
        value = found.children[1] if len(found.children) > 1 else None
        word = name_value(option).lower()
        if word == "format":
            form = _format(option, value)
        elif word in ("analyze", "analyse"):
            analyze = _switch(option, value)
        elif word in SECTIONS:
            if _switch(option, value):
                sections.append(word)
        else:
            raise ParserError(
                f'EXPLAIN has no option "{name_value(option)}"',
                span=trees.span_of(option),
                remedy=did_you_mean(word, ["format", "analyze", *SECTIONS]),
            )
    return Explain(rest.text, rest.start, analyze, form, tuple(dict.fromkeys(sections)))


def analyze(tree: Any) -> Statement:
    """The node of an ANALYZE; ParserError for another option than SAMPLE, and for no rows."""
    option, rest = trees.find_token(tree, "OPTION"), trees.token(tree, "QUERY")
    if option is None:
        return Analyze(rest.text, rest.start)
    if name_value(option).lower() != "sample":
        raise ParserError(
            f'ANALYZE has no option "{name_value(option)}"', span=trees.span_of(option), remedy="It takes SAMPLE n."
        )
    number = trees.token(tree, "NUMBER")
    if not number.text.isdigit() or int(number.text) < 1:
        raise ParserError("SAMPLE takes a number of rows", span=trees.span_of(number))
    return Analyze(rest.text, rest.start, int(number.text))


def drop_statistics(tree: Any) -> Statement:
    """The node of a DROP STATISTICS."""
    return DropStatistics()


def _format(option: Token, value: Any) -> str:
    text = "" if value is None else str(trees.value(value)).lower()
    if text not in FORMATS:
        raise ParserError(
            f'EXPLAIN has no format "{text}"' if text else "FORMAT needs a value",
            span=trees.span_of(option) if value is None else trees.extent(value),
            remedy=did_you_mean(text, list(FORMATS)),
        )
    return text


def _switch(option: Token, value: Any) -> bool:
    given: object = True if value is None else trees.value(value)
    word = str(given).lower()
    if word in ("true", "on", "1", "false", "off", "0"):
        return word in ("true", "on", "1")
    raise ParserError(f"{option.text} takes true or false", span=trees.extent(value))
