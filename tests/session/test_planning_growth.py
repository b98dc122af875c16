"""Work done to plan grows with the statement, not with its square: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halo_sql.optimizer.optimize import Optimized
from halo_sql.session import Session


def stacked(count: int) -> str:
    parts = ["q0 AS (SELECT id, body AS v0 FROM t)"]
    parts += [f"q{n} AS (SELECT id, LLM_MAP('{{{{ v{n - 1} }}}}') AS v{n} FROM q{n - 1})" for n in range(1, count + 1)]
    return f"WITH {', '.join(parts)} SELECT * FROM q{count}"


def nested(count: int) -> str:
    query = "SELECT id, body AS v0 FROM t"
    for n in range(1, count + 1):
        query = f"SELECT id, LLM_MAP('{{{{ v{n - 1} }}}}') AS v{n} FROM ({query}) AS s{n}"
    return query


def calls(count: int) -> str:
    return "SELECT " + ", ".join(f"LLM_MAP('{n} {{{{ id + {n} }}}}')" for n in range(count)) + " FROM t"


def filters(count: int) -> str:
    conditions = " AND ".join(f"LLM_FILTER('{n} {{{{ body }}}}') AND id <> {n}" for n in range(count))
    return f"SELECT id FROM t WHERE {conditions}"


def siblings(count: int) -> str:
    parts = [f"q{n} AS (SELECT id, LLM_MAP('{n} {{{{ body }}}}') AS x{n} FROM t WHERE id > {n})" for n in range(count)]
    joins = " ".join(f"JOIN q{n} USING (id)" for n in range(1, count))
    return f"WITH {', '.join(parts)} SELECT * FROM q0 {joins}"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    opened = Session.open(":memory:", False, {"halo_store": "off", "halo_default_model": "echo"})
    opened.execute("CREATE TABLE t AS SELECT range AS id, 'row ' || range AS body FROM range(20)").close()
    yield opened
    opened.close()


def _planned(session: Session, sql: str) -> Optimized:
    planned: Any = session.compile(sql)
    assert not any("limit reached" in note for note in planned.trace.notes)
    return planned


@pytest.mark.parametrize("shape", [stacked, nested, calls, filters, siblings])
def test_the_memo_and_its_search_grow_with_the_statement(session: Session, shape: Callable[[int], str]) -> None:
    few, many = (_planned(session, shape(count)).trace for count in (30, 60))
    for counter in ("groups", "expressions", "tasks", "contexts"):
        assert many.counter(counter) <= 2.2 * few.counter(counter) + 8, counter


@pytest.mark.parametrize("shape", [stacked, nested, calls, filters, siblings])
def test_rules_are_offered_a_node_a_few_times(session: Session, shape: Callable[[int], str]) -> None:
    few, many = (
        sum(rule.tried for rule in _planned(session, shape(count)).trace.rules if rule.stage == "normalize")
        for count in (30, 60)
    )
    assert many <= 2.2 * few + 8
