"""Closing a connection that another thread uses; private ones."""

from __future__ import annotations

import os
import threading

import duckdb
import pytest

from halo_sql.duck import Duck
from halo_sql.errors import Error, InterruptedQueryError


def test_close_stops_what_another_thread_runs() -> None:
    duck = Duck.connect(":memory:", False, {})
    begun, ended = threading.Event(), []

    def run() -> None:
        begun.set()
        try:
            while True:  # many short ones: the close comes between two of them, or into one
                duck.rows("SELECT count(*) FROM range(300_000) a, range(30) b")
        except Error as problem:
            ended.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(60)
    duck.close()
    thread.join(60)
    assert not thread.is_alive()
    assert len(ended) == 1
    duck.close()


def test_an_interrupt_while_rows_are_fetched_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def fetchall(self) -> list[tuple[object, ...]]:
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")

    duck = Duck.private()
    monkeypatch.setattr(duck, "execute", lambda sql, params=None: Interrupted())
    with pytest.raises(InterruptedQueryError, match="Interrupted"):
        duck.rows("SELECT 1")


def test_private_connections_share_a_database_and_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Duck.private(), Duck.private()
    zone = other.rows("SELECT current_setting('TimeZone')")
    one.execute("SET TimeZone = 'Asia/Tokyo'")
    one.execute("CREATE TEMP TABLE here AS SELECT 1 AS x")
    one.execute("CREATE TABLE everywhere AS SELECT 1 AS x")
    assert other.rows("SELECT current_setting('TimeZone')") == zone
    assert other.rows("SELECT table_name FROM duckdb_tables()") == [("everywhere",)]
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a fork sees it
    forked = Duck.private()
    assert forked.rows("SELECT table_name FROM duckdb_tables()") == []
    one.execute("DROP TABLE everywhere")
    for duck in (one, other, forked):
        duck.close()
    del Duck._private[-1]
