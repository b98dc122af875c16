"""Misuse of our own statements: ``statement_errors.txt`` holds statements and the whole text of the error each gives.

Blocks are separated by ``====``; statement and error by ``----``. ``HALO_REWRITE=1`` writes the errors anew: read them
in review. Each names the object, shows the place, and says what to do; nothing is changed by a refused statement.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import halo_sql

GOLDEN = Path(__file__).with_name("statement_errors.txt")
BLOCKS = [block.split("\n----\n") for block in GOLDEN.read_text(encoding="utf-8").strip("\n").split("\n====\n")]
SETUP = """
CREATE TABLE orders AS SELECT 1 AS id, 'a book' AS body;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE SECRET key (TYPE llm, API_KEY 'hunter2', BASE_URL 'https://h/v1');
CREATE MODEL mine FROM 'echo' USING echo;
CREATE MODEL server FROM 'https://h/v1' WITH (model = 'x', secret = key);
CREATE PROMPT p AS 'x {{ a }}';
CREATE TOOL lookup(id INTEGER, kind VARCHAR DEFAULT 'x') RETURNS VARCHAR
    AS SQL 'SELECT body FROM orders WHERE id = $id';
CREATE TOOL orders_of(id INTEGER) RETURNS TABLE (body VARCHAR) AS SQL 'SELECT body FROM orders WHERE id = $id';
CREATE TEMP TOOL brief() RETURNS INTEGER AS SQL 'SELECT 1';
CREATE AGENT helper(shop VARCHAR) WITH (model = mine, tools = [lookup, orders_of]);
"""
OBJECTS = "SELECT kind, name, sql FROM halo_export() UNION ALL SELECT 'secret', name, base_url FROM halo_secrets()"


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[halo_sql.Connection]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALO_HOME", str(tmp_path_factory.mktemp("home")))
        with halo_sql.connect(config={"halo_store": "off", "halo_default_model": "echo"}) as connection:
            connection.execute(SETUP)
            yield connection


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[0][:60])
def test_error_text(con: halo_sql.Connection, block: list[str]) -> None:
    before = con.execute(OBJECTS).fetchall()
    with pytest.raises(halo_sql.Error) as caught:
        con.execute(block[0])
    problem = caught.value
    if os.environ.get("HALO_REWRITE"):
        block[1:] = [str(problem)]
        GOLDEN.write_text("\n====\n".join("\n----\n".join(item) for item in BLOCKS) + "\n", encoding="utf-8")
    assert str(problem) == block[1]
    assert problem.span is not None
    assert problem.remedy or "LINE" in str(problem)
    assert "hunter2" not in str(problem)
    assert con.execute(OBJECTS).fetchall() == before
