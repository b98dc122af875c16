"""The shell with pipes: arguments, modes, scripts, exit status, dot commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_sql.errors import InterfaceError
from halo_sql.ir.types import BIGINT, VARCHAR
from halo_sql.metrics import NodeMetrics
from halo_sql.shell import box
from halo_sql.shell.args import parse
from halo_sql.shell.commands import COMMANDS, CommandError, find
from halo_sql.shell.progress import describe
from halo_sql.shell.run import is_complete, pieces

Run = Callable[..., subprocess.CompletedProcess[str]]
ECHO = "SELECT LLM_MAP('{{ x }}', model => 'echo') AS s FROM (VALUES ('hi'), ('you'), ('hi')) t(x)"


def test_c_prints_a_box_like_duckdbs(halo: Run) -> None:
    done = halo("-c", "SELECT 42 AS answer, 'a' AS s, NULL AS n")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == (
        "┌────────┬─────────┬──────┐\n"
        "│ answer │    s    │  n   │\n"
        "│ int32  │ varchar │ null │\n"
        "├────────┼─────────┼──────┤\n"
        "│     42 │ a       │ NULL │\n"
        "└────────┴─────────┴──────┘\n"
    )


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("csv", 'a,b,c\n1,"x,""y""",NULL\n2,NULL,1.5\n'),
        ("json", '[{"a":1,"b":"x,\\"y\\"","c":null},\n{"a":2,"b":null,"c":1.5}]\n'),
        ("jsonlines", '{"a":1,"b":"x,\\"y\\"","c":null}\n{"a":2,"b":null,"c":1.5}\n'),
        ("list", 'a|b|c\n1|x,"y"|NULL\n2|NULL|1.5\n'),
        ("tabs", 'a\tb\tc\n1\tx,"y"\tNULL\n2\tNULL\t1.5\n'),
        ("line", 'a = 1\nb = x,"y"\nc = NULL\n\na = 2\nb = NULL\nc = 1.5\n'),
        (
            "markdown",
            '|   a | b     |    c |\n| --: | ----- | ---: |\n|   1 | x,"y" | NULL |\n|   2 | NULL  |  1.5 |\n',
        ),
        ("table", "+---+-------+------+\n| a |   b   |  c   |\n+---+-------+------+\n"),
        ("box", "┌───┬───────┬──────┐\n│ a │   b   │  c   │\n├───┼───────┼──────┤\n"),
        ("html", "<table>\n<tr><th>a</th><th>b</th><th>c</th></tr>\n<tr><td>1</td><td>x,&quot;y&quot;</td>"),
    ],
)
def test_modes(halo: Run, mode: str, wanted: str) -> None:
    rows = "(VALUES (1, 'x,\"y\"', NULL), (2, NULL, 1.5)) t(a, b, c)"
    done = halo(f"-{mode}", "-c", f"SELECT * FROM {rows} ORDER BY a")
    assert done.returncode == 0
    assert done.stdout.startswith(wanted)


def test_values_are_duckdbs_text(halo: Run) -> None:
    sql = (
        "SELECT [1, 2] AS l, {'a': 'x'} AS s, MAP {1: 2} AS m, TIMESTAMP '2020-01-01 10:00:00.5' AS t, 1e20 AS d, "
        "0.1::FLOAT AS f, INTERVAL 3 MONTH AS i, 'ab'::BLOB AS b, true AS y, 0::DECIMAL(20, 10) AS z"
    )
    done = halo("-list", "-noheader", "-c", sql)
    assert done.stdout == ("[1, 2]|{'a': x}|{1=2}|2020-01-01 10:00:00.5|1e+20|0.1|3 months|ab|true|0.0000000000\n")
    nested = halo("-json", "-c", sql + ", 'nan'::DOUBLE AS n, '{\"k\": [1]}'::JSON AS j")
    (row,) = json.loads(nested.stdout)
    assert row["l"] == [1, 2]
    assert row["s"] == {"a": "x"}
    assert row["n"] is None
    assert row["j"] == {"k": [1]}
    assert row["y"] is True


def test_arguments_work_in_order(halo: Run) -> None:
    done = halo("-csv", "--nullvalue", "-", "-c", "SELECT NULL AS a", "-json", "-c", "SELECT 1 AS b", "-c", ";")
    assert done.stdout == 'a\n-\n[{"b":1}]\n'
    assert halo(":memory:", "SELECT 1 AS a", "-csv", "SELECT 2 AS b").stdout.endswith("b\n2\n")


def test_a_data_cell_that_reads_like_null_is_quoted(halo: Run) -> None:
    assert halo("-csv", "-noheader", "-c", "SELECT 'NULL', NULL").stdout == '"NULL",NULL\n'


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "stdout"),
    [
        (["-c", "SELECT 1 AS a"], "", 0, "a\n1\n"),
        (["-c", "SELECT 1 AS a; SELECT nope; SELECT 2 AS b"], "", 1, "a\n1\n"),
        ([], "SELECT 1 AS a; SELECT nope;\nSELECT 2 AS b;", 1, "a\n1\nb\n2\n"),
        (["-bail"], "SELECT nope; SELECT 2 AS b;", 1, ""),
        (["-f", "missing.sql"], "", 1, ""),
        (["-f", "-"], "SELECT 3 AS c", 0, "c\n3\n"),
        ([], ".exit 7\nSELECT 1;", 7, ""),
        ([], "SELECT 1 AS a;\n.nonsense\nSELECT 2 AS b;", 1, "a\n1\nb\n2\n"),
        (["-cmd", "CREATE TABLE t AS SELECT 5 AS i"], "FROM t;", 0, "i\n5\n"),
        ([], "", 0, ""),
        (["-unknown"], "", 2, ""),
        (["-c"], "", 2, ""),
    ],
)
def test_exit_status(halo: Run, arguments: list[str], stdin: str, status: int, stdout: str) -> None:
    done = halo(*(["-csv"] if arguments[:1] != ["-unknown"] else []), *arguments, stdin=stdin)
    assert done.returncode == status, done.stderr
    assert done.stdout == stdout
    assert (done.stderr == "") == (status in (0, 7))


def test_files_stop_at_the_error(halo: Run, tmp_path: Path) -> None:
    (tmp_path / "s.sql").write_text("SELECT 1 AS a;\nSELECT nope;\nSELECT 2 AS b;\n")
    done = halo("-csv", "-f", "s.sql")
    assert (done.returncode, done.stdout) == (1, "a\n1\n")
    assert "LINE 1: SELECT nope\n               ^^^^" in done.stderr


def test_unavailable_and_budget(halo: Run) -> None:
    assert halo("no/such/folder/d.duckdb", "-c", "SELECT 1").returncode == 3
    done = halo("-c", f"SET halo_max_calls = 1; {ECHO}")
    assert done.returncode == 4, done.stderr


def test_init_files(halo: Run, tmp_path: Path) -> None:
    (tmp_path / ".halorc").write_text(".mode csv\n")
    done = halo("-c", "SELECT 1 AS a")
    assert done.stdout == "a\n1\n"
    assert done.stderr.startswith("-- Loading resources from")
    assert "┌" in halo("-no-init", "-c", "SELECT 1 AS a").stdout
    (tmp_path / "other").write_text(".mode json\n")
    assert halo("-init", "other", "-c", "SELECT 1 AS a").stdout == '[{"a":1}]\n'


def test_llm_statements(halo: Run) -> None:
    done = halo("-csv", "-c", ECHO)
    assert done.stdout == "s\nhi\nyou\nhi\n"
    assert "-- 2 LLM calls, 1 coalesced" in done.stderr
    assert halo("-no-progress", "-csv", "-c", ECHO).stderr == ""
    plan = halo("-c", "EXPLAIN " + ECHO)
    assert "LlmMap" in plan.stdout
    assert "┌" not in plan.stdout
    bad = halo("-c", "SELECT LLM_MAP('{{ nope }}', model => 'echo') FROM (SELECT 1 AS x)")
    assert bad.returncode == 1
    assert "nope" in bad.stderr
    assert "^" in bad.stderr


def test_dot_commands(halo: Run, tmp_path: Path) -> None:
    script = f"""
.mode csv
CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1);
CREATE VIEW v AS FROM t;
.tables
.schema t
.headers off
.nullvalue nil
SELECT NULL;
.print hello  world
.once {tmp_path}/once.csv
SELECT 'once';
SELECT 'back';
.output {tmp_path}/all.csv
SELECT 'file';
.output
.import {tmp_path}/all.csv loaded
.echo on
SELECT 'echoed';
.echo off
.plan {ECHO}
{ECHO};
.cost
.trace 0
.profile
.profile {tmp_path}/p.html
.cache
.show
.read {tmp_path}/r.sql
.open {tmp_path}/o.duckdb
.tables
.version
"""
    (tmp_path / "r.sql").write_text("SELECT 'read';")
    done = halo(stdin=script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for wanted in ("main,t,table", "main,v,view", "CREATE TABLE t(i INTEGER);", "nil", "hello world", "back", "echoed"):
        assert wanted in lines, wanted
    for wanted in ("SELECT 'echoed';", "read", "the response store is off", " nullvalue: 'nil'"):
        assert wanted in lines, wanted
    assert (tmp_path / "once.csv").read_text() == "once\n"
    assert (tmp_path / "all.csv").read_text() == "file\n"
    assert "LlmMap" in done.stdout
    assert "-- 2 LLM calls" in done.stdout
    assert any("llm" in line and "echo" in line and "done" in line for line in lines)
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    assert lines[-1].startswith("HaloSQL ")


def test_timer_goes_to_stderr(halo: Run) -> None:
    done = halo("-csv", stdin=".timer on\nSELECT 1 AS a;")
    assert done.stdout == "a\n1\n"
    assert done.stderr.startswith("Run Time (s): real ")


def test_help_and_version(halo: Run) -> None:
    assert "-jsonlines" in halo("-help").stdout
    assert halo("--version").stdout.startswith("HaloSQL 0.")
    done = halo(stdin=".help\n")
    assert all(f".{command.name}" in done.stdout for command in COMMANDS)


def test_unknown_names_get_a_suggestion(halo: Run) -> None:
    assert 'Did you mean "json"' in halo("-jsn").stderr
    assert 'Did you mean "tables"' in halo(stdin=".tabels\n").stderr
    assert 'Did you mean "markdown"' in halo(stdin=".mode markdwn\n").stderr
    assert find("tab").name == "tables"
    with pytest.raises(CommandError, match="ambiguous"):
        find("s")


def test_interrupt_of_c(shell_environment: dict[str, str]) -> None:
    sql = "SELECT 'ready'; SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3; SELECT 'never'"
    shell = subprocess.Popen(
        [sys.executable, "-m", "halo_sql", "-list", "-noheader", "-c", sql],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=shell_environment,
    )
    assert shell.stdout is not None
    assert shell.stdout.readline() == "ready\n"
    time.sleep(0.2)  # into the second statement; earlier would cancel it all the same
    pressed = time.monotonic()
    shell.send_signal(signal.SIGINT)
    stdout, stderr = shell.communicate(timeout=100)
    assert time.monotonic() - pressed < 60
    assert (shell.returncode, stdout, stderr) == (130, "", "Interrupted\n")


def test_a_reader_that_leaves_is_no_error(shell_environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m halo_sql -csv -c 'FROM range(1000000)' | head -2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=shell_environment,
    )
    assert (done.stdout, done.stderr) == ("range\n0\n", "")


def test_pieces_and_completeness() -> None:
    script = ".mode csv\nSELECT 1;SELECT ';\n.not a command';\n.tables\n-- only a comment\n"
    assert pieces(script) == [
        (True, ".mode csv"),
        (False, "SELECT 1"),
        (False, "SELECT ';\n.not a command'"),
        (True, ".tables"),
    ]
    for text in ("", "SELECT 1;", "SELECT 1; -- c", "SELECT ';';", "SELECT $$ a;b $$;"):
        assert is_complete(text)
    for text in ("SELECT 1", "SELECT ';", "SELECT $$ a;", "SELECT 1; SELECT", 'SELECT "a;'):
        assert not is_complete(text)


def test_arguments() -> None:
    found = parse(["d.db", "-readonly", "--nullvalue=-", "-c", "-1", "SELECT 2"])
    assert found.database == "d.db"
    assert found.steps == [("readonly", ""), ("nullvalue", "-"), ("c", "-1"), ("c", "SELECT 2")]
    with pytest.raises(InterfaceError, match="needs a value"):
        parse(["-f"])


def test_boxes_fit() -> None:
    columns = [(f"column_{place}", VARCHAR) for place in range(8)] + [("n", BIGINT)]
    rows = [["x" * 30] * 8 + ["5"], ["宽" * 20, "a\nb\x1b[2J", *["y"] * 6, "12345"]]
    for room in (40, 60, 80, 120, 0):
        lines = list(box.duckbox(columns, rows, -1, 2, room))
        assert len({box.width(line) for line in lines}) == 1
        assert not room or box.width(lines[0]) <= room
        assert "\x1b" not in "".join(lines)
    assert "9 columns (" in "\n".join(box.duckbox(columns, rows, -1, 2, 40))
    assert list(box.duckbox([("n", BIGINT)], [], -1, 0, 0))[-2].startswith("│ 0 rows")


def test_long_results_show_both_ends(halo: Run) -> None:
    lines = halo("-c", "FROM range(100)").stdout.splitlines()
    values = [line.strip("│ ") for line in lines]
    assert "19" in values
    assert "20" not in values
    assert "79" not in values
    assert "80" in values
    assert any("99" in line for line in lines)
    assert any("100 rows (40 shown)" in line for line in lines)
    assert sum("·" in line for line in lines) == 3


def test_progress_line() -> None:
    did = NodeMetrics(
        rows=5, rows_total=10, in_flight=3, llm_calls=4, llm_calls_coalesced=1, llm_calls_from_store=2,
        prompt_tok=1000, prompt_tok_cached=430, output_tok=50, retries=1, errors=1,
    )  # fmt: skip
    assert describe("LLM_MAP('a')", did) == (
        "LLM_MAP('a'): 5/10 rows, 3 in flight, 7 answered, 1,000 tok in (43 % cached), 50 out, 2 from store, "
        "1 coalesced, 1 retries, 1 errors"
    )
