"""With a tool that gives its argument a call is ``CAST(e AS VARCHAR)``, wherever a scalar expression may stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import halo_sql

from .checks import connect, difference, run
from .expressions import RETURNS, Col, Expressions
from .pairs import Pair, pair
from .profile import sometimes
from .properties import FREE, setting
from .queries import Generator, Query

TYPES = {"text": "VARCHAR", **RETURNS}
#: ways to call the tool of a kind
FORMS = ("TOOL(same_{}, ", "same_{}(", "TOOL(same_{}, v => ", "TOOL('same_{}', v := ")
SETUP = [f"CREATE TOOL same_{kind}(v {name}) RETURNS {name} AS SQL 'SELECT $v'" for kind, name in TYPES.items()] + [
    "CREATE TOOL odd_length(v VARCHAR) RETURNS BIGINT AS SQL "
    "$$ SELECT CASE WHEN length($v) % 2 = 0 THEN CAST('even' AS BIGINT) ELSE length($v) END $$",
    "CREATE TOOL rows_of(v VARCHAR) RETURNS TABLE (w VARCHAR) AS SQL 'SELECT $v'",
    "CREATE AGENT plain",
]


class ToolExpressions(Expressions):
    """The same expressions with tools, and now and then an agent of the echo model, in the places of the calls."""

    def _call(self, kind: str, scope: Sequence[Col], depth: int) -> Pair:
        if kind == "int" and self.chance(20):
            inner = self.expr("text", scope, depth)
            length = f"length({inner.plain})"
            plain = f"CASE WHEN {length} % 2 = 0 THEN CAST(NULL AS BIGINT) ELSE {length} END"
            return Pair(f"TOOL(odd_length, {inner.halo}, on_error => 'null')", plain, "int")
        if kind == "text" and self.chance(30):
            inner = self.expr(self.any_kind(scope), scope, depth)
            plain = f"CAST({inner.plain} AS VARCHAR)"
            if self.chance(30):
                table = f"(SELECT max(w) FROM TOOL(rows_of, {inner.halo}))"
                return Pair(table, f"(SELECT max(w) FROM (SELECT {plain} AS w WHERE w IS NOT NULL))", "text")
            return Pair(f"AGENT(plain, task => CAST({inner.halo} AS VARCHAR))", plain, "text")
        inner = self.expr(self.any_kind(scope) if kind == "text" else kind, scope, depth)
        head = str(self.pick(FORMS)).format(kind)
        return Pair(f"{head}{inner.halo})", f"CAST({inner.plain} AS {TYPES[kind]})", kind)

    def filter_call(self, scope: Sequence[Col], depth: int) -> Pair:
        return self._call("bool", scope, depth)


def drawn(rng: Random, depth: int = 2, size: int = 3) -> Query:
    generator = Generator(rng, depth=depth, size=size)
    generator.draw = ToolExpressions(rng)
    generator.draw.subquery = generator._subquery
    return generator.query(named=True)


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect() as connection:
        for statement in SETUP:
            connection.execute(statement)
        yield connection


def unlike(con: halo_sql.Connection, query: Query) -> str:
    """How the rows differ from those of the plain reading; '' also when the statement is refused or means nothing."""
    expected = run(con, query.sql.plain)
    try:
        found = run(con, query.sql.halo)
    except halo_sql.NotSupportedError:
        event("refused")
        return ""
    if expected.error:
        event("means nothing to DuckDB")
        assert found.error, f"{found} where DuckDB says {expected.error}"
        assert "InternalError" not in found.error, found.error
        return ""
    return difference(found, expected, query.ordered)


@given(rng=st.randoms(use_true_random=False))
@sometimes(30)
def test_calls_of_tools_mean_their_argument(con: halo_sql.Connection, rng: Random) -> None:
    query = drawn(rng)
    problem = unlike(con, query)
    assert not problem, f"{problem}\n{query.sql.halo}\n{query.sql.plain}"


@pytest.mark.parametrize("part", range(4))
def test_two_hundred_expressions_in_one_row_each(con: halo_sql.Connection, part: int) -> None:
    """A call as an item, a condition, a key: 200 expressions, whatever the rules."""
    scope = tuple(
        Col(name, name, kind) for name, kind in (("word", "text"), ("id", "int"), ("flag", "bool"), ("day", "date"))
    )
    refused = 0
    for seed in range(50 * part, 50 * part + 50):
        rng = Random(seed)
        inner = ToolExpressions(rng).expr("text", scope, 3)
        text = Pair(f"TOOL(same_text, {inner.halo})", f"CAST({inner.plain} AS VARCHAR)")
        sql = pair("SELECT id, ", text, " AS x FROM t WHERE ", text, " IS NOT NULL ORDER BY ", text, ", id")
        query = Query(sql, (), ordered=True)
        name, value = (("optimizer", "on"), ("optimizer", "off"), ("disabled_rules", FREE[seed % len(FREE)]))[seed % 3]
        with setting(con, name, value):
            problem = unlike(con, query)
        assert not problem, f"{name} = {value}: {problem}\n{sql.halo}\n{sql.plain}"
        refused += bool(run(con, sql.plain).error)
    assert refused < 15


@pytest.mark.parametrize("part", range(2))
def test_every_rule_off_gives_the_same_rows(con: halo_sql.Connection, part: int) -> None:
    for rule in FREE[part::2]:
        query = drawn(Random(rule), depth=1, size=2)
        with setting(con, "optimizer", "off"):
            written = unlike(con, query)
        with setting(con, "disabled_rules", rule):
            problem = written or unlike(con, query)
        assert not problem, f"without {rule}: {problem}\n{query.sql.halo}\n{query.sql.plain}"
