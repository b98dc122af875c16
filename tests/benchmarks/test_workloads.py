"""W1 to W6 with the stand-in model and an HTTP stub without latency: exactly the ledger's answers and counters.

The pack of workloads lies in ``../shared``; without it, or without the bundled model's tokenizer, nothing here runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
PACK = ROOT.parent / "shared" / "workloads"
NAMES = ("w1", "w2", "w3", "w4", "w5", "w6")
QUERIES = 8

pytestmark = [
    pytest.mark.skipif(not PACK.is_dir(), reason="../shared is not here"),
    pytest.mark.vllm,  # tokens are counted by the bundled model's tokenizer
    pytest.mark.usefixtures("bundled_model"),
]


HALO = ("halosql",)
BASELINES = ("serial", "operator-wise", "dispatch-all", "dispatch-all + memo")
ONCE = ("halosql", "dispatch-all + memo")  # these make each distinct call once


def written(
    engine: str, scale: str, names: Sequence[str], systems: Sequence[str], folder: Path
) -> dict[tuple[str, str], Any]:
    """What the benchmark wrote, by workload and system."""
    command = [sys.executable, ROOT / "benchmarks" / "workloads" / "run.py", "--n", QUERIES, "--scale", scale]
    command += ["--workloads", *names, "--systems", *systems, "--time-scale", 0, "--results", folder]
    command += ["--no-plots", "--no-floor", "--engine", engine]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.glob("*.json")
    return {(run["workload"], run["system"]): run for run in json.loads(file.read_text(encoding="utf-8"))["runs"]}


@pytest.mark.parametrize(
    ("engine", "scale", "names", "systems"),
    [
        ("standin", "cpu", NAMES, HALO),
        ("standin", "gpu", ("w2", "w4"), HALO),
        ("standin", "cpu", ("w2",), BASELINES),
        ("emulated", "gpu", ("w1", "w5"), HALO + BASELINES[2:3]),
    ],
)
def test_answers_and_counters_are_those_of_the_ledger(
    engine: str, scale: str, names: Sequence[str], systems: Sequence[str], tmp_path: Path
) -> None:
    found = written(engine, scale, names, systems, tmp_path)
    assert set(found) == {(name, system) for name in names for system in systems}
    ledger = json.loads((PACK / "ledger.json").read_text(encoding="utf-8"))["scales"][scale]
    for (name, system), run in found.items():
        wanted, which = ledger[name]["batches"][str(QUERIES)], "distinct" if system in ONCE else "naive"
        assert run["answers_sha256"] == wanted["answers_sha256"], (name, system)
        assert run["counters"] == {
            "llm": wanted["llm"][which],
            **{kind: wanted["tool"]["by_kind"].get(kind, {which: 0})[which] for kind in ("sql", "http", "python")},
            "prompt_tok": wanted["prompt_tokens"][which],
            "output_tok": wanted["output_tokens"][which],
        }, (name, system)
        # what the benchmark compares itself: each prompt byte for byte, max_tokens, what the HTTP stub counted
        assert run["wrong"] == [], (name, system)
