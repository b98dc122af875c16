"""Type hints of Python functions as SQL."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict

import pytest
from pydantic import BaseModel

from halo_sql.duck import Duck
from halo_sql.errors import InterfaceError, Span
from halo_sql.grammar.statements.check_arguments import check_arguments
from halo_sql.grammar.statements.nodes import Argument
from halo_sql.tools.hints import signature_of, type_text

CustomerId = NewType("CustomerId", int)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "b'lue"


class Level(enum.IntEnum):
    LOW = 1


class Row(TypedDict):
    id: int
    note: NotRequired[str | None]


@dataclasses.dataclass
class Point:
    x: float
    tags: list[str]
    cached: int = dataclasses.field(init=False, default=0)


class Pair(NamedTuple):
    left: int
    right: Point


class Model(BaseModel):
    name: str
    when: datetime.date | None = None


class Tree(TypedDict):
    children: list[Tree]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "BIGINT"),
        (bool, "BOOLEAN"),
        (float, "DOUBLE"),
        (bytes, "BLOB"),
        (Decimal, "DECIMAL(38,10)"),
        (datetime.datetime, "TIMESTAMP"),
        (datetime.date, "DATE"),
        (datetime.time, "TIME"),
        (datetime.timedelta, "INTERVAL"),
        (uuid.UUID, "UUID"),
        (Any, "JSON"),
        (dict, "JSON"),
        (list, "JSON"),
        (CustomerId, "BIGINT"),
        (Annotated[int, "note"], "BIGINT"),
        (Optional[int], "BIGINT"),  # noqa: UP045
        (int | None, "BIGINT"),
        (int | float, "DOUBLE"),
        (int | str, "JSON"),
        (list[int | None], "BIGINT[]"),
        (Sequence[Sequence[str]], "VARCHAR[][]"),
        (tuple[int, ...], "BIGINT[]"),
        (tuple[int, str], "JSON"),
        (set[str], "VARCHAR[]"),
        (dict[str, int], "MAP(VARCHAR, BIGINT)"),
        (Mapping[int, list[float]], "MAP(BIGINT, DOUBLE[])"),
        (Literal["a", "it's"], "ENUM('a', 'it''s')"),
        (Literal[1, 2], "BIGINT"),
        (Literal["a", None], "ENUM('a')"),
        (Literal[1, "a"], "JSON"),
        (Colour, "ENUM('red', 'b''lue')"),
        (Level, "BIGINT"),
        (Row, 'STRUCT("id" BIGINT, "note" VARCHAR)'),
        (Point, 'STRUCT("x" DOUBLE, "tags" VARCHAR[])'),
        (Pair, 'STRUCT("left" BIGINT, "right" STRUCT("x" DOUBLE, "tags" VARCHAR[]))'),
        (Model, 'STRUCT("name" VARCHAR, "when" DATE)'),
        (Iterator[int], "BIGINT[]"),
    ],
)
def test_each_hint_is_a_type_that_duckdb_knows(hint: Any, text: str) -> None:
    assert type_text(hint, "it") == text
    duck = Duck.connect(":memory:", False, {})
    assert duck.sql_type(text)
    duck.close()


@pytest.mark.parametrize(
    ("hint", "word"), [(complex, "Known: bool"), (range, "Known: bool"), (Tree, "32 levels"), (list[Tree], "32 levels")]
)
def test_hints_without_a_type(hint: Any, word: str) -> None:
    with pytest.raises(InterfaceError) as told:
        type_text(hint, 'argument "x" of function "f"')
    assert told.value.message.startswith('argument "x" of function "f"')
    assert word in str(told.value)


def test_arguments_defaults_and_result() -> None:
    def lookup(customer: str, limit: int = 10, *, since: datetime.date | None = None, exact: bool = False) -> list[int]:
        return []

    found = signature_of(lookup)
    assert [(item.name, item.type, item.default) for item in found.parameters] == [
        ("customer", "VARCHAR", None),
        ("limit", "BIGINT", "10"),
        ("since", "DATE", "NULL"),
        ("exact", "BOOLEAN", "false"),
    ]
    assert (found.returns, found.columns) == ("BIGINT[]", ())


def test_keyword_only_arguments_without_default_come_first() -> None:
    def f(a: int = 1, *, b: int) -> int:
        return a + b

    assert [item.name for item in signature_of(f).parameters] == ["b", "a"]


@pytest.mark.parametrize("kind", [list[Row], Iterator[Row], AsyncIterator[Row], Awaitable[list[Row]]])
def test_rows_are_a_table(kind: Any) -> None:
    def f() -> None: ...

    f.__annotations__["return"] = kind
    found = signature_of(f)
    assert (found.returns, found.columns) == ("", (("id", "BIGINT"), ("note", "VARCHAR")))


def test_one_row_is_a_struct() -> None:
    def f() -> Point:
        raise NotImplementedError

    assert signature_of(f).returns == 'STRUCT("x" DOUBLE, "tags" VARCHAR[])'


def test_every_default_is_sql_of_its_type() -> None:
    def f(
        a: str = "it's",
        b: float = 1.5,
        c: float = float("inf"),
        d: bytes = b"\x00'a",
        e: Decimal = Decimal("1.25"),
        g: datetime.datetime = datetime.datetime(2024, 1, 2, 3, 4, 5),
        h: datetime.timedelta = datetime.timedelta(days=1, seconds=-1),
        i: list[int] = [1, 2],  # noqa: B006
        j: dict[str, int] = {"a": 1},  # noqa: B006
        k: Point = Point(1, ["t"]),  # noqa: B008
        m: Colour = Colour.BLUE,
        n: uuid.UUID = uuid.UUID(int=5),  # noqa: B008
        o: Any = {"deep": [None]},  # noqa: B006
        p: datetime.time = datetime.time(1, 2),
        q: int = -3,
    ) -> str:
        return ""

    duck = Duck.connect(":memory:", False, {})
    nowhere = Span(0, 0)
    check_arguments(
        duck,
        [
            Argument(item.name, nowhere, item.type, nowhere, item.default, nowhere)
            for item in signature_of(f).parameters
        ],
    )
    by_name = {item.name: item for item in signature_of(f).parameters}

    def value(name: str) -> Any:
        return duck.rows(f"SELECT CAST(({by_name[name].default}) AS {by_name[name].type})")[0][0]

    assert value("a") == "it's"
    assert value("d") == b"\x00'a"
    assert value("h") == datetime.timedelta(seconds=86_399)
    assert value("k") == {"x": 1.0, "tags": ["t"]}
    assert value("m") == "b'lue"
    duck.close()


def without_hint(x) -> int:  # type: ignore[no-untyped-def]
    return 1


def without_result(x: int):  # type: ignore[no-untyped-def]
    return 1


def open_ended(*rest: int) -> int:
    return 1


def unknown(x: NoSuchType) -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


def odd_default(x: Any = object()) -> int:  # noqa: B008
    return 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (without_hint, ['argument "x" of function "without_hint"', "x: str"]),
        (without_result, ['"without_result"', "-> str"]),
        (open_ended, ["*rest", "Give every argument a name"]),
        (unknown, ["NoSuchType", "top of the module"]),
        (odd_default, ['argument "x"', "Use None"]),
    ],
)
def test_what_is_missing_is_named(function: Any, words: list[str]) -> None:
    with pytest.raises(InterfaceError) as told:
        signature_of(function)
    assert all(word in str(told.value) for word in words)


def test_methods_partials_and_objects() -> None:
    class Lookup:
        def method(self, x: int) -> str:
            return str(x)

        def __call__(self, y: float) -> str:
            return str(y)

    def two(a: int, b: str) -> bool:
        return True

    assert [item.name for item in signature_of(Lookup().method).parameters] == ["x"]
    assert [item.name for item in signature_of(Lookup()).parameters] == ["y"]
    assert [item.type for item in signature_of(functools.partial(two, 1)).parameters] == ["VARCHAR"]


def test_types_of_an_enclosing_function_are_found() -> None:
    @dataclasses.dataclass
    class Local:
        a: int

    def f(x: Local) -> Local:
        return Local(x.a)

    assert signature_of(f).returns == 'STRUCT("a" BIGINT)'
