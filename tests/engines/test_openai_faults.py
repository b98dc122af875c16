"""The openai engine against a server that misbehaves on purpose."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import GenRequest
from halo_sql.errors import EngineError

from .helpers import RunEngine, engine, error, prompts

# --- single faults


def test_an_always_500_server_sees_five_requests_a_row(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=500, message="boom")]) as server:
        results = run_engine(engine(server), prompts(12))
    assert set(server.counts().values()) == {5}
    assert {(error(result).code, result.retries) for result in results} == {("engine", 4)}
    assert "boom" in error(results[0]).message
    with fault_server.FaultServer([fault_server.Fault("status")]) as server:
        run_engine(engine(server, max_retries=1), prompts(2))
    assert set(server.counts().values()) == {2}


@pytest.mark.parametrize("action", ["status", "truncate", "bad_json", "close", "empty"])
def test_a_fault_that_passes_costs_a_retry(fault_server: Any, run_engine: RunEngine, action: str) -> None:
    fault = fault_server.Fault(action, times=2, per_prompt=True, contains="7")
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server), prompts(20))
    assert [result.text for result in results] == [f"prompt {n}" for n in range(20)]
    assert [n for n, result in enumerate(results) if result.retries == 2] == [7, 17]
    assert len(server.calls) == 24


@pytest.mark.parametrize(
    ("status", "code"), [(400, "rejected"), (404, "rejected"), (422, "rejected"), (302, "rejected")]
)
def test_refusals_are_not_retried(fault_server: Any, run_engine: RunEngine, status: int, code: str) -> None:
    fault = fault_server.Fault("status", status=status, contains="3", message="no\nway")
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server), prompts(6))
    assert set(server.counts().values()) == {1}
    assert (error(results[3]).code, results[3].retries) == (code, 0)
    assert f"answered {status}: no way" in error(results[3]).message
    assert [n for n, result in enumerate(results) if result.error is not None] == [3]


@pytest.mark.parametrize("fields", [{"code": "context_length_exceeded"}, {"message": "maximum context length is 8"}])
def test_context_overflow_has_its_code(fault_server: Any, run_engine: RunEngine, fields: dict[str, str]) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=400, **fields)]) as server:
        [result] = run_engine(engine(server), prompts(1))
    assert error(result).code == "context"
    assert error(result).remedy


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_end_everything(fault_server: Any, run_engine: RunEngine, status: int) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=status)]) as server:
        chosen = engine(server, concurrency=4)
        results = run_engine(chosen, prompts(200))
    assert {error(result).code for result in results} == {"auth"}
    assert len(server.calls) <= 4
    assert chosen.failed is not None


def test_the_account_is_out_of_quota(fault_server: Any, run_engine: RunEngine) -> None:
    fault = fault_server.Fault("status", status=429, code="insufficient_quota")
    with fault_server.FaultServer([fault]) as server:
        [result] = run_engine(engine(server), prompts(1))
    assert (error(result).code, len(server.calls)) == ("rate_limit", 1)


def test_an_answer_of_more_than_8_mb(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("huge", contains="1")]) as server:
        results = run_engine(engine(server), prompts(2))
    assert "8 MB" in error(results[1]).message
    assert results[0].error is None
    assert len(server.calls) == 2


def test_retry_after_is_obeyed(fault_server: Any, run_engine: RunEngine) -> None:
    fault = fault_server.Fault("status", status=429, retry_after="0.5", times=1)
    with fault_server.FaultServer([fault]) as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q")])
    first, second = (call.at_s for call in server.calls)
    assert result.retries == 1
    assert 0.499 <= second - first < 8


def test_a_wait_beyond_the_deadline_is_refused_at_once(fault_server: Any, run_engine: RunEngine) -> None:
    fault = fault_server.Fault("status", status=429, retry_after="3600")
    start_s = time.monotonic()
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server, concurrency=2), prompts(50))
    assert {error(result).code for result in results} == {"rate_limit"}
    assert len(server.calls) <= 2
    assert time.monotonic() - start_s < 60


@pytest.mark.parametrize(("limit", "window_s", "rows"), [(50, 1.0, 250), (4, 0.1, 80)])
def test_a_quota_is_used(fault_server: Any, run_engine: RunEngine, limit: int, window_s: float, rows: int) -> None:
    with fault_server.FaultServer(quota=(limit, window_s)) as server:
        results = run_engine(engine(server), prompts(rows))
    assert all(result.error is None for result in results)
    assert len(server.calls) <= 2.5 * rows
    if limit == 50:  # the small windows are shorter than what a busy machine may sleep through
        assert server.windows <= rows / limit / 0.5
    assert max(result.retries for result in results) <= 3


def test_the_deadline_is_of_the_whole_request(fault_server: Any, run_engine: RunEngine) -> None:
    faults = [
        fault_server.Fault("status", times=1, per_prompt=True),
        fault_server.Fault("slow", contains="0", delay_s=30),
    ]
    with fault_server.FaultServer(faults) as server:
        start_s = time.monotonic()
        results = run_engine(engine(server, timeout_s=3), prompts(2))
        taken_s = time.monotonic() - start_s
    assert error(results[0]).code == "timeout"
    assert "answered 500" in error(results[0]).message
    assert results[1].text == "prompt 1"
    assert taken_s < 25


def test_ten_percent_faults(fault_server: Any, run_engine: RunEngine) -> None:
    faults = [fault_server.Fault("status", contains=f"{digit} ", times=1, per_prompt=True) for digit in (3,)]
    requests = [GenRequest(n, f"{n} q") for n in range(500)]
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server), requests)
    assert [result.text for result in results] == [request.user for request in requests]
    assert len(server.calls) == 550


def test_nobody_listens(run_engine: RunEngine) -> None:
    with socket.socket() as held:  # bound, so that nobody else listens there
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        chosen = OpenAIEngine(f"http://127.0.0.1:{port}/v1", {"model": "m", "backoff_s": 0.001})
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}.*cannot be reached") as caught:
            run_engine(chosen, prompts(1))
    assert caught.value.code == "unavailable"
    assert caught.value.retryable
    assert caught.value.remedy


def test_connections_that_close_end_as_unavailable(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("close", contains="1")]) as server:
        results = run_engine(engine(server), prompts(3))
    assert server.counts() == {"prompt 0": 1, "prompt 1": 5, "prompt 2": 1}
    assert (error(results[1]).code, results[1].retries) == ("unavailable", 4)


# --- outages


def test_an_outage_loses_no_row(fault_server: Any, run_engine: RunEngine) -> None:
    faults = [fault_server.Fault("status", status=503, after=10, times=70)]
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server, probe_s=0.02, concurrency=30), prompts(100))
    assert all(result.error is None for result in results)
    calls = [call.at_s for call in server.calls]
    assert len(calls) == 170
    # 20 failures open the breaker, the 30 in flight still fail; from there on it is one probe at a time.
    # All gaps together, because a call that a busy machine notes late shortens the gap behind it.
    assert calls[10 + 70] - calls[10 + 50] >= 20 * 0.02 / 2


def test_a_server_that_stays_down_is_given_up(fault_server: Any, run_engine: RunEngine) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=503)]) as server:
        start_s = time.monotonic()
        results = run_engine(engine(server, probe_s=0.05, timeout_s=0.4, concurrency=10), prompts(200))
        taken_s = time.monotonic() - start_s
    assert {error(result).code for result in results} <= {"unavailable", "timeout"}
    assert taken_s < 6  # twenty times the deadline if each row waited for itself
    assert len(server.calls) < 100
