"""Runs MCP tools: calls a tool of a Model Context Protocol server."""

from __future__ import annotations

import json

from halo_sql.errors import EngineError, did_you_mean
from halo_sql.tools.mcp_results import result_json
from halo_sql.tools.mcp_server import server_of
from halo_sql.tools.mcp_sessions import McpSession, McpSessions
from halo_sql.tools.protocol import BoundTool, Surroundings, ToolRequest


class McpRunner:
    """Calls one tool of a server.

    The body of the tool is the server: a URL (streamable HTTP), a name in ``surroundings.functions`` (an MCPServer,
    Server or Client object), or else a command line, which no shell reads. Options of WITH (…): ``env`` (object; a
    command gets these variables beside PATH, HOME and LANG, and no others), ``secret`` (its key goes to a URL as a
    bearer token), ``loopback`` (a URL may lead to this machine).

    An argument that has a default and is NULL is left out of the call.

    sessions  shared by the tools of a run; None: the runner has its own and closes them
    """

    beside = True  # its calls are made outside this process: a virtual clock stands meanwhile

    def __init__(self, tool: BoundTool, surroundings: Surroundings, sessions: McpSessions | None = None) -> None:
        self._tool = tool
        self._surroundings = surroundings
        self._own = McpSessions() if sessions is None else None
        self._sessions = sessions or self._own
        self._server = server_of(tool.tool.body, tool.options, surroundings, tool.name)
        self._remote = tool.tool.remote or tool.name
        self._optional = {item.name for item in tool.tool.parameters if item.default is not None}
        self._session: McpSession | None = None

    async def start(self) -> None:
        """See ``Runner.start``: connects and looks for the tool."""
        await self._ready()

    async def call(self, request: ToolRequest) -> str:
        """See ``Runner.call``; cancelling tells the server to stop."""
        session = await self._ready()
        arguments = json.loads(request.arguments)
        sent = {
            name: arguments.get(name)
            for name, _ in self._tool.parameters
            if arguments.get(name) is not None or name not in self._optional
        }
        try:
            result = await session.call(self._remote, sent)
            return session.masked(result_json(self._tool.name, result, self._tool.returns))
        except EngineError as problem:  # some servers echo what they are sent
            problem.message = session.masked(problem.message)
            problem.args = (problem.message,)
            raise

    async def close(self) -> None:
        """See ``Runner.close``."""
        self._session = None
        if self._own is not None:
            await self._own.close()

    async def _ready(self) -> McpSession:
        if self._session is None:
            assert self._sessions is not None, "given or its own"
            session = self._sessions.get(self._server, self._server.key(self._surroundings))
            known = await session.tools()
            if self._remote not in known:
                raise EngineError(
                    f"MCP server {self._server.shown!r} has no tool {self._remote!r}",
                    code="unavailable",
                    remedy=did_you_mean(self._remote, list(known)) or "It has none.",
                )
            self._session = session
        return self._session
