"""From Lark's trees to the nodes of ``nodes.py``: one function per grammar, named like its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.catalog.secrets import SECRET_REMEDY, is_secret_name
from halo_sql.duck import Token
from halo_sql.errors import CatalogError, NotSupportedError, ParserError, Span, did_you_mean
from halo_sql.grammar.classify import Kind, classify
from halo_sql.grammar.statements.lexemes import name_value, number_value, string_value
from halo_sql.grammar.statements.nodes import (
    ENGINES,
    CreateModel,
    CreatePrompt,
    Describe,
    Drop,
    Explain,
    Option,
    OptionValue,
    ResetSetting,
    SetSetting,
    Show,
    Statement,
    default_engine,
)

FORMATS = ("text", "json", "html", "mermaid", "graphviz")
SECTIONS = ("logical", "physical", "memo", "rules", "costs")
_WORDS: dict[str, OptionValue] = {"true": True, "false": False, "null": None}


def create_model(tree: Any) -> Statement:
    """The node of a CREATE MODEL; ParserError for an unknown engine, CatalogError for a secret in clear."""
    name, source, engine = _token(tree, "NAME"), _token(tree, "SOURCE"), _find_token(tree, "ENGINE")
    options = _options(tree)
    for option in options:
        if is_secret_name(option.key) and (option.literal or option.key != "secret"):
            raise CatalogError(
                f'option "{option.key}" would store a secret in clear', span=option.span, remedy=SECRET_REMEDY
            )
    place = string_value(source)
    if not place:
        raise ParserError("a model's source cannot be empty", span=_span(source))
    kind = default_engine(place) if engine is None else name_value(engine).lower()
    if engine is not None and kind not in ENGINES:
        raise ParserError(
            f'there is no engine "{name_value(engine)}"',
            span=_span(engine),
            remedy=did_you_mean(kind, list(ENGINES)),
        )
    return CreateModel(name_value(name), _span(name), place, _span(source), kind, options, *_flags(tree))


def create_prompt(tree: Any) -> Statement:
    """The node of a CREATE PROMPT; ParserError for an unknown option."""
    name, template = _token(tree, "NAME"), _token(tree, "TEMPLATE")
    system = None
    for option in _options(tree):
        if option.key != "system":
            raise ParserError(
                f'a prompt has no option "{option.key}"', span=option.span, remedy='The only option is "system".'
            )
        if not isinstance(option.value, str) or not option.literal:
            raise ParserError("system takes a text", span=option.value_span, remedy="Put it in single quotes.")
        system = option.value
    return CreatePrompt(name_value(name), _span(name), string_value(template), _span(template), system, *_flags(tree))


def drop(tree: Any) -> Statement:
    """The node of a DROP."""
    name = _token(tree, "NAME")
    return Drop(_kind(tree), name_value(name), _span(name), _has(tree, "if_exists"))


def show(tree: Any) -> Statement:
    """The node of a SHOW or DESCRIBE."""
    listed = _find(tree, "list_kind")
    if listed is not None:
        return Show(str(listed.children[0]).lower().removesuffix("s"))
    name = _token(tree, "NAME")
    return Describe(_kind(tree), name_value(name), _span(name))


def set(tree: Any) -> Statement:
    """The node of a SET, RESET or PRAGMA."""
    reset = _find(tree, "reset")
    place = tree if reset is None else reset
    setting, scope_tree = _token(place, "SETTING"), _find(place, "scope")
    name = name_value(setting).lower()
    scope = "" if scope_tree is None else str(scope_tree.children[0]).lower()
    if reset is not None or _has(tree, "default"):
        return ResetSetting(name, _span(setting), scope)
    given = tree.children[-1]
    value = _value(given)
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    if isinstance(value, dict):
        raise ParserError("a setting cannot be a map", span=_extent(given))
    return SetSetting(name, _span(setting), value, _extent(given), scope)


def explain(tree: Any) -> Statement:
    """The node of an EXPLAIN; ParserError for unknown options, NotSupportedError for statements without a plan."""
    rest = _token(tree, "REST")
    if classify(rest.text) in (Kind.HALO_DDL, Kind.HALO_SETTING, Kind.EXPLAIN):
        word = rest.text.split(maxsplit=1)[0]
        raise NotSupportedError(
            f"{word.upper()} has no plan to explain",
            span=Span(rest.start, rest.start + len(word)),
            remedy="EXPLAIN takes a query, or a statement that runs one.",
        )
    analyze, form, sections = _has(tree, "analyze"), "text", []
    for found in (child for child in tree.children if _is_tree(child, "explain_option")):
        option = _duck(found.children[0])
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
                span=_span(option),
                remedy=did_you_mean(word, ["format", "analyze", *SECTIONS]),
            )
    return Explain(rest.text, rest.start, analyze, form, tuple(dict.fromkeys(sections)))


def _format(option: Token, value: Any) -> str:
    text = "" if value is None else str(_value(value)).lower()
    if text not in FORMATS:
        raise ParserError(
            f'EXPLAIN has no format "{text}"' if text else "FORMAT needs a value",
            span=_span(option) if value is None else _extent(value),
            remedy=did_you_mean(text, list(FORMATS)),
        )
    return text


def _switch(option: Token, value: Any) -> bool:
    given: object = True if value is None else _value(value)
    word = str(given).lower()
    if word in ("true", "on", "1", "false", "off", "0"):
        return word in ("true", "on", "1")
    raise ParserError(f"{option.text} takes true or false", span=_extent(value))


# --- reading trees: their leaves are Lark tokens that carry DuckDB's (parse.py) ---


def _is_tree(item: Any, rule: str) -> bool:
    return getattr(item, "data", None) == rule


def _find(tree: Any, rule: str) -> Any:
    return next((child for child in tree.children if _is_tree(child, rule)), None)


def _has(tree: Any, rule: str) -> bool:
    return _find(tree, rule) is not None


def _find_token(tree: Any, terminal: str) -> Token | None:
    return next((_duck(child) for child in tree.children if getattr(child, "type", "") == terminal), None)


def _token(tree: Any, terminal: str) -> Token:
    found = _find_token(tree, terminal)
    assert found is not None, terminal  # the grammar has it
    return found


def _duck(leaf: Any) -> Token:
    kind = "string_const" if leaf.type in ("STRING", "SOURCE", "TEMPLATE") else str(leaf.type)
    return Token(leaf.start_pos, leaf.end_pos, kind, str(leaf))


def _span(token: Token) -> Span:
    return Span(token.start, token.end)


def _extent(item: Any) -> Span:
    """The span of a leaf or a tree."""
    place = item.meta if hasattr(item, "meta") else item
    return Span(place.start_pos, place.end_pos)


def _kind(tree: Any) -> str:
    return str(_find(tree, "object_kind").children[0]).lower()


def _flags(tree: Any) -> tuple[bool, bool, bool]:
    """OR REPLACE, IF NOT EXISTS, TEMP."""
    both = _has(tree, "or_replace"), _has(tree, "if_not_exists")
    if all(both):
        raise ParserError(
            "OR REPLACE and IF NOT EXISTS exclude each other",
            span=_extent(_find(tree, "if_not_exists")),
            remedy="Keep the one you mean.",
        )
    return *both, _has(tree, "temporary")


def _options(tree: Any) -> tuple[Option, ...]:
    found: dict[str, Option] = {}
    given = _find(tree, "options")
    for item in () if given is None else given.children:
        key, value = _duck(item.children[0]), item.children[1]
        name = name_value(key).lower()
        if name in found:
            raise ParserError(f'option "{name}" is given twice', span=_span(key), remedy="Keep one of them.")
        word = getattr(value, "type", "") == "WORD"
        found[name] = Option(name, _value(value), not word, _span(key), _extent(value))
    return tuple(found.values())


def _value(item: Any) -> OptionValue:
    if _is_tree(item, "negative"):
        return -number_value(_duck(item.children[0]))
    if _is_tree(item, "list"):
        return [_value(child) for child in item.children]
    if _is_tree(item, "map"):
        return dict(_pair(child.children) for child in item.children)
    token = _duck(item)
    if item.type == "NUMBER":
        return number_value(token)
    if item.type == "STRING":
        return string_value(token)
    return _WORDS.get(token.text.lower(), name_value(token))


def _pair(children: Sequence[Any]) -> tuple[str, OptionValue]:
    key = _duck(children[0])
    return string_value(key) if key.kind == "string_const" else name_value(key), _value(children[1])
