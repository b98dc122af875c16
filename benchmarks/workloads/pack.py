"""The pack of workloads (``../shared/workloads``): its modules, its data, and what it says must come out."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from halo_sql.config import home
from halo_sql.engines import bundled

FOLDER = Path(__file__).parents[3] / "shared" / "workloads"
SCALE, SEED = 0.5, 7
MISSING = f"the pack of workloads is not at {FOLDER}"


def available() -> bool:
    """Whether the pack is there."""
    return (FOLDER / "ledger.json").is_file()


def module(name: str) -> ModuleType:
    """A module of the pack: spec, ledger, http_stub, rules."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # behind everything else: its names are common words
    return importlib.import_module(name)


def data() -> Path:
    """The database of scale 0.5 and seed 7, made once per version of ``make_data.py``.

    RuntimeError when the rows are others than those of ``ledger.json``.
    """
    import duckdb

    source = FOLDER / "make_data.py"
    stamp = f"{SCALE:g}-{SEED}-{source.stat().st_size:x}-{duckdb.__version__}"
    path = home() / "benchmarks" / f"workloads-{stamp}.duckdb"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "made.duckdb"
            command = [sys.executable, source, "--out", made, "--scale", str(SCALE), "--seed", str(SEED)]
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            _check_fingerprints(made)
            made.replace(path)
    return path


def _check_fingerprints(path: Path) -> None:
    import duckdb

    with duckdb.connect(str(path), read_only=True) as con:
        found = {
            name: [rows, mark]
            for name, rows, mark in con.execute("SELECT name, row_count, fingerprint FROM data_info").fetchall()
        }
    wanted = ledger_file()["data"]["tables"]
    differing = sorted(name for name in wanted if found.get(name) != wanted[name])
    if differing:
        raise RuntimeError(f"the generated tables differ from those of ledger.json: {', '.join(differing)}")


def copy_of_data(folder: Path, name: str) -> Path:
    """A copy to write in: tools, macros and types live beside the tables."""
    path = folder / f"{name}.duckdb"
    shutil.copyfile(data(), path)
    return path


def ledger_file() -> Any:
    """The figures that come with the pack."""
    return json.loads((FOLDER / "ledger.json").read_text(encoding="utf-8"))


def worker_paths() -> None:
    """Let processes that are started find ``rules.py``, as a user would."""
    known = os.environ.get("PYTHONPATH", "")
    if str(FOLDER) not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([part for part in (known, str(FOLDER)) if part])
    module("rules")


@dataclass
class Reference:
    """What a workload asks and answers, without an engine: the ledger's walk through its first ``most`` queries.

    scale  'cpu' or 'gpu'
    """

    name: str
    scale: str
    most: int
    _figures: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def workload(self) -> Any:
        """The specification."""
        return module("spec").load(FOLDER / f"{self.name}.yaml")

    @cached_property
    def keywords(self) -> list[str]:
        """The planner's vocabulary, in order."""
        return keywords()

    @cached_property
    def trace(self) -> Any:
        """Requests and answers by node and query."""
        import duckdb

        with duckdb.connect(str(data()), read_only=True) as con:
            return module("ledger").walk(con, self.workload, self.scale, self.most, "task_first")

    def figures(self, count: int) -> Any:
        """The counters of the first ``count`` queries; those of ``ledger.json`` where it has them.

        RuntimeError when the walk and the file disagree.
        """
        if count not in self._figures:
            ledger, tokens = module("ledger"), tokens_of_bundled()
            requests = list(self.trace.prompts)
            packed = dict(zip(requests, tokens.pack([self.trace.prompts[r][1] for r in requests]), strict=True))
            lengths = [len(p) // tokens.WIDTH for p in tokens.pack([self.trace.prompts[r][2] for r in requests])]
            walked = ledger.count(self.trace, count, packed, dict(zip(requests, lengths, strict=True)))
            listed = ledger_file()["scales"][self.scale][self.name]["batches"].get(str(count))
            if listed is not None and listed != walked:
                raise RuntimeError(f"{self.name}, {count} queries: the ledger's walk differs from ledger.json")
            self._figures[count] = walked
        return self._figures[count]

    def prompts(self, count: int) -> set[tuple[str, str]]:
        """Model class and rendered prompt (ChatML) of every distinct request of the first ``count`` queries."""
        asked = {
            request
            for node in self.workload.nodes
            if node.kind == "llm"
            for request in self.trace.requests[node.id][:count]
        }
        return {self.trace.prompts[request][:2] for request in asked}


def keywords() -> list[str]:
    """The words of ``imdb_keywords`` in order."""
    import duckdb

    with duckdb.connect(str(data()), read_only=True) as con:
        return [row[0] for row in con.execute("SELECT keyword FROM imdb_keywords ORDER BY keyword").fetchall()]


_tokens: list[Any] = []


def tokens_of_bundled() -> Any:
    """The ledger's counter of tokens, with the bundled model's tokenizer (fetched once per machine)."""
    if not _tokens:
        from tokenizers import Tokenizer

        folder = bundled.ensure("smollm2")
        _tokens.append(module("ledger").Tokens(Tokenizer.from_file(str(folder / "tokenizer.json"))))
    return _tokens[0]
