"""Answers of every type by demand are those of lifted calls: the same values, the same types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import halo_sql

VALUES = {
    "BOOLEAN": "true",
    "TINYINT": "5",
    "HUGEINT": "5",
    "UHUGEINT": "5",
    "BIGNUM": "123456789012345678901234567890123456789012",
    "DOUBLE": "1.5",
    "DECIMAL(38,2)": "1.50",
    "BLOB": "ab",
    "BIT": "101",
    "DATE": "2024-01-01",
    "TIME": "12:00:00",
    "TIME_NS": "12:00:00.123456789",
    "TIME WITH TIME ZONE": "12:00:00+02",
    "TIMESTAMP": "2024-01-01 00:00:00",
    "TIMESTAMP_NS": "2024-01-01 00:00:00",
    "TIMESTAMP WITH TIME ZONE": "2024-01-01 00:00:00+00",
    "INTERVAL": "1 day",
    "UUID": "eeccb8c5-9943-b2bb-bb5e-222f4e14b687",
    "JSON": '{"a": 1}',
    "mood": "sad",
    "ENUM('x', 'y')[]": '["x"]',
    "INTEGER[2]": "[1, 2]",
    "MAP(VARCHAR, DATE)": '{"k": "2024-01-01"}',
    "STRUCT(a BIGNUM, b UUID[])": '{"a": 7, "b": ["eeccb8c5-9943-b2bb-bb5e-222f4e14b687"]}',
    "STRUCT(j JSON, t TIMESTAMPTZ)": '{"j": {"q": 1}, "t": "2024-01-01 00:00:00+00"}',
    "STRUCT(t TIME_NS, h HUGEINT[])": '{"t": "12:00:00.5", "h": [1]}',
}


@pytest.fixture(scope="module")
def con() -> Iterator[Any]:
    config = {"halo_default_model": "echo", "halo_store": "off"}
    with halo_sql.connect(config=config) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        connection.execute("CREATE TABLE t (v VARCHAR)")
        yield connection


@pytest.mark.parametrize("on_error", ["fail", "null", "struct"])
@pytest.mark.parametrize("kind", VALUES)
def test_values_and_types(con: Any, kind: str, on_error: str) -> None:
    con.execute("DELETE FROM t")
    con.execute("INSERT INTO t VALUES (?), (NULL)" + ("" if on_error == "fail" else ", ('?')"), [VALUES[kind]])
    quoted = kind.replace("'", "''")
    call = f"LLM_MAP('{{{{ t.v }}}}', returns => '{quoted}', on_error => '{on_error}')"
    lifted = con.execute(f"SELECT x, typeof(x) FROM (SELECT {call} AS x, v FROM t) ORDER BY v").fetchall()
    demand = f"SELECT x, typeof(x) FROM (SELECT (SELECT {call}) AS x, v FROM t) ORDER BY v"
    assert "Demand" in con.explain(demand)
    assert con.execute(demand).fetchall() == lifted
    assert any(value is not None for value, _ in lifted)
