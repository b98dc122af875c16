"""What tests of batches share: a model that keeps what it was asked, and both ways of running statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import halo_sql

Messages = list[dict[str, str]]
SETUP = "CREATE TABLE t AS SELECT i AS a, i % 3 AS b, 'x' || i AS c FROM range(10) r(i)"
WHOLE = "SELECT LLM_MAP('{{ c }}'), b FROM t WHERE LLM_FILTER('yes {{ a }}')"
MORE = "SELECT b + 1 AS d, LLM_MAP('{{ c }}') AS x FROM t WHERE LLM_FILTER('yes {{ a }}')"


class Model:
    """Repeats prompts, says yes to those that begin so, fails for ``boom x7``; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, messages: Messages) -> str:
        prompt = messages[-1]["content"]
        self.asked.append(prompt)
        if prompt == "boom x7":
            raise ValueError("no")
        return "yes" if prompt.startswith("yes") else prompt


@contextmanager
def connected(model: Model) -> Iterator[halo_sql.Connection]:
    """A connection with the table and the model."""
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "m", "halo_verify": True}) as connection:
        connection.create_model("m", model, concurrency=8)
        connection.execute(SETUP)
        yield connection


def told(read: Callable[[], Any]) -> tuple[Any, ...]:
    """Names, types and rows of a statement, or its error as text."""
    try:
        cursor = read()
        names = [(item[0], str(item[1])) for item in cursor.description or ()]
        return names, cursor.fetchall() if names else None
    except halo_sql.Error as problem:
        return (type(problem).__name__, str(problem))


def batch(con: halo_sql.Connection, statements: list[Any]) -> list[tuple[Any, ...]]:
    found = []
    for cursor in con.execute_batch(statements):

        def read(cursor: Any = cursor) -> Any:
            _ = cursor.description
            return cursor

        found.append(told(read))
    return found


def one_by_one(con: halo_sql.Connection, statements: list[Any]) -> list[tuple[Any, ...]]:
    pairs = [(item, None) if isinstance(item, str) else item for item in statements]
    return [told(lambda sql=sql, params=params: con.execute(sql, params)) for sql, params in pairs]
