"""Whatever is done to a valid statement: a plan, or an error of ours. ``fuzz_statements.py`` goes on for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from halo_sql.session import Session

from .edits import KINDS, WORDS, check, edited, session, statements

EDITS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 300), st.sampled_from(WORDS)), min_size=1, max_size=4)
SOME = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def planner() -> Iterator[Session]:
    found = session()
    yield found
    found.close()


@SOME
@given(st.sampled_from(statements()), EDITS)
@example("SELECT LLM_MAP('x')", [("put", 0, "\ud800")])
@example("SELECT LLM_MAP('x')", [("into", 3, "\x00")])
def test_edited_statements_are_planned_or_refused(
    planner: Session, sql: str, edits: list[tuple[str, int, str]]
) -> None:
    check(planner, edited(sql, edits))


@SOME
@given(st.sampled_from(statements()), st.sampled_from(statements()), st.integers(0, 400), st.integers(0, 400))
def test_halves_of_two_statements(planner: Session, left: str, right: str, first: int, second: int) -> None:
    check(planner, left[: first % (len(left) + 1)] + right[second % (len(right) + 1) :])


@SOME
@given(st.text(max_size=200))
def test_any_text(planner: Session, text: str) -> None:
    check(planner, text)
    check(planner, f"SELECT LLM_MAP({text}) FROM t")
    check(planner, "SELECT LLM_MAP('" + text.replace("'", "''") + "') FROM t")


@pytest.mark.parametrize("unit", ["{{ a }} ", "é", "\U0001f600 ", "'' ", "{{{{ ", "\x00"])
def test_a_megabyte_in_a_literal(planner: Session, unit: str) -> None:
    text = unit * (1_000_000 // len(unit) // (1 if len(unit) < 6 else 50))
    check(planner, f"SELECT LLM_MAP('{text}') FROM t")


@pytest.mark.parametrize(
    "unit", ["(", "[", "{", "'", '"', "$", "-", "/*", "CASE ", "a.", "SELECT ", "?", ", ", "\U0001f600"]
)
def test_a_long_run_of_anything(planner: Session, unit: str) -> None:
    run = unit * 20_000
    check(planner, "SELECT LLM_MAP('{{ a }}') " + run)
    check(planner, run + " LLM_MAP('x')")
