"""Window, batch size and the order in which answers arrive change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halo_sql

from .checks import connect
from .profile import holds, sometimes
from .properties import batching, shuffled
from .queries import Generator


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect("shuffled") as connection:
        connection.create_model("shuffled", shuffled(1), concurrency=64)
        yield connection


@given(rng=st.randoms(use_true_random=False))
@sometimes(15)
def test_any_window_gives_the_same_rows(con: halo_sql.Connection, rng: Random) -> None:
    query = Generator(rng, depth=1, size=2).query()
    problem = holds(batching, con, query)
    assert not problem, f"{problem}\n{query.sql.halo}"
