"""What DuckDB is asked while a statement is planned: no more than plans can depend on, each thing once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import halo_sql
from halo_sql.config import Settings
from halo_sql.duck import Duck
from halo_sql.runtime import Runtime
from halo_sql.session import Session

MAP, FILTER = "LLM_MAP('m {{ body }}')", "LLM_FILTER('f {{ body }}')"


class ListeningDuck(Duck):
    """Keeps what it is asked."""

    heard: list[str]

    def execute(self, sql: str, params: Any = None) -> Any:
        self.heard.append(sql if params is None else f"{sql} {params}")
        return super().execute(sql, params)


@pytest.fixture
def session() -> Iterator[Session]:
    duck = ListeningDuck(duckdb.connect(":memory:"))
    duck.heard = []
    duck.execute("CREATE TABLE t AS SELECT range AS id, 'row ' || range % 7 AS body FROM range(100)")
    duck.execute("CREATE TABLE u AS SELECT range AS id FROM range(10)")
    opened = Session(duck, Settings({"halo_store": "off", "halo_default_model": "echo"}), Runtime())
    yield opened
    opened.close()


def _heard(session: Session, sql: str, word: str) -> int:
    duck = session.duck
    assert isinstance(duck, ListeningDuck)
    duck.heard.clear()
    session.compile(sql)
    return sum(word in asked for asked in duck.heard)


#: statements for which the number of their rows decides nothing
DECIDED = [
    f"SELECT {MAP} FROM t",
    f"SELECT id FROM t WHERE {FILTER}",
    f"SELECT {MAP} FROM t WHERE {FILTER} AND id > 3",
    f"SELECT LLM_MAP('{{{{ m }}}}') FROM (SELECT {MAP} AS m FROM t WHERE {FILTER})",
    f"WITH q AS (SELECT {MAP} AS m FROM t) SELECT * FROM q UNION ALL SELECT * FROM q",
]
#: statements whose calls may be made in several orders
OPEN = [
    f"SELECT id FROM t WHERE {FILTER} AND LLM_FILTER('{{{{ id }}}} {{{{ body }}}}')",
    f"SELECT m FROM (SELECT id, body, {MAP} AS m FROM t) WHERE {FILTER}",
    f"SELECT {MAP} FROM t JOIN u USING (id)",
    f"SELECT id FROM t WHERE {FILTER} LIMIT 5",
]


@pytest.mark.parametrize("sql", DECIDED)
def test_rows_are_not_counted_where_they_decide_nothing(session: Session, sql: str) -> None:
    assert _heard(session, sql, "hash(") == 0


@pytest.mark.parametrize("sql", OPEN)
def test_rows_are_counted_where_plans_differ_by_them(session: Session, sql: str) -> None:
    assert _heard(session, sql, "hash(") == 1


def test_a_source_is_looked_at_once_however_many_calls_read_it(session: Session) -> None:
    parts = [f"q{n} AS (SELECT id, LLM_MAP('{n} {{{{ body }}}}') AS m{n} FROM t WHERE id > {n})" for n in range(6)]
    sql = f"WITH {', '.join(parts)} SELECT * FROM q0 " + " ".join(f"JOIN q{n} USING (id)" for n in range(1, 6))
    assert _heard(session, sql, "json_serialize_plan") == 1
    assert _heard(session, sql, "EXPLAIN") == 1


def test_a_cte_that_many_read_is_looked_at_once(session: Session) -> None:
    levels = [f"q{n} AS (SELECT * FROM q{n - 1} UNION ALL SELECT * FROM q{n - 1})" for n in range(1, 40)]
    sql = f"WITH q0 AS (SELECT {MAP} AS m FROM t), {', '.join(levels)} SELECT count(*) FROM q39"
    assert _heard(session, sql, "hash(") == 0


def test_a_new_memory_database_is_not_asked_for_collations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing tables costs a new DuckDB more than planning a small statement; it has none before it is told of one."""
    heard: list[str] = []
    execute = Duck.execute

    def listening(duck: Duck, sql: str, params: Any = None) -> Any:
        heard.append(sql)
        return execute(duck, sql, params)

    monkeypatch.setattr(Duck, "execute", listening)
    with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as con:
        con.execute("CREATE TABLE t (body VARCHAR)")
        con.execute("SELECT LLM_MAP('{{ body }}') FROM t")
        assert not any("duckdb_tables()" in sql for sql in heard)
        con.executemany("CREATE OR REPLACE TABLE u (body VARCHAR COLLATE NOCASE)", [[]])
        con.execute("INSERT INTO u VALUES ('Ann')")
        query = "SELECT count(*) FROM (SELECT body, LLM_MAP('{{ body }}') AS m FROM u) WHERE body = 'ANN' AND m = 'Ann'"
        assert con.execute(query).fetchall() == [(1,)]
        assert any("duckdb_tables()" in sql for sql in heard)
