"""PYTHON tools: named functions in processes, registered ones here."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from halo_sql.errors import EngineError
from halo_sql.tools.protocol import ToolRequest
from halo_sql.tools.python import PythonRunner

from .conftest import FUNCTIONS
from .processes import children, is_alive

FOLDER = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def _functions_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


async def ask(runner: PythonRunner, arguments: str) -> str:
    return await runner.call(ToolRequest(arguments))


def run(runner: PythonRunner, *arguments: str) -> list[str | EngineError]:
    """Start, call one after the other, close."""

    async def go() -> list[str | EngineError]:
        found: list[str | EngineError] = []
        try:
            await runner.start()
            for text in arguments:
                try:
                    found.append(await ask(runner, text))
                except EngineError as problem:
                    found.append(problem)
        finally:
            await runner.close()
        return found

    return asyncio.run(go())


def failed(runner: PythonRunner, arguments: str) -> EngineError:
    (problem,) = run(runner, arguments)
    assert isinstance(problem, EngineError)
    return problem


# --- named functions, in processes


def test_a_named_function_runs_in_another_process(make_python: Callable[..., PythonRunner]) -> None:
    before = children()
    first, second = run(make_python("pid", {"x": "BIGINT"}, "BIGINT"), '{"x": 1}', '{"x": 2}')
    assert first == second  # the same worker twice
    assert int(str(first)) != os.getpid()
    assert children() <= before  # reaped


def test_values_follow_the_functions_hints(make_python: Callable[..., PythonRunner]) -> None:
    runner = make_python("label", {"order": "STRUCT(id BIGINT, total DECIMAL(10,2))", "day": "DATE"}, "VARCHAR")
    assert run(runner, '{"order": {"id": 7, "total": 1.10}, "day": "2024-02-29"}') == ['"Order 7 1.10 29.02.2024"']


def test_a_generator_of_dataclasses_is_a_table(make_python: Callable[..., PythonRunner]) -> None:
    runner = make_python("orders", {"customer": "VARCHAR"}, "STRUCT(id BIGINT, total DECIMAL(10,2))[]")
    assert run(runner, '{"customer": "c"}') == ['[{"id":0,"total":0.00},{"id":1,"total":1.50},{"id":2,"total":3.00}]']


def test_an_endless_generator_is_stopped(make_python: Callable[..., PythonRunner]) -> None:
    assert failed(make_python("endless", {"x": "BIGINT"}, "BIGINT[]", max_rows=100), '{"x": 1}').code == "too_large"


def test_async_named_functions_share_a_loop(make_python: Callable[..., PythonRunner]) -> None:
    assert run(make_python("slow_double", {"x": "BIGINT"}, "BIGINT"), '{"x": 4}', '{"x": 5}') == ["8", "10"]


def test_printing_and_reading_do_not_disturb(make_python: Callable[..., PythonRunner]) -> None:
    assert run(make_python("noisy", {"x": "BIGINT"}, "BIGINT"), '{"x": 4}', '{"x": 5}') == ["4", "5"]


@pytest.mark.parametrize(("function", "ended"), [("leave", "exit code 3"), ("crash", "SIG")])
def test_a_crash_ends_only_its_own_call(make_python: Callable[..., PythonRunner], function: str, ended: str) -> None:
    before = children()
    first, second = run(make_python(function, {"x": "BIGINT"}, "BIGINT"), '{"x": 3}', '{"x": 3}')
    assert isinstance(first, EngineError)
    assert isinstance(second, EngineError)
    assert (first.code, second.code) == ("tool", "tool")
    assert ended in first.message
    assert ended in second.message  # a new process made that call
    assert children() <= before


def test_exceptions_are_one_short_line(make_python: Callable[..., PythonRunner]) -> None:
    first, second = run(make_python("fail", {"x": "BIGINT"}, "BIGINT"), '{"x": 3}', '{"x": 3}')
    assert isinstance(first, EngineError)
    assert first.code == "tool"
    assert first.message.startswith("ValueError: no such row")
    assert "\n" not in first.message
    assert len(first.message) <= 500
    assert isinstance(second, EngineError)


def test_sys_exit_is_an_error_of_the_call(make_python: Callable[..., PythonRunner]) -> None:
    problem = failed(make_python("quit_politely", {"x": "BIGINT"}, "BIGINT"), '{"x": 3}')
    assert (problem.code, problem.message) == ("tool", "SystemExit: 3")


def test_a_wrong_result_names_tool_type_and_what_came(make_python: Callable[..., PythonRunner]) -> None:
    problem = failed(make_python("wrong", {"x": "BIGINT"}, "BIGINT"), '{"x": 3}')
    assert problem.code == "invalid_output"
    assert problem.message == 'tool "T" returned a wrong value: wanted BIGINT, got str'


def test_a_hanging_call_is_killed_with_what_it_started(
    make_python: Callable[..., PythonRunner], tmp_path: Path
) -> None:
    runner = make_python("hang_with_child", {"path": "VARCHAR"}, "BIGINT", concurrency=1)
    note = tmp_path / "pids"

    async def go() -> None:
        await runner.start()
        call = asyncio.ensure_future(ask(runner, f'{{"path": "{note}"}}'))
        while not note.exists() or not note.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await runner.close()

    asyncio.run(go())
    pids = [int(word) for word in note.read_text().split()]
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, pids))


def test_the_next_call_gets_a_new_worker_after_a_timeout(make_python: Callable[..., PythonRunner]) -> None:
    runner = make_python("hang", {"x": "BIGINT"}, "BIGINT", concurrency=1)

    async def go() -> float:
        await runner.start()
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await ask(runner, '{"x": 1}')
        await runner.close()
        return time.monotonic() - begun

    assert asyncio.run(go()) < 50


def test_closing_ends_what_is_running(make_python: Callable[..., PythonRunner]) -> None:
    runner = make_python("hang", {"x": "BIGINT"}, "BIGINT")
    before = children()

    async def go() -> BaseException | None:
        await runner.start()
        call = asyncio.ensure_future(ask(runner, '{"x": 1}'))
        await asyncio.sleep(0.1)
        await runner.close()
        await asyncio.wait({call})
        return call.exception()

    assert isinstance(asyncio.run(go()), EngineError)
    assert children() <= before


def test_calls_run_side_by_side_in_as_many_workers(make_python: Callable[..., PythonRunner]) -> None:
    runner = make_python("pid", {"x": "BIGINT"}, "BIGINT", concurrency=2)

    async def go() -> list[str]:
        found = await asyncio.gather(*(ask(runner, '{"x": 1}') for _ in range(20)))
        await runner.close()
        return found

    assert len(set(asyncio.run(go()))) == 2
    assert runner.concurrency == 2


@pytest.mark.parametrize("function", ["hang_with_child", "hang_in_c"])
def test_a_worker_dies_with_its_parent(tmp_path: Path, function: str) -> None:
    """The parent is killed in the middle of a call."""
    import signal
    import subprocess
    import sys

    note = tmp_path / "pids"
    script = f"""
import asyncio, sys
sys.path.append({FOLDER!r})
from halo_sql.catalog.objects import ToolDef
from halo_sql.ir.types import BIGINT, VARCHAR
from halo_sql.tools.protocol import BoundTool, Surroundings, ToolRequest
from halo_sql.tools.python import PythonRunner
tool = BoundTool(ToolDef("t", "python", "{FUNCTIONS}:{function}"), (("path", VARCHAR),), BIGINT)
asyncio.run(PythonRunner(tool, Surroundings(lambda *_: "")).call(ToolRequest('{{"path": "{note}"}}')))
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 90
    while (not note.exists() or not note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = [int(word) for word in note.read_text().split()]
    assert all(map(is_alive, pids))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("no.such.module:f", "unavailable", "ModuleNotFoundError"),
        (f"{FUNCTIONS}:absent", "unavailable", "absent"),
        (f"{FUNCTIONS}:PAGES", "unavailable", "not a function"),
        ("builtins:eval", "rejected", "runs text"),
        ("builtins:exec", "rejected", "runs text"),
        (f"{FUNCTIONS}:os.__dict__", "rejected", "does not name"),
        ("__main__:f", "rejected", "con.create_tool"),
        ("os:system('x')", "rejected", "does not name"),
        ("a b:c", "rejected", "does not name"),
        (f"{FUNCTIONS}:slow_double", "unavailable", 'the argument "x"'),
    ],
)
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_names_that_are_no_tools(
    make_python: Callable[..., PythonRunner], body: str, code: str, word: str, isolation: str
) -> None:
    with pytest.raises(EngineError) as told:
        run(make_python(body, {"y": "BIGINT"}, "BIGINT", isolation=isolation))
    assert told.value.code == code
    assert word in str(told.value)


def test_a_builtin_that_runs_text_is_refused_under_another_name(make_python: Callable[..., PythonRunner]) -> None:
    with pytest.raises(EngineError, match="runs text"):
        run(make_python(f"{FUNCTIONS}:harmless", {"y": "VARCHAR"}, "BIGINT", isolation="thread"))


# --- registered callables, in this process


def test_a_registered_function_runs_here(make_python: Callable[..., PythonRunner]) -> None:
    secret = object()  # no other process could see it

    def look(x: int) -> bool:
        return secret is not None and threading.current_thread() is not threading.main_thread()

    assert run(make_python(look, {"x": "BIGINT"}, "BOOLEAN"), '{"x": 1}') == ["true"]


def test_an_async_function_runs_on_the_loop(make_python: Callable[..., PythonRunner]) -> None:
    loops = set()

    async def look(x: int) -> int:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return x

    assert run(make_python(look, {"x": "BIGINT"}, "BIGINT"), '{"x": 1}', '{"x": 2}') == ["1", "2"]
    assert len(loops) == 1


def test_async_generators_and_awaitables(make_python: Callable[..., PythonRunner]) -> None:
    async def several(x: int) -> AsyncIterator[int]:
        for number in range(x):
            yield number

    def promised(x: int) -> Any:
        return asyncio.sleep(0, x)

    assert run(make_python(several, {"x": "BIGINT"}, "BIGINT[]"), '{"x": 3}') == ["[0,1,2]"]
    assert run(make_python(promised, {"x": "BIGINT"}, "BIGINT"), '{"x": 3}') == ["3"]


def test_a_hanging_function_frees_its_place(make_python: Callable[..., PythonRunner]) -> None:
    stop = threading.Event()

    def wait(x: int) -> int:
        if x:
            stop.wait(200)
        return x

    runner = make_python(wait, {"x": "BIGINT"}, "BIGINT", concurrency=1)

    async def go() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(runner, '{"x": 1}')
        async with asyncio.timeout(60):
            found = await ask(runner, '{"x": 0}')
        await runner.close()
        return found

    assert asyncio.run(go()) == "0"
    stop.set()


def test_an_async_function_that_ignores_cancellation_holds_nobody_up(make_python: Callable[..., PythonRunner]) -> None:
    over = asyncio.Event()

    async def stubborn(x: int) -> int:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        return x

    runner = make_python(stubborn, {"x": "BIGINT"}, "BIGINT", concurrency=1)

    async def go() -> float:
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ask(runner, '{"x": 1}')
        await runner.close()
        took = time.monotonic() - begun
        over.set()
        return took

    assert asyncio.run(go()) < 50


def test_as_many_calls_at_once_as_concurrency_says(make_python: Callable[..., PythonRunner]) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def count(x: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return x

    runner = make_python(count, {"x": "BIGINT"}, "BIGINT", concurrency=3)

    async def go() -> None:
        await asyncio.gather(*(ask(runner, '{"x": 1}') for _ in range(30)))
        await runner.close()

    asyncio.run(go())
    assert most == 3


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_arguments_that_do_not_fit_are_rejected(make_python: Callable[..., PythonRunner], isolation: str) -> None:
    runner = make_python("label", {"order": "JSON", "day": "VARCHAR"}, "VARCHAR", isolation=isolation)
    problem = failed(runner, '{"order": {"id": 1, "total": 2}, "day": "someday"}')
    assert problem.code == "rejected"
    assert 'argument "day"' in problem.message


def test_connection_errors_may_be_tried_again(make_python: Callable[..., PythonRunner]) -> None:
    def down(x: int) -> int:
        raise ConnectionRefusedError("down")

    problem = failed(make_python(down, {"x": "BIGINT"}, "BIGINT"), '{"x": 1}')
    assert (problem.code, problem.retryable) == ("tool", True)
