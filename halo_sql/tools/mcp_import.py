"""All tools of an MCP server as TOOLs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.errors import EngineError
from halo_sql.tools.mcp_server import server_of
from halo_sql.tools.mcp_sessions import McpSessions
from halo_sql.tools.protocol import Surroundings
from halo_sql.tools.schema import check_limits, members_of_object, sql_type_text

if TYPE_CHECKING:
    from mcp_types import Tool

_COMMENT_CHARS = 2000


async def list_tools(
    server: str,
    surroundings: Surroundings,
    options: Mapping[str, object] | None = None,
    sessions: McpSessions | None = None,
) -> list[ToolDef]:
    """A definition for each tool of a server, in the server's order; ``remote`` is the name there.

    server   as in AS MCP: a URL, a command line, or the name of a registered object
    options  WITH (…) that all of them get, and that the server is asked with
    sessions None: one for this call

    EngineError when the server cannot be reached, or for a schema that is too large or refers elsewhere.
    """
    given = dict(options or {})
    found = server_of(server, given, surroundings)
    own = McpSessions() if sessions is None else None
    try:
        known = await (sessions or own or McpSessions()).get(found, found.key(surroundings)).tools()
        return [tool_def(server, tool, given) for tool in known.values()]
    finally:
        if own is not None:
            await own.close()


def tool_def(server: str, tool: Tool, options: Mapping[str, object]) -> ToolDef:
    """One tool of a server as a definition."""
    try:
        parameters = _parameters(tool.input_schema)
        returns, columns = _returns(tool.output_schema)
    except EngineError as problem:
        raise EngineError(
            f'MCP tool "{tool.name}": {problem.message}', code=problem.code, remedy=problem.remedy
        ) from None
    hints = tool.annotations
    return ToolDef(
        tool.name,
        "mcp",
        server,
        parameters,
        returns,
        columns,
        remote=tool.name,
        volatility="stable" if hints is not None and hints.read_only_hint else "volatile",
        options=dict(options),
        comment=(tool.description or tool.title or "").strip()[:_COMMENT_CHARS] or None,
    )


def _parameters(schema: dict[str, Any]) -> tuple[Parameter, ...]:
    """Those that must be given first, the others with DEFAULT NULL, each in the schema's order."""
    check_limits(schema, "of the arguments")
    required = schema.get("required") or []
    members = schema.get("properties") or {}
    seen: set[str] = set()
    for name in members:
        if name.lower() in seen:
            raise EngineError(
                f'two arguments are called "{name}" when case is ignored', code="rejected", remedy="SQL ignores case."
            )
        seen.add(name.lower())
    found = [
        Parameter(name, sql_type_text(member, schema), None if name in required else "NULL")
        for name, member in members.items()
    ]
    return tuple(sorted(found, key=lambda item: item.default is not None))


def _returns(schema: dict[str, Any] | None) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The type of the result, or the columns of a table."""
    if not schema:
        return "VARCHAR", ()
    check_limits(schema, "of the result")
    root, members = schema, members_of_object(schema, schema)
    if members is not None and set(members) == {"result"}:
        schema = members["result"]
    items = members_of_object(schema, root, of_items=True)
    if items is not None and sql_type_text(schema, root).startswith("STRUCT("):
        names = {name.lower() for name in items}
        if len(names) == len(items):
            return "", tuple((name, sql_type_text(member, root)) for name, member in items.items())
    return sql_type_text(schema, root), ()
