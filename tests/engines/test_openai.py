"""The openai engine against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from halo_sql.engines.openai import OpenAIEngine
from halo_sql.engines.protocol import YES_NO, Answer, Engine, GenRequest, GenResult
from halo_sql.engines.retry import Breaker, OutageError, Throttle, backoff_s, retry_after_s
from halo_sql.errors import CatalogError, EngineError
from halo_sql.ir.prompt import Sampling

Run = Callable[[Engine, Sequence[GenRequest]], list[GenResult]]
SECRET = "sk-canary-0123456789"


def engine(server: Any, **options: object) -> OpenAIEngine:
    return OpenAIEngine(server.url, {"backoff_s": 0.01, **options})


def prompts(number: int) -> list[GenRequest]:
    return [GenRequest(n, f"prompt {n}") for n in range(number)]


def error(result: GenResult) -> EngineError:
    assert result.error is not None
    return result.error


# --- what is sent, what comes back ---


def test_texts_are_matched_by_id(fault_server: Any, run_engine: Run) -> None:
    slow = fault_server.Fault("slow", contains="0", delay_s=0.05)
    with fault_server.FaultServer([slow], cached_tok=2) as server:
        results = run_engine(engine(server), prompts(100))
    assert [result.text for result in results] == [f"prompt {n}" for n in range(100)]
    assert {(r.prompt_tok, r.prompt_tok_cached, r.output_tok, r.retries) for r in results} == {(2, 2, 2, 0)}
    assert set(server.counts().values()) == {1}
    assert 2 <= server.most_in_flight <= 64


def test_the_body_of_a_request(fault_server: Any, run_engine: Run) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, seed=3, stop=("x",))
    with fault_server.FaultServer() as server:
        run_engine(engine(server), [GenRequest(0, "u")])
        extra = {"max_tokens": None, "max_completion_tokens": 5}
        run_engine(
            engine(server, extra_body=extra, headers={"X-Team": "blue"}), [GenRequest(0, "u", "s", sampling=sampling)]
        )
    plain, full = server.calls
    assert plain.body == {
        "model": "test-model",
        "messages": [{"role": "user", "content": "u"}],
        "temperature": 0.0,
        "max_tokens": 256,
    }
    assert full.body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    options = {name: full.body[name] for name in ("temperature", "top_p", "seed", "stop", "max_completion_tokens")}
    assert options == {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_completion_tokens": 5}
    assert "max_tokens" not in full.body
    assert full.headers["x-team"] == "blue"
    assert "authorization" not in full.headers


@pytest.mark.parametrize("structured", ["json_schema", "vllm"])
def test_constrained_answers(fault_server: Any, run_engine: Run, structured: str) -> None:
    number = Answer("json", schema='{"type":"number"}')
    closed = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}'
    requests = [
        GenRequest(0, "is it no?", answer=YES_NO),
        GenRequest(1, "0.10000000000000000001", answer=number),
        GenRequest(2, '{"a": 1}', answer=Answer("json", schema=closed)),
        GenRequest(3, "[1]", answer=Answer("json", schema='{"type":"array","items":{}}')),
    ]
    with fault_server.FaultServer() as server:
        results = run_engine(engine(server, structured=structured), requests)
        bodies = {call.prompt: call.body for call in server.calls}
    assert [result.text for result in results] == ["no", "0.10000000000000000001", '{"a": 1}', "[1]"]
    if structured == "vllm":
        assert bodies["is it no?"]["structured_outputs"] == {"choice": ["yes", "no"]}
        assert bodies['{"a": 1}']["structured_outputs"] == {"json": json.loads(closed)}
    else:
        formats = {prompt: body["response_format"]["json_schema"] for prompt, body in bodies.items()}
        assert formats['{"a": 1}'] == {"name": "answer", "schema": json.loads(closed), "strict": True}
        assert formats["is it no?"]["schema"]["properties"]["answer"] == {"type": "string", "enum": ["yes", "no"]}
        assert formats["is it no?"]["strict"] is True
        assert formats["[1]"]["strict"] is False  # nothing says what the items are


def test_unconstrained_when_asked(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer() as server:
        [result] = run_engine(engine(server, structured="none"), [GenRequest(0, "yes", answer=YES_NO)])
    assert result.text == "yes"
    assert server.calls[0].body.keys() == {"model", "messages", "temperature", "max_tokens"}


def test_a_cut_answer_says_so(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("length")]) as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q")])
    assert (result.text, result.finish, result.error) == ("q", "length", None)


# --- the model ---


def test_the_only_model_of_a_server(fault_server: Any) -> None:
    async def start(chosen: OpenAIEngine) -> Any:
        try:
            first, second = await asyncio.gather(chosen.start(), chosen.start())
            assert first is second
            return first
        finally:
            await chosen.close()

    with fault_server.FaultServer() as server:
        info = asyncio.run(start(engine(server)))
        assert info.context_tok == 4096
        assert server.url in info.identity
        assert "test-model" in info.identity
        assert info.storable
        other = asyncio.run(start(engine(server, extra_body={"top_k": 1})))
        assert other.identity != info.identity
    with fault_server.FaultServer(models=("a", "b")) as server:
        with pytest.raises(EngineError, match="several models: a, b") as caught:
            asyncio.run(start(engine(server)))
        assert "WITH (model" in caught.value.remedy
        assert asyncio.run(start(engine(server, model="b"))).context_tok == 4096
    without = fault_server.Fault("status", path="/models", status=404)
    with fault_server.FaultServer([without]) as server:
        assert asyncio.run(start(engine(server, model="m"))).context_tok == 0
        with pytest.raises(EngineError, match="does not tell which models"):
            asyncio.run(start(engine(server)))


def test_a_changed_model_stops_the_engine(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("model", after=3, times=1)]) as server:
        results = run_engine(engine(server, concurrency=1), prompts(10))
    assert [result.error is None for result in results] == [True] * 3 + [False] * 7
    assert "'another-model'" in error(results[3]).message
    assert all(result.error is results[3].error for result in results[3:])
    assert len(server.calls) == 4


# --- faults ---


def test_an_always_500_server_sees_five_requests_a_row(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=500, message="boom")]) as server:
        results = run_engine(engine(server), prompts(12))
    assert set(server.counts().values()) == {5}
    assert {(error(result).code, result.retries) for result in results} == {("engine", 4)}
    assert "boom" in error(results[0]).message
    with fault_server.FaultServer([fault_server.Fault("status")]) as server:
        run_engine(engine(server, max_retries=1), prompts(2))
    assert set(server.counts().values()) == {2}


@pytest.mark.parametrize("action", ["status", "truncate", "bad_json", "close", "empty"])
def test_a_fault_that_passes_costs_a_retry(fault_server: Any, run_engine: Run, action: str) -> None:
    fault = fault_server.Fault(action, times=2, per_prompt=True, contains="7")
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server), prompts(20))
    assert [result.text for result in results] == [f"prompt {n}" for n in range(20)]
    assert [n for n, result in enumerate(results) if result.retries == 2] == [7, 17]
    assert len(server.calls) == 24


@pytest.mark.parametrize(
    ("status", "code"), [(400, "rejected"), (404, "rejected"), (422, "rejected"), (302, "rejected")]
)
def test_refusals_are_not_retried(fault_server: Any, run_engine: Run, status: int, code: str) -> None:
    fault = fault_server.Fault("status", status=status, contains="3", message="no\nway")
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server), prompts(6))
    assert set(server.counts().values()) == {1}
    assert (error(results[3]).code, results[3].retries) == (code, 0)
    assert f"answered {status}: no way" in error(results[3]).message
    assert [n for n, result in enumerate(results) if result.error is not None] == [3]


@pytest.mark.parametrize("fields", [{"code": "context_length_exceeded"}, {"message": "maximum context length is 8"}])
def test_context_overflow_has_its_code(fault_server: Any, run_engine: Run, fields: dict[str, str]) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=400, **fields)]) as server:
        [result] = run_engine(engine(server), prompts(1))
    assert error(result).code == "context"
    assert error(result).remedy


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_end_everything(fault_server: Any, run_engine: Run, status: int) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=status)]) as server:
        chosen = engine(server, concurrency=4)
        results = run_engine(chosen, prompts(200))
    assert {error(result).code for result in results} == {"auth"}
    assert len(server.calls) <= 4
    assert chosen.failed is not None


def test_the_account_is_out_of_quota(fault_server: Any, run_engine: Run) -> None:
    fault = fault_server.Fault("status", status=429, code="insufficient_quota")
    with fault_server.FaultServer([fault]) as server:
        [result] = run_engine(engine(server), prompts(1))
    assert (error(result).code, len(server.calls)) == ("rate_limit", 1)


def test_an_answer_of_more_than_8_mb(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("huge", contains="1")]) as server:
        results = run_engine(engine(server), prompts(2))
    assert "8 MB" in error(results[1]).message
    assert results[0].error is None
    assert len(server.calls) == 2


def test_retry_after_is_obeyed(fault_server: Any, run_engine: Run) -> None:
    fault = fault_server.Fault("status", status=429, retry_after="0.5", times=1)
    with fault_server.FaultServer([fault]) as server:
        [result] = run_engine(engine(server), [GenRequest(0, "q")])
    first, second = (call.at_s for call in server.calls)
    assert result.retries == 1
    assert 0.499 <= second - first < 2


def test_a_wait_beyond_the_deadline_is_refused_at_once(fault_server: Any, run_engine: Run) -> None:
    fault = fault_server.Fault("status", status=429, retry_after="3600")
    start_s = time.monotonic()
    with fault_server.FaultServer([fault]) as server:
        results = run_engine(engine(server, concurrency=2), prompts(50))
    assert {error(result).code for result in results} == {"rate_limit"}
    assert len(server.calls) <= 2
    assert time.monotonic() - start_s < 5


@pytest.mark.parametrize(("limit", "window_s", "rows"), [(50, 0.4, 250), (4, 0.1, 80)])
def test_a_quota_is_used(fault_server: Any, run_engine: Run, limit: int, window_s: float, rows: int) -> None:
    with fault_server.FaultServer(quota=(limit, window_s)) as server:
        results = run_engine(engine(server), prompts(rows))
        taken_s = server.calls[-1].at_s - server.calls[0].at_s
    assert all(result.error is None for result in results)
    assert len(server.calls) <= 2.5 * rows
    if limit == 50:  # the small windows are shorter than what a busy machine may sleep through
        assert taken_s <= rows / limit * window_s / 0.5
    assert max(result.retries for result in results) <= 3


def test_the_deadline_is_of_the_whole_request(fault_server: Any, run_engine: Run) -> None:
    faults = [
        fault_server.Fault("status", times=1, per_prompt=True),
        fault_server.Fault("slow", contains="0", delay_s=30),
    ]
    with fault_server.FaultServer(faults) as server:
        start_s = time.monotonic()
        results = run_engine(engine(server, timeout_s=0.5), prompts(2))
        taken_s = time.monotonic() - start_s
    assert error(results[0]).code == "timeout"
    assert "answered 500" in error(results[0]).message
    assert results[1].text == "prompt 1"
    assert taken_s < 10


def test_ten_percent_faults(fault_server: Any, run_engine: Run) -> None:
    faults = [fault_server.Fault("status", contains=f"{digit} ", times=1, per_prompt=True) for digit in (3,)]
    requests = [GenRequest(n, f"{n} q") for n in range(500)]
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server), requests)
    assert [result.text for result in results] == [request.user for request in requests]
    assert len(server.calls) == 550


def test_nobody_listens(run_engine: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = OpenAIEngine(f"http://127.0.0.1:{port}/v1", {"model": "m", "backoff_s": 0.001})
    with pytest.raises(EngineError, match=f"127.0.0.1:{port}.*cannot be reached") as caught:
        run_engine(chosen, prompts(1))
    assert caught.value.code == "unavailable"
    assert caught.value.retryable
    assert caught.value.remedy


def test_connections_that_close_end_as_unavailable(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("close", contains="1")]) as server:
        results = run_engine(engine(server), prompts(3))
    assert server.counts() == {"prompt 0": 1, "prompt 1": 5, "prompt 2": 1}
    assert (error(results[1]).code, results[1].retries) == ("unavailable", 4)


# --- outages ---


def test_an_outage_loses_no_row(fault_server: Any, run_engine: Run) -> None:
    faults = [fault_server.Fault("status", status=503, after=10, times=70)]
    with fault_server.FaultServer(faults) as server:
        results = run_engine(engine(server, probe_s=0.02, concurrency=30), prompts(100))
    assert all(result.error is None for result in results)
    calls = [call.at_s for call in server.calls]
    assert len(calls) == 170
    # 20 failures open the breaker, the 30 in flight still fail; from there on it is one probe at a time
    assert calls[10 + 70] - calls[10 + 50] >= 20 * 0.02 * 0.9


def test_a_server_that_stays_down_is_given_up(fault_server: Any, run_engine: Run) -> None:
    with fault_server.FaultServer([fault_server.Fault("status", status=503)]) as server:
        start_s = time.monotonic()
        results = run_engine(engine(server, probe_s=0.05, timeout_s=0.4, concurrency=10), prompts(200))
        taken_s = time.monotonic() - start_s
    assert {error(result).code for result in results} <= {"unavailable", "timeout"}
    assert taken_s < 6  # twenty times the deadline if each row waited for itself
    assert len(server.calls) < 100


def test_breaker() -> None:
    async def main() -> None:
        breaker = Breaker(give_up_s=0.4, failures=3, probe_s=0.1)
        for _ in range(2):
            breaker.failure()
        breaker.success()
        for _ in range(2):
            breaker.failure()
        assert await breaker.enter() is False  # never three in a row
        breaker.failure()
        waiting = [asyncio.create_task(breaker.enter()) for _ in range(5)]
        await asyncio.sleep(0.15)
        assert [task.result() for task in waiting if task.done()] == [True]  # one probe
        breaker.success()
        assert sorted(await asyncio.gather(*waiting)) == [False] * 4 + [True]
        for _ in range(3):
            breaker.failure()
        waiting = [asyncio.create_task(breaker.enter()) for _ in range(8)]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert 1 <= ends.count(True) <= 5
        assert all(end is True or isinstance(end, OutageError) for end in ends)

    asyncio.run(main())


def test_throttle() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttle(4, give_up_s=1)
        for _ in range(8):
            throttle.success()
        assert [await throttle.enter(0, None) for _ in range(4)] == [True] * 4
        start = loop.time()
        throttle.refused(0.05)
        throttle.refused(0.01)  # of the same moment: the limit is halved once
        for _ in range(4):
            throttle.leave()
        order: list[str] = []

        async def wait(name: str, attempts: int) -> None:
            assert await throttle.enter(attempts, start + 1)
            order.append(name)

        waiting = [asyncio.create_task(wait(*item)) for item in (("new", 0), ("second", 1), ("third", 2), ("new 2", 0))]
        cancelled = waiting.pop()
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0.1)
        assert order == ["third", "second"]  # two places: 4 / 2
        for _ in range(8):
            throttle.success()
        throttle.leave()
        await asyncio.gather(*waiting)
        assert order == ["third", "second", "new"]
        late = asyncio.create_task(throttle.enter(0, None))
        assert await late  # the successes made room
        hopeless = [asyncio.create_task(throttle.enter(0, deadline)) for deadline in (None, loop.time() + 5)]
        await asyncio.sleep(0)
        throttle.refused(10)
        assert await asyncio.gather(*hopeless) == [True, False]  # the first one took the last place
        assert not await throttle.enter(0, None)
        throttle.close()

    asyncio.run(main())


def test_waiting_times() -> None:
    assert all(0 <= backoff_s(0.5, attempt) <= min(60, 0.5 * 2 ** (attempt - 1)) for attempt in range(1, 200))
    assert max(backoff_s(1, 50) for _ in range(50)) > 30
    assert [retry_after_s(text) for text in (None, "2", "-1", "soon", "nan", "inf")] == [
        None,
        2.0,
        0.0,
        None,
        None,
        None,
    ]
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


# --- cancellation ---


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within 10 s")


def test_abort_and_close_leave_nothing_behind(fault_server: Any) -> None:
    async def main(server: Any) -> None:
        chosen = engine(server, concurrency=8)
        await chosen.start()
        delivered: list[GenResult] = []
        chosen.submit(prompts(30), delivered.extend)
        await until(lambda: len(server.calls) >= 8)
        chosen.abort([0, 1, 20])
        await until(lambda: len(delivered) >= 3)
        assert sorted(result.id for result in delivered) == [0, 1, 20]
        start_s = time.monotonic()
        await chosen.close()
        await chosen.close()
        assert time.monotonic() - start_s < 1
        assert sorted(result.id for result in delivered) == list(range(30))
        assert {error(result).code for result in delivered} == {"cancelled"}

    with fault_server.FaultServer([fault_server.Fault("slow", delay_s=20)]) as server:
        asyncio.run(main(server))
        assert len(server.calls) <= 10


def test_lower_priorities_go_first(fault_server: Any, run_engine: Run) -> None:
    requests = [GenRequest(n, f"prompt {n}", priority=n % 2) for n in range(6)]
    with fault_server.FaultServer() as server:
        run_engine(engine(server, concurrency=1), requests)
    assert [call.prompt[-1] for call in server.calls] == list("024135")


# --- secrets ---


def test_the_key_is_sent_and_never_shown(fault_server: Any, run_engine: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
