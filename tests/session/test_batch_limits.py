"""Limits that are reached in the midst of a batch: who gets the error, and what the others keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import halo_sql

from .batch_support import Model, batch, connected

ROWS = [(f"x{number}",) for number in range(10)]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def con(model: Model) -> Iterator[halo_sql.Connection]:
    with connected(model) as connection:
        yield connection


def text(number: int) -> str:
    """A statement of ten calls that no other number makes."""
    return f"SELECT LLM_MAP('{{{{ c }}}} {number}') AS x FROM t ORDER BY a"


def rows(number: int) -> list[tuple[str]]:
    return [(f"x{row} {number}",) for row in range(10)]


def refused(found: list[tuple[object, ...]]) -> list[bool]:
    return [name == "EngineError" for name, _ in found]


BARRIER = "CREATE OR REPLACE TABLE u AS SELECT 1 AS i"


def test_behind_a_barrier_statements_that_ended_keep_their_rows(con: halo_sql.Connection, model: Model) -> None:
    con.execute("SET halo_max_calls = 25")
    found = batch(con, [text(0), BARRIER, text(1), BARRIER, text(2), "SELECT count(*) FROM u", BARRIER, text(0)])
    assert refused(found) == [False, False, False, False, True, False, False, True]
    assert [found[place][1] for place in (0, 2, 5)] == [rows(0), rows(1), [(1,)]]
    assert "25 LLM calls is reached" in str(found[4][1])
    assert len(model.asked) <= 25  # what was on its way when it ended may not have come to the model


def test_in_one_plan_those_fail_whose_calls_are_refused(con: halo_sql.Connection, model: Model) -> None:
    con.execute("SET halo_max_calls = 25")
    statements = [text(0), text(1), text(0), text(2), "SELECT c FROM t ORDER BY a LIMIT 1"]
    found = batch(con, statements)
    assert len(model.asked) <= 25
    failed = refused(found)
    assert failed[0] == failed[2], "they share their calls"
    assert 1 <= sum(failed) <= 3
    assert not failed[4]
    for place, number in ((0, 0), (1, 1), (2, 0), (3, 2)):
        if failed[place]:
            assert "25 LLM calls is reached" in str(found[place][1])
        else:
            assert found[place][1] == rows(number)


def test_a_statement_that_needs_no_more_calls_is_not_refused(con: halo_sql.Connection, model: Model) -> None:
    con.execute("SET halo_max_calls = 10")
    shared = [text(0), text(0).replace("ORDER BY a", "WHERE a < 5 ORDER BY a"), f"SELECT count(*) FROM ({text(0)})"]
    found = batch(con, shared)
    assert [values for _, values in found] == [rows(0), rows(0)[:5], [(10,)]]
    assert len(model.asked) == 10
    found = batch(con, [*shared, BARRIER, text(1)])
    assert refused(found) == [False, False, False, False, True]


def test_tokens_and_calls_of_agents_count_over_the_batch(con: halo_sql.Connection) -> None:
    con.execute("CREATE AGENT plain WITH (model = echo)")
    agents = ["SELECT AGENT(plain, 'Say {{ c }}') AS x FROM t ORDER BY a", "SELECT AGENT(plain, 'Tell {{ c }}') FROM t"]
    con.execute("SET halo_max_calls = 15")
    found = batch(con, [agents[0], BARRIER, agents[1], "SELECT AGENT(plain, 'Say {{ c }}') AS x FROM t WHERE a < 0"])
    assert refused(found) == [False, False, True, False]
    assert len(found[0][1]) == 10  # type: ignore[arg-type]
    con.execute("RESET halo_max_calls")
    con.execute("SET halo_max_tokens = 12000")
    long = f"SELECT LLM_MAP('{{{{ c }}}} {'word ' * 200}', model => 'echo', max_tokens => 400) AS x FROM t"
    found = batch(con, [long, BARRIER, long.replace("word", "sort"), BARRIER, long.replace("word", "more"), "SELECT 1"])
    failed = refused(found)
    assert not failed[0]
    assert not failed[5]
    assert failed[4]
    assert "12,000 tokens is reached" in str(found[4][1])


def test_on_error_null_does_not_hide_a_limit_and_the_next_batch_has_its_own(con: halo_sql.Connection) -> None:
    con.execute("SET halo_max_calls = 12")
    lenient = [text(number).replace("')", "', on_error => 'null')") for number in (0, 1)]
    found = batch(con, [lenient[0], BARRIER, lenient[1]])
    assert found[0][1] == rows(0)
    assert "12 LLM calls is reached" in str(found[2][1])
    assert batch(con, [text(3)])[0][1] == rows(3)


def test_seconds_end_what_runs_and_leave_what_has_ended(con: halo_sql.Connection) -> None:
    async def slow(messages: list[dict[str, str]]) -> str:
        import asyncio

        await asyncio.sleep(60)
        return ""

    con.create_model("slow", slow)
    con.execute("SET halo_max_seconds = 1")
    found = batch(con, [text(0), BARRIER, "SELECT LLM_MAP('{{ c }}', model => 'slow') FROM t", BARRIER, text(1)])
    assert found[0][1] == rows(0)
    assert refused(found) == [False, False, True, False, True]
    assert all("1 seconds is reached" in str(found[place][1]) for place in (2, 4))
