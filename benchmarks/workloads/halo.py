"""HaloSQL's side: the .sql files, run on a connection, and what its profile says it did."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pack
from adapters import Bench
from stub import HttpStub, VirtualStub

import halo_sql
from halo_sql.grammar.split import split

FILES = Path(__file__).parent / "sql"
STUB = "http://127.0.0.1:8765"  # where the files look for the HTTP stub


def statements(name: str, url: str, http_limit: int, models: Mapping[str, str]) -> tuple[str, str]:
    """The statements that make tools and macros, and the query, of a workload: with the stub's address, the limit of
    HTTP requests at once (0: none), and the engine's names for the model classes."""
    text = (FILES / f"{name}.sql").read_text(encoding="utf-8").replace(STUB, url)
    if http_limit:
        text = text.replace("concurrency = 1024", f"concurrency = {http_limit}")
    for model_class, model in models.items():
        text = text.replace(f"model => '{model_class}'", f"model => '{model}'")
    *setup, query = (piece.text for piece in split(text))
    return ";\n".join(setup), query


#: An HTTP tool as the files make it: name, arguments, address, options.
HTTP_TOOL = re.compile(
    r"CREATE TOOL (\w+)\(([^)]*)\) RETURNS VARCHAR STABLE\s+AS HTTP GET '([^']*)'\s+WITH \([^)]*\)", re.IGNORECASE
)
TYPES = {"VARCHAR": str, "INTEGER": int}


def make_virtual_tools(con: halo_sql.Connection, setup: str, stub: VirtualStub, limit: int) -> str:
    """Put functions on the virtual clock in the place of the HTTP tools of ``setup``; what is left of it."""
    for name, arguments, address in HTTP_TOOL.findall(setup):
        url = urlsplit(address)
        given = parse_qsl(url.query)
        types = {key: TYPES[kind] for key, kind in (one.split() for one in arguments.split(","))}
        fixed = {key: value for key, value in given if "{{" not in value}
        assert {key for key, _ in given} == types.keys() | fixed.keys(), address
        function = stub.tool(url.path, fixed, types)
        con.create_tool(name, function, volatility="stable", concurrency=limit or 1024, timeout_s=3600, egress=False)
    return HTTP_TOOL.sub("SELECT 1", setup)


class Workload:
    """A workload on a connection: attached data with its tools."""

    def __init__(
        self, bench: Bench, name: str, scale: str, stub: HttpStub | VirtualStub, http_limit: int, folder: Path
    ) -> None:
        pack.worker_paths()
        self._bench, self._name = bench, name
        path = pack.copy_of_data(Path(tempfile.mkdtemp(dir=folder)), name)
        setup, self.query = statements(name, stub.url or STUB, http_limit, bench.adapter.models)
        services = {found[0] for found in HTTP_TOOL.findall(setup)}
        if isinstance(stub, VirtualStub):
            setup = make_virtual_tools(bench.con, setup, stub, http_limit)
        for statement in (f"ATTACH '{path}' AS {name}", f"USE {name}", f"SET VARIABLE scale = '{scale}'", setup):
            bench.con.execute(statement)
        self.kinds = {row[0]: row[1] for row in bench.con.execute("SELECT name, kind FROM halo_tools()").fetchall()}
        self.kinds.update(dict.fromkeys(services, "http"))

    def run(self, count: int) -> list[str]:
        """The answers of the first ``count`` queries in order of ``qid``; RuntimeError when rows are missing."""
        rows = self._bench.con.execute(self.query, {"n": count}).fetchall()
        if [row[0] for row in rows] != list(range(count)):
            raise RuntimeError(f"{self._name}: {len(rows)} rows for {count} queries, or other qids")
        return [row[1] for row in rows]

    def tool_calls(self) -> Counter[str]:
        """Calls of tools that the last query made, by kind."""
        made: Counter[str] = Counter()
        profile = self._bench.con.last_profile()
        assert profile is not None
        pending = [profile["plan"]]
        while pending:
            node = pending.pop()
            pending += node["children"]
            if node.get("tool_calls"):
                what = node["extra_info"]["what"]
                tool = what.split("TOOL(", 1)[1].split(",", 1)[0].strip('" )')
                made[self.kinds[tool].lower().split()[0]] += node["tool_calls"]
        return made

    def profile(self) -> Any:
        """What EXPLAIN ANALYZE would say of the last query."""
        return self._bench.con.last_profile()

    def close(self) -> None:
        """Detach the data."""
        for statement in ("USE memory", f"DETACH {self._name}"):
            self._bench.con.execute(statement)
