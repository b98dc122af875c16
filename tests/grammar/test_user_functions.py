"""Macros between calls: which are of one row, which are volatile, and when that is read anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halo_sql.duck import Duck
from halo_sql.grammar.user_functions import are_row_wise, are_volatile


@pytest.fixture
def duck() -> Iterator[Duck]:
    made = Duck.connect(":memory:", False, {"threads": 1})
    made.execute("CREATE TABLE t AS SELECT 1 AS i")
    made.execute("CREATE SCHEMA s")
    yield made
    made.close()


def row_wise(duck: Duck, name: str) -> bool:
    return are_row_wise({name, "upper"}, duck)


@pytest.mark.parametrize(
    "body",
    [
        "trim(regexp_replace(x, '\\s+', ' ', 'g'))",
        "CASE WHEN x IN ('a', 'b') AND x BETWEEN ('a' || 'b') AND 'c' THEN coalesce(x, 'c')::DECIMAL(4, 2) ELSE 0 END",
        "list_transform([x], lambda e: e || '!')[1]",
        "current_date || x",
        "'max(' || x || ') FROM'",
        "x",
    ],
)
def test_bodies_of_one_row(duck: Duck, body: str) -> None:
    duck.execute(f"CREATE MACRO f(x) AS {body}")
    assert row_wise(duck, "f")
    assert not are_volatile({"f"}, duck)


@pytest.mark.parametrize(
    "body",
    [
        "max(x)",
        "row_number() OVER (ORDER BY x)",
        "(SELECT max(i) || x FROM t)",
        "EXISTS (SELECT 1 FROM t WHERE i = x)",
        "unnest([x])",
        "generate_subscripts([x], 1)",
        "x || getvariable('v')",
        "x || current_schema()",
        "{'a': x}",
    ],
)
def test_bodies_that_are_not(duck: Duck, body: str) -> None:
    duck.execute(f"CREATE MACRO f(x) AS {body}")
    assert not row_wise(duck, "f")
    assert not are_volatile({"f"}, duck)


@pytest.mark.parametrize("body", ["random()", "x || uuid()", "(SELECT i FROM t USING SAMPLE 1)", "nextval('q')"])
def test_volatile_bodies(duck: Duck, body: str) -> None:
    duck.execute("CREATE SEQUENCE q")
    duck.execute(f"CREATE MACRO f(x) AS {body}")
    duck.execute("CREATE MACRO g(x) AS upper(f(x)::VARCHAR)")
    assert are_volatile({"f"}, duck)
    assert are_volatile({"upper", "g"}, duck)
    assert not are_volatile({"upper", "h"}, duck)


def test_all_overloads_count(duck: Duck) -> None:
    duck.execute("CREATE MACRO f(x) AS upper(x), (x, y) AS max(x) || y")
    assert not row_wise(duck, "f")
    duck.execute("CREATE OR REPLACE MACRO f(x) AS upper(x), (x, y) AS x || y")
    assert row_wise(duck, "f")
    duck.execute("CREATE OR REPLACE MACRO f(x) AS upper(x), (x, y) AS x || random()")
    assert are_volatile({"f"}, duck)


def test_macros_of_macros_and_of_themselves(duck: Duck) -> None:
    duck.execute("CREATE MACRO f(x) AS lower(x)")
    duck.execute("CREATE MACRO g(x) AS f(x) || f(x)")
    duck.execute("CREATE MACRO h(x) AS g(f(x))")
    assert row_wise(duck, "h")
    duck.execute("CREATE OR REPLACE MACRO f(x) AS h(x)")
    assert not any(row_wise(duck, name) for name in "fgh")
    duck.execute("CREATE OR REPLACE MACRO f(x) AS max(x)")
    assert not any(row_wise(duck, name) for name in "fgh")


def test_what_a_second_connection_does_not_see_is_not_row_wise(duck: Duck) -> None:
    duck.execute("CREATE TEMP MACRO of_session(x) AS upper(x)")
    duck.execute("CREATE MACRO s.elsewhere(x) AS upper(x)")
    duck.execute("CREATE MACRO twice(x) AS upper(x)")
    duck.execute("CREATE MACRO s.twice(x) AS lower(x)")
    duck.execute("CREATE MACRO plain(x) AS upper(x)")
    assert [row_wise(duck, name) for name in ("of_session", "elsewhere", "twice", "plain")] == [
        False,
        False,
        False,
        True,
    ]
    duck.execute("BEGIN")
    assert not row_wise(duck, "plain"), "who knows what has been changed in it"
    duck.execute("COMMIT")
    assert row_wise(duck, "plain")


def test_functions_of_python_are_not_known(duck: Duck) -> None:
    assert row_wise(duck, "lower")  # DuckDB's own are listed
    duck.add_function("reversed_text", lambda x: x, ["VARCHAR"], "VARCHAR")
    duck.execute("CREATE MACRO over_it(x) AS reversed_text(x)")
    assert not any(row_wise(duck, name) for name in ("reversed_text", "over_it", "no_such"))


def test_it_is_read_anew_when_functions_may_have_changed(duck: Duck) -> None:
    read: list[int] = []

    def known() -> int:
        return duck.of_catalog("test", lambda: read.append(1) or len(read))  # type: ignore[func-returns-value]

    assert [known(), known()] == [1, 1]
    duck.execute("SELECT 'macros and functions'")
    duck.execute("INSERT INTO t VALUES (2)")
    duck.execute("CREATE TABLE endings AS SELECT 1 AS commits")
    assert known() == 1
    other = duck.duplicate()
    other.execute("CREATE MACRO f(x) AS x")
    other.close()
    assert known() == 2
    for statement in ("BEGIN", "DROP MACRO f", "-- so\nROLLBACK", "ATTACH ':memory:' AS more", "/* */ DETACH more"):
        before = known()
        duck.execute(statement)
        assert known() == before + (statement != "BEGIN"), statement


def test_in_a_transaction_that_an_error_ended_nothing_is_said(duck: Duck) -> None:
    duck.execute("CREATE MACRO f(x) AS x")
    duck.execute("BEGIN")
    with pytest.raises(Exception, match="no_such"):
        duck.execute("SELECT no_such")
    assert not row_wise(duck, "f")
    assert not are_volatile({"f"}, duck)
    duck.execute("ROLLBACK")
    assert row_wise(duck, "f")
