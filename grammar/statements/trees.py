"""Reading Lark's trees: their leaves are Lark tokens that carry DuckDB's (``parse.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from halo_sql.duck_tokens import Token
from halo_sql.errors import ParserError, Span
from halo_sql.grammar.statements.lexemes import name_value, number_value, string_value
from halo_sql.grammar.statements.nodes import Argument, Option, OptionValue

TEXTS = frozenset({"STRING", "SOURCE", "TEMPLATE", "BODY", "URL", "FUNCTION", "SERVER"})
_WORDS: dict[str, OptionValue] = {"true": True, "false": False, "null": None}


def is_tree(item: Any, rule: str) -> bool:
    """Whether an item is the tree of a rule."""
    return getattr(item, "data", None) == rule


def find(tree: Any, rule: str) -> Any:
    """The first tree of a rule right below; None when there is none."""
    return next((child for child in tree.children if is_tree(child, rule)), None)


def has(tree: Any, rule: str) -> bool:
    """Whether there is one."""
    return find(tree, rule) is not None


def find_token(tree: Any, terminal: str) -> Token | None:
    """The first token of a terminal right below; None when there is none."""
    return next((duck(child) for child in tree.children if getattr(child, "type", "") == terminal), None)


def token(tree: Any, terminal: str) -> Token:
    """The first token of a terminal right below; the grammar has one."""
    found = find_token(tree, terminal)
    assert found is not None, terminal
    return found


def duck(leaf: Any) -> Token:
    """A leaf as DuckDB's token."""
    kind = "string_const" if leaf.type in TEXTS else str(leaf.type)
    return Token(leaf.start_pos, leaf.end_pos, kind, str(leaf))


def span_of(given: Token) -> Span:
    """A token's span."""
    return Span(given.start, given.end)


def extent(item: Any) -> Span:
    """The span of a leaf or a tree."""
    place = item.meta if hasattr(item, "meta") else item
    return Span(place.start_pos, place.end_pos)


def object_kind(tree: Any) -> str:
    """'model' | 'prompt' | 'tool' | 'agent'."""
    return str(find(tree, "object_kind").children[0]).lower()


def flags(tree: Any) -> tuple[bool, bool, bool]:
    """OR REPLACE, IF NOT EXISTS, TEMP."""
    both = has(tree, "or_replace"), has(tree, "if_not_exists")
    if all(both):
        raise ParserError(
            "OR REPLACE and IF NOT EXISTS exclude each other",
            span=extent(find(tree, "if_not_exists")),
            remedy="Keep the one you mean.",
        )
    return *both, has(tree, "temporary")


def options(tree: Any) -> tuple[Option, ...]:
    """WITH (key = value, …); ParserError for a key given twice."""
    given = find(tree, "options")
    return () if given is None else option_list(given.children)


def option_list(items: Sequence[Any], what: str = "option") -> tuple[Option, ...]:
    """``key = value`` items."""
    found: dict[str, Option] = {}
    for item in items:
        key, given = duck(item.children[0]), item.children[1]
        name = name_value(key).lower()
        if name in found:
            raise ParserError(f'{what} "{name}" is given twice', span=span_of(key), remedy="Keep one of them.")
        word = getattr(given, "type", "") == "WORD"
        found[name] = Option(name, value(given), not word, span_of(key), extent(given))
    return tuple(found.values())


def value(item: Any) -> OptionValue:
    """The value of an option or setting."""
    if is_tree(item, "negative"):
        return -number_value(duck(item.children[0]))
    if is_tree(item, "list"):
        return [value(child) for child in item.children]
    if is_tree(item, "map"):
        return dict(_pair(child.children) for child in item.children)
    given = duck(item)
    if item.type == "NUMBER":
        return number_value(given)
    if item.type == "STRING":
        return string_value(given)
    return _WORDS.get(given.text.lower(), name_value(given))


def _pair(children: Sequence[Any]) -> tuple[str, OptionValue]:
    key = duck(children[0])
    return string_value(key) if key.kind == "string_const" else name_value(key), value(children[1])


def arguments(tree: Any, text: str) -> Iterator[Argument]:
    """``name TYPE [DEFAULT e]`` items of a tree; ``text`` is the statement's."""
    for item in tree.children:
        name, kind = token(item, "NAME"), extent(find(item, "type"))
        default = find_token(item, "EXPR")
        yield Argument(
            name_value(name),
            span_of(name),
            text[kind.start : kind.end],
            kind,
            None if default is None else default.text,
            kind if default is None else span_of(default),
        )
