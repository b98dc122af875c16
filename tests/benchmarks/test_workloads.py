"""W1 to W6 with the stand-in model and an HTTP stub without latency: the ledger's answers, prompts and counters, exactly.

The pack of workloads lies in ``../shared``; without it, or without the bundled model's tokenizer, nothing here runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halo_sql.engines import bundled

ROOT = Path(__file__).parents[2]
PACK = ROOT.parent / "shared" / "workloads"
NAMES = ("w1", "w2", "w3", "w4", "w5", "w6")
QUERIES = 8

pytestmark = [
    pytest.mark.skipif(not PACK.is_dir(), reason="../shared is not here"),
    pytest.mark.skipif(bundled.made("smollm2") is None, reason="the bundled model's tokenizer is not here"),
]


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[Any, Any]]:
    """What the benchmark wrote for one scale, by workload and system."""
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, ROOT / "benchmarks" / "workloads" / "run.py", "--n", QUERIES, "--scale", request.param]
    command += ["--time-scale", 0, "--systems", "halosql", "dispatch-all", "--results", folder, "--no-plots"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = folder.glob("*.json")
    found = json.loads(written.read_text(encoding="utf-8"))["runs"]
    return request.param, {(run["workload"], run["system"]): run for run in found}


@pytest.mark.parametrize(("system", "which"), [("halosql", "distinct"), ("dispatch-all", "naive")])
@pytest.mark.parametrize("name", NAMES)
def test_answers_and_counters_are_those_of_the_ledger(
    runs: tuple[str, dict[Any, Any]], name: str, system: str, which: str
) -> None:
    scale, found = runs
    ledger = json.loads((PACK / "ledger.json").read_text(encoding="utf-8"))
    wanted = ledger["scales"][scale][name]["batches"][str(QUERIES)]
    run = found[name, system]
    assert run["answers_sha256"] == wanted["answers_sha256"]
    assert run["counters"] == {
        "llm": wanted["llm"][which],
        **{kind: wanted["tool"]["by_kind"].get(kind, {which: 0})[which] for kind in ("sql", "http", "python")},
        "prompt_tok": wanted["prompt_tokens"][which],
        "output_tok": wanted["output_tokens"][which],
    }
    assert run["wrong"] == []  # each prompt byte for byte, max_tokens, and what the HTTP stub counted
