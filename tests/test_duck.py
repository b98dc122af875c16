"""Closing a DuckDB connection that another thread is using."""

from __future__ import annotations

import threading

from halo_sql.duck import Duck
from halo_sql.errors import Error


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
