"""MCP servers for tests: a good one (also as a script over stdio), and scripts that break the protocol."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel


class Order(BaseModel):
    id: int
    total: float
    note: str | None = None


def make_server() -> MCPServer:
    server = MCPServer("orders")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def orders(customer: str, limit: int | None = None) -> list[Order]:
        """The orders of a customer."""
        return [Order(id=number, total=number * 1.5) for number in range(limit if limit is not None else 2)]

    @server.tool()
    def order(id: int) -> Order:
        return Order(id=id, total=2.5, note=f"for it's {id}")

    @server.tool(structured_output=False)
    def words(text: str) -> str:
        return f"you said {text}"

    @server.tool(structured_output=False)
    def plain_json(text: str) -> str:
        return text

    @server.tool()
    def fail(message: str) -> str:
        raise ToolError(message)

    @server.tool()
    def picture() -> Image:
        return Image(data=b"no picture", format="png")

    @server.tool()
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "awake"

    @server.tool(structured_output=False)
    def environment() -> str:
        return json.dumps(dict(os.environ))

    @server.tool()
    def pid() -> int:
        return os.getpid()

    @server.tool()
    def leave() -> int:
        os._exit(7)

    @server.tool(structured_output=False)
    def huge(size: int) -> str:
        return "x" * size

    return server


def _requests() -> Any:
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            yield message


def _send(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _hello(request: Any, version: str = "2025-11-25") -> Any:
    if request["method"] == "initialize":
        result = {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "broken", "version": "1"},
        }
    elif request["method"] == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("t", "u")]}
    else:
        error = {"code": -32601, "message": "Method not found"}
        return {"jsonrpc": "2.0", "id": request["id"], "error": error}
    return {"jsonrpc": "2.0", "id": request["id"], "result": result}


def broken(way: str) -> None:
    """Break the protocol in one way."""
    if way == "closes":
        print("cannot find its settings", file=sys.stderr)
        sys.exit(4)
    if way == "garbage":
        while True:
            sys.stdout.write("what a nice day\n" * 100)
            sys.stdout.flush()
            time.sleep(0.001)
    if way == "silent":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    for request in _requests():
        if way == "ids":
            answer = _hello(request)
            answer["id"] = "other" + str(answer["id"])
            _send(answer)
        elif way == "version":
            _send(_hello(request, "1999-01-01"))
        elif request["method"] != "tools/call":
            if way == "chatty":
                print("about to answer")
            _send(_hello(request))
        elif way == "chatty":
            _send({"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": "ok"}]}})
        elif way == "shapeless":
            _send({"jsonrpc": "2.0", "id": request["id"], "result": {"content": "no list"}})
        elif way == "dies":
            print("out of luck", file=sys.stderr)
            sys.exit(5)
        elif way == "endless line":
            while True:
                sys.stdout.write("x" * (1 << 20))
        elif way == "error":
            error = {"code": -32001 if request["params"]["name"] == "u" else -32602, "message": "no\nsuch thing"}
            _send({"jsonrpc": "2.0", "id": request["id"], "error": error})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        broken(" ".join(sys.argv[1:]))
    else:
        make_server().run("stdio")
