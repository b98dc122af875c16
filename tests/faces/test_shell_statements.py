"""Our statements in the shell: batches, scripts of objects, keys that stay off the screen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from halo_sql.shell.run import is_complete, pieces

Run = Callable[..., subprocess.CompletedProcess[str]]
BATCH = """SELECT 1 AS a;
BEGIN BATCH;
SELECT 2 AS b;
SELECT error('nope');
SELECT LLM_MAP('3', model => 'echo') AS c;
END BATCH;
SELECT 4 AS d;
"""


def test_a_batch_shows_results_and_errors_in_order(halo: Run) -> None:
    done = halo("-csv", "-no-progress", stdin=BATCH)
    assert done.stdout == "a\n1\nb\n2\nc\n3\nd\n4\n"
    assert done.stderr.count("Error") == 1
    assert "nope" in done.stderr
    assert done.returncode == 1


def test_bail_stops_behind_the_batch(halo: Run) -> None:
    done = halo("-csv", "-bail", "-no-progress", stdin=BATCH)
    assert done.stdout == "a\n1\nb\n2\nc\n3\n"
    assert done.returncode == 1


def test_a_batch_is_one_piece_of_a_script() -> None:
    text = "SELECT 1; BEGIN BATCH; SELECT 'a;';\n SELECT 3; END BATCH; .x\nEND BATCH;"
    assert pieces(text) == [
        (False, "SELECT 1"),
        (False, "BEGIN BATCH; SELECT 'a;';\n SELECT 3; END BATCH"),
        (False, ".x\nEND BATCH"),
    ]
    assert pieces("BEGIN BATCH; SELECT 1;\n.tables\n") == [(False, "BEGIN BATCH; SELECT 1;\n.tables")]
    for whole in (
        "BEGIN BATCH; SELECT 1; END BATCH;",
        "SELECT batch;",
        "BEGIN BATCH; END BATCH; SELECT 1;",
        "END BATCH;",
    ):
        assert is_complete(whole)
    for part in (
        "BEGIN BATCH;",
        "BEGIN BATCH; SELECT 1;",
        "SELECT 1; BEGIN BATCH; SELECT 1;",
        "begin batch; end batch",
    ):
        assert not is_complete(part)


def test_a_file_is_one_batch(halo: Run, tmp_path: Path) -> None:
    file = tmp_path / "batch.sql"
    file.write_text("SELECT LLM_MAP('a') AS a;\nSELECT LLM_MAP('a') AS b; SELECT error('c');\n")
    done = halo("-csv", "-no-progress", stdin=f"SET halo_default_model = 'echo';\n.batch {file}\n")
    assert (done.stdout, done.returncode) == ("a\na\nb\na\n", 1)
    assert done.stderr.count("Error") == 1
    done = halo(stdin=f"SET halo_default_model = 'echo';\n.batch -explain {file}\n")
    assert "Statements 1, 2: one plan" in done.stdout
    assert "→ #" in done.stdout
    file.write_text("SELECT 1 AS a;\nSELECT nope;\n")
    done = halo("-csv", stdin=f".batch {file}\n")
    assert done.stdout == ""
    assert "statement 2 of the batch" in done.stderr
    assert "LINE 2: SELECT nope" in done.stderr


def test_an_unfinished_batch_runs_nothing(halo: Run) -> None:
    done = halo("-csv", stdin="BEGIN BATCH; SELECT 1;")
    assert done.stdout == ""
    assert "BEGIN BATCH without END BATCH" in done.stderr


def test_dump_makes_the_objects_again(halo: Run, tmp_path: Path) -> None:
    made = halo(
        "a.db",
        stdin="CREATE PROMPT p AS 'It''s\n{{ x }};'; CREATE TOOL t() RETURNS INTEGER COMMENT 'c' AS SQL 'SELECT 1'; "
        "CREATE AGENT a WITH (tools = [t]);\n.output dump.sql\n.dump\n",
    )
    assert (made.returncode, made.stderr) == (0, "")
    again = halo("b.db", "-f", "dump.sql")
    assert (again.returncode, again.stderr) == (0, "")
    texts = [halo(name, stdin=".dump").stdout for name in ("a.db", "b.db")]
    assert texts[0] == texts[1] == (tmp_path / "dump.sql").read_text()
    assert texts[0].count(";\n") == 4


def test_echo_hides_keys(halo: Run) -> None:
    done = halo("-echo", "-c", "CREATE SECRET s (TYPE llm, API_KEY 'hunter2')")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    assert "API_KEY *********" in done.stdout


def test_objects_have_commands(halo: Run) -> None:
    done = halo("-csv", stdin="CREATE TOOL t() RETURNS INTEGER AS SQL 'SELECT 1';\n.tools\n.agents\n")
    assert "t,sql,SELECT 1" in done.stdout
    assert done.returncode == 0
