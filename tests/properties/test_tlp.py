"""Ternary logic partitioning of LLM_FILTER, also where answers fail and are NULL."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import halo_sql

from .checks import connect
from .profile import holds, sometimes
from .properties import partition, wobbly
from .queries import Generator


@pytest.fixture(scope="module")
def connections() -> Iterator[list[halo_sql.Connection]]:
    with connect() as echo, connect("wobbly", on_error="null") as failing:
        failing.create_model("wobbly", wobbly)
        yield [echo, failing]


@given(rng=st.randoms(use_true_random=False), failing=st.booleans())
@sometimes(40)
def test_a_filter_parts_the_rows(connections: list[halo_sql.Connection], rng: Random, failing: bool) -> None:
    problem = holds(partition, connections[failing], Generator(rng, size=2))
    assert not problem, problem
