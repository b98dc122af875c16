"""The echo cases with tools in the places of the calls: ``TOOL(same, e)`` is ``e``, wherever LLM_MAP of echo is it.

    python tests/conformance/tool_cases.py TOOLS CASES [EVERY]

TOOLS is the folder of ``echo_mutate.py``, CASES its file of cases, of which every EVERY-th is run. Output and exit
status are the runner's.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

SAME = (
    "CREATE TEMP TOOL same_text(v VARCHAR) RETURNS VARCHAR AS SQL 'SELECT $v'",
    "CREATE TEMP TOOL same_truth(v BOOLEAN) RETURNS BOOLEAN AS SQL 'SELECT $v'",
)


def as_tool(found: re.Match[str]) -> str:
    """The call of a tool for a call of the echo model."""
    expression = found[2].replace("''", "'").strip().removeprefix("{{").removesuffix("}}").strip()
    return f"TOOL({'same_text' if found[1] == 'MAP' else 'same_truth'}, ({expression}\n))"


def main(tools: str, cases: str, every: str = "1") -> int:
    sys.path.insert(0, tools)
    runner: Any = importlib.import_module("echo_mutate")
    kept = []
    for line in Path(cases).read_text(encoding="utf-8").splitlines()[:: int(every)]:
        case = json.loads(line)
        case["mutated"] = runner.CALL.sub(as_tool, case["mutated"])
        assert "TOOL(" in case["mutated"]
        kept.append(json.dumps(case, ensure_ascii=False))
    begin = runner.Engine.__init__

    def with_tools(engine: Any, module: Any, *more: Any) -> None:
        begin(engine, module, *more)
        if module.__name__ == "halo_sql":
            for statement in SAME:
                engine.con.execute(statement)

    runner.Engine.__init__ = with_tools
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.jsonl"
        file.write_text("\n".join(kept), encoding="utf-8")
        return int(runner.main(["--run", str(file), "--engine", "halo", "--show", "100"]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
