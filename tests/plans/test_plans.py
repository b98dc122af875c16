"""Golden plans: what a statement becomes, layer by layer, and that the plan gives the rows of the statement as written.

A ``.plan`` file has cases: SQL (the last statement is the query, those before it set up), ``----``, the plan.
``HALO_REWRITE=1 make test`` writes the plans anew; read the difference before committing it.

Comment lines say what a case is for, and are checked: ``# fires: rule, …`` rules that change the plan or make a part of
it, ``# stays: rule, …`` rules that could be expected to and do not. Every rule has a case of each kind.
``# engine: size=n, …`` are sizes that the model is taken to have told of itself.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import halo_sql
from halo_sql import planning
from halo_sql.engines.budget import FREE, Price
from halo_sql.engines.protocol import EngineInfo
from halo_sql.explain import render_logical, render_text
from halo_sql.optimizer.optimize import Optimized
from halo_sql.optimizer.rules import RULES
from halo_sql.optimizer.rules.rule import Stage
from halo_sql.replay import dump, load, replay

HERE = Path(__file__).parent
SCHEMA = """
CREATE TABLE tickets (id INTEGER, body VARCHAR, priority INTEGER, customer INTEGER);
INSERT INTO tickets VALUES
    (1, 'late', 1, 10), (2, 'broken', 2, 10), (3, 'late', 3, 20), (4, NULL, 2, 30), (5, 'true', 2, 20);
CREATE TABLE customers (id INTEGER, name VARCHAR);
INSERT INTO customers VALUES (10, 'Ann'), (20, 'Bo');
"""
PRICES: dict[str, Price] = {}
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


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, halo_sql.Connection]]:
    """A connection each with and without the optimizer, for cases that change nothing of them."""
    with connect("on") as on, connect("off") as off:
        yield {"on": on, "off": off}


@contextmanager
def prepared(
    optimizer: str, sql: str, setup: list[str], shared: dict[str, halo_sql.Connection]
) -> Iterator[halo_sql.Connection]:
    """A connection for a case: the shared one, where nothing is set up and the query only reads."""
    query = split_setup(sql)[1]
    if setup or marked(sql, "engine") or not query.upper().startswith(("SELECT", "WITH", "FROM")):
        with connect(optimizer) as con:
            prepare(con, sql, setup)
            yield con
    else:
        prepare(shared[optimizer], sql, setup)
        yield shared[optimizer]


def split_setup(sql: str) -> tuple[list[str], str]:
    """The statements before the last one, and the last one without comment lines."""
    text = "\n".join(line for line in sql.splitlines() if not line.startswith("#"))
    statements = [part.strip() for part in text.split(";") if part.strip()]
    return statements[:-1], statements[-1]


def marked(sql: str, mark: str) -> list[str]:
    """What the comment lines of a case say after ``# mark:``, word by word."""
    lines = re.findall(rf"^# {mark}: (.*)$", sql, re.MULTILINE)
    return [word.strip() for line in lines for word in line.split(",")]


@pytest.fixture(autouse=True)
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A case's ``# price: model=usd`` lines are what a million tokens cost; other models are free."""
    PRICES.clear()
    monkeypatch.setattr(planning, "price", lambda model: PRICES.get(model.name, FREE))


def prepare(con: halo_sql.Connection, sql: str, setup: list[str]) -> None:
    for statement in setup:
        con.execute(statement)
    PRICES.clear()
    for name, usd in (word.split("=") for word in marked(sql, "price")):
        PRICES[name] = Price(float(usd), float(usd))
    sizes = {name: int(size) for name, size in (word.split("=") for word in marked(sql, "engine"))}
    if sizes:
        con.session.engine_infos["echo"] = EngineInfo("echo", **sizes)


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
def test_plan(path: Path, shared: dict[str, halo_sql.Connection]) -> None:
    rewritten = []
    for sql, plan in cases(path):
        setup, query = split_setup(sql)
        plain_setup = [statement for statement in setup if "halo_disabled_rules" not in statement]
        # what is optimised has a connection of its own: plans follow what was learnt of the calls before
        with connect("on") as optimized, prepared("off", sql, plain_setup, shared) as written:
            prepare(optimized, sql, setup)
            actual = shown(optimized, query)
            rows = optimized.execute(query).fetchall()
            expected = written.execute(query).fetchall()
            calls = [con.last_profile()["totals"]["llm_calls"] for con in (optimized, written)]
        assert Counter(map(repr, rows)) == Counter(map(repr, expected)), sql
        assert calls[0] <= calls[1] or "approximate:" in actual, sql
        rewritten.append(f"{sql}\n----\n{actual}")
        if not os.environ.get("HALO_REWRITE"):
            assert actual == plan, f"{path.name}: {sql}"
    if os.environ.get("HALO_REWRITE"):
        path.write_text("\n====\n".join(rewritten) + "\n", encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plan_again_from_its_dump(path: Path, shared: dict[str, halo_sql.Connection]) -> None:
    for sql, _ in cases(path):
        setup, query = split_setup(sql)
        with prepared("on", sql, setup, shared) as con:
            first = con.session.compile(query)
        (minidump,) = load(dump(first, query))
        again = replay(minidump)
        assert again.differences == (), sql
        assert again.optimized.dag == first.dag, sql
        assert again.optimized.trace.counters == first.trace.counters, sql


def used(optimized: Optimized, rule: str) -> bool:
    """Whether the rule changed the plan, added to the memo, or made a part of a group's best plan."""
    stage = next(known.stage for known in RULES if known.name == rule)
    if stage in (Stage.IMPLEMENT, Stage.ENFORCE):
        return any(winner.rule == rule for group in optimized.trace.groups() for winner in group.winners)
    return optimized.trace.fired(rule) > 0


def offered(optimized: Optimized, rule: str) -> bool:
    """Whether the rule had something to look at. A node that only one rule can run is offered to no other one."""
    known = next(known for known in RULES if known.name == rule)
    return known.essential or any(firing.name == rule and firing.tried for firing in optimized.trace.rules)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_fire_where_a_case_says_so(path: Path, shared: dict[str, halo_sql.Connection]) -> None:
    for sql, _ in cases(path):
        setup, query = split_setup(sql)
        with prepared("on", sql, setup, shared) as con:
            optimized = con.session.compile(query)
        for rule in marked(sql, "fires"):
            assert used(optimized, rule), f"{rule} does not fire: {sql}"
        for rule in marked(sql, "stays"):
            assert offered(optimized, rule), f"{rule} is not tried: {sql}"
            assert not used(optimized, rule), f"{rule} fires: {sql}"


@pytest.mark.parametrize("mark", ["fires", "stays"])
def test_every_rule_has_a_plan_with_it_and_one_without(mark: str) -> None:
    named = {rule for path in FILES for sql, _ in cases(path) for rule in marked(sql, mark)}
    assert named == {rule.name for rule in RULES}


def test_there_are_plans() -> None:
    assert len(FILES) >= 10
