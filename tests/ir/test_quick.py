"""Constructors that fill slots directly: what they make is what the dataclass would make."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from halo_sql.ir.expr import Column, ColumnId, ColumnRef, SqlExpr
from halo_sql.ir.types import VARCHAR
from halo_sql.quick import quick_init


@dataclass(frozen=True, slots=True)
class _Plain:
    one: int
    two: str = "b"
    three: tuple[int, ...] = ()


@quick_init
@dataclass(frozen=True, slots=True)
class _Quick:
    one: int
    two: str = "b"
    three: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("given", "named"), [((1,), {}), ((1, "x"), {"three": (2,)}), ((), {"two": "x", "one": 3}), ((1, "x", (4, 5)), {})]
)
def test_the_same_object(given: tuple[object, ...], named: dict[str, object]) -> None:
    plain, quick = _Plain(*given, **named), _Quick(*given, **named)  # type: ignore[arg-type]
    assert repr(quick) == repr(plain).replace("_Plain", "_Quick")
    assert quick == _Quick(plain.one, plain.two, plain.three)
    assert hash(quick) == hash(plain)


def test_the_same_errors() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'one'"):
        _Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'four'"):
        _Quick(1, four=1)  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        _Quick(1).one = 2  # type: ignore[misc]


def test_copies() -> None:
    column = Column(ColumnId(1), "a", VARCHAR)
    expr = SqlExpr((ColumnRef(ColumnId(1)), " + 1"), VARCHAR, volatile=True)
    assert pickle.loads(pickle.dumps(expr)) == expr
    assert replace(expr, volatile=False) == SqlExpr(expr.parts, VARCHAR)
    assert replace(column, name="b").name == "b"


def test_not_for_fields_made_by_a_function() -> None:
    with pytest.raises(AssertionError):

        @quick_init
        @dataclass(frozen=True, slots=True)
        class _Made:
            one: list[int] = field(default_factory=list)
