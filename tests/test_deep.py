"""Work that recurses gets a long stack when the ordinary one is too short, an error when that is too short as well."""

from __future__ import annotations

import sys

import pytest

from halo_sql.deep import FRAMES, deep
from halo_sql.errors import NotSupportedError


def _down(levels: int) -> int:
    return 0 if levels == 0 else 1 + _down(levels - 1)


def test_what_fits_runs_at_once() -> None:
    assert deep(lambda: _down(10)) == 10


def test_what_is_too_deep_gets_a_long_stack() -> None:
    before = sys.getrecursionlimit()
    assert deep(lambda: _down(FRAMES // 2)) == FRAMES // 2
    assert sys.getrecursionlimit() == before


def test_what_never_ends_is_refused() -> None:
    before = sys.getrecursionlimit()
    with pytest.raises(NotSupportedError, match="nested too deep"):
        deep(lambda: _down(10 * FRAMES))
    assert sys.getrecursionlimit() == before


def test_errors_pass_through_from_both_stacks() -> None:
    def fails(levels: int) -> int:
        raise KeyError(_down(levels))

    for levels in (1, 5_000):
        with pytest.raises(KeyError):
            deep(lambda: fails(levels))  # noqa: B023 - called at once
