"""HaloSQL against the conformance packs beside the checkout: DuckDB's own test files, and the echo cases.

Both lie in ``../shared`` with their runners. Without that folder nothing here runs, and the run's last lines say so. A
sample is run always; everything where CI is set, in parts, so that several processes have work to the end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
SAMPLE_FOLDERS = ("cte", "prepared", "transactions", "copy")
SAMPLE_EVERY = 20  # echo cases
PARTS = 8
SECONDS = 1500
RECORD_S = 120  # what a runner lets a file or a statement take; they take seconds, the bound is for a busy machine

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def run_tool(*arguments: object) -> str:
    """The output of one of the runners; its HOME is a folder of its own, since some cases keep secrets there."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": home},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    return done.stdout + done.stderr


def last_counts(output: str) -> tuple[int, int]:
    """The runner's last line: passed, failed."""
    found = re.findall(r"(\d+) passed, (\d+) failed", output)
    assert found, output[-3000:]
    return int(found[-1][0]), int(found[-1][1])


def failures(output: str) -> dict[str, str]:
    """File -> what the runner says of it."""
    lines = (line.split(maxsplit=2) for line in output.splitlines() if line.startswith("FAIL "))
    return {words[1]: words[2] for words in lines}


def part_of(items: Sequence[T], part: int) -> list[T]:
    """Every PARTS-th, from the one with this number; where a sample is run, part 0 is all of it."""
    return list(items[part::PARTS] if IN_CI else items)


def files_of(part: str) -> list[Path]:
    """The test files of a folder, or of a part of all."""
    folder = SHARED / "conformance/duckdb/test/sql"
    if part in SAMPLE_FOLDERS:
        return sorted((folder / part).rglob("*.test"))
    return part_of(sorted(folder.rglob("*.test")), int(part))


in_parts = pytest.mark.parametrize("part", range(PARTS if IN_CI else 1))


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("part", list(map(str, range(PARTS))) if IN_CI else SAMPLE_FOLDERS)
def test_duckdbs_own_files(part: str) -> None:
    """What this version of DuckDB passes (the files are of a commit beside its release), HaloSQL passes."""
    files = files_of(part)
    output = run_tool(SHARED / "tools/sqllogic.py", "--engine", "halo", "--timeout", RECORD_S, *files)
    found = failures(output)
    assert last_counts(output)[1] == len(found)
    assert last_counts(output)[0] > len(found)
    if found:
        passes = plain_passes(found)
        found = {file: why for file, why in found.items() if file in passes}
    assert not found, found


def plain_passes(files: Iterable[str]) -> set[str]:
    """Those of the files that plain DuckDB passes."""
    output = run_tool(SHARED / "tools/sqllogic.py", "--engine", "duckdb", "--timeout", RECORD_S, "--verbose", *files)
    return {line.split(maxsplit=2)[1] for line in output.splitlines() if line.startswith("PASS ")}


@pytest.mark.timeout(SECONDS)
@in_parts
def test_the_defining_equation(tmp_path: Path, part: int) -> None:
    cases = (SHARED / "conformance/echo_cases.jsonl").read_text(encoding="utf-8").splitlines()
    every = 1 if IN_CI else SAMPLE_EVERY
    chosen = part_of([case for number, case in enumerate(cases) if number % every == 0 and not is_known(case)], part)
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    arguments = ("--run", file, "--engine", "halo", "--show", 50, "--timeout", RECORD_S)
    output = run_tool(SHARED / "tools/echo_mutate.py", *arguments)
    passed, failed = last_counts(output)
    assert failed == 0, output[-5000:]
    assert passed == len(chosen)


@pytest.mark.timeout(SECONDS)
@in_parts
def test_the_equation_holds_for_tools(tmp_path: Path, part: int) -> None:
    """A tool that gives back its argument is that argument, wherever an expression may stand."""
    cases = (SHARED / "conformance/echo_cases.jsonl").read_text(encoding="utf-8").splitlines()
    every = 5 if IN_CI else 2 * SAMPLE_EVERY
    chosen = part_of([case for number, case in enumerate(cases) if number % every == 3 and not is_known(case)], part)
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    output = run_tool(Path(__file__).parent / "tool_cases.py", SHARED / "tools", file)
    passed, failed = last_counts(output)
    assert failed == 0, output[-5000:]
    assert passed == len(chosen)


def test_every_case_and_file_is_in_a_part() -> None:
    parts = [part_of(range(1_000), part) for part in range(PARTS if IN_CI else 1)]
    assert sorted(number for numbers in parts for number in numbers) == list(range(1_000))


def test_few_cases_are_known_to_fail() -> None:
    cases = (SHARED / "conformance/echo_cases.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(map(is_known, cases)) <= 0.005 * len(cases)


def is_known(case: str) -> bool:
    """Whether known.txt explains why the case fails."""
    lines = (Path(__file__).parent / "known.txt").read_text(encoding="utf-8").splitlines()
    patterns = [line.partition("\t")[0] for line in lines if line and not line.startswith("#")]
    mutated = json.loads(case)["mutated"]
    return any(re.search(pattern, mutated) for pattern in patterns)
