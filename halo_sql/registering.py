"""``con.create_tool``: Python objects as TOOLs of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from halo_sql.catalog.objects import VOLATILITIES, ToolDef, default_volatility
from halo_sql.engines.options import Option, takes
from halo_sql.engines.options import checked as checked_option
from halo_sql.errors import CatalogError, EngineError, InterfaceError, did_you_mean
from halo_sql.grammar.statements.check_options import TOOL_OPTIONS
from halo_sql.runtime import Runtime
from halo_sql.targets import surroundings_of

_OWN = ("volatility", "comment", "remote")


def registered_tool(name: str, target: Any, options: Mapping[str, object], runtime: Runtime) -> ToolDef:
    """The definition of a tool that is a Python function (with type hints), or one of an MCP client or server object.

    InterfaceError when it is neither, when a hint is missing, or when the server has no such tool; CatalogError for
    a wrong option.
    """
    known = runtime.tools.get(name.lower())
    version = 1 if known is None else known.version + 1
    given = {key: value for key, value in options.items() if key not in _OWN}
    remote = str(options.get("remote") or "")
    comment = options.get("comment")
    if callable(target):
        from halo_sql.tools.hints import signature_of

        found = signature_of(target)
        kind, body, parameters = "python", name, found.parameters
        returns, columns = found.returns, found.columns
        volatility = default_volatility(kind, "", given)
        comment = comment or (target.__doc__ or "").strip().partition("\n")[0] or None
    else:
        served = _served(name, target, remote, runtime)
        kind, body, parameters, remote = "mcp", name, served.parameters, served.remote
        returns, columns, volatility = served.returns, served.columns, served.volatility
        comment = comment or served.comment
    volatility = str(options.get("volatility") or volatility).lower()
    if volatility not in VOLATILITIES:
        raise InterfaceError(f"volatility is {' | '.join(VOLATILITIES)}, not {volatility!r}")
    return ToolDef(
        name,
        kind,
        body,
        tuple(parameters),
        returns,
        tuple(columns),
        "",
        remote,
        volatility,
        _checked(kind, given),
        version,
        True,
        None if comment is None else str(comment),
    )


def _served(name: str, target: Any, remote: str, runtime: Runtime) -> ToolDef:
    """What an MCP client or server object says of its tool: the one called ``remote``, else ``name``, else its only."""
    from halo_sql.tools.mcp_import import list_tools

    around = replace(surroundings_of(runtime), functions={name.lower(): target})
    try:
        found = runtime.wait(runtime.begin(list_tools(name, around)))
    except EngineError as problem:
        raise InterfaceError(
            f'"{name}": {problem.message}', remedy="create_tool takes a Python function, or an MCP client or server."
        ) from None
    known = {tool.remote: tool for tool in found}
    wanted = remote or (name if name in known or len(known) != 1 else next(iter(known)))
    if wanted not in known:
        raise InterfaceError(f'the MCP server has no tool "{wanted}"', remedy=did_you_mean(wanted, list(known)))
    return known[wanted]


def _checked(kind: str, options: Mapping[str, object]) -> dict[str, object]:
    known = {option.name: option for option in TOOL_OPTIONS[kind]}
    found: dict[str, object] = {}
    for key, value in options.items():
        option = known.get(key)
        if option is None:
            raise CatalogError(f'a {kind} tool has no option "{key}"', remedy=did_you_mean(key, [*known, *_OWN]))
        found[key] = _value(option, value)
    return found


def _value(option: Option, value: object) -> object:
    try:
        return checked_option(option, value)
    except ValueError:
        raise CatalogError(f'option "{option.name}" has a wrong value', remedy=takes(option)) from None
