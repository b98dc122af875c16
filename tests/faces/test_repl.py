"""The interactive shell on a terminal."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shell_driver", Path(__file__).with_name("shell_driver.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


driver = _driver()


def test_a_statement_over_several_lines(tmp_path: Path) -> None:
    with driver.Terminal(tmp_path) as terminal:
        terminal.wait("halo>")
        terminal.send("SELECT 40 + 2\r")
        terminal.wait("\n  ...")
        terminal.send("AS answer;\r")
        screen = terminal.wait("│     42 │")
        assert "│ answer │" in screen
        terminal.send("\x04")
        assert terminal.wait_exit() == 0


def test_errors_leave_the_shell_alive(tmp_path: Path) -> None:
    with driver.Terminal(tmp_path) as terminal:
        terminal.wait("halo>")
        terminal.send("SELECT nope;\r")
        assert "LINE 1: SELECT nope" in terminal.wait("^^^^")
        terminal.send("SELECT 'alive' AS still;\r")
        terminal.wait("│ alive   │")
        terminal.send(".exit\r")
        assert terminal.wait_exit() == 0


def test_ctrl_c_clears_the_text_and_cancels_the_query(tmp_path: Path) -> None:
    with driver.Terminal(tmp_path) as terminal:
        terminal.wait("halo>")
        terminal.send("SELECT garbage")
        terminal.wait("garbage")
        terminal.send("\x03")
        terminal.send("SELECT 'started' AS s; SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3;\r")
        terminal.wait("│ started │")
        terminal.send("\x03")
        terminal.wait("Interrupted", 3)
        terminal.send("SELECT 'after' AS s;\r")
        terminal.wait("│ after   │")
        terminal.send("\x04")
        assert terminal.wait_exit() == 0


def test_history_is_kept_and_private(tmp_path: Path) -> None:
    with driver.Terminal(tmp_path) as terminal:
        terminal.wait("halo>")
        terminal.send("SELECT 'remember' AS me;\r")
        terminal.wait("│ remember │")
        terminal.send("\x04")
        terminal.wait_exit()
    assert (tmp_path / "history").stat().st_mode & 0o777 == 0o600
    with driver.Terminal(tmp_path) as terminal:
        terminal.wait("halo>")
        terminal.send("\x1b[A")
        terminal.wait("SELECT 'remember' AS me;")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("SELECT * FROM customer_o\t", "customer_orders"),
        ("SELECT order_nu\t", "order_number"),
        ("sele\t", "select"),
        (".tab\t", ".tables"),
        ("SELECT LLM_FIL\t", "LLM_FILTER"),
        ("SELECT regexp_split_to_t\t", "regexp_split_to_table"),
    ],
)
def test_completion(tmp_path: Path, typed: str, completed: str) -> None:
    with driver.Terminal(tmp_path, "-cmd", "CREATE TABLE customer_orders (order_number INTEGER)") as terminal:
        terminal.wait("halo>")
        terminal.send(typed)
        terminal.wait(completed)
