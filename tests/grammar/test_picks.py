"""Blocks that pick columns and add calls: their columns are known without a question, and are those DuckDB tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import duckdb
import pytest

from halo_sql.catalog.objects import BUILT_IN_MODELS, Snapshot
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.errors import BinderError, Error
from halo_sql.grammar.bind import bind
from halo_sql.grammar.binding import Binding, CteContext
from halo_sql.grammar.calls import CallReader
from halo_sql.grammar.learn import union_of_picks
from halo_sql.grammar.lex import lex
from halo_sql.grammar.picks import picks_of
from halo_sql.grammar.skeleton import parse_query
from halo_sql.grammar.source import Source
from halo_sql.grammar.syntax import analyse
from halo_sql.ir.types import SqlType

CALL, FILTER = "LLM_MAP('{{ body }}')", "LLM_FILTER('{{ body }} {{ id }}')"
PICKED = [
    f"SELECT *, {CALL} AS m FROM t",
    f"SELECT id, body AS b, {CALL} AS m, {FILTER} AS f FROM t",
    f'SELECT "id" AS "my id", {CALL} AS m FROM t AS s',
    f"SELECT ALL {CALL} AS m, * FROM t s",
    f"SELECT {CALL} AS m FROM t WHERE id > 5 AND body <> 'x' AND {FILTER} AND (id <= 123456789)",
    "SELECT LLM_MAP('{{ id, body }}', returns => 'DOUBLE') AS d, LLM_CLASSIFY(body, ['a', 'b']) AS c FROM t",
]
#: blocks that are DuckDB's to judge
NOT_PICKED = [
    f"SELECT {CALL} FROM t",  # the name is made of the text
    f"SELECT id + 1 AS n, {CALL} AS m FROM t",
    f"SELECT nothing, {CALL} AS m FROM t",
    f"SELECT ID, {CALL} AS m FROM t",  # spelled as in the table?
    f"SELECT t.id, {CALL} AS m FROM t",
    f"SELECT *, {CALL} AS id FROM t",  # two of a name
    f"SELECT id, {CALL} || 'x' AS m FROM t",
    "SELECT LLM_MAP('{{ nothing }}') AS m FROM t",
    "SELECT LLM_MAP('{{ upper(body) }}') AS m FROM t",
    "SELECT LLM_MAP('{{ m }}') AS n, LLM_MAP('{{ body }}') AS m FROM t",
    f"SELECT {CALL} AS m FROM t WHERE id > 'x'",
    f"SELECT {CALL} AS m FROM t WHERE body = 5",
    f"SELECT {CALL} AS m FROM t WHERE id > 1234567890",
    f"SELECT {CALL} AS m FROM t WHERE id > 1.5",
    f"SELECT {CALL} AS m FROM t WHERE id > 5 OR id < 2",
    f"SELECT {CALL} AS m FROM t WHERE nothing > 5",
    f"SELECT {CALL} AS m FROM t WHERE m > 'x'",
    f"SELECT {CALL} AS m FROM t WHERE id > NULL",
    f"SELECT {CALL} AS m FROM t WHERE body > E'x'",
    f"SELECT {CALL} AS m FROM t WHERE {CALL}",
    f"SELECT {CALL} AS m FROM t WHERE {FILTER} = true",
    "SELECT LLM_MAP('{{ body }}') AS m FROM t WHERE LLM_FILTER('{{ m }}')",
    f"SELECT {CALL} AS m FROM t, t AS u",
    f"SELECT {CALL} AS m FROM t AS s(a, b)",
    f"SELECT {CALL} AS m FROM t TABLESAMPLE 10%",
    f"SELECT {CALL} AS m FROM main.t",
    f"SELECT {CALL} AS m FROM range(3)",
    f"SELECT DISTINCT {CALL} AS m FROM t",
    f"SELECT {CALL} AS m FROM t LIMIT 1",
    f"SELECT {CALL} AS m FROM t UNION SELECT body FROM t",
    f"SELECT current_date, {CALL} AS m FROM t",
    "SELECT LLM_MAP('{{ body }}', on_error => 'struct') AS m FROM t",
    "SELECT LLM_MAP('{{ * }}') AS m FROM t",
    f"FROM t SELECT {CALL} AS m",
]


@pytest.fixture
def duck() -> Iterator[Duck]:
    opened = Duck(duckdb.connect(":memory:"))
    opened.execute("CREATE TABLE t (id BIGINT, body VARCHAR)")
    yield opened
    opened.close()


def _picked(duck: Duck, sql: str) -> tuple[list[tuple[str, SqlType]] | None, list[tuple[str, SqlType]] | None]:
    """What the block says of itself, and (when it does) what DuckDB says."""
    lexed = lex(sql)
    source = Source(lexed, analyse(sql), lambda part: part)
    calls = CallReader(duck, Snapshot(models=dict(BUILT_IN_MODELS)), Settings({"halo_default_model": "echo"}))
    binding = Binding(duck, source, calls.find(source))
    picks = picks_of(binding, (0, len(lexed.tokens)))
    columns = None if picks is None else picks.over(duck.describe("FROM t"))
    return columns, None if columns is None else binding.describe(binding.shadow(0, len(lexed.tokens)))


@pytest.mark.parametrize("sql", PICKED)
def test_the_columns_are_those_that_duckdb_tells(duck: Duck, sql: str) -> None:
    columns, told = _picked(duck, sql)
    assert columns is not None
    assert columns == told


@pytest.mark.parametrize("sql", NOT_PICKED)
def test_what_may_be_wrong_is_asked(duck: Duck, sql: str) -> None:
    assert _picked(duck, sql)[0] is None


class CountingDuck(Duck):
    """Counts the questions."""

    probes = 0

    def probe(self, query: str) -> list[tuple[str, SqlType]]:
        self.probes += 1
        return super().probe(query)


def _stacked(levels: int) -> str:
    parts = ["q0 AS (SELECT id, body AS v0 FROM t)"]
    parts += [f"q{n} AS (SELECT id, LLM_MAP('{{{{ v{n - 1} }}}}') AS v{n} FROM q{n - 1})" for n in range(1, levels + 1)]
    return f"WITH {', '.join(parts)} SELECT * FROM q{levels}"


def _nested(levels: int) -> str:
    query = "SELECT id, body AS v0 FROM t"
    for n in range(1, levels + 1):
        query = f"SELECT *, LLM_MAP('{{{{ v{n - 1} }}}}') AS v{n} FROM ({query}) AS s{n}"
    return query


def _asked(write: Callable[[int], str], levels: int) -> int:
    duck = CountingDuck(duckdb.connect(":memory:"))
    duck.execute("CREATE TABLE t (id BIGINT, body VARCHAR)")
    settings = Settings({"halo_default_model": "echo"})
    bind(write(levels), duck, Snapshot(models=dict(BUILT_IN_MODELS)), settings)
    duck.close()
    return duck.probes


@pytest.mark.parametrize("write", [_stacked, _nested])
def test_more_levels_are_no_more_questions(write: Callable[[int], str]) -> None:
    assert _asked(write, 20) == _asked(write, 60) <= 5


def _filtered(levels: int) -> str:
    parts = ["q0 AS (SELECT id, body AS v0 FROM t)"]
    parts += [
        f"q{n} AS (SELECT *, LLM_MAP('{{{{ v{n - 1} }}}}') AS v{n} FROM q{n - 1} WHERE id > {n} AND v0 <> '{n}')"
        for n in range(1, levels + 1)
    ]
    return f"WITH {', '.join(parts)} SELECT * FROM q{levels}"


def _arms(count: int) -> str:
    return " UNION ALL ".join(f"SELECT id, LLM_MAP('{n} {{{{ body }}}}') AS m FROM t" for n in range(count))


@pytest.mark.parametrize(("write", "more"), [(_filtered, 0), (_arms, 0)])
def test_comparisons_and_arms_are_few_questions(write: Callable[[int], str], more: int) -> None:
    asked = _asked(write, 10), _asked(write, 50)
    assert asked[1] - asked[0] <= more


UNIONS = {
    f"SELECT id, {CALL} AS m FROM t UNION ALL SELECT id, body FROM t UNION ALL SELECT id, {CALL} AS n FROM t": True,
    f"SELECT id FROM t UNION ALL SELECT {FILTER} AS f FROM t UNION ALL SELECT id FROM t": False,  # of other types
    f"SELECT id, {CALL} AS m FROM t UNION SELECT id, body FROM t UNION ALL SELECT id, body FROM t": False,
    f"SELECT id, {CALL} AS m FROM t UNION ALL BY NAME SELECT * FROM t UNION ALL SELECT * FROM t": False,
    f"SELECT id, {CALL} AS m FROM t UNION ALL SELECT * FROM t UNION ALL SELECT * FROM t LIMIT 3": False,
    f"SELECT id, {CALL} AS m FROM t UNION ALL (SELECT * FROM t) UNION ALL SELECT * FROM t": False,
    f"SELECT id, {CALL} AS m FROM t UNION ALL SELECT * FROM t UNION ALL SELECT id FROM t": False,
}


@pytest.mark.parametrize(("sql", "known"), UNIONS.items())
def test_a_union_of_picks_is_what_duckdb_tells(duck: Duck, sql: str, known: bool) -> None:
    lexed = lex(sql)
    calls = CallReader(duck, Snapshot(models=dict(BUILT_IN_MODELS)), Settings({"halo_default_model": "echo"}))
    source = Source(lexed, analyse(sql), lambda part: part)
    binding = Binding(duck, source, calls.find(source))
    part = (0, len(lexed.tokens))
    found = union_of_picks(binding, parse_query(lexed, *part), CteContext())
    assert (found is not None) == known
    assert found is None or found == binding.describe(binding.shadow(*part))


def test_arms_of_different_width_are_refused_as_duckdb_does(duck: Duck) -> None:
    sql = f"SELECT id, {CALL} AS m FROM t UNION ALL SELECT * FROM t UNION ALL SELECT {CALL} AS m FROM t"
    with pytest.raises(BinderError, match="same number of result columns"):
        bind(sql, duck, Snapshot(models=dict(BUILT_IN_MODELS)), Settings({"halo_default_model": "echo"}))


def test_a_wrong_comparison_is_refused(duck: Duck) -> None:
    sql = f"WITH q AS (SELECT [id] AS l, {CALL} AS m FROM t) SELECT m FROM q WHERE l > 5"
    with pytest.raises(BinderError, match="Cannot compare"):
        bind(sql, duck, Snapshot(models=dict(BUILT_IN_MODELS)), Settings({"halo_default_model": "echo"}))


FROMS = [
    "a JOIN b USING (id)",
    "a LEFT JOIN b USING (id)",
    "a AS x JOIN b y ON x.id = y.id",
    "a, b",
    "a CROSS JOIN b",
    "a JOIN b USING (id) JOIN t ON t.id = a.id",  # one is no CTE
    "a SEMI JOIN b USING (id)",
    "a ANTI JOIN b ON a.id = b.id",
    "a RIGHT JOIN b USING (id)",
    "a JOIN c ON a.m = c.id SEMI JOIN b ON a.id = b.id",
    "a JOIN c USING (id)",  # of two types
    "a NATURAL JOIN b",
    "a JOIN b USING (id) JOIN a AS d ON d.id = b.id",  # a third id
    "A JOIN B USING (ID)",
    "a AS x(i, m) JOIN b ON i = b.id",
]


@pytest.mark.parametrize("clause", FROMS)
@pytest.mark.parametrize("item", ["*", "n.body"])
def test_joins_of_known_ctes_are_those_that_duckdb_tells(duck: Duck, clause: str, item: str) -> None:
    """A scope made without a question gives the plan of one that was asked for."""
    ctes = f"a AS (SELECT id, {CALL} AS m FROM t), b AS (SELECT id, body FROM t), c AS (SELECT 'x' AS id FROM t)"
    sql = f"WITH {ctes} SELECT {item.replace('n.', '')}, {CALL.replace('body', 'm')} AS z FROM {clause}"
    snapshot, settings = Snapshot(models=dict(BUILT_IN_MODELS)), Settings({"halo_default_model": "echo"})

    def outcome() -> str:
        try:
            return str(bind(sql, duck, snapshot, settings))
        except Error as problem:
            return problem.message

    known = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halo_sql.grammar.bind_from.known_parts", lambda *_: None)
        assert known == outcome()


def test_known_ctes_are_not_asked_for_in_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(levels: int) -> str:
        ctes = ", ".join(f"q{n} AS (SELECT id, LLM_MAP('{n} {{{{ body }}}}') AS m{n} FROM t)" for n in range(levels))
        return f"WITH {ctes} SELECT * FROM q0 " + " ".join(f"JOIN q{n} USING (id)" for n in range(1, levels))

    without = _asked(write, 4)
    monkeypatch.setattr("halo_sql.grammar.bind_from.known_parts", lambda *_: None)
    assert without == _asked(write, 4) - 1
