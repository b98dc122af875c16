"""WITH (…) of TOOL and AGENT: which options there are, their types and ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from halo_sql.engines.options import Option as Known
from halo_sql.engines.options import checked, takes
from halo_sql.errors import CatalogError, Error, Span, did_you_mean
from halo_sql.grammar.options import ON_ERROR
from halo_sql.grammar.source import expression_source
from halo_sql.grammar.statements.nodes import Option
from halo_sql.grammar.template import parse_template

#: what every tool has
_EVERY = (
    Known("timeout_s", "number", None, "Deadline of a call", 0.01, 86_400),
    Known("max_bytes", "integer", None, "Size of a result as JSON", 1, 1 << 30),
    Known("max_rows", "integer", None, "Rows of a table; 0: any number", 0, 1_000_000_000),
    Known("on_error", "text", None, "What calls do that do not say: fail, null or struct", choices=ON_ERROR),
    Known(
        "null_handling", "text", None, "special: NULL arguments are given to the tool", choices=("default", "special")
    ),
    Known("private", "boolean", None, "Its results are private data; default: those of queries are"),
    Known("trusted", "boolean", None, "Nobody but you writes what its results hold; default false"),
    Known("egress", "boolean", None, "Its arguments may leave the machine; default: not those of queries over tables"),
)
_CALLED = (
    *_EVERY,
    Known("concurrency", "integer", None, "Calls at once", 1, 4096),
    Known("rate_per_s", "number", None, "Calls begun per second at most", 0.001, 1_000_000),
    Known("max_retries", "integer", None, "Attempts after the first", 0, 20),
    Known("side_effects", "boolean", None, "It changes something: each call is journalled and never repeated"),
)
_REMOTE = (
    *_CALLED,
    Known("secret", "text", None, "Name of a SECRET whose key is sent"),
    Known("loopback", "boolean", None, "It may connect to 127.0.0.0/8 and ::1"),
)
#: kind of tool -> its options
TOOL_OPTIONS: Mapping[str, Sequence[Known]] = {
    "sql": (*_EVERY, Known("tables", "list", None, "Tables that a query written by a model may read")),
    "python": (
        *_CALLED,
        Known("isolation", "text", None, "Where a named function runs", choices=("process", "thread")),
    ),
    "mcp": (*_REMOTE, Known("env", "object", None, "Environment variables of a server that is a command")),
    "http": (
        *_REMOTE,
        Known("headers", "object", None, "More HTTP headers"),
        Known("body", "text", None, "What a POST sends: a text with {{argument}} holes"),
        Known("path", "text", None, "Where in a JSON answer the value lies, like '$.items'"),
        Known("redirects", "integer", None, "Redirects that are followed", 0, 3),
        Known("hosts", "list", None, "Other hosts that redirects may lead to"),
    ),
}
AGENT_OPTIONS: Sequence[Known] = (
    Known("model", "text", None, "Its model; not given: the default model"),
    Known("system", "text", None, "System message, with {{argument}} holes"),
    Known("tools", "list", None, "The tools, and agents, it may call"),
    Known("egress", "list", None, "Those of them that may act on row data and results of tools: send, write"),
    Known("max_steps", "integer", 10, "Calls of the model at most", 1, 1000),
    Known("max_tool_calls", "integer", 20, "Calls of tools at most", 0, 10_000),
    Known("max_tokens", "integer", 50_000, "Tokens of all calls of the model at most", 1, 100_000_000),
    Known("max_step_tokens", "integer", 512, "Output tokens of a step at most", 1, 1_000_000),
    Known("max_seconds", "number", 120.0, "Seconds of a conversation at most", 0.01, 86_400),
    Known("max_parallel", "integer", 8, "Calls of tools in one step at most", 1, 100),
    Known("max_repeats", "integer", 3, "The so-manieth call with equal arguments is not made", 2, 1000),
    Known("on_error", "text", None, "What calls do that do not say: fail, null or struct", choices=ON_ERROR),
    Known("temperature", "number", None, "0: always the likeliest token", 0, 2),
    Known("top_p", "number", None, "Share of likely tokens to choose from", 1e-9, 1),
    Known("seed", "integer", None, "Makes temperatures above 0 deterministic", -(2**63), 2**63 - 1),
)


def check_options(what: str, options: Sequence[Option], known: Sequence[Known]) -> None:
    """CatalogError with position for an unknown option or a wrong value; ``what`` is "an http tool", "an agent"."""
    by_name = {option.name: option for option in known}
    for option in options:
        found = by_name.get(option.key)
        if found is None:
            raise CatalogError(
                f'{what} has no option "{option.key}"', span=option.span, remedy=did_you_mean(option.key, list(by_name))
            )
        if found.kind == "list":
            fits, remedy = _is_list_of_names(option), "It takes a list of names, like [a, b]."
        else:
            fits, remedy = _fits(found, option.value), takes(found)
        if not fits:
            raise CatalogError(f'option "{option.key}" has a wrong value', span=option.value_span, remedy=remedy)


def _fits(known: Known, value: object) -> bool:
    try:
        checked(known, value)
    except ValueError:
        return False
    return True


def _is_list_of_names(option: Option) -> bool:
    return isinstance(option.value, list) and all(isinstance(item, str) and item for item in option.value)


def check_template(text: str, arguments: Collection[str], span: Span) -> list[str]:
    """The arguments that the holes of a template name, each hole one; errors point to ``span``, the template's."""
    try:
        pieces = parse_template(text)
    except Error as problem:
        problem.span, problem.sql = span, None
        raise
    named = {name.lower(): name for name in arguments}
    found = []
    for piece in pieces:
        if isinstance(piece, str):
            continue
        written = "*" if piece.star else ", ".join(text for text, _ in piece.exprs)
        names = [] if piece.star else [_name(text) for text, _ in piece.exprs]
        if len(names) != 1 or names[0] is None:
            raise CatalogError(
                f"a hole here takes the name of an argument, not {{{{ {written} }}}}",
                span=span,
                remedy="Name one: " + ", ".join(f"{{{{ {name} }}}}" for name in arguments) if arguments else "",
            )
        if names[0].lower() not in named:
            raise CatalogError(
                f'a hole names the argument "{names[0]}", which does not exist',
                span=span,
                remedy=did_you_mean(names[0], list(arguments)) or "There are no arguments.",
            )
        found.append(named[names[0].lower()])
    return found


def _name(text: str) -> str | None:
    """The name a hole consists of; None when it is another expression."""
    columns = expression_source(text, lambda part: part)
    tokens = columns.lexed.tokens
    return tokens[0].text.strip('"') if len(tokens) == 1 and tokens[0].kind in ("identifier", "keyword") else None
