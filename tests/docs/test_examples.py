"""The examples bind and plan against their tables (make demo runs them with a real model)."""

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
def test_example_has_a_plan(path: Path, database: str) -> None:
    assert FILES
    config = {"halo_store": "off", "halo_default_model": "echo", "halo_default_embedding_model": "echo"}
    statements = path.read_text(encoding="utf-8").strip().split(";\n")
    with halo_sql.connect(database, config=config) as connection:
        for statement in statements:
            if "SELECT" in statement:
                plan = connection.explain(re.sub(r"^EXPLAIN( ANALYZE)?", "", statement, flags=re.MULTILINE).rstrip(";"))
                assert "LLM" in plan.upper()
            else:
                connection.execute(statement)
    assert any("SELECT" in statement for statement in statements)


@pytest.mark.parametrize("name", ["06_llm_reduce.sql", "07_llm_rank.sql"])
def test_example_runs_with_echo(name: str, database: str) -> None:
    config = {"halo_store": "off", "halo_default_model": "echo"}
    rows = 0
    with halo_sql.connect(database, config=config) as connection:
        for statement in (EXAMPLES / name).read_text(encoding="utf-8").strip().split(";\n"):
            rows += len(connection.execute(statement).fetchall())
    assert rows > 5
