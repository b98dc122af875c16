"""Equal sub-plans of one statement are run once: the same rows and errors, and what must not be one stays two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql
from halo_sql.ir.physical import MaterializeExec, PhysicalDag, calls_by
from halo_sql.optimizer.optimize import Optimized

from .batch_support import SETUP, Model, connected, told


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def con(model: Model) -> Iterator[halo_sql.Connection]:
    with connected(model) as connection:
        connection.execute(
            "CREATE TOOL twice(n INTEGER) RETURNS INTEGER STABLE AS SQL $$ SELECT 2 * $n $$;"
            "CREATE TOOL draw(n INTEGER) RETURNS DOUBLE VOLATILE AS SQL $$ SELECT $n + random() $$;"
            "CREATE TEMP AGENT clerk WITH (model = 'm');"
            "CREATE VIEW shaken AS SELECT a, b, c || random() AS c FROM t;"
        )
        yield connection


def planned(con: halo_sql.Connection, query: str) -> PhysicalDag:
    found = con.session.compile(query)
    assert isinstance(found, Optimized)
    return found.dag


def callers(dag: PhysicalDag) -> int:
    """Nodes that make calls."""
    return sum(bool(calls_by(node.op)) for node in dag.nodes)


def spools(dag: PhysicalDag) -> int:
    return sum(isinstance(node.op, MaterializeExec) for node in dag.nodes)


ASKED = "SELECT LLM_MAP('say {{ c }}') AS m FROM t"
AGREED = "SELECT a FROM t WHERE LLM_FILTER('yes {{ c }}')"
DONE = "SELECT AGENT(clerk, c, on_error => 'null') FROM t"
ALL = "SELECT b, LLM_REDUCE('all', c) FROM t GROUP BY b"
DRAWN = "SELECT LLM_MAP('say {{ c }}') FROM t TABLESAMPLE 9 ROWS"
MAP = "SELECT a, LLM_MAP('say {{ c }}') AS m FROM t"
#: statement -> nodes that make calls, and results that are kept for several readers
SHARED: dict[str, tuple[int, int]] = {
    f"{MAP} UNION ALL {MAP}": (1, 1),
    f"WITH x AS ({MAP}), y AS ({MAP}) SELECT * FROM x UNION ALL SELECT * FROM y": (1, 1),
    f"WITH x AS ({MAP}), y AS (SELECT LLM_MAP('say {{{{ c }}}}') AS n, a AS k FROM t) "
    "SELECT a, m FROM x UNION ALL SELECT k, n FROM y": (1, 1),
    f"WITH x AS ({MAP}), y AS (SELECT z AS n, k FROM (SELECT LLM_MAP('say {{{{ c }}}}') AS z, a AS k FROM t)) "
    "SELECT x.a, m, n FROM x FULL JOIN y ON x.a = y.k + 1": (1, 1),
    f"SELECT count(*) FROM ({MAP}) WHERE m IN (SELECT LLM_MAP('say {{{{ c }}}}') FROM t WHERE b = 1)": (2, 0),
    f"SELECT count(*) FROM ({ASKED}) WHERE m IN ({ASKED})": (1, 1),
    f"{AGREED} INTERSECT {AGREED}": (1, 1),
    "SELECT TOOL(twice, a::INTEGER) AS d FROM t UNION ALL SELECT TOOL(twice, a::INTEGER) FROM t": (1, 1),
    f"{DONE} UNION ALL {DONE}": (1, 1),
    f"SELECT LLM_MAP('1 {{{{ m }}}}') FROM ({MAP}) UNION ALL SELECT LLM_MAP('2 {{{{ m }}}}') FROM ({MAP})": (3, 1),
    f"{ALL} UNION ALL {ALL}": (1, 1),
    f"SELECT * FROM ({MAP} LIMIT 3) UNION ALL SELECT * FROM ({MAP} LIMIT 3)": (1, 1),
    f"SELECT * FROM ({MAP} ORDER BY a DESC LIMIT 3) UNION ALL SELECT * FROM ({MAP} ORDER BY a DESC LIMIT 3)": (1, 1),
    f"SELECT x.m, max(y.m) FROM ({MAP}) x LEFT JOIN ({MAP}) y ON x.a < y.a AND x.m > y.m GROUP BY ALL": (1, 1),
}
APART = [
    "SELECT LLM_MAP('say {{ c }}') FROM t UNION ALL SELECT LLM_MAP('say  {{ c }}') FROM t",
    "SELECT LLM_MAP('say {{ c }}') FROM t UNION ALL SELECT LLM_MAP('say {{ b }}') FROM t",
    "SELECT LLM_MAP('say {{ c }}') FROM t UNION ALL SELECT LLM_MAP('say {{ c }}') FROM t WHERE a < 5",
    "SELECT LLM_MAP('say {{ c }}', max_tokens => 9) FROM t UNION ALL SELECT LLM_MAP('say {{ c }}') FROM t",
    "SELECT LLM_MAP('say {{ c }}', on_error => 'null') FROM t UNION ALL SELECT LLM_MAP('say {{ c }}') FROM t",
    "SELECT LLM_MAP('say {{ c }}', temperature => 0.5) FROM t UNION ALL "
    "SELECT LLM_MAP('say {{ c }}', temperature => 0.5) FROM t",
    "SELECT TOOL(draw, a::INTEGER) FROM t UNION ALL SELECT TOOL(draw, a::INTEGER) FROM t",
    "SELECT LLM_MAP('say {{ c }}') FROM shaken UNION ALL SELECT LLM_MAP('say {{ c }}') FROM shaken",
    "SELECT LLM_MAP('say {{ random() }}') FROM t UNION ALL SELECT LLM_MAP('say {{ random() }}') FROM t",
    f"{DRAWN} UNION ALL {DRAWN}",
    "SELECT * FROM (SELECT LLM_MAP('say {{ c }}') FROM t ORDER BY a LIMIT 3) UNION ALL "
    "SELECT * FROM (SELECT LLM_MAP('say {{ c }}') FROM t ORDER BY a LIMIT 4)",
    "SELECT CASE WHEN b = 1 THEN LLM_MAP('say {{ c }}') END FROM t UNION ALL SELECT LLM_MAP('say {{ c }}') FROM t",
]


@pytest.mark.parametrize("query", SHARED)
def test_equal_sub_plans_are_one_node_with_several_readers(con: halo_sql.Connection, model: Model, query: str) -> None:
    expected, kept = SHARED[query]
    dag = planned(con, query)
    assert (callers(dag), spools(dag)) == (expected, kept)
    assert ("→ #" in con.execute(f"EXPLAIN {query}").fetchall()[0][1]) == bool(kept)
    rows = Counter(con.execute(query).fetchall())
    once = Counter(model.asked)
    if "AGENT" not in query:  # it is asked again for a better answer
        assert set(once.values()) <= {1}
    for setting in ("halo_disabled_rules = 'share_subplans'", "halo_optimizer = 'off'"):
        con.execute(f"SET {setting}")
        if kept:
            assert callers(planned(con, query)) > expected
        assert Counter(con.execute(query).fetchall()) == rows


@pytest.mark.parametrize("query", APART)
def test_what_differs_or_may_differ_each_time_stays_apart(con: halo_sql.Connection, query: str) -> None:
    dag = planned(con, query)
    assert (callers(dag), spools(dag)) == (2, 0)


def test_rows_go_through_the_shared_node_once(con: halo_sql.Connection) -> None:
    query = f"{MAP} UNION ALL {MAP} UNION ALL {MAP}"
    con.execute(query).fetchall()
    assert con.last_profile()["totals"]["llm_calls_coalesced"] == 0
    con.execute("SET halo_disabled_rules = 'share_subplans'")
    con.execute(query).fetchall()
    assert con.last_profile()["totals"]["llm_calls_coalesced"] == 20


def act(n: int) -> int:
    return n


@pytest.mark.parametrize("acts", [False, True])
def test_tools_with_side_effects_are_called_by_each_part(acts: bool) -> None:
    query = "SELECT TOOL(act, a::INTEGER) FROM t UNION ALL SELECT TOOL(act, a::INTEGER) FROM t"
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as con:
        con.execute(SETUP)
        con.create_tool("act", act, side_effects=acts, egress=False)
        assert callers(planned(con, query)) == (2 if acts else 1)


def test_a_scan_is_read_again_and_what_takes_long_to_make_is_kept(con: halo_sql.Connection) -> None:
    apart = "SELECT LLM_MAP('1 {{ c }}') FROM t UNION ALL SELECT LLM_MAP('2 {{ c }}') FROM t"
    assert spools(planned(con, apart)) == 0
    con.execute("CREATE TABLE long AS SELECT i % 5 AS g FROM range(20_000_000) r(i)")
    groups = "(SELECT g, count(*) AS n FROM long GROUP BY g)"
    dear = f"SELECT LLM_MAP('1 {{{{ n }}}}') FROM {groups} UNION ALL SELECT LLM_MAP('2 {{{{ n }}}}') FROM {groups}"
    dag = planned(con, dear)
    assert (callers(dag), spools(dag)) == (2, 1)


def test_a_long_scan_that_a_limit_stops_is_not_read_to_its_end(con: halo_sql.Connection) -> None:
    for rows, expected in ((1_000, 1), (3_000_000, 2)):
        con.execute(f"CREATE OR REPLACE TABLE long AS SELECT 'yes ' || i AS c FROM range({rows}) r(i)")
        part = "SELECT c FROM long WHERE LLM_FILTER('{{ c }}') LIMIT 3"
        assert callers(planned(con, f"SELECT * FROM ({part}) UNION ALL SELECT * FROM ({part})")) == expected


def test_a_failing_call_ends_the_statement_as_if_it_were_made_twice(con: halo_sql.Connection) -> None:
    boom = "SELECT LLM_MAP('boom {{ c }}') AS m FROM t"
    query = f"{boom} UNION ALL {boom}"
    together = told(lambda: con.execute(query).fetchall())
    con.execute("SET halo_disabled_rules = 'share_subplans'")
    assert told(lambda: con.execute(query).fetchall()) == together
    assert "boom" in str(together)


def test_a_limit_over_shared_parts_asks_no_more_than_they_would(con: halo_sql.Connection, model: Model) -> None:
    con.execute("CREATE TABLE many AS SELECT 'n' || i AS c FROM range(500) r(i)")
    part = "SELECT LLM_MAP('{{ c }}') AS m FROM many"
    query = f"SELECT * FROM ({part} UNION ALL {part}) LIMIT 5"
    counts: list[int] = []
    for setting in ("", "share_subplans"):
        con.execute(f"SET halo_disabled_rules = '{setting}'")
        assert len(con.execute(query).fetchall()) == 5
        counts.append(len(model.asked))
        model.asked.clear()
    assert counts[0] <= counts[1]


def test_statements_of_a_batch_share_what_each_shares_in_itself(con: halo_sql.Connection, model: Model) -> None:
    twice = f"{MAP} UNION ALL {MAP}"
    statements: list[Any] = [
        twice,
        MAP,
        f"SELECT count(*) FROM ({twice}) WHERE m > ''",
    ]
    alone = [con.execute(statement).fetchall() for statement in statements]
    model.asked.clear()
    together = [cursor.fetchall() for cursor in con.execute_batch(statements)]
    assert [Counter(rows) for rows in together] == [Counter(rows) for rows in alone]
    assert Counter(model.asked) == {f"say x{number}": 1 for number in range(10)}
