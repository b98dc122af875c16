"""Statements with LLM calls through the Python face, answered by the echo engine or a Python callable."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql

ECHO = (
    "SELECT n, LLM_MAP('{{ s }}', model => 'echo') AS s "
    "FROM (SELECT range AS n, 'v' || range % 3 AS s FROM range(10)) ORDER BY n"
)


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect(config={"halo_store": "off"}) as connection:
        yield connection


def wanted() -> list[tuple[int, str]]:
    return [(number, f"v{number % 3}") for number in range(10)]


def test_every_way_of_fetching(con: halo_sql.Connection) -> None:
    assert con.execute(ECHO).fetchall() == wanted()
    assert [column[:2] for column in con.description or []] == [("n", halo_sql.NUMBER), ("s", halo_sql.STRING)]
    assert con.execute(ECHO).fetchmany(3) == wanted()[:3]
    assert con.execute(ECHO).to_arrow_table().to_pylist()[4] == {"n": 4, "s": "v1"}
    assert con.execute(ECHO).df().shape == con.execute(ECHO).pl().shape == (10, 2)
    assert con.rowcount == -1


def test_python_values_of_typed_answers(con: halo_sql.Connection) -> None:
    sql = "SELECT LLM_MAP('{{ s }}', model => 'echo', returns => 'STRUCT(a INTEGER, d DATE)') AS x FROM (SELECT ? AS s)"
    text = json.dumps({"a": 1, "d": "2020-01-02"})
    plain = con.execute("SELECT {'a': 1::INTEGER, 'd': DATE '2020-01-02'} AS x").fetchall()
    assert con.execute(sql, [text]).fetchall() == plain


def test_streams(con: halo_sql.Connection) -> None:
    rows = [row for batch in con.stream(ECHO) for row in batch.to_pylist()]
    assert [tuple(row.values()) for row in rows] == wanted()

    async def read() -> list[Any]:
        return [row async for batch in con.astream(ECHO) for row in batch.to_pylist()]

    assert asyncio.run(read()) == rows


def test_profile_and_explain(con: halo_sql.Connection) -> None:
    assert con.last_profile() is None
    con.execute(ECHO).fetchall()
    profile = con.last_profile()
    assert profile is not None
    assert profile["query"] == ECHO
    assert profile["totals"]["llm_calls"] == 3
    assert profile["totals"]["llm_calls"] + profile["totals"]["llm_calls_coalesced"] <= 10
    assert profile["status"] == "done"
    assert "LlmMap" in con.explain(ECHO)
    analyzed = json.loads(con.explain(ECHO, analyze=True, format="json"))
    assert analyzed["totals"]["llm_calls"] == 3
    for form in ("html", "mermaid", "graphviz"):
        assert "LlmMap" in con.explain(ECHO, format=form)
    assert "Projection" in con.explain("SELECT 1") or "PROJECTION" in con.explain("SELECT 1")


def test_a_python_callable_as_a_model(con: halo_sql.Connection) -> None:
    con.create_model("shout", lambda messages: messages[-1]["content"].upper() + "!")
    sql = "SELECT LLM_MAP('say {{ s }}', model => 'shout') AS s FROM (VALUES ('a'), (NULL)) t(s)"
    assert con.execute(sql).fetchall() == [("SAY A!",), (None,)]


def test_counts_of_insert_and_ctas(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE t AS " + ECHO)
    assert con.rowcount == 10
    cursor = con.cursor()
    assert cursor.execute("INSERT INTO t " + ECHO).fetchall() == [(10,)]
    assert cursor.rowcount == 10
    assert cursor.description is None
    assert con.execute("SELECT count(*) FROM t").fetchone() == (20,)


def test_execute_batch(con: halo_sql.Connection) -> None:
    first, second = con.execute_batch(
        [ECHO, ("SELECT LLM_MAP('{{ x }}', model => 'echo') AS y FROM (SELECT $1 AS x)", ["p"])]
    )
    assert first.fetchall() == wanted()
    assert second.fetchall() == [("p",)]


def test_a_half_read_result_does_not_stand_in_the_way(con: halo_sql.Connection) -> None:
    assert con.execute(ECHO).fetchone() == (0, "v0")
    assert con.execute(ECHO).fetchone() == (0, "v0")
    assert con.execute("SELECT 1").fetchall() == [(1,)]
    profile = con.last_profile()
    assert profile is not None
    assert profile["status"] in ("done", "cancelled")


def test_errors_have_a_place(con: halo_sql.Connection) -> None:
    with pytest.raises(halo_sql.ProgrammingError) as caught:
        con.execute("SELECT LLM_MAP('{{ nope }}', model => 'echo') FROM (SELECT 1 AS s)")
    assert "nope" in str(caught.value)
    assert "^" in str(caught.value)
    with pytest.raises(halo_sql.ProgrammingError, match="ech"):
        con.execute("SELECT LLM_MAP('{{ s }}', model => 'ech') FROM (SELECT 1 AS s)")


def test_interrupt_reaches_requests_in_flight(con: halo_sql.Connection) -> None:
    started = threading.Event()

    async def never(messages: Any) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    con.create_model("never", never)

    def press() -> None:
        started.wait(20)
        con.interrupt()

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(halo_sql.InterruptedQueryError):
        con.execute("SELECT LLM_MAP('{{ s }}', model => 'never') FROM (VALUES ('a')) t(s)").fetchall()
    presser.join()
    assert con.execute(ECHO).fetchone() == (0, "v0")


def test_cancelling_an_asyncio_task_cancels_the_query(con: halo_sql.Connection) -> None:
    started = threading.Event()

    async def never(messages: Any) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    con.create_model("never", never)

    async def cancelled() -> None:
        async def read() -> None:
            async for _ in con.astream("SELECT LLM_MAP('{{ s }}', model => 'never') FROM (VALUES ('a')) t(s)"):
                pass

        task = asyncio.create_task(read())
        await asyncio.to_thread(started.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert con.execute(ECHO).fetchone() == (0, "v0")
