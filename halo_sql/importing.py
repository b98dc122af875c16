"""Tools of MCP servers, imported with the arguments and results that the servers say they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from halo_sql.catalog.objects import ToolDef
from halo_sql.catalog.store import Catalog
from halo_sql.errors import CatalogError, EngineError, did_you_mean
from halo_sql.grammar.statements.check_tool import check_tool_options
from halo_sql.grammar.statements.nodes import ImportTools, option_values

#: (server, options) -> its tools
Served = Callable[[str, Mapping[str, object]], Sequence[ToolDef]]


def import_tools(statement: ImportTools, catalog: Catalog, served: Served) -> None:
    """CREATE TOOL name | * AS MCP …: none is created when one of them cannot be.

    CatalogError for a server that cannot be asked, for a tool it does not have and for a name that is taken.
    """
    check_tool_options(statement.options, "mcp", "", [])
    options = option_values(statement.options)
    try:
        found = served(statement.server, options)
    except EngineError as problem:
        raise CatalogError(problem.message, span=statement.server_span, remedy=problem.remedy) from None
    if statement.name is not None:
        wanted = statement.remote or statement.name
        known = {tool.remote or tool.name: tool for tool in found}
        if wanted not in known:
            raise CatalogError(
                f'the server has no tool "{wanted}"',
                span=statement.name_span,
                remedy=did_you_mean(wanted, list(known)) or "It has none.",
            )
        found = [replace(known[wanted], name=statement.name, remote=wanted)]
    elif not (statement.or_replace or statement.if_not_exists):
        taken = catalog.snapshot().tools
        for tool in found:
            if tool.name.lower() in taken:
                raise CatalogError(
                    f'Tool "{tool.name}" already exists',
                    span=statement.name_span,
                    remedy="Use CREATE OR REPLACE TOOL, CREATE TOOL IF NOT EXISTS, or DROP TOOL first.",
                )
    for tool in found:
        catalog.create(
            replace(tool, temp=statement.temp), or_replace=statement.or_replace, if_not_exists=statement.if_not_exists
        )
