"""The error rule: an optimised statement fails only for calls that the statement as written makes for that row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import halo_sql

LONG = "A very long explanation of what is asked here. " * 60


def model(messages: list[dict[str, str]]) -> str:
    """Fails where the prompt says fail, else no where it says no, else yes."""
    words = messages[-1]["content"].split()
    if "fail" in words:
        raise ValueError("no answer")
    return "no" if "no" in words else "yes"


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    config = {"halo_store": "off", "halo_default_model": "m", "halo_verify": True}
    with halo_sql.connect(config=config) as made:
        made.create_model("m", model)
        made.execute("CREATE TABLE t (id INTEGER, a VARCHAR, b VARCHAR)")
        # row 3 fails under b; a takes it out
        made.execute("INSERT INTO t SELECT i, 'row ' || i, 'row ' || i FROM range(12) r(i)")
        made.execute("UPDATE t SET b = 'fail' || ' ' || id, a = 'no ' || id WHERE id = 3")
        made.execute("UPDATE t SET b = 'no ' || id WHERE id % 2 = 0")
        made.execute("CREATE TABLE n AS SELECT i % 12 AS k, i AS other FROM range(240) r(i)")
        yield made


def outcome(con: halo_sql.Connection, sql: str, optimizer: str = "on") -> object:
    """The rows, or the text of the error."""
    con.execute(f"SET halo_optimizer = '{optimizer}'")
    try:
        return con.execute(sql).fetchall()
    except halo_sql.EngineError as problem:
        return str(problem)
    finally:
        con.execute("RESET halo_optimizer")


def plan(con: halo_sql.Connection, sql: str) -> str:
    return "\n".join(str(row[-1]) for row in con.execute(f"EXPLAIN {sql}").fetchall())


A_THEN_B = f"LLM_FILTER('{LONG} {{{{ id }}}} {{{{ a }}}}') AND LLM_FILTER('{{{{ b }}}}')"
REORDERED = {
    "order_llm_filters": f"SELECT id FROM t WHERE {A_THEN_B}",
    "llm_map_past_llm_filter": (
        f"SELECT id FROM t WHERE LLM_FILTER('{LONG} {{{{ id }}}} {{{{ a }}}}') AND LLM_MAP('{{{{ b }}}}') = 'yes'"
    ),
    "llm_filter_past_filter": (
        f"SELECT * FROM (SELECT *, LLM_MAP('{LONG} {{{{ a }}}}') AS s FROM t) "
        "WHERE s = 'yes' AND LLM_FILTER('{{ b }}')"
    ),
    "greedy order": f"SELECT id FROM t WHERE {A_THEN_B} AND "
    + " AND ".join(f"LLM_FILTER('{number} {LONG} {{{{ id }}}}')" for number in range(7)),
    "below a sort": f"SELECT id FROM t WHERE {A_THEN_B} ORDER BY id DESC",
    "an answer of a failed map in a prompt": (
        "SELECT id FROM (SELECT id, LLM_MAP('{{ b }}') AS s FROM t "
        f"WHERE LLM_FILTER('{LONG} {{{{ id }}}} {{{{ a }}}}')) WHERE s = 'yes' AND LLM_FILTER('really {{{{ s }}}}?')"
    ),
    "a case behind two filters": (
        f"SELECT id FROM t WHERE LLM_FILTER('{LONG} {{{{ id }}}} {{{{ a }}}}') "
        f"AND LLM_FILTER('{LONG} again {{{{ id }}}} {{{{ a }}}}') AND LLM_FILTER('{{{{ b }}}}')"
    ),
    "below a join": f"SELECT t.id FROM t JOIN n ON t.id = n.k WHERE {A_THEN_B}",
}


@pytest.mark.parametrize("name", REORDERED)
def test_a_row_that_another_condition_takes_out_first_does_not_fail_it(con: halo_sql.Connection, name: str) -> None:
    sql = REORDERED[name]
    assert "failures wait for" in plan(con, sql)
    written = outcome(con, sql, "off")
    assert isinstance(written, list)
    assert sorted(outcome(con, sql)) == sorted(written)  # type: ignore[call-overload]
    assert sorted({row[0] for row in written}) == [1, 5, 7, 9, 11]


@pytest.mark.parametrize("name", REORDERED)
def test_a_row_that_stays_fails_it_with_the_same_error(con: halo_sql.Connection, name: str) -> None:
    con.execute("UPDATE t SET a = 'row 3' WHERE id = 3")
    sql = REORDERED[name]
    assert "failures wait for" in plan(con, sql)
    written = outcome(con, sql, "off")
    assert "no answer" in str(written)
    assert outcome(con, sql) == written


@pytest.mark.parametrize("name", REORDERED)
def test_with_on_error_null_nothing_waits(con: halo_sql.Connection, name: str) -> None:
    con.execute("SET halo_on_error = 'null'")
    assert "failures wait for" not in plan(con, REORDERED[name])
    assert "Settle" not in plan(con, REORDERED[name])


def test_a_filter_that_fails_first_fails_the_written_statement_only(con: halo_sql.Connection) -> None:
    # the row fails under a, and b says no to it: b runs first, so a is not asked
    con.execute("UPDATE t SET a = 'fail', b = 'no' WHERE id = 3")
    sql = REORDERED["order_llm_filters"]
    assert "no answer" in str(outcome(con, sql, "off"))
    assert outcome(con, sql) == [(1,), (5,), (7,), (9,), (11,)]


def test_a_call_that_nobody_reads_does_not_fail(con: halo_sql.Connection) -> None:
    sql = "SELECT id FROM (SELECT id, LLM_MAP('{{ b }}') AS s FROM t)"
    assert "no answer" in str(outcome(con, sql, "off"))
    assert len(outcome(con, sql)) == 12  # type: ignore[arg-type]


def test_a_sql_condition_that_can_fail_stays_behind_the_llm_filter(con: halo_sql.Connection) -> None:
    con.execute("UPDATE t SET a = 'no ' || id WHERE id <> 1")
    sql = (
        f"SELECT id FROM t WHERE LLM_FILTER('{LONG} {{{{ id }}}} {{{{ a }}}}') "
        "AND CAST(replace(LLM_MAP('{{ b }}', on_error => 'null'), 'yes', "
        "CASE id WHEN 1 THEN '1' ELSE 'x' END) AS INTEGER) = 1"
    )
    assert outcome(con, sql) == outcome(con, sql, "off") == [(1,)]


LIMITED = {
    "map": ("SELECT id, LLM_MAP('{{ b }}') FROM t LIMIT %d", 3),
    "filter": ("SELECT id FROM t WHERE LLM_FILTER('{{ b }}') LIMIT %d", 1),
    "map and SQL filter": ("SELECT id FROM t WHERE LLM_MAP('{{ b }}') = 'yes' LIMIT %d", 1),
    "two calls": ("SELECT id, LLM_MAP('say {{ b }}') FROM t WHERE LLM_FILTER('{{ b }}') LIMIT %d", 1),
    "filter over filter": ("SELECT id FROM t WHERE LLM_FILTER('x {{ id }}') AND LLM_FILTER('{{ b }}') LIMIT %d", 1),
    "reordered": (REORDERED["order_llm_filters"] + " LIMIT %d", 1),
    "offset": ("SELECT id FROM t WHERE LLM_FILTER('{{ b }}') LIMIT %d OFFSET 0", 1),
}


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_under_a_limit_only_rows_that_are_reached_fail_it(
    con: halo_sql.Connection, name: str, concurrency: int
) -> None:
    con.execute(f"SET halo_max_concurrency = {concurrency}")
    con.execute("UPDATE t SET a = 'row 3' WHERE id = 3")
    sql, reached = LIMITED[name]
    for optimizer in ("off", "on"):
        good, bad = outcome(con, sql % reached, optimizer), outcome(con, sql % (reached + 1), optimizer)
        assert isinstance(good, list)
        assert len(good) == reached
        assert "no answer" in str(bad)


def test_tools_fail_by_turn_as_well(con: halo_sql.Connection) -> None:
    def half(n: int) -> int:
        if n == 3:
            raise ValueError("no half")
        return n // 2

    con.create_tool("half", half)
    for optimizer in ("off", "on"):
        assert len(outcome(con, "SELECT id, TOOL(half, id) AS h FROM t LIMIT 3", optimizer)) == 3  # type: ignore[arg-type]
        kept = "SELECT id FROM t WHERE TOOL(half, id) = %d LIMIT 1"
        assert outcome(con, kept % 0, optimizer) == [(0,)]
        assert "no half" in str(outcome(con, kept % 5, optimizer))


def test_failures_that_waited_count_as_errors(con: halo_sql.Connection) -> None:
    con.execute(REORDERED["order_llm_filters"]).fetchall()
    profile = con.last_profile()
    assert profile is not None
    assert profile["totals"]["errors"] == 1
