"""With the echo model a call is ``CAST(e AS VARCHAR)``, wherever a scalar expression may stand."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halo_sql

from .checks import connect
from .profile import holds, sometimes
from .properties import equation, stored
from .queries import Generator


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect() as connection:
        yield connection


@given(rng=st.randoms(use_true_random=False))
@sometimes(80)
def test_calls_mean_casts(con: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng).query()
    problem = holds(equation, con, query)
    assert not problem, f"{problem}\n{query.sql.halo}\n{query.sql.plain}"


@given(rng=st.randoms(use_true_random=False))
@sometimes(15)
def test_tables_made_of_calls(con: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng, depth=1, size=2).query(named=True)
    problem = holds(stored, con, query)
    assert not problem, f"{problem}\n{query.sql.halo}\n{query.sql.plain}"


def test_few_statements_are_refused(con: halo_sql.Connection) -> None:
    refused = 0
    for seed in range(100):
        query = Generator(Random(seed)).query()
        try:
            con.session.bind(query.sql.halo)
        except halo_sql.Error:
            refused += 1
    assert refused < 10
