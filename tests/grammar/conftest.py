"""A database, prompts and settings for binder tests, and ``bind`` over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from halo_sql.catalog.objects import BUILT_IN_MODELS, PromptDef, Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.grammar.bind import bind
from halo_sql.ir.logical import BoundStatement

TABLES = (
    "CREATE TABLE t(id INTEGER, body VARCHAR, a INTEGER, s STRUCT(x INTEGER, y VARCHAR), l INTEGER[], d DATE)",
    "CREATE TABLE u(id INTEGER, x VARCHAR)",
    'CREATE TABLE "Q t"("A b" INTEGER, "select" VARCHAR, c5 VARCHAR, c2 INTEGER)',
    "CREATE VIEW v AS SELECT 1 AS k",
    "CREATE MACRO plus(x) AS x || '!'",
    "CREATE MACRO total(x) AS sum(x)",
)
PROMPTS = {
    "good": PromptDef("good", "Say {{ body }}", "Be brief."),
    "bad": PromptDef("bad", "Say {{ bodi }}"),
    "open": PromptDef("open", "Say {{ body"),
}

Bind = Callable[..., BoundStatement]


@pytest.fixture(scope="session")
def tables() -> tuple[str, ...]:
    """The statements that make the tables."""
    return TABLES


@pytest.fixture(scope="session")
def duck() -> Iterator[Duck]:
    found = Duck.connect(":memory:", False, {})
    for sql in TABLES:
        found.execute(sql)
    yield found
    found.close()


@pytest.fixture(scope="session")
def bound(duck: Duck) -> Bind:
    """``bind(sql, params, answer)`` with the echo model as the default."""
    snapshot = Snapshot(BUILT_IN_MODELS, PROMPTS)
    settings = Settings({"halo_default_model": "echo"})

    def run(sql: str, params: Any = None, answer: Any = None) -> BoundStatement:
        return bind(sql, duck, snapshot, settings, params, answer=answer)

    return run
