"""The tools of an MCP server as definitions that DuckDB and the runner take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mcp_types import Tool, ToolAnnotations

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.errors import EngineError
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.mcp_import import list_tools, tool_def
from halo_sql.tools.mcp_sessions import McpSessions
from halo_sql.tools.protocol import BoundTool, Surroundings, ToolRequest

from .mcp_server import make_server


def imported(**options: Any) -> dict[str, ToolDef]:
    surroundings = Surroundings(lambda *_: "", {"orders": make_server()})
    return {tool.name: tool for tool in asyncio.run(list_tools("orders", surroundings, options))}


def test_all_tools_of_a_server() -> None:
    found = imported(timeout_s=3)
    assert found["add"] == ToolDef(
        "add",
        "mcp",
        "orders",
        (Parameter("a", "BIGINT"), Parameter("b", "BIGINT", "NULL")),
        "BIGINT",
        remote="add",
        volatility="stable",
        options={"timeout_s": 3},
        comment="Add two numbers.",
    )
    assert found["orders"].columns == (("id", "BIGINT"), ("total", "DOUBLE"), ("note", "VARCHAR"))
    assert found["orders"].returns == ""
    assert found["order"].returns == 'STRUCT("id" BIGINT, "total" DOUBLE, "note" VARCHAR)'
    assert found["order"].volatility == "volatile"
    assert (found["words"].returns, found["words"].comment) == ("VARCHAR", None)


def test_what_is_imported_can_be_called() -> None:
    duck = Duck.connect(":memory:", False, {})
    surroundings = Surroundings(lambda *_: "", {"orders": make_server()})

    async def go() -> list[str]:
        sessions = McpSessions()
        found = []
        arguments = {"add": '{"a": 1, "b": null}', "orders": '{"customer": "c", "limit": 1}'}
        for tool in await list_tools("orders", surroundings, sessions=sessions):
            if tool.name in arguments:
                rows = ", ".join(f'"{name}" {kind}' for name, kind in tool.columns)
                returns = duck.sql_type(tool.returns or f"STRUCT({rows})[]")
                types = tuple((item.name, duck.sql_type(item.type)) for item in tool.parameters)
                runner = McpRunner(BoundTool(tool, types, returns), surroundings, sessions)
                found.append(await runner.call(ToolRequest(arguments[tool.name])))
        await sessions.close()
        return found

    assert asyncio.run(go()) == ["2", '[{"id":0,"total":0.0,"note":null}]']
    duck.close()


def one(name: str = "t", **fields: Any) -> ToolDef:
    return tool_def("server", Tool(**{"name": name, "input_schema": {"type": "object"}, **fields}), {})


def test_odd_schemas() -> None:
    assert one().parameters == ()
    ref = {
        "type": "object",
        "properties": {"o": {"$ref": "#/$defs/O"}, "x": {"type": "string"}},
        "required": ["x"],
        "$defs": {"O": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    assert one(input_schema=ref).parameters == (
        Parameter("x", "VARCHAR"),
        Parameter("o", 'STRUCT("a" BIGINT)', "NULL"),
    )
    wrapped = {
        "type": "object",
        "properties": {"result": {"type": "array", "items": {"$ref": "#/$defs/O"}}},
        "$defs": ref["$defs"],
    }
    assert one(output_schema=wrapped).columns == (("a", "BIGINT"),)
    assert one(output_schema={"type": "object", "properties": {"result": {"type": "number"}}}).returns == "DOUBLE"
    assert one(output_schema={"type": "object"}).returns == "JSON"
    assert one(annotations=ToolAnnotations(read_only_hint=True)).volatility == "stable"
    assert one(title="A title").comment == "A title"


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/x"}}}, "elsewhere"),
        ({"type": "object", "properties": {"a": {}, "A": {}}}, "case is ignored"),
        ({"type": "object", "description": "x" * 70_000}, "65536"),
    ],
)
def test_schemas_that_cannot_be_taken_name_the_tool(schema: Any, word: str) -> None:
    with pytest.raises(EngineError, match=word) as told:
        one("orders", input_schema=schema)
    assert told.value.message.startswith('MCP tool "orders"')
    assert told.value.code == "rejected"
