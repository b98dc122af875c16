"""Connection and cursor beyond PEP 249's suite: DuckDB's names, transactions, streams, life cycle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

import halo_sql


@pytest.fixture
def con() -> Iterator[halo_sql.Connection]:
    with halo_sql.connect() as connection:
        yield connection


def test_execute_returns_something_to_fetch_from(con: halo_sql.Connection) -> None:
    assert con.execute("SELECT 1 AS a, 'x' AS b").fetchall() == [(1, "x")]
    assert con.execute("SELECT ? + $2", [1, 2]).fetchone() == (3,)
    assert con.execute("SELECT $name", {"name": "v"}).fetchone() == ("v",)
    assert [column[0] for column in con.description or []] == ["$name"]


def test_duckdb_counts_where_duckdb_shows_them(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE t (i INTEGER)")
    assert con.execute("INSERT INTO t VALUES (1), (2)").fetchall() == [(2,)]
    assert con.rowcount == 2
    cursor = con.cursor()
    assert cursor.execute("DELETE FROM t WHERE i = 1").fetchall() == [(1,)]
    assert cursor.description is None
    assert cursor.rowcount == 1
    with pytest.raises(halo_sql.ProgrammingError, match="No open result set"):
        cursor.fetchall()
    assert cursor.execute('SELECT count(*) AS "Count" FROM t') is cursor
    assert cursor.fetchall() == [(1,)]


def test_every_way_of_fetching(con: halo_sql.Connection) -> None:
    query = "SELECT range AS n, 'x' AS s FROM range(3)"
    assert list(con.execute(query)) == [(0, "x"), (1, "x"), (2, "x")]
    assert con.execute(query).fetchmany(2) == [(0, "x"), (1, "x")]
    assert con.execute(query).df().shape == con.execute(query).fetchdf().shape == (3, 2)
    assert con.execute(query).pl().shape == (3, 2)
    assert list(con.execute(query).fetchnumpy()["n"]) == [0, 1, 2]
    for table in (con.execute(query).to_arrow_table(), con.execute(query).fetch_arrow_table()):
        assert table.column("n").to_pylist() == [0, 1, 2]
    assert con.execute(query).arrow().read_all().num_rows == 3
    assert [batch.num_rows for batch in con.execute(query).fetch_record_batch(2)] == [2, 1]
    assert pyarrow.table(con.execute(query)).num_rows == 3
    assert con.sql(query).fetchone() == (0, "x")


def test_an_arrow_reader_does_not_block_the_connection(con: halo_sql.Connection) -> None:
    reader = con.execute("FROM range(100000)").fetch_record_batch(10)
    assert reader.read_next_batch().num_rows == 10
    assert con.execute("SELECT 1").fetchall() == [(1,)]


def test_a_replaced_result_says_so(con: halo_sql.Connection) -> None:
    first = con.sql("FROM range(10)")
    con.sql("SELECT 'other'")
    with pytest.raises(halo_sql.ProgrammingError, match="This result is closed"):
        first.fetchall()


def test_cursors_are_independent(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE t AS SELECT 1 AS i")
    cursor, other = con.cursor(), con.cursor()
    assert cursor.connection is con
    cursor.begin()
    cursor.execute("INSERT INTO t VALUES (2)")
    assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
    cursor.commit()
    assert other.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_transactions(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE t (i INTEGER)")
    con.begin()
    con.execute("INSERT INTO t VALUES (1)")
    con.rollback()
    assert con.execute("FROM t").fetchall() == []
    con.rollback()
    con.commit()
    con.begin().execute("INSERT INTO t VALUES (1)")
    con.commit()
    assert con.execute("FROM t").fetchall() == [(1,)]


def test_executemany(con: halo_sql.Connection) -> None:
    con.execute("CREATE TABLE t (i INTEGER, s VARCHAR)")
    con.executemany("INSERT INTO t VALUES (?, ?)", [(1, "a"), [2, "b"]])
    con.executemany("INSERT INTO t VALUES (?, ?)", [])
    assert con.execute("FROM t ORDER BY i").fetchall() == [(1, "a"), (2, "b")]


def test_register(con: halo_sql.Connection) -> None:
    con.register("people", pyarrow.table({"name": ["a", "b"]}))
    con.execute("SELECT 1")  # an unread result does not stand in the way
    con.register("more", pyarrow.table({"name": ["c"]}))
    assert con.execute("SELECT count(*) FROM people, more").fetchone() == (2,)
    con.unregister("more")
    with pytest.raises(halo_sql.ProgrammingError):
        con.execute("FROM more")


def test_stream(con: halo_sql.Connection) -> None:
    batches = list(con.stream("SELECT range AS n FROM range(5000)", batch_rows=1000))
    assert sum(batch.num_rows for batch in batches) == 5000
    assert max(batch.num_rows for batch in batches) <= 1000
    started = con.stream("FROM range(1000000)")
    next(started)
    started.close()  # type: ignore[attr-defined]
    assert con.execute("SELECT 1").fetchone() == (1,)


def test_astream(con: halo_sql.Connection) -> None:
    async def count() -> int:
        return sum([batch.num_rows async for batch in con.astream("FROM range(5000)")])

    assert asyncio.run(count()) == 5000


def test_execute_batch_keeps_every_result(con: halo_sql.Connection) -> None:
    cursors = con.execute_batch(
        ["CREATE TABLE t AS SELECT 1 AS i", "FROM t", ("SELECT ? AS x, DATE '2020-01-01' AS d", ["v"])]
    )
    assert [cursor.fetchall() for cursor in cursors[1:]] == [
        [(1,)],
        con.execute("SELECT 'v', DATE '2020-01-01'").fetchall(),
    ]
    assert [column[0] for column in cursors[2].description or []] == ["x", "d"]


def test_interrupt_from_another_thread(con: halo_sql.Connection) -> None:
    timer = threading.Timer(0.3, con.interrupt)
    timer.start()
    with pytest.raises(halo_sql.InterruptedQueryError):
        con.execute("SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3").fetchall()
    timer.join()
    assert con.execute("SELECT 1").fetchone() == (1,)


def test_after_close() -> None:
    con = halo_sql.connect()
    cursor = con.cursor()
    con.execute("SELECT 1")
    con.close()
    for use in (con.fetchall, con.cursor, con.begin, lambda: con.execute("SELECT 1"), cursor.fetchone, cursor.begin):
        with pytest.raises(halo_sql.InterfaceError, match="closed"):
            use()
    con.interrupt()
    cursor.close()


def test_config_and_files(tmp_path: Path) -> None:
    path = tmp_path / "d.duckdb"
    with halo_sql.connect(str(path), config={"halo_store": "off", "threads": 1}) as con:
        con.execute("CREATE TABLE t AS SELECT 1 AS i")
        assert con.execute("SELECT current_setting('threads')").fetchone() == (1,)
        assert con.session.settings.get("halo_store") == "off"
    with halo_sql.connect(path, read_only=True) as con, pytest.raises(halo_sql.Error, match="read-only"):
        con.execute("DROP TABLE t")
    with pytest.raises(halo_sql.ProgrammingError, match='Did you mean "halo_store"'):
        halo_sql.connect(config={"halo_stor": "off"})


def test_errors_point_into_the_statement(con: halo_sql.Connection) -> None:
    with pytest.raises(halo_sql.ProgrammingError) as caught:
        con.execute("SELECT\n  nothing FROM range(3)")
    assert str(caught.value).endswith("LINE 2:   nothing FROM range(3)\n          ^^^^^^^")


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("'a'", halo_sql.STRING),
        ("1", halo_sql.NUMBER),
        ("1.5", halo_sql.NUMBER),
        ("DATE '2020-01-01'", halo_sql.DATETIME),
        ("now()", halo_sql.DATETIME),
        ("'a'::BLOB", halo_sql.BINARY),
        ("'a'::ENUM('a')", halo_sql.STRING),
    ],
)
def test_type_objects(con: halo_sql.Connection, code: str, wanted: Any) -> None:
    (column,) = con.execute(f"SELECT {code} AS x").description or []
    found = [
        kind for kind in (halo_sql.STRING, halo_sql.NUMBER, halo_sql.DATETIME, halo_sql.BINARY) if column[1] == kind
    ]
    assert found == [wanted]
    (column,) = con.execute(f"SELECT [{code}] AS x").description or []
    assert column[1] != wanted
