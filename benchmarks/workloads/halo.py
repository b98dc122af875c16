"""HaloSQL's side: the .sql files, run on a connection, and what its profile says it did."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pack
from adapters import Bench

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


class Workload:
    """A workload on a connection: attached data with its tools."""

    def __init__(self, bench: Bench, name: str, scale: str, url: str, http_limit: int, folder: Path) -> None:
        pack.worker_paths()
        self._bench, self._name = bench, name
        path = pack.copy_of_data(Path(tempfile.mkdtemp(dir=folder)), name)
        setup, self.query = statements(name, url, http_limit, bench.adapter.models)
        for statement in (f"ATTACH '{path}' AS {name}", f"USE {name}", f"SET VARIABLE scale = '{scale}'", setup):
            bench.con.execute(statement)
        self.kinds = {row[0]: row[1] for row in bench.con.execute("SELECT name, kind FROM halo_tools()").fetchall()}

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
