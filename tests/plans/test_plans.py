"""Golden plans: what a statement becomes, layer by layer, and that the plan gives the rows of the statement as written.

A ``.plan`` file has cases: SQL (the last statement is the query, those before it set up), ``----``, the plan.
``HALO_REWRITE=1 make test`` writes the plans anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import halo_sql
from halo_sql.explain import render_logical, render_text
from halo_sql.replay import dump, load, replay

HERE = Path(__file__).parent
SCHEMA = """
CREATE TABLE tickets (id INTEGER, body VARCHAR, priority INTEGER, customer INTEGER);
INSERT INTO tickets VALUES
    (1, 'late', 1, 10), (2, 'broken', 2, 10), (3, 'late', 3, 20), (4, NULL, 2, 30), (5, 'true', 2, 20);
CREATE TABLE customers (id INTEGER, name VARCHAR);
INSERT INTO customers VALUES (10, 'Ann'), (20, 'Bo');
"""
FILES = sorted(HERE.glob("*.plan"))


def cases(path: Path) -> list[tuple[str, str]]:
    """(SQL, plan) of each case in a file."""
    found = []
    for block in path.read_text(encoding="utf-8").strip("\n").split("\n====\n"):
        sql, _, plan = block.partition("\n----")
        found.append((sql.strip("\n"), plan.strip("\n")))
    return found


def connect(optimizer: str) -> halo_sql.Connection:
    con = halo_sql.connect(
        config={"halo_store": "off", "halo_default_model": "echo", "halo_optimizer": optimizer, "halo_verify": True}
    )
    con.execute(SCHEMA)
    return con


def split_setup(sql: str) -> tuple[list[str], str]:
    """The statements before the last one, and the last one without comment lines."""
    text = "\n".join(line for line in sql.splitlines() if not line.startswith("#"))
    statements = [part.strip() for part in text.split(";") if part.strip()]
    return statements[:-1], statements[-1]


def shown(con: halo_sql.Connection, query: str) -> str:
    bound = con.session.bind(query)
    optimized = con.session.compile(query)
    return "\n\n".join(
        (
            "as written\n" + render_logical(bound.plan),
            "normalized\n" + render_logical(optimized.logical),
            "physical\n" + render_text(optimized.dag, None).split("\n\nTotal:")[0],
        )
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plan(path: Path) -> None:
    rewritten = []
    for sql, plan in cases(path):
        setup, query = split_setup(sql)
        with connect("on") as optimized, connect("off") as written:
            for statement in setup:
                optimized.execute(statement)
                if "halo_disabled_rules" not in statement:
                    written.execute(statement)
            actual = shown(optimized, query)
            rows = optimized.execute(query).fetchall()
            expected = written.execute(query).fetchall()
            calls = [con.last_profile()["totals"]["llm_calls"] for con in (optimized, written)]
        assert Counter(map(repr, rows)) == Counter(map(repr, expected)), sql
        assert calls[0] <= calls[1], sql
        rewritten.append(f"{sql}\n----\n{actual}")
        if not os.environ.get("HALO_REWRITE"):
            assert actual == plan, f"{path.name}: {sql}"
    if os.environ.get("HALO_REWRITE"):
        path.write_text("\n====\n".join(rewritten) + "\n", encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plan_again_from_its_dump(path: Path) -> None:
    for sql, _ in cases(path):
        setup, query = split_setup(sql)
        with connect("on") as con:
            for statement in setup:
                con.execute(statement)
            first = con.session.compile(query)
        (minidump,) = load(dump(first, query))
        again = replay(minidump)
        assert again.differences == (), sql
        assert again.optimized.dag == first.dag, sql
        assert again.optimized.trace.counters == first.trace.counters, sql


def test_there_are_plans() -> None:
    assert len(FILES) >= 10
