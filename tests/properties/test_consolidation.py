"""A batch of statements = the statements one by one, and no more calls than these make together."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halo_sql

from .checks import Outcome, connect, difference, run
from .profile import sometimes
from .properties import wobbly
from .queries import Generator, Query

LIMITED = "LIMIT"  # how much is read ahead of a LIMIT depends on when answers come


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def failing() -> Iterator[halo_sql.Connection]:
    with connect("wobbly") as connection:
        connection.create_model("wobbly", wobbly)
        yield connection


def consolidated(con: halo_sql.Connection, queries: list[Query]) -> str:
    """What a batch gives that the statements alone do not; '' when nothing does."""
    alone, bound = [], []
    began = number_of(con)
    for query in queries:
        try:
            alone.append(run(con, query.sql.halo))
        except halo_sql.NotSupportedError:
            continue
        bound.append(query)
    most = calls_since(con, began)
    began = number_of(con)
    try:
        cursors = con.execute_batch([query.sql.halo for query in bound])
    except halo_sql.Error as problem:  # of binding: that statement fails alone, too
        return "" if any(outcome.error for outcome in alone) else str(problem)
    calls = calls_since(con, began)
    for query, cursor, expected in zip(bound, cursors, alone, strict=True):
        try:
            rows = tuple(map(repr, cursor.fetchall()))
            names = tuple(item[0] for item in cursor.description)
            found = Outcome(names, tuple(str(item[1]) for item in cursor.description), rows)
        except halo_sql.Error as problem:
            found = Outcome((), (), (), error=f"{type(problem).__name__}: {problem}")
        if found.error and expected.error:
            continue  # which of several failing rows is told of depends on when answers come
        if found.names != expected.names:
            return f"names {found.names} instead of {expected.names}\n{query.sql.halo}"
        wrong = difference(found, expected, query.ordered)
        if wrong:
            return f"{wrong}\n{query.sql.halo}"
    limited = any(LIMITED in query.sql.plain for query in bound) or any(outcome.error for outcome in alone)
    return "" if limited or calls <= most else f"{calls} calls instead of {most}"


def number_of(con: halo_sql.Connection) -> int:
    """Number of the latest query with calls."""
    last = con.session.last_profile()
    return 0 if last is None else last.number


def calls_since(con: halo_sql.Connection, number: int) -> float:
    """LLM calls of the queries behind this one."""
    return sum(profile.totals()["llm_calls"] for profile in con.session.profiles() if profile.number > number)


def draw(rng: Random) -> list[Query]:
    """Two to four queries; some of them again."""
    queries = [Generator(rng, depth=1, size=2).query() for _ in range(rng.randint(2, 3))]
    return [*queries, queries[rng.randrange(len(queries))]]


@given(rng=st.randoms(use_true_random=False))
@sometimes(12)
def test_a_batch_gives_what_its_statements_give(con: halo_sql.Connection, rng: Random) -> None:
    queries = draw(rng)
    problem = consolidated(con, queries)
    assert not problem, f"{problem}\n\n" + ";\n".join(query.sql.halo for query in queries)


@given(rng=st.randoms(use_true_random=False))
@sometimes(8)
def test_a_batch_fails_where_its_statements_fail(failing: halo_sql.Connection, rng: Random) -> None:
    queries = draw(rng)
    problem = consolidated(failing, queries)
    assert not problem, f"{problem}\n\n" + ";\n".join(query.sql.halo for query in queries)
