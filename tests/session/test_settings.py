"""Settings: where values come from, and who sees what a SET changes."""

from __future__ import annotations

import pytest

import halo_sql


def value(con: halo_sql.Connection | halo_sql.Cursor, name: str) -> tuple[str, str]:
    found: tuple[str, str] = con.execute(f"SELECT value, source FROM halo_settings() WHERE name = '{name}'").fetchall()[
        0
    ]
    return found


def test_every_source_and_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_STORE", "off")
    monkeypatch.setenv("HALO_MAX_CALLS", "7")
    with halo_sql.connect() as con:
        assert value(con, "halo_store") == ("off", "environment")
        assert value(con, "halo_max_calls") == ("7", "environment")
        assert value(con, "halo_on_error") == ("fail", "default")
    with halo_sql.connect(config={"halo_max_calls": 8, "threads": 1}) as con:
        assert value(con, "halo_max_calls") == ("8", "config")
        con.execute("SET GLOBAL halo_max_calls = 9")
        assert value(con, "halo_max_calls") == ("9", "global")
        con.execute("PRAGMA halo_max_calls = 10")
        assert value(con, "halo_max_calls") == ("10", "set")
        con.execute("RESET halo_max_calls; RESET GLOBAL halo_max_calls")
        assert value(con, "halo_max_calls") == ("8", "config")


def test_what_cursors_share(monkeypatch: pytest.MonkeyPatch) -> None:
    with halo_sql.connect(config={"halo_store": "off"}) as con:
        before = con.cursor()
        con.execute("SET halo_max_calls = 1; SET GLOBAL halo_max_usd = 2")
        after = con.cursor()
        assert value(before, "halo_max_calls")[0] == "100000"
        assert value(after, "halo_max_calls") == ("1", "set")
        assert value(before, "halo_max_usd") == ("2.0", "global")
        before.execute("SET halo_max_usd = 3")
        assert value(con, "halo_max_usd") == ("2.0", "global")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"halo_max_call": 1}, 'Did you mean "halo_max_calls"'),
        ({"halo_max_calls": "many"}, "It takes an integer"),
        ({"halo_approximate": "maybe"}, "It takes true or false"),
        ({"halo_on_error": "ignore"}, "It takes 'fail' or 'null' or 'struct'"),
    ],
)
def test_a_wrong_config_is_an_error_of_connect(config: dict[str, object], words: str) -> None:
    with pytest.raises(halo_sql.ProgrammingError) as caught:
        halo_sql.connect(config=config)
    assert words in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_MAX_CALLS", "many")
    with pytest.raises(halo_sql.ProgrammingError, match="environment variable HALO_MAX_CALLS"):
        halo_sql.connect()


def test_calls_are_kept_within_a_bound() -> None:
    from halo_sql.call_log import KEPT_ROWS, CallLog, RunLog

    log = CallLog()
    run = RunLog(log, 1, {}, texts=True)
    for row in range(KEPT_ROWS + 50):
        run.add(None, row, "m", "prompt", "answer", "done", None, 1.0, 1, 1)
    records = log.records()
    assert (len(records), records[0].row, records[-1].row) == (KEPT_ROWS, 50, KEPT_ROWS + 49)
    for _ in range(3):
        run.add(None, 0, "m", "x" * (20 << 20), "", "done")
    assert len(log.records()) == 1
