"""The interactive shell on a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]  # the fixture ``terminal``


def test_a_statement_over_several_lines(terminal: Start) -> None:
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("SELECT 40 + 2\r")
        shell.wait("\n  ...")
        shell.send("AS answer;\r")
        screen = shell.wait("│     42 │")
        assert "│ answer │" in screen
        shell.send("\x04")
        assert shell.wait_exit() == 0


def test_errors_leave_the_shell_alive(terminal: Start) -> None:
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("SELECT nope;\r")
        assert "LINE 1: SELECT nope" in shell.wait("^^^^")
        shell.send("SELECT 'alive' AS still;\r")
        shell.wait("│ alive   │")
        shell.send(".exit\r")
        assert shell.wait_exit() == 0


def test_ctrl_c_clears_the_text_and_cancels_the_query(terminal: Start) -> None:
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("SELECT garbage")
        shell.wait("garbage")
        shell.send("\x03")
        shell.send("SELECT 'started' AS s; SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3;\r")
        shell.wait("│ started │")
        shell.send("\x03")
        shell.wait("Interrupted", 3)
        shell.send("SELECT 'after' AS s;\r")
        shell.wait("│ after   │")
        shell.send("\x04")
        assert shell.wait_exit() == 0


def test_history_is_kept_and_private(terminal: Start, tmp_path: Path) -> None:
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("SELECT 'remember' AS me;\r")
        shell.wait("│ remember │")
        shell.send("\x04")
        shell.wait_exit()
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("\x1b[A")
        shell.wait("SELECT 'remember' AS me;")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("SELECT * FROM customer_o\t", "customer_orders"),
        ("SELECT order_nu\t", "order_number"),
        ("sele\t", "select"),
        (".tab\t", ".tables"),
        ("SELECT LLM_FIL\t", "LLM_FILTER"),
        ("SELECT LLM_MAP(shorten_\t", "shorten_it"),
        ("SELECT regexp_split_to_t\t", "regexp_split_to_table"),
    ],
)
def test_completion(terminal: Start, typed: str, completed: str) -> None:
    with terminal(
        "-cmd", "CREATE TABLE customer_orders (order_number INTEGER); CREATE PROMPT shorten_it AS 'x'"
    ) as shell:
        shell.wait("halo>")
        shell.send(typed)
        assert completed in shell.wait(completed)


def test_the_history_file_holds_no_keys(terminal: Start, tmp_path: Path) -> None:
    with terminal() as shell:
        shell.wait("halo>")
        shell.send("CREATE SECRET s (TYPE llm, API_KEY 'hunter2'); SELECT 'do' || 'ne' AS me;\r")
        shell.wait("done")
    text = (tmp_path / "history").read_text()
    assert "hunter2" not in text
    assert "CREATE SECRET s (TYPE llm, API_KEY *********)" in text
