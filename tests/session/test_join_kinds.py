"""Joins of every kind around calls: DuckDB's rows, as written and optimised, and what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

import halo_sql

TABLES = """
CREATE TABLE a (k INTEGER, x VARCHAR);
INSERT INTO a VALUES (1, 'one'), (2, 'two'), (2, 'again'), (3, NULL), (NULL, 'none'), (5, 'five');
CREATE TABLE b (k INTEGER, y VARCHAR);
INSERT INTO b VALUES (2, 'B2'), (2, 'B2 too'), (3, 'B3'), (NULL, 'B'), (7, NULL);
CREATE TABLE c (k INTEGER, z VARCHAR);
INSERT INTO c VALUES (2, 'C2'), (7, 'C7'), (5, 'C5');
"""
ASKED = {"a": "(SELECT k, LLM_MAP('{{ x }}') AS x FROM a)", "b": "(SELECT k, LLM_MAP('{{ y }}') AS y FROM b)"}
#: FROM clauses over {a}, {b} (tables or sub-queries with calls) and c
OPENED = (
    "{a} a SEMI JOIN b ON a.k = b.k",
    "{a} a SEMI JOIN b USING (k)",
    "{a} a SEMI JOIN b ON a.k = b.k AND b.y <> 'B3' AND a.k < 9",
    "{a} a ANTI JOIN b ON a.k = b.k",
    "{a} a ANTI JOIN b USING (k)",
    "{a} a ANTI JOIN b ON a.k = b.k AND a.k > 2",
    "a SEMI JOIN {b} b USING (k)",
    "a ANTI JOIN {b} b ON a.k < b.k",
    "{a} a NATURAL JOIN b",
    "{a} a NATURAL LEFT JOIN {b} b",
    "{a} a NATURAL RIGHT JOIN b",
    "{a} a RIGHT JOIN b ON a.k = b.k",
    "{a} a RIGHT JOIN {b} b USING (k)",
    "{a} a RIGHT JOIN b ON a.k = b.k AND b.y = 'B2'",
    "{a} a SEMI JOIN b USING (k) JOIN c USING (k)",
    "{a} a JOIN c USING (k) ANTI JOIN {b} b ON b.k = a.k AND b.y = c.z",
    "{a} a LEFT JOIN {b} b USING (k) RIGHT JOIN c USING (k)",
    "{a} a RIGHT JOIN {b} b USING (k) LEFT JOIN c USING (k)",
    "{a} a RIGHT JOIN b USING (k) NATURAL JOIN c",
    "{a} a SEMI JOIN b USING (k) ANTI JOIN c ON a.k = c.k",
)
AS_TEXT = (
    "{a} a FULL JOIN b USING (k)",
    "{a} a NATURAL SEMI JOIN b",
    "c, {a} a SEMI JOIN b USING (k)",
    "{a} a SEMI JOIN (SELECT b.k FROM b, c WHERE b.k = c.k) b ON a.k = b.k AND a.k IN (SELECT k FROM c)",
)


@pytest.fixture(scope="module")
def written() -> Iterator[halo_sql.Connection]:
    with connect("off") as con:
        yield con


@pytest.fixture(scope="module")
def con() -> Iterator[halo_sql.Connection]:
    with connect("on") as con:
        yield con


def connect(optimizer: str) -> halo_sql.Connection:
    settings = {"halo_store": "off", "halo_default_model": "echo", "halo_optimizer": optimizer, "halo_verify": True}
    con = halo_sql.connect(config=settings)
    con.execute(TABLES)
    return con


@pytest.mark.parametrize("clause", [*OPENED, *AS_TEXT])
@pytest.mark.parametrize("where", ["", " WHERE k > 1"])
def test_rows_are_duckdbs(written: halo_sql.Connection, con: halo_sql.Connection, clause: str, where: str) -> None:
    if where and "USING" not in clause and "NATURAL" not in clause:
        where = " WHERE a.k > 1"
    query = f"SELECT * FROM {clause}{where}"
    cursor = con.execute(query.format(a="a", b="b"))
    names, rows = [column[0] for column in cursor.description or ()], Counter(cursor.fetchall())
    asked = query.format(**ASKED)
    calls = []
    for connection in (written, con):
        cursor = connection.execute(asked)
        assert [column[0] for column in cursor.description or ()] == names
        assert Counter(cursor.fetchall()) == rows
        calls.append(connection.last_profile()["totals"]["llm_calls"])
    assert calls[1] <= calls[0]


@pytest.mark.parametrize("clause", OPENED)
def test_they_are_nodes_of_the_plan(con: halo_sql.Connection, clause: str) -> None:
    assert "Join " in plan(con, clause)


@pytest.mark.parametrize("clause", AS_TEXT)
def test_others_stay_the_users_text(con: halo_sql.Connection, clause: str) -> None:
    assert "Join " not in plan(con, clause)


def plan(con: halo_sql.Connection, clause: str) -> str:
    rows = con.execute("EXPLAIN (LOGICAL) SELECT * FROM " + clause.format(**ASKED)).fetchall()
    return str(rows[0][1]).split("Normalized:")[0]


@pytest.mark.parametrize(
    ("clause", "calls"),
    [
        ("{a} a SEMI JOIN c ON a.k = c.k", 3),  # two, again, five
        ("{a} a ANTI JOIN c ON a.k = c.k", 2),  # one, none
        ("{a} a NATURAL JOIN c", 3),
        ("c SEMI JOIN {b} b ON c.k = b.k AND b.k > 6", 0),  # its text is NULL
        ("{a} a RIGHT JOIN c ON a.k = c.k AND a.k > 2", 1),
    ],
)
def test_only_what_a_join_keeps_is_asked(con: halo_sql.Connection, clause: str, calls: int) -> None:
    con.execute("SELECT * FROM " + clause.format(**ASKED)).fetchall()
    assert con.last_profile()["totals"]["llm_calls"] == calls
