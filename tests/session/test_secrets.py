"""A SECRET's key reaches the server it is for, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import halo_sql

KEY = "sk-canary-0123456789"
FAULT_SERVER = Path(__file__).parents[1] / "engines" / "fault_server.py"


@pytest.fixture
def server_module() -> Any:
    spec = importlib.util.spec_from_file_location("fault_server_of_secrets", FAULT_SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def connect(database: str = ":memory:") -> halo_sql.Connection:
    return halo_sql.connect(database, config={"halo_store": "off"})


def everything_said(con: halo_sql.Connection) -> str:
    texts = [
        con.execute(sql).fetchall()
        for sql in (
            "SHOW SECRETS", "DESCRIBE SECRET s", "FROM halo_secrets()", "FROM halo_models()", "FROM halo_export()",
            "FROM halo_queries()", "FROM halo_calls()", "FROM halo_settings()", "FROM duckdb_secrets()",
            "FROM halo_catalog.objects", "FROM duckdb_functions() WHERE NOT internal",
            "EXPLAIN (MEMO) SELECT LLM_MAP('x', model => 'm')",
        )
    ]  # fmt: skip
    return repr(texts) + repr(con.last_profile())


@pytest.mark.parametrize("persistent", ["", "PERSISTENT"])
def test_the_key_is_sent_and_never_shown(server_module: Any, tmp_path: Path, persistent: str) -> None:
    with server_module.FaultServer(key=KEY) as server, connect(str(tmp_path / "a.db")) as con:
        con.execute(f"CREATE {persistent} SECRET s (TYPE llm, API_KEY '{KEY}', BASE_URL '{server.url}')")
        con.execute(f"CREATE MODEL m FROM '{server.url}' WITH (model = 'x', secret = s); SET halo_trace_text = true")
        assert con.execute("SELECT LLM_MAP('hello', model => 'm')").fetchall() == [("hello",)]
        assert KEY not in everything_said(con)
        con.execute("CHECKPOINT")
    assert KEY.encode() not in (tmp_path / "a.db").read_bytes()
    if persistent:
        with server_module.FaultServer(key=KEY) as server, connect(str(tmp_path / "a.db")) as con:
            con.execute(f"CREATE OR REPLACE PERSISTENT SECRET s (TYPE llm, API_KEY '{KEY}')")
            con.execute(f"CREATE MODEL n FROM '{server.url}' WITH (model = 'x', secret = s)")
            assert con.execute("SELECT LLM_MAP('again', model => 'n')").fetchall() == [("again",)]


def test_a_replaced_secret_is_used_at_once(server_module: Any) -> None:
    with server_module.FaultServer(key=KEY) as server, connect() as con:
        con.execute(
            f"CREATE SECRET s (TYPE llm, API_KEY 'wrong'); CREATE MODEL m FROM '{server.url}' WITH (secret = s)"
        )
        with pytest.raises(halo_sql.OperationalError) as caught:
            con.execute("SELECT LLM_MAP('hello', model => 'm')").fetchall()
        assert "wrong" not in str(caught.value)
        con.execute(f"CREATE OR REPLACE SECRET s (TYPE llm, API_KEY '{KEY}')")
        assert con.execute("SELECT LLM_MAP('hello', model => 'm')").fetchall() == [("hello",)]
        assert con.cursor().execute("SELECT LLM_MAP('hello', model => 'echo')").fetchall() == [("hello",)]


def test_a_missing_secret_ends_a_statement_before_any_other_model_is_asked(server_module: Any) -> None:
    asked: list[object] = []

    def count(messages: object) -> str:
        asked.append(messages)
        return "x"

    with connect() as con:
        con.create_model("counted", count)
        con.execute("CREATE SECRET s (TYPE llm, API_KEY 'k'); CREATE MODEL m FROM 'https://h/v1' WITH (secret = s)")
        con.execute("DROP SECRET s")
        with pytest.raises(halo_sql.ProgrammingError, match='Secret "s" does not exist'):
            con.execute("SELECT LLM_MAP('a', model => 'counted'), LLM_MAP('b', model => 'm')").fetchall()
        assert asked == []


def test_cursors_share_secrets_other_connections_do_not() -> None:
    with connect() as con, connect() as other:
        con.execute("CREATE SECRET s (TYPE llm, API_KEY 'k')")
        assert con.cursor().execute("SELECT name FROM halo_secrets()").fetchall() == [("s",)]
        assert other.execute("SELECT name FROM halo_secrets()").fetchall() == []
        con.execute("CREATE PERSISTENT SECRET p (TYPE llm, API_KEY 'k')")
        assert other.execute("SELECT name, storage FROM halo_secrets()").fetchall() == [("p", "local_file")]


def test_duckdbs_secrets_stay_duckdbs() -> None:
    with connect() as con:
        con.execute("CREATE SECRET web (TYPE http, BEARER_TOKEN 'x')")
        assert con.execute("SELECT name FROM duckdb_secrets() WHERE NOT persistent").fetchall() == [("web",)]
        with pytest.raises(halo_sql.ProgrammingError, match="DuckDB has a secret"):
            con.execute("CREATE SECRET web (TYPE llm, API_KEY 'k')")
        con.execute("DROP SECRET web")
        assert con.execute("SELECT name FROM duckdb_secrets() WHERE NOT persistent").fetchall() == []
        with pytest.raises(halo_sql.Error, match="Failed to remove non-existent secret"):
            con.execute("DROP SECRET web")
        with pytest.raises(halo_sql.Error, match="syntax error"):
            con.execute("DROP SECRET IF web")


def test_errors_in_a_script_hide_keys_of_other_statements() -> None:
    with connect() as con:
        with pytest.raises(halo_sql.Error) as caught:
            con.execute(f"CREATE SECRET s (TYPE llm, API_KEY '{KEY}'); CREATE MODEL m FROM 'x' USING opnai")
        assert KEY not in str(caught.value) + str(caught.value.sql)
        with pytest.raises(halo_sql.Error) as caught:
            con.execute(f"CREATE SECRET t (TYPE llm, API_KEY '{KEY}'); SELECT nope")
        assert "nope" in str(caught.value)
        assert KEY not in str(caught.value) + str(caught.value.sql)
