"""Agents with tools, calls that may differ and calls that fail, in several statements of a batch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql
from tests.agents.helpers import Messages, answer, calls

from .agents_support import connect, data, results
from .batch_support import batch, told


class Looking:
    """A connection with agents that look something up before they answer.

    prompts  how often a conversation about a row asked the model
    looked   what the tool was asked
    """

    def __init__(self, con: halo_sql.Connection) -> None:
        self.con = con
        self.prompts: Counter[int] = Counter()
        self.looked: list[int] = []
        self.drawn = itertools.count()

        def model(messages: Messages) -> dict[str, Any]:
            row = int(data(messages)["n"])
            self.prompts[row] += 1
            if row == 7:
                return {"no": "step"}
            if messages[-1]["role"] != "user" or len(messages) < 3:
                return calls(("look", {"n": row}))
            [found] = results(messages)
            return answer(str(found.get("result", found.get("error"))))

        def draw(messages: Messages) -> str:
            return f"{messages[-1]['content']} {next(self.drawn)}"

        def look(n: int) -> int:
            self.looked.append(n)
            if n == 5:
                raise ValueError("five is lost")
            return 100 * n

        def ticket(n: int) -> int:
            return 1000 * (1 + next(self.drawn)) + n

        con.create_model("m", lambda messages: model_text(model(messages)), concurrency=8)
        con.create_model("d", draw, concurrency=8)
        con.create_tool("look", look, egress=False)
        con.create_tool("ticket", ticket, volatility="volatile", egress=False)
        con.execute("CREATE TEMP AGENT g WITH (model = m, tools = [look], egress = [look])")
        con.execute("CREATE TABLE t AS SELECT range::INTEGER AS n, 'x' || range AS c FROM range(10)")

    def one_by_one(self, statements: list[str]) -> list[tuple[Any, ...]]:
        return [told(lambda sql=sql: self.con.execute(sql)) for sql in statements]  # type: ignore[misc]

    def forget(self) -> None:
        self.prompts.clear()
        self.looked.clear()


def model_text(step: dict[str, Any]) -> str:
    import json

    return json.dumps(step)


@pytest.fixture
def looking() -> Iterator[Looking]:
    with connect(verify=True) as con:
        yield Looking(con)


def test_agents_with_tools_give_what_they_give_alone_and_equal_ones_talk_once(looking: Looking) -> None:
    statements = [
        "SELECT n, AGENT(g, 'About {{ n }}') AS x FROM t WHERE n < 7 ORDER BY n",
        "SELECT upper(AGENT(g, 'About {{ n }}')) AS y, c FROM t WHERE n < 7 ORDER BY c",
        "SELECT count(*) FILTER (WHERE AGENT(g, 'About {{ n }}') = '300') AS z FROM t WHERE n BETWEEN 3 AND 6",
        "SELECT a.answer, a.steps FROM t, AGENT(g, 'About {{ t.n }}') AS a WHERE t.n < 4 ORDER BY t.n",
    ]
    expected = looking.one_by_one(statements)
    alone = sum(looking.prompts.values())
    looking.forget()
    assert batch(looking.con, statements) == expected
    assert [len(rows) for _, rows in expected] == [7, 7, 1, 4]
    assert sum(looking.prompts.values()) < alone
    assert max(looking.prompts[row] for row in (4, 5, 6)) <= 2 * 2  # two steps, in values and counts
    assert max(Counter(looking.looked).values()) == 1  # a STABLE tool, once per arguments


def test_a_conversation_that_fails_is_an_error_of_the_statements_that_have_its_row(looking: Looking) -> None:
    statements = [
        "SELECT n, AGENT(g, 'About {{ n }}') AS x FROM t WHERE n < 7 ORDER BY n",
        "SELECT AGENT(g, 'About {{ n }}') AS x FROM t ORDER BY n",
        "SELECT c, AGENT(g, 'About {{ n }}', on_error => 'null') AS x FROM t ORDER BY n",
        "SELECT AGENT(g, 'About {{ n }}') AS x FROM t WHERE n > 7 ORDER BY n",
    ]
    expected = looking.one_by_one(statements)
    assert [rows[0] == "EngineError" for rows in expected] == [False, True, False, False]
    looking.forget()
    found = batch(looking.con, statements)
    assert found == expected
    assert found[2][1][7] == ("x7", None)
    assert "five is lost" in found[0][1][5][1]  # told to the agent, which went on


def test_calls_on_answers_of_agents_are_parts_of_the_plan(looking: Looking) -> None:
    statements = [
        "SELECT LLM_MAP('{{ x }}', model => 'echo') AS y FROM "
        "(SELECT n, AGENT(g, 'About {{ n }}') AS x FROM t WHERE n < 4) ORDER BY n",
        "SELECT count(*) FROM (SELECT AGENT(g, 'About {{ n }}') AS x FROM t WHERE n < 4) WHERE LLM_FILTER('{{ x }}', "
        "model => 'echo', on_error => 'null') IS NULL",
        "SELECT TOOL(look, n) AS v FROM t WHERE n < 4 ORDER BY n",
    ]
    expected = looking.one_by_one(statements)
    looking.forget()
    assert batch(looking.con, statements) == expected
    assert Counter(looking.looked) == dict.fromkeys(range(4), 2)  # once for all agents, once for TOOL


# --- what may differ


@pytest.mark.parametrize(
    "call",
    [
        "LLM_MAP('{{ c }}', model => 'd', temperature => 0.9)",
        "TOOL(ticket, n)::VARCHAR",
        "AGENT(hot, '{{ c }}')",
        "AGENT(drawing, '{{ n }}')",
    ],
)
def test_statements_with_calls_that_may_differ_have_answers_of_their_own(looking: Looking, call: str) -> None:
    def free(messages: Messages) -> str:
        return model_text(answer(f"{next(looking.drawn)}"))

    def drawing(messages: Messages) -> str:
        if len(messages) < 3:
            return model_text(calls(("ticket", {"n": 1})))
        return model_text(answer(str(results(messages)[0]["result"])))

    looking.con.create_model("free", free, concurrency=8)
    looking.con.create_model("draws", drawing, concurrency=8)
    looking.con.execute("CREATE TEMP AGENT hot WITH (model = free, temperature = 1)")
    looking.con.execute("CREATE TEMP AGENT drawing WITH (model = draws, tools = [ticket], egress = [ticket])")
    statement = f"SELECT {call} AS x FROM t ORDER BY n"
    found = batch(looking.con, [statement, statement, "SELECT count(*) FROM t", statement])
    texts = [[row[0] for row in found[place][1]] for place in (0, 1, 3)]
    assert [len(each) for each in texts] == [10, 10, 10]
    assert len(set(itertools.chain(*texts))) == 30
    steady = statement.replace("temperature => 0.9", "temperature => 0.9, seed => 4")
    if steady != statement:
        found = batch(looking.con, [steady, steady])
        assert found[0] == found[1]


# --- what fails while others share it


def test_a_tool_that_raises_leaves_the_other_statements_all_their_rows(looking: Looking) -> None:
    looking.con.execute("CREATE TABLE many AS SELECT range::INTEGER AS n, range % 5 AS k FROM range(6000)")

    def picky(n: int) -> int:
        if n == 4321:
            raise ValueError("not this one")
        return n + 1

    looking.con.create_tool("picky", picky, concurrency=8)
    statements = [
        "SELECT TOOL(picky, n) AS v FROM many WHERE n <> 4321",
        "SELECT n, TOOL(picky, n) AS v FROM many",
        "SELECT n, TOOL(picky, n) + k AS v FROM many WHERE n < 4000",
        "SELECT TOOL(picky, n, on_error => 'null') AS v FROM many",
        "SELECT sum(TOOL(picky, n)) AS v FROM many",
        "SELECT k, count(TOOL(picky, n, on_error => 'null')) AS v FROM many GROUP BY k",
        "SELECT n, TOOL(picky, n) AS v FROM many ORDER BY n LIMIT 5",
    ]
    found = batch(looking.con, statements)
    failed = [rows[0] == "EngineError" for rows in found]
    assert failed == [False, True, False, False, True, False, False]
    assert all("not this one" in str(found[place][1]) for place in (1, 4))
    assert sorted(found[0][1]) == [(n + 1,) for n in range(6000) if n != 4321]
    assert sorted(found[2][1]) == [(n, n + 1 + n % 5) for n in range(4000)]
    assert Counter(row[0] for row in found[3][1])[None] == 1
    assert len(found[3][1]) == 6000
    assert sorted(found[5][1]) == [(k, 1200 - (k == 4321 % 5)) for k in range(5)]
    assert found[6][1] == [(n, n + 1) for n in range(5)]


def test_a_tool_that_raises_below_shared_model_calls(looking: Looking) -> None:
    inner = "SELECT n, TOOL(look, n) AS v FROM t"
    statements = [
        f"SELECT LLM_MAP('{{{{ v }}}}', model => 'echo') AS x FROM ({inner}) ORDER BY n",
        f"SELECT LLM_MAP('{{{{ v }}}}', model => 'echo') AS x FROM ({inner} WHERE n <> 5) ORDER BY n",
        f"SELECT LLM_MAP('{{{{ v }}}}', model => 'echo') AS y, n FROM ({inner} WHERE n <> 5) ORDER BY n DESC",
        "SELECT LLM_MAP('{{ n }}', model => 'echo') AS z FROM t ORDER BY n",
    ]
    expected = looking.one_by_one(statements)
    found = batch(looking.con, statements)
    assert found == expected
    assert [rows[0] == "EngineError" for rows in found] == [True, False, False, False]
    assert [len(found[place][1]) for place in (1, 2, 3)] == [9, 9, 10]


def test_errors_point_into_their_own_statement(looking: Looking) -> None:
    statements = [
        "SELECT TOOL(look, n) AS v FROM t",
        "SELECT 'here', c, n, TOOL(look, n) AS v FROM t WHERE n > 1",
    ]
    for cursor, text in zip(looking.con.execute_batch(statements), statements, strict=True):
        with pytest.raises(halo_sql.Error, match="five is lost") as caught:
            cursor.fetchall()
        assert caught.value.sql == text
        assert caught.value.span is not None
        assert text[caught.value.span.start :].startswith("TOOL(look")
