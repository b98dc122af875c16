"""Optimised = unoptimised = with rules disabled, verified after every rule, and no more calls than as written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halo_sql

from .checks import connect
from .profile import holds, sometimes
from .properties import FREE, Strict, doubled, norec, priced, unwritten, wobbly
from .queries import Generator


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def failing() -> Iterator[halo_sql.Connection]:
    with connect("wobbly", on_error="null") as connection:
        connection.create_model("wobbly", wobbly)
        yield connection


@given(rng=st.randoms(use_true_random=False))
@sometimes(20)
def test_rewrites_keep_rows(con: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng, size=2).query()
    problem = holds(norec, con, query)
    assert not problem, f"{problem}\n{query.sql.halo}"


@given(rng=st.randoms(use_true_random=False))
@sometimes(10)
def test_rewrites_keep_rows_where_calls_fail(failing: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng, depth=1, size=2).query()
    problem = holds(norec, failing, query, False)
    assert not problem, f"{problem}\n{query.sql.halo}"


@given(rng=st.randoms(use_true_random=False))
@sometimes(10)
def test_equal_parts_of_a_statement_give_what_each_gives(con: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng, size=2).query(named=True)
    problem = holds(doubled, con, query)
    assert not problem, f"{problem}\n{query.sql.halo}"


def test_each_rule_is_off_once_and_no_plan_runs_twice(con: halo_sql.Connection) -> None:
    tally: Counter[str] = Counter()
    for seed in range(6):
        query = Generator(Random(seed), depth=1, size=1).query()
        holds(norec, con, query, True, tally)
    assert 2 * tally["statements"] < tally["plans"] <= (2 + len(FREE)) * tally["statements"]
    assert tally["statements"] <= tally["runs"] < tally["plans"]
    assert tally["calls"] <= tally["calls as written"] + tally["calls too many"]


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[halo_sql.Connection, Strict]]:
    model = Strict()
    with connect("strict") as connection:
        connection.create_model("strict", model)
        yield connection, model


@given(rng=st.randoms(use_true_random=False))
@sometimes(20)
def test_no_call_fails_a_statement_that_does_not_make_it_as_written(
    strict: tuple[halo_sql.Connection, Strict], rng: Random
) -> None:
    con, model = strict
    query = priced(Generator(rng, depth=1, size=2), rng)
    problem = holds(unwritten, con, model, query, rng)
    assert not problem, f"{problem}\n{query.sql.halo}"
