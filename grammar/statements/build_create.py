"""From Lark's trees to the nodes of CREATE statements: one function per grammar, named like its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halo_sql.catalog.secrets import SECRET_REMEDY, is_secret_name
from halo_sql.errors import CatalogError, ParserError, did_you_mean
from halo_sql.grammar.statements import trees
from halo_sql.grammar.statements.lexemes import name_value, string_value
from halo_sql.grammar.statements.nodes import (
    ENGINES,
    SECRET_KEYS,
    CreateAgent,
    CreateModel,
    CreatePrompt,
    CreateSecret,
    CreateTool,
    ImportTools,
    Option,
    Statement,
    default_engine,
)


def refuse_clear_secrets(options: Sequence[Option]) -> None:
    """CatalogError for an option that would keep a secret in the database file."""
    for option in options:
        if is_secret_name(option.key) and (option.literal or option.key != "secret"):
            raise CatalogError(
                f'option "{option.key}" would store a secret in clear', span=option.span, remedy=SECRET_REMEDY
            )


def create_model(tree: Any) -> Statement:
    """The node of a CREATE MODEL; ParserError for an unknown engine, CatalogError for a secret in clear."""
    name, source, engine = trees.token(tree, "NAME"), trees.token(tree, "SOURCE"), trees.find_token(tree, "ENGINE")
    options = trees.options(tree)
    refuse_clear_secrets(options)
    place = string_value(source)
    if not place:
        raise ParserError("a model's source cannot be empty", span=trees.span_of(source))
    kind = default_engine(place) if engine is None else name_value(engine).lower()
    if engine is not None and kind not in ENGINES:
        raise ParserError(
            f'there is no engine "{name_value(engine)}"',
            span=trees.span_of(engine),
            remedy=did_you_mean(kind, list(ENGINES)),
        )
    return CreateModel(
        name_value(name), trees.span_of(name), place, trees.span_of(source), kind, options, *trees.flags(tree)
    )


def create_prompt(tree: Any) -> Statement:
    """The node of a CREATE PROMPT; ParserError for an unknown option."""
    name, template = trees.token(tree, "NAME"), trees.token(tree, "TEMPLATE")
    system = None
    for option in trees.options(tree):
        if option.key != "system":
            raise ParserError(
                f'a prompt has no option "{option.key}"', span=option.span, remedy='The only option is "system".'
            )
        if not isinstance(option.value, str) or not option.literal:
            raise ParserError("system takes a text", span=option.value_span, remedy="Put it in single quotes.")
        system = option.value
    return CreatePrompt(
        name_value(name),
        trees.span_of(name),
        string_value(template),
        trees.span_of(template),
        system,
        *trees.flags(tree),
    )


def _imported(tree: Any, body: Any, options: tuple[Option, ...]) -> ImportTools:
    """CREATE TOOL name | * AS MCP …, without arguments and RETURNS."""
    name, server = trees.find_token(tree, "NAME"), trees.token(body, "SERVER")
    remote = trees.find_token(body, "STRING")
    if name is None and remote is not None:
        raise ParserError("* takes all tools of the server", span=trees.span_of(remote), remedy="Leave the name out.")
    return ImportTools(
        None if name is None else name_value(name),
        trees.extent(trees.find(tree, "all")) if name is None else trees.span_of(name),
        string_value(server),
        trees.span_of(server),
        "" if remote is None else string_value(remote),
        options,
        *trees.flags(tree),
    )


def create_tool(tree: Any, text: str) -> Statement:
    """The node of a CREATE TOOL; CatalogError for a secret in clear."""
    options = trees.options(tree)
    refuse_clear_secrets(options)
    body = next(child for child in tree.children if getattr(child, "data", "") in TOOL_BODIES)
    kind = str(body.data)
    given = trees.token(body, TOOL_BODIES[kind])
    place = string_value(given)
    if not place.strip():
        raise ParserError(f"the {TOOL_TEXTS[kind]} cannot be empty", span=trees.span_of(given))
    if trees.find(tree, "parameters") is None:
        return _imported(tree, body, options)
    name = trees.token(tree, "NAME")
    table, comment, method = (
        trees.find(item, rule) for item, rule in ((tree, "table"), (tree, "comment"), (body, "method"))
    )
    remote = trees.find_token(body, "STRING")
    volatility = trees.find(tree, "volatility")
    returns = None if table is not None else trees.extent(trees.find(tree, "type"))
    return CreateTool(
        name_value(name),
        trees.span_of(name),
        tuple(trees.arguments(trees.find(tree, "parameters"), text)),
        "" if returns is None else text[returns.start : returns.end],
        trees.extent(table) if returns is None else returns,
        () if table is None else tuple(trees.arguments(table, text)),
        "" if volatility is None else str(volatility.children[0]).lower(),
        None if comment is None else string_value(trees.token(comment, "STRING")),
        kind,
        given.text,
        trees.span_of(given),
        "" if method is None else str(method.children[0]).upper(),
        "" if remote is None else string_value(remote),
        options,
        *trees.flags(tree),
    )


#: The rule of a tool's body -> its text's terminal, and what errors call it.
TOOL_BODIES = {"sql": "BODY", "http": "URL", "python": "FUNCTION", "mcp": "SERVER"}
TOOL_TEXTS = {"sql": "query", "http": "URL", "python": "function", "mcp": "server"}


def create_agent(tree: Any, text: str) -> Statement:
    """The node of a CREATE AGENT; CatalogError for a secret in clear."""
    name, options = trees.token(tree, "NAME"), trees.options(tree)
    refuse_clear_secrets(options)
    parameters, kind = trees.find(tree, "parameters"), trees.find(tree, "type")
    returns = None if kind is None else trees.extent(kind)
    return CreateAgent(
        name_value(name),
        trees.span_of(name),
        () if parameters is None else tuple(trees.arguments(parameters, text)),
        "VARCHAR" if returns is None else text[returns.start : returns.end],
        trees.span_of(name) if returns is None else returns,
        options,
        *trees.flags(tree),
    )


def create_secret(tree: Any) -> Statement:
    """The node of a CREATE SECRET (TYPE llm, …); ParserError for unknown, missing and empty values (never shown)."""
    name = trees.token(tree, "NAME")
    items = [child for child in tree.children if trees.is_tree(child, "secret_option")]
    given = {option.key: option for option in trees.option_list(items)}
    for key, option in given.items():
        if key not in SECRET_KEYS:
            raise ParserError(
                f'a secret of TYPE llm has no "{key}"', span=option.span, remedy=did_you_mean(key, list(SECRET_KEYS))
            )
        if (
            not isinstance(option.value, str)
            or not option.value
            or (key not in ("type", "provider") and not option.literal)
        ):
            raise ParserError(f"{key.upper()} takes a text", span=option.span, remedy="Put it in single quotes.")
    if "provider" in given and str(given["provider"].value).lower() != "config":
        raise ParserError(
            "a secret of TYPE llm has no such provider", span=given["provider"].span, remedy="Leave PROVIDER out."
        )
    sources = [key for key in ("api_key", "api_key_env") if key in given]
    if len(sources) != 1:
        raise ParserError(
            "API_KEY and API_KEY_ENV exclude each other" if sources else "the secret holds no key",
            span=given[sources[1]].span if sources else trees.span_of(name),
            remedy="Give one of API_KEY '…' (the key) and API_KEY_ENV '…' (the environment variable that holds it).",
        )
    values = {key: str(option.value) for key, option in given.items()}
    persistent = trees.has(tree, "persistent")
    return CreateSecret(
        name_value(name),
        trees.span_of(name),
        values.get("api_key"),
        values.get("api_key_env"),
        values.get("base_url", ""),
        given["base_url"].value_span if "base_url" in given else trees.span_of(name),
        persistent,
        *trees.flags(tree)[:2],
    )
