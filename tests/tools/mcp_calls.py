"""Calls of MCP runners in tests."""

from __future__ import annotations

import asyncio

from halo_sql.errors import EngineError
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.protocol import ToolRequest


def run(runner: McpRunner, *arguments: str) -> list[str | EngineError]:
    async def go() -> list[str | EngineError]:
        found: list[str | EngineError] = []
        try:
            for text in arguments:
                try:
                    found.append(await runner.call(ToolRequest(text)))
                except EngineError as problem:
                    found.append(problem)
        finally:
            await runner.close()
        return found

    return asyncio.run(go())


def failed(runner: McpRunner, arguments: str = "{}") -> EngineError:
    (problem,) = run(runner, arguments)
    assert isinstance(problem, EngineError), problem
    return problem
