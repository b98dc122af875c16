"""A connection for types, and runners of tools over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halo_sql.catalog.objects import Parameter, ToolDef
from halo_sql.duck import Duck
from halo_sql.tools.mcp import McpRunner
from halo_sql.tools.protocol import BoundTool, Surroundings
from halo_sql.tools.python import PythonRunner

FUNCTIONS = "python_functions"


@pytest.fixture(scope="module")
def duck() -> Iterator[Duck]:
    found = Duck.connect(":memory:", False, {})
    yield found
    found.close()


@pytest.fixture
def make_mcp(duck: Duck) -> Callable[..., McpRunner]:
    def runner(
        server: Any, remote: str, parameters: dict[str, str], returns: str, sessions: Any = None, **options: Any
    ) -> McpRunner:
        body, functions = (server, {}) if isinstance(server, str) else ("orders", {"orders": server})
        secret = options.pop("secret_of", None)
        declared = tuple(
            Parameter(name, kind.removesuffix("?"), "NULL" if kind.endswith("?") else None)
            for name, kind in parameters.items()
        )
        tool = ToolDef("my_tool", "mcp", body, declared, returns, remote=remote, options=options)
        types = tuple((item.name, duck.sql_type(item.type)) for item in declared)
        bound = BoundTool(tool, types, duck.sql_type(returns))
        return McpRunner(bound, Surroundings(secret or (lambda *_: ""), functions), sessions)

    return runner


@pytest.fixture
def make_python(duck: Duck) -> Callable[..., PythonRunner]:
    def runner(
        body: str | Callable[..., Any], parameters: dict[str, str], returns: str, **options: Any
    ) -> PythonRunner:
        given = {} if isinstance(body, str) else {"t": body}
        text = body if isinstance(body, str) else ""
        text = text if ":" in text or not text else f"{FUNCTIONS}:{text}"
        types = tuple((name, duck.sql_type(kind)) for name, kind in parameters.items())
        tool = ToolDef("T", "python", text, returns=returns, options=options)
        return PythonRunner(
            BoundTool(tool, types, duck.sql_type(returns)), Surroundings(secret=lambda *_: "", functions=given)
        )

    return runner
