"""BatchResult gives what DuckDB's own result gives, for every type and every way of fetching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.duck import Duck
from halo_sql.errors import DataError, OperationalError, ProgrammingError
from halo_sql.ir.expr import Column, ColumnId
from halo_sql.result import BatchResult, DuckResult

VALUES = {
    "boolean": "range % 2 = 0",
    "tinyint": "range::TINYINT",
    "ubigint": "18446744073709551615::UBIGINT - range::UBIGINT",
    "hugeint": "170141183460469231731687303715884105727 - range",
    "float": "(range / 3)::FLOAT",
    "double": "range / 3",
    "nan": "'nan'::DOUBLE",
    "decimal": "(range / 7)::DECIMAL(18, 5)",
    "varchar": "'é' || range || '🙂'",
    "blob": "('a' || range)::BLOB",
    "date": "DATE '2020-01-01' + range::INTEGER",
    "endless date": "'infinity'::DATE",
    "time": "TIME '10:00:00.5'",
    "timestamp": "TIMESTAMP '2020-01-01 00:00:00.123456' + INTERVAL (range) DAY",
    "timestamp_ns": "'2020-01-01 00:00:00.123456'::TIMESTAMP_NS",
    "timestamptz": "TIMESTAMPTZ '2020-06-01 00:00:00+00'",
    "interval": "INTERVAL (range) MONTH + INTERVAL 3 DAY",
    "uuid": "'00000000-0000-0000-0000-00000000000' || (range % 10)",
    "enum": "(['a', 'b'])[1 + range % 2]::ENUM('a', 'b')",
    "list": "[range, NULL]",
    "array": "[range, 1]::BIGINT[2]",
    "struct": "{'a': range, 'b c': [DATE '2020-01-01']}",
    "map": "MAP {range: 'x'}",
    "json": "'{\"a\": 1}'::JSON",
    "null": "NULL",
}


@pytest.fixture
def duck() -> Iterator[Duck]:
    connection = Duck.connect(":memory:", False, {})
    yield connection
    connection.close()


def stream(duck: Duck, query: str, batch_rows: int = 2048) -> BatchResult:
    """The query's rows as an LLM query would deliver them."""
    columns = tuple(Column(ColumnId(place), name, kind) for place, (name, kind) in enumerate(duck.describe(query)))
    reader = duck.stream(query, batch_rows=batch_rows)
    return BatchResult(columns, iter(reader), duck.release)


def same(left: Any, right: Any) -> bool:
    return repr(left) == repr(right)  # repr: NaN equals NaN, 1 differs from 1.0 and True


@pytest.mark.parametrize("kind", VALUES)
def test_python_values_are_duckdbs(duck: Duck, kind: str) -> None:
    query = f"SELECT CASE WHEN range = 2 THEN NULL ELSE {VALUES[kind]} END AS x, range AS n FROM range(5)"
    wanted = duck.rows(query)
    assert same(stream(duck, query, 2).fetchall(), wanted)
    one_by_one = stream(duck, query, 2)
    assert same([one_by_one.fetchone() for _ in range(6)], [*wanted, None])


def test_time_zone_of_the_session(duck: Duck) -> None:
    duck.execute("SET TimeZone = 'America/New_York'")
    query = "SELECT TIMESTAMPTZ '2020-06-01 00:00:00+00' AS t, [TIMESTAMPTZ '2020-06-01 00:00:00+00'] AS l"
    assert same(stream(duck, query).fetchall(), duck.rows(query))


def test_description_and_columns(duck: Duck) -> None:
    query = "SELECT 1 AS a, 'x' AS a, {'k': 1.5} AS \"two words\", 'q'::ENUM('q') AS e"
    result = stream(duck, query)
    plain = DuckResult(duck.execute(query))
    assert str(result.description) == str(plain.description)
    assert result.columns == plain.columns
    assert result.rowcount == plain.rowcount == -1


def test_frames_are_duckdbs(duck: Duck) -> None:
    query = "SELECT range AS a, CASE WHEN range = 1 THEN range END AS b, 'x' AS b, DATE '2020-01-01' AS d FROM range(3)"
    wanted = DuckResult(duck.execute(query)).df()
    assert wanted.equals(stream(duck, query).df())
    assert {name: kind.name for name, kind in wanted.dtypes.items()} == {
        name: kind.name for name, kind in stream(duck, query).df().dtypes.items()
    }
    arrays = DuckResult(duck.execute(query)).numpy()
    assert {name: list(map(str, values)) for name, values in arrays.items()} == {
        name: list(map(str, values)) for name, values in stream(duck, query).numpy().items()
    }


def test_arrow_under_display_names(duck: Duck) -> None:
    query = "SELECT range AS a, 'x' AS a, [range] AS l FROM range(5000)"
    wanted = DuckResult(duck.execute(query)).table()
    assert stream(duck, query).table().equals(wanted)
    reader = stream(duck, query).reader(1000)
    assert [batch.num_rows for batch in reader][:3] == [1000, 1000, 48]


def test_polars(duck: Duck) -> None:
    query = "SELECT range AS a, 'x' AS b FROM range(3)"
    assert stream(duck, query).pl().equals(DuckResult(duck.execute(query)).pl())


def test_no_rows_keep_their_schema(duck: Duck) -> None:
    query = "SELECT 1 AS a, NULL::DECIMAL(5, 2) AS d, [DATE '2020-01-01'] AS l WHERE false"
    columns = tuple(Column(ColumnId(place), name, kind) for place, (name, kind) in enumerate(duck.describe(query)))
    wanted = DuckResult(duck.execute(query))
    assert BatchResult(columns, ()).table().schema.equals(wanted.table().schema)
    assert BatchResult(columns, ()).fetchall() == []
    assert BatchResult(columns, ()).fetchone() is None
    assert list(BatchResult(columns, ()).df().columns) == ["a", "d", "l"]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), max_size=12), batch_rows=st.integers(1, 9))
def test_mixed_fetches_hand_out_every_row_once(sizes: list[int], batch_rows: int) -> None:
    duck = Duck.connect(":memory:", False, {"threads": 1})
    try:
        result = stream(duck, "SELECT range AS n, DATE '2020-01-01' + range::INTEGER AS d FROM range(20)", batch_rows)
        found: list[Any] = []
        for size in sizes:
            found += result.fetchmany(size)
        rest = result.table().column("n").to_pylist()
        assert [row[0] for row in found] + rest == list(range(20))
        assert len(found) == min(20, sum(sizes))
    finally:
        duck.close()


def test_close_is_called_once_at_the_end_and_early(duck: Duck) -> None:
    import pyarrow

    batch = pyarrow.record_batch({"c1": [1, 2]})
    (column,) = (Column(ColumnId(1), "n", duck.sql_type("BIGINT")),)
    for early in (False, True):
        calls: list[int] = []
        result = BatchResult((column,), [batch, batch], lambda calls=calls: calls.append(1))  # type: ignore[misc]
        result.fetchone()
        if not early:
            assert len(result.fetchall()) == 3
            assert result.fetchall() == []
        result.close()
        result.close()
        assert calls == [1]
        with pytest.raises(ProgrammingError, match="This result is closed"):
            result.fetchone()


def test_a_failed_stream_stays_failed(duck: Duck) -> None:
    import pyarrow

    def batches() -> Iterator[Any]:
        yield pyarrow.record_batch({"c1": [1]})
        raise OperationalError("the server is down")

    column = Column(ColumnId(1), "n", duck.sql_type("BIGINT"))
    calls: list[int] = []
    result = BatchResult((column,), batches(), lambda: calls.append(1))
    assert result.fetchone() == (1,)
    for _ in range(2):
        with pytest.raises(OperationalError, match="server is down"):
            result.fetchone()
    assert calls == [1]
    with pytest.raises(OperationalError, match="server is down"):
        BatchResult((column,), batches()).table()


def test_duckdb_errors_are_ours(duck: Duck) -> None:
    query = "SELECT CASE WHEN range = 60000 THEN CAST('x' AS INTEGER) ELSE range END AS n FROM range(100000)"
    result = DuckResult(duck.execute("SELECT CASE WHEN range = 60000 THEN error('late') END FROM range(100000)"))
    with pytest.raises(ProgrammingError, match="late"):
        result.fetchall()
    with pytest.raises((DataError, OperationalError)):
        DuckResult(duck.execute(query)).reader(1000).read_all()


def test_closing_frees_the_connection(duck: Duck) -> None:
    result = DuckResult(duck.execute("FROM range(100000)"))
    result.fetchone()
    result.close()
    with pytest.raises(ProgrammingError, match="This result is closed"):
        result.fetchone()
    reader = DuckResult(duck.execute("FROM range(100000)"))
    reader.reader(10)
    reader.close()
    assert duck.rows("SELECT 1") == [(1,)]


def test_a_statement_without_a_result_set(duck: Duck) -> None:
    result = DuckResult(None)
    assert result.description is None
    assert result.columns is None
    assert result.rowcount == -1
    with pytest.raises(ProgrammingError, match="No open result set"):
        result.fetchall()
