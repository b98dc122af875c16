"""The examples have a plan and run on their tables with the echo model (make demo runs the first with a real one).

An answer that does not fit its type is not a failure here: echo answers with the prompt.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import halo_sql

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.sql"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("examples") / "demo.duckdb")
    subprocess.run([sys.executable, str(EXAMPLES / "load_tables.py"), path], check=True)
    return path


def test_tables_hold_real_text(database: str) -> None:
    with halo_sql.connect(database, config={"halo_store": "off"}) as connection:
        rows = connection.execute("SELECT count(*), min(length(summary)) FROM packages").fetchall()
        assert rows[0][0] > 20
        assert rows[0][1] > 0
        assert connection.execute("SELECT count(*) FROM topics WHERE length(body) > 400").fetchall()[0][0] > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_has_a_plan_and_runs(path: Path, database: str) -> None:
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_default_embedding_model": "echo"}
    lines = path.read_text(encoding="utf-8").splitlines()
    statements = "\n".join(line for line in lines if not line.startswith("--")).strip().split(";\n")
    asking = [statement for statement in statements if "LLM_" in statement]
    assert asking
    with halo_sql.connect(database, config=config) as connection:
        for statement in statements:
            if statement in asking:
                plan = connection.explain(re.sub(r"^EXPLAIN( ANALYZE)?", "", statement.strip()).rstrip(";"))
                assert "LLM" in plan.upper()
            try:
                connection.execute(statement).fetchall()
            except halo_sql.EngineError as problem:  # echo's answers are no labels
                if problem.code != "invalid_output":
                    raise
