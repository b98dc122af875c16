"""The openai engine's definition: keys stay secret and travel safely, wrong options are refused."""

from __future__ import annotations

from typing import Any

import pytest

from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import GenRequest
from halo_sql.errors import CatalogError, EngineError

from .helpers import RunEngine, engine

SECRET = "sk-canary-0123456789"


def test_the_key_is_sent_and_never_shown(
    fault_server: Any, run_engine: RunEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALO_TEST_KEY", SECRET)
    with fault_server.FaultServer(key=SECRET) as server:
        for options in ({"api_key": SECRET}, {"api_key_env": "HALO_TEST_KEY"}):
            chosen = engine(server, **options)
            [result] = run_engine(chosen, [GenRequest(0, "q")])
            assert result.text == "q"
            assert SECRET not in repr(chosen) + repr(chosen._config)
    with fault_server.FaultServer(key="another") as server:  # it shows the headers in its error
        with pytest.raises(EngineError) as caught:
            run_engine(engine(server, api_key=SECRET), [])
        assert caught.value.code == "auth"
        assert SECRET not in str(caught.value)
        assert "***" in str(caught.value)
    monkeypatch.delenv("HALO_TEST_KEY")
    with pytest.raises(EngineError, match="HALO_TEST_KEY"):
        run_engine(OpenAIEngine("http://127.0.0.1:1/v1", {"api_key_env": "HALO_TEST_KEY"}), [])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("http://example.org/v1", {"api_key": SECRET}, "unencrypted to example.org"),
        ("http://example.org/v1", {"headers": {"Authorization": SECRET}}, "unencrypted"),
        ("http://10.0.0.1/v1", {"api_key_env": "X"}, "unencrypted"),
        ("http://127.0.0.1.example.org/v1", {"api_key": SECRET}, "unencrypted"),
        ("localhost:8000", {}, "base URL"),
        ("ftp://localhost/v1", {}, "base URL"),
        (f"http://me:{SECRET}@localhost/v1", {}, "credentials"),
        (f"http://localhost/v1?key={SECRET}", {}, "credentials"),
        ("http://localhost/v1", {"api_key": SECRET + "\n"}, "api_key"),
        ("http://localhost/v1", {"api_key": SECRET, "api_key_env": "X"}, "exclude"),
        ("http://localhost/v1", {"headers": {"x-a": f"{SECRET}\r\nx-b: 1"}}, "headers"),
        ("http://localhost/v1", {"headers": {"content-length": "1"}}, "headers"),
        ("http://localhost/v1", {"headers": SECRET}, "headers"),
        ("http://localhost/v1", {"extra_body": {"messages": []}}, "messages"),
        ("http://localhost/v1", {"structured": "xml"}, "structured"),
        ("http://localhost/v1", {"max_retries": 5}, "max_retries"),
        ("http://localhost/v1", {"timeout": 5}, "timeout"),
    ],
)
def test_wrong_definitions_are_refused_without_showing_secrets(source: str, options: Any, message: str) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        OpenAIEngine(source, options)
    assert SECRET not in str(caught.value)
    assert caught.value.remedy


def test_keys_may_travel_to_this_machine_or_encrypted() -> None:
    for source in ("http://localhost/v1/", "http://127.0.0.5:1/v1", "http://[::1]:1/v1", "https://example.org/v1"):
        assert not OpenAIEngine(source, {"api_key": SECRET})._config.url.endswith("/")
