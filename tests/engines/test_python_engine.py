"""The python engine: callables of the user's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from halo_sql.engines.protocol import EMBEDDING, SCORE, Engine, GenRequest, GenResult
from halo_sql.engines.python import PythonEngine
from halo_sql.engines.vectors import decode_vector
from halo_sql.errors import CatalogError, EngineError

from .helpers import in_virtual_time

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
        all_in.wait(60)  # three at once, else it breaks
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


def ask(texts: Sequence[str], answer: Any = EMBEDDING) -> list[GenRequest]:
    return [GenRequest(number, text, answer=answer) for number, text in enumerate(texts)]


def test_a_score_is_read_from_the_text(run_engine: Run) -> None:
    def echo(messages: Messages) -> str:
        return messages[-1]["content"]

    results = run_engine(PythonEngine(echo, {}), ask(["0.25", "Yes", "false", "2", "perhaps"], SCORE))
    assert [result.text for result in results] == ["0.25", "1.0", "0.0", "", ""]
    assert [result.error.code for result in results if result.error is not None] == ["invalid_output"] * 2
    assert "'perhaps'" in str(results[4].error)


def lengths(texts: list[str]) -> list[list[float]]:
    assert isinstance(texts, list)
    return [[len(text), 0.5] for text in texts]


async def lengths_async(texts: list[str]) -> list[tuple[float, ...]]:
    await asyncio.sleep(0)
    return [tuple(row) for row in lengths(texts)]


def lengths_numpy(texts: list[str]) -> Any:
    numpy = pytest.importorskip("numpy")
    return numpy.array(lengths(texts), dtype="float32")


@pytest.mark.parametrize("function", [lengths, lengths_async, lengths_numpy, lambda texts: [*lengths_numpy(texts)]])
def test_texts_in_vectors_out(run_engine: Run, function: Any) -> None:
    sizes: list[int] = []

    def counted(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return function(texts)

    texts = ["a" * (n % 5) for n in range(50)]
    options = {"kind": "embedding", "dimensions": 2, "batch_size": 20}
    results = run_engine(PythonEngine(counted, options), ask(texts))
    assert [list(decode_vector(result.text)) for result in results] == lengths(texts)
    assert sorted(sizes) == [10, 20, 20]
    assert {(result.output_tok, result.finish, result.error) for result in results} == {(0, "stop", None)}


def test_one_text_at_fault_does_not_take_the_others_with_it(run_engine: Run) -> None:
    def some(texts: list[str]) -> list[Any]:
        if "raise" in texts:
            raise ValueError("bad day")
        odd = {"text": "[1]", "infinite": [1.0, float("inf")], "huge": [1e39], "short": [], "words": ["a"]}
        return [odd.get(text, [1.0, 2.0]) for text in texts]

    texts = ["ok", "raise", "text", "infinite", "ok", "huge", "short", "words", "none"]
    results = run_engine(PythonEngine(some, {"kind": "embedding"}), ask(texts))
    codes = [result.error.code if result.error is not None else "" for result in results]
    assert codes == ["", "engine", *["invalid_output"] * 2, "", *["invalid_output"] * 3, ""]
    assert "ValueError: bad day" in str(results[1].error)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: [[1.0]], "1 vectors for 2 texts"),
        (lambda texts: None, "returned NoneType"),
        (lambda texts: "no", "returned str"),
        (lambda texts: [[1.0, 2.0, 3.0]] * 2, "3 numbers, not dimensions = 2"),
    ],
)
def test_what_is_no_list_of_vectors_is_said(run_engine: Run, answer: Any, message: str) -> None:
    results = run_engine(PythonEngine(answer, {"kind": "embedding", "dimensions": 2}), ask(["a", "b"]))
    for result in results:
        assert result.error is not None
        assert result.error.code == "invalid_output"
        assert message in result.error.message


def test_a_function_of_one_kind_refuses_the_other(run_engine: Run) -> None:
    [refused] = run_engine(PythonEngine(lengths, {"kind": "embedding"}), ask(["a"], SCORE))
    [other] = run_engine(PythonEngine(shout, {}), ask(["a"]))
    for result in (refused, other):
        assert result.error is not None
        assert (result.error.code, result.error.fatal) == ("rejected", True)


def test_batches_have_a_deadline_and_can_be_aborted(ask_engine: Any) -> None:
    async def stuck(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(20)
        return lengths(texts)

    async def main() -> None:
        engine = PythonEngine(stuck, {"kind": "embedding", "timeout_s": 0.05})
        results = await ask_engine(engine, ask(["a", "b"]))
        assert [result.error.code for result in results] == ["timeout"] * 2
        patient = PythonEngine(stuck, {"kind": "embedding", "batch_size": 2, "concurrency": 1})
        await patient.start()
        delivered: list[GenResult] = []
        patient.submit(ask("abcde"), delivered.extend)
        await asyncio.sleep(0.01)
        patient.abort([0, 4])
        assert delivered == []  # never inside abort
        await asyncio.sleep(0.01)
        assert sorted(result.id for result in delivered) == [0, 4]
        await patient.close()
        await patient.close()
        assert sorted(result.id for result in delivered) == [0, 1, 2, 3, 4]
        assert {result.error.code for result in delivered if result.error is not None} == {"cancelled"}
        patient.submit(ask("x"), delivered.extend)
        assert delivered[-1].error is not None
        await engine.close()

    in_virtual_time(main())


def test_the_identity_of_an_embedding_function_is_its_own() -> None:
    def info(**options: object) -> Any:
        return asyncio.run(PythonEngine(lengths, options).start())

    identities = {info().identity, info(kind="embedding").identity, info(kind="embedding", dimensions=2).identity}
    assert len(identities) == 3
    assert info(kind="embedding", concurrency=2, batch_size=10).window_requests == 20
