"""The python engine: callables of the user's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halo_sql.engines.protocol import Engine, GenRequest, GenResult
from halo_sql.engines.python import PythonEngine
from halo_sql.errors import CatalogError, EngineError

Run = Callable[[Engine, Sequence[GenRequest]], list[GenResult]]
Messages = list[dict[str, str]]


def shout(messages: Messages) -> str:
    return " / ".join(f"{message['role']}: {message['content'].upper()}" for message in messages)


async def shout_async(messages: Messages) -> str:
    await asyncio.sleep(0)
    return shout(messages)


class Caller:
    async def __call__(self, messages: Messages) -> str:
        return shout(messages)


@pytest.mark.parametrize("function", [shout, shout_async, Caller(), lambda messages: shout_async(messages)])
def test_messages_in_text_out(run_engine: Run, function: Any) -> None:
    requests = [GenRequest(0, "a", "be brief"), GenRequest(1, "b")]
    results = run_engine(PythonEngine(function, {}), requests)
    assert [result.text for result in results] == ["system: BE BRIEF / user: A", "user: B"]
    assert all(result.prompt_tok > 0 and result.output_tok > 0 for result in results)


def test_exceptions_are_results(run_engine: Run) -> None:
    def some(messages: Messages) -> Any:
        word = messages[-1]["content"]
        if word == "raise":
            raise ValueError("bad day")
        if word == "exit":
            sys.exit(3)
        return 5 if word == "number" else word

    results = run_engine(
        PythonEngine(some, {}), [GenRequest(n, w) for n, w in enumerate(["raise", "exit", "number", "ok"])]
    )
    errors = [(result.error.code, result.error.message) for result in results if result.error is not None]
    assert [code for code, _ in errors] == ["engine", "engine", "invalid_output"]
    assert "ValueError: bad day" in errors[0][1]
    assert "SystemExit: 3" in errors[1][1]
    assert "returned int, not str" in errors[2][1]
    assert results[3].text == "ok"


def test_at_most_concurrency_calls_at_once(run_engine: Run) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    all_in = threading.Barrier(3)

    def slow(messages: Messages) -> str:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        all_in.wait(10)  # three at once, else it breaks
        with lock:
            inside -= 1
        return "x"

    results = run_engine(PythonEngine(slow, {"concurrency": 3}), [GenRequest(n, "q") for n in range(9)])
    assert [result.error for result in results] == [None] * 9
    assert most == 3


@pytest.mark.parametrize("threaded", [True, False])
def test_deadline_and_abort(ask_engine: Any, threaded: bool) -> None:
    release = threading.Event()

    def stuck(messages: Messages) -> str:
        release.wait(20)
        return "late"

    async def stuck_async(messages: Messages) -> str:
        await asyncio.sleep(20)
        return "late"

    async def main() -> None:
        engine = PythonEngine(stuck if threaded else stuck_async, {"timeout_s": 0.05, "concurrency": 2})
        [result] = await ask_engine(engine, [GenRequest(0, "q")])
        assert result.error is not None
        assert result.error.code == "timeout"
        patient = PythonEngine(stuck if threaded else stuck_async, {"concurrency": 2})
        await patient.start()
        delivered: list[GenResult] = []
        patient.submit([GenRequest(n, "q") for n in range(5)], delivered.extend)
        await asyncio.sleep(0)
        patient.abort([0, 4, 99])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(result.id for result in delivered) == [0, 4]
        await patient.close()
        await patient.close()
        assert sorted(result.id for result in delivered) == [0, 1, 2, 3, 4]
        assert {result.error.code for result in delivered if result.error is not None} == {"cancelled"}
        patient.submit([GenRequest(9, "q")], delivered.extend)
        assert delivered[-1].error is not None
        await engine.close()

    try:
        asyncio.run(main())
    finally:
        release.set()


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_engine: Run) -> None:
    (tmp_path / "halo_user_model.py").write_text("class Bot:\n    @staticmethod\n    def say(messages): return 'hi'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run_engine(PythonEngine("halo_user_model:Bot.say", {}), [GenRequest(0, "q")])[0].text == "hi"
    for source, missing in (("halo_no_such:f", "halo_no_such"), ("halo_user_model:f", "'f'"), ("sys:path", "list")):
        with pytest.raises(EngineError, match=missing) as caught:
            run_engine(PythonEngine(source, {}), [])
        assert source in caught.value.message
        assert caught.value.code == "unavailable"
        assert caught.value.remedy


def test_identity_follows_the_code_and_closures_are_not_storable() -> None:
    def info(function: Any, **options: object) -> Any:
        return asyncio.run(PythonEngine(function, options).start())

    kept = "x"
    first: Any = eval("lambda messages: 'one'")
    second: Any = eval("lambda messages: 'two'")
    assert info(first).identity != info(second).identity
    assert info(first).identity == info(eval("lambda messages: 'one'")).identity
    assert info(first).storable
    assert not info(lambda messages: kept).storable
    assert not info(Caller()).storable
    assert info(Caller(), storable=True).storable


def test_options_are_checked() -> None:
    with pytest.raises(CatalogError, match='no option "concurency"') as caught:
        PythonEngine(shout, {"concurency": 3})
    assert caught.value.remedy == 'Did you mean "concurrency"?'
    for value in (0, 1.5, "3", True, 10**400):
        with pytest.raises(CatalogError, match="concurrency") as caught:
            PythonEngine(shout, {"concurrency": value})
        assert caught.value.remedy == "It takes an integer of at least 1 and at most 1024."
