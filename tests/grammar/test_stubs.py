"""What stands for a known CTE when DuckDB is asked about a block: all is as with the full text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from halo_sql.catalog.objects import BUILT_IN_MODELS, Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error
from halo_sql.grammar.bind import bind
from halo_sql.grammar.stubs import may_read_stubs, words_of

CALL = "LLM_MAP('{{ body }}')"
CAST = "CAST(body AS VARCHAR)"

#: queries with one kind of call; each is compared with the same text with casts in the calls' places
QUERIES = [
    # all kinds of types in a CTE that is read twice, through stars and by name
    f"WITH a AS (SELECT *, {CALL} AS m FROM test_all_types(), t), b AS (FROM a WHERE m > '') SELECT *, 1 FROM b",
    f"WITH a AS (SELECT NULL AS n, [] AS e, {{'k': NULL}} AS s, 1.5 AS d, {CALL} AS m FROM t) SELECT *, n, e, s FROM a",
    f"WITH a AS (SELECT 'x'::ENUM('x', 'y') AS q, {CALL} AS m FROM t), b AS (SELECT q = 'x' AS same, m FROM a) FROM b",
    # names: doubled, quoted, renamed by a list, of another case
    f"WITH a AS (SELECT id, id, {CALL} AS id FROM t), b AS (SELECT * FROM a) SELECT * FROM b",
    f'WITH "A ""b" AS (SELECT {CALL} AS "c d" FROM t), b AS (SELECT "C D" FROM "a ""B") FROM b',
    f"WITH a(x, y) AS (SELECT id, {CALL} FROM t), b AS (SELECT y, x FROM a) SELECT * FROM b, a",
    # blocks that only pick columns and add calls, one over the other
    f"WITH a AS (SELECT id, body, {CALL} AS m FROM t), b AS (SELECT *, {CALL} AS n FROM a), "
    f"c AS (SELECT N AS x, body, {CALL} AS k FROM b AS z), d(p, q, r) AS (SELECT * FROM c), "
    f"e AS (SELECT q AS body FROM d), f AS (SELECT body, {CALL} AS m FROM e) SELECT * FROM f, d",
    f"WITH a AS (SELECT id, id AS i, body FROM t), b AS (SELECT *, {CALL} AS body FROM a), "
    f"c AS (SELECT *, {CALL} AS k FROM b), d AS (SELECT body_1, {CALL} AS m FROM c) SELECT * FROM d",
    f"SELECT *, {CALL} AS c FROM (SELECT *, {CALL} AS b FROM (SELECT id, body, {CALL} AS a FROM t) AS s) AS s",
    # CTEs without calls in front of, between and behind those with calls
    f"WITH p AS (SELECT id, body FROM t), q AS (SELECT * FROM p), a AS (SELECT {CALL} AS m, id FROM q), "
    "r AS (SELECT m || 'x' AS r FROM a), s AS (SELECT * FROM r) SELECT * FROM s, p",
    f"WITH p AS (SELECT '\"' || body AS body FROM t), a AS (SELECT {CALL} AS m FROM p WHERE body <> '\"') FROM a",
    # a name that is shadowed, and one that is a table outside
    f"WITH t AS (SELECT body, 1 AS one FROM t), a AS (SELECT {CALL} AS m, one FROM t) SELECT * FROM a",
    f"WITH a AS (SELECT {CALL} AS m FROM t) SELECT * FROM (WITH a AS (SELECT m AS k FROM a) SELECT * FROM a) AS i, a",
    # a plain recursion, a value list, and a pivot that needs the rows
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3), "
    f"a AS (SELECT {CALL} AS m, n FROM t, r) FROM a",
    f"WITH v AS (VALUES (1, 'x')), a AS (SELECT {CALL} AS m, v.* FROM t, v), b AS (FROM a), c AS (FROM b) FROM c",
    f"WITH g AS (PIVOT t ON id IN (1, 2) USING max(a) GROUP BY body), a AS (SELECT *, {CALL} AS m FROM g) FROM a",
    # sub-queries in FROM within each other: stars, doubled names, neighbours they read, names of their own
    f"SELECT *, {CALL} AS n FROM (SELECT *, {CALL} AS m FROM (SELECT id, id, body, {CALL} FROM t) AS a) AS b, "
    "range(1) AS c(x)",
    f"SELECT m, k FROM (SELECT id, {CALL} AS m FROM t) AS q, "
    f"LATERAL (SELECT {CALL} AS k FROM t WHERE t.id = q.id) AS b",
    f"WITH c AS (SELECT 1 AS one) SELECT * FROM (SELECT one, m FROM (SELECT {CALL} AS m FROM t), c) JOIN "
    f"(WITH c AS (SELECT 'x' AS one) SELECT {CALL} AS k, c.one AS o FROM t, c) ON m = k",
    f"SELECT * FROM (FROM (SELECT {CALL} AS m, id FROM t UNION SELECT 'x', 2) AS u ORDER BY id) AS a "
    "SEMI JOIN t USING (id)",
    f"SELECT (SELECT max(m) FROM (SELECT {CALL} AS m FROM t) AS a) FROM (SELECT {CALL} AS m FROM t) AS b",
    # a type of which no value can be written
    "SELECT id FROM t WHERE {'a': id::BIGINT} IN (SELECT finalize(combine_aggr(s)) FROM ("
    f"SELECT min({{'a': length({CALL})}}) EXPORT_STATE AS s FROM t UNION ALL "
    "SELECT min({'a': 1::BIGINT}) EXPORT_STATE FROM t) AS a)",
    # arms of set operations, three and more, some of them without calls
    " UNION ALL ".join(f"SELECT id, {CALL} AS m FROM t WHERE id = {n}" for n in range(4)) + " UNION SELECT 1, 'x'",
    f"WITH a AS (SELECT 1 AS k) SELECT k, {CALL} FROM a, t UNION SELECT 2.5, {CALL} FROM t "
    f"UNION SELECT 3, {CALL} FROM t",
    f"SELECT NULL AS n, {CALL} FROM t UNION ALL VALUES ('v', 'w') UNION ALL SELECT d, {CALL} FROM t ORDER BY 1",
]

ERRORS = [
    (
        f"WITH a AS (SELECT {CALL} AS m FROM t), b AS (SELECT nope FROM a), c AS (SELECT {CALL} AS k FROM b) FROM c",
        "nope",
    ),
    (f"WITH a AS (SELECT {CALL} AS m FROM t) SELECT m FROM a WHERE nope = {CALL}", "nope"),
    (f"WITH a AS (SELECT {CALL} AS m FROM t) SELECT m + {{'k': 1}} FROM a, t WHERE {CALL} > ''", "+"),
    (f"SELECT {CALL} FROM t UNION SELECT {CALL} FROM t UNION SELECT {CALL}, nope FROM t", "nope"),
    (f"SELECT nope FROM (SELECT {CALL} AS m FROM (SELECT {CALL} AS body FROM t))", "nope"),
    (f"SELECT m FROM (SELECT {CALL} AS m FROM (SELECT nope, {CALL} AS body FROM t))", "nope"),
    (f"SELECT m + {{'k': 1}} FROM (SELECT {CALL} AS m FROM (SELECT {CALL} AS body FROM t))", "+"),
    (f"SELECT id, {CALL} FROM t UNION SELECT 1, {CALL} FROM t AS x UNION SELECT x.id, {CALL} FROM t", "x.id"),
]


@pytest.mark.parametrize("query", QUERIES)
def test_names_and_types_are_those_of_the_full_text(duck: Duck, bound: Any, query: str) -> None:
    expected = duck.describe(query.replace(CALL, CAST))
    found = bound(query).columns
    assert [column.type for column in found] == [kind for _, kind in expected]
    for column, (name, _) in zip(found, expected, strict=True):
        assert column.name == name or "llm_" in column.name.lower()


@pytest.mark.parametrize(("query", "place"), ERRORS)
def test_errors_point_into_the_users_text(bound: Any, query: str, place: str) -> None:
    with pytest.raises(BinderError) as caught:
        bound(query)
    span = caught.value.span
    assert span is not None
    assert query[span.start : span.end] == place
    assert "__halo" not in caught.value.message


class CountingDuck(Duck):
    """Counts the questions it is asked, and their characters."""

    asked = 0
    characters = 0

    def probe(self, query: str) -> Any:
        self.asked += 1
        self.characters += len(query)
        return super().probe(query)


@pytest.fixture
def counting() -> Iterator[CountingDuck]:
    duck = CountingDuck(duckdb.connect(":memory:"))
    duck.execute("CREATE TABLE t (id INTEGER, body VARCHAR)")
    yield duck
    duck.close()


def _asked(duck: CountingDuck, query: str) -> int:
    before = duck.asked
    bind(query, duck, Snapshot(BUILT_IN_MODELS, {}), Settings({"halo_default_model": "echo"}))
    return duck.asked - before


def _chain(ctes: int) -> str:
    parts = ["q0 AS (FROM t)", *(f"q{n} AS (SELECT *, {CALL} AS m{n} FROM q{n - 1})" for n in range(1, ctes))]
    return f"WITH {', '.join(parts)} FROM q{ctes - 1}"


def test_a_chain_of_ctes_is_described_together(counting: CountingDuck) -> None:
    assert _asked(counting, _chain(20)) < 8
    assert _asked(counting, _chain(60)) < 12


def test_arms_of_a_set_operation_are_described_together(counting: CountingDuck) -> None:
    arms = [f"SELECT id, {CALL} FROM t" for _ in range(60)]
    assert _asked(counting, " UNION ALL ".join(arms)) < 10


def test_the_tables_of_a_join_are_described_together(counting: CountingDuck) -> None:
    def joined(ctes: int) -> str:
        parts = [f"q{n} AS (SELECT id, {CALL} AS m{n} FROM t)" for n in range(ctes)]
        joins = " ".join(f"JOIN q{n} USING (id)" for n in range(1, ctes))
        return f"WITH {', '.join(parts)} SELECT * FROM q0 {joins}"

    assert _asked(counting, joined(20)) == _asked(counting, joined(10)) < 8


def test_a_join_of_which_one_side_is_not_visible_is_described_part_by_part(bound: Any, duck: Duck) -> None:
    query = (
        f"SELECT {CALL} AS m, * FROM t SEMI JOIN t AS u ON t.id = u.id JOIN (SELECT id AS k FROM t) AS v ON k = t.id"
    )
    assert [column.type for column in bound(query).columns] == [
        kind for _, kind in duck.describe(query.replace(CALL, CAST))
    ]


def test_sub_queries_are_described_from_the_inside_out(counting: CountingDuck) -> None:
    def nested(levels: int) -> str:
        query = "SELECT id, body AS v0 FROM t"
        for level in range(1, levels + 1):
            query = f"SELECT id, LLM_MAP('{{{{ v{level - 1} }}}}') AS v{level} FROM ({query}) AS s{level}"
        return query

    def characters(levels: int) -> int:
        before = counting.characters
        assert _asked(counting, nested(levels)) <= levels + 3
        return counting.characters - before

    few, many = characters(10), characters(40)
    assert many < 4.5 * few


def test_the_calls_of_a_select_list_are_described_together(counting: CountingDuck) -> None:
    def calls(count: int) -> str:
        return "SELECT " + ", ".join(f"LLM_MAP('{n}: {{{{ id + {n} }}}}')" for n in range(count)) + " FROM t"

    assert _asked(counting, calls(50)) == _asked(counting, calls(5)) < 6


def test_words_of_a_text_with_quotes_of_all_kinds() -> None:
    assert words_of("""SELECT '"' || q0."a ""b" FROM q0 WHERE b = '"'""") >= {"q0", 'a "b', "b"}


@pytest.mark.parametrize(
    "text", ["PIVOT q ON a", "FROM (SUMMARIZE q)", "FROM query('FROM q')", "FROM query_table('q')"]
)
def test_what_looks_inside_a_relation_reads_no_stub(text: str) -> None:
    assert not may_read_stubs(text)


TYPED = [
    "SELECT * FROM test_all_types()",
    "SELECT NULL AS a, [] AS b, {'x': NULL} AS c, map() AS d, 1.5 AS e, 'x' AS f, 1 AS A",
    "SELECT e, n, s FROM typed",
    "(SELECT 1)",
    "VALUES (1, 'x')",
    "FROM t",
    "PIVOT t ON id USING count(*)",
    "SELECT nextval('s')",
    "WITH x AS (SELECT 1) FROM x",
]


@pytest.mark.parametrize("query", TYPED)
def test_the_quick_description_is_the_one_of_describe(query: str) -> None:
    connection = duckdb.connect(":memory:")
    connection.execute(
        "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1); CREATE SEQUENCE s; "
        "CREATE TYPE mood AS ENUM ('a', 'b''c'); "
        'CREATE TYPE num AS INTEGER; CREATE TABLE typed (e mood, n num, s STRUCT(a mood, "b c" num)[])'
    )
    duck = Duck(connection)
    slow = [(row[0], duck.sql_type(row[1])) for row in duck.rows("DESCRIBE " + query)]
    assert duck.describe(query) == slow
    assert duck.rows("SELECT nextval('s')") == [(1,)]
    duck.close()


@pytest.mark.parametrize("query", ["SELECT nope FROM t", "SELECT 1 +", "FROM nix", "DROP TABLE t"])
def test_what_cannot_be_described_is_refused_as_by_describe(query: str) -> None:
    duck = Duck.connect(":memory:", False, {})
    duck.execute("CREATE TABLE t (id INTEGER)")
    try:
        with pytest.raises(Error) as caught:
            duck.describe(query)
        with pytest.raises(Error) as slow:
            duck.rows("DESCRIBE " + query)
        assert caught.value.message == slow.value.message
        assert duck.rows("SELECT count(*) FROM t") == [(0,)]
    finally:
        duck.close()
