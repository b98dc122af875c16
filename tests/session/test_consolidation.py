"""A batch is one plan: the same rows and errors as one by one, no more calls, and equal work done once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import halo_sql
from halo_sql.optimizer.consolidate import consolidate

from .batch_support import MORE, WHOLE, Messages, Model, batch, connected, one_by_one


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def con(model: Model) -> Iterator[halo_sql.Connection]:
    with connected(model) as connection:
        yield connection


STATEMENTS: list[Any] = [
    WHOLE,
    MORE,
    "SELECT LLM_MAP('boom {{ c }}') AS m, c AS z FROM t",
    "SELECT c AS z, LLM_MAP('boom {{ c }}') AS m FROM t ORDER BY a LIMIT 3",
    "SELECT c AS z, LLM_MAP('boom {{ z }}') AS m FROM (SELECT *, c AS z FROM t)",
    "SELECT 42 AS x",
    "SELECT LLM_MAP('{{ c }}') AS m, c AS z FROM t",
    "SELECT c AS z, LLM_MAP('{{ c }}') AS m FROM t",
    ("SELECT LLM_MAP('{{ c }}'), ? AS p FROM t WHERE a < $2", ["p", 4]),
    "SELECT b, LLM_REDUCE('all', c ORDER BY a) FROM t GROUP BY b ORDER BY b",
    "SELECT b AS g, LLM_REDUCE('all', c ORDER BY a) AS r FROM t GROUP BY b ORDER BY b",
    "WITH q AS MATERIALIZED (SELECT c AS z, LLM_MAP('{{ c }}') AS m FROM t) SELECT x.m FROM q x, q y WHERE x.m = y.z",
    "SELECT LLM_MAP('{{ c }}', returns => 'DATE') FROM t",
    "SELECT a FROM t WHERE a > (SELECT count(*) FROM t WHERE LLM_FILTER('yes {{ a }}')) - 3",
    "SELECT LLM_MAP('{{ c }}') AS m, c AS m, c AS m FROM t",
    "SELECT LLM_MAP('boom {{ c }}', on_error => 'struct') AS m FROM t",
]


def test_rows_and_errors_are_those_of_one_by_one(con: halo_sql.Connection, model: Model) -> None:
    together = batch(con, STATEMENTS)
    calls = Counter(model.asked)
    model.asked.clear()
    assert together == one_by_one(con, STATEMENTS)
    alone = Counter(model.asked)
    assert calls.total() < alone.total() / 3
    assert all(count <= alone[prompt] for prompt, count in calls.items())
    assert calls["x1"] == 2  # as VARCHAR and as DATE: two different requests


def test_a_statement_that_cannot_be_bound_stops_the_batch_before_it_starts(
    con: halo_sql.Connection, model: Model
) -> None:
    for bad in (
        "SELECT LLM_MAP('{{ nope }}') FROM t",
        "SELECT nope FROM t",
        "INSERT INTO t SELECT nope, 1, 'y' FROM t",
        "CREATE TABLE n AS SELECT LLM_MAP('{{ nope }}') FROM t",
        "CREATE TABLE n AS SELECT nope FROM t",
    ):
        with pytest.raises(halo_sql.ProgrammingError, match=r"statement 3 of the batch: .*nope") as caught:
            con.execute_batch([WHOLE, "INSERT INTO t VALUES (10, 1, 'y')", bad, "SELECT 1"])
        assert caught.value.span is not None
        assert bad[caught.value.span.start : caught.value.span.end] == "nope"
    with pytest.raises(halo_sql.ProgrammingError, match="statement 2 of the batch"):
        con.execute(f"BEGIN BATCH; {WHOLE}; SELECT LLM_MAP('{{{{ nope }}}}') FROM t; END BATCH")
    assert model.asked == []
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(10,)]


def test_behind_a_statement_that_makes_something_errors_of_binding_stay_with_theirs(con: halo_sql.Connection) -> None:
    statements = [
        "CREATE TABLE u AS SELECT 1 AS i",
        "SELECT LLM_MAP('{{ i }}') FROM u",
        "SELECT LLM_MAP('{{ j }}') FROM u",
    ]
    made, seen, wrong = batch(con, [*statements])
    assert (made, seen[1]) == (([("Count", "BIGINT")], [(1,)]), [("1",)])
    assert wrong[0] == "BinderError"


def test_writes_are_seen_by_what_follows_and_not_by_what_stands_before(con: halo_sql.Connection, model: Model) -> None:
    count = "SELECT LLM_MAP('{{ count(*) }}') FROM t"
    statements = [
        *(count, "INSERT INTO t VALUES (10, 1, 'y')", count, "DELETE FROM t WHERE a < 5", count),
        *("CREATE TEMP TABLE u AS SELECT LLM_MAP('{{ c }}') AS m FROM t", "SELECT LLM_MAP('{{ max(m) }}') FROM u"),
        *("SET halo_default_model = 'echo'", "SELECT LLM_MAP('boom x7')", "RESET halo_default_model"),
    ]
    found = batch(con, statements)
    assert [found[place][1] for place in (0, 2, 4, 6, 8)] == [[("10",)], [("11",)], [("6",)], [("y",)], [("boom x7",)]]


def test_sequences_samples_and_volatile_views_keep_their_order(con: halo_sql.Connection) -> None:
    con.execute("CREATE SEQUENCE s; CREATE VIEW v AS SELECT nextval('s') AS n; CREATE MACRO m() AS nextval('s')")
    statements = [
        *("SELECT LLM_MAP('{{ nextval(''s'') }}')", "SELECT nextval('s')", "SELECT LLM_MAP('{{ n }}') FROM v"),
        *("SELECT m()", "SELECT LLM_MAP('{{ m() }}')"),
    ]
    assert [rows for _, rows in batch(con, statements)] == [[("1",)], [(2,)], [("3",)], [(4,)], [("5",)]]


def test_in_a_transaction_statements_run_in_order_and_an_error_ends_it_as_always(con: halo_sql.Connection) -> None:
    statements = [
        *("INSERT INTO t VALUES (10, 1, 'y')", "SELECT LLM_MAP('{{ count(*) }}') FROM t", WHOLE),
        *("SELECT error('stop') || LLM_MAP('x')", "SELECT LLM_MAP('z')"),
    ]
    found = []
    for run in (batch, one_by_one):
        con.begin()
        found.append(run(con, statements))
        con.rollback()
    assert found[0] == found[1]
    assert found[0][1][1] == [("11",)]
    assert found[0][4][0] != []
    assert con.execute("SELECT count(*) FROM t").fetchall() == [(10,)]


def test_prepared_statements_views_and_macros_are_a_part_of_the_plan(con: halo_sql.Connection, model: Model) -> None:
    con.execute("PREPARE p AS SELECT LLM_MAP('{{ c }}') AS m FROM t WHERE a < ?")
    con.execute("CREATE VIEW w AS SELECT LLM_MAP('{{ c }}') AS m FROM t; CREATE MACRO said(x) AS LLM_MAP('{{ x }}')")
    statements = ["EXECUTE p(3)", "SELECT m FROM w", "SELECT said(c) AS m FROM t", "EXECUTE p(5)"]
    assert con.explain_batch(statements).startswith("Statements 1, 2, 3, 4: one plan\n")
    together = batch(con, statements)
    assert Counter(model.asked) == Counter(f"x{i}" for i in range(10))
    assert together == one_by_one(con, statements)


def test_calls_that_may_differ_are_never_shared(con: halo_sql.Connection, model: Model) -> None:
    warm = "SELECT LLM_MAP('{{ c }}', temperature => 0.5) FROM t"
    batch(con, [warm, warm, warm])
    assert Counter(model.asked) == Counter({f"x{i}": 3 for i in range(10)})
    assert con.explain_batch([warm, warm]).count("LLM_MAP") == 2
    count = iter(range(1000))

    def ticket() -> int:
        return next(count)

    con.create_tool("ticket", ticket, volatility="volatile")
    found = batch(con, ["SELECT TOOL(ticket) FROM t", "SELECT TOOL(ticket) FROM t"])
    assert [sorted(row[0] for row in rows) for _, rows in found] == [list(range(10)), list(range(10, 20))]


def test_equal_tool_calls_of_different_statements_are_made_once(con: halo_sql.Connection) -> None:
    con.execute("CREATE TOOL twice(n INTEGER) RETURNS INTEGER AS SQL $$ SELECT 2 * $n $$")
    calls: list[int] = []

    def half(n: int) -> int:
        calls.append(n)
        return n // 2

    con.create_tool("half", half)
    statements = [
        *("SELECT TOOL(twice, n => a) FROM t", "SELECT b, TOOL(twice, n => a) + 1 FROM t WHERE a < 7"),
        *("SELECT TOOL(half, n => a) FROM t", "SELECT b, TOOL(half, n => a) FROM t ORDER BY a DESC"),
    ]
    together = batch(con, statements)
    assert sorted(calls) == list(range(10))
    totals = [profile.totals() for profile in con.session.profiles()[-4:]]
    assert sum(each["tool_calls"] for each in totals) == 20
    assert together == one_by_one(con, statements)


def test_a_limit_neither_stops_others_nor_makes_more_calls(con: halo_sql.Connection, model: Model) -> None:
    con.execute("CREATE TABLE many AS SELECT i AS a, 'x' || i AS c FROM range(2000) r(i)")
    few = "SELECT a FROM many WHERE LLM_FILTER('yes {{ a }}') LIMIT 3"
    all_ = "SELECT a FROM many WHERE LLM_FILTER('yes {{ a }}') AND a < 100"
    for statements in ([few, few], [few, few.replace("3", "5")], [few, all_, few]):
        model.asked.clear()
        together = batch(con, statements)
        assert len(model.asked) == len(set(model.asked))  # equal ones of what each reads ahead are one
        assert len(model.asked) <= (100 if all_ in statements else 0) + 64
        assert [sorted(rows) for _, rows in together] == [sorted(rows) for _, rows in one_by_one(con, statements)]


def test_different_columns_of_a_table_are_one_scan(con: halo_sql.Connection) -> None:
    statements = [
        "SELECT LLM_MAP('{{ c }}') FROM t",
        "SELECT b, LLM_MAP('{{ a }}') FROM t",
        "SELECT LLM_MAP('{{ b }}') FROM t",
    ]
    assert con.explain_batch(statements).count("DuckFragment") == 1
    assert batch(con, statements) == one_by_one(con, statements)
    con.execute("CREATE VIEW v AS SELECT a, c, CAST(c AS INTEGER) AS wrong FROM t")
    for source in ("v", "t"):
        last = "wrong" if source != "t" else "CAST(c AS INTEGER)"
        statements = [
            f"SELECT LLM_MAP('{{{{ a }}}}') FROM {source}",
            f"SELECT LLM_MAP('{{{{ {last} }}}}'), a FROM {source}",
        ]
        assert con.explain_batch(statements).count("DuckFragment") == 2
        together = batch(con, statements)
        assert together == one_by_one(con, statements)
        assert len(together[0][1]) == 10
        assert "Conversion Error" in together[1][1]


def test_limits_count_over_the_batch(con: halo_sql.Connection) -> None:
    con.execute("SET halo_max_calls = 25")
    texts = [f"SELECT LLM_MAP('{{{{ c }}}} {number}') FROM t" for number in range(2)]
    assert all(names for names, _ in batch(con, [texts[0], texts[0], texts[1]]))
    found = batch(con, [texts[0], "CREATE TABLE u (i INTEGER)", texts[1], "SELECT LLM_MAP('{{ c }} 2') FROM t"])
    assert "25 LLM calls is reached" in found[3][1]
    [(_, rows)] = one_by_one(con, ["SELECT LLM_MAP('{{ c }} 3') FROM t"])
    assert len(rows) == 10  # a new budget


def test_an_interrupt_ends_all(con: halo_sql.Connection) -> None:
    begun = threading.Event()

    async def slow(messages: Messages) -> str:
        import asyncio

        begun.set()
        await asyncio.sleep(60)
        return ""

    con.create_model("slow", slow)

    def stop() -> None:
        begun.wait(60)
        con.interrupt()

    thread = threading.Thread(target=stop)
    thread.start()
    started = time.monotonic()
    with pytest.raises(halo_sql.Error, match="nterrupted"):
        con.execute_batch(
            [f"SELECT LLM_MAP('{{{{ c }}}} {n}', model => 'slow') FROM t" for n in range(3)] + ["SELECT 1"]
        )
    thread.join()
    assert time.monotonic() - started < 55
    assert {profile.status for profile in con.session.profiles()[-3:]} == {"cancelled"}
    assert con.execute("SELECT LLM_MAP('a')").fetchall() == [("a",)]


def test_two_hundred_statements_are_planned_in_linear_time(con: halo_sql.Connection, model: Model) -> None:
    texts = [f"SELECT a, LLM_MAP('{{{{ c }}}} {n % 4}') FROM t WHERE a > {n % 5}" for n in range(200)]
    found = batch(con, texts)
    assert [len(rows) for _, rows in found] == [9 - n % 5 for n in range(200)]
    assert len(model.asked) == len(set(model.asked)) == 36
    plans = [con.session.compile(f"SELECT LLM_MAP('{{{{ c }}}}') FROM t WHERE a > {n}") for n in range(20)]

    def seconds(times: int) -> float:
        whole = plans * times
        return min(_took(lambda: consolidate(whole, ["x"] * len(whole))) for _ in range(3))

    assert seconds(40) < 8 * 4 * seconds(5)


def _took(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def test_a_batch_without_the_optimizer_is_one_by_one(con: halo_sql.Connection, model: Model) -> None:
    con.execute("SET halo_optimizer = 'off'")
    together = batch(con, [WHOLE, WHOLE])
    assert len(model.asked) == 40
    assert together == one_by_one(con, [WHOLE, WHOLE])
